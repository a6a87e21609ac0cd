"""Repair: byte-identical afterwards, exactly the damaged objects rewritten, and nothing else touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_tools
import tiny_libero
from store_tools import assert_one_screen, digests, root_of, run

from vla_store import OptionError, StoreDamaged, VlaStoreError, cli
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.repair import repair_store
from vla_store.storage import open_storage

Copy = Callable[[str], Path]
State = dict[str, tuple[int, int, int]]

KINDS = {
    "frames": "parts/*/*/eye_in_hand_rgb/c/0/0/0/0",
    "backgrounds": "parts/*/backgrounds/*/c/0/0/0/0",
    "field": "parts/*/steps/actions/c/0/0",
    "ragged": "parts/*/steps/states/c/0/*",
    "index": "parts/*/index/steps/c/0/0",
    "table": "parts/*/episodes/table/c/0/0",
    "digest": "parts/*/episodes/digest/c/0/0",
    "attributes": "parts/*/episodes/attributes/c/0",
    "array's document": "parts/*/steps/actions/zarr.json",
    "group's document": "parts/*/steps/zarr.json",
    "part's document": "parts/*/zarr.json",
    "listing": "parts/*/objects.jsonl",
    "groups": "parts/zarr.json",
    "zarr.json": "zarr.json",
    "first root": "roots/00000001.json",
    "second root": "roots/00000002.json",
    "meta": "meta/*.json",
}


def state(store: Path) -> State:
    """Inode, time of change and size of every file."""
    found = {}
    for path in store.rglob("*"):
        if path.is_file():
            stat = path.stat()
            found[path.relative_to(store).as_posix()] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def spoil(path: Path, how: str) -> None:
    if how == "flip":
        store_tools.flip(path, path.stat().st_size // 2)
    elif how == "cut":
        os.truncate(path, path.stat().st_size - 7)
    else:
        path.unlink()


def check_repair(store: Path, source: Path, keys: list[str], expected: dict[str, str]) -> None:
    before = state(store)
    report = repair_store(store, [source])
    assert report.sound
    assert sorted(report.repaired) == sorted(keys)
    assert digests(store) == expected
    touched = {key for key, value in state(store).items() if before.get(key) != value}
    assert touched == set(keys)


HOWS = ("flip", "cut", "delete")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_one_object_of_a_store_of_two_parts_is_repaired(
    halves: Any, made: Path, copy_of: Copy, kind: str, how: str
) -> None:
    store = copy_of("two")
    paths = sorted(store.glob(KINDS[kind]))
    if len(paths) > 1:  # of each part, or several documents: by turns, so that each is spoilt in one way or two
        paths = paths[(HOWS.index(how) + list(KINDS).index(kind)) % 2 :: 2]
    assert paths
    for path in paths:
        spoil(path, how)
        check_repair(store, halves.source, [path.relative_to(store).as_posix()], digests(made / "two.vla"))


def test_many_objects_at_once_are_repaired(halves: Any, made: Path, copy_of: Copy) -> None:
    store = copy_of("two")
    keys = []
    for number, kind in enumerate(("frames", "field", "table", "part's document", "listing", "groups", "second root")):
        path = sorted(store.glob(KINDS[kind]))[0]
        spoil(path, ("flip", "cut", "delete")[number % 3])
        keys.append(path.relative_to(store).as_posix())
    check_repair(store, halves.source, keys, digests(made / "two.vla"))


@pytest.mark.parametrize("preset", ["raw", "fast", "small"])
def test_every_preset_is_repaired_by_the_command(
    tiny_source: Path, tiny_stores: dict[str, Path], tmp_path: Path, preset: str
) -> None:
    store = Path(shutil.copytree(tiny_stores[preset], tmp_path / "x.vla"))
    keys = []
    for path in sorted(store.glob("parts/*/*/*_rgb/c/0/0/0/0")):
        spoil(path, "flip")
        keys.append(path.relative_to(store).as_posix())
    ran = run("repair", store, "--from", tiny_source, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["repaired"] == sorted(keys)
    assert digests(store) == digests(tiny_stores[preset])


def test_a_sound_store_is_left_alone(halves: Any, copy_of: Copy) -> None:
    store = copy_of("two")
    check_repair(store, halves.source, [], digests(store))


def test_left_overs_are_left_alone(halves: Any, copy_of: Copy) -> None:
    store = copy_of("two")
    (store / "notes.txt").write_text("mine")
    check_repair(store, halves.source, [], digests(store))


def test_three_roots_of_which_the_middle_one_is_lost(halves: Any, copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("two")
    file = tiny_libero.TinyFile("libero_z", "push_the_plate", 17, {0: 6})
    more = tiny_libero.write_suites(tmp_path / "more", suites=[file])
    append_store(more, store)
    expected = digests(store)
    for generation in (1, 2, 3):
        (store / f"roots/{generation:08d}.json").unlink()
    report = repair_store(store, [halves.source, more])
    assert (report.sound, len(report.repaired), digests(store)) == (True, 3, expected)


def test_what_was_left_out_and_conventions_that_were_given_are_restored(tmp_path: Path) -> None:
    source = tiny_libero.write_suites(tmp_path / "LIBERO", attributes=False)
    tiny_libero.replace(tiny_libero.victim(source), "data/demo_0/actions")
    (source / "libero_spatial" / "torn_demo.hdf5").write_bytes(b"not HDF5")
    store = tmp_path / "x.vla"
    told: dict[str, Any] = {"orientation": "bottom_up", "observation": "after", "skip_bad": True}
    build_store([source / "libero_10", source / "libero_goal"], store, **told)
    append_store(source / "libero_spatial", store, **told)
    expected = digests(store)
    root = root_of(store)
    for key in (f"meta/{root.meta.skipped}.json", f"{root.parts[1].path}/zarr.json"):
        (store / key).unlink()
        check_repair(store, source, [key], expected)


def test_a_store_that_another_blosc_encoded_is_repaired_where_the_bytes_are_the_same(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "older.vla"
    with monkeypatch.context() as older:
        older.setattr("vla_store.builder.plan.blosc_version", lambda: "1.2.3")
        build_store([tiny_source], store)
    expected = digests(store)
    for kind in ("field", "frames", "listing"):
        key = next(store.glob(KINDS[kind])).relative_to(store).as_posix()
        (store / key).unlink()
        check_repair(store, tiny_source, [key], expected)


def test_a_group_that_is_the_root_of_a_store_merged_in_place_is_that_root_again(
    halves: Any, made: Path, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        shutil.copytree(made / f"{name}.vla", tmp_path / f"all/{name}.vla")
    merge_stores([tmp_path / "all/first.vla", tmp_path / "all/second.vla"], tmp_path / "all")
    expected = digests(tmp_path / "all")
    for key in ("first.vla/zarr.json", "second.vla/parts/zarr.json"):
        spoil(tmp_path / "all" / key, "flip")
        check_repair(tmp_path / "all", halves.source, [key], expected)


def test_a_store_at_a_url_is_repaired(halves: Any, made: Path, tmp_path: Path, bucket: Any) -> None:
    for url in (f"memory://repair-{tmp_path.name}", "s3://robots/repair.vla"):
        copy_store(made / "two.vla", url)
        place = open_storage(url)
        keys = [key for key in list(place.keys()) if key.endswith("_rgb/c/0/0/0/0")]
        place.write(keys[0], (place.get(keys[0]) or b"")[:-3])
        place.remove(keys[1])
        assert sorted(repair_store(url, halves.source).repaired) == sorted(keys[:2])
        assert {key: place.get(key) for key in list(place.keys())} == store_tools.objects(made / "two.vla")


# Refused


def test_another_source_is_refused_and_nothing_is_written(
    halves: Any, copy_of: Copy, tmp_path: Path, tiny_source: Path
) -> None:
    store = copy_of("two")
    other = Path(shutil.copytree(halves.source, tmp_path / "other"))
    (path,) = other.glob("libero_goal/*.hdf5")
    pixels = tiny_libero.read(path, "data/demo_0/obs/eye_in_hand_rgb")
    tiny_libero.replace(path, "data/demo_0/obs/eye_in_hand_rgb", 255 - pixels)
    goal = root_of(store).parts[0].path
    keys = [next(iter(store.glob(KINDS[kind].replace("parts/*", goal)))) for kind in ("field", "frames")]
    for key in keys:
        spoil(key, "flip")
    before = state(store)
    for sources in ([other], [halves.second], [tiny_source]):
        with pytest.raises(VlaStoreError) as caught:
            repair_store(store, sources)
        assert_one_screen(cli.error_text(caught.value), "--from")
        assert state(store) == before
    with pytest.raises(OptionError, match="not among those given"):
        repair_store(store, [halves.second])


def test_a_source_whose_pixels_changed_beside_the_probe_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """The plan does not see them; the object's digest does."""
    file = tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 150})
    source = tiny_libero.write_suites(tmp_path / "LIBERO", suites=[file])
    store = store_tools.built(tmp_path / "x.vla", [source])
    (path,) = source.glob("*/*.hdf5")
    probed = {(2 * k * 149 + 63) // 126 for k in range(64)} | {(2 * k * 149 + 15) // 30 for k in range(16)}
    pixels = tiny_libero.read(path, "data/demo_0/obs/eye_in_hand_rgb")
    pixels[min(set(range(150)) - probed)] ^= 1
    tiny_libero.replace(path, "data/demo_0/obs/eye_in_hand_rgb", pixels)
    for kind in ("field", "frames"):
        spoil(next(iter(store.glob(KINDS[kind]))), "flip")
    before = state(store)
    with pytest.raises(StoreDamaged) as caught:
        repair_store(store, [source])
    assert_one_screen(cli.error_text(caught.value), "eye_in_hand_rgb", "nothing was written", "expected", "found")
    assert state(store) == before


def test_an_array_when_it_is_wrong_under_right_digests_then_repair_says_that_nothing_was_lost(
    halves: Any, copy_of: Copy
) -> None:
    store = copy_of("first")
    store_tools.flip(next(iter(store.glob(KINDS["index"]))), 4)
    store_tools.resign(store)
    before = state(store)
    with pytest.raises(StoreDamaged) as caught:
        repair_store(store, [halves.source])
    assert_one_screen(cli.error_text(caught.value), "index/steps", "wrong content", "build the store again")
    assert state(store) == before


def test_a_newest_root_that_is_lost_in_both_places_does_not_take_the_store_back(halves: Any, copy_of: Copy) -> None:
    store = copy_of("two")
    for key in ("zarr.json", "roots/00000002.json"):
        spoil(store / key, "flip")
    before = state(store)
    with pytest.raises(StoreDamaged) as caught:
        repair_store(store, [halves.source])
    assert_one_screen(cli.error_text(caught.value), "the newest root is damaged in both places", "00000002")
    assert state(store) == before
    (store / "roots/00000002.json").unlink()
    assert repair_store(store, [halves.source]).sound
    assert root_of(store).rows == 17
    assert verify_store(store).leftovers  # the part that was given up


def test_a_store_without_any_root_is_built_again(halves: Any, copy_of: Copy) -> None:
    store = copy_of("first")
    for key in ("zarr.json", "roots/00000001.json"):
        spoil(store / key, "cut")
    with pytest.raises(StoreDamaged, match="no root of the store can be read"):
        repair_store(store, [halves.source])
