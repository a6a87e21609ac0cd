"""When obstore reads, what it is told, and that a process forked from one that used it does without."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same
from range_server import RangeServer
from s3_server import BUCKET, KEYS, S3Server

import vla_store
from vla_store import cli
from vla_store.errors import FetchError, MachineError, OptionError, StoreNotFound
from vla_store.storage import FsspecStorage, ObstoreStorage, clouds, locate, retrying

pytest.importorskip("obstore")

NAMES = (
    "ACCESS_KEY_ID",
    "SECRET_ACCESS_KEY",
    "SESSION_TOKEN",
    "DEFAULT_REGION",
    "ENDPOINT_URL",
    "ENDPOINT_URL_S3",
    "PROFILE",
)
REGION = {"client_kwargs": {"region_name": "eu-west-1"}}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any credentials."""
    for name in NAMES:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("https://host/store.vla", {}),
        ("http://host/store.vla", {"headers": {"X-Token": "a"}, "client_kwargs": {"headers": {"X-Other": "b"}}}),
        ("s3://bucket/store.vla", {"anon": True, **REGION}),
        ("s3a://bucket/store.vla", {"key": "a", "secret": "b", "token": "c", **REGION}),
        ("s3://bucket/store.vla", {"key": "a", "secret": "b", "endpoint_url": "http://host:9000"}),
    ],
    ids=str,
)
def test_what_obstore_can_do_it_does(url: str, options: dict[str, Any]) -> None:
    storage = locate(url, None, options).open()
    assert type(storage) is ObstoreStorage
    assert storage.fetcher == "obstore"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("simplecache::https://host/store.vla", {}),
        ("https://host/store.vla?key=a", {}),
        ("https://user:password@host/store.vla", {}),
        ("https://host/store.vla", {"client_kwargs": {"auth": "a"}}),
        ("https://host/store.vla", {"timeout": 5}),
        ("s3://bucket/store.vla", {"anon": True}),  # where the bucket is, s3fs asks
        ("s3://bucket/store.vla", REGION),  # nobody's keys
        ("s3://bucket/store.vla", {"profile": "other", **REGION}),
        ("s3://bucket/store.vla", {"anon": True, "config_kwargs": {"max_pool_connections": 5}, **REGION}),
        ("s3://bucket/store.vla", {"key": "a", **REGION}),
        ("memory://store.vla", {}),
    ],
    ids=str,
)
def test_what_it_cannot_is_left_to_fsspec_unless_it_is_asked_for(url: str, options: dict[str, Any]) -> None:
    assert clouds.found_by(url, options) is None
    assert locate(url, None, options).opener(url, **options).fetcher == "fsspec"
    with pytest.raises(OptionError, match="obstore cannot read this URL with these options"):
        locate(url, "obstore", options).open()


def test_the_same_url_is_read_by_whom_the_user_names(wide_store: Path) -> None:
    with RangeServer(wide_store) as server:
        for fetcher, kind in ((None, ObstoreStorage), ("obstore", ObstoreStorage), ("fsspec", FsspecStorage)):
            storage = locate(server.url, fetcher, None).open()
            assert type(storage) is kind
            assert storage.fetcher == (fetcher or "obstore")


def test_info_says_who_reads(wide_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RangeServer(wide_store) as server:
        for fetcher in ("obstore", "fsspec"):
            assert cli.main(["info", server.url, "--json", "--fetcher", fetcher]) == 0
            assert json.loads(capsys.readouterr().out)["fetcher"] == fetcher


@pytest.mark.parametrize("fetcher", ["obstore", "fsspec"])
def test_headers_are_sent(wide_store: Path, fetcher: str) -> None:
    expected = vla_store.open_store(wide_store).read("actions", [5])
    with RangeServer(wide_store, token="open sesame") as server:
        with pytest.raises(MachineError, match="refuses access"):
            vla_store.open_store(server.url, fetcher=fetcher)
        for options in (
            {"headers": {"X-Token": "open sesame"}},
            {"client_kwargs": {"headers": {"X-Token": "open sesame"}}},
        ):
            store = vla_store.open_store(server.url, fetcher=fetcher, storage_options=options)
            assert_same(store.read("actions", [5]), expected)


def test_keys_are_found_where_s3fs_finds_them(
    wide_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("moto", "s3fs", "boto3"):
        pytest.importorskip(module, reason=f"s3:// needs {module}")
    expected = vla_store.open_store(wide_store).read("actions", [5, 90])
    url = f"s3://{BUCKET}/a b/wide.vla"
    with S3Server() as server:
        server.upload(wide_store, "a b/wide.vla")
        options = {"client_kwargs": server.options["client_kwargs"]}
        (tmp_path / "credentials").write_text("".join(["[default]\n", *(f"{name} = {KEYS[name]}\n" for name in KEYS)]))
        store = vla_store.open_store(url, storage_options=options)
        assert store.fetcher == "obstore"
        assert_same(store.read("actions", [5, 90]), expected)
        (tmp_path / "credentials").unlink()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = vla_store.open_store(url)
        assert store.fetcher == "obstore"
        assert_same(store.read("actions", [5, 90]), expected)


# What a user gives so that gs:// or az:// is found on this machine: (prefix of every path, URL of the store, its options).
KEY = "a2V5"
OTHERS = {
    "gs": ("/bucket/a b/wide.vla", "gs://bucket/a b/wide.vla", {"token": "anon", "endpoint_url": "{origin}"}),
    "gcs": ("/bucket/wide.vla", "gcs://bucket/wide.vla", {"token": "anon", "endpoint_url": "{origin}/"}),
    "az": (
        "/me/bucket/a b/wide.vla",
        "az://bucket/a b/wide.vla",
        {"connection_string": f"AccountName=me;AccountKey={KEY};BlobEndpoint={{origin}}/me"},
    ),
    "abfss": (
        "/bucket/wide.vla",
        "abfss://bucket@me.dfs.core.windows.net/wide.vla",
        {"connection_string": "BlobEndpoint={origin};SharedAccessSignature=sv=1&sig=a%3D"},
    ),
}


@pytest.fixture(params=OTHERS)
def elsewhere(request: pytest.FixtureRequest, wide_store: Path) -> Iterator[tuple[RangeServer, str, dict[str, Any]]]:
    """The wide store as an object of Google's or Azure's: who serves it, its URL, and options."""
    prefix, url, options = OTHERS[request.param]
    with RangeServer(wide_store, prefix=prefix) as server:
        origin = server.url.removesuffix(prefix)
        yield server, url, {name: value.replace("{origin}", origin) for name, value in options.items()}


def test_samples_of_other_clouds_are_those_of_a_local_store(
    elsewhere: tuple[RangeServer, str, dict[str, Any]], wide_store: Path, tmp_path: Path
) -> None:
    server, url, options = elsewhere
    asked = {"windows": {"agentview_rgb": [-1, 0], "actions": range(4)}, "alignment": "causal", "images": "upright"}
    expected = vla_store.Samples(vla_store.open_store(wide_store), **asked)
    for cache in ("", tmp_path / "cache"):
        store = vla_store.open_store(url, storage_options=options, cache=cache)
        assert store.fetcher == "obstore"
        samples = vla_store.Samples(store, **asked)
        for rows in ([5, 90, 170], range(60, 80)):
            assert_same(samples.batch(rows), expected.batch(rows))
        assert store.fetcher == "obstore"
    by = {each.by.partition(":")[0].partition("=")[0] for each in server.requests}
    assert by == {{"gs": "", "gcs": "", "az": "SharedKey me", "abfss": "sv"}[url.partition("://")[0]]}


def test_errors_of_other_clouds_are_those_of_any(
    elsewhere: tuple[RangeServer, str, dict[str, Any]],
) -> None:
    server, url, options = elsewhere
    with pytest.raises(StoreNotFound):
        vla_store.open_store(f"{url}/nowhere", storage_options=options)
    store = vla_store.open_store(url, storage_options=options)
    server.faults["sometimes"] = "busy"
    expected = vla_store.open_store(server.folder).read("actions", [5, 90])
    assert_same(store.read("actions", [5, 90]), expected)
    server.faults["*"] = "refused"
    with pytest.raises(MachineError, match="refuses access") as caught:
        store.read("actions", [50])
    assert "403" in caught.value.places["found"]
    assert "sig=" not in str(caught.value)
    server.stop()
    with pytest.raises(FetchError, match="storage did not answer"):
        store.read("actions", [150])


BY_FSSPEC = {
    "gcsfs": ("/download/storage/v1/b/bucket/o/a b/wide.vla", *OTHERS["gs"][1:]),
    "adlfs": OTHERS["az"],
}


@pytest.mark.parametrize("package", BY_FSSPEC)
def test_fsspec_reads_other_clouds_as_well_and_fails_alike(
    package: str, wide_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read as it is imported; else it asks by gRPC of what kind a bucket is.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip(package)
    prefix, url, given = BY_FSSPEC[package]
    expected = vla_store.open_store(wide_store).read("actions", [5, 90])
    with RangeServer(wide_store, prefix=prefix) as server:
        origin = server.url.removesuffix(prefix)
        options = {name: value.replace("{origin}", origin) for name, value in given.items()}
        with pytest.raises(StoreNotFound):
            vla_store.open_store(f"{url}/nowhere", fetcher="fsspec", storage_options=options)
        store = vla_store.open_store(url, fetcher="fsspec", storage_options=options)
        assert_same(store.read("actions", [5, 90]), expected)
        server.faults["*"] = "refused"
        server.forget()
        with pytest.raises(MachineError, match="refuses access"):
            store.read("actions", [50])
        assert len(server.requests) == 1
        server.faults["zarr.json"] = "busy"
        if package == "adlfs":  # gcsfs asks again by itself, for half a minute
            with pytest.raises(FetchError):
                vla_store.open_store(url, fetcher="fsspec", storage_options=options)
            assert len(server.requests) == 1 + retrying.TRIES


def test_options_that_open_nothing_are_said_so() -> None:
    pytest.importorskip("adlfs")
    with pytest.raises(OptionError, match="cannot be opened with these options"):
        vla_store.open_store("az://bucket/x.vla", storage_options={"account_key": KEY})


def read_in_a_child(store: vla_store.Store, told: Any) -> None:
    told.put((store.fetcher, store.read("actions", [5, 90]).tolist()))


def test_a_forked_process_reads_by_fsspec_what_its_parent_read_by_obstore(wide_store: Path) -> None:
    expected = vla_store.open_store(wide_store).read("actions", [5, 90])
    forking = multiprocessing.get_context("fork")
    with RangeServer(wide_store) as server:
        store = vla_store.open_store(server.url)
        assert_same(store.read("actions", [5, 90]), expected)
        told = forking.Queue()
        child = forking.Process(target=read_in_a_child, args=(store, told))
        child.start()
        assert told.get(timeout=60) == ("fsspec", expected.tolist())
        child.join()
        assert store.fetcher == "obstore"
        assert_same(store.read("actions", [5, 90]), expected)


def test_an_error_says_what_storage_said_and_no_more(wide_store: Path) -> None:
    expecting: Callable[..., Any] = pytest.raises
    with RangeServer(wide_store) as server:
        store = vla_store.open_store(server.url)
        server.faults["*"] = "refused"
        with expecting(MachineError, match="refuses access") as caught:
            store.read("actions", [5])
        assert "403" in caught.value.places["found"]
        assert "Debug source" not in str(caught.value)
