"""Reading with a cold page cache: what lies on the disk is read from the disk."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_MADV_DONTNEED = 4


def files_below(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def sync(paths: Iterable[Path]) -> None:
    """Only clean pages can be dropped."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def drop(paths: Iterable[Path]) -> None:
    """Takes these files out of the page cache, also where this process has mapped them; needs no rights. Linux only."""
    wanted = [str(path.resolve()) for path in paths]
    _unmap_pages(set(wanted))
    for path in wanted:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _unmap_pages(paths: set[str]) -> None:
    # Mapped pages are not dropped. After this they fault in again, so maps stay valid.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] in paths:
            start, stop = (int(each, 16) for each in parts[0].split("-"))
            if libc.madvise(start, stop - start, _MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")


def storage_nbytes(pid: int | None = None) -> int:
    """Bytes that this process (or another one of the same user) has made the system fetch from storage."""
    for line in Path(f"/proc/{pid or 'self'}/io").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "read_bytes":
            return int(value)
    raise OSError("no read_bytes in /proc")
