"""One turn of benchmarks/cloud.py, in a process of its own: what it is to read comes as JSON, what it measured goes as JSON.

It runs under older versions of the package too, and imports nothing of the benchmarks that those lack.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from typing import Any

from benchmarks import processes
from benchmarks.workload import BATCH, WINDOWS, digest

Turn = dict[str, Any]


def loader(turn: Turn) -> dict[str, Any]:
    """Epochs of a Loader. The clock runs from the first batch on, or, after epochs that are skipped, from there."""
    from vla_store.loader.batches import Batches

    began = time.perf_counter()
    samples = _samples(turn)
    options = {"shuffle": turn["shuffle"]} if "shuffle" in turn else {}
    batches = Batches(samples, batch_size=BATCH, workers=turn.get("workers", 2), drop_last=True, **options)
    try:
        stream = iter(batches)
        first = next(stream)
        first_s, since_start_s = time.perf_counter() - began, time.time() - turn["started_at"]
        first_cpu_s = sum(cpu_s(batches.pids()).values())
        digests = [digest(first)]
        del first
        earlier = 1
        for _ in range(turn.get("skipped_epochs", 0)):
            earlier += sum(1 for _ in stream)
            stream = iter(batches)
        busy, start, served, last = cpu_s(batches.pids()), time.perf_counter(), 0, None
        epochs = itertools.chain([stream], itertools.repeat(batches, turn.get("epochs", 1) - 1))
        first_rate = None  # of the first of these epochs
        for epoch in epochs:
            for last_one in itertools.islice(epoch, turn.get("batches")):
                served, last = served + 1, last_one
            first_rate = first_rate or served * BATCH / (time.perf_counter() - start)
        wall_s = time.perf_counter() - start
        cpu = {who: spent - busy.get(who, 0.0) for who, spent in cpu_s(batches.pids()).items()}
        digests.append(digest(last) if last is not None else "")
        traffic = {name: value for name, value in vars(batches.counts).items() if isinstance(value, (int, float))}
        return {
            "first_s": first_s,
            "since_start_s": since_start_s,
            "first_cpu_s": first_cpu_s,
            "samples": served * BATCH,
            "all_samples": (earlier + served) * BATCH,
            "wall_s": wall_s,
            "first_epoch_samples_per_s": first_rate,
            "cpu_s": cpu,
            "digests": digests,
            "stats": traffic,
        }
    finally:
        batches.close()


def batch(turn: Turn) -> dict[str, Any]:
    """`Samples.batch` in this process alone, after two batches that are not timed."""
    from vla_store.loader.order import Order

    began = time.perf_counter()
    samples = _samples(turn)
    order = Order(len(samples), 0, 0).take(0, (turn["batches"] + 2) * BATCH).reshape(-1, BATCH)
    out = samples.allocate(BATCH)
    digests = [digest(samples.batch(order[0], out))]
    first_s = time.perf_counter() - began
    samples.batch(order[1], out)
    busy, start = time.process_time(), time.perf_counter()
    for each in order[2:]:
        samples.batch(each, out)
    wall_s, spent = time.perf_counter() - start, time.process_time() - busy
    return {
        "first_s": first_s,
        "samples": turn["batches"] * BATCH,
        "all_samples": (turn["batches"] + 2) * BATCH,
        "wall_s": wall_s,
        "cpu_s": {"consumer": spent},
        "digests": [*digests, digest(out)],
    }


def _samples(turn: Turn) -> Any:
    import vla_store

    store = vla_store.open_store(turn["url"], **turn.get("options", {}))
    return vla_store.Samples(store, windows=WINDOWS, alignment="causal", images="as_stored")


def cpu_s(workers: list[int]) -> dict[str, float]:
    """CPU seconds until now of this process, of the Loader's workers, and of all others below it: whoever fetches."""
    others = [pid for pid in processes.below(os.getpid()) if pid not in workers]
    return {
        "consumer": processes.cpu_s([os.getpid()]),
        "workers": processes.cpu_s(workers),
        "fetcher": processes.cpu_s(others),
    }


def main() -> None:
    turn = json.loads(sys.argv[1])
    measured = {"loader": loader, "batch": batch}[turn["kind"]](turn)
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
