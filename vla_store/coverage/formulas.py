"""Exact formulas of a sampler's rule: the steps that it can reach, and those that N draws reach on average.

A step is an *anchor* where a sample is drawn at it, and a *target* where its action stands, not as padding, in the window of a drawn
anchor: anchors s - horizon + 1 ... s of the same demo reach step s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.coverage.demos import Demos
from vla_store.coverage.samplers import ListSampler, RandomSampler, Sampler

Floats = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reached:
    """Counts of steps that were reached; averages are not whole numbers.

    anchors, targets: of all steps. tail, gripper: of those critical steps, as anchors; gripper is None where it is not known.
    variance: of the counts of all N steps (how often each was the anchor), around their mean.
    """

    anchors: float
    targets: float
    tail: float
    gripper: float | None
    variance: float


def window_sums(values: npt.NDArray[Any], demos: Demos, horizon: int) -> npt.NDArray[Any]:
    """Return for each step the sum of `values` (N,) over the anchors whose window reaches it, (N,)."""
    total = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])
    rows = np.arange(demos.steps)
    first = np.maximum(np.repeat(demos.starts, demos.lengths), rows - horizon + 1)
    made: npt.NDArray[Any] = total[rows + 1] - total[first]
    return made


def ever_targets(sampler: Sampler, horizon: int) -> Mask:
    """Return which steps can ever be a target, (N,) bool."""
    made: Mask = window_sums(sampler.is_anchor.astype(np.int64), sampler.demos, horizon) > 0
    return made


def expected(sampler: Sampler, draws: int, horizon: int) -> Reached | None:
    """Return what `draws` draws reach on average; None where there is no formula (the buffer)."""
    demos = sampler.demos
    if isinstance(sampler, RandomSampler):
        chance = sampler.probability
        targets = np.clip(window_sums(chance, demos, horizon).astype(np.float64), 0, 1)
        targets[~ever_targets(sampler, horizon)] = 0  # sums of floats leave dust
        anchored, targeted = met(chance, draws), met(targets, draws)
        square = float((draws * chance * (1 - chance) + (draws * chance) ** 2).mean())
        mean = draws * float(chance.sum()) / demos.steps
    elif isinstance(sampler, ListSampler):
        listed = len(sampler.anchors)
        passes, rest = divmod(draws, listed) if listed else (0, 0)
        reaching = window_sums(sampler.is_anchor.astype(np.int64), demos, horizon).astype(np.int64)
        targeted = (reaching > 0).astype(float) if passes else _met_in_part(reaching, rest, listed)
        anchored = np.where(sampler.is_anchor, 1.0 if passes else rest / max(listed, 1), 0.0)
        square = ((listed - rest) * passes**2 + rest * (passes + 1) ** 2) / demos.steps
        mean = (passes * listed + rest) / demos.steps
    else:
        return None
    return Reached(
        anchors=float(anchored.sum()),
        targets=float(targeted.sum()),
        **demos.critical(anchored),
        variance=max(square - mean**2, 0.0),
    )


def draws_until(sampler: Sampler, share: float) -> float | None:
    """Return after how many draws this share of all possible anchors has been one, on average; None without a formula."""
    reachable = int(sampler.is_anchor.sum())
    if isinstance(sampler, ListSampler):
        return share * reachable if reachable else None
    if not reachable or not isinstance(sampler, RandomSampler):
        return None
    reached = _reached(sampler)
    low, high = 0.0, float(reachable)
    while reached(high) < share * reachable:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < share * reachable else (low, middle)
    return high


def expected_curve(sampler: Sampler, draws: Int64) -> Floats | None:
    """Return the expected distinct anchors after so many draws, (len(draws),); None without a formula."""
    if isinstance(sampler, ListSampler):
        return np.minimum(draws, len(sampler.anchors)).astype(np.float64)
    return np.array(list(map(_reached(sampler), draws))) if isinstance(sampler, RandomSampler) else None


def _reached(sampler: RandomSampler) -> Callable[[float], float]:
    chances, counts = np.unique(sampler.probability[sampler.is_anchor], return_counts=True)
    return lambda draws: float((counts * met(chances, draws)).sum())


def count_shares(sampler: Sampler, draws: int, most: int) -> Floats | None:
    """Return the expected share of all steps that were an anchor 0, 1, ... `most` times, (most + 1,); None without a formula."""
    shares = np.zeros(most + 1)
    if isinstance(sampler, ListSampler):
        listed = len(sampler.anchors)
        passes, rest = divmod(draws, listed) if listed else (0, 0)
        for count, steps in ((0, sampler.demos.steps - listed), (passes, listed - rest), (passes + 1, rest)):
            if count <= most:
                shares[count] += steps / sampler.demos.steps
        return shares
    if not isinstance(sampler, RandomSampler):
        return None
    chances, counts = np.unique(sampler.probability, return_counts=True)
    for count in range(min(most, draws) + 1):
        choices = math.lgamma(draws + 1) - math.lgamma(count + 1) - math.lgamma(draws - count + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = choices + _times_log(count, chances) + _times_log(draws - count, 1 - chances)
        shares[count] = (counts * np.exp(logs)).sum() / sampler.demos.steps
    return shares


def _times_log(factor: int, values: Floats) -> Floats:
    """Return factor * log(values), where 0 * log(0) is 0."""
    return factor * np.log(values) if factor else np.zeros(len(values))


def met(chance: Floats, draws: float) -> Floats:
    """Return the probability that independent draws meet each step at least once: 1 - (1 - p)^draws."""
    if not draws:
        return np.zeros(len(chance))
    with np.errstate(divide="ignore"):
        made: Floats = -np.expm1(draws * np.log1p(-np.minimum(chance, 1.0)))
    return made


def _met_in_part(reaching: Int64, drawn: int, listed: int) -> Floats:
    """Return the probability that `drawn` of `listed` entries hold one that reaches a step: 1 - C(M - w, n) / C(M, n)."""
    logs = np.array([0.0, *np.cumsum(np.log(np.arange(1, listed + 1)))]) if listed else np.zeros(1)  # of factorials
    rest = listed - reaching  # entries that do not reach it
    possible = rest >= drawn
    left = np.where(possible, rest, drawn)
    missed = np.exp(logs[left] - logs[left - drawn] - logs[listed] + logs[listed - drawn])
    return np.where(possible & (reaching > 0), 1 - missed, (reaching > 0).astype(float))
