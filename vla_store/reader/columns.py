"""Numeric arrays: fields, the index, the episode table, digests. One map an array, or coalesced byte ranges.

Imports shards, format and storage.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.format.layout import Grid
from vla_store.reader.cached import cached_property
from vla_store.reader.shards import RawShards, as_array
from vla_store.storage import Range, Storage

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]


class Column:
    """An array whose shard files are their rows in C order.

    Row numbers are the array's own, and are not checked here: the caller takes them from positions that were.
    """

    def __init__(self, fetcher: Storage, array: str, grid: Grid) -> None:
        self.rows = grid.rows
        self.shape = grid.shape[1:]
        self.dtype = np.dtype(grid.dtype).newbyteorder("<")
        self._row_nbytes = grid.row_nbytes
        self._per_shard = grid.shard
        self._shards = RawShards(fetcher, array, grid, grid.chunk_nbytes)
        self._bodies = self._shards.bodies
        self._is_single = grid.shards == 1
        self._fetcher = fetcher
        self._arrays: dict[int, Array] = {}

    @property
    def whole(self) -> Array | None:
        """All rows as one read-only view, where that costs nothing: of far storage, from when a cache has them all."""
        return self._mapped(0) if self._is_single else None

    @cached_property
    def is_mapped(self) -> bool:
        """True where rows are views that cost nothing, be it of several shards."""
        return self._mapped(0) is not None

    @property
    def keys(self) -> list[str]:
        """The objects of all its shards."""
        return [self._shards.object(number) for number in range(self._shards.grid.shards)]

    def ranges(self, rows: Int64) -> list[Range]:
        """Return what `take` has to fetch for rows; nothing where they are mapped."""
        if self.whole is not None:
            return []
        if all(self._mapped(number) is not None for number in np.unique(rows // self._per_shard).tolist()):
            return []
        return self.spans(np.unique(rows))

    def spans(self, rows: Int64) -> list[Range]:
        """Return where rows lie, which ascend and come once each, whether they are mapped or not."""
        return self._ranges(_runs(rows))

    def take(self, rows: Int64, out: Array, data: Sequence[memoryview] = ()) -> None:
        """Write rows, in the order asked for, into `out` (len(rows), *shape) of the column's dtype, C-contiguous.

        data: what was fetched for the `ranges` of these rows; without it, they are fetched now where they are not mapped.
        """
        if not len(rows):
            return
        if data or self.whole is None:
            self._gather(rows, out, data)
        else:
            self.whole.take(rows, axis=0, out=out, mode="clip")

    def span(self, start: int, stop: int) -> Array:
        """Return rows [start, stop), read-only: a view where they are mapped in one piece."""
        shard = start // self._per_shard
        mapped = self._mapped(shard) if stop <= (shard + 1) * self._per_shard else None
        if mapped is not None:
            base = shard * self._per_shard
            return mapped[start - base : stop - base]
        return self._joined(self._fetcher.read(self._ranges([(start, stop)])))

    def unpack(self, row: int, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the first numbers of one row, as Python's."""
        shard = row // self._per_shard
        at = (row - shard * self._per_shard) * self._row_nbytes
        body = self._bodies.get(shard) or self._shards.body(shard)
        if body is not None:
            return layout.unpack_from(body, at)
        return layout.unpack(self._fetcher.read([(self._shards.key(shard), at, at + layout.size)])[0])

    def _mapped(self, shard: int) -> Array | None:
        array = self._arrays.get(shard)
        if array is None:
            body = self._shards.body(shard)
            if body is not None:
                start, stop = self._shards.grid.rows_of(shard)
                rows = body[: (stop - start) * self._row_nbytes]
                array = self._arrays[shard] = as_array(rows, self.dtype, (stop - start, *self.shape))
        return array

    def _gather(self, rows: Int64, out: Array, data: Sequence[memoryview]) -> None:
        """Take rows that lie in several shards, or have to be fetched."""
        shards = rows // self._per_shard
        mapped = {} if data else {number: self._mapped(number) for number in np.unique(shards).tolist()}
        if not data and all(each is not None for each in mapped.values()):
            for number, each in mapped.items():
                assert each is not None
                at = np.flatnonzero(shards == number)
                out[at] = each.take(rows[at] - number * self._per_shard, axis=0, mode="clip")
            return
        distinct, where = np.unique(rows, return_inverse=True)
        found = self._joined(data or self._fetcher.read(self._ranges(_runs(distinct))))
        np.take(found, where.reshape(-1), axis=0, out=out, mode="clip")

    def _ranges(self, runs: list[tuple[int, int]]) -> list[Range]:
        ranges: list[Range] = []
        keys: dict[int, str] = {}
        for start, stop in runs:
            while start < stop:  # a run over the border of two shards is two ranges
                shard = start // self._per_shard
                base, end = shard * self._per_shard, min(stop, (shard + 1) * self._per_shard)
                key = keys.get(shard) or keys.setdefault(shard, self._shards.key(shard))
                ranges.append((key, (start - base) * self._row_nbytes, (end - base) * self._row_nbytes))
                start = end
        return ranges

    def _joined(self, data: Sequence[memoryview]) -> Array:
        pieces = [as_array(each, self.dtype, (len(each) // self._row_nbytes, *self.shape)) for each in data]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _runs(distinct: Int64) -> list[tuple[int, int]]:
    """Return the stretches [start, stop) of consecutive numbers among ascending ones."""
    breaks = np.flatnonzero(np.diff(distinct) != 1) + 1
    starts, stops = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(distinct)]]) - 1
    return list(zip(distinct[starts].tolist(), (distinct[stops] + 1).tolist())) if len(distinct) else []
