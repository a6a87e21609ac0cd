"""A folder of this process for what is fetched from afar and not kept: in memory where there is room, and gone with its owner.

Its owner holds a lock on it. Who starts later removes folders whose owners are gone. Imports storage's locks and errors.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from vla_store.storage import surely_locked
from vla_store.storage.locks import try_lock

PREFIX = "vla_store-ahead-"
IN_MEMORY = "/dev/shm"
LEAST_FREE_NBYTES = 1 << 30


class Scratch:
    """The folder, made anew; those of owners that are gone are removed. `path` is None where none could be made."""

    def __init__(self) -> None:
        self.path: str | None = None
        self._pid = os.getpid()
        self._lock = -1
        for place in _places():
            _sweep(place)
            with contextlib.suppress(OSError):
                self.path, self._lock = _made_in(place)
                return

    def remove(self) -> None:
        """Remove the folder. In a forked copy of the owner, leave it alone."""
        if self.path is not None and os.getpid() == self._pid:
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder, once nobody uses it any more."""
        self.remove()
        self.path = None
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)  # a copy of it in a forked process holds the lock, but on a folder that is gone


def remove_orphan(path: Path, patience_s: float = 0.0) -> None:
    """Remove such a folder if its owner is gone, or goes in a moment."""
    deadline = time.monotonic() + patience_s
    while path.exists():
        with surely_locked(path) as is_orphan:
            if is_orphan:
                shutil.rmtree(path, ignore_errors=True)
                return
        if time.monotonic() >= deadline:
            return
        time.sleep(0.02)


def _places() -> list[str]:
    """Return where such folders may lie, the best first."""
    found = []
    with contextlib.suppress(OSError):
        free = os.statvfs(IN_MEMORY)
        if free.f_bavail * free.f_frsize >= LEAST_FREE_NBYTES:
            found.append(IN_MEMORY)
    with contextlib.suppress(OSError):  # no folder there can be written to
        found.append(tempfile.gettempdir())
    return found


def _made_in(place: str) -> tuple[str, int]:
    """Return a new folder, and a descriptor that holds its lock. Raises OSError."""
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # another process has just taken it for an orphan's
            try_lock(lock)
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return path, lock
        os.close(lock)


def _sweep(place: str) -> None:
    with contextlib.suppress(OSError):
        for each in Path(place).glob(f"{PREFIX}*"):
            remove_orphan(each)
