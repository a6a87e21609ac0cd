"""`StepFacts`: what a function of weights may ask of the steps that are samples. May import numpy, errors, the rules, and the reader."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store import rules
from vla_store.errors import OptionError, UnknownName
from vla_store.format import layout
from vla_store.loader.dataset import Chosen, Dataset, OneByOne
from vla_store.reader.cached import cached_property
from vla_store.reader.parts import parts_of
from vla_store.reader.samples import Samples
from vla_store.reader.store import Store
from vla_store.reader.values import StoreField

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BLOCK_ROWS = 1 << 18  # that are read at once


class StepFacts:
    """Facts of n steps of a store: (n,) arrays, one value a sample, in the order of the samples.

    Parameters
    ----------
    store
        The store.
    row
        (n,) int64, the row of each.

    Attributes
    ----------
    store, row
        As they were given.
    """

    def __init__(self, store: Store, row: Int64) -> None:
        self.store, self.row = store, row

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def episode(self) -> Int64:
        """Number of the episode in the store, (n,) int64."""
        return np.searchsorted(self.store.episodes.starts, self.row, side="right") - 1

    @cached_property
    def step(self) -> Int64:
        """Number of the step in its episode, from 0, (n,) int64."""
        return self.row - self.store.episodes.starts[self.episode]

    @cached_property
    def length(self) -> Int64:
        """Steps of the episode, (n,) int64."""
        return self.store.episodes.lengths[self.episode]

    @cached_property
    def task(self) -> Int64:
        """Number of the task in `store.tasks`, (n,) int64."""
        return self._of_episodes[0][self.episode]

    @property
    def text(self) -> Array:
        """Text of the task, (n,) of str."""
        return _texts([each.text for each in self.store.tasks])[self.task]

    @property
    def suite(self) -> Array:
        """Name of the suite, (n,) of str."""
        return _texts([each.suite for each in self.store.tasks])[self.task]

    @property
    def file(self) -> Array:
        """Name of the source file within the folder of its suite, (n,) of str."""
        return self._of_episodes[1][self.episode]

    def field(self, name: str) -> Array:
        """Return the numbers of a field at these steps, as they are stored.

        Parameters
        ----------
        name
            Name of a numeric field; cameras and fields whose width differs between episodes are none.

        Returns
        -------
        (n, *shape) array

        Raises
        ------
        UnknownName, OptionError
            For another field.
        StoreDamaged, FetchError, MachineError
            Where the store is read.
        """
        return self.store.read(self._numeric(name), self.row)

    def number(self, name: str) -> Array:
        """Return the numbers of a field that has one a step, (n,). Raises as `field` does, and OptionError for several a step."""
        described = self.store.fields[self._numeric(name)]
        if not _has_one(described):
            raise OptionError(
                f"{name!r} has several numbers a step, and a weight is one",
                shape=described.shape,
                hint=f"a function that chooses: lambda at: at.field({name!r})[:, -1]",
            )
        return self.field(name).reshape(-1)

    def changes(self, field: str, index: int = -1) -> Mask:
        """Return where a number of a field crosses the middle of its range, as the gripper's does when it opens or closes.

        Parameters
        ----------
        field
            Name of a numeric field.
        index
            Which of its numbers; default: the last one.

        Returns
        -------
        (store.rows,) bool
            For all rows of the store, true at the first step after the change: what `near` takes.

        Raises
        ------
        UnknownName, OptionError
            For another field, or a number that it does not have.
        StoreDamaged, FetchError, MachineError
            Where the store is read.
        """
        shape = self.store.fields[self._numeric(field)].shape
        width = int(np.prod([each or 0 for each in shape]))
        if not -width <= index < width:
            raise OptionError(f"{field!r} has no number {index}", numbers=width)
        rows, pieces = self.store.rows, []
        for start in range(0, rows, BLOCK_ROWS):
            block = self.store.read(field, range(start, min(start + BLOCK_ROWS, rows)))
            pieces.append(block.reshape(len(block), -1)[:, index].astype(np.float64))
        return rules.crossings(np.concatenate(pieces), self.store.episodes.starts)

    def near(self, events: npt.ArrayLike, steps: int = 10) -> Mask:
        """Return which of these steps are near an event in the same episode.

        Parameters
        ----------
        events
            (store.rows,) bool, for all rows of the store; `changes` makes such a mask.
        steps
            How many steps away, before or after, is near.

        Returns
        -------
        (n,) bool

        Raises
        ------
        OptionError
            `events` is no such mask.
        """
        mask = np.asarray(events)
        if mask.shape != (self.store.rows,) or mask.dtype != bool or np.ma.is_masked(events):
            raise OptionError(
                "events are a mask of all rows of the store",
                expected=f"bool of shape ({self.store.rows},)",
                found=f"{mask.dtype} of shape {mask.shape}{', with values masked' if np.ma.is_masked(events) else ''}",
                hint='at.near(at.changes("actions"), 10); of a field: at.store.read(name, range(at.store.rows)) > 0',
            )
        start = self.row - self.step
        return rules.near(np.flatnonzero(mask), self.row, start, start + self.length, steps)

    def _numeric(self, name: str) -> str:
        known = [key for key, each in self.store.fields.items() if _is_numeric(each)]
        if name not in known:
            raise UnknownName.among("numeric field", name, known, store=self.store.url)
        return name

    @cached_property
    def _of_episodes(self) -> tuple[Int64, Array]:
        """The task and the file of every episode of the store."""
        numbers = {(each.suite, each.name): number for number, each in enumerate(self.store.tasks)}
        tasks, files = [], []
        for part in parts_of(self.store).with_tables(layout.TABLE_ARRAY):
            entries, document = part.entries(0, part.episodes), part.document
            tasks.append(np.array([numbers[each.suite, each.name] for each in document.tasks])[entries["task"]])
            files.append(_texts([each.file for each in document.sources])[entries["source"]])
        return np.concatenate(tasks), np.concatenate(files)


def weight_fields(store: Store) -> list[str]:
    """Return the names of a store's fields that can be weights: those of one number a step."""
    return [name for name, each in store.fields.items() if _is_numeric(each) and _has_one(each)]


def _is_numeric(field: StoreField) -> bool:
    return field.kind == "fixed" and not field.is_camera


def _has_one(field: StoreField) -> bool:
    return field.shape in ((), (1,))


def facts_of(dataset: Dataset, what: str) -> StepFacts:
    """Return the facts of all samples of a dataset.

    Parameters
    ----------
    dataset
        What a Loader serves.
    what
        What needs them, as an error says it.

    Raises
    ------
    OptionError
        It is not of a store.
    """
    numbers: Int64 | None = None
    inner: Any = dataset
    while isinstance(inner, (OneByOne, Chosen)):
        if isinstance(inner, OneByOne):
            inner = inner.plain
        else:
            numbers = inner.indices if numbers is None else inner.indices[numbers]
            inner = inner.dataset
    if not isinstance(inner, Samples):
        raise OptionError(
            f"{what} asks for the steps of a store, and this dataset is of none",
            found=type(inner).__name__,
            hint="give an array of numbers, one a sample",
        )
    rows = inner.anchor_rows
    return StepFacts(inner.store, rows if numbers is None else rows[numbers])


def _texts(values: list[str]) -> Array:
    """Return texts as an array of objects: one of NumPy's own would have room for the longest at each sample."""
    made = np.empty(len(values), object)
    made[:] = values
    return made
