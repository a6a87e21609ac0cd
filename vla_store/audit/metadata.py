"""Every zarr.json of a part against the template of the format."""

from __future__ import annotations

from typing import Any

from vla_store.audit.objects import Objects
from vla_store.audit.part import DIGEST_NBYTES, Part
from vla_store.errors import DataError, StoreDamaged
from vla_store.format import arrays, canonical, layout
from vla_store.format.codecs import NONE
from vla_store.format.layout import Grid
from vla_store.format.nonfinite import columns_of


def check_metadata(objects: Objects, part: Part, listed: set[str]) -> None:
    """Every zarr.json must be what the format's template gives, and the listing hold exactly the objects of the arrays."""
    rows, episodes, document = part.entry.rows, part.entry.episodes, part.document
    attributes, counts = layout.attributes_grid(part.attributes_nbytes), columns_of(document.nonfinite)
    expected: dict[str, tuple[Grid, dict[str, Any]]] = {
        layout.ATTRIBUTES_ARRAY: (attributes, arrays.array_metadata(attributes, arrays.attributes_codecs(attributes)))
    }
    for path, shape, dtype, notes in (
        (layout.INDEX_ARRAY, (rows, 2), "int32", {}),
        (layout.TABLE_ARRAY, (episodes, len(document.columns)), "int64", {"columns": document.columns}),
        (layout.DIGEST_ARRAY, (episodes, DIGEST_NBYTES), "uint8", {}),
        *([(layout.NONFINITE_ARRAY, (episodes, len(counts)), "int64", {"columns": counts})] if counts else []),
    ):
        grid = layout.numeric_grid(shape, dtype, rows)
        expected[path] = (grid, arrays.array_metadata(grid, arrays.numeric_codecs(), notes))
    for each in document.fields.values():
        if each.unsupported() is None:
            elements = part.elements_of(each)
            expected[each.array] = (each.grid(rows, elements), each.metadata(rows, elements))
            if "background" in each.prediction:
                grid = layout.background_grid((episodes, *each.fixed_shape), each.dtype)
                expected[f"backgrounds/{each.name}"] = (
                    grid,
                    arrays.array_metadata(grid, arrays.frame_codecs(NONE, 1, 0)),
                )
    found = {path: metadata for path, (_, metadata) in expected.items()}
    known = {layout.ROOT_KEY}
    for path, metadata in {**{each.rpartition("/")[0]: arrays.GROUP for each in found}, **found}.items():
        key = f"{part.entry.path}/{path}/zarr.json"
        known.add(f"{path}/zarr.json")
        try:
            if objects.read(key) != canonical.dumps(metadata):
                objects.problem(key, "is not the metadata that the format gives")
        except DataError as error:
            objects.error(key, error)
    for path, (grid, _) in expected.items():
        if grid.shards > len(listed):  # before a name is made for each
            raise StoreDamaged("an array has more shards than the part has objects", object=f"{part.entry.path}/{path}")
        known |= {f"{path}/{grid.key(shard)}" for shard in range(grid.shards)}
    if not any(each.unsupported() for each in document.fields.values()):
        whole = canonical.dumps(arrays.part_metadata(document.to_json(), dict(sorted(found.items()))))
        if objects.read(f"{part.entry.path}/zarr.json") != whole:
            objects.problem(f"{part.entry.path}/zarr.json", "its consolidated metadata is not that of its arrays")
        for extra in sorted(listed - known):
            objects.problem(f"{part.entry.path}/{extra}", "is in the listing, but of no array")
        for missing in sorted(known - listed):
            objects.problem(f"{part.entry.path}/{missing}", "is not in the listing")
