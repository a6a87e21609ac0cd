"""`StepDataset`: samples as a torch dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, SupportsIndex, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, get_worker_info

from vla_store.errors import OptionError
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.batch import Batch, same_width
from vla_store.reader.conversion import DtypeChoice
from vla_store.reader.options import OF_A_DATASET, by_name
from vla_store.reader.samples import Samples
from vla_store.reader.seconds import WindowChoice
from vla_store.reader.store import Store
from vla_store.reader.transforms import transformed
from vla_store.reader.values import EpisodeChoice, RowChoice, SplitChoice, SuiteChoice, TaskChoice, ViewChoice
from vla_store.reader.windows import Window
from vla_store.torch.shared import SharedBatch, in_shared_memory
from vla_store.torch.tensors import TensorBatch, TensorSample, array_of, tensor_of, with_bfloat16
from vla_store.types import Alignment, ArraySample, Images, Pad, TaskAs, TypeVar

Int64 = npt.NDArray[np.int64]

Item = TypeVar("Item", default=TensorSample, covariant=True)


class StepDataset(Dataset[Item], Generic[Item]):
    """`vla_store.Samples` as a torch dataset: the same options, samples of tensors.

    Parameters
    ----------
    store, windows, suites, tasks, episodes, rows, split, view, alignment, keep_first, images, pad, task, instruction
        As `vla_store.Samples` has them.
    dtype
        As there, or as torch's dtypes; `torch.bfloat16` too, as torch itself rounds to it.
    transform
        Called with each sample of tensors; what it returns is the sample.

    Notes
    -----
    Tensors own their memory. `task` is a str, `episode` and `step` are ints; `collate` makes them a list and int64 tensors.
    For a DataLoader give `collate_fn=vla_store.torch.collate`: a batch then is decoded at once and never copied. torch's own
    default collate gives the same values.
    """

    @by_name(OF_A_DATASET)
    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        windows: WindowChoice | None = None,
        suites: SuiteChoice | None = None,
        tasks: TaskChoice | None = None,
        episodes: EpisodeChoice | None = None,
        rows: RowChoice | None = None,
        split: SplitChoice | None = None,
        view: ViewChoice | None = None,
        alignment: Alignment | None = None,
        keep_first: bool = False,
        images: Images | None = None,
        pad: Pad = "edge",
        dtype: DtypeChoice | None = None,
        task: TaskAs | None = "text",
        instruction: str = "first",
        transform: Callable[[TensorSample], Item] | None = None,
    ) -> None:
        self.samples: Samples[ArraySample] = Samples(
            store,
            windows=windows,
            suites=suites,
            tasks=tasks,
            episodes=episodes,
            rows=rows,
            split=split,
            view=view,
            alignment=alignment,
            keep_first=keep_first,
            images=images,
            pad=pad,
            dtype=with_bfloat16(dtype),
            task=task,
            instruction=instruction,
        )
        self.transform = transform

    @property
    def store(self) -> Store:
        """The store that the samples come from."""
        return self.samples.store

    @property
    def windows(self) -> tuple[Window, ...]:
        """A window of each field, with its offsets in steps."""
        return self.samples.windows

    @property
    def columns(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of one sample and dtype of every tensor of a batch but ragged ones."""
        return {
            name: (shape, torch.from_numpy(np.empty(0, dtype)).dtype)
            for name, (shape, dtype) in self.samples.columns.items()
        }

    @property
    def alignment(self) -> str:
        """Which rows are read beside an action: "causal" or "as_stored"."""
        return self.samples.alignment

    @property
    def images(self) -> str:
        """How pictures are given: "as_stored", "upright" or "rot180"."""
        return self.samples.images

    @property
    def pad(self) -> str:
        """What stands outside an episode: "edge" or "zero"."""
        return self.samples.pad

    @property
    def task_texts(self) -> list[str]:
        """What `task_index` numbers, with task="index"."""
        return self.samples.task_texts

    @property
    def makes_batches(self) -> bool:
        """Whether a batch is made at once: nobody changes its samples one by one."""
        return self.transform is None and type(self).__getitem__ is StepDataset.__getitem__

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return one sample; for a slice a list of them, read at once. Negative numbers count from the end; IndexError past it."""
        if isinstance(index, slice):
            return list(self._several(range(len(self))[index]))
        sample = {key: tensor_of(value) for key, value in self.samples.sample(index).items()}
        return sample if self.transform is None else transformed(self.transform, sample)

    def __iter__(self) -> Iterator[Item]:
        """Yield one sample after the other."""
        return map(self.__getitem__, range(len(self)))

    def __getitems__(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None = None) -> Any:
        """Return many samples, as a sequence of dicts, which `collate` turns into a batch without copying; a DataLoader calls this.

        In a DataLoader's worker with `collate` the tensors lie in torch's shared memory from the start: sending them copies nothing.
        out: tensors to fill, as `allocate` makes them.
        """
        if type(self).__getitem__ is not StepDataset.__getitem__:  # what a subclass makes of a sample counts here too
            return [self[index] for index in indices]
        if out is None and self.transform is None and SharedBatch.is_wanted and get_worker_info() is not None:
            tensors = in_shared_memory(len(indices), self.samples.columns)
            return SharedBatch(self._filled(indices, tensors), self.samples.whole_numbers)
        return self._several(indices, out)

    def _several(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None = None) -> Any:
        made = Batch(self._filled(indices, out), self.samples.whole_numbers)
        return made if self.transform is None else [transformed(self.transform, sample) for sample in made]

    def batch(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None = None) -> TensorBatch:
        """Return B samples as one dict of tensors with a leading axis B; "task" is a list of B texts.

        Parameters
        ----------
        indices
            Whole numbers, (B,); negative ones count from the end, and one may come several times.
        out
            Tensors to fill, as `allocate` makes them; what is not in it is allocated.

        Returns
        -------
        dict

        Raises
        ------
        IndexError, OptionError, UnknownName
            As `Samples.batch` does; OptionError also where the dataset has a transform, or a `__getitem__` of its own.
        StoreDamaged, UnsupportedStore, FetchError, MachineError
            Where the store is read.
        """
        if not self.makes_batches:
            raise OptionError(
                "this dataset changes its samples one by one", hint="collate(dataset.__getitems__(indices))"
            )
        made = self._filled(indices, out)
        same_width(made)
        return cast(TensorBatch, made)

    def allocate(self, count: int) -> dict[str, torch.Tensor]:
        """Return uninitialised tensors for a batch of `count`, to give as `out=`."""
        return {name: tensor_of(array) for name, array in self.samples.allocate(count).items()}

    @staticmethod
    def tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of arrays as one of tensors over the same memory."""
        return {key: tensor_of(column) for key, column in batch.items()}

    def statistics(self) -> dict[str, FieldStatistics]:
        """Return those of the selection: of every fixed numeric field of `windows`, over all selected rows, as they are stored."""
        return self.samples.statistics()

    def __repr__(self) -> str:
        return type(self).__name__ + repr(self.samples).removeprefix(type(self.samples).__name__)

    def _filled(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None) -> dict[str, Any]:
        given = out or {}
        made = self.samples.batch_or_lists(indices, {name: array_of(each) for name, each in given.items()})
        return self.tensors(made) | given
