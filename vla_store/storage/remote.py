"""What fsspec knows by a URL, as storage. The only module that imports fsspec, but for `paths`, which asks it for names.

Owns fsspec's peculiarities: instances shared between users, forks, listings that are kept, and what each error means. Imports
errors, and what else is in storage.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vla_store.errors import FetchError, MachineError, OptionError, StoreNotFound, VlaStoreError
from vla_store.storage.arrived import digest_of, is_told
from vla_store.storage.base import Contents, ObjectMissing, Range, Storage, missing, not_exclusive, too_short
from vla_store.storage.paths import is_url

NOT_PERMITTED = "check your credentials for it, and what they permit"
MERGE_GAP_BYTES = 16 << 10
MAX_THREADS = 16
LISTED_FROM = 8  # objects: from here on one listing is quicker than a question for each
MAX_SIZES = 1 << 20  # some hundred megabytes
CONFLICT_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class FsspecStorage(Storage):
    """Any URL of fsspec's, or a local path by its `file` filesystem.

    Ranges of one object that lie near each other are one request; all requests go at once. A put shows an object whole
    or not at all, and one that returned is durable.

    Parameters
    ----------
    url
        The URL, or an absolute path.
    **options
        What fsspec takes besides the URL.

    Raises
    ------
    OptionError
        For a URL that fsspec does not know, or one that needs another package.
    StoreNotFound
        Where there is no such place.
    FetchError
        Where fsspec cannot open it.
    """

    is_near = False

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self._options = options
        self._pid = -1
        self._sizes: dict[str, int] = {}  # of objects that never change
        self._known: set[str] = set()  # the prefixes of these
        self._connect()

    def know(self, contents: Contents) -> None:
        if not self.knows(contents.prefix) and len(self._sizes) + len(contents.sizes) <= MAX_SIZES:
            self._sizes.update(contents.sizes)
            self._known.add(contents.prefix)

    def knows(self, prefix: str) -> bool:
        # A file says its true size for nothing.
        return prefix in self._known or not _FREE.isdisjoint(_protocols(self._connect()))

    def size(self, key: str) -> int:
        known = self._sizes.get(key)
        return self._true_size(key) if known is None else known

    def _true_size(self, key: str) -> int:
        with self._asking(key) as fs:
            found = fs.size(self._path(key))
        if found is None:
            raise FetchError(
                "storage does not say how large an object is",
                object=key,
                store=self.url,
                hint="the server must answer HEAD with Content-Length, and byte ranges",
            )
        return int(found)

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        if len(keys) >= LISTED_FROM and "http" not in _protocols(self._connect()):  # which lists nothing
            found = self._listed(posixpath.commonpath(keys))
            return [found.get(self._path(key)) for key in keys]
        from concurrent.futures import ThreadPoolExecutor  # not for whoever imports only to read

        with ThreadPoolExecutor(MAX_THREADS) as threads:
            return [size for (size,) in threads.map(lambda key: Storage.sizes(self, [key]), keys)]

    def head(self, key: str, nbytes: int) -> bytes:
        try:
            return bytes(self._connect().cat_file(self._path(key), start=0, end=nbytes))
        except Exception as error:
            if _is_past_the_end(error) and self._true_size(key) == 0:
                return b""
            raise self._failure(error, key) from error

    def heads(self, keys: Sequence[str], nbytes: int) -> list[bytes | None]:
        if not keys:
            return []
        with self._asking(keys[0]) as fs:
            paths = [self._path(key) for key in keys]
            found = fs.cat_ranges(paths, [0] * len(keys), [nbytes] * len(keys), on_error="return")
        made: list[bytes | None] = []
        for key, data in zip(keys, found):
            if isinstance(data, BaseException):
                if _is_past_the_end(data) and self._true_size(key) == 0:
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
        paths = [self._path(key) for key, _, _ in merged]
        starts, stops = [start for _, start, _ in merged], [stop for _, _, stop in merged]
        with self._asking(merged[0][0]) as fs:
            found = fs.cat_ranges(paths, starts, stops, on_error="return")
        for (key, start, stop), data in zip(merged, found):
            if isinstance(data, BaseException) and not _is_past_the_end(data):
                raise self._failure(data, key) from data
            if isinstance(data, BaseException) or len(data) != stop - start:
                raise self._other_bytes(data, key, start, stop)
        views = [memoryview(data).toreadonly() for data in found]
        return [views[number][start:stop] for number, start, stop in spans]

    def get(self, key: str) -> bytes | None:
        try:
            with self._asking(key) as fs:
                return bytes(fs.cat_file(self._path(key)))
        except ObjectMissing:
            return None

    def keys(self, prefix: str = "") -> list[str]:
        try:
            with self._asking(prefix) as fs:
                fs.invalidate_cache()
                found = fs.find(self._path(prefix) if prefix else self._root)
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
        if "http" in _protocols(self._connect()):
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
        fs = _innermost(self._connect())
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
        if not _creates_itself(self._connect()):
            raise not_exclusive(self.url, f"{type(self._connect()).__name__} looks first and writes then")
        for wait_s in (*CONFLICT_WAITS_S, None):
            try:
                with self._asking(key, writing=True) as fs:
                    fs.pipe_file(self._path(key), data, mode="create")
                return True
            except FileExistsError:
                return False
            except FetchError as error:
                status = _status(error)
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
        # After a fork the event loop of fsspec's instances belongs to a thread that is not here.
        if self._pid != os.getpid():
            _forget_the_parents_loop()
            self._fs, self._root = filesystem_of(self.url, self._options)
            _CONNECTED[id(self._fs)] = self._fs
            # fsspec shares instances, and answers sizes from listings that somebody made before.
            self._fs.invalidate_cache()
            self._pid = os.getpid()
        return self._fs

    def _path(self, key: str) -> str:
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
                raise OptionError("this storage cannot be written to", store=self.url, found=_text(error)) from error
            if writing and isinstance(error, FileNotFoundError):
                raise OptionError(
                    "there is no bucket or folder to write to", store=self.url, found=_text(error), hint="make it first"
                ) from error
            raise self._failure(error, key) from error

    def _failure(self, error: BaseException, key: str) -> BaseException:
        cause = error.__cause__
        if isinstance(error, FileNotFoundError):
            # fsspec's http calls every failure to learn a size a missing file; what it was is the cause.
            if "http" not in _protocols(self._fs) or cause is None or _status(cause) in _GONE:
                return missing(key, self.url)
            error = cause
        if isinstance(error, PermissionError) or _status(error) in _REFUSED:
            return MachineError(
                "storage refuses access", object=key, store=self.url, found=_text(error), hint=NOT_PERMITTED
            )
        if not isinstance(error, Exception):
            return error
        return FetchError(
            "storage answered with an error" if _status(error) else "storage did not answer",
            object=key,
            store=self.url,
            found=_text(error),
            hint=_hint_for(error),
        )

    def _other_bytes(self, data: Any, key: str, start: int, stop: int) -> Exception:
        is_short = isinstance(data, BaseException) or len(data) < stop - start
        if is_short and (size := self._true_size(key)) < stop:
            return too_short(key, stop, size)
        return FetchError(
            "storage did not give the bytes that were asked for",
            object=key,
            store=self.url,
            expected=f"bytes {start} to {stop}",
            found=_text(data) if isinstance(data, BaseException) else f"{len(data)} bytes",
            hint="try again; then the network" if is_short else "the server must serve byte ranges",
        )


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


def filesystem_of(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return fsspec's filesystem of a URL, and the root in it. Raises OptionError, StoreNotFound, FetchError."""
    import fsspec

    try:
        if not is_url(url):
            return fsspec.filesystem("file", **options), url  # as it stands: fsspec would take `::` in it for a chain
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        protocol = url.partition("://")[0].rpartition("::")[2].lower()
        extra = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}.get(protocol)
        raise OptionError(
            f"this URL needs another package: {error}",
            store=url,
            hint=f'pip install "vla-store[{extra}]"' if extra else "install the package that is named above with pip",
        ) from error
    except ValueError as error:
        raise OptionError(
            f"fsspec does not know this URL: {error}",
            store=url,
            hint=f"check what stands before ://; if a local path is called so, write ./{url}",
        ) from error
    except FileNotFoundError as error:  # of a chain: what it would read from
        raise StoreNotFound("no store at this URL", store=url, found=error, hint="check the URL") from error
    except Exception as error:
        raise FetchError("fsspec cannot open this URL", store=url, found=_text(error), hint=_hint_for(error)) from error
    return fs, str(root).rstrip("/")


def _hint_for(error: BaseException) -> str:
    """Return what a user may do where storage failed like this."""
    return _WITHOUT_CREDENTIALS if "Credentials" in type(error).__name__ else "try again; then the network"


_WITHOUT_CREDENTIALS = (
    "give the storage's credentials (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile); a public bucket "
    "needs none: FSSPEC_S3_ANON=true in the environment, or storage_options={'anon': True}"
)

# Instances of fsspec's, kept for good. A forked process that freed one of its parent's would close the connections in it,
# and so take them out of the epoll that both processes share: the parent would wait for ever for its next answer.
_CONNECTED: dict[int, Any] = {}


def _forget_the_parents_loop() -> None:
    """Make fsspec start an event loop in a forked process: before 2025.5 it waits for ever for the parent's."""
    import fsspec.asyn

    thread = fsspec.asyn.iothread[0]
    if thread is not None and not thread.is_alive():
        fsspec.asyn.reset_lock()


_FREE = frozenset({"file", "local", "memory"})
_GONE = (404, 410)
_REFUSED = (401, 403)


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status that an error stands for, or one below it: of aiohttp's or botocore's."""
    while error is not None:
        response = getattr(error, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        status = getattr(error, "status", metadata.get("HTTPStatusCode"))
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _is_past_the_end(error: BaseException) -> bool:
    """Tell whether storage refused a range because the object ends before it begins."""
    return _status(error) == 416 or "not satisfiable" in str(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _creates_itself(fs: Any) -> bool:
    """Tell whether a filesystem of fsspec's has its own way to create an object. The inherited one looks whether there is one and
    then writes, and of two writers at once both would be told that they were first."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    fs = _innermost(fs)
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._pipe_file is not AsyncFileSystem._pipe_file
    return type(fs).pipe_file is not AbstractFileSystem.pipe_file


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = _innermost(fs).protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _innermost(fs: Any) -> Any:
    """Return the filesystem that caches and the like of fsspec's stand before."""
    from fsspec import AbstractFileSystem

    while isinstance(inner := getattr(fs, "fs", None), AbstractFileSystem):
        fs = inner
    return fs
