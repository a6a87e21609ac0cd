"""Small charts as inline SVG, in the colours of the page that they stand in. Pure functions: numbers to text.

Every number is written with a fixed count of digits, so that the same values give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vla_store.look.facts import Histogram
from vla_store.look.text import escaped, number_text


def sparkline(drawn: Histogram, label: str, width: int = 150, height: int = 30, kind: str = "") -> str:
    """A histogram without axes; `kind` is a class that colours its bars. A bin that is not empty is at least a pixel high."""
    return (
        f'<svg class="chart {kind}" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(label)}"><path d="{_bars(drawn, 0, 0, width, height)}"/>'
        f'<path class="axis" d="M0 {height - 0.5}H{width}"/></svg>'
    )


def overlaid(drawn: Sequence[Histogram], kinds: Sequence[str], label: str, width: int = 300, height: int = 70) -> str:
    """Several histograms of the same bins as lines, one above the other."""
    top = max((max(each.counts) for each in drawn), default=1)
    lines = []
    for each, kind in zip(drawn, kinds):
        step = width / len(each.counts)
        heights = [height - 1 - (height - 3) * count / top for count in each.counts]
        path = "".join(f"H{step * i:.1f}V{y:.1f}" for i, y in enumerate(heights))
        lines.append(f'<path class="line {kind}" d="M0 {height - 1}{path}H{width}V{height - 1}"/>')
    return (
        f'<svg class="chart" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(label)}">{"".join(lines)}<path class="axis" d="M0 {height - 0.5}H{width}"/></svg>'
    )


def bar(share: float, label: str, width: int = 220, height: int = 12) -> str:
    """One horizontal bar; a share above 0 is at least a pixel long."""
    filled = max(1.0, width * share) if share > 0 else 0.0
    return (
        f'<svg class="chart" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(label)}"><path class="empty" d="M0 0H{width}V{height}H0Z"/>'
        f'<path d="M0 0H{filled:.1f}V{height}H0Z"/></svg>'
    )


def with_axes(drawn: Histogram, label: str, unit: str, counted: str, width: int = 720, height: int = 190) -> str:
    """A histogram of whole numbers, with `unit` under it and what is `counted` up the side."""
    left, right, top, bottom = 52, 12, 20, 40
    inner_width, inner_height = width - left - right, height - top - bottom
    most = max(drawn.counts)
    parts = []
    for value in filter(float.is_integer, ticks(0, most, 4)):
        y = top + inner_height * (1 - value / most)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{int(value):,}</text>')
    parts.append(f'<path d="{_bars(drawn, left, top, inner_width, inner_height, gap=1.0)}"/>')
    span = drawn.high - drawn.low
    for value in filter(float.is_integer, ticks(drawn.low, drawn.high, 8)):
        x = left + inner_width * ((value - drawn.low) / span if span else 0.5)
        parts.append(f'<path class="axis" d="M{x:.1f} {top + inner_height}v4"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{top + inner_height + 17}" text-anchor="middle">{number_text(value)}</text>'
        )
    parts.append(f'<path class="axis" d="M{left} {top + inner_height + 0.5}H{width - right}"/>')
    parts.append(f'<text x="{left + inner_width / 2:.1f}" y="{height - 4}" text-anchor="middle">{escaped(unit)}</text>')
    parts.append(f'<text x="{left}" y="11">{escaped(counted)}</text>')
    return (
        f'<svg class="chart large" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escaped(label)}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, at_most: int) -> list[float]:
    """Round numbers from low to high: steps of 1, 2 or 5 times a power of ten, no more than `at_most` steps."""
    if not high > low:
        return [float(low)]
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _bars(drawn: Histogram, x: float, y: float, width: float, height: float, gap: float = 0.0) -> str:
    most, count = max(drawn.counts), len(drawn.counts)
    if count == 1:  # one value
        return f"M{x + width / 2 - 3:.1f} {y + height:.1f}v{-height:.1f}h6v{height:.1f}z"
    step = width / count
    path = []
    for at, value in enumerate(drawn.counts):
        if value:
            tall = max(1.0, height * value / most)
            path.append(f"M{x + at * step + gap / 2:.1f} {y + height:.1f}v{-tall:.1f}h{step - gap:.1f}v{tall:.1f}z")
    return "".join(path)
