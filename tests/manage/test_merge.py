"""Several stores as one: in place where they lie together, else copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import store_tools
import tiny_libero
from store_tools import assert_one_screen, digests, registered, root_of, run

import vla_store
from vla_store import DestinationExists, OptionError, StoreDamaged, StoreNotFound, cli
from vla_store.audit import verify_store
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.storage import open_storage


@pytest.fixture
def together(made: Path, tmp_path: Path) -> Path:
    """A folder in which first.vla and deeper/second.vla lie."""
    shutil.copytree(made / "first.vla", tmp_path / "all/first.vla")
    shutil.copytree(made / "second.vla", tmp_path / "all/deeper/second.vla")
    return tmp_path / "all"


def merged(folder: Path) -> Any:
    return merge_stores([folder / "first.vla", folder / "deeper/second.vla"], folder)


def test_stores_below_the_new_root_are_merged_where_they_lie(made: Path, together: Path, halves: Any) -> None:
    before = digests(together)
    report = merged(together)
    assert report.copied_nbytes == 0
    assert {key: digests(together)[key] for key in before} == before
    root, whole = root_of(together), root_of(made / "both.vla")
    assert (root.fingerprint, root.meta, root.fields) == (whole.fingerprint, whole.meta, whole.fields)
    assert [part.path.split("/parts/")[0] for part in root.parts] == ["first.vla", "deeper/second.vla"]
    checked = verify_store(together, against=[halves.source])
    assert (checked.problems, checked.leftovers, checked.compared_episodes) == ([], [], 4)
    assert verify_store(together / "first.vla").sound
    assert (vla_store.open_store(together / "deeper/second.vla").rows, vla_store.open_store(together).rows) == (10, 27)


def test_a_merge_in_place_when_it_was_killed_then_the_same_call_leaves_nothing_half_written(together: Path) -> None:
    torn = together / "meta/.x.json.0123456789ab.tmp"
    torn.parent.mkdir()
    torn.write_bytes(b"half")
    merged(together)
    assert not torn.exists()


def test_a_zarr_reader_walks_a_store_that_was_merged_in_place(together: Path) -> None:
    zarr = pytest.importorskip("zarr")
    merged(together)
    group = zarr.open_group(str(together), mode="r")
    part = root_of(together).parts[1].path
    assert group[f"{part}/steps/actions"].shape == (10, 7)
    assert isinstance(group["deeper/second.vla/parts"], zarr.Group)


def test_a_store_that_was_merged_in_place_grows_and_is_copied(together: Path, tmp_path: Path) -> None:
    merged(together)
    file = tiny_libero.TinyFile("libero_z", "push_the_plate", 17, {0: 6})
    source = tiny_libero.write_suites(tmp_path / "more", suites=[file])
    append_store(source, together)
    checked = verify_store(together)
    assert (checked.problems, checked.leftovers, checked.rows) == ([], [], 33)
    copy_store(together, tmp_path / "copy.vla")
    checked = verify_store(tmp_path / "copy.vla")
    assert (checked.problems, checked.leftovers, checked.rows) == ([], [], 33)
    assert vla_store.open_store(tmp_path / "copy.vla").digest == vla_store.open_store(together).digest


def test_stores_elsewhere_are_copied_in_the_order_given(made: Path, tmp_path: Path, halves: Any) -> None:
    ran = run("merge", made / "first.vla", made / "second.vla", tmp_path / "x.vla")
    assert ran.code == 0, ran.err
    root, whole = root_of(tmp_path / "x.vla"), root_of(made / "both.vla")
    assert (root.fingerprint, root.meta, root.generation) == (whole.fingerprint, whole.meta, 1)
    checked = verify_store(tmp_path / "x.vla", against=[halves.source])
    assert (checked.problems, checked.leftovers) == ([], [])
    merge_stores([made / "second.vla", made / "first.vla"], tmp_path / "y.vla")
    assert vla_store.open_store(tmp_path / "y.vla").read("actions", [0]).tobytes() == (
        vla_store.open_store(made / "second.vla").read("actions", [0]).tobytes()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.vla", "y.vla"]


def test_a_store_of_several_parts_is_merged_with_all_of_them(made: Path, tmp_path: Path) -> None:
    file = tiny_libero.TinyFile("libero_z", "push_the_plate", 17, {0: 6})
    source = tiny_libero.write_suites(tmp_path / "more", suites=[file])
    store_tools.built(tmp_path / "z.vla", [source])
    report = merge_stores([made / "two.vla", tmp_path / "z.vla"], tmp_path / "x.vla")
    assert [part.rows for part in report.root.parts] == [17, 10, 6]
    assert verify_store(tmp_path / "x.vla").problems == []


def test_a_merge_that_was_stopped_goes_on_and_keeps_nothing_of_another(made: Path, tmp_path: Path) -> None:
    partial = tmp_path / "x.vla.partial"
    shutil.copytree(made / "both.vla", partial)  # all that another merge, of other stores, left behind
    (partial / "roots/.00000001.json.0123456789ab.tmp").write_bytes(b"torn")
    merge_stores([made / "first.vla", made / "second.vla"], tmp_path / "x.vla")
    checked = verify_store(tmp_path / "x.vla")
    assert (checked.problems, checked.leftovers) == ([], [])
    assert not os.path.exists(partial)


def test_stores_are_merged_into_memory(made: Path, tmp_path: Path) -> None:
    url = f"memory://merged-{tmp_path.name}"
    merge_stores([made / "first.vla", made / "second.vla"], url)
    assert verify_store(url).problems == []
    assert vla_store.open_store(url).fingerprint == root_of(made / "both.vla").fingerprint


def test_storage_that_cannot_create_exclusively_is_merged_into_as_it_is_copied_to(made: Path, tmp_path: Path) -> None:
    from fsspec import AbstractFileSystem

    kind = registered("slow", pipe_file=AbstractFileSystem.pipe_file)
    url = f"{kind}://merged-{tmp_path.name}"
    merge_stores([made / "first.vla", made / "second.vla"], url)
    checked = verify_store(url)
    assert (checked.problems, checked.leftovers) == ([], [])
    assert vla_store.open_store(url).fingerprint == root_of(made / "both.vla").fingerprint

    place = open_storage(url)
    place.remove("zarr.json")  # as a merge that was killed, or is still at work, leaves it
    with pytest.raises(DestinationExists, match="a root of another store is there"):
        merge_stores([made / "first.vla"], url)
    assert place.get("zarr.json") is None
    merge_stores([made / "first.vla", made / "second.vla"], url)
    assert verify_store(url).problems == []


@pytest.mark.parametrize("names", [("first", "first"), ("first", "two"), ("both", "second")])
def test_a_file_that_two_of_them_have_is_refused(made: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(OptionError) as caught:
        merge_stores([made / f"{name}.vla" for name in names], tmp_path / "x.vla")
    assert_one_screen(cli.error_text(caught.value), "a file is in the store already", "_demo.hdf5")
    assert list(tmp_path.iterdir()) == []


def test_stores_whose_cameras_differ_are_refused(made: Path, tmp_path: Path) -> None:
    file = tiny_libero.TinyFile("libero_z", "push_the_plate", 17, {0: 6})
    source = tiny_libero.write_suites(tmp_path / "more", suites=[file], height=8)
    store_tools.built(tmp_path / "z.vla", [source])
    with pytest.raises(OptionError) as caught:
        merge_stores([made / "first.vla", tmp_path / "z.vla"], tmp_path / "x.vla")
    assert_one_screen(cli.error_text(caught.value), "the parts do not fit together", "(16, 24, 3)", "(8, 24, 3)")
    assert not (tmp_path / "x.vla").exists()


def test_a_damaged_store_is_not_merged(made: Path, together: Path, tmp_path: Path) -> None:
    (shard,) = together.glob("first.vla/parts/*/steps/actions/c/0/0")
    store_tools.flip(shard, 20)
    for target in (together, tmp_path / "x.vla"):
        with pytest.raises(StoreDamaged, match="steps/actions"):
            merge_stores([together / "first.vla", together / "deeper/second.vla"], target)
        assert not (target / "zarr.json").exists()


def test_what_is_there_is_never_replaced(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "first.vla", tmp_path / "x.vla")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/today.txt").write_text("mine")
    for target in ("x.vla", "notes"):
        before = digests(tmp_path)
        with pytest.raises(DestinationExists):
            merge_stores([made / "first.vla", made / "second.vla"], tmp_path / target)
        assert digests(tmp_path) == before
    with pytest.raises(StoreNotFound):
        merge_stores([tmp_path / "no.vla"], tmp_path / "y.vla")
    with pytest.raises(OptionError):
        merge_stores([], tmp_path / "y.vla")


def test_an_unfinished_build_in_the_way_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "x.vla.partial").mkdir()
    (tmp_path / "x.vla.partial/build.lock").touch()
    with pytest.raises(DestinationExists, match="unfinished build"):
        copy_store(made / "two.vla", tmp_path / "x.vla")
    with pytest.raises(DestinationExists, match="unfinished build"):
        merge_stores([made / "first.vla", made / "second.vla"], tmp_path / "x.vla")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.vla.partial", "build.lock"]
