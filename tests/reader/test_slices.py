"""A slice of a dataset, and a table of a store's episodes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_store import MachineError, Samples, mixture, open_store, recipes, weighted
from vla_store.recipes.dataset import RecipeDataset

WINDOWS = {"agentview_rgb": 0, "actions": range(3)}
GIVEN = {"windows": WINDOWS, "alignment": "causal", "images": "upright"}
SLICES = (slice(0, 3), slice(-2, None), slice(9, 2, -3), slice(5, 5), slice(120, 999))


def numbered(sample: dict[str, Any]) -> dict[str, Any]:
    return sample | {"mine": 1}


def assert_slices(dataset: Any) -> None:
    """A slice is a list of the samples of these numbers."""
    for part in SLICES:
        found = dataset[part]
        assert isinstance(found, list)
        for one, number in zip(found, range(len(dataset))[part], strict=True):
            _assert_same(one, dataset[number])


def _assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _assert_same(one[key], other[key])
    elif isinstance(one, tuple):
        for each, own in zip(one, other, strict=True):
            _assert_same(each, own)
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("transform", [None, numbered])
def test_a_slice_of_samples_is_a_list_of_them(tiny_store: Path, transform: Any) -> None:
    assert_slices(Samples(tiny_store, **GIVEN, transform=transform))


@pytest.mark.parametrize("transform", [None, numbered])
def test_a_slice_of_a_torch_dataset_is_a_list_of_its_samples(tiny_store: Path, transform: Any) -> None:
    pytest.importorskip("torch")
    from vla_store.torch import StepDataset

    assert_slices(StepDataset(tiny_store, **GIVEN, transform=transform))


def test_a_slice_of_a_subclass_is_a_list_of_what_it_makes_of_samples(tiny_store: Path) -> None:
    class Own(RecipeDataset):
        def items(self, batch: dict[str, Any], empty: Any) -> Any:
            return {"a": batch["actions"].sum(axis=2)}

        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index) if isinstance(index, slice) else super().__getitem__(index) | {"own": 1}

    assert_slices(Own(tiny_store, windows={"actions": range(3)}))


def test_a_slice_of_a_recipe_and_of_what_stands_on_samples_is_a_list(tiny_store: Path) -> None:
    assert_slices(recipes.act(tiny_store, chunk=4, alignment="causal", images="upright"))
    samples = Samples(tiny_store, **GIVEN)
    assert_slices(weighted(samples, np.arange(1, len(samples) + 1)))
    assert_slices(mixture([(samples, 1), (Samples(tiny_store, **GIVEN, suites="libero_10"), 2)]))


def test_a_dataset_says_how_it_was_made(tiny_store: Path) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.torch import StepDataset

    samples, dataset = (make(tiny_store, **GIVEN, pad="zero") for make in (Samples, StepDataset))
    for name in ("windows", "alignment", "images", "pad"):
        assert getattr(dataset, name) == getattr(samples, name)
    assert (dataset.alignment, dataset.images, dataset.pad) == ("causal", "upright", "zero")
    assert [each.field for each in dataset.windows] == ["agentview_rgb", "actions"]
    assert samples.columns.keys() == dataset.columns.keys()
    assert dataset.columns["actions"] == ((3, 7), torch.float64)
    for name, (shape, dtype) in dataset.columns.items():
        one = torch.as_tensor(dataset[0][name])
        assert (tuple(one.shape), one.dtype) == (shape, dtype)
    assert recipes.act(tiny_store, chunk=4, alignment="causal", images="upright").alignment == "causal"


def test_a_table_of_episodes_has_a_column_for_each_attribute(tiny_store: Path) -> None:
    pandas = pytest.importorskip("pandas")
    store = open_store(tiny_store)
    table = store.episodes.to_pandas()
    plain = pandas.DataFrame(list(store.episodes))
    assert list(table.columns) == list(plain.columns)
    assert table.astype(object).where(table.notna(), None).to_dict("list") == plain.astype(object).where(
        plain.notna(), None
    ).to_dict("list")
    kinds = {name: str(dtype) for name, dtype in table.dtypes.items()}
    assert kinds["success"] == "boolean"
    assert {kinds[name] for name in ("suite", "task", "file", "text")} == {"category"}
    assert {kinds[name] for name in ("episode", "number", "start", "length")} == {"int64"}
    assert len(table[table.success & (table.length > 12)]) == sum(
        each.success is True and each.length > 12 for each in store.episodes
    )


def test_episodes_whose_success_is_not_known_are_missing_in_a_table(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    store = open_store(tiny_store)
    listed = [dataclasses.replace(each, success=None if each.episode % 2 else True) for each in store.episodes]
    monkeypatch.setattr(type(store.episodes), "__iter__", lambda self: iter(listed))
    found = store.episodes.to_pandas().success
    assert found.isna().tolist() == [each.success is None for each in listed]
    assert found[0] is not pandas.NA


def test_a_table_without_pandas_says_what_to_install(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MachineError, match="pip install pandas"):
        open_store(tiny_store).episodes.to_pandas()
