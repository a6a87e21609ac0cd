"""What a caller gives as numbers: masks with an index, several episodes, windows of another dataset; and what no number is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_store import OptionError, Samples, UnknownName, mixture, open_store, recipes, weighted
from vla_store.view_rules import NewView, success


def episodes_of(store: Path, given: Any) -> list[int]:
    return Samples(store, windows={"actions": 0}, episodes=given).selected_episodes.tolist()


def test_a_mask_with_an_index_selects_by_it(tiny_store: Path) -> None:
    pytest.importorskip("pandas")
    table = open_store(tiny_store).episodes.to_pandas()
    expected = np.flatnonzero(table.length > 13).tolist()
    turned = table.sort_values("length", ascending=False)
    assert 0 < len(expected) < len(table)
    assert not np.array_equal((turned.length > 13).to_numpy(), (table.length > 13).to_numpy())
    for mask in (turned.length > 13, table.length > 13, (turned.length > 13).astype("boolean")):
        assert episodes_of(tiny_store, mask) == expected
        assert [each.episode for each in open_store(tiny_store).episodes[mask]] == expected


def test_a_mask_of_rows_with_an_index_selects_by_it(tiny_store: Path) -> None:
    pandas = pytest.importorskip("pandas")
    store = open_store(tiny_store)
    numbers = np.arange(store.rows)[::-1]
    mask = pandas.Series(numbers < 3, index=numbers)
    assert store.check_rows(mask).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(store.read("actions", mask), store.read("actions", [0, 1, 2]))
    assert Samples(store, windows={"actions": 0}, rows=mask).anchor_rows.tolist() == [0, 1, 2]


def test_numbers_with_an_index_are_taken_as_they_are(tiny_store: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert open_store(tiny_store).check_rows(pandas.Series([5, 2], index=[7, 1])).tolist() == [5, 2]


@pytest.mark.parametrize("shift", [lambda at: at + 1, lambda at: at // 2, lambda at: [f"n{each}" for each in at]])
def test_a_mask_whose_index_is_not_of_all_episodes_is_refused(tiny_store: Path, shift: Any) -> None:
    pandas = pytest.importorskip("pandas")
    count = len(open_store(tiny_store).episodes)
    mask = pandas.Series(np.arange(count) < 2, index=shift(np.arange(count)))
    with pytest.raises(OptionError, match="a mask with an index says by it which episode") as caught:
        episodes_of(tiny_store, mask)
    assert "to_numpy()" in caught.value.hint


@pytest.mark.parametrize("dtype", ["boolean", "object"])
def test_a_mask_with_missing_values_is_refused(tiny_store: Path, dtype: str) -> None:
    pandas = pytest.importorskip("pandas")
    count = len(open_store(tiny_store).episodes)
    mask = pandas.Series([None, *[True] * (count - 1)], dtype=dtype)
    with pytest.raises(OptionError, match="missing values") as caught:
        episodes_of(tiny_store, mask)
    assert ".fillna(False)" in caught.value.hint
    assert episodes_of(tiny_store, mask.fillna(False)) == list(range(1, count))


def test_several_episodes_are_a_list(tiny_store: Path) -> None:
    episodes = open_store(tiny_store).episodes
    mask = np.arange(len(episodes)) == 1
    assert episodes[[2, 0]] == [episodes[2], episodes[0]]
    assert episodes[mask] == episodes[np.array([1])] == episodes[mask.tolist()] == [episodes[1]]
    assert episodes[np.int64(1)] == episodes[np.array(1)] == episodes[1]
    assert episodes[[]] == []
    with pytest.raises(TypeError, match="one episode has one whole number"):
        episodes["1"]  # type: ignore[call-overload]


def test_negative_numbers_are_refused_with_what_does(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    for ask in (
        lambda: store.read("actions", -1),
        lambda: Samples(store, rows=-1),
        lambda: Samples(store, episodes=-1),
    ):
        with pytest.raises(UnknownName) as caught:
            ask()
        assert caught.value.hint == "negative numbers do not count from the end here; use slice(-1, None)"
    np.testing.assert_array_equal(store.read("actions", slice(-1, None)), store.read("actions", [store.rows - 1]))


def test_a_bool_is_no_number_of_anything(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    samples = Samples(store, windows={"actions": 0})
    recipe = recipes.act(store, chunk=4, alignment="causal", images="upright")
    steps = weighted(samples, np.arange(1, len(samples) + 1))
    both = mixture([(samples, 1.0), (samples, 1.0)])
    of_torch = [samples]
    try:
        from vla_store.torch import StepDataset
    except ImportError:
        pass
    else:
        of_torch = [StepDataset(store, windows={"actions": 0})]  # type: ignore[list-item]
    for one in (samples, recipe, steps, both, samples[0:3], samples.__getitems__([0, 1, 2]), store.episodes, *of_torch):
        for given in (True, np.True_):
            if isinstance(one, list):
                continue
            with pytest.raises(TypeError, match="whole number"):
                one[given]
        one[np.int64(1)]
    for chunk in (True, np.True_):
        with pytest.raises(OptionError, match="whole number"):
            recipes.act(store, chunk=chunk, alignment="causal", images="upright")
    for ask in (store.provenance, store.attributes, store.instructions):
        with pytest.raises(TypeError, match="whole number"):
            ask(True)


def test_windows_can_be_given_back(tiny_store: Path) -> None:
    first = Samples(
        tiny_store, windows={"actions": range(4), "robot_states": 0, "gripper_states": [-1, 0]}, alignment="causal"
    )
    by_field = {each.field: each for each in first.windows}
    for given in (first.windows, list(first.windows), by_field):
        assert Samples(tiny_store, windows=given, alignment="causal").windows == first.windows
    with pytest.raises(OptionError, match="of one field"):
        Samples(tiny_store, windows=first.windows[:1] * 2)


def test_a_view_that_is_none_is_said_to_be_none(tiny_store: Path) -> None:
    for given, found in ((3, "3, int"), (NewView("good", success()), "NewView")):
        with pytest.raises(OptionError, match="view is a name, or a View of the store") as caught:
            Samples(tiny_store, view=given)  # type: ignore[arg-type]
        assert found in caught.value.places["found"]
        assert len(str(caught.value)) < 400


def test_an_error_of_dtypes_names_bfloat16_too(tiny_store: Path) -> None:
    with pytest.raises(OptionError, match=r"StepDataset: bfloat16 too"):
        Samples(tiny_store, dtype="floaty")  # type: ignore[arg-type]
