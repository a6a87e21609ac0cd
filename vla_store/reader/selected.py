"""The rows of a selection, part by part, and statistics over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vla_store.reader.part import Part
from vla_store.reader.parts import parts_of
from vla_store.reader.selection import Chosen
from vla_store.reader.store import Store

if TYPE_CHECKING:
    from vla_store.format.statistics import FieldStatistics

Int64 = npt.NDArray[np.int64]


def selected_rows(chosen: Chosen, store: Store) -> list[tuple[Part, Int64]]:
    """Return the rows of a selection, each once and in the store's order, by part."""
    if chosen.rows is not None:
        return [(part, rows) for part, _, rows in parts_of(store).of_rows(np.unique(chosen.rows))]
    return [
        (part, np.concatenate([np.arange(start, stop) for start, stop in runs.tolist()]))
        for part, runs in chosen.runs(store)
    ]


def statistics_over(name: str, by_part: Iterable[tuple[Part, Int64]]) -> FieldStatistics:
    """Return statistics of a fixed numeric field over these rows of parts."""
    from vla_store.format.statistics import field_statistics  # not for whoever only reads samples

    pieces, episodes, count = [], [], 0
    for part, rows in by_part:
        column = part.column(part.document.fields[name])
        taken = np.empty((len(rows), *column.shape), column.dtype)
        column.take(rows, taken)
        pieces.append(taken)
        numbers = part.pairs(rows)[:, 0]
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        episodes += [(count + start, count + stop) for start, stop in itertools.pairwise(bounds)]
        count += len(rows)
    return field_statistics(np.concatenate(pieces), episodes)
