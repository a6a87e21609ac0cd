"""The words that options take, and the types of samples: what an editor shows, and a type checker checks, of a user's code.

Each list of words exists once: as a `Literal`, and as a tuple made of it, by which options are checked when they are given. Imports
nothing of this package.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from typing import overload

    import numpy as np
    from typing_extensions import TypeVar as TypeVar

    Array = np.ndarray[Any, Any]

Alignment = Literal["causal", "as_stored"]
Images = Literal["as_stored", "upright", "rot180"]
Pad = Literal["edge", "zero"]
TaskAs = Literal["text", "index"]
FloatName = Literal["float16", "float32", "float64"]
SplitName = Literal["train", "val"]
Check = Literal["first", "every"]
Fetcher = Literal["mmap", "pread", "fsspec", "obstore"]
Preset = Literal["raw", "fast", "small"]
ExecutorName = Literal["threads", "processes", "auto"]
Orientation = Literal["bottom_up", "top_down", "rot180"]
Observation = Literal["before", "after"]
ExportFormat = Literal["lerobot", "rlds", "hdf5"]
LeRobotVersion = Literal["v3.0", "v2.1"]
MixtureWeights = Literal["shares", "by_steps", "by_episodes"]
MixtureBatches = Literal["mixed", "by_part"]
MixtureEpoch = Literal["largest", "smallest"]

ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)
IMAGES: tuple[Images, ...] = get_args(Images)
PADS: tuple[Pad, ...] = get_args(Pad)
TASKS: tuple[TaskAs | None, ...] = (*get_args(TaskAs), None)
FLOATS: tuple[FloatName, ...] = get_args(FloatName)
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
CHECKS: tuple[Check, ...] = get_args(Check)
FETCHERS: tuple[Fetcher, ...] = get_args(Fetcher)
PRESETS: tuple[Preset, ...] = get_args(Preset)
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)
OBSERVATIONS: tuple[Observation, ...] = get_args(Observation)
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
LEROBOT_VERSIONS: tuple[LeRobotVersion, ...] = get_args(LeRobotVersion)
MIXTURE_WEIGHTS: tuple[MixtureWeights, ...] = get_args(MixtureWeights)
MIXTURE_BATCHES: tuple[MixtureBatches, ...] = get_args(MixtureBatches)

if TYPE_CHECKING:

    class ArraySample(dict[str, Any]):
        """One sample, a dict: `task` is a str; `episode`, `step` and `task_index` are ints; every field of `windows` is an array."""

        @overload
        def __getitem__(self, key: Literal["task"], /) -> str: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: Literal["episode", "step", "task_index"], /) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> Array: ...
        def __getitem__(self, key: str, /) -> Any: ...

    class ArrayBatch(dict[str, Any]):
        """Many samples, a dict: `task` is a list of str, all else are arrays with a leading axis."""

        @overload
        def __getitem__(self, key: Literal["task"], /) -> list[str]: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> Array: ...
        def __getitem__(self, key: str, /) -> Any: ...

else:  # Plain dicts: these are made for each sample, travel between processes, and are what `type(sample) is dict` says.
    ArraySample = ArrayBatch = dict[str, Any]

    def TypeVar(name: str, *, default: Any = None, **options: Any) -> Any:
        """Make a type variable; before Python 3.13 it has a default for type checkers only."""
        return typing.TypeVar(name, **options)


Item = TypeVar("Item", default=ArraySample, covariant=True)
"""What a dataset gives for one number: its samples, or what its `transform` makes of them."""
