"""How fast a store on this machine's disks is served: roof, batches, single samples, Loaders, and the waits of a consumer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vla_store.bench import turns
from vla_store.bench.turns import Array, Setting, Talk
from vla_store.loader.collate import collate
from vla_store.loader.order import Order
from vla_store.reader.samples import Samples
from vla_store.text import Report, counted

SHARE = 0.8  # of the best rate, which the consumer takes
CHECKED = 2  # batches that are hashed
COLD_SHARE = 0.05  # of what was read: from storage, above which the store counts as cold


@dataclass(frozen=True)
class LoaderRate:
    """Rate of a Loader with so many workers.

    Attributes
    ----------
    workers
        Number of worker processes.
    samples_per_s
        Samples per second, over one and a half seconds after the first batches.
    first_batch_s
        Seconds from the making of the Loader, with the start of its workers, to its first batch.
    """

    workers: int
    samples_per_s: float
    first_batch_s: float


@dataclass(frozen=True, repr=False)
class BenchReport(Report):
    """Measurements of one store on one machine.

    Attributes
    ----------
    store
        Absolute path or URL of the store.
    rows, anchors
        Numbers of steps and of anchors.
    preset
        Preset of the store; several, joined by " and ", where its parts differ; "unknown" where a part does not record
        it.
    windows
        Fields and offsets of a sample, as text.
    batch_size
        Samples in a batch; at most the number of anchors.
    sample_nbytes
        Bytes of the arrays of one sample.
    open_ms
        Milliseconds to open the store and to make its `Samples`.
    is_cold
        True if more than 5 % of `needed_nbytes` came from storage; None where the system does not tell.
    first_pass_samples_per_s
        Rate of the first pass: random batches, in one process, for about a second.
    storage_nbytes
        Bytes that the first pass made the system fetch from storage; None where the system does not tell.
    needed_nbytes
        Stored bytes that the first pass needed, by the average of a step.
    roof_samples_per_s
        Rate of decoding alone, into reused memory, where everything was located before; median of the rounds.
    batch_samples_per_s
        Rate of batches in one process; median of the rounds.
    single_samples_per_s
        Rate of samples one by one in one process: one over the mean time of a sample.
    single_p50_us, single_p99_us
        Median and 99 % quantile of the time of one sample, in microseconds.
    loaders
        Rate of a Loader for each number of workers that was tried.
    consumer_ms
        Milliseconds that the consumer works on each batch: it takes 80 % of the rate of the `best` Loader.
    wait_p50_ms, wait_p99_ms
        Median and 99 % quantile of the consumer's wait for a batch, in milliseconds.
    digest
        SHA-256 of a batch, its task texts aside, which all ways to read agree on.
    cores
        Number of CPU cores that this process may use.
    busy_cores_of_others
        Cores that other programs kept busy meanwhile, on average; None where the system does not tell.
    seconds
        Duration of the whole measurement.
    version
        Version of vla_store.
    views
        Names of the views whose samples were served; empty for all samples.
    quartiles
        {name of the rate: (25 %, 75 %)} of the rounds, of `roof_samples_per_s` and `batch_samples_per_s`.
    """

    store: str
    rows: int
    anchors: int
    preset: str
    windows: str
    batch_size: int
    sample_nbytes: int
    open_ms: float
    is_cold: bool | None
    first_pass_samples_per_s: float
    storage_nbytes: int | None
    needed_nbytes: int
    roof_samples_per_s: float
    batch_samples_per_s: float
    single_samples_per_s: float
    single_p50_us: float
    single_p99_us: float
    loaders: tuple[LoaderRate, ...]
    consumer_ms: float
    wait_p50_ms: float
    wait_p99_ms: float
    digest: str
    cores: int
    busy_cores_of_others: float | None
    seconds: float
    version: str
    views: tuple[str, ...] = ()
    quartiles: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def best(self) -> LoaderRate:
        """The fewest workers that come within a twentieth of the best rate."""
        return _best(self.loaders)

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the verdict and the versions that decide them, for programs.

        Returns
        -------
        dict
            The attributes by name; `verdict`; versions of Python, NumPy, numcodecs and google-crc32c; and the system.
        """
        return asdict(self) | {"verdict": self.verdict()} | turns.versions()

    def verdict(self) -> list[str]:
        """Return what the figures mean, in plain words.

        Returns
        -------
        list of str
            A sentence or two each.
        """
        best = self.best
        batch_ms = self.batch_size / best.samples_per_s * 1e3
        lines = [
            f"A training step on {counted(self.batch_size, 'sample')} that takes longer than {batch_ms:.1f} ms does not wait for this loader "
            f"({counted(best.workers, 'worker')}, {best.samples_per_s:,.0f} samples/s on {self.cores} cores).",
        ]
        share = self.batch_samples_per_s / self.roof_samples_per_s
        if share >= 0.75:
            lines.append(
                f"Decoding is {min(share, 1):.0%} of the work of a batch: faster means more cores, or another preset."
            )
        else:
            lines.append(
                f"Decoding is only {share:.0%} of the work of a batch; the rest is many small values or many windows."
            )
        most = max(each.workers for each in self.loaders)
        if best.workers == most and most >= self.cores:
            lines.append("Workers still help at as many as there are cores: more cores would help.")
        elif best.workers < most:
            lines.append(f"More workers than {best.workers} gain nothing here.")
        if self.is_cold:
            lines.append(
                "The store came from storage, not from memory: the first epoch runs at the speed of the disk "
                f"({self.first_pass_samples_per_s:,.0f} samples/s in one process). What fits in memory stays there; otherwise try "
                'open_store(..., fetcher="pread").'
            )
        elif self.is_cold is False:
            lines.append("The store was in memory already; right after a boot the first epoch is as slow as the disk.")
        if self.busy_cores_of_others is not None and self.busy_cores_of_others > 0.1 * self.cores:
            lines.append(
                f"Other programs kept {self.busy_cores_of_others:.1f} of {self.cores} cores busy meanwhile: measure again when "
                "they do not."
            )
        elif self.wait_p99_ms > 2 * batch_ms:
            lines.append(
                "Some batches came late, and not because of other programs: look at the memory, and at the disk."
            )
        return lines

    def text(self) -> str:
        """Return figures and verdict for people.

        Returns
        -------
        str
            Several lines.
        """

        def line(name: str, rate: float, more: str = "") -> str:
            return f"  {name:<28}{rate:>10,.0f}{rate / self.roof_samples_per_s:>9.2f} x{more}"

        if self.storage_nbytes is None:
            warmth = "unknown whether from memory"
        else:
            warmth = f"{'cold' if self.is_cold else 'warm'}: {self.storage_nbytes / 1e6:,.1f} MB from storage"
        view = f", view {' and '.join(self.views)}" if self.views else ""
        single = f"   p50 {self.single_p50_us:,.0f} us, p99 {self.single_p99_us:,.0f} us"
        return "\n".join(
            [
                f"{self.store}: {counted(self.rows, 'step')}, {counted(self.anchors, 'anchor')}, preset {self.preset}{view}",
                turns.wrapped(
                    f"a sample: {self.windows}; {self.sample_nbytes:,} bytes; batches of {self.batch_size}",
                    "  ",
                    "    ",
                ),
                f"  opened in {self.open_ms:.1f} ms; first pass {warmth}",
                "",
                f"  {'':<28}{'samples/s':>10}{'of roof':>11}",
                line("roof (decoding alone)", self.roof_samples_per_s),
                line("batches, one process", self.batch_samples_per_s),
                line("ds[i], one by one", self.single_samples_per_s, single),
                *(
                    line(
                        f"Loader, {counted(each.workers, 'worker')}",
                        each.samples_per_s,
                        f"   first batch after {each.first_batch_s * 1e3:,.0f} ms",
                    )
                    for each in self.loaders
                ),
                "",
                f"  a consumer that works {self.consumer_ms:.1f} ms on a batch waits {self.wait_p50_ms:.2f} ms for the next (p50), "
                f"{self.wait_p99_ms:.2f} ms (p99)",
                f"  all read the same: sha256 {self.digest[:16]}; {self.seconds:.0f} s",
                "",
                *(turns.wrapped(each, "- ", "  ") for each in self.verdict()),
            ]
        )


def measure(setting: Setting, tried: Sequence[int], talk: Talk) -> BenchReport:
    """Measure with each number of workers that is to be tried. Raises StoreDamaged where two ways to read disagree."""
    samples, size = setting.samples, setting.size
    out = samples.allocate(size)
    for array in out.values():
        array.fill(1)  # touched: a page's first write is not what is measured
    others = turns.Others()

    talk("reading for the first time")
    batches, first = _first_pass(samples, size, out)
    talk("one process: the roof, batches, single samples")
    digest = turns.digest(samples.batch(batches[0], out))
    alone = _one_process(samples, batches, out)
    loaders = []
    for count in tried:
        talk(f"Loader with {counted(count, 'worker')}")
        loaders.append(_loader_rate(samples, size, count, digest))
    best = _best(loaders)
    talk(f"a consumer at {SHARE:.0%} of that rate")
    period = size / best.samples_per_s / SHARE
    waits = _waits(samples, size, best.workers, period)
    return BenchReport(
        **setting.described,
        open_ms=setting.open_ms,
        **first,
        **alone,
        loaders=tuple(loaders),
        consumer_ms=period * 1e3,
        wait_p50_ms=turns.quantile(waits, 0.5) * 1e3,
        wait_p99_ms=turns.quantile(waits, 0.99) * 1e3,
        digest=digest,
        busy_cores_of_others=others.cores(),
        seconds=time.perf_counter() - setting.began,
    )


def _first_pass(samples: Samples, size: int, out: dict[str, Array]) -> tuple[list[Array], dict[str, Any]]:
    """Read random batches for a second; return those that it came to, and what the report says of them."""
    store = samples.store
    order = Order(len(samples), 0, 0).take(0, min(len(samples), 64 * size))
    before, start = _storage_nbytes(), time.perf_counter()
    batches: list[Array] = []
    for at in range(0, len(order) - size + 1, size):
        batches.append(order[at : at + size])
        samples.batch(batches[-1], out)
        if time.perf_counter() > start + 4 * turns.TURN_S:
            break
    rate = len(batches) * size / (time.perf_counter() - start)
    after = _storage_nbytes()
    fetched = None if before is None or after is None else after - before
    needed = round(store.nbytes / store.rows * len(batches) * size)
    return batches, {
        "is_cold": None if fetched is None else fetched > COLD_SHARE * needed,
        "first_pass_samples_per_s": rate,
        "storage_nbytes": fetched,
        "needed_nbytes": needed,
    }


def _one_process(samples: Samples, batches: Sequence[Array], out: dict[str, Array]) -> dict[str, Any]:
    """Return the report's rates of one process, by turns. Raises StoreDamaged where two ways to read disagree."""
    roof, size = [turns.roof_work(samples, each, out) for each in batches], len(batches[0])
    for at in range(min(CHECKED, len(batches))):
        expected = turns.digest(samples.batch(batches[at], out))
        roof[at]()
        turns.check_same("the roof", out, expected, samples.store.url)
        singles = [samples.sample(index) for index in batches[at].tolist()]
        turns.check_same("ds[i]", collate(singles), expected, samples.store.url)
    rates: dict[str, list[float]] = {"roof_samples_per_s": [], "batch_samples_per_s": []}
    single_us: list[float] = []
    for _ in range(turns.ROUNDS):
        rates["roof_samples_per_s"].append(turns.rate(roof, lambda work: work(), size))
        rates["batch_samples_per_s"].append(turns.rate(batches, lambda each: samples.batch(each, out), size))
        stop = time.perf_counter() + turns.TURN_S
        while time.perf_counter() < stop:
            for index in batches[0][:64].tolist():
                asked = time.perf_counter()
                samples.sample(index)
                single_us.append((time.perf_counter() - asked) * 1e6)
    return {
        **{name: statistics.median(each) for name, each in rates.items()},
        "quartiles": {name: (turns.quantile(each, 0.25), turns.quantile(each, 0.75)) for name, each in rates.items()},
        "single_samples_per_s": 1e6 / statistics.fmean(single_us),
        "single_p50_us": turns.quantile(single_us, 0.5),
        "single_p99_us": turns.quantile(single_us, 0.99),
    }


def _best(loaders: Sequence[LoaderRate]) -> LoaderRate:
    most = max(each.samples_per_s for each in loaders)
    return next(each for each in loaders if each.samples_per_s >= 0.95 * most)


def _loader_rate(samples: Samples, size: int, workers: int, expected: str) -> LoaderRate:
    start = time.perf_counter()
    with turns.batches(samples, size, workers) as stream:
        first = next(stream)
        first_s = time.perf_counter() - start
        turns.check_same(f"a Loader with {workers} workers", first, expected, samples.store.url)
        del first
        for _ in range(2 * workers):
            next(stream)
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() - start < turns.LOADER_S:
            count += len(next(stream)["step"])
        return LoaderRate(workers, count / (time.perf_counter() - start), first_s)


def _waits(samples: Samples, size: int, workers: int, period_s: float) -> list[float]:
    """Return the waits of a consumer that works so long on each batch; asleep, as one is whose work is a GPU's."""
    waits: list[float] = []
    with turns.batches(samples, size, workers) as stream:
        for _ in range(2 * workers):
            next(stream)
        stop = time.perf_counter() + 2 * turns.LOADER_S
        while time.perf_counter() < stop or len(waits) < 10:
            asked = time.perf_counter()
            batch = next(stream)
            waits.append(time.perf_counter() - asked)
            time.sleep(period_s)
            del batch
    return waits


def _storage_nbytes() -> int | None:
    """Return the bytes that this process has made the system fetch from storage."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("read_bytes:")), None)
