"""The other ways to read the same samples. Each is written as well as its library allows, and fills a reused, touched batch.

Everything small is made easy for them: windows and padding are worked out beforehand, `is_pad` is copied once a batch, and
the readers of our own arrays (zarr-python, tensorstore) hold numbers and backgrounds in memory and only read frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workload import ACTIONS, CAMERAS, Array, Demo, Units
from vla_store.format import predictions
from vla_store.reader.store import Store

Read = Callable[[Units, "dict[str, Array]"], None]


def _fill_pads(units: Units, out: dict[str, Array]) -> None:
    for name, values in units.pads.items():
        np.copyto(out[name], values)


def _one_sample(group: Any, at: int, units: Units, out: dict[str, Array]) -> None:
    """One sample from an open demo: a slice per camera, one row of robot_states, a slice of actions."""
    first, last = units.frames[at].tolist()
    step, length = int(units.step[at]), int(units.length[at])
    for camera in CAMERAS:
        out[camera][at] = group[f"obs/{camera}"][first : last + 1]  # one frame is stretched to two
    out["robot_states"][at] = group["robot_states"][last]
    stop = min(step + ACTIONS, length)
    actions = group["actions"][step:stop]
    out["actions"][at, : stop - step] = actions
    out["actions"][at, stop - step :] = actions[-1]


def hdf5_as_the_port(demos: tuple[Demo, ...]) -> Read:
    """As RDT's LIBERO port reads a sample: open the file, find the demo, take the instruction from `problem_info`, the whole
    state and action arrays (the sample carries the episode's mean and deviation), and two frames a camera."""
    import h5py

    def read(units: Units, out: dict[str, Array]) -> None:
        for at, episode in enumerate(units.episode.tolist()):
            demo = demos[episode]
            first, last = units.frames[at].tolist()
            with h5py.File(demo.path, "r") as file:
                data = file["data"]
                json.loads(data.attrs["problem_info"])["language_instruction"]
                group = data[f"demo_{demo.number}"]
                actions = group["actions"][:]
                states = group["robot_states"][:]
                for camera in CAMERAS:
                    out[camera][at] = group["obs"][camera][first : last + 1]  # one frame is stretched to two
            out["robot_states"][at] = states[last]
            step = int(units.step[at])
            stop = min(step + ACTIONS, len(actions))
            out["actions"][at, : stop - step] = actions[step:stop]
            out["actions"][at, stop - step :] = actions[-1]
        _fill_pads(units, out)

    return read


def hdf5_slices_only(demos: tuple[Demo, ...]) -> Read:
    """The least that opening a file per sample can cost: no instruction, no statistics, slices of what is needed."""
    import h5py

    def read(units: Units, out: dict[str, Array]) -> None:
        for at, episode in enumerate(units.episode.tolist()):
            demo = demos[episode]
            with h5py.File(demo.path, "r") as file:
                _one_sample(file["data"][f"demo_{demo.number}"], at, units, out)
        _fill_pads(units, out)

    return read


class KeptHandles:
    """h5py with every dataset opened once and kept: the honest rival while all fits in memory."""

    def __init__(self, demos: tuple[Demo, ...], **options: Any) -> None:
        """options: of h5py.File."""
        import h5py

        self._files: dict[Path, Any] = {}
        self._demos = []
        for demo in demos:
            if demo.path not in self._files:
                self._files[demo.path] = h5py.File(demo.path, "r", **options)
            group = self._files[demo.path]["data"][f"demo_{demo.number}"]
            names = [f"obs/{camera}" for camera in CAMERAS] + ["robot_states", "actions"]
            self._demos.append({name: group[name] for name in names})

    def read(self, units: Units, out: dict[str, Array]) -> None:
        for at, episode in enumerate(units.episode.tolist()):
            _one_sample(self._demos[episode], at, units, out)
        _fill_pads(units, out)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _OurArrays:
    """What the readers of our own arrays hold in memory."""

    def __init__(self, store: Store) -> None:
        ((entry, self.document),) = store.parts
        self.folder = Path(store.url) / entry.path
        rows = np.arange(store.rows)
        self._numbers = {name: store.read(name, rows) for name in ("robot_states", "actions")}
        self.backgrounds: dict[str, Array] = {}

    def undo(self, camera: str, residuals: Array, units: Units) -> Array:
        """(B, K, H, W, C) residuals to pictures."""
        prediction = self.document.fields[camera].prediction
        grouped = [name for name in prediction if name != "background"]
        if grouped:
            residuals = np.ascontiguousarray(residuals)
            predictions.undo(residuals.reshape(-1, *residuals.shape[2:]), grouped)
        if "background" in prediction:
            return residuals + self.backgrounds[camera][units.episode][:, None]
        return residuals

    def fill_numbers(self, units: Units, out: dict[str, Array]) -> None:
        np.take(self._numbers["robot_states"], units.frame_rows[:, 1], axis=0, out=out["robot_states"], mode="clip")
        rows = units.actions + units.start[:, None]
        np.take(self._numbers["actions"], rows, axis=0, out=out["actions"], mode="clip")
        _fill_pads(units, out)

    def predicted(self, camera: str) -> bool:
        return "background" in self.document.fields[camera].prediction


def zarr_slices(store: Store) -> Read:
    """zarr-python: one slice of our arrays per sample and camera, then the prediction undone."""
    import zarr

    ours = _OurArrays(store)
    arrays = {name: zarr.open_array(ours.folder / ours.document.fields[name].array, mode="r") for name in CAMERAS}
    for name in CAMERAS:
        if ours.predicted(name):
            ours.backgrounds[name] = np.asarray(zarr.open_array(ours.folder / "backgrounds" / name, mode="r")[:])

    def read(units: Units, out: dict[str, Array]) -> None:
        for name, array in arrays.items():
            for at, (first, last) in enumerate(units.frame_rows.tolist()):
                out[name][at] = array[first : last + 1]  # a frame that comes twice in its window is stretched
            if ours.document.fields[name].prediction:
                out[name][...] = ours.undo(name, out[name], units)
        ours.fill_numbers(units, out)

    return read


def tensorstore_batches(store: Store, threads: int | None = None) -> Read:
    """tensorstore: all frames of a batch asked for together, its cache off. It decodes with all cores unless told how many."""
    import tensorstore as ts

    ours = _OurArrays(store)
    limits: dict[str, Any] = {"cache_pool": {"total_bytes_limit": 0}}
    if threads is not None:
        limits |= {"data_copy_concurrency": {"limit": threads}, "file_io_concurrency": {"limit": threads}}
    context = ts.Context(limits)

    def opened(array: str) -> Any:
        kvstore = {"driver": "file", "path": f"{ours.folder / array}/"}
        return ts.open({"driver": "zarr3", "kvstore": kvstore}, context=context, read=True).result()

    arrays = {name: opened(ours.document.fields[name].array) for name in CAMERAS}
    for name in CAMERAS:
        if ours.predicted(name):
            ours.backgrounds[name] = opened(f"backgrounds/{name}").read().result()

    def read(units: Units, out: dict[str, Array]) -> None:
        with ts.Batch() as batch:
            rows = units.frame_rows.reshape(-1)
            asked = {name: array.oindex[rows].read(batch=batch) for name, array in arrays.items()}
        for name, future in asked.items():
            residuals = future.result().reshape(out[name].shape)
            np.copyto(out[name], ours.undo(name, residuals, units))
        ours.fill_numbers(units, out)

    return read
