"""Building: how fast, against the same bytes read, encoded and hashed with nothing around.

    python -m benchmarks.build_speed [--quick] [--save] [--copies 6]

The demonstrations, several times over under other suite names, so that there are shards enough to share out. Bare: every
frame and number read with h5py, predicted and encoded by the format's own functions, raw and encoded bytes hashed as a build
must, by as many threads; nothing is written. The build scans, probes, encodes, hashes, writes, fsyncs and commits.
"""

from __future__ import annotations

import hashlib
import os
import queue
import resource
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Neighbours,
    Pass,
    Spread,
    arguments,
    environment,
    interleave,
    run,
    speed_ratio,
    table,
    timed,
)
from vla_store.format import predictions
from vla_store.format.codecs import PRESETS, encode

THREADS = (1, 2)


@dataclass(frozen=True)
class Piece:
    """One field of one demo, and how it is predicted; None: numbers, which are not encoded."""

    path: Path
    name: str
    prediction: tuple[str, ...] | None
    nbytes: int


def copied(demos: Path, folder: Path, copies: int) -> Path:
    """A folder of suites that has the demonstrations several times (hard links where the file system has them)."""
    for path in sorted(demos.glob("*/*.hdf5")):
        for number in range(copies):
            target = folder / f"{path.parent.name}_{number}" / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copyfile(path, target)
    return folder


def list_pieces(demos: Path, chosen: dict[str, tuple[str, ...]]) -> list[Piece]:
    """Everything to read, the largest first; `chosen` is what the build chose for each camera."""
    import h5py

    pieces: list[Piece] = []
    for path in sorted(demos.glob("*/*.hdf5")):
        with h5py.File(path, "r") as file:

            def visit(name: str, item: Any, path: Path = path) -> None:
                if isinstance(item, h5py.Dataset):
                    pieces.append(Piece(path, f"data/{name}", chosen.get(name.rpartition("/")[2]), item.nbytes))

            file["data"].visititems(visit)
    return sorted(pieces, key=lambda piece: -piece.nbytes)


def bare(pieces: list[Piece], threads: int, preset: str) -> int:
    """Reads, encodes and hashes all pieces with so many threads. Returns the encoded bytes."""
    import h5py

    todo: queue.SimpleQueue[Piece] = queue.SimpleQueue()
    for piece in pieces:
        todo.put(piece)
    made: list[int] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                try:
                    piece = todo.get_nowait()
                except queue.Empty:
                    return
                with h5py.File(piece.path, "r") as file:
                    made.append(_bare_piece(file[piece.name][()], piece.prediction, preset))
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return sum(made)


def _bare_piece(data: Any, prediction: tuple[str, ...] | None, preset: str) -> int:
    stored = hashlib.sha256()
    if prediction is None:
        content = data.tobytes()
        hashlib.sha256(content)  # of the episode's field
        stored.update(content)  # of the object
        return len(content)
    background = None
    if "background" in prediction:
        background = predictions.background_of(data[predictions.background_rows(len(data))])
    nbytes = 0
    for frame in data:
        hashlib.sha256(frame.data)
    for residual in predictions.apply(data, prediction, background):
        chunk = encode(residual, PRESETS[preset].codec)
        stored.update(chunk)
        nbytes += len(chunk)
    return nbytes


def measure(demos: Path, work: Path, *, rounds: int, copies: int, preset: str = "fast") -> dict[str, Any]:
    """Everything that benchmarks/results/build_speed.json holds."""
    from vla_store.builder import build_store

    neighbours = Neighbours()
    sources = copied(demos, work / f"copies-{copies}", copies)
    store = work / "built.vla"
    reports: list[Any] = []

    def build(workers: int, executor: str = "threads") -> Callable[[], Pass]:
        def turn() -> Pass:
            busy, start = _cpu_seconds(), time.perf_counter()
            reports.append(build_store([sources], store, preset=preset, workers=workers, executor=executor))
            stop, done = time.perf_counter(), _cpu_seconds()
            shutil.rmtree(store)
            return Pass((stop - start,), (done - busy,))

        return turn

    build(max(THREADS))()  # imports, and what the build chooses
    report = reports[0]
    pieces = list_pieces(sources, {camera.name: camera.prediction for camera in report.cameras})
    encoded = bare(pieces, max(THREADS), preset)
    contenders: dict[str, Callable[[], Pass]] = {}
    for threads in THREADS:
        contenders[f"build, {_threads(threads)}"] = build(threads)
        contenders[f"bare, {_threads(threads)}"] = lambda threads=threads: timed(  # type: ignore[misc]
            [None], lambda _: bare(pieces, threads, preset)
        )
    contenders["build, 2 processes"] = build(2, "processes")
    passes = interleave(contenders, rounds)
    if len({each.root.fingerprint for each in reports}) != 1 or len({each.root.digest for each in reports}) != 1:
        raise AssertionError("builds of the same source differ")
    one, two = _threads(1), _threads(2)
    ratios = {f"build, {each} / bare, {each}": (f"build, {each}", f"bare, {each}") for each in (one, two)}
    ratios |= {f"{what}, {two} / {what}, {one}": (f"{what}, {two}", f"{what}, {one}") for what in ("build", "bare")}
    ratios |= {
        f"build, 2 processes / {other}": ("build, 2 processes", other) for other in (f"bare, {two}", f"build, {one}")
    }
    spreads = {name: speed_ratio(passes[mine], passes[other]).to_json() for name, (mine, other) in ratios.items()}
    return {
        "contenders": {
            name: {
                "seconds": Spread.of([each.wall() for each in turns]).to_json(),
                "cpu_seconds": Spread.of([each.cpu() for each in turns]).to_json(),
                "steps_per_s": Spread.of([report.rows / each.wall() for each in turns]).to_json(),
                "mb_per_s": Spread.of([report.source_nbytes / each.wall() / 1e6 for each in turns]).to_json(),
            }
            for name, turns in passes.items()
        },
        "copies": copies,
        "encoded_nbytes": encoded,
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
        "preset": preset,
        "ratios": spreads,
        "rounds": rounds,
        "rows": [
            _row(
                "build against the same bytes read, encoded, hashed, one thread",
                0.5,
                spreads[f"build, {one} / bare, {one}"],
            ),
            _row("the same, two threads", 0.5, spreads[f"build, {two} / bare, {two}"]),
            _row("the same, two processes", 0.5, spreads[f"build, 2 processes / bare, {two}"]),
            _row("build over two cores (near-linear), threads", 1.8, spreads[f"build, {two} / build, {one}"]),
            _row("the same, processes (with their start)", 1.8, spreads[f"build, 2 processes / build, {one}"]),
        ],
        "source_nbytes": report.source_nbytes,
        "steps": report.rows,
        "store_nbytes": report.nbytes,
    }


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _row(what: str, least: float, spread: dict[str, float]) -> dict[str, Any]:
    return {"what": what, "target": f">= {least:g} x", "measured": spread, "met": spread["median"] >= least}


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""

    def shown(value: dict[str, float]) -> str:
        return f"{value['median']:.3g} ({value['low']:.3g}-{value['high']:.3g})"

    contenders = [
        [name, *(shown(each[key]) for key in ("seconds", "cpu_seconds", "steps_per_s", "mb_per_s"))]
        for name, each in result["contenders"].items()
    ]
    rows = [
        [row["what"], row["target"], shown(row["measured"]), "met" if row["met"] else "NOT MET"]
        for row in [*result["rows"]]
    ]
    return "\n\n".join(
        [
            table(["", "seconds (quartiles)", "CPU seconds", "steps/s", "MB/s"], contenders),
            table(["", "to reach", "measured", ""], rows),
            f"others kept {result['environment']['busy_cores_of_others']} cores busy meanwhile",
        ]
    )


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--copies", type=int, default=6, help="the demonstrations so many times (default: 6)")
    run(
        "build_speed",
        parser,
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=3 if options.quick else options.rounds,
            copies=1 if options.quick else options.copies,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
