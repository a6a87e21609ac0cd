"""Numbers of rows, episodes and samples that a caller gave, checked: numbers, a slice, or a mask."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, index_of

Int64 = npt.NDArray[np.int64]


def whole_numbers(kind: str, given: npt.ArrayLike | slice, count: int) -> Int64:
    """Return (n,) numbers of rows or episodes (`kind`), each in [0, count), as int64.

    given: the numbers, one or several; a slice, as of a list of all; or a mask of all, (count,) bool. A mask with an index, as pandas
    has them, says by it which is which.
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
    if made.dtype == object and made.ndim == 1:
        made = _without_missing(kind, made)
    if made.dtype == bool and made.ndim == 1:
        return _masked(kind, _in_order(kind, made, given, count), count)
    made = np.atleast_1d(made)
    if not made.size:
        return np.empty(0, np.int64)
    if made.ndim != 1 or made.dtype.kind not in "iu":
        raise OptionError(f"{kind}s are whole numbers, a slice or a mask", found=f"{made.dtype} of shape {made.shape}")
    wrong = (made < 0) | (made >= count)
    if wrong.any():
        number = int(made[wrong.argmax()])
        from_end = f"slice({number}, {number + 1 or None})"
        hint = f"negative numbers do not count from the end here; use {from_end}" if number < 0 else ""
        raise UnknownName.among(kind, number, [f"0 to {count - 1}"], hint=hint)
    return made.astype(np.int64)


def one_number(kind: str, given: Any) -> int:
    """Return the number of one sample, row or episode (`kind`), NumPy's or Python's. Raises TypeError for others: a bool is none."""
    with contextlib.suppress(TypeError):
        return index_of(given)
    raise TypeError(f"one {kind} has one whole number, and this is {repr(given)[:60]}") from None


def _sliced(kind: str, given: slice, count: int) -> Int64:
    try:
        return np.arange(*given.indices(count), dtype=np.int64)
    except (TypeError, ValueError) as error:  # of texts or fractions, or a step of 0
        raise OptionError(f"not a slice of {kind}s", found=repr(given)[:100], reason=error) from None


def _without_missing(kind: str, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a mask of objects, as pandas has them, as one of bools; what is no mask as it is. Raises OptionError for missing values."""
    bools = [isinstance(each, (bool, np.bool_)) for each in mask]
    missing = sum(
        1
        for each in mask
        if each is None or type(each).__name__ == "NAType" or (isinstance(each, float) and np.isnan(each))
    )
    if not any(bools) or sum(bools) + missing < len(mask):
        return mask
    if missing:
        raise OptionError(
            f"a mask of {kind}s has missing values",
            expected="True or False of each",
            found=f"{missing:,} of {len(mask):,} are missing",
            hint="mask.fillna(False) takes them for False",
        )
    return mask.astype(bool)


def _in_order(kind: str, mask: npt.NDArray[Any], given: Any, count: int) -> npt.NDArray[Any]:
    """Return a mask in the store's order: that of its index, where it has one. Raises OptionError for an index that is none of all."""
    index = getattr(given, "index", None)
    if not (hasattr(given, "to_numpy") and hasattr(index, "to_numpy")) or len(mask) != count:
        return mask
    numbers = np.asarray(index)
    if numbers.dtype.kind not in "iu" or not np.array_equal(np.sort(numbers), np.arange(count)):
        raise OptionError(
            f"a mask with an index says by it which {kind} each value is of",
            expected=f"each of 0 to {count - 1} once, in any order",
            found=f"{repr(numbers[:3].tolist())[1:-1][:60]}, ...",
            hint=f"mask.to_numpy(), where the mask has the order of the store's {kind}s; or give the numbers of {kind}s",
        )
    ordered = np.empty_like(mask)
    ordered[numbers] = mask
    return ordered


def _masked(kind: str, mask: npt.NDArray[Any], count: int) -> Int64:
    if len(mask) != count:
        raise OptionError(
            f"a mask of {kind}s says True or False of each of them",
            expected=f"{count:,} values, one for each {kind} of the store",
            found=f"{len(mask):,}",
        )
    return np.flatnonzero(mask).astype(np.int64, copy=False)
