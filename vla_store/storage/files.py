"""Local files as the system has them: open as long as somebody uses them, and mapped whole. Imports nothing of this package."""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE
from typing import Any

import numpy as np


def map_file(descriptor: int, *, writable: bool = False) -> memoryview:
    """Map a whole open file and return a view, read-only unless asked otherwise. The map lives as long as any view of it, and needs the descriptor no longer.

    (Python's own mmap keeps a descriptor for each map before 3.13, and a store may have more objects than a process may open files.)
    """
    size = os.fstat(descriptor).st_size
    if not size:
        return memoryview(b"")
    address = libc().mmap(None, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    owner: Any = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(owner, libc().munmap, address, size).atexit = False
    view = np.frombuffer(owner, np.uint8).data
    return view if writable else view.toreadonly()


@functools.cache
def libc() -> Any:
    """Return the C library, with the types of what this package calls in it."""
    found, pointer, size, number = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    found.mmap.restype = pointer
    found.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    found.munmap.argtypes = [pointer, size]
    found.madvise.argtypes = [pointer, size, number]
    if hasattr(found, "fallocate"):  # Linux
        found.fallocate.argtypes = [number, number, ctypes.c_long, ctypes.c_long]
    return found


class OpenFile:
    """An open file that is closed with its last user: one thread may read what another one has just evicted."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
