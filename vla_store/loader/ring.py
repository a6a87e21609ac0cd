"""A ring of batch buffers in anonymous shared memory, and the leases by which batches are handed out.

One slot holds one batch. A slot that is handed to the consumer comes back when the last array over its bytes is gone: nobody
has to say so, and nobody can be given a batch that is being overwritten.
"""

from __future__ import annotations

import mmap
import os
import uuid
import weakref
from collections import deque
from typing import Any

import numpy as np

from vla_store.errors import MachineError

PAGE = mmap.PAGESIZE


class Ring:
    """`slots` buffers of `slot_nbytes` each. The file has no name: it goes with the last process that has it open.

    fd: to be passed to workers, which map it with `RingView`.
    """

    def __init__(self, slots: int, slot_nbytes: int) -> None:
        self.slots = slots
        self.slot_nbytes = -(-max(1, slot_nbytes) // PAGE) * PAGE
        nbytes = self.slots * self.slot_nbytes
        _check_available(nbytes, slots)
        self.name = f"vla_store-{uuid.uuid4().hex}"
        self.fd = _anonymous_file(self.name)
        os.ftruncate(self.fd, nbytes)
        try:
            # Backed by memory now: a page that is missing later would be a SIGBUS in the middle of an epoch.
            os.posix_fallocate(self.fd, 0, nbytes)
        except OSError as error:
            os.close(self.fd)
            raise MachineError(
                "not enough memory for the ring of batches",
                needed=f"{nbytes >> 20} MiB for {slots} batches",
                found=error.strerror,
                hint="use fewer workers or a smaller batch_size",
            ) from None
        self._map = mmap.mmap(self.fd, nbytes)
        _touch(self._map)
        self._pid = os.getpid()
        self._free: deque[int] = deque(range(slots))

    @property
    def free(self) -> int:
        """How many slots nobody uses."""
        return len(self._free)

    def acquire(self) -> int | None:
        """A free slot, or None."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def release(self, slot: int) -> None:
        """Give back a slot that was never leased."""
        self._free.append(slot)

    def lease(self, slot: int, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The first bytes of a slot as an array; the slot is free again when it and every view of it are gone.

        The base of this array is the map, not an array: NumPy lets views of views refer to the last *array* of the chain, so
        that every view keeps exactly this object alive, and its finalizer cannot fire early.
        """
        view = memoryview(self._map)[slot * self.slot_nbytes : slot * self.slot_nbytes + nbytes]
        lease = np.frombuffer(view, np.uint8)
        finalizer = weakref.finalize(lease, _returned, self._free, slot, self._pid)
        finalizer.atexit = False
        return lease

    def peek(self, slot: int, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The first bytes of a slot, for copying them out before it is released."""
        return np.frombuffer(self._map, np.uint8, nbytes, slot * self.slot_nbytes)

    def close(self) -> None:
        """Close the descriptor. The memory stays as long as a lease does."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class RingView:
    """A worker's map of a ring whose descriptor it was passed."""

    def __init__(self, fd: int, slots: int, slot_nbytes: int) -> None:
        self.slot_nbytes = slot_nbytes
        self._map = mmap.mmap(fd, slots * slot_nbytes)
        os.close(fd)
        _touch(self._map, write=False)

    def slot(self, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a slot, writable."""
        return np.frombuffer(self._map, np.uint8, self.slot_nbytes, number * self.slot_nbytes)


def available_nbytes() -> int | None:
    """Memory this process may still take: what the system has available, and what its cgroup leaves. None where unknown."""
    found = []
    try:
        with open("/proc/meminfo") as file:
            found += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")]
        for limit, used in (
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        ):
            if os.path.exists(limit):
                with open(limit) as most, open(used) as now:
                    text = most.read().strip()
                    if text != "max":
                        found.append(max(0, int(text) - int(now.read())))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def _returned(free: deque[int], slot: int, pid: int) -> None:
    # Runs inside garbage collection, in any thread: no lock, no allocation to speak of. A forked child's copy is not a return.
    if os.getpid() == pid:
        free.append(slot)


def _check_available(nbytes: int, slots: int) -> None:
    available = available_nbytes()
    if available is not None and nbytes > available:
        raise MachineError(
            "not enough memory for the ring of batches",
            needed=f"{nbytes >> 20} MiB for {slots} batches",
            available=f"{available >> 20} MiB",
            hint="use fewer workers or a smaller batch_size",
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
