"""What a build reads from: the public protocol `EpisodeSource`, and the values a source describes itself with.

To convert your own robot's recordings, write a class with the three methods of `EpisodeSource` and give an instance to
`build_store` beside, or instead of, paths. Instances are pickled to worker processes: keep paths in them, not open files.
"""

from __future__ import annotations

import errno
import operator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vla_store.errors import SourceError
from vla_store.format.attributes import Attributes
from vla_store.format.nonfinite import counted

Array = np.ndarray[Any, Any]

MIN_SIDE = 8  # pixels: what has fewer rows or columns is taken for a matrix, unless it is plainly a picture

WHERE = ("dataset", "field", "on", "attribute", "row", "missing", "more", "reason")


@dataclass(frozen=True)
class FieldSpec:
    """One quantity recorded at every step of an episode.

    dtype: NumPy's name ("float64", "uint8", ...). shape: of one step. role: "observation" (what causal alignment shifts) or "step".
    ragged: a rank-1 field whose width may differ between episodes.
    picture: whether it is stored as pictures, which are compressed one by one and turned with their source; its shape then is
        (H, W) or (H, W, ...). None: it is one where it is an observation (H, W, C), C at most 4, of uint8 or uint16 or of at least
        8 x 8, and where it has the size of such a field of the same episode.
    """

    dtype: str
    shape: tuple[int, ...]
    role: str
    ragged: bool = False
    picture: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype).name)  # np.float32 and "<f4" are welcome
        object.__setattr__(self, "shape", tuple(operator.index(n) for n in self.shape))

    @property
    def is_camera(self) -> bool:
        """Whether this is stored as pictures, by what it says itself."""
        if self.picture is not None:
            return self.picture
        return (
            self.role == "observation"
            and len(self.shape) == 3
            and self.shape[2] <= 4
            and (self.dtype in ("uint8", "uint16") or min(self.shape[:2]) >= MIN_SIDE)
        )


@dataclass(frozen=True)
class TaskInfo:
    """A task that episodes belong to.

    name: short, unique in its suite. text: the instruction evaluations use. instruction: the source's own wording, or None.
    """

    name: str
    text: str
    instruction: str | None = None


@dataclass(frozen=True)
class EpisodeInfo:
    """number: unique within its source. success: 1, 0, or -1 where it cannot be known. text: the instruction of this episode, where
    it has one of its own; None for the task's. task: what it belongs to, in a source of several tasks; None for the source's."""

    number: int
    steps: int
    fields: dict[str, FieldSpec]
    success: int = -1
    text: str | None = None
    task: TaskInfo | None = None

    def __post_init__(self) -> None:
        for name in ("number", "steps", "success"):
            object.__setattr__(self, name, operator.index(getattr(self, name)))  # NumPy's integers are welcome


def storable(text: str) -> str:
    """A text as a document can hold it: bytes of a name that are not UTF-8 (lone surrogates, in Python) are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Skipped:
    """A demonstration (or, with demo None, a whole file) that `--skip-bad` left out, and why."""

    suite: str
    file: str
    demo: str | None
    reason: str

    def __post_init__(self) -> None:
        for name in ("suite", "file", "demo", "reason"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, storable(text))

    def to_json(self) -> dict[str, Any]:
        return {"demo": self.demo, "file": self.file, "reason": self.reason, "suite": self.suite}


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What one source holds.

    suite, file: its names in the store; a pair occurs once. task, text, instruction: the task of all episodes that have none of
    their own (see `TaskInfo`).
    orientation: of its pictures as stored: "bottom_up", "top_down" or "rot180".
    observation: whether observations are recorded "before" or "after" the action of the same row.
    codec, decoder: "jpeg" and what decoded it, where the source's pictures were decoded; else "".
    said: which of these two, "orientation" and "observation", the caller said of this very source.
    nbytes: size of the source. warnings: oddities worth recording that do not make it wrong.
    """

    suite: str
    file: str
    task: str = ""
    text: str = ""
    instruction: str | None = None
    orientation: str
    observation: str
    nbytes: int
    episodes: tuple[EpisodeInfo, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    codec: str = ""
    decoder: str = ""
    said: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks of the episodes, in the order in which they first occur."""
        return tuple(dict.fromkeys(self.task_of(each) for each in self.episodes))

    def task_of(self, episode: EpisodeInfo) -> TaskInfo:
        """Return the task of an episode: its own, or else the source's."""
        return episode.task or TaskInfo(self.task, self.text, self.instruction)


@runtime_checkable
class EpisodeSource(Protocol):
    """Anything a store can be built from. Methods may be called from several threads and processes.

    A source may also have `is_plain(number, field) -> bool`: whether nothing but the disk can keep a field of an episode from
    being read, because its rows lie in a file as they are. With `skip_bad`, what is not plain is read whole beforehand.
    """

    def scan(self) -> SourceInfo:
        """Describe the source without reading its pictures. Raises SourceError for what is not as it should be."""
        ...

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        """Steps [start, stop) of one field of one episode: (stop - start, *shape), in the dtype of its FieldSpec."""
        ...

    def attributes(self, number: int | None) -> Attributes:
        """Attributes of one episode, or of the source itself for None: {path: {name: value made by encode_value}}."""
        ...


def read_rows(
    source: EpisodeSource, number: int, field: str, dtype: str, shape: tuple[int, ...], start: int, stop: int
) -> Array:
    """Steps [start, stop) of a field, C-contiguous and little-endian. Raises SourceError for another dtype or shape."""
    rows = np.asarray(source.read(number, field, start, stop))
    # Exactly: a conversion here would change values without a word.
    if rows.shape != (stop - start, *shape) or rows.dtype.name != dtype:
        raise SourceError(
            "a source does not give what its scan promised",
            file=name_of(source),
            demo=number,
            field=field,
            expected=f"{(stop - start, *shape)} of {dtype} for steps {start} to {stop}",
            found=f"{rows.shape} of {rows.dtype}",
        )
    return np.ascontiguousarray(rows, np.dtype(dtype).newbyteorder("<"))


def check_actions(actions: Array) -> None:
    """Raises SourceError for (T, ...) actions that are not all finite: no policy can be trained on them."""
    bad = counted(actions).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise SourceError("actions are not all finite numbers", dataset="actions", row=row, found=actions[row])


def is_machines(error: OSError) -> bool:
    """Whether the machine failed, and not what was read: disk, permission, memory or network. What is not there, or lies where
    no byte can be, is the data's fault."""
    return error.errno is not None and error.errno not in (errno.ENOENT, errno.EINVAL, errno.EOVERFLOW)


def name_of(source: EpisodeSource) -> str:
    """What to call a source in a message: its path, or else its type."""
    return str(getattr(source, "path", type(source).__qualname__))


def reason_of(error: SourceError) -> str:
    """Why something was left out, as the store records it: without paths, which are the building machine's."""
    known = error.places.keys() - ({"field"} if "dataset" in error.places else set())  # one name is enough
    where = [f"{label} {error.places[label]}" for label in WHERE if label in known]
    return error.what + (f" ({', '.join(where)})" if where else "")


def describe(source: EpisodeSource) -> dict[str, Any]:
    """What identifies a source that was given as an object or a path, for the journal of an unfinished build."""
    path = getattr(source, "path", None)
    return {"path": None if path is None else str(path), "type": type(source).__qualname__}
