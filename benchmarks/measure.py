"""What all benchmarks share: interleaved rounds, spreads, the machine, and result files.

Timings of a shared machine drift, so contenders take turns round after round, in an order drawn anew each round, and what
is reported is the median of ratios *within* a round, with quartiles. No host name and no path goes into a result.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("numpy", "numcodecs", "google-crc32c", "h5py", "zarr", "tensorstore", "dask", "torch")


@dataclass(frozen=True)
class Pass:
    """One turn of one contender: seconds by the clock and of all its threads' CPU, for each of its units of work."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    def wall(self, units: int | None = None) -> float:
        return sum(self.wall_s[:units])

    def cpu(self, units: int | None = None) -> float:
        return sum(self.cpu_s[:units])

    @property
    def units(self) -> int:
        return len(self.wall_s)


@dataclass(frozen=True)
class Spread:
    """A figure measured several times."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, high = np.quantile(values, [0.25, 0.75]).tolist() if values else (0.0, 0.0)
        return cls(statistics.median(values), low, high, min(values), max(values), len(values))

    def to_json(self) -> dict[str, float]:
        return {
            name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in asdict(self).items()
        }


def timed(units: Sequence[Any], work: Callable[[Any], object], before: Callable[[Any], object] | None = None) -> Pass:
    """Runs `work` on every unit and times each; what `before` does is not timed."""
    wall, cpu = [], []
    for unit in units:
        if before is not None:
            before(unit)
        busy, start = time.process_time(), time.perf_counter()
        work(unit)
        stop, done = time.perf_counter(), time.process_time()
        wall.append(stop - start)
        cpu.append(done - busy)
    return Pass(tuple(wall), tuple(cpu))


def interleave(contenders: Mapping[str, Callable[[], Pass]], rounds: int, seed: int = 0) -> dict[str, list[Pass]]:
    """Every contender once a round, in an order drawn anew each round."""
    rng = np.random.default_rng(seed)
    names = list(contenders)
    passes: dict[str, list[Pass]] = {name: [] for name in names}
    for number in range(rounds):
        for at in rng.permutation(len(names)):
            passes[names[at]].append(contenders[names[at]]())
        print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
    print(end="\033[K" if sys.stderr.isatty() else "\n", file=sys.stderr)
    return passes


def speed_ratio(mine: Sequence[Pass], other: Sequence[Pass]) -> Spread:
    """How many times as fast `mine` is, round by round, over the units that both did."""
    ratios = []
    for a, b in zip(mine, other):
        units = min(a.units, b.units)
        ratios.append(b.wall(units) / a.wall(units))
    return Spread.of(ratios)


def cpu_ratio(mine: Sequence[Pass], other: Sequence[Pass]) -> Spread:
    """How many times the CPU time of `mine` the other one takes, round by round: hardly moved by what neighbours do."""
    ratios = []
    for a, b in zip(mine, other):
        units = min(a.units, b.units)
        ratios.append(b.cpu(units) / max(a.cpu(units), 1e-9))
    return Spread.of(ratios)


class Neighbours:
    """How many cores other processes kept busy meanwhile: what makes a measurement doubtful, measured too."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """On average since this object was made; None where the system does not tell."""
        now = self._now()
        if now is None or self._start is None or now[1] <= self._start[1]:
            return None
        return round(max(0.0, (now[0] - self._start[0]) / (now[1] - self._start[1])), 3)

    @staticmethod
    def _now() -> tuple[float, float] | None:
        try:
            ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting for disks
        own = os.times()
        return busy - (own.user + own.system + own.children_user + own.children_system), time.monotonic()


def environment() -> dict[str, Any]:
    """Machine, versions and commit."""
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "cpu": _cpu_model(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": platform.system(),
        },
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=all", "--", "vla_store", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD").strip() + (" and uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_result(name: str, result: dict[str, Any], folder: Path | None) -> Path | None:
    """Writes <folder>/<name>.json; nothing without a folder."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, **result}, indent=1, sort_keys=True) + "\n")
    print(f"wrote {path}", file=sys.stderr)
    return path


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measured: Callable[[argparse.Namespace, Path, Path], dict[str, Any]],
    summary: Callable[[dict[str, Any]], str],
) -> None:
    """The command of a benchmark: measure as the options say, print the summary, write the result with --save.

    parser: of `arguments`. measured: gets the options, the demonstrations, and a folder for stores.
    """
    options = parser.parse_args()
    with work_folder(options.work) as work:
        result = measured(options, find_demos(options.demos, work), work)
    print(summary(result))
    write_result(name, result, RESULTS if options.save else None)


def arguments(description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--demos", type=Path, help="folder of suites (default: unpacked from VLA_STORE_DEMOS or ../shared/data)"
    )
    parser.add_argument("--work", type=Path, help="folder for stores, kept and found again (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--quick", action="store_true", help="three short rounds, to see that all works")
    parser.add_argument("--save", action="store_true", help="write the result into benchmarks/results")
    return parser


@contextlib.contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """`given`, or a temporary folder."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    made = Path(tempfile.mkdtemp(prefix="vla-store-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def find_demos(given: Path | None, work: Path) -> Path:
    """The folder of suites to measure on. Ends the program where there is none."""
    if given is not None:
        return _checked(given.resolve())
    packed = Path(os.environ.get("VLA_STORE_DEMOS") or CHECKOUT.parent / "shared" / "data")
    if not (packed / "unpack.py").exists():
        return _checked(packed / "libero")
    subprocess.run([sys.executable, packed / "unpack.py", work / "demos"], check=True, stdout=subprocess.DEVNULL)
    return work / "demos" / "libero"


def _checked(demos: Path) -> Path:
    if not any(demos.glob("*/*.hdf5")):
        raise SystemExit(
            f"benchmarks: no demonstrations in {demos}\n"
            "give --demos FOLDER, where LIBERO's suites lie, one folder each; or draw some first:\n"
            "python -m benchmarks.generate FOLDER --gigabytes 1"
        )
    return demos


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns padded to their widest cell; the first to the left, the others to the right."""
    cells = [[str(each) for each in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))
        )
        for row in cells
    ]
    return "\n".join(
        [lines[0].rstrip(), "  ".join("-" * width for width in widths), *[each.rstrip() for each in lines[1:]]]
    )
