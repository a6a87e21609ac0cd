"""Locks on folders that are being written, which end with their holder. Imports nothing of this package."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def try_lock(descriptor: int) -> None:
    """Lock an open file for its one writer, where the file system has locks. Raises BlockingIOError where another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (
        OSError
    ):  # who else is there cannot be said: NFS, for one, takes no lock on what is open for reading only, as folders are
        pass


@contextlib.contextmanager
def locked(folder: Path, name: str = "") -> Iterator[None]:
    """Hold the lock on a folder, made if need be, or on a file in it. Raises BlockingIOError where another process holds it."""
    path = folder / name
    flags = os.O_CLOEXEC | (os.O_CREAT | os.O_APPEND | os.O_WRONLY if name else os.O_RDONLY)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:  # who was there has just given the folder its final name
            continue
        try:
            try_lock(descriptor)
            is_there = False
            with contextlib.suppress(FileNotFoundError):
                is_there = os.path.samestat(os.fstat(descriptor), os.stat(path))
            if is_there:
                yield
                return
        finally:
            os.close(descriptor)
