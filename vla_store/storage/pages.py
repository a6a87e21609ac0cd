"""Advice to the system about mapped pages, so that samples from a disk do not wait for one page after another.

A page that is not in memory stops the process until it is read, and the system reads ahead in vain: samples are random. So maps
of pictures are marked as read at random, and while pages are found missing, all chunks of a batch are asked for at once, before
the first is touched. Asking costs about a tenth of decoding, so nothing is asked while everything is in memory. Imports
nothing of this package.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np

COLD_CALLS = 32  # for so many batches after the last missing page: asking ahead keeps pages from being missed

_PAGE = mmap.PAGESIZE
_RANDOM = getattr(mmap, "MADV_RANDOM", None)
_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class PageFaultMonitor:
    """Tell whether this process had to wait for missing pages lately, as the system counts them."""

    def __init__(self) -> None:
        self._faults = -1
        self._left = 0

    def is_cold(self) -> bool:
        """Tell it; to be called once a batch."""
        faults = _major_faults()
        if faults != self._faults:
            # The first call only learns the number: faults before it were not for pictures.
            self._left = COLD_CALLS if self._faults >= 0 else 0
            self._faults = faults
        elif self._left:
            self._left -= 1
        return self._left > 0


def at_random(data: Bytes) -> None:
    """Advise that these bytes of a map are read at random: no reading ahead."""
    _advise(data, _RANDOM)


def will_need(data: Bytes) -> None:
    """Advise that these bytes of a map are read soon: begin to fetch what is not in memory."""
    _advise(data, _WILL_NEED)


def _advise(data: Bytes, advice: int | None) -> None:
    if advice is None or not data.nbytes:
        return
    address = data.ctypes.data
    start = address - address % _PAGE
    _madvise()(start, address + data.nbytes - start, advice)  # only a hint: a failure changes nothing


_MADVISE: list[Any] = []


def _madvise() -> Any:
    if not _MADVISE:
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        _MADVISE.append(madvise)
    return _MADVISE[0]


def _major_faults() -> int:
    if os.name != "posix":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
