"""The episodes of a store, looked up in its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from vla_store.errors import MachineError, OptionError
from vla_store.format import layout
from vla_store.reader.numbers import one_number, whole_numbers
from vla_store.reader.part import Part
from vla_store.reader.parts import parts_of
from vla_store.reader.values import Episode
from vla_store.text import counted

if TYPE_CHECKING:
    import pandas

    from vla_store.reader.store import Store

Int64 = npt.NDArray[np.int64]

STRETCH = 1_024  # episodes that are looked up at once, where all are wanted: in a tenth of the time


# Of a table's columns that are no int64. Names come again and again: as categories they take a few bytes an episode.
_DTYPES = {"success": "boolean", **dict.fromkeys(("suite", "task", "file", "text"), "category")}


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
    def __getitem__(self, episode: int | np.integer[Any]) -> Episode: ...

    @overload
    def __getitem__(self, episode: slice | Iterable[Any]) -> list[Episode]: ...

    def __getitem__(self, episode: SupportsIndex | slice | Iterable[Any]) -> Episode | list[Episode]:
        """Return one episode, or a list of them for a slice, a mask or several numbers.

        Parameters
        ----------
        episode
            Its number; negative ones count from the end. Or a slice; or several, as `Samples(episodes=...)` takes them.

        Returns
        -------
        Episode or list of Episode

        Raises
        ------
        IndexError
            For an episode past either end.
        TypeError
            For what is none of these.
        OptionError, UnknownName
            As `Store.check_episodes` does, for several.
        """
        if isinstance(episode, slice):
            return [self._one(number) for number in range(len(self))[episode]]
        if isinstance(episode, Iterable) and not isinstance(episode, (str, bytes)) and getattr(episode, "ndim", 1) != 0:
            return [self._one(number) for number in self.numbers(episode).tolist()]
        given = number = one_number("episode", episode)
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(f"episode {given} of {len(self)}")
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

    def numbers(self, given: Any) -> Int64:
        """Return episode numbers as int64; see `Store.check_episodes`."""
        if isinstance(given, Episode):
            given = [given]
        if (
            isinstance(given, Iterable)
            and not isinstance(given, (str, bytes, range))
            and not hasattr(given, "__array__")
        ):
            given = [self._number_of(each) if isinstance(each, Episode) else each for each in given]
        return whole_numbers("episode", given, len(self))

    def _number_of(self, episode: Episode) -> int:
        own = self[episode.episode] if episode.episode < len(self) else None
        if own != episode:
            raise OptionError(
                "this episode is of another store",
                expected=f"one of the {counted(len(self), 'episode')} of {self._store.url}",
                found=f"{episode.suite}/{episode.file}, demonstration {episode.number}, as episode {episode.episode}",
            )
        return episode.episode

    def to_pandas(self) -> pandas.DataFrame:
        """Return a table with a row for each episode and a column for each attribute of `Episode`.

        Returns
        -------
        pandas.DataFrame
            `suite`, `task`, `file` and `text` are categories, `success` is a boolean that may be missing, the others are int64.

        Raises
        ------
        MachineError
            Where pandas is not installed.
        StoreDamaged, FetchError
            Where the store is read.

        Notes
        -----
        `pandas.DataFrame(list(store.episodes))` gives the same values in columns of Python's types.
        """
        try:
            import pandas
        except ImportError:
            raise MachineError("a table needs pandas, which is not installed here", hint="pip install pandas") from None
        listed = list(self)
        columns = {
            each.name: [getattr(episode, each.name) for episode in listed] for each in dataclasses.fields(Episode)
        }
        return pandas.DataFrame(
            {name: pandas.Series(values, dtype=_DTYPES.get(name, "int64")) for name, values in columns.items()}
        )

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
