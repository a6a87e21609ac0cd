"""The same samples as torch tensors; the only file that imports torch.

dataset = StepDataset("libero.vla", windows={"agentview_rgb": [-1, 0], "actions": range(64)}, alignment="causal")
loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=collate)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, default_collate

from vla_store.errors import OptionError
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.batch import NUMBERS, Batch, Sample, ragged_error, same_width
from vla_store.reader.samples import Samples
from vla_store.reader.store import Store

__all__ = ["StepDataset", "collate"]


class StepDataset(Dataset[Any]):
    """`vla_store.Samples` as a torch dataset: the same options, samples of tensors.

    Tensors own their memory. `task` is a str, `episode` and `step` are ints; `collate` makes them a list and int64 tensors.
    `transform` is called with each sample of tensors; what it returns is the sample.
    For a DataLoader give `collate_fn=vla_store.torch.collate`: a batch then is decoded at once and never copied. torch's own
    default collate gives the same values.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        windows: Mapping[str, int | Iterable[int]] | None = None,
        suites: str | Iterable[str] | None = None,
        tasks: Any = None,
        episodes: Any = None,
        rows: npt.ArrayLike | None = None,
        split: Any = None,
        alignment: str | None = None,
        keep_first: bool = False,
        images: str = "as_stored",
        pad: str = "edge",
        dtype: npt.DTypeLike | torch.dtype | None = None,
        transform: Callable[[Sample], Any] | None = None,
    ) -> None:
        self.samples = Samples(
            store,
            windows=windows,
            suites=suites,
            tasks=tasks,
            episodes=episodes,
            rows=rows,
            split=split,
            alignment=alignment,
            keep_first=keep_first,
            images=images,
            pad=pad,
            dtype=_numpy_dtype(dtype),
        )
        self.transform = transform

    @property
    def store(self) -> Store:
        """The store that the samples come from."""
        return self.samples.store

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: SupportsIndex) -> Any:
        """One sample. Negative numbers count from the end; IndexError past it."""
        sample = {key: _tensor(value) for key, value in self.samples.sample(index).items()}
        return sample if self.transform is None else self.transform(sample)

    def __getitems__(self, indices: Sequence[int], out: dict[str, torch.Tensor] | None = None) -> Any:
        """Many samples, as a sequence of dicts, which `collate` turns into a batch without copying; a DataLoader calls this.

        out: tensors to fill, as `allocate` makes them.
        """
        if type(self).__getitem__ is not StepDataset.__getitem__:  # what a subclass makes of a sample counts here too
            return [self[index] for index in indices]
        made = Batch(self._filled(indices, out))
        return made if self.transform is None else [self.transform(sample) for sample in made]

    def batch(self, indices: Sequence[int], out: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """B samples as one dict of tensors with a leading axis B; "task" is a list. Raises as `Samples.batch` does."""
        if self.transform is not None or type(self).__getitem__ is not StepDataset.__getitem__:
            raise OptionError(
                "this dataset changes its samples one by one", hint="collate(dataset.__getitems__(indices))"
            )
        made = self._filled(indices, out)
        same_width(made)
        return made

    def allocate(self, count: int) -> dict[str, torch.Tensor]:
        """Uninitialised tensors for a batch of `count`, to give as `out=`."""
        return {name: _tensor(array) for name, array in self.samples.allocate(count).items()}

    def statistics(self) -> dict[str, FieldStatistics]:
        """Of the selection: every fixed numeric field of `windows`, over all selected rows, as they are stored."""
        return self.samples.statistics()

    def __repr__(self) -> str:
        return type(self).__name__ + repr(self.samples).removeprefix(type(self.samples).__name__)

    def _filled(self, indices: Sequence[int], out: dict[str, torch.Tensor] | None) -> dict[str, Any]:
        given = out or {}
        made = self.samples.batch_or_lists(indices, {name: each.numpy() for name, each in given.items()})
        return {key: given[key] if key in given else _tensor(column) for key, column in made.items()}


def collate(samples: Any) -> dict[str, Any]:
    """A batch of samples: tensors with a leading axis, "task" as a list; what `DataLoader(collate_fn=...)` wants.

    samples: what `__getitems__` of a StepDataset or of `Samples` gave (handed over without copying), or any list of samples.
    Raises OptionError where a field has several shapes in one batch.
    """
    if isinstance(samples, Batch) and samples.is_untouched:
        same_width(samples.arrays)
        return {key: _tensor(column) for key, column in samples.arrays.items()}
    first = samples[0]
    if not isinstance(first, Mapping):
        return default_collate(list(samples))  # type: ignore[no-any-return]
    return {key: _stacked(key, [sample[key] for sample in samples]) for key in first}


def _stacked(key: str, values: list[Any]) -> Any:
    if isinstance(values[0], (torch.Tensor, np.ndarray)):
        tensors = [_tensor(value) for value in values]
        shapes = {tuple(each.shape) for each in tensors}
        if len(shapes) > 1:
            if len({shape[:-1] for shape in shapes}) == 1:
                raise ragged_error(key, sorted({shape[-1] for shape in shapes}))
            raise OptionError(
                f"{key!r} has several shapes in one batch", found=", ".join(map(str, sorted(shapes)[:10]))
            )
        return torch.stack(tensors)
    if isinstance(values[0], str):
        return values
    if key in NUMBERS:
        return torch.tensor(values, dtype=torch.int64)
    return default_collate(values)


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [torch.from_numpy(each) for each in value]
    return value


def _numpy_dtype(dtype: Any) -> Any:
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
