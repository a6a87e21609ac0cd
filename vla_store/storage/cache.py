"""A folder of this machine that keeps what was fetched from far storage: a mirror for each part, shared by all processes and stores.

Owns the folder: what may lie in it, how much, who uses it, and what goes when it is full. Mirrors are named by the digest of a part's
listing, so two copies of one store share one. Imports errors, and what else is in storage.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vla_store.errors import OptionError, warn
from vla_store.storage.base import Contents
from vla_store.storage.locks import holders, surely_locked
from vla_store.storage.mirror import ABOUT, DATA, LISTING, Mirror, make, present_nbytes

log = logging.getLogger("vla_store.storage")

MARKER = "vla_store-cache.json"
BEARERS = ".fetchers"
FIRST_NUMBER, LAST_NUMBER = 2, 255
LOOK_NBYTES = 64 << 20  # the room is looked at again after so many bytes
LOOK_AGAIN_S = 60.0  # a full cache is one for so long
LEAST_ROOM = 1 << 20  # with less it counts as full
LEAST_FREE = 1 << 30, 0.02  # bytes, and share of the disk, that are left free where no size is given
NETWORK = {
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "9p",
        "ceph",
        "fuse.ceph",
        "glusterfs",
        "fuse.glusterfs",
        "lustre",
    ),
    *("gpfs", "beegfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "ocfs2", "gfs2"),
}


class Entry(NamedTuple):
    """One mirror in the folder. nbytes: that it takes; all_nbytes: of the whole part. used: when it was last opened, in seconds since 1970."""

    folder: Path
    about: dict[str, Any]
    nbytes: int
    all_nbytes: int
    used: float

    @property
    def is_used(self) -> bool:
        """Whether a process has it open now."""
        with surely_locked(self.folder / DATA) as is_free:
            return not is_free

    @property
    def users(self) -> list[int]:
        """The processes that have it open, as far as the system tells."""
        return holders(self.folder / DATA)

    @property
    def present_nbytes(self) -> int:
        """Bytes of the part that are here. Raises OSError."""
        return min(present_nbytes(self.folder), self.all_nbytes)

    def listing(self) -> bytes:
        """Return the listing of the part. Raises OSError."""
        return (self.folder / LISTING).read_bytes()


def existing(path: str | os.PathLike[str]) -> CacheFolder:
    """Return the cache that lies in a folder. Raises OptionError where none does, OSError."""
    if not (Path(path) / MARKER).exists():
        what = "has other things in it" if Path(path).is_dir() and any(Path(path).iterdir()) else "is empty"
        raise OptionError(
            "there is no cache in this folder",
            folder=path,
            found=what if Path(path).is_dir() else "no such folder",
            hint="a cache begins with the first store that is opened with it: vla-store info STORE --cache DIR",
        )
    return CacheFolder(path)


class CacheFolder:
    """A folder of mirrors.

    Parameters
    ----------
    path
        The folder; made if need be. Refused on a network file system, where maps and locks of several machines do not agree.
    size
        The most bytes that all mirrors together may take; None: what the disk has, but for a little.

    Raises
    ------
    OptionError
        For a folder on a network file system, and one that holds other things.
    OSError
        Where it cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], size: int | None = None) -> None:
        self.path = Path(path)
        self.size = size
        self._least = LEAST_ROOM if size is None else min(LEAST_ROOM, size // 16)
        self._left = 0
        self._looked_at = 0.0
        self._is_full = self._has_said = False
        self._number: tuple[int, int, int] | None = None
        self.path.mkdir(parents=True, exist_ok=True)
        kind = file_system_of(self.path)
        if kind in NETWORK:
            raise OptionError(
                "a cache lies on a disk of this machine, and this is a network file system",
                folder=self.path,
                found=kind,
                hint="name a folder on a local disk (an NVMe drive, /tmp, /dev/shm)",
            )
        # Listed once: of processes that begin at one time, whoever writes anything has written the marker before.
        found = os.listdir(self.path)
        if MARKER not in found:
            if found:
                raise OptionError(
                    "this folder holds other things, and a cache removes what it does not need",
                    folder=self.path,
                    found=", ".join(sorted(found)[:5]),
                    hint="name a folder that is empty, or that does not exist yet",
                )
            (self.path / MARKER).write_text(json.dumps({"what": "vla_store cache", "version": 1}) + "\n")

    def mirror(self, contents: Contents, url: str) -> Mirror:
        """Return the mirror of a part, made if need be. Raises OSError, ValueError."""
        folder = self.path / contents.name
        for _ in range(10):
            try:
                found = Mirror(folder, contents)
            except FileNotFoundError:
                make(folder, contents, {"url": url, "part": contents.prefix, "nbytes": sum(contents.sizes.values())})
                continue
            with contextlib.suppress(OSError):
                os.utime(folder / ABOUT)
            return found
        raise FileNotFoundError(folder)

    def has_room(self, nbytes: int, says: bool = True) -> bool:
        """Tell whether so many bytes more may be written; count them as written where they may. says: that it is full, once."""
        if self._is_full and time.monotonic() - self._looked_at < LOOK_AGAIN_S:
            return False
        if self._left < nbytes or self._is_full:
            self._look(max(nbytes, self._least), says)
        if self._left < nbytes:
            return False
        self._left -= nbytes
        return True

    def room(self) -> int:
        """Return how many bytes more may be written now."""
        disk = os.statvfs(self.path)
        free = disk.f_bavail * disk.f_frsize
        if self.size is not None:
            return max(0, min(free, self.size - sum(each.nbytes for each in self.entries())))
        least, share = LEAST_FREE
        return max(0, free - max(least, int(share * disk.f_blocks * disk.f_frsize)))

    def disk_is_full(self, error: OSError) -> None:
        """Be told that a write failed. One line says it; nothing is written for a minute."""
        if not self._is_full:
            warn(
                f"nothing more is kept in the cache {self.path} ({error.strerror}): reads go on without it",
                RuntimeWarning,
            )
        self._is_full, self._left, self._looked_at = True, 0, time.monotonic()

    def entries(self) -> list[Entry]:
        """Return what is in the folder, the least recently used first."""
        found = []
        for folder in self.path.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            with contextlib.suppress(OSError, ValueError):  # one that is being removed
                data, about = os.stat(folder / DATA), json.loads((folder / ABOUT).read_text())
                used = os.stat(folder / ABOUT).st_mtime
                found.append(Entry(folder, about, data.st_blocks * 512, int(about["nbytes"]), used))
        return sorted(found, key=lambda each: each.used)

    def remove(self, entry: Entry) -> bool:
        """Remove a mirror that nobody uses; return whether it was."""
        with surely_locked(entry.folder / DATA) as is_free:
            if not is_free:
                return False
            gone = entry.folder.with_name(f".{entry.folder.name}-{os.urandom(6).hex()}.tmp")
            try:
                os.rename(entry.folder, gone)
            except OSError:
                return False
            shutil.rmtree(gone, ignore_errors=True)
            return True

    def prune(self, nbytes: int, keep: Callable[[Entry], bool] = lambda entry: False) -> list[Entry]:
        """Remove mirrors that nobody uses, the least recently used first, until so many bytes are free again; return them."""
        removed: list[Entry] = []
        for entry in self.entries():
            if sum(each.nbytes for each in removed) >= nbytes:
                break
            if not keep(entry) and self.remove(entry):
                removed.append(entry)
                log.info("%s: %s is removed from the cache, %d bytes", self.path, entry.folder.name, entry.nbytes)
        return removed

    def sweep(self) -> None:
        """Remove what processes that were killed left half-made or half-removed."""
        for each in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - each.stat().st_mtime > 3600:
                    shutil.rmtree(each, ignore_errors=True)

    def number(self) -> tuple[int, bool]:
        """Return the number by which this process marks pages that it is bringing, and whether it was taken just now.

        0 where there is none to be had: others cannot see then what is being brought, and may bring it too.
        """
        if self._number is not None and self._number[2] == os.getpid():
            return self._number[0], False
        folder = self.path / BEARERS
        folder.mkdir(exist_ok=True)
        for number in range(FIRST_NUMBER, LAST_NUMBER + 1):
            descriptor = os.open(folder / str(number), os.O_CLOEXEC | os.O_CREAT | os.O_RDWR, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self._number = number, descriptor, os.getpid()
            return number, True
        return 0, False

    def is_alive(self, number: int) -> bool:
        """Tell whether the process that marks pages by this number is alive."""
        with surely_locked(self.path / BEARERS / str(number)) as is_free:
            return not is_free

    def _look(self, nbytes: int, says: bool) -> None:
        self._looked_at = time.monotonic()
        room = self.room()
        if room < nbytes:
            self.prune(nbytes - room)
            room = self.room()
        if room < nbytes:
            self._left, self._is_full = 0, True
            if says:
                self._say_full(f"{self.size:,} bytes" if self.size is not None else "the disk has little left")
        else:
            self._is_full = False
            self._left = min(LOOK_NBYTES, max(room // 8, nbytes))  # a share of it: other processes write too

    def _say_full(self, why: str) -> None:
        had_said, self._has_said = self._has_said, True
        if not had_said:
            warn(f"the cache {self.path} is full ({why}): what has no room in it is fetched each time", RuntimeWarning)


def file_system_of(path: Path) -> str:
    """Return the kind of file system that a folder is on, as the system calls it; "" where that is not known."""
    place, best, kind = str(path.resolve()), "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            mounted = re.sub(r"\\([0-7]{3})", lambda each: chr(int(each[1], 8)), before.split()[4])
            if (place == mounted or place.startswith(mounted.rstrip("/") + "/")) and len(mounted) >= len(best):
                best, kind = mounted, after.split()[0]
    return kind
