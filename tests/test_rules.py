"""The rules, each against a literal reading of its source, one step at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_store import rules

SMALL = [0.0, 1e-5, 9.9e-5, 1e-4, 3e-3, -0.5, float("nan")]
GRIPPERS = [-1.0, 1.0, 0.0, -0.0, float("nan")]


def noops_step_by_step(actions: np.ndarray, threshold: float) -> list[bool]:
    found, last_kept = [], None
    for action in actions:
        is_still = float(np.linalg.norm(action[:-1])) < threshold
        is_noop = is_still if last_kept is None else is_still and bool(action[-1] == last_kept[-1])
        found.append(is_noop)
        if not is_noop:
            last_kept = action
    return found


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 25).flatmap(
        lambda length: st.tuples(
            arrays(np.float64, (length, 1), elements=st.sampled_from(SMALL)),
            arrays(np.float64, (length, 1), elements=st.sampled_from(GRIPPERS)),
        )
    ),
    st.sampled_from([1e-4, 1e-2, 0.0]),
)
def test_no_ops_are_what_walking_the_actions_step_by_step_finds(
    columns: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    moves, gripper = columns
    actions = np.concatenate([moves, np.zeros((len(moves), 5)), gripper], axis=1)
    found = rules.noops(actions, threshold)
    assert found.dtype == bool
    assert found.tolist() == noops_step_by_step(actions, threshold)


def test_a_gripper_that_changes_while_the_arm_stands_still_is_kept() -> None:
    actions = np.zeros((6, 7))
    actions[2, 0] = 0.5
    actions[:, 6] = [-1, 1, 1, 1, -1, -1]
    assert rules.noops(actions).tolist() == [True, True, False, True, False, True]


@pytest.mark.parametrize("shape", [(5,), (5, 1), (2, 5, 7)])
def test_actions_of_another_shape_have_no_no_ops(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="actions are"):
        rules.noops(np.zeros(shape))


def test_the_first_moving_step_is_the_first_beyond_the_threshold_in_any_number() -> None:
    qpos = np.zeros((5, 3)) + 0.25
    qpos[2, 1] += 0.01  # not more than the threshold, in float64 as it comes out
    qpos[3, 2] -= 0.02
    assert rules.first_moving(qpos, threshold=0.0101) == 3
    assert rules.first_moving(qpos, threshold=0.005) == 2
    assert rules.first_moving(qpos, threshold=1.0) is None
    assert rules.first_moving(qpos.astype(np.float32), threshold=0.015) == 3


def test_lengths_at_the_bounds_are_inside() -> None:
    lengths = [31, 32, 127, 128, 2048, 2049]
    assert rules.has_length(lengths, rules.RDT_SHORTEST).tolist() == [False, True, True, True, True, True]
    assert rules.has_length(lengths, rules.RDT_FINETUNE_SHORTEST).tolist() == [False] * 3 + [True] * 3
    assert rules.has_length(lengths, 32, 2048).tolist() == [False, True, True, True, True, False]
    assert rules.has_length(lengths).all()


def test_steps_are_drawn_once_and_for_ever() -> None:
    assert rules.drawn_steps(2048).all()
    drawn = rules.drawn_steps(5000, 2048, seed=7)
    assert drawn.sum() == 2048
    assert (drawn == rules.drawn_steps(5000, 2048, seed=7)).all()
    assert (drawn != rules.drawn_steps(5000, 2048, seed=8)).any()
    thirds = [part.sum() for part in np.array_split(drawn, 3)]
    assert max(thirds) - min(thirds) < 200  # from everywhere: 6 standard deviations
    assert np.flatnonzero(rules.drawn_steps(20, 5, seed=-1)).tolist() == [0, 1, 4, 6, 8]


def test_the_tail_that_the_port_drops_is_63_steps_as_coded_and_64_as_quoted() -> None:
    for length in (1, 63, 64, 65, 213):
        assert rules.drop_tail(length, rules.TAIL_AS_CODED) == len([t for t in range(length) if t <= length - 64])
        assert rules.drop_tail(length, rules.TAIL_AS_QUOTED) == len(range(length - 64))
