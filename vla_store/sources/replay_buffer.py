"""Replay buffers of Diffusion Policy and UMI: Zarr of format 2, all episodes one after another, in a folder or a zip archive.

`data/<name>` has a row a step, `meta/episode_ends` the end of each episode. Facts: diffusion_policy/common/replay_buffer.py, and
UMI's scripts_slam_pipeline/07_generate_replay_buffer.py. May import the other modules of this folder but kinds, find and those of
HDF5, format and errors.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import MachineError, SourceError, VlaStoreError, machine_error
from vla_store.extras import needed, zarr_python
from vla_store.format.attributes import Attributes, encode_value
from vla_store.format.digests import episode_name
from vla_store.format.schema import NUMERIC_DTYPES
from vla_store.format.skipped import Skipped
from vla_store.sources import features
from vla_store.sources.conventions import top_down
from vla_store.sources.datasets import LEAVE_OUT, FileLayout
from vla_store.sources.overrides import ACTIONS, NO_OVERRIDES, Overrides
from vla_store.sources.protocol import CLOSERS, MEND, Array, EpisodeInfo, FieldSpec, SourceInfo, is_machines, reason_of
from vla_store.text import counted

ENDS = "meta/episode_ends"
ENDING = ".zarr.zip"
LIBRARIES_NBYTES = 8 << 20  # imagecodecs, imported
KEPT_CHUNKS = 4  # a few megabytes each
CHUNK_COPIES = 3  # as it lies in the file, decoded, and with the one before

_PICTURES = "imagecodecs_"  # what the codecs begin with that only imagecodecs has
_NOT_SEEN = re.compile(r"(actions?|rewards?|dones?|terminals?|timestamps?|stage)(_|\Z)")
_AGAIN = "copy or download it again"
_MISSING = (
    f"{_AGAIN}; where those rows are zeros, which zarr 3 does not write, write them: array[...] = array[...] after "
    "zarr.config.set({'array.write_empty_chunks': True})"
)


def is_buffer(path: Path) -> bool:
    """Tell whether a folder or an archive is a replay buffer; one whose name says so is one, though it cannot be opened."""
    if path.is_dir():
        return (path / ENDS / ".zarray").is_file() and (path / "data").is_dir()
    if path.name.lower().endswith(ENDING):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{ENDS}/.zarray" in archive.NameToInfo
    except (OSError, zipfile.BadZipFile):
        return False


@dataclass(frozen=True)
class ReplayBuffer:
    """One replay buffer.

    overrides: what the caller states of it. skip_bad: leave out episodes that are bad, instead of raising.
    """

    path: str
    suite: str
    overrides: Overrides = NO_OVERRIDES
    skip_bad: bool = False

    reads_forward = True  # a chunk may have the pictures of many steps

    @property
    def file(self) -> str:
        return Path(self.path).name

    @property
    def state(self) -> dict[str, Any]:
        """What tells a folder from one that was written to."""
        if not os.path.isdir(self.path):
            return {}
        mtime_ns, nbytes = _size_of(self.path)
        return {"mtime_ns": str(mtime_ns), "size": nbytes}

    def overridden(self, overrides: Overrides) -> ReplayBuffer:
        return replace(self, overrides=overrides)

    def layout(self) -> FileLayout:
        with _naming(self.path):
            every = _buffer(self.path).names
        used = {each for name in every if (each := self._excluding(name)) is not None}
        renamed = {path for path, _ in self.overrides.choice.rename if path in every}
        return FileLayout({}, frozenset(every), tuple(sorted(used | renamed)))

    def scan(self) -> SourceInfo:
        warnings: list[str] = []
        skipped: list[Skipped] = []
        with _naming(self.path):
            buffer = _buffer(self.path)
            bounds = buffer.bounds
            fields = self._specs(buffer, warnings)
        episodes: list[EpisodeInfo] = []
        for number, (start, stop) in enumerate(bounds):
            if stop > start:
                episodes.append(EpisodeInfo(number, stop - start, fields))
                continue
            error = SourceError("an episode without steps", file=self.path, dataset=ENDS, row=number, hint=MEND)
            if not self.skip_bad:
                raise error
            skipped.append(Skipped(self.suite, self.file, episode_name(number), reason_of(error)))
        if not episodes:
            raise SourceError("a replay buffer without episodes", file=self.path)
        task = features.task_by_name(re.sub(r"\.zarr(\.zip)?\Z", "", self.file))
        warnings.append(f"a replay buffer states no instruction; the text is from its name: {task.text!r}")
        codec, decoder = self._lossy(buffer)
        named = "/".join(Path(self.path).parts[-4:])  # with the folders that are the data set's and its neighbours'
        return SourceInfo(
            suite=self.suite,
            file=self.file,
            task=task.name,
            text=task.text,
            orientation=self.overrides.orientation or top_down(self.path, fields, {"its name": named}),
            observation=self.overrides.observation or "before",
            nbytes=_size_of(self.path)[1],
            episodes=tuple(episodes),
            warnings=tuple(warnings),
            skipped=tuple(skipped),
            codec=codec,
            decoder=decoder,
            reading_nbytes=self._reading_nbytes(buffer),
        )

    def _reading_nbytes(self, buffer: _Buffer) -> tuple[int, int]:
        """Return the memory of the chunks that are kept, and of those that a thread decodes and puts together."""
        arrays = [buffer.array(name) for name in self._fields(buffer).values()]
        chunks = (math.prod(each.chunks) * each.dtype.itemsize for each in arrays if each.chunks[0] > 1)
        largest = max(chunks, default=0)
        libraries = LIBRARIES_NBYTES if any(map(buffer.needs_imagecodecs, self._fields(buffer).values())) else 0
        return libraries + KEPT_CHUNKS * largest, CHUNK_COPIES * largest

    def _lossy(self, buffer: _Buffer) -> tuple[str, str]:
        """Return what pictures are in that lost something when they were encoded, and what decodes them: another decoder may differ."""
        lossy = {
            buffer.codecs[name]["id"].removeprefix(_PICTURES)
            for name in self._fields(buffer).values()
            if buffer.needs_imagecodecs(name)
            and not any(buffer.codecs[name].get(each) for each in ("lossless", "reversible"))
        }
        return ("-".join(sorted(lossy)), f"imagecodecs {version('imagecodecs')}") if lossy else ("", "")

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        with _naming(self.path) as where:
            buffer = _buffer(self.path)
            first, _ = buffer.bounds[number]
            name = where["dataset"] = self._fields(buffer)[field]
            return buffer.rows(name, first + start, first + stop)

    def attributes(self, number: int | None) -> Attributes:
        if number is not None:
            return {"/": {}}
        with _naming(self.path):
            buffer = _buffer(self.path)
            made = {"/": _encoded(buffer.group.attrs.asdict())}
            for name in self._fields(buffer).values():
                about = {"compressor": buffer.codecs[name]} if buffer.needs_imagecodecs(name) else {}
                made[f"/data/{name}"] = _encoded({**about, **buffer.array(name).attrs.asdict()})
            return made

    def _excluding(self, name: str) -> str | None:
        return self.overrides.choice.excluding(f"/data/{name}", name)

    def _fields(self, buffer: _Buffer) -> dict[str, str]:
        """Return the arrays that are fields, by the fields' names."""
        names = features.field_names(buffer.names, self.overrides.choice)
        return {field: name for name, field in names.items() if self._excluding(name) is None}

    def _specs(self, buffer: _Buffer, warnings: list[str]) -> dict[str, FieldSpec]:
        """Describe the fields. Raises SourceError for an array that has not one row a step."""
        rows = buffer.bounds[-1][1]
        fields: dict[str, FieldSpec] = {}
        for field, name in self._fields(buffer).items():
            with _naming(self.path, dataset=name):
                array = buffer.array(name)
                if array.dtype.name not in NUMERIC_DTYPES or 0 in array.shape[1:] or not array.ndim:
                    raise SourceError(
                        "an array has the wrong dtype or shape",
                        expected="numbers, with one row a step",
                        found=f"{array.shape} of {array.dtype}",
                        hint=LEAVE_OUT.format(name),
                    )
                if array.shape[0] != rows:
                    raise SourceError(
                        "an array has not as many rows as there are steps",
                        expected=f"{counted(rows, 'row')}, where the last episode ends by {ENDS}",
                        found=counted(array.shape[0], "row"),
                        hint="" if field == ACTIONS else LEAVE_OUT.format(name),
                    )
                role = "step" if _NOT_SEEN.match(field) else "observation"
                fields[field] = FieldSpec(array.dtype.name, array.shape[1:], role)
                if missing := array.nchunks - array.nchunks_initialized:
                    found = f"{missing} of {array.nchunks} chunks were never written; Zarr gives {array.fill_value} for them"
                    if field == ACTIONS or fields[field].is_camera:
                        raise SourceError("a part of an array is missing", found=found, hint=_MISSING)
                    warnings.append(f"{name}: {found}")
        if buffer.others:
            warnings.append(f"what is no array of steps is left out: {', '.join(buffer.others)}")
        if ACTIONS not in fields:
            warnings.append(
                "there is no array action, and so no field actions: UMI's loader computes actions from the poses, where it reads them"
            )
        elif np.dtype(fields[ACTIONS].dtype).kind != "f" or len(fields[ACTIONS].shape) != 1:
            spec = fields[ACTIONS]
            raise SourceError(
                "actions have the wrong dtype or shape",
                file=self.path,
                dataset="action",
                expected="(n,) of floats a step",
                found=f"{spec.shape} of {spec.dtype}",
            )
        return fields


def _encoded(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes as a store keeps them: texts as they are, all else as JSON."""
    return {
        name: encode_value(each if isinstance(each, str) else json.dumps(each, sort_keys=True))
        for name, each in attributes.items()
    }


class _Buffer:
    """An open buffer. names: of the arrays of data. codecs: their compressors, by name, as .zarray has them. others: what else there
    is, which no reader of replay buffers knows."""

    def __init__(self, path: str) -> None:
        every = _declared(path)
        declared = {key[5:]: each for key, each in sorted(every.items()) if key.startswith("data/") and each}
        self.names = tuple(declared)
        self.others = sorted(every.keys() - {ENDS, *(f"data/{name}" for name in declared)})
        self.codecs = {name: each.get("compressor") or {} for name, each in declared.items()}
        self._separators = {name: each.get("dimension_separator", ".") for name, each in declared.items()}
        self._folder = Path(path) if os.path.isdir(path) else None
        zarr = zarr_python()
        store: Any = (
            zarr.storage.LocalStore(path, read_only=True) if self._folder else zarr.storage.ZipStore(path, mode="r")
        )
        self.group = zarr.open_group(store, mode="r", zarr_format=2)
        self.bounds = _bounds(self.group[ENDS][...])
        self._arrays: dict[str, Any] = {}

    def array(self, name: str) -> Any:
        """Return an array. Raises MachineError for a codec that is not here."""
        found = self._arrays.get(name)
        if found is None:
            if self.needs_imagecodecs(name):
                _register(self.codecs[name]["id"])
            try:
                found = self._arrays[name] = self.group[f"data/{name}"]
            except ValueError as error:
                if "codec not available" not in str(error):
                    raise
                raise MachineError(
                    "an array is compressed with a codec that is not installed here",
                    found=self.codecs[name].get("id"),
                    hint=f"install what registers it with numcodecs; {LEAVE_OUT.format(name)}",
                ) from error
        return found

    def needs_imagecodecs(self, name: str) -> bool:
        return str(self.codecs[name].get("id", "")).startswith(_PICTURES)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Return rows [start, stop). A chunk of several rows is decoded once by who reads forward."""
        array = self.array(name)
        of_chunk = int(array.chunks[0])
        chunks = range(start // of_chunk, (stop - 1) // of_chunk + 1)
        if of_chunk == 1:  # by zarr itself, several at a time
            self._check(name, chunks)
            rows: Array = array[start:stop]
            return rows
        parts = [_chunk_of(self, name, each) for each in chunks]
        first = chunks.start * of_chunk
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return joined[start - first : stop - first].copy()

    def chunk(self, name: str, number: int) -> Array:
        """Return the rows of a chunk."""
        self._check(name, [number])
        array = self.array(name)
        rows: Array = array[number * array.chunks[0] : (number + 1) * array.chunks[0]]
        return rows

    def _check(self, name: str, numbers: Iterable[int]) -> None:
        """Raise ValueError for a file of a chunk that is cut short: Blosc makes something of it, and no error. Archives have checksums."""
        if self._folder is None or self.codecs[name].get("id") != "blosc":
            return
        array = self.array(name)
        others = [range(-(-size // chunk)) for size, chunk in zip(array.shape[1:], array.chunks[1:])]
        for place in itertools.product(numbers, *others):
            key = self._separators[name].join(map(str, place))
            with contextlib.suppress(FileNotFoundError), open(self._folder / "data" / name / key, "rb") as file:
                head, size = file.read(16), os.fstat(file.fileno()).st_size
                if (told := int.from_bytes(head[12:16], "little")) != size:
                    raise ValueError(f"chunk {key} has {size} bytes instead of {told}")


def _bounds(ends: Array) -> list[tuple[int, int]]:
    """Return where each episode begins and ends. Raises SourceError for ends that do not ascend."""
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not ends.size:
        raise SourceError(
            "the ends of the episodes have the wrong dtype or shape",
            dataset=ENDS,
            expected="(n,) of integers",
            found=f"{ends.shape} of {ends.dtype}",
        )
    starts = [0, *ends.tolist()]
    for row, (start, stop) in enumerate(itertools.pairwise(starts)):
        if stop < start:
            raise SourceError(
                "the ends of the episodes do not ascend",
                dataset=ENDS,
                row=row,
                expected=f"at least {start}",
                found=stop,
                hint=_AGAIN,
            )
    return list(itertools.pairwise(starts))


def _declared(path: str) -> dict[str, Any]:
    """Return what .zarray says of everything in data and meta, by its path; None of what is no array.

    It is read here, as zarr opens no array whose codec it does not know.
    """
    if os.path.isdir(path):
        tops = [each for each in (Path(path, "data"), Path(path, "meta")) if each.is_dir()]
        keys = [f"{top.name}/{each.name}" for top in tops for each in os.scandir(top) if each.is_dir()]
        files = {key: Path(path, key, ".zarray") for key in keys}
        return {key: json.loads(file.read_bytes()) if file.exists() else None for key, file in files.items()}
    with zipfile.ZipFile(path) as archive:
        inside = (each.split("/") for each in archive.NameToInfo if each.startswith(("data/", "meta/")))
        keys = sorted({"/".join(each[:2]) for each in inside if len(each) > 2})
        there = archive.NameToInfo
        return {key: json.loads(archive.read(f"{key}/.zarray")) if f"{key}/.zarray" in there else None for key in keys}


def _register(codec: str) -> None:
    """Make zarr know a codec of imagecodecs. Raises MachineError where that is not installed."""
    try:
        needed("imagecodecs.numcodecs", "zarr-images").register_codecs([codec], verbose=False)
    except MachineError as error:
        raise error.at(codec=codec) from None


def _size_of(path: str) -> tuple[int, int]:
    """Return when a buffer was last written to, and its bytes."""
    files = [each for folder, _, names in os.walk(path) for each in (os.path.join(folder, name) for name in names)]
    stats = [os.stat(each) for each in files or [path]]
    return max(each.st_mtime_ns for each in stats), sum(each.st_size for each in stats)


@contextlib.contextmanager
def _naming(path: str, **places: Any) -> Iterator[dict[str, Any]]:
    """Turn every failure of zarr and its codecs, which may be of any class, into an error that names the buffer and the array."""
    try:
        yield places
    except VlaStoreError as error:
        raise error.at(file=path, **places) from None
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_machines(error):
            raise machine_error(error, "reading a source", path) from error
        what = (
            "the archive cannot be read" if isinstance(error, zipfile.BadZipFile) else "a replay buffer cannot be read"
        )
        raise SourceError(
            what,
            file=path,
            **places,
            found=f"{type(error).__name__}: {error}"[:300],
            hint=f"{_AGAIN}, or leave it out with --skip-bad",
        ) from error


@functools.lru_cache(maxsize=8)
def _opened(path: str, mtime_ns: int, size: int, pid: int) -> _Buffer:
    return _Buffer(path)


@functools.lru_cache(maxsize=KEPT_CHUNKS)
def _chunk_of(buffer: _Buffer, name: str, number: int) -> Array:
    return buffer.chunk(name, number)


def _buffer(path: str) -> _Buffer:
    stat = os.stat(path)
    return _opened(path, stat.st_mtime_ns, stat.st_size, os.getpid())


CLOSERS += [_chunk_of.cache_clear, _opened.cache_clear]
