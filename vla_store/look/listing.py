"""Lists of a store's episodes and tasks: values for programs, and lines of a bounded width for people.

Lines are made as they are asked for: of a hundred thousand episodes none is held.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vla_store.format.digests import episode_name
from vla_store.reader import Store
from vla_store.reader.values import Episode
from vla_store.text import WIDTH, counted, cut, shown


def source_of(episode: Episode) -> str:
    """Return where an episode comes from, as `vla-store show --episode` takes it: "suite/file/demo_3"."""
    return f"{episode.suite}/{episode.file}/{episode_name(episode.number)}"


def show_command(name: str, episode: int) -> str:
    """Return the command that draws an episode of the store of this name, for a shell in the folder where it lies."""
    return f"vla-store show {shlex.quote(name)} --episode {episode} -o episode.png"


def episode_lines(store: Store, episodes: Iterable[Episode], *, files: bool = False) -> Iterator[str]:
    """Yield a table of episodes, line by line, under the names of their suites, and how many they are.

    files: with a line for where each comes from, which is not cut.
    """
    numbers, lengths = str(len(store.episodes) - 1), f"{int(np.max(store.episodes.lengths)):,}"
    table = _Table(["episode", "steps", "success"], [numbers, lengths, ""], store.suites)
    yield table.head
    count = steps = 0
    for each in episodes:
        cells = [str(each.episode), f"{each.length:,}", _yes(each.success)]
        yield from table.lines(each.suite, cells, each.text or each.task)
        if files:
            yield f"{'':{table.widths[0]}}  {shown(source_of(each))}"
        count, steps = count + 1, steps + each.length
    yield ""
    yield f"{_count_of(count, len(store.episodes), 'episode')}, {counted(steps, 'step')}"


def _count_of(count: int, whole: int, what: str) -> str:
    return counted(count, what) if count == whole else f"{count:,} of {counted(whole, what)}"


class _Table:
    """Lines of right-aligned cells and a task, cut to the width of a terminal; a line above those of another suite.

    longest: a cell of each column that is as wide as any. suites: all there are; of one nothing is said.
    """

    def __init__(self, head: Sequence[str], longest: Sequence[str], suites: Sequence[str]) -> None:
        self.widths = [max(map(len, pair)) for pair in zip(head, longest, strict=True)]
        self._rest = WIDTH - sum(self.widths) - 2 * len(self.widths)
        self.head = self._line(head, "task")
        self._suite = suites[0] if len(suites) == 1 else None

    def lines(self, suite: str, cells: Sequence[str], task: str) -> Iterator[str]:
        if suite != self._suite:
            self._suite = suite
            yield cut(f"{shown(suite)}:", WIDTH)
        yield self._line(cells, cut(shown(task), self._rest))

    def _line(self, cells: Sequence[str], task: str) -> str:
        return "  ".join([*(cell.rjust(width) for cell, width in zip(cells, self.widths)), task])


def _failed(task: dict[str, Any]) -> str:
    return f"{task['failed']:,}" if task["failed"] or task["succeeded"] else "-"


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def tasks_json(store: Store, episodes: Iterable[Episode] | None = None) -> list[dict[str, Any]]:
    """Return every task with what it has of episodes, all by default, for programs. succeeded: of how many that is known; failed: alike."""
    made = {
        (task.suite, task.name): {
            "episodes": 0,
            "failed": 0,
            "instruction": task.instruction,
            "longest": None,
            "name": task.name,
            "shortest": None,
            "steps": 0,
            "succeeded": 0,
            "suite": task.suite,
            "text": task.text,
            "texts": list(task.texts),
        }
        for task in store.tasks
    }
    for episode in store.episodes if episodes is None else episodes:
        each: dict[str, Any] = made[episode.suite, episode.task]
        each["episodes"] += 1
        each["steps"] += episode.length
        each["succeeded"] += episode.success is True
        each["failed"] += episode.success is False
        each["longest"] = max(episode.length, each["longest"] or 0)
        each["shortest"] = min(episode.length, each["shortest"] or episode.length)
    return list(made.values())


def task_lines(tasks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of tasks, line by line, under the names of their suites, and how many they are. tasks: of `tasks_json`."""
    head = ["episodes", "steps", "failed"]
    rows = [[f"{each['episodes']:,}", f"{each['steps']:,}", _failed(each)] for each in tasks]
    table = _Table(head, [max(column, key=len) for column in zip(*rows)], sorted({each["suite"] for each in tasks}))
    yield table.head
    for each, cells in zip(tasks, rows):
        yield from table.lines(each["suite"], cells, each["text"] or each["name"])
    yield ""
    episodes = sum(each["episodes"] for each in tasks)
    yield f"{counted(len(tasks), 'task')}, {counted(episodes, 'episode')}"
