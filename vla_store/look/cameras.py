"""The cameras of an episode as pictures that a screen can show, and what is said above them. Reads.

They are read the same way as samples for training, so that what is looked at is what a policy would see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.look.pictures import Pictures, is_colour, to_rgb, value_range
from vla_store.reader import Samples, Store
from vla_store.reader.values import Episode, StoreField
from vla_store.text import number_text
from vla_store.types import Images

Array = np.ndarray[Any, Any]

BATCH_NBYTES = 32 << 20
RANGE_STEPS = 24  # of which the range of numbers is taken, where pictures follow one another


@dataclass(frozen=True)
class Camera:
    """A camera over an episode. shown_range: of its numbers, as colours; None where they are colours. note: size, dtype, turn."""

    field: StoreField
    shown_range: tuple[float, float] | None
    note: str

    @property
    def name(self) -> str:
        return self.field.name


def camera_names(store: Store) -> list[str]:
    """Return the names of the cameras in the order in which they are shown: colours first."""
    return sorted(store.cameras, key=lambda name: not is_colour(store.fields[name]))


def sizes(field: StoreField) -> tuple[int, ...]:
    """Return the shape of one step of a field that has the same in all."""
    return tuple(int(each or 0) for each in field.shape)


def read_steps(
    store: Store, episode: Episode, names: Sequence[str], steps: Sequence[int], images: Images
) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """Yield (first, {camera: (n, H, W, ...) frames as stored values}) of `steps`, a bounded number of bytes at a time.

    first: the place of the first of them in `steps`. images: as for `Samples`.
    """
    if not names or not steps:
        return
    samples = Samples(
        store,
        windows=dict.fromkeys(names, 0),
        rows=[episode.start + step for step in steps],
        alignment="as_stored",  # each picture stands above the row that has it, whatever its role
        images=images,
    )
    fields = [store.fields[name] for name in names]
    nbytes = sum(math.prod(sizes(each)) * np.dtype(each.dtype).itemsize for each in fields)
    many = max(1, BATCH_NBYTES // max(1, nbytes))
    for first in range(0, len(steps), many):
        batch = samples.batch(range(first, min(first + many, len(steps))))
        yield first, {name: batch[name] for name in names}


def cameras_of(store: Store, episode: Episode, images: Images, stored: str, steps: Sequence[int]) -> tuple[Camera, ...]:
    """Return the cameras of a store. stored: how their pictures lie. steps: those of which the ranges of numbers are taken."""
    made = []
    for name in camera_names(store):
        field, values = store.fields[name], None
        if not is_colour(field):
            values = range_of(store, episode, name, steps)
        size = " x ".join(map(str, field.shape))
        scale = f"; {range_text(values)}" if values else ""
        turned = "as stored" if images == "as_stored" else f"{images}, stored {stored}"
        made.append(Camera(field, values, f"{size} {field.dtype}, {turned}{scale}"))
    return tuple(made)


def range_of(store: Store, episode: Episode, camera: str, steps: Sequence[int]) -> tuple[float, float] | None:
    """Return the range of a camera's numbers in these steps of an episode that is shown as colours, as `value_range` has it."""
    frames = read_steps(store, episode, [camera], steps, "as_stored")
    return value_range(np.concatenate([each[camera] for _, each in frames]))


def range_text(values: tuple[float, float]) -> str:
    """Return what is said of a range that is shown as colours."""
    return f"colours from {number_text(values[0])} (dark) to {number_text(values[1])} (light)"


def pictures_of(
    store: Store, episode: Episode, cameras: Sequence[Camera], steps: Sequence[int], images: Images
) -> Iterator[tuple[int, list[Pictures]]]:
    """Yield (first, [(n, H, W, 3) pictures of each camera]), as `read_steps` does."""
    names = [camera.name for camera in cameras]
    for first, frames in read_steps(store, episode, names, steps, images):
        yield first, [to_rgb(frames[camera.name], camera.shown_range) for camera in cameras]
