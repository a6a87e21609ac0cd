"""The Loader over object storage against the Loader on a local disk: first and second epochs, by cache, order and backend.

    python -m benchmarks.cloud [--quick] [--save] [--work FOLDER] [--rivals] [--latencies 20,50] [--only WORD]

A stand-in server on this machine (object_server.py) delays and caps; its CPU time is told beside every figure, because it shares the
cores. Every turn is a process of its own, and follows at once on a turn of the local Loader, to which it is compared. The store is
drawn once and kept in --work. The first batch in the global order is hashed,
and must be the local Loader's. Needs Linux and a C compiler.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cloud_rivals
from benchmarks.generate import generate
from benchmarks.measure import (
    CHECKOUT,
    RESULTS,
    Neighbours,
    Spread,
    arguments,
    environment,
    table,
    work_folder,
    write_result,
)
from benchmarks.object_server import ObjectServer
from benchmarks.workload import BATCH

GENERATED_NBYTES = 2_000_000_000
QUICK_NBYTES, QUICK_SIZE = 6_000_000, 32
LATENCIES = (20, 50)
BEFORE = {"957eb39": "when the issue was written", "a251cd4": "when its work began"}
PARTS = ("frames", "residuals", "backgrounds")  # what holds pictures
LOCAL_EPOCHS = 2


@dataclass(frozen=True)
class Contender:
    """One way to read the store at a URL, for one row of the table.

    turn: what a process is told, besides URL and cache. by: http, obstore or s3fs. cache: "none", "empty", "half" (of the store
    fits, filled by an epoch before), "full" (filled by a turn before, and kept). target: of the local rate, at least.
    """

    name: str
    turn: dict[str, Any]
    by: str = "http"
    cache: str = "none"
    target: float | None = None


FIRST = "first epoch"
BLOCKS = {"kind": "loader", "shuffle": "blocks"}
GLOBAL = {"kind": "loader"}
CONTENDERS = (
    Contender("second epoch, all cached", GLOBAL | {"epochs": LOCAL_EPOCHS}, cache="full", target=0.95),
    Contender("first epoch, empty cache, blocks: fsspec http", BLOCKS, cache="empty", target=0.6),
    Contender("first epoch, empty cache, blocks: obstore http", BLOCKS, "obstore", "empty", 0.75),
    Contender("first epoch, empty cache, blocks: obstore s3", BLOCKS, "obstore-s3", "empty", 0.75),
    Contender("first epoch, empty cache, blocks: s3fs", BLOCKS, "s3fs", "empty", 0.33),
    Contender("first epoch, no cache, blocks: fsspec http", BLOCKS),
    Contender("first epoch, empty cache, global order, store fits: fsspec http", GLOBAL, cache="empty", target=0.7),
    Contender("first epoch, empty cache, global order, store fits: obstore http", GLOBAL, "obstore", "empty"),
    Contender("first epoch, no cache, global order: fsspec http", GLOBAL, target=0.2),
    Contender("first epoch, no cache, global order: obstore http", GLOBAL, "obstore", target=0.25),
    Contender("half of the store fits the cache, blocks", BLOCKS | {"skipped_epochs": 1}, cache="half", target=0.7),
)
LOCAL = GLOBAL | {"epochs": LOCAL_EPOCHS}


@dataclass
class Bench:
    """A store, the server before it, and the turns so far. base: of all that is written; server: serves the store's folder."""

    store: Path
    base: Path
    server: ObjectServer
    quick: bool = False
    turns: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, turn: dict[str, Any], path: Path | None = None) -> dict[str, Any]:
        """One turn, in a process of its own, of the package in `path`: what it says, and what the server and the machine say."""
        neighbours, start = Neighbours(), time.monotonic()
        self.server.reset()
        told = {**turn, "started_at": time.time()}
        if self.quick and "batches" not in told:
            told["batches"] = 6
        command = [sys.executable, "-c", "from benchmarks.cloud_turn import main; main()", json.dumps(told)]
        places = os.pathsep.join([str(each) for each in (path, CHECKOUT) if each])
        # Not in the checkout: there Python would find this version of the package before any other.
        done = subprocess.run(
            command,
            cwd=self.base,
            env={**os.environ, "PYTHONPATH": places},
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise TurnFailed(done.stderr.strip()[-2000:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        served, took = self.server.counters(), time.monotonic() - start
        others = neighbours.cores()
        samples, asked = found["samples"], found["all_samples"]
        return found | {
            "epochs": turn.get("epochs", 1),
            "samples_per_s": samples / found["wall_s"],
            "cpu_us": {who: spent / samples * 1e6 for who, spent in found["cpu_s"].items()},
            "server": served,
            "server_us": served["cpu_s"] / asked * 1e6,
            "requests_per_sample": served["requests"] / asked,
            "nbytes_per_sample": served["nbytes"] / asked,
            "others_cores": None if others is None else max(0.0, others - served["cpu_s"] / took),
        }

    def url(self, by: str) -> tuple[str, dict[str, Any]]:
        """Where the store is for a backend, and what open_store needs to know besides."""
        name = self.store.name
        options: dict[str, Any] = {"fetcher": "obstore" if by.startswith("obstore") else "fsspec"}
        if by in ("s3fs", "obstore-s3"):
            return f"s3://bucket/{name}", options | {"storage_options": self.server.s3_options}
        return f"{self.server.url}/{name}", options

    def local(self) -> dict[str, Any]:
        return self.run(LOCAL | {"url": str(self.store)})

    def remote(self, contender: Contender, latency_ms: float) -> dict[str, Any]:
        """A turn of a contender, with a cache that is as it says."""
        url, options = self.url(contender.by)
        self.server.set(latency_ms=latency_ms)
        if contender.cache == "none":
            return self.run(contender.turn | {"url": url, "options": options})
        if contender.cache == "full":
            folder = self.base / "full"
            options |= {"cache": str(folder)}
            if not folder.exists():
                self.server.set(latency_ms=0)
                self.run({"kind": "loader", "url": url, "options": options, "batches": None} | BLOCKS)
                self.server.set(latency_ms=latency_ms)
            return self.run(contender.turn | {"url": url, "options": options})
        with tempfile.TemporaryDirectory(dir=self.base, prefix="cache-") as made:
            options |= {"cache": made}
            if contender.cache == "half":
                options |= {"cache_size": stored_nbytes(self.store) // 2}
            return self.run(contender.turn | {"url": url, "options": options})

    def pair(self, contender: Contender, latency_ms: float) -> None:
        """The local Loader and then the contender; a contender that failed is left out from then on, and said to have."""
        name = key(contender, latency_ms)
        if name in self.failed:
            return
        local = self.local()
        try:
            found = self.remote(contender, latency_ms)
        except (TurnFailed, subprocess.TimeoutExpired) as error:
            self.failed[name] = str(error)
            print(f"{name}: failed\n{error}", file=sys.stderr)
            return
        if found["digests"][0] != local["digests"][0] and "shuffle" not in contender.turn:
            raise AssertionError(f"{name} reads other bytes than the local Loader")
        found["of_local"] = found["samples_per_s"] / local["samples_per_s"]
        found["of_local_first"] = found["first_epoch_samples_per_s"] / local["first_epoch_samples_per_s"]
        found["of_local_by_cpu"] = total_us(local) / total_us(found)
        found["of_local_with_start"] = rate_with_start(found) / rate_with_start(local)
        self.turns.setdefault("local", []).append(local)
        self.turns.setdefault(name, []).append(found)
        print(f"{name}: {line(found)}; local {line(local)}", file=sys.stderr, flush=True)


class TurnFailed(RuntimeError):
    """The process of a turn ended badly: what it wrote."""


def key(contender: Contender, latency_ms: float) -> str:
    return f"{contender.name}, {latency_ms:g} ms"


def total_us(turn: dict[str, Any]) -> float:
    """CPU time a sample of everybody, the server too."""
    return float(sum(turn["cpu_us"].values()) + turn["server_us"])


def rate_with_start(turn: dict[str, Any]) -> float:
    """Samples a second of one epoch and the start before it, since the opening of the store: what is fetched before the first batch
    is not free."""
    return float((turn["samples"] / turn["epochs"] + BATCH) / (turn["first_s"] + turn["wall_s"] / turn["epochs"]))


def line(turn: dict[str, Any]) -> str:
    spent = ", ".join(f"{who} {us:.0f}" for who, us in turn["cpu_us"].items())
    share = (
        f" ({turn['of_local']:.2f}, of its first epoch {turn['of_local_first']:.2f}, by CPU {turn['of_local_by_cpu']:.2f}, with start {turn['of_local_with_start']:.2f})"
        if "of_local" in turn
        else ""
    )
    return (
        f"{turn['samples_per_s']:,.0f}/s{share}, first batch {turn['first_s']:.2f} s, us a sample: {spent}, server "
        f"{turn['server_us']:.0f}; {turn['requests_per_sample']:.3f} requests, others {turn['others_cores']:.1f} cores"
    )


def make_store(work: Path, quick: bool) -> Path:
    """The generated store, made where it is not there yet."""
    from vla_store.builder import build_store

    folder = work / ("quick" if quick else "cloud")
    store = folder / "fast.vla"
    if store.exists():
        return store
    with tempfile.TemporaryDirectory(dir=work, prefix="source-") as made:
        source = Path(made) / "source"
        generate(source, QUICK_NBYTES, size=QUICK_SIZE) if quick else generate(source, GENERATED_NBYTES)
        folder.mkdir(exist_ok=True)
        build_store(source, store, preset="fast")
    return store


def stored_nbytes(store: Path, below: tuple[str, ...] = ("",)) -> int:
    """Bytes of the objects of a store, or of those in some folders of its parts."""
    found = [
        path.stat().st_size
        for part in (store / "parts").iterdir()
        if part.is_dir()
        for name in below
        for path in (part / name).rglob("*")
        if path.is_file()
    ]
    return sum(found)


def first_batches(bench: Bench, rounds: int) -> dict[str, Any]:
    """Seconds to the first batch of a fresh process, workers included, at 50 ms: from the opening of the store, and from its start."""
    bench.server.set(latency_ms=50)
    found: dict[str, list[float]] = {}
    for by in ("http", "obstore", "s3fs"):
        url, options = bench.url(by)
        for _ in range(rounds):
            try:
                turn = bench.run({"kind": "loader", "url": url, "options": options, "batches": 1})
            except TurnFailed as error:
                bench.failed[f"first batch, {by}"] = str(error)
                break
            found.setdefault(by, []).append(turn["first_s"])
            found.setdefault(f"{by}, interpreter and imports included", []).append(turn["since_start_s"])
            print(f"first batch by {by}: {turn['first_s']:.2f} s", file=sys.stderr, flush=True)
    return {name: Spread.of(each).to_json() for name, each in found.items()}


def batches_alone(bench: Bench, rounds: int) -> dict[str, Any]:
    """`Samples.batch` in one process, no cache, 20 ms: now, and of earlier commits of this repository."""
    bench.server.set(latency_ms=20)
    found: dict[str, list[float]] = {}
    url = f"{bench.server.url}/{bench.store.name}"
    with contextlib.ExitStack() as stack:
        ways: list[tuple[str, Path | None, dict[str, Any]]] = [
            (by, None, {"fetcher": by}) for by in ("fsspec", "obstore")
        ]
        ways += [(commit, stack.enter_context(package_at(commit, bench.base)), {}) for commit in BEFORE]
        for _, (name, path, options) in itertools.product(range(rounds), ways):
            if name in bench.failed:
                continue
            batches = 5 if path else 30
            try:
                turn = bench.run({"kind": "batch", "url": url, "options": options, "batches": batches}, path)
            except TurnFailed as error:
                bench.failed[name] = str(error)
                continue
            found.setdefault(name, []).append(turn["samples_per_s"])
            print(f"Samples.batch, {name}: {line(turn)}", file=sys.stderr, flush=True)
    rates = {name: Spread.of(each).to_json() for name, each in found.items()}
    ratios = {
        f"{by}, against {commit} ({when})": Spread.of(
            [now / then for now, then in zip(found[by], found[commit])]
        ).to_json()
        for by in ("fsspec", "obstore")
        for commit, when in BEFORE.items()
        if found.get(by) and found.get(commit)
    }
    return {"samples_per_s": rates, "times": ratios}


@contextlib.contextmanager
def package_at(commit: str, base: Path) -> Iterator[Path]:
    """A folder with the package of an earlier commit."""
    with tempfile.TemporaryDirectory(dir=base, prefix="before-") as made:
        packed = subprocess.run(["git", "archive", commit, "vla_store"], cwd=CHECKOUT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", made], input=packed.stdout, check=True)
        yield Path(made)


def measure(
    work: Path,
    *,
    rounds: int,
    latencies: tuple[float, ...] = LATENCIES,
    quick: bool = False,
    only: str = "",
    rivals: bool = False,
) -> dict[str, Any]:
    """All rows. only: those contenders alone whose name has this word."""
    store = make_store(work, quick)
    started, spread = time.monotonic(), {}
    with tempfile.TemporaryDirectory(dir=work, prefix="turns-") as made, ObjectServer(store.parent) as server:
        bench = Bench(store, Path(made), server, quick)
        chosen = [(each, ms) for each in CONTENDERS for ms in latencies if only in key(each, ms)]
        order = np.random.default_rng(0)
        for _ in range(rounds):
            for at in order.permutation(len(chosen)):
                bench.pair(*chosen[at])
        firsts = first_batches(bench, rounds) if only in "first batch" else {}
        alone = batches_alone(bench, rounds) if only in "Samples.batch" else {}
        against = cloud_rivals.measure(bench, work, -(-rounds // 3)) if rivals else {}  # theirs are a minute long
        for name, turns in bench.turns.items():
            spread[name] = summary(turns)
        samples = (bench.turns.get("local") or [{"samples": 0}])[0]["samples"] // LOCAL_EPOCHS
    result: dict[str, Any] = {
        "environment": environment() | {"busy_cores_of_others": others_of(spread)},
        "turns": spread,
        "first_batch_s": firsts,
        "batch": alone,
        "rivals": against,
        "failed": {name: text[-500:].replace(str(work), "WORK") for name, text in bench.failed.items()},
        "frames_nbytes_per_sample": stored_nbytes(store, PARTS) / samples if samples else None,
        "store_nbytes": stored_nbytes(store),
        "samples": samples,
        "seconds": round(time.monotonic() - started),
    }
    return result | {"rows": rows_of(result, latencies)}


def others_of(spread: dict[str, Any]) -> float | None:
    """Cores that others kept busy, in the median turn of the median contender."""
    found = [each["others_cores"]["median"] for each in spread.values()]
    return float(np.median(found)) if found else None


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The turns of one contender as medians with quartiles."""

    def spread(value: Callable[[dict[str, Any]], float]) -> dict[str, float]:
        return Spread.of([value(each) for each in turns]).to_json()

    made: dict[str, Any] = {
        "samples_per_s": spread(lambda each: each["samples_per_s"]),
        "first_batch_s": spread(lambda each: each["first_s"]),
        "first_batch_cpu_s": spread(lambda each: each["first_cpu_s"]),
        "cpu_us": {who: spread(lambda each, who=who: each["cpu_us"][who]) for who in turns[0]["cpu_us"]},  # type: ignore[misc]
        "server_us": spread(lambda each: each["server_us"]),
        "requests_per_sample": spread(lambda each: each["requests_per_sample"]),
        "nbytes_per_sample": spread(lambda each: each["nbytes_per_sample"]),
        "connections": spread(lambda each: each["server"]["most_connections"]),
        "others_cores": spread(lambda each: each["others_cores"] or 0.0),
    }
    if "of_local" in turns[0]:
        made["of_local"] = spread(lambda each: each["of_local"])
        made["of_local_first"] = spread(lambda each: each["of_local_first"])
        made["of_local_by_cpu"] = spread(lambda each: each["of_local_by_cpu"])
        made["of_local_with_start"] = spread(lambda each: each["of_local_with_start"])
    return made


def rows_of(result: dict[str, Any], latencies: tuple[float, ...]) -> list[dict[str, Any]]:
    """The issue's table, one row a figure and latency, for the page of figures."""
    made = []
    for each, ms in itertools.product(CONTENDERS, latencies):
        found = result["turns"].get(key(each, ms))
        if each.target is None or (found is None and key(each, ms) not in result["failed"]):
            continue
        made.append(
            {
                "what": key(each, ms),
                "target": f">= {each.target:g} of local",
                "measured": found and found["of_local"],
                "of_first": found and found["of_local_first"] if FIRST in each.name else None,
                "by_cpu": found and found["of_local_by_cpu"],
                "met": None if found is None else found["of_local"]["median"] >= each.target,
            }
        )

    def row(what: str, target: str, measured: dict[str, Any] | None, met: bool | None) -> None:
        made.append(
            {"what": what, "target": target, "measured": measured, "of_first": None, "by_cpu": None, "met": met}
        )

    for ms in latencies:
        found = result["turns"].get(f"first epoch, empty cache, blocks: fsspec http, {ms:g} ms")
        if found:
            requests = found["requests_per_sample"]
            row(f"requests a sample, blocks, {ms:g} ms", "<= 0.15", requests, requests["median"] <= 0.15)
            own = {
                name: value / result["frames_nbytes_per_sample"]
                for name, value in found["nbytes_per_sample"].items()
                if name != "count"
            }
            row(f"bytes a sample, blocks, {ms:g} ms", "<= 1.05 x the frames' own", own, own["median"] <= 1.05)
    for by, spread in result["first_batch_s"].items():
        if "," not in by:
            row(
                f"first batch of a fresh process, workers included, 50 ms: {by}",
                "<= 1 s",
                spread,
                spread["median"] <= 1,
            )
    for name, spread in result["batch"].get("times", {}).items():
        is_decisive = next(iter(BEFORE)) in name
        what = f"`Samples.batch`, no Loader, no cache, 20 ms: {name}"
        row(what, ">= 10 x" if is_decisive else "-", spread, spread["median"] >= 10 if is_decisive else None)
    for name, spread in result["rivals"].get("times", {}).items():
        row(f"first epoch, empty cache, 20 ms, against {name}", ">= 3 x", spread, spread["median"] >= 3)
    return made


def text(result: dict[str, Any]) -> str:
    """The tables, for a terminal."""
    verdicts = {True: "met", False: "NOT MET", None: "-"}
    rows = [
        [
            each["what"],
            each["target"],
            *(told(each[name]) for name in ("measured", "of_first", "by_cpu")),
            verdicts[each["met"]],
        ]
        for each in result["rows"]
    ]
    made = [
        table(["what", "to reach", "measured", "of its first epoch", "by CPU", ""], rows),
        "",
        table(*cells(result)),
    ]
    made += [f"{name}: failed: {words.splitlines()[-1] if words else ''}" for name, words in result["failed"].items()]
    return "\n".join(made)


def page(result: dict[str, Any]) -> list[str]:
    """Its part of docs/performance.md, but for the machine."""
    header, rows = cells(result)
    made = [
        "## Over object storage",
        f"`python -m benchmarks.cloud --rivals`: {result['samples']:,} samples an epoch ({result['store_nbytes'] / 1e6:,.0f} MB, preset "
        f"`fast`; a sample is 2 cameras x 2 frames and 64 actions), a `Loader` of two workers, over a stand-in for object storage on the "
        f"same two cores: a delay before each answer, 70 MB/s a connection. Each turn is a process of its own that follows on a turn of "
        f"the local `Loader`; *of local* is the rate from the first batch on against the mean of that one's {LOCAL_EPOCHS} epochs, *of its first epoch* against that of its first, which "
        "checks every chunk once and finds no page mapped, as a first epoch from storage does, *with its start* that since the store was opened, *by CPU* the CPU time of all processes, "
        "the server's included, against it. Times are us of CPU a sample. *others*: cores that other programs kept busy.",
        _markdown(header, rows),
    ]
    rivals = result["rivals"].get("turns", {})
    if rivals:
        figures = ("samples_per_s", "us", "server_us", "requests_per_sample", "nbytes_per_sample", "first_s")
        names = ["", "samples/s", "us", "server us", "requests a sample", "bytes a sample", "first batch, s"]
        versions = ", ".join(f"{name} {version}" for name, version in result["rivals"]["versions"].items())
        made += [
            f"Others over the same server at 20 ms, with the same pictures without loss ({versions}):",
            _markdown(names, [[name, *(told(each[figure]) for figure in figures)] for name, each in rivals.items()]),
        ]
    return made


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for every contender."""
    header = [
        "",
        "samples/s",
        "of local",
        "of its first epoch",
        "with its start",
        "by CPU",
        "consumer us",
        "workers us",
        "fetcher us",
        "server us",
    ]
    header += ["requests a sample", "kB a sample", "first batch, s", "its CPU s", "others"]
    rows = [
        [
            name,
            told(each["samples_per_s"]),
            told(each.get("of_local")),
            told(each.get("of_local_first")) if FIRST in name else "-",
            told(each.get("of_local_with_start")),
            told(each.get("of_local_by_cpu")),
            *(number(each["cpu_us"].get(who, {"median": 0})["median"]) for who in ("consumer", "workers", "fetcher")),
            number(each["server_us"]["median"]),
            number(each["requests_per_sample"]["median"]),
            number(each["nbytes_per_sample"]["median"] / 1e3),
            told(each["first_batch_s"]),
            number(each["first_batch_cpu_s"]["median"]),
            number(each["others_cores"]["median"]),
        ]
        for name, each in result["turns"].items()
    ]
    return header, rows


def told(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{number(spread['median'])} ({number(spread['low'])}-{number(spread['high'])})"


def number(value: float) -> str:
    """Three digits, never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.4f}"


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--latencies", default="20,50", help="milliseconds, joined by commas (default: 20,50)")
    parser.add_argument("--only", default="", metavar="WORD", help="contenders whose name has it")
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="install Lance and MosaicML Streaming into --work, and read the same with them",
    )
    options = parser.parse_args()
    latencies = tuple(float(each) for each in options.latencies.split(","))
    with work_folder(options.work) as work:
        result = measure(
            work,
            rounds=1 if options.quick else options.rounds,
            latencies=latencies[:1] if options.quick else latencies,
            quick=options.quick,
            only=options.only,
            rivals=options.rivals,
        )
    print(text(result))
    write_result("cloud", result, RESULTS if options.save else None)


if __name__ == "__main__":
    main()
