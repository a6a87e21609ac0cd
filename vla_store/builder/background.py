"""Reading the background of an episode from its source."""

from __future__ import annotations

import numpy as np

from vla_store.builder.sources import Array, EpisodeSource, read_rows
from vla_store.format import predictions


def read_background(
    source: EpisodeSource, number: int, steps: int, camera: str, dtype: str, shape: tuple[int, ...]
) -> Array:
    """An episode's background: the mode of 16 of its frames; the pictures between them are not read."""
    rows = predictions.background_rows(steps)
    frames = [read_rows(source, number, camera, dtype, shape, row, row + 1) for row in rows]
    return predictions.background_of(np.concatenate(frames))
