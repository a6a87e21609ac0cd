"""The windows of one part: for given positions, what is to be read, and then its way into the arrays of a batch or a sample.

Owns what is constant for all samples of a part: readers of its fields, offsets, shifts and flips. Imports part, frames, columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.format.schema import Field
from vla_store.reader import orient
from vla_store.reader.bfloat16 import BFLOAT16, cast, rounded, widened
from vla_store.reader.conversion import DTypes, refusing_overflow
from vla_store.reader.frames import FrameList, LocatedFrames, frame_list
from vla_store.reader.kept import KeptSteps
from vla_store.reader.part import Index, Part, Position, Positions
from vla_store.reader.shards import EncodedShards
from vla_store.reader.values import StoreField
from vla_store.reader.windows import Window, shift_of, window_times
from vla_store.storage import Range

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Times = tuple[Int64, Mask]  # steps within their episodes, and which of them are padding; both (B, K)


class LocatedRows(NamedTuple):
    """Rows of a numeric field, and what is to be fetched for them. widths: of each sample, where it is an episode's own."""

    rows: Int64
    ranges: list[Range]
    widths: Int64 | None = None


class ListedPart(NamedTuple):
    """What samples of one part take: where they are, the times of each window, and the frames, by the number of their times."""

    reader: PartReader
    at: Index
    positions: Positions
    times: list[Times]
    frames: dict[int, FrameList]


class LocatedPart(NamedTuple):
    """What samples of one part need: where they are, the times of each window, and where its rows or frames lie.

    at: which of the batch they are. ranges: what is to be fetched, window after window.
    """

    reader: PartReader
    at: Index
    positions: Positions
    times: list[Times]
    located: list[LocatedRows | LocatedFrames]
    ranges: list[Range]


class Wanted(NamedTuple):
    """Byte ranges of what samples need, each once; frames that lie one after another are one."""

    frames: list[Range]
    backgrounds: list[Range]
    numbers: list[Range]


class PartReader:
    """The windows of one part, with all that does not depend on the sample computed once.

    watched: fields of which is seen only when they are read whether all numbers fit into their dtype. ones: name, name of the
    padding and reader of each field, where one sample needs no arrays to be found (some microseconds instead of some hundred);
    None where it is a batch of one.
    """

    def __init__(
        self,
        part: Part,
        windows: tuple[Window, ...],
        fields: Mapping[str, StoreField],
        alignment: str,
        images: str,
        pad: str,
        dtypes: DTypes,
        watched: Collection[str],
        kept: KeptSteps | None,
    ) -> None:
        self.part = part
        self._kept = kept
        self.is_zero = pad == "zero"
        sources = part.document.sources
        self.flips = bytes(orient.turn(images, source.orientation) for source in sources)
        self.turns = np.frombuffer(self.flips, np.uint8)
        keys: dict[tuple[tuple[int, ...], bytes], int] = {}  # cameras often share their offsets
        self.windows: list[NumericWindow | RaggedWindow | CameraWindow] = []
        for window in windows:
            name = window.field
            field = part.document.fields[name]
            earlier = bytes(-shift_of(field.role, source.observation, alignment) for source in sources)
            number = keys.setdefault((window.offsets, earlier), len(keys))
            kind = CameraWindow if field.is_camera else RaggedWindow if field.is_ragged else NumericWindow
            reader = kind(self, field, window, number, earlier, dtypes.get(name, np.dtype(field.dtype)))
            if name in watched:
                watch = refusing_overflow(name, reader.dtype, fields[name].dtype)
                reader.assemble = watch(reader.assemble)  # type: ignore[method-assign]
            self.windows.append(reader)
        self._cameras = [(at, each) for at, each in enumerate(self.windows) if isinstance(each, CameraWindow)]
        self.shifted = [
            (np.array(offsets, np.int64), np.frombuffer(earlier, np.uint8).astype(np.int64) if any(earlier) else None)
            for offsets, earlier in keys
        ]
        is_plain = kept is None and not self.is_zero and not watched
        self.pattern = (
            tuple((each.name, each.number, type(each), *each.offsets) for each in self.windows)
            if is_plain and not any(fields[window.field].is_ragged for window in windows)  # in this part, or in another
            else None
        )
        self.camera_times = tuple(dict.fromkeys(each.number for _, each in self._cameras))
        self.ones: list[tuple[str, str, Callable[[Position], tuple[Array, Array]]]] | None = None
        if not watched and all(each.is_at_hand for each in self.windows):
            self.ones = [
                (
                    each.name,
                    each.pad_name,
                    each.one if kept is None else functools.partial(self._one_of_kept, each, kept),
                )
                for each in self.windows
            ]

    def goes_with(self, other: PartReader) -> bool:
        """Whether samples of both may be found and assembled at once: their windows take the same, by the same numbers of times."""
        return self.pattern is not None and self.pattern == other.pattern

    def shifts(self, number: int, sources: Int64) -> Int64:
        """Return how many rows earlier than their time the values of these times lie, by source."""
        earlier = self.shifted[number][1]
        return np.zeros(len(sources), np.int64) if earlier is None else earlier[sources]

    def times(self, window: int, positions: Positions) -> Times:
        """Return the steps that the window of this number takes, within their episodes, and which of them are padding."""
        return self._times(self.windows[window].number, positions)

    def _times(self, number: int, positions: Positions) -> Times:
        offsets, earlier = self.shifted[number]
        shifts = None if earlier is None else earlier[positions.source]
        if self._kept is not None:
            return self._kept.times(positions, offsets, shifts)
        return window_times(positions.step if shifts is None else positions.step - shifts, positions.length, offsets)

    def choose(self, positions: Positions, at: Index) -> ListedPart:
        """Say what the samples at these positions take; `at`: which of the batch they are. Reads nothing."""
        times = [self._times(number, positions) for number in range(len(self.shifted))]
        frames: dict[int, FrameList] = {}
        for _, reader in self._cameras:
            if reader.number not in frames:
                frames[reader.number] = self._list_frames(positions, *times[reader.number], at)
        return ListedPart(self, at, positions, times, frames)

    def unopened(self, listed: ListedPart) -> Iterable[tuple[EncodedShards, int]]:
        """Return the shards of listed frames that are not open: `open_shards` opens those of many parts together."""
        found = [reader.frames.unopened(listed.frames[reader.number]) for _, reader in self._cameras]
        return [each for of_camera in found for each in of_camera]

    def locate(self, listed: ListedPart) -> LocatedPart:
        """Find where what samples take lies. Raises StoreDamaged, FetchError, MachineError."""
        located: list[LocatedRows | LocatedFrames] = []
        for reader in self.windows:
            if isinstance(reader, CameraWindow):
                located.append(reader.frames.locate(listed.frames[reader.number]))
            else:
                located.append(reader.locate(listed.positions, listed.times[reader.number][0]))
        ranges = [each for of_window in located for each in of_window.ranges]
        return LocatedPart(self, listed.at, listed.positions, listed.times, located, ranges)

    @property
    def keys(self) -> Iterator[str]:
        """The objects that the windows of any sample may need."""
        for reader in self.windows:
            yield from reader.frames.keys if isinstance(reader, CameraWindow) else reader.column.keys

    def rows_of(self, positions: Positions) -> dict[int, Int64]:
        """Return the rows that samples at these positions take, ascending and each once, by the number of their times."""
        numbers = range(len(self.shifted))
        return {each: np.unique(self._times(each, positions)[0] + positions.start[:, None]) for each in numbers}

    def shards_unopened(self, rows: Mapping[int, Int64]) -> Iterable[tuple[EncodedShards, int]]:
        """Return the shards of pictures in such rows that are not open, as `open_shards` takes them."""
        found = [reader.frames.shards.unopened(rows[reader.number].tolist()) for _, reader in self._cameras]
        return [each for of_camera in found for each in of_camera]

    def wanted(self, positions: Positions, rows: Mapping[int, Int64]) -> Wanted:
        """Return where all that samples at these positions need lies, be it at hand or not. rows: of them, from `rows_of`."""
        found = Wanted([], [], [])
        for reader in self.windows:
            if isinstance(reader, RaggedWindow):
                steps = self._times(reader.number, positions)[0]
                found.numbers.extend(reader.locate(positions, steps).ranges)
            elif isinstance(reader, NumericWindow):
                found.numbers.extend(reader.column.spans(rows[reader.number]))
            else:
                found.frames.extend(reader.frames.shards.spans(rows[reader.number]))
                found.backgrounds.extend(reader.frames.backgrounds_of(np.unique(positions.episode)))
        return found

    def pictures(self, part: LocatedPart) -> list[LocatedFrames]:
        """Return the pictures of located samples, for each camera."""
        return [part.located[number] for number, _ in self._cameras]  # type: ignore[misc]

    def assemble(
        self, part: LocatedPart, data: Iterator[memoryview], arrays: Mapping[str, Any], *, only_pictures: bool = False
    ) -> None:
        """Write located samples into their places of a batch's arrays; ragged fields are lists. Raises StoreDamaged.

        data: what was fetched for `part.ranges`, from the first on. only_pictures: leave numbers and padding as they are.
        """
        if not only_pictures:
            arrays["episode"][part.at] = part.positions.episode + self.part.episode_start
            arrays["step"][part.at] = part.positions.step
        for reader, located in zip(self.windows, part.located):
            mine = list(islice(data, len(located.ranges))) if located.ranges else ()
            if only_pictures and not isinstance(reader, CameraWindow):
                continue
            is_pad = part.times[reader.number][1]
            if not only_pictures:
                arrays[reader.pad_name][part.at] = is_pad.reshape(len(is_pad), *reader.axes)
            reader.assemble(located, mine, is_pad, part.at, arrays[reader.name])  # type: ignore[arg-type]

    def _one_of_kept(self, reader: FieldWindow, kept: KeptSteps, position: Position) -> tuple[Array, Array]:
        offsets, _ = self.shifted[reader.number]
        steps, is_pad = kept.times_of_one(position, offsets, reader.earlier[position.source])
        return reader.at(position, steps, is_pad)

    def _list_frames(self, positions: Positions, steps: Int64, is_pad: Mask, at: Index) -> FrameList:
        """List the frames of (B, K) steps, of which sample i goes to place at[i] of the batch; the same for all cameras."""
        count = steps.shape[1]
        rows = (steps + positions.start[:, None]).reshape(-1)
        episodes = np.repeat(positions.episode, count)
        flips = self.turns[positions.source].repeat(count)
        is_zeroed = self.is_zero and is_pad.any()
        if isinstance(at, slice) and not is_zeroed:
            return frame_list(rows.tolist(), episodes.tolist(), flips.tolist())
        samples = np.arange(len(positions)) if isinstance(at, slice) else at
        places = (samples[:, None] * count + np.arange(count)).reshape(-1)
        if not is_zeroed:
            return frame_list(rows.tolist(), episodes.tolist(), flips.tolist(), places.tolist())
        used = ~is_pad.reshape(-1)
        rows, episodes, flips = rows[used], episodes[used], flips[used]
        return frame_list(rows.tolist(), episodes.tolist(), flips.tolist(), places[used].tolist(), places[~used])


class FieldWindow:
    """One field's window in one part; the base of the three kinds.

    number: which of the part's times it has. earlier: per source, 1 where the field is read one row before its time. is_at_hand: True
    where `one` can read it.
    """

    is_at_hand = True

    def __init__(self, of: PartReader, field: Field, window: Window, number: int, earlier: bytes, dtype: Any) -> None:
        self.name, self.pad_name = window.field, f"{window.field}_is_pad"
        self.number, self.dtype, self.axes = number, dtype, window.axes
        self.offsets, self.earlier = window.offsets, earlier
        self._is_rounded = dtype == BFLOAT16  # else NumPy casts
        self._is_zero = of.is_zero
        self._step_shape = window.axes if field.is_ragged else window.axes + field.fixed_shape

    def one(self, position: Position) -> tuple[Array, Array]:
        """Return what the window takes at one position (K, ...), and is_pad (K,); without the axis where the window has none."""
        times = np.array(self.offsets) + (position.step - self.earlier[position.source])
        steps = np.minimum(np.maximum(times, 0), position.length - 1)
        return self.at(position, steps, steps != times)

    def at(self, position: Position, steps: Int64, is_pad: Mask) -> tuple[Array, Array]:
        """Return what the window takes where its steps and their padding, (K,), are known."""
        value = self._episode(position).take(steps, axis=0)
        value = rounded(value) if self._is_rounded else value.astype(self.dtype, copy=False)
        if self._is_zero:
            value[is_pad] = 0
        return (value, is_pad) if self.axes else (value[0, ...], is_pad.reshape(()))

    def _episode(self, position: Position) -> Array:
        """Return the rows of the episode at a position, (length, ...)."""
        raise NotImplementedError


class NumericWindow(FieldWindow):
    """A fixed numeric field."""

    def __init__(self, of: PartReader, field: Field, window: Window, *rest: Any) -> None:
        super().__init__(of, field, window, *rest)
        self.column = of.part.column(field)
        self._rows: Any = self.column.whole
        self.is_at_hand = self.column.is_mapped
        self._first, self._count, self._is_run = window.offsets[0], len(window.offsets), window.is_run

    def locate(self, positions: Positions, steps: Int64) -> LocatedRows:
        rows = (steps + positions.start[:, None]).reshape(-1)
        return LocatedRows(rows, [] if self.is_at_hand else self.column.ranges(rows))

    def assemble(self, located: LocatedRows, data: Sequence[memoryview], is_pad: Mask, at: Index, out: Any) -> None:
        column, count = self.column, len(is_pad)
        is_direct = isinstance(at, slice) and not isinstance(out, list)
        made = out if is_direct else np.empty((count, *self._step_shape), self.dtype)
        flat = made.reshape(len(located.rows), *column.shape)
        taken = flat if flat.dtype == column.dtype else np.empty(flat.shape, column.dtype)
        column.take(located.rows, taken, data)
        if taken is not flat:
            flat[...] = rounded(taken) if self._is_rounded else taken
        if self._is_zero:
            flat[is_pad.reshape(-1)] = 0
        if isinstance(out, list):  # of one width in this part, of others elsewhere
            scatter(out, at, list(made))
        elif not is_direct:
            out[at] = made

    def one(self, position: Position) -> tuple[Array, Array]:
        if not self._is_run:
            return super().one(position)
        rows, count = self._rows, self._count
        _, step, start, length, _, source = position
        if rows is None:  # of several shards
            rows, start = self.column.span(start, start + length), 0
        first = step - self.earlier[source] + self._first
        if first >= 0 and first + count <= length:
            at = start + first
            value = rows[at : at + count] if self.axes else rows[at, ...]
            return rounded(value) if self._is_rounded else value.astype(self.dtype), np.zeros(self.axes, bool)
        low = 0 if first >= 0 else min(-first, count)
        high = count if first + count <= length else max(length - first, 0)
        is_pad = np.zeros(count, bool)
        value = np.empty((count, *rows.shape[1:]), rows.dtype if self._is_rounded else self.dtype)
        value[low:high] = rows[start + first + low : start + first + high]
        if low:
            is_pad[:low] = True
            value[:low] = 0 if self._is_zero else rows[start]
        if high < count:
            is_pad[high:] = True
            value[high:] = 0 if self._is_zero else rows[start + length - 1]
        if self._is_rounded:
            value = rounded(value)
        return (value, is_pad) if self.axes else (value[0, ...], is_pad.reshape(()))

    def _episode(self, position: Position) -> Array:
        return self.column.span(position.start, position.start + position.length)


class RaggedWindow(FieldWindow):
    """A field whose width is an episode's own."""

    def __init__(self, of: PartReader, field: Field, *rest: Any) -> None:
        super().__init__(of, field, *rest)
        self._part, self._field = of.part, field
        self.column = of.part.column(field)
        self.is_at_hand = self.column.is_mapped

    def locate(self, positions: Positions, steps: Int64) -> LocatedRows:
        starts, widths = self._part.ragged_spans(self._field, positions.episode)
        elements = [
            (start + each[:, None] * width + np.arange(width)).reshape(-1)
            for start, width, each in zip(starts.tolist(), widths.tolist(), steps)
        ]
        rows = np.concatenate([np.empty(0, np.int64), *elements])
        return LocatedRows(rows, self.column.ranges(rows), widths)

    def assemble(self, located: LocatedRows, data: Sequence[memoryview], is_pad: Mask, at: Index, out: Any) -> None:
        assert located.widths is not None
        taken = np.empty(len(located.rows), self.column.dtype)
        self.column.take(located.rows, taken, data)
        made = []
        counts = located.widths * is_pad.shape[1]
        for piece, width, pads in zip(np.split(taken, np.cumsum(counts)[:-1]), located.widths.tolist(), is_pad):
            value = cast(piece.reshape(len(pads), width), self.dtype)
            if self._is_zero:
                value[pads] = 0
            made.append(value.reshape(*self.axes, width))
        scatter(out, at, made)

    def _episode(self, position: Position) -> Array:
        (start,), (width,) = self._part.ragged_spans(self._field, np.array([position.episode]))
        return self.column.span(start, start + position.length * width).reshape(position.length, width)


class CameraWindow(FieldWindow):
    """A camera."""

    def __init__(self, of: PartReader, field: Field, *rest: Any) -> None:
        super().__init__(of, field, *rest)
        self.frames = of.part.frames(field)
        self.is_at_hand = of.part.fetcher.is_near or self.frames.is_mapped
        self._flips = of.flips
        self._picture = field.fixed_shape
        self._decoded = np.dtype(field.dtype) if self._is_rounded else self.dtype  # what pictures are decoded in
        self._before, self._after = max(0, -min(self.offsets)), max(0, *self.offsets, 0)
        self._shape = (len(self.offsets), *field.fixed_shape)

    def assemble(self, located: LocatedFrames, data: Sequence[memoryview], is_pad: Mask, at: Index, out: Any) -> None:
        made = widened(out).astype(self._decoded) if self._is_rounded else out  # what other parts have put there stays
        self.frames.decode(located, data, made.reshape(-1, *self._picture))
        if self._is_rounded:
            out[...] = rounded(made)

    def one(self, position: Position) -> tuple[Array, Array]:
        _, step, start, length, _, source = position
        step -= self.earlier[source]
        rows = [start + step + offset for offset in self.offsets]
        is_pad = np.zeros(len(rows), bool)
        if step < self._before or step >= length - self._after:
            is_pad[...] = [not start <= row < start + length for row in rows]
            rows = [min(max(row, start), start + length - 1) for row in rows]
        return self._filled(position, rows, is_pad)

    def at(self, position: Position, steps: Int64, is_pad: Mask) -> tuple[Array, Array]:
        return self._filled(position, (steps + position.start).tolist(), is_pad)

    def _filled(self, position: Position, rows: list[int], is_pad: Mask) -> tuple[Array, Array]:
        value, positions, zeros = np.empty(self._shape, self._decoded), None, None
        if self._is_zero and is_pad.any():
            positions, zeros = np.flatnonzero(~is_pad).tolist(), np.flatnonzero(is_pad)
            rows = [rows[at] for at in positions]
        episodes, flips = [position.episode] * len(rows), [self._flips[position.source]] * len(rows)
        self.frames.fill(frame_list(rows, episodes, flips, positions, zeros), value)
        if self._is_rounded:
            value = rounded(value)
        return (value, is_pad) if self.axes else (value[0, ...], is_pad.reshape(()))


def scatter(into: list[Any], at: Index, made: Sequence[Any]) -> None:
    """Put each of `made` at its place of `at`."""
    if isinstance(at, slice):
        into[at] = made
    else:
        for number, value in zip(at.tolist(), made):
            into[number] = value
