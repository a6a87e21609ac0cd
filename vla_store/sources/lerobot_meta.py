"""What a LeRobot data set says of itself: the folder meta/ of versions 2.0, 2.1 and 3.0, and the rows of its data files.

Owns what is found where: which file has which episode, from which row and frame on. May import extras, features, parquet and
protocol of this folder, and errors.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vla_store.errors import SourceError
from vla_store.extras import needed
from vla_store.sources import parquet
from vla_store.sources.features import task_of
from vla_store.sources.parquet import EXTRA, reading, stamp_of
from vla_store.sources.protocol import CLOSERS, Array

INFO = "meta/info.json"
EPISODES_2, TASKS_2 = "meta/episodes.jsonl", "meta/tasks.jsonl"
EPISODES_3, TASKS_3, SUBTASKS_3 = "meta/episodes", "meta/tasks.parquet", "meta/subtasks.parquet"
MODALITY = "meta/modality.json"  # GR00T's
BESIDE = (INFO, MODALITY, "meta/embodiment.json")  # small texts that are kept as they are
MAX_BESIDE_NBYTES = 1 << 20

VERSIONS = re.compile(r"v?(2\.[01]|3\.0)\Z")
TIMESTAMP = "timestamp"
BOOKKEEPING = (TIMESTAMP, "frame_index", "episode_index", "index", "task_index")
ANNOTATION = "annotation."  # GR00T's columns of numbers of tasks
SUCCESS = "next.success"
CHUNK = 1000  # episodes a folder, where info.json does not say it
TOLERANCE = 1e-3  # seconds: LeRobot's own is 1e-4, beside numbers of 32 bits

_KNOWN = re.compile(r"(episode_index|tasks|length|dataset_(from|to)_index|(data|videos|meta|stats)/.*)\Z")
_MEND = "mend {}, which says it, or the data; --skip-bad leaves out what does not fit"


@dataclass(frozen=True)
class Episode:
    """An episode as the metadata has it.

    place: what fills in the names in `data_path`. first: its first row in its file. videos: by key, what fills in `video_path`, and the
    second at which it begins. extra: what the metadata says more.
    """

    number: int
    length: int
    place: tuple[int, int]
    first: int
    tasks: tuple[str, ...]
    videos: Mapping[str, tuple[int, int, float]]
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """Rows of a file that have one episode's number, one after another.

    odd: the first one whose frame_index is not its place, None where there is none. is_regular: `timestamp` says nothing that
    frame_index does not. tasks: the first row and the task_index of each stretch. labels: by column, the numbers of tasks that it
    has, in the order in which they first occur. texts: by column, its only value; None where there are several. success: of the last row.
    """

    number: int
    first: int
    rows: int
    odd: int | None
    is_regular: bool
    tasks: tuple[tuple[int, int], ...]
    labels: Mapping[str, tuple[int, ...]]
    texts: Mapping[str, str | None]
    success: int


@dataclass(frozen=True)
class Rows:
    """A data file: what its footer says, and whose rows it has."""

    table: parquet.Table
    runs: tuple[Run, ...]

    def run_at(self, row: int) -> Run | None:
        """Return the run in which a row lies."""
        place = bisect.bisect_right(self.runs, row, key=lambda each: each.first) - 1
        return self.runs[place] if 0 <= row < self.table.rows else None


class DataSet:
    """A data set by its metadata.

    info: info.json. features: by name, as that has them. episodes: by number. tasks: by task_index. fps: None where that says none.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.info = _object(root, INFO)
        version = self.info.get("codebase_version")
        if not isinstance(version, str) or not VERSIONS.match(version):
            raise SourceError(
                "a version of LeRobot's data sets that is not known",
                file=os.path.join(root, INFO),
                expected="codebase_version v2.0, v2.1 or v3.0",
                found=version,
                hint="LeRobot itself converts older ones: lerobot.datasets.v30.convert_dataset_v21_to_v30, and the like",
            )
        self.is_3 = version.endswith("3.0")
        self.features = _features(self.info, root)
        fps = self.info.get("fps")
        is_no_flag = not isinstance(fps, bool)
        self.fps = float(fps) if is_no_flag and isinstance(fps, (int, float)) and 0 < fps < 1e6 else None
        names = self.info.get("chunks_size")
        self._chunk = names if isinstance(names, int) and names > 0 else CHUNK
        texts = _tasks_3(root, TASKS_3) if self.is_3 else _tasks_2(root)
        self.tasks = {number: task_of(text) for number, text in texts.items()}
        listed = self._episodes_3() if self.is_3 else self._episodes_2()
        self.episodes: dict[int, Episode] = {}
        for each in listed:
            if each.number in self.episodes:
                raise SourceError(
                    "two episodes of the metadata have one number",
                    file=os.path.join(root, EPISODES_3 if self.is_3 else EPISODES_2),
                    found=f"episode_index {each.number} twice",
                )
            self.episodes[each.number] = each
        if not self.episodes:
            raise SourceError("a data set without episodes", folder=root)
        self.modality = _object(root, MODALITY) if os.path.exists(os.path.join(root, MODALITY)) else {}
        self._first_pictures: dict[str, bytes] = {}

    @property
    def cameras(self) -> dict[str, bool]:
        """Names of the features that are pictures, and whether they lie in videos."""
        return {name: each["dtype"] == "video" for name, each in self.features.items() if is_camera(each)}

    def data_file(self, episode: Episode) -> str:
        """Return the file below the root that has the rows of an episode."""
        first, second = episode.place
        return self._filled("data_path", first, second)

    def video_file(self, episode: Episode, key: str) -> str:
        """Return the file below the root that has the frames of a camera of an episode."""
        if key not in episode.videos:
            raise SourceError("the metadata does not say where a video is", dataset=key, expected=f"videos/{key}/...")
        first, second, _ = episode.videos[key]
        return self._filled("video_path", first, second, key)

    def at(self, file: str) -> str:
        return os.path.join(self.root, file)

    def _filled(self, template: str, first: int, second: int, key: str = "") -> str:
        given = self.info.get(template)
        names = ("chunk_index", "file_index") if self.is_3 else ("episode_chunk", "episode_index")
        try:
            if not isinstance(given, str) or re.search(r"\{[^}]*[.\[!]", given):
                raise ValueError("no template")
            filled = given.format(**dict(zip(names, (first, second))), video_key=key)
            if PurePosixPath(filled).is_absolute() or ".." in PurePosixPath(filled).parts:
                raise ValueError("a path that leads out of the data set")
        except (IndexError, KeyError, ValueError) as error:
            raise SourceError(
                "a path in info.json cannot be",
                file=self.at(INFO),
                attribute=template,
                expected=f"a text with {{{names[0]}}} and {{{names[1]}}}",
                found=f"{given!r:.120} ({error})",
            ) from None
        return filled

    def first_picture(self, key: str) -> bytes:
        """Return the encoded picture that the first file has first: the others of a camera are as it is."""
        if key not in self._first_pictures:
            failed: SourceError | None = None
            for file in dict.fromkeys(map(self.data_file, self.episodes.values())):
                try:
                    self._first_pictures[key] = parquet.pictures(self.at(file), key, 0, 1)[0]
                    break
                except SourceError as error:
                    failed = failed or error
            else:
                raise failed or SourceError("a camera without pictures", dataset=key)
        return self._first_pictures[key]

    @functools.cached_property
    def is_regular(self) -> bool:
        """True where the timestamps of all rows are frame_index / fps, and so nothing that must be kept."""
        if self.fps is None:
            return TIMESTAMP not in self.features
        for file in dict.fromkeys(map(self.data_file, self.episodes.values())):
            try:
                if not all(each.is_regular for each in self.rows(file).runs):
                    return False
            except SourceError:  # its own scan says what is wrong
                continue
        return True

    def rows(self, file: str) -> Rows:
        """Return whose rows a data file has. Raises SourceError."""
        path = self.at(file)
        with reading(path):
            return _rows(path, self.fps, *stamp_of(path))

    def _episodes_2(self) -> Iterator[Episode]:
        has_videos = [name for name, is_video in self.cameras.items() if is_video]
        for line in _lines(self.root, EPISODES_2):
            number, length = _count(line, "episode_index", EPISODES_2), _count(line, "length", EPISODES_2)
            place = (number // self._chunk, number)
            extra = {name: value for name, value in line.items() if not _KNOWN.match(name)}
            yield Episode(
                number, length, place, 0, _texts(line.get("tasks")), dict.fromkeys(has_videos, (*place, 0.0)), extra
            )

    def _episodes_3(self) -> Iterator[Episode]:
        has_videos = [name for name, is_video in self.cameras.items() if is_video]
        lines = list(_episode_rows_3(self.root))
        files = [(_count(line, "data/chunk_index"), _count(line, "data/file_index")) for line in lines]
        starts = [_count(line, "dataset_from_index") for line in lines]
        first: dict[tuple[int, int], int] = {}
        for place, start in zip(files, starts):
            first[place] = min(first.get(place, start), start)
        for line, place, start in zip(lines, files, starts):
            videos = {}
            for key in has_videos:
                at = line.get(f"videos/{key}/from_timestamp")
                if isinstance(at, (int, float)):
                    names = (f"videos/{key}/chunk_index", f"videos/{key}/file_index")
                    videos[key] = (_count(line, names[0]), _count(line, names[1]), float(at))
            extra = {name: value for name, value in line.items() if not _KNOWN.match(name)}
            yield Episode(
                _count(line, "episode_index"),
                _count(line, "length"),
                place,
                start - first[place],
                _texts(line.get("tasks")),
                videos,
                extra,
            )


def is_camera(feature: Mapping[str, Any]) -> bool:
    """Tell whether a feature of info.json is pictures."""
    return feature["dtype"] in ("image", "video")


def data_set(root: str) -> DataSet:
    """Return a data set by its metadata, which is read once as long as it does not change. Raises SourceError."""
    names = [INFO, EPISODES_2, TASKS_2, TASKS_3, MODALITY]
    found = [Path(root, name) for name in names] + sorted(Path(root, EPISODES_3).glob("*/*.parquet"))
    stamps = tuple((str(each), *stamp_of(str(each))) for each in found if each.exists())
    return _data_set(root, stamps)


@functools.lru_cache(maxsize=8)
def _data_set(root: str, stamps: tuple[tuple[str, int, int], ...]) -> DataSet:
    return DataSet(root)


# What lies in meta/


def _object(root: str, name: str) -> dict[str, Any]:
    path = os.path.join(root, name)
    with reading(path):
        try:
            value = json.loads(Path(path).read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise SourceError("a file of the metadata is not JSON", found=str(error)[:200]) from None
        if not isinstance(value, dict):
            raise SourceError("a file of the metadata is no JSON object", found=f"{value!r:.120}")
        return value


def _lines(root: str, name: str) -> Iterator[dict[str, Any]]:
    path = os.path.join(root, name)
    with reading(path), open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                raise SourceError(
                    "a line of the metadata is not a JSON object", line=number, found=f"{line[:80]!r} ({error})"[:200]
                ) from None
            yield value


def _features(info: Mapping[str, Any], root: str) -> dict[str, dict[str, Any]]:
    features = info.get("features")
    if not isinstance(features, dict) or not all(
        isinstance(each, dict) and isinstance(each.get("dtype"), str) for each in features.values()
    ):
        raise SourceError(
            "info.json does not say what its features are",
            file=os.path.join(root, INFO),
            expected='features: {name: {"dtype", "shape", "names"}}',
            found=f"{features!r:.160}",
        )
    return features


def _tasks_2(root: str) -> dict[int, str]:
    return {_count(line, "task_index", TASKS_2): str(line.get("task", "")) for line in _lines(root, TASKS_2)}


def _tasks_3(root: str, name: str, index: str = "task_index") -> dict[int, str]:
    """Read a table of texts by number: pandas writes the texts as its index, whose name has changed."""
    path = os.path.join(root, name)
    table = parquet.table_of(path)
    texts = [each for each, column in table.columns.items() if column.kind == parquet.TEXT]
    text = next((each for each in ("task", "subtask", "__index_level_0__") if each in texts), None)
    if text is None or index not in table.columns:
        raise SourceError(
            "a table of tasks is not one", file=path, expected=f"{index} and a text", found=", ".join(table.columns)
        )
    read = parquet.whole(path, [index, text])
    return dict(zip(parquet.integers(read[index], index).tolist(), map(str, read[text].to_pylist())))


def subtasks(root: str) -> dict[int, str]:
    """Return the texts of subtasks by subtask_index; none where there are none."""
    there = os.path.exists(os.path.join(root, SUBTASKS_3))
    return _tasks_3(root, SUBTASKS_3, "subtask_index") if there else {}


def _episode_rows_3(root: str) -> Iterator[dict[str, Any]]:
    files = sorted(Path(root, EPISODES_3).glob("*/*.parquet"))
    if not files:
        raise SourceError(
            "a file of the data set is missing",
            file=os.path.join(root, EPISODES_3),
            expected="chunk-000/file-000.parquet in it",
            hint="a download may be incomplete: get it again",
        )
    for path in map(str, files):
        columns = [name for name in parquet.table_of(path).columns if not name.startswith(("stats/", "meta/"))]
        read = parquet.whole(path, columns)
        lists = {name: array.to_pylist() for name, array in read.items()}
        for values in zip(*lists.values()):
            yield dict(zip(lists, values))


def _count(line: Mapping[str, Any], name: str, file: str = EPISODES_3) -> int:
    value = line.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise SourceError(
            "the metadata lacks a number",
            metadata=file,
            attribute=name,
            expected="a whole number from 0 on",
            found="none" if value is None else f"{value!r:.80}",
        )
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


# Whose rows a data file has


@functools.lru_cache(maxsize=1 << 17)
def _rows(path: str, fps: float | None, mtime_ns: int, size: int) -> Rows:
    table = parquet.table_of(path)
    wanted = [name for name, column in table.columns.items() if _is_looked_at(name, column)]
    missing = [name for name in ("episode_index", "frame_index", "task_index") if name not in wanted]
    if missing or not table.rows:
        raise SourceError(
            "a data file lacks a column" if missing else "a data file without rows",
            missing=", ".join(missing) or None,
            found=", ".join(table.columns)[:200],
        )
    arrays = parquet.whole(path, wanted)
    texts = {name: arrays.pop(name) for name in list(arrays) if table.columns[name].kind == parquet.TEXT}
    columns = {name: parquet.integers(array, name) for name, array in arrays.items()}
    edges = _edges(columns["episode_index"])
    runs = [_run(first, stop, columns, texts, fps) for first, stop in itertools.pairwise(edges)]
    return Rows(_shared(table.rows, tuple(table.columns.items())), tuple(runs))


CLOSERS.append(_data_set.cache_clear)


@functools.lru_cache(maxsize=64)
def _shared(rows: int, columns: tuple[tuple[str, parquet.Column], ...]) -> parquet.Table:
    """Return one table for all files that look alike: there may be hundreds of thousands."""
    return parquet.Table(rows, dict(columns))


def _is_looked_at(name: str, column: parquet.Column) -> bool:
    if column.kind == parquet.TEXT:
        return True
    is_told = name in (*BOOKKEEPING, SUCCESS) or (name.startswith(ANNOTATION) and column.dtype.startswith("int"))
    return column.kind == parquet.NUMBER and is_told and column.shape in ((), (1,)) and name != "index"


def _edges(values: Array) -> list[int]:
    """Return where each stretch of equal values begins, and the number of all."""
    return [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]


def _run(first: int, stop: int, columns: Mapping[str, Array], texts: Mapping[str, Any], fps: float | None) -> Run:
    own = {name: values[first:stop] for name, values in columns.items()}
    places = np.arange(stop - first)
    odd = np.flatnonzero(own["frame_index"] != places)
    tasks = own["task_index"]
    times = own.get(TIMESTAMP)
    return Run(
        number=int(own["episode_index"][0]),
        first=first,
        rows=stop - first,
        odd=int(odd[0]) if len(odd) else None,
        is_regular=times is None or (fps is not None and bool((np.abs(times - places / fps) < TOLERANCE).all())),
        tasks=tuple((each, int(tasks[each])) for each in _edges(tasks)[:-1]),
        labels={name: _distinct(own[name]) for name in own if name.startswith(ANNOTATION)},
        texts={name: _only(values.slice(first, stop - first)) for name, values in texts.items()},
        success=int(bool(own[SUCCESS][-1])) if SUCCESS in own else -1,
    )


def _distinct(values: Array) -> tuple[int, ...]:
    return tuple(dict.fromkeys(values[_edges(values)[:-1]].tolist()))


def _only(values: Any) -> str | None:
    unique = needed("pyarrow.compute", EXTRA).unique(values).to_pylist()
    return str(unique[0]) if len(unique) == 1 and unique[0] is not None else None


def mend(of: str) -> str:
    """Return what to do where the metadata and the rows disagree."""
    return _MEND.format(of)


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return names as a line has room for."""
    found = list(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
