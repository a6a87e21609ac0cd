"""Drawing by matplotlib, which the sheet and the film share: pages on which all is placed in inches from the top left, and panels of
curves. Needs the extra `plots`."""

from __future__ import annotations

import contextlib
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import MachineError
from vla_store.extras import needed
from vla_store.format.views import runs_of
from vla_store.look.curves import Curves, Floats, Panel
from vla_store.text import shown

SMALL = 8.0  # points
TITLE_MORE = 0.08  # inches by which the title of a panel may be longer than it is high
COLOURS = ("#1f5fa8", "#d1652a", "#2e8b57", "#8e44ad", "#b8860b", "#c0392b", "#16808a", "#6b7280")
INK, SOFT, LINES, IDLE = "#1d2430", "#5c6675", "#cfd5de", "#e9ecf1"


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Use matplotlib's own defaults, whatever the user's settings say. Raises MachineError where it is not installed."""
    try:
        matplotlib = needed("matplotlib", "plots")
    except MachineError as error:
        raise MachineError(
            "drawing needs matplotlib, which is not installed here",
            found=str(error.__cause__),
            hint='pip install "vla-store[plots]"; `vla-store report` needs no matplotlib',
        ) from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"text.parse_math": False, "font.size": SMALL, "axes.unicode_minus": False, "svg.hashsalt": "vla_store"}
        )
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn for it
        yield


class Page:
    """A figure of so many inches. Use it in `plain_style`.

    Parameters
    ----------
    width, height
        In inches.
    dpi
        Pixels an inch.
    """

    def __init__(self, width: float, height: float, dpi: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height, self.dpi = width, height, dpi
        self.figure: Any = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
        self.canvas: Any = FigureCanvasAgg(self.figure)
        self.renderer: Any = self.canvas.get_renderer()

    def axes(self, x: float, y: float, wide: float, high: float) -> Any:
        """Add axes with their top left at (x, y)."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + high) / self.height, wide / self.width, high / self.height)
        )

    def text(self, x: float, y: float, text: str, size: float, colour: str, room: float, **more: Any) -> None:
        """Draw text with its top at y, smaller where it would be wider than `room`."""
        made = self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, color=colour, va="top", **more
        )
        self.fit(made, made.get_window_extent(self.renderer).width, room * self.dpi)

    def fit(self, text: Any, long: float, room: float) -> None:
        """Make a text smaller that is as long as this, and longer than its room."""
        if long > room:
            text.set_fontsize(text.get_fontsize() * room / long)


@dataclass(frozen=True)
class Frame:
    """How panels lie on the axis of steps, which has these limits, numbers at `ticks`, and lines at `marks`."""

    length: int
    limits: tuple[float, float]
    ticks: Sequence[int]
    marks: Sequence[int]


def draw_panel(page: Page, axes: Any, panel: Panel, curves: Curves, frame: Frame, *, is_last: bool) -> None:
    """Draw a panel with its legend above it, and below it the numbers of steps where it is the last."""
    axes.set_xlim(frame.limits)
    for step in frame.marks:
        axes.axvline(step, color=LINES, linewidth=0.6, zorder=0)
    if curves.idle is not None:
        for start, stop in runs_of(curves.idle).tolist():
            axes.axvspan(start - 0.5, stop - 0.5, color=IDLE, linewidth=0, zorder=-1)
    lines = _curves(axes, panel, frame.length, 0, "-")
    seconds = []
    if panel.right is not None:
        second = axes.twinx()
        seconds.append(second)
        second.set_xlim(frame.limits)
        lines += _curves(second, panel.right, frame.length, len(panel.names), "--")
    axes.set_xticks(frame.ticks)
    axes.set_xticklabels([f"{step:,}" for step in frame.ticks] if is_last else [])
    # In one line, and beside the panel, of whatever length the names are.
    legend = _legend(axes, lines, SMALL - 1)
    wide = legend.get_window_extent(page.renderer).width
    if wide > axes.bbox.width:
        _legend(axes, lines, (SMALL - 1) * axes.bbox.width / wide)
    for each in [axes, *seconds]:
        title = each.yaxis.label
        page.fit(title, title.get_window_extent(page.renderer).height, axes.bbox.height + TITLE_MORE * page.dpi)
    if is_last:
        axes.set_xlabel("step", fontsize=SMALL, color=SOFT, labelpad=2)


def _legend(axes: Any, lines: list[Any], size: float) -> Any:
    return axes.legend(
        handles=lines, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(lines), fontsize=size, facecolor="white",
        edgecolor="none", framealpha=1, borderaxespad=0.0, handlelength=1.4, columnspacing=1.2, borderpad=0.1,
    )  # fmt: skip


def _curves(axes: Any, panel: Panel, length: int, first_colour: int, style: str) -> list[Any]:
    """Draw the curves of a panel on one scale, and return their lines."""
    lines = [
        axes.plot(
            np.arange(length),
            panel.values[:, number],
            color=COLOURS[(first_colour + number) % len(COLOURS)],
            linewidth=1.1,
            linestyle=style,
            label=shown(name),
            marker="o" if length == 1 else None,
            markersize=3,
        )[0]
        for number, name in enumerate(panel.names)
    ]
    _trim(axes, panel.values)
    axes.set_ylabel(shown(panel.title), fontsize=SMALL, color=INK)
    axes.tick_params(labelsize=SMALL - 1, colors=SOFT, length=3, width=0.6)
    axes.locator_params(axis="y", nbins=5)
    for spine in axes.spines.values():
        spine.set_color(LINES)
        spine.set_linewidth(0.8)
    return lines


def _trim(axes: Any, values: Floats) -> None:
    """Set limits a little outside of the finite values, with some room around a constant."""
    finite = values[np.isfinite(values)]
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


def wrapped(text: str, width: int, at_most: int) -> list[str]:
    """Wrap a text into lines of at most `width` characters; the last one ends in an ellipsis where there would be more."""
    return textwrap.wrap(text, width, max_lines=at_most, placeholder=" ...", break_on_hyphens=False)
