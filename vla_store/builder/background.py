"""Reading the background of an episode from its source."""

from __future__ import annotations

import numpy as np

from vla_store.format import predictions
from vla_store.sources.protocol import Array, EpisodeSource, read_rows


def read_background(
    source: EpisodeSource, number: int, steps: int, camera: str, dtype: str, shape: tuple[int, ...]
) -> Array:
    """An episode's background: the mode of 16 of its frames; the pictures between them are not read."""
    rows = predictions.background_rows(steps)
    # In one expression, so that the pictures are let go once they are in one array.
    return predictions.background_of(
        np.concatenate([read_rows(source, number, camera, dtype, shape, row, row + 1) for row in rows])
    )
