"""One set of samples in many processes and threads: however they are started, whatever the parent did before."""

from __future__ import annotations

import gc
import pickle
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from child_processes import (
    METHODS,
    digest_and_clean_up,
    digest_as_old_fsspec,
    digest_of,
    digest_with_few_files,
    in_processes,
)
from range_server import RangeServer
from s3_server import S3Server

import vla_store

WINDOWS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 0, "robot_states": [0, -5], "states": 0, "actions": range(8)}
NUMBERS = (0, 1, 44, 45, 46, 100, 176, 1)
KINDS = ("mmap", "pread", "fsspec", "http", "s3")

# Python 3.12 warns of every fork where there are threads: that this is safe here is what these tests are for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

Make = Callable[[], vla_store.Samples]


@pytest.fixture(scope="module")
def web(wide_store: Path) -> Iterator[RangeServer]:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with RangeServer(wide_store) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(wide_store: Path) -> Iterator[S3Server]:
    for module in ("moto", "s3fs", "boto3"):
        pytest.importorskip(module, reason=f"s3:// needs {module}")
    with S3Server() as server:
        server.upload(wide_store, "wide.vla")
        yield server


def maker(request: pytest.FixtureRequest, kind: str) -> Make:
    """Makes samples that nobody has read from yet, over one kind of storage."""
    if kind == "http":
        url = request.getfixturevalue("web").url
        return lambda: samples(vla_store.open_store(url))
    if kind == "s3":
        options = request.getfixturevalue("bucket").options
        return lambda: samples(vla_store.open_store("s3://robots/wide.vla", fetcher="fsspec", storage_options=options))
    folder = request.getfixturevalue("wide_store")
    return lambda: samples(vla_store.open_store(folder, fetcher=kind))


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    return maker(request, request.param)


@pytest.fixture
def expected(wide_store: Path) -> str:
    return digest_of(samples(vla_store.open_store(wide_store)), NUMBERS)


def samples(store: vla_store.Store) -> vla_store.Samples:
    return vla_store.Samples(store, windows=WINDOWS, alignment="causal", images="upright", dtype="float32")


@pytest.mark.parametrize("method", METHODS)
def test_processes_read_what_their_parent_reads_whether_it_read_before_or_not(
    make: Make, expected: str, method: str
) -> None:
    fresh, used = make(), make()
    assert digest_of(used, NUMBERS) == expected
    assert in_processes(method, [(digest_of, fresh, NUMBERS), (digest_of, used, NUMBERS)]) == [expected] * 2
    assert digest_of(used, NUMBERS) == expected, "the parent was disturbed"
    assert digest_of(fresh, NUMBERS) == expected


def test_a_process_forked_of_a_forked_process_reads_too(make: Make, expected: str) -> None:
    used = make()
    digest_of(used, NUMBERS)
    assert in_processes("fork", [(in_processes, "fork", [(digest_of, used, NUMBERS)])]) == [[expected]]


@pytest.mark.parametrize("make", ["mmap", "http", "s3"], indirect=True)
def test_what_a_forked_process_frees_is_not_freed_for_its_parent(make: Make, expected: str) -> None:
    """Connections lie in an epoll that both processes share: a child that closes its copies must not take them out of it."""
    used = make()
    digest_of(used, NUMBERS)
    assert in_processes("fork", [(digest_and_clean_up, used, NUMBERS)]) == [expected]
    assert digest_of(used, NUMBERS) == expected
    del used
    gc.collect()
    assert in_processes("fork", [(digest_and_clean_up, None, NUMBERS)]) == [""]
    assert digest_of(make(), NUMBERS) == expected


@pytest.mark.parametrize("kind", ["mmap", "pread"])
def test_a_fork_in_the_midst_of_reading_threads_reads(wide_store: Path, expected: str, kind: str) -> None:
    used, stop, failed = samples(vla_store.open_store(wide_store, fetcher=kind)), threading.Event(), []

    def read_on() -> None:
        while not stop.is_set():
            if digest_of(used, NUMBERS) != expected:
                failed.append("a thread read something else")

    threads = [threading.Thread(target=read_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            assert in_processes("fork", [(digest_of, used, NUMBERS)]) == [expected]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_forked_process_does_not_wait_for_an_event_loop_that_stayed_with_its_parent(
    request: pytest.FixtureRequest, expected: str, kind: str
) -> None:
    """fsspec before 2025.5, which many training environments hold, leaves the parent's loop in forked processes."""
    import fsspec.asyn

    used = maker(request, kind)()
    digest_of(used, NUMBERS)
    held = fsspec.asyn.iothread[0], fsspec.asyn.loop[0]
    assert held[0] is not None
    assert held[0].is_alive()
    assert in_processes("fork", [(digest_as_old_fsspec, used, NUMBERS, *held)]) == [expected]


def test_many_threads_read_one_set_of_samples_at_once(make: Make, wide_store: Path) -> None:
    """All of them begin together on samples that nobody has read from: every lazy thing is made under contention."""
    reference = samples(vla_store.open_store(wide_store))
    rng = random.Random(0)
    work = [[rng.randrange(len(reference)) for _ in range(6)] for _ in range(8)]
    expected = [digest_of(reference, numbers) for numbers in work]
    shared, together = make(), threading.Barrier(8)

    def read(numbers: list[int]) -> str:
        together.wait(30)
        return digest_of(shared, numbers)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, work)) == expected


def test_threads_that_open_the_same_folder_do_not_wait_for_each_other_for_ever(wide_store: Path, expected: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: digest_of(samples(vla_store.open_store(wide_store)), NUMBERS), range(8)))
    assert found == [expected] * 8


def test_a_store_in_memory_is_read_by_forked_processes_alone(wide_store: Path, expected: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    for path in wide_store.rglob("*"):
        if path.is_file():
            fs.pipe(f"/forked.vla/{path.relative_to(wide_store).as_posix()}", path.read_bytes())
    try:
        used = samples(vla_store.open_store("memory://forked.vla"))
        assert in_processes("fork", [(digest_of, used, NUMBERS)]) == [expected]
        (answer,) = in_processes("spawn", [(digest_of, used, NUMBERS)])
        assert answer.startswith("ObjectMissing: an object of the store is missing")
    finally:
        fs.rm("/forked.vla", recursive=True)


@pytest.mark.parametrize("kind", ["mmap", "pread", "fsspec"])
def test_a_store_of_more_objects_than_files_may_be_open_is_read(many_objects: Path, kind: str) -> None:
    """`ulimit -n 256`, as on many clusters: maps hold no file, and other files are few and given back."""
    every = samples(vla_store.open_store(many_objects))
    numbers = [part * len(every) // 30 + 3 for part in range(30)] * 2
    shards = sum(1 for path in many_objects.glob("parts/*/*/*/c/**/*") if path.is_file())
    used = samples(vla_store.open_store(many_objects, fetcher=kind))
    ((digest, files),) = in_processes("spawn", [(digest_with_few_files, used, numbers, 256)])
    assert digest == digest_of(every, numbers)
    assert files < 128 < 256 < shards


def test_a_handle_is_a_few_kilobytes_however_much_was_read_through_it(make: Make) -> None:
    used = make()
    before = len(pickle.dumps(used))
    digest_of(used, NUMBERS)
    assert len(pickle.dumps(used)) == before < 4_096


def test_an_object_that_vanishes_is_named_by_every_process(wide_store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(wide_store, tmp_path / "copy.vla")
    used = vla_store.Samples(copy, windows={"actions": 0, "robot_states": 0}, alignment="causal")
    (shard,) = copy.glob("parts/*/steps/robot_states/c/0/0")
    shard.unlink()
    for method in ("fork", "spawn"):
        (answer,) = in_processes(method, [(digest_of, used, NUMBERS)])
        assert answer.startswith("ObjectMissing: an object of the store is missing")
        assert shard.relative_to(copy).as_posix() in answer
