"""The episodes that a page lists, by task, and the strips of pictures beside few of them."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla_store.look.cameras import camera_names
from vla_store.look.pictures import Pictures, shrunk, to_rgb, value_range
from vla_store.look.steps import spread_steps
from vla_store.reader import Samples, Store
from vla_store.reader.values import Episode

# A list of LIBERO's 6,500 demonstrations takes 1.3 MB; more is left to `vla-store episodes`.
MAX_NBYTES = 1_500_000
ROW_NBYTES = (
    170  # of HTML, about: a row of the list without the names and texts in it; ahead of each task's: as much again
)
MAX_STRIPS = 50
STRIP_STEPS = 6
STRIP_SIDE = 64
STRIP_GAP = 2


@dataclass(frozen=True)
class ListedTask:
    """Episodes of one task. file, text: of them all, "" where they differ, so that each row says its own."""

    suite: str
    task: str
    file: str
    text: str
    episodes: tuple[Episode, ...]


def listed_tasks(store: Store, name: str) -> tuple[ListedTask, ...]:
    """Return as many of the first episodes as the list has room for. name: the store's, which every row says."""
    tasks: dict[tuple[str, str], list[Episode]] = {}
    room = MAX_NBYTES
    for each in store.episodes:
        group = tasks.get((each.suite, each.task), [])
        room -= ROW_NBYTES + _nbytes(shlex.quote(name))
        if not group:
            room -= ROW_NBYTES + _nbytes(each.suite + each.file + each.text)
        if group and (each.file, each.text) != (group[0].file, group[0].text):
            room -= _nbytes(each.file + each.text)
        if room < 0:
            break
        tasks.setdefault((each.suite, each.task), group).append(each)
    return tuple(_listed(*names, episodes) for names, episodes in tasks.items())


def strips(store: Store) -> Iterator[Pictures]:
    """Yield for each episode pictures of its first camera from start to end, side by side; none where episodes are many."""
    cameras = camera_names(store)
    if not cameras or len(store.episodes) > MAX_STRIPS:
        return
    for episode in store.episodes:
        rows = [episode.start + step for step in spread_steps(episode.length, STRIP_STEPS)]
        frames = Samples(store, windows={cameras[0]: 0}, rows=rows, images="upright").batch(range(len(rows)))[
            cameras[0]
        ]
        pictures = [shrunk(each, STRIP_SIDE) for each in to_rgb(frames, value_range(frames))]
        apart = [np.pad(each, ((0, 0), (0, STRIP_GAP), (0, 0)), constant_values=255) for each in pictures]
        yield np.concatenate(apart, axis=1)[:, :-STRIP_GAP]


def _listed(suite: str, task: str, episodes: list[Episode]) -> ListedTask:
    files, texts = {each.file for each in episodes}, {each.text for each in episodes}
    file, text = (each.pop() if len(each) == 1 else "" for each in (files, texts))
    return ListedTask(suite, task, file, text, tuple(episodes))


def _nbytes(text: str) -> int:
    return len(html.escape(text).encode("utf-8", "replace"))
