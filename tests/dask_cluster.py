"""A dask cluster on 127.0.0.1 that a test starts: a scheduler and workers, each a process of its own; and a source that says who reads.

Worker processes import this module, so it imports no pytest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from own_sources import Own
from store_tools import environment

from vla_store.sources.protocol import Array

LIMIT_S = 120


@dataclass
class Cluster:
    """While it is entered: a scheduler and `workers` of one thread each. folder: for logs and what workers spill."""

    folder: Path
    workers: int = 2
    address: str = field(init=False, default="")

    def __enter__(self) -> Cluster:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._file = self.folder / "scheduler.json"
        self._start("dask_scheduler", "--port", "0")
        while not (said := self._said()):
            assert self.processes[0].poll() is None, self.log
            time.sleep(0.05)
        self.address = said["address"]
        for _ in range(self.workers):
            self.add_worker()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in reversed(self.processes):
            process.kill()  # they hold nothing; asked to end, a worker may wait for the scheduler
            process.wait(LIMIT_S)

    def add_worker(self) -> subprocess.Popen[bytes]:
        """One more, with one thread and nobody who would start it again."""
        place = self.folder / f"worker{len(self.processes)}"
        return self._start("dask_worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(place))

    def _said(self) -> dict[str, str]:
        """What the scheduler wrote of itself; nothing until that is whole: it writes into the file that is looked for."""
        try:
            found: dict[str, str] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    @property
    def log(self) -> str:
        return (self.folder / "dask.log").read_text()

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard", "--host", "127.0.0.1"]
        env = environment(DASK_DISTRIBUTED__ADMIN__LOG_FORMAT="%(message)s")
        env["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)  # own sources, which a user's workers would have
        with open(self.folder / "dask.log", "ab") as log:
            process = subprocess.Popen(
                [*command, "--scheduler-file", str(self._file), *options],
                stdout=log,
                stderr=log,
                env=env,
                cwd=self.folder,
            )
        self.processes.append(process)
        return process


@dataclass(frozen=True)
class Signed(Own):
    """Leaves the number of every process that reads pictures from it in `book`, once `flag` is there; and reads on only when
    there are `readers` of them."""

    book: str = ""
    readers: int = 1

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        if len(self.fields[field].shape) == 3 and os.path.exists(self.flag):
            Path(self.book, str(os.getpid())).touch()
            deadline = time.monotonic() + LIMIT_S
            while len(os.listdir(self.book)) < self.readers:
                if time.monotonic() > deadline:
                    raise TimeoutError("the other readers do not come")
                time.sleep(0.02)
        return super().read(number, field, start, stop)
