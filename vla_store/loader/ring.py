"""A ring of batch buffers in anonymous shared memory, and the leases by which batches are handed out.

One slot holds one batch. A slot that is handed to the consumer comes back when the last array over its bytes is gone: nobody
has to say so, and nobody can be given a batch that is being overwritten. May import numpy and errors.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import uuid
import weakref
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import MachineError

PAGE = mmap.PAGESIZE
PIECE = 32 << 20

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Ring:
    """`slots` buffers of `slot_nbytes` each. The file has no name: it goes with the last process that has it open.

    fd: to be passed to workers, which map it with `RingView`. A slot is free, or busy (acquired), or leased.
    Raises MachineError where there is not enough memory.
    """

    def __init__(self, slots: int, slot_nbytes: int) -> None:
        self.slots = slots
        self.slot_nbytes = -(-max(1, slot_nbytes) // PAGE) * PAGE
        nbytes = self.slots * self.slot_nbytes
        available = available_nbytes()
        if available is not None and nbytes > available:
            raise _too_little(nbytes, slots, available=f"{available >> 20} MiB")
        self.fd = _anonymous_file(f"vla_store-{uuid.uuid4().hex}")
        try:
            os.ftruncate(self.fd, nbytes)
            # Backed by memory now: a page that is missing later would be a SIGBUS in the middle of an epoch. In pieces, because
            # a signal (of a profiler's timer) makes older kernels begin such a call again.
            if hasattr(os, "posix_fallocate"):
                for start in range(0, nbytes, PIECE):
                    os.posix_fallocate(self.fd, start, min(PIECE, nbytes - start))
            self._map = mmap.mmap(self.fd, nbytes)
            _touch(self._map)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            self.close()
            raise _too_little(nbytes, slots, found=getattr(error, "strerror", None) or error) from None
        except BaseException:  # Ctrl-C: all that memory would stay with the descriptor
            self.close()
            raise
        self._free = list(range(slots))
        self._busy = 0
        self._leased: dict[int, _Lease] = {}
        self._returned: deque[_Lease] = deque()

    @property
    def unheld(self) -> int:
        """Number of slots that the consumer does not hold."""
        return len(self._free) + len(self._returned) + self._busy

    def acquire(self) -> int | None:
        """Return a free slot, or None."""
        while self._returned:
            slot = self._returned.popleft().slot
            del self._leased[slot]
            self._free.append(slot)
        if not self._free:
            return None
        self._busy += 1
        return self._free.pop()  # the one that came back last: it may still be in the processor's cache

    def release(self, slot: int) -> None:
        """Give back a slot that was acquired."""
        self._busy -= 1
        self._free.append(slot)

    def write(self, slot: int, data: bytes) -> None:
        """Put bytes at the start of an acquired slot, for who will fill it."""
        start = slot * self.slot_nbytes
        self._map[start : start + len(data)] = data

    def lease(self, slot: int, nbytes: int) -> Bytes:
        """Return the first bytes of an acquired slot as an array; the slot is free again when it and every view of it are gone.

        The base of this array is a memoryview, not an array: NumPy lets views of views refer to the last *array* of the chain,
        so that every view keeps exactly this object alive, and its callback cannot come early.
        """
        view = memoryview(self._map)[slot * self.slot_nbytes : slot * self.slot_nbytes + nbytes]
        lease = np.frombuffer(view, np.uint8)
        made = self._leased[slot] = _Lease(lease, self._returned.append)
        made.slot = slot
        self._busy -= 1
        return lease

    def peek(self, slot: int, nbytes: int) -> Bytes:
        """Return the first bytes of a slot, for copying them out before it is released."""
        return np.frombuffer(self._map, np.uint8, nbytes, slot * self.slot_nbytes)

    def close(self) -> None:
        """Close the descriptor. The memory stays as long as a lease does."""
        fd, self.fd = self.fd, -1  # first: closed twice, after Ctrl-C, it may be somebody else's by then
        if fd >= 0:
            os.close(fd)


class _Lease(weakref.ref):  # type: ignore[type-arg]
    """Of a slot. Its callback may come anywhere, in any thread, also inside garbage collection, and must run no Python code:
    Python would drop a Ctrl-C that finds it there."""

    __slots__ = ("slot",)
    slot: int


class RingView:
    """A worker's map of a ring whose descriptor it was passed."""

    def __init__(self, fd: int, slots: int, slot_nbytes: int) -> None:
        self.slot_nbytes = slot_nbytes
        self._map = mmap.mmap(fd, slots * slot_nbytes)
        os.close(fd)
        _touch(self._map, write=False)

    def slot(self, number: int) -> Bytes:
        """Return the bytes of a slot, writable."""
        return np.frombuffer(self._map, np.uint8, self.slot_nbytes, number * self.slot_nbytes)


def available_nbytes() -> int | None:
    """Return the memory that this process may still take: what the system has available, and what its cgroups leave. None where unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for folder, limit, used, prefix in _cgroups():
        with contextlib.suppress(OSError, ValueError, KeyError):
            most = int((folder / limit).read_text())  # or "max", which is no limit
            # What a cgroup uses counts the page cache, which goes when memory is needed: a store that was read fills it.
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cache = int(stat[f"{prefix}active_file"]) + int(stat[f"{prefix}inactive_file"])
            found.append(max(0, most - int((folder / used).read_text()) + cache))
    return min(found, default=None)


def _cgroups() -> list[tuple[Path, str, str, str]]:
    """Return the folders of the memory cgroups that hold this process, up to the root: (folder, limit, used, prefix in memory.stat)."""
    found, lines = [], list[str]()
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if not controllers:  # version 2
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        # In a container the path is the host's, and only the root of the mount is ours to see.
        here = root / inside.strip("/")
        found += [(folder, *names) for folder in (here, *here.parents) if folder.is_relative_to(root)]
    return found


def _too_little(nbytes: int, slots: int, **found: Any) -> MachineError:
    return MachineError(
        "not enough memory for the loader's batches",
        needed=f"{-(-nbytes >> 20)} MiB: {slots} batches of {-(-nbytes // slots >> 20)} MiB",
        **found,
        hint="use a smaller batch_size or fewer workers",
    )


def _anonymous_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    import tempfile

    fd, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return fd


def _touch(mapped: mmap.mmap, write: bool = True) -> None:
    """Fault every page in, so that the first epoch is as fast as the second."""
    pages = np.frombuffer(mapped, np.uint8)[::PAGE]
    if write:
        pages[:] = 0
    else:
        pages.sum()
