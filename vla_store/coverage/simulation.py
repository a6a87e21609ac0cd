"""Draws of samplers as training would make them, and counts of what they reach; nothing here knows a probability."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vla_store.coverage.demos import Demos
from vla_store.coverage.formulas import Reached
from vla_store.coverage.samplers import Sampler

Int64 = npt.NDArray[np.int64]


def simulate(sampler: Sampler, draws: int, horizon: int, runs: int, seed: int) -> dict[str, dict[str, float] | None]:
    """Draw `runs` times, independently, and return the mean and its standard error of each figure of `Reached`.

    The standard error is 0 where all runs were equal. The same seed gives the same figures.
    """
    name = int.from_bytes(sampler.name.encode()[:8], "big")
    found = [
        vars(count(sampler.draw(np.random.default_rng([seed, name, run]), draws), sampler.demos, horizon))
        for run in range(runs)
    ]
    return {
        figure: None if value is None else _estimate([each[figure] for each in found])
        for figure, value in found[0].items()
    }


def count(drawn: Int64, demos: Demos, horizon: int) -> Reached:
    """Return what one run reached. drawn: (draws,) rows."""
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
        **demos.critical(anchored),
        variance=float(counts.var()),
    )


def _estimate(values: list[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"error": spread / len(values) ** 0.5, "mean": float(np.mean(values))}
