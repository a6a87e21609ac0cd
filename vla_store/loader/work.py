"""What a worker does for one batch: decode, transform, collate. The same function runs in the parent when there are no workers."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import VlaStoreError
from vla_store.reader.samples import Samples

Array = np.ndarray[Any, Any]

GENERATOR = "generator"
MAX_FRAMES = 8


class TransformError(VlaStoreError):
    """A transform, or the decoding of a sample, raised. The message has the sample and the end of the traceback."""


@dataclass(frozen=True)
class Job:
    """One batch: indices are samples of the dataset; position: of its first row in the order of the epoch."""

    seed: int
    epoch: int
    position: int
    indices: Array


class Work:
    """samples: where batches come from. dataset: indexed one by one instead, where it changes its samples itself.

    transform: called with each sample, a dict of arrays; batch_transform: with the whole batch. One that takes an argument
    named `generator` gets a NumPy Generator that depends on (seed, epoch, position) alone.
    """

    def __init__(
        self,
        samples: Samples | None,
        dataset: Any = None,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
    ) -> None:
        self.samples = samples
        self._dataset = dataset
        self._transform = transform
        self._batch_transform = batch_transform
        self._wants = _takes_generator(transform)
        self._batch_wants = _takes_generator(batch_transform)

    @property
    def columns(self) -> dict[str, tuple[tuple[int, ...], Any]] | None:
        """Shapes and dtypes of a batch's arrays, where they can be filled in place: nothing changes the samples one by one."""
        plain = self.samples is not None and self._dataset is None and self._transform is None
        return self.samples.columns if plain and self.samples is not None else None

    def run(self, job: Job, out: dict[str, Array] | None) -> dict[str, Any]:
        """The batch of a job. Raises TransformError naming the sample."""
        if self.samples is not None and self._dataset is None and self._transform is None:
            try:
                batch = self.samples.batch(job.indices, out)
            except Exception as error:
                raise self._failed(error, job, None) from None
        else:
            batch = collate([self._sample(job, number) for number in range(len(job.indices))])
        if self._batch_transform is not None:
            try:
                arguments = {GENERATOR: keyed_generator(job, job.position)} if self._batch_wants else {}
                batch = self._batch_transform(batch, **arguments)
            except Exception as error:
                raise self._failed(error, job, None) from None
            if not isinstance(batch, dict):
                raise TransformError(f"batch_transform returned {type(batch).__name__}", expected="a dict")
        return batch

    def _sample(self, job: Job, number: int) -> Any:
        index = int(job.indices[number])
        try:
            sample = self.samples[index] if self._dataset is None and self.samples is not None else self._dataset[index]
            if self._transform is not None:
                wants = {GENERATOR: keyed_generator(job, job.position + number)} if self._wants else {}
                sample = self._transform(sample, **wants)
            return sample
        except Exception as error:
            raise self._failed(error, job, index) from None

    def _failed(self, error: Exception, job: Job, index: int | None) -> VlaStoreError:
        """The error with its sample; the traceback cut to its innermost frames."""
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        where = _sample_places(self.samples, index)
        if isinstance(error, VlaStoreError):
            return error.at(**where)
        if index is None:
            where["samples"] = f"{job.indices[:8].tolist()}{' ...' if len(job.indices) > 8 else ''}"
        text = "".join(traceback.format_list(frames)) + f"{type(error).__name__}: {error}"
        return TransformError("a sample could not be made", **where, traceback=text)


def collate(samples: Sequence[Any]) -> dict[str, Any]:
    """A batch of sample dicts: arrays and numbers stacked, strings as a list, anything else as a list."""
    if not isinstance(samples[0], dict):
        raise TransformError(f"a transform returned {type(samples[0]).__name__}", expected="a dict")
    return {key: _stack([sample[key] for sample in samples]) for key in samples[0]}


def keyed_generator(job: Job, position: int) -> np.random.Generator:
    """A generator for one place in the order of an epoch: the same whoever works, and after a resume."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([job.seed & (2**64 - 1), job.epoch, position])))


def _stack(values: list[Any]) -> Any:
    first = values[0]
    if hasattr(first, "detach"):  # a tensor of a transform that uses torch
        values = [each.detach().numpy() for each in values]
        first = values[0]
    if isinstance(first, np.ndarray):
        same = all(isinstance(each, np.ndarray) and each.shape == first.shape for each in values)
        return np.stack(values) if same else values
    if isinstance(first, (bool, int, float, np.generic)):
        return np.array(values)
    return values


def _sample_places(samples: Samples | None, index: int | None) -> dict[str, Any]:
    if samples is None or index is None:
        return {"sample": index} if index is not None else {}
    where: dict[str, Any] = {"store": samples.store.url, "sample": index}
    try:
        part, place = samples._anchors.one(index, samples.store)
        found = samples.store.provenance(part.row_start + place[2] + place[1])
    except VlaStoreError:
        return where
    return where | {"row": found.row, "episode": found.episode, "step": found.step}


def _takes_generator(function: Callable[..., Any] | None) -> bool:
    if function is None:
        return False
    try:
        return GENERATOR in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
