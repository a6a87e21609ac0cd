"""The episode table by the names of its columns. Imports NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Entries = npt.NDArray[np.void]


def table_dtype(columns: Sequence[str]) -> np.dtype[Any]:
    """Return the dtype of one row: an int64 of each of these names."""
    return np.dtype([(name, "<i8") for name in columns])


def named(table: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> Entries:
    """View (n, columns) numbers as (n,) entries: `entries["length"]` are the lengths."""
    entries: Entries = np.ascontiguousarray(table).view(dtype).reshape(len(table))
    return entries
