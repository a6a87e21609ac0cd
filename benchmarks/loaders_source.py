"""What all contenders of benchmarks/loaders.py are given: the demonstrations as plain arrays, and the samples that are asked for.

A sample is a *step* (a picture of each camera, the state, one action) or a *window* (two pictures of each camera, the state, 64
actions, and what of them is padding). Pictures are uint8, numbers float32. It runs in the rivals' environments too: NumPy alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vla_store.reader.store import Store

Array = np.ndarray[Any, Any]
BATCH = 64
SEED = 0
SHAPE = (128, 128, 3)
RAW, PNG, VIDEO = "raw", "PNG", "AV1"  # how pictures lie: for speed; smaller, without loss; smaller still, with loss
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
KINDS = ("step", "window")
FIELDS = {
    "step": (*CAMERAS, "state", "actions"),
    "window": (*CAMERAS, "state", "actions", "pictures_is_pad", "actions_is_pad"),
}


@dataclass(frozen=True)
class Source:
    """Rows of the recordings, and the rows of each sample.

    pictures: camera -> (rows, H, W, C). pngs, png_ends: camera -> bytes of all its pictures, and where each begins and the last ends. frames: (samples, 2) rows of the pictures at [-1, 0]. chunks: (samples, 64) rows of the
    actions. first: (episodes,) number of its first sample.
    """

    folder: Path
    pictures: dict[str, Array]
    pngs: dict[str, Array]
    png_ends: dict[str, Array]
    state: Array
    actions: Array
    frames: Array
    pictures_is_pad: Array
    chunks: Array
    actions_is_pad: Array
    first: Array

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, indices: Any, kind: str) -> dict[str, Array]:
        """The samples of these numbers, (B, ...)."""
        frames, chunks = self.frames[indices], self.chunks[indices]
        if kind == "step":
            frames, chunks = frames[:, 1], chunks[:, 0]
        made = {camera: each[frames] for camera, each in self.pictures.items()}
        made |= {"state": self.state[self.frames[indices, 1]], "actions": self.actions[chunks]}
        if kind == "window":
            made |= {"pictures_is_pad": self.pictures_is_pad[indices], "actions_is_pad": self.actions_is_pad[indices]}
        return made

    def png(self, camera: str, row: int) -> bytes:
        """A picture as PNG, as Pillow encodes it."""
        start, stop = self.png_ends[camera][row : row + 2]
        return bytes(self.pngs[camera][start:stop])

    def sample(self, index: int, kind: str) -> dict[str, Array]:
        return {name: values[0] for name, values in self.batch(np.array([index]), kind).items()}


def write(store: Store, demos: Path, folder: Path) -> None:
    """Read the demonstrations of a store from their HDF5 files, without the store."""
    import h5py

    from benchmarks.workload import units_of

    anchors = store.rows - len(store.episodes)
    units = units_of(store, demos, np.arange(anchors))
    arrays: dict[str, list[Array]] = {name: [] for name in (*CAMERAS, "state", "actions")}
    for each in store.episodes:
        with h5py.File(demos / each.suite / each.file, "r") as file:
            group = file["data"][f"demo_{each.number}"]
            for camera in CAMERAS:
                arrays[camera].append(group["obs"][camera][:])
            arrays["state"].append(group["robot_states"][:].astype(np.float32))
            arrays["actions"].append(group["actions"][:].astype(np.float32))
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        array = np.concatenate(values)
        np.save(folder / f"{name}.npy", array)
        if name in CAMERAS:  # once, for all who keep PNG
            encoded = [_png(each) for each in array]
            np.save(folder / f"{name}_png.npy", np.frombuffer(b"".join(encoded), np.uint8))
            np.save(folder / f"{name}_ends.npy", np.cumsum([0, *map(len, encoded)]))
    start = units.start[:, None]
    np.savez(
        folder / "samples.npz",
        frames=units.frames + start,
        pictures_is_pad=units.pads[f"{CAMERAS[0]}_is_pad"],
        chunks=units.actions + start,
        actions_is_pad=units.pads["actions_is_pad"],
        first=np.searchsorted(units.episode, np.arange(len(store.episodes))),  # of one of a single step: none
    )


def _png(pixels: Array) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def load(folder: Path) -> Source:
    """What `write` has left."""
    with np.load(folder / "samples.npz") as file:
        samples = dict(file)

    def each(end: str) -> dict[str, Array]:
        return {camera: np.load(folder / f"{camera}{end}.npy", mmap_mode="r") for camera in CAMERAS}

    numbers = {name: np.load(folder / f"{name}.npy") for name in ("state", "actions")}
    return Source(folder, each(""), each("_png"), each("_ends"), **numbers, **samples)


def digests(batch: Mapping[str, Array], kind: str) -> list[str]:
    """sha256 of each sample of a batch: shapes, types and bytes of all its fields."""
    fields = [np.ascontiguousarray(batch[name]) for name in FIELDS[kind]]
    made = []
    for at in range(len(fields[0])):
        total = hashlib.sha256()
        for name, values in zip(FIELDS[kind], fields):
            total.update(f"{name} {values.dtype.str} {values[at].shape}\n".encode())
            total.update(values[at].tobytes())
        made.append(total.hexdigest())
    return made
