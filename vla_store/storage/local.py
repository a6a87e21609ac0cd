"""A folder of this machine as storage: files are mapped, or read where they cannot be mapped.

Owns every access to a store's files. Imports errors, and what else is in storage.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

from vla_store.errors import MachineError, StoreDamaged, machine_error, warn
from vla_store.storage.base import ObjectMissing, Range, cut, too_short
from vla_store.storage.bounded import keep
from vla_store.storage.files import OpenFile, map_file

MAX_MAPS = 16_384  # Linux allows a process 65,530 by default
MAX_INDICES = 512
LEAST_FILES = 32


class LocalStorage:
    """A folder. Files are immutable once they have their names, so maps and open files are kept, each a bounded number.

    mapped: a range is a view of a map, which holds no file descriptor. Some file systems cannot be mapped, and a process may run
    out of addresses: from then on files are read, which is said once. False: files are read from the start, and at most a quarter
    of the file descriptors that the process may have are used; for network file systems and cold disks.
    """

    def __init__(self, url: str, *, mapped: bool = True) -> None:
        self.url = url
        self.mapped = mapped
        self._maps: dict[str, memoryview] = {}
        self._files: dict[str, OpenFile] = {}
        self._max_files = max(LEAST_FILES, _soft_file_limit() // 4)

    @property
    def max_open(self) -> int:
        return MAX_MAPS if self.mapped else MAX_INDICES

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
                    if not stat.S_ISREG(os.fstat(file.descriptor).st_mode):
                        raise
                    self.mapped = False
                    warn(
                        f"a file of the store cannot be mapped into memory ({error.strerror}), so files are read instead; "
                        'fetcher="pread" (--fetcher pread) does that without this warning'
                    )
                    return None
            keep(self._maps, key, view, MAX_MAPS)
        return view

    def head(self, key: str, nbytes: int) -> bytes:
        return bytes(self.read([(key, 0, min(nbytes, self.size(key)))])[0])

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        views = [self.whole(key) for key, _, _ in ranges]
        unmapped = [each for each, view in zip(ranges, views) if view is None]
        read = iter(self._pread(unmapped))
        return [
            next(read) if view is None else cut(view, key, start, stop)
            for (key, start, stop), view in zip(ranges, views)
        ]

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
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing("an object of the store is missing", object=key, store=self.url) from None
        except (MachineError, StoreDamaged):
            raise
        except OSError as error:
            raise machine_error(error, "reading the store", self._path(key)) from error


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
        raise too_short(key, stop, start)
    return b"".join(pieces)


def _soft_file_limit() -> int:
    try:
        import resource
    except ImportError:  # not on this system
        return 0
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft
