"""What the episodes of a LeRobot data set are: their rows checked against the metadata, and what is said of all of them.

May import the modules of this folder that read LeRobot's files, and datasets, jpeg, overrides, png and protocol; format and errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_store.errors import SourceError
from vla_store.format.jpeg import is_jpeg
from vla_store.format.schema import FLOATING_DTYPES
from vla_store.sources import jpeg, lerobot_meta, parquet, video
from vla_store.sources.datasets import LEAVE_OUT
from vla_store.sources.jpeg import Jpegs
from vla_store.sources.lerobot_meta import BOOKKEEPING, TIMESTAMP, DataSet, Episode, Run, listed, mend
from vla_store.sources.overrides import ACTIONS
from vla_store.sources.png import Pngs, reader_of
from vla_store.sources.protocol import MEND, EpisodeInfo, FieldSpec, TaskInfo
from vla_store.text import counted

PNGS = Pngs(parquet.EXTRA)

_DEPTH = re.compile(r"gray(9|1[0-9])")
_STATED = "language_instruction"  # DROID's several wordings


@dataclass
class Scan:
    """Describes the episodes of a source, one after another, and collects what is said of all of them.

    names: of fields, by their features. decoders: by codec, what decodes pictures that lost something when they were encoded.
    page_nbytes, decoder_nbytes: of memory.
    """

    data: DataSet
    names: Mapping[str, str]
    jpegs: Jpegs
    files: dict[str, None] = field(default_factory=dict)
    decoders: dict[str, str] = field(default_factory=dict)
    page_nbytes: int = 0
    decoder_nbytes: int = 0
    _claimed: dict[str, set[int]] = field(default_factory=dict)
    _noted: dict[str, list[int]] = field(default_factory=dict)
    _specs: dict[tuple[str, parquet.Column], FieldSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = dict(self.names)
        if TIMESTAMP in self._names and self.data.is_regular:
            del self._names[TIMESTAMP]
        if ACTIONS not in self._names.values():
            raise SourceError(
                "a data set without actions",
                file=self.data.at(lerobot_meta.INFO),
                expected="a feature action, or actions",
                found=listed(self.data.features),
            )

    def episode(self, episode: Episode) -> EpisodeInfo:
        """Check an episode's rows against the metadata, and describe it. Raises SourceError."""
        data = self.data
        file = data.data_file(episode)
        rows = data.rows(file)
        self.files[data.at(file)] = None
        try:
            run = self._run(episode, rows)
            self._claimed.setdefault(file, set()).add(run.first)
            fields = {
                self._names[key]: self._spec(key, episode, rows.table) for key in self._fields(episode, run, rows)
            }
        except SourceError as error:
            raise error.at(file=data.at(file)) from None
        texts = [(step, self._task(index, step).text) for step, index in run.tasks]
        self._check_tasks(episode, [text for _, text in texts])
        return EpisodeInfo(
            episode.number,
            episode.length,
            fields,
            run.success,
            task=self._task(run.tasks[0][1], 0),
            instructions=self._instructions(run),
            segments=tuple(texts) if len(texts) > 1 else (),
        )

    def check_unclaimed(self) -> None:
        """Raise SourceError for rows that no episode of the metadata has."""
        for file, claimed in self._claimed.items():
            for run in self.data.rows(file).runs:
                if run.first not in claimed and run.number not in self.data.episodes:
                    raise SourceError(
                        "a file has rows of an episode that the metadata does not have",
                        file=self.data.at(file),
                        dataset="episode_index",
                        row=run.first,
                        found=f"{counted(run.rows, 'row')} of episode {run.number}",
                        hint=mend("meta/episodes" if self.data.is_3 else lerobot_meta.EPISODES_2),
                    )

    def warnings(self) -> Iterator[str]:
        for text, numbers in self._noted.items():
            yield f"{text} (episode {numbers[0]}{f' and {len(numbers) - 1} more' if len(numbers) > 1 else ''})"

    def _note(self, text: str, episode: Episode) -> None:
        self._noted.setdefault(text, []).append(episode.number)

    def _run(self, episode: Episode, rows: lerobot_meta.Rows) -> Run:
        """Return the rows of an episode, which are where the metadata says, and as many, and in order."""
        hint = mend("meta/episodes" if self.data.is_3 else lerobot_meta.EPISODES_2)
        stop, total = episode.first + episode.length, rows.table.rows
        if stop > total or (not self.data.is_3 and total != episode.length):
            raise SourceError(
                "an episode has another number of rows than the metadata says",
                expected=f"{counted(episode.length, 'row')} from row {episode.first} on",
                found=f"{counted(total, 'row')} in the file",
                hint=hint,
            )
        run = rows.run_at(episode.first)
        if run is None or run.number != episode.number or run.first != episode.first:
            raise SourceError(
                "the rows where the metadata has an episode are another's",
                dataset="episode_index",
                row=episode.first,
                expected=f"the first row of episode {episode.number}",
                found="no row" if run is None else f"row {episode.first - run.first} of episode {run.number}",
                hint=hint,
            )
        if run.rows != episode.length:
            raise SourceError(
                "an episode has another number of rows than the metadata says",
                dataset="episode_index",
                expected=counted(episode.length, "row"),
                found=counted(run.rows, "row"),
                hint=hint,
            )
        if run.odd is not None:
            raise SourceError(
                "frame_index does not count the rows of an episode",
                dataset="frame_index",
                row=run.odd,
                expected=f"{run.odd}",
                hint=f"rows may be missing or out of order: {MEND}",
            )
        return run

    def _fields(self, episode: Episode, run: Run, rows: lerobot_meta.Rows) -> Iterator[str]:
        """Give the features that are fields; note what is left out."""
        for key in self._names:
            column = rows.table.columns.get(key)
            if self.data.features[key]["dtype"] == "video":
                yield key
            elif column is None:
                raise SourceError(
                    "a feature of info.json has no column",
                    dataset=key,
                    found=listed(rows.table.columns),
                    hint=LEAVE_OUT.format(key),
                )
            elif column.kind == parquet.TEXT:
                if run.texts.get(key) is None:
                    self._note(f"{key} has several texts in one episode, and is left out", episode)
            elif column.kind == parquet.OTHER:
                self._note(
                    f"{key} ({self.data.features[key]['dtype']}) is no numbers and no picture, and is left out", episode
                )
            else:
                yield key
        for key in rows.table.columns.keys() - self.data.features.keys() - set(BOOKKEEPING):
            self._note(f"column {key} is no feature of info.json, and is left out", episode)

    def _spec(self, key: str, episode: Episode, table: parquet.Table) -> FieldSpec:
        feature = self.data.features[key]
        if feature["dtype"] == "video":
            return self._video(key, episode)
        column = table.columns[key]
        if (column.kind == parquet.PICTURE) != lerobot_meta.is_camera(feature):
            raise SourceError(
                "a column is not what info.json says",
                dataset=key,
                expected=feature["dtype"],
                found=f"{column.kind} {column.dtype}".strip(),
                hint=LEAVE_OUT.format(key),
            )
        self.page_nbytes = max(self.page_nbytes, column.nbytes)
        if (key, column) not in self._specs:
            self._specs[key, column] = (
                self._picture(key) if column.kind == parquet.PICTURE else self._numbers(key, column)
            )
        return self._specs[key, column]

    def _numbers(self, key: str, column: parquet.Column) -> FieldSpec:
        is_action, shape = self._names[key] == ACTIONS, column.shape
        if 0 in shape or (is_action and (column.dtype not in FLOATING_DTYPES or len(shape) > 1)):
            raise SourceError(
                "a column has the wrong dtype or shape",
                dataset=key,
                expected="floating numbers, some a row" if is_action else "at least one number a row",
                found=f"{shape} of {column.dtype}",
                hint="" if is_action else LEAVE_OUT.format(key),
            )
        is_seen = key.startswith(("observation", "state")) or key.endswith((".state", "/state"))
        shape = shape or ((1,) if is_action else ())
        names = names_of_numbers(key, self.data.features[key], int(np.prod(shape)), self.data.modality)
        names = names if len(shape) == 1 else ()
        return FieldSpec(column.dtype, shape, "observation" if is_seen and not is_action else "step", names=names)

    def _picture(self, key: str) -> FieldSpec:
        first = self.data.first_picture(key)
        spec = reader_of(first, self.jpegs, PNGS).spec(first)
        if is_jpeg(first) and spec.codec is None:
            self.decoders[jpeg.CODEC] = self.jpegs.decoder
        return spec

    def _video(self, key: str, episode: Episode) -> FieldSpec:
        data = self.data
        path = data.at(data.video_file(episode, key))
        found = video.head_of(path)
        try:
            _check_is_seen(key, data.features[key], found)
            video.check_frames(found.frames, first_frame(data, episode, key) + episode.length)
            if found.seconds:  # that all frames last, of which the last one may last for nothing, or longer; each is looked at when read
                video.check_time(found.frames, found.seconds, rate_of(data, key), most=1.5)
        except SourceError as error:
            raise error.at(file=path, dataset=key) from None
        if not data.is_3 and found.frames > episode.length:
            self._note(f"videos of {key} have more frames than rows; the last ones are left out", episode)
        self.files[path] = None
        self.decoders[found.codec] = found.decoder
        self.decoder_nbytes = max(self.decoder_nbytes, found.decoder_nbytes)
        return found.spec

    def _task(self, index: int, step: int) -> TaskInfo:
        task = self.data.tasks.get(index)
        name = lerobot_meta.TASKS_3 if self.data.is_3 else lerobot_meta.TASKS_2
        if task is None or not task.text.strip():
            raise SourceError(
                "a row has a task that the metadata does not have" if task is None else "a task has no text",
                dataset="task_index",
                row=step,
                expected=f"a task_index of {name}",
                found=index,
                hint=mend(name),
            )
        return task

    def _check_tasks(self, episode: Episode, texts: Sequence[str]) -> None:
        if episode.tasks and not set(texts) <= set(episode.tasks):
            self._note("the metadata has other tasks than task_index of the rows, which is used", episode)

    def _instructions(self, run: Run) -> dict[str, tuple[str, ...]]:
        """Return other wordings: of GR00T's annotations, which are numbers of tasks, and DROID's columns of texts."""
        made = {}
        for key, numbers in run.labels.items():
            texts = [self.data.tasks[each].text for each in numbers if each in self.data.tasks]
            if key in self.data.features and len(texts) == len(numbers) and all(map(str.strip, texts)):
                made[key.removeprefix(lerobot_meta.ANNOTATION)] = tuple(texts)
        for key, text in run.texts.items():
            if key.startswith(_STATED) and text is not None and text.strip():
                made[key] = (text.strip(),)
        return made


def _check_is_seen(key: str, feature: Mapping[str, Any], found: video.Head) -> None:
    """Refuse depth, whose pixels are no colours but numbers, in a scale that only LeRobot's newest versions know."""
    told = [feature.get("info"), feature.get("video_info")]
    is_depth = any(isinstance(each, dict) and each.get("video.is_depth_map") is True for each in told)
    if is_depth or _DEPTH.match(found.pixels):
        raise SourceError(
            "a video is of depth, which is not read",
            expected="a video of colours",
            found=f"{found.codec}, {found.pixels}",
            hint=LEAVE_OUT.format(key),
        )


def totals(data: DataSet) -> Iterator[str]:
    """Give warnings of what info.json counts otherwise."""
    real = {"total_episodes": len(data.episodes), "total_frames": sum(each.length for each in data.episodes.values())}
    for name, count in real.items():
        if data.info.get(name, count) != count:
            yield f"info.json: {name} says {data.info[name]!r:.40}, the episodes' metadata {count}"
    splits = data.info.get("splits")
    for name, span in splits.items() if isinstance(splits, dict) else ():
        end = re.match(r"\d+:(\d+)\Z", str(span))
        if end is None or int(end[1]) > len(data.episodes):
            yield f"info.json: splits says {name} is {span!r:.40}, of {counted(len(data.episodes), 'episode')}; it is kept as an attribute alone"


def first_frame(data: DataSet, episode: Episode, key: str) -> int:
    """Return which frame of its video is an episode's first: as LeRobot finds it, by its time."""
    data.video_file(episode, key)
    return round(episode.videos[key][2] * rate_of(data, key))


def rate_of(data: DataSet, key: str) -> float:
    """Return how many frames of a video there are in a second."""
    if data.fps is None:
        found = data.info.get("fps")
        raise SourceError(
            "the rate of a video's frames is not known", dataset=key, expected="fps in info.json", found=found
        )
    return data.fps


def names_of_numbers(key: str, feature: Mapping[str, Any], count: int, modality: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a name for each number of a vector: from GR00T's slices of it, or from the feature's `names`; () where neither has them."""
    made = [""] * count
    for kind, usual in (("state", "observation.state"), ("action", "action")):
        slices = modality.get(kind)
        for name, each in slices.items() if isinstance(slices, dict) else ():
            start, end = (each.get("start"), each.get("end")) if isinstance(each, dict) else (None, None)
            if type(start) is int and type(end) is int and each.get("original_key", usual) == key:
                numbered = [name] if end - start == 1 else [f"{name}_{place}" for place in range(end - start)]
                made[start:end] = numbered
    if len(made) == count and all(made):
        return tuple(made)
    found = list(_flat_names(feature.get("names")))
    return tuple(found) if len(found) == count and count else ()


def _flat_names(names: Any) -> Iterator[str]:
    for each in names.values() if isinstance(names, dict) else names if isinstance(names, list) else ():
        if isinstance(each, (dict, list)):
            yield from _flat_names(each)
        else:
            yield str(each)
