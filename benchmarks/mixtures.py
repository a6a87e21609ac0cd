"""A Loader over a mixture of stores against one over a single store of the same samples: rate, CPU time, memory.

    python -m benchmarks.mixtures [--quick] [--save] [--work FOLDER]

Each suite of the demonstrations is a store of its own, and all of them together are one. Weights are by steps, so that both Loaders give
every step once an epoch. The samples are those of benchmarks/reading.py, every step many times an epoch. Plain samples are decoded where
the batch lies; items of a recipe are made part by part, and copied together.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from benchmarks import processes
from benchmarks.loader import Loaded
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
from benchmarks.reading import make_stores
from benchmarks.workload import BATCH, WINDOWS

RATE = 0.95  # of one store, which a mixture is to reach
GROWTH = 1.05  # of a worker's memory over epochs


def make_parts(demos: Path, work: Path) -> list[Path]:
    """A store of each suite; found again if it is there."""
    from vla_store.builder import build_store

    made = []
    for suite in sorted(each for each in demos.iterdir() if any(each.glob("*.hdf5"))):
        path = work / "stores" / "parts" / f"{suite.name}.vla"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            build_store([suite], path, preset="fast")
        made.append(path)
    return made


def samples_of(store: Path, copies: int) -> Any:
    """The samples of a store, every step so many times."""
    import vla_store

    opened = vla_store.open_store(store)
    rows = np.tile(np.arange(opened.rows), copies)
    return vla_store.Samples(opened, windows=WINDOWS, alignment="causal", images="as_stored", rows=rows)


def items_of(store: Path, copies: int) -> Any:
    """The items of a recipe over a store."""
    import vla_store
    from vla_store import recipes

    opened = vla_store.open_store(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what these demonstrations are not
        return recipes.libero(opened, rows=np.tile(np.arange(opened.rows), copies))


# What makes the dataset of a store, samples in a batch, and how many times as long a batch takes, about.
KINDS: dict[str, tuple[Callable[[Path, int], Any], int, int]] = {
    "samples": (samples_of, BATCH, 1),
    "samples, batches of 256": (samples_of, 4 * BATCH, 4),
    "items of a recipe": (items_of, BATCH, 5),
}


def measure(demos: Path, work: Path, *, rounds: int, batches: int, copies: int, epochs: int) -> dict[str, Any]:
    """Everything that benchmarks/results/mixtures.json holds."""
    blosc.use_threads = False
    neighbours = Neighbours()
    whole, parts = make_stores(demos, work)["fast"], make_parts(demos, work)
    result: dict[str, Any] = {
        "kinds": {
            name: _measure_one(make, whole, parts, size, rounds, max(1, batches // slower), copies, epochs)
            for name, (make, size, slower) in KINDS.items()
        },
        "batch": BATCH,
        "batches": batches,
        "rounds": rounds,
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
    }
    return result | {"rows": rows_of_the_design(result)}


def _measure_one(
    make: Callable[[Path, int], Any],
    whole: Path,
    parts: list[Path],
    size: int,
    rounds: int,
    batches: int,
    copies: int,
    epochs: int,
) -> dict[str, Any]:
    import vla_store

    datasets = {
        "one store": make(whole, copies),
        "mixture": vla_store.mixture([make(each, copies) for each in parts], weights="by_steps"),
    }
    loaded = {name: Loaded(each, workers=2, batch_size=size) for name, each in datasets.items()}
    try:
        turns: dict[str, Callable[[], Pass]] = {
            name: functools.partial(each.turn, batches) for name, each in loaded.items()
        }
        passes = interleave(turns, rounds)
        memory = {name: _memory(each, epochs, batches) for name, each in loaded.items()}
    finally:
        for each in loaded.values():
            each.close()
    mine, other = passes["mixture"], passes["one store"]
    return {
        "parts": len(parts),
        "samples": {name: len(each) for name, each in datasets.items()},
        "samples_per_s": {
            name: Spread.of([1 / turn.wall() for turn in found]).to_json() for name, found in passes.items()
        },
        "rate": speed_ratio(mine, other).to_json(),
        "rate_by_cpu": cpu_ratio(mine, other).to_json(),
        "memory": memory,
    }


def _memory(loaded: Loaded, epochs: int, batches: int) -> dict[str, Any]:
    """Private memory of a worker after each of so many turns."""
    privates = []
    for _ in range(epochs):
        loaded.turn(batches)
        privates.append(max(processes.memory(pid).private for pid in loaded.pids))
    return {"private_nbytes": privates, "growth": round(privates[-1] / privates[min(1, len(privates) - 1)], 4)}


def rows_of_the_design(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of targets."""
    plain = result["kinds"]["samples"]
    growth = plain["memory"]["mixture"]["growth"]
    return [
        {
            "what": f"`Loader` over a mixture of {plain['parts']} stores, of the rate over one of the same samples",
            "target": f">= {RATE}",
            "measured": plain["rate"],
            "by_cpu": plain["rate_by_cpu"],
            "met": plain["rate"]["median"] >= RATE,
        },
        {
            "what": "private memory of its workers over turns",
            "target": "flat",
            "measured": {"median": growth},
            "met": growth <= GROWTH,
        },
    ]


HEADER = [
    "samples",
    "one store, samples/s",
    "mixture, samples/s",
    "rate",
    "by CPU time",
    "MB a worker: one store",
    "mixture",
]


def rows_of(result: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> list[list[str]]:
    """The table; text: of a spread."""
    return [
        [
            name,
            *(text(each["samples_per_s"][of]) for of in ("one store", "mixture")),
            text(each["rate"]),
            text(each["rate_by_cpu"]),
            *(f"{each['memory'][of]['private_nbytes'][-1] / 1e6:.0f}" for of in ("one store", "mixture")),
        ]
        for name, each in result["kinds"].items()
    ]


def summary(result: dict[str, Any]) -> str:
    """The table for a terminal."""
    return table(HEADER, rows_of(result, lambda each: f"{each['median']:.3g} ({each['low']:.3g}-{each['high']:.3g})"))


def main() -> None:
    run(
        "mixtures",
        arguments(__doc__.splitlines()[0], rounds=11),
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=3 if options.quick else options.rounds,
            batches=30 if options.quick else 150,
            copies=8 if options.quick else 12,
            epochs=3 if options.quick else 6,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
