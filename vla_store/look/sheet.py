"""One episode as a picture: its cameras at some steps, and under them, on the same axis of time, its curves.

`describe` reads; `draw` needs matplotlib (the extra `plots`), and nothing of the store.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import numpy as np

from vla_store.errors import whole_number
from vla_store.look.cameras import pictures_of
from vla_store.look.curves import Curves, Panel
from vla_store.look.drawing import INK, SMALL, SOFT, Frame, Page, draw_panel, plain_style, wrapped
from vla_store.look.episodes import shown_episode
from vla_store.look.events import events_of
from vla_store.look.pictures import Pictures
from vla_store.look.scene import Scene, scene_of
from vla_store.look.steps import TICKS, spread_steps, tick_steps
from vla_store.look.writing import Written, path_outside, placed
from vla_store.reader import Store
from vla_store.reader.values import Episode
from vla_store.types import Images

ENDINGS = (".png", ".svg", ".pdf")
EVENTS: Literal["events"] = "events"
STEPS = 8
MAX_STEPS = 24

# Inches and points of the picture.
WIDTH = 13.4
LEFT, RIGHT, EDGE = 0.95, 0.95, 0.2
LINE, TITLE = 0.17, 14.0
PANEL, GAP, AXIS = 1.25, 0.22, 0.36
RAYS, RAY = 0.3, "#9aa5b4"
MAX_PICTURE = 2.8
MIN_DPI, MAX_DPI = 110, 200
POINTS = 72  # an inch


@dataclass(frozen=True)
class Strip:
    """Pictures of one camera, (n, H, W, 3) uint8. note: the text above them."""

    camera: str
    note: str
    pictures: Pictures


@dataclass(frozen=True)
class Sheet:
    """Content of a sheet. steps: of the pictures."""

    title: str
    under_title: str
    length: int
    steps: tuple[int, ...]
    strips: tuple[Strip, ...]
    curves: Curves
    notes: tuple[tuple[str, str], ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return self.curves.panels


@dataclass(frozen=True, repr=False)
class SheetWritten(Written):
    """Where a sheet was written, its size, and which episode it shows. width, height: pixels of a .png, else points.
    shown: the steps of its pictures."""

    width: int
    height: int
    shown: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"height": self.height, "shown": list(self.shown), "width": self.width}

    @property
    def about(self) -> tuple[str, str]:
        return "picture", f"{self.width} x {self.height}" + ("" if self.path.suffix.lower() == ".png" else " points")


def write_sheet(
    store: Store | str | os.PathLike[str],
    episode: Episode | SupportsIndex | str,
    path: str | os.PathLike[str],
    *,
    steps: int | Literal["events"] = STEPS,
    images: Images = "upright",
) -> SheetWritten:
    """Draw an episode and write it to `path`, a PNG, SVG or PDF by its ending, replacing what is there.

    store, episode, images: as `write_episode` takes them. steps: pictures a camera, or "events": where the gripper changes.
    Raises OptionError, UsageError, MachineError (no matplotlib; the disk), and what reading raises.
    """
    store, episode = shown_episode(store, episode)
    made = path_outside(store, path, ENDINGS)  # before the work
    with placed(made) as temporary:
        sheet = describe(store, episode, steps=steps, images=images)
        data, (width, height) = draw(sheet, made.suffix.lower())
        temporary.write_bytes(data)
    return SheetWritten(made, len(data), episode, width, height, sheet.steps)


def describe(
    store: Store, episode: Episode, *, steps: int | Literal["events"] = STEPS, images: Images = "upright"
) -> Sheet:
    """Gather what a sheet of this episode shows. Raises OptionError, UnknownName, and what reading raises."""
    notes: tuple[tuple[str, str], ...] = ()
    if steps == EVENTS:
        events = events_of(store, episode, MAX_STEPS)
        chosen, notes = events.steps, (("pictures", events.note),)
    else:
        chosen = spread_steps(episode.length, whole_number("steps", steps, 1, MAX_STEPS))
    scene = scene_of(store, episode, images, chosen)
    return Sheet(
        title=scene.title,
        under_title=scene.under_title,
        length=episode.length,
        steps=chosen,
        strips=tuple(_strips(store, scene, chosen, images)),
        curves=scene.curves,
        notes=(*scene.notes, *notes),
    )


def _strips(store: Store, scene: Scene, steps: tuple[int, ...], images: Images) -> Iterator[Strip]:
    found: list[list[Pictures]] = [[] for _ in scene.cameras]
    for _, pictures in pictures_of(store, scene.episode, scene.cameras, steps, images):
        for each, more in zip(found, pictures):
            each.append(more)
    for camera, parts in zip(scene.cameras, found):
        yield Strip(camera.name, camera.note, np.concatenate(parts))


def draw(sheet: Sheet, ending: str = ".png") -> tuple[bytes, tuple[int, int]]:
    """Return the file of a sheet, and its width and height in pixels, of a vector format in points: the same bytes for the same
    sheet and matplotlib.

    Raises MachineError where matplotlib is not installed.
    """
    file = io.BytesIO()
    with plain_style():
        canvas = canvas_of(sheet)
        if ending == ".png":
            canvas.print_png(file, metadata={"Software": None})
            return file.getvalue(), canvas.get_width_height()
        undated = {"Date": None} if ending == ".svg" else {"CreationDate": None}
        size = tuple(round(inches * POINTS) for inches in canvas.figure.get_size_inches())
        canvas.print_figure(file, format=ending[1:], metadata=undated, facecolor="white")
    return file.getvalue(), (size[0], size[1])


def canvas_of(sheet: Sheet) -> Any:
    """Draw the figure on a canvas of matplotlib that can be printed or looked at."""
    with plain_style():
        return _Drawing(sheet).canvas()


# Everything is placed in inches from the top left, so that nothing can run into anything else


class _Drawing:
    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.width = (WIDTH - LEFT - RIGHT) / len(sheet.steps)
        self.title = wrapped(sheet.title, 100, 4) or ["(no instruction)"]
        self.under = wrapped(sheet.under_title, 150, 2)
        self.notes = [
            (label if not number else "", line)
            for label, text in sheet.notes
            for number, line in enumerate(wrapped(text, 168, 4))
        ]
        self.sizes = [_fitted(strip.pictures.shape[1:3], self.width - 0.06) for strip in sheet.strips]
        largest = [strip.pictures.shape[2] / size[1] for strip, size in zip(sheet.strips, self.sizes)]
        self.is_even = sheet.steps == spread_steps(sheet.length, len(sheet.steps))
        self.frame = _frame(sheet.length, sheet.steps, self.is_even)
        dpi = int(min(MAX_DPI, max(MIN_DPI, math.ceil(max(largest, default=MIN_DPI)))))
        heads = EDGE + len(self.title) * 0.27 + len(self.under) * 0.2 + 0.1
        strips = sum(LINE + 0.06 + high + LINE + 0.08 for high, _ in self.sizes)
        panels = len(sheet.panels) * (PANEL + GAP) + (AXIS if sheet.panels else 0)
        panels += 0 if self.is_even else RAYS
        self.page = Page(WIDTH, heads + strips + panels + 0.15 + len(self.notes) * LINE + EDGE, dpi)

    def canvas(self) -> Any:
        wide = WIDTH - EDGE
        y = EDGE
        for line in self.title:
            self.page.text(EDGE, y, line, TITLE, INK, wide - EDGE, weight="bold")
            y += 0.27
        for line in self.under:
            self.page.text(EDGE, y, line, 10, SOFT, wide - EDGE)
            y += 0.2
        y += 0.1
        for strip, size in zip(self.sheet.strips, self.sizes):
            y = self._strip(y, strip, size)
        y = self._rays(y)
        for number, panel in enumerate(self.sheet.panels):
            y = self._panel(y, panel, is_last=number == len(self.sheet.panels) - 1)
        y += 0.15
        for label, line in self.notes:
            self.page.text(EDGE, y, label, SMALL, SOFT, LEFT - EDGE)
            self.page.text(LEFT, y, line, SMALL, INK, wide - LEFT)
            y += LINE
        return self.page.canvas

    def _strip(self, y: float, strip: Strip, size: tuple[float, float]) -> float:
        high, wide = size
        half = (WIDTH - LEFT - RIGHT) / 2 - 0.1
        self.page.text(LEFT, y, strip.camera, SMALL + 1, INK, half, weight="bold")
        self.page.text(WIDTH - RIGHT, y, strip.note, SMALL, SOFT, half, ha="right")
        y += LINE + 0.06
        for number, (step, picture) in enumerate(zip(self.sheet.steps, strip.pictures)):
            middle = self._middle(number)
            axes = self.page.axes(middle - wide / 2, y, wide, high)
            axes.imshow(
                picture, interpolation="nearest" if max(picture.shape[:2]) < 64 else "antialiased", aspect="auto"
            )
            axes.set_axis_off()
            self.page.text(middle, y + high + 0.03, f"step {step:,}", SMALL, SOFT, self.width - 0.06, ha="center")
        return y + high + LINE + 0.08

    def _panel(self, y: float, panel: Panel, *, is_last: bool) -> float:
        y += GAP
        axes = self.page.axes(LEFT, y, WIDTH - LEFT - RIGHT, PANEL)
        draw_panel(self.page, axes, panel, self.sheet.curves, self.frame, is_last=is_last)
        return y + PANEL + (AXIS if is_last else 0)

    def _rays(self, y: float) -> float:
        """Draw a line from under each picture to its step on the axis of the curves, where it does not stand above it."""
        if self.is_even or not self.sheet.strips or not self.sheet.panels:
            return y
        low, high = self.frame.limits
        from matplotlib.lines import Line2D

        for number, step in enumerate(self.sheet.steps):
            x = LEFT + (step - low) / (high - low) * (WIDTH - LEFT - RIGHT)
            xs = [each / WIDTH for each in (self._middle(number), x, x)]
            ys = [1 - each / self.page.height for each in (y, y + RAYS, y + RAYS + GAP)]
            self.page.figure.add_artist(Line2D(xs, ys, color=RAY, linewidth=0.6, zorder=0))
        return y + RAYS

    def _middle(self, number: int) -> float:
        return LEFT + (number + 0.5) * self.width


def _frame(length: int, steps: tuple[int, ...], is_even: bool) -> Frame:
    if not is_even:
        half = 0.5 + (length - 1) / 100
        return Frame(length, (-half, length - 1 + half), tick_steps(length, TICKS), steps)
    half = (length - 1) / (len(steps) - 1) / 2 if len(steps) > 1 else 0.5
    return Frame(length, (-half, length - 1 + half), steps, steps)  # so that a picture stands above its step


def _fitted(shape: tuple[int, ...], column: float) -> tuple[float, float]:
    """Return height and width in inches of pictures of this (height, width) in a column, none longer than MAX_PICTURE."""
    height, width = shape
    scale = min(min(column, MAX_PICTURE) / width, MAX_PICTURE / height)
    return height * scale, width * scale
