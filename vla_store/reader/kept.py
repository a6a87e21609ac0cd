"""What views keep, as the reader uses it: rows to take as anchors, and steps for windows to go over."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, several, warn
from vla_store.format.views import STEPS, Runs, View, joined, overlaps
from vla_store.reader.part import Part, Position, Positions
from vla_store.reader.store import Store
from vla_store.text import counted

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kept:
    """What one or more views keep together.

    anchors: rows of the store that may be sampled. steps: those that exist for windows; None where all do. lines: for people.
    """

    anchors: Runs
    steps: Runs | None
    lines: tuple[str, ...]

    def of(self, part: Part) -> KeptSteps | None:
        """Return the steps that exist for windows in one part."""
        return None if self.steps is None else KeptSteps(within(self.steps, part))


def view_of(store: Store, given: Any) -> View:
    """Return the view of a store that was given by its name, or as a View of this store.

    Raises UnknownName; OptionError for a View of another store, or one that was replaced since.
    """
    if not isinstance(given, (str, View)):
        named = getattr(given, "name", None)
        raise OptionError(
            "view is a name, or a View of the store",
            found=f"{repr(given)[:60]}, {type(given).__name__}",
            hint=f"view={named!r}, once the store has it" if isinstance(named, str) else "",
            views=", ".join(store.views) or "the store has none",
        )
    name = given.name if isinstance(given, View) else given
    view = store.views.get(name)
    if view is None:
        raise UnknownName.among("view", name, list(store.views), store=store.url)
    if isinstance(given, View) and not view.is_same(given):
        raise OptionError(
            f"this view {name!r} is not the one that the store has: it is of another store, or was replaced since",
            expected=repr(view),
            found=repr(given),
            hint=f"give its name, view={name!r}, or store.views[{name!r}] of this store",
        )
    return view


def kept_of(store: Store, names: Any) -> Kept:
    """Return what the views of these names keep together. Raises UnknownName, OptionError, UnsupportedStore."""
    views = [_named(store, each) for each in several(names)]
    if not views:
        raise OptionError("view names no view", hint="leave it out, or give a name or a list of names")
    partial = [each for each in views if each.covered_steps < store.rows]
    for each in partial:
        warn(
            f"view {each.name!r} tells of {each.covered_steps:,} of the store's {counted(store.rows, 'step')}; "
            "the others are left out"
        )
    anchors, steps = views[0].kept, None
    for each in views[1:]:
        anchors = joined(overlaps(anchors, each.kept)[0])
    for each in views:
        if each.kind == STEPS:
            steps = each.kept if steps is None else joined(overlaps(steps, each.kept)[0])
    lines = tuple(
        f"{each.name} ({each.text}; {each.steps:,} of {counted(each.covered_steps, 'step')}"
        f"{f', {store.rows - each.covered_steps:,} it does not tell of' if each in partial else ''})"
        for each in views
    )
    return Kept(anchors, steps, lines)


def inside(runs: Runs, rows: Int64) -> Bool:
    """Return which of (n,) rows lie in runs (m, 2)."""
    at = np.searchsorted(runs[:, 0], rows, side="right") - 1
    return (at >= 0) & (rows < runs[at, 1]) if len(runs) else np.zeros(len(rows), bool)


def within(runs: Runs, part: Part) -> Runs:
    """Those stretches of the store's rows that lie in a part, as its own numbers."""
    whole = np.array([[part.row_start, part.row_start + part.rows]], np.int64)
    return overlaps(whole, runs)[0] - part.row_start


class KeptSteps:
    """The steps of one part that exist for windows: from an anchor and offsets to the steps that are read.

    A step that is kept keeps what belongs to it: its action, and the observation made before it, wherever that was recorded.
    """

    def __init__(self, runs: Runs) -> None:
        self._starts, self._stops = runs[:, 0].copy(), runs[:, 1].copy()
        counts = self._stops - self._starts
        # How many steps are kept before each stretch; a rank is a step's number among all that are kept.
        self._ranks = np.cumsum(counts) - counts
        # For one position: a memoryview gives Python's numbers.
        self._views = self._starts.data, self._stops.data, self._ranks.data

    def times(self, positions: Positions, offsets: Int64, earlier: Int64 | None) -> tuple[Int64, Bool]:
        """Return the steps that windows take, within their episodes, and which of them are padding; both (B, K).

        positions: of B anchors that are kept. earlier: per anchor, 1 where its source recorded the field after the action of the
        same row; None where it is never read one row earlier.
        """
        ranks = self._ranks_of(positions)[:, :, None]
        return self._times(ranks, positions.start[:, None], offsets, 0 if earlier is None else earlier[:, None])

    def times_of_one(self, position: Position, offsets: Int64, earlier: int) -> tuple[Int64, Bool]:
        """Return what `times` does for one anchor, (K,), some ten times as fast."""
        _, step, start, length, _, _ = position
        ranks = self._rank(start), self._rank(start + step), self._rank(start + length)
        return self._times(ranks, start, offsets, earlier)

    def _times(self, ranks: Any, start: Any, offsets: Int64, shift: Any) -> tuple[Int64, Bool]:
        first, here, behind = ranks
        times = offsets + (here - first)
        last = behind - first - 1
        # What was recorded after the last kept step is of the time after it.
        clipped = np.minimum(np.maximum(times, 0), last + shift)
        kept = np.minimum(clipped, last)
        steps = self._row(kept + first) - (start + shift) + (clipped - kept)
        return np.maximum(steps, 0), (clipped != times) | (steps < 0)

    def counted(self, positions: Positions) -> tuple[Int64, Int64]:
        """Return the step and the length of the episode of (n,) positions, both counted in kept steps."""
        first, here, behind = self._ranks_of(positions)
        return here - first, behind - first

    def _ranks_of(self, positions: Positions) -> Int64:
        """Return the number of kept steps before the episode, the step, and what follows the episode, of (n,) positions: (3, n)."""
        start = positions.start
        rows = np.stack([start, start + positions.step, start + positions.length])
        at = np.searchsorted(self._starts, rows, side="right") - 1
        ranks = self._ranks[at] + np.minimum(rows, self._stops[at]) - self._starts[at]
        return np.where(at < 0, 0, ranks)

    def _rank(self, row: int) -> int:
        """Return the number of kept steps before a row."""
        starts, stops, ranks = self._views
        at = bisect.bisect_right(starts, row) - 1
        return int(ranks[at] + min(row, stops[at]) - starts[at]) if at >= 0 else 0

    def _row(self, ranks: Int64) -> Int64:
        at = np.searchsorted(self._ranks, ranks, side="right") - 1
        rows: Int64 = self._starts[at] + ranks - self._ranks[at]
        return rows


def _named(store: Store, given: Any) -> View:
    view = view_of(store, given)
    view.check_known()
    return view
