from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader.conftest import conventional_naive

from vla_store import OptionError, Samples, Store, UnknownName, open_store

ACTIONS = {"actions": 0}


def chosen(store: Store | Path, **selection: Any) -> list[tuple[int, int]]:
    """(episode, step) of every anchor, read one by one and as a batch."""
    samples = Samples(store, windows=ACTIONS, **selection)
    batch = samples.batch(range(len(samples)))
    together = list(zip(batch["episode"].tolist(), batch["step"].tolist()))
    assert [(sample["episode"], sample["step"]) for sample in samples] == together
    return together


def steps_of(store: Store, holds: Callable[[Any], bool]) -> list[tuple[int, int]]:
    return [(each.episode, step) for each in store.episodes if holds(each) for step in range(each.length)]


def test_suites_select_their_episodes(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    assert chosen(store, suites="libero_goal") == steps_of(store, lambda each: each.suite == "libero_goal")
    both = ["libero_spatial", "libero_10"]
    assert chosen(store, suites=both) == steps_of(store, lambda each: each.suite in both)


def test_tasks_are_selected_by_name_text_pair_or_value(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    task = next(each for each in store.tasks if each.suite == "libero_10")
    expected = steps_of(store, lambda each: each.suite == "libero_10")
    for given_as in (task.name, task.text, (task.suite, task.name), task, [task.name], [task], {task.text}):
        assert chosen(store, tasks=given_as) == expected


def test_episodes_are_selected_in_the_stores_order_each_once(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    expected = steps_of(store, lambda each: each.episode in (1, 4, 5))
    assert chosen(store, episodes=[5, 1, 4, 1]) == expected
    assert chosen(store, episodes=np.array([1, 4, 5], np.uint8)) == expected
    assert chosen(store, episodes=[store.episodes[4], store.episodes[1], store.episodes[5]]) == expected
    assert chosen(store, episodes=2) == steps_of(store, lambda each: each.episode == 2)


def test_rows_are_selected_in_the_order_given(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    everything = chosen(store)
    rows = [136, 3, 3, 50, 21]
    assert chosen(store, rows=rows) == [everything[row] for row in rows]
    assert chosen(store, rows=range(10, 40)) == everything[10:40]
    assert chosen(store, rows=(row for row in rows)) == [everything[row] for row in rows]


def test_slices_and_masks_select_what_they_do_of_an_array(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    everything, lengths = chosen(store), store.episodes.lengths
    for part in (slice(0, 5), slice(-3, None), slice(100, 10, -7), slice(130, 900)):
        assert chosen(store, rows=part) == everything[part]
        np.testing.assert_array_equal(store.read("actions", part), store.read("actions", range(store.rows))[part])
    mask = np.arange(store.rows) % 7 == 3
    for given_as in (mask, mask.tolist()):
        assert chosen(store, rows=given_as) == everything[3::7]
        np.testing.assert_array_equal(store.read("actions", given_as), store.read("actions", np.flatnonzero(mask)))
    assert chosen(store, episodes=slice(-2, None)) == steps_of(store, lambda each: each.episode in (8, 9))
    assert chosen(store, episodes=lengths > 12) == steps_of(store, lambda each: each.length > 12)


def test_one_value_of_a_store_selects_as_a_list_of_it_does(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    for name, value in (("episodes", store.episodes[3]), ("tasks", store.tasks[1]), ("suites", "libero_10")):
        assert chosen(store, **{name: value}) == chosen(store, **{name: [value]})
    split = store.split("train", fraction=0.5)
    assert chosen(store, episodes=split) == chosen(store, split=split)


def test_an_episode_of_another_store_is_refused(tiny_store: Path, demo_store: Path) -> None:
    store, other = open_store(tiny_store), open_store(demo_store)
    for number in (0, 12):
        with pytest.raises(OptionError, match="this episode is of another store"):
            Samples(store, windows=ACTIONS, episodes=[1, other.episodes[number]])
    with pytest.raises(OptionError, match="this episode is of another store"):
        store.attributes(other.episodes[0])
    assert store.attributes(store.episodes[2]).keys() == store.attributes(2).keys()


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"rows": np.ones(136, bool)}, "one for each row"),
        ({"rows": np.ones(138, bool)}, "137 values"),
        ({"rows": np.zeros(0, bool)}, "137 values"),
        ({"episodes": [True, False]}, "10 values, one for each episode of the store\n  found     2"),
        ({"rows": slice(0, 5, 0)}, "not a slice of rows"),
        ({"episodes": slice("a", None)}, "not a slice of episodes"),
        ({"rows": True}, "whole numbers, a slice or a mask"),
    ],
)
def test_a_mask_of_another_length_and_a_broken_slice_are_refused(tiny_store: Path, selection: Any, says: str) -> None:
    with pytest.raises(OptionError) as raised:
        Samples(tiny_store, windows=ACTIONS, **selection)
    assert says in str(raised.value)


def test_rows_under_causal_alignment_leave_out_first_steps(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    everything = chosen(store)
    assert chosen(store, rows=range(store.rows), alignment="causal") == [each for each in everything if each[1] > 0]
    assert chosen(store, rows=[0, 1, 21], alignment="causal") == [everything[1]]


def test_selections_given_together_select_what_all_of_them_do(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    everything = chosen(store)
    spatial = {each.episode for each in store.episodes if each.suite == "libero_spatial"}
    assert chosen(store, suites="libero_spatial", episodes=[0, 6, 7]) == [
        each for each in everything if each[0] in spatial & {0, 6, 7}
    ]
    assert chosen(store, suites="libero_spatial", rows=[0, 100, 60, 80]) == [
        everything[row] for row in (100, 60, 80) if everything[row][0] in spatial
    ]


def test_the_two_sides_of_a_split_are_everything_once(demo_store: Path) -> None:
    store = open_store(demo_store)
    sides = [chosen(store, split=store.split(name, fraction=0.5)) for name in ("train", "val")]
    assert sorted(sides[0] + sides[1]) == chosen(store)
    assert chosen(store, split="train") == chosen(store, split=store.split("train", fraction=0.9, seed=0))
    half = store.split("val", fraction=0.5, seed=3)
    assert 0 < len(half) < len(store.episodes)
    assert chosen(store, split=half) == chosen(store, episodes=half.episodes)
    assert chosen(store, split=half, suites="libero_goal") == [
        each for each in chosen(store, split=half) if store.episodes[each[0]].suite == "libero_goal"
    ]


def test_a_split_of_another_store_is_refused(demo_store: Path, tiny_store: Path) -> None:
    split = open_store(tiny_store).split("val", fraction=0.5)
    with pytest.raises(OptionError, match="made of another store"):
        chosen(open_store(demo_store), split=split)
    assert chosen(open_store(tiny_store), split=split) == chosen(open_store(tiny_store), episodes=split.episodes)


@pytest.mark.parametrize(
    ("selection", "exists"),
    [
        ({"suites": "libero_spacial"}, "libero_10, libero_goal, libero_spatial"),
        ({"tasks": ["open_the_drawer"]}, "open_the_middle_drawer"),
        ({"tasks": ("libero_10", "open_the_middle_drawer")}, "open_the_middle_drawer"),
        ({"episodes": [0, 10]}, "0 to 9"),
        ({"episodes": -1}, "0 to 9"),
        ({"rows": [137]}, "0 to 136"),
        ({"split": "test"}, "train, val"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused_with_what_does(tiny_store: Path, selection: Any, exists: str) -> None:
    with pytest.raises(UnknownName, match=exists):
        Samples(tiny_store, windows=ACTIONS, **selection)


@pytest.mark.parametrize(
    "selection",
    [
        {"suites": []},
        {"episodes": []},
        {"rows": []},
        {"suites": "libero_goal", "episodes": [0]},
        {"episodes": range(0)},
    ],
    ids=str,
)
def test_an_empty_selection_is_refused(tiny_store: Path, selection: Any) -> None:
    with pytest.raises(OptionError, match="the selection is empty"):
        Samples(tiny_store, windows=ACTIONS, **selection)


@pytest.mark.parametrize(
    ("selection", "left", "hint"),
    [
        (
            {"suites": "libero_goal", "episodes": [0]},
            {"suites": "22 of 137 steps", "episodes": "21 of 137 steps; 0 with those above"},
            "leave one out",
        ),
        (
            {"suites": "libero_10", "tasks": "open_the_middle_drawer", "rows": range(137)},
            {
                "suites": "46 of 137 steps",
                "tasks": "22 of 137 steps; 0 with those above",
                "rows": "137 of 137 steps; 0 with those above",
            },
            "leave one out",
        ),
        (
            {"episodes": iter([0, 3]), "rows": (row for row in (100, 101))},
            {"episodes": "37 of 137 steps", "rows": "2 of 137 steps; 0 with those above"},
            "leave one out",
        ),
        ({"suites": []}, {"suites": "0 of 137 steps"}, "an empty list selects nothing, leave suites out"),
        (
            {"suites": "libero_10", "episodes": ()},
            {"suites": "46 of 137 steps", "episodes": "0 of 137 steps; 0 with those above"},
            "episodes alone leaves nothing",
        ),
        ({"rows": np.array([], np.int64)}, {"rows": "0 of 137 steps"}, "rows alone leaves nothing"),
    ],
    ids=["one", "two", "iterators", "no suite", "no episode", "no row"],
)
def test_an_empty_selection_says_which_of_its_conditions_leave_what(
    tiny_store: Path, selection: Any, left: dict[str, str], hint: str
) -> None:
    with pytest.raises(OptionError, match="the selection is empty") as caught:
        Samples(tiny_store, windows=ACTIONS, **selection)
    assert {name: text for name, text in caught.value.places.items() if name != "selection"} == left
    assert hint in caught.value.hint


@pytest.mark.parametrize(("side", "fraction"), [("val", 1.0), ("train", 0.0)])
def test_an_empty_side_of_a_split_says_that_it_is_the_split(tiny_store: Path, side: str, fraction: float) -> None:
    split = open_store(tiny_store).split(side, fraction=fraction)
    with pytest.raises(OptionError, match="the selection is empty") as caught:
        Samples(tiny_store, windows=ACTIONS, suites="libero_10", split=split)
    assert caught.value.places["split"] == "0 of 137 steps; 0 with those above"
    assert "split alone leaves nothing; each of the 10 episodes" in caught.value.hint


def test_a_selection_of_first_steps_only_is_empty_under_causal_alignment_and_says_why(tiny_store: Path) -> None:
    assert len(Samples(tiny_store, windows=ACTIONS, episodes=4)) == 1
    with pytest.raises(OptionError, match="the selection is empty") as caught:
        Samples(tiny_store, windows=ACTIONS, episodes=4, alignment="causal")
    assert caught.value.places["steps"].startswith("1, each the first of an episode")
    assert "keep_first=True" in caught.value.hint
    assert len(Samples(tiny_store, windows=ACTIONS, episodes=4, alignment="causal", keep_first=True)) == 1


@pytest.mark.parametrize(
    "selection", [{"rows": [True]}, {"rows": [0.5]}, {"rows": "all"}, {"episodes": [[0]]}, {"split": 3}]
)
def test_a_selection_of_the_wrong_kind_is_refused(tiny_store: Path, selection: Any) -> None:
    with pytest.raises(OptionError):
        Samples(tiny_store, windows=ACTIONS, **selection)


@pytest.mark.parametrize("store", ["mixed_store", "parts_store"])
@given(st.sets(st.integers(0, 8)), st.booleans(), st.data())
def test_any_episodes_of_any_conventions_have_the_anchors_of_the_slow_twin(
    request: pytest.FixtureRequest, store: str, episodes: set[int], keep_first: bool, data: st.DataObject
) -> None:
    opened, plain = open_store(request.getfixturevalue(store)), conventional_naive()
    expected = [
        each for each in plain.anchors(alignment="causal", keep_first=keep_first) if not episodes or each[0] in episodes
    ]
    selection = {"alignment": "causal", "keep_first": keep_first, "episodes": sorted(episodes) or None}
    if not expected:
        with pytest.raises(OptionError, match="empty"):
            Samples(opened, windows=ACTIONS, **selection)
        return
    assert chosen(opened, **selection) == expected
    some = data.draw(st.lists(st.sampled_from(range(len(expected))), max_size=8))
    batch = Samples(opened, windows=ACTIONS, **selection).batch(some)
    assert list(zip(batch["episode"].tolist(), batch["step"].tolist())) == [expected[at] for at in some]


def test_a_selection_of_rows_costs_what_its_rows_do_and_one_of_a_suite_next_to_nothing(demo_store: Path) -> None:
    store = open_store(demo_store)
    whole = len(pickle.dumps(Samples(store, windows=ACTIONS)))
    suite = len(pickle.dumps(Samples(store, windows=ACTIONS, suites="libero_goal")))
    rows = len(pickle.dumps(Samples(store, windows=ACTIONS, rows=list(range(0, 2_000, 2)))))
    assert suite < whole + 500
    assert 8_000 < rows < 8_500 + whole
