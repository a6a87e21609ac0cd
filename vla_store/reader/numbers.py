"""Numbers of rows and episodes that a caller gave, checked: numbers, a slice, or a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName

Int64 = npt.NDArray[np.int64]


def whole_numbers(kind: str, given: npt.ArrayLike | slice, count: int) -> Int64:
    """Return (n,) numbers of rows or episodes (`kind`), each in [0, count), as int64.

    given: the numbers, one or several; a slice, as of a list of all; or a mask of all, (count,) bool.
    Raises OptionError, UnknownName.
    """
    if isinstance(given, slice):
        return _sliced(kind, given, count)
    if isinstance(given, range) and given.step == 1:
        made = np.arange(given.start, given.stop, dtype=np.int64)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)) and not hasattr(given, "__array__"):
        made = np.asarray(list(given))
    else:
        made = np.asarray(given)
    if made.dtype == bool and made.ndim == 1:
        return _masked(kind, made, count)
    made = np.atleast_1d(made)
    if not made.size:
        return np.empty(0, np.int64)
    if made.ndim != 1 or made.dtype.kind not in "iu":
        raise OptionError(f"{kind}s are whole numbers, a slice or a mask", found=f"{made.dtype} of shape {made.shape}")
    wrong = (made < 0) | (made >= count)
    if wrong.any():
        raise UnknownName.among(kind, int(made[wrong.argmax()]), [f"0 to {count - 1}"])
    return made.astype(np.int64)


def _sliced(kind: str, given: slice, count: int) -> Int64:
    try:
        return np.arange(*given.indices(count), dtype=np.int64)
    except (TypeError, ValueError) as error:  # of texts or fractions, or a step of 0
        raise OptionError(f"not a slice of {kind}s", found=repr(given)[:100], reason=error) from None


def _masked(kind: str, mask: npt.NDArray[Any], count: int) -> Int64:
    if len(mask) != count:
        raise OptionError(
            f"a mask of {kind}s says True or False of each of them",
            expected=f"{count:,} values, one for each {kind} of the store",
            found=f"{len(mask):,}",
        )
    return np.flatnonzero(mask).astype(np.int64, copy=False)
