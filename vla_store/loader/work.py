"""`Work`: one batch made, decoded, transformed, collated; by a worker, or by the parent where there are no workers.

May import the dataset protocol, collate, and what the reader says of transforms.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import OptionError, TransformError, VlaStoreError
from vla_store.loader.collate import collate
from vla_store.loader.dataset import Dataset, Empty, OneByOne, in_turn
from vla_store.loader.packing import flatten, tree_nbytes
from vla_store.reader.bfloat16 import BFLOAT16
from vla_store.reader.samples import Samples
from vla_store.reader.texts import drawing_at
from vla_store.reader.transforms import a_sample, name_of, transformed

Array = np.ndarray[Any, Any]

GENERATOR = "generator"
MAX_FRAMES = 8
OF_A_SAMPLE, OF_A_BATCH = 0, 1


@dataclass(frozen=True)
class Job:
    """One batch: indices are samples of the dataset; position: of its first row in the order of the epoch.

    end: the position after this batch of all ranks. is_last: of the epoch.
    """

    seed: int
    epoch: int
    position: int
    indices: Array
    end: int = 0
    is_last: bool = False


class Work:
    """The batches of a dataset, with the user's transforms.

    transform: called with each sample; batch_transform: with the whole batch. One that takes an argument named `generator` gets a
    NumPy Generator that depends on (seed, epoch, position) alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
    ) -> None:
        if transform is not None and not isinstance(dataset, OneByOne):
            if not hasattr(dataset, "__getitem__"):
                raise OptionError(
                    "this dataset has batches only: there are no samples to transform", hint="give batch_transform="
                )
            dataset = OneByOne(dataset, dataset)
        self.dataset: Any = dataset
        self._is_known = isinstance(dataset, Samples)  # whose batches need no check
        self._is_for_numpy = False  # what transforms get; not known before the first
        self._transform = transform
        self._batch_transform = batch_transform
        self._wants = takes_generator(transform)
        self._batch_wants = takes_generator(batch_transform)

    @property
    def ahead(self) -> Any:
        """What brings samples of the dataset near before they are read; None where it is near, or says nothing of it."""
        with contextlib.suppress(Exception):  # then whoever reads a sample hears of it
            return getattr(self.dataset, "ahead", None)
        return None

    def slot_nbytes(self, rows: int) -> int:
        """Return the bytes of a batch of so many rows, as far as they can be told before there is one; at least of its indices."""
        dataset: Any = self.dataset.plain if isinstance(self.dataset, OneByOne) else self.dataset
        known = rows * np.dtype(np.int64).itemsize
        with contextlib.suppress(Exception):  # then whoever is given that sample hears of it
            # Reading a sample from afar takes a while, and tells little more.
            is_far = type(dataset) is Samples and self.ahead is not None
            one = dataset.allocate(1) if is_far else dataset.batch(np.zeros(1, np.int64))
            known = max(known, tree_nbytes(one, rows))
        return known

    def run(self, job: Job, empty: Empty = np.empty) -> Any:
        """Return the batch of a job. empty: makes its arrays.

        Raises TransformError, or the store's own error, naming the sample.
        """
        dataset = self.dataset
        if isinstance(dataset, OneByOne):
            batch = self._made_one_by_one(job, dataset.source)
        else:
            try:
                with drawing_at(job.seed, job.epoch, job.position):
                    batch = dataset.batch(job.indices, empty=empty)
            except Exception as error:
                raise self._blamed(error, job) from None
            if not self._is_known:
                self._check_rows(batch, job)
        if self._batch_transform is not None:
            try:
                self._check_for_numpy(batch, "batch_transform")
                batch = apply_to_batch(self._batch_transform, batch, job, self._batch_wants)
            except Exception as error:
                raise self._failed(error, job, None) from None
        return batch

    def _made_one_by_one(self, job: Job, source: Any) -> Any:
        indices = job.indices.tolist()
        samples, made = in_turn(source, indices), []
        for number, index in enumerate(indices):
            position = job.position + number
            try:
                with drawing_at(job.seed, job.epoch, position):
                    given = next(samples)
                sample = a_sample(given, "the dataset's", getattr(type(source), "__getitem__", None))
                if self._transform is not None:
                    self._check_for_numpy(sample, "transform")
                    options: dict[str, Any] = {GENERATOR: _generator(job, position, OF_A_SAMPLE)} if self._wants else {}
                    sample = transformed(self._transform, sample, **options)
            except Exception as error:
                raise self._failed(error, job, index) from None
            made.append(sample)
        try:
            return collate(made)
        except Exception as error:
            raise self._failed(error, job, None) from None

    def _check_for_numpy(self, tree: Any, what: str) -> None:
        """Raise OptionError where a transform of arrays would get bfloat16, which NumPy has not."""
        if self._is_for_numpy:
            return
        for value in flatten(tree)[0]:
            if isinstance(value, np.ndarray) and value.dtype == BFLOAT16:
                raise OptionError(
                    f"{what} gets NumPy's arrays here, and NumPy has no bfloat16",
                    hint="give the dataset the transform, which then gets tensors; or the Loader a batch_transform and a device; or "
                    'dtype="float32", and let the transform convert',
                )
        self._is_for_numpy = True

    def _check_rows(self, batch: Any, job: Job) -> None:
        """Raise TransformError where a batch is none, or not of as many samples as were asked for."""
        rows, what = len(job.indices), type(self.dataset).batch
        for value in flatten(a_sample(batch, "the dataset's", what))[0]:
            shape: Any = getattr(value, "shape", (len(value),) if isinstance(value, list) else ())
            if len(shape) and shape[0] != rows:
                raise TransformError(
                    f"the dataset's `{name_of(what)}` returns another number of samples than it was asked for",
                    expected=f"{rows}, the length of the first axis",
                    found=f"{type(value).__name__} of shape {tuple(shape)}",
                )

    def _blamed(self, error: Exception, job: Job) -> VlaStoreError:
        """Return the error of the first sample that cannot be read by itself; that of the batch where all can."""
        for index in job.indices:
            try:
                self.dataset.batch(np.array([index]))
            except Exception as its_own:
                return self._failed(its_own, job, int(index))
        return self._failed(error, job, None)

    def _failed(self, error: Exception, job: Job, index: int | None) -> VlaStoreError:
        """Return the error with its sample; the traceback cut to its innermost frames."""
        where: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # the error is more than where it is
            where |= self.dataset.where()
        if index is None:
            where["samples"] = f"{', '.join(map(str, job.indices[:8]))}{', ...' if len(job.indices) > 8 else ''}"
        else:
            where["sample"] = index
            with contextlib.suppress(Exception):
                where |= self.dataset.where(index)
        if isinstance(error, VlaStoreError):
            return error.at(**where)
        frames = traceback.extract_tb(error.__traceback__)
        # The first frame is this module's own.
        text = "".join(traceback.format_list(frames[1:][-MAX_FRAMES:]))
        text += "".join(traceback.format_exception_only(type(error), error))
        what = "a batch could not be made" if index is None else "a sample could not be made"
        return TransformError(what, traceback=text.rstrip("\n")).at(**where)


def apply_to_batch(function: Callable[..., Any], batch: Any, job: Job, wants: bool) -> Any:
    """Return what batch_transform makes of a batch. wants: whether it takes a generator."""
    options: dict[str, Any] = {GENERATOR: _generator(job, job.position, OF_A_BATCH)} if wants else {}
    return transformed(function, batch, "batch_transform", **options)


def takes_generator(function: Callable[..., Any] | None) -> bool:
    """Return whether a transform has an argument named `generator`."""
    if function is None:
        return False
    try:
        return GENERATOR in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _generator(job: Job, position: int, purpose: int) -> np.random.Generator:
    """Return a generator for one position in the order of an epoch: whoever works, and after a resume."""
    key = np.random.SeedSequence([job.seed & (2**64 - 1), job.epoch, position], spawn_key=(purpose,))
    return np.random.Generator(np.random.Philox(key))
