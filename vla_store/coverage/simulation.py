"""The same figures by drawing, as training would; nothing here knows a probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_store.coverage.demos import Demos
from vla_store.coverage.formulas import Reached
from vla_store.coverage.samplers import Sampler

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean over runs and its standard error (0 where all runs were equal)."""

    mean: float
    error: float


@dataclass(frozen=True)
class Simulated:
    """Estimates of what `formulas.Reached` holds."""

    runs: int
    anchors: Estimate
    targets: Estimate
    tail: Estimate
    gripper: Estimate | None
    variance: Estimate


def simulate(sampler: Sampler, draws: int, horizon: int, runs: int, seed: int) -> Simulated:
    """`runs` independent runs of `draws` draws each. The same seed gives the same figures."""
    name = int.from_bytes(sampler.name.encode()[:8], "big")
    found = [
        count(sampler.draw(np.random.default_rng([seed, name, run]), draws), sampler.demos, horizon)
        for run in range(runs)
    ]
    return Simulated(
        runs=runs,
        anchors=_estimate([each.anchors for each in found]),
        targets=_estimate([each.targets for each in found]),
        tail=_estimate([each.tail for each in found]),
        gripper=None if sampler.demos.near_gripper is None else _estimate([each.gripper or 0.0 for each in found]),
        variance=_estimate([each.variance for each in found]),
    )


def count(drawn: Int64, demos: Demos, horizon: int) -> Reached:
    """What one run reached. drawn: (draws,) rows."""
    counts = np.bincount(drawn, minlength=demos.steps)
    anchored = counts > 0
    rows = np.flatnonzero(anchored)
    ends = (demos.starts + demos.lengths)[demos.demo_of_step[rows]]
    edges = np.zeros(demos.steps + 1, np.int64)  # +1 where the window of an anchor begins, -1 after it
    np.add.at(edges, rows, 1)
    np.add.at(edges, np.minimum(rows + horizon, ends), -1)
    return Reached(
        anchors=float(anchored.sum()),
        targets=float((np.cumsum(edges[:-1]) > 0).sum()),
        tail=float(anchored[demos.is_tail].sum()),
        gripper=None if demos.near_gripper is None else float(anchored[demos.near_gripper].sum()),
        variance=float(counts.var()),
    )


def _estimate(values: list[float]) -> Estimate:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Estimate(float(np.mean(values)), spread / len(values) ** 0.5)
