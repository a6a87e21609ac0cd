"""A store that is built at a URL: the objects of a local build, nothing else, and nothing to see before all is there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import store_tools
from fsspec.implementations.memory import MemoryFileSystem
from kills_at_url import Bucket, Round, kills_at_url
from own_sources import Own
from s3_server import BUCKET, S3Server
from store_tools import Stop, Stopping, assert_one_screen, differences, digests

import vla_store
from vla_store import DestinationExists, FetchError, OptionError, StoreNotFound, cli
from vla_store.builder import build_store
from vla_store.builder.places import AtUrl
from vla_store.manage.recode import recode_store

SOURCE = Own(lengths={0: 30, 3: 20})
OTHER = Own(suite="pantry", lengths={1: 5})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the objects of a local build of SOURCE."""
    return digests(store_tools.built(tmp_path_factory.mktemp("reference") / "x.vla", [SOURCE]))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which is empty, and must be so again after a build."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in the memory of this process, where nothing is."""
    fs = fsspec.filesystem("memory")
    yield "memory://lab/x.vla"
    fs.rm("/lab", recursive=True) if fs.exists("/lab") else None


def in_memory() -> dict[str, str]:
    fs = fsspec.filesystem("memory")
    found = fs.find("/lab/x.vla") if fs.exists("/lab/x.vla") else []
    return {key.removeprefix("/lab/x.vla/"): hashlib.sha256(fs.cat_file(key)).hexdigest() for key in found}


def stopped(url: str, after: int = 2, **options: Any) -> None:
    with pytest.raises(Stop):
        build_store([SOURCE], url, workers=1, progress=Stopping(after), **options)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_build_to_a_bucket_puts_the_objects_of_a_local_one_and_leaves_nothing(
    bucket: S3Server, small_source: Path, tmp_path: Path, executor: str
) -> None:
    (tmp_path / "temporary").mkdir()
    ran = store_tools.run(
        *("build", small_source, f"s3://{BUCKET}/{executor}.vla", "--executor", executor),
        *("--view", "length:shortest=2"),
        TMPDIR=str(tmp_path / "temporary"),
    )
    assert ran.code == 0, ran.err
    assert f"s3://{BUCKET}/{executor}.vla" in ran.out
    local = store_tools.run("build", small_source, tmp_path / "x.vla", "--view", "length:shortest=2")
    assert local.code == 0, local.err
    assert differences(Bucket(f"{executor}.vla").digests(), digests(tmp_path / "x.vla")) == []
    assert os.listdir(tmp_path / "temporary") == []


def test_nothing_is_seen_of_a_build_that_stops_and_the_same_call_resumes_it(
    memory: str, stage: Path, reference: dict[str, str]
) -> None:
    stopped(memory)
    shards = {key for key in in_memory() if "/c/" in key}
    assert shards  # they went there as they were encoded
    with pytest.raises(StoreNotFound):
        vla_store.open_store(memory)
    progress = Stopping()
    report = build_store([SOURCE], memory, progress=progress)
    assert report.resumed
    assert progress.begun is not None
    assert 0 < progress.begun[2] < progress.begun[1]
    assert report.nbytes == sum(fsspec.filesystem("memory").du("/lab/x.vla", total=False).values())
    assert differences(in_memory(), reference) == []
    assert os.listdir(stage) == []


def test_a_build_resumes_on_a_machine_that_has_no_stage(
    memory: str, stage: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    stopped(memory, staging=tmp_path / "there")
    build_store([SOURCE], memory)
    assert differences(in_memory(), reference) == []
    assert os.listdir(stage) == []


def test_an_object_that_was_lost_meanwhile_is_put_again(memory: str, stage: Path, reference: dict[str, str]) -> None:
    stopped(memory)
    lost = next(key for key in in_memory() if "/c/" in key)
    fsspec.filesystem("memory").rm(f"/lab/x.vla/{lost}")
    build_store([SOURCE], memory)
    assert differences(in_memory(), reference) == []


def test_an_unfinished_build_of_something_else_is_refused_and_overwrite_discards_it(
    memory: str, stage: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    with pytest.raises(Stop):
        build_store([OTHER], memory, progress=Stopping(2), staging=tmp_path / "there")
    with pytest.raises(DestinationExists) as caught:
        build_store([SOURCE], memory)
    assert_one_screen(cli.error_text(caught.value), "unfinished build of other sources", memory, "--overwrite")
    build_store([SOURCE], memory, overwrite=True)
    assert differences(in_memory(), reference) == []


def test_a_store_that_is_there_is_refused_and_overwrite_replaces_it_whole(
    memory: str, stage: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_store([OTHER], memory)
    old = in_memory()
    with pytest.raises(DestinationExists) as caught:
        build_store([SOURCE], memory)
    assert_one_screen(cli.error_text(caught.value), "STORE exists", memory, "append", "--overwrite")
    assert in_memory() == old
    stopped(memory, overwrite=True)
    assert old.items() <= in_memory().items()
    assert vla_store.open_store(memory).rows == 5  # the old one, whole
    build_store([SOURCE], memory, overwrite=True)
    assert differences(in_memory(), reference) == []


@pytest.mark.parametrize("key", ["notes.txt", "other.vla/zarr.json", "zarr.json"])
def test_what_is_no_store_is_not_touched(memory: str, stage: Path, key: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"/lab/x.vla/{key}", b"{}")
    before = in_memory()
    for overwrite in (False, True):
        with pytest.raises(DestinationExists) as caught:
            build_store([SOURCE], memory, overwrite=overwrite)
        assert_one_screen(cli.error_text(caught.value), "is not a store; nothing was touched", key)
    assert in_memory() == before


@pytest.mark.parametrize("step", ["_show", "_remove_stage"])
def test_a_build_killed_around_its_commit_is_finished_by_the_same_call(
    memory: str, stage: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(AtUrl, step, killed)
        with pytest.raises(Stop):
            build_store([SOURCE], memory)
    assert len(os.listdir(stage)) == 1
    assert build_store([SOURCE], memory).resumed
    assert differences(in_memory(), reference) == []
    assert os.listdir(stage) == []


def test_a_store_that_appears_meanwhile_is_kept(memory: str, stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = AtUrl.fetch_numbers
    begun: list[int] = []

    def late(self: AtUrl, *given: Any) -> None:
        real(self, *given)
        if not begun:
            begun.append(1)
            fsspec.filesystem("memory").rm("/lab/x.vla/parts", recursive=True)  # nobody sees the other one then
            build_store([OTHER], memory, staging=stage / "there")
            raise Stop

    monkeypatch.setattr(AtUrl, "fetch_numbers", late)
    with pytest.raises(Stop):
        build_store([SOURCE], memory)
    with pytest.raises(DestinationExists, match="STORE exists"):
        build_store([SOURCE], memory)
    assert vla_store.open_store(memory).rows == 5


def test_uploads_of_large_objects_that_a_killed_build_left_open_are_given_up(
    bucket: S3Server, stage: Path, reference: dict[str, str]
) -> None:
    there = Bucket("uploads.vla")
    for key in ("uploads.vla/parts/0123456789abcdef/steps/a/c/0", "uploads.vlax/of/somebody/else"):
        bucket.client.create_multipart_upload(Bucket=BUCKET, Key=key)
    build_store([SOURCE], f"s3://{BUCKET}/uploads.vla")
    assert there.uploads() == []
    assert Bucket("uploads.vlax").uploads() == ["uploads.vlax/of/somebody/else"]
    assert differences(there.digests(), reference) == []


def test_a_bucket_that_is_not_there_is_said_before_the_work(bucket: S3Server, stage: Path) -> None:
    progress = Stopping()
    with pytest.raises(OptionError) as caught:
        build_store([SOURCE], "s3://no-such-bucket/x.vla", progress=progress)
    assert_one_screen(
        cli.error_text(caught.value), "no bucket or folder to write to", "no-such-bucket", "make it first"
    )
    assert progress.begun is None


def test_a_local_build_has_no_stage(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no stage"):
        build_store([SOURCE], tmp_path / "x.vla", staging=tmp_path)


def test_recoding_to_a_url_keeps_views(memory: str, stage: Path, tmp_path: Path) -> None:
    from vla_store.manage.views import add_views
    from vla_store.view_rules import parse_view

    store = store_tools.built(tmp_path / "x.vla", [SOURCE])
    add_views(store, [parse_view("length:shortest=25")])
    recode_store(store, memory, preset="raw")
    recode_store(store, tmp_path / "y.vla", preset="raw")
    assert differences(in_memory(), digests(tmp_path / "y.vla")) == []


class Lossy(MemoryFileSystem):  # type: ignore[misc]
    """Storage that loses a bit of what it is sent now and then, and tells no digest."""

    protocol = "lossy"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    losses = 1

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("lossy://", "memory://"))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        super().put_file(lpath, rpath, **options)
        if "/c/" in rpath and Lossy.losses:
            Lossy.losses -= 1
            data = bytearray(self.cat_file(rpath))
            data[len(data) // 2] ^= 1
            self.pipe_file(rpath, bytes(data))


def test_what_arrives_with_another_bit_is_an_error_and_is_sent_again(stage: Path, reference: dict[str, str]) -> None:
    fsspec.register_implementation("lossy", Lossy, clobber=True)
    with pytest.raises(FetchError) as caught:
        build_store([SOURCE], "lossy://lab/x.vla", workers=1)
    assert_one_screen(
        cli.error_text(caught.value), "what arrived in storage is not what was sent", "/c/", "other bytes"
    )
    build_store([SOURCE], "lossy://lab/x.vla", workers=1)
    fs = fsspec.filesystem("lossy")
    found = {key.removeprefix("/lab/x.vla/"): hashlib.sha256(fs.cat_file(key)).hexdigest() for key in fs.find("/lab")}
    assert differences(found, reference) == []


Killed = Callable[..., list[Round]]


@pytest.fixture
def killed(bucket: S3Server, small_source: Path, tmp_path: Path) -> Killed:
    """Builds to the bucket that are killed."""

    def run(executor: str, rounds: int) -> list[Round]:
        what = f"build-{executor}"
        return kills_at_url(
            what, f"{what}.vla", rounds, tmp_path, [small_source], tmp_path / "temporary", **bucket.environment
        )

    return run


def check_killed(told: list[Round], expected: dict[str, str]) -> None:
    for each in told:
        assert (each.finished, each.left, differences(each.found, expected)) == ([0], [], []), each.killed
        assert all(differences(seen, expected) == [] for seen in each.seen)


def test_a_build_to_a_bucket_that_is_killed_resumes_to_the_same_objects(
    killed: Killed, small_source: Path, tmp_path: Path
) -> None:
    check_killed(killed("threads", 3), digests(store_tools.built(tmp_path / "x.vla", [small_source])))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_fifty_builds_to_a_bucket_killed_at_random_moments_resume_to_the_same_objects(
    killed: Killed, small_source: Path, tmp_path: Path, executor: str
) -> None:
    told = killed(executor, 50)
    check_killed(told, digests(store_tools.built(tmp_path / "x.vla", [small_source])))
    assert sum(each.between > 0 for each in told) > 25
    print(f"{executor}: 50 builds to a bucket, {sum(each.killed for each in told)} kills, of which", end=" ")
    print(f"{sum(each.between for each in told)} left an unfinished build; every one resumed to the identical store")
