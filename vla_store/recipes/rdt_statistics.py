"""Statistics as RDT computes them, of what is finite of vectors (T, n). Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vla_store.recipes.dataset import Array

NONZERO = 1e-8  # what dataset_stat.json counts as a non-zero number


def moments(states: Array) -> tuple[Array, Array, Array]:
    """Return mean, std and norm (root of the mean square) over axis 0."""
    if np.isfinite(states).all():
        return states.mean(axis=0), states.std(axis=0), np.sqrt((states**2).mean(axis=0))
    with np.errstate(invalid="ignore", over="ignore"):
        mean = _finite_mean(states)
        return mean, np.sqrt(_finite_mean((states - mean) ** 2)), np.sqrt(_finite_mean(states**2))


def dataset_statistics(trajectories: Iterable[Array]) -> dict[str, Array]:
    """Return what dataset_stat.json has of states (T, n): state_mean, state_std (of the non-zero ones), state_min, state_max."""
    sums, least, most = np.zeros((5, 1)), np.array([np.inf]), np.array([-np.inf])
    for states in trajectories:
        finite = np.isfinite(states)
        least = np.minimum(least, states.min(axis=0, where=finite, initial=np.inf))
        most = np.maximum(most, states.max(axis=0, where=finite, initial=-np.inf))
        states = np.where(finite, states, 0)
        is_nonzero = np.abs(states) > NONZERO
        kept = np.where(is_nonzero, states, 0)
        sums = sums + np.stack([each.sum(axis=0) for each in (finite, is_nonzero, states, kept, kept * kept)])
    count, nonzero, total, large, squares = sums
    least, most = (np.where(count, each, 0) for each in (least, most))
    nonzero, count = np.maximum(nonzero, 1), np.maximum(count, 1)
    variance = squares / nonzero - (large / count) ** 2 * (count / nonzero)
    return {
        "state_mean": total / count,
        "state_std": np.sqrt(np.maximum(variance, 0)),
        "state_min": least,
        "state_max": most,
    }


def _finite_mean(values: Array) -> Array:
    """Return the mean over axis 0 of what is finite; 0 where nothing is. Where all is, in the order in which NumPy sums all."""
    finite = np.isfinite(values)
    if finite.all():
        return values.mean(axis=0)  # type: ignore[no-any-return]
    return np.where(finite, values, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)  # type: ignore[no-any-return]
