"""LIBERO as it is found in the wild, derived from the demonstrations: small HDF5 files in the layouts of others.

Each function writes one file (or a few) and says what a reader must find in it; what a layout is, and whose, stands in
docs/how-to/variants.md. Steps are cut and pictures kept as they are, so that every file is quick to build.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

STEPS = 24
COMMAND = "pick up the tomato sauce and place it in the basket"


def regenerated(demos: Path) -> Path:
    """The file of OpenVLA's layout among the demonstrations: 256 px, no attributes, observation before action, bottom up."""
    return next((demos / "variants/no_noops_256").glob("*/*.hdf5"))


def with_depth(demos: Path) -> Path:
    return next((demos / "variants/depth").glob("*/*.hdf5"))


def published(demos: Path) -> Path:
    return next((demos / "libero/libero_goal").glob("*.hdf5"))


def _cut(source: Path, target: Path, *, steps: int = STEPS, turn: Any = None, attributes: bool = True) -> Path:
    """A copy with the first steps of each demo, its pictures turned by `turn`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        data = new.create_group("data")
        if attributes:
            data.attrs.update(old["data"].attrs)
        for name, demo in old["data"].items():
            group = data.create_group(name)
            for path, dataset in _datasets(demo):
                rows = _small(dataset[:steps])
                group[path] = turn(rows) if turn is not None and rows.ndim == 4 else rows
        if attributes:
            data.attrs["total"] = steps * len(data)
    return target


def _small(rows: np.ndarray) -> np.ndarray:
    """Pictures of 256 or 128 pixels as ones of 64; everything else as it is."""
    every = rows.shape[1] // 64 if rows.ndim == 4 else 1
    return rows[:, ::every, ::every] if every > 1 else rows


def _datasets(demo: h5py.Group) -> Iterator[tuple[str, np.ndarray]]:
    paths: list[str] = []
    demo.visititems(lambda path, node: paths.append(path) if isinstance(node, h5py.Dataset) else None)
    for path in sorted(paths):
        yield path, demo[path]


def openvla(demos: Path, folder: Path) -> Path:
    """OpenVLA's regenerated files, shorter."""
    return _cut(regenerated(demos), folder / "libero_object_no_noops" / regenerated(demos).name, attributes=False)


def any4lerobot(demos: Path, folder: Path) -> Path:
    """The same, its pictures turned by 180 degrees in the file; nothing says so."""
    target = folder / "libero_object_rotated" / regenerated(demos).name
    return _cut(regenerated(demos), target, turn=lambda rows: rows[:, ::-1, ::-1], attributes=False)


def depth(demos: Path, folder: Path) -> Path:
    return _cut(with_depth(demos), folder / "libero_spatial_depth" / with_depth(demos).name)


def libero(demos: Path, folder: Path) -> Path:
    """A published file, shorter: observation after action, bottom up, and it says so."""
    return _cut(published(demos), folder / "libero_goal" / published(demos).name)


def encoded(picture: np.ndarray) -> np.ndarray:
    """As Cosmos-Policy's script encodes: Pillow, quality 95."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=95)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decoded(data: np.ndarray) -> np.ndarray:
    """The pixels of one encoded picture, by another way than the builder's."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def _write_encoded(group: h5py.Group, name: str, pictures: np.ndarray) -> None:
    rows = group.create_dataset(name, (len(pictures),), h5py.vlen_dtype(np.uint8))
    for number, picture in enumerate(pictures):
        rows[number] = encoded(picture)


def cosmos_episodes(demos: Path, folder: Path, *, encode: bool = True) -> list[Path]:
    """Cosmos-Policy's "all episodes": one file an episode, one of them failed; rows flipped, observation before action."""
    place = folder / "all_episodes"
    place.mkdir(parents=True, exist_ok=True)
    made = []
    with h5py.File(regenerated(demos)) as old:
        for number, name in enumerate(("demo_3", "demo_10"), 1):
            demo, success = old["data"][name], name == "demo_3"
            stem = f"episode_data--suite=libero_object--2025_07_01-10_00_00--task=4--ep={number}--success={success}"
            made.append(place / f"{stem}--regen_demo.hdf5")
            with h5py.File(made[-1], "w") as new:
                for camera, path in (("primary", "agentview_rgb"), ("wrist", "eye_in_hand_rgb")):
                    pictures = _small(demo[f"obs/{path}"][:STEPS])[:, ::-1]
                    if encode:
                        _write_encoded(new, f"{camera}_images_jpeg", pictures)
                    else:
                        new[f"{camera}_images"] = pictures
                new["proprio"] = demo["robot_states"][:STEPS]
                new["actions"] = demo["actions"][:STEPS]
                new.attrs["success"] = success
                new.attrs["task_description"] = COMMAND
    return made


def cosmos_demos(demos: Path, folder: Path) -> Path:
    """Cosmos-Policy's "success only": OpenVLA's layout with rows flipped and pictures as JPEG."""
    target = folder / "libero_object_regen" / regenerated(demos).name
    target.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(regenerated(demos)) as old, h5py.File(target, "w") as new:
        for name, demo in old["data"].items():
            group = new.create_group(f"data/{name}")
            for path, rows in _datasets(demo):
                if rows.ndim == 4:
                    _write_encoded(group, f"{path}_jpeg", _small(rows[:STEPS])[:, ::-1])
                else:
                    group[path] = rows[:STEPS]
    return target


def robomimic(demos: Path, folder: Path, **storage: Any) -> Path:
    """robomimic's own layout: other names, next_obs, filter lists of byte strings; upright, observation before action.

    storage: how h5py stores the datasets, e.g. compression="gzip".
    """
    target = folder / "lift_ph" / "lift.hdf5"
    target.parent.mkdir(parents=True, exist_ok=True)
    names = {
        "agentview_rgb": "agentview_image",
        "eye_in_hand_rgb": "robot0_eye_in_hand_image",
        "ee_pos": "robot0_eef_pos",
        "joint_states": "robot0_joint_pos",
        "gripper_states": "robot0_gripper_qpos",
    }
    with h5py.File(regenerated(demos)) as old, h5py.File(target, "w") as new:
        data = new.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        data.attrs["total"] = 2 * STEPS
        for number, demo in enumerate(old["data"].values()):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = STEPS
            for name in ("actions", "states", "rewards", "dones"):
                group.create_dataset(name, data=demo[name][:STEPS], **storage)
            for theirs, name in names.items():
                rows = demo[f"obs/{theirs}"][: STEPS + 1]
                rows = _small(rows)[:, ::-1] if rows.ndim == 4 else rows
                group.create_dataset(f"obs/{name}", data=rows[:-1], **storage)
                group.create_dataset(f"next_obs/{name}", data=rows[1:], **storage)
        new["mask/train"] = np.array([b"demo_0"])
        new["mask/valid"] = np.array([b"demo_1"])
    return target


def turned_twin(demos: Path, folder: Path) -> tuple[Path, Path]:
    """One recording in two files that agree in nothing: a published one (observation after the action, bottom up, it says
    so), and what a regeneration would have made of its steps 1, 2, ... (observation before the action, turned by 180 degrees, no
    attributes). So step s + 1 of the first and step s of the second are the same moment."""
    first = _cut(published(demos), folder / "libero_goal" / published(demos).name, steps=12)
    second = folder / "regenerated_goal" / published(demos).name
    second.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(first) as old, h5py.File(second, "w") as new:
        for name, demo in old["data"].items():
            group = new.create_group(f"data/{name}")
            for path, dataset in _datasets(demo):
                seen = path.startswith("obs/") or path == "robot_states"
                rows = dataset[:-1] if seen else dataset[1:]
                group[path] = rows[:, ::-1, ::-1] if rows.ndim == 4 else rows
    return first, second
