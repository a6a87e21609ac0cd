"""One part of a far store on this machine: a sparse file of its objects, and a mark for every page of it that is there.

    data             the part's objects, each from a page's border on, in the order of the listing; absent pages are holes
    marks.BOOT       a byte for each page of `data`, mapped and shared by all processes since the machine started
    durable          the same, of pages that were on the disk before it was written: what counts after the machine went down
    objects.jsonl    the part's listing
    about.json       where the part came from

A page is marked after its bytes were written, and a map and a write of one machine see the same memory: whoever finds a mark finds the
bytes, whatever is killed. After a power cut other marks than `durable` may have reached the disk before their pages, so they are
not looked at: their name is that of another boot. Marks are bytes and not bits, because a byte is stored at once.

Imports what else is in storage.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.storage.base import Contents
from vla_store.storage.files import libc, map_file

PAGE = 4096
ABSENT, PRESENT = 0, 1  # any other mark is the number of who is bringing the page
DATA, DURABLE, LISTING, ABOUT = "data", "durable", "objects.jsonl", "about.json"
CHECKPOINT_NBYTES = 256 << 20
PUNCH_HOLE, KEEP_SIZE = 2, 1

Marks = npt.NDArray[np.uint8]
Pages = npt.NDArray[np.int64]  # (n,) numbers of pages
Runs = npt.NDArray[np.int64]  # (n, 2) stretches of them, [first, last) each


class Span(NamedTuple):
    """Bytes [start, stop) of the object `key`, which lies at `offset` in the data of a mirror."""

    key: str
    start: int
    stop: int
    offset: int


class Mirror:
    """A mirror of one part, opened; as long as it or a view of its data lives, nobody removes it.

    Parameters
    ----------
    folder
        Its folder, which `make` made.
    contents
        What the part holds.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder, or it is being removed.
    ValueError
        Where it is not a mirror of this part.
    OSError
        Where the system fails.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder = folder
        self.offsets, self.pages = layout_of(contents)
        self._descriptor, self.writable = _opened(folder / DATA)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            found = os.fstat(self._descriptor)
            if not os.path.samestat(found, os.stat(folder / DATA)):
                raise FileNotFoundError(folder)  # it was removed, and is there anew
            if found.st_size != self.pages * PAGE:
                raise ValueError(f"{folder / DATA} has {found.st_size} bytes instead of {self.pages * PAGE}")
            self.data = map_file(self._descriptor)
            self.marks = self._open_marks()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._bytes = self.marks.data  # looked at more quickly than an array
        held = sorted((offset, key) for key, offset in self.offsets.items() if contents.sizes[key])
        self._starts = np.array([offset // PAGE for offset, _ in held], np.int64)
        self._objects = [(key, offset, contents.sizes[key]) for offset, key in held]
        self._whole: set[int] = set()  # offsets of objects that are all there
        self.unsettled_nbytes = 0

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._descriptor)

    @property
    def nbytes(self) -> int:
        """Bytes that are present."""
        return int(np.count_nonzero(self.marks == PRESENT)) * PAGE

    def has(self, start: int, stop: int) -> bool:
        """Tell whether all pages of [start, stop) of `data` are there."""
        first, last = start // PAGE, -(-stop // PAGE)
        return self._bytes[first:last].tobytes().count(PRESENT) == last - first

    def has_all(self, offset: int, size: int) -> bool:
        """Tell whether all of the object at an offset is there. What is all there stays."""
        if not size or offset in self._whole:  # what is empty shares its offset with the next object
            return True
        if self.has(offset, offset + size):
            self._whole.add(offset)
            return True
        return False

    def load(self, start: int, stop: int) -> bytes:
        """Read bytes of `data` from the file and not through the map: what the disk cannot give is an OSError then, and no signal."""
        pieces = []
        while start < stop:
            piece = os.pread(self._descriptor, stop - start, start)
            if not piece:
                raise OSError(errno.EIO, "the file ends", str(self.folder / DATA))
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def copy(self, start: int, stop: int) -> memoryview:
        """Return a copy of [start, stop) of `data`. Read and not mapped: fresh pages are not looked up one by one."""
        return memoryview(os.pread(self._descriptor, stop - start, start))

    def joined(self, runs: Runs, gap: int) -> Runs:
        """Return stretches of pages ascending, as one those that overlap, and those of one object no more than `gap` pages apart."""
        runs = runs[np.argsort(runs[:, 0], kind="stable")]
        if len(runs) < 2:
            return runs
        stops = np.maximum.accumulate(runs[:, 1])
        objects = np.searchsorted(self._starts, runs[:, 0], "right")
        first = np.flatnonzero(np.concatenate([[True], (runs[1:, 0] > stops[:-1] + gap) | (np.diff(objects) != 0)]))
        return np.stack([runs[first, 0], stops[np.append(first[1:], len(runs)) - 1]], axis=1)

    def spans(self, runs: Runs, most_nbytes: int) -> list[Span]:
        """Return what to ask for to get stretches of pages: of one object each, and at most so many bytes."""
        found: list[Span] = []
        most = most_nbytes // PAGE
        for (first, last), at in zip(runs.tolist(), (np.searchsorted(self._starts, runs[:, 0], "right") - 1).tolist()):
            while first < last:
                key, offset, size = self._objects[at]
                end = min(last, -(-(offset + size) // PAGE))
                for begin in range(first, end, most):
                    start, stop = begin * PAGE - offset, min(begin + most, end) * PAGE - offset
                    found.append(Span(key, start, min(stop, size), offset))
                first, at = end, at + 1
        return found

    def put(self, start: int, data: memoryview) -> None:
        """Write whole pages, of which the last may end with its object, and mark them. Raises OSError, of a full disk for one."""
        at, left = start, data
        while left:
            written = os.pwrite(self._descriptor, left, at)
            at, left = at + written, left[written:]
        self.marks[start // PAGE : -(-(start + len(data)) // PAGE)] = PRESENT
        self.unsettled_nbytes += len(data)

    def drop(self, first: int, last: int) -> None:
        """Forget the pages [first, last), whose bytes stay until they are written again: somebody may hold a view of them.

        Raises OSError.
        """
        (self.folder / DURABLE).unlink(missing_ok=True)  # which says that they are sound
        self.unsettled_nbytes += 1
        self.marks[first:last] = ABSENT
        self._whole.clear()

    def give_back(self, runs: Runs) -> None:
        """Give stretches of pages back to the system, where nobody holds views: who copied from them looks at their marks after."""
        self._whole.clear()
        self.marks[pages_of(runs)] = ABSENT
        for first, last in runs.tolist():
            _punch(self._descriptor, first * PAGE, (last - first) * PAGE)

    def settle(self, least_nbytes: int = 1) -> None:
        """Make what is present last through a power cut, if so many bytes were written since. Raises OSError."""
        if not self.writable or self.unsettled_nbytes < least_nbytes:
            return
        self.unsettled_nbytes = 0
        present = (self.marks == PRESENT).tobytes()
        os.fdatasync(self._descriptor)
        _replace(self.folder / DURABLE, present)

    def forget_claims(self, number: int) -> None:
        """Free the pages that a former bearer of this number was bringing when it died."""
        self.marks[self.marks == number] = ABSENT

    def _open_marks(self) -> Marks:
        path = self.folder / f"marks.{boot_id()}"
        if not path.exists():
            if not self.writable:
                raise ValueError(f"{self.folder} belongs to another user, who has not read since the machine started")
            self._begin_marks(path)
        descriptor = os.open(path, os.O_CLOEXEC | (os.O_RDWR if self.writable else os.O_RDONLY))
        try:
            if os.fstat(descriptor).st_size != self.pages:
                raise ValueError(f"{path} is not of this part")
            return np.frombuffer(map_file(descriptor, writable=self.writable), np.uint8)
        finally:
            os.close(descriptor)

    def _begin_marks(self, path: Path) -> None:
        """Make the marks of this boot: of what surely lay on the disk before."""
        start = bytes(self.pages)
        with contextlib.suppress(FileNotFoundError):
            durable = (self.folder / DURABLE).read_bytes()
            if len(durable) == self.pages and durable.count(PRESENT) + durable.count(ABSENT) == self.pages:
                start = durable
        temporary = self.folder / f".marks-{os.urandom(6).hex()}.tmp"
        try:
            temporary.write_bytes(start)  # written and no hole: a full disk cannot strike who stores into the map
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for other in self.folder.glob("marks.*"):
            if other != path:
                other.unlink(missing_ok=True)


def make(folder: Path, contents: Contents, about: dict[str, Any]) -> None:
    """Make the folder of an empty mirror, unless another process is faster. Raises OSError."""
    temporary = folder.with_name(f".{folder.name}-{os.urandom(6).hex()}.tmp")
    temporary.mkdir(parents=True)
    try:
        with open(temporary / DATA, "xb") as file:
            file.truncate(layout_of(contents)[1] * PAGE)
        (temporary / LISTING).write_bytes(contents.listing)
        (temporary / ABOUT).write_text(json.dumps(about | {"since": time.time()}))
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not folder.is_dir():
        raise FileNotFoundError(folder)


def present_nbytes(folder: Path) -> int:
    """Return the bytes of the pages that are present in a mirror, which need not be opened."""
    for name in (f"marks.{boot_id()}", DURABLE):
        with contextlib.suppress(FileNotFoundError):
            return (folder / name).read_bytes().count(PRESENT) * PAGE
    return 0


def layout_of(contents: Contents) -> tuple[dict[str, int], int]:
    """Return where each object of a part begins in `data`, by its key, and the number of pages of all."""
    offsets: dict[str, int] = {}
    pages = 0
    for key in sorted(contents.sizes):
        offsets[key] = pages * PAGE
        pages += -(-contents.sizes[key] // PAGE)
    return offsets, pages


def runs_of(pages: Pages) -> Runs:
    """Return the stretches of consecutive numbers among ascending ones that come once each."""
    if not len(pages):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(pages) != 1)
    return np.stack([pages[np.append(0, breaks + 1)], pages[np.append(breaks, len(pages) - 1)] + 1], axis=1)


def pages_of(runs: Runs) -> Pages:
    """Return the numbers in stretches, one stretch after another."""
    lengths = runs[:, 1] - runs[:, 0]
    before = np.cumsum(lengths) - lengths
    pages: Pages = np.arange(lengths.sum()) + np.repeat(runs[:, 0] - before, lengths)
    return pages


def _opened(path: Path) -> tuple[int, bool]:
    """Open a file to read and write, or else to read only. Return the descriptor, and whether it may be written."""
    try:
        return os.open(path, os.O_CLOEXEC | os.O_RDWR), True
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_CLOEXEC | os.O_RDONLY), False


def boot_id() -> str:
    """Return what names the time since the machine started: the same for all processes, another after it went down."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"none-{os.urandom(8).hex()}"  # then every process begins with what is durable, and shares nothing else


def _punch(descriptor: int, start: int, nbytes: int) -> None:
    """Give pages of a file back to the system, which reads them as zeros from then on; where it cannot, they stay."""
    libc().fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, start, nbytes)


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is there whole, and lasts, or not at all."""
    temporary = path.with_name(f".{path.name}-{os.urandom(6).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        temporary.unlink(missing_ok=True)
