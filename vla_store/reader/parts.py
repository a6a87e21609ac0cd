"""The parts of an open store: what they say of themselves, and which of them has a row or an episode."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged, VlaStoreError
from vla_store.format import canonical, layout
from vla_store.format.schema import MAX_DOCUMENT_BYTES, Field, PartDocument, PartEntry, Root, RootField
from vla_store.reader.cached import cached_property
from vla_store.reader.part import Index, Part
from vla_store.reader.shards import Opened
from vla_store.storage import Contents, Held, ObjectMissing, Storage, keep, read_documents

if TYPE_CHECKING:
    from vla_store.reader.store import Store

Int64 = npt.NDArray[np.int64]

MAX_OPEN_PARTS = 256
CARRIED_NBYTES = 4 << 20

Documents = list[bytes | None]


class Parts:
    """The parts of one root, by number. Each is opened when it is asked for, and at most MAX_OPEN_PARTS stay open.

    Where storage is far, it is told what the parts' listings say, and what many parts need is asked for together. carried: what a
    copy in another process read of their documents and listings; it is handed on where it is small.
    """

    def __init__(
        self, root: Root, fetcher: Storage, url: str, every: bool = False, carried: Documents | None = None
    ) -> None:
        self._root = root
        self.fetcher = fetcher
        self._url = url
        self.tables = Held(fetcher)
        self.carried = carried
        self._opened = Opened(every)
        self._parts: dict[int, Part] = {}
        self._brought: set[tuple[int, str]] = set()

    def __len__(self) -> int:
        return len(self._root.parts)

    def __getitem__(self, number: int) -> Part:
        part = self._parts.get(number)
        if part is None:
            self.bring([number])
            part = self._part(number)
        return part

    def __iter__(self) -> Iterator[Part]:
        return (self._part(number) for number in range(len(self)))

    def with_tables(self, *arrays: str) -> Iterator[Part]:
        """Iterate over all parts, of which these arrays are looked at next."""
        self.bring(range(len(self)), *arrays)
        return iter(self)

    def bring(self, numbers: Iterable[int], *arrays: str) -> None:
        """Ask for small arrays of these parts together, where storage is far; by default those that every sample needs."""
        if self.fetcher.is_near:
            return
        wanted = [(number, array) for number in numbers for array in arrays or (layout.INDEX_ARRAY, layout.TABLE_ARRAY)]
        wanted = [each for each in wanted if each not in self._brought]
        self.tables.bring([key for number, array in wanted for key in self._part(number).small(array).keys])
        self._brought.update(wanted)

    @cached_property
    def documents(self) -> tuple[PartDocument, ...]:
        """What each part says of itself. Raises StoreDamaged where that is not what the root says."""
        entries = self._root.parts
        keys = [f"{each.path}/{layout.ROOT_KEY}" for each in entries]
        is_told = [not self.fetcher.knows(each.path) for each in entries]
        listings = [f"{each.path}/{layout.LISTING}" for each, is_far in zip(entries, is_told) if is_far]
        try:
            found = self.carried
            if found is None or len(found) != len(keys) + len(listings):
                found = read_documents(self.fetcher, [*keys, *listings], MAX_DOCUMENT_BYTES)
            if not self.fetcher.is_near and sum(len(each or b"") for each in found) <= CARRIED_NBYTES:
                self.carried = found
            for key, data in zip(keys, found):
                if data is None:
                    raise ObjectMissing("an object of the store is missing", object=key)
            far = [each for each, is_far in zip(entries, is_told) if is_far]
            for each, data in zip(far, found[len(keys) :]):
                if (contents := contents_of(each, data)) is not None:
                    self.fetcher.know(contents)
            return tuple(self._document(key, data) for key, data in zip(keys, found) if data is not None)
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
        number = bisect.bisect_right(self.episode_starts, episode) - 1
        self.bring([number], layout.TABLE_ARRAY)
        part = self._part(number)
        return part, episode - part.episode_start

    def of_rows(self, rows: Int64) -> Iterator[tuple[Part, Index, Int64]]:
        """Iterate over the parts that have some of (n,) rows of the store: the part, which of them it has, their numbers there."""
        if len(self.row_starts) == 1 and len(rows):
            yield self[0], slice(None), rows
            return
        for part, at in self.grouped(np.searchsorted(self.row_starts, rows, side="right") - 1):
            yield part, at, rows[at] - part.row_start

    def grouped(self, numbers: Int64) -> Iterator[tuple[Part, Index]]:
        """Iterate over the parts among (n,) part numbers, and where each is. The index reads from arrays and writes to them."""
        if len(numbers) and (numbers == numbers[0]).all():
            yield self[int(numbers[0])], slice(None)
        else:
            distinct = np.unique(numbers).tolist()
            self.bring(distinct)
            for number in distinct:
                yield self[number], np.flatnonzero(numbers == number)

    def _part(self, number: int) -> Part:
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
                self.tables,
            )
            keep(self._parts, number, part, MAX_OPEN_PARTS)
        return part

    def _document(self, key: str, data: bytes) -> PartDocument:
        document = PartDocument.from_zarr_json(data, key)
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


def parts_of(store: Store) -> Parts:
    """Return the parts of a store, for the rest of this package: they are no part of what users see."""
    return store._parts


def contents_of(entry: PartEntry, listing: bytes | None) -> Contents | None:
    """Return what a part's listing says of its objects; None where it is missing or is not the root's, which no sample needs: then
    storage is asked for the size of every object, and `verify` says what is wrong."""
    from vla_store.format.listing import parse_listing  # not for whoever reads local files

    if listing is None or canonical.sha256_hex(listing) != entry.listing:
        return None
    key = f"{entry.path}/{layout.LISTING}"
    try:
        sizes = {f"{entry.path}/{each.key}": each.size for each in parse_listing(listing, key)}
    except StoreDamaged:
        return None
    return Contents(entry.path, entry.listing, sizes, listing)


def agree(whole: RootField, part: Field) -> bool:
    """Return whether a field of a part can be what the root says of it."""
    if whole.dtype != part.dtype:
        return False
    if whole.kind == "ragged-episode" and part.kind == "fixed":  # widths that differ between parts only
        return not part.is_camera and len(part.shape) == 1
    return whole.kind == part.kind and whole.shape == part.shape
