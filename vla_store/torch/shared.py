"""Batches that a DataLoader's worker makes in torch's shared memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from vla_store.reader.batch import Batch, Sample
from vla_store.torch.tensors import tensor_of


class SharedBatch(Batch):
    """One that a DataLoader's worker made in shared memory.

    is_wanted: in this process. A collate that takes the samples one by one makes shared memory of its own: then ours, which is
    fresh for each batch, would cost more than it saves.
    """

    is_wanted = True

    def _all(self) -> list[Sample]:
        if get_worker_info() is not None:
            SharedBatch.is_wanted = False
        return super()._all()


def in_shared_memory(count: int, columns: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, torch.Tensor]:
    """Return uninitialised tensors for a batch of `count`, each in shared memory of its own, as torch's default collate makes them."""
    made = {}
    for name, (shape, dtype) in columns.items():
        nbytes = count * math.prod(shape) * dtype.itemsize
        storage = torch.UntypedStorage._new_shared(nbytes)  # type: ignore[no-untyped-call]
        kind = tensor_of(np.empty(0, dtype)).dtype
        made[name] = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).view(kind).view(count, *shape)
    return made
