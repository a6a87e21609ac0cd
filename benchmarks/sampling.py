"""Where the time of reading goes: the lines that are running, a thousand times a second.

    python -m benchmarks.sampling [--quick] [--save]

The system's timer of CPU time interrupts; Python hands the interruption over when the call in hand returns, so the time of a call
into C (decode, copies) is found at the line that made the call. The same is done to the roof, for comparison.
"""

from __future__ import annotations

import collections
import linecache
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from numcodecs import blosc

from benchmarks import roof
from benchmarks.measure import CHECKOUT, Neighbours, arguments, environment, run, table
from benchmarks.reading import make_stores
from benchmarks.workload import BATCH, CAMERAS, WINDOWS, buffers, make_workload

INTERVAL_S = 0.001
MOST_LINES = 14


def sample(run: Callable[[], object], samples_per_run: int, seconds: float) -> dict[str, Any]:
    """Runs `run` for so many seconds of CPU time; us per sample by line, and by kind of work."""
    lines: collections.Counter[tuple[str, int]] = collections.Counter()

    def interrupted(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            lines[frame.f_code.co_filename, frame.f_lineno or _line_before(frame)] += 1

    run()
    before = signal.signal(signal.SIGPROF, interrupted)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    runs, start = 0, time.process_time()
    try:
        while time.process_time() - start < seconds:
            run()
            runs += 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    per_sample = (time.process_time() - start) / runs / samples_per_run * 1e6
    unit = per_sample / max(1, lines.total())
    kinds: collections.Counter[str] = collections.Counter()
    for (file, line), count in lines.items():
        kinds[kind_of(file, linecache.getline(file, line))] += count
    return {
        "us_per_sample": round(per_sample, 2),
        "kinds": {name: round(count * unit, 2) for name, count in kinds.most_common()},
        "lines": [
            {
                "where": _place(file, line),
                "code": linecache.getline(file, line).strip()[:90],
                "us": round(count * unit, 2),
            }
            for (file, line), count in lines.most_common(MOST_LINES)
        ],
        "interruptions": lines.total(),
    }


def _line_before(frame: FrameType) -> int:
    """The last line number before an instruction that has none, such as the jump at the end of a loop."""
    found = 0
    for start, _, line in frame.f_code.co_lines():
        if start > frame.f_lasti:
            break
        found = line or found
    return found


def kind_of(file: str, code: str) -> str:
    """Which kind of work a line does."""
    if "decompress(" in code:
        return "decode"
    if "crc32c(" in code:
        return "crc32c"
    if any(each in file for each in ("numcodecs", "multiprocessing")):
        return "numcodecs' own Python around a decode"
    # Under `raw` decoding is an assignment, after which Python looks up only at the end of the caller's loop.
    if any(each in code for each in ("add(", "copyto(", "out[...] =", "decode(")):
        return "adding backgrounds, copying"
    if "take(" in code:
        return "gathering numbers"
    return "all other Python"


def _place(file: str, line: int) -> str:
    path = Path(file)
    if path.is_relative_to(CHECKOUT):
        return f"{path.relative_to(CHECKOUT)}:{line}"
    return f"{'/'.join(path.parts[-2:])}:{line}"  # "<string>" is code that a named tuple made


def measure(demos: Path, work: Path, *, seconds: float, batches: int | None) -> dict[str, Any]:
    """Everything that benchmarks/results/sampling.json holds."""
    from vla_store.reader.samples import Samples
    from vla_store.reader.store import open_store

    blosc.use_threads = False
    neighbours = Neighbours()
    stores = {preset: open_store(path) for preset, path in make_stores(demos, work).items()}
    workload = make_workload(stores["fast"], demos, batches)
    out = buffers(BATCH, tuple(stores["fast"].parts[0][1].fields[CAMERAS[0]].fixed_shape))
    indices = [units.indices for units in workload.batches]
    subjects: dict[str, Callable[[], object]] = {}
    for preset in ("fast", "raw"):
        cameras = roof.locate(stores[preset])
        works = [roof.batch_work(cameras, stores[preset], units, out) for units in workload.batches]
        samples = Samples(stores[preset], windows=WINDOWS, alignment="causal", images="as_stored")
        held = samples.allocate(BATCH)
        subjects[f"roof, {preset}"] = lambda works=works: [each() for each in works]  # type: ignore[misc]
        subjects[f"ours, {preset}, out="] = lambda samples=samples, held=held: [  # type: ignore[misc]
            samples.__getitems__(each, held) for each in indices
        ]
    cameras = roof.locate(stores["fast"])
    works = [roof.batch_work(cameras, stores["fast"], units, out, upright=True) for units in workload.batches]
    samples = Samples(stores["fast"], windows=WINDOWS, alignment="causal", images="upright")
    held = samples.allocate(BATCH)
    subjects["roof, fast, upright"] = lambda works=works: [each() for each in works]  # type: ignore[misc]
    subjects["ours, fast, upright, out="] = lambda samples=samples, held=held: [  # type: ignore[misc]
        samples.__getitems__(each, held) for each in indices
    ]
    samples = Samples(stores["fast"], windows=WINDOWS, alignment="causal", images="as_stored")
    singly = [index for each in indices for index in each.tolist()]
    subjects["ours, fast, ds[i]"] = lambda: [samples[index] and None for index in singly]
    count = len(singly)
    return {
        "subjects": {name: sample(run, count, seconds) for name, run in subjects.items()},
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
    }


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    texts = []
    for name, each in result["subjects"].items():
        kinds = ", ".join(f"{kind} {us:.1f}" for kind, us in each["kinds"].items())
        rows = [[line["where"], f"{line['us']:.2f}", line["code"]] for line in each["lines"]]
        texts.append(f"{name}: {each['us_per_sample']:.1f} us of CPU a sample ({kinds})")
        texts.append("\n".join(f"  {us:>6}  {where:<44}  {code}" for where, us, code in rows))
    kinds = sorted({kind for each in result["subjects"].values() for kind in each["kinds"]})
    header = ["us a sample", *result["subjects"]]
    rows = [[kind, *(f"{each['kinds'].get(kind, 0):.1f}" for each in result["subjects"].values())] for kind in kinds]
    return "\n\n".join([*texts, table(header, rows)])


def main() -> None:
    run(
        "sampling",
        arguments(__doc__.splitlines()[0], rounds=1),
        lambda options, demos, work: measure(
            demos,
            work,
            seconds=0.3 if options.quick else 8,
            batches=4 if options.quick else None,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
