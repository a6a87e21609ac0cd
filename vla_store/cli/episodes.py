"""`episodes` and `tasks`: lists of what a store holds, to find an episode in."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shlex

from vla_store.cli.options import READING, argument, command, flag, group, how_to_read, view
from vla_store.cli.printing import print_array, print_lines
from vla_store.look.episodes import EpisodeFilter, matching, nothing_found
from vla_store.look.listing import episode_lines, show_command, task_lines, tasks_json
from vla_store.reader import open_store

CHOICE = group(
    argument(
        "--task",
        action="append",
        metavar="TEXT",
        help="words of the task or the instruction that begin so, all of them, in any order (may be repeated: one of them fits)",
    ),
    argument("--suite", action="append", metavar="NAME", help="only this suite (may be repeated)"),
    view("only those of which this view keeps a step"),
)


@command(
    "episodes",
    "list the episodes of a store, or those that are looked for",
    "vla-store episodes libero.vla --task bowl --success yes",
    CHOICE,
    argument("--success", choices=("yes", "no"), help="only those that succeeded, or did not"),
    argument("--shortest", type=int, metavar="N", help="of at least N steps"),
    argument("--longest", type=int, metavar="N", help="of at most N steps"),
    flag("--files", "with the source of each, below it: suite/file/demonstration"),
    READING,
)
def episodes(arguments: argparse.Namespace) -> int:
    store = open_store(arguments.store, **how_to_read(arguments))
    success = None if arguments.success is None else arguments.success == "yes"
    wanted = EpisodeFilter(
        text=arguments.task,
        suite=arguments.suite,
        success=success,
        shortest=arguments.shortest,
        longest=arguments.longest,
        view=arguments.view,
    )
    found = matching(store, wanted)
    first = next(found, None)
    if first is None:
        raise nothing_found(store, wanted)
    several = itertools.chain([first], found)
    if arguments.json:
        return print_array(dataclasses.asdict(each) for each in several)
    print_lines(episode_lines(store, several, files=arguments.files))
    return print_lines([f"see one: {show_command(arguments.store, first.episode)}"])


@command(
    "tasks",
    "list the tasks of a store, with their episodes",
    "vla-store tasks libero.vla --task bowl",
    CHOICE,
    READING,
)
def tasks(arguments: argparse.Namespace) -> int:
    store = open_store(arguments.store, **how_to_read(arguments))
    wanted = EpisodeFilter(text=arguments.task, suite=arguments.suite, view=arguments.view)
    listed = tasks_json(store)
    if wanted != EpisodeFilter():
        listed = [each for each in tasks_json(store, matching(store, wanted)) if each["episodes"]]
        if not listed:
            raise nothing_found(store, wanted)
    if arguments.json:
        return print_array(listed)
    print_lines(task_lines(listed))
    return print_lines([f'those of one: vla-store episodes {shlex.quote(arguments.store)} --task "SOME WORDS"'])
