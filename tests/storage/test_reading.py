from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader.conftest import merged

import vla_store
from vla_store.errors import FetchError, MachineError, OptionError, StoreDamaged, UnknownName
from vla_store.storage import (
    Blocks,
    FsspecStorage,
    Held,
    LocalStorage,
    Location,
    ObjectMissing,
    ObstoreStorage,
    Range,
    Storage,
    local,
    locate,
    open_remote,
    remote,
)
from vla_store.storage import blocks as blocks_module
from vla_store.storage.files import map_file
from vla_store.storage.remote import merge_ranges

DATA = bytes(range(256)) * 1_000


@pytest.fixture(params=["mmap", "pread", "fsspec", "memory", "blocks", "held"])
def fetcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "object").write_bytes(DATA)
    (tmp_path / "small").write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")
    if request.param == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        for name in ("deep/object", "small", "empty"):
            memory.pipe_file(f"/fetched/{name}", (tmp_path / name).read_bytes())
        yield FsspecStorage("memory://fetched")
        memory.rm("/fetched", recursive=True)
    else:
        kinds: dict[str, Callable[[], Storage]] = {
            "mmap": lambda: LocalStorage(str(tmp_path)),
            "pread": lambda: LocalStorage(str(tmp_path), mapped=False),
            "fsspec": lambda: FsspecStorage(str(tmp_path)),
            "held": lambda: Held(FsspecStorage(str(tmp_path))),
            "blocks": lambda: Blocks(LocalStorage(str(tmp_path), mapped=False)),
        }
        yield kinds[request.param]()


def test_ranges_come_in_the_order_asked_for_whatever_they_overlap(fetcher: Storage) -> None:
    ranges = [("deep/object", 1_000, 1_010), ("small", 3, 7), ("deep/object", 0, 5), ("deep/object", 1_005, 200_000)]
    ranges += [("small", 0, 10), ("deep/object", 1_000, 1_010), ("deep/object", len(DATA) - 1, len(DATA))]
    contents = {"deep/object": DATA, "small": b"0123456789"}
    assert [bytes(view) for view in fetcher.read(ranges)] == [contents[key][start:stop] for key, start, stop in ranges]


def test_what_is_read_cannot_be_written(fetcher: Storage) -> None:
    for view in fetcher.read([("small", 0, 4), ("deep/object", 0, 100_000)]):
        assert view.readonly
        assert (view.format, view.ndim) == ("B", 1)


def test_an_object_has_a_size_and_a_head(fetcher: Storage) -> None:
    assert (fetcher.size("deep/object"), fetcher.size("small"), fetcher.size("empty")) == (256_000, 10, 0)
    assert fetcher.head("small", 4) == b"0123"
    assert fetcher.head("small", 10) == fetcher.head("small", 11) == fetcher.head("small", 1 << 20) == b"0123456789"
    assert fetcher.head("empty", 10) == b""
    assert fetcher.heads(["small", "deep/other", "empty"], 4) == [b"0123", None, b""]
    assert fetcher.heads([], 4) == []


def test_nothing_asked_for_is_nothing_read(fetcher: Storage) -> None:
    assert fetcher.read([]) == []


def test_a_missing_object_is_named(fetcher: Storage) -> None:
    for ask in (
        lambda: fetcher.size("deep/other"),
        lambda: fetcher.read([("small", 0, 1), ("deep/other", 0, 1)]),
        lambda: fetcher.head("deep/other", 1),
    ):
        with pytest.raises(ObjectMissing, match=r"missing\n  object +deep/other"):
            ask()


def test_a_range_past_the_end_is_an_error_that_names_the_object(fetcher: Storage) -> None:
    with pytest.raises((StoreDamaged, FetchError), match=r"object +small"):
        fetcher.read([("small", 5, 11)])


@pytest.mark.parametrize("start", [5, 90_000])
def test_a_range_past_the_end_when_it_is_read_then_the_objects_true_size_is_said(fetcher: Storage, start: int) -> None:
    for before in ([], [("small", 0, 10)]):  # a block of it may be at hand
        fetcher.read(before)
        with pytest.raises(StoreDamaged, match=rf"at least {start + 6} bytes\n  found +10\n"):
            fetcher.read([("small", start, start + 6)])


@pytest.mark.parametrize("nbytes", [1_000, 7])
def test_a_long_range_is_several_requests(fetcher: Storage, monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    monkeypatch.setattr(remote, "REQUEST_NBYTES", nbytes)
    ranges = [("deep/object", 5, 2_005), ("small", 0, 10), ("deep/object", 100_000, 100_007)]
    contents = {"deep/object": DATA, "small": b"0123456789"}
    assert [bytes(view) for view in fetcher.read(ranges)] == [contents[key][start:stop] for key, start, stop in ranges]
    with pytest.raises(StoreDamaged, match=r"object +small"):
        fetcher.read([("small", 0, 100)])


def test_views_outlive_the_fetcher_that_gave_them(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(DATA)
    for mapped in (True, False):
        view = LocalStorage(str(tmp_path), mapped=mapped).read([("object", 100, 200)])[0]
        gc.collect()
        assert bytes(view) == DATA[100:200]


def open_files(folder: Path) -> int:
    """How many files below a folder this process has open. What other tests left open, and closes meanwhile, does not count."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith(f"{folder}/")
    return found


def maps() -> str:
    """What this process has mapped; names may be of any bytes."""
    return Path("/proc/self/maps").read_text(errors="surrogateescape")


def test_a_map_holds_no_file_descriptor_and_goes_with_its_last_view(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(DATA)
    with open(tmp_path / "object") as file:
        assert open_files(tmp_path) == 1
        view = map_file(file.fileno())
    assert open_files(tmp_path) == 0
    part = view[5:10]
    del view
    gc.collect()
    assert str(tmp_path) in maps()
    assert bytes(part) == DATA[5:10]
    del part
    gc.collect()
    assert str(tmp_path) not in maps()


def test_maps_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_MAPS", 3)
    for number in range(9):
        (tmp_path / f"object-{number}").write_bytes(bytes([number]) * 10)
    fetcher = LocalStorage(str(tmp_path))
    for number in [*range(9), 0, 8]:
        assert bytes(fetcher.read([(f"object-{number}", 0, 1)])[0]) == bytes([number])
    gc.collect()
    assert maps().count(str(tmp_path)) == 3


def test_open_files_are_bounded_by_the_limit_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_soft_file_limit", lambda: 160)
    for number in range(60):
        (tmp_path / f"object-{number}").write_bytes(bytes([number]))
    fetcher = LocalStorage(str(tmp_path), mapped=False)
    for number in [*range(60), *range(60)]:
        assert bytes(fetcher.read([(f"object-{number}", 0, 1)])[0]) == bytes([number])
    assert open_files(tmp_path) == 40


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script in an interpreter of its own, with the vla_store that is tested here."""
    environment = os.environ | {"PYTHONPATH": str(Path(vla_store.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, env=environment
    )


FORBIDDEN = """
import os, sys
from vla_store.errors import MachineError
from vla_store.storage import LocalStorage
if os.geteuid() == 0:
    os.setuid(65534)  # root may read everything
for mapped in (True, False):
    try:
        LocalStorage(sys.argv[1], mapped=mapped).head("object", 1)
    except MachineError as error:
        print(error)
"""


def test_a_file_that_may_not_be_read_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"")
    (tmp_path / "object").chmod(0)
    run = _run(FORBIDDEN, str(tmp_path))
    assert run.stderr == ""
    assert run.stdout.count("Permission denied while reading the store") == 2
    assert run.stdout.count(f"{tmp_path}/object") == 2
    assert run.stdout.count("hint: check the permissions") == 2


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20c#d"
    folder.mkdir()
    (folder / "object").write_bytes(DATA)
    for kind in ("mmap", "pread", "fsspec"):
        assert bytes(locate(folder, kind, None).open().read([("object", 5, 9)])[0]) == DATA[5:9]


def test_a_folder_where_an_object_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "object").mkdir()
    for fetcher in (LocalStorage(str(tmp_path)), LocalStorage(str(tmp_path), mapped=False)):
        with pytest.raises(MachineError, match="reading the store"):
            fetcher.read([("object", 0, 1)])


spans = st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.integers(1, 40)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
)


@given(st.lists(spans, max_size=30), st.integers(0, 50))
def test_merged_ranges_cover_those_asked_for_and_lie_further_apart_than_the_gap(ranges: list[Range], gap: int) -> None:
    merged_ranges, places = merge_ranges(ranges, gap)
    for (key, start, stop), (number, first, last) in zip(ranges, places):
        other, begin, _ = merged_ranges[number]
        assert (key, start, stop) == (other, begin + first, begin + last)
    for (key, _, stop), (other, start, _) in itertools.pairwise(merged_ranges):
        assert key < other or start - stop > gap
    covered = {(key, byte) for key, start, stop in merged_ranges for byte in range(start, stop)}
    asked = {(key, byte) for key, start, stop in ranges for byte in range(start - gap, stop + gap)}
    assert covered <= asked


def test_blocks_are_read_once_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 100)
    monkeypatch.setattr(blocks_module, "MAX_BLOCKS", 4)
    (tmp_path / "object").write_bytes(DATA[:950])
    inner = LocalStorage(str(tmp_path), mapped=False)
    asked: list[Range] = []
    read = inner.read
    monkeypatch.setattr(inner, "read", lambda ranges: asked.extend(ranges) or read(ranges))
    blocks = Blocks(inner)
    assert bytes(blocks.read([("object", 90, 310)])[0]) == DATA[90:310]
    assert bytes(blocks.read([("object", 200, 300)])[0]) == DATA[200:300]
    assert asked == [("object", at, at + 100) for at in (0, 100, 200, 300)]
    assert bytes(blocks.read([("object", 940, 950)])[0]) == DATA[940:950]
    assert asked[4:] == [("object", 900, 950)]
    assert bytes(blocks.read([("object", 0, 10)])[0]) == DATA[:10]
    assert asked[5:] == [("object", 0, 100)]


def test_a_wrong_size_that_storage_told_once_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "object").write_bytes(DATA[:950])
    inner = LocalStorage(str(tmp_path), mapped=False)
    told = iter([17, 950])  # a proxy's own page, and then the object
    monkeypatch.setattr(inner, "size", lambda key: next(told))
    blocks = Blocks(inner)
    assert [blocks.size("object"), blocks.size("object")] == [17, 950]
    assert bytes(blocks.read([("object", 900, 950)])[0]) == DATA[900:950]  # which asks for no size again


def test_blocks_that_were_fetched_together_do_not_keep_each_other() -> None:
    fsspec = pytest.importorskip("fsspec")
    nbytes = 2 * blocks_module.MAX_BLOCKS * blocks_module.BLOCK_BYTES
    fsspec.filesystem("memory").pipe_file("/blocks/table", bytes(nbytes))
    blocks = Blocks(FsspecStorage("memory://blocks"))
    assert len(blocks.read([("table", 0, nbytes)])[0]) == nbytes
    kept = {id(view.obj): len(view.obj) for view in blocks._blocks.values()}
    assert sum(kept.values()) <= blocks_module.MAX_BLOCKS * blocks_module.BLOCK_BYTES


def test_a_place_is_local_or_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read = (("mapped", False),)
    assert locate("store.vla") == Location(str(tmp_path / "store.vla"), LocalStorage)
    assert locate(tmp_path / "store.vla", "pread") == Location(str(tmp_path / "store.vla"), LocalStorage, read)
    assert locate(f"file://{tmp_path}/store.vla").opener is LocalStorage
    assert locate("s3://bucket/store.vla/", None, {"anon": True}) == Location(
        "s3://bucket/store.vla", open_remote, (("anon", True),)
    )
    assert locate("https://host/store.vla", "obstore").opener is ObstoreStorage
    assert locate("memory://x", "fsspec").opener is FsspecStorage


def test_a_fetcher_that_cannot_be_is_refused() -> None:
    with pytest.raises(UnknownName, match="mmap, pread, fsspec, obstore"):
        locate("store.vla", "mmapp", None)
    with pytest.raises(OptionError, match="local files only"):
        locate("s3://bucket/store.vla", "mmap", None)
    with pytest.raises(OptionError, match="URLs only"):
        locate("store.vla", "obstore", None)
    with pytest.raises(OptionError, match="storage_options"):
        locate("store.vla", None, {"anon": True})
    for options in (5, "anon", [("anon", True)]):
        with pytest.raises(OptionError, match="storage_options is a mapping"):
            locate("s3://bucket/store.vla", None, options)  # type: ignore[arg-type]


def test_an_unknown_scheme_and_a_missing_package_are_said_so() -> None:
    with pytest.raises(OptionError, match="nosuch"):
        locate("nosuch://bucket/store.vla", None, None).open()


UNREAD = (
    "eye_in_hand_rgb",
    "robot_states",
    "ee_states",
    "ee_ori",
    "*joint_states",
    "gripper_states",
    "dones",
    "rewards",
)
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import vla_store
for fetcher in ("mmap", "pread"):
    samples = vla_store.Samples(vla_store.open_store(sys.argv[1], fetcher=fetcher), windows={"actions": 0, "agentview_rgb": 0, "ee_pos": 0}, alignment="as_stored", images="as_stored")
    steps = 0
    for start in range(0, len(samples), 100):
        steps += len(samples.batch(range(start, min(start + 100, len(samples))))["task"])
        samples[start]
    print(fetcher, steps, len(os.listdir("/proc/self/fd")) < 256)
"""


def test_a_store_of_more_objects_than_open_files_are_allowed_is_read(tiny_store: Path, tmp_path: Path) -> None:
    store = merged(tmp_path / "many.vla", [tiny_store], copies=66, without=UNREAD)
    fields = ("steps/actions", "steps/ee_pos", "residuals/agentview_rgb", "index/steps")
    assert sum(path.is_file() for field in fields for path in store.glob(f"parts/*/{field}/c/**/*")) == 264
    run = _run(LIMITED, str(store))
    assert run.stderr == ""
    assert run.stdout.splitlines() == [f"{kind} {66 * 137} True" for kind in ("mmap", "pread")]


@pytest.mark.parametrize("wrong", [None, 3, b"x.vla", ""])
def test_what_is_no_path_is_no_store(wrong: object) -> None:
    with pytest.raises(OptionError, match="neither a path nor a URL"):
        vla_store.open_store(wrong)  # type: ignore[arg-type]


MISSING = """
import sys
for module in ("s3fs", "fsspec.implementations.http", "aiohttp", "gcsfs"):
    sys.modules[module] = None  # as if it were not installed
import vla_store
for url in sys.argv[1:]:
    try:
        vla_store.open_store(url)
    except vla_store.OptionError as error:
        print(error.hint if "needs another package" in str(error) else error)
"""


def test_a_url_whose_package_is_missing_says_what_to_install() -> None:
    # In a process of its own: fsspec keeps the classes that it has imported once.
    run = _run(MISSING, "s3://b/x.vla", "gs://b/x.vla")
    assert run.stdout.splitlines() == [
        'pip install "vla-store[s3]"',
        "install the package that is named above with pip",
    ], run.stderr
