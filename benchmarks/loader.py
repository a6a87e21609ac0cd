"""The Loader: against bare processes, the roof and torch's DataLoader; waits, memory, and what changes with its options.

    python -m benchmarks.loader [--quick] [--save] [--work FOLDER]

The samples are those of benchmarks/reading.py, every step many times an epoch, so that a pass is long enough to be timed. CPU
time is that of all processes: the workers' and the consumer's own. Needs Linux, which tells both of other processes.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from benchmarks import cold, processes, roof, transforms
from benchmarks.bare import Bare
from benchmarks.measure import (
    Neighbours,
    Pass,
    Spread,
    arguments,
    cpu_ratio,
    environment,
    interleave,
    run,
    speed_ratio,
    table,
)
from benchmarks.reading import CHECKED, make_stores
from benchmarks.workload import BATCH, CAMERAS, WINDOWS, Array, buffers, digest, units_of

LOADER = "Loader, 2 workers"
SHARE = 0.8  # of the Loader's rate, which a consumer takes
SKIPPED = 8  # batches at the start of a pass, untimed: the workers are not all at work yet
HASHED = 6  # batches of every contender
CORE_BATCHES = 64  # that the roof prepares


@dataclass(frozen=True)
class Setting:
    """Stores by preset; the samples of one, every step `copies` times; and a pass of the Loader's own order over them."""

    stores: dict[str, Path]
    sources: Path
    copies: int

    def samples(self, preset: str = "fast", **options: Any) -> Any:
        import vla_store

        opening = {name: options.pop(name) for name in ("fetcher", "check") if name in options}
        store = vla_store.open_store(self.stores[preset], **opening)
        return vla_store.Samples(store, **self._given | options)

    def dataset(self, preset: str = "fast", **options: Any) -> Any:
        from vla_store.torch import StepDataset

        return StepDataset(self.stores[preset], **self._given | options)

    @property
    def rows(self) -> int:
        import vla_store

        return vla_store.open_store(self.stores["fast"]).rows

    @property
    def _given(self) -> dict[str, Any]:
        rows = np.tile(np.arange(self.rows), self.copies) if self.copies > 1 else None
        return {"windows": WINDOWS, "alignment": "causal", "images": "as_stored", "rows": rows}


class Loaded:
    """A Loader, its workers started. Each turn begins the same epoch anew."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        from vla_store.torch import Loader

        start = time.perf_counter()
        self.loader = Loader(dataset, **{"batch_size": BATCH, "seed": 0, "drop_last": True} | options)
        self._begin = self.loader.state_dict()
        self._size = self.loader.batch_size
        next(iter(self.loader))
        self.started_s = time.perf_counter() - start

    def turn(self, batches: int) -> Pass:
        """So many batches as fast as they come; seconds a sample."""
        with self._stream(SKIPPED) as stream:
            pids = self.pids
            busy, start = time.process_time() + processes.cpu_s(pids), time.perf_counter()
            for _ in range(batches):
                next(stream)
            stop, done = time.perf_counter(), time.process_time() + processes.cpu_s(pids)
        samples = batches * self._size
        return Pass(((stop - start) / samples,), ((done - busy) / samples,))

    def consumed(self, batches: int, period_s: float) -> tuple[float, list[float]]:
        """Batches for a consumer that works (sleeps, as one that waits for its GPU) so long on each: seconds, and its waits."""
        with self._stream(SKIPPED) as stream:
            return consume(stream, batches, period_s)

    def digests(self) -> list[str]:
        with self._stream(0) as stream:
            return [digest_of(next(stream)) for _ in range(HASHED)]

    def first_s(self) -> float:
        """Seconds from the start of a pass to its first batch."""
        start = time.perf_counter()
        with self._stream(0) as stream:
            next(stream)
            return time.perf_counter() - start

    @property
    def pids(self) -> list[int]:
        return self.loader.pids()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _stream(self, skipped: int) -> Iterator[Any]:
        self.loader.load_state_dict(self._begin)
        stream = iter(self.loader)
        try:
            for _ in range(skipped):
                next(stream)
            yield stream
        finally:
            stream.close()  # type: ignore[attr-defined]
            settle(self.pids)

    def close(self) -> None:
        self.loader.close()


class TorchLoaded:
    """torch's DataLoader over a StepDataset, with the batches of the Loader: workers that stay, whole batches decoded at once."""

    def __init__(self, dataset: Any, batches: int, batch_size: int = BATCH, workers: int = 2) -> None:
        from torch.utils.data import DataLoader

        from vla_store.torch import collate

        start = time.perf_counter()
        # A few more than are timed, so that the pipeline is full to the end.
        count = min(batches + SKIPPED + 4, len(dataset) // batch_size)
        self._indices = loader_order(len(dataset), count, batch_size).tolist()
        self._size = batch_size
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._indices,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
        )
        self._workers = workers
        next(iter(self._loader))
        self.started_s = time.perf_counter() - start

    def turn(self, batches: int) -> Pass:
        stream = iter(self._loader)
        for _ in range(SKIPPED):
            next(stream)
        pids = [each.pid for each in stream._workers] if self._workers else []  # type: ignore[attr-defined]
        busy, start = time.process_time() + processes.cpu_s(pids), time.perf_counter()
        for _ in range(batches):
            next(stream)
        stop, done = time.perf_counter(), time.process_time() + processes.cpu_s(pids)
        for _ in stream:
            pass
        samples = batches * self._size
        return Pass(((stop - start) / samples,), ((done - busy) / samples,))

    def digests(self) -> list[str]:
        made = []
        for at, batch in enumerate(self._loader):
            if at < HASHED:
                made.append(digest_of(batch))
        return made

    def first_s(self) -> float:
        start = time.perf_counter()
        stream = iter(self._loader)
        next(stream)
        found = time.perf_counter() - start
        for _ in stream:
            pass
        return found

    def memory(self) -> list[processes.Memory]:
        workers = self._loader._iterator._workers  # type: ignore[union-attr]
        return [processes.memory(each.pid) for each in workers]

    def close(self) -> None:
        self._loader._iterator = None  # ends the workers


def consume(stream: Iterator[Any], batches: int, period_s: float) -> tuple[float, list[float]]:
    """Takes batches from a stream, each to be worked on for a period; seconds in all, and the wait for each batch."""
    waits = []
    start = free = time.perf_counter()  # `free`: when the work on the batch before is done
    for _ in range(batches):
        asked = time.perf_counter()
        batch = next(stream)
        got = time.perf_counter()
        waits.append(got - asked)
        # A sleep that was too long is made good by the next one, as a GPU's queue would.
        free = max(free, got) + period_s if got - asked > period_s / 4 else free + period_s
        time.sleep(max(0.0, free - time.perf_counter()))
        del batch
    return time.perf_counter() - start, waits


def settle(pids: list[int]) -> None:
    """Until the workers have done what they were given: what a pass leaves behind is not the next contender's."""
    used = processes.cpu_s(pids)
    for _ in range(2_000):
        time.sleep(0.01)
        before, used = used, processes.cpu_s(pids)
        if used - before < 0.0005:
            return


def digest_of(batch: Any) -> str:
    return digest({key: value.numpy() for key, value in batch.items() if hasattr(value, "numpy")})


def loader_order(rows: int, batches: int, batch_size: int = BATCH) -> Array:
    """(batches, B): the first batches of a Loader with seed 0 over so many rows."""
    from vla_store.loader.order import Order

    return Order(rows, 0, 0).take(0, batches * batch_size).reshape(batches, batch_size)


# --- the rows of the design ---------------------------------------------------------------------------------------------


def measure_rate(setting: Setting, stack: contextlib.ExitStack, rounds: int, batches: int) -> dict[str, Any]:
    """Samples a second and CPU time a sample of the contenders, and the waits of a consumer slower than the Loader.

    stack: closes them, should one of them fail.
    """
    samples = setting.samples()
    anchors = len(samples) // setting.copies
    indices = loader_order(len(samples), max(batches, HASHED)) % anchors
    expected = [digest(setting.samples(rows=None).batch(each)) for each in indices[:HASHED]]
    fast = setting.stores["fast"]
    opened = samples.store
    out = buffers(BATCH, tuple(opened.parts[0][1].fields[CAMERAS[0]].fixed_shape))
    cameras = roof.locate(opened)
    units = [units_of(opened, setting.sources, each) for each in indices[: min(CORE_BATCHES, batches)]]
    works, checking = (
        [roof.batch_work(cameras, opened, each, out, checked=checked) for each in units] for checked in (False, True)
    )

    def roof_turn(works: list[Callable[[], None]]) -> Pass:
        busy, start = time.process_time(), time.perf_counter()
        for work in works:
            work()
        stop, done = time.perf_counter(), time.process_time()
        count = len(works) * BATCH
        return Pass(((stop - start) / count,), ((done - busy) / count,))

    loaders = {f"Loader, {n} worker{'s' * (n != 1)}": Loaded(samples, workers=n) for n in (0, 1, 2)}
    loaders[LOADER + CHECKED] = Loaded(setting.samples(check="every"), workers=2)
    slow = max(HASHED, batches // 3)
    torch_loader = TorchLoaded(setting.dataset(), slow)
    bare = Bare("samples", fast, setting.sources, indices, 2)
    roofs = Bare("roof", fast, setting.sources, indices[:CORE_BATCHES], 2)
    for each in (*loaders.values(), torch_loader, bare, roofs):
        stack.callback(each.close)
    everyone = {name: each.digests for name, each in loaders.items()} | {
        "DataLoader": torch_loader.digests,
        "bare": lambda: bare.digests(HASHED),
        "roofs": lambda: roofs.digests(HASHED),
    }

    def check() -> None:
        for name, found in everyone.items():
            if found() != expected:
                raise AssertionError(f"{name} reads other bytes")
        for at, work in enumerate(works[:HASHED]):
            work()
            if digest(out) != expected[at]:
                raise AssertionError("the roof reads other bytes")

    check()
    waits: list[list[float]] = []
    shares: list[float] = []
    replays: list[float] = []
    two = loaders[LOADER]
    last: dict[str, Pass] = {}

    def consumer() -> Pass:
        """At 80 % of what the Loader has just given; and the same with one batch again and again, which is never waited for."""
        batch_s = last["fast"].wall() * BATCH
        period = batch_s / SHARE
        busy = time.process_time() + processes.cpu_s(two.pids)
        took, found = two.consumed(batches, period)
        done = time.process_time() + processes.cpu_s(two.pids)
        replayed, _ = consume(_again(object()), batches, period)
        waits.append([each / batch_s for each in found])
        shares.append(batches * batch_s / took)
        replays.append(replayed / took)
        return Pass((took / batches / BATCH,), ((done - busy) / batches / BATCH,))

    def fast_turn() -> Pass:
        last["fast"] = two.turn(batches)
        return last["fast"]

    last["fast"] = two.turn(batches)
    contenders: dict[str, Callable[[], Pass]] = {
        LOADER: fast_turn,
        "Loader, 1 worker": lambda: loaders["Loader, 1 worker"].turn(batches // 2),
        "Loader, 0 workers": lambda: loaders["Loader, 0 workers"].turn(slow),
        "two bare processes": lambda: _per_sample(bare.turn(batches - batches % 2), batches - batches % 2),
        "DataLoader, 2 workers": lambda: torch_loader.turn(slow),
        "roof": lambda: roof_turn(works),
        LOADER + CHECKED: lambda: loaders[LOADER + CHECKED].turn(batches // 2),
        "roof" + CHECKED: lambda: roof_turn(checking),
        "two roofs at once": lambda: _per_sample(roofs.turn(len(works) - len(works) % 2), len(works) - len(works) % 2),
        f"Loader, a consumer at {SHARE:.0%} of its rate": consumer,
    }
    gc.collect()
    gc.freeze()  # the prepared work is thousands of objects, which the collector would visit on everybody's time
    passes = interleave(contenders, rounds)
    gc.unfreeze()
    check()
    for each in (*loaders.values(), torch_loader, bare, roofs):
        each.close()
    return {
        "passes": passes,
        "digest": expected[0],
        "consumer": {
            "batches": batches * rounds,
            "share_of_the_rate": Spread.of(shares).to_json(),
            "of_a_replayed_batch": Spread.of(replays).to_json(),
            "wait_in_batches": {
                name: Spread.of([float(np.quantile(each, share)) for each in waits]).to_json()
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("longest", 1.0))
            },
        },
    }


def _again(value: Any) -> Iterator[Any]:
    while True:
        yield value


def _per_sample(turn: Pass, batches: int) -> Pass:
    return Pass((turn.wall() / batches / BATCH,), (turn.cpu() / batches / BATCH,))


# --- one option at a time -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A Loader with one thing changed, and torch's DataLoader with the same, where they are compared.

    part: a pass is of so small a part of the others' rows, because it takes so much longer.
    """

    name: str
    preset: str = "fast"
    dataset: tuple[tuple[str, Any], ...] = ()
    batch_size: int = BATCH
    transform: Callable[..., Any] | None = None
    with_torch: bool = False
    part: int = 1


FRAME = {"agentview_rgb": 0, "eye_in_hand_rgb": 0, "robot_states": 0, "actions": range(16)}
VARIANTS = (
    Variant("as it is", with_torch=True),
    Variant("preset raw", preset="raw"),
    Variant("preset small", preset="small"),
    Variant("upright", dataset=(("images", "upright"),)),
    Variant("one frame a camera, 16 actions", dataset=(("windows", FRAME),)),
    Variant("batches of 8", batch_size=8),
    Variant("batches of 256", batch_size=256),
    Variant("resize to 224", transform=transforms.resize_224, with_torch=True, part=8),
    Variant(
        "SigLIP 384, float32, batches of 16", batch_size=16, transform=transforms.siglip_384, with_torch=True, part=32
    ),
)


def measure_variants(
    setting: Setting, stack: contextlib.ExitStack, variants: tuple[Variant, ...], rounds: int, rows: int
) -> dict[str, Any]:
    """Passes by variant. rows: samples of a pass."""
    passes: dict[str, list[Pass]] = {}
    for variant in variants:
        if variant.transform is not None and not _has_pillow():
            continue
        batches = max(4, rows // variant.part // variant.batch_size)
        options = {"workers": 2, "batch_size": variant.batch_size}
        dataset = dict(variant.dataset)
        loaded = Loaded(setting.samples(variant.preset, **dataset), transform=variant.transform, **options)
        stack.callback(loaded.close)
        contenders: dict[str, Callable[[], Pass]] = {variant.name: lambda: loaded.turn(batches)}  # noqa: B023
        other = None
        if variant.with_torch:
            wrapped = None if variant.transform is None else transforms.OfTensors(variant.transform)
            other = TorchLoaded(
                setting.dataset(variant.preset, transform=wrapped, **dataset), batches, variant.batch_size
            )
            stack.callback(other.close)
            if other.digests() != loaded.digests():
                raise AssertionError(f"{variant.name}: Loader and DataLoader give other bytes")
            contenders[f"{variant.name}, DataLoader"] = lambda: other.turn(batches)  # type: ignore[union-attr]  # noqa: B023
        passes |= interleave(contenders, rounds, seed=2)
        loaded.close()
        if other is not None:
            other.close()
    return passes


def _has_pillow() -> bool:
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


# --- start, memory, cold ------------------------------------------------------------------------------------------------


def measure_start(setting: Setting, rounds: int) -> dict[str, Any]:
    """Seconds to the first batch of a new loader, and to that of a later epoch; and of a first epoch, warm and cold."""
    whole = Setting(setting.stores, setting.sources, 1)
    files = cold.files_below(setting.stores["fast"])
    cold.sync(files)
    found: dict[str, list[float]] = {}
    read: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in ("Loader", "DataLoader"):
            made = Loaded(whole.samples(), workers=2) if name == "Loader" else TorchLoaded(whole.dataset(), 8)
            found.setdefault(f"{name}, new, first batch", []).append(made.started_s)
            found.setdefault(f"{name}, a later epoch, first batch", []).append(made.first_s())
            made.close()
        for fetcher in ("mmap", "pread"):
            for warmth in ("warm", "cold"):
                if warmth == "cold":
                    cold.drop(files)
                else:
                    for path in files:
                        path.read_bytes()
                name = f"first epoch, {warmth}, {fetcher}"
                seconds, nbytes = _first_epoch(whole.samples(fetcher=fetcher))
                found.setdefault(name, []).append(seconds)
                read.setdefault(name, []).append(nbytes)
    return {
        "seconds": {name: Spread.of(each).to_json() for name, each in found.items()},
        "storage_nbytes_per_sample": {name: Spread.of(each).to_json() for name, each in read.items()},
    }


def _first_epoch(samples: Any) -> tuple[float, float]:
    """Seconds from the first batch to the last of a new Loader, and bytes from storage per sample."""
    from vla_store.torch import Loader

    with Loader(samples, batch_size=BATCH, seed=0, workers=2) as loader:
        stream = iter(loader)
        next(stream)
        start, rows = time.perf_counter(), 0
        for batch in stream:
            rows += len(batch["step"])
        seconds = time.perf_counter() - start
        nbytes = sum(cold.storage_nbytes(pid) for pid in loader.pids())
    return seconds, nbytes / (rows + BATCH)


def measure_memory(setting: Setting, epochs: int, batches: int, ranks: int = 8) -> dict[str, Any]:
    """Memory of each worker after every epoch; of a DataLoader's; and of so many ranks with 2 workers each."""
    from vla_store.torch import Loader

    samples = setting.samples()
    with Loader(samples, batch_size=BATCH, seed=0, workers=2) as loader:
        after = []
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            stream = iter(loader)
            for _ in range(batches):
                next(stream)
            stream.close()  # type: ignore[attr-defined]
            pids = loader.pids()
            settle(pids)
            after.append([processes.memory(pid) for pid in pids])
        ring = _ring_nbytes(loader)
    torch_loader = TorchLoaded(setting.dataset(), batches)
    torch_loader.turn(batches)
    theirs = torch_loader.memory()
    torch_loader.close()
    everyones = [Loader(samples, batch_size=BATCH, seed=0, workers=2, rank=at, world_size=ranks) for at in range(ranks)]
    streams = [iter(each) for each in everyones]
    for _ in range(3):
        for stream in streams:
            next(stream)
    everyone = [processes.memory(pid) for each in everyones for pid in each.pids()]
    rings = sum(map(_ring_nbytes, everyones))
    for each in everyones:
        each.close()
    privates = [max(each.private for each in workers) for workers in after]
    return {
        "epochs": epochs,
        "batches_per_epoch": batches,
        "private_nbytes": privates,
        "rss_peak_nbytes": max(each.peak for each in after[-1]),
        "pss_nbytes": [max(each.pss for each in workers) for workers in after],
        "growth": round(privates[-1] / privates[min(1, len(privates) - 1)], 4),
        "ring_nbytes": ring,
        "dataloader": {
            "private_nbytes": max(each.private for each in theirs),
            "pss_nbytes": max(each.pss for each in theirs),
            "rss_peak_nbytes": max(each.peak for each in theirs),
        },
        "ranks": {
            "ranks": ranks,
            "workers": len(everyone),
            "private_nbytes": sum(each.private for each in everyone),
            "pss_nbytes": sum(each.pss for each in everyone),
            "rss_nbytes": sum(each.rss for each in everyone),
            "rings_nbytes": rings,
        },
    }


def _ring_nbytes(loader: Any) -> int:
    ring = loader.processes.pool._ring
    return int(ring.slots * ring.slot_nbytes)


# --- all of it ----------------------------------------------------------------------------------------------------------

RATIOS = (
    (LOADER, "two bare processes"),
    (LOADER, "DataLoader, 2 workers"),
    (LOADER, "Loader, 1 worker"),
    (LOADER, "Loader, 0 workers"),
    (LOADER, "two roofs at once"),
    ("two bare processes", "two roofs at once"),
    (LOADER, "roof"),
    (LOADER, "roof" + CHECKED),
    (LOADER + CHECKED, "roof" + CHECKED),
    *((each.name, f"{each.name}, DataLoader") for each in VARIANTS if each.with_torch),
)


def rows_of_the_design(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Section 8's rows that this benchmark measures: what, target, measured, met."""
    ratios, cpu = result["ratios"], result["cpu_ratios"]

    def at_least(what: str, limit: float, other: str) -> dict[str, Any]:
        name = f"{LOADER} / {other}"
        return {
            "what": what,
            "target": f">= {limit:g} x",
            "measured": ratios[name],
            "by_cpu": cpu[name],
            "met": ratios[name]["median"] >= limit,
            "mine": LOADER,
            "other": other,
        }

    def at_most(what: str, target: str, measured: dict[str, Any], met: bool, other: str) -> dict[str, Any]:
        return {"what": what, "target": target, "measured": measured, "met": met, "mine": LOADER, "other": other}

    def more_cpu(other: str, mine: str = LOADER) -> dict[str, Any]:
        return {name: _inverse(value, name) for name, value in _turned(cpu[f"{mine} / {other}"]).items()}

    waits = result["consumer"]["wait_in_batches"]
    memory = result["memory"]
    least, most = min(memory["private_nbytes"][1:]), max(memory["private_nbytes"][1:])
    return [
        at_least("`Loader`, 2 workers, of two bare processes", 0.9, "two bare processes"),
        at_least("against torch DataLoader with 2 workers over the same dataset", 4, "DataLoader, 2 workers"),
        at_most(
            "CPU time per sample, `Loader`, all processes, of that of the design's roof, which checks each crc32c",
            "<= 1.25 x",
            more_cpu("roof" + CHECKED),
            more_cpu("roof" + CHECKED)["median"] <= 1.25,
            "roof" + CHECKED,
        ),
        at_most(
            "the same, of a roof that checks none, as a warm worker does",
            "<= 1.25 x",
            more_cpu("roof"),
            more_cpu("roof")["median"] <= 1.25,
            "roof",
        ),
        at_most(
            "the same, of two roofs at once, which share the machine's memory as workers do",
            "<= 1.25 x",
            more_cpu("two roofs at once"),
            more_cpu("two roofs at once")["median"] <= 1.25,
            "two roofs at once",
        ),
        at_most(
            'the same, of one roof, with each crc32c checked (`check="every"`, and so the roof)',
            "<= 1.25 x",
            more_cpu("roof" + CHECKED, LOADER + CHECKED),
            more_cpu("roof" + CHECKED, LOADER + CHECKED)["median"] <= 1.25,
            "roof",
        ),
        at_most(
            f"wait of a consumer that takes {SHARE:.0%} of the `Loader`'s rate, p99",
            "< 2 batches' time",
            waits["p99"],
            waits["p99"]["median"] < 2,
            "consumer",
        ),
        at_most(
            f"private memory per worker, epochs 2 to {memory['epochs']}, most over least",
            "flat: <= 1.05",
            {"median": round(most / least, 4)},
            most / least <= 1.05,
            "memory",
        ),
    ]


def _turned(spread: dict[str, Any]) -> dict[str, Any]:
    """A spread of ratios as that of the inverse ratios: what was least is most."""
    names = {"median": "median", "low": "high", "high": "low", "least": "most", "most": "least", "count": "count"}
    return {name: spread[other] for name, other in names.items()}


def _inverse(value: float, name: str) -> float:
    return value if name == "count" else float(f"{1 / value:.5g}")


def measure(demos: Path, work: Path, **options: Any) -> dict[str, Any]:
    """Everything that benchmarks/results/loader.json holds."""
    with contextlib.ExitStack() as stack:
        return _measure(stack, demos, work, **options)


def _measure(
    stack: contextlib.ExitStack,
    demos: Path,
    work: Path,
    *,
    rounds: int,
    batches: int,
    copies: int,
    epochs: int,
    variant_rows: int,
    variants: tuple[Variant, ...] = VARIANTS,
    ranks: int = 8,
) -> dict[str, Any]:
    blosc.use_threads = False
    neighbours = Neighbours()
    setting = Setting(make_stores(demos, work), demos, copies)
    rate = measure_rate(setting, stack, rounds, batches)
    passes: dict[str, list[Pass]] = rate["passes"]
    passes |= measure_variants(setting, stack, variants, max(2, rounds // 2), variant_rows)
    pairs = [(mine, other) for mine, other in RATIOS if mine in passes and other in passes]
    result: dict[str, Any] = {
        "batch_size": BATCH,
        "batches": batches,
        "rounds": rounds,
        "steps": setting.rows,
        "digest": rate["digest"],
        "consumer": rate["consumer"],
        "contenders": {
            name: {
                "us_per_sample": Spread.of([turn.wall() * 1e6 for turn in each]).to_json(),
                "cpu_us_per_sample": Spread.of([turn.cpu() * 1e6 for turn in each]).to_json(),
            }
            for name, each in passes.items()
        },
        "ratios": {f"{mine} / {other}": speed_ratio(passes[mine], passes[other]).to_json() for mine, other in pairs},
        "cpu_ratios": {f"{mine} / {other}": cpu_ratio(passes[mine], passes[other]).to_json() for mine, other in pairs},
        "start": measure_start(setting, max(2, rounds // 2)),
        "memory": measure_memory(setting, epochs, batches, ranks),
    }
    result["rows"] = rows_of_the_design(result)
    result["environment"] = environment() | {"busy_cores_of_others": neighbours.cores()}
    return result


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""

    def shown(spread: dict[str, Any]) -> str:
        if "low" not in spread:
            return f"{spread['median']:.3g}"
        return f"{spread['median']:.3g} ({spread['low']:.3g}-{spread['high']:.3g})"

    contenders = [
        [
            name,
            f"{1e6 / each['us_per_sample']['median']:,.0f}",
            shown(each["us_per_sample"]),
            shown(each["cpu_us_per_sample"]),
        ]
        for name, each in result["contenders"].items()
    ]
    rows = [
        [row["what"], row["target"], shown(row["measured"]), "met" if row["met"] else "NOT MET"]
        for row in result["rows"]
    ]
    memory = result["memory"]
    starts = [[name, shown(each)] for name, each in result["start"]["seconds"].items()]
    waits = ", ".join(f"{name} {shown(each)}" for name, each in result["consumer"]["wait_in_batches"].items())
    return "\n\n".join(
        [
            table(["contender", "samples/s", "us a sample (quartiles)", "CPU us"], contenders),
            table(
                ["speed ratio", "median (quartiles)"], [[name, shown(each)] for name, each in result["ratios"].items()]
            ),
            table(["seconds to", ""], starts),
            f"waits in batches' time: {waits}; of a replayed batch: {shown(result['consumer']['of_a_replayed_batch'])}",
            f"private MB of a worker by epoch: {', '.join(f'{each / 1e6:.1f}' for each in memory['private_nbytes'])}; "
            f"8 ranks x 2 workers: {memory['ranks']['private_nbytes'] / 1e6:.0f} MB private, "
            f"{memory['ranks']['pss_nbytes'] / 1e6:.0f} MB shared fairly",
            table(["design, section 8", "to reach", "measured", ""], rows),
            f"all read the same bytes; others kept {result['environment']['busy_cores_of_others']} cores busy meanwhile",
        ]
    )


def main() -> None:
    if sys.platform != "linux":
        raise SystemExit("this benchmark reads the CPU time and memory of other processes from /proc: it needs Linux")
    run(
        "loader",
        arguments(__doc__.splitlines()[0], rounds=7),
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=3 if options.quick else options.rounds,
            batches=30 if options.quick else 300,
            copies=8 if options.quick else 12,
            epochs=3 if options.quick else 8,
            variant_rows=2_000 if options.quick else 8_000,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
