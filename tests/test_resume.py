"""A build that is stopped, however and whenever, goes on where it was; and it gives the same bytes whoever runs it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import store_tools
import tiny_libero
from crashing import calls_of, crashes
from kills import kills
from own_sources import Own
from store_tools import COMMAND, Stop, Stopping, assert_one_screen, differences, digests, environment, run

from vla_store import DestinationExists, MachineError, SourceError, StoreUnfinished, cli, open_store
from vla_store.builder import build_store
from vla_store.builder.executors import run_units
from vla_store.format import predictions

LIMIT_S = 120


@pytest.fixture(scope="module")
def reference(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the objects of a store that nothing disturbed."""
    return digests(store_tools.built(tmp_path_factory.mktemp("reference") / "x.vla", [small_source], workers=1))


@pytest.fixture(scope="module")
def goal(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the objects of an undisturbed store of one suite of the demos."""
    return digests(store_tools.built(tmp_path_factory.mktemp("goal") / "x.vla", [demos / "libero/libero_goal"]))


class Marking(Stopping):
    """Lets a source be faulty once its frames are encoded, not while it is scanned."""

    def __init__(self, flag: Path) -> None:
        super().__init__(-1)
        self._flag = flag

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        self._flag.touch()


def unfinished(source: Path, store: Path, after: int = 5) -> Path:
    """Leaves an unfinished build of `store` behind; STORE.partial."""
    with pytest.raises(Stop):
        build_store([source], store, workers=1, progress=Stopping(after))
    return Path(f"{store}.partial")


# Killed


def check_crashes(source: Path, store: Path, numbers: list[int], reference: dict[str, str]) -> None:
    seen = 0
    for number, (killed, _), complete, resumed in crashes(store, numbers, source):
        assert killed == -signal.SIGKILL, f"call {number} was never made"
        assert resumed[0] == 0, f"killed at call {number}, the same build said: {resumed[1]}"
        found = digests(store.with_name(f"{store.name}-{number}"))
        if complete:
            found.pop("build.lock", None)  # killed after the commit: a left-over
        assert differences(found, reference) == [], f"killed at call {number}"
        assert not os.path.exists(f"{store}.partial")
        shutil.rmtree(f"{store}-{number}")
        seen += 1
    assert seen == len(numbers)


@pytest.fixture(scope="module")
def calls(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many calls that change the disk a build makes."""
    return calls_of(tmp_path_factory.mktemp("calls") / "x.vla", small_source)


def test_a_build_killed_at_any_of_its_stages_resumes_to_the_same_bytes(
    small_source: Path, tmp_path: Path, reference: dict[str, str], calls: int
) -> None:
    through = [1, *range(8, calls - 16, calls // 6)]
    commit = range(calls - 13, calls + 1, 3)  # the end of the journal, the rename; the campaign tries every call
    check_crashes(small_source, tmp_path / "x.vla", [*through, *commit], reference)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_a_build_killed_before_any_call_resumes_to_the_same_bytes(
    small_source: Path, tmp_path: Path, reference: dict[str, str], calls: int
) -> None:
    check_crashes(small_source, tmp_path / "x.vla", list(range(1, calls + 1)), reference)


def test_a_build_killed_twice_on_its_way_and_resumed_is_byte_identical_on_demos(
    demos: Path, goal: dict[str, str], tmp_path: Path
) -> None:
    kill_and_resume(demos / "libero/libero_goal", tmp_path / "x.vla", [0.2, 0.6])
    assert differences(digests(tmp_path / "x.vla"), goal) == []


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_ten_builds_of_the_demos_killed_at_random_moments_resume_to_the_same_bytes(
    demos: Path, demo_store: Path, tmp_path: Path, executor: str
) -> None:
    expected = digests(demo_store)
    draw = random.Random(executor)
    for round in range(10):
        moments = sorted(draw.random() for _ in range(draw.choice([1, 1, 2, 4])))
        kill_and_resume(demos / "libero", tmp_path / "x.vla", moments, "--executor", executor)
        assert differences(digests(tmp_path / "x.vla"), expected) == [], f"round {round}: {moments}"
        shutil.rmtree(tmp_path / "x.vla")


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("executor", "rounds"), [("threads", 150), ("processes", 50)])
def test_two_hundred_builds_killed_at_random_moments_resume_to_the_same_bytes(
    small_source: Path, tmp_path: Path, reference: dict[str, str], executor: str, rounds: int
) -> None:
    told = kills(f"build-{executor}", small_source, tmp_path, tmp_path / "x.vla", rounds)
    for killed, _, finished, left, found in told:
        found.pop("build.lock", None)  # killed after the commit: a left-over
        assert (finished, left, differences(found, reference)) == (0, [], []), f"killed {killed} times"
    assert sum(between > 0 for _, between, *_ in told) > rounds // 3  # the others came while it read, or too late
    print(f"{executor}: {rounds} builds, {sum(each[0] for each in told)} kills, of which", end=" ")
    print(f"{sum(each[1] for each in told)} left an unfinished build; every one resumed to the identical store")


def kill_and_resume(source: Path, store: Path, shares: list[float], *options: str) -> None:
    """Kill the build each time its folder holds such a share of what the store will; then let it run."""
    whole = sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) * 0.36
    for share in shares:
        process = start("build", source, store, *options)
        while process.poll() is None and nbytes_below(Path(f"{store}.partial")) < share * whole:
            time.sleep(0.005)
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if store.exists():
            break
    ran = run("build", source, store, *options) if not store.exists() else None
    assert ran is None or ran.code == 0, ran.err
    assert not os.path.exists(f"{store}.partial")


def start(*arguments: object) -> subprocess.Popen[str]:
    """A command that goes on while the test looks at it, in a process group of its own, as a terminal's is."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def below(folder: Path) -> list[Path]:
    """The files of a folder in which a build works meanwhile: what vanishes is passed over."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def nbytes_below(folder: Path) -> int:
    total = 0
    for path in below(folder):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def encodes_pictures(partial: Path) -> bool:
    return any(
        "_rgb" in str(path) and path.suffix == ".tmp" and "zarr.json" not in path.name for path in below(partial)
    )


@contextlib.contextmanager
def held_while_it_encodes(process: subprocess.Popen[str], partial: Path) -> Iterator[None]:
    """The command stands still in the middle of its pictures, and then goes on: however fast it is, and whoever else is at work."""
    while True:
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGSTOP)
        wait_until_stopped(process.pid)
        if encodes_pictures(partial):
            break
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.01)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def wait_until_stopped(pid: int) -> None:
    """Until it stands still: a signal takes its time."""
    while psutil.Process(pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
        time.sleep(0.001)


def test_a_receipt_or_an_object_that_was_lost_is_made_again(
    small_source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    partial = unfinished(small_source, tmp_path / "x.vla", after=9)
    receipts = sorted(path for path in partial.glob("parts/*.build/*.json") if path.name != "source.json")
    assert len(receipts) >= 9  # and what was at work then
    receipts[0].write_bytes(b"")
    receipts[1].write_bytes(b'{"task": "actions"}')
    receipts[2].unlink()
    lost = json.loads(receipts[3].read_bytes())["objects"][0]["key"]
    next(partial.glob(f"parts/*/{lost}")).unlink()
    cut = json.loads(receipts[4].read_bytes())["objects"][0]["key"]
    os.truncate(next(partial.glob(f"parts/*/{cut}")), 10)
    progress = Stopping(-1)
    report = build_store([small_source], tmp_path / "x.vla", progress=progress)
    assert report.resumed
    assert progress.begun is not None
    assert 0 < progress.begun[2] < progress.begun[1]
    assert differences(digests(tmp_path / "x.vla"), reference) == []


# Interrupted


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_ctrl_c_stops_cleanly_says_how_to_go_on_and_the_same_command_does(
    demos: Path, goal: dict[str, str], tmp_path: Path, executor: str
) -> None:
    arguments = ("build", demos / "libero/libero_goal", tmp_path / "x.vla", "--executor", executor, "--workers", "2")
    process = start(*arguments)
    partial = tmp_path / "x.vla.partial"
    with held_while_it_encodes(process, partial):
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "interrupted; the same command resumes the build" in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "x.vla").exists()
    assert list(partial.rglob("*.tmp")) == []  # what was in hand was finished or taken away
    with pytest.raises(StoreUnfinished):
        open_store(tmp_path / "x.vla")
    ran = run(*arguments)
    assert ran.code == 0, ran.err
    assert differences(digests(tmp_path / "x.vla"), goal) == []


# Resumed with something else


def test_a_source_that_changed_is_refused_on_resume_and_the_unfinished_build_kept(
    small_source: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(small_source, tmp_path / "LIBERO"))
    store = tmp_path / "x.vla"
    unfinished(source, store)
    path = tiny_libero.victim(source)
    time_before = path.stat().st_mtime_ns
    pixels = tiny_libero.read(path, "data/demo_1/obs/agentview_rgb")
    tiny_libero.replace(path, "data/demo_1/obs/agentview_rgb", 255 - pixels)  # no digest of the plan sees a pixel
    with pytest.raises((SourceError, DestinationExists)):
        build_store([source], store)
    assert Path(f"{store}.partial").exists()
    os.utime(path, ns=(time_before, time_before + 1_000))
    ran = run("build", source, store)
    assert ran.code in (1, 2)
    assert_one_screen(ran.err, "--overwrite")
    assert run("build", source, store, "--overwrite").code == 0
    assert run("verify", store, "--against", source).code == 0


def test_a_source_only_touched_is_refused_by_name(small_source: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(small_source, tmp_path / "LIBERO"))
    store = tmp_path / "x.vla"
    unfinished(source, store)
    path = tiny_libero.victim(source)
    stat = path.stat()
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns + 1_000_000))
    ran = run("build", source, store)
    assert ran.code == 1
    assert_one_screen(ran.err, "a source changed since the unfinished build began", path, "expected", "found")
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert run("build", source, store).code == 0


def unseen_pixel(source: Path) -> tuple[Path, int]:
    """A file with 300 steps below `source`, and the place in it of a pixel that neither probe nor background looks at."""
    import h5py

    file = tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 150, 4: 150})
    (path,) = tiny_libero.write_suites(source, suites=[file]).rglob("*.hdf5")
    seen = {row - 150 for row in predictions.probe_rows(300)} | set(predictions.background_rows(150))
    unseen = next(row for row in range(1, 150) if row not in seen)
    with h5py.File(path) as hdf5:
        dataset = hdf5["data/demo_4/obs/agentview_rgb"]
        return path, dataset.id.get_offset() + unseen * dataset[0].nbytes + 7


def test_rehash_refuses_a_source_that_changed_without_another_size_or_time(tmp_path: Path) -> None:
    path, pixel = unseen_pixel(tmp_path / "LIBERO")
    store = tmp_path / "x.vla"
    with pytest.raises(Stop):
        build_store([path], store, workers=1, rehash=True, progress=Stopping(2))
    stat = path.stat()
    store_tools.flip(path, pixel)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ran = run("build", path, store, "--rehash")
    assert ran.code == 1
    assert_one_screen(ran.err, "a source changed since the unfinished build began", path, "sha256", "--overwrite")
    assert Path(f"{store}.partial").exists()
    store_tools.flip(path, pixel)
    assert run("build", path, store, "--rehash", "--json").code == 0
    assert run("verify", store, "--against", path).code == 0


def test_rehash_knows_a_file_that_was_only_copied_anew(small_source: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(small_source, tmp_path / "LIBERO"))
    store = tmp_path / "x.vla"
    with pytest.raises(Stop):
        build_store([source], store, workers=1, rehash=True, progress=Stopping(5))
    os.utime(tiny_libero.victim(source), ns=(0, 1_000_000_000))
    with pytest.raises(SourceError, match="changed"):
        build_store([source], store)
    assert build_store([source], store, rehash=True).resumed


def test_a_source_at_another_place_resumes(small_source: Path, tmp_path: Path, reference: dict[str, str]) -> None:
    source = Path(shutil.copytree(small_source, tmp_path / "LIBERO"))
    unfinished(source, tmp_path / "x.vla")
    source.rename(tmp_path / "mounted_elsewhere")
    report = build_store([tmp_path / "mounted_elsewhere"], tmp_path / "x.vla")
    assert report.resumed
    assert differences(digests(tmp_path / "x.vla"), reference) == []


@pytest.mark.parametrize("options", [("--preset", "small"), ("--orientation", "bottom_up")])
def test_other_options_do_not_resume(
    small_source: Path, tmp_path: Path, options: tuple[str, ...], reference: dict[str, str]
) -> None:
    store = tmp_path / "x.vla"
    partial = unfinished(small_source, store)
    before = digests(partial)
    ran = run("build", small_source, store, *options)
    assert ran.code == 2
    assert_one_screen(ran.err, "an unfinished build of other sources or options is in the way", partial, "--overwrite")
    assert digests(partial) == before
    build_store([small_source], store)
    assert differences(digests(store), reference) == []


def test_overwrite_resumes_the_same_build_and_discards_another(
    small_source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    store = tmp_path / "x.vla"
    store_tools.built(store, [small_source / "libero_goal"])
    with pytest.raises(Stop):
        build_store([small_source], store, overwrite=True, workers=1, progress=Stopping(5))
    assert open_store(store).rows == 22  # the old store, until the new one is whole
    report = build_store([small_source], store, overwrite=True)
    assert report.resumed
    assert differences(digests(store), reference) == []
    with pytest.raises(Stop):
        build_store([small_source], store, preset="raw", overwrite=True, workers=1, progress=Stopping(5))
    assert not build_store([small_source], store, overwrite=True).resumed
    assert differences(digests(store), reference) == []
    assert [path.name for path in tmp_path.iterdir()] == ["x.vla"]


def test_two_builds_at_once_into_one_store_are_refused_and_the_first_goes_on(
    small_source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    class Waiting(Stopping):
        def advance(self, nbytes: int) -> None:
            reached.set()
            assert go_on.wait(LIMIT_S)

    first = threading.Thread(
        target=build_store, args=([small_source], tmp_path / "x.vla"), kwargs={"progress": Waiting(0)}
    )
    first.start()
    assert reached.wait(LIMIT_S)
    try:
        for options in ((), ("--overwrite",), ("--preset", "raw", "--overwrite")):
            ran = run("build", small_source, tmp_path / "x.vla", *options)
            assert ran.code == 2
            assert_one_screen(ran.err, "another build is writing there now", tmp_path / "x.vla.partial")
    finally:
        go_on.set()
        first.join()
    assert differences(digests(tmp_path / "x.vla"), reference) == []
    with pytest.raises(DestinationExists):
        build_store([small_source], tmp_path / "x.vla")


def test_a_store_that_appears_meanwhile_is_not_replaced(small_source: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.vla"

    class Other(Stopping):
        def end(self) -> None:
            shutil.copytree(small_source, store)

    with pytest.raises(DestinationExists) as caught:
        build_store([small_source], store, progress=Other(0))
    assert "appeared" in str(caught.value)
    assert digests(store) == digests(small_source)


# The same bytes whoever builds, from wherever, and whenever


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bytes(
    small_source: Path, tmp_path: Path, reference: dict[str, str], workers: int
) -> None:
    assert digests(store_tools.built(tmp_path / "x.vla", [small_source], workers=workers)) == reference


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_gives_the_same_bytes(
    small_source: Path, tmp_path: Path, reference: dict[str, str], workers: int
) -> None:
    store = store_tools.built(tmp_path / "x.vla", [small_source], executor="processes", workers=workers)
    assert digests(store) == reference


def test_a_worker_process_that_dies_is_said_and_the_same_build_resumes(tmp_path: Path) -> None:
    store = tmp_path / "x.vla"
    source = Own(faulty="front", fault="die", flag=str(tmp_path / "deadly"), lengths={0: 30, 1: 30})
    build_store([source], tmp_path / "reference.vla")
    with pytest.raises(MachineError) as caught:
        build_store([source], store, executor="processes", workers=2, progress=Marking(tmp_path / "deadly"))
    assert_one_screen(cli.error_text(caught.value), "a worker process died", "it resumes")
    assert not store.exists()
    build_store([source], store, executor="processes", workers=2)
    assert digests(store) == digests(tmp_path / "reference.vla")


def test_workers_end_when_their_parent_is_killed(demos: Path, tmp_path: Path) -> None:
    process = start("build", demos / "libero/libero_goal", tmp_path / "x.vla", "--executor", "processes")
    with held_while_it_encodes(process, tmp_path / "x.vla.partial"):
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    process.communicate()
    assert workers
    assert psutil.wait_procs(workers, timeout=LIMIT_S)[1] == []


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_an_error_in_an_own_source_keeps_its_words_and_where_it_was_raised(tmp_path: Path, executor: str) -> None:
    import traceback

    source = Own(faulty="front", fault="raise", flag=str(tmp_path / "odd"))
    with pytest.raises(Exception, match="the gripper's log is odd") as caught:
        build_store([source], tmp_path / "x.vla", executor=executor, workers=1, progress=Marking(tmp_path / "odd"))
    assert "own_sources.py" in "".join(traceback.format_exception(caught.value))


def test_the_place_and_the_time_of_a_source_do_not_enter(
    small_source: Path, tmp_path: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(small_source, tmp_path / "another" / "place"))
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
    monkeypatch.chdir(tmp_path / "another")
    assert digests(store_tools.built(Path("x.vla"), ["place"])) == reference


def test_the_order_and_the_kind_of_what_is_given_do_not_enter(
    small_source: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    files = sorted(small_source.glob("*/*.hdf5"), reverse=True)
    assert digests(store_tools.built(tmp_path / "files.vla", files)) == reference
    suites = [small_source / "libero_spatial", *files[1:]]
    assert digests(store_tools.built(tmp_path / "mixed.vla", suites)) == reference


def test_no_tasks_are_no_work() -> None:
    done: list[object] = []
    for executor in ("threads", "processes"):
        run_units([], done.append, executor=executor, workers=2)
    assert done == []
