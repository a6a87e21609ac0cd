"""A chart of points as an SVG that is text, the same for the same figures: two axes, grid lines, labels that cover nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

WIDTH, HEIGHT = 720, 420
LEFT, TOP, RIGHT, BOTTOM = 70, 24, 30, 50
LETTER = 6.4  # how wide one is, about


class Axis:
    """From a value to where it lies. is_log: equal ratios, not equal differences, are equally far apart."""

    def __init__(self, low: float, high: float, ticks: Iterable[float], title: str, is_log: bool = True) -> None:
        self.low, self.high, self.ticks, self.title = low, high, list(ticks), title
        self._is_log = is_log

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        if self._is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


class Chart:
    """Points are added one by one; `text` is the picture."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self._taken: list[tuple[float, float, float, float]] = []
        self._lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        ]
        self._lines += [
            f'<path d="M{self.at_x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
            f'<text x="{self.at_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
            for tick in x.ticks
        ]
        self._lines += [
            f'<path d="M{LEFT} {self.at_y(tick):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{self.at_y(tick) + 4:.1f}" text-anchor="end">{tick:,.0f}</text>'
            for tick in y.ticks
        ]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self._lines.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{html.escape(x.title, quote=False)}</text>'
            f'<text x="16" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 16 {middle})">{html.escape(y.title, quote=False)}</text>'
        )

    def at_x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * self._x.share(value)

    def at_y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self._y.share(value)

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Join points."""
        path = "L".join(f"{self.at_x(x):.1f} {self.at_y(y):.1f}" for x, y in points)
        self._lines.append(f'<path d="M{path}" stroke="{colour}" fill="none"/>')

    def points(self, points: Sequence[tuple[str, float, float, str]]) -> None:
        """Add points (label, x, y, colour): all at once, so that no label covers one that comes later."""
        self._taken += [
            (self.at_x(x) - 5, self.at_y(y) - 5, self.at_x(x) + 5, self.at_y(y) + 5) for _, x, y, _ in points
        ]
        for label, x, y, colour in points:
            anchor, text_x, text_y = self._place(self.at_x(x), self.at_y(y), LETTER * len(label))
            self._lines.append(
                f'<circle cx="{self.at_x(x):.1f}" cy="{self.at_y(y):.1f}" r="4" fill="{colour}"/>'
                f'<text x="{text_x:.1f}" y="{text_y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(label)}</text>'
            )

    def text(self) -> str:
        return "\n".join([*self._lines, "</svg>"]) + "\n"

    def _place(self, x: float, y: float, length: float) -> tuple[str, float, float]:
        """Where the text beside a point covers no other; its box is added to those taken."""
        for rise in (-6, 14, -20, 28, -34, 42):
            for anchor, left in (("start", x + 8), ("end", x - 8 - length)):
                box = (left, y + rise - 11, left + length, y + rise + 3)
                inside = box[0] > 0 and box[2] < WIDTH
                if inside and not any(
                    box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
                    for other in self._taken
                ):
                    self._taken.append(box)
                    return anchor, left if anchor == "start" else left + length, y + rise
        return "start", x + 8, y - 6
