"""Which store of obstore's is meant by a URL and options of fsspec's: a function for each protocol, each as fsspec's own would take them.

Whatever obstore cannot express is None here, and fsspec's. Of Google and Azure nothing is asked of the network before what `found_by`
returns is called; botocore may ask whose role the machine has. Their stores always have a provider of credentials: without one
obstore would look into the environment by rules of its own. Imports `credentials` and `retrying`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vla_store.storage.credentials import Provider, always, configured, has, nobody, of_azure, of_botocore, of_google
from vla_store.storage.retrying import STALL_S

OLDEST = (0, 12)
_WHOLE_S = 3600  # what makes progress may take long
_ONCE = {"max_retries": 0}  # `retrying` asks again, and counts

Opened = Callable[[], Any]


class Protocol(NamedTuple):
    """names: all that fsspec's filesystem has for it, which is the order of its settings. express: gives what opens the store."""

    names: tuple[str, ...]
    express: Callable[[str, dict[str, Any]], Opened | None]


def protocol_of(url: str) -> Protocol | None:
    """Return the protocol of a URL that obstore may read, as far as that is known without importing anything."""
    if "::" in url or not importlib.util.find_spec("obstore"):
        return None
    name = url.partition("://")[0].lower()
    return next((each for each in _PROTOCOLS if name in each.names), None)


def found_by(url: str, options: Mapping[str, Any]) -> Opened | None:
    """Return what opens a store of obstore's for a URL and these options of fsspec's; None where it cannot do the same as fsspec."""
    protocol = protocol_of(url)
    if protocol is None or not _is_installed():
        return None
    from fsspec.config import conf

    settings: dict[str, Any] = {}
    for name in protocol.names:
        settings.update(conf.get(name, {}))
    return protocol.express(url, {**settings, **options})


@functools.cache
def _is_installed() -> bool:
    """Tell whether obstore is there, and one that gives up an answer that stalls."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = re.match(r"(\d+)\.(\d+)", version("obstore"))
    except PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def _limits(headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what all stores are made with: how long they wait, and that they ask once."""
    patience = f"{STALL_S:.0f}s"
    options: dict[str, Any] = {"allow_http": True, "connect_timeout": patience, "read_timeout": patience}
    options |= {"timeout": f"{_WHOLE_S}s"} | ({"default_headers": dict(headers)} if headers else {})
    return {"client_options": options, "retry_config": _ONCE}


def _split(place: str) -> tuple[str, str | None]:
    """Return the bucket and the prefix in it."""
    bucket, _, prefix = place.partition("/")
    return bucket, prefix.strip("/") or None


# HTTP

_HTTP_OPTIONS = frozenset({"client_kwargs", "headers"})


def _http(url: str, options: dict[str, Any]) -> Opened | None:
    client = dict(options.get("client_kwargs") or {})
    headers = {**(client.pop("headers", None) or {}), **(options.get("headers") or {})}
    parts = urllib.parse.urlsplit(url)
    if client or not options.keys() <= _HTTP_OPTIONS or parts.query or parts.fragment or "@" in parts.netloc:
        return None

    def opened() -> Any:
        from obstore.store import HTTPStore

        return HTTPStore(url.rstrip("/"), **_limits(headers))

    return opened


# S3, as s3fs

_S3_OPTIONS = frozenset({"anon", "client_kwargs", "endpoint_url", "key", "secret", "token"})
_S3_CLIENT = frozenset({"endpoint_url", "region_name"})


def _s3(url: str, options: dict[str, Any]) -> Opened | None:
    client = dict(options.get("client_kwargs") or {})
    if not options.keys() <= _S3_OPTIONS or not client.keys() <= _S3_CLIENT:
        return None
    bucket, prefix = _split(url.partition("://")[2])
    endpoint = client.get("endpoint_url") or options.get("endpoint_url")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    given: dict[str, Any] = {}
    provider = None
    if options.get("anon"):
        given["skip_signature"] = True
    elif (keys := _keys(options)) is not None:
        names = ("access_key_id", "secret_access_key", "session_token")
        given.update({name: value for name, value in zip(names, keys) if value})
    elif (provider := of_botocore()) is None:
        return None  # fsspec says what is missing
    region = client.get("region_name") or os.environ.get("AWS_DEFAULT_REGION") or configured("region")
    if not (region or endpoint):
        return None  # s3fs asks S3 where a bucket is
    given["region"] = region or "us-east-1"
    if endpoint:
        given["endpoint"] = endpoint

    def opened() -> Any:
        from obstore.store import S3Store

        return S3Store(
            bucket,
            prefix=prefix,
            **_limits(),
            credential_provider=provider,
            **given,
        )

    return opened


def _keys(options: Mapping[str, Any]) -> tuple[Any, Any, Any] | None:
    if options.get("key") and options.get("secret"):
        return options["key"], options["secret"], options.get("token")
    if options.get("key") or options.get("secret") or options.get("token"):
        return None
    found = tuple(os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    return found if found[0] and found[1] else None  # type: ignore[return-value]


# Google's, as gcsfs

_GS_OPTIONS = frozenset({"access", "endpoint_url", "project", "token"})
_GS_ACCESS = frozenset({"read_only", "read_write", "full_control"})


def _gs(url: str, options: dict[str, Any]) -> Opened | None:
    bucket, prefix = _split(url.partition("://")[2])
    token, access = options.get("token"), options.get("access", "full_control")
    project = options.get("project") or os.environ.get("GCSFS_DEFAULT_PROJECT")
    if not options.keys() <= _GS_OPTIONS or access not in _GS_ACCESS or "?" in url or "#" in url:
        return None
    is_anonymous = token == "anon"
    if not is_anonymous and not (has("google.auth") and has("requests")):
        return None  # fsspec says what is missing
    if token in (None, "google_default"):
        if project:
            return None  # which gcsfs compares with what goes with the credentials
    elif isinstance(token, str) and not (is_anonymous or token == "cloud" or os.path.exists(token)):
        return None

    def opened() -> Any:
        from obstore.store import GCSStore

        return GCSStore(
            bucket,
            prefix=prefix,
            **_limits(),
            credential_provider=nobody if is_anonymous else of_google(token, access),
            skip_signature=is_anonymous,
            base_url=_gs_base(options.get("endpoint_url")),
        )

    return opened


def _gs_base(endpoint: str | None) -> str:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if not endpoint and emulator not in ("", "default"):
        endpoint = emulator if emulator.startswith(("http://", "https://")) else f"http://{emulator}"
    domain = os.environ.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "googleapis.com")
    return (endpoint or f"https://storage.{domain}").rstrip("/")


# Azure's, as adlfs

_AZ_OPTIONS = frozenset(
    {
        "account_host",
        "account_key",
        "account_name",
        "anon",
        "client_id",
        "client_secret",
        "connection_string",
        "sas_token",
        "tenant_id",
    }
)


class _Account(NamedTuple):
    """endpoint: without a slash at its end. provider: None for nobody's."""

    name: str
    endpoint: str
    provider: Provider | None


def _az(url: str, options: dict[str, Any]) -> Opened | None:
    place = _az_place(url)
    if place is None or not options.keys() <= _AZ_OPTIONS:
        return None
    container, prefix, name = place
    if name and options.get("account_name") not in (None, name):
        return None
    account = _az_account({**options, "account_name": name or options.get("account_name")})
    if account is None:
        return None

    def opened() -> Any:
        from obstore.store import AzureStore

        return AzureStore(
            container,
            prefix=prefix,
            **_limits(),
            credential_provider=account.provider or nobody,
            skip_signature=account.provider is None,
            account_name=account.name,
            endpoint=account.endpoint,
            use_emulator=False,
        )

    return opened


def _az_place(url: str) -> tuple[str, str | None, str | None] | None:
    """Return the container, the prefix in it, and the account that a URL names, as adlfs reads it; None for one with more in it."""
    host, _, path = url.partition("://")[2].partition("/")
    container, at, host_alone = host.rpartition("@")
    if "?" in url or "#" in url or ":" in host or "@" in container:
        return None
    named = re.fullmatch(r"(.+)\.(dfs|blob)\.core\.windows\.net", host_alone)
    if at:
        return (*_split(f"{container}/{path}"), named and named[1])
    if named is None:
        return (*_split(f"{host}/{path}"), None)
    return (*_split(path), named[1]) if named[2] == "dfs" else None


def _az_account(options: Mapping[str, Any]) -> _Account | None:
    """Return the account and its credentials by options and environment; None where fsspec says what is wrong with them."""

    def given(name: str) -> Any:
        return options.get(name) or os.environ.get(f"AZURE_STORAGE_{name.upper()}")

    if words := given("connection_string"):
        return _connected(words)
    name = given("account_name")
    if not name:
        return None
    endpoint = f"https://{options.get('account_host') or f'{name}.blob.core.windows.net'}".rstrip("/")
    anon = options.get("anon")
    if anon is None:
        anon = os.environ.get("AZURE_STORAGE_ANON", "false").lower() not in ("false", "0", "f", "")
    if key := given("account_key"):
        return _Account(name, endpoint, always(access_key=key))
    if token := given("sas_token"):
        return _Account(name, endpoint, always(sas_token=token))
    if given("client_id"):
        names = ("tenant_id", "client_id", "client_secret")
        principal = {name: given(name) for name in names}
        is_whole = all(principal.values()) and has("azure.identity")
        return _Account(name, endpoint, of_azure(principal)) if is_whole else None
    if not anon:
        return _Account(name, endpoint, of_azure(None)) if has("azure.identity") else None
    return _Account(name, endpoint, None)


def _connected(words: str) -> _Account | None:
    """Return the account of a connection string of Azure's."""
    pairs = [each.partition("=") for each in words.rstrip(";").split(";")]
    said = {name.upper(): value for name, _, value in pairs}
    name = said.get("ACCOUNTNAME")
    suffix = said.get("ENDPOINTSUFFIX")
    endpoint = said.get("BLOBENDPOINT")
    if not endpoint and name:
        scheme = said.get("DEFAULTENDPOINTSPROTOCOL", "https") if suffix else "https"
        endpoint = f"{scheme}://{name}.blob.{suffix or 'core.windows.net'}"
    if not endpoint or not all(sign for _, sign, _ in pairs) or "?" in endpoint:
        return None
    provider = None
    if name and said.get("ACCOUNTKEY"):
        provider = always(access_key=said["ACCOUNTKEY"])
    elif said.get("SHAREDACCESSSIGNATURE"):
        provider = always(sas_token=said["SHAREDACCESSSIGNATURE"])
    # Without a key nothing is signed with the name.
    return _Account(name or "-", endpoint.rstrip("/"), provider)


_PROTOCOLS = (
    Protocol(("s3", "s3a"), _s3),
    Protocol(("http", "https"), _http),
    Protocol(("gs", "gcs"), _gs),
    Protocol(("abfs", "az", "abfss"), _az),
)
