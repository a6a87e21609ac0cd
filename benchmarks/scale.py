"""What grows with a store: one sample, opening, the sampler's start, memory and pickles, from 10^3 to 5*10^8 rows.

    python -m benchmarks.scale [--quick] [--save] [--work FOLDER]

The stores are synthetic and real to the reader: every file has its full length, but only what is read is written, and the rest
are holes of sparse files. Numbers hold their own row, so that what was read is checked; all shards of the camera are one file.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
from vla_store.format import arrays, canonical, codecs, layout
from vla_store.format.codecs import NONE, Blosc
from vla_store.format.layout import Grid
from vla_store.format.schema import TABLE_COLUMNS, Field, PartDocument, PartEntry, Root, RootField, Source, Task
from vla_store.format.shard_index import encode_index, index_nbytes
from vla_store.loader.order import Order

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 500_000_000)
EPISODE_STEPS = 200
ACTIONS = 16
ANCHORS = 512
PICTURE = (16, 24, 3)
WINDOWS = {"camera": [-1, 0], "robot_states": 0, "actions": range(ACTIONS)}
FIELDS = {
    "camera": Field("camera", "fixed", "uint8", PICTURE, "observation", Blosc("lz4hc", 9), (), "frames/camera"),
    "robot_states": Field("robot_states", "fixed", "float64", (9,), "observation", NONE, (), "steps/robot_states"),
    "actions": Field("actions", "fixed", "float64", (7,), "step", NONE, (), "steps/actions"),
}
PART = "parts/0123456789abcdef"


# --- the stores ---------------------------------------------------------------------------------------------------------


def anchor_rows(rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows of the first anchors of a Loader's order over a store of so many rows, causal: step 0 of an episode is no anchor."""
    anchors = Order(rows - rows // EPISODE_STEPS, 0, 0)
    first = anchors.take(0, min(ANCHORS, anchors.rows))
    return first + first // (EPISODE_STEPS - 1) + 1


def make_store(path: Path, rows: int) -> Path:
    """A store of so many rows (a multiple of EPISODE_STEPS), of which what the first anchors need is written."""
    part = path / PART
    wanted = anchor_rows(rows)
    # The index for whole neighbourhoods: an anchor's row is found from a guess beside it.
    near = np.unique((wanted[:, None] + np.arange(-8, ACTIONS + 8)).clip(0, rows - 1))
    pairs = np.stack([near // EPISODE_STEPS, near % EPISODE_STEPS], axis=1).astype("<i4")
    _write_sparse(part / layout.INDEX_ARRAY, layout.numeric_grid((rows, 2), "int32", rows), near, pairs)
    episodes = np.arange(rows // EPISODE_STEPS)
    described = np.zeros((len(episodes), len(TABLE_COLUMNS)), "<i8")
    described[:, 0], described[:, 1], described[:, 4] = episodes * EPISODE_STEPS, EPISODE_STEPS, episodes
    grid = layout.numeric_grid(described.shape, "int64", rows)
    _write_sparse(part / layout.TABLE_ARRAY, grid, episodes, described)
    for name in ("robot_states", "actions"):
        field = FIELDS[name]
        values = np.repeat(near.astype("<f8")[:, None], field.fixed_shape[0], axis=1)
        _write_sparse(part / field.array, field.grid(rows), near, values)
    _write_camera(part / FIELDS["camera"].array, FIELDS["camera"], rows)
    document = PartDocument(
        {}, (Task("suite", "task", "do it", None),), (Source("suite", "a.hdf5", "top_down", "after", (0, 0)),), FIELDS
    )
    (part / "zarr.json").write_bytes(canonical.dumps(arrays.part_metadata(document.to_json(), {})))
    fields = {name: RootField(each.kind, each.dtype, each.shape) for name, each in FIELDS.items()}
    root = Root(1, None, "0" * 64, (PartEntry(PART, rows, len(episodes), "0" * 64),), fields).sealed()
    (path / "roots").mkdir()
    (path / layout.root_key(1)).write_bytes(root.to_bytes())
    (path / layout.ROOT_KEY).write_bytes(root.to_bytes())
    return path


def _write_sparse(array: Path, grid: Grid, at: Any, values: Any) -> None:
    """The shard files of an array whose inner chunks are raw, with `values` in the rows `at` (ascending), and holes elsewhere."""
    shards = at // grid.shard
    for shard in range(grid.shards):
        file = array / grid.key(shard)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.truncate(grid.present(shard) * grid.chunk_nbytes + index_nbytes(grid.chunks_per_shard))
            mine, local = values[shards == shard], at[shards == shard] - shard * grid.shard
            starts = [0, *(np.flatnonzero(np.diff(local) != 1) + 1).tolist(), len(local)]
            for start, stop in itertools.pairwise(starts):
                if start < stop:
                    opened.seek(int(local[start]) * grid.row_nbytes)
                    opened.write(np.ascontiguousarray(mine[start:stop]).tobytes())


def _write_camera(array: Path, field: Field, rows: int) -> None:
    """Shards of one frame again and again; all full shards are one file, under many names."""
    grid = field.grid(rows)
    chunk = codecs.encode(picture(), field.codec)
    first: Path | None = None
    for shard in range(grid.shards):
        file = array / grid.key(shard)
        file.parent.mkdir(parents=True, exist_ok=True)
        present = grid.present(shard)
        if present == grid.chunks_per_shard and first is not None:
            os.link(first, file)
            continue
        file.write_bytes(chunk * present + encode_index([len(chunk)] * present, grid.chunks_per_shard))
        first = first or file


def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 9, PICTURE, dtype=np.uint8)


# --- what is measured ---------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """Of one size: a list of rounds by what was measured; us, bytes."""

    open_us: list[float] = dataclasses.field(default_factory=list)
    sample_us: list[float] = dataclasses.field(default_factory=list)
    batch_us: list[float] = dataclasses.field(default_factory=list)  # a sample of a batch
    sampler_us: list[float] = dataclasses.field(default_factory=list)
    worker_nbytes: list[float] = dataclasses.field(default_factory=list)
    pickle_nbytes: list[float] = dataclasses.field(default_factory=list)


def samples_of(path: Path) -> Any:
    import vla_store

    return vla_store.Samples(vla_store.open_store(path), windows=WINDOWS, alignment="causal", images="as_stored")


def check(samples: Any, rows: int) -> None:
    """AssertionError unless the samples of all anchors are what their rows say."""
    order = Order(rows - rows // EPISODE_STEPS, 0, 0)
    assert len(samples) == order.rows, f"{len(samples)} anchors of {rows} rows"
    wanted = anchor_rows(rows)
    batch = samples.batch(order.take(0, len(wanted)))
    single = samples[int(order.take(0, 1)[0])]
    ends = wanted // EPISODE_STEPS * EPISODE_STEPS + EPISODE_STEPS - 1
    actions = np.minimum(wanted[:, None] + np.arange(ACTIONS), ends[:, None])
    right = (
        np.array_equal(batch["episode"] * EPISODE_STEPS + batch["step"], wanted)
        and np.array_equal(batch["robot_states"][:, 0], wanted - 1)
        and np.array_equal(batch["actions"][:, :, 6], actions)
        and (batch["camera"] == picture()).all()
        and np.array_equal(single["actions"], batch["actions"][0])
    )
    assert right, f"a store of {rows} rows gives other samples"


def measure_round(path: Path, rows: int, samples: Any, into: Measured) -> None:
    """One round on one size. `samples` has read all anchors before."""
    from vla_store.loader.sampler import ShuffleSampler

    order = Order(len(samples), 0, 0).take(0, min(ANCHORS, len(samples))).tolist()
    start = time.perf_counter()
    for index in order:
        samples[index]
    into.sample_us.append((time.perf_counter() - start) / len(order) * 1e6)
    start = time.perf_counter()
    for at in range(0, len(order), 64):
        samples.batch(order[at : at + 64])
    into.batch_us.append((time.perf_counter() - start) / len(order) * 1e6)
    start = time.perf_counter()
    opened = samples_of(path)
    into.open_us.append((time.perf_counter() - start) * 1e6)
    start = time.perf_counter()
    next(iter(ShuffleSampler(opened, seed=0)))
    into.sampler_us.append((time.perf_counter() - start) * 1e6)
    into.pickle_nbytes.append(len(pickle.dumps(opened)))


WORKER = """
import pickle, sys
from benchmarks import processes, scale
samples = scale.samples_of(sys.argv[1])
from vla_store.loader.order import Order
import os
order = Order(len(samples), 0, 0).take(0, min(scale.ANCHORS, len(samples)))
for start in range(0, len(order), 64):
    samples.batch(order[start:start + 64])
print(processes.memory(os.getpid()).private)
"""


def worker_nbytes(path: Path) -> int:
    """Private memory of a fresh process that has read every anchor."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(path)], check=True, capture_output=True, text=True, cwd=CHECKOUT
    )
    return int(done.stdout)


def measure(work: Path, *, rounds: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Everything that benchmarks/results/scale.json holds."""
    neighbours = Neighbours()
    folder = work / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    measured = {rows: Measured() for rows in sizes}
    try:
        opened = {}
        for rows in sizes:
            print(f"a store of {rows:,} rows", file=sys.stderr)
            opened[rows] = samples_of(make_store(folder / f"{rows}.vla", rows))
            check(opened[rows], rows)
        rng = np.random.default_rng(0)
        gc.freeze()
        for number in range(rounds):
            for at in rng.permutation(len(sizes)):
                rows = sizes[at]
                measure_round(folder / f"{rows}.vla", rows, opened[rows], measured[rows])
                if number < 3 and sys.platform == "linux":
                    measured[rows].worker_nbytes.append(worker_nbytes(folder / f"{rows}.vla"))
        gc.unfreeze()
        for rows in sizes:
            check(opened[rows], rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    spreads = {
        str(rows): {
            each.name: Spread.of(getattr(found, each.name)).to_json()
            for each in dataclasses.fields(found)
            if getattr(found, each.name)
        }
        for rows, found in measured.items()
    }
    result: dict[str, Any] = {"rounds": rounds, "sizes": spreads}
    result["rows"] = rows_of_the_design(measured)
    result["environment"] = environment() | {"busy_cores_of_others": neighbours.cores()}
    return result


WHAT = (
    ("sample_us", "`ds[i]`, from {least} to {most} rows, slowest over fastest", 1.10),
    ("batch_us", "a sample of a batch, the same", 1.10),
    ("open_us", "opening a store and its samples, the same", 2.0),
    ("sampler_us", "start of the sampler, from {small} rows on, the same", 1.10),
    ("worker_nbytes", "private memory of a process that reads, from {least} to {most} rows, the same", 1.10),
    ("pickle_nbytes", "bytes of a pickled dataset, the same", 1.10),
)


def rows_of_the_design(measured: dict[int, Measured]) -> list[dict[str, Any]]:
    """Section 8's row, by quantity: within a round, the most over the least of all sizes."""
    rows = []
    for name, what, limit in WHAT:
        # Below 4,096 rows the order is made by sorting hashes of all rows; that start is another one.
        sizes = [size for size in measured if name != "sampler_us" or size >= 10_000]
        series = [getattr(measured[size], name) for size in sizes]
        if len(sizes) < 2 or not all(series):
            continue
        # Sizes take turns in a round, so that a slow moment of the machine is every size's.
        rounds = np.array(series) / np.median(series, axis=0)
        medians = np.median(rounds, axis=1).tolist()
        texts = {"least": _power(min(measured)), "most": _power(max(measured)), "small": _power(min(sizes))}
        ratio = max(medians) / min(medians)
        rows.append(
            {
                "what": what.format(**texts),
                "target": f"<= {limit:g} x",
                "measured": {"median": round(ratio, 4)},
                "met": ratio <= limit,
                "mine": f"scale, {name}",
                "other": "",
            }
        )
    return rows


def _power(rows: int) -> str:
    digits = len(str(rows)) - 1
    return f"{rows / 10**digits:g}*10^{digits}".removeprefix("1*")


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    names = list(next(iter(result["sizes"].values())))
    rows = [
        [f"{int(size):,}", *(f"{each[name]['median']:,.1f}" for name in names)]
        for size, each in result["sizes"].items()
    ]
    targets = [
        [row["what"], row["target"], f"{row['measured']['median']:.3g}", "met" if row["met"] else "NOT MET"]
        for row in result["rows"]
    ]
    return "\n\n".join(
        [table(["rows", *names], rows), table(["design, section 8", "to reach", "measured", ""], targets)]
    )


def main() -> None:
    options = arguments(__doc__.splitlines()[0], rounds=41).parse_args()
    with work_folder(options.work) as work:
        result = measure(
            work, rounds=3 if options.quick else options.rounds, sizes=SIZES[:5] if options.quick else SIZES
        )
    print(summary(result))
    write_result("scale", result, RESULTS if options.save else None)


if __name__ == "__main__":
    main()
