"""One turn of benchmarks/loaders.py, in a process of its own and in the environment of whom it measures.

    python -m benchmarks.loaders_turn JSON

First with workers, from opening on: the first batch, then batches for some seconds. Then without, in this process: CPU time, and a
sha256 of every sample that is delivered, outside of what is timed. What is measured goes to stdout as JSON.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import processes
from benchmarks.loaders_rivals import RIVALS, Rival
from benchmarks.loaders_source import BATCH, FIELDS, Array, Source, digests, load

WORKERS = 2
SLOW_S = 3.0  # CPU time of a batch from which on opening files and filling caches and buffers is little of it


def cpu_s() -> float:
    """CPU seconds of this process and of all below it."""
    here = os.getpid()
    return processes.cpu_s([here, *processes.below(here)])


def served(stream: Iterator[Any], began: float, started_at: float, seconds: float, least: int) -> dict[str, Any]:
    """Batches of workers as fast as they come.

    The clock starts when each worker has given one, and stops after as many of each: what was ready before is not counted.
    """
    next(stream)
    first_s, since_start_s = time.perf_counter() - began, time.time() - started_at
    for _ in range(WORKERS - 1):
        next(stream)
    busy, start, batches = cpu_s(), time.perf_counter(), 0
    while batches < least or time.perf_counter() - start < seconds:
        for _ in range(WORKERS):
            next(stream)
        batches += WORKERS
    wall_s, spent = time.perf_counter() - start, cpu_s() - busy
    samples = batches * BATCH
    return {
        "first_s": first_s,
        "since_start_s": since_start_s,
        "samples_per_s": samples / wall_s,
        "us_with_workers": spent / samples * 1e6,
    }


def in_process(rival: Rival, source: Source, told: dict[str, Any], stream: Iterator[Any]) -> dict[str, Any]:
    """CPU time of batches made in this process, an epoch at most, and what they hold."""
    kind, found, lossy, spent, batches, is_warm = told["kind"], {}, None, 0.0, 0, False
    while not batches or (spent < told["seconds"] and batches < len(source) // BATCH):
        busy = time.process_time()
        batch = next(stream)
        took = time.process_time() - busy
        if not is_warm and took < SLOW_S:
            is_warm = True
            continue
        spent, batches, is_warm = spent + took, batches + 1, True
        plain = rival.plain(batch, kind)
        indices = _indices(source, plain)
        found |= dict(zip(indices.tolist(), digests(plain, kind)))
        lossy = lossy or _differences(source.batch(indices, kind), plain, kind)
    return {"us": spent / (batches * BATCH) * 1e6, "digests": found, **(lossy or {})}


def _indices(source: Source, plain: dict[str, Array]) -> Array:
    if "index" in plain:
        return plain["index"]
    return source.first[plain["episode"]] + plain["step"] - 1  # step 0 is no sample


def _differences(right: dict[str, Array], plain: dict[str, Array], kind: str) -> dict[str, Any]:
    """How far pictures are from the source's, in grey levels, and whether all else is equal."""
    errors = [right[name].astype(np.int16) - plain[name] for name in FIELDS[kind][:2]]
    mean = float(np.mean([np.abs(each).mean() for each in errors]))
    square = float(np.mean([np.square(each, dtype=np.float64).mean() for each in errors]))
    return {
        "grey_levels": mean,
        "psnr": None if not square else 10 * float(np.log10(255**2 / square)),
        "numbers_are_equal": all(np.array_equal(right[name], plain[name]) for name in FIELDS[kind][2:]),
    }


def main() -> None:
    told = json.loads(sys.argv[1])
    rival, source, folder = RIVALS[told["rival"]], load(Path(told["source"])), Path(told["folder"])
    if told["do"] == "make":
        assert rival.make is not None
        rival.make(source, folder, told["kind"], told["pictures"])
        return
    import torch

    torch.set_num_threads(1)  # as DataLoader's workers have it
    warnings.filterwarnings("ignore", message=".*not writable.*")

    def stream(workers: int) -> Iterator[Any]:
        return rival.stream(source, folder, told["kind"], told["pictures"], workers)

    began = time.perf_counter()
    with_workers = stream(WORKERS)
    measured = served(with_workers, began, told["started_at"], told["seconds"], told["least"])
    Path(told["over"]).touch()
    if hasattr(with_workers, "close"):
        with_workers.close()
    del with_workers
    gc.collect()
    measured |= in_process(rival, source, told, stream(0))
    measured["version"] = importlib.metadata.version(rival.package)
    print(json.dumps(measured), flush=True)
    os._exit(0)  # threads and shared memory of some take seconds to end


if __name__ == "__main__":
    main()
