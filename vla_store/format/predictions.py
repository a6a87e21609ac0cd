"""Predictions: what is subtracted from a frame before it is encoded, modulo 2^bits, and how it is added again.

A prediction is an ordered list of names, applied in order and undone in reverse; one frame needs at most its episode's
background, never another frame. Only unsigned integer pictures are predicted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

KNOWN = ("background", "green", "above")
DTYPES = ("uint8", "uint16")  # what can be predicted

BACKGROUND_FRAMES = 16
PROBE_FRAMES = 64

Frames = np.ndarray[Any, Any]


def spread_rows(count: int, rows: int) -> list[int]:
    """`count` >= 2 row numbers spread evenly over [0, rows), both ends included: (2 k (rows-1) + count-1) // (2 (count-1))."""
    return [(2 * k * (rows - 1) + count - 1) // (2 * (count - 1)) for k in range(count)]


def background_rows(steps: int) -> list[int]:
    """Return which steps of an episode its background is taken from: 16 spread evenly; all where there are fewer."""
    return list(range(steps)) if steps < BACKGROUND_FRAMES else spread_rows(BACKGROUND_FRAMES, steps)


def probe_rows(rows: int) -> list[int]:
    """Return which rows of a part the probe encodes: 64 spread evenly (a short part repeats some)."""
    return spread_rows(PROBE_FRAMES, rows)


def background_of(frames: Frames) -> Frames:
    """Return the mode over axis 0 of (K, ...) unsigned frames, ties to the smaller value."""
    bits = 8 * frames.dtype.itemsize
    wide, top = np.dtype(f"uint{2 * bits}"), np.iinfo(frames.dtype).max
    ordered = list(frames.copy())
    spare = np.empty_like(ordered[0])
    for low, high in _sorting_network(len(ordered)):  # on whole pictures: twenty times as fast as np.sort over axis 0
        np.minimum(ordered[low], ordered[high], out=spare)
        np.maximum(ordered[low], ordered[high], out=ordered[high])
        ordered[low], spare = spare, ordered[low]
    # A run's length above its value's complement: of two values as frequent, the smaller is the maximum.
    run = np.ones(spare.shape, frames.dtype)
    best = (run.astype(wide) << bits) | (top - ordered[0])
    for k in range(1, len(ordered)):
        run *= ordered[k] == ordered[k - 1]
        run += 1
        np.maximum(best, (run.astype(wide) << bits) | (top - ordered[k]), out=best)
    found: Frames = (top - (best & top)).astype(frames.dtype)
    return found


@functools.lru_cache(maxsize=BACKGROUND_FRAMES)
def _sorting_network(count: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merges: pairs (low, high) which, each put in order in turn, sort `count` values."""
    pairs: list[tuple[int, int]] = []
    width = 1
    while width < count:
        step = width
        while step:
            for start in range(step % width, count - step, 2 * step):
                lows = range(start, min(start + step, count - step))
                pairs += [(low, low + step) for low in lows if low // (2 * width) == (low + step) // (2 * width)]
            step //= 2
        width *= 2
    return tuple(pairs)


def apply(frames: Frames, prediction: Sequence[str], background: Frames | None = None) -> Frames:
    """(N, H, W, ...) residuals of such unsigned frames. `background`: (H, W, ...), or (N, H, W, ...)."""
    residuals = frames
    for name in prediction:
        if name == "background":
            assert background is not None
            residuals = residuals - background
        elif name == "green":
            green = residuals[..., 1:2]
            residuals = np.concatenate([residuals[..., 0:1] - green, green, residuals[..., 2:3] - green], axis=-1)
        elif name == "above":
            above = np.zeros_like(residuals)
            above[:, 1:] = residuals[:, :-1]
            residuals = residuals - above
        else:
            raise ValueError(f"unknown prediction {name!r}")
    return residuals


def undo(residuals: Frames, prediction: Sequence[str]) -> None:
    """Undo, in place, all of `prediction` but "background" on (N, H, W, ...) residuals.

    "background" comes first in every list, so it is the last to undo: the caller adds it while moving frames into place.
    """
    for name in reversed(prediction):
        if name == "green":
            green = residuals[..., 1]
            np.add(residuals[..., 0], green, out=residuals[..., 0])
            np.add(residuals[..., 2], green, out=residuals[..., 2])
        elif name == "above":
            _add_rows(residuals)
        elif name != "background":
            raise ValueError(f"unknown prediction {name!r}")


def valid(prediction: Sequence[str], dtype: str, shape: Sequence[int]) -> bool:
    """Return whether a list can stand in a store: known names, each once, `background` first, pictures of DTYPES, `green` on 3 channels.

    shape: of a picture, (H, W) or (H, W, ...).
    """
    return not prediction or (
        len(set(prediction)) == len(prediction)
        and set(prediction) <= set(KNOWN)
        and "background" not in prediction[1:]
        and dtype in DTYPES
        and ("green" not in prediction or (len(shape) == 3 and shape[2] == 3))
    )


def _add_rows(frames: Frames) -> None:
    """Cumulative sum over the rows of each frame, in place. Over few frames shifted halves win, over many row after row."""
    height = frames.shape[1]
    if len(frames) < 8:
        shift = 1
        while shift < height:
            # The right side is computed into a temporary before it is written: source and target overlap.
            frames[:, shift:] = frames[:, shift:] + frames[:, :-shift]
            shift *= 2
    else:
        for row in range(1, height):
            np.add(frames[:, row], frames[:, row - 1], out=frames[:, row])
