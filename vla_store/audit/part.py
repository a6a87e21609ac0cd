"""A part of a store as the audit has read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.format.nonfinite import Tally, tallied
from vla_store.format.schema import TEXT_COLUMN, Field, PartDocument, PartEntry

DIGEST_NBYTES = 32

Array = np.ndarray[Any, Any]


@dataclass
class Part:
    """A part as the audit sees it."""

    entry: PartEntry
    document: PartDocument
    table: Array  # (episodes, columns) int64
    episode_digests: Array  # (episodes, 32) uint8, as stored
    attributes: bytes  # of all episodes and source files, end to end
    field_digests: list[dict[str, str]]  # per episode: field -> hex of the digest of what was read
    columns: dict[str, Array]  # numeric field -> its array
    nonfinite: dict[str, Array]  # field -> of every row that was read, (rows, 2): numbers that are NaN, and infinite
    complete: bool  # nothing of it was unreadable

    def column(self, name: str) -> Array:
        """A column of the episode table, (episodes,) int64."""
        return self.table[:, self.document.columns.index(name)]

    @property
    def attributes_nbytes(self) -> int:
        return sum(self.document.sources[-1].attributes)  # the last of all

    def attributes_of(self, episode: int) -> bytes:
        return self._span(int(self.column("attributes_start")[episode]), int(self.column("attributes_bytes")[episode]))

    def file_attributes_of(self, source: int) -> bytes:
        return self._span(*self.document.sources[source].attributes)

    def _span(self, start: int, nbytes: int) -> bytes:
        return self.attributes[start : start + nbytes]

    def tallies_of(self, name: str) -> tuple[Tally, ...]:
        """What of a field is not finite, by episode, as it was read."""
        starts, lengths = self.column("start").tolist(), self.column("length").tolist()
        counts = self.nonfinite[name]
        found = [tallied(n, counts[start : start + length]) for n, (start, length) in enumerate(zip(starts, lengths))]
        return tuple(each for several in found for each in several)

    def text_of(self, episode: int) -> str | None:
        """The instruction that an episode has of its own; None for its task's."""
        if not self.document.texts:
            return None
        number = int(self.column(TEXT_COLUMN)[episode])
        return None if number < 0 else self.document.texts[number]

    def elements_of(self, field: Field) -> int | None:
        """Of a ragged field: how many elements it has in all episodes together."""
        return int((self.column("length") * self.column(f"{field.name}_width")).sum()) if field.is_ragged else None

    def rows_of(self, field: Field, episode: int) -> Array:
        """A numeric field in one episode, (length, *shape)."""
        start, length = int(self.column("start")[episode]), int(self.column("length")[episode])
        column = self.columns[field.name]
        if not field.is_ragged:
            return column[start : start + length]
        first, width = (
            int(self.column(f"{field.name}_start")[episode]),
            int(self.column(f"{field.name}_width")[episode]),
        )
        return column[first : first + length * width].reshape(length, width)
