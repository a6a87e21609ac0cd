"""A build of real size within a bound: the memory of all its processes, sampled while they work, and its rate.

    python -m benchmarks.big_build --gigabytes 12 [--max-memory 1GiB] [--save] [--source FOLDER] [--work FOLDER]

Generates the source (see generate.py) unless one is given, builds it with threads and with processes by the command that a user would
type, and compares with the yardstick of build_speed.py over the same bytes. Needs one and a half times the size on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.build_speed import bare, list_pieces
from benchmarks.generate import generate
from benchmarks.measure import CHECKOUT, RESULTS, Neighbours, environment, table, work_folder, write_result

EXECUTORS = ("threads", "processes")
SAMPLE_S = 0.02
PSS_EVERY = 10  # it costs the kernel a walk over the process's pages
MIB = 1 << 20


@dataclass
class Memory:
    """Peaks over a command and all its processes. Resident memory counts shared pages once for each process that has them, the
    proportional set shares them out."""

    rss_nbytes: int = 0
    pss_nbytes: int = 0
    processes: int = 0
    samples: int = 0

    def watch(self, process: subprocess.Popen[Any]) -> None:
        """Sample until the command has ended."""
        while process.poll() is None:
            pids = _family(process.pid)
            self.rss_nbytes = max(self.rss_nbytes, sum(map(_rss, pids)))
            if self.samples % PSS_EVERY == 0:
                self.pss_nbytes = max(self.pss_nbytes, sum(map(_pss, pids)))
            self.processes = max(self.processes, len(pids))
            self.samples += 1
            time.sleep(SAMPLE_S)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    found, at = [pid], 0
    while at < len(found):
        try:
            for thread in os.listdir(f"/proc/{found[at]}/task"):
                found += map(int, Path(f"/proc/{found[at]}/task/{thread}/children").read_text().split())
        except OSError:  # it ended meanwhile
            pass
        at += 1
    return found


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def build(source: Path, store: Path, executor: str, max_memory: str) -> dict[str, Any]:
    """One build by the command line; its figures. Raises CalledProcessError."""
    command = [sys.executable, "-m", "vla_store", "build", str(source), str(store), "--json", "--quiet"]
    command += ["--executor", executor, "--max-memory", max_memory]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        memory = Memory()
        watching = threading.Thread(target=memory.watch, args=(process,))
        watching.start()
        out, _ = process.communicate()
        seconds = time.monotonic() - began
        watching.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after, told = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(out)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_seconds": round(cpu, 2),
        "peak_pss_mib": round(memory.pss_nbytes / MIB, 1),
        "peak_rss_mib": round(memory.rss_nbytes / MIB, 1),
        "processes": memory.processes,
        "projected_mib": round(told["memory_nbytes"] / MIB, 1),
        "samples": memory.samples,
        "seconds": round(seconds, 2),
        "fingerprint": told["fingerprint"],
        "steps": told["rows"],
        "store_nbytes": told["nbytes"],
        "source_nbytes": told["source_nbytes"],
        "predictions": {camera["name"]: camera["prediction"] for camera in told["cameras"]},
    }


def measure(source: Path, work: Path, max_memory: str) -> dict[str, Any]:
    """Everything that benchmarks/results/big_build.json holds."""
    from vla_store.cli import parse_size

    neighbours = Neighbours()
    limit = parse_size(max_memory)
    builds = {}
    for executor in EXECUTORS:
        store = work / f"{executor}.vla"
        builds[executor] = build(source, store, executor, max_memory)
        shutil.rmtree(store)
    first = builds[EXECUTORS[0]]
    if len({each["fingerprint"] for each in builds.values()}) != 1:
        raise AssertionError("builds of the same source differ")
    pieces = list_pieces(source, {name: tuple(chosen) for name, chosen in first["predictions"].items()})
    busy, began = time.process_time(), time.monotonic()
    bare(pieces, len(os.sched_getaffinity(0)), "fast")
    yardstick = {"seconds": round(time.monotonic() - began, 2), "cpu_seconds": round(time.process_time() - busy, 2)}
    rows = [
        {
            "what": f"build of {first['source_nbytes'] / 1e9:.3g} GB by {executor}: peak memory of all processes, of --max-memory",
            "target": "<= 1",
            "measured": {"median": each["peak_rss_mib"] * MIB / limit},
            "met": each["peak_rss_mib"] * MIB <= limit,
        }
        for executor, each in builds.items()
    ]
    rows += [
        {
            "what": f"the same, of what was projected before it began, by {executor}",
            "target": "<= 1",
            "measured": {"median": each["peak_rss_mib"] / each["projected_mib"]},
            "met": each["peak_rss_mib"] <= each["projected_mib"],
        }
        for executor, each in builds.items()
    ]
    rows += [
        {
            "what": f"build of {first['source_nbytes'] / 1e9:.3g} GB by {executor}, against the same bytes read, encoded, hashed",
            "target": ">= 0.5 x",
            "measured": {"median": yardstick["seconds"] / each["seconds"]},
            "by_cpu": {"median": yardstick["cpu_seconds"] / each["cpu_seconds"]},
            "met": yardstick["seconds"] >= 0.5 * each["seconds"],
        }
        for executor, each in builds.items()
    ]
    return {
        "bare": yardstick,
        "builds": builds,
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
        "max_memory_mib": limit / MIB,
        "rows": rows,
    }


def _cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = [
        "",
        "seconds",
        "CPU seconds",
        "MB/s of source",
        "steps/s",
        "peak RSS, MiB",
        "peak PSS, MiB",
        "projected, MiB",
    ]
    size, steps = result["builds"]["threads"]["source_nbytes"] / 1e6, result["builds"]["threads"]["steps"]
    rows = [
        [
            f"build, {name}",
            f"{each['seconds']:.1f}",
            f"{each['cpu_seconds']:.1f}",
            f"{size / each['seconds']:.0f}",
            f"{steps / each['seconds']:,.0f}",
            f"{each['peak_rss_mib']:.0f}",
            f"{each['peak_pss_mib']:.0f}",
            f"{each['projected_mib']:.0f}",
        ]
        for name, each in result["builds"].items()
    ]
    bare = result["bare"]
    speed = [f"{size / bare['seconds']:.0f}", f"{steps / bare['seconds']:,.0f}"]
    rows.append(["bare", f"{bare['seconds']:.1f}", f"{bare['cpu_seconds']:.1f}", *speed, "-", "-", "-"])
    return header, rows


def page(result: dict[str, Any]) -> list[str]:
    """Its part of docs/performance.md, but for the machine."""
    header, rows = _cells(result)
    first = result["builds"]["threads"]
    lines = [header, ["---"] * len(header), *rows]
    return [
        "## A build of real size",
        f"`python -m benchmarks.big_build`: {first['source_nbytes'] / 1e9:.3g} GB of generated demonstrations ({first['steps']:,} steps), "
        f"preset `fast`, `--max-memory {result['max_memory_mib']:.0f}MiB`, once. Memory is the sum over all processes, sampled "
        f"every {SAMPLE_S * 1e3:.0f} ms; RSS counts what processes share once for each, PSS once. *projected* is what the build said "
        "before it began. *bare* reads, encodes and hashes the same bytes with as many threads and writes nothing.",
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=12.0)
    parser.add_argument("--source", type=Path, help="build this instead of a generated source")
    parser.add_argument("--max-memory", default="1GiB")
    parser.add_argument("--work", type=Path, help="folder for source and stores (default: a temporary one)")
    parser.add_argument("--save", action="store_true", help="write the result into benchmarks/results")
    options = parser.parse_args()
    with work_folder(options.work) as work:
        source = options.source or work / "source"
        if options.source is None:
            print(generate(source, int(options.gigabytes * 1e9)), file=sys.stderr)
        try:
            result = measure(source, work, options.max_memory)
        finally:
            if options.source is None:
                shutil.rmtree(source)
    print(table(*_cells(result)))
    print(f"others kept {result['environment']['busy_cores_of_others']} cores busy meanwhile")
    write_result("big_build", result, RESULTS if options.save else None)


if __name__ == "__main__":
    main()
