"""Recipes over numbers that are not finite: said once, by name; and only the items that hold such a number are not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import odd_files
import pytest

from vla_store import recipes, view_rules
from vla_store.builder import build_store
from vla_store.manage.views import add_view
from vla_store.recipes.dataset import RecipeDataset


def spoilt(file: h5py.File) -> None:
    odd_files.with_liberos_hand(file)
    file["data/demo_1/obs/joint_states"][7, 1] = math.inf
    file["data/demo_0/obs/gripper_states"][22, 0] = math.nan
    file["data/demo_4/robot_states"][3, 5] = -math.inf
    file["data/demo_4/obs/ee_states"][4, 2] = math.nan
    file["data/demo_4/obs/ee_pos"][4, 2] = math.nan


@pytest.fixture(scope="module")
def store(kept: Path) -> Path:
    place = kept / "spoilt.vla"
    if not place.exists():
        pytest.importorskip("zarr", reason="building needs zarr")
        build_store([odd_files.odd_file(kept / "spoilt", spoilt)], place)
        add_view(place, "finite", view_rules.finite())
    return place


def leaves(item: Any) -> Iterator[np.ndarray]:
    if isinstance(item, dict):
        item = tuple(item.values())
    for each in item if isinstance(item, (tuple, list)) else (item,):
        if isinstance(each, (dict, tuple, list)):
            yield from leaves(each)
        elif isinstance(each, np.ndarray) and each.dtype.kind == "f":
            yield each


def is_finite(item: Any) -> bool:
    return all(np.isfinite(each).all() for each in leaves(item))


MADE: dict[str, tuple[Callable[..., Any], tuple[str, ...], int]] = {
    "act": (lambda s, **o: recipes.act(s, normalize=True, **o), ("gripper_states", "joint_states"), 1),
    "act as stored": (
        lambda s, **o: recipes.act(s, normalize=True, alignment="as_stored", **o),
        ("gripper_states", "joint_states"),
        2,
    ),
    "rdt": (lambda s, **o: recipes.rdt(s, mapping="rdt_libero_finetune", **o), ("gripper_states", "joint_states"), 2),
    "rdt of poses": (
        lambda s, **o: recipes.rdt(s, mapping="hdf5_libero_s1", **o),
        ("ee_pos", "gripper_states", "joint_states"),
        3,
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_only_the_items_that_hold_a_bad_number_are_not_finite(name: str, store: Path) -> None:
    make, fields, count = MADE[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = make(store)
    said = [str(each.message) for each in caught if "finite" in str(each.message)]
    assert [text.partition(" is ")[0] for text in sorted(said)] == [repr(field) for field in fields]
    assert all("(1 NaN)" in text or "(1 infinite)" in text for text in said)
    assert {each.filename for each in caught} == {__file__}
    bad = [at for at in range(len(dataset)) if not is_finite(dataset[at])]
    assert len(bad) == count
    assert not is_finite(dataset.__getitems__(bad))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?!.*finite)")
        kept = make(store, view="finite")
    assert len(kept) > 0
    assert is_finite(kept.__getitems__(range(len(kept))))


def test_what_rdt_s_configuration_is_told_is_finite(store: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = recipes.rdt(store, mapping="rdt_libero_finetune")
    found = dataset.dataset_stat()
    assert all(np.isfinite(each).all() for each in found.values() if not isinstance(each, str))
    values = np.concatenate([dataset.get_item(at, state_only=True)["state"] for at in (0, 30, 46)])
    values = np.where(np.isfinite(values), values, np.nan)
    assert np.allclose(found["state_mean"], np.nanmean(values, axis=0))
    assert np.allclose(found["state_min"], np.nanmin(values, axis=0))
    assert np.allclose(found["state_max"], np.nanmax(values, axis=0))


def test_a_selection_without_such_a_number_says_nothing(store: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?!.*finite)")
        assert is_finite(recipes.act(store, normalize=True, episodes=[2]).__getitems__(range(8)))


@pytest.mark.parametrize("chosen", [{"rows": [3, 4]}, {"rows": [30, 3]}, {"view": "early"}], ids=str)
def test_a_number_that_only_windows_reach_is_told_of(tmp_path: Path, chosen: dict[str, Any]) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")

    def spoil(file: h5py.File) -> None:
        odd_files.with_liberos_hand(file)
        file["data/demo_0/obs/joint_states"][9, 1] = math.nan

    build_store([odd_files.odd_file(tmp_path / "source", spoil)], tmp_path / "x.vla")
    add_view(tmp_path / "x.vla", "early", view_rules.drop_tail(14), kind="anchors")
    with pytest.warns(UserWarning, match=r"'joint_states' is not all finite numbers \(1 NaN\)"):
        dataset = recipes.libero(tmp_path / "x.vla", **chosen)
    assert not is_finite(dataset.__getitems__(range(len(dataset))))
    assert is_finite(recipes.libero(tmp_path / "x.vla", rows=[30, 12]).__getitems__([0, 1]))


def test_fields_without_statistics_are_warned_of_by_the_stores_counts(
    tmp_path: Path,
) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")

    def ragged(file: h5py.File) -> None:
        states = file["data/demo_4/states"][:, :-1]
        states[5, 10] = math.nan
        del file["data/demo_4/states"]
        file["data/demo_4/states"] = states

    build_store([odd_files.odd_file(tmp_path / "source", ragged)], tmp_path / "x.vla")
    add_view(tmp_path / "x.vla", "finite", view_rules.finite())
    with pytest.warns(UserWarning, match=r"'states' is not all finite numbers \(1 NaN\)"):
        RecipeDataset(tmp_path / "x.vla", windows={"states": 0}, alignment="as_stored")
    for view in ("finite", ["finite"]):
        RecipeDataset(tmp_path / "x.vla", windows={"states": 0}, alignment="as_stored", view=view)
