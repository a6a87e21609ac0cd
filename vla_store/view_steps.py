"""From a view's rule to the rows of a store that it keeps, and what that leaves of every task.

Reads parts through `reader`; imports `view_rules` and `format` besides. Whoever writes views (`manage`) or checks them (`audit`)
computes them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, VlaStoreError
from vla_store.format.views import Runs, TaskCount, View, joined, overlaps, rows_in_each, runs_of
from vla_store.reader.whole import WholePart
from vla_store.view_rules import EpisodeFacts, NewView, Rule


def computed_view(new: NewView, parts: Sequence[WholePart]) -> View:
    """Return a view with all that its rule keeps in these parts.

    Parameters
    ----------
    new
        The view to compute.
    parts
        All parts of the store, in order.

    Returns
    -------
    View
        It covers all rows of these parts.

    Raises
    ------
    OptionError
        The rule cannot be applied; the message says to which episode.
    StoreDamaged
        What the rule looks at cannot be read.
    """
    covered = np.array([[0, sum(whole.part.rows for whole in parts)]], np.int64)
    kept = joined(np.concatenate([kept_in(new.rule, each, covered) for each in parts]))
    counts = counts_of(covered, kept, parts)
    rule = new.rule
    return View(new.name, new.kind or rule.kinds[0], rule.name, rule.options, rule.description, covered, kept, counts)


def kept_in(rule: Rule, whole: WholePart, among: Runs) -> Runs:
    """Return the rows of the store that a rule keeps of the episodes of a part that have rows in `among`.

    Parameters
    ----------
    rule
        Called with each of these episodes whole.
    whole
        The part.
    among
        (n, 2) int64, half-open runs of the store's rows, ascending; only rows in these are returned.

    Returns
    -------
    ndarray
        (m, 2) int64, half-open runs of the store's rows, ascending.

    Raises
    ------
    OptionError
        The rule cannot be applied; the message says to which episode.
    StoreDamaged
        What the rule looks at cannot be read.
    """
    rows = whole.spans + whole.part.row_start
    asked = np.flatnonzero(rows_in_each(rows, among)).tolist()
    pieces = [np.zeros((0, 2), np.int64)]
    for episode, facts in zip(asked, _facts(rule, whole, asked)):
        try:
            pieces.append(runs_of(rule.keeps(facts), int(rows[episode, 0])))
        except VlaStoreError as error:
            raise error.at(rule=rule.name, **_where(whole, episode)) from None
        except Exception as error:
            raise OptionError(
                "a rule failed on an episode",
                rule=rule.name,
                **_where(whole, episode),
                found=f"{type(error).__name__}: {error}",
            ) from error
    return overlaps(among, joined(np.concatenate(pieces)))[0]


def counts_of(covered: Runs, kept: Runs, parts: Sequence[WholePart]) -> tuple[TaskCount, ...]:
    """Count, for each task, how many episodes and steps are covered, and how many are kept.

    Parameters
    ----------
    covered, kept
        (n, 2) int64, half-open runs of the store's rows, ascending.
    parts
        All parts of the store, in order.

    Returns
    -------
    tuple of TaskCount
        By suite and name; tasks of which nothing is covered are left out.
    """
    totals: dict[tuple[str, str], npt.NDArray[np.int64]] = {}
    for whole in parts:
        steps, kept_steps = (rows_in_each(whole.spans + whole.part.row_start, runs) for runs in (covered, kept))
        for number, task in enumerate(whole.document.tasks):
            mine = whole.column("task") == number
            told, left = steps[mine], kept_steps[mine]
            if told.any():
                counts = np.array([(told > 0).sum(), told.sum(), (left > 0).sum(), left.sum()], np.int64)
                totals[task.suite, task.name] = totals.get((task.suite, task.name), 0) + counts
    order = sorted(totals, key=lambda key: (key[0].encode(), key[1].encode()))
    return tuple(TaskCount(*key, *totals[key].tolist()) for key in order)


def _facts(rule: Rule, whole: WholePart, episodes: Sequence[int]) -> Iterator[EpisodeFacts]:
    fields = rule.looks_at(whole.document)
    if rule.if_finite:
        masks = {each.name: (whole.nonfinite(each) == 0).all(axis=1) for each in fields}
        values = {name: [mask[start:stop] for start, stop in whole.spans.tolist()] for name, mask in masks.items()}
    else:
        values = {each.name: whole.by_episode(each) for each in fields}
    seen = [each.name for each in fields if each.role == "observation"]
    digests = whole.part.digests.span(0, whole.part.episodes)
    for episode in episodes:
        is_after = whole.document.sources[whole.column("source")[episode]].observation == "after"
        yield EpisodeFacts(
            int(whole.column("length")[episode]),
            int(whole.column("success")[episode]),
            digests[episode].tobytes(),
            {name: each[episode] for name, each in values.items()},
            seen if is_after else (),
        )


def _where(whole: WholePart, episode: int) -> dict[str, Any]:
    source = whole.document.sources[whole.column("source")[episode]]
    return {
        "episode": whole.part.episode_start + episode,
        "file": f"{source.suite}/{source.file}",
        "number": int(whole.column("number")[episode]),
    }
