"""What a store says of itself, as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from vla_store.format.schema import PartDocument
from vla_store.format.views import View
from vla_store.text import counted
from vla_store.types import SplitName

if TYPE_CHECKING:
    from vla_store.format.statistics import FieldStatistics

CONVENTIONS = ("fps", "observation", "orientation")


@dataclass(frozen=True)
class Episode:
    """One demonstration of a store.

    Attributes
    ----------
    episode
        Its number in the store, from 0.
    suite
        Name of its suite.
    task
        Name of its task, which is unique in its suite.
    file
        Its HDF5 file (or other source) within the folder of its suite.
    number
        Number of the demonstration in that file.
    start
        Its first row in the store.
    length
        Number of its steps, each of which is one row.
    success
        Whether it succeeded; None where that cannot be known, as where there are no rewards.
    text
        Its instruction: its own, where its source states one for it, else that of its task.
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
    """One task of a store.

    Attributes
    ----------
    suite
        Name of its suite.
    name
        Its name, unique in its suite.
    text
        The instruction from the file name, which evaluations use.
    instruction
        The source's own instruction; None where it has none.
    texts
        Instructions that episodes of the task have of their own, each once, sorted. A sample of such an episode has its
        own.
    """

    suite: str
    name: str
    text: str
    instruction: str | None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreField:
    """A per-step quantity of the store.

    Attributes
    ----------
    name
        Its name.
    kind
        "fixed"; "picture" (pictures of a shape or dtype that no camera of kind "fixed" has); or "ragged-episode" (a
        width of its own in each episode).
    dtype
        NumPy's name of its dtype, such as "float64".
    shape
        Shape of one step; (None,) for the kind "ragged-episode".
    role
        "observation" or "step"; decides what causal alignment shifts.
    is_camera
        True if it is stored as pictures.
    names
        A name for each number of a step, as "x"; () where sources give none, or parts of the store differ.
    units
        The unit of each, as "m", "" where it is not known; () as for names.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    role: str
    is_camera: bool
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def is_ragged(self) -> bool:
        """True where each episode has a width of its own."""
        return self.kind == "ragged-episode"

    @property
    def is_fixed(self) -> bool:
        """True where every step has the same shape, in a way that this version knows."""
        return self.kind in ("fixed", "picture")


@dataclass(frozen=True)
class SourceConvention:
    """How one file of demonstrations was recorded.

    Attributes
    ----------
    suite
        Name of its suite.
    file
        Its name within the folder of the suite.
    orientation
        How its pictures lie: "bottom_up", "top_down" or "rot180".
    observation
        "before" or "after": when an observation was recorded, relative to the action of the same row.
    codec
        What its pictures were in ("jpeg", "av1"; several with - between them) where they were decoded when the store was built;
        else "".
    decoder
        What decoded them; else "".
    said
        Which of "orientation", "observation" and "fps" were stated when the store was built; the others were read or measured.
    fps
        Its steps a second; None where that is not known.
    """

    suite: str
    file: str
    orientation: str
    observation: str
    codec: str = ""
    decoder: str = ""
    said: tuple[str, ...] = ()
    fps: float | None = None


def said_at_build(document: PartDocument) -> list[tuple[str, ...]]:
    """Return, for each source of a part, the conventions that its plan says the build was told: of all sources, or of that one. Another
    writer may have a plan of another form."""
    plan: Any = document.plan
    options, listed = (plan.get(name) if isinstance(plan, dict) else None for name in ("options", "sources"))
    more = options.get("conventions") if isinstance(options, dict) else None
    stated = {**(more if isinstance(more, dict) else {}), **options} if isinstance(options, dict) else {}
    told = {name for name in CONVENTIONS if stated.get(name)}
    made = []
    for number in range(len(document.sources)):
        each = listed[number] if isinstance(listed, list) and number < len(listed) else None
        own = each.get("said") if isinstance(each, dict) else None
        made.append(tuple(sorted(told | {name for name in CONVENTIONS if isinstance(own, list) and name in own})))
    return made


@dataclass(frozen=True)
class Conventions:
    """The conventions of all sources of a store.

    Attributes
    ----------
    sources
        Those of each source.
    """

    sources: tuple[SourceConvention, ...]

    @property
    def orientation(self) -> str | None:
        """The orientation of the sources where they agree, else None."""
        return _only({each.orientation for each in self.sources})

    @property
    def observation(self) -> str | None:
        """The observation order of the sources where they agree, else None."""
        return _only({each.observation for each in self.sources})


@dataclass(frozen=True)
class Provenance:
    """Where a row comes from.

    Attributes
    ----------
    row
        Number of the row in the store.
    suite
        Name of its suite.
    file
        Its source file within the folder of the suite.
    demo
        Name of the demonstration's group in that file.
    number
        Number of the demonstration in that file.
    step
        Step of the episode, from 0.
    episode
        Number of the episode in the store.
    """

    row: int
    suite: str
    file: str
    demo: str
    number: int
    step: int
    episode: int


@dataclass(frozen=True)
class Statistics:
    """Statistics of each fixed numeric field.

    They are min, max, mean, std, q01, q99 of the finite values of each component, in float64.

    Attributes
    ----------
    all
        {field: FieldStatistics} over all rows.
    suites
        {suite: {field: FieldStatistics}}.
    """

    all: Mapping[str, FieldStatistics]
    suites: Mapping[str, Mapping[str, FieldStatistics]]


@dataclass(frozen=True, eq=False)
class Split:
    """One side of a split, as `Store.split` gives it.

    Attributes
    ----------
    name
        "train" or "val".
    fraction
        Share of the episodes that "train" has, from 0 to 1.
    by
        What falls on one side as a whole: "episode".
    seed
        Seed of the split.
    episodes
        (n,) int64 numbers of the episodes of this side, ascending.
    """

    name: SplitName
    fraction: float
    by: str
    seed: int
    episodes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episodes)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, fraction={self.fraction}, by={self.by!r}, seed={self.seed}: {counted(len(self), 'episode')})"


# What options of a selection take: one or several.
SuiteChoice = str | Iterable[str]
TaskChoice = str | StoreTask | tuple[str, str] | Iterable[str | StoreTask | tuple[str, str]]
EpisodeChoice = SupportsIndex | Episode | slice | Split | Iterable[SupportsIndex | Episode] | npt.NDArray[Any]
RowChoice = SupportsIndex | slice | Iterable[SupportsIndex] | npt.NDArray[Any]
SplitChoice = SplitName | Split
ViewChoice = str | View | Sequence[str | View]


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
