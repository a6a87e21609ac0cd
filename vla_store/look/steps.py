"""Which steps of an episode are shown, and how fast. Pure."""

from __future__ import annotations

DEFAULT_FPS = 20.0  # LIBERO's control rate, where a source does not say its own


def spread_steps(length: int, count: int) -> tuple[int, ...]:
    """Return the first step, the last, and evenly spread ones between them; all where they are no more than `count`."""
    count = min(length, count)
    return (0,) if count == 1 else tuple((2 * k * (length - 1) + count - 1) // (2 * (count - 1)) for k in range(count))
