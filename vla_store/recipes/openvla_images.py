"""OpenVLA's and OpenVLA-OFT's pictures: the resize and the augmentation of their TensorFlow pipeline, without TensorFlow.

Sources, at openvla/openvla c8f03f4 (OV), moojink/openvla-oft 213c5ff (OFT) and moojink/dlimp_openvla 040105d (DL):
    Lanczos-3 with antialiasing, rounded to uint8   DL dlimp/utils.py:12-17; OV prismatic/vla/datasets/rlds/obs_transforms.py:75
    what is drawn, in which order, clipped after each   OV prismatic/vla/datasets/datasets.py:122-135; DL dlimp/augmentations.py:6-45, 106-127
    resize first, then the augmentation             OV prismatic/vla/datasets/rlds/dataset.py:406-422
    each camera another draw                        OFT prismatic/vla/datasets/rlds/obs_transforms.py:32-41 (seed + i)
Height and width of the crop are drawn by one seed, so its offset is the same along both axes: it moves on the diagonal.
Of a comment in theirs (OFT dataset.py:413, "the same seed") the code does otherwise. Not repeated: TensorFlow's saturation greys a
pixel whose hue is less than a rounding error below red, one of some 400,000 of noise.

One text for NumPy and for torch: arithmetic is written with operators and with functions that both have under one name, and torch
is not imported, because tensors bring it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, whole_number, yes_or_no
from vla_store.reader.options import by_name
from vla_store.recipes.needs import listed
from vla_store.recipes.siglip import check_dict, check_generator

SIZE = 224
CAMERAS = ("image", "wrist_image")  # of the recipes' items
RADIUS = 3  # of the Lanczos filter, in pixels of the smaller picture

CROP = np.sqrt(np.float32(0.9))  # of each side
LOWEST = np.array([0, -0.2, 0.8, 0.8, -0.05])  # offset of the crop, brightness, contrast, saturation, hue
HIGHEST = np.array([1 - CROP, 0.2, 1.2, 1.2, 0.05])

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class OpenVlaImages:
    """A transform that makes pictures as OpenVLA's and OpenVLA-OFT's own pipelines do: resized, and augmented if wanted.

    It takes a sample, as `transform` of a Loader or in that of a recipe, or a batch, as `batch_transform`: on the host, or with
    `device=` as tensors on the device. Pictures become (..., size, size, 3) uint8 under the same keys; all else stays.

    Parameters
    ----------
    augment
        Their `image_aug`: crop to 0.9 of the area and back to size, then brightness, contrast, saturation and hue. Drawn from
        (seed, epoch, position) in a Loader.
    size
        Of the pictures.
    cameras
        Keys of the pictures; default: "image" and "wrist_image", as far as they are there.
    same_for_all
        Whether all cameras of a sample are augmented alike. Default: each by a draw of its own, as their code does.

    Raises
    ------
    OptionError, UnknownName
        A size that is none; when it is called: a key that is not there, or holds no pictures.
    """

    @by_name({"image_aug": "write augment={value}"}, also=["augment"])
    def __init__(
        self,
        augment: bool = False,
        *,
        size: int = SIZE,
        cameras: Sequence[str] | None = None,
        same_for_all: bool = False,
    ) -> None:
        self._size = whole_number("size", size)
        self._augment, self._same = yes_or_no("augment", augment), yes_or_no("same_for_all", same_for_all)
        self._cameras = None if cameras is None else listed("cameras", cameras)

    def __call__(self, sample: dict[str, Any], generator: np.random.Generator | None = None) -> dict[str, Any]:
        """Return the sample, or the batch, with its pictures made ready.

        Parameters
        ----------
        sample
            With pictures (height, width, 3), or (B, height, width, 3), uint8: arrays or tensors.
        generator
            What the augmentation is drawn from; the Loader gives it. Without one NumPy's global generator draws.

        Returns
        -------
        dict
            The pictures are (size, size, 3), or (B, size, size, 3), uint8, on the device where they were.

        Raises
        ------
        OptionError, UnknownName
            A key is not there, or holds no pictures.
        """
        check_dict(sample, "OpenVlaImages")
        if generator is not None:
            check_generator(generator)
        names = self._names(sample)
        first = sample[names[0]]
        count = 1 if first.ndim == 3 else len(first)
        drawn = self._drawn(count, len(names), generator) if self._augment else None
        made = {}
        for number, name in enumerate(names):
            pictures = sample[name]
            by = None if drawn is None else drawn[:, 0 if self._same else number]
            many = self._made(pictures if pictures.ndim == 4 else pictures[None], by)
            made[name] = many if pictures.ndim == 4 else many[0]
        return sample | made

    def _names(self, sample: dict[str, Any]) -> tuple[str, ...]:
        names = self._cameras or tuple(name for name in CAMERAS if name in sample)
        for name in names or CAMERAS[:1]:
            if name not in sample:
                raise UnknownName.among("camera", name, list(map(str, sample)))
            pictures = sample[name]
            found = getattr(pictures, "dtype", type(pictures).__name__), tuple(getattr(pictures, "shape", ()))
            is_uint8 = str(found[0]).rpartition(".")[2] == "uint8"
            if not is_uint8 or len(found[1]) not in (3, 4) or found[1][-1] != 3 or 0 in found[1][-3:]:
                raise OptionError(
                    "no pictures",
                    camera=name,
                    found=f"{found[0]} {found[1]}",
                    expected="uint8 (height, width, 3), or a batch of them",
                )
        counts = {name: tuple(sample[name].shape[:-3]) for name in names}
        if len(set(counts.values())) > 1:
            raise OptionError(
                "these are not pictures of the same samples", **{name: sample[name].shape for name in names}
            )
        return names

    def _drawn(self, count: int, cameras: int, generator: np.random.Generator | None) -> Float32:
        shape = (count, 1 if self._same else cameras, len(LOWEST))
        uniform = np.random.random_sample(shape) if generator is None else generator.random(shape)
        drawn: Float32 = (LOWEST + uniform * (HIGHEST - LOWEST)).astype(np.float32)
        return drawn

    def _made(self, pictures: Any, by: Float32 | None) -> Any:
        if isinstance(pictures, np.ndarray) and len(pictures) > 1:  # one by one: what is worked on stays in the cache
            parts = [
                self._made(pictures[at : at + 1], None if by is None else by[at : at + 1])
                for at in range(len(pictures))
            ]
            return np.concatenate(parts)
        made = resized(pictures, self._size)
        return made if by is None else augmented(made, by)


def resized(pictures: Any, size: int) -> Any:
    """Resize (N, H, W, C) uint8 to (N, size, size, C), as `tf.image.resize(..., "lanczos3", antialias=True)`, rounded, does."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    xp = _library(pictures)
    values = pictures
    for axis in (1, 2):
        if values.shape[axis] == size:
            continue  # its only tap would be 1
        total: Any = 0
        for places, weights in taps(pictures.shape[axis], size):
            taken = _like(pictures, places), _like(pictures, weights.reshape(-1, *[1] * (3 - axis)))
            total = values[(slice(None),) * axis + (taken[0],)] * taken[1] + total
        values = total
    return _bytes(xp.clip(xp.round(values), 0, 255))


@functools.lru_cache(maxsize=16)
def taps(before: int, after: int) -> tuple[tuple[Int64, Float32], ...]:
    """Return which pixels of `before` make each of `after` pixels, and with which weight: (after,) positions and weights a tap."""
    # In float32 and in TensorFlow's order of operations: in float64 a hundred times as many levels of noise would be one off.
    half, radius = np.float32(0.5), np.float32(RADIUS)
    inverse = np.float32(1) / (np.float32(after) / np.float32(before))
    widened = max(inverse, np.float32(1))
    center = (np.arange(after, dtype=np.float32) + half) * inverse
    start = np.clip(np.ceil(center - radius * widened - half), 0, before - 1).astype(np.int64)
    stop = np.clip(np.floor(center + radius * widened - half), 0, before - 1).astype(np.int64) + 1
    places = start[:, None] + np.arange((stop - start).max())
    weights = _lanczos(np.abs(places.astype(np.float32) + half - center[:, None]) / widened)
    weights[places >= stop[:, None]] = 0
    total: Float32 = functools.reduce(np.add, weights.T)  # one tap after the other
    weights *= (np.float32(1) / total)[:, None]
    places = np.minimum(places, before - 1)
    return tuple((places[:, tap], weights[:, tap].copy()) for tap in range(places.shape[1]))


def _lanczos(x: Float32) -> Float32:
    pi, radius = np.float32(np.pi), np.float32(RADIUS)
    turned = pi * np.maximum(x, np.float32(1e-3))
    made = radius * np.sin(turned) * np.sin(turned / radius) / (turned * turned)
    return np.where(x <= 1e-3, np.float32(1), np.where(x < RADIUS, made, np.float32(0)))


def augmented(pictures: Any, by: Float32) -> Any:
    """Augment (N, S, S, 3) uint8. by: (N, 5), offset of the crop as a share of a side, brightness, contrast, saturation, hue."""
    xp = _library(pictures)
    offset = by[:, 0]
    brightness, contrast, saturation, hue = (_like(pictures, each.reshape(-1, 1, 1, 1)) for each in by.T[1:])
    x = _cropped(_floats(pictures) * np.float32(1 / 255).item(), offset)
    x = xp.clip(x + brightness, 0, 1)
    mean = x.mean(axis=(1, 2), keepdims=True)
    x = xp.clip((x - mean) * contrast + mean, 0, 1)
    x = _coloured(x, saturation[..., 0], hue[..., 0])
    return _bytes(x * 255.5)  # as TensorFlow makes whole levels of 0 to 1


def _cropped(x: Any, offset: Float32) -> Any:
    """Return what a square of `CROP` of the side holds, at full size, by bilinear interpolation; its corner is at (offset, offset)."""
    size = x.shape[1]
    last, offset = np.float32(size - 1), offset[:, None]
    scale = ((offset + CROP) - offset) * last / last
    at = offset * last + np.arange(size, dtype=np.float32) * scale
    before = np.clip(np.floor(at), 0, size - 1).astype(np.int64)
    after = np.minimum(before + 1, size - 1)
    share = _like(x, at - before)
    low, high = _like(x, before), _like(x, after)
    sample, row = _like(x, np.arange(len(offset)).reshape(-1, 1, 1)), _like(x, np.arange(size).reshape(-1, 1))
    left, right = x[sample, row, low[:, None, :]], x[sample, row, high[:, None, :]]
    x = left + (right - left) * share[:, None, :, None]
    top, bottom = x[sample[..., 0], low], x[sample[..., 0], high]
    return top + (bottom - top) * share[:, :, None, None]


def _coloured(x: Any, saturation: Any, hue: Any) -> Any:
    """Multiply the saturation of (N, S, S, 3) from 0 to 1, and turn the hue (1 is once around): both (N, 1, 1)."""
    xp = _library(x)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    high = xp.maximum(xp.maximum(red, green), blue)
    span = high - xp.minimum(xp.minimum(red, green), blue)
    whole = span + (span == 0)  # grey has no hue, and keeps none: its differences are 0
    sector = xp.where(
        high == red,
        (green - blue) / whole,
        xp.where(high == green, (blue - red) / whole + 2, (red - green) / whole + 4),
    )
    sector = sector + 6 * hue
    span = xp.minimum(span * saturation, high)
    made = xp.empty_like(x)
    for channel, shift in enumerate((5, 3, 1)):
        k = (sector + shift) % 6
        made[..., channel] = high - span * xp.clip(xp.minimum(k, 4 - k), 0, 1)
    return made


def _library(values: Any) -> Any:
    """Return numpy for arrays, torch for tensors."""
    return sys.modules[type(values).__module__.partition(".")[0]]


def _like(some: Any, values: npt.NDArray[Any]) -> Any:
    """Return an array where `some` is one, else a tensor on its device."""
    return values if isinstance(some, np.ndarray) else _library(some).as_tensor(values, device=some.device)


def _floats(values: Any) -> Any:
    return values.astype(np.float32) if isinstance(values, np.ndarray) else values.float()


def _bytes(values: Any) -> Any:
    return values.astype(np.uint8) if isinstance(values, np.ndarray) else values.byte()
