"""The counts of numbers that are not finite, against those of the data."""

from __future__ import annotations

import numpy as np

from vla_store.audit.arrays import ArrayReader
from vla_store.audit.part import Part
from vla_store.format import layout
from vla_store.format.nonfinite import columns_of, table_of


def check_nonfinite(reader: ArrayReader, part: Part) -> None:
    """What a part records must be what was read. Parts of earlier versions record nothing, whatever they hold."""
    episodes = part.entry.episodes
    grid = layout.numeric_grid((episodes, len(columns_of(part.document.nonfinite))), "int64", part.entry.rows)
    stored = reader.numeric(layout.NONFINITE_ARRAY, grid)
    found = {name: tallies for name in part.nonfinite if (tallies := part.tallies_of(name))}
    if stored is None:
        return
    if sorted(found) != sorted(part.document.nonfinite) or not np.array_equal(stored, table_of(found, episodes)):
        reader.objects.problem(
            f"{part.entry.path}/{layout.NONFINITE_ARRAY}",
            "the counts of numbers that are not finite are not those of the data",
        )
