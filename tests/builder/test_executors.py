"""Running tasks: receipts arrive in the calling thread, the first error stops the rest, and errors cross processes whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest
from own_sources import OddError
from store_tools import environment

from vla_store.builder import executors
from vla_store.builder.executors import default_workers, run_units
from vla_store.builder.units import Receipt
from vla_store.errors import SourceError


@dataclass(frozen=True)
class Job:
    """A task as `run_units` knows it. does: "give", "wait" (until job "bad" has begun, and a moment more), "sleep", "raise", "refuse"."""

    name: str
    does: str = "give"
    log: str = ""

    def run(self) -> Receipt:
        if self.log:
            (Path(self.log) / self.name).touch()
        if self.does == "wait":
            while not (Path(self.log) / "bad").exists():
                time.sleep(0.01)
            time.sleep(0.3)
        if self.does == "sleep":
            time.sleep(600)
        if self.does == "raise":
            raise OddError(7, f"job {self.name} is odd")
        if self.does == "refuse":
            raise SourceError("it is bad", demo=self.name, hint="mend it")
        return Receipt(self.name, ())


BOTH = pytest.mark.parametrize("executor", ["threads", "processes"])


@BOTH
def test_every_receipt_arrives_once_and_in_the_calling_thread(executor: str) -> None:
    seen: list[str] = []
    threads = set()

    def note(receipt: Receipt) -> None:
        seen.append(receipt.unit)
        threads.add(threading.current_thread())

    names = [f"job{number}" for number in range(12)]
    run_units([Job(name) for name in names], note, executor=executor, workers=3)  # type: ignore[misc]
    assert sorted(seen) == sorted(names)
    assert threads == {threading.current_thread()}


@BOTH
def test_the_first_error_stops_what_has_not_begun(tmp_path: Path, executor: str) -> None:
    jobs = [Job(f"job{number:02}", "refuse", str(tmp_path)) for number in range(40)]
    with pytest.raises(SourceError) as caught:
        run_units(jobs, lambda receipt: None, executor=executor, workers=2)  # type: ignore[arg-type]
    assert caught.value.places["demo"].startswith("job")
    assert caught.value.hint == "mend it"
    assert 1 <= len(list(tmp_path.iterdir())) < 10


@BOTH
def test_what_was_at_work_when_an_error_came_is_recorded_all_the_same(tmp_path: Path, executor: str) -> None:
    """It is waited for: to do it again would cost that time once more."""
    seen: list[str] = []
    jobs = [
        Job("slow", "wait", str(tmp_path)),
        Job("bad", "refuse", str(tmp_path)),
        Job("never", "give", str(tmp_path)),
    ]
    with pytest.raises(SourceError):
        run_units(jobs, lambda receipt: seen.append(receipt.unit), executor=executor, workers=2)  # type: ignore[arg-type]
    assert "slow" in seen
    assert "bad" not in seen


def test_an_error_that_does_not_pickle_keeps_its_words_and_its_place() -> None:
    with pytest.raises(RuntimeError, match="job a is odd") as caught:
        run_units([Job("a", "raise")], lambda receipt: None, executor="processes", workers=1)  # type: ignore[list-item]
    assert "test_executors.py" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(OddError, match="job a is odd"):
        run_units([Job("a", "raise")], lambda receipt: None, executor="threads", workers=1)  # type: ignore[list-item]


TWICE = """
import signal, sys, threading, time
from pathlib import Path
from test_executors import Job
from vla_store.builder.executors import run_units

def interrupt_twice(begun):
    while not begun.exists():
        time.sleep(0.01)
    for _ in range(2):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)

if __name__ == "__main__":
    threading.Thread(target=interrupt_twice, args=[Path(sys.argv[1], "slow")], daemon=True).start()
    try:
        run_units([Job("slow", "sleep", sys.argv[1])], print, executor="processes", workers=1)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_a_second_ctrl_c_ends_the_processes_and_waits_for_nothing(tmp_path: Path) -> None:
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    ended = subprocess.run(
        [sys.executable, script, tmp_path],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stdout == "interrupted\n", ended.stderr


@BOTH
def test_an_error_of_the_caller_ends_the_run(executor: str) -> None:
    def full(receipt: Receipt) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_units([Job("a"), Job("b")], full, executor=executor, workers=1)  # type: ignore[list-item]


def test_there_are_as_many_workers_as_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors.os, "sched_getaffinity", lambda pid: {0, 5, 7})
    assert default_workers() == 3
