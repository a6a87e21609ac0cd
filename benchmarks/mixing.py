"""How well an order mixes, against how many requests it costs over object storage. Arithmetic alone: no times.

    python -m benchmarks.mixing [--save]

Mixing: distinct episodes, and tasks, in a batch of 64, of 64 draws. Requests: what is fetched together (a pool of blocks; for the global
order 32 batches) is a set of rows, and every run of rows that follow each other is one request a camera; a sample has the frames of
its step and of the step before.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.chart import Axis, Chart
from benchmarks.measure import CHECKOUT, RESULTS, environment, table, write_result
from vla_store.coverage.demos import read_lengths
from vla_store.format.layout import SMALL_PART_ROWS
from vla_store.loader.order import Blocks, Order, Shuffle

BATCH = 64
AHEAD = 32 * BATCH
CAMERAS = 2
EPOCHS = 3
LENGTHS = CHECKOUT / "docs" / "data" / "libero_human_lengths.csv"
SIZES = {  # rows of a pool -> rows of a block
    1_024: (4, 16, 64),
    4_096: (4, 8, 16, 32, 64, 256),
    16_384: (4, 8, 16, 32, 64, 256),
    65_536: (16, 64, 256),
}
COLOURS = {1_024: "#b35a1a", 4_096: "#1a66b3", 16_384: "#59a14f", 65_536: "#b07aa1"}

Int64 = npt.NDArray[np.int64]


def distinct(labels: Int64) -> float:
    """How many labels are different in a batch, on average: (batches, rows)."""
    ordered = np.sort(labels, axis=1)
    return float((1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)).mean())


def units(order: Order) -> list[tuple[int, int]]:
    """Positions that are fetched together: pools, or stretches of the order."""
    found, start = [], 0
    while start < order.rows:
        stop = order.unit(start)[1] if isinstance(order.shuffle, Blocks) else min(order.rows, start + AHEAD)
        found.append((start, stop))
        start = stop
    return found


def fetched(order: Order, is_first: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Runs of rows, and rows, of all units of an epoch, each unit on its own. is_first: the rows at which episodes begin."""
    shard = 64 if order.rows < SMALL_PART_ROWS else 1_024
    runs = nrows = 0
    for start, stop in units(order):
        now = order.take(start, stop)
        rows = np.unique(np.concatenate([now, now[~is_first[now]] - 1]))
        runs += 1 + int(((np.diff(rows) > 1) | (rows[1:] % shard == 0)).sum())
        nrows += len(rows)
    return runs, nrows


def mixed(shuffle: Shuffle, lengths: Int64, tasks: Int64) -> dict[str, float]:
    """The figures of one order, of several epochs of these episodes."""
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    is_first = np.isin(np.arange(len(episode_of)), starts)
    orders = [Order(len(episode_of), 0, epoch, shuffle) for epoch in range(EPOCHS)]
    whole = len(episode_of) // BATCH * BATCH
    batches = np.concatenate([episode_of[order.take(0, whole)].reshape(-1, BATCH) for order in orders])
    runs, nrows = np.sum([fetched(order, is_first) for order in orders], axis=0).tolist()
    samples = EPOCHS * len(episode_of)
    return {
        "episodes": round(distinct(batches), 2),
        "tasks": round(distinct(tasks[batches]), 2),
        "requests_per_sample": float(f"{CAMERAS * runs / samples:.4g}"),
        "rows_per_sample": float(f"{nrows / samples:.4g}"),
    }


def stores() -> dict[str, tuple[Int64, Int64]]:
    """Lengths and tasks of the episodes of stores to look at."""
    demos = read_lengths(LENGTHS)
    by_task = np.argsort(demos.files, kind="stable")  # as a store has them: file by file
    return {
        "LIBERO": (demos.lengths[by_task], demos.files[by_task]),
        "198 episodes": (np.full(198, 101), np.arange(198) // 20),
    }


def measure() -> dict[str, Any]:
    """Everything that benchmarks/results/mixing.json holds."""
    shapes = [Blocks(rows, pool // rows) for pool, sizes in SIZES.items() for rows in sizes]
    found = {}
    for name, (lengths, tasks) in stores().items():
        found[name] = {
            "episodes": len(lengths),
            "steps": int(lengths.sum()),
            "tasks": len(np.unique(tasks)),
            "global": mixed(True, lengths, tasks),
            "blocks": [{"rows": each.rows, "pool": each.pool, **mixed(each, lengths, tasks)} for each in shapes],
        }
    return {"batch": BATCH, "cameras": CAMERAS, "stores": found, "environment": environment()}


def rows_of(store: dict[str, Any]) -> list[list[str]]:
    """The table of one store."""
    rows = [["global order", store["global"]]]
    rows += [[f"{each['rows']} x {each['pool']}", each] for each in store["blocks"]]
    return [
        [
            name,
            f"{each['episodes']:.1f}",
            f"{each['tasks']:.1f}",
            f"{each['requests_per_sample']:.3g}",
            f"{each['rows_per_sample']:.3g}",
        ]
        for name, each in rows
    ]


HEADER = ("rows x blocks", "distinct episodes", "distinct tasks", "requests a sample", "rows fetched a sample")


def chart(result: dict[str, Any]) -> str:
    """An SVG: distinct episodes in a batch over requests a sample, for LIBERO. Up and to the left is better."""
    store = result["stores"]["LIBERO"]
    made = Chart(
        Axis(0.005, 4, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2), "requests a sample, two cameras"),
        Axis(0, BATCH + 2, range(0, BATCH + 1, 8), f"distinct episodes in a batch of {BATCH}", is_log=False),
    )
    points = [("global order", store["global"]["requests_per_sample"], store["global"]["episodes"], "#444")]
    for nrows, colour in COLOURS.items():
        line = [each for each in store["blocks"] if each["rows"] * each["pool"] == nrows]
        made.line([(each["requests_per_sample"], each["episodes"]) for each in line], colour)
        points += [
            (f"{each['rows']} x {each['pool']}", each["requests_per_sample"], each["episodes"], colour) for each in line
        ]
    made.points(points)
    return made.text()


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    return "\n\n".join(
        f"{name}: {each['episodes']:,} episodes, {each['steps']:,} steps\n{table(HEADER, rows_of(each))}"
        for name, each in result["stores"].items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="write the result into benchmarks/results")
    options = parser.parse_args()
    result = measure()
    print(summary(result))
    write_result("mixing", result, RESULTS if options.save else None)


if __name__ == "__main__":
    main()
