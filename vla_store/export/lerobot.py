"""LeRobot's data sets: v3.0, and v2.1 as openpi and GR00T read it. Pictures are PNG in parquet, or videos where that is asked for."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_store.export import lerobot_video
from vla_store.export.parquet import CHUNK, DATA_MB, RollingParquet, closed, lists_of, write_tasks, writer_of
from vla_store.extras import needed
from vla_store.features.frames import Batch
from vla_store.features.lerobot import NAMING, OWN, TIMESTAMP, FrameStatistics, described, own_columns, whole
from vla_store.features.mapping import ACTIONS, Feature
from vla_store.features.statistics import QUANTILES
from vla_store.reader.values import Episode

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]
Statistics = dict[str, dict[str, Array]]

VIDEO_MB = 200
GROUP_NBYTES = 1 << 30  # of a column of pictures in one row group; Arrow reads less than twice as much
BUFFERED = 1_000_000  # numbers of statistics of episodes that are held until they are written

DATA = {
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
}
VIDEO = {
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class LeRobotWriter:
    """Writes one data set into a folder.

    Parameters
    ----------
    folder
        Where it grows.
    features
        Those of a frame.
    encode
        Encodes pictures (n, H, W, C) as PNG.
    version
        One of LEROBOT_VERSIONS.
    fps
        Frames a second.
    is_video
        True: cameras are videos.
    modality
        True: writes GR00T's meta/modality.json.
    """

    def __init__(
        self,
        folder: Path,
        features: Sequence[Feature],
        encode: Callable[[Array], list[bytes]],
        *,
        version: str,
        fps: float,
        is_video: bool,
        modality: bool,
    ) -> None:
        needed("pyarrow", "lerobot")
        self._folder, self._features, self._encode = folder, features, encode
        self._version, self._fps = version, whole(fps)
        self._codec = lerobot_video.codec_for(version) if is_video else ""
        self._modality = modality
        self._videos = [each for each in features if each.is_picture] if is_video else []
        for each in self._videos:
            lerobot_video.check_size(each.fields[0], each.shape)
        self._columns = [each for each in features if each not in self._videos]
        self._tasks: dict[str, int] = {}
        self._episodes = self._frames = 0
        self._all = FrameStatistics(features)
        self._compared: dict[str, tuple[Path, Array]] = {}
        self._open: dict[str, lerobot_video.VideoFile] = {}
        self._video_files = dict.fromkeys((each.name for each in self._videos), 0)
        (folder / "meta").mkdir()
        if version == "v3.0":
            self._data = RollingParquet(folder, DATA[version], self._schema())
            self._described = RollingParquet(folder, EPISODES, None)
            self._rows: list[dict[str, Any]] = []

    def begin(self, episode: Episode, steps: int) -> None:
        """Begin an episode of so many frames."""
        self._steps = steps
        self._values: dict[str, list[Any]] = {each.name: [] for each in self._columns}
        self._task_numbers: list[int] = []
        self._own = FrameStatistics(self._features)
        self._at = {each.name: self._begin_video(each) for each in self._videos}

    def rows(self, batch: Batch) -> None:
        """Take the next frames of the episode."""
        for each in self._features:
            rows = each.rows(batch)
            if each.is_picture:
                self._own.pictures[each.name].add(rows)
            if each in self._videos:
                self._open[each.name].write(rows)
                if each.name not in self._compared:
                    self._compared[each.name] = self._open[each.name].path, rows[: lerobot_video.SAMPLED].copy()
            elif each.is_picture:
                self._values[each.name] += self._encode(rows)
            else:
                self._values[each.name].append(rows)
        self._task_numbers += [self._tasks.setdefault(text, len(self._tasks)) for text in batch["task"]]

    def end(self) -> None:
        """Write the episode."""
        frames = np.arange(self._steps)
        task = np.array(self._task_numbers, np.int64)
        own = own_columns(frames, self._fps, episode=self._episodes, index=self._frames + frames, task=task)
        numbers = {each.name: np.concatenate(self._values[each.name]) for each in self._columns if not each.is_picture}
        self._all.merge_pictures(self._own)
        for statistics in (self._own, self._all):
            statistics.add_numbers(numbers | own)
        texts = list(self._tasks)
        tasks = [texts[number] for number in dict.fromkeys(self._task_numbers)]
        write = self._write_v30 if self._version == "v3.0" else self._write_v21
        write(list(self._tables(numbers | own)), tasks, self._own.result())
        self._episodes += 1
        self._frames += self._steps

    def _write_v30(self, tables: list[pa.Table], tasks: list[str], measured: Statistics) -> None:
        chunk, file = self._data.write(*tables)
        self._rows.append(
            {
                "episode_index": self._episodes,
                "tasks": tasks,
                "length": self._steps,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": self._frames,
                "dataset_to_index": self._frames + self._steps,
                **self._video_columns(),
                **{f"stats/{name}/{key}": each[key] for name, each in measured.items() for key in each},
            }
        )
        if sum(np.size(each) for row in self._rows for each in row.values()) > BUFFERED:
            self._flush()

    def _write_v21(self, tables: list[pa.Table], tasks: list[str], measured: Statistics) -> None:
        path = self._folder / DATA["v2.1"].format(episode_chunk=self._episodes // CHUNK, episode_index=self._episodes)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out, closed(writer_of(out, self._schema())) as writer:
            for table in tables:
                writer.write_table(table, len(table))
        for each in self._videos:
            self._open.pop(each.name).close()
        listed = {"episode_index": self._episodes, "tasks": tasks, "length": self._steps}
        _append(self._folder / "meta/episodes.jsonl", listed)
        kept = {
            name: {key: _of_three(value).tolist() for key, value in each.items() if key not in QUANTILES}
            for name, each in measured.items()
        }
        _append(self._folder / "meta/episodes_stats.jsonl", {"episode_index": self._episodes, "stats": kept})

    def close(self) -> list[str]:
        """Write what the data set says of itself. Returns notes on what is not as in the store."""
        meta = self._folder / "meta"
        if self._version == "v3.0":
            self._flush()
            self.abort()
            write_tasks(meta / "tasks.parquet", list(self._tasks))
            measured = {
                name: {key: value.tolist() for key, value in each.items()} for name, each in self._all.result().items()
            }
            (meta / "stats.json").write_text(json.dumps(measured, indent=4), encoding="utf-8")
        else:
            self.abort()
            for text, number in self._tasks.items():
                _append(meta / "tasks.jsonl", {"task_index": number, "task": text})
        if self._modality:
            (meta / "modality.json").write_text(json.dumps(_modality(self._features), indent=4), encoding="utf-8")
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4), encoding="utf-8")
        return [self._lost(each) for each in self._videos]

    def abort(self) -> None:
        """Close what is open."""
        open_ones: list[Any] = list(self._open.values())
        self._open.clear()
        if self._version == "v3.0":
            open_ones += [self._data, self._described]
        with contextlib.ExitStack() as stack:  # each of them, also where closing one fails
            for each in open_ones:
                stack.callback(each.close)

    # Rows

    def _schema(self) -> pa.Schema:
        pa = needed("pyarrow", "lerobot")
        hugging: dict[str, Any] = {}
        columns: list[tuple[str, Any]] = []
        for each in self._columns:
            if each.is_picture:
                kind, described = pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}
            else:
                kind, described = _column(each)
            columns.append((each.name, kind))
            hugging[each.name] = described
        for name in OWN:
            dtype = "float32" if name == TIMESTAMP else "int64"
            columns.append((name, pa.from_numpy_dtype(np.dtype(dtype))))
            hugging[name] = _value(dtype)
        return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": hugging}})})

    def _tables(self, numbers: Mapping[str, Array]) -> Iterator[pa.Table]:
        """Yield the frames of the episode: one table, or several where one column of pictures would be too large for Arrow."""
        pictures = [each.name for each in self._columns if each.is_picture]
        largest = max((sum(map(len, self._values[name])) for name in pictures), default=0)
        most = max(1, self._steps // (1 + largest // GROUP_NBYTES))
        columns: dict[str, Any] = {name: self._values[name] for name in pictures} | dict(numbers)
        for start in range(0, self._steps, most):
            yield self._table({name: rows[start : start + most] for name, rows in columns.items()}, start)

    def _table(self, rows: Mapping[str, Any], start: int) -> pa.Table:
        """Return rows as a table. start: the first one's number in the episode."""
        pa, schema = needed("pyarrow", "lerobot"), self._schema()
        columns = []
        for each in self._columns:
            kind, values = schema.field(each.name).type, rows[each.name]
            if each.is_picture:
                digits = "frame-{:06d}.png" if self._version == "v3.0" else "frame_{:06d}.png"
                paths = [digits.format(start + number) for number in range(len(values))]
                columns.append(
                    pa.StructArray.from_arrays([pa.array(values, pa.binary()), pa.array(paths)], fields=list(kind))
                )
            else:
                columns.append(lists_of(values, kind))
        return pa.Table.from_arrays([*columns, *(pa.array(rows[name]) for name in OWN)], schema=schema)

    # Videos

    def _begin_video(self, feature: Feature) -> int:
        """Open the video of the next episode, or go on with the one that grows; return the frame where it begins."""
        name, at = feature.name, 0
        if self._version == "v2.1":
            path = VIDEO["v2.1"].format(
                video_key=name, episode_chunk=self._episodes // CHUNK, episode_index=self._episodes
            )
        else:
            if name in self._open and self._open[name].nbytes > VIDEO_MB << 20:
                self._open.pop(name).close()
                self._video_files[name] += 1
            chunk, file = divmod(self._video_files[name], CHUNK)
            path = VIDEO["v3.0"].format(video_key=name, chunk_index=chunk, file_index=file)
        if name in self._open:
            at = self._open[name].count
        else:
            made = lerobot_video.VideoFile(self._folder / path, feature.shape, self._fps, self._codec)
            self._open[name] = made
        return at

    def _video_columns(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for each in self._videos:
            chunk, file = divmod(self._video_files[each.name], CHUNK)
            place, at = f"videos/{each.name}", self._at[each.name]
            made |= {f"{place}/chunk_index": chunk, f"{place}/file_index": file}
            made |= {f"{place}/from_timestamp": at / self._fps, f"{place}/to_timestamp": (at + self._steps) / self._fps}
        return made

    def _lost(self, feature: Feature) -> str:
        mean, largest = lerobot_video.loss(*self._compared[feature.name])
        return (
            f"pixels of {feature.name} are not those of the store: {self._codec} video; of its first pictures they differ by "
            f"{mean:.1f} grey levels on average, {largest} at most"
        )

    # What it says of itself

    def _flush(self) -> None:
        if not self._rows:
            return
        pa = needed("pyarrow", "lerobot")
        place = self._described.place
        columns = {name: [_plain(row[name]) for row in self._rows] for name in self._rows[0]}
        columns |= {
            f"meta/episodes/{name}": [at] * len(self._rows) for name, at in zip(("chunk_index", "file_index"), place)
        }
        types = {"tasks": pa.list_(pa.string())}
        self._described.write(pa.table({name: pa.array(each, types.get(name)) for name, each in columns.items()}))
        self._rows.clear()

    def _info(self) -> dict[str, Any]:
        features = described(self._features)
        for each in self._videos:
            video = lerobot_video.info(each.shape, self._fps, self._codec)
            features[each.name] |= {"dtype": "video", "info": video}
        is_old = self._version == "v2.1"
        made = {
            "codebase_version": self._version,
            "robot_type": None,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "fps": self._fps,
            "splits": {"train": f"0:{self._episodes}"},
            "data_path": DATA[self._version],
            "video_path": VIDEO[self._version] if self._videos else None,
            "features": features,
        }
        if is_old:
            made["total_videos"] = self._episodes * len(self._videos)
            made["total_chunks"] = math.ceil(self._episodes / CHUNK)
        else:
            made |= {"data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB}
        return made


def _column(feature: Feature) -> tuple[Any, dict[str, Any]]:
    """Return the type of a column of numbers, and what `datasets` says of it."""
    pa = needed("pyarrow", "lerobot")
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype))
    shape = feature.shape or (1,)
    if shape == (1,):
        return kind, _value(feature.dtype)
    if len(shape) == 1:
        sequence = {"feature": _value(feature.dtype), "length": shape[0], "_type": "Sequence"}
        return pa.list_(kind, shape[0]), sequence
    for _ in shape:
        kind = pa.list_(kind)
    return kind, {"shape": list(shape), "dtype": feature.dtype, "_type": f"Array{len(shape)}D"}


def _of_three(value: Array) -> Array:
    """Return a picture's statistics for three channels, of however many it has: releases for v2.1 take no others."""
    return value[[0, 0, 0] if len(value) == 1 else [0, 1, 2]] if value.shape[1:] == (1, 1) else value


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _modality(features: Sequence[Feature]) -> dict[str, Any]:
    """Return GR00T's description: which numbers of state and action are of which field."""
    slices: dict[str, dict[str, Any]] = {"state": {}, "action": {}}
    video = {}
    for each in features:
        kind = "action" if each.fields == (ACTIONS,) else "state" if each.is_state else ""
        start = 0
        for name, width in zip(each.fields, each.widths) if kind else ():
            slices[kind][name] = {"start": start, "end": start + width, "original_key": each.name}
            start += width
        if each.is_picture:
            video[each.name.removeprefix(NAMING.picture)] = {"original_key": each.name}
    annotation = {"human.action.task_description": {"original_key": "task_index"}}
    return {**slices, "video": video, "annotation": annotation}


def _append(path: Path, document: Mapping[str, Any]) -> None:
    """Add a line to a file: opened and closed at once, so that a full disk is told of here."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document) + "\n")
