"""Recipes: CPU time of a sample made one by one and of whole batches made at once, in one run.

    python -m benchmarks.recipes [--quick] [--save] [--work FOLDER]

*In a slot* is all that a worker of the Loader does for a batch; *as a list* is what one of torch's DataLoader does before it
collates. Beside them, what reading the recipe's fields takes, of which nothing is made.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from benchmarks.measure import (
    Neighbours,
    Pass,
    Spread,
    arguments,
    cpu_ratio,
    environment,
    interleave,
    run,
    table,
    timed,
)
from benchmarks.reading import make_stores
from benchmarks.workload import BATCH, Array
from vla_store import recipes
from vla_store.loader.dataset import OneByOne
from vla_store.loader.packing import Room, pack, tree_nbytes, unpack, walk
from vla_store.loader.work import Job, Work

RECIPES: dict[str, Callable[[Path], Any]] = {
    "rdt, rdt_libero_finetune": lambda store: recipes.rdt(store, mapping="rdt_libero_finetune"),
    "rdt, hdf5_libero_s1": lambda store: recipes.rdt(store, mapping="hdf5_libero_s1"),
    "openvla, normalised": lambda store: recipes.openvla(store, normalize=True),
    "openvla_oft, normalised": lambda store: recipes.openvla_oft(store, normalize=True),
    "openpi": recipes.openpi,
    "diffusion_policy, normalised": lambda store: recipes.diffusion_policy(store, normalize=True),
    "act, normalised": lambda store: recipes.act(store, normalize=True),
    "libero": recipes.libero,
}
ONE_BY_ONE, AT_ONCE = "in a slot, one by one", "in a slot, at once"
ITEMS, LIST = "as a list, one by one", "as a list, at once"
READ = "fields read"
CONTENDERS = (ONE_BY_ONE, AT_ONCE, ITEMS, LIST, READ)
PAIRS = ((AT_ONCE, ONE_BY_ONE), (LIST, ITEMS))


class Indexed:
    """A recipe that can only be indexed: the Loader then makes its batches one by one."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]


def measure(demos: Path, work: Path, *, rounds: int, batches: int) -> dict[str, Any]:
    """Everything that benchmarks/results/recipes.json holds."""
    blosc.use_threads = False
    neighbours = Neighbours()
    store = make_stores(demos, work)["fast"]
    return {
        "recipes": {name: _measure_one(make, store, rounds, batches) for name, make in RECIPES.items()},
        "batch": BATCH,
        "batches": batches,
        "rounds": rounds,
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
    }


def _measure_one(make: Callable[[Path], Any], store: Path, rounds: int, batches: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what these demonstrations are not
        dataset = make(store)
    order = np.random.default_rng(0).permutation(len(dataset))
    count = min(batches, max(1, len(order) // BATCH))
    jobs = [Job(0, 0, at * BATCH, order[at * BATCH : (at + 1) * BATCH]) for at in range(count)]
    slot = np.ones(2 * tree_nbytes(dataset.batch([0]), BATCH), np.uint8)  # touched, as a ring's are
    works = {ONE_BY_ONE: Work(OneByOne(dataset, Indexed(dataset))), AT_ONCE: Work(dataset)}

    def packed(name: str, job: Job) -> Any:
        room = Room(slot)
        return pack(works[name].run(job, room.empty), room, {})

    digests = {name: [_digest(packed(name, job), slot) for job in jobs] for name in works}
    if digests[ONE_BY_ONE] != digests[AT_ONCE]:
        raise AssertionError(f"{type(dataset).__name__} makes other batches at once than one by one")
    contenders: dict[str, Callable[[Job], object]] = {
        ONE_BY_ONE: lambda job: packed(ONE_BY_ONE, job),
        AT_ONCE: lambda job: packed(AT_ONCE, job),
        ITEMS: lambda job: [dataset[index] for index in job.indices.tolist()],
        LIST: lambda job: dataset.__getitems__(job.indices.tolist()),
        READ: lambda job: dataset.batch_or_lists(job.indices),
    }
    passes = interleave({name: lambda each=each: timed(jobs, each) for name, each in contenders.items()}, rounds)  # type: ignore[misc]
    samples = sum(len(job.indices) for job in jobs)
    return {
        "cpu_us_per_sample": {
            name: Spread.of([turn.cpu() / samples * 1e6 for turn in found]).to_json() for name, found in passes.items()
        },
        "cpu_ratios": {f"{mine} / {other}": cpu_ratio(passes[mine], passes[other]).to_json() for mine, other in PAIRS},
        "saved": {mine: _saved(passes[mine], passes[other]).to_json() for mine, other in PAIRS},
        "digest": digests[AT_ONCE][0],
    }


def _saved(mine: list[Pass], other: list[Pass]) -> Spread:
    """The share of the other's CPU time that is not needed, round by round."""
    return Spread.of([1 - a.cpu() / b.cpu() for a, b in zip(mine, other)])


def _digest(packed: Any, slot: Array) -> str:
    """sha256 over a batch as its consumer gets it."""
    total = hashlib.sha256()

    def leaf(value: Any) -> None:
        if isinstance(value, np.ndarray):
            total.update(f"{value.dtype.str} {value.shape}\n".encode())
            total.update(np.ascontiguousarray(value).tobytes())
        else:
            total.update(f"{value!r}\n".encode())

    walk(unpack(packed, slot, list(packed.new), copy=False), leaf)
    return total.hexdigest()


def summary(result: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = [
        [
            name,
            *(f"{each['cpu_us_per_sample'][what]['median']:.0f}" for what in CONTENDERS),
            _percent(each["saved"][AT_ONCE]),
        ]
        for name, each in result["recipes"].items()
    ]
    return table(["CPU us a sample", *CONTENDERS, "saved in a slot"], rows)


def _percent(spread: dict[str, float]) -> str:
    return f"{spread['median']:.0%} ({spread['low']:.0%}-{spread['high']:.0%})"


def main() -> None:
    run(
        "recipes",
        arguments(__doc__.splitlines()[0], rounds=11),
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=3 if options.quick else options.rounds,
            batches=1 if options.quick else 6,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
