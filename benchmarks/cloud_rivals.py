"""Lance and MosaicML Streaming over the same server, with the same pictures without loss: what benchmarks/cloud.py is compared with.

They are installed into an environment of their own in the work folder (no requirement of the tests), which sees the packages of this
one besides. Each is given what suits it: pictures compressed with Blosc's LZ4HC; Lance a row a step, numbers in memory, and 32
`take` calls in flight; Streaming a record a sample, shards of 8 MB, a shuffle within blocks, and torch's DataLoader with two workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import environments
from benchmarks.cloud_turn import cpu_s
from benchmarks.measure import CHECKOUT, Neighbours, Spread
from benchmarks.workload import ACTIONS, BATCH, CAMERAS, WINDOWS, Array

if TYPE_CHECKING:
    from benchmarks.cloud import Bench

PACKAGES = {"Lance": "pylance", "MosaicML Streaming": "mosaicml-streaming"}
SAMPLE = (*CAMERAS, "robot_states", "actions")
TAKES = 32
TRIES = 4
LATENCY_MS = 20
SHARD_NBYTES = 8 << 20
SHUFFLE_BLOCK = 4_000
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


def measure(bench: Bench, work: Path, rounds: int) -> dict[str, Any]:
    """Their rates, and how many times as fast our first epoch with an empty cache is in the same round, in blocks and globally."""
    from benchmarks.cloud import CONTENDERS

    python = environments.made(work / "rivals", [[*PACKAGES.values()]], sees_ours=True)
    bench.server.set(latency_ms=LATENCY_MS)
    ours = {
        each.turn.get("shuffle", "global order"): each
        for each in CONTENDERS
        if each.cache == "empty" and each.by == "http"
    }
    turns: dict[str, list[dict[str, Any]]] = {}
    ratios: dict[str, list[float]] = {}
    for name in PACKAGES:
        made = bench.store.parent / name.partition(" ")[0].lower()
        if not made.exists():
            _run(python, bench, {"do": "make", "rival": name, "store": str(bench.store), "to": str(made)})
    expected = pictures_digest(_samples(bench.store).batch(_order(bench.store, 1)[0]))
    for _ in range(rounds):
        mine = {}
        for order, contender in ours.items():
            try:
                mine[order] = bench.remote(contender, LATENCY_MS)["samples_per_s"]
            except RuntimeError as error:
                bench.failed[f"beside rivals, {order}"] = str(error)
        for name in PACKAGES:
            if name in bench.failed:
                continue
            try:
                found = _read(python, bench, name)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                bench.failed[name] = str(error)
                continue
            if found["digest"] != (expected if found["indices"] is None else _digest_of(bench.store, found["indices"])):
                raise AssertionError(f"{name} reads other bytes")
            turns.setdefault(name, []).append(found)
            for order, rate in mine.items():
                ratios.setdefault(f"{name}, ours: {order}", []).append(rate / found["samples_per_s"])
            print(f"{name}: {found}; ours {mine}", file=sys.stderr, flush=True)
    figures = (
        "samples_per_s",
        "first_s",
        "us",
        "server_us",
        "requests_per_sample",
        "nbytes_per_sample",
        "others_cores",
    )
    return {
        "turns": {
            name: {figure: Spread.of([each[figure] for each in found]).to_json() for figure in figures}
            for name, found in turns.items()
        },
        "times": {name: Spread.of(each).to_json() for name, each in ratios.items()},
        "versions": {name: found[0]["version"] for name, found in turns.items()},
    }


def _read(python: str, bench: Bench, name: str) -> dict[str, Any]:
    for _ in range(TRIES - 1):
        try:
            return _run(python, bench, {"do": "read", "rival": name, "store": str(bench.store)})
        except RuntimeError as error:  # Streaming 0.13 sometimes reads of a shard that is not whole yet
            print(f"{error}; once more", file=sys.stderr)
    return _run(python, bench, {"do": "read", "rival": name, "store": str(bench.store)})


def _run(python: str, bench: Bench, told: dict[str, Any]) -> dict[str, Any]:
    neighbours, start = Neighbours(), time.monotonic()
    bench.server.reset()
    environment = {**os.environ, **KEYS, "PYTHONPATH": str(CHECKOUT), "S3_ENDPOINT_URL": bench.server.url}
    with tempfile.TemporaryDirectory(dir=bench.base, prefix="rival-") as scratch:
        done = subprocess.run(
            [python, "-c", "from benchmarks.cloud_rivals import main; main()", json.dumps({**told, "scratch": scratch, "endpoint": bench.server.url})],
            cwd=bench.base,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{told['rival']}: {done.stderr.strip()[-2000:]}")
    if told["do"] == "make":
        return {}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    served, samples = bench.server.counters(), found["samples"]
    return found | {
        "samples_per_s": samples / found["wall_s"],
        "us": found["cpu_s"] / samples * 1e6,
        "server_us": served["cpu_s"] / samples * 1e6,
        "requests_per_sample": served["requests"] / samples,
        "nbytes_per_sample": served["nbytes"] / samples,
        "others_cores": max(0.0, (neighbours.cores() or 0.0) - served["cpu_s"] / (time.monotonic() - start)),
    }


# --- in the other environment -------------------------------------------------------------------------------------------


def _samples(store: str | Path) -> Any:
    import vla_store

    return vla_store.Samples(vla_store.open_store(store), windows=WINDOWS, alignment="causal", images="as_stored")


def _order(store: str | Path, batches: int) -> Array:
    from vla_store.loader.order import Order

    rows = len(_samples(store))
    return Order(rows, 0, 0).take(0, min(batches, rows // BATCH) * BATCH).reshape(-1, BATCH)


def pictures_digest(batch: Any) -> str:
    """sha256 of what all can be given alike: pictures and numbers, without padding."""
    total = hashlib.sha256()
    for name in SAMPLE:
        total.update(np.ascontiguousarray(batch[name]).tobytes())
    return total.hexdigest()


def _digest_of(store: Path, indices: list[int]) -> str:
    return pictures_digest(_samples(store).batch(np.array(indices)))


def _codec() -> Any:
    from numcodecs import blosc

    blosc.use_threads = False
    return blosc.Blosc("lz4hc", 9, blosc.SHUFFLE)


def _observed(samples: Any) -> Array:
    """(anchors, 2) rows of the pictures of every anchor: those at -1 and 0."""
    rows = []
    for episode in samples.store.episodes:
        steps = np.arange(1, episode.length)
        rows.append(episode.start + np.stack([np.maximum(steps - 2, 0), steps - 1], axis=1))
    return np.concatenate(rows)


def make_lance(store: str, to: str) -> None:
    """A row a step: a picture of each camera; state; and the 64 actions of the sample whose newest picture this is."""
    import lance
    import pyarrow

    samples, codec = _samples(store), _codec()
    observed = _observed(samples)
    rows = samples.store.rows
    states, actions = np.zeros((rows, 9)), np.zeros((rows, ACTIONS * 7))
    for at in range(0, len(samples), BATCH):
        indices = np.arange(at, min(at + BATCH, len(samples)))
        batch = samples.batch(indices)
        states[observed[indices, 1]] = batch["robot_states"]
        actions[observed[indices, 1]] = batch["actions"].reshape(len(indices), -1)

    def tables() -> Iterator[Any]:
        for start in range(0, rows, 1024):
            taken = np.arange(start, min(start + 1024, rows))
            columns: dict[str, Any] = {
                camera: pyarrow.array(
                    [codec.encode(each) for each in samples.store.read(camera, taken)], pyarrow.binary()
                )
                for camera in CAMERAS
            }
            for name, values in (("robot_states", states), ("actions", actions)):
                flat = pyarrow.array(values[taken].reshape(-1))
                columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
            yield pyarrow.record_batch(columns)

    first = next(tables())
    lance.write_dataset(pyarrow.RecordBatchReader.from_batches(first.schema, tables()), to)


def read_lance(told: dict[str, Any]) -> dict[str, Any]:
    """The Loader's global order, so many `take` calls in flight, each of a batch, decoded in the thread that took it."""
    import lance

    began = time.perf_counter()
    samples, codec = _samples(told["store"]), _codec()
    observed, order = _observed(samples), _order(told["store"], 100 + TAKES)
    options = {
        "aws_endpoint": told["endpoint"],
        "allow_http": "true",
        "aws_skip_signature": "true",
        "aws_region": "us-east-1",
    }
    dataset = lance.dataset("s3://bucket/lance", storage_options=options)
    numbers = {}  # in memory, which spares two requests a sample
    for name, shape in (("robot_states", (9,)), ("actions", (ACTIONS, 7))):
        column = dataset.to_table(columns=[name])[name].combine_chunks()
        numbers[name] = column.flatten().to_numpy().reshape(-1, *shape)

    def batch(indices: Array) -> dict[str, Array]:
        rows = observed[indices]
        wanted, places = np.unique(rows, return_inverse=True)
        pictures = dataset.take(wanted.tolist(), columns=list(CAMERAS))
        made: dict[str, Array] = {}
        for camera in CAMERAS:
            each = np.stack([np.frombuffer(codec.decode(one), np.uint8) for one in pictures[camera].to_pylist()])
            made[camera] = each[places.reshape(-1)].reshape(len(indices), 2, 128, 128, 3)
        return made | {name: values[rows[:, 1]] for name, values in numbers.items()}

    with ThreadPoolExecutor(TAKES) as threads:
        waiting: deque[Future[Any]] = deque(threads.submit(batch, each) for each in order[:TAKES])
        first = waiting.popleft().result()
        first_s, found = time.perf_counter() - began, pictures_digest(first)
        busy, start = sum(cpu_s([]).values()), time.perf_counter()
        for each in order[TAKES:]:
            waiting.append(threads.submit(batch, each))
            waiting.popleft().result()
        wall_s, spent = time.perf_counter() - start, sum(cpu_s([]).values()) - busy
        for each in waiting:
            each.cancel()
    count = (len(order) - TAKES) * BATCH
    return {
        "first_s": first_s,
        "wall_s": wall_s,
        "cpu_s": spent,
        "samples": count,
        "digest": found,
        "indices": None,
        "version": lance.__version__,
    }


def make_mds(store: str, to: str) -> None:
    """A record a sample: two pictures of each camera, state, 64 actions."""
    from streaming import MDSWriter

    samples, codec = _samples(store), _codec()
    columns = {**dict.fromkeys(SAMPLE, "bytes"), "index": "int"}
    with MDSWriter(out=to, columns=columns, size_limit=SHARD_NBYTES) as writer:
        for at in range(0, len(samples), BATCH):
            indices = np.arange(at, min(at + BATCH, len(samples)))
            batch = samples.batch(indices)
            for row, index in enumerate(indices.tolist()):
                record: dict[str, Any] = {
                    camera: codec.encode(np.ascontiguousarray(batch[camera][row])) for camera in CAMERAS
                }
                writer.write({**record, **{name: batch[name][row].tobytes() for name in SAMPLE[2:]}, "index": index})


def read_mds(told: dict[str, Any]) -> dict[str, Any]:
    """An epoch of torch's DataLoader with two workers, an empty cache, shuffled in blocks."""
    import streaming
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    codec = _codec()

    class Decoded(StreamingDataset):  # type: ignore[misc,unused-ignore]
        def __getitem__(self, at: int) -> dict[str, Any]:
            record = super().__getitem__(at)
            made: dict[str, Any] = {
                camera: np.frombuffer(codec.decode(record[camera]), np.uint8).reshape(2, 128, 128, 3)
                for camera in CAMERAS
            }
            made["robot_states"] = np.frombuffer(record["robot_states"])
            made["actions"] = np.frombuffer(record["actions"]).reshape(ACTIONS, 7)
            return made | {"index": record["index"]}

    began = time.perf_counter()
    dataset = Decoded(
        remote="s3://bucket/mosaicml",
        local=told["scratch"] + "/cache",
        shuffle=True,
        batch_size=BATCH,
        shuffle_block_size=SHUFFLE_BLOCK,
        num_canonical_nodes=1,
        predownload=32 * BATCH,
    )
    stream = iter(DataLoader(dataset, batch_size=BATCH, num_workers=2, drop_last=True))
    first = next(stream)
    first_s = time.perf_counter() - began
    found = pictures_digest({name: value.numpy() for name, value in first.items()})
    indices = first["index"].tolist()
    busy, start, count = sum(cpu_s([]).values()), time.perf_counter(), 0
    for _ in stream:
        count += BATCH
        if not count % BATCH:
            wall_s, spent = time.perf_counter() - start, sum(cpu_s([]).values()) - busy
    return {
        "first_s": first_s,
        "wall_s": wall_s,
        "cpu_s": spent,
        "samples": count,
        "digest": found,
        "indices": indices,
        "version": streaming.__version__,
    }


def main() -> None:
    told = json.loads(sys.argv[1])
    is_lance = told["rival"] == "Lance"
    if told["do"] == "make":
        (make_lance if is_lance else make_mds)(told["store"], told["to"])
    else:
        print(json.dumps((read_lance if is_lance else read_mds)(told)), flush=True)
        os._exit(0)  # their threads and shared memory take seconds to end


if __name__ == "__main__":
    main()
