"""The document of views: stretches of rows, and their spelling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from view_tools import lengths_of

from vla_store import OptionError
from vla_store.format import canonical, views

masks = st.lists(st.booleans(), max_size=60).map(lambda mask: np.array(mask, bool))


def mask_of(runs: np.ndarray, rows: int) -> np.ndarray:
    mask = np.zeros(rows, bool)
    for start, stop in runs.tolist():
        assert 0 <= start < stop <= rows
        mask[start:stop] = True
    return mask


@given(masks)
def test_run_lengths_are_read_as_they_were_written(mask: np.ndarray) -> None:
    runs = views.runs_of(mask)
    assert (mask_of(runs, len(mask)) == mask).all()
    assert views.rows_in(runs) == mask.sum()
    assert views.run_lengths(runs) == lengths_of(mask.tolist())
    assert (views.from_run_lengths(views.run_lengths(runs), len(mask)) == runs).all()
    assert (views.joined(runs) == runs).all()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_overlaps_are_the_rows_that_both_have(pairs: list[tuple[bool, bool]]) -> None:
    one, other = (np.array([pair[side] for pair in pairs], bool) for side in (0, 1))
    first = views.runs_of(one)
    found, at = views.overlaps(first, views.runs_of(other))
    assert (mask_of(found, len(pairs)) == (one & other)).all()
    assert all(first[n][0] <= start < stop <= first[n][1] for (start, stop), n in zip(found.tolist(), at.tolist()))
    assert (views.joined(found) == views.runs_of(one & other)).all()


def test_stretches_that_touch_are_one() -> None:
    made = views.joined(np.array([[0, 3], [3, 3], [3, 5], [7, 9], [9, 10], [12, 12]]))
    assert made.tolist() == [[0, 5], [7, 10]]


@pytest.mark.parametrize(
    "lengths",
    [None, "0 1", [1], [0, 0], [-1, 1], [0, 1.0], [True, 1], [0, 11], [0, 5, 5, 1], [2**62] * 8, [0, 1, 0, 1]],
    ids=str,
)
def test_run_lengths_that_cannot_be_are_refused(lengths: object) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        views.from_run_lengths(lengths, 10)


def test_a_view_of_a_million_steps_is_small() -> None:
    rng = np.random.default_rng(0)
    # Stretches of 20 steps on average, as no-ops are: a byte or two for each; and the worst there is.
    clumps = np.repeat(rng.random(100_000) < 0.8, rng.integers(1, 20, 100_000))[:1_000_000]
    assert len(canonical.dumps(views.run_lengths(views.runs_of(clumps)))) < 150_000
    assert len(canonical.dumps(views.run_lengths(views.runs_of(np.arange(1_000_000) % 2 == 0)))) <= 2_000_001


@pytest.mark.parametrize("name", ["", ".x", "a/b", "x" * 65, "a b", "é", "a\n", 3])
def test_names_that_no_view_can_have_are_refused(name: object) -> None:
    with pytest.raises(OptionError, match="cannot have this name"):
        views.check_view_name(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "no_noops", "RDT-128", "v1.2", "_", "x" * 64])
def test_names_that_views_can_have(name: str) -> None:
    assert views.check_view_name(name) == name
