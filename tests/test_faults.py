"""Whatever write fails, is cut short or loses its reply: what is there is the old state or the new one, and the same call finishes.

Each writer is run once for every number of a write (in a campaign), or for some of them, spread over all its stages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import pytest
from own_sources import Own
from store_tools import differences, digests, skip_unless_it_creates

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.errors import DestinationExists, VlaStoreError
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.views import add_views
from vla_store.view_rules import parse_view

FIRST = Own(lengths={0: 9, 3: 4})
SECOND = Own(suite="pantry", lengths={1: 5})
VIEW = "drop_tail:steps=2,name=short"


@dataclass(frozen=True)
class Writer:
    """start: makes what is there before, at a path. run: the call. of: what to compare, a store's folder."""

    start: Callable[[Path], None]
    run: Callable[[Path], object]


def put(made: Path) -> Callable[[Path], None]:
    return lambda store: (shutil.copytree(made, store), None)[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """first.vla; and what each writer makes of it where nothing is wrong: build.vla, append.vla, copy.vla, view.vla."""
    folder = tmp_path_factory.mktemp("made")
    build_store([FIRST], folder / "first.vla", workers=1)
    for name, writer in writers(folder).items():
        writer.start(folder / f"{name}.vla")
        writer.run(folder / f"{name}.vla")
    return folder


def writers(made: Path) -> dict[str, Writer]:
    first = made / "first.vla"
    return {
        "build": Writer(lambda store: None, lambda store: build_store([FIRST], store, workers=1)),
        "append": Writer(put(first), lambda store: append_store([SECOND], store, workers=1)),
        "copy": Writer(lambda store: None, lambda store: copy_store(first, store)),
        "view": Writer(put(first), lambda store: add_views(store, [parse_view(VIEW)])),
    }


NAMES = ("build", "append", "copy", "view")


def check_local(made: Path, folder: Path, name: str, how: str, numbers: Sequence[int]) -> None:
    writer = writers(made)[name]
    new = digests(made / f"{name}.vla")
    store = folder / "x.vla"
    writer.start(store)
    old = digests(store) if store.exists() else None
    refused = 0
    for number in numbers:
        shutil.rmtree(store, ignore_errors=True)
        writer.start(store)
        said = f"write {number} {how}"
        with faults.local(number, how) as layer:
            failed = was_refused(lambda: writer.run(store))
        assert layer.count >= number, said
        if not failed:  # a commit whose reply was lost is found to be done
            assert root_digest(store) == root_digest(made / f"{name}.vla"), said
        refused += failed
        if store.exists():
            assert verify_store(store).problems == [], said
            assert root_digest(store) in (root_digest(made / "first.vla"), root_digest(made / f"{name}.vla")), said
        else:
            assert old is None, said
        try:
            writer.run(store)
        except DestinationExists:
            assert name == "build", said  # it was whole, and only the reply was lost
        found = digests(store)
        found.pop("build.lock", None)  # a left-over then
        assert differences(found, new) == [], said
        assert [path.name for path in folder.iterdir()] == ["x.vla"], said
    assert refused >= 0.5 * len(numbers)


def was_refused(run: Callable[[], object]) -> bool:
    try:
        run()
    except (VlaStoreError, OSError):
        return True
    return False


def root_digest(store: Path) -> str:
    return vla_store.open_store(store).digest


def count_local(made: Path, folder: Path, name: str) -> int:
    writer = writers(made)[name]
    writer.start(folder / "counted.vla")
    with faults.local(0) as layer:
        writer.run(folder / "counted.vla")
    shutil.rmtree(folder / "counted.vla")
    return layer.count


def some(count: int, most: int) -> list[int]:
    """Numbers from 1 to count: the last ones, where commits are, and others evenly."""
    last = list(range(max(1, count - most // 2), count + 1))
    return sorted({*range(1, count + 1, max(1, count // max(1, most // 2))), *last})


@pytest.mark.parametrize("how", faults.HOWS)
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_of_the_disk_leaves_the_old_state_or_the_new_one(
    made: Path, tmp_path: Path, name: str, how: str
) -> None:
    count = count_local(made, tmp_path, name)
    numbers = some(count, 8)
    check_local(made, tmp_path, name, how, numbers[hash_of(how) % 2 :: 2])


def hash_of(text: str) -> int:
    return sum(text.encode())


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", faults.HOWS)
@pytest.mark.parametrize("name", NAMES)
def test_every_fault_of_the_disk_leaves_the_old_state_or_the_new_one(
    made: Path, tmp_path: Path, name: str, how: str
) -> None:
    count = count_local(made, tmp_path, name)
    check_local(made, tmp_path, name, how, range(1, count + 1))
    print(f"{name}: {count} writes, each of which {how}")


# The same on other storage


@dataclass(frozen=True)
class Bucket:
    """fsspec's memory as an object store: its filesystem's class, and what it holds below a URL."""

    kind: type[Any]

    def clear(self) -> None:
        self.kind.store.clear()
        self.kind.pseudo_dirs[:] = [""]

    def put(self, store: Path) -> None:
        for path in store.rglob("*"):
            if path.is_file():
                self.kind().pipe_file(f"/bucket/{path.relative_to(store).as_posix()}", path.read_bytes())

    def holds(self) -> dict[str, bytes]:
        return {key.removeprefix("/bucket/"): bytes(self.kind().cat_file(key)) for key in self.kind.store}


@pytest.fixture
def bucket() -> Any:
    from fsspec.implementations.memory import MemoryFileSystem

    skip_unless_it_creates()
    made = Bucket(MemoryFileSystem)
    made.clear()
    yield made
    made.clear()


URL = "memory://bucket"


def remote_run(name: str, made: Path, stage: Path) -> None:
    if name == "append":
        append_store([SECOND], URL, workers=1, staging=stage)
    elif name == "copy":
        copy_store(made / "first.vla", URL)
    else:
        add_views(URL, [parse_view(VIEW)])


@pytest.mark.parametrize("how", ["fails", "loses its reply"])
@pytest.mark.parametrize("name", ["append", "copy", "view"])
def test_every_fault_of_an_object_store_leaves_the_old_state_or_the_new_one(
    made: Path, tmp_path: Path, bucket: Bucket, name: str, how: str
) -> None:
    new = store_bytes(made / f"{name}.vla")
    is_there = name != "copy"
    number = refused = 0
    while True:
        number += 1
        bucket.clear()
        if is_there:
            bucket.put(made / "first.vla")
        said = f"write {number} {how}"
        with faults.remote(bucket.kind, number, how) as layer:
            refused += was_refused(lambda: remote_run(name, made, tmp_path / "stage"))
        if layer.count < number:
            break  # it ran through: there are no more writes
        now = bucket.holds()
        if "zarr.json" in now:
            assert verify_store(URL).problems == [], said
            roots = {path: root_digest(made / path) for path in ("first.vla", f"{name}.vla")}
            assert vla_store.open_store(URL).digest in roots.values(), said
        else:
            assert not is_there, said
        remote_run(name, made, tmp_path / "stage")
        assert bucket.holds() == new, said
    assert number > 3
    assert refused >= (number - 1) // 2  # a commit whose reply was lost is found to be done


def store_bytes(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
