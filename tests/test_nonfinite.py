"""Numbers that are not finite: kept bit for bit, counted in the store, told of, and out of every statistic."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import odd_files
import pytest
import tiny_libero
from own_sources import Own
from store_tools import digests, run
from tiny_nonfinite import assert_counts_are_right
from tiny_reader import TinyStore

import vla_store
from vla_store import SourceError, StoreDamaged, view_rules
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.builder.journal import Journal
from vla_store.format import canonical
from vla_store.format.nonfinite import NonFinite, Tally, counted, table_of, tallied, tallies_in, together
from vla_store.format.schema import PartDocument, Root
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.manage.views import add_view

Change = Callable[[h5py.File], Any]
NAN, INF = math.nan, math.inf


def put(path: str, at: Any, value: float) -> Change:
    """Puts a number into a dataset."""

    def change(file: h5py.File) -> None:
        file[f"data/{path}"][at] = value

    return change


def wider(file: h5py.File) -> None:
    """Makes `states` ragged: one width in demo 4, another in the others."""
    states = file["data/demo_4/states"][()]
    del file["data/demo_4/states"]
    file["data/demo_4/states"] = np.concatenate([states, states[:, -2:]], axis=1)


def ragged(file: h5py.File) -> None:
    wider(file)
    put("demo_4/states", (8, 13), -INF)(file)


def depth(file: h5py.File) -> None:
    for demo in odd_files.each_demo(file):
        frames = np.zeros((len(demo["actions"]), 16, 24, 1), np.float32)
        frames[1, 3, 4] = INF
        frames[2:4, 0, 0] = NAN
        demo["obs/agentview_depth"] = frames


def flat_depth(file: h5py.File) -> None:
    """Without an axis of channels, in the widest and the narrowest dtype."""
    for demo in odd_files.each_demo(file):
        for name, dtype in (("wide", np.float64), ("narrow", np.float16)):
            demo[f"obs/{name}"] = np.ones((len(demo["actions"]), 16, 24), dtype)
    file["data/demo_1/obs/wide"][16, 15, 23] = NAN
    file["data/demo_4/obs/narrow"][0] = -INF


def half(file: h5py.File) -> None:
    for demo in odd_files.each_demo(file):
        demo["obs/half"] = np.full((len(demo["actions"]), 2), 65504, np.float16)
    file["data/demo_1/obs/half"][16, 1] = -INF


def rewards(file: h5py.File) -> None:
    for demo in odd_files.each_demo(file):
        values = demo["rewards"][()].astype(np.float64)
        del demo["rewards"]
        demo["rewards"] = values
    file["data/demo_0/rewards"][-1] = NAN


def all_nan(file: h5py.File) -> None:
    for demo in odd_files.each_demo(file):
        demo["obs/ee_ori"][...] = NAN


# What is changed; and of each field what is told: NaN, infinite, steps, episodes, first demo and step.
INPUTS: dict[str, tuple[Change, dict[str, tuple[int, int, int, int, str, int]]]] = {
    "a NaN": (put("demo_1/obs/joint_states", (7, 1), NAN), {"joint_states": (1, 0, 1, 1, "demo_1", 7)}),
    "an infinity": (put("demo_0/obs/joint_states", (7, 1), INF), {"joint_states": (0, 1, 1, 1, "demo_0", 7)}),
    "a NaN in states": (put("demo_0/states", (3, 2), NAN), {"states": (1, 0, 1, 1, "demo_0", 3)}),
    "ragged states": (ragged, {"states": (0, 1, 1, 1, "demo_4", 8)}),
    "depth": (depth, {"agentview_depth": (6, 3, 9, 3, "demo_0", 1)}),
    "depth without channels": (
        flat_depth,
        {"narrow": (0, 384, 1, 1, "demo_4", 0), "wide": (1, 0, 1, 1, "demo_1", 16)},
    ),
    "half": (half, {"half": (0, 1, 1, 1, "demo_1", 16)}),
    "the last reward": (rewards, {"rewards": (1, 0, 1, 1, "demo_0", 22)}),
    "all of a field": (all_nan, {"ee_ori": (3 * 49, 0, 49, 3, "demo_0", 0)}),
    "nothing": (wider, {}),
}


@pytest.mark.parametrize(
    ("name", "executor"),
    [*((name, "threads") for name in INPUTS), ("depth", "processes"), ("ragged states", "processes")],
)
def test_what_is_not_finite_is_kept_and_counted(name: str, executor: str, tmp_path: Path) -> None:
    change, expected = INPUTS[name]
    path = odd_files.odd_file(tmp_path / "source", change)
    report = build_store([path], tmp_path / "x.vla", executor=executor, workers=2)
    odd_files.assert_equals_h5py(tmp_path / "x.vla", path)
    store = vla_store.open_store(tmp_path / "x.vla")
    assert tuple(store.nonfinite.values()) == report.nonfinite
    found = {k: (v.nan, v.infinite, v.steps, v.episodes, v.demo, v.step) for k, v in store.nonfinite.items()}
    assert found == expected
    for each in store.nonfinite.values():
        place = store.provenance(each.row)
        assert (place.demo, place.step, place.file, place.suite) == (each.demo, each.step, each.file, each.suite)
    assert bool(list(tmp_path.glob("x.vla/parts/*/episodes/nonfinite"))) == bool(expected)
    assert_counts_are_right(TinyStore(tmp_path / "x.vla"))


def test_success_that_a_nan_hides_is_not_known(tmp_path: Path) -> None:
    build_store([odd_files.odd_file(tmp_path / "source", rewards)], tmp_path / "x.vla")
    assert [each.success for each in vla_store.open_store(tmp_path / "x.vla").episodes] == [None, True, True]


def test_one_bad_number_does_not_hide_when_observations_were_made(tmp_path: Path) -> None:
    for number, place in enumerate(("obs/joint_states", "states")):
        for observation in ("after", "before"):
            folder = tmp_path / f"{number}-{observation}"
            path = odd_files.odd_file(folder, put(f"demo_0/{place}", (7, 2), NAN), observation=observation)
            build_store([path], folder / "x.vla")
            assert vla_store.open_store(folder / "x.vla").conventions.observation == observation


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source with an infinity in depth and a NaN in joints, and a store of it. Not to be written into."""
    folder = tmp_path_factory.mktemp("bad")

    def change(file: h5py.File) -> None:
        depth(file)
        put("demo_1/obs/joint_states", (7, 1), NAN)(file)

    path = odd_files.odd_file(folder / "source", change)
    build_store([path], folder / "x.vla")
    return path, folder / "x.vla"


def test_statistics_are_those_of_the_finite_values(bad: tuple[Path, Path]) -> None:
    store = vla_store.open_store(bad[1])
    joints = store.read("joint_states", range(store.rows))
    for found in (
        store.statistics.all["joint_states"],
        vla_store.Samples(store, windows={"joint_states": 0}, rows=np.arange(store.rows)).statistics()["joint_states"],
    ):
        assert found.nan.tolist() == [0, 1, 0, 0, 0, 0, 0]
        assert np.allclose(found.mean, np.nanmean(joints, axis=0))
        assert np.allclose(found.std, np.nanstd(joints, axis=0))
        assert np.isfinite([found.min, found.max, found.q01, found.q99]).all()


def test_a_grown_merged_copied_and_recoded_store_tells_it_all(bad: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny_libero.TinyFile("libero_z", "push_the_plate", 12, {2: 6})
    source = tiny_libero.write_suites(tmp_path / "more", suites=[other], depth=True)
    with h5py.File(source / other.suite / other.name, "r+") as file:
        del file["data/demo_2/obs/eye_in_hand_depth"]
        file["data/demo_2/obs/joint_states"][5, 0] = INF
    before = vla_store.open_store(bad[1])
    shutil.copytree(bad[1], tmp_path / "grown.vla")
    append_store([source], tmp_path / "grown.vla")
    build_store([source], tmp_path / "other.vla")
    merge_stores([bad[1], tmp_path / "other.vla"], tmp_path / "merged.vla")
    copy_store(tmp_path / "grown.vla", tmp_path / "copied.vla")
    recode_store(tmp_path / "grown.vla", tmp_path / "recoded.vla", preset="small")
    for name in ("grown", "merged", "copied", "recoded"):
        store = vla_store.open_store(tmp_path / f"{name}.vla")
        assert verify_store(tmp_path / f"{name}.vla", against=[bad[0], source]).problems == [], name
        joints = store.nonfinite["joint_states"]
        assert (joints.nan, joints.infinite, joints.episodes, joints.demo) == (1, 1, 2, "demo_1"), name
        assert store.nonfinite["agentview_depth"] == before.nonfinite["agentview_depth"], name
        assert store.statistics.all["joint_states"].infinite.tolist() == [1, 0, 0, 0, 0, 0, 0], name
    last = vla_store.open_store(tmp_path / "other.vla").nonfinite["joint_states"]
    assert (last.row, last.episode, last.step, last.suite) == (5, 0, 5, "libero_z")


@pytest.mark.parametrize(
    "lost",
    ["episodes/nonfinite/c/0/0", "episodes/nonfinite/zarr.json", "zarr.json", "episodes/digest/c/0/0", "objects.jsonl"],
)
def test_a_lost_object_is_made_again(lost: str, bad: tuple[Path, Path], tmp_path: Path) -> None:
    store = tmp_path / "x.vla"
    shutil.copytree(bad[1], store)
    before = digests(store)
    (path,) = store.glob(f"parts/*/{lost}")
    path.unlink()
    assert not verify_store(store).sound
    repair_store(store, [bad[0]])
    assert digests(store) == before


def test_an_unfinished_build_of_before_there_were_counts_is_encoded_again(
    tmp_path: Path, bad: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_store([bad[0]], tmp_path / "x.vla")
    (folder,) = tmp_path.glob("x.vla.partial/parts/*.build")
    receipts = [each for each in folder.glob("*.json") if each.name != "source.json"]
    for each in receipts:
        value = json.loads(each.read_bytes())
        del value["nonfinite"]
        each.write_text(json.dumps(value))
    report = build_store([bad[0]], tmp_path / "x.vla")
    assert receipts
    assert not report.resumed
    assert digests(tmp_path / "x.vla") == digests(bad[1])


def test_a_resumed_build_counts_what_was_encoded_before(
    tmp_path: Path, bad: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_store([bad[0]], tmp_path / "x.vla")
    report = build_store([bad[0]], tmp_path / "x.vla")
    assert report.resumed
    assert {each.field for each in report.nonfinite} == {"agentview_depth", "joint_states"}
    assert digests(tmp_path / "x.vla") == digests(bad[1])


def test_counts_that_are_not_those_of_the_data_are_found(bad: tuple[Path, Path], tmp_path: Path) -> None:
    from vla_store.builder import commit

    def wrong(receipts: Any) -> dict[str, tuple[Tally, ...]]:
        return {"joint_states": (Tally(1, 2, 0, 1, 7),), "agentview_depth": (Tally(0, 2, 1, 3, 1),)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "nonfinite_of", wrong)
        build_store([bad[0]], tmp_path / "x.vla")
    (problem,) = verify_store(tmp_path / "x.vla").problems
    assert problem.object.endswith("episodes/nonfinite")
    assert "not those of the data" in problem.what


def test_columns_that_cannot_be_are_damage(bad: tuple[Path, Path]) -> None:
    (path,) = bad[1].glob("parts/*/zarr.json")
    document = json.loads(path.read_bytes())
    attributes = document["consolidated_metadata"]["metadata"]["episodes/nonfinite"]["attributes"]
    sound = attributes["columns"]
    assert PartDocument.from_zarr_json(canonical.dumps(document), "x").nonfinite == ("agentview_depth", "joint_states")
    for junk in (sound[:-1], sound[::-1], [*sound, "other_nan"], [], None, 5, [3], sound[:4] * 2, ["x_nan"]):
        attributes["columns"] = junk
        with pytest.raises(StoreDamaged, match="columns"):
            PartDocument.from_zarr_json(canonical.dumps(document), "x")


def test_statistics_of_before_are_still_sound_and_no_others(bad: tuple[Path, Path], tmp_path: Path) -> None:
    build_store([odd_files.odd_file(tmp_path / "source", put("demo_0/obs/ee_pos", (4, 1), INF))], tmp_path / "x.vla")
    root = Root.from_bytes((tmp_path / "x.vla/zarr.json").read_bytes(), "zarr.json")
    (path,) = (tmp_path / "x.vla/meta").iterdir()
    document = json.loads(path.read_bytes())

    def problems_with(change: dict[str, Any]) -> list[str]:
        entry = document["fields"]["ee_pos"]
        for each in (entry["all"], *entry["suites"].values()):
            each.pop("infinite", None)
            each |= change
        data = canonical.dumps(document)
        meta = dataclasses.replace(root.meta, statistics=canonical.sha256_hex(data))
        made = dataclasses.replace(root, meta=meta).sealed().to_bytes()
        (tmp_path / "x.vla/meta" / f"{meta.statistics}.json").write_bytes(data)
        for name in ("zarr.json", "roots/00000001.json"):
            (tmp_path / "x.vla" / name).write_bytes(made)
        return [each.what for each in verify_store(tmp_path / "x.vla").problems]

    older = {"count": [49, 49, 49], "max": ["1.0", "inf", "1.0"]}
    assert problems_with(older) == []
    assert problems_with(older | {"count": [49, 48, 49]}) == ["the statistics are not those of the data"]
    assert problems_with(older | {"nan": [0, 1, 0]}) == ["the statistics are not those of the data"]
    assert problems_with({"infinite": [0, 2, 0]}) == ["the statistics are not those of the data"]


def test_the_commands_say_it(bad: tuple[Path, Path], tmp_path: Path) -> None:
    built = run("build", bad[0], tmp_path / "x.vla")
    assert built.code == 0
    line = "joint_states is not all finite numbers: 1 NaN in 1 step of 1 episode, first in libero_odd/"
    assert f"warning: {line}" in built.err
    assert "agentview_depth is not all finite numbers: 6 NaN, 3 infinite in 9 steps of 3 episodes" in built.err
    assert line in " ".join(run("info", tmp_path / "x.vla").out.split())
    told = json.loads(run("info", tmp_path / "x.vla", "--json").out)["nonfinite"]["joint_states"]
    assert (told["nan"], told["demo"], told["step"], told["row"]) == (1, "demo_1", 7, 30)
    recoded = run("recode", tmp_path / "x.vla", tmp_path / "y.vla", "--preset", "raw")
    assert f"warning: {line}" in recoded.err
    assert run("report", tmp_path / "x.vla", "-o", tmp_path / "x.html").code == 0
    assert line in (tmp_path / "x.html").read_text()


# --require-finite


@pytest.mark.parametrize("name", INPUTS)
def test_a_build_that_requires_finite_numbers_refuses_before_it_works(name: str, tmp_path: Path) -> None:
    change, expected = INPUTS[name]
    path = odd_files.odd_file(tmp_path / "source", change)
    if not expected:
        build_store([path], tmp_path / "x.vla", require_finite=True)
        build_store([path], tmp_path / "y.vla")
        assert digests(tmp_path / "x.vla") == digests(tmp_path / "y.vla")
        return
    with pytest.raises(SourceError, match="not all finite numbers") as caught:
        build_store([path], tmp_path / "x.vla", require_finite=True)
    field, told = min(expected.items(), key=lambda item: item[1][4])  # the first demonstration's
    assert {key: caught.value.places[key] for key in ("field", "demo", "row")} == {
        "field": field,
        "demo": told[4],
        "row": str(told[5]),
    }
    assert sorted(each.name for each in tmp_path.iterdir()) == ["source"]


def test_with_skip_bad_such_demonstrations_are_left_out_and_recorded(bad: tuple[Path, Path], tmp_path: Path) -> None:
    path = odd_files.odd_file(tmp_path / "source", put("demo_1/obs/joint_states", (7, 1), NAN))
    built = run("build", path, tmp_path / "x.vla", "--require-finite", "--skip-bad")
    assert built.code == 0
    assert "demo_1: a field is not all finite numbers (field joint_states, row 7)" in built.err
    store = vla_store.open_store(tmp_path / "x.vla")
    assert [each.number for each in store.episodes] == [0, 4]
    assert [each.demo for each in store.skipped] == ["demo_1"]
    assert not store.nonfinite
    assert verify_store(tmp_path / "x.vla", against=[path]).problems == []
    before = digests(tmp_path / "x.vla")
    for lost in ("parts/*/steps/joint_states/c/0/0", f"meta/{store._root.meta.skipped}.json"):
        next((tmp_path / "x.vla").glob(lost)).unlink()
        repair_store(tmp_path / "x.vla", [path])
        assert digests(tmp_path / "x.vla") == before
    refused = run("append", bad[0], tmp_path / "x.vla", "--require-finite")
    assert refused.code == 1
    assert "--skip-bad" in refused.err
    assert digests(tmp_path / "x.vla") == before


class NoActions(Own):
    """An object whose actions have an infinity."""

    def read(self, number: int, field: str, start: int, stop: int) -> np.ndarray:
        rows = super().read(number, field, start, stop)
        return np.full_like(rows, INF) if field == "actions" else rows


def test_actions_of_an_object_must_be_finite_too(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="actions are not all finite numbers"):
        build_store([NoActions()], tmp_path / "x.vla")


# The view `finite`


def spoilt(file: h5py.File) -> None:
    """NaN and infinities in observations and not, at the ends of demos and in the middle, two in a row, ragged and in a camera."""
    ragged(file)
    for demo in odd_files.each_demo(file):
        demo["obs/agentview_depth"] = np.ones((len(demo["actions"]), 16, 24, 1), np.float32)
    for path, at, value in (
        ("demo_0/obs/joint_states", (0, 0), NAN),
        ("demo_0/states", (9, 9), INF),
        ("demo_0/obs/ee_pos", (22, 1), NAN),
        ("demo_1/obs/joint_states", (7, 1), -INF),
        ("demo_1/obs/joint_states", (8, 1), NAN),
        ("demo_1/robot_states", (0, 0), NAN),
        ("demo_1/obs/agentview_depth", (12, 3, 3, 0), INF),
    ):
        put(path, at, value)(file)


# Of demos 0, 1 and 4: steps with such a number, and those whose observation causally has one.
BAD = [{0, 9, 22}, {0, 7, 8, 12}, {8}]
AFTER = [{1}, {1, 9, 13}, set()]


@pytest.mark.parametrize("observation", ["after", "before"])
def test_training_with_the_view_meets_only_finite_numbers(observation: str, tmp_path: Path) -> None:
    path = odd_files.odd_file(tmp_path / "source", spoilt, observation=observation)
    build_store([path], tmp_path / "x.vla")
    view = add_view(tmp_path / "x.vla", "finite", view_rules.finite())
    assert view.kind == "steps"
    assert verify_store(tmp_path / "x.vla").problems == []
    store = vla_store.open_store(tmp_path / "x.vla")
    rows = np.concatenate([np.arange(*run) for run in view.kept.tolist()])
    lost = [
        set(range(each.length))
        - set((rows - each.start)[(rows >= each.start) & (rows < each.start + each.length)].tolist())
        for each in store.episodes
    ]
    assert lost == ([a | b for a, b in zip(BAD, AFTER)] if observation == "after" else BAD)
    floating = [name for name, each in store.fields.items() if each.dtype.startswith("float")]
    windows = {name: [-9, -1, 0, 1, 9] for name in floating}
    for alignment in ("as_stored", "causal"):
        for keep_first in {False, alignment == "causal"}:
            samples = vla_store.Samples(
                store, windows=windows, view="finite", images="upright", alignment=alignment, keep_first=keep_first
            )
            batch = samples.batch_or_lists(range(len(samples)))
            for name in windows:
                assert all(np.isfinite(each).all() for each in batch[name]), (alignment, name)
                assert all(np.isfinite(samples[at][name]).all() for at in range(len(samples)))


def test_the_view_looks_at_the_fields_that_are_named(tmp_path: Path) -> None:
    build_store([odd_files.odd_file(tmp_path / "source", spoilt)], tmp_path / "x.vla")
    assert run("views", "add", tmp_path / "x.vla", "finite:fields=agentview_depth+rewards,name=seen").code == 0
    assert run("views", "add", tmp_path / "x.vla", "finite:fields=agentview_rgb,name=all").code == 0
    views = vla_store.open_store(tmp_path / "x.vla").views
    assert views["seen"].kept.tolist() == [[0, 23 + 12], [23 + 14, 49]]
    assert views["all"].steps == 49
    refused = run("views", "add", tmp_path / "x.vla", "finite:kind=anchors")
    assert refused.code == 2
    assert "finite with these options is of kind 'steps'" in refused.err
    assert run("views", "add", tmp_path / "x.vla", "finite:fields=nothing").code == 2


def test_a_view_of_a_field_that_is_never_finite_is_refused_with_a_hint(tmp_path: Path) -> None:
    build_store([odd_files.odd_file(tmp_path / "source", all_nan)], tmp_path / "x.vla")
    refused = run("views", "add", tmp_path / "x.vla", "finite")
    assert refused.code == 2
    assert "finite:fields=NAME+NAME" in refused.err


def test_the_view_follows_what_is_appended_and_merged(bad: tuple[Path, Path], tmp_path: Path) -> None:
    other = odd_files.odd_file(tmp_path / "more", depth)
    named = other.with_name("a_" + other.name)
    other.rename(named)
    with h5py.File(named, "r+") as file:
        put("demo_1/obs/agentview_depth", (16, 0, 0, 0), NAN)(file)
    for name in ("grown", "whole"):
        shutil.copytree(bad[1], tmp_path / f"{name}.vla")
    add_view(tmp_path / "grown.vla", "finite", view_rules.finite())
    append_store([named], tmp_path / "grown.vla")
    append_store([named], tmp_path / "whole.vla")
    add_view(tmp_path / "whole.vla", "finite", view_rules.finite())
    grown, whole = (vla_store.open_store(tmp_path / f"{name}.vla").views["finite"] for name in ("grown", "whole"))
    assert grown.kept.tolist() == whole.kept.tolist()
    assert grown.covered_steps == 98
    assert grown.kept[-1].tolist() == [49 + 23 + 17 + 5, 98]
    assert 49 + 23 + 16 not in np.concatenate([np.arange(*each) for each in grown.kept.tolist()])
    assert verify_store(tmp_path / "grown.vla").problems == []
    build_store([named], tmp_path / "other.vla")
    shutil.copytree(bad[1], tmp_path / "first.vla")
    add_view(tmp_path / "first.vla", "finite", view_rules.finite())
    merge_stores([tmp_path / "first.vla", tmp_path / "other.vla"], tmp_path / "merged.vla")
    assert vla_store.open_store(tmp_path / "merged.vla").views["finite"].kept.tolist() == whole.kept.tolist()


def test_what_a_store_tells_is_a_value(bad: tuple[Path, Path]) -> None:
    found = vla_store.open_store(bad[1]).nonfinite["joint_states"]
    assert isinstance(found, NonFinite)
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(TypeError):
        vla_store.open_store(bad[1]).nonfinite["x"] = found  # type: ignore[index]


# The rule itself


def test_rows_are_counted_in_every_floating_dtype_and_shape() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        rows = np.ones((4, 2, 3), dtype)
        rows[1, 0, 0], rows[1, 1, 2], rows[3, 0, 1] = NAN, -INF, INF
        assert counted(rows).tolist() == [[0, 0], [1, 1], [0, 0], [0, 1]]
    assert counted(np.array([NAN, 1.0])).tolist() == [[1, 0], [0, 0]]
    assert not counted(np.full((3, 2), 255, np.uint8)).any()
    assert not counted(np.array([True])).any()


def test_tallies_of_stretches_come_together() -> None:
    first = tallied(4, np.array([[0, 0], [2, 1]]), 10)
    second = tallied(4, np.array([[0, 3]]), 12)
    assert first == (Tally(4, 2, 1, 1, 11),)
    assert tallied(4, np.zeros((3, 2), np.int64)) == ()
    assert together([*second, *tallied(1, np.array([[1, 0]])), *first]) == (Tally(1, 1, 0, 1, 0), Tally(4, 2, 4, 2, 11))


def test_a_table_is_read_back() -> None:
    told = {"b": (Tally(0, 1, 0, 1, 5),), "a": (Tally(1, 0, 2, 1, 0), Tally(2, 1, 0, 1, 3))}
    made = table_of(told, 3)
    assert made.tolist() == [[0, 0, 0, -1, 1, 0, 1, 5], [0, 2, 1, 0, 0, 0, 0, -1], [1, 0, 1, 3, 0, 0, 0, -1]]
    assert tallies_in(made, ["a", "b"]) == told
    for junk in (-1, 0):
        with pytest.raises(ValueError, match="counts of b"):
            tallies_in(np.array([[0, 2, 1, 0, junk, 0, junk, -1]]), ["a", "b"])
