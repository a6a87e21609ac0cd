"""Committing to S3 while others do: a conflict is waited out, a lost race is seen, whatever words the storage has for it."""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import store_tools
import tiny_libero
from store_tools import digests, environment, root_of

import vla_store
from vla_store import FetchError, view_rules
from vla_store.audit import verify_store
from vla_store.manage.append import append_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.views import add_view, remove_views
from vla_store.storage import LocalStorage, open_storage, remote

Copy = Callable[[str], Path]

CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>"
PRECONDITION = (
    b"<Error><Code>PreconditionFailed</Code><Message>No.</Message></Error>"  # without <Condition>, as some say it
)


class Between(http.server.ThreadingHTTPServer):
    """Passes requests on to an S3 server; the next ones that may only create an object it answers itself, with `answers`."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = behind.removeprefix("http://")
        self.answers: list[tuple[int, bytes]] = []
        self.asked = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Between
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "PUT" and self.headers.get("If-None-Match") == "*":
            self.server.asked += 1
            if self.server.answers:
                self._answer(*self.server.answers.pop(0), {})
                return
        behind = http.client.HTTPConnection(self.server.behind, timeout=60)
        behind.request(self.command, self.path, body, dict(self.headers))
        got = behind.getresponse()
        self._answer(got.status, got.read(), dict(got.headers))
        behind.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def between(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    from s3fs import S3FileSystem

    with Between(bucket.endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()
        server.shutdown()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONFLICT_WAITS_S", (0.001,) * 7)


def test_a_conflict_on_exclusive_creation_is_tried_again(between: Between) -> None:
    place = open_storage("s3://robots/conflict")
    between.answers = [(409, CONFLICT)] * 3
    assert place.create("roots/00000002.json", b"ours")
    assert between.asked == 4
    between.answers = [(409, CONFLICT)]
    assert not place.create("roots/00000002.json", b"theirs")
    assert place.get("roots/00000002.json") == b"ours"


def test_a_conflict_that_does_not_end_is_an_error_and_no_commit(between: Between) -> None:
    between.answers = [(409, CONFLICT)] * 100
    with pytest.raises(FetchError):
        open_storage("s3://robots/endless").create("roots/00000002.json", b"ours")
    assert between.asked == 8


def test_a_lost_race_is_seen_where_storage_does_not_say_which_condition_failed(between: Between) -> None:
    between.answers = [(412, PRECONDITION)]
    assert not open_storage("s3://robots/terse").create("roots/00000002.json", b"ours")


def test_an_append_goes_on_through_conflicts(
    halves: Any, made: Path, bucket: Any, between: Between, tmp_path: Path
) -> None:
    url = bucket.upload(made / "first.vla", "conflicts.vla")
    between.answers = [(409, CONFLICT)] * 5
    append_store([halves.second], url, staging=tmp_path / "stage")
    assert vla_store.open_store(url).digest == root_of(made / "two.vla").digest


def test_two_appends_to_a_bucket_at_once_are_both_in_the_store(
    halves: Any, made: Path, bucket: Any, tmp_path: Path
) -> None:
    url = bucket.upload(made / "first.vla", "two-commands.vla")
    more = tiny_libero.TinyFile("libero_z", "push_the_plate", 17, {0: 6})
    sources = [halves.second, tiny_libero.write_suites(tmp_path / "more", suites=[more]) / "libero_z"]
    processes = [
        subprocess.Popen(
            [*store_tools.COMMAND, "append", str(source), url, "--quiet", "--staging", str(tmp_path / "stage")],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in sources
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    store = vla_store.open_store(url)
    assert (store.generation, store.rows) == (3, 17 + 10 + 6)
    checked = verify_store(url, against=[halves.source, tmp_path / "more"])
    assert checked.problems == []
    assert all(key.startswith("meta/") for key in checked.leftovers)  # the statistics of a root that came second


def test_a_root_when_the_reply_to_its_creation_is_lost_then_it_is_known_as_ours(
    copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of S3 sends a put again whose reply did not come, and is told that somebody else was first."""
    store = copy_of("first")
    add_view(store, "short", view_rules.drop_tail(1))
    real = LocalStorage.create

    def create(self: LocalStorage, key: str, data: bytes) -> bool:
        return real(self, key, data) and not key.startswith("roots/0")

    monkeypatch.setattr(LocalStorage, "create", create)
    assert remove_views(store, ["short"]).changed
    assert vla_store.open_store(store).generation == 3


# What dead writers leave


def test_half_written_objects_are_swept_once_their_writer_is_dead(halves: Any, made: Path, copy_of: Copy) -> None:
    store = copy_of("first")
    dead = [store / "roots/.00000002.json.0123456789ab.tmp", store / "parts/.zarr.json.ba9876543210.tmp"]
    for path in dead:
        path.write_bytes(b"half")
    with LocalStorage(store).stream("meta/alive.json") as file:
        file.write(b"still being written")
        LocalStorage(store).sweep()
        assert not any(path.exists() for path in dead)
        assert len(list((store / "meta").glob("*.tmp"))) == 1
    (store / "meta/alive.json").unlink()
    dead[0].write_bytes(b"half")
    append_store([halves.second], store)
    assert digests(store) == digests(made / "two.vla")


def test_temporary_files_of_others_below_a_common_parent_stay(halves: Any, made: Path, tmp_path: Path) -> None:
    """The folder of stores that are merged where they lie is not this package's alone."""
    for name in ("first", "second"):
        shutil.copytree(made / f"{name}.vla", tmp_path / f"{name}.vla")
    merge_stores([tmp_path / "first.vla", tmp_path / "second.vla"], tmp_path)
    others = [tmp_path / "download.hdf5.tmp", tmp_path / "x.vla.partial/zarr.json.0123abcd.tmp"]  # of a build, too
    own = tmp_path / "meta/.x.json.0123456789ab.tmp"
    for path in (*others, own):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    LocalStorage(tmp_path).sweep()
    assert [path.exists() for path in (*others, own)] == [True, True, False]


def test_trying_exclusive_creation_when_another_writer_sweeps_then_it_holds(
    copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of("first")
    before = digests(store)
    link, settle = os.link, LocalStorage.settle

    def sweeping(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            real(*arguments)
            LocalStorage(store).sweep()

        return call

    monkeypatch.setattr(os, "link", sweeping(link))
    monkeypatch.setattr(LocalStorage, "settle", sweeping(settle))
    LocalStorage(store).check_exclusive("roots/00000001.json")
    assert digests(store) == before


def test_trying_whether_storage_is_exclusive_leaves_nothing(
    halves: Any, made: Path, bucket: Any, tmp_path: Path
) -> None:
    url = bucket.upload(made / "two.vla", "tried.vla")
    for place in (open_storage(url), LocalStorage(made / "two.vla")):
        before = list(place.keys())
        place.check_exclusive("roots/00000001.json")
        assert list(place.keys()) == before
