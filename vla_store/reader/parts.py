"""The parts of an open store: what they say of themselves, and which of them has a row or an episode."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged, VlaStoreError
from vla_store.format.schema import MAX_DOCUMENT_BYTES, Field, PartDocument, Root, RootField
from vla_store.reader.cached import cached_property
from vla_store.reader.part import Index, Part
from vla_store.reader.shards import Opened
from vla_store.storage import Storage, keep, read_document

Int64 = npt.NDArray[np.int64]

MAX_OPEN_PARTS = 256


class Parts:
    """The parts of one root, by number. Each is opened when it is asked for, and at most MAX_OPEN_PARTS stay open."""

    def __init__(self, root: Root, fetcher: Storage, url: str, every: bool = False) -> None:
        self._root = root
        self.fetcher = fetcher
        self._url = url
        self._opened = Opened(every)
        self._parts: dict[int, Part] = {}

    def __len__(self) -> int:
        return len(self._root.parts)

    def __getitem__(self, number: int) -> Part:
        part = self._parts.get(number)
        if part is None:
            part = Part(
                number,
                self._root.parts[number],
                self.documents[number],
                self.fetcher,
                self._opened,
                self.row_starts[number],
                self.episode_starts[number],
            )
            keep(self._parts, number, part, MAX_OPEN_PARTS)
        return part

    def __iter__(self) -> Iterator[Part]:
        return (self[number] for number in range(len(self)))

    @cached_property
    def documents(self) -> tuple[PartDocument, ...]:
        """What each part says of itself. Raises StoreDamaged where that is not what the root says."""
        try:
            return tuple(self._document(each.path) for each in self._root.parts)
        except VlaStoreError as error:
            raise error.at(store=self._url) from None

    @cached_property
    def row_starts(self) -> list[int]:
        """The store's first row of each part, and the number of rows."""
        return [0, *itertools.accumulate(each.rows for each in self._root.parts)]

    @cached_property
    def episode_starts(self) -> list[int]:
        """The store's first episode of each part, and the number of episodes."""
        return [0, *itertools.accumulate(each.episodes for each in self._root.parts)]

    def of_row(self, row: int) -> tuple[Part, int]:
        """Return the part that has a row of the store, and its number there."""
        part = self[bisect.bisect_right(self.row_starts, row) - 1]
        return part, row - part.row_start

    def of_episode(self, episode: int) -> tuple[Part, int]:
        """Return the part that has an episode of the store, and its number there."""
        part = self[bisect.bisect_right(self.episode_starts, episode) - 1]
        return part, episode - part.episode_start

    def of_rows(self, rows: Int64) -> Iterator[tuple[Part, Index, Int64]]:
        """Iterate over the parts that have some of (n,) rows of the store: the part, which of them it has, their numbers there."""
        for part, at in self.grouped(np.searchsorted(self.row_starts, rows, side="right") - 1):
            yield part, at, rows[at] - part.row_start

    def grouped(self, numbers: Int64) -> Iterator[tuple[Part, Index]]:
        """Iterate over the parts among (n,) part numbers, and where each is. The index reads from arrays and writes to them."""
        if len(numbers) and (numbers == numbers[0]).all():
            yield self[int(numbers[0])], slice(None)
        else:
            for number in np.unique(numbers).tolist():
                yield self[number], np.flatnonzero(numbers == number)

    def _document(self, path: str) -> PartDocument:
        key = f"{path}/zarr.json"
        document = PartDocument.from_zarr_json(read_document(self.fetcher, key, MAX_DOCUMENT_BYTES), key)
        for name, each in self._root.fields.items():
            if name not in document.fields:
                raise StoreDamaged("a part lacks a field that the root names", object=key, field=name)
            if not agree(each, document.fields[name]):
                raise StoreDamaged(
                    "a part and the root disagree about a field",
                    object=key,
                    field=name,
                    expected=f"{each.kind} {each.dtype} {each.shape}",
                    found=f"{document.fields[name].kind} {document.fields[name].dtype} {document.fields[name].shape}",
                )
        return document


def agree(whole: RootField, part: Field) -> bool:
    """Return whether a field of a part can be what the root says of it."""
    if whole.dtype != part.dtype:
        return False
    if whole.kind == "ragged-episode" and part.kind == "fixed":  # widths that differ between parts only
        return not part.is_camera and len(part.shape) == 1
    return whole.kind == part.kind and whole.shape == part.shape
