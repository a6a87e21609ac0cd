"""The episode table of a part: its episodes and their attributes follow one another, and the index agrees."""

from __future__ import annotations

import numpy as np

from vla_store.audit.objects import Objects
from vla_store.audit.part import Array, Part
from vla_store.errors import StoreDamaged
from vla_store.format import canonical, layout
from vla_store.format.schema import MAX_FRAME_BYTES, TEXT_COLUMN


def check_table(objects: Objects, part: Part, index: Array | None) -> None:
    key = f"{part.entry.path}/{layout.TABLE_ARRAY}"
    starts, lengths = part.column("start"), part.column("length")
    possible = (lengths >= 1) & (lengths <= part.entry.rows)  # so that no sum wraps around
    if not possible.all() or (starts != np.cumsum(lengths) - lengths).any() or int(lengths.sum()) != part.entry.rows:
        raise StoreDamaged("the episodes of the table do not follow one another", object=key)
    for column, count in (("task", len(part.document.tasks)), ("source", len(part.document.sources))):
        values = part.column(column)
        if (values < 0).any() or (values >= count).any():
            raise StoreDamaged(f"the table names a {column} that does not exist", object=key)
    if part.document.texts:
        texts = part.column(TEXT_COLUMN)
        if (texts < -1).any() or (texts >= len(part.document.texts)).any():
            raise StoreDamaged("the table names a text that does not exist", object=key)
    for name in part.document.ragged:
        widths, at = part.column(f"{name}_width"), part.column(f"{name}_start")
        if (
            (widths < 1).any()
            or (widths > MAX_FRAME_BYTES).any()
            or (at != np.cumsum(lengths * widths) - lengths * widths).any()
        ):
            raise StoreDamaged(f"the table's places of {name} do not follow one another", object=key)
    _check_attribute_spans(part, key)
    if index is not None:
        episode = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(part.entry.rows) - starts[episode]
        if (index[:, 0] != episode).any() or (index[:, 1] != step).any():
            objects.problem(f"{part.entry.path}/{layout.INDEX_ARRAY}", "the index and the episode table disagree")


def _check_attribute_spans(part: Part, key: str) -> None:
    """The episodes' attributes lie end to end, then those of the sources."""
    end = 0
    spans = zip(part.column("attributes_start").tolist(), part.column("attributes_bytes").tolist())
    for place, (start, nbytes) in (
        *((key, span) for span in spans),
        *((f"{part.entry.path}/zarr.json", each.attributes) for each in part.document.sources),
    ):
        if start != end or nbytes < 0 or start + nbytes > canonical.MAX_INTEGER:
            raise StoreDamaged("the attributes do not follow one another", object=place)
        end = start + nbytes
