"""What a build reads from: the public protocol `EpisodeSource`, and the values a source describes itself with.

To convert your own robot's recordings, write a class with the three methods of `EpisodeSource` and give an instance to
`build_store` beside, or instead of, paths. Instances are pickled to worker processes: keep paths in them, not open files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vla_store.format.attributes import Attributes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FieldSpec:
    """One quantity recorded at every step of an episode.

    dtype: NumPy's name ("float64", "uint8", ...). shape: of one step. role: "observation" (what causal alignment shifts) or "step".
    A field of role "observation", rank 3, at most 4 channels and dtype uint8, uint16 or float32 is a camera.
    ragged: a rank-1 field whose width may differ between episodes.
    """

    dtype: str
    shape: tuple[int, ...]
    role: str
    ragged: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether this is stored as pictures."""
        return (
            self.role == "observation"
            and len(self.shape) == 3
            and self.shape[2] <= 4
            and self.dtype in ("uint8", "uint16", "float32")
        )


@dataclass(frozen=True)
class EpisodeInfo:
    """number: unique within its source. success: 1, 0, or -1 where it cannot be known."""

    number: int
    steps: int
    fields: dict[str, FieldSpec]
    success: int = -1


@dataclass(frozen=True)
class Skipped:
    """A demonstration (or, with demo None, a whole file) that `--skip-bad` left out, and why."""

    suite: str
    file: str
    demo: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"demo": self.demo, "file": self.file, "reason": self.reason, "suite": self.suite}


@dataclass(frozen=True)
class SourceInfo:
    """What one source holds.

    suite, file: its names in the store; a pair occurs once. task: short name, unique in its suite. text: the instruction
    evaluations use. instruction: the source's own, or None.
    orientation: of its pictures as stored: "bottom_up", "top_down" or "rot180".
    observation: whether observations are recorded "before" or "after" the action of the same row.
    nbytes: size of the source. warnings: oddities worth recording that do not make it wrong.
    """

    suite: str
    file: str
    task: str
    text: str
    instruction: str | None
    orientation: str
    observation: str
    nbytes: int
    episodes: tuple[EpisodeInfo, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@runtime_checkable
class EpisodeSource(Protocol):
    """Anything a store can be built from. Methods may be called from several threads and processes."""

    def scan(self) -> SourceInfo:
        """Describe the source without reading its pictures. Raises SourceError for what is not as it should be."""
        ...

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        """Steps [start, stop) of one field of one episode: (stop - start, *shape), in the dtype of its FieldSpec."""
        ...

    def attributes(self, number: int | None) -> Attributes:
        """Attributes of one episode, or of the source itself for None: {path: {name: value made by encode_value}}."""
        ...


def describe(source: EpisodeSource) -> dict[str, Any]:
    """What identifies a source that was given as an object or a path, for the journal of an unfinished build."""
    path = getattr(source, "path", None)
    return {"path": None if path is None else str(path), "type": type(source).__qualname__}
