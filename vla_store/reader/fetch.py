"""Bytes of a store's objects, from wherever it lies: the one seam between the reader and storage, and its three kinds.

    MmapFetcher     local files, mapped: a range is a view, nothing is copied; read, where they cannot be mapped
    PreadFetcher    local files, read: for network file systems and cold disks
    FsspecFetcher   any URL that fsspec knows: byte ranges, many at once

A fetcher belongs to one process: `Location` is what travels, and opens one where it arrives.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from vla_store.errors import (
    FetchError,
    MachineError,
    OptionError,
    StoreDamaged,
    StoreNotFound,
    UnknownName,
    machine_error,
    warn,
)
from vla_store.paths import is_url, place_of
from vla_store.reader.bounded import keep
from vla_store.reader.files import OpenFile, map_file

Range = tuple[str, int, int]  # key, start, stop

KINDS = ("mmap", "pread", "fsspec")
NOT_PERMITTED = "check your credentials for it, and what they permit"

MAX_MAPS = 16_384  # Linux allows a process 65,530 by default
LEAST_FILES = 32
MERGE_GAP_BYTES = 16 << 10
BLOCK_BYTES = 64 << 10
MAX_BLOCKS = 64


class ObjectMissing(StoreDamaged):
    """An object that should be there is not."""


class Fetcher(Protocol):
    """Reads byte ranges of the objects below one store. Keys are relative to the store."""

    max_open: int
    """How many objects a reader may keep open, as views or parsed indices, at one time."""

    def size(self, key: str) -> int:
        """Bytes of an object. Raises ObjectMissing, FetchError, MachineError."""

    def whole(self, key: str) -> memoryview | None:
        """All of an object as a view that costs nothing, to be kept and indexed at will; None where there is no such view, and
        what is needed is to be read in ranges. Errors as for `size`; where there is no view, `size` and `read` raise them."""

    def head(self, key: str, nbytes: int) -> bytes:
        """The first bytes of an object, all of them where it has fewer: one request. Errors as for `size`."""

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        """The bytes of each (key, start, stop), as read-only views in the order asked for.

        A view stays valid as long as it is held. Raises ObjectMissing, StoreDamaged where an object ends before `stop`,
        FetchError, MachineError.
        """


@dataclass(frozen=True)
class Location:
    """Where a store lies and how it is fetched; small, and pickles.

    url: an absolute path, or a URL. kind: one of KINDS. options: what fsspec gets besides the URL, as pairs.
    """

    url: str
    kind: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def is_local(self) -> bool:
        return not is_url(self.url)

    def after(self, fetcher: Fetcher | None) -> Location:
        """The same for another process: with what was found out of its files by a fetcher that it opened."""
        is_reading = isinstance(fetcher, MmapFetcher) and fetcher.is_reading
        return replace(self, kind="pread") if is_reading else self

    def open(self) -> Fetcher:
        if self.kind == "mmap":
            return MmapFetcher(self.url)
        if self.kind == "pread":
            return PreadFetcher(self.url)
        return FsspecFetcher(self.url, dict(self.options))


def locate(url: str | os.PathLike[str], fetcher: str | None, options: dict[str, Any] | None) -> Location:
    """The location that `open_store` was asked for. Raises OptionError, UnknownName."""
    place = place_of(url)
    remote = is_url(place)
    kind = fetcher or ("fsspec" if remote else "mmap")
    if kind not in KINDS:
        raise UnknownName.among("fetcher", fetcher, list(KINDS))
    if remote and kind != "fsspec":
        raise OptionError(f"fetcher={kind!r} reads local files only", store=place, hint="leave `fetcher` out for a URL")
    if options and kind != "fsspec":
        raise OptionError("storage_options are for URLs and fetcher='fsspec'", store=place, found=", ".join(options))
    return Location(place, kind, tuple(sorted((options or {}).items())))


class MmapFetcher:
    """Maps whole files, read-only, and keeps the maps; `read` gives slices of them. A map holds no file descriptor.

    Some storage cannot be mapped, and a process may run out of addresses: from then on files are read, which is said once.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.max_open = MAX_MAPS
        self._maps: dict[str, memoryview] = {}
        self._reading: PreadFetcher | None = None

    @property
    def is_reading(self) -> bool:
        """Whether a file could not be mapped."""
        return self._reading is not None

    def whole(self, key: str) -> memoryview | None:
        view = self._maps.get(key)
        if view is None and self._reading is None:
            with _naming(key, self._folder):
                file = OpenFile(os.path.join(self._folder, key))
                try:
                    view = map_file(file.descriptor)
                except OSError as error:
                    if not stat.S_ISREG(os.fstat(file.descriptor).st_mode):
                        raise
                    self._reading = PreadFetcher(self._folder)
                    self.max_open = self._reading.max_open
                    warn(
                        f"a file of the store cannot be mapped into memory ({error.strerror}), so files are read instead; "
                        'fetcher="pread" (--fetcher pread) does that without this warning'
                    )
                    return None
            keep(self._maps, key, view, MAX_MAPS)
        return view

    def size(self, key: str) -> int:
        view = self.whole(key)
        return len(view) if view is not None else self._reader().size(key)

    def head(self, key: str, nbytes: int) -> bytes:
        view = self.whole(key)
        return bytes(view[:nbytes]) if view is not None else self._reader().head(key, nbytes)

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        views = [self.whole(key) for key, _, _ in ranges]
        left = [each for each, view in zip(ranges, views) if view is None]
        read = iter(self._reader().read(left) if left else ())
        return [
            next(read) if view is None else _slice(view, key, start, stop)
            for (key, start, stop), view in zip(ranges, views)
        ]

    def _reader(self) -> PreadFetcher:
        assert self._reading is not None
        return self._reading


class PreadFetcher:
    """Reads ranges of files, which it keeps open: at most a quarter of the file descriptors that the process may have."""

    max_open = 512

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, OpenFile] = {}
        self._max_files = max(LEAST_FILES, _soft_file_limit() // 4)

    def whole(self, key: str) -> memoryview | None:
        return None

    def size(self, key: str) -> int:
        file = self._file(key)
        with _naming(key, self._folder):
            return os.fstat(file.descriptor).st_size

    def head(self, key: str, nbytes: int) -> bytes:
        return bytes(self.read([(key, 0, min(nbytes, self.size(key)))])[0])

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        if len(ranges) > 1 and hasattr(os, "posix_fadvise"):
            # Said for all ranges first, so that the disk sees them at once and not one after another.
            for key, start, stop in ranges:
                file = self._file(key)
                with contextlib.suppress(OSError):
                    os.posix_fadvise(file.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)
        made = []
        for key, start, stop in ranges:
            file = self._file(key)
            with _naming(key, self._folder):
                made.append(memoryview(_pread(file.descriptor, key, start, stop)))
        return made

    def _file(self, key: str) -> OpenFile:
        file = self._files.pop(key, None)
        if file is None:
            with _naming(key, self._folder):
                file = OpenFile(os.path.join(self._folder, key))
        keep(self._files, key, file, self._max_files)  # and so the one used last is the last to go
        return file


class FsspecFetcher:
    """Byte ranges over fsspec. Ranges of one object that lie near each other are one request; all requests go at once."""

    max_open = 512

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = options
        self._pid = -1
        self._connect()

    def whole(self, key: str) -> memoryview | None:
        return None

    def size(self, key: str) -> int:
        fs = self._connect()
        try:
            found = fs.size(self._path(key))
        except Exception as error:
            raise self._failure(error, key) from error
        if found is None:
            raise FetchError(
                "storage does not say how large an object is",
                object=key,
                store=self._url,
                hint="the server must answer HEAD with Content-Length, and byte ranges",
            )
        return int(found)

    def head(self, key: str, nbytes: int) -> bytes:
        try:
            return bytes(self._connect().cat_file(self._path(key), start=0, end=nbytes))
        except Exception as error:
            if _is_past_the_end(error) and self.size(key) == 0:
                return b""
            raise self._failure(error, key) from error

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        if not ranges:
            return []
        fs = self._connect()
        merged, places = merge_ranges(ranges, MERGE_GAP_BYTES)
        paths = [self._path(key) for key, _, _ in merged]
        starts, stops = [start for _, start, _ in merged], [stop for _, _, stop in merged]
        try:
            found = fs.cat_ranges(paths, starts, stops, on_error="return")
        except Exception as error:
            raise self._failure(error, merged[0][0]) from error
        for (key, start, stop), data in zip(merged, found):
            if isinstance(data, BaseException) and not _is_past_the_end(data):
                raise self._failure(data, key) from data
            if isinstance(data, BaseException) or len(data) != stop - start:
                raise self._other_bytes(data, key, start, stop)
        views = [memoryview(data).toreadonly() for data in found]
        return [views[number][start:stop] for number, start, stop in places]

    def _connect(self) -> Any:
        # After a fork the event loop of fsspec's instances belongs to a thread that is not here.
        if self._pid != os.getpid():
            _forget_the_parents_loop()
            self._fs, self._root = filesystem_of(self._url, self._options)
            _CONNECTED[id(self._fs)] = self._fs
            # fsspec shares instances, and answers sizes from listings that somebody made before.
            self._fs.invalidate_cache()
            self._pid = os.getpid()
        return self._fs

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _other_bytes(self, data: Any, key: str, start: int, stop: int) -> Exception:
        is_short = isinstance(data, BaseException) or len(data) < stop - start
        if is_short and (size := self.size(key)) < stop:
            return _too_short(key, stop, size)
        return FetchError(
            "storage did not give the bytes that were asked for",
            object=key,
            store=self._url,
            expected=f"bytes {start} to {stop}",
            found=_text(data) if isinstance(data, BaseException) else f"{len(data)} bytes",
            hint="try again; then the network" if is_short else "the server must serve byte ranges",
        )

    def _failure(self, error: BaseException, key: str) -> Exception | BaseException:
        cause = error.__cause__
        if isinstance(error, FileNotFoundError):
            # fsspec's http calls every failure to learn a size a missing file; what it was is the cause.
            if "http" not in self._fs.protocol or cause is None or _status(cause) in _GONE:
                return ObjectMissing("an object of the store is missing", object=key, store=self._url)
            error = cause
        if isinstance(error, PermissionError) or _status(error) in _REFUSED:
            return MachineError(
                "storage refuses access", object=key, store=self._url, found=_text(error), hint=NOT_PERMITTED
            )
        if not isinstance(error, Exception):
            return error
        return FetchError(
            "storage answered with an error" if _status(error) else "storage did not answer",
            object=key,
            store=self._url,
            found=_text(error),
            hint=hint_for(error),
        )


class Blocks:
    """A fetcher that reads another one, where that has no view of the whole, in aligned blocks and keeps the last of them: for
    tables of small rows."""

    def __init__(self, inner: Fetcher) -> None:
        self._inner = inner
        self.max_open = inner.max_open
        self._sizes: dict[str, int] = {}
        self._blocks: dict[tuple[str, int], memoryview] = {}

    def whole(self, key: str) -> memoryview | None:
        return self._inner.whole(key)

    def size(self, key: str) -> int:
        # Asked anew: who asks checks it once, and a wrong answer of a server is not to stay.
        size = self._inner.size(key)
        keep(self._sizes, key, size, self.max_open)
        return size

    def head(self, key: str, nbytes: int) -> bytes:
        return self._inner.head(key, nbytes)

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        wanted = {
            (key, number): None
            for key, start, stop in ranges
            for number in range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        }
        held = {place: self._blocks[place] for place in wanted if place in self._blocks}
        absent = [place for place in wanted if place not in held]
        bounds = [
            (key, number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, self._sizes.get(key) or self.size(key)))
            for key, number in absent
        ]
        for place, block in zip(absent, self._inner.read(bounds)):
            held[place] = block
            # Alone: blocks that were fetched in one request are views of all that it gave.
            is_alone = len(block.obj) == block.nbytes  # type: ignore[arg-type]
            keep(self._blocks, place, block if is_alone else memoryview(bytes(block)), MAX_BLOCKS)
        return [_from_blocks(held, key, start, stop) for key, start, stop in ranges]


def _from_blocks(blocks: dict[tuple[str, int], memoryview], key: str, start: int, stop: int) -> memoryview:
    numbers = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
    base = numbers.start * BLOCK_BYTES
    if len(numbers) == 1:
        return _slice(blocks[key, numbers.start], key, start - base, stop - base)
    return _slice(memoryview(b"".join(blocks[key, number] for number in numbers)), key, start - base, stop - base)


def read_document(fetcher: Fetcher, key: str, max_nbytes: int) -> bytes:
    """A whole small object, in one request. Raises StoreDamaged where it is larger than it may be."""
    data = fetcher.head(key, max_nbytes + 1)
    if len(data) > max_nbytes:
        raise StoreDamaged("a document is too large", object=key, expected=f"at most {max_nbytes} bytes")
    return data


def merge_ranges(ranges: Sequence[Range], gap_nbytes: int) -> tuple[list[Range], list[tuple[int, int, int]]]:
    """Fewer ranges that cover these: ranges of one key that overlap, touch or lie at most `gap_nbytes` apart become one.

    Returns them, and for each range asked for: the number of its merged range, and its start and stop within it.
    """
    merged: list[Range] = []
    places: list[tuple[int, int, int]] = [(0, 0, 0)] * len(ranges)
    for at in sorted(range(len(ranges)), key=ranges.__getitem__):
        key, start, stop = ranges[at]
        if merged and merged[-1][0] == key and start - merged[-1][2] <= gap_nbytes:
            merged[-1] = (key, merged[-1][1], max(merged[-1][2], stop))
        else:
            merged.append((key, start, stop))
        places[at] = (len(merged) - 1, start - merged[-1][1], stop - merged[-1][1])
    return merged, places


def _pread(descriptor: int, key: str, start: int, stop: int) -> bytes:
    data = os.pread(descriptor, stop - start, start)
    if len(data) == stop - start:
        return data
    pieces = [data]
    while data:  # one call reads at most 2 GiB, and a network file system may give less
        start += len(data)
        data = os.pread(descriptor, stop - start, start)
        pieces.append(data)
    if start < stop:
        raise _too_short(key, stop, start)
    return b"".join(pieces)


def _slice(view: memoryview, key: str, start: int, stop: int) -> memoryview:
    if stop > len(view):
        raise _too_short(key, stop, len(view))
    return view[start:stop]


def _too_short(key: str, expected: int, found: int) -> StoreDamaged:
    return StoreDamaged(
        "an object of the store is cut short",
        object=key,
        expected=f"at least {expected} bytes",
        found=f"{found}",
    )


@contextlib.contextmanager
def _naming(key: str, store: str) -> Any:
    """Turns the system's errors into ours, with the object's name."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectMissing("an object of the store is missing", object=key, store=store) from None
    except (MachineError, StoreDamaged):
        raise
    except OSError as error:
        raise machine_error(error, "reading the store", os.path.join(store, key)) from error


def filesystem_of(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """fsspec's filesystem of a place, and the place's root in it. Raises OptionError, StoreNotFound, FetchError."""
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
        raise FetchError("fsspec cannot open this URL", store=url, found=_text(error), hint=hint_for(error)) from error
    return fs, str(root).rstrip("/")


def hint_for(error: BaseException) -> str:
    """What to do where storage failed like this."""
    return _WITHOUT_CREDENTIALS if "Credentials" in type(error).__name__ else "try again; then the network"


_WITHOUT_CREDENTIALS = (
    "give the storage's credentials (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile); a public bucket "
    "needs none: FSSPEC_S3_ANON=true in the environment, or storage_options={'anon': True}"
)

# Instances of fsspec's, kept for good. A forked process that freed one of its parent's would close the connections in it,
# and so take them out of the epoll that both processes share: the parent would wait for ever for its next answer.
_CONNECTED: dict[int, Any] = {}


def _forget_the_parents_loop() -> None:
    """fsspec before 2025.5 starts no event loop of its own in a forked process, and waits for ever for the parent's."""
    import fsspec.asyn

    thread = fsspec.asyn.iothread[0]
    if thread is not None and not thread.is_alive():
        fsspec.asyn.reset_lock()


def _soft_file_limit() -> int:
    try:
        import resource
    except ImportError:  # not on this system
        return 0
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft


_GONE = (404, 410)
_REFUSED = (401, 403)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp stands for."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _is_past_the_end(error: BaseException) -> bool:
    """Whether storage refused a range because the object ends before it begins."""
    return _status(error) == 416 or "not satisfiable" in str(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
