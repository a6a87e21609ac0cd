"""Sources that are only read from front to back, as sources whose steps can be read in any order.

Owns the folder in which the steps of a streamed source lie while a store is built from it or compared with it. May import the
protocols of this folder, format and errors.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import SourceError, machine_errors
from vla_store.format.attributes import Attributes
from vla_store.format.schema import check_field_names
from vla_store.sources.overrides import Overrides
from vla_store.sources.protocol import (
    Array,
    EpisodeInfo,
    EpisodeSource,
    SourceInfo,
    StreamedSource,
    as_promised,
    name_of,
    overridden,
)
from vla_store.text import counted

KEEPING = "keeping the steps of a streamed source"


def readable(source: EpisodeSource | StreamedSource) -> EpisodeSource:
    """Return a source that reads by rows: itself, or what spools the steps that it streams."""
    return source if isinstance(source, EpisodeSource) else SpooledSource(source)


class SpooledSource:
    """A streamed source, whose steps the first `scan` puts into a folder; which is gone with the process that scanned."""

    def __init__(self, source: StreamedSource) -> None:
        self.streamed = source
        self._info: SourceInfo | None = None
        self._folder = ""

    def __getattr__(self, name: str) -> Any:
        """Return what the source is called: its path, suite, file, layout."""
        if name.startswith("_") or name == "streamed":
            raise AttributeError(name)
        return getattr(self.streamed, name)

    def overridden(self, overrides: Overrides) -> EpisodeSource:
        changed: Any = overridden(self.streamed, overrides)  # type: ignore[arg-type]
        return self if changed is self.streamed else SpooledSource(changed)  # one stream is enough

    def __getstate__(self) -> dict[str, Any]:
        # A worker's copy reads, and needs no more.
        return {"streamed": self.streamed, "_info": None, "_folder": self._folder}

    def scan(self) -> SourceInfo:
        if self._info is None:
            info = self.streamed.scan()
            with machine_errors(KEEPING):
                self._folder = tempfile.mkdtemp(prefix="vla_store-spool-")
            weakref.finalize(self, _remove, self._folder, os.getpid())
            self._fill(info)
            self._info = info
        return self._info

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        return np.array(np.load(self._path(number, field), mmap_mode="r")[start:stop])

    def attributes(self, number: int | None) -> Attributes:
        return self.streamed.attributes(number)

    def is_plain(self, number: int, field: str) -> bool:
        return True

    def _path(self, number: int, field: str) -> Path:
        return Path(self._folder) / f"{number}.{field}.npy"

    def _fill(self, info: SourceInfo) -> None:
        """Write the stream, a file for each field of an episode. Raises SourceError where it is not what the scan promised."""
        waiting = {each.number: each for each in info.episodes}
        episode: EpisodeInfo | None = None
        done = 0
        for number, block in self.streamed.stream():
            if episode is None or number != episode.number:
                self._check_whole(episode, done)
                episode, done = waiting.pop(number, None), 0
                if episode is None:
                    raise self._unpromised(
                        number, "every episode of the scan once", "an episode that is none, or comes again"
                    )
                check_field_names(list(episode.fields), file=name_of(self), demo=number)
            if sorted(block) != sorted(episode.fields) or not block:
                raise self._unpromised(number, ", ".join(sorted(episode.fields)), ", ".join(sorted(block)))
            steps = np.shape(block[next(iter(block))])[:1]
            if steps in ((), (0,)):
                raise self._unpromised(number, "blocks of at least one step", "a block of none")
            stop = done + steps[0]
            for name, spec in episode.fields.items():
                where = {"file": name_of(self), "demo": number, "field": name}
                rows = as_promised(block[name], spec.dtype, spec.shape, done, stop, **where)
                with machine_errors(KEEPING, self._folder), open(self._path(episode.number, name), "ab") as file:
                    if not done:
                        shape = (episode.steps, *spec.shape)
                        header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(rows.data)
            done = stop
        self._check_whole(episode, done)
        if waiting:
            raise self._unpromised(min(waiting), "every episode of the scan once", "a stream that ends before it")

    def _check_whole(self, episode: EpisodeInfo | None, steps: int) -> None:
        if episode is not None and steps != episode.steps:
            raise self._unpromised(episode.number, counted(episode.steps, "step"), counted(steps, "step"))

    def _unpromised(self, number: int, expected: str, found: str) -> SourceError:
        what = "a source does not give what its scan promised"
        return SourceError(what, file=name_of(self), demo=number, expected=expected, found=found)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)
