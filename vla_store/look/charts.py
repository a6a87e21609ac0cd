"""Paths and ticks of the small charts of a page; templates/charts.html draws them. Pure functions over histograms.

Every number is written with a fixed count of digits, so that the same values give the same bytes.
"""

from __future__ import annotations

import math

from vla_store.look.facts import Histogram


def bars(drawn: Histogram, x: float, y: float, width: float, height: float, gap: float = 0.0) -> str:
    """Return the SVG path of a histogram in this box. A bin that is not empty is at least a pixel high."""
    if len(drawn.counts) == 1:  # one value
        return f"M{x + width / 2 - 3:.1f} {y + height:.1f}v{-height:.1f}h6v{height:.1f}z"
    step = width / len(drawn.counts)
    return "".join(
        f"M{x + at * step + gap / 2:.1f} {y + height:.1f}v{-tall:.1f}h{step - gap:.1f}v{tall:.1f}z"
        for at, value in enumerate(drawn.counts)
        if value
        for tall in [max(1.0, height * value / drawn.most)]
    )


def outline(drawn: Histogram, most: int, width: float, height: float) -> str:
    """Return the SVG path of the upper edge of a histogram, scaled so that a count of `most` fills the height."""
    step = width / len(drawn.counts)
    heights = [height - 1 - (height - 3) * count / most for count in drawn.counts]
    path = "".join(f"H{step * i:.1f}V{y:.1f}" for i, y in enumerate(heights))
    return f"M0 {height - 1}{path}H{width}V{height - 1}"


def ticks(low: float, high: float, at_most: int) -> list[float]:
    """Return round numbers from low to high: steps of 1, 2 or 5 times a power of ten, no more than `at_most` steps."""
    if not high > low:
        return [float(low)]
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]
