"""What every contender of benchmarks/reading.py has to read: the same samples in the same random order.

A sample: two cameras at offsets [-1, 0], robot_states at 0, actions at range(64), causal alignment; a batch: 64 of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader.store import Store

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

BATCH = 64
WINDOWS: dict[str, Any] = {
    "agentview_rgb": [-1, 0],
    "eye_in_hand_rgb": [-1, 0],
    "robot_states": 0,
    "actions": range(64),
}
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
ACTIONS = 64
READ = (*WINDOWS, *(f"{name}_is_pad" for name in WINDOWS))


@dataclass(frozen=True)
class Demo:
    """One episode in its source. length: its steps."""

    path: Path
    number: int
    start: int
    length: int


@dataclass(frozen=True)
class Units:
    """B anchors of one batch; all arrays are (B,), or (B, K)."""

    indices: Int64  # among the causal anchors of the store
    episode: Int64
    step: Int64
    length: Int64
    start: Int64
    frames: Int64  # (B, 2) steps of the pictures, within the episode
    actions: Int64  # (B, 64) steps of the actions
    pads: dict[str, Array]

    def __len__(self) -> int:
        return len(self.indices)

    def singly(self) -> list[Units]:
        """Each anchor as a batch of its own."""
        return [
            Units(
                *(
                    getattr(self, name)[at : at + 1]
                    for name in ("indices", "episode", "step", "length", "start", "frames", "actions")
                ),
                {name: pad[at : at + 1] for name, pad in self.pads.items()},
            )
            for at in range(len(self))
        ]

    @property
    def frame_rows(self) -> Int64:
        """(B, 2) rows of the store."""
        return self.frames + self.start[:, None]


@dataclass(frozen=True)
class Workload:
    """The batches of one pass."""

    demos: tuple[Demo, ...]
    batches: tuple[Units, ...]


def make_workload(store: Store, sources: Path, batches: int | None, seed: int = 0) -> Workload:
    """All full batches of one random order of the causal anchors, or the first `batches` of them."""
    demos, episode, step = _anchors(store, sources)
    order = np.random.default_rng(seed).permutation(len(step))
    count = max(1, len(order) // BATCH)
    made = [
        _units(order[at * BATCH : (at + 1) * BATCH], episode, step, demos) for at in range(min(count, batches or count))
    ]
    return Workload(demos, tuple(made))


def units_of(store: Store, sources: Path, indices: Int64) -> Units:
    """One batch of these causal anchors of the whole store."""
    demos, episode, step = _anchors(store, sources)
    return _units(indices, episode, step, demos)


def _anchors(store: Store, sources: Path) -> tuple[tuple[Demo, ...], Int64, Int64]:
    """The demos of a store, and episode and step of each causal anchor."""
    episodes = list(store.episodes)
    demos = tuple(Demo(sources / each.suite / each.file, each.number, each.start, each.length) for each in episodes)
    # Step 0 has no recorded observation and is no anchor.
    episode = np.concatenate([np.full(each.length - 1, at) for at, each in enumerate(episodes)])
    step = np.concatenate([np.arange(1, each.length) for each in episodes])
    return demos, episode, step


def _units(indices: Int64, episode: Int64, step: Int64, demos: tuple[Demo, ...]) -> Units:
    episode, step = episode[indices], step[indices]
    length = np.array([demos[at].length for at in episode])
    start = np.array([demos[at].start for at in episode])
    frames, frames_pad = _clipped(step[:, None] + np.array([-1, 0]) - 1, length)
    actions, actions_pad = _clipped(step[:, None] + np.arange(ACTIONS), length)
    pads = {f"{camera}_is_pad": frames_pad for camera in CAMERAS}
    pads |= {"robot_states_is_pad": np.zeros(len(step), bool), "actions_is_pad": actions_pad}
    return Units(indices, episode, step, length, start, frames, actions, pads)


def _clipped(times: Int64, length: Int64) -> tuple[Int64, Array]:
    inside = np.clip(times, 0, length[:, None] - 1)
    return inside, inside != times


def buffers(count: int, picture: tuple[int, ...]) -> dict[str, Array]:
    """The arrays of a batch of `count`, touched."""
    made: dict[str, Array] = {camera: np.ones((count, 2, *picture), np.uint8) for camera in CAMERAS}
    made["robot_states"] = np.ones((count, 9))
    made["actions"] = np.ones((count, ACTIONS, 7))
    made |= {f"{camera}_is_pad": np.ones((count, 2), bool) for camera in CAMERAS}
    made |= {"robot_states_is_pad": np.ones(count, bool), "actions_is_pad": np.ones((count, ACTIONS), bool)}
    return made


def digest(batch: Mapping[str, Any]) -> str:
    """sha256 over everything that was read of a batch."""
    total = hashlib.sha256()
    for name in READ:
        array = np.ascontiguousarray(batch[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.data.cast("B") if array.size else b"")
    return total.hexdigest()


def stacked(samples: list[dict[str, Any]]) -> dict[str, Array]:
    """Single samples as one batch."""
    return {name: np.stack([sample[name] for sample in samples]) for name in READ}
