"""Comparing samples and batches, of arrays or tensors, to the bit; and drawing what to ask for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal values, dtypes, shapes and keys in the same order; tensors and arrays are the same to it."""
    if isinstance(expected, Mapping):
        assert list(found) == list(expected), f"{where}: {list(found)} instead of {list(expected)}"
        for key in expected:
            assert_same(found[key], expected[key], f"{where}[{key!r}]")
    elif hasattr(expected, "__array__"):
        left, right = np.asarray(found), np.asarray(expected)
        assert (left.shape, left.dtype) == (right.shape, right.dtype), f"{where}: {left.shape} {left.dtype}"
        assert left.tobytes() == right.tobytes(), f"{where} differs"
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        assert len(found) == len(expected), f"{where}: {len(found)} instead of {len(expected)}"
        for at, (left, right) in enumerate(zip(found, expected)):
            assert_same(left, right, f"{where}[{at}]")
    else:
        assert found == expected, f"{where}: {found!r} instead of {expected!r}"


def drawn_options(rng: random.Random, fields: Sequence[str]) -> dict[str, Any]:
    """Options of `Samples`: windows over a few of these fields, near and far, sparse, repeated and descending."""
    windows: dict[str, int | list[int]] = {}
    for field in rng.sample(list(fields), rng.randint(2, min(5, len(fields)))):
        reach = rng.choice([2, 20, 200])
        offsets = [rng.randint(-reach, reach) for _ in range(rng.randint(1, 5))]
        windows[field] = offsets[0] if rng.random() < 0.3 else offsets
    return {
        "windows": windows,
        "alignment": rng.choice(["causal", "as_stored"]),
        "images": rng.choice(["as_stored", "upright", "rot180"]),
        "pad": rng.choice(["edge", "zero"]),
        "dtype": rng.choice([None, "float32"]),
    }
