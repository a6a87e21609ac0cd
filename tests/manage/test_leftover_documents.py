"""Small documents that no root names: removed where they are surely unused, and never where somebody may be about to name them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_tools import digests, root_of, skip_unless_it_creates

from vla_store import open_store
from vla_store import view_rules as rules
from vla_store.audit import verify_store
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.manage import roots
from vla_store.manage.copy import copy_store
from vla_store.manage.repair import repair_store
from vla_store.manage.views import add_view, add_views, remove_views
from vla_store.storage import LocalStorage, open_storage
from vla_store.view_rules import NewView

GOLDEN = Path(__file__).parents[1] / "golden/version-1"
LEFT = dumps({"views": "of a writer that came second"})
KEY = layout.meta_key(sha256_hex(LEFT))


@pytest.fixture(scope="module", autouse=True)
def _writing() -> None:
    for module in ("h5py", "zarr"):
        pytest.importorskip(module, reason=f"repair needs {module}")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "views.vla", tmp_path / "views.vla"))


def documents(store: Path) -> list[str]:
    return sorted(f"meta/{path.name}" for path in (store / "meta").iterdir())


def test_half_written_objects_when_views_or_repair_go_over_them_then_they_are_gone(store: Path, tmp_path: Path) -> None:
    torn = store / "meta/.x.json.0123456789ab.tmp"
    torn.write_bytes(b"half")
    add_view(store, "more", rules.drop_tail(1))
    assert not torn.exists()
    torn.write_bytes(b"half")
    repair_store(store, [])
    assert not torn.exists()


def test_of_two_writers_the_one_that_comes_second_leaves_no_document(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real_write, real_create = LocalStorage.write, LocalStorage.create

    def write(self: LocalStorage, key: str, data: bytes) -> None:
        written.append(key)
        real_write(self, key, data)

    def create(self: LocalStorage, key: str, data: bytes) -> bool:
        if key == "roots/00000004.json":  # at the last moment another one is faster
            monkeypatch.setattr(LocalStorage, "create", real_create)
            add_view(store, "first", rules.drop_tail(1))
        return real_create(self, key, data)

    monkeypatch.setattr(LocalStorage, "write", write)
    monkeypatch.setattr(LocalStorage, "create", create)
    add_view(store, "second", rules.drop_tail(2))
    assert root_of(store).generation == 5
    put = {key for key in written if key.startswith("meta/")}
    assert len(put) == 3  # the second's, the first's, and the second's over the first's
    assert len(put & set(documents(store))) == 2
    report = verify_store(store)
    assert (report.problems, report.leftovers) == ([], [])
    assert {"first", "second"} <= set(open_store(store).views)


def test_what_a_living_writer_has_put_is_not_touched(store: Path) -> None:
    """It holds the lock from before it puts its documents until its root is there; others go on beside it."""
    living = open_storage(store)
    with living.proposing():
        living.write(KEY, LEFT)
        add_view(store, "another", rules.drop_tail(1))
        remove_views(store, "another")
        repair_store(store, GOLDEN / "source")
        assert roots.sweep_documents(open_storage(store)) == []
        assert KEY in documents(store)
        with living.alone() as is_alone:
            assert not is_alone
    report = verify_store(store)
    assert (report.sound, report.leftovers) == (True, [KEY])
    assert roots.sweep_documents(open_storage(store)) == [KEY]
    assert verify_store(store).leftovers == []


def _put_and_wait(store: Path, pipe: Any) -> None:
    place = open_storage(store)
    with place.proposing():
        place.write(KEY, LEFT)
        pipe.send("put")
        pipe.recv()


@pytest.mark.parametrize(
    "later",
    [
        lambda store: add_view(store, "later", rules.drop_tail(1)),
        lambda store: remove_views(store, "drawn"),
        lambda store: repair_store(store, GOLDEN / "source"),
    ],
    ids=["views add", "views remove", "repair"],
)
def test_what_a_killed_writer_had_put_is_harmless_and_swept_by_a_later_one(
    store: Path, later: Callable[[Path], Any]
) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_put_and_wait, args=(store, theirs))
    process.start()
    theirs.close()
    assert ours.poll(120)
    assert ours.recv() == "put"
    add_view(store, "meanwhile", rules.drop_tail(4))
    assert KEY in documents(store)  # it lives
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    report = verify_store(store)
    assert (report.sound, report.leftovers) == (True, [KEY])
    later(store)
    assert verify_store(store).leftovers == []
    assert verify_store(store).sound


def test_a_root_that_is_created_just_before_the_sweep_is_heeded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweeper has read every root there was; then there is one more, which names what it would remove."""
    real = LocalStorage.get

    def get(self: LocalStorage, key: str) -> bytes | None:
        data = real(self, key)
        if key == "roots/00000003.json":
            monkeypatch.setattr(LocalStorage, "get", real)
            monkeypatch.setattr(roots, "sweep_documents", lambda place: [])
            add_views(store, [NewView("just.now", rules.drop_tail(1))])
            monkeypatch.undo()
        return data

    monkeypatch.setattr(LocalStorage, "get", get)
    assert roots.sweep_documents(open_storage(store)) == []
    assert "just.now" in open_store(store).views


@pytest.mark.parametrize("what", ["lost", "damaged"])
def test_where_a_root_cannot_be_read_nothing_is_swept(store: Path, what: str) -> None:
    """What it named may be needed to make it again."""
    old = store / layout.root_key(2)
    if what == "lost":
        old.unlink()
    else:
        old.write_bytes(old.read_bytes()[:-10])
    before = documents(store)
    assert roots.sweep_documents(open_storage(store)) == []
    assert documents(store) == before
    expected = digests(GOLDEN / "views.vla")
    assert repair_store(store, GOLDEN / "source").sound
    assert digests(store) == expected


def test_only_documents_are_swept(store: Path) -> None:
    others = [store / "meta/notes.txt", store / "meta" / f"{'a' * 64}.json.bak", store / "parts" / f"{'b' * 64}.json"]
    for path in others:
        path.write_bytes(b"{}")
    (store / KEY).write_bytes(LEFT)
    assert roots.sweep_documents(open_storage(store)) == [KEY]
    assert all(path.exists() for path in others)
    assert len(verify_store(store).leftovers) == 3


def test_storage_without_locks_keeps_them_and_verify_calls_them_left_overs(store: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    skip_unless_it_creates()
    url = f"memory://left-{tmp_path.name}"
    copy_store(store, url)
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/left-{tmp_path.name}/{KEY}", LEFT)
    add_view(url, "later", rules.drop_tail(1))
    report = verify_store(url)
    assert (report.sound, report.leftovers) == (True, [KEY])
    assert "not damage" in report.text()
    copy_store(url, tmp_path / "copy.vla")
    assert verify_store(tmp_path / "copy.vla").leftovers == []
    memory.rm(f"/left-{tmp_path.name}", recursive=True)
