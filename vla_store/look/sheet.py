"""One episode as a picture: its cameras at evenly spread steps, and under them, on the same axis of time, its actions.

`describe` reads; `draw` needs matplotlib (the extra `plots`), and nothing of the store.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import MachineError, whole_number
from vla_store.format.views import runs_of
from vla_store.look.facts import ACTION_WIDTH
from vla_store.look.pictures import Pictures, is_colour, to_rgb, value_range
from vla_store.look.saying import ACTIONS, fingers_of, labels_of, notes, rate_text
from vla_store.look.writing import name_of, write_file
from vla_store.reader import Samples, Store
from vla_store.reader.values import Episode, SourceConvention, StoreField, StoreTask
from vla_store.rules import noops
from vla_store.storage import output_path
from vla_store.text import Report, encoding_text, number_text, shown, size_text
from vla_store.types import Images

Array = np.ndarray[Any, Any]
Floats = npt.NDArray[np.float64]

STEPS = 8
MAX_STEPS = 24
MAX_CURVES = 8  # in one panel: more cannot be told apart
MAX_PANELS = 4

# Inches and points of the picture.
WIDTH = 13.4
LEFT, RIGHT, EDGE = 0.95, 0.95, 0.2
LINE, SMALL, TITLE = 0.17, 8.0, 14.0
PANEL, GAP, AXIS = 1.25, 0.22, 0.36
MAX_PICTURE = 2.8
MIN_DPI, MAX_DPI = 110, 200
COLOURS = ("#1f5fa8", "#d1652a", "#2e8b57", "#8e44ad", "#b8860b", "#c0392b", "#16808a", "#6b7280")
INK, SOFT, LINES = "#1d2430", "#5c6675", "#cfd5de"


@dataclass(frozen=True)
class Strip:
    """Pictures of one camera, (n, H, W, 3) uint8. note: the text above them."""

    camera: str
    note: str
    pictures: Pictures


@dataclass(frozen=True)
class Panel:
    """Curves over the steps of an episode: names and (T, n) values. right: others, on a second scale at the right."""

    title: str
    names: tuple[str, ...]
    values: Floats
    right: Panel | None = None


@dataclass(frozen=True)
class Sheet:
    """Content of a sheet. steps: of the pictures. idle: mask of the no-ops, (T,), None where the rule does not apply."""

    title: str
    under_title: str
    length: int
    steps: tuple[int, ...]
    strips: tuple[Strip, ...]
    panels: tuple[Panel, ...]
    idle: npt.NDArray[np.bool_] | None
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, repr=False)
class SheetWritten(Report):
    """Where a sheet was written, its bytes and pixels, and which episode it shows."""

    path: Path
    nbytes: int
    width: int
    height: int
    episode: Episode

    def to_json(self) -> dict[str, Any]:
        episode = self.episode
        return {
            "episode": episode.episode,
            "file": episode.file,
            "height": self.height,
            "nbytes": self.nbytes,
            "number": episode.number,
            "path": str(self.path),
            "steps": episode.length,
            "suite": episode.suite,
            "task": episode.task,
            "width": self.width,
        }

    def text(self) -> str:
        episode = self.episode
        return (
            f"picture        {self.path}  ({self.width} x {self.height}, {size_text(self.nbytes)})\n"
            f"episode        {episode.episode} ({episode.length:,} steps)\n"
            f"source         {episode.suite}/{episode.file}, demonstration {episode.number}"
        )


def write_sheet(
    store: Store, episode: Episode, path: str | os.PathLike[str], *, steps: int = STEPS, images: Images = "upright"
) -> SheetWritten:
    """Draw an episode and write it to `path`, a PNG, replacing what is there.

    steps: pictures a camera. images: "upright", "as_stored" or "rot180", as for `Samples`.
    Raises OptionError, UsageError, MachineError (no matplotlib; the disk), and what reading raises.
    """
    made = output_path(path, (".png",))  # before the work
    data, (width, height) = draw(describe(store, episode, steps=steps, images=images))
    write_file(made, data)
    return SheetWritten(made, len(data), width, height, episode)


def describe(store: Store, episode: Episode, *, steps: int = STEPS, images: Images = "upright") -> Sheet:
    """Gather what a sheet of this episode shows. Raises OptionError, UnknownName, and what reading raises."""
    chosen = chosen_steps(episode.length, whole_number("steps", steps, 1, MAX_STEPS))
    task = next(each for each in store.tasks if (each.suite, each.name) == (episode.suite, episode.task))
    convention = next(
        each for each in store.conventions.sources if (each.suite, each.file) == (episode.suite, episode.file)
    )
    actions = _actions(store, episode)
    idle = None if actions is None or actions.shape[1] != ACTION_WIDTH else noops(actions)
    return Sheet(
        title=shown(episode.text),
        under_title=_under_title(task, episode),
        length=episode.length,
        steps=chosen,
        strips=tuple(_strips(store, episode, chosen, images, convention.orientation)),
        panels=tuple(_panels(store, episode, actions)),
        idle=idle,
        notes=tuple(_notes(store, episode, convention, images, actions, idle)),
    )


def chosen_steps(length: int, count: int) -> tuple[int, ...]:
    """Return the first step, the last, and evenly spread ones between them; all where they are no more than `count`."""
    count = min(length, count)
    return (0,) if count == 1 else tuple((2 * k * (length - 1) + count - 1) // (2 * (count - 1)) for k in range(count))


def draw(sheet: Sheet) -> tuple[bytes, tuple[int, int]]:
    """Return the PNG of a sheet, and its width and height in pixels: the same bytes for the same sheet and matplotlib.

    Raises MachineError where matplotlib is not installed.
    """
    file = io.BytesIO()
    with _plain_style():
        canvas = canvas_of(sheet)
        canvas.print_png(file, metadata={"Software": None})
    return file.getvalue(), canvas.get_width_height()


def canvas_of(sheet: Sheet) -> Any:
    """Draw the figure on a canvas of matplotlib that can be printed or looked at."""
    with _plain_style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        drawing = _Drawing(sheet)
        canvas = FigureCanvasAgg(Figure(figsize=(WIDTH, drawing.height), dpi=drawing.dpi, facecolor="white"))
        drawing.on(canvas.figure, canvas.get_renderer())
    return canvas


@contextlib.contextmanager
def _plain_style() -> Iterator[None]:
    """Use matplotlib's own defaults, whatever the user's settings say. Raises MachineError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise MachineError(
            "drawing needs matplotlib, which is not installed here",
            found=str(error),
            hint='pip install "vla-store[plots]"; `vla-store report` needs no matplotlib',
        ) from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "font.size": SMALL, "axes.unicode_minus": False})
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn for it
        yield


# What is read


def _strips(store: Store, episode: Episode, steps: tuple[int, ...], images: Images, stored: str) -> Iterator[Strip]:
    if not store.cameras:
        return
    rows = [episode.start + step for step in steps]
    for name in sorted(store.cameras, key=lambda name: not is_colour(store.fields[name])):
        # The same way as samples for training are read, so that the sheet shows what a policy would see.
        frames = Samples(store, windows={name: 0}, rows=rows, images=images).batch(range(len(rows)))[name]
        values = value_range(frames)
        field = store.fields[name]
        size = " x ".join(map(str, field.shape))
        scale = f"; colours from {number_text(values[0])} (dark) to {number_text(values[1])} (light)" if values else ""
        turned = "as stored" if images == "as_stored" else f"{images}, stored {stored}"
        yield Strip(name, f"{size} {field.dtype}, {turned}{scale}", to_rgb(frames, values))


def _actions(store: Store, episode: Episode) -> Array | None:
    """Read the actions of an episode, (T, n); None where the store has no such field."""
    field = store.fields.get(ACTIONS)
    if field is None or field.kind != "fixed" or len(field.shape) != 1 or field.role != "step":
        return None
    return _rows(store, field, episode)


def _panels(store: Store, episode: Episode, actions: Array | None) -> Iterator[Panel]:
    fingers = fingers_of(store)
    if actions is not None and actions.shape[1] == ACTION_WIDTH and fingers is not None:
        values = actions.astype(np.float64)
        opening = _rows(store, fingers, episode).astype(np.float64)
        names = tuple(f"{fingers.name}[{n}]" for n in range(opening.shape[1]))
        yield Panel(f"{ACTIONS}: move", ("x [0]", "y [1]", "z [2]"), values[:, :3])
        yield Panel(f"{ACTIONS}: turn", ("x [3]", "y [4]", "z [5]"), values[:, 3:6])
        right = Panel("fingers", names[:MAX_CURVES], opening[:, :MAX_CURVES])
        yield Panel("gripper", (f"{ACTIONS}[6]: -1 open, 1 close",), values[:, 6:], right)
    elif actions is not None:
        for start in range(0, actions.shape[1], MAX_CURVES)[:MAX_PANELS]:
            values = actions[:, start : start + MAX_CURVES].astype(np.float64)
            stop = start + values.shape[1]
            field = store.fields[ACTIONS]
            named = labels_of(field.names, field.units) or [""] * actions.shape[1]
            curves = tuple(f"{named[n]} [{n}]".lstrip() for n in range(start, stop))
            yield Panel(f"{ACTIONS} {start} to {stop - 1}", curves, values)


def _rows(store: Store, field: StoreField, episode: Episode) -> Array:
    return store.read(field.name, range(episode.start, episode.start + episode.length))


def _under_title(task: StoreTask, episode: Episode) -> str:
    if episode.text != task.text:
        return f"an episode of the task {shown(task.name)}"
    differs = task.instruction is not None and task.instruction != task.text
    return f"in the file: {shown(task.instruction or '')}" if differs else ""


def _notes(
    store: Store,
    episode: Episode,
    convention: SourceConvention,
    images: Images,
    actions: Array | None,
    idle: npt.NDArray[np.bool_] | None,
) -> Iterator[tuple[str, str]]:
    origin = store.provenance(episode.start)
    success = {True: "success", False: "no success", None: "success not known"}[episode.success]
    yield "source", f"{shown(episode.suite)}/{shown(episode.file)}, {origin.demo}: {episode.length:,} steps, {success}"
    last = episode.start + episode.length - 1
    yield (
        "store",
        f"{shown(name_of(store))}, episode {episode.episode:,} of {len(store.episodes):,}, rows {episode.start:,} to {last:,}; "
        f"content {store.fingerprint[:16]}, root {store.digest[:16]}",
    )
    yield from notes(store, episode)
    seen = ": the picture of a step shows what its action did" if convention.observation == "after" else ""
    codec, decoder = (shown(each) for each in (encoding_text(convention.codec), convention.decoder))
    decoded = f", decoded from {codec} by {decoder}" if decoder else ""
    yield (
        "recorded",
        f"pictures {convention.orientation}{decoded}, shown {images.replace('_', ' ')}; "
        f"observations {convention.observation} the action of the same step{seen}"
        + (f"; {rate_text(convention.fps)}" if convention.fps else ""),
    )
    if idle is not None:
        yield (
            "no-ops",
            f"{int(idle.sum()):,} of {episode.length:,} steps, by OpenVLA's rule: grey in the curves; nothing is left out",
        )
    if not store.cameras:
        yield "cameras", "none in this store"
    if actions is None:
        yield "curves", f"none: the store has no field {ACTIONS!r} of one axis and one width"
    elif actions.shape[1] > MAX_CURVES * MAX_PANELS:
        yield "curves", f"the first {MAX_CURVES * MAX_PANELS} of the {actions.shape[1]:,} numbers of an action"


# How it is drawn: everything is placed in inches from the top left, so that nothing can run into anything else


class _Drawing:
    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        count = len(sheet.steps)
        self.column = (WIDTH - LEFT - RIGHT) / count
        self.title = _wrapped(sheet.title, 100, 4) or ["(no instruction)"]
        self.under = _wrapped(sheet.under_title, 150, 2)
        self.notes = [
            (label if not number else "", line)
            for label, text in sheet.notes
            for number, line in enumerate(_wrapped(text, 168, 4))
        ]
        self.sizes = [_fitted(strip.pictures.shape[1:3], self.column - 0.06) for strip in sheet.strips]
        largest = [strip.pictures.shape[2] / size[1] for strip, size in zip(sheet.strips, self.sizes)]
        self.dpi = int(min(MAX_DPI, max(MIN_DPI, math.ceil(max(largest, default=MIN_DPI)))))
        heads = EDGE + len(self.title) * 0.27 + len(self.under) * 0.2 + 0.1
        strips = sum(LINE + 0.06 + high + LINE + 0.08 for high, _ in self.sizes)
        panels = len(sheet.panels) * (PANEL + GAP) + (AXIS if sheet.panels else 0)
        self.height = heads + strips + panels + 0.15 + len(self.notes) * LINE + EDGE

    def on(self, figure: Any, renderer: Any) -> None:
        self._renderer = renderer
        wide = WIDTH - EDGE
        y = EDGE
        for line in self.title:
            self._text(figure, EDGE, y, line, TITLE, INK, wide - EDGE, weight="bold")
            y += 0.27
        for line in self.under:
            self._text(figure, EDGE, y, line, 10, SOFT, wide - EDGE)
            y += 0.2
        y += 0.1
        for strip, size in zip(self.sheet.strips, self.sizes):
            y = self._strip(figure, y, strip, size)
        for number, panel in enumerate(self.sheet.panels):
            y = self._panel(figure, y, panel, is_last=number == len(self.sheet.panels) - 1)
        y += 0.15
        for label, line in self.notes:
            self._text(figure, EDGE, y, label, SMALL, SOFT, LEFT - EDGE)
            self._text(figure, LEFT, y, line, SMALL, INK, wide - LEFT)
            y += LINE

    def _strip(self, figure: Any, y: float, strip: Strip, size: tuple[float, float]) -> float:
        high, wide = size
        half = (WIDTH - LEFT - RIGHT) / 2 - 0.1
        self._text(figure, LEFT, y, strip.camera, SMALL + 1, INK, half, weight="bold")
        self._text(figure, WIDTH - RIGHT, y, strip.note, SMALL, SOFT, half, ha="right")
        y += LINE + 0.06
        for number, (step, picture) in enumerate(zip(self.sheet.steps, strip.pictures)):
            middle = LEFT + (number + 0.5) * self.column
            axes = self._axes(figure, middle - wide / 2, y, wide, high)
            axes.imshow(
                picture, interpolation="nearest" if max(picture.shape[:2]) < 64 else "antialiased", aspect="auto"
            )
            axes.set_axis_off()
            self._text(figure, middle, y + high + 0.03, f"step {step:,}", SMALL, SOFT, self.column - 0.06, ha="center")
        return y + high + LINE + 0.08

    def _panel(self, figure: Any, y: float, panel: Panel, *, is_last: bool) -> float:
        sheet = self.sheet
        y += GAP
        axes = self._axes(figure, LEFT, y, WIDTH - LEFT - RIGHT, PANEL)
        half = (sheet.length - 1) / (len(sheet.steps) - 1) / 2 if len(sheet.steps) > 1 else 0.5
        axes.set_xlim(-half, sheet.length - 1 + half)  # so that a picture stands above its step
        for step in sheet.steps:
            axes.axvline(step, color=LINES, linewidth=0.6, zorder=0)
        if sheet.idle is not None:
            for start, stop in runs_of(sheet.idle).tolist():
                axes.axvspan(start - 0.5, stop - 0.5, color="#e9ecf1", linewidth=0, zorder=-1)
        lines = self._curves(axes, panel, 0, "-")
        if panel.right is not None:
            second = axes.twinx()
            second.set_xlim(axes.get_xlim())
            lines += self._curves(second, panel.right, len(panel.names), "--")
        axes.set_xticks(sheet.steps)
        axes.set_xticklabels([f"{step:,}" for step in sheet.steps] if is_last else [])
        axes.legend(
            handles=lines, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=12, fontsize=SMALL - 1, frameon=False,
            borderaxespad=0.0, handlelength=1.4, columnspacing=1.2, borderpad=0.1,
        )  # fmt: skip
        if is_last:
            axes.set_xlabel("step", fontsize=SMALL, color=SOFT, labelpad=2)
            return y + PANEL + AXIS
        return y + PANEL

    def _curves(self, axes: Any, panel: Panel, first_colour: int, style: str) -> list[Any]:
        """Draw the curves of a panel on one scale, and return their lines."""
        lines = [
            axes.plot(
                np.arange(self.sheet.length),
                panel.values[:, number],
                color=COLOURS[(first_colour + number) % len(COLOURS)],
                linewidth=1.1,
                linestyle=style,
                label=shown(name),
                marker="o" if self.sheet.length == 1 else None,
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

    def _axes(self, figure: Any, x: float, y: float, wide: float, high: float) -> Any:
        return figure.add_axes((x / WIDTH, 1 - (y + high) / self.height, wide / WIDTH, high / self.height))

    def _text(
        self, figure: Any, x: float, y: float, text: str, size: float, colour: str, room: float, **more: str
    ) -> None:
        """Draw text with its top at y, smaller where it would be wider than `room`."""
        place = x / WIDTH, 1 - y / self.height
        made = figure.text(*place, text, fontsize=size, color=colour, va="top", **more)
        wide = made.get_window_extent(self._renderer).width / self.dpi
        if wide > room:
            made.set_fontsize(size * room / wide)


def _wrapped(text: str, width: int, at_most: int) -> list[str]:
    """Wrap a text into lines of at most `width` characters; the last one ends in an ellipsis where there would be more."""
    return textwrap.wrap(text, width, max_lines=at_most, placeholder=" ...", break_on_hyphens=False)


def _fitted(shape: tuple[int, ...], column: float) -> tuple[float, float]:
    """Return height and width in inches of pictures of this (height, width) in a column, none longer than MAX_PICTURE."""
    height, width = shape
    scale = min(min(column, MAX_PICTURE) / width, MAX_PICTURE / height)
    return height * scale, width * scale


def _trim(axes: Any, values: Floats) -> None:
    """Set limits a little outside of the finite values, with some room around a constant."""
    finite = values[np.isfinite(values)]
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
