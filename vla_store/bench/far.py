"""How fast a store at a URL is served, and what is in the way: the delay of storage, its bandwidth, or this machine's CPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_store.bench import turns
from vla_store.bench.turns import Setting, Talk
from vla_store.loader.batches import Batches
from vla_store.loader.order import Order, ShuffleChoice
from vla_store.reader.parts import parts_of
from vla_store.reader.samples import Samples
from vla_store.storage import Range, Storage
from vla_store.text import Report, counted, size_text

PROBES = 9  # small requests, one after another
PIECE_NBYTES = 1 << 20  # of a large request
PIECES = 24  # large requests beside each other
ROOFS = 4  # batches that are decoded again and again
BOUND = 0.6  # of what the machine or storage has, from which on that is what is in the way
LEAST_CORES = 0.25  # that others are taken to leave
GAIN = 1.15  # how many times as fast is worth a word
CACHES = {"none": "", "filling": ", filling the cache", "filled": ", from the cache"}
ORDERS: dict[str, ShuffleChoice] = {"global order": True, 'shuffle="blocks"': "blocks"}


@dataclass(frozen=True)
class Probe:
    """What storage gives to whoever asks it directly.

    Attributes
    ----------
    latency_ms, latency_most_ms
        Median and largest duration of a request for one picture.
    one_mb_s
        10^6 bytes a second over one connection; None where no object is large enough to tell.
    all_mb_s
        The same over as many as the backend opens for large requests beside each other.
    """

    latency_ms: float
    latency_most_ms: float
    one_mb_s: float | None
    all_mb_s: float | None


@dataclass(frozen=True)
class Run:
    """A Loader, from its second batch on.

    Attributes
    ----------
    order
        "global order" or 'shuffle="blocks"'.
    workers
        Number of worker processes.
    cache
        "none"; "filling" with what is fetched; or "filled", with the same batches by an earlier run.
    samples_per_s
        Samples per second.
    first_batch_s
        Seconds from the making of the Loader, with the start of its processes, to its first batch.
    requests, nbytes
        Requests and bytes that storage answered, for each sample.
    retries
        Requests that were made again.
    cpu_us
        CPU time of all processes of the Loader a sample, in microseconds; None where the system does not tell.
    """

    order: str
    workers: int
    cache: str
    samples_per_s: float
    first_batch_s: float
    requests: float
    nbytes: float
    retries: int
    cpu_us: float | None

    @property
    def name(self) -> str:
        return f"{self.order}, {counted(self.workers, 'worker')}{CACHES[self.cache]}"


@dataclass(frozen=True, repr=False)
class FarReport(Report):
    """Measurements of one store at a URL, from one machine.

    Attributes
    ----------
    store, rows, anchors, preset, windows, batch_size, sample_nbytes, cores, version, views, open_ms, digest, seconds
        As of a BenchReport.
    nbytes
        Bytes of the store.
    backend
        What asks storage: "fsspec" or "obstore".
    probe
        What storage gives.
    roof_samples_per_s
        Rate of decoding alone, in one process, of what is fetched already.
    runs
        Loaders: both orders for each number of workers, without a cache; and, if there is one, two more with it.
    cache
        Folder of the cache, None for none.
    free_nbytes
        Bytes that the disk of the cache has left, or that of the folder for temporary files.
    busy_cores_of_others
        Cores that other programs kept busy meanwhile, on average; None where the system does not tell.
    """

    store: str
    rows: int
    anchors: int
    preset: str
    windows: str
    batch_size: int
    sample_nbytes: int
    cores: int
    version: str
    views: tuple[str, ...]
    open_ms: float
    nbytes: int
    backend: str
    probe: Probe
    roof_samples_per_s: float
    runs: tuple[Run, ...]
    cache: str | None
    free_nbytes: int
    digest: str
    busy_cores_of_others: float | None
    seconds: float

    @property
    def best(self) -> Run:
        """The fastest Loader whose batches were not in the cache before."""
        return max((each for each in self.runs if each.cache != "filled"), key=lambda each: each.samples_per_s)

    @property
    def near_samples_per_s(self) -> float:
        """What as many processes as the best run has would decode of what lies on this machine."""
        return self.roof_samples_per_s * min(self.best.workers, self.cores)

    def used(self, run: Run) -> dict[str, float]:
        """Return which share of the CPU that others left, and of the bandwidth, a run took, as far as that is known."""
        shares = {}
        if run.cpu_us is not None:
            left = max(self.cores - (self.busy_cores_of_others or 0.0), LEAST_CORES)
            shares["CPU"] = run.samples_per_s * run.cpu_us / 1e6 / left
        if self.probe.all_mb_s:
            shares["bandwidth"] = run.samples_per_s * run.nbytes / 1e6 / self.probe.all_mb_s
        return shares

    def bound(self, run: Run) -> str:
        """Return what is in the way of a run: "CPU", "bandwidth" or "latency"."""
        shares = self.used(run)
        most = max(shares, key=shares.__getitem__, default="latency")
        return most if shares.get(most, 0.0) >= BOUND else "latency"

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the verdict and the versions that decide them, for programs."""
        bounds = [self.bound(each) for each in self.runs]
        return asdict(self) | {"bounds": bounds, "verdict": self.verdict()} | turns.versions()

    def verdict(self) -> list[str]:
        """Return what the figures mean and what to change, in plain words: a sentence or two each."""
        best, bound = self.best, self.bound(self.best)
        batch_ms = self.batch_size / best.samples_per_s * 1e3
        lines = [
            f"A training step on {counted(self.batch_size, 'sample')} that takes longer than {batch_ms:.1f} ms does not wait for this loader "
            f"({best.name}: {best.samples_per_s:,.0f} samples/s; {self.near_samples_per_s:,.0f} would be decoded if all lay on this "
            "machine).",
            f"It is {bound}-bound: {self._reason(best)}.",
        ]
        lines += self._changes(best, bound)
        if self.busy_cores_of_others is not None and self.busy_cores_of_others > 0.1 * self.cores:
            lines.append(
                f"Other programs kept {self.busy_cores_of_others:.1f} of {self.cores} cores busy meanwhile: measure again when "
                "they do not."
            )
        return lines

    def _reason(self, run: Run) -> str:
        shares = " and ".join(
            f"{min(share, 1):.0%} of the {'CPU that other programs left' if what == 'CPU' else 'bandwidth that storage gave'}"
            for what, share in self.used(run).items()
        )
        asked = (
            f"{run.requests:.2g} requests and {run.nbytes / 1e3:,.0f} kB a sample, {self.probe.latency_ms:.0f} ms each"
        )
        return f"{asked}, {shares}" if shares else asked

    def _changes(self, best: Run, bound: str) -> Iterator[str]:
        others = [
            each for each in self.runs if (each.cache, each.workers) == (best.cache, best.workers) and each != best
        ]
        slower = min((each.samples_per_s for each in others), default=best.samples_per_s)
        if best.order != "global order" and best.samples_per_s > GAIN * slower:
            yield (
                f'Give Loader(shuffle="blocks"): it is {best.samples_per_s / slower:.1f} times as fast here as the global order, '
                "because it asks for neighbouring samples at once."
            )
        room = f"the store has {size_text(self.nbytes)}, the disk has {size_text(self.free_nbytes)} left"
        again = [each for each in self.runs if each.cache == "filled"]
        if again:
            most = max(each.samples_per_s for each in again)
            yield f"What lies in the cache comes at {most:,.0f} samples/s: so do later epochs, as far as the cache holds the store ({room})."
        elif bound != "CPU" or best.samples_per_s * GAIN < self.near_samples_per_s:
            yield (
                f"Give open_store(cache=DIR), or --cache here: from the second epoch on, what it holds is read as local files are ({room})."
            )
        if bound == "bandwidth":
            yield "Nearer storage, or a network with more bandwidth, would help; more workers would not."
        elif bound == "latency":
            yield "More workers, or larger batches, ask for more at a time: measure with --workers."
        elif self.backend == "fsspec" and best.cpu_us and best.cpu_us * self.roof_samples_per_s > 1.5e6:
            yield 'Half of the CPU and more goes into asking: pip install "vla-store[obstore]" takes less of it a request.'
        else:
            yield "More cores would help."

    def text(self) -> str:
        """Return figures and verdict for people, in several lines."""
        probe, view = self.probe, f", view {' and '.join(self.views)}" if self.views else ""
        rates = [
            f"{rate:,.0f} MB/s {of}"
            for rate, of in ((probe.one_mb_s, "a connection"), (probe.all_mb_s, "in all"))
            if rate
        ]
        lines = [
            f"{self.store}: {counted(self.rows, 'step')}, {counted(self.anchors, 'anchor')}, {size_text(self.nbytes)}, preset {self.preset}{view}",
            turns.wrapped(
                f"a sample: {self.windows}; {self.sample_nbytes:,} bytes; batches of {self.batch_size}", "  ", "    "
            ),
            f"  opened in {self.open_ms:.0f} ms by {self.backend}; cache: {self.cache or 'none'}",
            f"  a request takes {probe.latency_ms:.1f} ms (at most {probe.latency_most_ms:.1f})"
            + (f"; {', '.join(rates)}" if rates else ""),
            "",
            f"  {'':<40}{'samples/s':>10}{'requests':>10}{'kB':>8}{'CPU us':>8}{'first batch':>13}",
            f"  {'decoding alone, one process':<40}{self.roof_samples_per_s:>10,.0f}",
        ]
        for each in self.runs:
            spent = "-" if each.cpu_us is None else f"{each.cpu_us:,.0f}"
            lines.append(
                f"  {each.name:<40}{each.samples_per_s:>10,.0f}{each.requests:>10.3g}{each.nbytes / 1e3:>8,.0f}{spent:>8}"
                f"{each.first_batch_s:>11.2f} s"
            )
        retries = sum(each.retries for each in self.runs)
        again = f"; {counted(retries, 'request')} had to be made again" if retries else ""
        lines += ["", f"  all read the same: sha256 {self.digest[:16]}; {self.seconds:.0f} s{again}", ""]
        return "\n".join([*lines, *(turns.wrapped(each, "- ", "  ") for each in self.verdict())])


def measure(setting: Setting, plain: Samples, tried: tuple[int, ...], cache: str | None, talk: Talk) -> FarReport:
    """Measure each number of workers in both orders. Raises StoreDamaged where two ways to read disagree.

    plain: the samples without a cache. cache: the folder of the one that `setting` has.
    """
    store = setting.samples.store
    others = turns.Others()
    talk("asking storage for pictures and for large pieces")
    probe = _probe(plain, setting.size)
    talk("decoding alone")
    roof, digest = _roof(plain, setting.size)
    runs = []
    for workers in tried:
        ways = [(plain, order, "none") for order in ORDERS]
        if cache is not None:
            ways += [(setting.samples, "global order", kind) for kind in ("filling", "filled")]
        for samples, order, kind in ways:
            talk(f"Loader in {order}, {counted(workers, 'worker')}{CACHES[kind]}")
            runs.append(_run(samples, setting.size, order, workers, kind))
    return FarReport(
        **setting.described,
        open_ms=setting.open_ms,
        nbytes=store.nbytes,
        backend=plain.store.fetcher,
        probe=probe,
        roof_samples_per_s=roof,
        runs=tuple(runs),
        cache=cache,
        free_nbytes=shutil.disk_usage(cache or _temporary()).free,
        digest=digest,
        busy_cores_of_others=others.cores(),
        seconds=time.perf_counter() - setting.began,
    )


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()


def _probe(samples: Samples, size: int) -> Probe:
    storage = parts_of(samples.store).fetcher
    order = Order(len(samples), 0, 1).take(0, size)
    ranges = [each for each in samples.locate(order).ranges if each[2] > each[1]]
    took = [_took_s(storage, [ranges[at % len(ranges)]]) for at in range(PROBES + 1)]
    latency_s = statistics.median(took[1:])  # the first one connects
    pieces = _pieces(storage, sorted({key for key, _, _ in ranges}))
    one = _rate_mb_s(storage, pieces[:1], latency_s) if pieces else None
    # Twice: the first time, connections are made.
    both = [_rate_mb_s(storage, pieces, latency_s) for _ in range(2)] if len(pieces) > 1 else []
    return Probe(latency_s * 1e3, max(took[1:]) * 1e3, one, max(both, default=one or 0.0) or None)


def _pieces(storage: Storage, keys: list[str]) -> list[Range]:
    """Return large ranges that do not touch, so that none becomes one request with another."""
    made: list[Range] = []
    for key, size in zip(keys, storage.sizes(keys)):
        starts = range(0, (size or 0) - PIECE_NBYTES + 1, 2 * PIECE_NBYTES)
        made += [(key, start, start + PIECE_NBYTES) for start in starts]
    return made[:: max(1, len(made) // PIECES)][:PIECES]


def _took_s(storage: Storage, ranges: list[Range]) -> float:
    start = time.perf_counter()
    storage.read(ranges)
    return time.perf_counter() - start


def _rate_mb_s(storage: Storage, ranges: list[Range], latency_s: float) -> float:
    nbytes = sum(stop - start for _, start, stop in ranges)
    return nbytes / 1e6 / max(_took_s(storage, ranges) - latency_s, 1e-6)


def _roof(samples: Samples, size: int) -> tuple[float, str]:
    """Return the rate of decoding alone, and the digest of the first batch."""
    order = Order(len(samples), 0, 0).take(0, min(len(samples), ROOFS * size))
    out = samples.allocate(size)
    batches = [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
    digest = turns.digest(samples.batch(batches[0], out))
    works = [turns.roof_work(samples, each, out) for each in batches]
    rates = [turns.rate(works, lambda work: work(), size) for _ in range(turns.ROUNDS)]
    return statistics.median(rates), digest


def _run(samples: Samples, size: int, order: str, workers: int, cache: str) -> Run:
    """Return what a Loader does for a while; where the cache is filled: with the first batches, which it had before."""
    made = Batches(samples, batch_size=size, workers=workers, seed=0, shuffle=ORDERS[order])
    with contextlib.closing(made) as batches:
        # Before the Loader begins: meanwhile it would fetch ahead what is timed.
        expected = turns.digest(samples.batch(batches.epochs.order(0).take(0, size)))
        start = time.perf_counter()
        stream = iter(batches)
        first = next(stream)
        first_s = time.perf_counter() - start
        turns.check_same(f"a Loader in {order}", first, expected, samples.store.url)
        del first
        before, busy, begun, count = batches.counts.copy(), _cpu_s(), time.perf_counter(), 0
        while not count or time.perf_counter() - begun < 2 * turns.LOADER_S:
            try:
                count += len(next(stream)["step"])
            except StopIteration:
                if count:  # a store that is read in a moment: its later epochs are another measurement
                    break
                stream = iter(batches)
        took_s, spent = time.perf_counter() - begun, _cpu_s()
        counts = batches.counts.since(before)
    return Run(
        order=order,
        workers=workers,
        cache=cache,
        samples_per_s=count / took_s,
        first_batch_s=first_s,
        requests=counts.requests / count,
        nbytes=counts.fetched_nbytes / count,
        retries=counts.retries,
        cpu_us=None if busy is None or spent is None else (spent - busy) / count * 1e6,
    )


def _cpu_s() -> float | None:
    """Return the CPU seconds of this process and of all that it started, as they run now."""
    try:
        return sum(_ticks(pid) for pid in _family(os.getpid())) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # in user mode and in the kernel
