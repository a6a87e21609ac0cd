"""Samples brought near before they are read: where their bytes lie, found without decoding anything, and asked of storage at once.

Imports part readers and the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader.kept import Kept
from vla_store.reader.part import Part
from vla_store.reader.part_reader import PartReader
from vla_store.reader.parts import MAX_OPEN_PARTS, parts_of
from vla_store.reader.selection import Anchors
from vla_store.reader.shards import open_shards
from vla_store.reader.store import Store
from vla_store.reader.windows import Window
from vla_store.storage import Range, Storage, Traffic, keep

Int64 = npt.NDArray[np.int64]

# Numbers of one step are some hundred bytes: by themselves each would be a request. So are frames, where all of them are wanted.
NUMBERS_NBYTES = 256 << 10
WHOLE_NBYTES = 1 << 20


class Ahead:
    """Brings samples of a far store near, in any process: small, and pickles without the transforms of who made it.

    Parameters
    ----------
    store, windows, anchors, kept, alignment, pad
        Of the `Samples` that will be read.
    """

    def __init__(
        self, store: Store, windows: tuple[Window, ...], anchors: Anchors, kept: Kept | None, alignment: str, pad: str
    ) -> None:
        self._store, self._windows, self._anchors, self._kept = store, windows, anchors, kept
        self._alignment, self._pad = alignment, pad
        self._readers: dict[int, PartReader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    @property
    def fits(self) -> bool:
        """Whether a cache has room for all of them."""
        _ = parts_of(self._store).documents  # only then storage knows what there is
        return self.storage.keeps_all()

    @property
    def is_near(self) -> bool:
        """Whether all that samples may need is on this machine now, and stays."""
        parts = parts_of(self._store)
        keys = (key for number in self._anchors.parts(self._store) for key in self._reader(parts[number]).keys)
        return all(self.storage.whole(key) is not None for key in keys)

    @property
    def kept(self) -> tuple[int, int]:
        """Bytes of the store that a cache on this machine has, and all of them; (0, 0) without a cache."""
        return self.storage.kept

    @property
    def traffic(self) -> Traffic:
        """What this process asked storage for until now."""
        return self.storage.traffic

    def fetch(self, indices: Int64, is_whole: bool) -> list[Range]:
        """Bring samples near, and return what `release` may be told of once they were read.

        Parameters
        ----------
        indices
            (n,) numbers of samples, each in [0, len).
        is_whole
            Take in what lies beside them, because all of it is wanted some time: then there is nothing to release.

        Raises
        ------
        StoreDamaged, FetchError, MachineError
            Where the store cannot be read.
        """
        chosen = [(self._reader(part), positions) for part, _, positions in self._anchors.many(indices, self._store)]
        listed = [reader.rows_of(positions) for reader, positions in chosen]
        unopened = [each for (reader, _), rows in zip(chosen, listed) for each in reader.shards_unopened(rows)]
        open_shards(unopened)
        frames: list[Range] = []
        others: list[Range] = []
        for (reader, positions), rows in zip(chosen, listed):
            wanted = reader.wanted(positions, rows)
            frames += wanted.frames
            others += widened(wanted.numbers, NUMBERS_NBYTES, self.storage) + wanted.backgrounds
        if not is_whole:
            self.storage.fetch_ahead(others + frames)
            return frames
        self.storage.fetch_ahead(others + widened(frames, WHOLE_NBYTES, self.storage))
        return []

    def release(self, ranges: list[Range]) -> None:
        """Give up what one `fetch` returned, but for what another one brought as well."""
        self.storage.release(ranges)

    def _reader(self, part: Part) -> PartReader:
        reader = self._readers.get(part.number)
        if reader is None:
            kept = None if self._kept is None else self._kept.of(part)
            fields = self._store.fields
            reader = PartReader(part, self._windows, fields, self._alignment, "as_stored", self._pad, {}, (), kept)
            keep(self._readers, part.number, reader, MAX_OPEN_PARTS)
        return reader

    @property
    def storage(self) -> Storage:
        """What is asked, of which several may ask the same."""
        return parts_of(self._store).fetcher


def widened(ranges: Iterable[Range], nbytes: int, storage: Storage) -> list[Range]:
    """Return the aligned blocks of so many bytes that ranges lie in, each once, cut where the object ends."""
    blocks = {
        (key, number): None for key, start, stop in ranges for number in range(start // nbytes, -(-stop // nbytes))
    }
    return [(key, at * nbytes, min((at + 1) * nbytes, storage.size(key))) for key, at in blocks]
