"""What obstore reads, as storage: the same objects, errors and options as by fsspec, for a third of the CPU a request.

Optional (`pip install "vla-store[obstore]"`), and chosen by itself where it is installed and can do what is asked; everything else,
writing among it, is fsspec's. The only module that imports obstore. Imports what else is in storage.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vla_store.errors import OptionError
from vla_store.storage.base import Range
from vla_store.storage.remote import FsspecStorage
from vla_store.storage.retrying import STALL_S, WrongAnswer, within

OLDEST = (0, 12)
AT_ONCE = 10  # ranges of one object that obstore asks for at one time
_WHOLE_S = 3600  # what makes progress may take long
_S3_OPTIONS = frozenset({"anon", "client_kwargs", "endpoint_url", "key", "secret", "token"})
_S3_CLIENT = frozenset({"endpoint_url", "region_name"})
_HTTP_OPTIONS = frozenset({"client_kwargs", "headers"})

# The process that uses obstore's threads. They are not in one that was forked from it.
_users: list[int] = []


class ObstoreStorage(FsspecStorage):
    """Any URL of s3, http and https, read by obstore. Chained URLs, and options that are fsspec's alone, are not for it.

    Parameters
    ----------
    url
        The URL.
    **options
        As s3fs or fsspec's http takes them: key, secret, token, anon, endpoint_url, client_kwargs with endpoint_url and region_name;
        headers, client_kwargs with headers.

    Notes
    -----
    `connect` raises OptionError where obstore is not installed, or cannot express the URL or the options.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.is_asked_for = True  # by the user; else what it cannot do is fsspec's
        self._store: Any = None
        self._is_able = True  # until this server is seen to answer in a way that obstore does not take

    @property
    def fetcher(self) -> str:
        return "obstore" if self._is_ours() else "fsspec"

    def connect(self) -> None:
        if self._made is not None:
            return  # fsspec is asked only by who writes or lists
        if self.is_asked_for:
            raise OptionError(
                "obstore cannot read this URL with these options",
                store=self.url,
                found=", ".join(sorted(self._options)) or None,
                hint="leave `fetcher` out: fsspec reads it",
            )
        super().connect()

    @functools.cached_property
    def _made(self) -> Callable[[], Any] | None:
        return found_by(self.url, self._options)

    def _kinds(self) -> tuple[str, ...]:
        if not _may(self.url):
            return super()._kinds()
        protocol = self.url.partition("://")[0].lower()
        return ("http", "https") if protocol.startswith("http") else ("s3", "s3a")

    def _ask(self, ranges: Sequence[Range], before: int) -> list[Any]:
        if not self._is_ours():
            return super()._ask(ranges, before)
        from fsspec.asyn import get_loop, sync

        if self._store is None:
            if not _users:
                _users.append(os.getpid())
            assert self._made is not None
            self._store = self._made()
        # Of ranges that are asked for together, all fail with one: the next time each is asked for by itself.
        found: list[Any] = sync(get_loop(), _asked_at_once, self._store, ranges, 1 if before else AT_ONCE)
        if any(isinstance(each, Unable) for each in found):
            self._is_able = False
            return super()._ask(ranges, before)
        return found

    def _is_ours(self) -> bool:
        return self._is_able and self._made is not None and (not _users or _users[0] == os.getpid())


def open_remote(url: str, **options: Any) -> FsspecStorage:
    """Open a URL by what reads it best: obstore where it can, which is found out when it is first asked, else fsspec."""
    if not _may(url):
        return FsspecStorage(url, **options)
    storage = ObstoreStorage(url, **options)
    storage.is_asked_for = False
    return storage


def found_by(url: str, options: Mapping[str, Any]) -> Callable[[], Any] | None:
    """Return what opens a store of obstore's for a URL and these options of fsspec's; None where it cannot do the same as fsspec."""
    if not _may(url) or not _is_installed():
        return None
    from fsspec.config import conf

    protocol = url.partition("://")[0].lower()
    return _PROTOCOLS[protocol](url, {**conf.get(protocol, {}), **options})


def _may(url: str) -> bool:
    """Tell whether obstore may read a URL, as far as that is known without importing anything."""
    is_chained = "::" in url
    return (
        not is_chained and url.partition("://")[0].lower() in _PROTOCOLS and bool(importlib.util.find_spec("obstore"))
    )


@functools.cache
def _is_installed() -> bool:
    """Tell whether obstore is there, and one that gives up an answer that stalls."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = re.match(r"(\d+)\.(\d+)", version("obstore"))
    except PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) >= OLDEST


def _http(url: str, options: dict[str, Any]) -> Callable[[], Any] | None:
    client = dict(options.get("client_kwargs") or {})
    headers = {**(client.pop("headers", None) or {}), **(options.get("headers") or {})}
    parts = urllib.parse.urlsplit(url)
    if client or not options.keys() <= _HTTP_OPTIONS or parts.query or parts.fragment or "@" in parts.netloc:
        return None

    def opened() -> Any:
        from obstore.store import HTTPStore

        return HTTPStore(url.rstrip("/"), client_options=_client_options(headers), retry_config=_ONCE)

    return opened


def _s3(url: str, options: dict[str, Any]) -> Callable[[], Any] | None:
    client = dict(options.get("client_kwargs") or {})
    if not options.keys() <= _S3_OPTIONS or not client.keys() <= _S3_CLIENT:
        return None
    bucket, _, prefix = url.partition("://")[2].partition("/")
    endpoint = client.get("endpoint_url") or options.get("endpoint_url")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    given: dict[str, Any] = {}
    provider = None
    if options.get("anon"):
        given["skip_signature"] = True
    elif (keys := _keys(options)) is not None:
        names = ("access_key_id", "secret_access_key", "session_token")
        given.update({name: value for name, value in zip(names, keys) if value})
    elif (provider := _provider()) is None:
        return None  # fsspec says what is missing
    region = client.get("region_name") or os.environ.get("AWS_DEFAULT_REGION") or _configured("region")
    if not (region or endpoint):
        return None  # s3fs asks S3 where a bucket is
    given["region"] = region or "us-east-1"
    if endpoint:
        given["endpoint"] = endpoint

    def opened() -> Any:
        from obstore.store import S3Store

        return S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            client_options=_client_options({}),
            retry_config=_ONCE,
            credential_provider=provider,
            **given,
        )

    return opened


_PROTOCOLS: dict[str, Callable[[str, dict[str, Any]], Callable[[], Any] | None]] = {
    "s3": _s3,
    "s3a": _s3,
    "http": _http,
    "https": _http,
}


def _keys(options: Mapping[str, Any]) -> tuple[Any, Any, Any] | None:
    if options.get("key") and options.get("secret"):
        return options["key"], options["secret"], options.get("token")
    if options.get("key") or options.get("secret") or options.get("token"):
        return None
    found = tuple(os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    return found if found[0] and found[1] else None  # type: ignore[return-value]


def _provider() -> Callable[[], Any] | None:
    """Return what gives the credentials that s3fs would find, in files, by a role, or from the machine; None where there are none."""
    session = _session()
    credentials = session.get_credentials() if session else None
    if credentials is None:
        return None

    def provide() -> dict[str, Any]:
        import datetime

        frozen = credentials.get_frozen_credentials()  # and fresh
        soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": soon,
        }

    return provide


def _configured(name: str) -> Any:
    session = _session()
    return session.get_config_variable(name) if session else None


def _session() -> Any:
    if not importlib.util.find_spec("botocore"):
        return None
    import botocore.session

    return botocore.session.Session()


_ONCE = {"max_retries": 0}  # `retrying` asks again, and counts


def _client_options(headers: Mapping[str, str]) -> dict[str, Any]:
    patience = f"{STALL_S:.0f}s"
    options: dict[str, Any] = {"allow_http": True, "connect_timeout": patience, "read_timeout": patience}
    return options | {"timeout": f"{_WHOLE_S}s"} | ({"default_headers": dict(headers)} if headers else {})


async def _asked_at_once(store: Any, ranges: Sequence[Range], together: int) -> list[Any]:
    by_key: dict[str, list[int]] = {}
    for at, (key, _, _) in enumerate(ranges):
        by_key.setdefault(key, []).append(at)
    groups = [each[start : start + together] for each in by_key.values() for start in range(0, len(each), together)]
    most = max(stop - start for _, start, stop in ranges)
    answers = await within([_asked_of_one(store, [ranges[at] for at in group]) for group in groups], most)
    found: list[Any] = [None] * len(ranges)
    for group, answer in zip(groups, answers):
        if isinstance(answer, BaseException):
            # Of several it is not known which failed so, and whether it lasts.
            error = _in_common_words(answer)
            answer = [error if len(group) == 1 or isinstance(error, Unable) else WrongAnswer(str(error))] * len(group)
        for at, each in zip(group, answer):
            found[at] = each
    return found


async def _asked_of_one(store: Any, ranges: list[Range]) -> list[Any]:
    import obstore

    key, starts, stops = ranges[0][0], [start for _, start, _ in ranges], [stop for _, _, stop in ranges]
    if starts == [0]:  # as of documents, which may end before: then only the answer says whether it is all of it
        answer = await obstore.get_async(store, key, options={"range": (0, stops[0])})
        data = await answer.bytes_async()
        first, end = answer.range
        if first != 0 or end != len(data):
            raise WrongAnswer(f"{len(data)} bytes of a range from {first} to {end}")
        return [data]
    if len(ranges) == 1:
        return [await obstore.get_range_async(store, key, start=starts[0], end=stops[0])]
    # Those that are near each other are one already.
    return list(await obstore.get_ranges_async(store, key, starts=starts, ends=stops, coalesce=0))


class Unable(Exception):
    """What obstore does not take of a server, and fsspec may."""


class Answered(Exception):
    """Storage answered with a status that is no success."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


_KINDS: tuple[tuple[str, Callable[[str], Exception]], ...] = (
    (r"Requested \d+\.\.\d+, got", WrongAnswer),
    (r"kind: (Timeout|TimedOut)|timed out", TimeoutError),
    (r"kind: Connect\b|ConnectError|dns error", ConnectionRefusedError),
    (r"HTTP error", ConnectionError),
)


def _in_common_words(error: BaseException) -> BaseException:
    """Return an error of obstore's as one whose meaning `retrying` and FsspecStorage know."""
    if isinstance(error, (WrongAnswer, TimeoutError)):
        return error
    name, text = type(error).__name__, str(error)
    said = text.partition("\n")[0].partition(": <?xml")[0][:300]
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(said)
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(said)
    if status := re.search(r"status code: (\d{3})", text):
        return Answered(int(status[1]), said)
    if re.search(r"Range request not supported|Content-Length Header missing", text):
        return Unable(said)
    return next((kind(said) for pattern, kind in _KINDS if re.search(pattern, text)), error)
