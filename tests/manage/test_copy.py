"""A store from one place to another: the same tree, each object verified, and never visible before it is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_tools
from kills_at_url import Bucket
from s3_server import BUCKET, S3Server
from store_tools import assert_one_screen, digests, environment, root_of, run

import vla_store
from vla_store import DestinationExists, OptionError, StoreDamaged, StoreNotFound, StoreUnfinished, cli
from vla_store.audit import verify_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.repair import repair_store
from vla_store.progress import Silent
from vla_store.storage import open_storage

Copy = Callable[[str], Path]


def tree(url: str) -> dict[str, bytes]:
    """Every object at a URL."""
    place = open_storage(url)
    return {key: place.get(key) or b"" for key in list(place.keys())}


def test_a_local_copy_is_the_same_tree(made: Path, tmp_path: Path) -> None:
    ran = run("copy", made / "two.vla", tmp_path / "x.vla", "--json")
    assert ran.code == 0, ran.err
    assert digests(tmp_path / "x.vla") == digests(made / "two.vla")
    assert json.loads(ran.out)["sent_nbytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.vla"]
    again = run("copy", made / "two.vla", tmp_path / "x.vla", "--json")
    assert (again.code, json.loads(again.out)["sent_nbytes"]) == (0, 0)


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_a_copy_over_a_url_and_back_is_the_same_tree(made: Path, tmp_path: Path, bucket: Any, where: str) -> None:
    url = f"memory://copy-{tmp_path.name}" if where == "memory" else "s3://robots/copied.vla"
    copy_store(made / "two.vla", url)
    assert tree(url) == store_tools.objects(made / "two.vla")
    checked = verify_store(url)
    assert (checked.problems, checked.leftovers, checked.rows) == ([], [], 27)
    copy_store(url, tmp_path / "back.vla")
    assert digests(tmp_path / "back.vla") == digests(made / "two.vla")
    digest = root_of(made / "first.vla").digest
    assert vla_store.open_store(url, digest=digest).rows == 17  # old roots go along


def test_markers_of_folders_when_a_bucket_has_them_then_they_are_no_objects(made: Path, bucket: Any) -> None:
    copy_store(made / "first.vla", "s3://robots/marked.vla")
    part = root_of(made / "first.vla").parts[0].path
    for folder in ("", "parts/", f"{part}/"):
        bucket.put(f"marked.vla/{folder}", b"")
    assert verify_store("s3://robots/marked.vla").leftovers == []
    place = open_storage("s3://robots/marked.vla")
    place.remove(f"{part}/objects.jsonl")
    assert repair_store("s3://robots/marked.vla", []).sound  # by its objects alone


def test_a_copy_between_two_urls_resumes_and_sends_only_what_is_missing(
    made: Path, tmp_path: Path, bucket: Any
) -> None:
    source, target = bucket.upload(made / "two.vla", "from.vla"), f"memory://to-{tmp_path.name}"
    whole = copy_store(source, target).sent_nbytes
    place = open_storage(target)
    place.remove("zarr.json")
    lost = [key for key in list(place.keys()) if "residuals" in key or "frames" in key][-1]
    expected = place.get(lost) or b""
    place.write(lost, expected[:-1])
    assert copy_store(source, target).sent_nbytes == len(expected) < whole
    assert tree(target) == store_tools.objects(made / "two.vla")


# Copies a store in a process that kills itself before its n-th fsync.
CRASH = """
import os, signal, sys
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.progress import Silent
real, left = os.fsync, [int(sys.argv[3])]
def fsync(descriptor):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
copy_store(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("number", [1, 7, 60, 95])
def test_a_copy_that_was_killed_resumes_to_the_same_tree(made: Path, tmp_path: Path, number: int) -> None:
    arguments = [sys.executable, "-c", CRASH, str(made / "two.vla"), str(tmp_path / "x.vla"), str(number)]
    assert subprocess.run(arguments, env=environment(), timeout=120).returncode == -signal.SIGKILL
    assert not (tmp_path / "x.vla").exists()
    sent = copy_store(made / "two.vla", tmp_path / "x.vla").sent_nbytes
    assert digests(tmp_path / "x.vla") == digests(made / "two.vla")  # no temporary file either
    assert [path.name for path in tmp_path.iterdir()] == ["x.vla"]
    if number > 50:
        assert sent < copy_store(made / "two.vla", tmp_path / "y.vla").sent_nbytes


@pytest.mark.parametrize("where", ["local", "memory", "s3"])
@pytest.mark.parametrize("what", ["shard", "listing", "root", "missing"])
def test_a_damaged_object_never_becomes_visible(
    copy_of: Copy, tmp_path: Path, bucket: Any, where: str, what: str
) -> None:
    store = copy_of("two")
    targets = {"local": tmp_path / "x.vla", "memory": f"memory://{tmp_path.name}", "s3": f"s3://robots/{tmp_path.name}"}
    target = str(targets[where])
    pattern = {"listing": "parts/*/objects.jsonl", "root": "roots/00000001.json"}.get(what, "parts/*/*/*_rgb/c/0/*/*/0")
    path = sorted(store.glob(pattern))[0]
    key = path.relative_to(store).as_posix()
    if what == "missing":
        whole = path.read_bytes()
        path.unlink()
    else:
        store_tools.flip(path, 100)
    with pytest.raises(StoreDamaged) as caught:
        copy_store(store, target)
    assert_one_screen(cli.error_text(caught.value), key)
    place = open_storage(target)
    assert place.get("zarr.json") is None
    assert place.get(key) is None  # not even the object itself
    with pytest.raises((StoreNotFound, StoreDamaged, StoreUnfinished)):
        vla_store.open_store(target)
    path.write_bytes(whole) if what == "missing" else store_tools.flip(path, 100)
    copy_store(store, target)
    assert tree(target) == store_tools.objects(store)


def test_a_copy_holds_the_newest_root_although_zarr_json_is_behind(copy_of: Copy, made: Path, tmp_path: Path) -> None:
    store = copy_of("two")
    (store / "zarr.json").write_bytes((store / "roots/00000001.json").read_bytes())
    copy_store(store, tmp_path / "x.vla")
    assert digests(tmp_path / "x.vla") == digests(made / "two.vla")


def test_what_is_there_is_never_replaced(made: Path, copy_of: Copy, tmp_path: Path) -> None:
    other = copy_of("first")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/today.txt").write_text("mine")
    for target in (other, tmp_path / "notes", tmp_path / "notes/today.txt"):
        before = digests(tmp_path)
        with pytest.raises(DestinationExists):
            copy_store(made / "two.vla", target)
        assert digests(tmp_path) == before
    with pytest.raises(StoreNotFound):
        copy_store(tmp_path / "no.vla", tmp_path / "x.vla")
    empty = tmp_path / "empty"
    empty.mkdir()
    copy_store(made / "two.vla", empty)
    assert digests(empty) == digests(made / "two.vla")
    assert os.path.exists(other)


def test_a_link_when_a_store_is_copied_or_merged_to_it_then_the_store_lies_where_it_leads(
    made: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    for name, leads in (("x.vla", "disk"), ("y.vla", "elsewhere/below")):
        (tmp_path / name).symlink_to(tmp_path / leads)
    copy_store(made / "two.vla", tmp_path / "x.vla")
    merge_stores([made / "first.vla"], tmp_path / "y.vla")
    assert digests(tmp_path / "disk") == digests(made / "two.vla")
    assert root_of(tmp_path / "elsewhere/below").rows == 17
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "elsewhere", "x.vla", "y.vla"]


@pytest.mark.parametrize("there", [b"", b'{"node_type":"group","zarr_format":3}'], ids=["empty", "another group"])
def test_a_zarr_json_of_something_else_when_copied_over_then_it_is_called_taken(
    made: Path, tmp_path: Path, there: bytes
) -> None:
    (tmp_path / "zarr.json").write_bytes(there)
    with pytest.raises(DestinationExists, match="another store is there"):
        copy_store(made / "two.vla", tmp_path)


def test_a_bucket_that_is_not_there_when_copied_to_then_it_is_said_so(made: Path, bucket: Any) -> None:
    with pytest.raises(OptionError, match="there is no bucket or folder to write to") as caught:
        copy_store(made / "first.vla", "s3://no-such-bucket/x.vla")
    assert_one_screen(cli.error_text(caught.value), "s3://no-such-bucket/x.vla", "make it first")
    open_storage("s3://robots/x.vla").remove("nothing")


def test_a_damaged_zarr_json_when_copied_then_the_hint_names_the_store(copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("two")
    (store / "zarr.json").write_bytes(b"{}")
    with pytest.raises(StoreDamaged) as caught:
        copy_store(store, tmp_path / "x.vla")
    assert f"vla-store repair {store}" in caught.value.hint


def test_storage_that_cannot_be_reached_is_a_machine_error(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "x"}.items():
        monkeypatch.setenv(name, value)
    ran = run(
        "copy", made / "two.vla", "s3://robots/y.vla", AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1"
    )
    assert ran.code == 3
    assert_one_screen(ran.err, "storage did not answer", "s3://robots/y.vla")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_that_is_no_unfinished_copy_is_not_touched(made: Path, tmp_path: Path, is_link: bool) -> None:
    """What an unfinished attempt left is tidied up: it must be one."""
    mine = tmp_path / ("mine" if is_link else "x.vla.partial")
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    if is_link:
        (tmp_path / "x.vla.partial").symlink_to(mine)
    with pytest.raises(DestinationExists, match="nothing was touched"):
        copy_store(made / "two.vla", tmp_path / "x.vla")
    with pytest.raises(DestinationExists, match="nothing was touched"):
        merge_stores([made / "first.vla", made / "second.vla"], tmp_path / "x.vla")
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "x.vla").exists()


def test_of_two_copies_to_one_place_at_once_the_second_is_told(made: Path, tmp_path: Path) -> None:
    """Else each would take away what the other one has just written."""
    refused: list[DestinationExists] = []

    class Told(Silent):
        def talk(self, text: str) -> None:
            if refused:
                return
            with pytest.raises(DestinationExists, match="another copy or merge is writing there now") as caught:
                merge_stores([made / "first.vla", made / "second.vla"], tmp_path / "x.vla")
            refused.append(caught.value)

    copy_store(made / "two.vla", tmp_path / "x.vla", progress=Told())
    assert len(refused) == 1
    assert digests(tmp_path / "x.vla") == digests(made / "two.vla")
    assert [path.name for path in tmp_path.iterdir()] == ["x.vla"]


def test_a_copy_to_a_bucket_gives_up_what_a_killed_one_left_open(bucket: S3Server, made: Path) -> None:
    bucket.client.create_multipart_upload(Bucket=BUCKET, Key="given-up.vla/parts/0123456789abcdef/steps/a/c/0")
    copy_store(made / "first.vla", f"s3://{BUCKET}/given-up.vla")
    assert Bucket("given-up.vla").uploads() == []
    assert Bucket("given-up.vla").digests() == digests(made / "first.vla")
