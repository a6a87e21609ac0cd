"""Aligned blocks over another storage, of which the last ones are kept: for tables of small rows. Imports storage.base."""

from __future__ import annotations

from collections.abc import Sequence

from vla_store.storage.base import Range, Storage, too_short
from vla_store.storage.bounded import keep

BLOCK_BYTES = 64 << 10
MAX_BLOCKS = 1_024  # 64 MiB: of an index, eight million steps


class Blocks(Storage):
    """Another storage, read in aligned blocks of 64 KiB, of which the last ones are kept: for tables of small rows.

    Where the inner storage has a view of a whole object, that view is given.

    Parameters
    ----------
    inner
        The storage to read from. `url` and `max_open` are its own.
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.max_open = inner.max_open
        self.url = inner.url
        self._sizes: dict[str, int] = {}
        self._blocks: dict[tuple[str, int], memoryview] = {}

    def whole(self, key: str) -> memoryview | None:
        return self._inner.whole(key)

    def size(self, key: str) -> int:
        # Asked anew: who asks checks it once, and a wrong answer of a server is not to stay.
        size = self._inner.size(key)
        keep(self._sizes, key, size, self.max_open)
        return size

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        wanted = {
            (key, number): stop
            for key, start, stop in ranges
            for number in range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        }
        held = {place: self._blocks[place] for place in wanted if place in self._blocks}
        absent = [place for place in wanted if place not in held]
        bounds = []
        for key, number in absent:
            size = self._sizes.get(key) or self.size(key)
            if wanted[key, number] > size:
                raise too_short(key, wanted[key, number], size)
            bounds.append((key, number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, size)))
        for place, block in zip(absent, self._inner.read(bounds)):
            held[place] = block
            # Alone: blocks that were fetched in one request are views of all that it gave.
            is_alone = len(block.obj) == block.nbytes  # type: ignore[arg-type]
            keep(self._blocks, place, block if is_alone else memoryview(bytes(block)), MAX_BLOCKS)
        return [_from_blocks(held, key, start, stop) for key, start, stop in ranges]


def _from_blocks(blocks: dict[tuple[str, int], memoryview], key: str, start: int, stop: int) -> memoryview:
    numbers = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
    base = numbers.start * BLOCK_BYTES
    found = [blocks[key, number] for number in numbers]
    view = found[0] if len(found) == 1 else memoryview(b"".join(found))
    if stop > base + len(view):
        raise too_short(key, stop, base + len(view))
    return view[start - base : stop - base]
