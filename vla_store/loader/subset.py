"""A torch Subset as what it is: a selection of rows, in an order. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader.samples import Samples

Int64 = npt.NDArray[np.int64]


def is_subset(dataset: Any) -> bool:
    """Whether this is torch's Subset, or of a class made from it."""
    kind = getattr(sys.modules.get("torch.utils.data"), "Subset", None)  # where nobody imported torch there is none
    return kind is not None and isinstance(dataset, kind)


def changes_samples(subset: Any) -> bool:
    """Whether its class says anew what its samples are."""
    return type(subset).__getitem__ is not sys.modules["torch.utils.data"].Subset.__getitem__


def samples_of(dataset: Any) -> Samples | None:
    """The samples of a dataset of ours, or of a Subset of one (or of a Subset of that); None for any other."""
    if is_subset(dataset):
        inner = samples_of(dataset.dataset)
        return None if inner is None else inner.subset(dataset.indices)
    found = dataset if isinstance(dataset, Samples) else getattr(dataset, "samples", None)
    return found if isinstance(found, Samples) else None


class Chosen:
    """Some samples of a dataset that makes them itself, under new numbers: 0 is the first of `indices`."""

    def __init__(self, dataset: Any, indices: Any) -> None:
        numbers = np.asarray(indices).astype(np.int64)
        self._dataset = dataset
        self._indices: Int64 = np.where(numbers < 0, numbers + len(dataset), numbers)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._indices[index])]

    def items_in_turn(self, indices: Sequence[int]) -> Iterator[Any]:
        """The samples of these numbers, one after another, read together where the dataset can."""
        numbers = self._indices[np.asarray(indices)].tolist()
        many = getattr(self._dataset, "items_in_turn", None)
        return many(numbers) if many else map(self._dataset.__getitem__, numbers)

    @property
    def makes_batches(self) -> bool:
        return bool(getattr(self._dataset, "makes_batches", False))

    def batch(self, indices: Sequence[int], **options: Any) -> Any:
        """As the dataset's own `batch`."""
        return self._dataset.batch(self._indices[np.asarray(indices)], **options)
