"""Numbers of rows and episodes that a caller gave, checked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName

Int64 = npt.NDArray[np.int64]


def whole_numbers(kind: str, given: npt.ArrayLike, count: int) -> Int64:
    """Return (n,) numbers of rows or episodes (`kind`), each in [0, count), as int64. Raises OptionError, UnknownName."""
    if isinstance(given, range) and given.step == 1:
        made = np.arange(given.start, given.stop, dtype=np.int64)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes, np.ndarray)):
        made = np.asarray(list(given))
    else:
        made = np.asarray(given)
    made = np.atleast_1d(made)
    if not made.size:
        return np.empty(0, np.int64)
    if made.ndim != 1 or made.dtype.kind not in "iu":
        raise OptionError(f"{kind}s are whole numbers", found=f"{made.dtype} of shape {made.shape}")
    wrong = (made < 0) | (made >= count)
    if wrong.any():
        raise UnknownName.among(kind, int(made[wrong.argmax()]), [f"0 to {count - 1}"])
    return made.astype(np.int64)
