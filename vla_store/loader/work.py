"""What a worker does for one batch: decode, transform, collate. The same function runs in the parent when there are no workers."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import TransformError, VlaStoreError
from vla_store.loader.collate import collate
from vla_store.loader.packing import Empty, slot_nbytes, tree_nbytes
from vla_store.reader.samples import Samples
from vla_store.reader.transforms import a_sample, transformed

Array = np.ndarray[Any, Any]

GENERATOR = "generator"
MAX_FRAMES = 8
OF_A_SAMPLE, OF_A_BATCH = 0, 1


@dataclass(frozen=True)
class Job:
    """One batch: indices are samples of the dataset; position: of its first row in the order of the epoch."""

    seed: int
    epoch: int
    position: int
    indices: Array


class Work:
    """samples: where batches come from. dataset: what to ask instead, where it changes its samples itself. It is indexed one by one,
    unless it has `items_in_turn(indices)`, the same of many, or `makes_batches`: then `batch(indices, empty=)` is the batch.

    transform: called with each sample, a dict of arrays; batch_transform: with the whole batch. One that takes an argument
    named `generator` gets a NumPy Generator that depends on (seed, epoch, position) alone.
    """

    def __init__(
        self,
        samples: Samples,
        dataset: Any = None,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
    ) -> None:
        self.samples = samples
        self._dataset = dataset
        self._transform = transform
        self._batch_transform = batch_transform
        self._wants = takes_generator(transform)
        self._batch_wants = takes_generator(batch_transform)
        # Whether nothing changes the samples one by one, so that a batch is decoded at once and in place.
        self._is_plain = dataset is None and transform is None
        self._makes_batches = transform is None and getattr(dataset, "makes_batches", False)

    @property
    def columns(self) -> Mapping[str, tuple[tuple[int, ...], Any]] | None:
        """Shapes and dtypes of a batch's arrays, where they can be filled in place."""
        return self.samples.columns if self._is_plain else None

    @property
    def keeps_arrays(self) -> bool:
        """Whether nobody but the reader sees a batch's arrays in the worker."""
        return self._is_plain and self._batch_transform is None

    def slot_nbytes(self, rows: int) -> int:
        """Bytes of a batch of so many rows, as far as they can be told before there is one."""
        if self._makes_batches:
            with contextlib.suppress(Exception):  # then whoever is given that sample hears of it
                return tree_nbytes(self._dataset.batch([0]), rows)
        return slot_nbytes(self.samples.columns, rows)

    def run(self, job: Job, out: dict[str, Array] | None = None, empty: Empty = np.empty) -> Any:
        """The batch of a job. out: arrays of `columns` to fill; empty: makes others.

        Raises TransformError, or the store's own error, naming the sample.
        """
        if self._is_plain:
            try:
                batch: Any = self.samples.batch(job.indices, out)
            except Exception as error:
                raise self._failed(error, job, self._culprit(job)) from None
        else:
            batch = self._made_at_once(job, empty) if self._makes_batches else None
            if batch is None:
                batch = self._made_one_by_one(job)
        if self._batch_transform is not None:
            try:
                batch = apply_to_batch(self._batch_transform, batch, job, self._batch_wants)
            except Exception as error:
                raise self._failed(error, job, None) from None
        return batch

    def _made_at_once(self, job: Job, empty: Empty) -> Any:
        """The dataset's batch; None where it cannot be made: the sample that is to blame says so, one by one."""
        try:
            return self._dataset.batch(job.indices, empty=empty)
        except Exception:
            return None

    def _made_one_by_one(self, job: Job) -> Any:
        samples, made = self._in_turn(job), []
        for number, index in enumerate(job.indices.tolist()):
            try:
                sample = a_sample(next(samples), "the dataset's", getattr(type(self._dataset), "__getitem__", None))
                if self._transform is not None:
                    place = job.position + number
                    options: dict[str, Any] = {GENERATOR: _generator(job, place, OF_A_SAMPLE)} if self._wants else {}
                    sample = transformed(self._transform, sample, **options)
            except Exception as error:
                raise self._failed(error, job, index) from None
            made.append(sample)
        try:
            return collate(made)
        except Exception as error:
            raise self._failed(error, job, None) from None

    def _in_turn(self, job: Job) -> Iterator[Any]:
        """The samples of a job before `transform`, one after another."""
        source = self.samples if self._dataset is None else self._dataset
        many = getattr(source, "items_in_turn", None)
        indices = job.indices.tolist()
        return many(indices) if many else map(source.__getitem__, indices)

    def _culprit(self, job: Job) -> int | None:
        """Which sample of a batch cannot be read, where it is one of them."""
        for index in job.indices.tolist():
            try:
                self.samples.sample(index)
            except Exception:
                return int(index)
        return None

    def _failed(self, error: Exception, job: Job, index: int | None) -> VlaStoreError:
        """The error with its sample; the traceback cut to its innermost frames."""
        where = {"store": self.samples.store.url}
        if index is None:
            where["samples"] = f"{', '.join(map(str, job.indices[:8]))}{', ...' if len(job.indices) > 8 else ''}"
        else:
            where |= self._places(index)
        if isinstance(error, VlaStoreError):
            return error.at(**where)
        frames = traceback.extract_tb(error.__traceback__)
        # The first frame is this module's own.
        text = "".join(traceback.format_list(frames[1:][-MAX_FRAMES:]))
        text += "".join(traceback.format_exception_only(type(error), error))
        what = "a batch could not be made" if index is None else "a sample could not be made"
        return TransformError(what, **where, traceback=text.rstrip("\n"))

    def _places(self, index: int) -> dict[str, Any]:
        where: dict[str, Any] = {"sample": index}
        try:
            part, place = self.samples._anchors.one(index, self.samples.store)
            found = self.samples.store.provenance(part.row_start + place[2] + place[1])
        except VlaStoreError:  # the index itself is damaged
            return where
        return where | {"row": found.row, "episode": found.episode, "step": found.step}


def apply_to_batch(function: Callable[..., Any], batch: Any, job: Job, wants: bool) -> Any:
    """batch_transform of a batch. wants: whether it takes a generator."""
    options: dict[str, Any] = {GENERATOR: _generator(job, job.position, OF_A_BATCH)} if wants else {}
    return transformed(function, batch, "batch_transform", **options)


def takes_generator(function: Callable[..., Any] | None) -> bool:
    """Whether a transform has an argument named `generator`."""
    if function is None:
        return False
    try:
        return GENERATOR in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _generator(job: Job, position: int, purpose: int) -> np.random.Generator:
    """A generator for one place in the order of an epoch: the same whoever works, and after a resume."""
    key = np.random.SeedSequence([job.seed & (2**64 - 1), job.epoch, position], spawn_key=(purpose,))
    return np.random.Generator(np.random.Philox(key))
