"""Predictions: what is subtracted from a frame before it is encoded, modulo 2^bits, and how it is added again.

A prediction is an ordered list of names, applied in order and undone in reverse; one frame needs at most its episode's
background, never another frame. Only unsigned integer pictures are predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

KNOWN = ("background", "green", "above")

BACKGROUND_FRAMES = 16
PROBE_FRAMES = 64

Frames = np.ndarray[Any, Any]


def spread_rows(count: int, rows: int) -> list[int]:
    """`count` >= 2 row numbers spread evenly over [0, rows), both ends included: (2 k (rows-1) + count-1) // (2 (count-1))."""
    return [(2 * k * (rows - 1) + count - 1) // (2 * (count - 1)) for k in range(count)]


def background_rows(steps: int) -> list[int]:
    """Which steps of an episode its background is taken from: 16 spread evenly; all where there are fewer."""
    return list(range(steps)) if steps < BACKGROUND_FRAMES else spread_rows(BACKGROUND_FRAMES, steps)


def probe_rows(rows: int) -> list[int]:
    """Which rows of a part the probe encodes: 64 spread evenly (a short part repeats some)."""
    return spread_rows(PROBE_FRAMES, rows)


def background_of(frames: Frames) -> Frames:
    """The mode over axis 0 of (K, ...) unsigned frames, ties to the smaller value."""
    ordered = np.sort(frames, axis=0)
    best: Frames = ordered[0].copy()
    best_run = np.ones(best.shape, np.uint16)
    run = np.ones(best.shape, np.uint16)
    for k in range(1, len(ordered)):
        run = np.where(ordered[k] == ordered[k - 1], run + 1, 1).astype(np.uint16)
        longer = run > best_run  # strictly: of two values as frequent, the smaller came first
        best[longer] = ordered[k][longer]
        best_run[longer] = run[longer]
    return best


def apply(frames: Frames, prediction: Sequence[str], background: Frames | None = None) -> Frames:
    """(N, H, W, C) residuals of (N, H, W, C) unsigned frames. `background`: (H, W, C), or (N, H, W, C)."""
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
    """Undo, in place, all of `prediction` but "background" on (N, H, W, C) residuals.

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


def valid(prediction: Sequence[str], dtype: str, channels: int) -> bool:
    """Whether a list can stand in a store: known names, each once, `background` first, unsigned pictures, `green` on 3 channels."""
    return not prediction or (
        len(set(prediction)) == len(prediction)
        and set(prediction) <= set(KNOWN)
        and "background" not in prediction[1:]
        and dtype in ("uint8", "uint16")
        and ("green" not in prediction or channels == 3)
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
