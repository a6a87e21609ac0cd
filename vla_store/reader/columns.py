"""Numeric arrays: fields, the index, the episode table, digests. One map an array, or coalesced byte ranges."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.format.layout import Grid
from vla_store.reader.shards import RawShards, as_array
from vla_store.storage import Range, Storage

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]


class Column:
    """An array whose shard files are their rows in C order.

    Row numbers are the array's own, and are not checked here: the caller takes them from places that were.
    """

    def __init__(self, fetcher: Storage, array: str, grid: Grid) -> None:
        self.rows = grid.rows
        self.shape = grid.shape[1:]
        self.dtype = np.dtype(grid.dtype).newbyteorder("<")
        self._row_nbytes = grid.row_nbytes
        self._per_shard = grid.shard
        self._shards = RawShards(fetcher, array, grid, grid.chunk_nbytes)
        self._fetcher = fetcher
        self._arrays: dict[int, Array] = {}

    @property
    def whole(self) -> Array | None:
        """All rows as one read-only view, where that costs nothing."""
        return self._mapped(0) if self._shards.grid.shards == 1 else None

    def take(self, rows: Int64, out: Array) -> None:
        """Rows, in the order asked for, into `out` (len(rows), *shape) of the column's dtype, C-contiguous."""
        if self._shards.grid.shards == 1:
            whole = self._mapped(0)
            if whole is None:
                self._fetch(rows, out)
            else:
                whole.take(rows, axis=0, out=out, mode="clip")
            return
        # Shard by shard, in one order for all of them, and then all rows to their places at once.
        shards = rows // self._per_shard
        order = np.argsort(shards, kind="stable")
        numbers, starts = np.unique(shards[order], return_index=True)
        mapped = [self._mapped(number) for number in numbers.tolist()]
        if any(each is None for each in mapped):
            self._fetch(rows, out)
            return
        local, taken = (rows - shards * self._per_shard)[order], np.empty_like(out)
        for each, start, stop in zip(mapped, starts.tolist(), [*starts[1:].tolist(), len(rows)]):
            assert each is not None
            each.take(local[start:stop], axis=0, out=taken[start:stop], mode="clip")
        out[order] = taken

    def span(self, start: int, stop: int) -> Array:
        """Rows [start, stop), read-only: a view where they are mapped in one piece."""
        shard = start // self._per_shard
        mapped = self._mapped(shard) if stop <= (shard + 1) * self._per_shard else None
        if mapped is not None:
            base = shard * self._per_shard
            return mapped[start - base : stop - base]
        pieces = self._read_spans([(start, stop)])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def unpack(self, row: int, layout: struct.Struct) -> tuple[Any, ...]:
        """The first numbers of one row, as Python's."""
        shard = row // self._per_shard
        at = (row - shard * self._per_shard) * self._row_nbytes
        body = self._shards.bodies.get(shard) or self._shards.body(shard)
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

    def _fetch(self, rows: Int64, out: Array) -> None:
        distinct, places = np.unique(rows, return_inverse=True)
        if not len(distinct):
            return
        breaks = np.flatnonzero(np.diff(distinct) != 1) + 1
        starts = distinct[np.concatenate([[0], breaks])]
        stops = distinct[np.concatenate([breaks - 1, [len(distinct) - 1]])] + 1
        pieces = self._read_spans(list(zip(starts.tolist(), stops.tolist())))
        np.take(np.concatenate(pieces), places.reshape(-1), axis=0, out=out, mode="clip")

    def _read_spans(self, spans: list[tuple[int, int]]) -> list[Array]:
        ranges: list[Range] = []
        counts = []
        for start, stop in spans:
            while start < stop:  # a span over the border of two shards is two ranges
                shard = start // self._per_shard
                base, end = shard * self._per_shard, min(stop, (shard + 1) * self._per_shard)
                ranges.append(
                    (self._shards.key(shard), (start - base) * self._row_nbytes, (end - base) * self._row_nbytes)
                )
                counts.append(end - start)
                start = end
        read = self._fetcher.read(ranges)
        return [as_array(data, self.dtype, (count, *self.shape)) for data, count in zip(read, counts)]
