"""What fsspec knows by a URL, as storage: what is asked of it, how often, and what an error means. Imports what else is in storage."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vla_store.errors import FetchError, MachineError, OptionError, StoreDamaged, VlaStoreError
from vla_store.storage.arrived import digest_of, is_told
from vla_store.storage.base import Contents, ObjectMissing, Range, Storage, Traffic, missing, not_exclusive, too_short
from vla_store.storage.filesystems import (
    asked_at_once,
    connected,
    creates_itself,
    hint_for,
    innermost,
    is_past_the_end,
    protocols_of,
    text_of,
)
from vla_store.storage.retrying import WrongAnswer, is_refusal, is_temporary, retried, status_of

NOT_PERMITTED = "check your credentials for it, and what they permit"
MERGE_GAP_BYTES = 16 << 10
REQUEST_NBYTES = 8 << 20
MAX_THREADS = 16
LISTED_FROM = 8  # objects: from here on one listing is quicker than a question for each
MAX_SIZES = 1 << 20  # some hundred megabytes
CONFLICT_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_FREE = frozenset({"file", "local", "memory"})
_GONE = (404, 410)


class FsspecStorage(Storage):
    """Any URL of fsspec's, or a local path by its `file` filesystem.

    Ranges of one object that lie near each other are one request; all requests go at once. What fails temporarily (408, 429, 500, 502,
    503, 504, SlowDown, connections that break or stall, answers with other bytes than were asked for) is asked for again, each range
    by itself: up to 8 times with growing waits, and not after a minute. A request without progress for 10 seconds has failed, so
    that no call waits longer than 80 seconds, and one more for each 100 kB that it asks for at once. A put shows an object
    whole or not at all, and one that returned is durable.

    Parameters
    ----------
    url
        The URL, or an absolute path.
    **options
        What fsspec takes besides the URL.

    Notes
    -----
    `connect`, and else the first thing that is asked, raises OptionError for a URL that fsspec does not know, or one that needs
    another package; StoreNotFound where there is no such place; FetchError where fsspec cannot open it.
    """

    is_near = False

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self._options = options
        self._pid = -1
        self._sizes: dict[str, int] = {}  # of objects that never change
        self._known: set[str] = set()  # the prefixes of these
        self._has_answered = False
        self._traffic = Traffic()

    @property
    def fetcher(self) -> str:
        return "fsspec"

    def connect(self) -> None:
        self._connect()

    def _kinds(self) -> tuple[str, ...]:
        """Return the names of what is asked, innermost of a chain."""
        return protocols_of(self._connect())

    @property
    def traffic(self) -> Traffic:
        return dataclasses.replace(self._traffic)

    def know(self, contents: Contents) -> None:
        if contents.prefix not in self._known and len(self._sizes) + len(contents.sizes) <= MAX_SIZES:
            self._sizes.update(contents.sizes)
            self._known.add(contents.prefix)

    def knows(self, prefix: str) -> bool:
        # A file says its true size for nothing.
        return prefix in self._known or not _FREE.isdisjoint(self._kinds())

    def size(self, key: str) -> int:
        known = self._sizes.get(key)
        return self._true_size(key) if known is None else known

    def _true_size(self, key: str) -> int:
        with self._asking(key):
            found = self._persistent(lambda: self._ask_size(key))
        if found is None:
            raise FetchError(
                "storage does not say how large an object is",
                object=key,
                store=self.url,
                hint="the server must answer HEAD with Content-Length, and byte ranges",
            )
        return int(found)

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        if len(keys) >= LISTED_FROM and "http" not in self._kinds():  # which lists nothing
            found = self._listed(posixpath.commonpath(keys))
            return [found.get(self._path(key)) for key in keys]
        from concurrent.futures import ThreadPoolExecutor  # not for whoever imports only to read

        with ThreadPoolExecutor(MAX_THREADS) as threads:
            return [size for (size,) in threads.map(lambda key: Storage.sizes(self, [key]), keys)]

    def head(self, key: str, nbytes: int) -> bytes:
        (found,) = self.heads([key], nbytes)
        if found is None:
            raise missing(key, self.url)
        return found

    def heads(self, keys: Sequence[str], nbytes: int) -> list[bytes | None]:
        made: list[bytes | None] = []
        for key, data in zip(keys, self._fetch([(key, 0, nbytes) for key in keys], is_exact=False)):
            if isinstance(data, BaseException):
                if is_past_the_end(data) and self._true_size(key) == 0:
                    data = b""
                elif isinstance(error := self._failure(data, key), ObjectMissing):
                    data = None
                else:
                    raise error from data
            made.append(data if data is None else bytes(data))
        return made

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        if not ranges:
            return []
        merged, spans = merge_ranges(ranges, MERGE_GAP_BYTES)
        pieces = [piece for each in merged for piece in _pieces(*each)]
        found = self._fetch(pieces, is_exact=True)
        for (key, start, stop), data in zip(pieces, found):
            if isinstance(data, BaseException):
                if is_past_the_end(data) or isinstance(data, WrongAnswer):
                    raise self._other_bytes(data, key, start, stop) from data
                raise data if isinstance(data, StoreDamaged) else self._failure(data, key) from data
        if len(pieces) > len(merged):
            each_piece = iter(found)
            found = [
                b"".join(itertools.islice(each_piece, count)) if count > 1 else next(each_piece)
                for count in (len(_pieces(*each)) for each in merged)
            ]
        views = [memoryview(data).toreadonly() for data in found]
        return [views[number][start:stop] for number, start, stop in spans]

    def get(self, key: str) -> bytes | None:
        try:
            with self._asking(key) as fs:
                return bytes(self._persistent(lambda: fs.cat_file(self._path(key))))
        except ObjectMissing:
            return None

    def keys(self, prefix: str = "") -> list[str]:
        try:
            with self._asking(prefix) as fs:
                fs.invalidate_cache()
                found = self._persistent(lambda: fs.find(self._path(prefix) if prefix else self._root))
        except ObjectMissing:
            return []
        keys = (str(path).removeprefix(self._root).lstrip("/") for path in found)
        return sorted(
            key for key in keys if key and not key.endswith("/")
        )  # consoles of S3 put such markers for folders

    def _listed(self, prefix: str) -> dict[str, int]:
        """Return the bytes of all objects below a prefix, by the path that fsspec has for them."""
        try:
            with self._asking(prefix) as fs:
                fs.invalidate_cache()
                found = fs.find(self._path(prefix) if prefix else self._root, detail=True)
        except ObjectMissing:
            return {}
        return {str(path): int(info["size"]) for path, info in found.items() if info.get("size") is not None}

    def check_writable(self) -> None:
        # A server may take a PUT, but of two writers it tells none that the other was first.
        if "http" in self._kinds():
            raise OptionError(
                "a store at an HTTP URL is read-only",
                store=self.url,
                hint="give the place that the server shows: a folder there, or the URL of the bucket (s3://, gs://)",
            )

    def write(self, key: str, data: bytes) -> None:
        with self._asking(key, writing=True) as fs:
            fs.pipe_file(self._path(key), data)

    def _upload(self, path: str, key: str) -> None:
        # Not written to the URL as it comes: many of fsspec's storages show a file from its first byte on.
        with self._asking(key, writing=True) as fs:
            fs.put_file(path, self._path(key))
            info = fs.info(self._path(key))
        nbytes = os.path.getsize(path)
        found = f"{info.get('size')} bytes"
        if info.get("size") == nbytes:
            if is_told(info, path) or self.digest(key) == (nbytes, digest_of(path, "sha256")):
                return
            found = "other bytes"
        raise FetchError(
            "what arrived in storage is not what was sent",
            object=key,
            store=self.url,
            expected=f"{nbytes} bytes of a certain digest",
            found=found,
            hint="run the same command again; then the network",
        )

    def give_up_uploads(self, prefix: str = "") -> None:
        fs = innermost(self._connect())
        if not hasattr(fs, "call_s3"):  # others forget them by themselves
            return
        with self._asking(prefix, writing=True):
            bucket, key, _ = fs.split_path(self._path(prefix) if prefix else self._root)
            marker: dict[str, str] = {}
            while True:
                found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/", **marker)
                for each in found.get("Uploads") or ():
                    with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
                        fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
                if not found.get("IsTruncated"):
                    return
                marker = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}

    def create(self, key: str, data: bytes) -> bool:
        self.check_writable()
        if not creates_itself(self._connect()):
            raise not_exclusive(self.url, f"{type(self._connect()).__name__} looks first and writes then")
        for wait_s in (*CONFLICT_WAITS_S, None):
            try:
                with self._asking(key, writing=True) as fs:
                    fs.pipe_file(self._path(key), data, mode="create")
                return True
            except FileExistsError:
                return False
            except FetchError as error:
                status = status_of(error)
                if status == 412:  # storage that does not say which condition failed: there was only one
                    return False
                if status != 409 or wait_s is None:
                    raise
                # ConditionalRequestConflict: another writer's request for this object is under way, and nobody's has won yet.
                time.sleep(wait_s * (0.5 + os.urandom(1)[0] / 256))
        raise AssertionError("the last try has no wait")

    def remove(self, key: str) -> None:
        with self._asking(key, writing=True) as fs, contextlib.suppress(FileNotFoundError):
            fs.rm_file(self._path(key))

    def _connect(self) -> Any:
        if self._pid != os.getpid():
            self._fs, self._root = connected(self.url, self._options)
            self._pid = os.getpid()
        return self._fs

    def _fetch(self, ranges: Sequence[Range], is_exact: bool) -> list[Any]:
        """Return the bytes of each range, or what it failed with, however often it was asked for. is_exact: less or more is a failure."""

        def ask(wanted: list[int], before: int) -> list[Any]:
            asked = [ranges[at] for at in wanted]
            found = self._ask(asked, before)
            self._traffic.requests += len(asked)
            self._traffic.nbytes += sum(len(data) for data in found if not isinstance(data, BaseException))
            self._has_answered |= any(not isinstance(data, BaseException) for data in found)
            return [self._exactly(data, *each) if is_exact else data for data, each in zip(found, asked)]

        if not ranges:
            return []
        try:
            return self._retried(ask, len(ranges))
        except Exception as error:  # no range's, but of the connection to all
            raise error if isinstance(error, VlaStoreError) else self._failure(error, ranges[0][0]) from error

    def _persistent(self, ask: Callable[[], Any]) -> Any:
        """Return what one call gives, made again where it fails temporarily."""

        def once(wanted: list[int], before: int) -> list[Any]:
            self._traffic.requests += 1
            try:
                found = [ask()]
            except Exception as error:
                return [error]
            self._has_answered = True
            return found

        (found,) = self._retried(once, 1)
        if isinstance(found, BaseException):
            raise found
        return found

    def _retried(self, ask: Callable[[list[int], int], list[Any]], count: int) -> list[Any]:
        began = time.monotonic()
        found, retries = retried(ask, count, lambda error: is_temporary(error, self._has_answered))
        self._traffic.retries += retries
        self._traffic.waited_s += time.monotonic() - began
        return found

    def _ask_size(self, key: str) -> int | None:
        """Return the bytes of an object as storage says now, None where it does not."""
        found = self._connect().size(self._path(key))
        return None if found is None else int(found)

    def _ask(self, ranges: Sequence[Range], before: int) -> list[Any]:
        """Ask for ranges once, all at the same time; return the bytes of each, or what it failed with. before: tries that failed."""
        fs = self._connect()
        paths = [self._path(key) for key, _, _ in ranges]
        starts, stops = [start for _, start, _ in ranges], [stop for _, _, stop in ranges]
        if not fs.async_impl:
            found: list[Any] = fs.cat_ranges(paths, starts, stops, on_error="return")
        else:
            from fsspec.asyn import sync

            found = sync(fs.loop, asked_at_once, fs, paths, starts, stops)
        return found

    def _path(self, key: str) -> str:
        self._connect()
        return f"{self._root}/{key}"

    @contextlib.contextmanager
    def _asking(self, key: str, *, writing: bool = False) -> Iterator[Any]:
        """Yield fsspec's filesystem, and turn what it raises into our errors, but for FileExistsError."""
        if writing:
            self._sizes.pop(key, None)
            self.check_writable()
        try:
            yield self._connect()
        except (FileExistsError, VlaStoreError):
            raise
        except Exception as error:
            if writing and isinstance(error, (NotImplementedError, TypeError)):
                raise OptionError("this storage cannot be written to", store=self.url, found=text_of(error)) from error
            if writing and (isinstance(error, FileNotFoundError) or status_of(error) == 404):
                raise OptionError(
                    "there is no bucket or folder to write to",
                    store=self.url,
                    found=text_of(error),
                    hint="make it first",
                ) from error
            raise self._failure(error, key) from error

    def _failure(self, error: BaseException, key: str) -> BaseException:
        cause = error.__cause__
        if isinstance(error, FileNotFoundError):
            # fsspec's http calls every failure to learn a size a missing file; what it was is the cause.
            if "http" not in self._kinds() or cause is None or status_of(cause) in _GONE:
                return missing(key, self.url)
            error = cause
        if is_refusal(error):
            return MachineError(
                "storage refuses access", object=key or None, store=self.url, found=text_of(error), hint=NOT_PERMITTED
            )
        if not isinstance(error, Exception):
            return error
        return FetchError(
            "storage answered with an error" if status_of(error) else "storage did not answer",
            object=key or None,
            store=self.url,
            found=text_of(error),
            hint=hint_for(error),
        )

    def _exactly(self, data: Any, key: str, start: int, stop: int) -> Any:
        """Return the bytes of a range where that is what came, else an error."""
        is_short = isinstance(data, BaseException) and is_past_the_end(data)
        if not is_short and (isinstance(data, BaseException) or len(data) == stop - start):
            return data
        if is_short or len(data) < stop - start:
            with contextlib.suppress(Exception):
                if (size := self._ask_size(key)) is not None and size < stop:
                    return too_short(key, stop, size)
        return data if is_short else WrongAnswer(f"{len(data)} bytes", is_temporary=len(data) < stop - start)

    def _other_bytes(self, error: BaseException, key: str, start: int, stop: int) -> FetchError:
        is_lasting = isinstance(error, WrongAnswer) and not error.is_temporary
        return FetchError(
            "storage did not give the bytes that were asked for",
            object=key,
            store=self.url,
            expected=f"bytes {start} to {stop}",
            found=str(error) if isinstance(error, WrongAnswer) else text_of(error),
            hint="the server must serve byte ranges" if is_lasting else "try again; then the network",
        )


def _pieces(key: str, start: int, stop: int) -> list[Range]:
    """Cut a range into what one request asks for: a connection gives only so many bytes a second, and what fails comes again."""
    if stop - start <= REQUEST_NBYTES:
        return [(key, start, stop)]
    return [(key, at, min(at + REQUEST_NBYTES, stop)) for at in range(start, stop, REQUEST_NBYTES)]


def merge_ranges(ranges: Sequence[Range], gap_nbytes: int) -> tuple[list[Range], list[tuple[int, int, int]]]:
    """Return fewer ranges that cover these, and for each range asked for: the number of its merged range, and its start and stop in it.

    Ranges of one key that overlap, touch or lie at most `gap_nbytes` apart become one.
    """
    merged: list[Range] = []
    spans: list[tuple[int, int, int]] = [(0, 0, 0)] * len(ranges)
    for at in sorted(range(len(ranges)), key=ranges.__getitem__):
        key, start, stop = ranges[at]
        if merged and merged[-1][0] == key and start - merged[-1][2] <= gap_nbytes:
            merged[-1] = (key, merged[-1][1], max(merged[-1][2], stop))
        else:
            merged.append((key, start, stop))
        spans[at] = (len(merged) - 1, start - merged[-1][1], stop - merged[-1][1])
    return merged, spans
