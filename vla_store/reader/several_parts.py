"""Samples of several parts at once, as `PartReader` finds and assembles those of one: what costs as much for few as for many is done once.

Imports part_reader.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from vla_store.reader.frames import FrameList, frame_list
from vla_store.reader.part import Index, Positions
from vla_store.reader.part_reader import CameraWindow, ListedPart, LocatedPart, PartReader
from vla_store.reader.windows import window_times


def choose_all(chosen: Sequence[tuple[PartReader, Positions, Index]]) -> list[ListedPart]:
    """Say what samples of several parts take, as `choose` of each does; what costs as much for few as for many is done once."""
    if len(chosen) < 2 or any(not reader.goes_with(chosen[0][0]) or isinstance(at, slice) for reader, _, at in chosen):
        return [reader.choose(positions, at) for reader, positions, at in chosen]
    first = chosen[0][0]
    every = [positions for _, positions, _ in chosen]
    episode, step = np.concatenate([each.episode for each in every]), np.concatenate([each.step for each in every])
    start, length = np.concatenate([each.start for each in every]), np.concatenate([each.length for each in every])
    stops = list(itertools.accumulate(len(positions) for _, positions, _ in chosen))
    times = []
    for number, (offsets, _) in enumerate(first.shifted):
        steps = step
        if any(reader.shifted[number][1] is not None for reader, _, _ in chosen):
            steps = step - np.concatenate([reader.shifts(number, positions.source) for reader, positions, _ in chosen])
        times.append(window_times(steps, length, offsets))
    lists: dict[int, list[FrameList]] = {}
    for number in first.camera_times:
        count = times[number][0].shape[1]
        flips = np.concatenate([reader.turns[positions.source] for reader, positions, _ in chosen])
        places = np.concatenate([at for _, _, at in chosen])[:, None] * count + np.arange(count)
        rows = times[number][0] + start[:, None]
        columns: list[Any] = [
            each.reshape(-1).tolist() for each in (rows, episode.repeat(count), flips.repeat(count), places)
        ]
        edges = itertools.pairwise([0, *(stop * count for stop in stops)])
        lists[number] = [frame_list(*(column[low:high] for column in columns)) for low, high in edges]
    made = []
    for at, ((reader, positions, where), low, high) in enumerate(zip(chosen, [0, *stops], stops)):
        own = [(steps[low:high], is_pad[low:high]) for steps, is_pad in times]
        made.append(ListedPart(reader, where, positions, own, {number: each[at] for number, each in lists.items()}))
    return made


def assemble_all(located: Sequence[LocatedPart], data: Iterator[memoryview], arrays: Mapping[str, Any]) -> None:
    """Write located samples of several parts into their places, as `PartReader.assemble` of each does; numbers go there at once.

    data: what was fetched for the ranges of these parts, one part after the other.
    """
    parts = [(part, iter(list(islice(data, len(part.ranges))) if part.ranges else ())) for part in located]
    if len(parts) < 2 or any(
        not part.reader.goes_with(parts[0][0].reader) or isinstance(part.at, slice) for part, _ in parts
    ):
        for part, pieces in parts:
            part.reader.assemble(part, pieces, arrays)
        return
    first = parts[0][0].reader
    order = np.concatenate([part.at for part, _ in parts])
    stops = list(itertools.accumulate(len(part.positions) for part, _ in parts))
    arrays["step"][order] = np.concatenate([part.positions.step for part, _ in parts])
    arrays["episode"][order] = np.concatenate(
        [part.positions.episode + part.reader.part.episode_start for part, _ in parts]
    )
    for number, window in enumerate(first.windows):
        out = arrays[window.name]
        taken = None if isinstance(window, CameraWindow) else np.empty((len(order), *out.shape[1:]), out.dtype)
        pads = []
        for (part, pieces), low, high in zip(parts, [0, *stops], stops):
            reader, found = part.reader.windows[number], part.located[number]
            mine = list(islice(pieces, len(found.ranges))) if found.ranges else ()
            is_pad = part.times[reader.number][1]
            pads.append(is_pad)
            if taken is None:
                reader.assemble(found, mine, is_pad, part.at, out)  # type: ignore[arg-type]
            else:
                reader.assemble(found, mine, is_pad, slice(None), taken[low:high])  # type: ignore[arg-type]
        if taken is not None:
            out[order] = taken
        arrays[window.pad_name][order] = np.concatenate(pads).reshape(len(order), *window.axes)
