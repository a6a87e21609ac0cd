"""A folder of this machine as storage.

Owns every access to a store's files: maps and reads, and the one way in which a file comes to be (written under a temporary name,
flushed to the disk, and given its name). Imports errors, and what else is in storage.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import posixpath
import re
import resource
import stat
from collections.abc import Collection, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from vla_store.errors import machine_errors, warn
from vla_store.storage.base import MAX_INDICES, ObjectMissing, Range, Storage, cut, missing, not_exclusive, too_short
from vla_store.storage.bounded import keep
from vla_store.storage.files import OpenFile, map_file
from vla_store.storage.locks import surely_locked, try_lock

if TYPE_CHECKING:
    from pathlib import Path

MAX_MAPS = 16_384  # Linux allows a process 65,530 by default
LEAST_FILES = 32
BUFFER_NBYTES = 1 << 20
TEMPORARY = ".tmp"
_OWN_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp|probe-[0-9a-f]{32}\.tmp")
_WITHOUT_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


class LocalStorage(Storage):
    """A folder. Files that have their names do not change, so maps and open files are kept, each a bounded number.

    Parameters
    ----------
    url
        The folder's path.
    mapped
        A range is a view of a map, which holds no file descriptor. Some file systems cannot be mapped, and a process may run out
        of addresses: from then on files are read, which is said once. False: files are read from the start, and at most a quarter
        of the file descriptors that the process may have are used; for network file systems, cold disks, and whoever writes.
    """

    def __init__(self, url: str | os.PathLike[str], *, mapped: bool = True) -> None:
        self.url = os.fspath(url)
        self.mapped = mapped
        self.max_open = MAX_MAPS if mapped else MAX_INDICES
        self._maps: dict[str, memoryview] = {}
        self._files: dict[str, OpenFile] = {}
        self._max_files = max(LEAST_FILES, _soft_file_limit() // 4)
        self._unsettled: set[Path] = set()

    @property
    def fetcher(self) -> str:
        return "mmap" if self.mapped else "pread"

    @functools.cached_property
    def folder(self) -> Path:
        from pathlib import Path  # not for whoever imports only to read: it costs milliseconds

        return Path(self.url)

    def size(self, key: str) -> int:
        with self._naming(key):
            return os.stat(self._path(key)).st_size

    def whole(self, key: str) -> memoryview | None:
        view = self._maps.get(key)
        if view is None and self.mapped:
            with self._naming(key):
                file = OpenFile(self._path(key))
                try:
                    view = map_file(file.descriptor)
                except OSError as error:
                    if stat.S_ISDIR(os.fstat(file.descriptor).st_mode):
                        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
                    self.mapped, self.max_open = False, MAX_INDICES
                    warn(
                        f"a file of the store cannot be mapped into memory ({error.strerror}), so files are read instead; "
                        'fetcher="pread" (--fetcher pread) does that without this warning'
                    )
                    return None
            keep(self._maps, key, view, MAX_MAPS)
        return view

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        views = [self.whole(key) for key, _, _ in ranges]
        unmapped = [each for each, view in zip(ranges, views) if view is None]
        read = iter(self._pread(unmapped))
        return [
            next(read) if view is None else cut(view, key, start, stop)
            for (key, start, stop), view in zip(ranges, views)
        ]

    def get(self, key: str) -> bytes | None:
        try:
            with self._naming(key), open(self._path(key), "rb") as file:
                return file.read()
        except ObjectMissing:
            return None

    def keys(self, prefix: str = "") -> list[str]:
        found = (os.path.join(folder, name) for folder, _, names in os.walk(self._path(prefix)) for name in names)
        return sorted(os.path.relpath(path, self.url).replace(os.sep, "/") for path in found)

    def write(self, key: str, data: bytes) -> None:
        with self.stream(key) as file:
            file.write(data)

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[IO[bytes]]:
        with self._temporary(key) as (file, temporary):
            yield file
            _flush(file)
            os.replace(temporary, self.folder / key)

    @contextlib.contextmanager
    def place(self, key: str) -> Iterator[Path]:
        """Yield the path of an empty file, for a library that writes to a path, and give it its name when the block ends. The library
        may not put another file there."""
        with self._temporary(key) as (file, temporary):
            yield temporary
            _flush(file)
            os.replace(temporary, self.folder / key)

    def create(self, key: str, data: bytes) -> bool:
        with self._temporary(key) as (file, temporary):
            file.write(data)
            _flush(file)
            if not self._link(temporary, key):
                return False
        self.settle()
        return True

    def check_exclusive(self, key: str) -> None:
        # By a name of its own: where there are no hard links, one that is there looks as if there were. It is of a temporary file
        # that is locked, so no other writer sweeps it; were this process killed here, the next one would.
        probe = f"{posixpath.dirname(key)}/probe-{os.urandom(16).hex()}{TEMPORARY}"
        with self._temporary(probe) as (_, temporary):
            try:
                if not self._link(temporary, probe) or self._link(temporary, probe):
                    raise not_exclusive(self.url, "it replaces an object that it was told only to create")
            finally:
                with contextlib.suppress(OSError):
                    self.remove(probe)

    def remove(self, key: str) -> None:
        self._forget(key)
        (self.folder / key).unlink(missing_ok=True)

    def adopt(self, folder: Path, key: str) -> bool:
        target = self.folder / key
        self._make_folder(target.parent)
        try:
            os.rename(folder, target)
        except OSError:  # another disk, or the place is taken
            return False
        self._unsettled.add(target.parent)
        return True

    def settle(self) -> None:
        for folder in sorted(self._unsettled):
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)
        self._unsettled.clear()

    def sweep(self, *, held: bool = False) -> None:
        """Remove half-written objects of writers that are no more. held: of all writers, and whatever is called temporary."""
        # Else only what is called as `_temporary` calls its files: of stores that were merged where they lie, this is the folder
        # above them, where anything may lie.
        for key in self.keys():
            if held and key.endswith(TEMPORARY):
                self.remove(key)
            elif _OWN_TEMPORARY.fullmatch(posixpath.basename(key)):
                with contextlib.suppress(OSError), surely_locked(self.folder / key) as is_abandoned:
                    if is_abandoned:
                        self.remove(key)

    def proposing(self) -> contextlib.AbstractContextManager[Any]:
        return surely_locked(self.folder / "roots", shared=True)

    def alone(self) -> contextlib.AbstractContextManager[bool]:
        return surely_locked(self.folder / "roots")

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[IO[bytes], Path]]:
        """Yield a file of its own for each of two writers that may be at the same object at once; gone when the context ends."""
        path = self.folder / key
        self._make_folder(path.parent)
        while True:
            temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}{TEMPORARY}")
            file = None
            try:  # before there is a file: Ctrl-C comes at any moment
                file = open(temporary, "xb", buffering=BUFFER_NBYTES)  # noqa: SIM115
                if _is_held(file, temporary):
                    yield file, temporary
                    return
            finally:  # on a full disk every byte counts
                temporary.unlink(missing_ok=True)
                if file is not None:
                    with contextlib.suppress(OSError):  # what is buffered may not fit on the disk either
                        file.close()
                self._forget(key)

    def _link(self, temporary: Path, key: str) -> bool:
        """Give a temporary file a name if nothing has it; return whether it was given. Raises OptionError."""
        try:
            os.link(temporary, self.folder / key)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            raise not_exclusive(self.url, f"no hard links: {error.strerror}") from None
        return True

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._unsettled:
            folder.mkdir(parents=True, exist_ok=True)
            # A new folder's own name lies in the one above it.
            self._unsettled.update(each for each in (folder, *folder.parents) if each.is_relative_to(self.folder))
            self._unsettled.add(self.folder.parent)

    def _forget(self, key: str) -> None:
        self._maps.pop(key, None)
        self._files.pop(key, None)

    def _pread(self, ranges: Sequence[Range]) -> list[memoryview]:
        if len(ranges) > 1 and hasattr(os, "posix_fadvise"):
            # All ranges are announced first, so that the disk sees them at once and not one after another.
            for key, start, stop in ranges:
                file = self._file(key)
                with contextlib.suppress(OSError):
                    os.posix_fadvise(file.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)
        found = []
        for key, start, stop in ranges:
            file = self._file(key)
            with self._naming(key):
                found.append(memoryview(_pread(file.descriptor, key, start, stop)))
        return found

    def _file(self, key: str) -> OpenFile:
        file = self._files.pop(key, None)
        if file is None:
            with self._naming(key):
                file = OpenFile(self._path(key))
        keep(self._files, key, file, self._max_files)  # and so the one used last is the last to go
        return file

    def _path(self, key: str) -> str:
        return os.path.join(self.url, key)

    @contextlib.contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Turn the system's errors into ours, with the object's name."""
        with machine_errors("reading the store", self._path(key)):
            try:
                yield
            except (FileNotFoundError, NotADirectoryError):
                raise missing(key, self.url) from None


def holds_only(folder: Path, names: Collection[str]) -> bool:
    """Tell whether there is a folder, and no link to one, that has no other names in it, but for temporary ones.

    Parameters
    ----------
    folder
        The path to ask about.
    names
        Names that may be in it.

    Returns
    -------
    bool

    Raises
    ------
    OSError
        Where the folder cannot be listed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(name in names or name.endswith(TEMPORARY) for name in os.listdir(folder))


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder as durable as the files they name.

    Parameters
    ----------
    path
        The folder.

    Raises
    ------
    OSError
        Where it cannot be opened or synchronised.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_held(file: IO[bytes], path: Path) -> bool:
    """Lock a new file, which ends with its writer, however that ends; return False where it was swept before."""
    with contextlib.suppress(BlockingIOError):
        try_lock(file.fileno())
        return path.exists()
    return False


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


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
        raise too_short(key, stop, os.fstat(descriptor).st_size)
    return b"".join(pieces)


def _soft_file_limit() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
