"""The episodes of a store, looked up in its tables."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from vla_store.format import layout
from vla_store.reader.part import Part
from vla_store.reader.parts import parts_of
from vla_store.reader.values import Episode

if TYPE_CHECKING:
    from vla_store.reader.store import Store

Int64 = npt.NDArray[np.int64]

STRETCH = 1_024  # episodes that are looked up at once, where all are wanted: in a tenth of the time


class Episodes(Sequence[Episode]):
    """The episodes of a store, as a sequence of `Episode`.

    Nothing is held: each is looked up in the store's table.

    Parameters
    ----------
    store
        The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return parts_of(self._store).episode_starts[-1]

    @overload
    def __getitem__(self, episode: SupportsIndex) -> Episode: ...

    @overload
    def __getitem__(self, episode: slice) -> list[Episode]: ...

    def __getitem__(self, episode: SupportsIndex | slice) -> Episode | list[Episode]:
        """Return one episode, or a list of them for a slice.

        Parameters
        ----------
        episode
            Its number; negative ones count from the end. Or a slice.

        Returns
        -------
        Episode or list of Episode

        Raises
        ------
        IndexError
            For an episode past either end.
        TypeError
            For what is neither a whole number nor a slice.
        """
        if isinstance(episode, slice):
            return [self._one(number) for number in range(len(self))[episode]]
        number = operator.index(episode)
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(f"episode {operator.index(episode)} of {len(self)}")
        return self._one(number)

    def _one(self, number: int) -> Episode:
        part, at = parts_of(self._store).of_episode(number)
        return next(_stretch(part, at, at + 1))

    def __iter__(self) -> Iterator[Episode]:
        parts = parts_of(self._store).with_tables(layout.TABLE_ARRAY)
        return (
            each
            for part in parts
            for start in range(0, part.episodes, STRETCH)
            for each in _stretch(part, start, min(start + STRETCH, part.episodes))
        )

    def __repr__(self) -> str:
        return f"Episodes({len(self):,} of {self._store.url!r})"

    @property
    def starts(self) -> Int64:
        """The first row of each, (n,) int64."""
        return self._column("start")

    @property
    def lengths(self) -> Int64:
        """Steps of each, (n,) int64."""
        return self._column("length")

    def _column(self, name: str) -> Int64:
        columns = [
            part.entries(0, part.episodes)[name] + (part.row_start if name == "start" else 0)
            for part in parts_of(self._store).with_tables(layout.TABLE_ARRAY)
        ]
        return np.concatenate(columns)


def _stretch(part: Part, start: int, stop: int) -> Iterator[Episode]:
    """Iterate over the episodes [start, stop) of a part. Raises StoreDamaged."""
    entries = part.entries(start, stop)
    texts = part.texts_of(np.arange(start, stop), entries["task"])
    for at, entry, text in zip(range(start, stop), entries.tolist(), texts):
        first, length, task, source, demo, success = entry[:6]  # as TABLE_COLUMNS has them
        described = part.document.sources[source]
        yield Episode(
            part.episode_start + at,
            described.suite,
            part.document.tasks[task].name,
            described.file,
            demo,
            part.row_start + first,
            length,
            None if success < 0 else bool(success),
            text,
        )
