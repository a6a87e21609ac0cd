"""What obstore reads, as storage: the same objects, errors and options as by fsspec, for a third of the CPU a request.

Optional (`pip install "vla-store[obstore]"`), and chosen by itself where it is installed and can do what is asked; everything else,
writing among it, is fsspec's. What is asked for by which URL and options: `clouds`. Imports what else is in storage.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from vla_store.errors import OptionError
from vla_store.storage.base import Range
from vla_store.storage.clouds import Opened, found_by, protocol_of
from vla_store.storage.credentials import Unable
from vla_store.storage.remote import FsspecStorage
from vla_store.storage.retrying import WrongAnswer, within

AT_ONCE = 10  # ranges of one object that obstore asks for at one time

# The process that uses obstore's threads. They are not in one that was forked from it.
_users: list[int] = []


class ObstoreStorage(FsspecStorage):
    """Any URL of s3, gs, az, http and https, read by obstore. Chained URLs, and options that are fsspec's alone, are not for it.

    Parameters
    ----------
    url
        The URL.
    **options
        As s3fs, gcsfs, adlfs or fsspec's http takes them. s3: key, secret, token, anon, endpoint_url, client_kwargs with endpoint_url
        and region_name. gs: token, project, access, endpoint_url. az: account_name, account_key, sas_token, connection_string, anon,
        tenant_id, client_id, client_secret, account_host. http: headers, client_kwargs with headers.

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
    def _made(self) -> Opened | None:
        return found_by(self.url, self._options)

    def _kinds(self) -> tuple[str, ...]:
        protocol = protocol_of(self.url)
        return protocol.names if protocol else super()._kinds()

    def _ask(self, ranges: Sequence[Range], before: int) -> list[Any]:
        if not self._is_ours():
            return super()._ask(ranges, before)
        from fsspec.asyn import get_loop, sync

        if self._store is None:
            if not _users:
                _users.append(os.getpid())
            assert self._made is not None
            try:
                self._store = self._made()
            except Unable:
                self._is_able = False
                return super()._ask(ranges, before)
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
    if protocol_of(url) is None:
        return FsspecStorage(url, **options)
    storage = ObstoreStorage(url, **options)
    storage.is_asked_for = False
    return storage


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


class Answered(Exception):
    """Storage answered with a status that is no success."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


_KINDS: tuple[tuple[str, Callable[[str], Exception]], ...] = (
    (r"Requested \d+\.\.\d+, got", WrongAnswer),
    (r"kind: (Timeout|TimedOut)|timed out", TimeoutError),
    (r"kind: Connect\b|ConnectError|dns error", functools.partial(ConnectionRefusedError, errno.ECONNREFUSED)),
    (r"HTTP error", ConnectionError),
)


def _in_common_words(error: BaseException) -> BaseException:
    """Return an error of obstore's as one whose meaning `retrying` and FsspecStorage know."""
    if isinstance(error, (WrongAnswer, TimeoutError)):
        return error
    name, text = type(error).__name__, str(error)
    said = text.partition("\n")[0].partition(": <?xml")[0]
    said = re.sub(r"Error performing (\w+) \S+ in \S+ - ", r"\1: ", said)[:300]  # the URL is what was asked for
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(said)
    if "credential provider: ConnectionError:" in said:
        return ConnectionError(said)
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(said)
    if status := re.search(r"status code: (\d{3})", text):
        return Answered(int(status[1]), said)
    if re.search(r"Range request not supported|Header missing from response", text):
        return Unable(said)
    return next((kind(said) for pattern, kind in _KINDS if re.search(pattern, text)), error)
