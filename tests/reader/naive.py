"""Samples as the rules say them, one step after another, over plain arrays: the slow twin of `vla_store.Samples`.

Nothing of vla_store takes part. Arrays come from tiny_libero, or from HDF5 files through h5py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_libero

OBSERVATIONS = {
    *("agentview_rgb", "eye_in_hand_rgb", "agentview_depth", "eye_in_hand_depth", "robot_states"),
    *("ee_states", "ee_pos", "ee_ori", "joint_states", "gripper_states"),
}


@dataclass(frozen=True)
class NaiveEpisode:
    """arrays: by field, anything with a length whose rows can be taken by number (arrays, HDF5 datasets)."""

    suite: str
    file: str
    number: int
    task: str
    arrays: Mapping[str, Any]
    observation: str = "after"
    orientation: str = "bottom_up"

    def __len__(self) -> int:
        return len(self.arrays["actions"])


@dataclass(frozen=True)
class Naive:
    episodes: list[NaiveEpisode]

    def anchors(self, *, alignment: str = "as_stored", keep_first: bool = False) -> list[tuple[int, int]]:
        """(episode, step) of every anchor, in the store's order."""
        return [
            (number, step)
            for number, episode in enumerate(self.episodes)
            for step in range(len(episode))
            if alignment == "as_stored" or keep_first or episode.observation == "before" or step > 0
        ]

    def sample(
        self,
        number: int,
        step: int,
        windows: Mapping[str, Any],
        *,
        alignment: str = "as_stored",
        images: str = "as_stored",
        pad: str = "edge",
        dtype: str | None = None,
    ) -> dict[str, Any]:
        episode = self.episodes[number]
        made: dict[str, Any] = {}
        for field, offsets in windows.items():
            values, pads = [], []
            for offset in [offsets] if isinstance(offsets, int) else offsets:
                time = step + offset
                if alignment == "causal" and episode.observation == "after" and field in OBSERVATIONS:
                    time -= 1
                inside = 0 <= time < len(episode)
                value = np.asarray(episode.arrays[field][min(max(time, 0), len(episode) - 1)])
                if value.ndim == 3:
                    value = turned(value, images, episode.orientation)
                if value.dtype.kind == "f" and dtype is not None:
                    value = value.astype(dtype)
                values.append(np.zeros_like(value) if pad == "zero" and not inside else value)
                pads.append(not inside)
            is_int = isinstance(offsets, int)
            made[field] = values[0] if is_int else np.stack(values)
            made[f"{field}_is_pad"] = np.array(pads[0] if is_int else pads)
        return made | {"task": episode.task, "episode": number, "step": step}


def turned(picture: np.ndarray, images: str, orientation: str) -> np.ndarray:
    """The picture as `images` wants it, by way of the true picture."""
    if images == "as_stored":
        return picture
    true = {
        "bottom_up": picture[::-1],
        "top_down": picture,
        "rot180": picture[:, ::-1],  # a bottom_up picture turned by 180 degrees is the true one, mirrored
    }[orientation]
    return true if images == "upright" else true[:, ::-1]


def text_of(file: str) -> str:
    name = file.removesuffix(".hdf5").removesuffix("_demo")
    words = name.split("_")
    scene = [at for at, word in enumerate(words) if word.startswith("SCENE")]
    return " ".join(words[scene[-1] + 1 :] if scene else words)


def of_tiny(suites: Any = tiny_libero.SUITES, *, orientation: str = "bottom_up", **options: Any) -> Naive:
    return Naive(
        [
            NaiveEpisode(
                each.file.suite,
                each.file.name,
                each.number,
                text_of(each.file.name),
                arrays,
                options.get("observation", "after"),
                orientation,
            )
            for each, arrays in tiny_libero.store_rows(suites, **options)
        ]
    )


def of_hdf5(folder: Path) -> Naive:
    """Every demo below a folder of suites; files stay open, rows are read when they are asked for."""
    import h5py

    episodes = []
    for path in sorted(folder.glob("*/*.hdf5"), key=lambda path: (path.parent.name.encode(), path.name.encode())):
        data = h5py.File(path)["data"]
        for demo in sorted(data, key=lambda name: int(name.removeprefix("demo_"))):
            datasets: dict[str, Any] = {}
            data[demo].visititems(
                lambda name, node, into=datasets: (
                    into.__setitem__(name.removeprefix("obs/"), node) if hasattr(node, "shape") else None
                )
            )
            number = int(demo.removeprefix("demo_"))
            episodes.append(NaiveEpisode(path.parent.name, path.name, number, text_of(path.name), datasets))
    return Naive(episodes)


def assert_same_sample(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same keys in the same order; arrays equal to the bit, with dtype and shape; texts and numbers equal."""
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            assert isinstance(found[key], np.ndarray), key
            assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype), key
            assert found[key].tobytes() == value.tobytes(), key
        else:
            assert found[key] == value, key
            assert type(found[key]) is type(value), key
