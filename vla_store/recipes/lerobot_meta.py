"""What a LeRobotDataset says of itself in `.meta`, of frames of a store. Statistics are computed when they are first asked for."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vla_store.features.frames import Frames
from vla_store.features.lerobot import FrameStatistics, described, own_columns
from vla_store.features.mapping import Feature
from vla_store.reader.cached import cached_property
from vla_store.text import counted

Array = np.ndarray[Any, Any]

CODEBASE_VERSION = "v3.0"
PICTURES_MEASURED = 10_000  # frames, evenly spread, of whose pictures statistics are; all where there are no more


class EpisodeTable(Sequence[dict[str, Any]]):
    """A table of episodes: by name a column, by number a row, as `datasets` has it.

    Parameters
    ----------
    columns
        {name: a value for each episode}.
    """

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self._columns = dict(columns)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self._columns)

    def __len__(self) -> int:
        return len(self._columns["episode_index"])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: column[key] for name, column in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def to_pandas(self) -> Any:
        """Return it as a DataFrame."""
        return importlib.import_module("pandas").DataFrame(self._columns)


class LeRobotMeta:
    """The metadata of frames of a store, as LeRobot's code asks for them.

    Parameters
    ----------
    read
        Makes the frames of the given fields.
    frames
        Those of the numbers.
    features
        What a frame is made of.
    fps
        Frames a second.
    texts
        Of each episode its texts, each once.
    numbers
        {text: its task_index}.

    Attributes
    ----------
    repo_id
        What LeRobot calls the data set: the name of the store.
    root, robot_type
        None: it lies in no folder of LeRobot's, and a store knows of no robot.
    fps
        Frames a second.
    features
        {name: {"dtype", "shape", "names"}}.
    episodes
        A table: episode_index, tasks, length, dataset_from_index, dataset_to_index.
    total_episodes, total_frames, total_tasks
        How many there are.
    """

    root = None
    robot_type = None
    has_language_columns = False

    def __init__(
        self,
        read: Callable[[Sequence[str]], Frames],
        frames: Frames,
        features: Sequence[Feature],
        fps: float,
        texts: Sequence[Sequence[str]],
        numbers: Mapping[str, int],
    ) -> None:
        self._read, self._frames, self._features, self._numbers = read, frames, features, dict(numbers)
        self.repo_id = frames.store.url.rstrip("/").rpartition("/")[2] or "store"
        self.fps = fps
        self.features = {name: each | {"shape": tuple(each["shape"])} for name, each in described(features).items()}
        bounds = frames.bounds.tolist()
        self.total_episodes, self.total_frames, self.total_tasks = len(texts), bounds[-1], len(numbers)
        self.episodes = EpisodeTable(
            {
                "episode_index": list(range(len(texts))),
                "tasks": [list(each) for each in texts],
                "length": np.diff(frames.bounds).tolist(),
                "dataset_from_index": bounds[:-1],
                "dataset_to_index": bounds[1:],
            }
        )

    @property
    def camera_keys(self) -> list[str]:
        """Names of the pictures."""
        return [each.name for each in self._features if each.is_picture]

    image_keys = camera_keys

    @property
    def video_keys(self) -> list[str]:
        """None: pictures are no videos."""
        return []

    depth_keys = video_keys

    @property
    def names(self) -> dict[str, Any]:
        """Names of the numbers of each feature."""
        return {name: each["names"] for name, each in self.features.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each feature."""
        return {name: each["shape"] for name, each in self.features.items()}

    @cached_property
    def info(self) -> dict[str, Any]:
        """What info.json says of a data set."""
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": None,
            "total_episodes": self.total_episodes,
            "total_frames": self.total_frames,
            "total_tasks": self.total_tasks,
            "fps": self.fps,
            "splits": {"train": f"0:{self.total_episodes}"},
            "features": self.features,
        }

    @cached_property
    def tasks(self) -> Any:
        """A DataFrame whose index is the texts and whose column is `task_index`; without pandas {text: task_index}."""
        with contextlib.suppress(ImportError):
            frame = importlib.import_module("pandas").DataFrame
            return frame({"task_index": list(self._numbers.values())}, index=list(self._numbers))
        return dict(self._numbers)

    def get_task_index(self, task: str) -> int | None:
        """Return the number of a text; None for one that no frame has."""
        return self._numbers.get(task)

    @cached_property
    def stats(self) -> dict[str, dict[str, Array]]:
        """{feature: {min, max, mean, std, count, q01, q10, q50, q90, q99}}, of pictures (C, 1, 1) from 0 to 1.

        Computed at the first use, from every frame; of pictures from PICTURES_MEASURED at most, evenly spread. The store's own
        statistics are of other rows: of all, and each field of the row where it was recorded.
        """
        statistics = FrameStatistics(self._features)
        for number, (_, start, count) in enumerate(self._frames.episodes()):
            statistics.add_numbers(self._numbers_of(number, start, count))
        cameras = [each for each in self._features if each.is_picture]
        if cameras:
            total = self.total_frames
            chosen = np.unique(np.linspace(0, total - 1, min(total, PICTURES_MEASURED)).astype(np.int64))
            for batch in self._read([name for each in cameras for name in each.fields]).slices(chosen):
                for each in cameras:
                    statistics.pictures[each.name].add(each.rows(batch))
        return statistics.result()

    def _numbers_of(self, number: int, start: int, count: int) -> dict[str, Array]:
        """Return the numbers of an episode's frames, and LeRobot's own."""
        batches = list(self._frames.slices(range(start, start + count)))
        task = np.array([self._numbers[text] for batch in batches for text in batch["task"]], np.int64)
        frames = np.arange(count)
        made = own_columns(frames, self.fps, episode=number, index=start + frames, task=task)
        for each in self._features:
            if not each.is_picture:
                made[each.name] = np.concatenate([each.rows(batch) for batch in batches])
        return made

    def __repr__(self) -> str:
        return (
            f"LeRobotMeta({self.repo_id!r}, {counted(self.total_episodes, 'episode')}, {counted(self.total_frames, 'frame')}, "
            f"{self.fps:g} frames a second, features {', '.join(self.features)})"
        )
