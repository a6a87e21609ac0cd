"""The pictures of a film of an episode: what stands still, drawn once by matplotlib, and what moves, put on it by NumPy.

Cameras side by side, below them the curves with a cursor at the step, and what is to come paler. Needs matplotlib and Pillow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.extras import needed
from vla_store.look.cameras import sizes
from vla_store.look.drawing import COLOURS, IDLE, INK, LINES, SMALL, SOFT, Frame, Page, draw_panel, plain_style, wrapped
from vla_store.look.pictures import NOT_A_NUMBER, Pictures
from vla_store.look.scene import Scene
from vla_store.look.steps import TICKS, tick_steps
from vla_store.text import shown

Array = np.ndarray[Any, Any]

DPI = 100
EXTRA = "movies"
CURSOR = (29, 36, 48)  # INK
PALE = 0.62  # how much nearer to white what is to come is
TITLE, CLOCK = 13.0, 9.0  # points
LETTER = 0.602  # width of a letter of DejaVu Sans Mono, of its size

# Pixels
EDGE, GAP = 16, 10
LABEL = 16  # of text above a camera, and above a panel
TITLE_LINE, TEXT_LINE = 24, 18
LEFT, RIGHT = 70, 62  # of the curves
AXIS = 32


@dataclass(frozen=True)
class Size:
    """How large a film is. width: of a picture. cameras: height that they may have. panel: height of one."""

    width: int
    cameras: int
    panel: int


@dataclass(frozen=True)
class Slot:
    """Where a camera's picture lies. repeat: how often each pixel of it stands, in both directions; 0 where it is shrunk,
    or enlarged to less than twice its size."""

    y: int
    x: int
    height: int
    width: int
    repeat: int

    def filled(self, picture: Pictures) -> Pictures:
        """Return a picture (H, W, 3) in the size of the slot."""
        if self.repeat:
            return picture.repeat(self.repeat, axis=0).repeat(self.repeat, axis=1)
        image = needed("PIL.Image", EXTRA)
        way = image.Resampling.BOX if self.height < picture.shape[0] else image.Resampling.BICUBIC
        made = image.fromarray(picture).resize((self.width, self.height), way)
        return np.asarray(made)


class FilmPage:
    """The pictures of a film.

    Parameters
    ----------
    scene
        What is shown.
    size
        How large.
    note
        What is said of its rate, beside the step.
    """

    def __init__(self, scene: Scene, size: Size, note: str) -> None:
        needed("PIL.Image", EXTRA)  # before the work
        self.scene, self.size = scene, size
        characters = int((size.width - 2 * EDGE) / (TITLE / 72 * DPI * 0.62))
        self.title = wrapped(scene.title, characters, 2) or ["(no instruction)"]
        y = EDGE + len(self.title) * TITLE_LINE
        self.segment_y, y = y, y + (TEXT_LINE if scene.segments else 0)
        self.slots = _slots([sizes(camera.field)[:2] for camera in scene.cameras], size, y + 4)
        y = max((slot.y + slot.height for slot in self.slots), default=y) + GAP
        self.clock_y, y = y, y + TEXT_LINE + 6
        self.panels_y = [y + LABEL + number * (size.panel + LABEL) for number in range(len(scene.curves.panels))]
        y += len(self.panels_y) * (size.panel + LABEL) + (AXIS if self.panels_y else 0)
        self.foot_y = y + 4
        self.height = _even(self.foot_y + TEXT_LINE + EDGE // 2)
        self.frame = Frame(scene.length, (-0.5, scene.length - 0.5), *[tick_steps(scene.length, TICKS)] * 2)
        self.still = self._drawn(note)
        self.pale = self.still.copy()  # where nothing has been yet
        for top in self.panels_y:
            box = self.pale[top : top + size.panel, LEFT : size.width - RIGHT]
            box[:] = _paler(box)

    def picture(self, step: int, cameras: Sequence[Pictures]) -> Pictures:
        """Return the film's picture of a step, (height, width, 3). cameras: the picture of each camera."""
        made = self.still.copy()
        x = self.cursor_x(step)
        stop = self.size.width - RIGHT
        for top in self.panels_y:
            rows = slice(top, top + self.size.panel)
            made[rows, x + 1 : stop] = self.pale[rows, x + 1 : stop]
            made[rows, x - 1 : x + 1] = CURSOR
        for slot, picture in zip(self.slots, cameras):
            made[slot.y : slot.y + slot.height, slot.x : slot.x + slot.width] = slot.filled(picture)
        self._put(made, self.clock_y, EDGE, self.clock(step))
        text = self.segment(step)
        if text:
            stamp = _stamped(text, 10.0, SOFT, self.size.width - 2 * EDGE)
            made[self.segment_y : self.segment_y + TEXT_LINE, EDGE : EDGE + stamp.shape[1]] = stamp
        return made

    @property
    def colours(self) -> Pictures:
        """Colours that the page is drawn in, (n, 3): white first."""
        own = np.array([[int(each[k : k + 2], 16) for k in (1, 3, 5)] for each in (*COLOURS, INK, SOFT, LINES, IDLE)])
        rare = [NOT_A_NUMBER for camera in self.scene.cameras if camera.shown_range][:1]
        tints = [
            _paler(own, share) for share in (0.0, 0.3, PALE, 0.85)
        ]  # those of edges between a curve and white, too
        made = [np.full((1, 3), 255), *tints, np.array(rare, np.int64).reshape(-1, 3)]
        return np.concatenate(made).astype(np.uint8)

    def cursor_x(self, step: int) -> int:
        """Return the pixel at the right of the cursor's middle."""
        low, high = self.frame.limits
        return round(LEFT + (step - low) / (high - low) * (self.size.width - LEFT - RIGHT))

    def clock(self, step: int) -> str:
        """Return what is written about a step."""
        last = f"{self.scene.length - 1:,}"
        return f"step {step:>{len(last)},} of {last}   {step / self.scene.fps:.2f} s"

    def segment(self, step: int) -> str:
        """Return the text that a step has of its own; "" for none."""
        return next((text for first, text in reversed(self.scene.segments) if first <= step), "")

    def _put(self, picture: Pictures, y: int, x: int, text: str) -> None:
        for letter in text:
            stamp = _letter(letter)
            picture[y : y + stamp.shape[0], x : x + stamp.shape[1]] = stamp
            x += stamp.shape[1]

    def _drawn(self, note: str) -> Pictures:
        """Draw what stands still."""
        size, scene = self.size, self.scene
        with plain_style():
            page = Page(size.width / DPI, self.height / DPI, DPI)

            def text(x: int, y: int, text: str, points: float, colour: str, room: int, **more: Any) -> None:
                page.text(x / DPI, y / DPI, text, points, colour, room / DPI, **more)

            for number, line in enumerate(self.title):
                text(EDGE, EDGE + number * TITLE_LINE, line, TITLE, INK, size.width - 2 * EDGE, weight="bold")
            for slot, camera in zip(self.slots, scene.cameras):
                text(slot.x, slot.y - LABEL + 1, shown(camera.name), SMALL, SOFT, max(slot.width, 60))
            for number, (panel, y) in enumerate(zip(scene.curves.panels, self.panels_y)):
                box = page.axes(LEFT / DPI, y / DPI, (size.width - LEFT - RIGHT) / DPI, size.panel / DPI)
                is_last = number == len(self.panels_y) - 1
                draw_panel(page, box, panel, scene.curves, self.frame, is_last=is_last)
            half = (size.width - 2 * EDGE) // 2 - GAP
            text(size.width - EDGE, self.clock_y, note, SMALL, SOFT, half, ha="right")
            text(EDGE, self.foot_y, scene.source, SMALL - 1, SOFT, size.width - 2 * EDGE)
            return _pixels(page)


def _slots(shapes: Sequence[tuple[int, ...]], size: Size, top: int) -> list[Slot]:
    """Place cameras of these (height, width) in rows, in as many as make them largest."""
    if not shapes:
        return []
    layouts = [_in_rows(shapes, size, top, rows) for rows in range(1, len(shapes) + 1)]
    return max(layouts, key=lambda slots: sum(slot.height * slot.width for slot in slots))


def _in_rows(shapes: Sequence[tuple[int, ...]], size: Size, top: int, rows: int) -> list[Slot]:
    each = -(-len(shapes) // rows)
    room_high = max(8, size.cameras // rows - LABEL)
    room_wide = (size.width - 2 * EDGE - (each - 1) * GAP) / each
    made: list[Slot] = []
    y = top
    for start in range(0, len(shapes), each):
        fitted = [_fitted(shape, room_high, room_wide) for shape in shapes[start : start + each]]
        # In the middle of the width, but for labels, which may be wider than pictures.
        cells = [max(width, min(60, int(room_wide))) for _, width, _ in fitted]
        x = (size.width - sum(cells) - (len(cells) - 1) * GAP) // 2
        for (height, width, repeat), cell in zip(fitted, cells):
            made.append(Slot(y + LABEL, x, height, width, repeat))
            x += cell + GAP
        y += LABEL + max(height for height, _, _ in fitted)
    return made


def _fitted(shape: tuple[int, ...], high: float, wide: float) -> tuple[int, int, int]:
    """Return height, width and repetition of a picture of this (height, width) in a room. Enlarged to twice its size or more
    it keeps square pixels."""
    height, width = shape
    scale = min(high / height, wide / width)
    if scale >= 2:
        repeat = math.floor(scale)
        return height * repeat, width * repeat, repeat
    return max(1, int(height * scale)), max(1, int(width * scale)), 0


@functools.lru_cache(maxsize=256)
def _letter(letter: str) -> Pictures:
    wide = round(CLOCK / 72 * DPI * LETTER)
    return _text_picture(letter, CLOCK, INK, wide, family="monospace", weight="bold")


@functools.lru_cache(maxsize=64)
def _stamped(text: str, points: float, colour: str, room: int) -> Pictures:
    return _text_picture(text, points, colour, room)


def _text_picture(text: str, points: float, colour: str, wide: int, **more: Any) -> Pictures:
    with plain_style():
        page = Page(wide / DPI, TEXT_LINE / DPI, DPI)
        page.text(0, 0.02, text, points, colour, max(wide, 12) / DPI, **more)
        return _pixels(page)


def _pixels(page: Page) -> Pictures:
    page.canvas.draw()
    return np.ascontiguousarray(np.asarray(page.canvas.buffer_rgba())[..., :3])


def _paler(colours: Array, share: float = PALE) -> Pictures:
    made: Pictures = np.rint(255 - (255 - colours.astype(np.float64)) * (1 - share)).astype(np.uint8)
    return made


def _even(number: float) -> int:
    return 2 * math.ceil(number / 2)
