"""Small objects of another storage, held in memory once they were asked for: its tables. Imports storage.base and storage.blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vla_store.storage.base import Range, Storage
from vla_store.storage.blocks import Blocks

HELD_NBYTES = 64 << 20  # the index of eight million steps


class Held(Storage):
    """Another storage, whose objects are held whole in memory from their first use on, where it is far: for tables of small rows.

    Once what is held would be more than `HELD_NBYTES`, further objects are read in blocks. Where the inner storage has a view of
    a whole object, that view is given.

    Parameters
    ----------
    inner
        The storage to read from. `url`, `max_open` and `is_near` are its own.
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self._blocks = Blocks(inner)
        self.url, self.max_open, self.is_near = inner.url, inner.max_open, inner.is_near
        self._held: dict[str, memoryview] = {}

    def bring(self, keys: Iterable[str]) -> None:
        """Hold as many of these objects as may be held, by one call of the inner storage's `read`."""
        if self.is_near:
            return
        room = HELD_NBYTES - sum(map(len, self._held.values()))
        ranges: list[Range] = []
        for key in keys:
            if key not in self._held and self._inner.whole(key) is None and (size := self._inner.size(key)) <= room:
                ranges.append((key, 0, size))
                room -= size
        if ranges:  # kept on this machine, where there is a place for it: others need them too
            self._inner.fetch_ahead(ranges)
        for (key, _, _), view in zip(ranges, self._inner.read(ranges) if ranges else ()):
            self._held[key] = view

    def whole(self, key: str) -> memoryview | None:
        view = self._inner.whole(key)
        if view is None:
            self.bring([key])
            view = self._held.get(key)
        return view

    def size(self, key: str) -> int:
        return self._blocks.size(key)

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        return self._blocks.read(ranges)
