"""The windows of one part: readers of its fields, made once and used for every sample."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader import orient
from vla_store.reader.batch import Sample
from vla_store.reader.conversion import DTypes, refusing_overflow
from vla_store.reader.gather import CameraWindow, NumericWindow, RaggedWindow
from vla_store.reader.kept import KeptSteps
from vla_store.reader.part import Part, Place, Places
from vla_store.reader.values import StoreField
from vla_store.reader.windows import Window, shift_of, window_times

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_UNWATCHED = contextlib.nullcontext()


class PartReader:
    """The windows of one part, with all that does not depend on the sample computed once."""

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
        self.kept = kept
        sources = part.document.sources
        self.episode_start = part.episode_start
        self._windows = windows
        self._ragged = {window.field for window in windows if fields[window.field].is_ragged}
        keys: list[tuple[tuple[int, ...], bytes | None]] = []
        self._numbers: list[int] = []  # of the windows among `_times`: cameras often share theirs
        self._readers: list[NumericWindow | RaggedWindow | CameraWindow] = []
        flips = bytes(orient.turn(images, source.orientation) for source in sources)
        for window in windows:
            field = part.document.fields[window.field]
            shifts = bytes(-shift_of(field.role, source.observation, alignment) for source in sources)
            earlier = shifts if any(shifts) else None
            number = dtypes.get(field.name, np.dtype(field.dtype))
            reader: NumericWindow | RaggedWindow | CameraWindow
            if field.is_camera:
                reader = CameraWindow(part, field, window, earlier, pad == "zero", number, flips)
            else:
                kind = RaggedWindow if field.is_ragged else NumericWindow
                reader = kind(part, field, window, earlier, pad == "zero", number)
            key = window.offsets, earlier
            if key not in keys:
                keys.append(key)
            self._numbers.append(keys.index(key))
            self._readers.append(reader)
        self._times = [
            (
                np.array(offsets, np.int64),
                None if earlier is None else np.frombuffer(earlier, np.uint8).astype(np.int64),
            )
            for offsets, earlier in keys
        ]
        # Whether all numbers of these fit is seen when they are read.
        self._watched = {
            name: functools.partial(refusing_overflow, name, dtypes[name], fields[name].dtype) for name in watched
        }
        self.ones = [
            (window.field, f"{window.field}_is_pad", self._one(window.field, reader))
            for window, reader in zip(windows, self._readers)
        ]

    def _one(
        self, name: str, reader: NumericWindow | RaggedWindow | CameraWindow
    ) -> Callable[[Place], tuple[Array, Array]]:
        watched = self._watched.get(name)
        if watched is None:
            return reader.one

        def one(place: Place) -> tuple[Array, Array]:
            with watched():
                return reader.one(place)

        return one

    def fill_kept(self, kept: KeptSteps, place: Place, sample: Sample) -> None:
        """Puts the fields of one sample, whose windows go over kept steps, into it."""
        times: list[Any] = [None] * len(self._times)
        for (name, pad_name, _), number, reader in zip(self.ones, self._numbers, self._readers):
            if times[number] is None:
                offsets, earlier = self._times[number]
                times[number] = kept.times_of(place, offsets, 0 if earlier is None else int(earlier[place[5]]))
            steps, is_pad = times[number]
            watched = self._watched.get(name)
            with watched() if watched else _UNWATCHED:
                sample[name], sample[pad_name] = reader.at(place, steps, is_pad.copy())

    def times(self, window: int, places: Places) -> tuple[Int64, Mask]:
        """The steps that one of the windows takes, within their episodes, and which of them are padding; both (B, K)."""
        return self._times_of(self._numbers[window], places)

    def _times_of(self, number: int, places: Places) -> tuple[Int64, Mask]:
        offsets, earlier = self._times[number]
        shifts = None if earlier is None else earlier[places.source]
        if self.kept is not None:
            return self.kept.times(places, offsets, shifts)
        return window_times(places.step if shifts is None else places.step - shifts, places.length, offsets)

    def fill(self, places: Places, at: Int64 | None, arrays: dict[str, Array], ragged: dict[str, list[Any]]) -> None:
        """Writes the samples at `places` into rows `at` of the batch's arrays (None: all of them, in order)."""
        where: Any = slice(None) if at is None else at
        arrays["episode"][where] = places.episode + self.episode_start
        arrays["step"][where] = places.step
        times: list[Any] = [None] * len(self._times)
        frames: list[Any] = [None] * len(self._times)
        for window, number, reader in zip(self._windows, self._numbers, self._readers):
            name = window.field
            if times[number] is None:
                times[number] = self._times_of(number, places)
            clipped, is_pad = times[number]
            arrays[f"{name}_is_pad"][where] = is_pad.reshape(len(places), *window.axes)
            watched = self._watched.get(name)
            with watched() if watched else _UNWATCHED:
                if isinstance(reader, CameraWindow):
                    if frames[number] is None:
                        frames[number] = reader.list_frames(places, clipped, is_pad, at)
                    reader.many(frames[number], arrays[name])
                elif isinstance(reader, RaggedWindow):
                    scatter(ragged[name], at, reader.many(places.episode, clipped, is_pad))
                elif at is None and name not in self._ragged:
                    reader.many(places, clipped, is_pad, arrays[name])
                else:
                    taken = np.empty((len(places), *reader.shape), reader.dtype)
                    reader.many(places, clipped, is_pad, taken)
                    if name in self._ragged:  # of one width in this part
                        scatter(ragged[name], at, list(taken))
                    else:
                        arrays[name][at] = taken


def scatter(into: list[Any], at: Int64 | None, made: list[Any]) -> None:
    """Put each of `made` at its place of `at`; None: in order."""
    if at is None:
        into[:] = made
        return
    for number, value in zip(at.tolist(), made):
        into[number] = value
