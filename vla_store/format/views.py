"""The document of views: named choices of a store's rows, which live beside the arrays and never change them.

A view keeps some rows of those it *covers*. kind "anchors": which steps may be sampled; windows around them see every step.
kind "steps": which steps exist; windows go over these alone. Rows are written as run lengths, left out and kept in turn, so that
a view of a million steps takes a few bytes a run. Imports only `format` and `errors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, StoreDamaged, UnsupportedStore
from vla_store.format import canonical, layout
from vla_store.format.json_reader import JsonReader
from vla_store.text import counted

ANCHORS = "anchors"
STEPS = "steps"
KINDS = (ANCHORS, STEPS)
MAX_VIEWS = 256
WHAT = "the views are not as the format says"

Int64 = npt.NDArray[np.int64]
Runs = npt.NDArray[np.int64]  # (n, 2): half-open runs of rows, ascending, none touching the next
Options = Mapping[str, Any]  # numbers are integers, or text where they have a fraction

# What can be done about a document that is lost, and about one that is as its writer meant it.
_LOST = (
    "samples that name no view are not touched. `vla-store repair STORE --from SOURCE` makes views again where the store tells "
    "enough of them; else `vla-store views remove STORE --all` drops them, and `views add` makes new ones"
)
_WRITTEN_SO = (
    "samples that name no view are not touched. If a newer vla_store wrote these views, upgrade; else "
    "`vla-store views remove STORE --all` drops them, and `views add` makes new ones"
)

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}\Z")
_COUNT_KEYS = ("episodes", "steps", "kept_episodes", "kept_steps")
_VIEW_KEYS = ("counts", "covered", "description", "kept", "kind", "options", "rule")


@dataclass(frozen=True)
class TaskCount:
    """Counts of one task in a view.

    Attributes
    ----------
    suite
        Name of its suite.
    task
        Name of the task.
    episodes
        Episodes that the view covers.
    steps
        Steps that it covers.
    kept_episodes
        Those of the episodes of which it keeps something.
    kept_steps
        Those of the steps that it keeps.
    """

    suite: str
    task: str
    episodes: int
    steps: int
    kept_episodes: int
    kept_steps: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class View:
    """A view of a store.

    Attributes
    ----------
    name
        Its name: 1 to 64 of A-Z a-z 0-9 _ - . and no dot in front.
    kind
        "anchors" (which steps may be sampled) or "steps" (which steps exist for windows).
    rule
        Name of the rule that it was made by. "predicate" is a function of the user's, which `description` tells of and
        nothing can compute again.
    options
        Options of the rule; numbers are integers, or text where they have a fraction.
    description
        What the rule does, for people.
    covered
        (n, 2) int64 half-open runs of the store's rows that the view decides about, ascending.
    kept
        (n, 2) int64 half-open runs of the rows that it keeps, ascending; rows that are not covered are not kept.
    counts
        Episodes and steps of each task among the covered rows, and how many of them are kept.
    """

    name: str
    kind: str
    rule: str
    options: Options
    description: str
    covered: Runs
    kept: Runs
    counts: tuple[TaskCount, ...]

    @property
    def steps(self) -> int:
        """The number of steps it keeps."""
        return rows_in(self.kept)

    @property
    def covered_steps(self) -> int:
        """The number of steps it covers."""
        return rows_in(self.covered)

    def check_known(self) -> None:
        """Refuse a kind of a newer version.

        Raises
        ------
        UnsupportedStore
            For a kind that this version does not know.
        """
        if self.kind not in KINDS:
            raise UnsupportedStore(
                f"view {self.name!r} is of a kind {self.kind!r} that this version does not know",
                hint="upgrade vla_store, or use another view",
            )

    def is_made_as(self, other: View) -> bool:
        """Return whether another view was made in the same way, over whatever rows.

        Parameters
        ----------
        other
            The other view.

        Returns
        -------
        bool
            True where kind, rule, options and description are the same.
        """
        return all(getattr(self, key) == getattr(other, key) for key in ("kind", "rule", "options", "description"))

    def is_same(self, other: View) -> bool:
        """Return whether another view is made in the same way, and covers and keeps the same rows.

        Parameters
        ----------
        other
            The other view.

        Returns
        -------
        bool
        """
        runs = ((getattr(self, name), getattr(other, name)) for name in ("covered", "kept"))
        return self.name == other.name and self.is_made_as(other) and all(np.array_equal(*each) for each in runs)

    def __repr__(self) -> str:
        return f"View({self.name!r}, {self.text}: {self.steps:,} of {counted(self.covered_steps, 'step')})"

    @property
    def text(self) -> str:
        """Kind and rule, for people."""
        options = ", ".join(f"{key}={_shown(value)}" for key, value in sorted(self.options.items()))
        return f"{self.kind}: {self.rule}{f'({options})' if options else ''}"

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": [each.to_json() for each in self.counts],
            "covered": run_lengths(self.covered),
            "description": self.description,
            "kept": run_lengths(self.kept),
            "kind": self.kind,
            "options": dict(self.options),
            "rule": self.rule,
        }


Views = Mapping[str, View]


def check_view_name(name: str) -> str:
    """Return the name, if a view can have it. Raises OptionError."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise OptionError(
            "a view cannot have this name",
            found=repr(name)[:100],
            expected="1 to 64 of A-Z a-z 0-9 _ - . and no dot in front",
        )
    return name


def document_of(views: Views) -> dict[str, Any] | None:
    """Return the document that a root names for these views.

    Parameters
    ----------
    views
        {name: View}.

    Returns
    -------
    dict or None
        Values that JSON can hold; None where there are no views.

    Raises
    ------
    OptionError
        There are more than 256 views.
    """
    if len(views) > MAX_VIEWS:
        raise OptionError("too many views for one store", expected=f"at most {MAX_VIEWS}", found=len(views))
    return {"views": {name: each.to_json() for name, each in views.items()}} if views else None


def views_of(data: bytes | None, digest: str, rows: int) -> dict[str, View]:
    """Return the views in the bytes of the document that a root names.

    Parameters
    ----------
    data
        Bytes of the document; None where there is no such object.
    digest
        SHA-256 that the root names it by, as hexadecimal digits.
    rows
        Number of rows that the root has.

    Returns
    -------
    dict of str to View
        By name, in the order of the names.

    Raises
    ------
    StoreDamaged
        The document is missing, changed, or not as the format says; the message says what is left and what to do.
    """
    key = layout.meta_key(digest)
    if data is None:
        raise StoreDamaged("the document of the views is missing", object=key, hint=_LOST)
    if (found := canonical.sha256_hex(data)) != digest:
        raise StoreDamaged(
            "the document of the views has changed, or is cut short",
            object=key,
            found=f"{len(data):,} bytes with the sha256 {found}",
            hint=_LOST,
        )
    try:
        read = JsonReader(canonical.loads(data, key), key, WHAT, _WRITTEN_SO)
    except StoreDamaged as error:
        raise StoreDamaged(WHAT, object=key, found=error.places.get("found"), hint=_WRITTEN_SO) from None
    read.only(["views"])
    views = read.get("views", dict)
    read.check(0 < len(views) <= MAX_VIEWS, f"1 to {MAX_VIEWS} views", len(views))
    return {name: _view(name, JsonReader(views[name], key, WHAT, _WRITTEN_SO), rows) for name in sorted(views)}


# Runs


def rows_in(runs: Runs) -> int:
    """Return the number of rows in these runs."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def rows_in_each(spans: Runs, runs: Runs) -> Int64:
    """Return the number of rows of each of (n, 2) spans, which may touch, that lie in these runs: (n,)."""
    found, at = overlaps(spans, runs)
    return np.bincount(at, weights=found[:, 1] - found[:, 0], minlength=len(spans)).astype(np.int64)


def runs_of(mask: npt.NDArray[np.bool_], start: int = 0) -> Runs:
    """Return the runs of a mask.

    Parameters
    ----------
    mask
        (rows,) bool.
    start
        Row of the mask's first entry; default 0.

    Returns
    -------
    ndarray
        (n, 2) int64, half-open runs of the rows that are true, ascending, none touching the next.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).view(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64) + start


def mask_of(runs: Runs, rows: int) -> npt.NDArray[np.bool_]:
    """Return the mask of runs.

    Parameters
    ----------
    runs
        (n, 2) int64, half-open runs of rows.
    rows
        Length of the mask.

    Returns
    -------
    ndarray
        (rows,) bool, true in these runs.
    """
    mask = np.zeros(rows, bool)
    for start, stop in runs.tolist():
        mask[start:stop] = True
    return mask


def united(several: Sequence[Runs]) -> Runs:
    """Return several sets of runs as one.

    Parameters
    ----------
    several
        At least one (n, 2) int64 array of half-open runs; none of all these runs overlap.

    Returns
    -------
    ndarray
        (m, 2) int64, ascending; runs that touch are joined, and empty ones left out.
    """
    runs = np.concatenate(several)
    return joined(runs[np.argsort(runs[:, 0], kind="stable")])


def without(runs: Runs, taken: Runs) -> Runs:
    """Return what of some runs lies in none of the others.

    Parameters
    ----------
    runs
        (n, 2) int64, half-open runs of rows, ascending.
    taken
        (m, 2) int64, the runs to take out, ascending.

    Returns
    -------
    ndarray
        (k, 2) int64, ascending.
    """
    if not len(runs):
        return runs
    edges = np.concatenate([[runs[0, 0]], taken.reshape(-1), [max(runs[-1, 1], taken[-1, 1] if len(taken) else 0)]])
    gaps = edges.reshape(-1, 2)
    return joined(overlaps(runs, gaps[gaps[:, 0] < gaps[:, 1]])[0])


def joined(runs: Runs) -> Runs:
    """Return ascending runs, those that touch made one, and empty ones left out."""
    some = runs[runs[:, 0] < runs[:, 1]]
    begins = np.ones(len(some), bool)
    begins[1:] = some[1:, 0] != some[:-1, 1]
    return np.stack([some[begins, 0], some[np.append(begins[1:], True), 1]], axis=1) if len(some) else some


def overlaps(one: Runs, other: Runs) -> tuple[Runs, Int64]:
    """Return the runs of rows that are in both, (n, 2), and which of `one` each lies in, (n,). Those of `one` may touch."""
    first = np.searchsorted(other[:, 1], one[:, 0], side="right")
    counts = np.maximum(np.searchsorted(other[:, 0], one[:, 1], side="left") - first, 0)
    at = np.repeat(np.arange(len(one)), counts)
    those = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts) + first[at]
    found = np.stack([np.maximum(one[at, 0], other[those, 0]), np.minimum(one[at, 1], other[those, 1])], axis=1)
    return found.astype(np.int64), at.astype(np.int64)


def run_lengths(runs: Runs) -> list[int]:
    """Return the numbers of rows left out and rows kept, in turn, up to the last row kept."""
    return [int(each) for each in np.diff(runs.reshape(-1), prepend=0)]


def from_run_lengths(lengths: Any, rows: int) -> Runs:
    """Return the runs that `run_lengths` made such a list of, in a store of so many rows. Raises ValueError."""
    if not isinstance(lengths, list) or len(lengths) % 2 or any(type(each) is not int for each in lengths):
        raise ValueError("run lengths are an even number of integers")
    made = np.array(lengths, np.int64)
    if (made[1:] < 1).any() or (made[:1] < 0).any():
        raise ValueError("run lengths are at least 1, and the first at least 0")
    if made.astype(np.float64).sum() > rows:  # as floats, because sums of what a document claims may wrap around
        raise ValueError(f"run lengths go beyond the {rows} rows there are")
    ends: Int64 = np.cumsum(made)
    return ends.reshape(-1, 2)


# Reading


def _view(name: str, read: JsonReader, rows: int) -> View:
    read.check(bool(_NAME.match(name)), "a name that a view can have", repr(name))
    read.only(_VIEW_KEYS)
    try:
        covered, kept = (from_run_lengths(read.value[each], rows) for each in ("covered", "kept"))
    except ValueError as error:
        read.check(False, f"view {name!r}: rows of the store", str(error))
    read.check(
        rows_in(overlaps(covered, kept)[0]) == rows_in(kept), f"view {name!r}: it covers what it keeps", "others"
    )
    counts = tuple(_count(each) for each in read.objects("counts"))
    read.check(len({(each.suite, each.task) for each in counts}) == len(counts), f"view {name!r}: a task once", "twice")
    told = (sum(each.steps for each in counts), sum(each.kept_steps for each in counts))
    read.check(told == (rows_in(covered), rows_in(kept)), f"view {name!r}: the counts of its rows", told)
    kind, rule, options = read.get("kind", str), read.get("rule", str), read.get("options", dict)
    return View(name, kind, rule, options, read.get("description", str), covered, kept, counts)


def _count(read: JsonReader) -> TaskCount:
    read.only(("suite", "task", *_COUNT_KEYS))
    numbers = [read.count(key, canonical.MAX_INTEGER) for key in _COUNT_KEYS]
    episodes, steps, kept_episodes, kept_steps = numbers
    fits = 0 < episodes <= steps and kept_episodes <= min(episodes, kept_steps) and kept_steps <= steps
    read.check(fits and (kept_episodes == 0) == (kept_steps == 0), "counts that do not contradict each other", numbers)
    return TaskCount(read.get("suite", str), read.get("task", str), *numbers)


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
