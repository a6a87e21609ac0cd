"""The pieces of a sample, one by one: index, windows, locating, decoding by preset and camera, samples, batches, hand-over.

    python -m benchmarks.micro [--quick] [--save] [--work FOLDER]

Each piece does its work for the same batches in the same random order, all in memory; us of what the line says it is of.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from benchmarks.measure import Neighbours, Pass, Spread, arguments, environment, interleave, run, table, timed
from benchmarks.reading import make_stores
from benchmarks.workload import ACTIONS, CAMERAS, WINDOWS, digest, make_workload, stacked

PRESETS = ("raw", "fast", "small")


@dataclass(frozen=True)
class Piece:
    """of: "sample", "frame" or "batch". work: one batch's worth. count: how many of those it is."""

    name: str
    of: str
    work: Callable[[int], object]
    count: int


def measure(demos: Path, work: Path, *, rounds: int, batches: int | None) -> dict[str, Any]:
    """Everything that benchmarks/results/micro.json holds."""
    import vla_store
    from vla_store.loader.packing import Room, pack, tree_nbytes, unpack
    from vla_store.loader.ring import Ring, RingView
    from vla_store.reader.frames import frame_list
    from vla_store.reader.parts import parts_of
    from vla_store.reader.windows import window_times
    from vla_store.torch import StepDataset, collate
    from vla_store.torch.loader import Convert

    blosc.use_threads = False
    neighbours = Neighbours()
    stores = make_stores(demos, work)
    store = vla_store.open_store(stores["fast"])
    workload = make_workload(store, demos, batches)
    units = workload.batches
    size = len(units[0])
    samples = {
        preset: vla_store.Samples(vla_store.open_store(path), windows=WINDOWS, alignment="causal", images="as_stored")
        for preset, path in stores.items()
    }
    anchors, reader = samples["fast"]._anchors, samples["fast"].store
    indices = [each.indices for each in units]
    singly = [each.tolist() for each in indices]
    offsets = np.arange(ACTIONS)
    pieces = [
        Piece(
            "index: anchor to episode and step, one by one",
            "sample",
            lambda at: [anchors.one(each, reader) for each in singly[at]],
            size,
        ),
        Piece("index: the same, a batch at once", "sample", lambda at: list(anchors.many(indices[at], reader)), size),
        Piece(
            "window: 64 steps, a batch at once",
            "sample",
            lambda at: window_times(units[at].step, units[at].length, offsets),
            size,
        ),
    ]
    part = next(iter(parts_of(reader)))
    for camera in CAMERAS:
        frames = part.frames(part.document.fields[camera])
        rows = [each.frame_rows.reshape(-1).tolist() for each in units]
        pieces.append(
            Piece(
                f"locate: {camera}",
                "frame",
                lambda at, frames=frames, rows=rows: frames.shards.locate(rows[at]),
                2 * size,
            )
        )
    for preset in PRESETS:
        opened = samples[preset].store
        there = next(iter(parts_of(opened)))
        for camera in CAMERAS:
            field = there.document.fields[camera]
            out = np.ones((2 * size, *field.fixed_shape), np.uint8)
            episodes = [np.repeat(each.episode, 2).tolist() for each in units]
            # All frames of a batch, the repeated ones too: each row is decoded once. Their crc32c is checked before: `fill`.
            works = []
            for at in range(len(units)):
                listed = frame_list(rows[at], episodes[at], [0] * (2 * size))
                there.frames(field).fill(listed, out)
                works.append(functools.partial(there.frames(field).decode, there.frames(field).locate(listed), (), out))
            distinct = sum(len(set(each)) for each in rows) / len(rows)
            name = f"decode: {preset}, {camera} ({field.codec}{', ' if field.prediction else ''}{' + '.join(field.prediction)})"
            pieces.append(Piece(name, "frame", lambda at, works=works: works[at](), round(distinct)))
    held: list[Any] = [None]
    for preset in PRESETS:
        mine = samples[preset]
        out_arrays = mine.allocate(size)
        for array in out_arrays.values():
            array.fill(1)
        pieces.append(
            Piece(
                f"ds[i], {preset}", "sample", lambda at, mine=mine: [mine[each] and None for each in singly[at]], size
            )
        )
        pieces.append(
            Piece(
                f"__getitems__, {preset}, out=",
                "sample",
                lambda at, mine=mine, out=out_arrays: mine.batch(indices[at], out),
                size,
            )
        )
    dataset = StepDataset(stores["fast"], windows=WINDOWS, alignment="causal", images="as_stored")
    ready = [dataset[index] for index in singly[0]]
    pieces += [
        Piece(
            "StepDataset.__getitems__ and collate, fast",
            "sample",
            lambda at: collate(dataset.__getitems__(singly[at])),
            size,
        ),
        Piece("collate of single samples", "sample", lambda at: collate(ready), size),
    ]
    ring = Ring(2, tree_nbytes(samples["fast"].batch([0]), size))
    view = RingView(_duplicate(ring.fd), 2, ring.slot_nbytes)
    slot = view.slot(0)
    room = Room(slot)
    texts: dict[str, int] = {}
    batch = samples["fast"].batch(indices[0], empty=room.empty)
    packed = pack(batch, room, texts)
    convert = Convert(None)

    def leased(_: int) -> None:
        held[0] = None
        number = ring.acquire()
        assert number is not None
        held[0] = convert(unpack(packed, ring.lease(number, packed.nbytes), list(texts), copy=False), None)  # type: ignore[arg-type]

    pieces += [
        Piece("hand-over: a batch's arrays into the ring's book", "batch", lambda at: pack(batch, room, texts), 1),
        Piece("hand-over: lease, views and tensors of a batch", "batch", leased, 1),
    ]
    digests = {
        preset: [digest(mine.batch(each)) for each in indices[:2]]
        + [digest(stacked([mine[each] for each in singly[0]]))]
        for preset, mine in samples.items()
    }
    if len({tuple(each) for each in digests.values()}) != 1 or digests["fast"][0] != digests["fast"][-1]:
        raise AssertionError("presets, or ds[i] and batches, read other bytes")
    gc.collect()
    gc.freeze()
    passes = interleave({each.name: lambda each=each: _turn(each, len(units)) for each in pieces}, rounds)  # type: ignore[misc]
    gc.unfreeze()
    held[0] = None
    ring.close()
    return {
        "pieces": {
            each.name: {
                "of": each.of,
                "us": Spread.of([turn.wall() / turn.units / each.count * 1e6 for turn in passes[each.name]]).to_json(),
            }
            for each in pieces
        },
        "single": {preset: _latencies(mine, singly) for preset, mine in samples.items()},
        "digest": digests["fast"][0],
        "rounds": rounds,
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
    }


def _turn(piece: Piece, batches: int) -> Pass:
    return timed(range(min(batches, 8)), piece.work)


def _latencies(samples: Any, singly: list[list[int]]) -> dict[str, float]:
    """Of one random sample: us, p50, p95 and p99."""
    found = []
    for each in singly:
        for index in each:
            start = time.perf_counter()
            samples[index]
            found.append((time.perf_counter() - start) * 1e6)
    return {
        name: round(float(np.quantile(found, share)), 1) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def _duplicate(fd: int) -> int:
    import os

    return os.dup(fd)


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    rows = [
        [name, f"{each['us']['median']:.2f} ({each['us']['low']:.2f}-{each['us']['high']:.2f})", f"a {each['of']}"]
        for name, each in result["pieces"].items()
    ]
    single = [[preset, *(f"{value:.0f}" for value in each.values())] for preset, each in result["single"].items()]
    return "\n\n".join(
        [table(["piece", "us (quartiles)", "of"], rows), table(["one random sample", "p50 us", "p95", "p99"], single)]
    )


def main() -> None:
    run(
        "micro",
        arguments(__doc__.splitlines()[0], rounds=15),
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=2 if options.quick else options.rounds,
            batches=2 if options.quick else None,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
