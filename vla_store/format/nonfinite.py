"""Numbers that are not finite (NaN, or an infinity of either sign): counted per field and episode, beside the data that has them.

A part has the array `episodes/nonfinite` only where there are any, with four columns for each field that has some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.text import counted as with_noun

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

SUFFIXES = ("_nan", "_infinite", "_steps", "_first")


class Tally(NamedTuple):
    """Counts of one field in (some steps of) one episode: numbers that are NaN and infinite, steps that have any, the first of these."""

    episode: int
    nan: int
    infinite: int
    steps: int
    first: int

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The values of the four columns."""
        return self[1:]


class NonFinite(NamedTuple):
    """All that is not finite in a field. nan, infinite: numbers; steps, episodes: that have any.

    row, episode, step: the first, as the store numbers them; suite, file, demo: where it comes from.
    """

    field: str
    nan: int
    infinite: int
    steps: int
    episodes: int
    row: int
    episode: int
    step: int
    suite: str
    file: str
    demo: str

    @property
    def text(self) -> str:
        """For people, in one line."""
        return (
            f"{self.field} is not all finite numbers: {counts_text(self.nan, self.infinite)} in {with_noun(self.steps, 'step')} of "
            f"{with_noun(self.episodes, 'episode')}, first in {self.suite}/{self.file} {self.demo}, step {self.step}"
        )

    def to_json(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def of(cls, field: str, tallies: Sequence[Tally], row: int, **where: Any) -> NonFinite:
        """Return what these tallies say together. row: that of the first; where: suite, file and demo of its episode."""
        totals = {name: sum(getattr(each, name) for each in tallies) for name in ("nan", "infinite", "steps")}
        first = tallies[0]
        return cls(field, **totals, episodes=len(tallies), row=row, episode=first.episode, step=first.first, **where)


def counts_text(nan: int, infinite: int) -> str:
    """(3, 1) -> "3 NaN, 1 infinite"."""
    return ", ".join(f"{count:,} {what}" for count, what in ((nan, "NaN"), (infinite, "infinite")) if count)


def counted(rows: Array) -> Int64:
    """Count the numbers of each of (n, ...) rows that are NaN, and that are infinite: (n, 2)."""
    made = np.zeros((len(rows), 2), np.int64)
    if rows.dtype.kind == "f":
        flat = rows.reshape(len(rows), -1)
        if not np.isfinite(flat).all():
            made[:, 0], made[:, 1] = np.isnan(flat).sum(axis=1), np.isinf(flat).sum(axis=1)
    return made


def tallied(episode: int, counts: Int64, start: int = 0) -> tuple[Tally, ...]:
    """Return the tally of steps [start, start + n) of an episode, by what `counted` gave; none where all numbers are finite."""
    bad = np.flatnonzero(counts.any(axis=1))
    if not len(bad):
        return ()
    nan, infinite = counts.sum(axis=0).tolist()
    return (Tally(episode, nan, infinite, len(bad), start + int(bad[0])),)


def together(tallies: Iterable[Tally]) -> tuple[Tally, ...]:
    """Return one tally for each episode, ascending, of tallies of steps that do not overlap."""
    made: dict[int, Tally] = {}
    for episode, nan, infinite, steps, first in tallies:
        other = made.get(episode, Tally(episode, 0, 0, 0, first))
        counts = other.nan + nan, other.infinite + infinite, other.steps + steps
        made[episode] = Tally(episode, *counts, min(first, other.first))
    return tuple(made[episode] for episode in sorted(made))


def columns_of(fields: Iterable[str]) -> list[str]:
    """Return the columns of the array for these fields."""
    return [f"{name}{suffix}" for name in sorted(fields) for suffix in SUFFIXES]


def table_of(tallies: Mapping[str, Sequence[Tally]], episodes: int) -> Int64:
    """Return the array of a part of so many episodes: (episodes, 4 x fields) int64. tallies: of every field that has any."""
    made = np.tile(np.array([0, 0, 0, -1], np.int64), (episodes, len(tallies)))
    for number, name in enumerate(sorted(tallies)):
        for each in tallies[name]:
            made[each.episode, 4 * number : 4 * number + 4] = each.numbers
    return made


def tallies_in(table: Int64, fields: Sequence[str]) -> dict[str, tuple[Tally, ...]]:
    """Return the tallies that `table_of` made a table of. Raises ValueError for numbers that cannot be counts."""
    made = {}
    for number, name in enumerate(fields):
        columns = table[:, 4 * number : 4 * number + 4]
        bad = np.flatnonzero(columns[:, 2])
        if (columns[:, :3] < 0).any() or (columns[bad, 3] < 0).any() or not len(bad):
            raise ValueError(f"counts of {name}")
        made[name] = tuple(Tally(episode, *columns[episode].tolist()) for episode in bad.tolist())
    return made
