from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_libero
from reader import naive
from reader.conftest import conventional_naive

import vla_store
from vla_store import (
    DataError,
    OptionError,
    Samples,
    StoreDamaged,
    StoreNotFound,
    StoreUnfinished,
    UnknownName,
    UnsupportedStore,
    UsageError,
    open_store,
)
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.schema import Root
from vla_store.storage import locked

KINDS = ["mmap", "pread", "fsspec"]


def fits_one_screen(error: Exception) -> str:
    text = str(error)
    assert len(text.splitlines()) <= 24
    assert "Traceback" not in text
    return text


def test_a_store_says_what_it_holds(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    described = tiny_libero.episodes()
    assert store.rows == len(store) == sum(each.steps for each in described) == 137
    assert store.suites == ("libero_10", "libero_goal", "libero_spatial")
    assert store.cameras == ("agentview_rgb", "eye_in_hand_rgb")
    assert [(task.suite, task.name) for task in store.tasks] == [(each.suite, each.task) for each in tiny_libero.SUITES]
    assert store.tasks[0].text == "put both the cups in the basket"
    assert store.conventions.orientation == "bottom_up"
    assert store.conventions.observation == "after"
    assert store.fields["states"].kind == "ragged-episode"
    assert store.fields["actions"].shape == (7,)
    assert {name for name, field in store.fields.items() if field.role == "observation"} == {
        name for name in naive.OBSERVATIONS if not name.endswith("depth")
    }
    assert store.skipped == ()
    assert repr(store).startswith(f"Store('{tiny_store}': 137 steps, 10 episodes, 4 tasks")


def test_the_bytes_of_a_store_are_known_by_array(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    by_array = store.array_nbytes

    (part,) = [path for path in (tiny_store / "parts").iterdir() if path.is_dir()]
    on_disk = [path for path in (part / "residuals" / "agentview_rgb").rglob("*") if path.is_file()]
    assert by_array["residuals/agentview_rgb"] == sum(path.stat().st_size for path in on_disk)
    assert set(by_array) >= {
        "",
        "index/steps",
        "episodes/table",
        *(field.array for field in store.parts[0][1].fields.values()),
    }
    assert sum(by_array.values()) == store.nbytes


def test_episodes_are_a_sequence(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    described = tiny_libero.episodes()
    assert len(store.episodes) == len(described)
    for found, each in zip(store.episodes, described):
        assert (found.episode, found.suite, found.task, found.file) == (
            each.episode,
            each.file.suite,
            each.file.task,
            each.file.name,
        )
        assert (found.number, found.start, found.length, found.success) == (each.number, each.start, each.steps, True)
    assert store.episodes[-1] == store.episodes[9]
    assert store.episodes.starts.tolist() == [each.start for each in described]
    assert store.episodes.lengths.tolist() == [each.steps for each in described]
    with pytest.raises(IndexError, match="episode 10 of 10"):
        store.episodes[10]


def test_a_store_of_several_parts_is_one(parts_store: Path, mixed_store: Path) -> None:
    parts, single, plain = open_store(parts_store), open_store(mixed_store), conventional_naive()
    assert parts.rows == single.rows == sum(map(len, plain.episodes))
    assert list(parts.episodes) == list(single.episodes)
    assert parts.tasks == single.tasks
    assert parts.suites == single.suites == ("suite_0", "suite_1", "suite_2", "suite_3")
    assert parts.conventions == single.conventions
    assert (parts.conventions.orientation, parts.conventions.observation) == (None, None)
    assert parts.episodes.starts.tolist() == single.episodes.starts.tolist()
    assert parts.split("train", fraction=0.5).episodes.tolist() == single.split("train", fraction=0.5).episodes.tolist()
    for row in range(parts.rows):
        assert parts.provenance(row) == single.provenance(row)
    for name in ("actions", "agentview_rgb", "eye_in_hand_rgb", "rewards"):
        rows = np.random.default_rng(0).integers(0, parts.rows, 30)
        expected = np.concatenate([np.asarray(each.arrays[name]) for each in plain.episodes])[rows]
        assert np.array_equal(parts.read(name, rows), expected)
        assert np.array_equal(single.read(name, rows), expected)


def test_a_field_of_one_width_in_one_part_is_ragged_in_the_whole(parts_store: Path) -> None:
    store, plain = open_store(parts_store), conventional_naive()
    assert store.fields["states"].kind == "ragged-episode"
    samples = Samples(store, windows={"states": [0, 1]})
    for index in range(len(samples)):
        sample = samples[index]
        expected = plain.sample(sample["episode"], sample["step"], {"states": [0, 1]})
        naive.assert_same_sample(sample, expected)
        naive.assert_same_sample(samples.__getitems__([index])[0], expected)


def test_every_step_knows_where_it_comes_from(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    for each in tiny_libero.episodes():
        for step in range(each.steps):
            found = store.provenance(each.start + step)
            assert (found.suite, found.file, found.demo) == (each.file.suite, each.file.name, f"demo_{each.number}")
            assert (found.row, found.episode, found.number, found.step) == (
                each.start + step,
                each.episode,
                each.number,
                step,
            )
    with pytest.raises(UnknownName, match="0 to 136"):
        store.provenance(137)


def test_attributes_are_those_of_the_source(tiny_stores: dict[str, Path]) -> None:
    arrays = {each.episode: arrays for each, arrays in tiny_libero.store_rows()}
    for path in tiny_stores.values():
        store = open_store(path)
        for each in tiny_libero.episodes():
            expected = tiny_libero.demo_attributes(each, arrays[each.episode])
            found = store.attributes(each.episode)[f"/data/demo_{each.number}"]
            assert found["model_file"] == expected["model_file"]
            assert found["num_samples"] == expected["num_samples"]
            assert np.array_equal(found["init_state"], expected["init_state"])
            whole = store.source_attributes(each.episode)["/data"]
            assert whole["problem_info"] == tiny_libero.data_attributes(each.file)["problem_info"]


def test_statistics_are_of_all_and_of_each_suite(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    rows = store.read("actions", range(store.rows))
    assert np.array_equal(store.statistics.all["actions"].min, rows.min(axis=0))
    assert np.allclose(store.statistics.all["actions"].mean, rows.mean(axis=0))
    assert sorted(store.statistics.suites) == list(store.suites)
    goal = [row for each in store.episodes if each.suite == "libero_goal" for row in range(each.start, each.start + each.length)]  # fmt: skip
    assert np.array_equal(store.statistics.suites["libero_goal"]["actions"].max, rows[goal].max(axis=0))
    assert "states" not in store.statistics.all
    assert "agentview_rgb" not in store.statistics.all


def test_rows_of_a_field_are_read_as_stored(tiny_stores: dict[str, Path]) -> None:
    plain = naive.of_tiny()
    rows = [5, 136, 5, 0, 60]
    for path in tiny_stores.values():
        store = open_store(path)
        for name in ("actions", "rewards", "agentview_rgb", "eye_in_hand_rgb"):
            whole = np.concatenate([each.arrays[name] for each in plain.episodes])
            found = store.read(name, rows)
            assert found.dtype == whole.dtype
            assert np.array_equal(found, whole[rows])
            assert store.read(name, rows, out=found) is found
    with pytest.raises(OptionError, match="width of its own"):
        store.read("states", rows)
    with pytest.raises(UnknownName, match="actions, agentview_rgb"):
        store.read("action", rows)
    with pytest.raises(OptionError, match="out does not fit"):
        store.read("actions", rows, out=np.empty((5, 6)))


def test_all_presets_have_one_fingerprint(tiny_stores: dict[str, Path]) -> None:
    assert len({open_store(path).fingerprint for path in tiny_stores.values()}) == 1


def test_a_split_is_computed_from_digests_and_stays_when_episodes_are_added(
    tiny_store: Path, parts_store: Path
) -> None:
    store = open_store(tiny_store)
    train, val = store.split("train", fraction=0.5, seed=1), store.split("val", fraction=0.5, seed=1)
    assert sorted([*train.episodes, *val.episodes]) == list(range(10))
    assert len(store.split("train", fraction=1.0)) == len(store.split("val", fraction=0.0)) == 10
    assert {tuple(store.split("train", fraction=0.5, seed=seed).episodes) for seed in range(20)} != {
        tuple(train.episodes)
    }
    for wrong, exists in (({"name": "test"}, "train, val"), ({"name": "val", "by": "task"}, "episode")):
        with pytest.raises(UnknownName, match=exists):
            store.split(**wrong)
    for wrong in (
        {"fraction": 1.5},
        {"fraction": "0.9"},
        {"fraction": None},
        {"fraction": True},
        {"seed": 0.5},
        {"seed": True},
    ):
        with pytest.raises(OptionError, match="fraction"):
            store.split("train", **wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fetcher_gives_the_same_samples(tiny_stores: dict[str, Path], parts_store: Path, kind: str) -> None:
    for path in (*tiny_stores.values(), parts_store):
        samples = Samples(
            open_store(path, fetcher=kind), windows={"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 3, "actions": range(9), "states": 0}, alignment="causal", images="as_stored"
        )  # fmt: skip
        expected = Samples(
            path, windows={"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 3, "actions": range(9), "states": 0}, alignment="causal", images="as_stored"
        )  # fmt: skip
        assert len(samples) == len(expected)
        for index in range(0, len(samples), 7):
            naive.assert_same_sample(samples[index], expected[index])
        indices = np.random.default_rng(0).integers(0, len(samples), 20)
        for found, sample in zip(samples.__getitems__(indices), expected.__getitems__(indices)):
            naive.assert_same_sample(found, sample)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_several_parts_is_that_of_each(parts_store: Path, kind: str) -> None:
    windows = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 3, "actions": range(9), "robot_states": [2]}
    options: dict[str, Any] = {"windows": windows, "alignment": "causal", "images": "upright"}
    samples = Samples(open_store(parts_store, fetcher=kind), **options)
    indices = np.random.default_rng(0).integers(0, len(samples), 40)
    many, each = samples.batch(indices), Samples(parts_store, **options)
    for at, index in enumerate(indices.tolist()):
        expected = each[index]
        for name, value in expected.items():
            assert np.array_equal(many[name][at], value), (name, index)
    mixture = vla_store.mixture([samples, Samples(parts_store, **options)], names=["one", "other"])
    both = mixture.batch(np.concatenate([indices, indices + len(samples)])[::-1])
    for name, column in many.items():
        twice = [*column, *column][::-1]
        assert all(np.array_equal(one, other) for one, other in zip(both[name], twice)), name


def test_a_store_behind_a_url_gives_the_same_samples(tiny_store: Path, memory_url: str) -> None:
    local, remote = open_store(tiny_store), open_store(memory_url)
    assert remote.url == memory_url
    assert remote.digest == local.digest
    assert list(remote.episodes) == list(local.episodes)
    assert remote.attributes(3).keys() == local.attributes(3).keys()
    options: dict[str, Any] = {"alignment": "causal", "images": "upright"}
    for found, sample in zip(Samples(remote, **options), Samples(local, **options)):
        naive.assert_same_sample(found, sample)


def test_a_handle_pickles_small_and_opens_the_same_root_where_it_arrives(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_store.parent)
    store = open_store(tiny_store.name)
    data = pickle.dumps(store)
    assert len(data) < 400
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(data)
    assert copy.digest == store.digest
    assert copy.rows == store.rows
    assert copy.url == str(tiny_store)


def _next_root(store: Path, *, replace: bool) -> Root:
    """Commits a second root: the same part twice."""
    root = Root.from_bytes((store / "zarr.json").read_bytes(), "zarr.json")
    shutil.copytree(store / root.parts[0].path, store / "parts" / "again")
    again = type(root.parts[0])("parts/again", root.parts[0].rows, root.parts[0].episodes, root.parts[0].listing)
    made = Root(2, root.digest, root.fingerprint, (root.parts[0], again), root.fields, root.meta).sealed()
    (store / layout.root_key(2)).write_bytes(made.to_bytes())
    if replace:
        (store / "zarr.json").unlink()
        (store / "zarr.json").write_bytes(made.to_bytes())
    return made


def test_a_handle_sees_its_root_for_ever(copied_store: Path) -> None:
    before = open_store(copied_store)
    pickled = pickle.dumps(before)
    made = _next_root(copied_store, replace=True)
    assert before.rows == pickle.loads(pickled).rows == 137
    after = open_store(copied_store)
    assert (after.rows, after.generation, after.digest) == (274, 2, made.digest)


def test_a_digest_pins_a_root_older_or_newer_than_the_current_one(copied_store: Path) -> None:
    first = open_store(copied_store).digest
    made = _next_root(copied_store, replace=False)
    assert open_store(copied_store).rows == 137
    assert open_store(copied_store, digest=made.digest).rows == 274
    (copied_store / "zarr.json").unlink()
    (copied_store / "zarr.json").write_bytes(made.to_bytes())
    assert open_store(copied_store, digest=first).rows == 137
    with pytest.raises(StoreDamaged, match="does not have the root that was asked for"):
        open_store(copied_store, digest="0" * 64)
    with pytest.raises(OptionError, match="64 hex digits"):
        open_store(copied_store, digest="abc")


def test_a_handle_of_a_store_that_was_built_anew_says_so(copied_store: Path, tiny_stores: dict[str, Path]) -> None:
    pickled = pickle.dumps(open_store(copied_store))
    shutil.rmtree(copied_store)
    with pytest.raises(StoreNotFound):
        pickle.loads(pickled).rows  # noqa: B018
    shutil.copytree(tiny_stores["raw"], copied_store)
    with pytest.raises(StoreDamaged, match="another store is where this handle's store was"):
        pickle.loads(pickled).rows  # noqa: B018


def test_no_store_is_a_store_not_found(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match=r"no store at this path\n  store  .*libero\.vla") as caught:
        open_store(tmp_path / "libero.vla")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(StoreNotFound, match="this folder is not a vla_store") as caught:
        open_store(tmp_path)
    assert "vla-store build" in fits_one_screen(caught.value)
    with pytest.raises(StoreNotFound, match="no store at this URL"):
        open_store("memory://nowhere/libero.vla")


def test_an_unfinished_build_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "libero.vla.partial" / "parts").mkdir(parents=True)
    for name in ("libero.vla", "libero.vla/", "libero.vla.partial"):
        with pytest.raises(StoreUnfinished, match="same `vla-store build` command") as caught:
            open_store(f"{tmp_path}/{name}")
        assert "libero.vla.partial" in fits_one_screen(caught.value)


def test_a_store_that_is_being_written_says_by_whom_and_how_far(tmp_path: Path) -> None:
    partial, store = tmp_path / "libero.vla.partial", tmp_path / "libero.vla"
    for name in ("build.lock", ""):  # of a build, and of a copy or merge
        with locked(partial, name, busy=AssertionError()):
            with pytest.raises(StoreUnfinished, match="this store is being written now") as caught:
                open_store(store)
            assert "same" not in fits_one_screen(caught.value)
            assert caught.value.places.keys() == {"store", "found"}
    status = {"done_nbytes": 300, "host": "box\x1b[2J", "nbytes": 1200, "pid": os.getpid()}
    (partial / "build.lock").write_text(json.dumps(status))
    with locked(partial, "build.lock", busy=AssertionError()), pytest.raises(StoreUnfinished) as caught:
        open_store(store)
    assert caught.value.places["process"].startswith(f"{os.getpid()} on box")
    assert caught.value.places["process"].isprintable()
    assert caught.value.places["encoded"] == "25% of the data"
    with pytest.raises(StoreUnfinished, match="the build of this store is unfinished") as caught:
        open_store(store)  # it was stopped
    assert "process" not in caught.value.places
    assert caught.value.places["encoded"] == "25% of the data"
    for odd in ("", "[]", "{", '{"pid": 1}', '{"pid": 1, "host": 2, "nbytes": 0, "done_nbytes": 0}'):
        (partial / "build.lock").write_text(odd)
        with pytest.raises(StoreUnfinished, match="unfinished"):
            open_store(store)


def test_what_is_not_a_store_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "demo.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "text").write_text("hello")
    (tmp_path / "foreign.zarr").mkdir()
    (tmp_path / "foreign.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (tmp_path / "old.zarr").mkdir()
    (tmp_path / "old.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    for name, found in (
        ("demo.hdf5", "an HDF5 file"),
        ("text", "a file"),
        ("foreign.zarr", "a zarr.json of something else"),
        ("old.zarr", "Zarr of version 2"),
    ):
        with pytest.raises(StoreDamaged, match=rf"(?s)not a vla_store.*{found}") as caught:
            open_store(tmp_path / name)
        fits_one_screen(caught.value)


def test_a_store_whose_root_was_lost_says_where_copies_are(copied_store: Path) -> None:
    (copied_store / "zarr.json").unlink()
    with pytest.raises(StoreDamaged, match=r"roots/"):
        open_store(copied_store)


def test_a_newer_format_is_refused_whole(copied_store: Path) -> None:
    document = json.loads((copied_store / "zarr.json").read_bytes())
    document["attributes"]["vla_store"]["format_version"] = 2
    (copied_store / "zarr.json").write_bytes(dumps(document))
    with pytest.raises(UnsupportedStore, match=r"(?s)newer vla_store.*pip install --upgrade"):
        open_store(copied_store)


def test_any_changed_byte_of_a_root_is_damage(copied_store: Path) -> None:
    path = copied_store / "zarr.json"
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((DataError, UsageError)):
            open_store(copied_store)
    path.write_bytes(data[:-20])
    with pytest.raises(StoreDamaged):
        open_store(copied_store)


def _rewrite_part(store: Path, change: Any) -> None:
    root = Root.from_bytes((store / "zarr.json").read_bytes(), "zarr.json")
    path = store / root.parts[0].path / "zarr.json"
    document = json.loads(path.read_bytes())
    change(document["attributes"]["vla_store"])
    path.write_bytes(dumps(document))


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("ee_pos", {"role": "guess"}),
        ("eye_in_hand_rgb", {"codec": {"name": "jpeg2000"}}),
        ("agentview_rgb", {"prediction": ["background", "flow"]}),
    ],
)
def test_a_field_of_an_unknown_kind_is_refused_at_its_use_by_name_and_no_other(
    copied_store: Path, field: str, change: dict[str, Any]
) -> None:
    _rewrite_part(copied_store, lambda document: document["fields"][field].update(change))
    store = open_store(copied_store)
    assert Samples(store, windows={"actions": 0})[0]["actions"].shape == (7,)
    with pytest.raises(UnsupportedStore, match=f"'{field}'.*{next(iter(change))}"):
        Samples(store, windows={field: 0})
    with pytest.raises(UnsupportedStore, match=field):
        store.read(field, [0])


def test_a_part_that_disagrees_with_the_root_is_damage(copied_store: Path) -> None:
    _rewrite_part(copied_store, lambda document: document["fields"]["ee_pos"].update(shape=[4]))
    with pytest.raises(StoreDamaged, match=r"(?s)disagree about a field.*ee_pos"):
        open_store(copied_store)
    _rewrite_part(copied_store, lambda document: document["fields"].pop("ee_pos"))
    with pytest.raises(StoreDamaged, match=r"(?s)lacks a field.*ee_pos"):
        open_store(copied_store)


def test_a_missing_part_is_damage_that_names_it(copied_store: Path) -> None:
    root = Root.from_bytes((copied_store / "zarr.json").read_bytes(), "zarr.json")
    os.rename(copied_store / root.parts[0].path, copied_store / "elsewhere")
    with pytest.raises(StoreDamaged, match=rf"(?s)missing.*{root.parts[0].path}/zarr\.json"):
        open_store(copied_store)


def test_statistics_that_are_not_what_their_name_says_are_damage(copied_store: Path) -> None:
    path = next((copied_store / "meta").iterdir())
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(StoreDamaged, match="not what its name says"):
        open_store(copied_store).statistics  # noqa: B018


@pytest.mark.parametrize(
    ("document", "property_"),
    [
        ({"skipped": [{"suite": "x", "file": "y"}]}, "skipped"),
        ({"skipped": {"suite": "x"}}, "skipped"),
        ({"skipped": [7]}, "skipped"),
        ({"warnings": "all is well"}, "warnings"),
        ({"warnings": [{"suite": "x", "file": "y", "warning": ["z"]}]}, "warnings"),
    ],
)
def test_a_list_of_what_was_left_out_that_is_not_as_the_format_says_is_damage(
    copied_store: Path, document: dict[str, Any], property_: str
) -> None:
    digest = sha256_hex(dumps(document))
    (copied_store / layout.meta_key(digest)).write_bytes(dumps(document))
    root = Root.from_bytes((copied_store / "zarr.json").read_bytes(), "zarr.json")
    changed = dataclasses.replace(root, meta=dataclasses.replace(root.meta, skipped=digest))
    for key in ("zarr.json", layout.root_key(root.generation)):
        (copied_store / key).write_bytes(changed.sealed().to_bytes())
    with pytest.raises(StoreDamaged, match=rf"'{property_}' is not as the format says"):
        getattr(open_store(copied_store), property_)
