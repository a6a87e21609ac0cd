"""Transforms that trainers use, for NumPy samples (Loader) and for tensors (torch's DataLoader): the same work for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.workload import CAMERAS, Array

Sample = dict[str, Any]


def resize_224(sample: Sample) -> Sample:
    """Pictures to 224 x 224, bilinear, uint8: what OpenVLA and pi0 feed."""
    return sample | {camera: _resized(sample[camera], 224) for camera in CAMERAS}


def siglip_384(sample: Sample) -> Sample:
    """Pictures to 384 x 384, float32 in [-1, 1], channels first: what SigLIP takes. 13.5 times the bytes of what was decoded."""
    made = sample.copy()
    for camera in CAMERAS:
        pictures = _resized(sample[camera], 384)
        values = np.empty((len(pictures), 3, 384, 384), np.float32)
        np.multiply(pictures.transpose(0, 3, 1, 2), np.float32(2 / 255), out=values)
        values -= 1
        made[camera] = values
    return made


def _resized(pictures: Array, size: int) -> Array:
    from PIL import Image

    made = np.empty((len(pictures), size, size, 3), np.uint8)
    for picture, target in zip(pictures, made):
        target[...] = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)
    return made


@dataclass(frozen=True)
class OfTensors:
    """The same transform for samples of tensors. Nothing is copied on the way in or out."""

    transform: Callable[[Sample], Sample]

    def __call__(self, sample: Sample) -> Sample:
        import torch

        arrays = {key: value.numpy() if hasattr(value, "numpy") else value for key, value in sample.items()}
        made = self.transform(arrays)
        return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in made.items()}
