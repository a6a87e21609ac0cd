"""LIBERO's HDF5 files as an `EpisodeSource`: the only module that knows the layout `data/demo_<number>`.

What a file may hold and the traps in it: docs/explanation and the references named there. Arrays are trusted over the
counts that attributes claim; everything else that does not fit is refused with file, demo and dataset.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_store.builder.sources import Array, EpisodeInfo, FieldSpec, Skipped, SourceInfo
from vla_store.errors import SourceError, VlaStoreError, machine_error
from vla_store.format.attributes import Attributes, empty_value, encode_value
from vla_store.format.schema import NUMERIC_DTYPES, check_field_names

EXTENSIONS = (".hdf5", ".h5")
CONVENTIONS = {"opengl": "bottom_up", "opencv": "top_down"}  # robosuite's macros.IMAGE_CONVENTION

_DEMO = re.compile(r"demo_(0|[1-9][0-9]*)\Z")
_SCENE = re.compile(r"^.*SCENE[0-9]+_")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class LiberoFile:
    """One HDF5 file of demonstrations of one task.

    orientation, observation: what the caller says of it, None to read it from the file.
    skip_bad: leave out demonstrations that are not as they should be, instead of raising.
    """

    path: str
    suite: str
    orientation: str | None = None
    observation: str | None = None
    skip_bad: bool = False

    @property
    def file(self) -> str:
        return Path(self.path).name

    def scan(self) -> SourceInfo:
        with _open(self.path) as file:
            data, names = _demos(file, self.path)
            warnings: list[str] = []
            skipped: list[Skipped] = []
            episodes: list[EpisodeInfo] = []
            for name in names:
                try:
                    episodes.append(_scan_demo(data, name, warnings))
                except SourceError as error:
                    error.at(file=self.path, demo=name)
                    if not self.skip_bad:
                        raise
                    skipped.append(Skipped(self.suite, self.file, name, str(error.what)))
            if not episodes:
                raise SourceError("every demonstration of the file is bad", file=self.path, found=skipped[0].reason)
            _check_counts(data, episodes, len(names), warnings)
            task = _task_name(self.file)
            return SourceInfo(
                suite=self.suite,
                file=self.file,
                task=task,
                text=task_text(task),
                instruction=_instruction(data, self.path),
                orientation=self.orientation or _orientation(data, self.path),
                observation=self.observation or _observation(data, episodes, self.path),
                nbytes=os.stat(self.path).st_size,
                episodes=tuple(episodes),
                warnings=tuple(warnings),
                skipped=tuple(skipped),
            )

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        handle = _handle(self.path)
        try:
            path, offset, dtype, shape = handle.place(number, field)
            if offset is None:
                rows: Array = handle.file[path][start:stop]
                return np.ascontiguousarray(rows, dtype.newbyteorder("<"))
            # Contiguous datasets are read past h5py, which holds one lock for the whole process.
            rows = np.empty((stop - start, *shape[1:]), dtype)
            if rows.nbytes:
                got = os.preadv(handle.raw, [rows.data], offset + start * (rows.nbytes // (stop - start)))
                if got != rows.nbytes:
                    raise SourceError("the file ends early", dataset=path, expected=f"{rows.nbytes} bytes", found=got)
            return rows.astype(dtype.newbyteorder("<"), copy=False)
        except VlaStoreError as error:
            raise error.at(file=self.path, demo=f"demo_{number}") from None
        except (OSError, KeyError, ValueError) as error:
            raise _unreadable(error, self.path, demo=f"demo_{number}", dataset=field) from error

    def attributes(self, number: int | None) -> Attributes:
        with _open(self.path) as file:
            if number is None:
                return {path: _attributes(file[path], self.path) for path in ("/", "/data")}
            demo = file[f"data/demo_{number}"]
            return {node.name: _attributes(node, self.path) for node in _nodes(demo)}


def field_name(path: str) -> str:
    """The field of a dataset path below its demonstration: obs/ is stripped, other slashes become __."""
    return path.removeprefix("obs/").replace("/", "__")


def task_text(task: str) -> str:
    """The instruction that a task's name spells, as LIBERO's evaluations use it: a leading ..._SCENE<n>_ is cut."""
    return _SCENE.sub("", task).replace("_", " ")


def _task_name(file: str) -> str:
    return Path(file).stem.removesuffix("_demo")


# Opening and reading


class _Handle:
    """One open file: h5py for its structure, a plain descriptor for contiguous data."""

    def __init__(self, path: str) -> None:
        self.file = h5py.File(path, "r")
        self.raw = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._places: dict[tuple[int, str], tuple[str, int | None, np.dtype[Any], tuple[int, ...]]] = {}

    def place(self, number: int, field: str) -> tuple[str, int | None, np.dtype[Any], tuple[int, ...]]:
        """Path, byte offset (None unless contiguous and plain), dtype and shape of a field's dataset."""
        if not self._places or (number, field) not in self._places:
            demo = self.file[f"data/demo_{number}"]
            for node in _nodes(demo):
                if isinstance(node, h5py.Dataset):
                    plain = (
                        node.chunks is None and node.compression is None and not node.external and not node.is_virtual
                    )
                    offset = node.id.get_offset() if plain else None
                    name = field_name(node.name.removeprefix(demo.name + "/"))
                    self._places[number, name] = (node.name, offset, node.dtype, node.shape)
        return self._places[number, field]

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            os.close(self.raw)
            self.file.close()


@functools.lru_cache(maxsize=8)
def _handle_at(path: str, mtime_ns: int, size: int, pid: int) -> _Handle:
    return _Handle(path)


def _handle(path: str) -> _Handle:
    try:
        stat = os.stat(path)
        return _handle_at(path, stat.st_mtime_ns, stat.st_size, os.getpid())
    except OSError as error:
        raise _unreadable(error, path) from error


@contextlib.contextmanager
def _open(path: str) -> Iterator[h5py.File]:
    """The file, every failure of h5py turned into a SourceError that names it."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except VlaStoreError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _unreadable(error, path) from error


def _unreadable(error: Exception, path: str, **places: Any) -> VlaStoreError:
    if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
        return machine_error(error, "reading a source", path)
    if not os.path.exists(path):
        return SourceError("a source is gone", file=path, **places)
    with open(path, "rb") as raw:
        head = raw.read(len(_SIGNATURE))
    size = os.path.getsize(path)
    if head != _SIGNATURE:
        return SourceError(
            "not an HDF5 file", file=path, expected="an HDF5 signature", found=f"{size} bytes that begin with {head!r}"
        )
    stored = re.search(r"stored_eof = ([0-9]+)", str(error))
    if stored:
        return SourceError(
            "the HDF5 file is truncated",
            file=path,
            expected=f"{stored[1]} bytes",
            found=f"{size} bytes",
            hint="download or copy it again",
            **places,
        )
    return SourceError("the HDF5 file cannot be read", file=path, found=str(error)[:300], **places)


def _nodes(group: h5py.Group) -> Iterator[h5py.Group | h5py.Dataset]:
    """The group and everything below it, by path."""
    found: list[str] = []
    group.visit(found.append)
    yield group
    for name in sorted(found):
        yield group[name]


# Checking


def _demos(file: h5py.File, path: str) -> tuple[h5py.Group, list[str]]:
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        raise SourceError(
            "no demonstrations in the file",
            file=path,
            expected="a group /data",
            found=", ".join(sorted(file)[:8]) or "nothing",
        )
    strange = [f"/{name}" for name in file if name != "data"] + [
        f"/data/{name}" for name in data if not _DEMO.match(name)
    ]
    if strange:
        raise SourceError(
            "the file holds more than demonstrations",
            file=path,
            expected="only groups /data/demo_<number>",
            found=", ".join(sorted(strange)[:8]),
            hint="remove what is not LIBERO's, or write an EpisodeSource for this layout",
        )
    names = sorted(data, key=lambda name: int(name[5:]))
    if not names:
        raise SourceError(
            "no demonstrations in the file", file=path, expected="groups /data/demo_<number>", found="an empty /data"
        )
    if not any("obs" in data[name] for name in names) and any("actions" in data[name] for name in names):
        raise SourceError(
            "raw demonstrations without observations",
            file=path,
            expected="obs/ with camera images in every demo",
            found=", ".join(sorted(data[names[0]])),
            hint="play them back first (LIBERO's scripts/create_dataset.py renders the images)",
        )
    return data, names


def _scan_demo(data: h5py.Group, name: str, warnings: list[str]) -> EpisodeInfo:
    demo = data[name]
    if not isinstance(demo, h5py.Group) or not isinstance(demo.get("actions"), h5py.Dataset):
        raise SourceError(
            "a demonstration without actions",
            expected="a dataset actions (T, n)",
            found=", ".join(sorted(demo)) if isinstance(demo, h5py.Group) else "no group",
        )
    actions = demo["actions"]
    if actions.dtype.kind != "f" or actions.ndim != 2:
        raise SourceError(
            "actions have the wrong dtype or shape",
            dataset="actions",
            expected="(T, n) of a float type",
            found=f"{actions.shape} of {actions.dtype}",
        )
    steps = actions.shape[0]
    if steps == 0:
        raise SourceError(
            "a demonstration without steps", dataset="actions", expected="at least one row", found=actions.shape
        )
    datasets = {
        node.name.removeprefix(demo.name + "/"): node for node in _nodes(demo) if isinstance(node, h5py.Dataset)
    }
    check_field_names([field_name(path) for path in datasets])
    if len({field_name(path) for path in datasets}) < len(datasets):
        raise SourceError("two datasets would have the same field name", found=", ".join(sorted(datasets)))
    fields = {field_name(path): _spec(path, node, steps) for path, node in datasets.items()}
    if not any(spec.is_camera for spec in fields.values()):
        raise SourceError(
            "a demonstration without a camera",
            expected="images (T, H, W, C) of uint8 below obs/",
            found=", ".join(sorted(datasets)),
        )
    if not np.isfinite(actions[()]).all():
        row = int(np.argwhere(~np.isfinite(actions[()]))[0][0])
        raise SourceError("actions are not all finite numbers", dataset="actions", row=row, found=actions[row])
    declared = demo.attrs.get("num_samples")
    if declared is not None and int(declared) != steps:
        warnings.append(f"{name}: num_samples says {int(declared)}, the arrays have {steps} steps")
    success = int(bool(demo["rewards"][-1] >= 1)) if "rewards" in fields and demo["rewards"].ndim == 1 else -1
    return EpisodeInfo(int(name[5:]), steps, fields, success)


def _spec(path: str, node: h5py.Dataset, steps: int) -> FieldSpec:
    if node.shape is None or node.ndim == 0 or node.dtype.name not in NUMERIC_DTYPES:
        raise SourceError(
            "a dataset has the wrong dtype or shape",
            dataset=path,
            expected="an array of numbers with one row a step",
            found=f"{node.shape} of {node.dtype}",
        )
    if node.shape[0] != steps:
        raise SourceError(
            "datasets of one demonstration have different lengths",
            dataset=path,
            expected=f"{steps} rows, as actions has",
            found=f"{node.shape[0]} rows",
        )
    if 0 in node.shape:
        raise SourceError(
            "a dataset of zero width", dataset=path, expected="at least one number a step", found=node.shape
        )
    role = "observation" if path.startswith("obs/") or path == "robot_states" else "step"
    spec = FieldSpec(node.dtype.name, tuple(node.shape[1:]), role, ragged=path == "states" and node.ndim == 2)
    if role == "observation" and node.ndim == 4 and not spec.is_camera:
        raise SourceError(
            "images have the wrong dtype or shape",
            dataset=path,
            expected="(T, H, W, at most 4) of uint8, uint16 or float32",
            found=f"{node.shape} of {node.dtype}",
        )
    if node.ndim == 3 and path.endswith(("_rgb", "_image")):
        raise SourceError(
            "images have the wrong dtype or shape",
            dataset=path,
            expected="(T, H, W, at most 4) of uint8, uint16 or float32",
            found=f"{node.shape} of {node.dtype}",
        )
    return spec


def _check_counts(data: h5py.Group, episodes: list[EpisodeInfo], demos: int, warnings: list[str]) -> None:
    for name, real in (("num_demos", demos), ("total", sum(each.steps for each in episodes))):
        declared = data.attrs.get(name)
        if declared is not None and np.ndim(declared) == 0 and int(declared) != real:
            warnings.append(f"{name} says {int(declared)}, the arrays have {real}")


# What the file says of itself


def _instruction(data: h5py.Group, path: str) -> str | None:
    text = data.attrs.get("problem_info")
    if text is None:
        return None
    try:
        value = json.loads(text)["language_instruction"]
        joined = "".join(value) if isinstance(value, list) else value
        return str(joined).strip().strip('"').strip()
    except (ValueError, KeyError, TypeError):
        raise SourceError(
            "the attribute problem_info is broken",
            file=path,
            expected='JSON with "language_instruction"',
            found=repr(text)[:120],
            hint="remove the attribute to take the instruction from the file name, or mend it",
        ) from None


def _orientation(data: h5py.Group, path: str) -> str:
    convention = data.attrs.get("macros_image_convention")
    name = convention.decode() if isinstance(convention, bytes) else convention
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    raise SourceError(
        "the orientation of the pictures cannot be known",
        file=path,
        expected="attribute macros_image_convention of /data: opengl or opencv",
        found="no such attribute" if convention is None else repr(convention),
        hint="say it with --orientation bottom_up (LIBERO, OpenVLA's no_noops files), top_down (robomimic) or rot180 (any4lerobot)",
    )


def _observation(data: h5py.Group, episodes: list[EpisodeInfo], path: str) -> str:
    """Compare the arm's joints in `states` with `joint_states`: equal at t+1 where observations come after the action, else at t.

    The smaller of the two medians decides if it is five times smaller; it is never exactly zero in rendered files.
    """
    after, before = [], []
    for episode in episodes[:4]:
        demo = data[f"demo_{episode.number}"]
        if "states" in demo and "obs/joint_states" in demo and episode.steps > 1:
            states, joints = demo["states"][:, 1:8], demo["obs/joint_states"][()]
            if states.shape[1] == 7 and joints.shape[1:] == (7,):
                after.append(np.abs(joints[:-1] - states[1:]).ravel())
                before.append(np.abs(joints[:-1] - states[:-1]).ravel())
    if after:
        late, early = float(np.median(np.concatenate(after))), float(np.median(np.concatenate(before)))
        if late * 5 <= early and early > 0:
            return "after"
        if early * 5 <= late and late > 0:
            return "before"
    raise SourceError(
        "it cannot be known whether observations were recorded before or after the action of their row",
        file=path,
        expected="states and obs/joint_states that decide it",
        found="no such datasets" if not after else f"median differences {late:.3g} (after) and {early:.3g} (before)",
        hint="say it with --observation after (LIBERO's published files) or before (regenerated files)",
    )


def _attributes(node: Any, path: str) -> dict[str, Any]:
    result = {}
    for name in sorted(node.attrs):
        try:
            result[name] = _attribute(node, name)
        except (TypeError, UnicodeError, OSError) as error:
            raise SourceError(
                "an attribute cannot be kept", file=path, on=node.name, attribute=name, found=error
            ) from None
    return result


def _attribute(node: Any, name: str) -> dict[str, Any]:
    identifier = node.attrs.get_id(name)
    dtype = identifier.dtype
    if dtype.names or h5py.check_ref_dtype(dtype) or (dtype.kind == "O" and not h5py.check_string_dtype(dtype)):
        raise TypeError(f"a value of type {dtype}")
    value = node.attrs[name]
    return empty_value(str(dtype)) if isinstance(value, h5py.Empty) else encode_value(value)
