"""bfloat16 beside NumPy's dtypes: its bits in a dtype that says what they are, rounded as torch rounds them.

NumPy has no bfloat16. Arrays of `BFLOAT16` lie and travel as any others do, and `vla_store.torch` takes them as torch's; whoever only
has NumPy never meets one. Pure functions over arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NAME = "bfloat16"
BFLOAT16 = np.dtype([(NAME, "<u2")])
LARGEST = float(np.uint32(0x7F7F << 16).view(np.float32))
DIGITS = 7  # bits of its fraction
_HALF, _ONE, _BELOW = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)
_SIZE, _INFINITE, _NAN = np.uint32(0x7FFF), np.uint32(0x7F80), np.uint32(0x7FC0)


def rounded(values: Array) -> Array:
    """Return floating values as BFLOAT16, each the nearest one, of two as near the even one; of float64 by way of float32, as torch does.

    With `np.errstate(over="raise")` FloatingPointError is raised where a finite value becomes infinite, as NumPy's own casts do.
    """
    single = np.ascontiguousarray(values, np.float32)
    bits = single.view(np.uint32)
    made = bits >> _HALF
    made &= _ONE
    made += _BELOW
    made += bits
    made >>= _HALF
    is_nan = np.isnan(single)
    if is_nan.any():
        made[is_nan] = _NAN  # whose bits might have been rounded to those of a number
    if np.geterr()["over"] == "raise" and ((made & _SIZE) == _INFINITE)[np.isfinite(single)].any():
        raise FloatingPointError("overflow encountered in a cast to bfloat16")
    return made.astype("<u2").view(BFLOAT16).reshape(np.shape(values))


def widened(values: Array) -> Array:
    """Return BFLOAT16 values as float32, which holds each of them."""
    return (values.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return floating values in a dtype that fields are converted to, as a fresh array."""
    return rounded(values) if dtype == BFLOAT16 else values.astype(dtype)


def name_of(dtype: np.dtype[Any]) -> str:
    """Return what people call a dtype."""
    return NAME if dtype == BFLOAT16 else dtype.name


def digits_of(dtype: np.dtype[Any]) -> int:
    """Return the bits of the fraction of a floating dtype."""
    return DIGITS if dtype == BFLOAT16 else int(np.finfo(dtype).nmant)


def largest_of(dtype: np.dtype[Any]) -> float:
    """Return the largest finite number of a floating dtype."""
    return LARGEST if dtype == BFLOAT16 else float(np.finfo(dtype).max)
