"""Demonstrations as samplers see them: lengths, files, still starts and critical steps. Reads no pictures."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store import open_store
from vla_store.errors import OptionError, SourceError, SourceNotFound, whole_number
from vla_store.format.views import mask_of
from vla_store.reader.kept import kept_of
from vla_store.reader.store import Store
from vla_store.rules import crossings, first_moving, near
from vla_store.storage import local_path

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TAIL_SHARE = 10  # the last 1/10 of a demo's steps, rounded up, is its tail
ACTIONS, JOINTS, FINGERS = "actions", "joint_states", "gripper_states"
MOST_STEPS = 2**40  # as the format's


@dataclass(frozen=True)
class Demos:
    """E demos of N steps in all, in the order of their rows.

    Attributes
    ----------
    lengths
        (E,) int64, steps of each, all positive.
    files
        (E,) int64, the number, from 0, of the file of each.
    is_first_key
        (E,) bool: is it what a reader of its HDF5 file finds first? Keys sort as text there: demo_10 before demo_3.
    has_late_observation
        (E,) bool: is each observation recorded after the action of its row? Causal alignment then has no step 0.
    name
        What to call them.
    moving, moving_joints
        (E,) int64, the first step at which the arm has moved, with and without the fingers; -1 where it never does;
        None where the numbers that tell are not there. The rule is RDT's: see `vla_store.rules.first_moving`.
    near_gripper
        (N,) bool: is a change of the gripper's action at most `k` steps away? None where actions are not there.
    k
        That number of steps.
    in_view
        (N,) bool, which steps the chosen views let be sampled; None where all of them.
    views
        What these views are, for people: one line each.
    """

    lengths: Int64
    files: Int64
    is_first_key: Mask
    has_late_observation: Mask
    name: str
    moving: Int64 | None = None
    moving_joints: Int64 | None = None
    near_gripper: Mask | None = None
    k: int = 0
    in_view: Mask | None = None
    views: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Number of steps in all, N."""
        return int(self.lengths.sum())

    @property
    def starts(self) -> Int64:
        """First row of each demo, (E,) int64."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def demo_of_step(self) -> Int64:
        """Demo of each step, (N,) int64."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def step_in_demo(self) -> Int64:
        """Number of each step in its demo, from 0, (N,) int64."""
        return np.arange(self.steps) - np.repeat(self.starts, self.lengths)

    @property
    def is_tail(self) -> Mask:
        """Mask of the steps in the last tenth of their demo, rounded up, (N,) bool."""
        tails = -(-self.lengths // TAIL_SHARE)
        return self.step_in_demo >= np.repeat(self.lengths - tails, self.lengths)

    def critical(self, values: npt.NDArray[Any]) -> dict[str, Any]:
        """Sum values of steps over the critical ones.

        Parameters
        ----------
        values
            (N,), a number or a bool for each step.

        Returns
        -------
        dict
            "tail", the sum over the last tenths; "gripper", that over the steps near a change of the gripper, None
            where that is not known.
        """
        masks = {"gripper": self.near_gripper, "tail": self.is_tail}
        return {name: None if mask is None else values[mask].sum().item() for name, mask in masks.items()}


def demos_of_store(
    store: Store | str | os.PathLike[str], k: int = 5, *, view: str | Sequence[str] | None = None
) -> Demos:
    """Return the demos of a store. Pictures are not read.

    Parameters
    ----------
    store
        A Store, a path or a URL.
    k
        How many steps from a change of the gripper's action, the last number of `actions`, are critical; default 5.
    view
        The name of one of `store.views`, or several, as for `Samples`. Under one of kind "steps" the demos are what it
        keeps, as if the other steps had never been recorded; demos of which nothing is kept are none. One of kind
        "anchors" takes no step away: `in_view` then says which may be sampled.

    Returns
    -------
    Demos
        In the order of the store's episodes, under the name of its folder.

    Raises
    ------
    OptionError
        `k` is not a whole number of at least 0, or the views keep no step together.
    UnknownName
        There is no such view.
    StoreNotFound, StoreDamaged, UnsupportedStore, FetchError, MachineError
        What opening and reading raise.
    """
    whole_number("k", k, 0)
    if not isinstance(store, Store):
        store = open_store(store)
    kept = None if view is None else kept_of(store, view)
    exists = None if kept is None or kept.steps is None else mask_of(kept.steps, store.rows)
    episodes = list(store.episodes)
    lengths = store.episodes.lengths
    starts_kept = np.ones(len(lengths), bool)  # is the first step that was recorded one of the demo's?
    if exists is not None:
        starts_kept = exists[store.episodes.starts]
        lengths = np.add.reduceat(exists, store.episodes.starts, dtype=np.int64)
        episodes = [each for each, length in zip(episodes, lengths.tolist()) if length]
        starts_kept, lengths = starts_kept[lengths > 0], lengths[lengths > 0]
    if not episodes:
        raise OptionError("the views keep no step together", view=view, store=store.url)
    files = _numbered([(each.suite, each.file) for each in episodes])
    keys = [f"demo_{each.number}" for each in episodes]
    late = {(each.suite, each.file): each.observation == "after" for each in store.conventions.sources}
    joints, fingers, actions = (_rows(store, each, exists) for each in (JOINTS, FINGERS, ACTIONS))
    in_view = None
    if kept is not None:
        in_view = mask_of(kept.anchors, store.rows)
        in_view = in_view if exists is None else in_view[exists]
    return Demos(
        lengths=lengths,
        files=files,
        is_first_key=_first_keys(files, keys),
        moving=None if joints is None or fingers is None else _moving(lengths, np.hstack([joints, fingers])),
        moving_joints=None if joints is None else _moving(lengths, joints),
        near_gripper=near_gripper_changes(actions, lengths, k),
        # What was recorded before the first step that is kept stands in the row before it.
        has_late_observation=np.array([late[each.suite, each.file] for each in episodes]) & starts_kept,
        k=k,
        name=os.path.basename(store.url.rstrip("/")),
        in_view=None if in_view is None or in_view.all() else in_view,
        views=() if kept is None else kept.lines,
    )


def demos_of_lengths(lengths: npt.ArrayLike, tasks: Sequence[object] | None = None, name: str = "lengths") -> Demos:
    """Return demos of which only the lengths are known.

    Parameters
    ----------
    lengths
        (E,) positive whole numbers, at least one; the steps of each demo.
    tasks
        E values of any kind: the demos of one task are in one file. Default: all in one. The first one listed of a task
        counts as the first of its file.
    name
        What to call them.

    Returns
    -------
    Demos
        Motion and gripper are not known of them, and no observation is late.

    Raises
    ------
    OptionError
        The lengths are not such numbers, there are more than 2^40 steps, or a demo has no task.
    """
    given = np.asarray(lengths)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not given.size or given.min() < 1:
        raise OptionError("lengths are positive whole numbers, at least one")
    if given.max() > MOST_STEPS or given.sum(dtype=np.float64) > MOST_STEPS:
        raise OptionError("too many steps", expected=f"at most {MOST_STEPS:,}", found=f"{given.sum(dtype=float):,.0f}")
    if tasks is not None and len(tasks) != len(given):
        raise OptionError("every demo has a task", expected=len(given), found=len(tasks))
    files = _numbered(tasks or [None] * len(given))
    return Demos(
        lengths=given.astype(np.int64),
        files=files,
        is_first_key=_first_keys(files, range(len(given))),
        has_late_observation=np.zeros(len(given), bool),
        name=name,
    )


def read_lengths(path: str | os.PathLike[str]) -> Demos:
    """Read demos from a CSV file with a heading.

    Parameters
    ----------
    path
        A local file in UTF-8: a column `length`, and one named `task` if there is more than one file of demonstrations.

    Returns
    -------
    Demos
        As `demos_of_lengths` returns them, under the name of the file.

    Raises
    ------
    SourceNotFound
        There is no such file.
    SourceError
        It is not a CSV file, has no column of lengths or no demonstration, or a length is not a positive whole number.
    """
    place = local_path(path, "a table of lengths")
    if not place.is_file():
        raise SourceNotFound("there is no such file", path=place)
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = [str(each).strip() for each in rows.fieldnames or ()]
            rows.fieldnames = columns
            if "length" not in columns:
                raise SourceError(
                    "the file has no column of lengths",
                    path=place,
                    expected="a first line that names the columns, `length` among them (and `task`)",
                    found=", ".join(columns[:8]) or "an empty file",
                )
            read = [(rows.line_num, each["length"], each.get("task")) for each in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            "this is not a CSV file",
            path=place,
            found=error,
            hint="write one in UTF-8 with a column `length`; of a store or demonstrations the lengths are known: vla-store coverage STORE",
        ) from None
    if not read:
        raise SourceError("the file names no demonstration", path=place, expected="a line for each")
    lengths = [_length(text, place, line) for line, text, _ in read]
    tasks = [task for _, _, task in read] if "task" in columns else None
    try:
        return demos_of_lengths(lengths, tasks, place.name)
    except OptionError as error:
        raise SourceError(error.what, path=place, **error.places) from None


def near_gripper_changes(actions: npt.NDArray[Any] | None, lengths: Int64, k: int) -> Mask | None:
    """Return which steps are near a change of the gripper in the same demo.

    Parameters
    ----------
    actions
        (N, D); the last number is the gripper's. A change is where it crosses the middle of its range: for LIBERO, 0.
    lengths
        (E,) int64, steps of each demo.
    k
        How many steps away a step may be.

    Returns
    -------
    ndarray or None
        (N,) bool; None without actions.
    """
    if actions is None or actions.ndim != 2 or not actions.shape[1]:
        return None
    starts = np.cumsum(lengths) - lengths
    changes = np.flatnonzero(crossings(actions[:, -1].astype(np.float64), starts))
    first, stop = (np.repeat(each, lengths) for each in (starts, starts + lengths))
    return near(changes, np.arange(len(actions)), first, stop, k)


def _numbered(values: Sequence[object]) -> Int64:
    """Return the number of each value, from 0, in the order of their first appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in values], np.int64)


def _rows(store: Store, field: str, exists: Mask | None) -> npt.NDArray[Any] | None:
    """Return the rows of a field of numbers per step, (N, D); None where the store has no such field. exists: default all."""
    described = store.fields.get(field)
    if described is None or described.kind != "fixed" or described.is_camera or len(described.shape) != 1:
        return None
    return store.read(field, range(store.rows) if exists is None else np.flatnonzero(exists))


def _moving(lengths: Int64, numbers: npt.NDArray[Any]) -> Int64:
    cuts = np.split(numbers, np.cumsum(lengths)[:-1])
    return np.array([-1 if found is None else found for found in map(first_moving, cuts)], np.int64)


def _first_keys(files: Int64, keys: Sequence[Any]) -> Mask:
    """Return which demo has the smallest key of its file, (E,) bool."""
    first: dict[int, int] = {}
    for demo, file in enumerate(files.tolist()):
        first[file] = min(first.get(file, demo), demo, key=lambda each: keys[each])
    return np.isin(np.arange(len(files)), list(first.values()))


def _length(text: str | None, path: Path, line: int) -> int:
    value = (text or "").strip()
    if not (value.isascii() and value.isdigit()) or not 0 < len(value) < 14 or int(value) < 1:
        raise SourceError(
            "not a length", path=path, line=line, expected="a positive whole number of steps", found=repr(value[:40])
        )
    return int(value)
