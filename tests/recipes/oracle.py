"""What the trainers' own loaders yield, written anew over h5py from the reference documents. Nothing of vla_store takes part.

A demo's decision time s is the moment just before action s. Sources that record observations after the action of the same row
have what is seen at time s in row s - 1, the others in row s; actions are in row s of both. A time outside the demo is taken at
its nearest end. Pictures lie bottom row first in all demos here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="the other implementation reads HDF5")


@dataclass
class Demo:
    """One demo. arrays: by their name below the demo, without obs/. is_after: how observations were recorded."""

    arrays: dict[str, np.ndarray]
    text: str
    suite: str
    is_after: bool

    def __len__(self) -> int:
        return len(self.arrays["actions"])

    def seen(self, name: str, time: int) -> np.ndarray:
        """An observation at a decision time."""
        row = time - 1 if self.is_after else time
        return self.arrays[name][min(max(row, 0), len(self) - 1)]

    def done(self, time: int) -> np.ndarray:
        """The action at a decision time, in float32."""
        return self.arrays["actions"][min(max(time, 0), len(self) - 1)].astype(np.float32)

    @property
    def times(self) -> range:
        """Decision times whose observation was recorded."""
        return range(1 if self.is_after else 0, len(self))


def demos_below(folder: Path, *, is_after: bool) -> Iterator[Demo]:
    """The demos of a folder of suites, in a store's order: suites and files by name, demos by number."""
    paths = sorted(folder.glob("*/*.hdf5"), key=lambda path: (path.parent.name.encode(), path.name.encode()))
    for path in paths:
        task = re.sub(r"^.*SCENE\d+_", "", path.name.removesuffix("_demo.hdf5"))
        with h5py.File(path) as file:
            for name in sorted(file["data"], key=lambda name: int(name.split("_")[1])):
                group = file["data"][name]
                arrays = {field: group[field][()] for field in group if field != "obs"}
                arrays |= {field: group["obs"][field][()] for field in group["obs"]}
                yield Demo(arrays, task.replace("_", " "), path.parent.name, is_after)


# --- OpenVLA and OFT ---------------------------------------------------------------------------------------------------


def turned(picture: np.ndarray) -> np.ndarray:
    """Half a turn: what the RLDS builder does to both cameras."""
    return np.rot90(picture, 2)


def openvla_action(raw: np.ndarray) -> np.ndarray:
    """float32 (7,): the gripper is 1 where the file says -1 (open), 0 where it says +1."""
    made = raw.astype(np.float32)
    made[6] = np.float32(1) - min(max(made[6], np.float32(0)), np.float32(1))
    return made


def openvla(demos: list[Demo]) -> Iterator[dict[str, Any]]:
    for demo in demos:
        for s in demo.times:
            yield {
                "image": turned(demo.seen("agentview_rgb", s)),
                "action": openvla_action(demo.done(s)),
                "language": demo.text.lower(),
            }


def openvla_oft(demos: list[Demo], chunk: int = 8) -> Iterator[dict[str, Any]]:
    for demo in demos:
        for s in demo.times:
            if s + chunk > len(demo):  # all `chunk` actions must be there
                continue
            proprio = [*demo.seen("ee_states", s), *demo.seen("gripper_states", s)]
            yield {
                "image": turned(demo.seen("agentview_rgb", s)),
                "wrist_image": turned(demo.seen("eye_in_hand_rgb", s)),
                "proprio": np.array([proprio]).astype(np.float32),
                "actions": np.array([openvla_action(demo.done(s + k)) for k in range(chunk)]),
                "language": demo.text.lower(),
            }


def all_actions(demos: list[Demo]) -> np.ndarray:
    """(N, 7) float64 of what float32 holds: every row of every demo."""
    return np.concatenate([demo.arrays["actions"].astype(np.float32) for demo in demos]).astype(np.float64)


def all_states(demos: list[Demo], names: tuple[str, ...] = ("ee_states", "gripper_states")) -> np.ndarray:
    rows = [np.concatenate([demo.arrays[name] for name in names], axis=1).astype(np.float32) for demo in demos]
    return np.concatenate(rows).astype(np.float64)


def bounds_q99(values: np.ndarray, rows: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """OpenVLA's normalised form of (..., n) values, by the rows (N, n) of the data set. masked: (n,), what stays as it is."""
    low, high = np.quantile(rows, 0.01, axis=0), np.quantile(rows, 0.99, axis=0)
    made = np.where(masked, values, np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1))
    return np.where(rows.min(axis=0) == rows.max(axis=0), 0, made)


# --- openpi ------------------------------------------------------------------------------------------------------------


def openpi(demos: list[Demo], horizon: int) -> Iterator[dict[str, Any]]:
    for demo in demos:
        for s in demo.times:
            yield {
                "image": turned(demo.seen("agentview_rgb", s)),
                "wrist_image": turned(demo.seen("eye_in_hand_rgb", s)),
                "state": np.array([*demo.seen("ee_states", s), *demo.seen("gripper_states", s)]).astype(np.float32),
                "actions": np.array([demo.done(s + k) for k in range(horizon)]),
                "prompt": demo.text,
            }


def quantile_form(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """pi0.5's and FAST's: not clipped."""
    low, high = np.quantile(rows, 0.01, axis=0), np.quantile(rows, 0.99, axis=0)
    return (values - low) / (high - low + 1e-6) * 2 - 1


# --- Diffusion Policy --------------------------------------------------------------------------------------------------

DIFFUSION_LOW_DIM = {
    "robot0_eef_pos": ("ee_pos", slice(None)),
    "robot0_eef_quat": ("robot_states", slice(5, 9)),
    "robot0_gripper_qpos": ("gripper_states", slice(None)),
}
DIFFUSION_CAMERAS = {"agentview_image": "agentview_rgb", "robot0_eye_in_hand_image": "eye_in_hand_rgb"}


def chw(picture: np.ndarray) -> np.ndarray:
    """The true picture (rows flipped), channels first, float32 in 0..1."""
    return np.flipud(picture).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def diffusion(
    demos: list[Demo], horizon: int = 16, n_obs: int = 2, n_action: int = 8
) -> Iterator[dict[str, dict[str, Any]]]:
    """Windows start from n_obs - 1 before a demo to those that end n_action - 1 after it."""
    for demo in demos:
        for start in range(-(n_obs - 1), len(demo) - horizon + n_action):
            now = start + n_obs - 1
            if now not in demo.times:
                continue
            seen = range(start, start + n_obs)
            obs = {
                key: np.array([chw(demo.seen(camera, time)) for time in seen])
                for key, camera in DIFFUSION_CAMERAS.items()
            }
            for key, (field, numbers) in DIFFUSION_LOW_DIM.items():
                obs[key] = np.array([demo.seen(field, max(time, 0))[numbers] for time in seen]).astype(np.float32)
            yield {"obs": obs, "action": np.array([demo.done(time) for time in range(start, start + horizon)])}


# --- ACT ---------------------------------------------------------------------------------------------------------------


def act(demos: list[Demo], chunk: int = 100, zeros: bool = False) -> Iterator[tuple[np.ndarray, ...]]:
    for demo in demos:
        for s in demo.times:
            image = np.array([chw(demo.seen(camera, s)) for camera in ("agentview_rgb", "eye_in_hand_rgb")])
            qpos = np.array([*demo.seen("joint_states", s), *demo.seen("gripper_states", s)]).astype(np.float32)
            there = min(chunk, len(demo) - s)
            action = np.zeros((chunk, 7), np.float32)
            action[:there] = demo.arrays["actions"][s : s + there]
            if not zeros:
                action[there:] = demo.done(len(demo) - 1)
            yield image, qpos, action, np.arange(chunk) >= there


def standardized(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """ACT's: torch's standard deviation, with n - 1, not below 1e-2."""
    return (values - rows.mean(axis=0)) / np.maximum(rows.std(axis=0, ddof=1), 1e-2)


# --- LeRobot -----------------------------------------------------------------------------------------------------------


LEROBOT = {
    "observation.images.agentview_rgb": "agentview_rgb",
    "observation.images.eye_in_hand_rgb": "eye_in_hand_rgb",
    "observation.state": "",
    "action": "actions",
    "rewards": "rewards",
}


def lerobot(
    demos: list[Demo], windows: dict[str, list[int]], fps: int = 20, keep_first: bool = False
) -> Iterator[dict[str, Any]]:
    """Frames are decision times whose observation was recorded; what is no frame is beyond the episode."""
    demos = [demo for demo in demos if keep_first or demo.times]  # an episode without a frame is none
    index, tasks = 0, list(dict.fromkeys(demo.text for demo in demos))

    def of(demo: Demo, key: str, time: int) -> Any:
        if "images" in key:
            return chw(demo.seen(LEROBOT[key], time))
        if key == "observation.state":
            return np.array([*demo.seen("ee_states", time), *demo.seen("gripper_states", time)]).astype(np.float32)
        value = demo.arrays[LEROBOT[key]][time]
        return value.astype(np.float32) if value.ndim else np.int64(value)

    for number, demo in enumerate(demos):
        times = range(len(demo)) if keep_first else demo.times
        for frame in range(len(times)):
            item: dict[str, Any] = {}
            for key in LEROBOT:
                near = [min(max(frame + d, 0), len(times) - 1) for d in windows.get(key, [0])]
                values = np.array([of(demo, key, times[each]) for each in near])
                item[key] = values if key in windows else values[0]
            item |= {"timestamp": np.float32(frame / fps), "frame_index": np.int64(frame)}
            item |= {"episode_index": np.int64(number), "index": np.int64(index)}
            item["task_index"] = np.int64(tasks.index(demo.text))
            for key, offsets in windows.items():
                item[f"{key}_is_pad"] = np.array([not 0 <= frame + d < len(times) for d in offsets])
            yield item | {"task": demo.text}
            index += 1


# --- comparing ---------------------------------------------------------------------------------------------------------


def assert_items(dataset: Any, expected: Iterator[Any], *, within: float = 0.0) -> int:
    """Every item of the dataset is the expected one, in order: keys and their order, shapes, dtypes, texts, and every value.

    within: how far floating numbers may be off; 0: to the bit. Arrays must be writable and of their own memory. Items are read
    by tens, and every tenth once more by itself. Returns how many there were.
    """
    count = 0
    for start in range(0, len(dataset), 10):
        block = range(start, min(start + 10, len(dataset)))
        for index, item in zip(block, dataset.__getitems__(list(block)), strict=True):
            wanted = next(expected)
            assert_item(item, wanted, within, f"item {index}")
            if index == start:
                assert_item(dataset[index], wanted, within, f"item {index} by itself")
            count += 1
    assert next(expected, None) is None, f"there are only {count} items"
    return count


def assert_item(found: Any, expected: Any, within: float, where: str) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_item(found[key], expected[key], within, f"{where} {key}")
    elif isinstance(expected, tuple):
        assert isinstance(found, tuple), where
        assert len(found) == len(expected), where
        for at, (one, other) in enumerate(zip(found, expected)):
            assert_item(one, other, within, f"{where} [{at}]")
    elif isinstance(expected, str):
        assert found == expected, where
    else:
        assert isinstance(found, np.ndarray), where
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), where
        assert found.flags.writeable, where
        if within and expected.dtype.kind == "f":
            assert np.abs(found.astype(np.float64) - expected).max() <= within, where
        else:
            assert np.array_equal(found, expected), where
