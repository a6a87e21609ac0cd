"""One field's window in one part: of one sample, and of many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.format.schema import Field
from vla_store.reader.part import Part, Place, Places
from vla_store.reader.windows import Bool, Window

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]


class NumericWindow:
    """A fixed numeric field. earlier: per source, 1 where the field is read one row before its time; None where it never is."""

    def __init__(self, part: Part, field: Field, window: Window, earlier: bytes | None, zero: bool, dtype: Any) -> None:
        self._column = part.column(field)
        self._rows = self._column.whole
        self._earlier = earlier
        self._zero = zero
        self._offsets = np.array(window.offsets, np.int64)
        self._first, self._count = window.offsets[0], len(window.offsets)
        self._is_run = window.is_run
        self.shape = window.axes + self._column.shape
        self.dtype = dtype
        self._has_axis = window.has_axis

    def one(self, place: Place) -> tuple[Array, Array]:
        """The window's rows (K, *shape) and is_pad (K,); without the axis where the window has none."""
        _, step, start, length, _, source = place
        if self._earlier is not None:
            step -= self._earlier[source]
        count = self._count
        if not self._is_run:
            value, is_pad = self._scattered(step, start, length)
        else:
            first = step + self._first
            is_pad = np.zeros(count, bool)
            if first >= 0 and first + count <= length:
                value = self._span(start + first, start + first + count).astype(self.dtype)
            else:
                value = self._at_an_edge(first, start, length, is_pad)
        return (value, is_pad) if self._has_axis else (value.reshape(self.shape), is_pad.reshape(()))

    def many(self, places: Places, clipped: Int64, is_pad: Bool, out: Array) -> None:
        """The rows of (B, K) steps into out, (B, *axes, *shape)."""
        rows = (clipped + places.start[:, None]).reshape(-1)
        flat = out.reshape(len(rows), *self._column.shape)
        if flat.dtype == self._column.dtype:
            self._column.take(rows, flat)
        else:
            taken = np.empty(flat.shape, self._column.dtype)
            self._column.take(rows, taken)
            flat[...] = taken
        if self._zero:
            flat[is_pad.reshape(-1)] = 0

    def _span(self, start: int, stop: int) -> Array:
        return self._rows[start:stop] if self._rows is not None else self._column.span(start, stop)

    def _at_an_edge(self, first: int, start: int, length: int, is_pad: Array) -> Array:
        count = self._count
        low, high = min(max(-first, 0), count), min(max(length - first, 0), count)
        value = np.zeros((count, *self._column.shape), self.dtype)
        is_pad[:low] = True
        is_pad[high:] = True
        if low < high:
            value[low:high] = self._span(start + first + low, start + first + high)
        if not self._zero:
            if low:
                value[:low] = self._span(start, start + 1)
            if high < count:
                value[high:] = self._span(start + length - 1, start + length)
        return value

    def at(self, place: Place, steps: Int64, is_pad: Bool) -> tuple[Array, Array]:
        """As `one`, of (K,) steps that are known."""
        value = self._taken(steps + place[2], is_pad)
        return (value, is_pad) if self._has_axis else (value.reshape(self.shape), is_pad.reshape(()))

    def _scattered(self, step: int, start: int, length: int) -> tuple[Array, Array]:
        times = self._offsets + step
        clipped = np.minimum(np.maximum(times, 0), length - 1)
        is_pad = clipped != times
        return self._taken(clipped + start, is_pad), is_pad

    def _taken(self, rows: Int64, is_pad: Bool) -> Array:
        taken = np.empty((self._count, *self._column.shape), self._column.dtype)
        self._column.take(rows, taken)
        if self._zero:
            taken[is_pad] = 0
        return taken.astype(self.dtype, copy=False)


class RaggedWindow:
    """A field whose width is an episode's own."""

    def __init__(self, part: Part, field: Field, window: Window, earlier: bytes | None, zero: bool, dtype: Any) -> None:
        self._part = part
        self._field = field
        self._column = part.column(field)
        self._earlier = earlier
        self._zero = zero
        self._dtype = dtype
        self._offsets = np.array(window.offsets, np.int64)
        self._axes = window.axes

    def one(self, place: Place) -> tuple[Array, Array]:
        """The window's rows (K, width) and is_pad (K,); without the axis where the window has none."""
        _, step, _, length, _, source = place
        times = self._offsets + (step - (self._earlier[source] if self._earlier is not None else 0))
        clipped = np.minimum(np.maximum(times, 0), length - 1)
        return self.at(place, clipped, clipped != times)

    def at(self, place: Place, steps: Int64, is_pad: Bool) -> tuple[Array, Array]:
        """As `one`, of (K,) steps that are known."""
        value = self.many(np.array([place[0]]), steps[None], is_pad[None])[0]
        return value, is_pad.reshape(self._axes)

    def many(self, episodes: Int64, clipped: Int64, is_pad: Bool) -> list[Array]:
        """For each of B samples its (*axes, width)."""
        starts, widths = self._part.ragged_spans(self._field, episodes)
        counts = widths * clipped.shape[1]
        places = [
            (start + steps[:, None] * width + np.arange(width)).reshape(-1)
            for start, width, steps in zip(starts.tolist(), widths.tolist(), clipped)
        ]
        taken = np.empty(int(counts.sum()), self._column.dtype)
        self._column.take(np.concatenate(places), taken)
        made = []
        for piece, width, pads in zip(np.split(taken, np.cumsum(counts)[:-1]), widths.tolist(), is_pad):
            value = piece.reshape(-1, width).astype(self._dtype)
            if self._zero:
                value[pads] = 0
            made.append(value.reshape(*self._axes, width))
        return made


@dataclass(frozen=True)
class FrameList:
    """Which frames go where: rows of the part, their episodes, how to turn them, and positions among all (B * K) pictures."""

    rows: list[int]
    episodes: list[int]
    turns: list[int]
    positions: list[int] | None  # None: all of them, in order
    zeros: Int64 | None  # positions that get no picture


class CameraWindow:
    """A camera. flips: how a source's pictures are turned, one number a source."""

    def __init__(
        self, part: Part, field: Field, window: Window, earlier: bytes | None, zero: bool, dtype: Any, flips: bytes
    ) -> None:
        self._frames = part.frames(field)
        self._earlier = earlier
        self._flips = flips
        self._turns = np.frombuffer(flips, np.uint8)
        self._zero = zero
        self._dtype = dtype
        self._offsets = window.offsets
        self._shape = (len(window.offsets), *field.fixed_shape)
        self._axes = window.axes
        self._step = window.axes + field.fixed_shape
        self._has_axis = window.has_axis

    def one(self, place: Place) -> tuple[Array, Array]:
        """The window's pictures (K, *shape) and is_pad (K,); without the axis where the window has none."""
        episode, step, start, length, _, source = place
        if self._earlier is not None:
            step -= self._earlier[source]
        count = self._shape[0]
        value = np.empty(self._shape, self._dtype)
        is_pad = np.zeros(count, bool)
        rows, positions = [], []
        for at, offset in enumerate(self._offsets):
            time = step + offset
            if not 0 <= time < length:
                is_pad[at] = True
                if self._zero:
                    value[at] = 0
                    continue
                time = 0 if time < 0 else length - 1
            rows.append(start + time)
            positions.append(at)
        self._frames.fill(rows, [episode] * count, [self._flips[source]] * count, value, positions)
        return (value, is_pad) if self._has_axis else (value.reshape(self._step), is_pad.reshape(()))

    def at(self, place: Place, steps: Int64, is_pad: Bool) -> tuple[Array, Array]:
        """As `one`, of (K,) steps that are known."""
        value = np.empty(self._shape, self._dtype)
        positions = list(range(len(steps)))
        if self._zero and is_pad.any():
            value[is_pad] = 0
            positions = np.flatnonzero(~is_pad).tolist()
        count, flip = len(positions), self._flips[place[5]]
        self._frames.fill((steps[positions] + place[2]).tolist(), [place[0]] * count, [flip] * count, value, positions)
        return (value, is_pad) if self._has_axis else (value.reshape(self._step), is_pad.reshape(()))

    def list_frames(self, places: Places, clipped: Int64, is_pad: Bool, at: Int64 | None) -> FrameList:
        """The frames of (B, K) steps, sample i going to place at[i] of the batch, or to i; the same for all cameras."""
        count = clipped.shape[1]
        rows = (clipped + places.start[:, None]).reshape(-1)
        episodes = np.repeat(places.episode, count)
        turns = np.repeat(self._turns[places.source], count)
        if at is None and not (self._zero and is_pad.any()):
            return FrameList(rows.tolist(), episodes.tolist(), turns.tolist(), None, None)
        samples = np.arange(len(places)) if at is None else at
        positions = (samples[:, None] * count + np.arange(count)).reshape(-1)
        kept = ~is_pad.reshape(-1) if self._zero else np.ones(len(rows), bool)
        zeros = positions[~kept]
        return FrameList(
            rows[kept].tolist(), episodes[kept].tolist(), turns[kept].tolist(), positions[kept].tolist(), zeros
        )

    def many(self, frames: FrameList, out: Array) -> None:
        """The pictures of such a list into `out` (N, *axes, *shape)."""
        flat = out.reshape(-1, *self._shape[1:])
        if frames.zeros is not None:
            flat[frames.zeros] = 0
        self._frames.fill(frames.rows, frames.episodes, frames.turns, flat, frames.positions)
