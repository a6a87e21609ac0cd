"""What a file does not say of its conventions is measured where it can be, and else asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_store.errors import OptionError, SourceError
from vla_store.format.conventions import check_alike
from vla_store.sources.conventions import observation_of, orientation_of, settled

STEPS = 40


def joints(shift: int, noise: float = 0.0) -> tuple[Any, Any]:
    """Joints in states, which move by 0.01 a step, and as observed: of state t + shift, give or take `noise`."""
    states = 0.01 * np.arange(STEPS)[:, None] + np.arange(7)
    return states, 0.01 * (np.arange(STEPS)[:, None] + shift) + np.arange(7) + noise


@pytest.mark.parametrize(("shift", "found"), [(1, "after"), (0, "before")])
@pytest.mark.parametrize("noise", [0.0, 0.0016])  # 0.01 against 0.0016, or 0.0084 of it, is still five times
def test_the_nearer_state_decides_when_it_is_five_times_nearer(shift: int, found: str, noise: float) -> None:
    toward = noise if shift == 0 else -noise
    assert observation_of([joints(shift, toward)], "x.hdf5") == found


@pytest.mark.parametrize("noise", [0.0025, 0.005, 0.0075])
def test_what_lies_between_two_states_is_asked_for_with_both_figures(noise: float) -> None:
    with pytest.raises(SourceError) as caught:
        observation_of([joints(0, noise)], "x.hdf5", like="somebody's data")
    assert caught.value.places["found"] == f"median differences {0.01 - noise:.3g} (after) and {noise:.3g} (before)"
    assert caught.value.places["looks like"] == "somebody's data"
    assert "--observation after" in caught.value.hint


def test_single_odd_rows_do_not_decide() -> None:
    states, observed = joints(0)
    observed[::3] += 0.5
    assert observation_of([(states, observed)], "x.hdf5") == "before"


def test_a_file_without_joints_is_asked_about() -> None:
    with pytest.raises(SourceError, match="before or after the action") as caught:
        observation_of([], "x.hdf5")
    assert caught.value.places["found"] == "no such datasets"
    assert "looks like" not in caught.value.places


@pytest.mark.parametrize("value", ["OpenGL", "", b"\xff", 3, np.arange(2)])
def test_an_odd_image_convention_is_no_answer(value: Any) -> None:
    with pytest.raises(SourceError, match="orientation of the pictures cannot be known") as caught:
        orientation_of({"macros_image_convention": value}, "x.hdf5")
    assert "--orientation bottom_up" in caught.value.hint


def test_who_is_told_does_not_ask_and_notes_a_contradiction() -> None:
    warnings: list[str] = []
    assert settled("orientation", "rot180", lambda: orientation_of({}, "x.hdf5"), warnings) == "rot180"
    assert not warnings
    assert settled("observation", "after", lambda: "before", warnings) == "after"
    assert warnings == ["--observation after was given, but the file says before"]


A, B, C = ("bottom_up", "after"), ("rot180", "before"), ("bottom_up", "before")


@pytest.mark.parametrize(
    ("sources", "beside"),
    [([], []), ([A], []), ([A, A], []), ([A], [A]), ([A, B], [A, B, C]), ([], [A, B])],
)
def test_sources_that_say_nothing_new_go_together(sources: list[Any], beside: list[Any]) -> None:
    check_alike(
        (("x", *each) for each in sources),
        (("y", *each) for each in beside),
    )


@pytest.mark.parametrize(
    ("sources", "beside", "says", "second"),
    [
        ([A, B], [], "orientation and observation", "x1"),
        ([B, A, B], [], "orientation and observation", "x1"),  # the odd one out is named second
        ([A, C], [], "in observation", "x1"),
        ([C, B, C], [], "in orientation", "x1"),
        ([B], [A, A], "orientation and observation", "x0"),
        ([A, C], [A, B], "in observation", "x1"),
    ],
)
def test_sources_that_differ_are_named_with_what_each_says(
    sources: list[Any], beside: list[Any], says: str, second: str
) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        check_alike(
            [(f"x{number}", *each) for number, each in enumerate(sources)],
            [(f"y{number}", *each) for number, each in enumerate(beside)],
        )
    assert caught.value.places["second"].split()[0] == second
    assert "--mixed" in caught.value.hint
