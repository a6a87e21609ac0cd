"""What LeRobot calls features, which it has itself in every frame, what it says of them, and their statistics.

Of its data sets v3.0 and v2.1, whoever writes or gives one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vla_store.errors import OptionError
from vla_store.features.mapping import EXCLUDE, RENAME, Feature, Naming, fits_png
from vla_store.features.statistics import NumberStatistics, PictureStatistics

Array = np.ndarray[Any, Any]

TIMESTAMP = "timestamp"
OWN = (TIMESTAMP, "frame_index", "episode_index", "index", "task_index")
RESERVED = (*OWN, "task", "next.done")


def _check_name(name: str) -> None:
    if not name or "/" in name or not name.isprintable() or name != name.strip():
        raise OptionError("not a name of a feature of LeRobot", expected="a text without /", found=repr(name))
    if name in RESERVED:
        raise OptionError(
            f"LeRobot has {name!r} itself",
            hint=f"{RENAME} gives the field another name, {EXCLUDE} leaves it out",
        )


def _is_picture(dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype == "uint8" and fits_png(dtype, shape)  # 8 bits: what every reader of them takes


NAMING = Naming("action", "observation.state", "observation.images.", "observation.", _is_picture, _check_name)


def whole(fps: float) -> float:
    """Return frames a second as its documents have them: a whole number as an int."""
    return int(fps) if fps == int(fps) else fps


def own_columns(frames: Array, fps: float, *, episode: Any, index: Any, task: Any) -> dict[str, Array]:
    """Return what LeRobot has itself, by OWN, of frames of these numbers within their episodes."""
    return {
        TIMESTAMP: (frames / fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.broadcast_to(episode, frames.shape),
        "index": index,
        "task_index": task,
    }


def described(features: Iterable[Feature]) -> dict[str, dict[str, Any]]:
    """Return what LeRobot says of features, and of its own. Pictures are "image", not "video"."""
    made = {}
    for each in features:
        names = ["height", "width", "channels"] if each.is_picture else list(each.names) or None
        shape = list(each.shape or (1,))
        made[each.name] = {"dtype": "image" if each.is_picture else each.dtype, "shape": shape, "names": names}
    for name in OWN:
        made[name] = {"dtype": "float32" if name == TIMESTAMP else "int64", "shape": [1], "names": None}
    return made


class FrameStatistics:
    """Statistics of frames by feature, and of LeRobot's own; numbers episode by episode, so that sums are whatever is read at once.

    Parameters
    ----------
    features
        Those of a frame.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.pictures = {each.name: PictureStatistics(each.shape[2]) for each in features if each.is_picture}
        numbers = {
            each.name: NumberStatistics(each.shape or (1,), is_whole=np.dtype(each.dtype).kind in "iub")
            for each in features
            if not each.is_picture
        }
        self.numbers = numbers | {name: NumberStatistics((1,), is_whole=name != TIMESTAMP) for name in OWN}
        self._order = [*(each.name for each in features), *OWN]

    def add_numbers(self, rows: Mapping[str, Array]) -> None:
        """Take the frames (n, ...) of an episode: every number, and LeRobot's own (n,)."""
        for name, statistics in self.numbers.items():
            statistics.add(rows[name])

    def merge_pictures(self, other: FrameStatistics) -> None:
        """Take the pictures that others have taken."""
        for name, statistics in self.pictures.items():
            statistics.merge(other.pictures[name])

    def result(self) -> dict[str, dict[str, Array]]:
        """Return min, max, mean, std, count and quantiles of each."""
        return {name: (self.pictures.get(name) or self.numbers[name]).result() for name in self._order}
