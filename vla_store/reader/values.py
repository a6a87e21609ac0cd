"""What a store says of itself, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_store.format.schema import PartDocument

if TYPE_CHECKING:
    from vla_store.format.statistics import FieldStatistics

CONVENTIONS = ("observation", "orientation")


@dataclass(frozen=True)
class Episode:
    """One demonstration. episode: its number in the store. start: its first row. length: in steps.

    file and number: its HDF5 file within its suite's folder, and the demo's number there. success: None where there are no rewards.
    text: its instruction: its own, where its source states one for it, else its task's.
    """

    episode: int
    suite: str
    task: str
    file: str
    number: int
    start: int
    length: int
    success: bool | None
    text: str = ""


@dataclass(frozen=True)
class StoreTask:
    """One task. text: from the file name, what evaluations use; instruction: the source's own, None where it has none.
    texts: those that episodes of it have of their own, each once, sorted; a sample of such an episode has its own."""

    suite: str
    name: str
    text: str
    instruction: str | None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreField:
    """A per-step quantity of the store.

    kind: "fixed"; "picture" (pictures of a shape or dtype that no camera of kind "fixed" has); or "ragged-episode" (a width of
        its own in each episode; shape is (None,)).
    shape: of one step. role: "observation" or "step"; decides what causal alignment shifts.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    role: str
    is_camera: bool

    @property
    def is_ragged(self) -> bool:
        return self.kind == "ragged-episode"

    @property
    def is_fixed(self) -> bool:
        """True where every step has the same shape, in a way that this version knows."""
        return self.kind in ("fixed", "picture")


@dataclass(frozen=True)
class SourceConvention:
    """How one file of demonstrations was recorded.

    orientation: of its pictures: bottom_up, top_down or rot180.
    observation: recorded "before" or "after" the action of the same row.
    codec, decoder: "jpeg" and what decoded it, where its pictures were decoded when the store was built; else "".
    said: which of "orientation" and "observation" were said when the store was built; the others were read or measured.
    """

    suite: str
    file: str
    orientation: str
    observation: str
    codec: str = ""
    decoder: str = ""
    said: tuple[str, ...] = ()


def said_at_build(document: PartDocument) -> list[tuple[str, ...]]:
    """Return, for each source of a part, the conventions that its plan says the build was told: of all sources, or of that one. Another
    writer may have a plan of another form."""
    plan: Any = document.plan
    options, listed = (plan.get(name) if isinstance(plan, dict) else None for name in ("options", "sources"))
    told = {name for name in CONVENTIONS if isinstance(options, dict) and options.get(name)}
    made = []
    for number in range(len(document.sources)):
        each = listed[number] if isinstance(listed, list) and number < len(listed) else None
        own = each.get("said") if isinstance(each, dict) else None
        made.append(tuple(sorted(told | {name for name in CONVENTIONS if isinstance(own, list) and name in own})))
    return made


@dataclass(frozen=True)
class Conventions:
    """The conventions of all sources; `orientation` and `observation` are theirs where they agree, else None."""

    sources: tuple[SourceConvention, ...]

    @property
    def orientation(self) -> str | None:
        return _only({each.orientation for each in self.sources})

    @property
    def observation(self) -> str | None:
        return _only({each.observation for each in self.sources})


@dataclass(frozen=True)
class Provenance:
    """Where a row comes from: file (within its suite), demo (the group's name there), step, and the store's own numbers."""

    row: int
    suite: str
    file: str
    demo: str
    number: int
    step: int
    episode: int


@dataclass(frozen=True)
class Statistics:
    """Per fixed numeric field: min, max, mean, std, q01, q99 of the finite values of each component, in float64.

    all: {field: FieldStatistics}. suites: {suite: {field: FieldStatistics}}.
    """

    all: Mapping[str, FieldStatistics]
    suites: Mapping[str, Mapping[str, FieldStatistics]]


@dataclass(frozen=True, eq=False)
class Split:
    """One side of a split; `episodes` are the (n,) int64 numbers of its episodes, ascending."""

    name: str
    fraction: float
    by: str
    seed: int
    episodes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episodes)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, fraction={self.fraction}, by={self.by!r}, seed={self.seed}: {len(self)} episodes)"


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
