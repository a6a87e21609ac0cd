"""A far storage for tests: files of this machine that are not near, and a journal of what each process read of them.

What the file `misbehave` beside the journal says goes wrong in a fetcher: "fails" (reading raises), "hangs" (it never returns), "dies"
(it ends the process).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import vla_store
from vla_store.errors import FetchError
from vla_store.storage import LocalStorage, Range, Storage, Traffic, register


class FarStorage(Storage):
    """Opened by far:///path/of/store, with the folder of the journal as `journal=`."""

    is_near = False

    def __init__(self, url: str, journal: str) -> None:
        self.url = url
        self._files = LocalStorage(url.partition("://")[2], mapped=False)
        self._journal = Path(journal)
        self._traffic = Traffic()

    @property
    def traffic(self) -> Traffic:
        return self._traffic + Traffic()

    def size(self, key: str) -> int:
        return self._files.size(key)

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        is_fetcher = "vla_store.loader.fetcher" in sys.orig_argv
        misbehave = self._journal / "misbehave"
        what = misbehave.read_text() if is_fetcher and misbehave.exists() else ""
        if what == "fails":
            raise FetchError("storage did not answer", store=self.url)
        if what == "hangs":
            threading.Event().wait()
        if what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        self._traffic += Traffic(requests=len(ranges), nbytes=sum(stop - start for _, start, stop in ranges))
        with open(self._journal / "journal", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps([os.getpid(), is_fetcher, list(ranges)]) + "\n")
        return self._files.read(ranges)


class Read(NamedTuple):
    """One call of `read`."""

    pid: int
    is_fetcher: bool
    ranges: list[Range]

    @property
    def frames(self) -> list[Range]:
        """Those of them that are of pictures and not of the index at a shard's end, which is read once by each process."""
        return [tuple(each) for each in self.ranges if "/residuals/" in each[0] and each[1] < 6000]  # type: ignore[misc]


def far_store(store: Path, journal: Path, **options: Any) -> vla_store.Store:
    """A store, by its far URL."""
    register("far", FarStorage)
    return vla_store.open_store(f"far://{store}", storage_options={"journal": str(journal)}, **options)


def reads(journal: Path) -> list[Read]:
    """All calls so far."""
    path = journal / "journal"
    return [Read(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
