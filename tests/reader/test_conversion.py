"""dtype=: what cannot hold a field's numbers is refused, what makes it stand still is warned of, and both name the field."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import odd_files
import pytest

import vla_store
from vla_store import OptionError, Samples, UnknownName
from vla_store.builder import build_store
from vla_store.format import layout

Change = Callable[[h5py.File], Any]


def added(name: str, make: Callable[[int], np.ndarray]) -> Change:
    """Adds a dataset to every demo: `make` of its number of steps."""

    def change(file: h5py.File) -> None:
        for demo in odd_files.each_demo(file):
            demo[name] = make(len(demo["actions"]))

    return change


def several(file: h5py.File) -> None:
    added("obs/stamps", lambda steps: 1.7e9 + 0.05 * np.arange(steps))(file)
    added("obs/calm", lambda steps: np.stack([np.arange(steps) / 8, 0.5 + 1e-9 * np.arange(steps)], axis=1))(file)
    added("obs/force", lambda steps: np.full((steps, 2), 70_000, np.float32))(file)
    added("obs/edge", lambda steps: np.full((steps, 2), 65_519.9))(file)
    added("obs/holes", lambda steps: np.where(np.arange(steps) % 3, 2.0, -math.inf))(file)
    added("obs/agentview_depth", lambda steps: np.full((steps, 16, 24, 1), 1e5, np.float32))(file)
    states = file["data/demo_4/states"][()]
    del file["data/demo_4/states"]
    file["data/demo_4/states"] = np.concatenate([states, np.full((9, 1), 1e39)], axis=1)


@pytest.fixture(scope="module")
def store(kept: Path) -> vla_store.Store:
    place = kept / "several.vla"
    if not place.exists():
        pytest.importorskip("zarr", reason="building needs zarr")
        build_store([odd_files.odd_file(kept / "several", several)], place)
    return vla_store.open_store(place)


def test_an_overflow_is_refused_by_name_with_what_to_say_instead(store: vla_store.Store) -> None:
    with pytest.raises(OptionError, match="'force' has numbers that float16 cannot hold") as caught:
        Samples(store, windows={"holes": 0, "force": 0}, dtype="float16")
    assert (caught.value.places["found"], caught.value.places["largest"]) == ("70000", "65504")
    assert "dtype={'force': 'float32', None: 'float16'}" in caught.value.hint
    samples = Samples(store, windows={"holes": 0, "force": 0}, dtype={"force": "float32", None: "float16"})
    assert {samples[0][name].dtype.name for name in ("holes", "force")} == {"float16", "float32"}


def test_what_rounds_to_the_largest_number_is_no_overflow_and_infinities_are_none(store: vla_store.Store) -> None:
    samples = Samples(store, windows={"edge": 0, "holes": 0}, dtype="float16")
    assert samples[0]["edge"].tolist() == [65504, 65504]
    assert samples[0]["holes"] == -math.inf


def test_what_is_not_selected_need_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")

    def change(file: h5py.File) -> None:
        added("obs/force", lambda steps: np.ones(steps, np.float32))(file)
        file["data/demo_1/obs/force"][5] = -1e6

    build_store([odd_files.odd_file(tmp_path / "source", change)], tmp_path / "x.vla")
    assert len(Samples(tmp_path / "x.vla", windows={"force": 0}, episodes=[0, 2], dtype="float16")) == 32
    with pytest.raises(OptionError, match="'force'") as caught:
        Samples(tmp_path / "x.vla", windows={"force": 0}, episodes=[1, 2], dtype="float16")
    assert caught.value.places["found"] == "-1e+06"


@pytest.mark.parametrize(
    "chosen", [{"rows": [8]}, {"rows": [3, 8, 30]}, {"view": "early"}], ids=["one", "several episodes", "a view"]
)
def test_what_windows_reach_beyond_the_selection_is_refused_where_it_is_read(tmp_path: Path, chosen: Any) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")
    from vla_store import view_rules
    from vla_store.manage.views import add_view

    def change(file: h5py.File) -> None:
        added("obs/force", lambda steps: np.ones(steps, np.float32))(file)
        file["data/demo_0/obs/force"][10] = 1e6

    build_store([odd_files.odd_file(tmp_path / "source", change)], tmp_path / "x.vla")
    add_view(tmp_path / "x.vla", "early", view_rules.drop_tail(13))
    stored, samples = (
        Samples(tmp_path / "x.vla", windows={"force": range(4)}, dtype=dtype, **chosen) for dtype in (None, "float16")
    )
    at = next(number for number in range(len(stored)) if (stored[number]["episode"], stored[number]["step"]) == (0, 8))
    for read in (lambda: samples[at], lambda: samples.batch([at]), lambda: samples.__getitems__([0, at, at])):
        with pytest.raises(OptionError, match="'force' has numbers that float16 cannot hold"):
            read()


@pytest.mark.parametrize(("field", "dtype"), [("agentview_depth", "float16"), ("states", "float32")])
@pytest.mark.parametrize("offsets", [0, [0], [-3, 0, 2]])
def test_fields_without_statistics_are_refused_at_the_first_number_that_does_not_fit(
    store: vla_store.Store, field: str, dtype: str, offsets: Any
) -> None:
    samples = Samples(
        store, windows={field: offsets, "edge": 0}, dtype={field: dtype}, alignment="as_stored", images="as_stored"
    )
    last = len(samples) - 1
    for read in (lambda: samples[last], lambda: samples.batch([last]), lambda: samples.__getitems__([0, last])):
        with pytest.raises(OptionError, match=f"'{field}' has numbers that {dtype} cannot hold"):
            read()
    if field == "states":
        assert samples[0]["states"].dtype == np.float32
    assert pickle.loads(pickle.dumps(samples))._watched == samples._watched


def test_a_store_that_lost_its_statistics_is_watched_one_by_one_and_in_batches(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")

    def change(file: h5py.File) -> None:
        added("obs/force", lambda steps: np.full((steps, 2), 70_000, np.float32))(file)

    root = build_store([odd_files.odd_file(tmp_path / "source", change)], tmp_path / "x.vla").root
    assert root is not None
    assert root.meta.statistics is not None
    (tmp_path / "x.vla" / layout.meta_key(root.meta.statistics)).unlink()
    samples = Samples(tmp_path / "x.vla", windows={"force": [-1, 0]}, dtype="float16")
    for read in (lambda: samples[3], lambda: samples.batch([3]), lambda: samples.__getitems__([3, 40])):
        with pytest.raises(OptionError, match="'force' has numbers that float16 cannot hold"):
            read()


def test_a_view_of_steps_is_watched_too(store: vla_store.Store, tmp_path: Path) -> None:
    from vla_store import view_rules
    from vla_store.manage.copy import copy_store
    from vla_store.manage.views import add_view

    copy_store(store.url, tmp_path / "x.vla")
    add_view(tmp_path / "x.vla", "early", view_rules.drop_tail(2), kind="steps")
    samples = Samples(tmp_path / "x.vla", windows={"states": [0, 1]}, view="early", dtype="float32")
    assert samples[0]["states"].dtype == np.float32
    with pytest.raises(OptionError, match="'states'"):
        samples[len(samples) - 1]


def test_differences_that_vanish_are_warned_of_at_the_caller_s_line(store: vla_store.Store) -> None:
    with pytest.warns(
        UserWarning, match="in float32, 'stamps' loses 100% of the differences between neighbouring"
    ) as caught:
        Samples(store, windows={"stamps": 0, "calm": 0, "joint_states": 0}, dtype="float32")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "dtype={'stamps': 'float64', None: 'float32'}" in str(caught[0].message)
    samples = Samples(store, windows={"stamps": [0, 1], "calm": 0}, dtype={"stamps": None, None: "float32"})
    assert np.diff(samples[3]["stamps"])[0] == pytest.approx(0.05, rel=1e-5)
    assert samples[3]["calm"].dtype == np.float32


def test_the_component_that_stands_still_is_named_also_in_a_ragged_field(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")

    def change(file: h5py.File) -> None:
        for demo in odd_files.each_demo(file):
            states = demo["states"][()]
            states[:, 0] = 1.7e9 + 0.05 * np.arange(len(states))
            if demo.name.endswith("4"):
                states = states[:, :-1]
            del demo["states"]
            demo["states"] = states

    build_store([odd_files.odd_file(tmp_path / "source", change)], tmp_path / "x.vla")
    with pytest.warns(UserWarning, match="'states', component 0 loses 100%"):
        Samples(tmp_path / "x.vla", windows={"states": 0}, dtype="float32")
    Samples(tmp_path / "x.vla", windows={"states": 0}, dtype="float64")


def test_nothing_is_said_of_usual_data(store: vla_store.Store) -> None:
    usual = ["actions", "joint_states", "gripper_states", "ee_pos", "ee_ori", "robot_states", "calm"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = Samples(store, windows=dict.fromkeys(usual, 0), alignment="as_stored", dtype=np.float32)
    assert "numbers    floating fields as float32)" in repr(samples)


def test_dtypes_by_field_are_checked_and_shown(store: vla_store.Store) -> None:
    windows = {"stamps": 0, "calm": 0, "rewards": 0}
    with pytest.raises(UnknownName, match="stamp"):
        Samples(store, windows=windows, dtype={"stamp": "float64"}, alignment="as_stored")
    with pytest.raises(UnknownName, match="force"):
        Samples(store, windows=windows, dtype={"force": "float64"}, alignment="as_stored")
    with pytest.raises(OptionError, match="floating fields only"):
        Samples(store, windows=windows, dtype={"rewards": "float32"}, alignment="as_stored")
    with pytest.raises(OptionError, match="by field"):
        Samples(store, windows=windows, dtype={"calm": "int8"}, alignment="as_stored")
    samples = Samples(store, windows=windows, dtype={"calm": "float32"}, alignment="as_stored")
    assert "numbers    as stored; calm as float32)" in repr(samples)
    found = pickle.loads(pickle.dumps(samples))
    assert [each[1].name for name, each in found.columns.items() if name in windows] == ["float64", "float32", "uint8"]
    batch = found.batch([0, 5])
    assert {name: batch[name].dtype.name for name in windows} == {
        "stamps": "float64",
        "calm": "float32",
        "rewards": "uint8",
    }


def test_torch_s_dtypes_are_taken_by_field_too(store: vla_store.Store) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.torch import StepDataset

    dataset = StepDataset(store, windows={"stamps": 0, "calm": 0}, dtype={"stamps": None, None: torch.float32})
    assert (dataset[0]["stamps"].dtype, dataset[0]["calm"].dtype) == (torch.float64, torch.float32)
