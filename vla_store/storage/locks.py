"""Locks on files and folders, which end with their holder. Imports nothing of this package."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
def locked(folder: Path, name: str = "", *, busy: Exception) -> Iterator[None]:
    """Hold the lock on a folder, made if need be, or on a file in it, until the context ends.

    Parameters
    ----------
    folder
        The folder; those above it are made as well.
    name
        Name of a file in the folder, made if need be; "" for the folder itself.
    busy
        The error to raise where another process holds the lock.

    Raises
    ------
    busy
        Where another process holds it. Where the file system has no locks, nobody can tell and it is not raised.
    OSError
        Where the folder or file cannot be made or opened.
    """
    path = folder / name
    flags = os.O_CLOEXEC | (os.O_CREAT | os.O_APPEND | os.O_WRONLY if name else os.O_RDONLY)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:  # who was there has just given the folder its final name
            continue
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            try:
                try_lock(descriptor)
            except BlockingIOError:
                raise busy from None
            is_there = False
            with contextlib.suppress(FileNotFoundError):
                is_there = os.path.samestat(os.fstat(descriptor), os.stat(path))
            if is_there:
                yield
                return


def holders(path: str | os.PathLike[str]) -> list[int]:
    """Return the processes that hold a lock on what lies at a path, as far as the system tells."""
    found: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(path)
        name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                fields = line.split()  # 1: FLOCK ADVISORY READ 1234 fe:00:5678 0 EOF; who waits has -> as the second
                if fields[1] == "FLOCK" and fields[5] == name:
                    found.add(int(fields[4]))
    return sorted(found)


def is_held(path: str | os.PathLike[str]) -> bool:
    """Return whether a process holds a lock on what lies at a path, on this machine or another that shares the file system."""
    if holders(path):
        return True
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def surely_locked(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold a lock on what lies at a path: alone, if that is free now, or shared, once it is. Yield False where there is none to be
    had: nothing is there, somebody holds it, or the file system has no locks."""
    held = False
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held
