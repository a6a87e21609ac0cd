"""`verify` names the object that is damaged, exactly that one, whatever happens to it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import store_tools
import tiny_libero
from hypothesis import given
from hypothesis import strategies as st
from store_tools import flip, objects, part_of, resign, run

from vla_store import OptionError, StoreNotFound, UnsupportedStore, view_rules
from vla_store.audit import verify_store
from vla_store.manage.views import add_view

SMALL = (
    tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 5, 2: 1}),
    tiny_libero.TinyFile("libero_spatial", "pick_up_the_cup", 14, {1: 4}),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_libero.write_suites(tmp_path_factory.mktemp("audit") / "source", suites=SMALL)
    # One count that is wrong, so that the store has a document of warnings too.
    tiny_libero.set_attribute(folder / SMALL[0].suite / SMALL[0].name, "data", "num_demos", np.int64(3))
    return folder


@pytest.fixture(scope="module")
def pristine(source: Path) -> Path:
    return store_tools.built(source.parent / "pristine.vla", [source])


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "x.vla"))


def named(store: Path) -> list[str]:
    return [each.object for each in verify_store(store).problems]


def test_a_whole_store_is_sound_and_everything_in_it_is_accounted_for(pristine: Path) -> None:
    report = verify_store(pristine)
    assert report.problems == []
    assert report.leftovers == []
    assert (report.rows, report.episodes, report.objects) == (10, 3, len(objects(pristine)))
    assert report.fingerprint == store_tools.root_of(pristine).fingerprint
    assert report.nbytes == sum(map(len, objects(pristine).values()))


@pytest.mark.parametrize("workers", [0, -1, "2"])
def test_a_number_of_workers_that_cannot_be_is_refused(pristine: Path, workers: Any) -> None:
    with pytest.raises(OptionError, match="workers"):
        verify_store(pristine, workers=workers)


@pytest.mark.parametrize("place", [0.0, 0.37, 0.71, 1.0])
def test_a_flipped_byte_anywhere_names_its_object_and_no_other(store: Path, place: float) -> None:
    for key, data in objects(store).items():
        offset = min(len(data) - 1, int(len(data) * place))
        flip(store / key, offset)
        try:
            assert named(store) == [key], f"{key} at {offset}"
        finally:
            flip(store / key, offset)
    assert named(store) == []


def test_a_flipped_bit_at_any_place_is_found(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("bits") / "x.vla"))
    all_objects = objects(store)

    @given(st.sampled_from(sorted(all_objects)), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
    def holds(key: str, place: float, bit: int) -> None:
        offset = int(len(all_objects[key]) * place)
        flip(store / key, offset, 1 << bit)
        try:
            found = named(store)
        except UnsupportedStore as error:  # the digit of the format's version became a higher one
            found = [error.places["object"]]
        finally:
            flip(store / key, offset, 1 << bit)
        assert found == [key]

    holds()


@pytest.mark.parametrize("left", [0, 1, -1], ids=["emptied", "cut to a byte", "one byte short"])
def test_an_object_cut_short_is_named_and_no_other(store: Path, left: int) -> None:
    for key, data in objects(store).items():
        (store / key).write_bytes(data[:left])
        assert named(store) == [key]
        (store / key).write_bytes(data)


def test_an_object_that_grew_is_named_and_no_other(store: Path) -> None:
    for key, data in objects(store).items():
        (store / key).write_bytes(data + b"\0")
        assert named(store) == [key]
        (store / key).write_bytes(data)


def test_a_missing_object_is_named_and_no_other(store: Path) -> None:
    for key, data in objects(store).items():
        (store / key).unlink()
        assert named(store) == [key]
        (store / key).write_bytes(data)


def test_two_objects_that_changed_places_are_both_named(store: Path) -> None:
    part = part_of(store)
    shards = sorted(path for path in part.glob("steps/*/c/**/*") if path.is_file())
    for a, b in itertools.pairwise(shards):
        first, second = a.read_bytes(), b.read_bytes()
        if first == second:
            continue
        a.write_bytes(second)
        b.write_bytes(first)
        assert sorted(named(store)) == sorted(path.relative_to(store).as_posix() for path in (a, b))
        a.write_bytes(first)
        b.write_bytes(second)


def test_everything_damaged_at_once_is_listed(store: Path) -> None:
    part = part_of(store)
    broken = [path for path in part.rglob("*") if path.is_file() and path.name not in ("zarr.json", "objects.jsonl")]
    for path in broken:
        flip(path, 3)
    assert sorted(named(store)) == sorted(path.relative_to(store).as_posix() for path in broken)


def test_what_no_root_names_is_left_over_and_no_damage(store: Path) -> None:
    extra = [
        "notes.txt",
        "parts/0123456789abcdef/steps/actions/c/0/0",
        part_of(store).relative_to(store).as_posix() + "/x",
    ]
    for key in extra:
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(b"left over")
    report = verify_store(store)
    assert report.sound
    assert report.leftovers == sorted(extra)
    ran = run("verify", store)
    assert ran.code == 0
    assert all(key in ran.out for key in extra)


def test_a_part_whose_listing_is_damaged_is_not_called_left_over(store: Path) -> None:
    flip(part_of(store) / "objects.jsonl", 10)
    assert verify_store(store).leftovers == []


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_later_root_when_zarr_json_and_the_first_root_are_lost_then_the_store_is_checked_by_it(
    store: Path, how: str
) -> None:
    add_view(store, "whole", view_rules.drop_tail(0), allow_empty=True)
    (store / "roots/00000001.json").unlink()
    (store / "zarr.json").write_bytes(b"{}") if how == "damaged" else (store / "zarr.json").unlink()
    report = verify_store(store)
    assert [each.object for each in report.problems] == ["zarr.json", "roots/00000001.json"]
    assert (report.rows, report.generation) == (10, 2)


def test_an_intact_older_root_stands_in_for_a_damaged_current_one(store: Path) -> None:
    flip(store / "zarr.json", 50)
    report = verify_store(store)
    assert [each.object for each in report.problems] == ["zarr.json"]
    assert report.rows == 10  # the rest was checked all the same


# Sound digests over wrong content: only a look at the content finds it.


def change_array(store: Path, array: str, change: object) -> None:
    """Change the rows of a numeric array of one shard in place, its digests made right again."""
    part = part_of(store)
    (shard,) = [path for path in (part / array / "c").rglob("*") if path.is_file()]
    metadata = json.loads((part / array / "zarr.json").read_bytes())
    data = bytearray(shard.read_bytes())
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    rows = np.frombuffer(data, dtype, int(np.prod(metadata["shape"]))).reshape(metadata["shape"])
    change(rows)  # type: ignore[operator]
    shard.write_bytes(data)
    resign(store)


@pytest.mark.parametrize(
    ("array", "blamed", "says"),
    [
        ("steps/actions", "episodes/digest", "episode 0 does not have the digest of its data"),
        ("index/steps", "index/steps", "the index and the episode table disagree"),
        ("episodes/table", "episodes/table", "do not follow one another"),
        ("episodes/digest", "episodes/digest", "episode 0 does not have the digest of its data"),
    ],
)
def test_wrong_content_under_right_digests_is_found(store: Path, array: str, blamed: str, says: str) -> None:
    def change(rows: np.ndarray) -> None:
        rows[0, 1] += 1

    change_array(store, array, change)
    found = verify_store(store).problems
    assert (f"{part_of(store).relative_to(store).as_posix()}/{blamed}", True) in [
        (each.object, says in each.what) for each in found
    ]


def test_wrong_statistics_under_right_digests_are_found(store: Path) -> None:
    from vla_store.format import canonical

    root = store_tools.root_of(store)
    path = store / "meta" / f"{root.meta.statistics}.json"
    document = json.loads(path.read_bytes())
    document["fields"]["actions"]["all"]["mean"][0] = "0.5"
    data = canonical.dumps(document)
    path.unlink()
    digest = canonical.sha256_hex(data)
    (store / "meta" / f"{digest}.json").write_bytes(data)
    resign(store, lambda root: root["meta"].update(statistics=digest))
    assert [(each.object, each.what) for each in verify_store(store).problems] == [
        (f"meta/{digest}.json", "the statistics are not those of the data")
    ]


def test_a_wrong_fingerprint_under_a_right_digest_is_found(store: Path) -> None:
    resign(store, lambda root: root.update(fingerprint="0" * 64))
    assert [(each.object, each.what) for each in verify_store(store).problems] == [
        ("zarr.json", "its fingerprint is not that of the data")
    ]


def test_a_root_that_claims_many_generations_is_named_without_end_of_patience(store: Path) -> None:
    resign(store, lambda root: root.update(generation=99_999_999))
    assert 1 < len(verify_store(store).problems) < 40


# Against the source


@pytest.fixture
def changed(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "source"))


def differs(store: Path, changed: Path) -> list[str]:
    report = verify_store(store, against=[changed])
    assert all(each.object == "" for each in report.problems)
    return [each.what for each in report.problems]


def first_file(folder: Path) -> Path:
    return folder / SMALL[0].suite / SMALL[0].name


def test_a_store_equals_the_source_it_was_built_from(store: Path, source: Path) -> None:
    report = verify_store(store, against=source)
    assert report.sound
    assert report.compared_episodes == 3


@pytest.mark.parametrize("name", ["actions", "states", "obs/agentview_rgb", "obs/ee_pos", "rewards"])
def test_one_changed_value_is_found_with_its_demo_and_dataset(store: Path, changed: Path, name: str) -> None:
    with h5py.File(first_file(changed), "r+") as file:
        dataset = file[f"data/demo_0/{name}"]
        rows = dataset[()]
        rows.reshape(-1)[-1] += 1
        dataset[...] = rows
    assert differs(store, changed) == [
        f"libero_goal/{SMALL[0].name} demo_0: {name.removeprefix('obs/')} differs from the source's"
    ]


def test_a_zero_that_changed_its_sign_is_found(store: Path, changed: Path) -> None:
    path = first_file(changed)
    with h5py.File(path, "r+") as file:
        assert file["data/demo_0/actions"][0, 0] == 0.0
        file["data/demo_0/actions"][0, 0] = -0.0
    assert len(differs(store, changed)) == 1


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("data", "the file's attributes differ from the source's"),
        ("data/demo_0", "demo_0: attributes differ from the source's"),
        ("data/demo_0/obs/ee_pos", "demo_0: attributes differ from the source's"),
    ],
)
def test_a_changed_attribute_is_found(store: Path, changed: Path, group: str, says: str) -> None:
    tiny_libero.set_attribute(first_file(changed), group, "note", "new")
    (found,) = differs(store, changed)
    assert found.endswith(says)


def test_a_demo_too_few_and_one_too_many_are_found(store: Path, changed: Path) -> None:
    with h5py.File(first_file(changed), "r+") as file:
        file.move("data/demo_2", "data/demo_5")
    name = f"libero_goal/{SMALL[0].name}"
    assert differs(store, changed) == [
        f"{name} demo_2 is in the store, but not (or bad) in the source",
        f"{name} demo_5 is in the source, but not in the store",
    ]


def test_a_file_too_few_and_one_too_many_are_found(store: Path, changed: Path) -> None:
    first_file(changed).rename(first_file(changed).with_name("another_demo.hdf5"))
    assert differs(store, changed) == [
        f"libero_goal/{SMALL[0].name} is in the store, but not in the sources given",
        "libero_goal/another_demo.hdf5 is in the sources given, but not in the store",
    ]


def test_a_whole_store_of_other_sources_differs_and_is_not_called_damaged(store: Path, changed: Path) -> None:
    first_file(changed).rename(first_file(changed).with_name("another_demo.hdf5"))
    ran = run("verify", store, "--against", changed)
    assert ran.code == 1
    assert ran.out.startswith("DIFFERS ")
    assert "the store itself is whole" in ran.out
    flip(store / "parts/zarr.json", 3)
    assert run("verify", store, "--against", changed).out.startswith("DAMAGED ")


def test_a_field_of_another_dtype_or_a_dataset_more_is_found(store: Path, changed: Path) -> None:
    path = first_file(changed)
    rows = tiny_libero.read(path, "data/demo_0/obs/ee_pos")
    tiny_libero.replace(path, "data/demo_0/obs/ee_pos", rows.astype(np.float32))
    tiny_libero.replace(path, "data/demo_2/obs/more", np.zeros((1, 2)))
    found = differs(store, changed)
    assert f"libero_goal/{SMALL[0].name} demo_0: ee_pos differs from the source's" in found
    assert f"libero_goal/{SMALL[0].name} demo_2: the datasets are not the fields of the store" in found


def test_a_source_that_cannot_be_read_any_more_is_a_problem_of_that_source(store: Path, changed: Path) -> None:
    tiny_libero.cut_short(first_file(changed))
    assert differs(store, changed) == [
        f"libero_goal/{SMALL[0].name}: the source cannot be read: the HDF5 file is truncated"
    ]


def test_a_damaged_store_says_so_beside_what_differs_from_the_source(store: Path, source: Path) -> None:
    (shard,) = [path for path in (part_of(store) / "steps/actions/c").rglob("*") if path.is_file()]
    flip(shard, 0)
    found = verify_store(store, against=source).problems
    assert found[0].object == shard.relative_to(store).as_posix()
    assert [each.what for each in found[1:]] == [
        f"libero_goal/{SMALL[0].name} demo_0: actions differs from the source's"
    ]


# What the command says


def test_the_command_exits_with_1_and_names_the_object(store: Path) -> None:
    key = "parts/zarr.json"
    flip(store / key, 3)
    ran = run("verify", store)
    assert ran.code == 1
    assert "DAMAGED" in ran.out
    assert key in ran.out
    as_json = json.loads(run("verify", store, "--json").out)
    assert not as_json["sound"]
    assert [each["object"] for each in as_json["problems"]] == [key]


def test_a_hundred_problems_are_a_screen_for_people_and_all_for_programs(store: Path) -> None:
    for path in part_of(store).rglob("*"):
        if path.is_file() and path.name not in ("objects.jsonl",):
            flip(path, 0)
    report = verify_store(store)
    assert len(report.problems) > 24
    assert len(report.text().splitlines()) <= 30
    assert len(report.to_json()["problems"]) == len(report.problems)


def test_no_store_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        verify_store(tmp_path / "no.vla")
    os.mkdir(tmp_path / "empty")
    with pytest.raises(StoreNotFound):
        verify_store(tmp_path / "empty")
    ran = run("verify", tmp_path / "empty")
    assert ran.code == 2
    store_tools.assert_one_screen(ran.err, tmp_path / "empty")
