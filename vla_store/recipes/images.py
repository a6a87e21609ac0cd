"""Pictures as policies of convolutions take them. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def channels_first(frames: Array, empty: Callable[[tuple[int, ...], Any], Array]) -> Array:
    """Return pictures (..., H, W, C) of 0 to 255 as (..., C, H, W) float32 of 0 to 1. empty: makes that array."""
    *axes, height, width, channels = frames.shape
    return fill_channels_first(frames, empty((*axes, channels, height, width), np.float32))


def fill_channels_first(frames: Array, out: Array) -> Array:
    """Put such pictures into `out`, and return it."""
    out[...] = np.moveaxis(frames, -1, -3)
    return np.divide(out, 255.0, out=out)  # in a step of its own: contiguous numbers are divided many at once
