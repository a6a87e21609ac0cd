"""Where inner chunks lie: the shards of one array, opened on first use and checked once, over any fetcher.

Raw shards are their rows in C order, so their index says nothing that their size does not; encoded shards need theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged
from vla_store.format.codecs import CRC_BYTES, Codec
from vla_store.format.layout import Grid
from vla_store.format.shard_index import index_nbytes, parse_index
from vla_store.storage import Storage, keep
from vla_store.storage.pages import PageFaultMonitor, at_random, will_need

LEAST_COLD = 4  # chunks; for fewer, asking the system ahead gains nothing

Bytes = npt.NDArray[np.uint8]
Opened = dict[int, tuple[str, "Bytes | None", memoryview]]


class RawShards:
    """The shards of an array whose inner chunks all have `chunk_nbytes` bytes, one after another from offset 0."""

    def __init__(self, fetcher: Storage, array: str, grid: Grid, chunk_nbytes: int) -> None:
        self.fetcher = fetcher
        self.grid = grid
        self._array = array
        self._chunk_nbytes = chunk_nbytes
        self.bodies: dict[int, memoryview] = {}  # those that `body` gave
        self._checked: set[int] = set()

    def key(self, shard: int) -> str:
        """The object of a shard, once its size has been checked."""
        key = f"{self._array}/{self.grid.key(shard)}"
        if shard not in self._checked:
            expected = self._body_nbytes(shard) + index_nbytes(self.grid.chunks_per_shard)
            size = self.fetcher.size(key)
            if size != expected:
                raise StoreDamaged(
                    "an object of the store does not have its size",
                    object=key,
                    expected=f"{expected} bytes",
                    found=f"{size}",
                )
            self._checked.add(shard)
        return key

    def body(self, shard: int) -> memoryview | None:
        """All chunks of a shard as one view, where that costs nothing."""
        body = self.bodies.get(shard)
        if body is None:
            whole = self.fetcher.whole(self.key(shard))
            if whole is not None:
                body = self.bodies[shard] = whole[: self._body_nbytes(shard)]
        return body

    def _body_nbytes(self, shard: int) -> int:
        return self.grid.present(shard) * self._chunk_nbytes


class EncodedShards:
    """The shards of an array whose inner chunks have a size of their own.

    opened: the shards that are open now, of all arrays of the store, by number; bounded by the fetcher's `max_open`.
    first: this array's first number in `opened`.
    """

    def __init__(self, fetcher: Storage, array: str, grid: Grid, codec: Codec, opened: Opened, first: int) -> None:
        self.grid = grid
        self._fetcher = fetcher
        self._array = array
        self._codec = codec
        self._opened = opened
        self._first = first
        self._per_shard = grid.chunks_per_shard
        self._page_faults = PageFaultMonitor()

    def key(self, chunk: int) -> str:
        """The object that a chunk lies in."""
        return f"{self._array}/{self.grid.key(chunk // self._per_shard)}"

    def chunks(self, numbers: Sequence[int]) -> list[Bytes]:
        """The encoded bytes of inner chunks, each within the array's shape. Raises StoreDamaged, FetchError, MachineError."""
        opened, first, per_shard = self._opened, self._first, self._per_shard
        views: list[Bytes] = []
        ranges = []
        shard = -1
        for number in numbers:
            if number // per_shard != shard:
                shard = number // per_shard
                key, body, entries = opened.get(first + shard) or self._open(shard)
            at = 2 * (number - shard * per_shard)
            start = entries[at]
            if body is not None:
                views.append(body[start : start + entries[at + 1]])
            else:
                ranges.append((key, start, start + entries[at + 1]))
        if len(views) >= LEAST_COLD and self._page_faults.is_cold():
            for view in views:
                will_need(view)  # all at once, before the first is waited for
        return views if not ranges else [np.frombuffer(view, np.uint8) for view in self._fetcher.read(ranges)]

    def _open(self, shard: int) -> tuple[str, Bytes | None, memoryview]:
        key = f"{self._array}/{self.grid.key(shard)}"
        size, nbytes = self._fetcher.size(key), index_nbytes(self._per_shard)
        if size < nbytes:
            raise StoreDamaged("a shard is cut short", object=key, expected=f"at least {nbytes} bytes", found=f"{size}")
        body = None
        view = self._fetcher.whole(key)
        if view is not None:
            # The index too: it is looked into at random, and around one missing page the system may read megabytes.
            whole = np.frombuffer(view, np.uint8)
            at_random(whole)
            will_need(whole[size - nbytes :])
            body = whole[: size - nbytes]
        index = self._fetcher.read([(key, size - nbytes, size)])[0]
        raw_nbytes, present = self.grid.chunk_nbytes, self.grid.present(shard)
        fixed = self._codec.fixed(raw_nbytes)
        known = None if fixed is None else fixed + CRC_BYTES
        entries = parse_index(index, self._per_shard, present, size - nbytes, key, size=known)
        most = self._codec.largest(raw_nbytes) + CRC_BYTES
        if (entries[:present, 1] > most).any():
            raise StoreDamaged("a shard's index gives a chunk more bytes than it can need", object=key, expected=most)
        # As a memoryview: it gives Python's numbers, at any alignment.
        made = (key, body, index[: entries.nbytes].cast("Q"))
        keep(self._opened, self._first + shard, made, self._fetcher.max_open)
        return made


def as_array(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A read-only array over bytes; they are kept alive by it."""
    return np.frombuffer(data, dtype).reshape(shape)
