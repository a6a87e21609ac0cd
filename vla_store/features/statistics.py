"""Statistics that LeRobot's loader normalises by, of an episode and of all, each exact where memory allows.

Pure numbers; imports nothing of this package.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
KEPT_NBYTES = 64 << 20  # of the rows that quantiles are taken of; every second, fourth, ... where there are more


class NumberStatistics:
    """Statistics of the finite numbers of a feature, component by component.

    Parameters
    ----------
    shape
        Shape of one row.
    is_whole
        True: least and largest are whole numbers.
    """

    def __init__(self, shape: tuple[int, ...], *, is_whole: bool) -> None:
        self._shape, self._is_whole = shape, is_whole
        self._rows = 0
        self._count: Any = np.zeros(shape)
        self._mean: Any = np.zeros(shape)
        self._squares: Any = np.zeros(shape)
        self._least: Any = np.full(shape, np.inf)
        self._largest: Any = np.full(shape, -np.inf)
        self._most = max(16, KEPT_NBYTES // max(8, 8 * int(np.prod(shape))))
        self._stride = 1
        self._kept: list[Array] = []
        self._kept_rows = 0

    def add(self, rows: Array) -> None:
        """Take (n, *shape) rows; those of one number also as (n,)."""
        values = rows.astype(np.float64).reshape(len(rows), *self._shape)
        finite = np.isfinite(values)
        count = finite.sum(axis=0)
        filled = np.where(finite, values, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(finite, values - mean, 0.0) ** 2).sum(axis=0)
        both = np.maximum(self._count + count, 1)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart**2 * self._count * count / both
        self._mean = self._mean + apart * count / both
        self._count = self._count + count
        self._least = np.minimum(self._least, np.where(finite, values, np.inf).min(axis=0))
        self._largest = np.maximum(self._largest, np.where(finite, values, -np.inf).max(axis=0))
        kept = values[-self._rows % self._stride :: self._stride]
        self._rows += len(values)
        self._kept.append(kept)
        self._kept_rows += len(kept)
        while self._kept_rows > self._most:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._kept_rows, self._stride = len(self._kept[0]), 2 * self._stride

    def result(self) -> dict[str, Array]:
        """Return min, max, mean, std, count and QUANTILES; 0 for a component without a finite number."""
        has = self._count > 0
        exact = np.int64 if self._is_whole else np.float64
        kept = np.concatenate(self._kept) if self._kept else np.zeros((0, *self._shape))
        kept = np.where(np.isfinite(kept), kept, np.nan)
        has_kept = np.isfinite(kept).any(axis=0)
        safe = np.where(has_kept, kept, 0.0)
        quantiles = np.nanquantile(safe, list(QUANTILES.values()), axis=0) if len(kept) else np.zeros((5, *self._shape))
        return {
            "min": np.where(has, self._least, 0).astype(exact),
            "max": np.where(has, self._largest, 0).astype(exact),
            "mean": np.asarray(self._mean),
            "std": np.sqrt(self._squares / np.maximum(self._count, 1)),
            "count": np.array([self._rows]),
            **dict(zip(QUANTILES, quantiles)),
        }


class PictureStatistics:
    """Statistics of the pixels of 8 bits of a camera, channel by channel, from 0 to 1.

    Parameters
    ----------
    channels
        How many channels there are.
    """

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)
        self._rows = 0

    def add(self, rows: Array) -> None:
        """Take (n, H, W, C) pictures."""
        self._rows += len(rows)
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(rows[..., channel].reshape(-1), minlength=256)

    def merge(self, other: PictureStatistics) -> None:
        """Take the pictures that others have taken."""
        self._counts += other._counts
        self._rows += other._rows

    def result(self) -> dict[str, Array]:
        """Return what `NumberStatistics.result` does, of shape (C, 1, 1); count is of pictures."""
        levels = np.arange(256) / 255
        totals = self._counts.sum(axis=1)
        mean = self._counts @ levels / totals
        spread = np.stack([counts @ (levels - each) ** 2 for counts, each in zip(self._counts, mean)]) / totals
        seen = self._counts > 0
        found = {
            "min": levels[seen.argmax(axis=1)],
            "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(spread),
        }
        below = np.cumsum(self._counts, axis=1)
        for name, share in QUANTILES.items():
            found[name] = np.array([_quantile(each, levels, share) for each in below])
        shaped = {name: each.reshape(-1, 1, 1) for name, each in found.items()}
        return {**shaped, "count": np.array([self._rows])}


def _quantile(below: Array, levels: Array, share: float) -> float:
    """Return what np.quantile gives of values of which `below` counts those up to each level."""
    at = share * (below[-1] - 1)
    low, high = (levels[np.searchsorted(below, np.floor(at) + more, side="right")] for more in (0, at % 1 > 0))
    return float(low + (high - low) * (at % 1))
