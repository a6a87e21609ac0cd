"""LIBERO-shaped HDF5 of any size, from a seed alone: what builds of ten gigabytes and more are tried with.

    python -m benchmarks.generate OUT --gigabytes 12 --seed 0

Five suites, contiguous and uncompressed like LIBERO's, with its datasets, dtypes, attributes and ragged `states`. The first demos of
every file are drawn (see vla_store/synthetic.py: textures, an arm that moves, a wrist camera that moves with it). The others are
variations of those, which cost no drawing: other lengths, both pictures rolled sideways and their colours exchanged by amounts
of their own, so that no two demos have a frame in common and every camera compresses as the drawn one does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.synthetic import SyntheticTask, data_attributes, demo_attributes, make_demo

SUITES = ("drawn_spatial", "drawn_object", "drawn_goal", "drawn_10", "drawn_90")
THINGS = ("cup", "bowl", "mug", "plate", "pan", "book", "box", "bottle")
PLACES = ("plate", "stove", "tray", "shelf", "cabinet", "basket", "rack", "table")
WIDTHS = 5  # files differ in how many objects lie around, which decides how wide `states` is
MOST_DEMOS = 50  # of a file, as in LIBERO
DRAWN_DEMOS = 2  # of a file
CUT_STEPS = 8  # a variation leaves out up to so many steps at each end
DEMO_NBYTES = 11_000_000  # about; decides only how the bytes are shared out over files


@dataclass(frozen=True)
class Generated:
    """What was written."""

    files: int
    demos: int
    steps: int
    nbytes: int


def generate(
    folder: Path, nbytes: int, *, seed: int = 0, size: int = 128, wrote: Callable[[Path], None] | None = None
) -> Generated:
    """Write suites of `nbytes` in all, and one demo more at most, below a folder. The same arguments give the same bytes.

    size: height and width of the pictures. wrote: called with every file that is done.
    """
    demos = max(1, min(MOST_DEMOS, int(nbytes / (DEMO_NBYTES * (size / 128) ** 2)) // (2 * len(SUITES))))
    written = steps = count = number = 0
    while written < nbytes:
        task = _task(number, demos)
        path = folder / task.suite / f"{task.name}_demo.hdf5"
        made = _write_file(path, task, np.random.SeedSequence([seed, number]), size, nbytes - written)
        written, steps, count = written + path.stat().st_size, steps + made[1], count + made[0]
        number += 1
        if wrote:
            wrote(path)
    return Generated(number, count, steps, written)


def _task(number: int, demos: int) -> SyntheticTask:
    suite = SUITES[number % len(SUITES)]
    index = number // len(SUITES)
    words = f"put_the_{THINGS[index % len(THINGS)]}_on_the_{PLACES[index // len(THINGS) % len(PLACES)]}"
    again = index // (len(THINGS) * len(PLACES))
    words += f"_number_{again}" if again else ""
    scene = f"KITCHEN_SCENE{index + 1}_" if suite in ("drawn_10", "drawn_90") else ""
    return SyntheticTask(suite, scene + words, 2 + (number + index) % WIDTHS, demos)


def _write_file(
    path: Path, task: SyntheticTask, seeds: np.random.SeedSequence, size: int, room: int
) -> tuple[int, int]:
    """Up to `task.demos` demos, or as many as fill `room` bytes. How many, and their steps."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    drawn: list[dict[str, npt.NDArray[Any]]] = []
    demos = steps = nbytes = 0
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for demo, rng in enumerate(map(np.random.default_rng, seeds.spawn(task.demos))):
            if nbytes >= room:
                break
            if demo < DRAWN_DEMOS:
                drawn.append(make_demo(rng, task.objects, size))
                arrays = drawn[-1]
            else:
                arrays = _varied(drawn[demo % DRAWN_DEMOS], rng)
            group = data.create_group(f"demo_{demo}")
            group.attrs.update(demo_attributes(task, arrays))
            for name, array in arrays.items():
                group.create_dataset(name, data=array)
                nbytes += array.nbytes
            demos, steps = demo + 1, steps + len(arrays["actions"])
        data.attrs.update(data_attributes(SyntheticTask(task.suite, task.name, task.objects, demos), steps, size))
    return demos, steps


def _varied(arrays: dict[str, npt.NDArray[Any]], rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Another demo made of one that was drawn: shorter, its pictures rolled and in other colours."""
    first, last = (int(n) for n in rng.integers(0, CUT_STEPS, 2))
    taken = slice(first, len(arrays["actions"]) - last)
    made = {}
    for name, array in arrays.items():
        if array.ndim == 4:
            shift, colours = int(rng.integers(array.shape[2])), rng.permutation(3)
            made[name] = np.ascontiguousarray(np.roll(array[taken], shift, axis=2)[..., colours])
        else:
            made[name] = array[taken].copy()
    made["actions"][:, :3] += rng.normal(0, 0.001, (len(made["actions"]), 3))
    made["states"][:, 10:] += rng.normal(0, 0.001)  # of things, not of the arm, which says when observations were taken
    for name in ("rewards", "dones"):
        made[name][-1] = 1
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that holds nothing yet")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="10^9 bytes (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="height and width of the pictures (default: 128)")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty")
    if not options.gigabytes > 0 or options.size < 8 or options.seed < 0:
        parser.error("--gigabytes above 0, --size of at least 8, --seed of at least 0")
    began = time.monotonic()
    made = generate(options.out, int(options.gigabytes * 1e9), seed=options.seed, size=options.size, wrote=print)
    rate = made.nbytes / 1e6 / (time.monotonic() - began)
    print(f"{made.files} files, {made.demos} demos, {made.steps:,} steps, {made.nbytes / 1e9:.3g} GB ({rate:.0f} MB/s)")


if __name__ == "__main__":
    main()
