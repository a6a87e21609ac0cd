"""How much of the package a journey passes through: its files, its functions, and the calls of them.

    python -m benchmarks.journeys [--demos FOLDER] [--work FOLDER]

Counts, not times: of each journey the modules of vla_store whose functions ran, the functions, and how often they were called,
in all threads of the process that is named. A journey that repeats is counted once it is warm. To count another checkout of
the package, put its folder first on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from benchmarks.measure import find_demos, work_folder

COUNTS_FILE = "VLA_STORE_JOURNEY"  # where a worker process writes what it counted
BATCH = 64
WINDOWS: dict[str, Any] = {
    "agentview_rgb": [-1, 0],
    "eye_in_hand_rgb": [-1, 0],
    "robot_states": 0,
    "actions": list(range(64)),
}


class Calls:
    """Calls of the package's Python functions, counted while `on`."""

    def __init__(self) -> None:
        import vla_store

        self._folder = str(Path(vla_store.__file__).parent) + os.sep
        self._counts: Counter[CodeType] = Counter()

    def on(self) -> None:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def off(self) -> dict[str, int]:
        """Stop, and return the counts by name."""
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        counts = self._counts.copy()
        return {
            "files": len({code.co_filename for code in counts}),
            "functions": len(counts),
            "calls": sum(counts.values()),
        }

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self._folder) and code.co_name != "<module>":
            self._counts[code] += 1


def counted(journey: Callable[[], object]) -> dict[str, int]:
    """Counts of one run of a journey, in this process."""
    calls = Calls()
    calls.on()
    try:
        journey()
    finally:
        counts = calls.off()
    return counts


_in_worker: list[Calls] = []


def count_in_worker(batch: Any) -> Any:
    """A `batch_transform` that counts what its worker calls from one batch to the next, and writes that to a file."""
    target = Path(os.environ[COUNTS_FILE])
    if _in_worker:
        counts = _in_worker.pop().off()
        if not target.exists():
            target.write_text(json.dumps(counts))
    elif not target.exists():
        _in_worker.append(Calls())
        _in_worker[0].on()
    return batch


def command(*arguments: object) -> Callable[[], object]:
    """A command of the command line, run in this process by threads."""

    def run() -> None:
        from vla_store.cli import main

        with contextlib.redirect_stdout(sys.stderr):
            assert main([*map(str, arguments), "--workers", "2", "--executor", "threads"]) == 0

    return run


def journeys(demos: Path, work: Path, batch: int = BATCH) -> Iterator[tuple[str, dict[str, int]]]:
    """Each journey by name, with its counts. demos: the folder of LIBERO's suites. batch: samples in one."""
    first, second = sorted(demos.glob("*/*.hdf5"), key=lambda path: path.stat().st_size)[:2]
    destination = work / "journeys.vla"
    yield f"build of one file ({first.stat().st_size / 1e6:.0f} MB)", counted(command("build", first, destination))
    yield "append of one file", counted(command("append", second, destination))

    import vla_store
    from vla_store.torch import Loader, StepDataset

    samples = vla_store.Samples(destination, windows=WINDOWS, alignment="causal", images="as_stored")
    rows = [number * 7 % len(samples) for number in range(batch)]
    samples.sample(5)
    samples.batch(rows)
    yield "samples.sample(i)", counted(lambda: samples.sample(6))
    yield f"samples.batch({batch})", counted(lambda: samples.batch(rows))

    dataset = StepDataset(destination, windows=WINDOWS, alignment="causal", images="as_stored")
    with tempfile.TemporaryDirectory() as folder:
        os.environ[COUNTS_FILE] = str(Path(folder, "counts.json"))
        with Loader(dataset, batch_size=batch, workers=1, batch_transform=count_in_worker) as loader:
            for _ in loader:
                pass
        yield f"worker, one batch of {batch}", json.loads(Path(os.environ[COUNTS_FILE]).read_text())
    with Loader(dataset, batch_size=batch, workers=1) as loader:
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        yield "parent, one next()", counted(lambda: next(batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demos", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        print(f"{'journey':32} {'files':>6} {'functions':>10} {'calls':>8}")
        for name, counts in journeys(find_demos(options.demos, work), work):
            print(f"{name:32} {counts['files']:6} {counts['functions']:10} {counts['calls']:8,}", flush=True)


if __name__ == "__main__":
    main()
