"""A store in a bucket: the same samples over a real S3 API, audits that see what is there now, and clear errors."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same, drawn_options
from s3_server import BUCKET, S3Server

import vla_store
from vla_store import cli
from vla_store.audit import verify_store
from vla_store.errors import FetchError, StoreDamaged, StoreNotFound
from vla_store.storage import retrying

PREFIX = "lab/wide.vla"


@pytest.fixture(scope="module")
def s3(wide_store: Path) -> Iterator[S3Server]:
    """A bucket that holds `wide_store` at PREFIX."""
    for module in ("moto", "s3fs", "boto3"):
        pytest.importorskip(module, reason=f"s3:// needs {module}")
    with S3Server() as server:
        server.upload(wide_store, PREFIX)
        yield server


@pytest.fixture
def url() -> str:
    return f"s3://{BUCKET}/{PREFIX}"


@pytest.fixture
def surroundings(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, which programs find by the environment."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.mark.parametrize("seed", range(6))
def test_random_rows_and_windows_over_s3_are_those_of_the_folder(
    s3: S3Server, url: str, wide_store: Path, seed: int
) -> None:
    rng = random.Random(100 + seed)
    local = vla_store.open_store(wide_store)
    options = drawn_options(rng, list(local.fields))
    store = vla_store.open_store(url, fetcher=("obstore", "fsspec")[seed % 2], storage_options=s3.options)
    found = vla_store.Samples(store, **options)
    expected = vla_store.Samples(local, **options)
    numbers = [rng.randrange(-len(expected), len(expected)) for _ in range(6)]
    assert_same(list(found.__getitems__(numbers)), list(expected.__getitems__(numbers)))
    assert_same([found[number] for number in numbers[:2]], [expected[number] for number in numbers[:2]])


def test_a_bucket_is_found_by_the_environment(surroundings: S3Server, url: str, wide_store: Path) -> None:
    windows = {"eye_in_hand_rgb": 0, "robot_states": [0, -3]}
    found, expected = (
        vla_store.Samples(url, windows=windows, images="as_stored"),
        vla_store.Samples(wide_store, windows=windows, images="as_stored"),
    )
    assert_same(found[7], expected[7])


def test_verify_over_s3_lists_what_was_left_over_and_names_what_was_damaged(
    surroundings: S3Server, wide_store: Path
) -> None:
    """Each audit sees the bucket as it is, although others changed it in between."""
    url = surroundings.upload(wide_store, "lab/audited.vla")
    report = verify_store(url)
    assert (report.sound, report.rows, report.leftovers) == (True, 180, [])
    assert report.fingerprint == vla_store.open_store(wide_store).fingerprint
    surroundings.put("lab/audited.vla/parts/0123456789abcdef/steps/actions/c/0/0", b"of a build that was given up")
    (shard,) = wide_store.glob("parts/*/steps/actions/c/0/0")
    key = shard.relative_to(wide_store).as_posix()
    surroundings.put(f"lab/audited.vla/{key}", shard.read_bytes()[:-1])
    report = verify_store(url)
    assert [each.object for each in report.problems] == [key]
    assert report.leftovers == ["parts/0123456789abcdef/steps/actions/c/0/0"]
    surroundings.delete(f"lab/audited.vla/{key}")
    (problem,) = verify_store(url).problems
    assert (problem.object, problem.what) == (key, "an object of the store is missing")


def test_verify_takes_what_the_file_system_needs(s3: S3Server, url: str) -> None:
    assert verify_store(url, storage_options=s3.options).sound


def test_a_missing_shard_is_damage_that_names_it(s3: S3Server, wide_store: Path) -> None:
    url = s3.upload(wide_store, "lab/holed.vla")
    (shard,) = wide_store.glob("parts/*/steps/actions/c/0/0")
    key = shard.relative_to(wide_store).as_posix()
    s3.delete(f"lab/holed.vla/{key}")
    store = vla_store.open_store(url, storage_options=s3.options)
    with pytest.raises(StoreDamaged, match="missing") as caught:
        store.read("actions", [3])
    assert caught.value.places["object"] == key


def test_a_shard_that_shrinks_under_an_open_store_is_damage(s3: S3Server, wide_store: Path) -> None:
    url = s3.upload(wide_store, "lab/shrunk.vla")
    store = vla_store.open_store(url, storage_options=s3.options)
    store.read("actions", [3])
    (shard,) = wide_store.glob("parts/*/steps/actions/c/0/0")
    key = shard.relative_to(wide_store).as_posix()
    s3.put(f"lab/shrunk.vla/{key}", shard.read_bytes()[:1_000])
    for rows in ([170], [15, 16, 17, 18]):  # beyond its end, and across it
        with pytest.raises(StoreDamaged, match="cut short") as caught:
            store.read("actions", rows)
        assert (caught.value.places["object"], caught.value.places["found"]) == (key, "1000")


@pytest.mark.parametrize("place", [f"{BUCKET}/lab", f"{BUCKET}/nothing/here", "no-such-bucket/wide.vla"])
def test_a_place_without_a_store_is_no_store(s3: S3Server, place: str) -> None:
    with pytest.raises(StoreNotFound, match="no store at this URL"):
        vla_store.open_store(f"s3://{place}", storage_options=s3.options)


def test_no_credentials_is_a_fetch_error_that_says_so(s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", os.devnull)
    options = {"client_kwargs": s3.options["client_kwargs"]}
    with pytest.raises(FetchError, match="NoCredentials") as caught:
        vla_store.open_store(url, storage_options=options)
    assert "FSSPEC_S3_ANON" in caught.value.hint


def test_a_bucket_that_is_gone_is_a_fetch_error_that_names_the_object(
    wide_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moto", reason="s3:// needs moto")
    monkeypatch.setattr(retrying, "TRIES", 1)
    with S3Server() as server:
        options = {**server.options, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
        store = vla_store.open_store(server.upload(wide_store, PREFIX), storage_options=options)
        store.read("actions", [3])
        server.stop()
        with pytest.raises(FetchError, match="storage did not answer") as caught:
            store.read("actions", [100])
    assert caught.value.exit_code == 3
    assert caught.value.places["object"].endswith("steps/actions/c/0/0")


def test_views_are_added_listed_used_and_removed_in_a_bucket(
    surroundings: S3Server, wide_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = surroundings.upload(wide_store, "lab/viewed.vla")

    def ran(*command: str) -> dict[str, Any]:
        assert cli.main([*command, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    before = vla_store.open_store(url)
    added = ran("views", "add", url, "drop_tail:steps=40,kind=steps,name=early", "length:shortest=55")
    assert (added["generation"], [each["kept_steps"] for each in added["views"].values()]) == (2, [60, 130])
    listed = ran("views", "list", url)
    assert list(listed["views"]) == ["early", "length"]
    store = vla_store.open_store(url, storage_options=surroundings.options)
    assert store.generation == 2
    samples = vla_store.Samples(store, windows={"actions": [0, 1]}, view="early")
    expected = vla_store.Samples(wide_store, windows={"actions": [0, 0]})
    assert len(samples) == 60
    # The last step that the view has of the first episode: the one after it does not exist.
    assert_same(samples[19]["actions"], expected[19]["actions"])
    assert len(before.views) == 0
    report = verify_store(url)
    assert (report.sound, report.leftovers) == (True, [])

    assert cli.main(["views", "add", url, "length:shortest=2"]) == 2  # another view of this name
    assert "length" in capsys.readouterr().err
    assert ran("views", "remove", url, "early")["removed"] == ["early"]
    assert ran("views", "remove", url, "--all")["generation"] == 4
    assert cli.main(["views", "list", url]) == 0
    assert capsys.readouterr().out == "no views\n"
    assert (
        len(vla_store.Samples(vla_store.open_store(url, digest=store.digest), windows={"actions": 0}, view="early"))
        == 60
    )
    assert verify_store(url).sound


def test_of_views_that_several_add_to_a_bucket_at_once_none_is_lost(surroundings: S3Server, wide_store: Path) -> None:
    url = surroundings.upload(wide_store, "lab/together.vla")
    codes: list[int] = []
    together = threading.Barrier(4)

    def add(number: int) -> None:
        together.wait()
        codes.append(cli.main(["views", "add", url, f"drop_tail:steps={number},name=tail-{number}", "--quiet"]))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 4
    store = vla_store.open_store(url, storage_options=surroundings.options)
    assert list(store.views) == [f"tail-{number}" for number in range(4)]
    assert store.generation == 5
    assert verify_store(url).sound
