"""Samples and batches as tensors over the memory of arrays, and `collate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from vla_store.loader.collate import collate as stacked
from vla_store.loader.packing import walk
from vla_store.reader.batch import Batch, same_width
from vla_store.reader.bfloat16 import BFLOAT16, NAME

if TYPE_CHECKING:

    class TensorSample(dict[str, Any]):
        """One sample, a dict: `task` is a str; `episode`, `step` and `task_index` are ints; every field of `windows` is a tensor."""

        @overload
        def __getitem__(self, key: Literal["task"], /) -> str: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: Literal["episode", "step", "task_index"], /) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> torch.Tensor: ...
        def __getitem__(self, key: str, /) -> Any: ...

    class TensorBatch(dict[str, Any]):
        """Many samples, a dict: `task` is a list of str, all else are tensors with a leading axis."""

        @overload
        def __getitem__(self, key: Literal["task"], /) -> list[str]: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> torch.Tensor: ...
        def __getitem__(self, key: str, /) -> Any: ...

else:  # plain dicts
    TensorSample = TensorBatch = dict[str, Any]

Array = np.ndarray[Any, Any]


def collate(samples: Any) -> Any:
    """Make samples a batch: tensors with a leading axis, "task" as a list; what `DataLoader(collate_fn=...)` wants.

    Parameters
    ----------
    samples
        What `__getitems__` of a StepDataset or of `Samples` gave (handed over without copying), or any list of samples, which may
        be dicts, lists or tuples of tensors, arrays, numbers and texts.

    Raises
    ------
    OptionError
        Their keys, or a field's shapes, dtypes or kinds, differ in one batch.
    """
    if isinstance(samples, Batch) and samples.is_untouched:
        same_width(samples.arrays)
        return {key: tensor_of(column) for key, column in samples.arrays.items()}
    return stacked(samples, stacked_tensor)


def stacked_tensor(values: list[Any]) -> Any:
    """Stack arrays or tensors of one shape and dtype to one tensor; arrays that are no numbers stay one."""
    if all(isinstance(each, np.ndarray) for each in values):
        return tensor_of(np.stack(values))
    return torch.stack([tensor_of(each) if isinstance(each, np.ndarray) else each for each in values])


def tensors(tree: Any) -> Any:
    """Return a tree of values with tensors in place of its arrays; the memory is the same."""
    return walk(tree, tensor_of)


def bfloat16_tensor(value: Array) -> torch.Tensor:
    """Return a tensor over the memory of an array of bfloat16's bits."""
    return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)


def array_of(value: torch.Tensor) -> Array:
    """Return an array over the memory of a tensor."""
    return value.view(torch.int16).numpy().view(BFLOAT16) if value.dtype == torch.bfloat16 else value.numpy()


def with_bfloat16(given: Any) -> Any:
    """Return what `dtype` was given, with bfloat16 as `Samples` takes it."""
    if isinstance(given, Mapping):
        return {key: with_bfloat16(each) for key, each in given.items()}
    return BFLOAT16 if given == torch.bfloat16 or (isinstance(given, str) and given == NAME) else given


def tensor_of(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            return bfloat16_tensor(value) if value.dtype == BFLOAT16 else value
        # What a transform made may be what torch cannot refer to: turned around, read-only, of the other byte order.
        if not value.flags.writeable or min(value.strides, default=0) < 0 or not value.dtype.isnative:
            value = value.astype(value.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [tensor_of(each) for each in value]
    return value
