"""Local files as the system has them: open as long as somebody uses them, and mapped whole. Imports nothing of this package."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np


def map_file(descriptor: int) -> memoryview:
    """Map a whole open file and return a read-only view. The map lives as long as any view of it, and needs the descriptor no longer.

    (Python's own mmap keeps a descriptor for each map before 3.13, and a store may have more objects than a process may open files.)
    """
    size = os.fstat(descriptor).st_size
    if not size:
        return memoryview(b"")
    if os.name != "posix":
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    owner: Any = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(owner, _libc().munmap, address, size).atexit = False
    return np.frombuffer(owner, np.uint8).data.toreadonly()


_LIBC: list[Any] = []


def _libc() -> Any:
    if not _LIBC:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        ]
        libc.munmap.restype = ctypes.c_int
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        _LIBC.append(libc)
    return _LIBC[0]


class OpenFile:
    """An open file that is closed with its last user: one thread may read what another one has just evicted."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
