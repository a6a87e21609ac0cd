"""Advice to the system about mapped pages, so that samples from a disk do not wait for one page after another.

A page that is not in memory stops the process until it is read, and the system reads ahead in vain: samples are random. So maps
of pictures are marked as read at random, and while pages are found missing, all chunks of a batch are asked for at once, before
the first is touched. Asking costs about a tenth of decoding, so nothing is asked while everything is in memory. Imports
storage.files.
"""

from __future__ import annotations

import mmap
import resource
from typing import Any

import numpy as np

from vla_store.storage.files import libc

COLD_CALLS = 32  # for so many batches after the last missing page: asking ahead keeps pages from being missed

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class PageFaultMonitor:
    """Tell whether this process had to wait for missing pages lately, as the system counts them."""

    def __init__(self) -> None:
        self._faults = -1
        self._left = 0

    def is_cold(self) -> bool:
        """Tell it; to be called once a batch."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        if faults != self._faults:
            # The first call only learns the number: faults before it were not for pictures.
            self._left = COLD_CALLS if self._faults >= 0 else 0
            self._faults = faults
        elif self._left:
            self._left -= 1
        return self._left > 0


def at_random(data: Bytes) -> None:
    """Advise that these bytes of a map are read at random: no reading ahead."""
    _advise(data, mmap.MADV_RANDOM)


def will_need(data: Bytes) -> None:
    """Advise that these bytes of a map are read soon: begin to fetch what is not in memory."""
    _advise(data, mmap.MADV_WILLNEED)


def _advise(data: Bytes, advice: int) -> None:
    if data.nbytes:
        address = data.ctypes.data
        start = address - address % mmap.PAGESIZE
        libc().madvise(start, address + data.nbytes - start, advice)  # only a hint: a failure changes nothing
