"""Where inner chunks lie: the shards of one array, opened on first use and checked once, over any storage.

Owns what is known of open shards, and which of their chunks this process has checked. Imports format and storage.
Raw shards are their rows in C order, so their index says nothing that their size does not; encoded shards need theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged
from vla_store.format.codecs import CRC_BYTES, Codec, checked_body
from vla_store.format.layout import Grid
from vla_store.format.shard_index import index_nbytes, parse_index
from vla_store.storage import Range, Storage, keep
from vla_store.storage.pages import at_random, will_need

Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

INDICES_NBYTES = 512 << 20  # of shards that are not mapped: 16 bytes a frame


class OpenShard(NamedTuple):
    """One shard. body: its chunks as one view, None where they are fetched. entries: offset and size of each, as a memoryview,
    which gives Python's numbers. marks: a bit a chunk, set once it was checked; None where each is checked every time. has: tells of a
    stretch of the view whether it is there; None where all is."""

    key: str
    body: Bytes | None
    entries: memoryview
    marks: bytearray | None
    has: Callable[[int, int], bool] | None = None


class Opened:
    """The shards that are open now, of all arrays of a store, by number: as many views as the storage's `max_open`, as many indices
    of shards that are fetched from as are `INDICES_NBYTES`. And the backgrounds that were fetched, of all cameras.

    every: True where the crc32c of a chunk is to be checked every time it is decoded.
    """

    def __init__(self, every: bool = False) -> None:
        self.every = every
        self.shards: dict[int, OpenShard] = {}
        self.backgrounds: dict[int, Any] = {}


class Chunks(NamedTuple):
    """Inner chunks that are located: views of those at hand, and the ranges of those to be fetched.

    views: of each chunk, None for one to be fetched; empty where all are. unchecked: positions whose view has its crc32c at its end,
    with the bit of `OpenShard.marks` to set once that holds. every: True where all views have theirs, to be checked each time.
    """

    views: list[Any]
    unchecked: dict[int, tuple[bytearray, int]]
    ranges: list[Range]
    every: bool = False

    def bodies(self, data: Sequence[memoryview]) -> Iterable[Any]:
        """Return the chunks in order, without their crc32c, which is checked where it has to be: ValueError as one is taken.

        data: what was fetched for `ranges`.
        """
        if not self.ranges:
            if self.every:
                return map(checked_body, self.views)
            return self._checked(()) if self.unchecked else self.views
        return self._checked(data) if self.views else map(checked_body, data)

    def _checked(self, data: Sequence[memoryview]) -> Iterator[Any]:
        fetched = iter(data)
        for at, view in enumerate(self.views):
            if view is None:
                view = checked_body(next(fetched))
            elif self.every:
                view = checked_body(view)
            elif at in self.unchecked:
                marks, number = self.unchecked[at]
                bit = 1 << (number & 7)
                # It may have been checked since it was located.
                view = view[:-CRC_BYTES] if marks[number >> 3] & bit else checked_body(view)
                marks[number >> 3] |= bit
            yield view


class RawShards:
    """The shards of an array whose inner chunks all have `chunk_nbytes` bytes, one after another from offset 0."""

    def __init__(self, fetcher: Storage, array: str, grid: Grid, chunk_nbytes: int) -> None:
        self.fetcher = fetcher
        self.grid = grid
        self._array = array
        self._chunk_nbytes = chunk_nbytes
        self.bodies: dict[int, memoryview] = {}  # those that `body` gave
        self._checked: set[int] = set()

    def object(self, shard: int) -> str:
        """Return the key of a shard's object."""
        return f"{self._array}/{self.grid.key(shard)}"

    def key(self, shard: int) -> str:
        """Return the object of a shard, once its size has been checked."""
        key = self.object(shard)
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
        """Return all chunks of a shard as one view, where that costs nothing."""
        body = self.bodies.get(shard)
        if body is None:
            whole = self.fetcher.whole(self.key(shard))
            if whole is not None:
                body = self.bodies[shard] = whole[: self._body_nbytes(shard)]
        return body

    def _body_nbytes(self, shard: int) -> int:
        return self.grid.present(shard) * self._chunk_nbytes


class EncodedShards:
    """The shards of an array whose inner chunks have a size of their own. first: this array's first number in `opened`."""

    def __init__(self, fetcher: Storage, array: str, grid: Grid, codec: Codec, opened: Opened, first: int) -> None:
        self.grid = grid
        self.fetcher = fetcher
        self._array = array
        self._codec = codec
        self._opened = opened
        self._first = first
        self._per_shard = grid.chunks_per_shard

    def key(self, chunk: int) -> str:
        """Return the object that a chunk lies in."""
        return f"{self._array}/{self.grid.key(chunk // self._per_shard)}"

    def locate(self, numbers: Sequence[int]) -> Chunks:
        """Find inner chunks, each within the array's shape. Raises StoreDamaged, FetchError, MachineError."""
        opened, first, per_shard = self._opened.shards, self._first, self._per_shard
        views: list[Any] = []
        unchecked: dict[int, tuple[bytearray, int]] = {}
        ranges: list[Range] = []
        shard, near_nbytes = -1, 0
        for number in numbers:
            if number // per_shard != shard:
                shard = number // per_shard
                key, body, entries, marks, has = opened.get(first + shard) or self._open(shard)
                if body is None:
                    return Chunks([], {}, [self._range(each) for each in numbers])
            at = number - shard * per_shard
            start = entries[2 * at]
            stop = start + entries[2 * at + 1]
            is_checked = marks is not None and marks[at >> 3] & 1 << (at & 7)
            if has is not None:
                if not is_checked and not has(start, stop):
                    ranges.append((key, start, stop))
                    views.append(None)
                    continue
                near_nbytes += stop - start
            if is_checked:
                stop -= CRC_BYTES
            elif marks is not None:
                unchecked[len(views)] = marks, at
            views.append(body[start:stop])  # type: ignore[index]
        if near_nbytes:
            self.fetcher.hit(near_nbytes)
        return Chunks(views, unchecked, ranges, self._opened.every)

    @property
    def is_mapped(self) -> bool:
        """True where the first shard is a view that costs nothing."""
        return self.fetcher.whole(self.key(0)) is not None

    def unopened(self, numbers: Iterable[int]) -> list[tuple[EncodedShards, int]]:
        """Return the shards of these chunks that are not open, as `open_shards` takes them."""
        shards = dict.fromkeys(number // self._per_shard for number in numbers)
        return [(self, shard) for shard in shards if self._first + shard not in self._opened.shards]

    @property
    def keys(self) -> list[str]:
        """The objects of all its shards."""
        return [self.key(shard * self._per_shard) for shard in range(self.grid.shards)]

    def spans(self, numbers: Int64) -> list[Range]:
        """Return where inner chunks lie, whether at hand or not; those that touch are one. numbers: ascending, each once.

        Raises StoreDamaged, FetchError, MachineError.
        """
        made: list[Range] = []
        shards = numbers // self._per_shard
        for shard in np.unique(shards).tolist():
            found = self._opened.shards.get(self._first + shard) or self._open(shard)
            at = numbers[shards == shard] - shard * self._per_shard
            entries = np.frombuffer(found.entries, np.int64).reshape(-1, 2)[at]
            entries = entries[np.argsort(entries[:, 0], kind="stable")]
            starts, stops = entries[:, 0], entries.sum(axis=1)
            breaks = np.flatnonzero(starts[1:] != stops[:-1])
            firsts, lasts = [0, *(breaks + 1).tolist()], [*breaks.tolist(), len(at) - 1]
            made += [(found.key, start, stop) for start, stop in zip(starts[firsts].tolist(), stops[lasts].tolist())]
        return made

    def _range(self, number: int) -> Range:
        shard, at = divmod(number, self._per_shard)
        found = self._opened.shards.get(self._first + shard) or self._open(shard)
        start, nbytes = found.entries[2 * at : 2 * at + 2]
        return found.key, start, start + nbytes

    def _open(self, shard: int) -> OpenShard:
        open_shards([(self, shard)])
        return self._opened.shards[self._first + shard]

    def index_range(self, shard: int) -> Range:
        """Return where the index of a shard lies. Raises StoreDamaged."""
        key = self.key(shard * self._per_shard)
        size, nbytes = self.fetcher.size(key), index_nbytes(self._per_shard)
        if size < nbytes:
            raise StoreDamaged("a shard is cut short", object=key, expected=f"at least {nbytes} bytes", found=f"{size}")
        return key, size - nbytes, size

    def keep(self, shard: int, key: str, end: int, index: memoryview) -> None:
        """Keep a shard open, of which this is the index, after `end` bytes of chunks. Raises StoreDamaged."""
        body = has = None
        sparse = None if self.fetcher.is_near else self.fetcher.sparse(key)
        view, has = sparse or (self.fetcher.whole(key), None)
        if view is not None:
            # The index too: it is looked into at random, and around one missing page the system may read megabytes.
            whole = np.frombuffer(view, np.uint8)
            at_random(whole)
            will_need(whole[end:])
            body = whole[:end]
        raw_nbytes, present = self.grid.chunk_nbytes, self.grid.present(shard)
        fixed = self._codec.fixed(raw_nbytes)
        known = None if fixed is None else fixed + CRC_BYTES
        entries = parse_index(index, self._per_shard, present, end, key, size=known)
        most = self._codec.largest(raw_nbytes) + CRC_BYTES
        if (entries[:present, 1] > most).any():
            raise StoreDamaged("a shard's index gives a chunk more bytes than it can need", object=key, expected=most)
        marks = None if body is None or self._opened.every else bytearray(present // 8 + 1)
        made = OpenShard(key, body, index[: entries.nbytes].cast("Q"), marks, has)
        count = self.fetcher.max_open if body is not None else max(1, INDICES_NBYTES // len(index))
        keep(self._opened.shards, self._first + shard, made, count)


def open_shards(wanted: Sequence[tuple[EncodedShards, int]]) -> None:
    """Open shards, of any arrays of one storage, by one call of its `read`. Raises StoreDamaged, FetchError, MachineError."""
    if wanted:
        ranges = [array.index_range(shard) for array, shard in wanted]
        fetcher = wanted[0][0].fetcher
        fetcher.fetch_ahead(ranges)  # kept on this machine, where there is a place for it: others need them too
        for (array, shard), (key, start, stop), index in zip(wanted, ranges, fetcher.read(ranges)):
            try:
                array.keep(shard, key, start, index)
            except StoreDamaged:
                if not fetcher.heal(key):
                    raise
                array.keep(shard, key, start, fetcher.read([(key, start, stop)])[0])


def as_array(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return a read-only array over bytes; they are kept alive by it."""
    return np.frombuffer(data, dtype).reshape(shape)
