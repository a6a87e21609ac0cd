"""Everything that can be wrong with what a user gives, each tried through the command line.

What must hold each time: a designed exit code, an error of one screen that names file and demonstration, what was expected
and what was found; the sources as they were; and nothing that could be taken for a store.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import store_tools
import tiny_libero
from store_tools import assert_one_screen, digests, in_words, run
from tiny_libero import BROKEN, VICTIM, victim

from vla_store import cli

Command = Callable[..., store_tools.Ran]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`vla-store ARGUMENTS` in this process: the same function the console script calls."""

    def call(*arguments: object) -> store_tools.Ran:
        capfd.readouterr()
        try:
            code = cli.main([str(each) for each in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return store_tools.Ran(code, out, err)

    return call


@pytest.fixture
def source(small_source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_source, tmp_path / "LIBERO"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "libero.vla"


def state(folder: Path) -> dict[str, object]:
    """What must not change: every file's content and time, by name."""
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in paths
        if path.exists() and os.access(path, os.R_OK)
    }


def refused(
    command: Command, source: Path, store: Path, *options: object, code: int = 1, says: tuple[object, ...] = ()
) -> str:
    """Build, and check everything that must hold when that is refused; the error's text."""
    before = state(source)
    ran = command("build", source, store, *options)
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert_one_screen(ran.err, *says)
    assert "\nhint: " in ran.err, f"it does not say what to do:\n{ran.err}"
    assert state(source) == before
    assert_nothing_built(store)
    return ran.err


def assert_nothing_built(store: Path) -> None:
    assert not os.path.lexists(store)
    assert not os.path.lexists(f"{store}.partial")


# What is named is not there, or is something else


def test_a_missing_path_is_wrong_use(command: Command, tmp_path: Path, store: Path) -> None:
    refused(
        command, tmp_path / "LIBERRO", store, code=2, says=("no such source", tmp_path / "LIBERRO", "check the path")
    )


@pytest.mark.parametrize("url", ["http://host/x.vla", "https://host:8080/data/x.vla", "simplecache::http://host/x.vla"])
def test_a_store_at_a_url_that_can_only_be_read_is_wrong_use(command: Command, source: Path, url: str) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    ran = command("build", source / VICTIM.suite, url)
    assert ran.code == 2
    assert_one_screen(ran.err, "a store at an HTTP URL is read-only", url, "the URL of the bucket")


def test_the_report_counts_a_robots_tasks_and_apart_from_them_its_pieces_of_work(
    command: Command, source: Path, store: Path
) -> None:
    for options in (("--dry-run",), ()):
        ran = command("build", source, store, "--json", *options)
        report = json.loads(ran.out)
        assert report["tasks"] == 2
        assert report["pieces"] > report["tasks"]
    told = json.loads(command("info", store, "--json").out)
    assert len(told["tasks"]) == report["tasks"]


def test_an_empty_folder_says_what_it_looked_for(command: Command, tmp_path: Path, store: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(command, tmp_path / "empty", store, says=("no demonstrations", "*.hdf5", "an empty folder"))


def test_a_folder_one_level_too_high_says_what_is_in_it(command: Command, source: Path, store: Path) -> None:
    (source.parent / "above").mkdir()
    source.rename(source.parent / "above" / "LIBERO")
    refused(command, source.parent / "above", store, says=("no demonstrations", "one level below", "LIBERO"))


def test_a_store_as_source_is_called_one(command: Command, tiny_store: Path, store: Path) -> None:
    refused(command, tiny_store, store, says=("no demonstrations", "this is a store, not a source"))


def test_what_is_neither_a_file_nor_a_folder_is_not_read(command: Command, tmp_path: Path, store: Path) -> None:
    os.mkfifo(tmp_path / "pipe.hdf5")  # whoever opens it waits for ever
    refused(command, tmp_path / "pipe.hdf5", store, code=2, says=("neither a file nor a folder",))


def test_a_link_that_leads_nowhere_is_refused_not_passed_over(command: Command, source: Path, store: Path) -> None:
    (source / VICTIM.suite / "absent_demo.hdf5").symlink_to("../../blobs/0123abcd")
    refused(command, source, store, says=("a link that leads nowhere", "absent_demo.hdf5", "blobs/0123abcd"))


def test_a_source_that_may_not_be_read_is_the_machines_failure(source: Path, store: Path) -> None:
    victim(source).chmod(0o000)
    ran = as_nobody("build", source, store)
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, "Permission denied", victim(source))
    victim(source).chmod(0o644)
    victim(source).parent.chmod(0o000)
    try:
        ran = as_nobody("build", source, store)
    finally:
        victim(source).parent.chmod(0o755)
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, "Permission denied", VICTIM.suite)


# Files and demonstrations that are not as they should be: (error, what it must name besides the file)

BAD = {
    "not_hdf5": ("not an HDF5 file", "b'<html>40'"),
    "empty_file": ("not an HDF5 file", "an empty file"),
    "truncated": ("the HDF5 file is truncated", "expected", "found", "download or copy it again"),
    "without_a_camera": ("without a camera that others have", "demo_1", "eye_in_hand_rgb"),
    "without_actions": ("without actions", "demo_1", "a dataset actions (T, n)"),
    "different_lengths": ("different lengths", "demo_1", "obs/ee_pos", "12 rows, as actions has", "10 rows"),
    "different_camera_lengths": ("different lengths", "demo_1", "obs/agentview_rgb", "12 rows", "11 rows"),
    "zero_steps": ("a demonstration without steps", "demo_1", "(0, 7)"),
    "actions_of_text": ("actions have the wrong dtype or shape", "demo_1", "(12, 7) of |S3"),
    "actions_of_another_dtype": ("differs in dtype or shape", "demo_1", "actions", "float64", "float32"),
    "actions_of_another_width": ("differs in dtype or shape", "demo_1", "actions", "(7,)", "(6,)"),
    "pictures_of_floats": ("images of different size or type in one camera", "demo_1", "agentview_rgb", "float64"),
    "pictures_without_channels": ("images of different size or type", "demo_1", "agentview_rgb", "(16, 24) of uint8"),
    "pictures_of_another_size": ("images of different size", "demo_1", "agentview_rgb", "(16, 24, 3)", "(12, 24, 3)"),
    "nan_in_actions": ("actions are not all finite numbers", "demo_1", "row", "5", "nan"),
    "raw_without_observations": (
        "raw demonstrations without observations",
        "obs/",
        "actions, states",
        "create_dataset",
    ),
    "broken_problem_info": ("problem_info is broken", '{"problem_name": ', "language_instruction"),
    "no_demos": ("no demonstrations in the file", "an empty /data"),
    "no_data_group": ("no demonstrations in the file", "a group /data", "nothing"),
}


def test_every_broken_variant_is_tried() -> None:
    assert BAD.keys() == BROKEN.keys()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_or_demo_is_refused_by_name(command: Command, source: Path, store: Path, name: str) -> None:
    BROKEN[name](source)
    refused(command, source, store, says=(*BAD[name], victim(source)))


WHOLE_FILE = {
    "not_hdf5",
    "empty_file",
    "truncated",
    "raw_without_observations",
    "broken_problem_info",
    "no_demos",
    "no_data_group",
}


@pytest.mark.parametrize("name", BAD)
def test_skip_bad_builds_the_rest_and_lists_what_is_left_out(
    command: Command, source: Path, store: Path, name: str
) -> None:
    BROKEN[name](source)
    ran = command("build", source, store, "--skip-bad", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    demo = None if name in WHOLE_FILE else "demo_1"
    (skipped,) = report["skipped"]
    assert (skipped["suite"], skipped["file"], skipped["demo"]) == (VICTIM.suite, VICTIM.name, demo)
    assert skipped["reason"].startswith(BAD[name][0]) or BAD[name][0] in skipped["reason"]
    assert f"left out: {VICTIM.suite}/{VICTIM.name}{' demo_1' if demo else ''}: " in ran.err
    assert report["rows"] == 67 - (VICTIM.lengths[1] if demo else sum(VICTIM.lengths.values()))
    root = store_tools.root_of(store)
    recorded = json.loads((store / f"meta/{root.meta.skipped}.json").read_bytes())
    assert recorded["skipped"] == report["skipped"]
    assert str(source) not in json.dumps(recorded)  # the same data elsewhere gives the same bytes
    if name in ("truncated", "zero_steps"):  # a whole file, and a demo
        ran = command("verify", store, "--against", source)
        assert ran.code == 0, ran.out
        assert "1 demonstration or file left out" in command("info", store).out


def test_a_download_cut_short_anywhere_is_called_truncated(command: Command, source: Path, store: Path) -> None:
    whole = victim(source).read_bytes()
    for share in (0.01, 0.5, 0.999):
        victim(source).write_bytes(whole[: int(len(whole) * share)])
        err = refused(command, source, store, says=("the HDF5 file is truncated", victim(source)))
        assert f"{len(whole)} bytes" in err
        assert f"{int(len(whole) * share)} bytes" in err


@pytest.mark.slow
def test_a_real_download_cut_short_is_called_truncated(
    command: Command, demos: Path, tmp_path: Path, store: Path
) -> None:
    whole = next(demos.glob("libero/libero_goal/*.hdf5"))
    cut = tmp_path / "libero_goal" / whole.name
    cut.parent.mkdir()
    with open(whole, "rb") as file:
        cut.write_bytes(file.read(whole.stat().st_size * 2 // 3))
    refused(command, cut, store, says=("the HDF5 file is truncated", cut, whole.stat().st_size, cut.stat().st_size))


def test_zeros_where_a_preallocated_download_never_arrived_are_an_unreadable_file(
    command: Command, source: Path, store: Path
) -> None:
    data = bytearray(victim(source).read_bytes())
    data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)  # the right size, and no end of file to miss
    victim(source).write_bytes(data)
    refused(command, source, store, says=("cannot be read", victim(source)))


def test_the_real_raw_demonstrations_are_refused_with_the_reason(command: Command, demos: Path, store: Path) -> None:
    refused(
        command, demos / "variants" / "raw", store, says=("raw demonstrations without observations", "create_dataset")
    )


def test_when_everything_is_bad_the_reason_is_said_and_nothing_is_built(
    command: Command, source: Path, store: Path
) -> None:
    folder = source / VICTIM.suite
    for path in folder.glob("*.hdf5"):
        path.write_text("gone")
    refused(command, folder, store, "--skip-bad", says=("not an HDF5 file", "b'gone'"))


def test_the_odd_demo_is_left_out_even_where_it_comes_first(command: Command, source: Path, store: Path) -> None:
    first = next((source / "libero_goal").glob("*.hdf5"))
    tiny_libero.replace(first, "data/demo_0/obs/eye_in_hand_rgb")
    refused(command, source, store, says=("without a camera that others have", first, "demo_0"))
    ran = command("build", source, store, "--skip-bad", "--json")
    assert [each["demo"] for each in json.loads(ran.out)["skipped"]] == ["demo_0"]
    assert json.loads(ran.out)["episodes"] == 4


# What cannot be known is asked for


def test_an_unknown_orientation_is_asked_for(command: Command, source: Path, store: Path) -> None:
    tiny_libero.set_attribute(victim(source), "data", "macros_image_convention")
    refused(
        command, source, store, says=("orientation of the pictures cannot be known", "--orientation", victim(source))
    )
    assert command("build", source, store, "--orientation", "bottom_up", "--quiet").code == 0


def test_an_unknown_order_of_observation_and_action_is_asked_for(command: Command, tmp_path: Path, store: Path) -> None:
    source = tiny_libero.write_suites(tmp_path / "x", suites=(VICTIM,), attributes=False)
    for number in VICTIM.lengths:
        tiny_libero.replace(victim(source), f"data/demo_{number}/obs/joint_states")
    err = refused(command, source, store, "--orientation", "bottom_up", says=("--observation after", victim(source)))
    assert "before or after" in in_words(err)
    assert command("build", source, store, "--orientation", "bottom_up", "--observation", "after", "--quiet").code == 0


def test_a_missing_problem_info_takes_the_text_from_the_file_name(command: Command, source: Path, store: Path) -> None:
    tiny_libero.set_attribute(victim(source), "data", "problem_info")
    assert command("build", source, store, "--quiet").code == 0
    document = json.loads((store_tools.part_of(store) / "zarr.json").read_bytes())["attributes"]["vla_store"]
    (task,) = [each for each in document["tasks"] if each["name"] == VICTIM.task]
    assert (task["text"], task["instruction"]) == ("pick up the bowl and place it on the plate", None)


@pytest.mark.parametrize(
    ("group", "name", "value", "says"),
    [
        ("data", "num_demos", np.int64(3), "num_demos says 3, the arrays have 2"),
        ("data", "total", np.int64(46), "total says 46, the arrays have 45"),
        ("data/demo_1", "num_samples", np.int64(13), "demo_1: num_samples says 13, the arrays have 12 steps"),
        ("data", "total", "forty", "total says 'forty', the arrays have 45"),
        ("data/demo_1", "num_samples", np.array([1, 2]), "num_samples says array([1, 2]), the arrays have 12 steps"),
        ("data", "total", h5py.Empty("i8"), "total says Empty"),
    ],
)
def test_counts_that_disagree_are_a_recorded_warning(
    command: Command, source: Path, store: Path, group: str, name: str, value: object, says: str
) -> None:
    tiny_libero.set_attribute(victim(source), group, name, value)
    ran = command("build", source, store)
    assert ran.code == 0, ran.err
    assert f"warning: {VICTIM.name}: " in ran.err
    assert says in ran.err
    root = store_tools.root_of(store)
    recorded = json.loads((store / f"meta/{root.meta.skipped}.json").read_bytes())
    assert len(recorded["warnings"]) == 1
    assert says in recorded["warnings"][0]["warning"]
    assert root.rows == 67
    assert command("verify", store, "--against", source).code == 0


# Names given twice, and given wrongly


def test_the_same_file_twice_is_refused_with_both_its_names(command: Command, source: Path, store: Path) -> None:
    (source.parent / "link").symlink_to(source)
    spellings = [
        source,
        f"{source}/../{source.name}/",
        source.parent / "link",
        source / VICTIM.suite,
        victim(source),
        os.path.relpath(source),
    ]
    for other in spellings:
        ran = command("build", source, other, store)
        assert ran.code == 1
        assert_one_screen(ran.err, "the same file twice", "first", "second")
        assert_nothing_built(store)


def test_two_files_of_one_name_need_suites_of_different_names(command: Command, source: Path, store: Path) -> None:
    other = source.parent / "more" / VICTIM.suite
    shutil.copytree(source / VICTIM.suite, other)
    ran = command("build", source, other, store)
    assert ran.code == 1
    assert_one_screen(ran.err, "the same file twice", other, "folders of different names")
    assert_nothing_built(store)


def test_two_files_that_call_different_tasks_by_one_name_are_refused(
    command: Command, source: Path, store: Path
) -> None:
    shutil.copy(victim(source), victim(source).with_name(f"{VICTIM.task}.h5"))
    other = victim(source).with_name(f"{VICTIM.task}.h5")
    tiny_libero.set_attribute(other, "data", "problem_info", json.dumps({"language_instruction": "something else"}))
    refused(command, source, store, says=("different tasks by one name", VICTIM.task))


def test_forgetting_store_does_not_make_a_source_the_destination(command: Command, source: Path) -> None:
    before = state(source)
    spatial = source / "libero_spatial"
    given: list[tuple[object, ...]] = [
        (source, spatial),
        (spatial, victim(source)),
        (spatial, source),
        (source, source),
        (victim(source), spatial),
        (f"{spatial}/", spatial),
    ]
    for arguments in given:
        for options in ((), ("--overwrite",)):
            ran = command("build", *arguments, *options)
            assert ran.code == 2, ran.err
            assert_one_screen(ran.err, "nothing was touched", "vla-store build SOURCE... STORE")
            assert state(source) == before
    ran = command("build", source, "--overwrite")
    assert ran.code == 2
    assert "required: STORE" in ran.err
    assert state(source) == before


def test_overwrite_never_deletes_a_folder_of_sources_that_is_named_like_an_unfinished_build(
    command: Command, source: Path
) -> None:
    for suffix in (".partial", ".replaced"):
        folder = source.rename(source.with_name(f"x.vla{suffix}"))
        before = state(folder)
        for given in (folder, folder / VICTIM.suite, victim(folder)):
            ran = command("build", given, folder.parent / "x.vla", "--overwrite")
            assert ran.code == 2, ran.err
            assert_one_screen(ran.err, "nothing was touched")
            assert state(folder) == before
        source = folder.rename(source)


@pytest.mark.parametrize("suffix", [".partial", ".replaced"])
def test_overwrite_never_deletes_what_is_not_a_builds(command: Command, source: Path, store: Path, suffix: str) -> None:
    other = Path(f"{store}{suffix}")
    other.mkdir()
    (other / "thesis.txt").write_text("three years")
    ran = command("build", source, store, "--overwrite")
    assert ran.code == 2
    assert_one_screen(ran.err, "nothing was touched", other)
    assert (other / "thesis.txt").read_text() == "three years"
    assert not store.exists()


# The destination


def test_an_output_that_exists_is_refused_and_replaced_with_overwrite(
    command: Command, source: Path, store: Path
) -> None:
    assert command("build", source / "libero_goal", store, "--quiet").code == 0
    before = digests(store)
    ran = command("build", source, store)
    assert ran.code == 2
    assert_one_screen(ran.err, "STORE exists", store, "--overwrite")
    assert digests(store) == before
    assert command("build", source, store, "--overwrite", "--quiet").code == 0
    assert store_tools.root_of(store).rows == 67
    assert sorted(each.name for each in store.parent.iterdir()) == ["LIBERO", "libero.vla"]


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_an_output_that_is_no_store_is_never_replaced(
    command: Command, source: Path, store: Path, options: tuple[str, ...]
) -> None:
    store.mkdir()
    (store / "zarr.json").write_text('{"node_type": "group", "zarr_format": 3, "attributes": {}}')  # somebody's Zarr
    before = state(store)
    ran = command("build", source, store, *options)
    assert ran.code == 2
    assert_one_screen(ran.err, "exists and is not a store; nothing was touched", store)
    assert state(store) == before


def test_a_damaged_store_can_be_replaced(command: Command, source: Path, store: Path) -> None:
    assert command("build", source, store, "--quiet").code == 0
    (store / "zarr.json").write_bytes(b"")
    assert command("build", source, store, "--overwrite", "--quiet").code == 0
    assert command("verify", store).code == 0


def test_a_store_below_a_file_is_wrong_use(command: Command, source: Path) -> None:
    ran = command("build", source / "libero_goal", victim(source) / "x.vla")
    assert ran.code == 2
    assert_one_screen(ran.err, "below a file", victim(source))


def test_a_store_may_lie_inside_its_source(command: Command, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    assert command("build", ".", "libero.vla", "--quiet").code == 0
    assert command("build", ".", "libero.vla", "--quiet", "--overwrite").code == 0
    assert command("verify", "libero.vla", "--against", ".").code == 0


def test_a_link_as_store_says_which_disk_it_belongs_on(command: Command, source: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "libero.vla").symlink_to(tmp_path / "disk" / "libero.vla")
    for options in ((), ("--overwrite",)):
        assert command("build", source, tmp_path / "libero.vla", "--quiet", *options).code == 0
        assert (tmp_path / "libero.vla").is_symlink()
        assert [each.name for each in (tmp_path / "disk").iterdir()] == ["libero.vla"]
        assert command("verify", tmp_path / "libero.vla").code == 0


# Gives up root's right to pass over permission bits, for good, then becomes the command in its arguments.
WITHOUT_RIGHTS = """
import ctypes, os, sys
drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
for capability in (dac_override, dac_read_search):
    if os.getuid() == 0 and ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0):
        sys.exit("root's rights cannot be given up here")
os.execv(sys.argv[1], sys.argv[1:])
"""


def as_nobody(*arguments: object) -> store_tools.Ran:
    """`vla-store ARGUMENTS` for a user whom permission bits stop."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS, *store_tools.COMMAND, *map(str, arguments)],
        env=store_tools.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return store_tools.Ran(done.returncode, done.stdout, done.stderr)


def test_an_output_folder_without_permission_is_the_machines_failure(source: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    ran = as_nobody("build", source, tmp_path / "closed" / "x.vla")
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, "Permission denied", tmp_path / "closed", "check the permissions")
    assert list((tmp_path / "closed").iterdir()) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts tmpfs file systems, and unmounts them at the end; skips where that is not permitted."""
    points: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"mounted{len(points)}"
        point.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", point], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        # Lazy: a map that waits for the garbage collector still holds it.
        subprocess.run(["umount", "--lazy", point], check=True)


def test_a_read_only_file_system_is_the_machines_failure(
    command: Command, mounted: Callable[..., Path], source: Path
) -> None:
    point = mounted("ro,size=1m")
    refused(command, source, point / "x.vla", code=3, says=("Read-only file system", point, "another destination"))


@pytest.fixture(scope="module")
def reference(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_tools.built(tmp_path_factory.mktemp("reference") / "x.vla", [small_source])


@pytest.mark.parametrize("room", ["48k", "120k", "200k", "260k", "320k"])
def test_a_full_disk_stops_the_build_and_freed_space_lets_it_resume(
    command: Command, mounted: Callable[..., Path], source: Path, reference: Path, room: str
) -> None:
    point = mounted(f"size={room}")
    before = state(source)
    ran = command("build", source, point / "x.vla")
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, "No space left on device", "free some space", "it resumes")
    assert not (point / "x.vla").exists()
    assert state(source) == before
    assert command("info", point / "x.vla").code == 1  # "unfinished", and what to do
    subprocess.run(["mount", "-o", "remount,size=16m", point], check=True)
    ran = command("build", source, point / "x.vla")
    assert ran.code == 0, ran.err
    assert digests(point / "x.vla") == digests(reference)
    assert [each.name for each in point.iterdir()] == ["x.vla"]


def test_a_full_disk_in_worker_processes_is_said_the_same_way(mounted: Callable[..., Path], source: Path) -> None:
    ran = run("build", source, mounted("size=260k") / "x.vla", "--executor", "processes", "--workers", 2)
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, "No space left on device", "it resumes")


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--preset", "fastest"), ("there is no preset 'fastest'", "raw, fast, small")),
        (("--view", "no_nops"), ("there is no rule for a view 'no_nops'", "did you mean 'no_noops'?")),
        (("--orientation", "upright"), ("invalid choice: 'upright'", "bottom_up")),
        (("--observation", "during"), ("invalid choice: 'during'", "before")),
        (("--executor", "gpu"), ("invalid choice: 'gpu'", "threads")),
        (("--workers", "0"), ("workers is a whole number of at least 1",)),
        (("--workers", "-3"), ("workers is a whole number of at least 1", "-3")),
        (("--workers", "two"), ("invalid int value: 'two'",)),
        (("--max-memory", "lots"), ("not a size: 'lots'", "1GiB")),
        (("--max-memory", "9" * 400), ()),
        (("--max-memory", "1MB"), ("does not fit in the memory", "1 MiB"[2:], "--max-memory")),
        (
            ("--presets", "fast"),
            ("unrecognized arguments: --presets", "did you mean --preset?", "usage: vla-store build"),
        ),
        (("--scheduler", "tcp://127.0.0.1:1", "--workers", "2"), ("the cluster's own affair",)),
        (("--scheduler", "tcp://127.0.0.1:1", "--max-memory", "1GiB"), ("the cluster's own affair",)),
    ],
)
def test_a_wrong_option_says_what_there_is(
    command: Command, source: Path, store: Path, options: tuple[str, ...], says: tuple[str, ...]
) -> None:
    ran = command("build", source / "libero_goal", store, *options)
    if options[-1] == "9" * 400:  # a great deal of memory is no error
        assert ran.code == 0
        return
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 24
    for each in says:
        assert each in ran.err
    assert_nothing_built(store)


def test_a_scheduler_that_does_not_answer_is_the_machines_failure(
    source: Path, store: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="dask comes with the extra cluster")
    from vla_store.builder import cluster

    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    with socket.socket() as nobody:  # a port that nobody serves
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        ran = command("build", source, store, "--scheduler", address)
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, "the scheduler does not answer", address)
    assert not store.exists()
    for address in ("not an address", "tcp://nowhere.invalid:8786"):
        ran = command("build", source, store, "--scheduler", address)
        assert ran.code == 3, ran.err
        assert_one_screen(ran.err, "the scheduler does not answer", address)


# What users have besides


def test_a_folder_named_like_a_file_is_a_folder(command: Command, source: Path, store: Path) -> None:
    victim(source).rename(source / "spare")
    victim(source).mkdir()
    ran = command("build", victim(source), store)
    assert ran.code == 1
    assert_one_screen(ran.err, "no demonstrations in the folder", victim(source))
    assert command("build", source, store, "--quiet").code == 0  # it holds nothing, so it is passed over
    assert store_tools.root_of(store).rows == 67 - sum(VICTIM.lengths.values())


def test_a_folder_without_demonstrations_says_where_some_are_or_how_others_are_read(
    command: Command, source: Path, store: Path
) -> None:
    deep = source.parent / "deep" / "of" / "a" / "robot"
    shutil.move(victim(source).parent, deep)
    (deep.parents[1] / ".hidden.hdf5").touch()
    refused(command, deep.parents[2], store, says=("no demonstrations in the folder", "deeper: give", deep))
    other = source.parent / "lerobot"
    (other / "meta").mkdir(parents=True)
    (other / "meta" / "info.json").touch()
    refused(command, other, store, says=("no demonstrations in the folder", "EpisodeSource of forty lines"))


def test_a_cache_of_links_gives_the_names_of_the_links(command: Command, source: Path, store: Path) -> None:
    reference = store_tools.built(store.with_name("reference.vla"), [source])
    blobs = source.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(source.glob("*/*.hdf5"))):
        path.rename(blobs / f"{number:064x}")
        path.symlink_to(blobs / f"{number:064x}")
    (source.parent / "moved").mkdir()
    (source / "libero_goal").rename(source.parent / "moved" / "disk7")
    (source / "libero_goal").symlink_to(source.parent / "moved" / "disk7")
    assert command("build", source, store, "--quiet").code == 0
    assert digests(store) == digests(reference)


def test_hidden_files_and_other_suffixes_are_no_demonstrations(command: Command, source: Path, store: Path) -> None:
    (source / VICTIM.suite / f"._{VICTIM.name}").write_bytes(b"\0\5\26\7")  # what macOS leaves on other disks
    (source / VICTIM.suite / "x_demo.hdf5.part").write_bytes(b"half")
    (source / ".cache").mkdir()
    (source / ".cache" / "x_demo.hdf5").write_bytes(b"")
    victim(source).rename(victim(source).with_suffix(".HDF5"))
    assert command("build", source, store, "--quiet").code == 0
    assert store_tools.root_of(store).rows == 67


def test_names_in_other_alphabets_are_kept(command: Command, source: Path, store: Path) -> None:
    (source / VICTIM.suite).rename(source / "抓取 ünïcode")
    path = source / "抓取 ünïcode" / VICTIM.name
    path.rename(path.with_name("把碗放在盘子上 ✓_demo.hdf5"))
    store = store.with_name("сто́ры.vla")
    assert command("build", source, store, "--quiet").code == 0
    assert command("verify", store, "--against", source).code == 0
    assert "抓取 ünïcode" in command("info", store).out


def test_a_name_that_is_not_utf8_is_refused_for_a_source_and_fine_for_a_store(source: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    there = os.fsdecode(folder)
    assert run("build", source, f"{there}/x.vla").code == 0
    assert run("verify", f"{there}/x.vla", "--against", source).code == 0
    assert run("info", f"{there}/x.vla").code == 0
    victim(source).rename(Path(there) / VICTIM.name)
    ran = run("build", there, tmp_path / "y.vla")
    assert ran.code == 1, ran.err
    assert_one_screen(ran.err, "in UTF-8", "rename the file or its folder")


def change(path: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        edit(file)


SENSIBLE: dict[str, Callable[[h5py.File], object]] = {
    "big-endian": lambda file: rewrite(file, "obs/ee_pos", lambda rows: rows.astype(">f8")),
    "big-endian actions": lambda file: rewrite(file, "actions", lambda rows: rows.astype(">f8")),
    "gzip": lambda file: rewrite(
        file, "obs/agentview_rgb", lambda rows: rows, compression="gzip", chunks=(5, 16, 24, 3)
    ),
    "chunked actions": lambda file: rewrite(file, "actions", lambda rows: rows, chunks=(3, 2), shuffle=True),
    "soft link": lambda file: link(file, "obs/ee_ori", h5py.SoftLink),
    "second name": lambda file: second_name(file, "obs/ee_ori"),
    "attributes of a dataset": lambda file: file["data/demo_1/obs/ee_pos"].attrs.update(unit="m", scale=np.float32(2)),
    "fixed-length text": lambda file: file["data"].attrs.create("note", np.bytes_(b"abc"), dtype="S8"),
    "array of text": lambda file: file["data/demo_1"].attrs.update(names=["a", "bé", ""]),
    "array of fixed text": lambda file: file["data/demo_1"].attrs.update(names=np.array([b"a", b"bc"])),
    "empty attribute": lambda file: file["data/demo_1"].attrs.update(nothing=h5py.Empty("f4"), none=h5py.Empty("S3")),
    "text that is not UTF-8": lambda file: file["data/demo_1"].attrs.create(
        "latin", b"caf\xe9", dtype=h5py.string_dtype()
    ),
    "bool attribute": lambda file: file["data/demo_1"].attrs.update(flag=True, flags=np.array([True, False])),
    "big-endian attribute": lambda file: file["data/demo_1"].attrs.update(n=np.array([1, 2], ">i2")),
    "root attribute": lambda file: file.attrs.update(made="by hand"),
    "empty group": lambda file: file.create_group("data/demo_1/extra").attrs.update(n=1),
}


def rewrite(file: h5py.File, name: str, convert: Callable[[np.ndarray], np.ndarray], **options: object) -> None:
    rows = convert(file[f"data/demo_1/{name}"][()])
    del file[f"data/demo_1/{name}"]
    file.create_dataset(f"data/demo_1/{name}", data=rows, **options)


def link(file: h5py.File, name: str, kind: type) -> None:
    file.move(f"data/demo_1/{name}", "data/demo_1/obs/zz_kept")
    rows = file["data/demo_1/obs/zz_kept"]
    rows.attrs["note"] = "reached by two names"
    for number in (0, 1):
        if number == 0:
            file["data/demo_0/obs/zz_kept"] = file[f"data/demo_0/{name}"][()]
    file[f"data/demo_1/{name}"] = kind("/data/demo_1/obs/zz_kept")


def second_name(file: h5py.File, name: str) -> None:
    for number in (0, 1):
        file[f"data/demo_{number}/obs/zz_kept"] = file[f"data/demo_{number}/{name}"]


@pytest.mark.parametrize("name", SENSIBLE)
def test_whatever_hdf5_allows_arrives_bit_for_bit(command: Command, source: Path, store: Path, name: str) -> None:
    folder = source / VICTIM.suite
    change(victim(source), SENSIBLE[name])
    ran = command("build", folder, store)
    assert ran.code == 0, ran.err
    ran = command("verify", store, "--against", folder)
    assert ran.code == 0, ran.out + ran.err
    with h5py.File(victim(source)) as file:
        demo = file["data/demo_1"]
        fields = {path.removeprefix("obs/"): demo[path][()] for path in paths_of(demo)}
    stored = store_fields(store)
    assert stored.keys() == fields.keys()
    for field, rows in fields.items():
        assert np.array_equal(stored[field], rows), field
        assert stored[field].dtype == rows.dtype.newbyteorder("="), field


def paths_of(demo: h5py.Group, prefix: str = "") -> list[str]:
    """Every name of a dataset, with links and second names: a walk of its own."""
    found: list[str] = []
    for name in demo:
        if isinstance(demo[name], h5py.Dataset):
            found.append(prefix + name)
        elif isinstance(demo[name], h5py.Group):
            found += paths_of(demo[name], f"{prefix}{name}/")
    return found


def store_fields(store: Path) -> dict[str, np.ndarray]:
    """All rows of demo_1, which is the second of two episodes, by field; read by the library."""
    from vla_store import Samples, open_store

    opened = open_store(store)
    episode = opened.episodes[1]
    rows = range(episode.start, episode.start + episode.length)
    samples = Samples(
        opened, windows=dict.fromkeys(opened.fields, 0), alignment="as_stored", episodes=[1], images="as_stored"
    )
    made = [samples[i] for i in range(len(rows))]
    return {name: np.stack([np.asarray(each[name]) for each in made]) for name in opened.fields}


def elsewhere(file: h5py.File) -> None:
    """A demonstration is a link to a file of other offsets: the bytes at these in the first file are something else."""
    with h5py.File(Path(file.filename).with_name("elsewhere.hdf5.bak"), "w") as other:
        file.copy("data/demo_1", other, "demo_1")
    del file["data/demo_1"]
    file["data/demo_1"] = h5py.ExternalLink("elsewhere.hdf5.bak", "/demo_1")


def virtual(file: h5py.File, where: str) -> None:
    """HDF5 reads zeros, and no error, where the source of a virtual dataset is missing."""
    shape, dtype = file["data/demo_1/obs/ee_ori"].shape, file["data/demo_1/obs/ee_ori"].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(where, "/nowhere", shape, dtype)
    del file["data/demo_1/obs/ee_ori"]
    file["data/demo_1/obs"].create_virtual_dataset("ee_ori", layout)


def external(file: h5py.File) -> None:
    """HDF5 reads zeros where an external file is too short."""
    shape, dtype = file["data/demo_1/obs/ee_ori"].shape, file["data/demo_1/obs/ee_ori"].dtype
    del file["data/demo_1/obs/ee_ori"]
    name = str(Path(file.filename).with_name("ee_ori.raw"))
    file["data/demo_1/obs"].create_dataset("ee_ori", shape, dtype, external=[(name, 0, h5py.h5f.UNLIMITED)])


REFUSED: dict[str, tuple[Callable[[h5py.File], object], tuple[str, ...]]] = {
    "object reference": (
        lambda file: file["data/demo_1"].attrs.update(ref=file["data"].ref),
        ("an attribute cannot be kept", "/data/demo_1", "ref", "demo_1", "--skip-bad"),
    ),
    "compound": (
        lambda file: file["data/demo_1/obs/ee_pos"].attrs.update(
            pair=np.array((1, 2.0), dtype=[("a", "i4"), ("b", "f8")])
        ),
        ("an attribute cannot be kept", "/data/demo_1/obs/ee_pos", "pair", "demo_1"),
    ),
    "complex": (
        lambda file: file["data/demo_1"].attrs.update(z=1 + 2j),
        ("an attribute cannot be kept", "complex128", "demo_1"),
    ),
    "ragged lists": (
        lambda file: file["data/demo_1"].attrs.create(
            "lists", np.array([np.arange(3), np.arange(2)], object), dtype=h5py.vlen_dtype("i4")
        ),
        ("an attribute cannot be kept", "lists"),
    ),
    "link to another file": (
        lambda file: link(file, "obs/ee_ori", lambda path: h5py.ExternalLink("other.hdf5", path)),  # type: ignore[arg-type]
        ("a link to another file", "obs/ee_ori", "other.hdf5", "demo_1"),
    ),
    "demonstration in another file": (
        lambda file: elsewhere(file),
        ("lies in another file", "/data/demo_1", "elsewhere.hdf5", "demo_1"),
    ),
    "virtual dataset of another file": (
        lambda file: virtual(file, "gone.hdf5"),
        ("lies in another file", "obs/ee_ori", "gone.hdf5", "demo_1"),
    ),
    "virtual dataset of nothing": (
        lambda file: virtual(file, "."),
        ("lies in another file", "obs/ee_ori", "/nowhere", "demo_1"),
    ),
    "dataset stored elsewhere": (
        lambda file: external(file),
        ("lies in another file", "obs/ee_ori", "ee_ori.raw", "demo_1"),
    ),
    "dangling link": (
        lambda file: link(file, "obs/ee_ori", lambda path: h5py.SoftLink("/nowhere")),  # type: ignore[arg-type]
        ("a link that leads to no dataset", "obs/ee_ori", "/nowhere", "demo_1", "--exclude obs/ee_ori"),
    ),
    "link to a group": (
        lambda file: link(file, "obs/ee_ori", lambda path: h5py.SoftLink("/data/demo_1")),  # type: ignore[arg-type]
        ("a link that leads to no dataset", "obs/ee_ori", "demo_1"),
    ),
    "group within itself": (
        lambda file: file["data/demo_1/obs"].__setitem__("again", file["data/demo_1/obs"]),
        ("groups are nested too deeply", "demo_1"),
    ),
    "dataset of pairs": (
        lambda file: file["data/demo_1"].__setitem__("mass", np.zeros(12, [("a", "f8"), ("b", "i4")])),
        ("a dataset has the wrong dtype or shape", "mass", "demo_1", "--exclude mass"),
    ),
    "name of a field that cannot be": (
        lambda file: file["data/demo_1"].__setitem__("joint angles", np.zeros((12, 2))),
        ("different datasets", "joint_angles", "demo_1", "--exclude"),
    ),
    "two datasets of one field": (
        lambda file: file["data/demo_1"].__setitem__("ee_pos", np.zeros((12, 3))),
        ("different datasets", "obs__ee_pos", "demo_1", "--exclude"),
    ),
    "another group": (
        lambda file: file.create_group("notes"),
        ("holds more than demonstrations", "/notes", "--exclude /notes", "vla-store layout"),
    ),
    "a demo called otherwise": (
        lambda file: file.move("data/demo_1", "data/demo_one"),
        ("holds more than demonstrations", "/data/demo_one"),
    ),
    "a demo that is a dataset": (
        lambda file: file["data"].__setitem__("demo_7", np.zeros(3)),
        ("a demonstration without actions", "demo_7", "no group"),
    ),
    "instruction that is not text": (
        lambda file: file["data"].attrs.update(problem_info='{"language_instruction": {"a": 1}}'),
        ("problem_info is broken",),
    ),
    "instruction of half a character": (
        lambda file: file["data"].attrs.update(problem_info='{"language_instruction": "\\ud800"}'),
        ("problem_info is broken",),
    ),
    "convention of numbers": (
        lambda file: file["data"].attrs.update(macros_image_convention=np.arange(2)),
        ("orientation of the pictures cannot be known", "--orientation"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(command: Command, source: Path, store: Path, name: str) -> None:
    spoil, says = REFUSED[name]
    change(victim(source), spoil)
    refused(command, source / VICTIM.suite, store, says=(*says, victim(source)))


def test_a_file_that_another_program_writes_is_the_machines_failure(
    source: Path, store: Path, command: Command
) -> None:
    with h5py.File(victim(source), "r+"):
        ran = run("build", source, store)
    assert ran.code == 3, ran.err
    assert_one_screen(ran.err, victim(source), "another program is writing the file")
