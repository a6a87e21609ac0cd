"""What RDT's ports to LIBERO, and LIBERO's own baseline, take from a demo: written from the reference documents, over h5py.

It imports nothing of vla_store. Rotations go through quaternions and products of matrices, which the package does not.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

PORTS = ("L", "S1", "S2")


@dataclass
class Demo:
    """The arrays of one demo, by name; cameras are read at once."""

    path: Path
    number: int
    arrays: dict[str, np.ndarray]
    problem_instruction: str

    @property
    def steps(self) -> int:
        return len(self.arrays["actions"])


def load(path: Path, number: int) -> Demo:
    with h5py.File(path) as file:
        group = file[f"data/demo_{number}"]
        arrays = {name: group[name][()] for name in ("actions", "robot_states")}
        arrays |= {name: dataset[()] for name, dataset in group["obs"].items()}
        problem = json.loads(file["data"].attrs["problem_info"])
    return Demo(path, number, arrays, problem["language_instruction"])


def text_of(path: Path) -> str:
    """The instruction, from the file's name."""
    words = path.name[: -len("_demo.hdf5")].split("_")
    for at, word in enumerate(words):
        if word.startswith("SCENE"):
            words = words[at + 1 :]
            break
    return " ".join(words)


def matrix_of_axis_angle(vector: np.ndarray) -> np.ndarray:
    """By the quaternion of half the angle."""
    angle = math.sqrt(sum(float(each) ** 2 for each in vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = (float(each) / angle * math.sin(angle / 2) for each in vector)
    return matrix_of_quaternion(np.array([x, y, z, math.cos(angle / 2)]))


def matrix_of_quaternion(xyzw: np.ndarray) -> np.ndarray:
    x, y, z, w = (float(each) for each in xyzw)
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def matrix_of_euler(angles: np.ndarray) -> np.ndarray:
    """About the fixed x axis first, then y, then z: what scipy calls "xyz"."""
    made = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(float(angle)), math.sin(float(angle))
        turn = np.eye(3)
        one, two = [(1, 2), (2, 0), (0, 1)][axis]
        turn[one, one] = turn[two, two] = c
        turn[one, two], turn[two, one] = -s, s
        made = turn @ made
    return made


def six(rotations: np.ndarray, euler: bool) -> np.ndarray:
    """(n, 3) -> (n, 6): first column, then second column."""
    matrix_of = matrix_of_euler if euler else matrix_of_axis_angle
    matrices = [matrix_of(each) for each in rotations]
    return np.array([[*each[:, 0], *each[:, 1]] for each in matrices])


def states(demo: Demo, port: str, euler: bool) -> np.ndarray:
    """(T, 128)."""
    obs = demo.arrays
    made = np.zeros((demo.steps, 128))
    made[:, 0:7] = obs["joint_states"]
    if port == "L":
        low, high = -0.04245, 0.05185
        made[:, 10:12] = (obs["gripper_states"] - low) / (high - low)
    else:
        made[:, 10] = obs["gripper_states"][:, 0]
        made[:, 30:33] = obs["ee_pos"]
        made[:, 33:39] = six(obs["ee_ori"], euler)
    return made


def actions(demo: Demo, port: str, euler: bool) -> np.ndarray:
    """(T, 128)."""
    raw = demo.arrays["actions"]
    made = np.zeros((demo.steps, 128))
    if port == "L":
        made[:, 39:45] = raw[:, :6]
        made[:, 10] = raw[:, 6]
    else:
        made[:, 30:33] = raw[:, :3] * {"S1": 0.012, "S2": 1.2}[port]
        made[:, 33:39] = six(raw[:, 3:6] * 0.5, euler)
        made[:, 10] = (raw[:, 6] + 1) / 2
    return made


def slots(port: str) -> list[int]:
    return [*range(7), 10, 11] if port == "L" else [*range(7), 10, *range(30, 39)]


def first_moving(demo: Demo, port: str) -> int:
    """L looks at joints and fingers; S at joints."""
    names = ("joint_states", "gripper_states") if port == "L" else ("joint_states",)
    qpos = np.hstack([demo.arrays[name] for name in names])
    for row in range(demo.steps):
        if any(abs(a - b) > 1e-2 for a, b in zip(qpos[row], qpos[0])):
            return row
    raise AssertionError("it never moves")


@dataclass
class Episode:
    """A demo with everything that its items share. skip: RDT's still-start rule."""

    demo: Demo
    port: str
    euler: bool = False
    skip: bool = False

    def __post_init__(self) -> None:
        self.states = states(self.demo, self.port, self.euler)
        self.actions = actions(self.demo, self.port, self.euler)
        self.first = max(first_moving(self.demo, self.port) - 1, 0) if self.skip else 0

    def item(self, t: int, name: str, instruction: str, *, late: int = 0) -> dict[str, Any]:
        """The item of step t; observations are of row t - late."""
        seen = t - late
        window = [min(t + k, self.demo.steps - 1) for k in range(64)]
        indicator = np.zeros(128)
        indicator[slots(self.port)] = 1
        valid = min(seen - self.first + 1, 2)
        mask = np.array([False] * (2 - valid) + [True] * valid)
        return {
            "meta": {"dataset_name": name, "#steps": self.demo.steps, "step_id": t, "instruction": instruction},
            "state": self.states[seen : seen + 1],
            "state_mean": np.mean(self.states, axis=0),
            "state_std": np.std(self.states, axis=0),
            "state_norm": np.sqrt(np.mean(self.states**2, axis=0)),
            "actions": self.actions[window],
            "state_indicator": indicator,
            "cam_high": self.demo.arrays["agentview_rgb"][[max(seen - 1, 0), seen]],
            "cam_high_mask": mask,
            "cam_right_wrist": self.demo.arrays["eye_in_hand_rgb"][[max(seen - 1, 0), seen]],
            "cam_right_wrist_mask": mask,
            "cam_left_wrist": np.zeros((2, 0, 0, 0)),
            "cam_left_wrist_mask": np.array([False, False]),
        }


def dataset_stat(episodes: list[Episode], name: str) -> dict[str, Any]:
    """Over the rows of each episode from its first; std of the entries that are not zero."""
    rows = np.concatenate([each.states[each.first :] for each in episodes])
    std = np.zeros(128)
    for slot in range(128):
        column = rows[:, slot]
        kept = column[np.abs(column) > 1e-8]
        n = max(len(kept), 1)
        variance = (kept**2).sum() / n - (kept.sum() / len(rows)) ** 2 * len(rows) / n
        std[slot] = math.sqrt(max(variance, 0))
    return {
        "dataset_name": name,
        "state_mean": rows.mean(axis=0),
        "state_std": std,
        "state_min": rows.min(axis=0),
        "state_max": rows.max(axis=0),
    }


def libero_item(demo: Demo, t: int) -> dict[str, Any]:
    """LIBERO's own: ten steps of observations and actions, the last repeated."""
    window = [min(t + k, demo.steps - 1) for k in range(10)]
    obs = {
        name: np.transpose(demo.arrays[name][window], (0, 3, 1, 2)).astype(np.float32) / np.float32(255)
        for name in ("agentview_rgb", "eye_in_hand_rgb")
    }
    obs |= {name: demo.arrays[name][window].astype(np.float32) for name in ("gripper_states", "joint_states")}
    return {"actions": demo.arrays["actions"][window].astype(np.float32), "obs": obs}
