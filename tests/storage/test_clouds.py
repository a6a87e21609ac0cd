"""Which store of obstore's is meant by URLs and options of gcsfs and adlfs, and whose credentials it is given.

Those of s3fs and HTTP: tests/integration/test_obstore.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vla_store.storage import clouds
from vla_store.storage.credentials import Unable

pytest.importorskip("obstore")

KEY = "a2V5"
ACCOUNT = {"account_name": "robots", "account_key": KEY}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any credentials, and on nobody's cloud."""
    for name in list(os.environ):
        if name.startswith(("AZURE_", "GOOGLE_", "GCSFS_", "STORAGE_EMULATOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def opened(url: str, **options: Any) -> Any:
    made = clouds.found_by(url, options)
    assert made is not None
    return made()


def place_of(store: Any) -> tuple[str, str, str | None]:
    """(endpoint, bucket, prefix)"""
    config = store.config
    bucket = config.get("bucket") or config["container_name"]
    return config.get("base_url") or config["endpoint"], bucket, store.prefix


def is_signed(store: Any) -> bool:
    return bool(store.config["skip_signature"] == "false")


# --- Google's ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, {}, "https://storage.googleapis.com"),
        ({}, {"endpoint_url": "http://host:4443/"}, "http://host:4443"),
        ({"STORAGE_EMULATOR_HOST": "http://host:1"}, {}, "http://host:1"),
        ({"STORAGE_EMULATOR_HOST": "host:1"}, {}, "http://host:1"),
        ({"STORAGE_EMULATOR_HOST": "default"}, {}, "https://storage.googleapis.com"),
        ({"STORAGE_EMULATOR_HOST": "host:1"}, {"endpoint_url": "http://other"}, "http://other"),
        ({"GOOGLE_CLOUD_UNIVERSE_DOMAIN": "other.cloud"}, {}, "https://storage.other.cloud"),
        ({"GOOGLE_BASE_URL": "http://obstore.alone"}, {}, "https://storage.googleapis.com"),
    ],
    ids=str,
)
def test_google_is_asked_where_gcsfs_would(
    environment: dict[str, str], options: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for url in ("gs://bucket/a b/x.vla/", "gcs://bucket/a b/x.vla"):
        store = opened(url, token="anon", **options)
        assert place_of(store) == (expected, "bucket", "a b/x.vla")
        assert not is_signed(store)


@pytest.mark.parametrize(
    "options",
    [
        {"token": "browser"},
        {"token": "cache"},
        {"token": "ya29.raw"},
        {"token": "anon", "requester_pays": True},
        {"token": "anon", "session_kwargs": {"trust_env": True}},
        {"token": "anon", "access": "some"},
        {"project": "mine"},  # gcsfs compares it with what goes with the credentials
    ],
    ids=str,
)
def test_what_only_gcsfs_can_is_left_to_it(options: dict[str, Any]) -> None:
    assert clouds.found_by("gs://bucket/x.vla", options) is None


def test_a_generation_is_left_to_gcsfs() -> None:
    for url in ("gs://bucket/x.vla#12", "gs://bucket/x.vla?generation=12"):
        assert clouds.found_by(url, {"token": "anon"}) is None


def test_an_application_of_googles_that_obstore_cannot_read_does_not_matter_to_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wrong.json").write_text("{")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "wrong.json"))
    assert not is_signed(opened("gs://bucket/x.vla", token="anon"))


def service_account() -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "client_email": "tester@robots.example",
        "token_uri": "http://127.0.0.1:9/token",
        "private_key": key.decode(),
    }


USER = {"type": "authorized_user", "refresh_token": "a", "client_id": "b", "client_secret": "c"}


@pytest.fixture
def google() -> None:
    pytest.importorskip("google.auth", reason="tokens of Google's need google-auth")
    pytest.importorskip("requests")


@pytest.mark.usefixtures("google")
def test_a_token_is_a_file_or_what_is_in_one_or_credentials(tmp_path: Path) -> None:
    from google.oauth2.credentials import Credentials

    (tmp_path / "user.json").write_text(json.dumps(USER))
    (tmp_path / "service.json").write_text(json.dumps(service_account()))
    for token in (str(tmp_path / "user.json"), str(tmp_path / "service.json"), USER, service_account(), "cloud"):
        assert is_signed(opened("gs://bucket/x.vla", token=token, project="mine"))
    store = opened("gs://bucket/x.vla", token=Credentials("secret"))
    assert store.credential_provider() == {"token": "secret", "expires_at": None}


@pytest.mark.usefixtures("google")
def test_a_token_that_cannot_be_fetched_now_may_be_later() -> None:
    store = opened("gs://bucket/x.vla", token=service_account())
    with pytest.raises(ConnectionError):
        store.credential_provider()


@pytest.mark.usefixtures("google")
def test_credentials_are_found_where_gcsfs_finds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = clouds.found_by("gs://bucket/x.vla", {})
    assert made is not None
    with pytest.raises(Unable):  # nobody's: gcsfs then asks as nobody
        made()
    (tmp_path / "service.json").write_text(json.dumps(service_account() | {"project_id": "mine"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "service.json"))
    assert is_signed(made())
    assert is_signed(opened("gs://bucket/x.vla", token="google_default"))
    monkeypatch.setenv("GCSFS_DEFAULT_PROJECT", "other")
    assert clouds.found_by("gs://bucket/x.vla", {}) is None


# --- Azure's -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "az://bucket/a b/x.vla",
        "abfs://bucket/a b/x.vla/",
        "abfss://bucket@robots.dfs.core.windows.net/a b/x.vla",
        "az://bucket@robots.blob.core.windows.net/a b/x.vla",
        "abfs://robots.dfs.core.windows.net/bucket/a b/x.vla",
    ],
)
def test_a_container_is_found_in_the_url_as_adlfs_finds_it(url: str) -> None:
    store = opened(url, **ACCOUNT)
    assert place_of(store) == ("https://robots.blob.core.windows.net", "bucket", "a b/x.vla")
    assert store.config["account_name"] == "robots"


def test_an_account_is_named_by_the_url_alone() -> None:
    assert is_signed(opened("abfss://bucket@robots.dfs.core.windows.net/x.vla", account_key=KEY))
    url = "abfss://bucket@other.dfs.core.windows.net/x.vla"
    assert clouds.found_by(url, ACCOUNT) is None


@pytest.mark.parametrize(
    "url",
    [
        "az://bucket/x.vla?versionid=5",
        "az://bucket:443/x.vla",
        "az://robots.blob.core.windows.net/bucket/x.vla",  # a container of that name, to adlfs
        "adl://bucket/x.vla",
    ],
)
def test_what_only_adlfs_can_is_left_to_it(url: str) -> None:
    assert clouds.found_by(url, ACCOUNT) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"account_key": KEY},
        {**ACCOUNT, "max_concurrency": 4},
        {**ACCOUNT, "credential": "a"},
        {**ACCOUNT, "version_aware": True},
        {"account_name": "robots", "client_id": "a", "tenant_id": "b"},
        {"connection_string": "UseDevelopmentStorage=true"},
        {"connection_string": f"AccountKey={KEY}"},
        {"connection_string": "nonsense"},
    ],
    ids=str,
)
def test_options_that_only_adlfs_takes_or_refuses_are_left_to_it(options: dict[str, Any]) -> None:
    assert clouds.found_by("az://bucket/x.vla", options) is None


CONNECTION = f"AccountName=robots;AccountKey={KEY};DefaultEndpointsProtocol=http"
SIGNED = {"access_key": KEY, "expires_at": None}
SHARED = {"sas_token": "sv=1&sig=a%3D", "expires_at": None}


@pytest.mark.parametrize(
    ("options", "endpoint", "expected"),
    [
        (ACCOUNT, "https://robots.blob.core.windows.net", SIGNED),
        ({**ACCOUNT, "anon": True}, "https://robots.blob.core.windows.net", SIGNED),
        ({**ACCOUNT, "sas_token": "sv=1&sig=a%3D"}, "https://robots.blob.core.windows.net", SIGNED),
        ({**ACCOUNT, "account_host": "10.0.0.5"}, "https://10.0.0.5", SIGNED),
        (
            {"account_name": "robots", "sas_token": "sv=1&sig=a%3D"},
            "https://robots.blob.core.windows.net",
            SHARED,
        ),
        ({"account_name": "robots", "anon": True}, "https://robots.blob.core.windows.net", None),
        ({"connection_string": f"{CONNECTION};EndpointSuffix=core.x.cn"}, "http://robots.blob.core.x.cn", SIGNED),
        ({"connection_string": CONNECTION, "account_name": "other"}, "https://robots.blob.core.windows.net", SIGNED),
        ({"connection_string": f"{CONNECTION};BlobEndpoint=http://h:1/robots/;"}, "http://h:1/robots", SIGNED),
        (
            {"connection_string": "BlobEndpoint=https://h;SharedAccessSignature=sv=1&sig=a%3D"},
            "https://h",
            SHARED,
        ),
        ({"connection_string": "BlobEndpoint=https://h;AccountName=robots"}, "https://h", None),
    ],
    ids=str,
)
def test_an_account_is_what_adlfs_takes_for_one(
    options: dict[str, Any], endpoint: str, expected: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "obstore's alone")
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    store = opened("az://bucket/x.vla", **options)
    assert place_of(store) == (endpoint, "bucket", "x.vla")
    assert is_signed(store) == (expected is not None)
    if expected is not None:
        assert store.credential_provider() == expected
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "robots")
    for name, value in options.items():
        monkeypatch.setenv(f"AZURE_STORAGE_{name.upper()}", str(value))
    host = {name: value for name, value in options.items() if name == "account_host"}
    assert opened("az://bucket/x.vla", **host).config == store.config


def test_fsspecs_settings_count_by_any_name_of_a_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.config import conf

    monkeypatch.setitem(conf, "abfs", ACCOUNT)
    assert opened("az://bucket/x.vla").credential_provider() == SIGNED
    monkeypatch.setitem(conf, "az", {"account_key": "b3RoZXI="})
    assert opened("abfss://bucket/x.vla").credential_provider()["access_key"] == "b3RoZXI="


def test_who_has_no_key_is_whom_azure_finds() -> None:
    pytest.importorskip("azure.identity", reason="tokens of Azure's need azure-identity")
    principal = {"tenant_id": "a", "client_id": "b", "client_secret": "c"}
    for options in ({}, principal, {"anon": False}):
        assert is_signed(opened("az://bucket/x.vla", account_name="robots", **options))
