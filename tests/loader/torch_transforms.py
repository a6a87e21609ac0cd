"""Transforms and datasets for tests that need torch; workers import this module where one of these is used."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Subset

import vla_store
from vla_store.torch import StepDataset

Sample = dict[str, Any]
Batch = dict[str, Any]


def as_tensors(sample: Sample) -> Sample:
    return {
        "step": sample["step"],
        "actions": torch.from_numpy(sample["actions"]).requires_grad_(),
        "half": torch.ones(3, dtype=torch.bfloat16) * sample["step"],
        "scalar": torch.tensor(float(sample["step"])),
        "sparse": (torch.eye(3) * sample["step"]).to_sparse(),
    }


def batch_as_tensors(batch: Batch) -> Batch:
    return {"step": batch["step"], "actions": torch.from_numpy(batch["actions"]) * 2}


def tripled(sample: Sample) -> Sample:
    return {**sample, "tripled": sample["actions"] * 3}


class Doubled(StepDataset):
    """A dataset that makes its own samples."""

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return {**sample, "doubled": sample["actions"] * 2}


class DoubledSamples(vla_store.Samples):
    """The same without torch."""

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return {**sample, "doubled": sample["actions"] * 2}


class Numbered(StepDataset):
    """Its samples have their numbers: a dataset with labels beside the store."""

    def __getitem__(self, index: Any) -> Any:
        return {**super().__getitem__(index), "number": int(index)}


class Twofold(Subset):  # type: ignore[type-arg]
    """A Subset that changes its samples."""

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return {**sample, "number": 2 * sample["number"]}

    def __getitems__(self, indices: Any) -> Any:
        return [self[index] for index in indices]
