"""Which steps of an episode are shown, and how fast. Pure."""

from __future__ import annotations

DEFAULT_FPS = 20.0  # LIBERO's control rate, where a source does not say its own
TICKS = 8


def spread_steps(length: int, count: int) -> tuple[int, ...]:
    """Return the first step, the last, and evenly spread ones between them; all where they are no more than `count`."""
    count = min(length, count)
    return (0,) if count == 1 else tuple((2 * k * (length - 1) + count - 1) // (2 * (count - 1)) for k in range(count))


def tick_steps(length: int, at_most: int) -> tuple[int, ...]:
    """Return even steps to number on an axis, 1, 2 or 5 times a power of ten apart, no more than `at_most`, and the last.

    One that stands so near to the last that their numbers would touch is left out.
    """
    last = length - 1
    apart = next(f * 10**power for power in range(20) for f in (1, 2, 5) if last <= f * 10**power * at_most)
    return (*(step for step in range(0, last, apart) if step == 0 or 2 * (last - step) >= apart), last)
