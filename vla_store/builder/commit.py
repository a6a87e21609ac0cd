"""From finished shards to a store: metadata, tables, digests, listing, statistics, and the root last."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.builder.plan import Plan
from vla_store.builder.scan import Scan
from vla_store.builder.shards import write_array, write_object
from vla_store.builder.units import Receipt
from vla_store.errors import MachineError
from vla_store.extras import zarr_python
from vla_store.format import arrays, canonical, digests, layout
from vla_store.format.digests import DIGEST_NBYTES
from vla_store.format.listing import ObjectEntry, encode_listing
from vla_store.format.new_root import new_root
from vla_store.format.nonfinite import Tally, table_of, together
from vla_store.format.part_arrays import part_arrays
from vla_store.format.schema import Field, PartEntry, Root, RootField
from vla_store.format.statistics import PartNumbers, store_statistics
from vla_store.storage import LocalStorage, sync_folder


def metadata_of(plan: Plan, nonfinite: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the zarr.json of the arrays of a part, by path. nonfinite: fields that have numbers that are not finite."""
    document = replace(plan.document, nonfinite=tuple(sorted(nonfinite)))
    found = part_arrays(document, plan.rows, len(plan.episodes), plan.elements, plan.attributes_nbytes)
    return {path: each.metadata for path, each in found.items()}


def write_metadata(plan: Plan, folder: Path) -> list[ObjectEntry]:
    """Write every zarr.json of a part; zarr-python reads them back as a check, before any work is put into shards."""
    found = metadata_of(plan)
    groups = {path.rpartition("/")[0]: arrays.GROUP for path in found}
    documents = {**groups, **found}
    storage = LocalStorage(folder)
    written = [
        write_object(storage, f"{path}/zarr.json", canonical.dumps(document)) for path, document in documents.items()
    ]
    written.append(_write_document(plan, folder, found))
    _check_with_zarr(folder, found)
    return written


def write_part(
    plan: Plan, folder: Path, metadata: list[ObjectEntry], receipts: dict[str, Receipt]
) -> tuple[PartEntry, list[bytes]]:
    """Write index, table, digests and listing of a part whose shards are there; return its entry in a root, and each episode's digest."""
    replaced = {each.key: each for each in [*metadata, *write_nonfinite(plan, folder, receipts)]}
    objects = [*replaced.values(), *(each for receipt in receipts.values() for each in receipt.objects)]
    episodes = list(_episode_digests(plan, receipts))
    digest_rows = np.frombuffer(b"".join(episodes), np.uint8).reshape(-1, DIGEST_NBYTES)
    objects += write_tables(plan, folder)
    objects += _write_table(plan, folder, layout.DIGEST_ARRAY, digest_rows)
    listing = encode_listing(objects)
    write_object(LocalStorage(folder), layout.LISTING, listing)
    _sync_below(folder)
    path = layout.part_path(plan.part_id)
    return PartEntry(path, plan.rows, len(plan.episodes), canonical.sha256_hex(listing)), episodes


def write_tables(plan: Plan, folder: Path) -> list[ObjectEntry]:
    """Write index, episode table and further texts of a part, which are of its plan alone."""
    found: dict[str, np.ndarray[Any, Any]] = {
        layout.INDEX_ARRAY: plan.steps_index(),
        layout.TABLE_ARRAY: plan.table(),
        **(plan.texts.arrays if plan.texts else {}),
    }
    return [each for array, rows in found.items() for each in _write_table(plan, folder, array, rows)]


def _write_table(plan: Plan, folder: Path, array: str, rows: np.ndarray[Any, Any]) -> list[ObjectEntry]:
    return write_array(folder, array, layout.numeric_grid(rows.shape, rows.dtype.name, plan.rows), rows)


def nonfinite_of(receipts: Mapping[str, Receipt]) -> dict[str, tuple[Tally, ...]]:
    """Return, of every field that has numbers that are not finite, a tally for each episode that has any."""
    found: dict[str, list[Tally]] = {}
    for receipt in receipts.values():
        if receipt.nonfinite:  # a shard of a camera is called by its field, a dot and its number
            found.setdefault(receipt.unit.partition(".")[0], []).extend(receipt.nonfinite)
    return {name: together(found[name]) for name in sorted(found)}


def write_nonfinite(plan: Plan, folder: Path, receipts: Mapping[str, Receipt]) -> list[ObjectEntry]:
    """Write the array of counts and its metadata, and the part's document anew, which names it; nothing where all is finite: that
    is known only once everything is read."""
    found = nonfinite_of(receipts)
    if not found:
        return []
    metadata = metadata_of(plan, found)
    array = layout.NONFINITE_ARRAY
    return [
        write_object(LocalStorage(folder), f"{array}/zarr.json", canonical.dumps(metadata[array])),
        _write_document(plan, folder, metadata),
        *_write_table(plan, folder, array, table_of(found, len(plan.episodes))),
    ]


def write_first_root(store: Path, plan: Plan, scan: Scan, entry: PartEntry, episodes: list[bytes]) -> Root:
    """Write the small documents and the root of a store of one part; return the root."""
    fields = {name: RootField(each.kind, each.dtype, each.shape) for name, each in plan.document.fields.items()}
    statistics, skipped = part_statistics(plan, store / entry.path), skipped_document(scan)
    new = new_root(None, (entry,), fields, episodes, statistics=statistics, skipped=skipped)
    roots = dict.fromkeys((layout.root_key(1), layout.ROOT_KEY), new.root.to_bytes())
    storage = LocalStorage(store)
    for key, data in {**new.documents, "parts/zarr.json": canonical.dumps(arrays.GROUP), **roots}.items():
        write_object(storage, key, data)
    _sync_below(store)
    return new.root


def part_statistics(plan: Plan, folder: Path) -> dict[str, Any] | None:
    """Return the statistics of the fixed numeric fields, from their stored columns: no second pass over pixels."""
    storage = LocalStorage(folder)

    def maps(field: Field) -> Iterator[np.ndarray[Any, Any]]:
        grid = field.grid(plan.rows)
        for shard in range(grid.shards):
            start, stop = grid.rows_of(shard)
            key, nbytes = f"{field.array}/{grid.key(shard)}", (stop - start) * grid.row_nbytes
            rows = np.frombuffer(storage.read([(key, 0, nbytes)])[0], np.dtype(grid.dtype).newbyteorder("<"))
            yield rows.reshape(stop - start, -1)

    episodes = [(each.source, each.steps) for each in plan.episodes]
    return store_statistics([PartNumbers(plan.document, episodes, maps)])


def skipped_document(scan: Scan) -> dict[str, Any] | None:
    """Return the document of what a build left out and noticed; None where there is neither."""
    skipped = [each.to_json() for each in scan.skipped]
    warnings = [
        {"file": each.info.file, "suite": each.info.suite, "warning": text}
        for each in scan.sources
        for text in each.info.warnings
    ]
    return {"skipped": skipped, "warnings": warnings} if skipped or warnings else None


def _episode_digests(plan: Plan, receipts: dict[str, Receipt]) -> Iterator[bytes]:
    frames = {
        field.name: b"".join(receipts[f"{field.name}.{shard}"].digests for shard in range(field.grid(plan.rows).shards))
        for field in plan.cameras
    }
    for each in plan.episodes:
        info = plan.scanned[each.source].info
        fields = {}
        for field in plan.document.fields.values():
            if field.is_camera:
                digest = digests.field_digest(field.name, field.digested, (each.steps, *field.fixed_shape))
                digest.update(
                    frames[field.name][each.start * DIGEST_NBYTES : (each.start + each.steps) * DIGEST_NBYTES]
                )
                fields[field.name] = digest.hexdigest()
            else:
                at = each.index * DIGEST_NBYTES
                fields[field.name] = receipts[field.name].digests[at : at + DIGEST_NBYTES].hex()
        yield digests.episode_digest(
            suite=info.suite,
            file=info.file,
            task=plan.document.tasks[each.task].name,
            number=each.number,
            steps=each.steps,
            attributes=each.attributes[2],
            file_attributes=plan.scanned[each.source].source_attributes.sha256,
            fields=fields,
            text=None if each.text < 0 else plan.document.texts[each.text],
            further=plan.told(each),
        )


def _write_document(plan: Plan, folder: Path, found: dict[str, dict[str, Any]]) -> ObjectEntry:
    """Write the document of a part, with the zarr.json of all its arrays."""
    data = canonical.dumps(arrays.part_metadata(plan.document.to_json(), found))
    return write_object(LocalStorage(folder), "zarr.json", data)


def _check_with_zarr(folder: Path, found: dict[str, dict[str, Any]]) -> None:
    zarr = zarr_python()
    # Not by its name, in which zarr takes `::` and `://` for a URL.
    group = zarr.open_group(zarr.storage.LocalStore(folder, read_only=True), mode="r")
    for path, document in found.items():
        array = group[path]
        if list(array.shape) != document["shape"] or str(array.dtype) != document["data_type"]:
            raise MachineError(
                "zarr-python reads the metadata of an array in another way",
                array=path,
                found=array,
                zarr=zarr.__version__,
            )


def _sync_below(folder: Path) -> None:
    for each, _, _ in os.walk(folder):
        sync_folder(each)
