from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import OptionError, UnknownName
from vla_store.reader.windows import MAX_OFFSET, parse_windows, shift_of, window_times

lengths = st.integers(1, 600)
offset_lists = st.lists(st.integers(-700, 700) | st.sampled_from([-MAX_OFFSET, MAX_OFFSET]), min_size=1, max_size=70)


@given(
    st.lists(st.tuples(lengths, st.integers(0, 599)), min_size=1, max_size=9), offset_lists, st.sampled_from([0, -1])
)
def test_every_step_of_a_window_is_its_time_or_the_nearest_step_of_the_episode(
    anchors: list[tuple[int, int]], offsets: list[int], shift: int
) -> None:
    anchors = [(length, step % length) for length, step in anchors]
    steps = np.array([step for _, step in anchors], np.int64)
    found, is_pad = window_times(
        steps + shift, np.array([length for length, _ in anchors], np.int64), np.array(offsets, np.int64)
    )
    for row, (length, step) in enumerate(anchors):
        for column, offset in enumerate(offsets):
            time = step + offset + shift
            nearest = min(range(length), key=lambda each, time=time: abs(each - time))
            assert found[row, column] == nearest
            assert is_pad[row, column] == (time not in range(length))


def test_only_observations_recorded_after_the_action_are_shifted_and_only_causally() -> None:
    shifts = {
        (role, observation, alignment): shift_of(role, observation, alignment)
        for role in ("observation", "step")
        for observation in ("before", "after")
        for alignment in ("causal", "as_stored")
    }
    assert {key for key, shift in shifts.items() if shift} == {("observation", "after", "causal")}
    assert shifts["observation", "after", "causal"] == -1


def test_an_int_adds_no_axis_and_a_list_of_one_adds_one() -> None:
    single, listed = parse_windows({"a": np.int32(3), "b": [3]}, ["a", "b"])
    assert (single.offsets, single.axes) == ((3,), ())
    assert (listed.offsets, listed.axes) == ((3,), (1,))


@pytest.mark.parametrize("offsets", [[-1, 0], (-1, 0), range(-1, 1), np.array([-1, 0]), iter([-1, 0])])
def test_offsets_come_as_any_sequence_of_whole_numbers(offsets: object) -> None:
    assert parse_windows({"a": offsets}, ["a"])[0].offsets == (-1, 0)


@pytest.mark.parametrize(
    "offsets",
    ["0", None, 0.0, [0.5], [True, False], True, np.True_, [np.True_], [[0]], np.array([0.0]), {"at": 0}],
    ids=repr,
)
def test_offsets_that_are_no_whole_numbers_are_refused(offsets: object) -> None:
    with pytest.raises(OptionError, match="not a whole number or a list of them"):
        parse_windows({"a": offsets}, ["a"])


def test_a_window_without_offsets_is_refused() -> None:
    with pytest.raises(OptionError, match="no offsets"):
        parse_windows({"a": []}, ["a"])


def test_an_offset_beyond_any_episode_is_refused() -> None:
    with pytest.raises(OptionError, match="beyond any episode"):
        parse_windows({"a": [2**31]}, ["a"])


def test_an_unknown_field_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownName, match="action") as caught:
        parse_windows({"action": 0}, ["actions", "states"])
    assert "actions, states" in str(caught.value)


@pytest.mark.parametrize("windows", [{}, ["actions"], "actions"])
def test_windows_that_name_nothing_are_refused(windows: object) -> None:
    with pytest.raises(OptionError, match="windows"):
        parse_windows(windows, ["actions"])


def test_windows_are_written_as_they_would_be_typed() -> None:
    windows = parse_windows({"a": 0, "b": [-1, 0], "c": range(64), "d": [5, 5, -2, 9, 1, 0, 3, 8, 7]}, "abcd")
    assert [str(window) for window in windows] == ["0", "[-1, 0]", "range(0, 64)", "[5, 5, -2, 9, 1, 0, 3, 8, ... (9)]"]
