"""Reading the background of an episode from its source."""

from __future__ import annotations

import numpy as np

from vla_store.builder.sources import Array, EpisodeSource
from vla_store.format import predictions


def read_background(source: EpisodeSource, number: int, steps: int, camera: str) -> Array:
    """An episode's background: the mode of 16 of its frames; the pictures between them are not read."""
    rows = predictions.background_rows(steps)
    return predictions.background_of(np.concatenate([source.read(number, camera, row, row + 1) for row in rows]))
