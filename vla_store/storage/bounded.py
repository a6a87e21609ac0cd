"""Caches of bounded size. Imports nothing of this package."""

from __future__ import annotations

import contextlib
from typing import Any


def keep(held: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Put a value into a dict that holds at most `most`; the one put there first goes. Safe under threads, without a lock
    that a fork could leave held."""
    held[key] = value
    while len(held) > most:
        with contextlib.suppress(StopIteration, RuntimeError):  # another thread was faster
            held.pop(next(iter(held)), None)
