"""Rows of one field, by their numbers in the store."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader.frames import announce, frame_list
from vla_store.reader.part import Index
from vla_store.reader.parts import Parts
from vla_store.reader.shards import open_shards
from vla_store.storage import Storage

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]


def read_rows(parts: Parts, fetcher: Storage, field: str, rows: Int64, out: Array) -> None:
    """Read (n,) rows of a fixed field into `out`, (n, *shape) of its dtype. Raises what reading raises."""
    if parts.documents[0].fields[field].is_camera:
        _read_pictures(parts, fetcher, field, rows, out)
        return
    columns = [(part.column(part.document.fields[field]), at, local) for part, at, local in parts.of_rows(rows)]
    ranges = [column.ranges(local) for column, _, local in columns]
    data = iter(fetcher.read([each for of_part in ranges for each in of_part]) if any(ranges) else ())
    for (column, at, local), mine in zip(columns, ranges):
        with _place(out, at, len(local)) as into:
            column.take(local, into, list(itertools.islice(data, len(mine))))


def _read_pictures(parts: Parts, fetcher: Storage, field: str, rows: Int64, out: Array) -> None:
    cameras = []
    for part, at, local in parts.of_rows(rows):
        episodes = part.positions(local).episode.tolist()
        frames = frame_list(local.tolist(), episodes, [0] * len(local))
        cameras.append((part.frames(part.document.fields[field]), at, frames, len(local)))
    if not fetcher.is_near:
        open_shards([each for camera, _, frames, _ in cameras for each in camera.unopened(frames)])
    located = [camera.locate(frames) for camera, _, frames, _ in cameras]
    ranges = [each for of_part in located for each in of_part.ranges]
    data = iter(fetcher.read(ranges) if ranges else ())
    announce(located)
    for (camera, at, _, count), mine in zip(cameras, located):
        with _place(out, at, count) as into:
            camera.decode(mine, list(itertools.islice(data, len(mine.ranges))), into)


@contextlib.contextmanager
def _place(out: Array, at: Index, count: int) -> Iterator[Array]:
    """Yield an array for what belongs to these places of `out`, to which it then goes."""
    into = out if isinstance(at, slice) else np.empty((count, *out.shape[1:]), out.dtype)
    yield into
    if into is not out:
        out[at] = into
