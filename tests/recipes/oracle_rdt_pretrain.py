"""What RDT's producer writes to its disk buffer of a step, from the rules in data/episode_transform.py and data/preprocess.py of
thu-ml/RoboticsDiffusionTransformer, commit deb71d8: loops over h5py's arrays, in NumPy.

It imports nothing of vla_store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from recipes import oracle_rdt

CHUNK, HISTORY = 64, 2
KEYS = (
    *("json_content", "step_id", "state_chunk", "state_chunk_time_mask", "action_chunk", "action_chunk_time_mask"),
    "state_vec_mask",
    *(f"past_frames_{number}{mask}" for number in range(4) for mask in ("", "_time_mask")),
    *("state_std", "state_mean", "state_norm"),
)


@dataclass
class Episode:
    """states (T, 128) and, where they are what is to be foreseen, actions; cameras: four, (T, H, W, 3) or None."""

    name: str
    text: str
    states: np.ndarray
    slots: list[int]
    cameras: list[np.ndarray | None]
    actions: np.ndarray | None = None
    action_slots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states = np.float32(self.states)
        self.actions = None if self.actions is None else np.float32(self.actions)

    def sample(self, t: int) -> dict[str, Any]:
        """The sample of step t, by name."""
        total = len(self.states)
        past = range(t - CHUNK + 1, t + 1)
        made: dict[str, Any] = {
            "json_content": {"dataset_name": self.name, "#steps": total - 1, "instruction": sentence(self.text)},
            "step_id": t,
            "state_chunk": np.stack([self.states[max(row, 0)] for row in past]),
            "state_chunk_time_mask": np.array([row >= 0 for row in past]),
        }
        if self.actions is None:
            foreseen, future = self.states, range(t + 1, t + 1 + CHUNK)
        else:
            foreseen, future = self.actions, range(t, t + CHUNK)
        made["action_chunk"] = np.stack([foreseen[min(row, total - 1)] for row in future])
        made["action_chunk_time_mask"] = np.array([row < total for row in future])
        made["state_vec_mask"] = np.zeros(128, np.float32)
        made["state_vec_mask"][self.slots if self.actions is None else self.action_slots] = 1
        rows = range(t - HISTORY + 1, t + 1)
        for number, frames in enumerate(self.cameras):
            made[f"past_frames_{number}"] = (
                np.zeros((HISTORY, 0, 0, 0), np.uint8)
                if frames is None
                else np.stack([frames[max(row, 0)] for row in rows])
            )
            made[f"past_frames_{number}_time_mask"] = np.array([row >= 0 for row in rows])
        states, foreseen = np.float64(self.states), np.float64(foreseen)
        made["state_std"] = np.float32(np.sqrt(np.mean((states - states.mean(0)) ** 2, axis=0)))
        made["state_mean"] = np.float32(states.mean(axis=0))
        made["state_norm"] = np.float32(np.sqrt(np.mean(foreseen**2, axis=0)))
        assert tuple(made) == KEYS
        return made


def sentence(text: str) -> str:
    if text and not text[0].isupper():
        text = text[0].upper() + text[1:]
    return text if text.endswith(".") or not text else text + "."


def of_libero(path: Path, number: int, *, name: str = "libero", flipped: bool = True) -> Episode:
    """By the mapping S1, states alone. flipped: the pictures' rows, which makes them upright."""
    demo = oracle_rdt.load(path, number)
    turn = slice(None, None, -1) if flipped else slice(None)
    pictures = [demo.arrays[camera][:, turn] for camera in ("agentview_rgb", "eye_in_hand_rgb")]
    return Episode(
        name,
        oracle_rdt.text_of(path),
        oracle_rdt.states(demo, "S1", euler=False),
        oracle_rdt.slots("S1"),
        [*pictures, None, None],
    )


# Left joints, left gripper, right joints, right gripper [RDT data/preprocess_scripts/agilex.py:106-140].
AGILEX = [*range(50, 56), 60, *range(6), 10]


def of_agilex(path: Path, *, name: str = "agilex", text: str = "wipe wine", acts: bool = True) -> Episode:
    """An episode of ALOHA's layout, with RDT's scales of the grippers."""
    with h5py.File(path) as file:
        qpos, action = file["observations/qpos"][()], file["action"][()]
        images = file["observations/images"]
        high, left = images["cam_high"][()], images["cam_left_wrist"][()]
    states, actions = np.zeros((len(qpos), 128)), np.zeros((len(qpos), 128))
    states[:, AGILEX] = qpos / np.array([1] * 6 + [4.7908] + [1] * 6 + [4.7888])
    actions[:, AGILEX] = action / np.array([1] * 6 + [11.8997] + [1] * 6 + [13.9231])
    return Episode(name, text, states, AGILEX, [high, None, left, None], actions if acts else None, AGILEX)


def without_state(episode: Episode) -> Episode:
    """The same robot if its states were not recorded: the action before is the state, and there is none before the first."""
    assert episode.actions is not None
    states = np.zeros_like(episode.actions)
    for t in range(1, len(states)):
        states[t] = episode.actions[t - 1]
    return Episode(episode.name, episode.text, states, episode.action_slots, episode.cameras)
