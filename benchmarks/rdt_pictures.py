"""What RDT's six pictures cost a sample on the CPU, against reading the sample: how-to/train-rdt.md says why it matters.

As its consumer makes them, one by one with PIL and NumPy, in one thread; transformers' own checks come on top of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Neighbours, Spread, arguments, cpu_ratio, environment, interleave, run, table, timed
from vla_store.builder import build_store
from vla_store.recipes import rdt
from vla_store.recipes.siglip import CAMERAS, MEAN, SIZE, STD

Array = np.ndarray[Any, Any]
SAMPLES = 64
BACKGROUND = np.full((SIZE, SIZE, 3), int(MEAN * 255), np.uint8)


def measure(demos: Path, work: Path, *, rounds: int, samples: int = SAMPLES) -> dict[str, Any]:
    """CPU time and bytes of a sample read, and of its pictures prepared."""
    store = work / "pictures.vla"
    if not store.exists():
        build_store([demos], store)
    dataset = rdt(store, mapping="rdt_libero_finetune")
    order = np.random.default_rng(0).permutation(len(dataset))[:samples].tolist()
    items = [dataset[index] for index in order]
    neighbours = Neighbours()
    passes = interleave(
        {
            "read": lambda: timed(order, dataset.get_item),
            "prepare": lambda: timed(items, six_pictures),
        },
        rounds,
    )
    pictures = [items[0][camera] for camera in CAMERAS]
    return {
        "cpu_ms": {
            name: Spread.of([each.cpu() / each.units * 1e3 for each in found]).to_json()
            for name, found in passes.items()
        },
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
        "nbytes": {
            "read": sum(each.nbytes for each in pictures),
            "prepare": sum(each.nbytes for each in six_pictures(items[0])),
        },
        "ratio": cpu_ratio(passes["read"], passes["prepare"]).to_json(),
        "rounds": rounds,
    }


def six_pictures(item: dict[str, Any]) -> list[Array]:
    """The (3, 384, 384) float32 pictures of a sample, in RDT's order."""
    from PIL import Image

    made = []
    for time in range(len(item["cam_high"])):
        for camera in CAMERAS:
            picture = item[camera][time] if item[f"{camera}_mask"][time] else BACKGROUND
            resized = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
            scaled = ((resized * (1 / 255)).astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
            made.append(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
    return made


def summary(result: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = [
        [name, f"{cpu['median']:.2f} ({cpu['low']:.2f}-{cpu['high']:.2f})", f"{result['nbytes'][name] / 1e6:.1f}"]
        for name, cpu in result["cpu_ms"].items()
    ]
    ratio = f"preparing costs {result['ratio']['median']:.0f} times as much as reading"
    return f"{table(['of a sample', 'CPU ms', 'MB of pictures'], rows)}\n\n{ratio}"


def main() -> None:
    run(
        "rdt_pictures",
        arguments(__doc__.splitlines()[0], rounds=11),
        lambda options, demos, work: measure(
            demos, work, rounds=3 if options.quick else options.rounds, samples=8 if options.quick else SAMPLES
        ),
        summary,
    )


if __name__ == "__main__":
    main()
