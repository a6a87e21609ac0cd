"""Bytes and speed of the ways to keep the same demonstrations: presets of ours, HDF5, files an episode, files a step.

    python -m benchmarks.size [--quick] [--save] [--work FOLDER]

Every layout is written from the same source in one process and one thread, then read in the same random order, all in memory. The
samples are those of benchmarks/reading.py. Everyone must read the same pictures, bit for bit; numbers too, in the dtype kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc

from benchmarks import cold
from benchmarks.measure import Neighbours, Pass, Spread, arguments, environment, interleave, run, table, timed
from benchmarks.rivals import KeptHandles
from benchmarks.workload import (
    ACTIONS,
    BATCH,
    CAMERAS,
    WINDOWS,
    Array,
    Demo,
    Units,
    Workload,
    buffers,
    digest,
    make_workload,
)

PRESETS = ("raw", "fast", "small")
SOURCE = "HDF5 as published, kept handles"
STATE_WIDTH = 128  # of RDT's unified state and action vector
HISTORY = 64
FIELDS = (*CAMERAS, "robot_states", "actions")

Read = Callable[[Units, "dict[str, Array]"], None]


@dataclass(frozen=True)
class Layout:
    """One way to keep the demonstrations.

    batches: how many it reads in a round; samples: of each of them, where it is too slow for all. wide: whether it keeps numbers
    as they are.
    """

    name: str
    folder: Path
    seconds: float | None
    read: Read
    batches: int
    wide: bool = True
    samples: int = BATCH
    only: tuple[str, ...] = ()  # what it holds of an episode, where that is not everything


def episodes_of(demos: tuple[Demo, ...]) -> list[dict[str, Array]]:
    """What a sample is made of, by episode, in memory."""
    import h5py

    made = []
    for demo in demos:
        with h5py.File(demo.path, "r") as file:
            group = file["data"][f"demo_{demo.number}"]
            made.append({name: group[f"obs/{name}" if name in CAMERAS else name][:] for name in FIELDS})
    return made


# --- the layouts --------------------------------------------------------------------------------------------------------


def write_gzip(folder: Path, demos: tuple[Demo, ...], episodes: list[dict[str, Array]]) -> Read:
    """HDF5 with gzip (level 4, h5py's default), a frame a chunk: what h5py users turn on."""
    import h5py

    made: list[Demo] = []
    for number, (demo, episode) in enumerate(zip(demos, episodes)):
        path = folder / f"{number}.hdf5"
        with h5py.File(path, "w") as file:
            group = file.create_group(f"data/demo_{demo.number}")
            for name, values in episode.items():
                if name in CAMERAS:
                    chunks = (1, *values.shape[1:])
                    group.create_dataset(f"obs/{name}", data=values, chunks=chunks, compression="gzip")
                else:
                    group[name] = values
        made.append(Demo(path, demo.number, demo.start, demo.length))
    handles: list[KeptHandles] = []

    def read(units: Units, out: dict[str, Array]) -> None:
        if not handles:
            # Without its cache of decoded chunks, 8 MiB a dataset: the few demos here would fit in, LIBERO's would take 100 GB.
            handles.append(KeptHandles(tuple(made), rdcc_nbytes=0))
        handles[0].read(units, out)

    return read


def write_episodes(folder: Path, demos: tuple[Demo, ...], episodes: list[dict[str, Array]]) -> Read:
    """One compressed .npz an episode: a sample reads and inflates its whole episode."""
    for number, episode in enumerate(episodes):
        np.savez_compressed(folder / f"{number}.npz", **episode)  # type: ignore[arg-type]

    def read(units: Units, out: dict[str, Array]) -> None:
        for at, number in enumerate(units.episode.tolist()):
            with np.load(folder / f"{number}.npz") as file:
                for camera in CAMERAS:
                    out[camera][at] = file[camera][units.frames[at]]
                out["robot_states"][at] = file["robot_states"][units.frames[at, 1]]
                out["actions"][at] = file["actions"][units.actions[at]]
        _fill_pads(units, out)

    return read


def write_pictures(folder: Path, demos: tuple[Demo, ...], episodes: list[dict[str, Array]]) -> Read:
    """A PNG a frame, numbers in memory: what image folders are."""
    from PIL import Image

    for number, episode in enumerate(episodes):
        for camera in CAMERAS:
            (folder / str(number) / camera).mkdir(parents=True)
            for step, picture in enumerate(episode[camera]):
                Image.fromarray(picture).save(folder / str(number) / camera / f"{step}.png")

    def read(units: Units, out: dict[str, Array]) -> None:
        for at, number in enumerate(units.episode.tolist()):
            for camera in CAMERAS:
                for place, step in enumerate(units.frames[at].tolist()):
                    with Image.open(folder / str(number) / camera / f"{step}.png") as picture:
                        out[camera][at, place] = np.asarray(picture)
            out["robot_states"][at] = episodes[number]["robot_states"][units.frames[at, 1]]
            out["actions"][at] = episodes[number]["actions"][units.actions[at]]
        _fill_pads(units, out)

    return read


def write_buffer(folder: Path, demos: tuple[Demo, ...], episodes: list[dict[str, Array]]) -> Read:
    """RDT's disk buffer: a .json and an uncompressed .npz a step, folders of 512, with two frames a camera and the last and next
    64 vectors of 128 float32. Without its locks and retries, which its files have beside them."""
    starts = np.cumsum([0, *(each.length for each in demos)])
    for number, (demo, episode) in enumerate(zip(demos, episodes)):
        states, actions = (np.zeros((demo.length, STATE_WIDTH), np.float32) for _ in range(2))
        states[:, : episode["robot_states"].shape[1]] = episode["robot_states"]
        actions[:, : episode["actions"].shape[1]] = episode["actions"]
        summary = {"state_std": states.std(0), "state_mean": states.mean(0), "state_norm": np.sqrt((states**2).mean(0))}
        for step in range(demo.length):
            seen = np.clip(np.array([step - 2, step - 1]), 0, None)  # causal, as the others read
            past = np.clip(np.arange(step - HISTORY, step), 0, None)
            future = np.clip(np.arange(step, step + ACTIONS), None, demo.length - 1)
            path = _step_path(folder, int(starts[number]) + step)
            path.parent.mkdir(exist_ok=True)
            meta = {"dataset_name": "libero", "#steps": demo.length - 1, "step_id": step, "instruction": demo.path.stem}
            path.with_suffix(".json").write_text(json.dumps(meta))
            arrays: dict[str, Array] = {
                **{camera: episode[camera][seen] for camera in CAMERAS},
                **{f"{camera}_mask": seen == [step - 2, step - 1] for camera in CAMERAS},
                "past_states": states[past],
                "future_states": actions[future],
                "indicator": np.ones(STATE_WIDTH, np.float32),
                **summary,
            }
            np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]

    def read(units: Units, out: dict[str, Array]) -> None:
        for at, (number, step) in enumerate(zip(units.episode.tolist(), units.step.tolist())):
            path = _step_path(folder, int(starts[number]) + step)
            json.loads(path.with_suffix(".json").read_bytes())
            with np.load(path.with_suffix(".npz")) as file:
                content = {name: file[name] for name in file.files}  # all of it, as its consumer does
            for camera in CAMERAS:
                out[camera][at] = content[camera]
            out["robot_states"][at] = content["past_states"][-1, :9]
            out["actions"][at] = content["future_states"][:, :7]
        _fill_pads(units, out)

    return read


def _step_path(folder: Path, row: int) -> Path:
    return folder / str(row // 512) / str(row % 512)


def _fill_pads(units: Units, out: dict[str, Array]) -> None:
    for name, values in units.pads.items():
        np.copyto(out[name], values)


def make_layouts(demos: Path, work: Path, batches: int | None, slow: int) -> tuple[list[Layout], Workload]:
    """All layouts, written below `work`, and the batches to read."""
    from vla_store.builder import build_store
    from vla_store.reader.samples import Samples
    from vla_store.reader.store import open_store

    folder = work / "size"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layouts: list[Layout] = []
    for preset in PRESETS:
        start = time.perf_counter()
        build_store([demos], folder / f"{preset}.vla", preset=preset, executor="threads", workers=1)
        seconds = time.perf_counter() - start
        samples = Samples(open_store(folder / f"{preset}.vla"), windows=WINDOWS, alignment="causal", images="as_stored")
        layouts.append(Layout(f"vla_store {preset}", folder / f"{preset}.vla", seconds, _ours(samples), 10**9))
    workload = make_workload(open_store(folder / "fast.vla"), demos, batches)
    kept = KeptHandles(workload.demos)
    layouts.append(Layout(SOURCE, demos, None, kept.read, 10**9))
    episodes = episodes_of(workload.demos)
    for name, write, count, wide, singles in (
        ("HDF5 gzip, a frame a chunk, kept handles", write_gzip, 2 * slow, True, BATCH),
        ("npz an episode, compressed", write_episodes, 1, True, 4),
        ("PNG a frame", write_pictures, slow, True, BATCH),
        ("RDT's buffer: npz and json a step", write_buffer, slow, False, BATCH),
    ):
        if write is write_pictures and not _has_pillow():
            continue
        place = folder / str(len(layouts))
        place.mkdir()
        start = time.perf_counter()
        read = write(place, workload.demos, episodes)
        layouts.append(Layout(name, place, time.perf_counter() - start, read, count, wide, singles, FIELDS))
    return layouts, workload


def _ours(samples: Any) -> Read:
    def read(units: Units, out: dict[str, Array]) -> None:
        made = samples.batch(units.indices, {name: out[name] for name in out})
        assert made[CAMERAS[0]] is out[CAMERAS[0]]

    return read


def _has_pillow() -> bool:
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


# --- what is measured ---------------------------------------------------------------------------------------------------


def nbytes_of(layout: Layout) -> tuple[int, int]:
    """Bytes of a layout's files, and what they take on the disk; the source's own files for the source."""
    files = [path for path in cold.files_below(layout.folder) if layout.name != SOURCE or path.suffix == ".hdf5"]
    stats = [path.stat() for path in files]
    return sum(each.st_size for each in stats), sum(each.st_blocks for each in stats) * 512


def check(layouts: list[Layout], workload: Workload, out: dict[str, Array]) -> str:
    """Everyone reads the first batch; its digest. AssertionError where pictures differ, or numbers in the dtype that is kept."""
    expected: dict[str, str] = {}
    for layout in layouts:
        for array in out.values():
            array.fill(0)
        if layout.samples < len(workload.batches[0]):
            first = first_of(workload.batches[0], layout.samples)
            short = {name: np.zeros_like(array[: layout.samples]) for name, array in out.items()}
            layouts[0].read(first, {name: array[: layout.samples] for name, array in out.items()})
            layout.read(first, short)
            if digest(short) != digest({name: array[: layout.samples] for name, array in out.items()}):
                raise AssertionError(f"{layout.name} reads other bytes")
            continue
        layout.read(workload.batches[0], out)
        numbers = {name: out[name].astype(np.float32) for name in ("robot_states", "actions")}
        found = {
            "pictures": "".join(hashlib.sha256(out[camera].tobytes()).hexdigest() for camera in CAMERAS),
            "narrow": "".join(hashlib.sha256(each.tobytes()).hexdigest() for each in numbers.values()),
        }
        if layout.wide:
            found["all"] = digest(out)
        for name, value in found.items():
            if expected.setdefault(name, value) != value:
                raise AssertionError(f"{layout.name} reads other bytes ({name})")
    return expected["all"]


def first_of(units: Units, count: int) -> Units:
    """The first anchors of a batch."""
    arrays = {name: value[:count] for name, value in vars(units).items() if name != "pads"}
    return Units(**arrays, pads={name: pad[:count] for name, pad in units.pads.items()})


def measure(demos: Path, work: Path, *, rounds: int, batches: int | None, slow: int) -> dict[str, Any]:
    """Everything that benchmarks/results/size.json holds."""
    blosc.use_threads = False
    neighbours = Neighbours()
    try:
        layouts, workload = make_layouts(demos, work, batches, slow)
        import vla_store

        store = vla_store.open_store(layouts[1].folder)
        picture = tuple(store.parts[0][1].fields[CAMERAS[0]].fixed_shape)
        out = buffers(BATCH if len(workload.batches[0]) == BATCH else len(workload.batches[0]), picture)
        known = check(layouts, workload, out)

        def contender(layout: Layout) -> Callable[[], Pass]:
            units = [first_of(each, layout.samples) for each in workload.batches[: layout.batches]]
            into = {name: array[: layout.samples] for name, array in out.items()}
            return lambda: timed(units, lambda each: layout.read(each, into))

        passes = interleave({each.name: contender(each) for each in layouts}, rounds)
        check(layouts, workload, out)
        sizes = {each.name: nbytes_of(each) for each in layouts}
        source = sizes[SOURCE][0]
        size = len(workload.batches[0])
        described = {
            each.name: {
                "nbytes": sizes[each.name][0],
                "disk_nbytes": sizes[each.name][1],
                "share": round(sizes[each.name][0] / source, 5),
                "files": len(cold.files_below(each.folder)),
                "build_s": None if each.seconds is None else round(each.seconds, 3),
                "only": list(each.only),
                "us_per_sample": Spread.of(
                    [turn.wall() / turn.units / min(size, each.samples) * 1e6 for turn in passes[each.name]]
                ).to_json(),
            }
            for each in layouts
        }
        return {
            "layouts": described,
            "digest": known,
            "rounds": rounds,
            "source_nbytes": source,
            "steps": store.rows,
            "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
        }
    finally:
        shutil.rmtree(work / "size", ignore_errors=True)


def summary(result: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = [
        [
            name,
            f"{each['share']:.3f}",
            f"{each['files']:,}",
            "-" if each["build_s"] is None else f"{each['build_s']:.1f}",
            f"{1e6 / each['us_per_sample']['median']:,.0f}",
        ]
        for name, each in result["layouts"].items()
    ]
    return table(["layout", "of the source's bytes", "files", "seconds to write", "samples/s"], rows)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run(
        "size",
        arguments(__doc__.splitlines()[0], rounds=7),
        lambda options, demos, work: measure(
            demos,
            work,
            rounds=2 if options.quick else options.rounds,
            batches=4 if options.quick else None,
            slow=1 if options.quick else 4,
        ),
        summary,
    )


if __name__ == "__main__":
    sys.exit(main())
