"""Caches of bounded size. Imports nothing of this package."""

from __future__ import annotations

import contextlib
from typing import Any


def keep(held: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Put a value into a dict of bounded size; where it is full, the value put there first goes.

    Safe under threads, without a lock that a fork could leave held.

    Parameters
    ----------
    held
        The dict, which is changed.
    key
        Key of the value.
    value
        The value.
    most
        How many values it holds at most.
    """
    held[key] = value
    while len(held) > most:
        with contextlib.suppress(StopIteration, RuntimeError):  # another thread was faster
            held.pop(next(iter(held)), None)
