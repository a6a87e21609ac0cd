"""The journal of an unfinished build: what it builds from, and a receipt for every task that is done.

parts/<id>.build/ beside the part: source.json, and one file a receipt. It goes before the store takes its name.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from vla_store.builder.encode import Receipt, Task
from vla_store.builder.plan import Plan
from vla_store.builder.shards import remove_temporaries, write_object
from vla_store.builder.sources import describe
from vla_store.errors import DestinationExists, SourceError
from vla_store.format import canonical, layout

LOCK = "build.lock"


class Journal:
    """Held by the one process that builds into `partial`, the folder STORE.partial."""

    def __init__(self, partial: Path, plan: Plan) -> None:
        self.partial = partial
        self.part = partial / layout.part_path(plan.part_id)
        self._folder = partial / (layout.part_path(plan.part_id) + ".build")
        self._plan = plan
        self._lock: IO[str] | None = None

    def open(self) -> dict[str, Receipt]:
        """Start or resume: take the lock, check that this is the same build of unchanged sources; receipts that still hold."""
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.partial / LOCK, "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DestinationExists("another build is writing there now", partial=self.partial) from None
        others = [each for each in self.partial.glob("parts/*.build") if each != self._folder]
        if others or (self.part.exists() and not self._folder.exists()):
            raise DestinationExists(
                "an unfinished build of other sources or options is in the way",
                partial=self.partial,
                hint="give the same sources and options to resume it, or --overwrite to discard it",
            )
        remove_temporaries(self.partial)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.part.mkdir(parents=True, exist_ok=True)
        self._check_sources()
        return self._receipts()

    def record(self, receipt: Receipt) -> None:
        """Note that a task's objects are whole."""
        write_object(self._folder, f"{receipt.task}.json", canonical.dumps(receipt.to_json()))

    def remove(self) -> None:
        """The build is done: leave nothing in the store that the format does not name."""
        shutil.rmtree(self._folder)
        (self.partial / LOCK).unlink()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def missing(self, tasks: list[Task], receipts: dict[str, Receipt]) -> list[Task]:
        return [task for task in tasks if task.name not in receipts]

    def _receipts(self) -> dict[str, Receipt]:
        found = {}
        for path in self._folder.glob("*.json"):
            if path.name != "source.json":
                receipt = Receipt.from_json(json.loads(path.read_bytes()))
                if all(_size(self.part / each.key) == each.size for each in receipt.objects):
                    found[receipt.task] = receipt
        return found

    def _check_sources(self) -> None:
        now = [_state(describe(each.source)) for each in self._plan.scanned]
        path = self._folder / "source.json"
        if not path.exists():
            write_object(self._folder, path.name, canonical.dumps(now))
            return
        for before, after in zip(json.loads(path.read_bytes()), now):
            if before != after:
                raise SourceError(
                    "a source changed since the unfinished build began",
                    file=after["path"],
                    partial=self.partial,
                    expected=f"size and time of change {before.get('size')}, {before.get('mtime_ns')}",
                    found=f"{after.get('size')}, {after.get('mtime_ns')}",
                    hint="--overwrite discards the unfinished build and starts again",
                )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _state(described: dict[str, Any]) -> dict[str, Any]:
    path = described["path"]
    if path is None or not os.path.exists(path):
        return described
    stat = os.stat(path)
    # A time of change in nanoseconds does not fit in the 53 bits of a canonical integer.
    return {**described, "mtime_ns": str(stat.st_mtime_ns), "size": stat.st_size}
