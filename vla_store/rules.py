"""Rules by which trainers and tools leave steps out, as pure functions of one episode's numbers; and what is near an event.

T is the number of steps of an episode. Each function names where its rule comes from; views, recipes, weights and coverage share them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = np.ndarray[Any, Any]
Mask = npt.NDArray[np.bool_]

NOOP_THRESHOLD = 1e-4
POSE_ACTION_WIDTH = 7  # six numbers of motion and the gripper's
OPEN_OR_CLOSE = (-1.0, 0.0, 1.0)
MOVING_THRESHOLD = 1e-2
RDT_SHORTEST = 32  # pre-training: fewer steps are dropped
RDT_LONGEST = 2_048  # pre-training: of more steps, so many are drawn
RDT_FINETUNE_SHORTEST = 128  # fine-tuning from HDF5: fewer steps are refused
TAIL_AS_CODED = 63
TAIL_AS_QUOTED = 64


def noops(actions: Array, threshold: float = NOOP_THRESHOLD) -> Mask:
    """Return which steps OpenVLA's regeneration calls no-ops, (T,) bool.

    actions: (T, D >= 2); the last number is the gripper's. A step is a no-op when the L2 norm of its other numbers is below
    `threshold` and its gripper number equals that of the last step that is kept; until one is kept, only the norm counts.
    Raises ValueError for another shape.

    Source: `is_noop` in openvla/openvla, experiments/robot/libero/regenerate_libero_dataset.py.
    """
    if actions.ndim != 2 or actions.shape[1] < 2:
        raise ValueError(f"actions are (T, D) with D >= 2, not {actions.shape}")
    values = actions.astype(np.float64, copy=False)
    with np.errstate(over="ignore"):  # what is not finite, or its square, moves: it is no no-op
        is_noop: Mask = np.sqrt((values[:, :-1] ** 2).sum(axis=1)) < threshold
    kept = np.flatnonzero(~is_noop)
    if len(kept):
        # A dropped step has the gripper number of the last kept one, so that is always the number of the step before.
        after = slice(int(kept[0]) + 1, None)
        is_noop[after] &= values[after, -1] == values[int(kept[0]) : -1, -1]
    return is_noop


def has_gripper_last(actions: Array) -> bool:
    """Return whether actions (T, D) look like six numbers of motion and one that says open or close, of which `noops` can be asked."""
    return actions.shape[1] == POSE_ACTION_WIDTH and bool(np.isin(actions[:, -1], OPEN_OR_CLOSE).all())


def first_moving(qpos: Array, threshold: float = MOVING_THRESHOLD) -> int | None:
    """Return the first step at which any number of `qpos` (T, D) is more than `threshold` away from its value at step 0.

    None where there is none (RDT raises there). RDT's fine-tuning takes anchors from `first_moving - 1` on, which is never
    below 0; qpos is raw, with the gripper.

    Source: thu-ml/RoboticsDiffusionTransformer, data/hdf5_vla_dataset.py, `parse_hdf5_file`.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # nothing is known to be away from NaN, or infinity from itself
        moved = (np.abs(qpos.astype(np.float64, copy=False) - qpos[0]) > threshold).any(axis=1)
    return int(moved.argmax()) if moved.any() else None


def has_length(lengths: npt.ArrayLike, shortest: int | None = None, longest: int | None = None) -> Mask:
    """Return which episodes have shortest <= T <= longest, (n,) bool for (n,) lengths; None is no bound.

    RDT leaves out episodes of fewer than RDT_SHORTEST steps in pre-training, of fewer than RDT_FINETUNE_SHORTEST in
    fine-tuning; longer ones than RDT_LONGEST it does not leave out: see `drawn_steps`.

    Source: thu-ml/RoboticsDiffusionTransformer, configs/base.yaml, data/vla_dataset.py and data/hdf5_vla_dataset.py.
    """
    given = np.asarray(lengths)
    kept = np.ones(given.shape, bool)
    if shortest is not None:
        kept &= given >= shortest
    if longest is not None:
        kept &= given <= longest
    return kept


def drawn_steps(length: int, at_most: int = RDT_LONGEST, seed: int = 0) -> Mask:
    """Draw `at_most` steps of an episode at random, (T,) bool; all of them where it has no more.

    RDT's pre-training draws RDT_LONGEST steps anew each time it loads a longer episode; here the same seed gives the same
    steps on every machine.

    Source: thu-ml/RoboticsDiffusionTransformer, data/vla_dataset.py, with configs/base.yaml's `epsd_len_thresh_high`.
    """
    kept = np.ones(length, bool)
    if length > at_most:
        keys = _mixed(np.arange(length, dtype=np.uint64) + np.uint64(seed % 2**64))
        kept[np.argsort(keys, kind="stable")[at_most:]] = False
    return kept


def drop_tail(length: int, tail: int = TAIL_AS_CODED) -> int:
    """Return how many steps are anchors, from step 0 on, where the last `tail` never are: max(T - tail, 0).

    The LIBERO port of RDT is told of with a random start in [0, T - 64): tail=TAIL_AS_QUOTED. The version of it that counts
    its anchors has 0 ... T - 64, which are T - 63: tail=TAIL_AS_CODED. Its other versions lose none.

    Source: zxy6677/RoboticsDiffusionTransformer d5ad60f, the class `HDF5LIBERODataset`, and its owners' notes.
    """
    return max(length - tail, 0)


def crossings(numbers: Array, starts: npt.NDArray[np.int64]) -> Mask:
    """Return which rows of all episodes are the first after their number crossed the middle of its range, (N,) bool for (N,) numbers.

    The range is that of all finite numbers: for LIBERO's gripper, from -1 to 1. NaN lies below the middle. No first step of an
    episode, of which `starts` has the rows, is one.
    """
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return np.zeros(len(numbers), bool)
    is_above = numbers > (finite.min() / 2 + finite.max() / 2)
    found: Mask = np.concatenate([[False], is_above[1:] != is_above[:-1]])
    found[starts] = False
    return found


def near(
    events: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
    steps: int,
) -> Mask:
    """Return which of these rows are at most so many steps away from one of the rows `events`, which ascend, in the same episode.

    starts, stops: of the episode of each row, (n,), half-open.
    """
    first = np.searchsorted(events, np.maximum(rows - steps, starts))
    found: Mask = first < np.searchsorted(events, np.minimum(rows + steps + 1, stops))
    return found


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's output function (Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = values * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
