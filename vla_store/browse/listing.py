"""Lists of episodes and tasks, as much of them as a page shows at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_store.browse.held import Held, Int64, TaskCount
from vla_store.browse.queries import Query
from vla_store.format.digests import episode_name
from vla_store.look.episodes import EpisodeFilter, filtered
from vla_store.reader.values import Episode
from vla_store.text import shown

MAX_LISTED = 500
MOST = 10**15 - 1
SUCCESS: dict[str, bool | None] = {"any": None, "yes": True, "no": False}


def episodes_json(held: Held, query: Query) -> dict[str, Any]:
    """Return a stretch of the episodes that a filter lets through, how many these are, and where one of them stands among them.

    Parameters: those of `_filter`; start, count; at, the number of an episode.
    """
    wanted, task = _filter(held, query)
    start = query.number("start", 0, MOST, 0)
    count = query.number("count", 1, MAX_LISTED, 100)
    at = query.optional_number("at", 0, len(held.store.episodes) - 1)
    query.finish()
    numbers = _numbers(held, wanted, task)
    total = len(held.store.episodes) if numbers is None else len(numbers)
    stop = min(start + count, total)
    listed = range(start, stop) if numbers is None else numbers[start:stop].tolist()
    return {
        "total": total,
        "start": start,
        "episodes": [episode_json(held.store.episodes[number]) for number in listed],
        "at": at if numbers is None or at is None else _place(numbers, at),
        **({} if at is None else _neighbours(numbers, at, total)),
    }


def tasks_json(held: Held, query: Query) -> dict[str, Any]:
    """Return a stretch of the tasks of which a filter lets episodes through, with the number of these.

    Parameters: those of `_filter`; start, count.
    """
    wanted, task = _filter(held, query)
    start = query.number("start", 0, MOST, 0)
    count = query.number("count", 1, MAX_LISTED, 100)
    query.finish()
    found = held.task_lists.get((wanted, task), lambda: _task_counts(held, wanted, task))
    stretch = found[start : start + count]
    return {"total": len(found), "start": start, "tasks": [_task_json(held, *each) for each in stretch]}


def episode_json(episode: Episode) -> dict[str, Any]:
    """Return what a line of the list says of an episode."""
    return {
        "episode": episode.episode,
        "text": shown(episode.text),
        "task": shown(episode.task),
        "suite": shown(episode.suite),
        "file": shown(episode.file),
        "demo": episode_name(episode.number),
        "steps": episode.length,
        "success": episode.success,
    }


def _filter(held: Held, query: Query) -> tuple[EpisodeFilter, int | None]:
    """Take the parameters of a filter: text, suite, success (any, yes, no), shortest, longest, view, and task, by its number among the
    store's tasks."""
    wanted = EpisodeFilter(
        text=query.text("text"),
        suite=query.text("suite"),
        success=SUCCESS[query.choice("success", list(SUCCESS), "any")],
        shortest=query.optional_number("shortest", 0, MOST),
        longest=query.optional_number("longest", 0, MOST),
        view=query.text("view"),
    )
    return wanted, query.optional_number("task", 0, len(held.store.tasks) - 1)


def _numbers(held: Held, wanted: EpisodeFilter, task: int | None) -> Int64 | None:
    """Return the numbers of the episodes that a filter lets through, ascending; None for all. Raises UnknownName, and what reading raises."""
    if wanted == EpisodeFilter() and task is None:
        return None  # the table need not be read
    return held.lists.get((wanted, task), lambda: _found(held, wanted, task))


def _found(held: Held, wanted: EpisodeFilter, task: int | None) -> Int64:
    named = None if task is None else held.store.tasks[task]
    return np.array(
        [
            each.episode
            for each in filtered(held.store, wanted, held.episodes)
            if named is None or (each.suite, each.task) == (named.suite, named.name)
        ],
        np.int64,
    )


def _task_counts(held: Held, wanted: EpisodeFilter, task: int | None) -> list[TaskCount]:
    """Return the number of each task, how many of its episodes are let through, and how many steps these have."""
    numbers = _numbers(held, wanted, task)
    known = held.episodes
    counts: dict[tuple[str, str], list[int]] = {}
    for each in known if numbers is None else [known[number] for number in numbers.tolist()]:
        count = counts.setdefault((each.suite, each.task), [0, 0])
        count[0] += 1
        count[1] += each.length
    tasks = enumerate((each.suite, each.name) for each in held.store.tasks)
    return [(number, counts[key][0], counts[key][1]) for number, key in tasks if key in counts]


def _task_json(held: Held, number: int, episodes: int, steps: int) -> dict[str, Any]:
    task = held.store.tasks[number]
    return {
        "task": number,
        "text": shown(task.text),
        "name": shown(task.name),
        "suite": shown(task.suite),
        "episodes": episodes,
        "steps": steps,
    }


def _place(numbers: Int64, episode: int) -> int | None:
    """Return where an episode stands among ascending numbers; None where it does not."""
    at = int(np.searchsorted(numbers, episode))
    return at if at < len(numbers) and numbers[at] == episode else None


def _neighbours(numbers: Int64 | None, episode: int, total: int) -> dict[str, int | None]:
    """Return the episodes before and after one in a list, also where it is not itself in it."""
    if numbers is None:
        return {"previous": episode - 1 if episode else None, "next": episode + 1 if episode + 1 < total else None}
    before, after = np.searchsorted(numbers, episode, "left"), np.searchsorted(numbers, episode, "right")
    return {
        "previous": int(numbers[before - 1]) if before else None,
        "next": int(numbers[after]) if after < total else None,
    }
