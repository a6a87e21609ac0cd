"""`vla-store demo`: write synthetic demonstrations, build a store of them, verify it, read it, and say what that gave.

Everything is real but the demonstrations: the same build, audit and samples as on LIBERO, and h5py as the rival.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import DestinationExists, MachineError, StoreDamaged
from vla_store.reader.samples import Samples
from vla_store.reader.store import open_store
from vla_store.storage import local_path
from vla_store.synthetic import TASKS, write_suites
from vla_store.text import Report, counted, size_text, table

Arrays = dict[str, npt.NDArray[Any]]

CAMERAS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": [-1, 0]}
STATE, ACTIONS = "robot_states", 64
SAMPLES, BATCH, ROUNDS = 256, 64, 3


@dataclass(frozen=True, repr=False)
class DemoReport(Report):
    """Where one demo left its demonstrations and its store, of how many steps, and how many samples were compared."""

    source: Path
    store: Path
    steps: int
    compared: int

    def text(self) -> str:
        """Return it for people."""
        return (
            f"files          {self.source}\nstore          {self.store}  ({counted(self.steps, 'step')})\n"
            f"compared       {counted(self.compared, 'sample')} with their source, bit for bit"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it for programs: values that JSON can hold."""
        return {
            "compared": self.compared,
            "source": str(self.source),
            "steps": self.steps,
            "store": str(self.store),
        }


def run_demo(folder: str | os.PathLike[str] | None = None, *, seed: int = 0) -> DemoReport:
    """Write, build, verify and read below `folder`, and tell on stdout as it goes.

    Parameters
    ----------
    folder
        A new or empty folder, where the files stay. None: a temporary one, which is removed at the end.

    Raises
    ------
    DestinationExists, StoreDamaged
        StoreDamaged should a sample differ from its source; and whatever build, verify and reading raise.
    """
    if sys.version_info < (3, 11):
        raise MachineError(
            "the demo builds a store, and building needs Python 3.11 or newer", found=sys.version.split()[0]
        )
    if folder is None:
        files: Any = tempfile.TemporaryDirectory(prefix="vla_store-demo-")
    else:
        root = local_path(folder, "the folder of a demo")
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DestinationExists(
                "the demo wants a new or empty folder",
                path=root,
                hint="choose another name, or remove what an earlier demo left",
            )
        root.mkdir(parents=True, exist_ok=True)
        files = nullcontext(root)
    with files as where:
        report = _run(Path(where), seed)
        if folder is not None:
            given = Path(folder)  # as it was given: short, and where the reader stands
            store = given / report.store.name
            _say(f"\nfiles     {given / report.source.name}\n          {store}")
            _say(f"go on     vla-store info {shlex.quote(str(store))}")
        else:
            _say("\nfiles     removed; `vla-store demo FOLDER` keeps them")
    return report


def _run(folder: Path, seed: int) -> DemoReport:
    from vla_store.audit import verify_store
    from vla_store.builder import build_store

    began = time.perf_counter()
    source = write_suites(folder / "source", seed=seed)
    source_nbytes = sum(path.stat().st_size for path in source.rglob("*.hdf5"))
    _say(
        f"drew      {counted(sum(task.demos for task in TASKS), 'demonstration')} of {counted(len(TASKS), 'task')}, as LIBERO's HDF5 files,"
    )
    _say(
        f"          {size_text(source_nbytes)} in {time.perf_counter() - began:.1f} s; drawn, not rendered or recorded\n"
    )

    built = build_store([source], folder / "demo.vla")
    _say(built.text() + "\n")

    audit = verify_store(built.store, against=[source])
    if not audit.sound:
        raise StoreDamaged("the store just built does not hold", store=built.store, found=audit.text())
    _say("verified  every object by its digest, every frame decoded,")
    _say("          every value and attribute against the source, bit for bit\n")

    samples = Samples(
        open_store(built.store),
        windows={**CAMERAS, STATE: 0, "actions": range(ACTIONS)},
        alignment="causal",
        images="upright",
        dtype="float32",
    )
    rival = Hdf5PerSample(source)
    chosen = np.random.default_rng(seed).permutation(len(samples))[:SAMPLES]
    for index in chosen.tolist():
        _check_equal(samples[index], rival.sample(index), index)
    rates = _rates(samples, rival, chosen)
    _say(f"read      a sample: 2 cameras x 2 frames, the state, {ACTIONS} actions;")
    _say(f"          {len(chosen)} at random equal what h5py reads, bit for bit\n")
    rows = [
        [name, f"{rate:,.0f}", f"{rate / rates[0]:.1f} x"]
        for name, rate in zip(("HDF5, opened per sample", "store, one at a time", f"store, batches of {BATCH}"), rates)
    ]
    _say(table(["", "samples/s", ""], rows))
    _say(f"\nsize      {built.nbytes / source_nbytes:.2f} of the HDF5; on LIBERO's rendered pictures about 0.35")
    _say(f"time      {time.perf_counter() - began:.0f} s in all, one process, files in the page cache")
    return DemoReport(source, Path(built.store), built.rows, len(chosen))


class Hdf5PerSample:
    """The usual loader: open the file of a sample's demo, read its windows, close it. Causal, upright, float32, edges repeated."""

    def __init__(self, source: Path) -> None:
        import h5py

        self._anchors: list[tuple[Path, str, int]] = []
        for path in sorted(source.rglob("*.hdf5"), key=lambda each: (each.parent.name, each.name)):
            with h5py.File(path) as hdf5:
                for demo in sorted(hdf5["data"], key=lambda name: int(name.rpartition("_")[2])):
                    # Observations were recorded after the action of their row, so step 0 has none before it.
                    self._anchors += [(path, demo, step) for step in range(1, len(hdf5["data"][demo]["actions"]))]

    def sample(self, index: int) -> Arrays:
        import h5py

        path, demo, step = self._anchors[index]
        made: Arrays = {}
        with h5py.File(path) as hdf5:
            group = hdf5["data"][demo]
            for camera, offsets in CAMERAS.items():
                rows = np.maximum(step - 1 + np.array(offsets), 0)
                frames = group["obs"][camera][rows[0] : rows[-1] + 1]
                made[camera] = np.ascontiguousarray(frames[rows - rows[0], ::-1])
            made[STATE] = group[STATE][step - 1].astype(np.float32)
            actions = group["actions"][step : step + ACTIONS].astype(np.float32)
            made["actions"] = np.concatenate([actions, np.repeat(actions[-1:], ACTIONS - len(actions), axis=0)])
        return made


def _rates(samples: Samples, rival: Hdf5PerSample, chosen: npt.NDArray[np.int64]) -> list[float]:
    """Return the samples per second of HDF5, single samples, batches: the best of rounds in turn, so that a slow moment hits all."""

    def batches() -> None:
        out = samples.allocate(BATCH)
        for start in range(0, len(chosen) - BATCH + 1, BATCH):
            samples.batch(chosen[start : start + BATCH], out=out)

    runs: Sequence[Callable[[], object]] = (
        lambda: [rival.sample(index) for index in chosen.tolist()],
        lambda: [samples[index] for index in chosen.tolist()],
        batches,
    )
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for which, work in enumerate(runs):
            began = time.perf_counter()
            work()
            best[which] = min(best[which], time.perf_counter() - began)
    return [len(chosen) / seconds for seconds in best]


def _check_equal(sample: Any, expected: Arrays, index: int) -> None:
    for field, array in expected.items():
        if sample[field].dtype != array.dtype or not np.array_equal(sample[field], array):
            raise StoreDamaged("a sample is not what its source says", sample=index, field=field)


def _say(text: str) -> None:
    print(text, flush=True)
