"""Bare processes that decode the batches of a loader: no ring, no order, no hand-over. What a loader is compared with.

Each has its own list of batches, waits for a word, decodes them into one reused batch (or does the roof's work), and says so.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Pass
from benchmarks.workload import BATCH, CAMERAS, Array, buffers, digest, units_of


class Bare:
    """`processes` of them. kind: "samples" (decode with `Samples.batch`) or "roof" (only the unavoidable work).

    indices: (n, B) anchors of the store, causal; process p does batches p, p + processes, ...
    """

    def __init__(self, kind: str, store: Path, sources: Path, indices: Array, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends, self._processes = [], []
        for number in range(processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, kind, str(store), str(sources), indices[number::processes])
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)
        for end in self._ends:
            end.recv()

    def turn(self, batches: int) -> Pass:
        """So many batches, divided among the processes: the clock until the last is done, and the CPU time of all."""
        count = batches // len(self._ends)
        start = time.perf_counter()
        for end in self._ends:
            end.send(("work", count))
        cpu = sum(end.recv() for end in self._ends)
        return Pass((time.perf_counter() - start,), (cpu,))

    def digests(self, batches: int) -> list[str]:
        """What was read of the first batches, in their order."""
        count = -(-batches // len(self._ends))
        for end in self._ends:
            end.send(("digests", count))
        found = [end.recv() for end in self._ends]
        return [found[at % len(found)][at // len(found)] for at in range(batches)]

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(10)


def _serve(end: Connection, kind: str, store: str, sources: str, indices: Array) -> None:
    from numcodecs import blosc

    blosc.use_threads = False
    works, result = _prepared(kind, store, sources, indices)
    for work in works[:8]:
        work()
    end.send("ready")
    while True:
        try:
            what, count = end.recv()
        except EOFError:
            return
        if what == "digests":
            found = []
            for work in works[:count]:
                work()
                found.append(digest(result))
            end.send(found)
        else:
            busy = time.process_time()
            for at in range(count):
                works[at % len(works)]()
            end.send(time.process_time() - busy)


def _prepared(kind: str, store: str, sources: str, indices: Array) -> tuple[list[Any], dict[str, Array]]:
    from benchmarks import roof
    from benchmarks.workload import WINDOWS
    from vla_store.reader.samples import Samples
    from vla_store.reader.store import open_store

    opened = open_store(store)
    if kind == "roof":
        picture = tuple(opened.parts[0][1].fields[CAMERAS[0]].fixed_shape)
        out = buffers(BATCH, picture)
        cameras = roof.locate(opened)
        units = [units_of(opened, Path(sources), each) for each in indices]
        return [roof.batch_work(cameras, opened, each, out) for each in units], out
    samples = Samples(opened, windows=WINDOWS, alignment="causal", images="as_stored")
    made = samples.allocate(indices.shape[1])
    for array in made.values():
        array.fill(1)
    return [lambda each=each: samples.batch(each, made) for each in np.ascontiguousarray(indices)], made
