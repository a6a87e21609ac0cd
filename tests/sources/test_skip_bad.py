"""`--skip-bad`: whatever is wrong with one demonstration is found before the work, recorded and left out, and the rest is built with
the bytes that it would have without that demonstration."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import store_tools
from odd_files import FILE, assert_equals_h5py, each_demo, odd_file
from own_sources import FIELDS, Own
from store_tools import assert_one_screen, objects, part_of, run

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import SourceInfo, build_store
from vla_store.builder.scan import scan_sources
from vla_store.errors import MachineError, SourceError, machine_error
from vla_store.format.attributes import Attributes
from vla_store.manage.append import append_store
from vla_store.manage.repair import repair_store
from vla_store.sources.find import find_sources
from vla_store.sources.libero import LiberoFile
from vla_store.sources.protocol import Array, EpisodeSource, close_files

Change = Callable[[h5py.File], Any]

PIXELS, JOINTS = "obs/agentview_rgb", "obs/joint_states"


@pytest.fixture(autouse=True)
def let_go() -> None:
    close_files()  # HDF5 takes a file that is open for the file that is written anew in its place


# Damage


def stored(*names: str, **options: Any) -> Change:
    """Datasets of every demo written anew, four rows a chunk unless said otherwise."""

    def change(file: h5py.File) -> None:
        for demo in each_demo(file):
            for name in names:
                rows = demo[name][()]
                del demo[name]
                demo.create_dataset(name, data=rows, **{"chunks": (4, *rows.shape[1:]), **options})

    return change


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def chunk_of(path: Path, name: str, demo: str = "demo_1", number: int = 1) -> tuple[int, int]:
    """Where a chunk lies in the file, and its size."""
    with h5py.File(path) as file:
        chunk = file[f"data/{demo}/{name}"].id.get_chunk_info(number)
        return chunk.byte_offset, chunk.size


def spoil_chunk(path: Path, name: str, demo: str = "demo_1") -> None:
    offset, size = chunk_of(path, name, demo)
    overwrite(path, offset + size // 2, bytes(range(7, 47))[: size - size // 2])


def spoil_object(path: Path, name: str, demo: str = "demo_1") -> None:
    """The first bytes of an object's header, where its version stands."""
    with h5py.File(path) as file:
        at = h5py.h5o.get_info(file[f"data/{demo}/{name}"].id).addr
    overwrite(path, at, b"\xff" * 16)


def spoil_tree(path: Path, name: str) -> None:
    """The B-tree that says where the chunks of a dataset lie: it names the dataset's first chunk's address."""
    offset, _ = chunk_of(path, name, number=0)
    data = path.read_bytes()
    address = data.index(offset.to_bytes(8, "little"))
    overwrite(path, data.rindex(b"TREE", 0, address), b"EERT")


def spoil_text(path: Path, old: bytes, new: bytes, occurrence: int) -> None:
    data, at = path.read_bytes(), -1
    for _ in range(occurrence + 1):
        at = data.index(old, at + 1)
    overwrite(path, at, new)


def move_past_the_end(path: Path, name: str) -> None:
    """A contiguous dataset whose place is said to be after the file's end, which HDF5 itself does not notice before it reads."""
    with h5py.File(path) as file:
        offset = file[f"data/demo_1/{name}"].id.get_offset()
    data = path.read_bytes()
    overwrite(path, data.index(offset.to_bytes(8, "little")), (len(data) - 8).to_bytes(8, "little"))


def attribute_of(path: Path, name: str) -> None:
    """The message of an attribute of demo_1: its name stands there, after the version and sizes."""
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["zz_victim"] = np.arange(3.0)
    data = path.read_bytes()
    overwrite(path, data.index(b"zz_victim") - 8, b"\xee")


@dataclass(frozen=True)
class Damage:
    """What is done to demo_1: before, to the whole file as HDF5; then to its bytes. reason: what the store says of it."""

    reason: str
    spoil: Callable[[Path], Any]
    change: Change | None = None


DAMAGES = {
    "gzip pictures": Damage(
        "cannot be read (dataset obs/agentview_rgb)",
        lambda path: spoil_chunk(path, PIXELS),
        stored(PIXELS, compression="gzip"),
    ),
    "gzip with shuffle, of numbers": Damage(
        "cannot be read (dataset obs/ee_pos)",
        lambda path: spoil_chunk(path, "obs/ee_pos"),
        stored("obs/ee_pos", compression="gzip", shuffle=True),
    ),
    "fletcher32 alone": Damage(
        "cannot be read (dataset robot_states)",
        lambda path: spoil_chunk(path, "robot_states"),
        stored("robot_states", fletcher32=True),
    ),
    "gzip actions": Damage(
        "cannot be read (dataset actions)",
        lambda path: spoil_chunk(path, "actions"),
        stored("actions", compression="gzip"),
    ),
    "gzip states, which are measured": Damage(
        "cannot be read (dataset states)",
        lambda path: spoil_chunk(path, "states"),
        stored("states", compression="gzip"),
    ),
    "gzip joints, which are measured": Damage(
        "cannot be read (dataset obs/joint_states)",
        lambda path: spoil_chunk(path, JOINTS),
        stored(JOINTS, compression="gzip"),
    ),
    "gzip rewards, which say the success": Damage(
        "cannot be read (dataset rewards)",
        lambda path: spoil_chunk(path, "rewards"),
        stored("rewards", fletcher32=True, chunks=(9,)),
    ),
    "the tree of the chunks": Damage(
        "cannot be read (dataset obs/agentview_rgb)", lambda path: spoil_tree(path, PIXELS), stored(PIXELS)
    ),
    "the header of a dataset": Damage(
        "cannot be read (dataset obs/ee_ori)", lambda path: spoil_object(path, "obs/ee_ori")
    ),
    "the header of actions": Damage("cannot be read", lambda path: spoil_object(path, "actions")),
    "the header of obs": Damage("cannot be read (dataset obs)", lambda path: spoil_object(path, "obs")),
    "the header of the demonstration": Damage(
        "a demonstration of the HDF5 file cannot be read", lambda path: spoil_object(path, "")
    ),
    "a name that is no text": Damage(
        "a name in the file is not UTF-8",
        lambda path: spoil_text(path, b"robot_states\0", b"robot\xffstates", 1),
    ),
    "a place past the end": Damage(
        "(dataset obs/eye_in_hand_rgb)",  # HDF5 says so, or we do, by its version
        lambda path: move_past_the_end(path, "obs/eye_in_hand_rgb"),
    ),
    "an attribute": Damage("cannot be", lambda path: attribute_of(path, "zz")),
}


@dataclass(frozen=True)
class Lacking(LiberoFile):
    """The same file, of which demo_1 was never given."""

    def scan(self) -> SourceInfo:
        info = super().scan()
        return replace(info, skipped=(), episodes=tuple(each for each in info.episodes if each.number != 1))


def lacking(path: Path) -> Lacking:
    return Lacking(str(path), FILE.suite, skip_bad=True)


@pytest.mark.parametrize("name", DAMAGES)
def test_one_bad_demo_left_out_leaves_the_bytes_of_the_others(tmp_path: Path, name: str) -> None:
    damage = DAMAGES[name]
    path = odd_file(tmp_path / "odd", damage.change)
    damage.spoil(path)
    with pytest.raises(SourceError) as caught:
        build_store(path, tmp_path / "refused.vla")
    assert caught.value.places["file"] == str(path)
    assert caught.value.places["demo"] == "demo_1"
    assert "--skip-bad" in caught.value.hint or "copy it again" in caught.value.hint
    assert not (tmp_path / "refused.vla").exists()

    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    (skipped,) = report.skipped
    assert (skipped.suite, skipped.file, skipped.demo) == (FILE.suite, FILE.name, "demo_1")
    assert damage.reason in skipped.reason
    assert "/" not in skipped.reason.replace("obs/", "").replace("/data/demo_1", "")  # no path of this machine
    assert (report.episodes, report.rows) == (2, 23 + 9)
    build_store(lacking(path), tmp_path / "without.vla")
    assert objects(part_of(tmp_path / "s.vla")) == objects(part_of(tmp_path / "without.vla"))
    if "header of" not in name and "name" not in name:  # h5py cannot walk those itself
        assert_equals_h5py(tmp_path / "s.vla", path)
    assert verify_store(tmp_path / "s.vla", against=path).sound


def test_lzf_has_no_checksum_of_its_own_so_what_it_gives_is_what_h5py_gives(tmp_path: Path) -> None:
    """Where HDF5 reads damaged bytes without an error nobody can know; where it does not, the demo is left out."""
    path = odd_file(tmp_path / "odd", stored(PIXELS, compression="lzf"))
    offset, size = chunk_of(path, PIXELS)
    overwrite(path, offset, b"\xff" * size)  # back references to before the beginning
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.skipped] == ["demo_1"]
    assert_equals_h5py(tmp_path / "s.vla", path)


@pytest.mark.parametrize("demo", ["demo_0", "demo_4"])
def test_it_does_not_matter_which_demo_it_is(tmp_path: Path, demo: str) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, "states", compression="gzip"))
    spoil_chunk(path, PIXELS, demo)
    spoil_chunk(path, "states", demo)
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.skipped] == [demo]
    assert report.skipped[0].reason.endswith("(dataset obs/agentview_rgb)")  # the first of two, by name
    assert_equals_h5py(tmp_path / "s.vla", path)


def test_a_demo_that_only_reading_finds_bad_does_not_outvote_the_others(tmp_path: Path) -> None:
    """Two demos have one more dataset and cannot be read: what most have is what most of the sound ones have."""

    def change(file: h5py.File) -> None:
        stored(PIXELS, compression="gzip")(file)
        for number in (0, 4):
            file[f"data/demo_{number}/obs/more"] = np.zeros((file[f"data/demo_{number}/actions"].shape[0], 2))

    path = odd_file(tmp_path / "odd", change)
    spoil_chunk(path, PIXELS, "demo_0")
    spoil_chunk(path, PIXELS, "demo_4")
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.skipped] == ["demo_0", "demo_4"]
    assert report.episodes == 1
    assert "more" not in report.document.fields


def test_where_every_demo_is_bad_the_error_of_the_first_is_raised(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, compression="gzip"))
    for demo in ("demo_0", "demo_1", "demo_4"):
        spoil_chunk(path, PIXELS, demo)
    ran = run("build", path, tmp_path / "s.vla", "--skip-bad")
    assert ran.code == 1
    assert_one_screen(ran.err, "cannot be read", path, "demo_0", "agentview_rgb")
    assert not list(tmp_path.glob("s.vla*"))


def test_damaged_attributes_of_a_file_leave_out_that_file_alone(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd")
    other = path.with_name("lift_the_lid_demo.hdf5")
    shutil.copy(path, other)
    with h5py.File(other, "r+") as file:
        file["data"].attrs["zz_victim"] = np.arange(3.0)
    data = other.read_bytes()
    overwrite(other, data.index(b"zz_victim") - 8, b"\xee")
    report = build_store(path.parent, tmp_path / "s.vla", skip_bad=True)
    assert [(each.file, each.demo) for each in report.skipped] == [(other.name, None)]
    assert report.episodes == 3


# What was never written


def never(demo: str, name: str, rows: int, **options: Any) -> Change:
    """A dataset of a demo of which only the first rows were written."""

    def change(file: h5py.File) -> None:
        group = file[f"data/{demo}"]
        whole = group[name][()]
        del group[name]
        node = group.create_dataset(name, whole.shape, whole.dtype, **options)
        if rows:
            node[:rows] = whole[:rows]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            never("demo_1", PIXELS, 8, chunks=(4, 16, 24, 3)),
            f"{PIXELS}: 3 of 5 chunks were never written; HDF5 gives 0",
        ),
        (never("demo_1", PIXELS, 0, chunks=(4, 16, 24, 3), compression="gzip"), "5 of 5 chunks were never written"),
        (never("demo_1", "dones", 0), "dones: no row was ever written; HDF5 gives 0 for them (demo_1)"),
        (never("demo_0", JOINTS, 0, fillvalue=7.0), f"{JOINTS}: no row was ever written; HDF5 gives 7.0"),
    ],
)
def test_what_was_never_written_is_kept_as_hdf5_gives_it_and_said(tmp_path: Path, change: Change, says: str) -> None:
    path = odd_file(tmp_path / "odd", change)
    report = build_store(path, tmp_path / "s.vla", observation="after")
    (warning,) = report.warnings
    assert says in warning
    assert vla_store.open_store(tmp_path / "s.vla").warnings
    assert_equals_h5py(tmp_path / "s.vla", path)


@pytest.mark.parametrize(
    ("rows", "options"), [(0, {}), (8, {"chunks": (4, 7)}), (0, {"chunks": (4, 7), "compression": "gzip"})]
)
def test_actions_that_were_never_written_are_a_bad_demo(tmp_path: Path, rows: int, options: dict[str, Any]) -> None:
    path = odd_file(tmp_path / "odd", never("demo_1", "actions", rows, **options))
    with pytest.raises(SourceError, match="never written, or not to their end") as caught:
        build_store(path, tmp_path / "refused.vla")
    assert caught.value.places["demo"] == "demo_1"
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.skipped] == ["demo_1"]
    assert_equals_h5py(tmp_path / "s.vla", path)


def test_what_was_written_whole_is_said_nothing_of(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        stored(PIXELS, "states", compression="gzip")(file)
        stored("obs/ee_pos", maxshape=(None, None))(file)
        for demo in each_demo(file):
            demo["dones"][...] = 0  # zeros that were written are values

    assert build_store(odd_file(tmp_path / "odd", change), tmp_path / "s.vla").warnings == ()


# Every way to build


def gzip_file(folder: Path) -> Path:
    path = odd_file(folder, stored(PIXELS, "obs/ee_pos", compression="gzip"))
    spoil_chunk(path, PIXELS)
    return path


def test_the_command_says_what_it_left_out_and_info_lists_it(tmp_path: Path) -> None:
    path = gzip_file(tmp_path / "odd")
    ran = run("build", path, tmp_path / "s.vla", "--skip-bad")
    assert ran.code == 0, ran.err
    assert f"left out: {FILE.suite}/{FILE.name} demo_1: a dataset of the HDF5 file cannot be read" in ran.err
    assert ran.out.rstrip().splitlines()[-1].split() == [
        "left",
        "out",
        "1",
        "(see",
        "above;",
        "recorded",
        "in",
        "the",
        "store)",
    ]
    told = json.loads(run("info", tmp_path / "s.vla", "--json").out)
    assert [(each["demo"], each["reason"]) for each in told["skipped"]] == [
        ("demo_1", "a dataset of the HDF5 file cannot be read (dataset obs/agentview_rgb)")
    ]
    assert "demo_1" in run("info", tmp_path / "s.vla").out


@pytest.mark.parametrize("options", [{"executor": "threads", "workers": 1}, {"executor": "processes", "workers": 2}])
def test_every_executor_gives_the_same_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    path = gzip_file(tmp_path / "odd")
    build_store(path, tmp_path / "a.vla", skip_bad=True)
    build_store(path, tmp_path / "b.vla", skip_bad=True, **options)
    assert objects(tmp_path / "a.vla") == objects(tmp_path / "b.vla")


def test_a_build_that_was_stopped_goes_on_with_the_same_decision(tmp_path: Path) -> None:
    path = gzip_file(tmp_path / "odd")
    build_store(path, tmp_path / "whole.vla", skip_bad=True)

    class Enough(Exception):
        pass

    class Stops:
        def talk(self, text: str) -> None: ...
        def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None: ...
        def end(self) -> None: ...

        def advance(self, nbytes: int) -> None:
            raise Enough

    with pytest.raises(Enough):
        build_store(path, tmp_path / "s.vla", skip_bad=True, progress=Stops())
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert report.resumed
    assert objects(tmp_path / "s.vla") == objects(tmp_path / "whole.vla")


def test_append_leaves_out_the_same(tmp_path: Path) -> None:
    path = gzip_file(tmp_path / "odd")
    sound = odd_file(tmp_path / "sound").rename(tmp_path / "sound" / FILE.suite / "lift_the_lid_demo.hdf5")
    build_store(sound, tmp_path / "s.vla")
    with pytest.raises(SourceError, match="cannot be read"):
        append_store(path, tmp_path / "s.vla")
    report = append_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.build.skipped] == ["demo_1"]
    assert [each.demo for each in vla_store.open_store(tmp_path / "s.vla").skipped] == ["demo_1"]
    build_store(path, tmp_path / "alone.vla", skip_bad=True)
    added = tmp_path / "s.vla" / report.part.path
    assert objects(added) == objects(part_of(tmp_path / "alone.vla"))


def test_a_store_without_a_demo_is_repaired_from_the_file_that_has_it(tmp_path: Path) -> None:
    path = gzip_file(tmp_path / "odd")
    build_store(path, tmp_path / "s.vla", skip_bad=True)
    before = objects(tmp_path / "s.vla")
    store_tools.flip(next(part_of(tmp_path / "s.vla").glob("frames/eye_in_hand_rgb/c/0/0/0/0")), 100)
    assert repair_store(tmp_path / "s.vla", [path]).sound
    assert objects(tmp_path / "s.vla") == before


def test_verify_names_the_demo_that_cannot_be_read_in_the_source_and_goes_on(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, compression="gzip"))
    build_store(path, tmp_path / "s.vla")
    spoil_chunk(path, PIXELS)
    report = verify_store(tmp_path / "s.vla", against=path)
    assert report.compared_episodes == 3
    assert [str(each.what) for each in report.problems] == [
        f"{FILE.suite}/{FILE.name} demo_1: cannot be read in the source: "
        "a dataset of the HDF5 file cannot be read (dataset obs/agentview_rgb)"
    ]


def test_a_store_is_repaired_from_a_file_that_was_damaged_elsewhere_since(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, "obs/ee_pos", compression="gzip"))
    build_store(path, tmp_path / "s.vla")
    before = objects(tmp_path / "s.vla")
    spoil_chunk(path, "obs/ee_pos")
    store_tools.flip(next(part_of(tmp_path / "s.vla").glob("frames/eye_in_hand_rgb/c/0/0/0/0")), 100)
    assert repair_store(tmp_path / "s.vla", [path]).sound
    assert objects(tmp_path / "s.vla") == before


# What is read beforehand


class Watched(Own):
    """Remembers which fields were read."""

    read_fields: set[str] = set()  # noqa: RUF012

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        self.read_fields.add(field)
        return super().read(number, field, start, stop)


def test_what_is_plain_is_not_read_beforehand_and_all_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, "obs/ee_pos"))
    (source,) = find_sources([path])
    seen: set[str] = set()
    monkeypatch.setattr(
        LiberoFile,
        "read",
        lambda self, number, field, *span: seen.add(field) or super(LiberoFile, self).read(number, field, *span),
    )
    scan_sources([source])
    assert seen == {"actions"}
    scan_sources([source], skip_bad=True)
    assert seen == {"actions", "agentview_rgb", "ee_pos"}


def test_a_source_is_read_whole_beforehand_but_for_what_is_plain() -> None:
    Watched.read_fields = set()
    scan_sources([Watched()], skip_bad=True)
    assert Watched.read_fields == set(FIELDS)

    class Plain(Watched):
        def is_plain(self, number: int, field: str) -> bool:
            return field == "front"

    Watched.read_fields = set()
    scan_sources([Plain()], skip_bad=True)
    assert Watched.read_fields == set(FIELDS) - {"front"}


def test_it_says_what_it_reads(tmp_path: Path) -> None:
    said: list[str] = []
    scan_sources(find_sources([gzip_file(tmp_path / "odd")], skip_bad=True), skip_bad=True, talk=said.append)
    assert f"reading {FILE.suite}/{FILE.name} beforehand, to find what is bad" in said


# Sources of one's own


class Failing(Own):
    """Raises `ERROR` for the joints of episode 3, from step 4 on; `file` says where."""

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        if number == 3 and field == "joints" and stop > 4:
            raise ERRORS[self.file]
        return super().read(number, field, start, stop)


ERRORS: dict[str, Exception] = {
    "SourceError": SourceError("the recording stops", row=4),
    "ValueError": ValueError("cannot reshape array of size 3"),
    "KeyError": KeyError("/home/me/wrist.mp4"),
    "IndexError": IndexError("list index out of range"),
    "FileNotFoundError": FileNotFoundError(errno.ENOENT, "No such file or directory", "/home/me/3.npy"),
    "OSError": OSError("moov atom not found"),
    "EOFError": EOFError("no data left in file"),
    "StoreDamaged": vla_store.StoreDamaged("an object is missing"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_whatever_a_source_raises_of_one_episode_is_that_episodes_fault(kind: str) -> None:
    scan = scan_sources([Failing(file=kind)], skip_bad=True)
    assert scan.episodes == 1
    (skipped,) = scan.skipped
    assert skipped.demo == "demo_3"
    assert skipped.reason == (
        "the recording stops (field joints, row 4)"
        if kind == "SourceError"
        else f"reading a source raised {kind} (field joints)"
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        MachineError("the network is gone"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_the_machine_does_is_no_episodes_fault(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ERRORS, "machine", error)  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        scan_sources([Failing(file="machine")], skip_bad=True)


def test_without_skip_bad_an_error_of_ones_own_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="wrist"):
        build_store(Failing(file="KeyError"), tmp_path / "s.vla")


class Promising(Own):
    """Gives joints of another kind than its scan says, for episode 3."""

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        rows = super().read(number, field, start, stop)
        return GIVEN[self.file](rows) if number == 3 and field == "joints" else rows


GIVEN: dict[str, Callable[[Array], Any]] = {
    "another dtype": lambda rows: rows.astype(np.float32),
    "another width": lambda rows: rows[:, :5],
    "fewer rows": lambda rows: rows[:-1],
    "none": lambda rows: None,
    "lists that differ": lambda rows: [[1.0], [1.0, 2.0]],
}


@pytest.mark.parametrize("kind", GIVEN)
def test_an_episode_that_is_not_as_promised_is_left_out(tmp_path: Path, kind: str) -> None:
    report = build_store(Promising(file=kind), tmp_path / "s.vla", skip_bad=True)
    assert [(each.demo, "(field joints)" in each.reason) for each in report.skipped] == [("demo_3", True)]
    assert report.episodes == 1


class Moved(Own):
    """Gives pictures of episode 3 with their channels first."""

    def scan(self) -> SourceInfo:
        info = super().scan()
        moved = {**FIELDS, "front": replace(FIELDS["front"], shape=(3, 16, 16))}
        return replace(
            info, episodes=tuple(replace(each, fields=moved) if each.number == 3 else each for each in info.episodes)
        )


def test_an_episode_whose_pictures_lie_otherwise_is_left_out_alone() -> None:
    scan = scan_sources([Moved()], skip_bad=True)
    assert [(each.demo, each.reason) for each in scan.skipped] == [
        ("demo_3", "images have the wrong dtype or shape (dataset front)")
    ]
    assert scan.episodes == 1
    with pytest.raises(SourceError, match="demo_3"):
        scan_sources([Moved()])


class Attributes3(Own):
    def attributes(self, number: int | None) -> Attributes:
        if number == 3:
            raise RuntimeError("no such table")
        return {}


def test_attributes_that_cannot_be_had_leave_out_their_episode() -> None:
    scan = scan_sources([Attributes3()], skip_bad=True)
    assert [(each.demo, each.reason) for each in scan.skipped] == [("demo_3", "reading a source raised RuntimeError")]


class Unscannable(Own):
    def scan(self) -> SourceInfo:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def test_a_source_whose_scan_raises_is_left_out_whole() -> None:
    scan = scan_sources([Own(), Unscannable(file="other")], skip_bad=True)
    assert [(each.file, each.demo, each.reason) for each in scan.skipped] == [
        ("other", None, "reading a source raised UnicodeDecodeError")
    ]


def test_sources_satisfy_the_protocol_with_and_without_is_plain(tmp_path: Path) -> None:
    assert isinstance(Own(), EpisodeSource)
    assert isinstance(find_sources([odd_file(tmp_path)])[0], EpisodeSource)


# The machine


def without_its_filter(number: int, left_out: int = 0) -> Change:
    """Pictures as a filter that HDF5 has not would leave them. left_out: 1 where the filter was not applied to the chunks."""

    def change(file: h5py.File) -> None:
        for demo in each_demo(file):
            rows = demo[PIXELS][()]
            del demo[PIXELS]
            settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            settings.set_chunk(rows.shape)
            settings.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple(rows.shape)
            made = h5py.h5d.create(demo["obs"].id, b"agentview_rgb", h5py.h5t.STD_U8LE, space, settings)
            made.write_direct_chunk((0,) * 4, rows.tobytes(), left_out)

    return change


@pytest.mark.parametrize(("number", "name"), [(32015, "zstd"), (32001, "blosc"), (32026, "blosc2")])
def test_a_filter_that_is_not_installed_is_the_machines_failure(tmp_path: Path, number: int, name: str) -> None:
    if h5py.h5z.filter_avail(number):
        pytest.skip("HDF5 has it here")
    path = odd_file(tmp_path / "odd", without_its_filter(number))
    for options in ((), ("--skip-bad",)):
        ran = run("build", path, tmp_path / "s.vla", *options)
        assert ran.code == 3, ran.err
        assert_one_screen(ran.err, f"compressed with {name}", path, "demo_0", PIXELS, "pip install hdf5plugin")


def test_a_filter_that_nobody_knows_is_damage(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd", without_its_filter(31999))
    ran = run("build", path, tmp_path / "s.vla", "--skip-bad")
    assert ran.code == 1
    assert_one_screen(ran.err, "every demonstration of the file is bad", "unknown filter")


def test_pictures_that_a_filter_was_to_compress_and_did_not_are_read(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd", without_its_filter(32015, left_out=1))
    build_store(path, tmp_path / "s.vla")
    assert_equals_h5py(tmp_path / "s.vla", path)


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int asked(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
ssize_t pread(int file, void *out, size_t size, off_t at) {
    static ssize_t (*next)(int, void *, size_t, off_t);
    if (!next) next = dlsym(RTLD_NEXT, "pread");
    long bad = asked("FAILS_AT");
    if (bad && at <= bad && bad < at + (off_t)size) { errno = asked("FAILS_WITH"); return -1; }
    return next(file, out, size, at);
}
ssize_t pread64(int file, void *out, size_t size, off_t at) { return pread(file, out, size, at); }
int flock(int file, int how) {
    static int (*next)(int, int);
    if (!next) next = dlsym(RTLD_NEXT, "flock");
    if (asked("LOCKS_FAIL_WITH")) { errno = asked("LOCKS_FAIL_WITH"); return -1; }
    return next(file, how);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that lets the disk and its locks fail, to be preloaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and Linux")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)
    return str(folder / "shim.so")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_in_the_middle_of_a_file_is_no_demos_fault(tmp_path: Path, shim: str, number: int) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, compression="gzip"))
    offset, _ = chunk_of(path, PIXELS)
    ran = run(
        "build",
        path,
        tmp_path / "s.vla",
        "--skip-bad",
        LD_PRELOAD=shim,
        FAILS_AT=str(offset + 1),
        FAILS_WITH=str(number),
    )
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, os.strerror(number), path)
    assert not (tmp_path / "s.vla").exists()


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC,
        errno.EACCES,
        errno.EMFILE,
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ENOMEM,
        errno.ENAMETOOLONG,
    ],
)
def test_every_failure_of_the_machine_says_what_to_do(number: int) -> None:
    failed = machine_error(OSError(number, os.strerror(number), "/disk/x"), "building")
    assert failed.hint
    assert os.strerror(number) in failed.what


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_storage_that_cannot_lock_is_read_without_a_lock(tmp_path: Path, shim: str, number: int) -> None:
    path = odd_file(tmp_path / "odd", stored(PIXELS, compression="gzip"))
    ran = run("build", path, tmp_path / "s.vla", LD_PRELOAD=shim, LOCKS_FAIL_WITH=str(number))
    assert ran.code == 0, ran.err
    assert_equals_h5py(tmp_path / "s.vla", path)


def test_a_file_that_another_program_writes_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd")
    writing = subprocess.Popen(
        [sys.executable, "-c", f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert writing.stdout is not None
        writing.stdout.readline()
        ran = run("build", path, tmp_path / "s.vla", "--skip-bad")
        assert ran.code == 3
        assert_one_screen(ran.err, "Resource temporarily unavailable", path, "HDF5_USE_FILE_LOCKING=FALSE")
        ran = run("build", path, tmp_path / "s.vla", "--skip-bad", HDF5_USE_FILE_LOCKING="FALSE")
        assert ran.code == 0, ran.err
    finally:
        writing.communicate("\n")


# What is no HDF5 file

LFS = textwrap.dedent(
    """\
    version https://git-lfs.github.com/spec/v1
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
    size 6312451
    """
).encode()
STRANGERS = {
    "LFS": (LFS, "a Git LFS pointer", "git lfs pull"),
    "an older LFS": (
        LFS.replace(b"git-lfs.github.com/spec", b"hawser.github.com/spec"),
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "xet": (b"# xet version 0\nfilesize = 6312451\nhash = 'ab'\n", "a Git LFS pointer", "git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s6312451--4d7a.hdf5\n", "a git-annex pointer", "git annex get"),
    "HTML": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "an HTML page", "login"),
    "old HTML": (b"<HTML><BODY>404</BODY></HTML>", "an HTML page", "download it again"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML answer", "download it again"),
    "JSON": (b'{"error": "Repository not found"}', "a JSON text", "token"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(range(60)), "a gzip archive", "unpack"),
    "zip": (b"PK\x03\x04" + bytes(range(60)), "a zip archive", "unpack"),
    "tar": (b"demo.hdf5".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "a tar archive", "unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(60)), "a zstd archive", "unpack"),
    "AppleDouble": (b"\x00\x05\x16\x07" + bytes(60), "macOS", "dot_clean"),
    "zeros": (bytes(8192), "a file of zeros", "copy it again"),
    "nothing": (b"", "an empty file", "copy it again"),
    "text": (b"demonstrations of the bowl", "not an HDF5 file", "copy it again"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_hdf5_file_is_called_what_it_is_and_what_to_do_is_said(tmp_path: Path, kind: str) -> None:
    data, name, remedy = STRANGERS[kind]
    path = odd_file(tmp_path / "odd").with_name("strange_demo.hdf5")
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        build_store(path, tmp_path / "s.vla")
    assert caught.value.what.startswith("not an HDF5 file")
    assert name in caught.value.what
    assert remedy in caught.value.hint
    report = build_store(path.parent, tmp_path / "s.vla", skip_bad=True)
    assert [(each.file, each.reason) for each in report.skipped] == [(path.name, caught.value.what)]


def test_what_macos_leaves_beside_a_file_is_passed_over(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd")
    path.with_name(f"._{path.name}").write_bytes(STRANGERS["AppleDouble"][0])
    assert len(find_sources([path.parent])) == 1
