"""Mirrors of far storage on this machine: always the right bytes, whatever is killed, full, foreign or switched off."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_store.errors import OptionError
from vla_store.storage import Contents, LocalStorage, Range
from vla_store.storage import cache as cache_module
from vla_store.storage import mirrored as mirrored_module
from vla_store.storage.cache import CacheFolder, file_system_of
from vla_store.storage.mirror import ABSENT, DATA, DURABLE, PAGE, PRESENT, boot_id
from vla_store.storage.mirrored import MirroredStorage, mirrored

SIZES = {
    "parts/a/one": 40_000,
    "parts/a/two": 5,
    "parts/a/empty": 0,
    "parts/a/three": 3 * PAGE,
    "parts/a/four": 300_001,
}


class Far(LocalStorage):
    """A folder that counts what is asked of it."""

    is_near = False

    def __init__(self, url: str) -> None:
        super().__init__(url, mapped=False)
        self.asked: list[Range] = []

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        self.asked += ranges
        return super().read(ranges)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    for seed, (key, size) in enumerate(SIZES.items()):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(random.Random(seed).randbytes(size))
    return folder


CONTENTS = Contents("parts/a", hashlib.sha256(b"a listing").hexdigest(), SIZES, b"a listing")


def opened(origin: Path, cache: CacheFolder | None, transient: CacheFolder | None = None) -> MirroredStorage:
    made = MirroredStorage(Far(str(origin)), cache, transient)
    made.know(CONTENTS)
    return made


def asked(storage: MirroredStorage) -> list[Range]:
    """What was asked of the inner storage since this was called last."""
    assert isinstance(storage.inner, Far)
    found, storage.inner.asked = storage.inner.asked, []
    return found


def right(origin: Path, ranges: Sequence[Range]) -> list[bytes]:
    return [(origin / key).read_bytes()[start:stop] for key, start, stop in ranges]


RANGES = st.lists(
    st.sampled_from([each for each in SIZES if SIZES[each]]).flatmap(
        lambda key: st.tuples(st.just(key), st.integers(0, SIZES[key] - 1), st.integers(0, 50_000)).map(
            lambda each: (each[0], each[1], min(SIZES[each[0]], each[1] + each[2]))
        )
    ),
    max_size=6,
)


@pytest.mark.filterwarnings("ignore:the cache")
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["read", "ahead", "release", "settle"]), RANGES), max_size=8))
@pytest.mark.parametrize("places", ["cache", "transient", "both", "small"])
def test_whatever_is_asked_in_whatever_order_the_bytes_are_right(
    origin: Path, tmp_path_factory: pytest.TempPathFactory, places: str, steps: list[tuple[str, list[Range]]]
) -> None:
    folder = tmp_path_factory.mktemp("mirrors")
    cache = None if places == "transient" else CacheFolder(folder / "kept", 100_000 if places == "small" else None)
    storage = opened(origin, cache, CacheFolder(folder / "passing") if places in ("transient", "both") else None)
    other = opened(origin, cache)
    for what, ranges in steps:
        if what == "ahead":
            storage.fetch_ahead(ranges)
        elif what == "release":
            storage.release(ranges)
        elif what == "settle":
            storage.settle()
        for each in (storage, other):
            assert [bytes(view) for view in each.read(ranges)] == right(origin, ranges)
    for key, size in SIZES.items():
        whole = storage.whole(key)
        assert whole is None or bytes(whole) == right(origin, [(key, 0, size)])[0]


def test_what_was_read_once_is_not_fetched_again_by_anybody(origin: Path, tmp_path: Path) -> None:
    one, two = opened(origin, CacheFolder(tmp_path / "c")), opened(origin, CacheFolder(tmp_path / "c"))
    ranges = [("parts/a/one", 5_000, 9_000), ("parts/a/four", 0, 1)]
    one.read(ranges)
    assert asked(one) == [("parts/a/one", PAGE, 3 * PAGE), ("parts/a/four", 0, PAGE)]  # whole pages
    two.read([("parts/a/one", PAGE, 3 * PAGE), ("parts/a/four", 10, 20)])
    assert asked(two) == []
    assert two.traffic.hit_nbytes == 2 * PAGE + 10
    assert not two.traffic.missed_nbytes


def test_what_is_fetched_ahead_is_few_requests_and_then_lies_there(origin: Path, tmp_path: Path) -> None:
    storage = opened(origin, CacheFolder(tmp_path / "c"))
    rows = [("parts/a/four", start, start + 7_000) for start in range(0, 280_000, 7_000)]
    storage.fetch_ahead(random.Random(0).sample(rows, len(rows)))
    assert asked(storage) == [("parts/a/four", 0, -(-280_000 // PAGE) * PAGE)]
    assert [bytes(each) for each in storage.read(rows)] == right(origin, rows)
    assert asked(storage) == []
    assert storage.whole("parts/a/four") is None
    storage.fetch_ahead([("parts/a/four", 0, 300_001), ("parts/a/one", 0, 40_000)])
    assert asked(storage) == [("parts/a/four", 282_624, 300_001), ("parts/a/one", 0, 40_000)]
    for key in ("parts/a/four", "parts/a/one"):
        whole = storage.whole(key)
        assert whole is not None
        assert bytes(whole) == (origin / key).read_bytes()


def test_much_is_fetched_by_several_calls_and_of_what_fails_nothing_stays_claimed(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored_module, "CALL_NBYTES", 20_000)
    monkeypatch.setattr(mirrored_module, "MAX_REQUEST_NBYTES", 2 * PAGE)
    storage = opened(origin, CacheFolder(tmp_path / "c"))
    everything = [(key, 0, size) for key, size in SIZES.items()]
    read = Far.read

    def fails(far: Far, ranges: Sequence[Range]) -> list[memoryview]:
        if ("parts/a/four", 8 * PAGE, 10 * PAGE) in ranges:
            raise OSError("the line broke")
        return read(far, ranges)

    monkeypatch.setattr(Far, "read", fails)
    with pytest.raises(OSError, match="the line broke"):
        storage.fetch_ahead(everything)
    (mirror,) = storage._mirrors
    assert set(mirror.marks.tolist()) == {ABSENT, PRESENT}
    monkeypatch.setattr(Far, "read", read)
    asked(storage)
    storage.fetch_ahead(everything)
    assert (
        0 < sum(stop - start for _, start, stop in asked(storage)) < sum(SIZES.values()) - 20_000
    )  # what had come stays
    assert [bytes(view) for view in storage.read(everything)] == right(origin, everything)
    assert asked(storage) == []


def test_two_copies_of_one_store_share_a_mirror(origin: Path, tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "c")
    one = opened(origin, cache)
    one.read([("parts/a/one", 0, 40_000)])
    other = MirroredStorage(Far(str(origin / "parts")), cache)  # whose keys begin otherwise
    moved = {key.removeprefix("parts/"): size for key, size in SIZES.items()}
    other.know(CONTENTS._replace(prefix="a", sizes=moved))
    assert bytes(other.read([("a/one", 0, 40_000)])[0]) == right(origin, [("parts/a/one", 0, 40_000)])[0]
    assert asked(other) == []


WRITER = """
    import sys, random, itertools
    sys.path.insert(0, sys.argv[1])
    from storage.test_mirrored import *
    storage = opened(Path(sys.argv[2]), CacheFolder(sys.argv[3]))
    print("ready", flush=True)
    for _ in itertools.count():
        keys = [key for key in SIZES if SIZES[key]]
        for key in random.sample(keys, len(keys)):
            start = random.randrange(SIZES[key])
            storage.fetch_ahead([(key, start, min(SIZES[key], start + 9_000))])
        for mirror in storage._mirrors:
            mirror.drop(0, mirror.pages)
"""


def writer(origin: Path, cache: Path) -> subprocess.Popen[str]:
    folder = Path(__file__).parents[1]
    arguments = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(origin), str(cache)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_writer_that_is_killed_leaves_no_mark_before_its_bytes_and_holds_up_nobody(
    origin: Path, tmp_path: Path
) -> None:
    storage = opened(origin, CacheFolder(tmp_path / "c"))
    (mirror,) = storage._mirrors
    for seed in range(4):
        process = writer(origin, tmp_path / "c")
        time.sleep(random.Random(seed).uniform(0.01, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for key, size in SIZES.items():
            offset = mirror.offsets[key]
            for start in range(0, size, PAGE):
                stop = min(start + PAGE, size)
                if mirror.has(offset + start, offset + stop):
                    found = bytes(mirror.data[offset + start : offset + stop])
                    assert found == right(origin, [(key, start, stop)])[0]
        ranges = [(key, 0, size) for key, size in SIZES.items()]
        storage.fetch_ahead(ranges)  # claims of the dead wait for nobody
        assert [bytes(view) for view in storage.read(ranges)] == right(origin, ranges)
        mirror.drop(0, mirror.pages)


def test_what_somebody_who_lives_is_bringing_is_waited_for(origin: Path, tmp_path: Path) -> None:
    one, two = opened(origin, CacheFolder(tmp_path / "c")), opened(origin, CacheFolder(tmp_path / "c"))
    number, _ = one.cache.number()  # type: ignore[union-attr]
    (mirror,) = one._mirrors
    offset = mirror.offsets["parts/a/three"]
    mirror.marks[offset // PAGE : offset // PAGE + 3] = number
    data = memoryview((origin / "parts/a/three").read_bytes())
    timer = threading.Timer(0.1, lambda: mirror.put(offset, data))
    timer.start()
    two.fetch_ahead([("parts/a/three", 0, 3 * PAGE)])
    timer.join()
    assert asked(two) == []
    assert two.whole("parts/a/three") is not None


def test_after_a_power_cut_only_what_was_on_the_disk_counts(origin: Path, tmp_path: Path) -> None:
    storage = opened(origin, CacheFolder(tmp_path / "c"))
    storage.read([("parts/a/one", 0, 40_000)])
    storage.settle()
    storage.read([("parts/a/four", 0, 300_001)])
    (mirror,) = storage._mirrors
    folder, offset = mirror.folder, mirror.offsets["parts/a/four"]
    del mirror, storage
    # The machine went down: marks had reached the disk, and these bytes had not.
    os.rename(folder / f"marks.{boot_id()}", folder / "marks.another-boot")
    with open(folder / DATA, "r+b") as file:
        file.seek(offset)
        file.write(bytes(300_001))
    again = opened(origin, CacheFolder(tmp_path / "c"))
    ranges = [("parts/a/one", 0, 40_000), ("parts/a/four", 0, 300_001)]
    assert [bytes(view) for view in again.read(ranges)] == right(origin, ranges)
    assert asked(again) == [("parts/a/four", 0, 300_001)]
    assert not (folder / "marks.another-boot").exists()


def test_what_was_dropped_is_not_there_again_after_a_power_cut(origin: Path, tmp_path: Path) -> None:
    storage = opened(origin, CacheFolder(tmp_path / "c"))
    storage.read([("parts/a/four", 0, 300_001)])
    storage.settle()
    (mirror,) = storage._mirrors
    folder, first = mirror.folder, mirror.offsets["parts/a/four"] // PAGE
    mirror.drop(first, first + 2)
    del mirror, storage
    os.rename(folder / f"marks.{boot_id()}", folder / "marks.another-boot")
    again = opened(origin, CacheFolder(tmp_path / "c"))
    again.read([("parts/a/four", 0, 2 * PAGE)])
    assert asked(again) != []


def test_processes_that_begin_a_cache_at_one_time_are_not_in_each_others_way(origin: Path, tmp_path: Path) -> None:
    for each in range(40):
        barrier = threading.Barrier(6)

        def begin(folder: Path = tmp_path / str(each), barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            (CacheFolder(folder).path / "something").touch()

        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(begin) for _ in range(6)]:
                done.result()


@pytest.mark.filterwarnings("ignore:the cache")
def test_a_cache_takes_no_more_than_it_may_and_the_rest_passes_through(origin: Path, tmp_path: Path) -> None:
    storage = opened(origin, CacheFolder(tmp_path / "c", 100_000), CacheFolder(tmp_path / "t"))
    whole = [(key, 0, size) for key, size in SIZES.items() if size]
    for _ in range(3):
        for key, _, size in whole:
            for start in range(0, size, 10_000):
                storage.fetch_ahead([(key, start, min(start + 10_000, size))])
        assert [bytes(view) for view in storage.read(whole)] == right(origin, whole)
        kept, passing = storage._mirrors
        assert kept.nbytes <= 100_000 + PAGE
        assert kept.nbytes > 60_000
        assert passing.nbytes > 200_000
        storage.release(whole)
        asked(storage)


@pytest.mark.filterwarnings("ignore:the cache")
def test_a_full_cache_lets_go_what_nobody_uses_but_nothing_that_is_open(origin: Path, tmp_path: Path) -> None:
    cache = CacheFolder(tmp_path / "c", 350_000)
    storage = opened(origin, cache)
    storage.read([("parts/a/four", 0, 300_001)])
    other = MirroredStorage(Far(str(origin)), CacheFolder(tmp_path / "c", 350_000))
    other.know(CONTENTS._replace(name="b" * 64))
    other.read([("parts/a/four", 0, 300_001)])
    assert [each.is_used for each in cache.entries()] == [True, True]
    assert other.whole("parts/a/four") is None
    view = storage.whole("parts/a/four")
    del storage
    assert [each.is_used for each in cache.entries()] == [True, True]  # as long as anybody holds a view
    assert view is not None
    assert bytes(view) == (origin / "parts/a/four").read_bytes()
    del view
    other.read([("parts/a/four", 0, 300_001)])
    assert other.whole("parts/a/four") is None  # it was full a moment ago
    other.cache._looked_at = -1e9  # type: ignore[union-attr]
    other.read([("parts/a/four", 0, 300_001)])
    assert other.whole("parts/a/four") is not None
    assert len(cache.entries()) == 1


def test_on_a_full_disk_reads_go_on_and_one_line_says_so(origin: Path, disk: Callable[[str], Path]) -> None:
    storage = opened(origin, CacheFolder(disk("128k") / "c", 1 << 30))
    ranges = [(key, 0, size) for key, size in SIZES.items()]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert [bytes(view) for view in storage.read(ranges)] == right(origin, ranges)
            storage.fetch_ahead(ranges)
    assert ["is full" in str(each.message) for each in said] == [True]
    del storage


def test_folders_that_can_be_no_cache(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(OptionError, match="holds other things"):
        CacheFolder(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        storage = mirrored(Far(str(origin)), (str(tmp_path / "file" / "c"), None), None)
    storage.know(CONTENTS)
    assert bytes(storage.read([("parts/a/two", 0, 5)])[0]) == (origin / "parts/a/two").read_bytes()
    monkeypatch.setattr(cache_module, "NETWORK", {file_system_of(tmp_path)})
    with pytest.raises(OptionError, match="network file system"):
        CacheFolder(tmp_path / "c")
    assert file_system_of(Path("/proc")) == "proc"


@pytest.mark.parametrize("harm", ["cut short", "marks cut short", "durable cut short"])
def test_a_mirror_that_is_damaged_is_said_and_not_used(origin: Path, tmp_path: Path, harm: str) -> None:
    storage = opened(origin, CacheFolder(tmp_path / "c"))
    storage.read([("parts/a/one", 0, 40_000)])
    storage.settle()
    (folder,) = [mirror.folder for mirror in storage._mirrors]
    del storage
    marks = folder / f"marks.{boot_id()}"
    if harm == "durable cut short":
        marks.unlink()
    os.truncate({"cut short": folder / DATA, "marks cut short": marks, "durable cut short": folder / DURABLE}[harm], 7)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again = opened(origin, CacheFolder(tmp_path / "c"))
    assert len(said) == (harm != "durable cut short")
    ranges = [(key, 0, size) for key, size in SIZES.items()]
    assert [bytes(view) for view in again.read(ranges)] == right(origin, ranges)


def test_pages_that_were_released_go_back_to_the_system_unless_somebody_still_wants_them(
    origin: Path, tmp_path: Path
) -> None:
    storage = opened(origin, None, CacheFolder(tmp_path / "t"))
    (mirror,) = storage._mirrors
    one, two = [("parts/a/four", 0, 100_000)], [("parts/a/four", 50_000, 150_000)]
    storage.fetch_ahead(one)
    storage.fetch_ahead(two)
    taken = os.stat(mirror.folder / DATA).st_blocks * 512
    storage.release(one)
    assert os.stat(mirror.folder / DATA).st_blocks * 512 <= taken - 40_000
    asked(storage)
    assert [bytes(view) for view in storage.read(two)] == right(origin, two)
    assert asked(storage) == []
    storage.release(two)
    assert mirror.nbytes == 0
    assert not np.any(mirror.marks == PRESENT)
    assert ABSENT == 0
    assert [bytes(view) for view in storage.read(one)] == right(origin, one)
    assert len(asked(storage)) == 1
    assert mirror.nbytes == 0  # what is read in passing is nobody's to give back


def test_what_one_thread_gives_back_takes_nothing_of_what_another_brings(origin: Path, tmp_path: Path) -> None:
    storage = opened(origin, None, CacheFolder(tmp_path / "t"))
    expected = (origin / "parts/a/four").read_bytes()

    def work(seed: int) -> int:
        drawn, wrong = random.Random(seed), 0
        for _ in range(400):
            pages = drawn.sample(range(70), 5)
            ranges = [("parts/a/four", page * PAGE, (page + 1) * PAGE) for page in pages]
            storage.fetch_ahead(ranges)
            wrong += sum(
                bytes(view) != expected[start:stop] for (_, start, stop), view in zip(ranges, storage.read(ranges))
            )
            storage.release(ranges)
        return wrong

    with ThreadPoolExecutor(6) as threads:
        assert not sum(threads.map(work, range(6)))
    (mirror,) = storage._mirrors
    assert mirror.nbytes == 0  # and nothing stays that nobody needs


OTHER_USER = """
    import os, sys, warnings
    sys.path.insert(0, sys.argv[1])
    from storage.test_mirrored import *
    os.setuid(65534)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        storage = mirrored(Far(sys.argv[2]), (sys.argv[3], None), None)
        storage.know(CONTENTS)
        ranges = [(key, 0, size) for key, size in SIZES.items()]
        storage.fetch_ahead(ranges)
        assert [bytes(view) for view in storage.read(ranges)] == right(Path(sys.argv[2]), ranges)
        storage.know(CONTENTS._replace(prefix="parts/b", name="c" * 64, sizes={"parts/b/one": 7}))
    print(len(asked(storage)), [str(each.message) for each in said])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_the_cache_of_another_user_is_read_where_it_may_be_and_never_written(origin: Path, mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are for nobody else
        os.chmod(name, 0o755)
        for each in ("o", "c"):
            os.mkdir(f"{name}/{each}")
        for key in SIZES:
            (Path(name, "o", key)).parent.mkdir(parents=True, exist_ok=True)
            (Path(name, "o", key)).write_bytes((origin / key).read_bytes())
        storage = opened(Path(name, "o"), CacheFolder(f"{name}/c"))
        storage.read([("parts/a/one", 0, 40_000)])
        os.chmod(f"{name}/c", mode)
        folder = Path(__file__).parents[1]
        arguments = [sys.executable, "-c", textwrap.dedent(OTHER_USER), str(folder), f"{name}/o", f"{name}/c"]
        done = subprocess.run(arguments, capture_output=True, text=True)
        if "Permission denied" in done.stderr and "import" in done.stderr:
            pytest.skip("the interpreter is not for other users here")
        assert done.returncode == 0, done.stderr
        count, said = done.stdout.split(" ", 1)
        assert int(count) == (3 if mode == 0o755 else len(SIZES))  # one is kept, and of one there is nothing to keep
        assert said.count("cannot be used") == 1
        assert len(CacheFolder(f"{name}/c").entries()) == 1
