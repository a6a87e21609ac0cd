"""LIBERO's HDF5 files as an `EpisodeSource`: the only module that knows the layout `data/demo_<number>`.

What a file may hold and the traps in it: docs/explanation and the references named there. Arrays are trusted over the
counts that attributes claim; everything else that does not fit is refused with file, demo and dataset.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import operator
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_store.builder.sources import Array, EpisodeInfo, FieldSpec, Skipped, SourceInfo, reason_of
from vla_store.errors import SourceError, VlaStoreError, machine_error
from vla_store.format.attributes import Attributes, empty_value, encode_value
from vla_store.format.schema import NUMERIC_DTYPES, check_field_names

EXTENSIONS = (".hdf5", ".h5")
CONVENTIONS = {"opengl": "bottom_up", "opencv": "top_down"}  # robosuite's macros.IMAGE_CONVENTION
MAX_DEPTH = 32

_DEMO = re.compile(r"demo_(0|[1-9][0-9]{0,14})\Z")
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
                    with _naming(self.path, name):
                        episodes.append(_scan_demo(data, name, warnings))
                except SourceError as error:
                    if not self.skip_bad:
                        raise
                    skipped.append(Skipped(self.suite, self.file, name, reason_of(error)))
            if not episodes:
                raise SourceError("every demonstration of the file is bad", file=self.path, reason=skipped[0].reason)
            _check_counts(data, episodes, len(names), warnings)
            task = _task_name(self.file)
            return SourceInfo(
                suite=self.suite,
                file=self.file,
                task=task,
                text=task_text(task),
                instruction=_instruction(data, self.path),
                orientation=_told("orientation", self.orientation, lambda: _orientation(data, self.path), warnings),
                observation=_told(
                    "observation", self.observation, lambda: _observation(data, episodes, self.path), warnings
                ),
                nbytes=os.stat(self.path).st_size,
                episodes=tuple(episodes),
                warnings=tuple(warnings),
                skipped=tuple(skipped),
            )

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        with _naming(self.path, f"demo_{number}", dataset=field):
            handle = _handle(self.path)
            place = handle.place(number, field)
            if place.offset is None:
                rows: Array = handle.file[place.path][start:stop]
                return rows
            # Contiguous datasets are read past h5py, which holds one lock for the whole process.
            rows = np.empty((stop - start, *place.shape[1:]), place.dtype)
            _read_into(handle.raw, rows.data.cast("B"), place.offset + start * (rows.nbytes // len(rows)))
            return rows

    def attributes(self, number: int | None) -> Attributes:
        with _open(self.path) as file:
            if number is None:
                return {path: _attributes(file[path], path, self.path) for path in ("/", "/data")}
            with _naming(self.path, f"demo_{number}"):
                top = f"/data/demo_{number}"
                return {
                    f"{top}/{path}" if path else top: _attributes(node, f"{top}/{path}", self.path)
                    for path, node in _walk(file[top])
                }


def field_name(path: str) -> str:
    """The field of a dataset path below its demonstration: obs/ is stripped, other slashes become __."""
    return path.removeprefix("obs/").replace("/", "__")


def task_text(task: str) -> str:
    """The instruction that a task's name spells, as LIBERO's evaluations use it: a leading ..._SCENE<n>_ is cut."""
    return _SCENE.sub("", task).replace("_", " ")


def _task_name(file: str) -> str:
    return Path(file).stem.removesuffix("_demo")


# Opening and reading


@dataclass(frozen=True)
class _Place:
    """Where a dataset lies. offset: of its rows in the file, None unless they lie there as NumPy has them."""

    path: str
    offset: int | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _Handle:
    """One open file: h5py for its structure, a plain descriptor for contiguous data."""

    def __init__(self, path: str) -> None:
        self.file = h5py.File(path, "r")
        self.raw = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._places: dict[tuple[int, str], _Place] = {}

    def place(self, number: int, field: str) -> _Place:
        if (number, field) not in self._places:
            top = f"/data/demo_{number}"
            for path, node in _walk(self.file[top]):
                if isinstance(node, h5py.Dataset):
                    place = _Place(f"{top}/{path}", _plain_offset(node), node.dtype, node.shape)
                    self._places[number, field_name(path)] = place
        return self._places[number, field]

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            os.close(self.raw)
            self.file.close()


def _plain_offset(node: h5py.Dataset) -> int | None:
    plain = node.chunks is None and not node.external and not node.is_virtual
    # A type that NumPy has no equal of (integers of 24 bits, say) is converted by HDF5.
    same = plain and h5py.h5t.py_create(node.dtype, logical=True).equal(node.id.get_type())
    return node.id.get_offset() if same else None


def _read_into(descriptor: int, out: memoryview, offset: int) -> None:
    done = 0
    while done < len(out):
        got = os.preadv(descriptor, [out[done:]], offset + done)
        if not got:
            raise SourceError("the file ends early", expected=f"{len(out)} bytes", found=done)
        done += got


@functools.lru_cache(maxsize=8)
def _handle_at(path: str, mtime_ns: int, size: int, pid: int) -> _Handle:
    return _Handle(path)


def close_files() -> None:
    """Let go of the files that were read: HDF5 does not let anybody write to one that is open."""
    _handle_at.cache_clear()


def _handle(path: str) -> _Handle:
    stat = os.stat(path)
    return _handle_at(path, stat.st_mtime_ns, stat.st_size, os.getpid())


@contextlib.contextmanager
def _open(path: str) -> Iterator[h5py.File]:
    """The file, every failure of h5py turned into an error that names it."""
    with _naming(path), h5py.File(path, "r") as file:
        yield file


@contextlib.contextmanager
def _naming(path: str, demo: str | None = None, **places: Any) -> Iterator[None]:
    """Every failure of h5py and of the system turned into an error that names the file and the demonstration."""
    try:
        yield
    except VlaStoreError as error:
        raise error.at(file=path, demo=demo) from None
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _unreadable(error, path, demo=demo, **places) from error


def _unreadable(error: Exception, path: str, **places: Any) -> VlaStoreError:
    if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
        failed = machine_error(OSError(error.errno, os.strerror(error.errno)), "reading a source", path)
        if error.errno == errno.EAGAIN:
            failed.hint = "another program is writing the file; where the file system cannot lock, set HDF5_USE_FILE_LOCKING=FALSE"
        return failed
    if not os.path.exists(path):
        return SourceError("a source is gone", file=path, **places)
    with open(path, "rb") as raw:
        head = raw.read(len(_SIGNATURE))
    size = os.path.getsize(path)
    stored = re.search(r"stored_eof = ([0-9]+)", str(error))
    if stored:
        return SourceError(
            "the HDF5 file is truncated",
            file=path,
            **places,
            expected=f"{stored[1]} bytes",
            found=f"{size} bytes",
            hint="download or copy it again",
        )
    if head != _SIGNATURE and "file signature not found" in str(error):
        return SourceError(
            "not an HDF5 file",
            file=path,
            expected="an HDF5 signature",
            found=f"{size} bytes that begin with {head!r}" if size else "an empty file",
            hint="download or copy it again",
        )
    return SourceError("the HDF5 file cannot be read", file=path, **places, found=str(error)[:300])


def _walk(group: h5py.Group, path: str = "") -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """The group, as "", and everything below it by path. Every name counts: h5py's own `visit` passes over second names and links."""
    yield path, group
    if path.count("/") >= MAX_DEPTH:
        raise SourceError("groups are nested too deeply", dataset=path, expected=f"at most {MAX_DEPTH} levels")
    for name in sorted(group):
        below = f"{path}/{name}" if path else name
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise SourceError(
                "a dataset is a link to another file",
                dataset=below,
                found=f"{link.filename}:{link.path}",
                hint="copy the file with its links expanded (h5py: Group.copy with expand_external=True)",
            )
        node = group.get(name) if isinstance(link, h5py.SoftLink) else group[name]
        if isinstance(link, h5py.SoftLink) and not isinstance(node, h5py.Dataset):
            raise SourceError("a link that leads to no dataset", dataset=below, found=link.path)
        if isinstance(node, h5py.Group):
            yield from _walk(node, below)
        else:
            yield below, node


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
    groups = [group for group in map(data.get, names) if isinstance(group, h5py.Group)]
    if not any("obs" in group for group in groups) and any("actions" in group for group in groups):
        raise SourceError(
            "raw demonstrations without observations",
            file=path,
            expected="obs/ with camera images in every demo",
            found=", ".join(sorted(groups[0])),
            hint="play them back first (LIBERO's scripts/create_dataset.py renders the images)",
        )
    return data, names


def _scan_demo(data: h5py.Group, name: str, warnings: list[str]) -> EpisodeInfo:
    demo = data.get(name)
    if not isinstance(demo, h5py.Group) or not isinstance(demo.get("actions"), h5py.Dataset):
        raise SourceError(
            "a demonstration without actions",
            expected="a dataset actions (T, n)",
            found=", ".join(sorted(demo)) if isinstance(demo, h5py.Group) else "no group",
        )
    datasets = {path: node for path, node in _walk(demo) if isinstance(node, h5py.Dataset)}
    actions = datasets["actions"]
    if _dtype(actions).kind != "f" or actions.ndim != 2:
        raise SourceError(
            "actions have the wrong dtype or shape",
            dataset="actions",
            expected="(T, n) of a float type",
            found=f"{actions.shape} of {_dtype(actions)}",
        )
    steps = actions.shape[0]
    if steps == 0:
        raise SourceError(
            "a demonstration without steps", dataset="actions", expected="at least one row", found=actions.shape
        )
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
    finite = np.isfinite(actions[()]).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise SourceError("actions are not all finite numbers", dataset="actions", row=row, found=actions[row])
    declared = _count(demo, "num_samples")
    if declared not in (None, steps):
        warnings.append(f"{name}: num_samples says {declared}, the arrays have {steps} steps")
    rewards = datasets.get("rewards")
    success = int(bool(rewards[-1] >= 1)) if rewards is not None and rewards.ndim == 1 else -1
    return EpisodeInfo(int(name[5:]), steps, fields, success)


def _count(node: h5py.Group, name: str) -> int | str | None:
    """A count that an attribute declares; None where it declares none, what it says where that is no count."""
    value = node.attrs.get(name)
    if value is None:
        return None
    try:
        return operator.index(np.asarray(value).item())
    except (TypeError, ValueError):
        return repr(value)[:60]


def _dtype(node: h5py.Dataset) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = node.dtype
    except TypeError as error:  # HDF5 has types that NumPy has not
        raise SourceError("a dataset has a type that NumPy does not have", dataset=node.name, found=error) from None
    return dtype


def _spec(path: str, node: h5py.Dataset, steps: int) -> FieldSpec:
    dtype = _dtype(node)
    if node.shape is None or node.ndim == 0 or dtype.name not in NUMERIC_DTYPES:
        raise SourceError(
            "a dataset has the wrong dtype or shape",
            dataset=path,
            expected="an array of numbers with one row a step",
            found=f"{node.shape} of {dtype}",
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
    spec = FieldSpec(dtype.name, tuple(node.shape[1:]), role, ragged=path == "states" and node.ndim == 2)
    if role == "observation" and node.ndim == 4 and not spec.is_camera:
        raise SourceError(
            "images have the wrong dtype or shape",
            dataset=path,
            expected="(T, H, W, at most 4) of uint8, uint16 or float32",
            found=f"{node.shape} of {dtype}",
        )
    if node.ndim == 3 and path.endswith(("_rgb", "_image")):
        raise SourceError(
            "images have the wrong dtype or shape",
            dataset=path,
            expected="(T, H, W, at most 4) of uint8, uint16 or float32",
            found=f"{node.shape} of {dtype}",
        )
    return spec


def _check_counts(data: h5py.Group, episodes: list[EpisodeInfo], demos: int, warnings: list[str]) -> None:
    for name, real in (("num_demos", demos), ("total", sum(each.steps for each in episodes))):
        declared = _count(data, name)
        if declared not in (None, real):
            warnings.append(f"{name} says {declared}, the arrays have {real}")


# What the file says of itself


def _instruction(data: h5py.Group, path: str) -> str | None:
    text = data.attrs.get("problem_info")
    if text is None:
        return None
    try:
        value = json.loads(text)["language_instruction"]
        joined = "".join(value) if isinstance(value, list) else value
        instruction: str = joined.strip().strip('"').strip()
        instruction.encode()
        return instruction
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise SourceError(
            "the attribute problem_info is broken",
            file=path,
            expected='JSON with "language_instruction"',
            found=repr(text)[:120],
            hint="remove the attribute to take the instruction from the file name, or mend it",
        ) from None


def _told(name: str, given: str | None, read: Callable[[], str], warnings: list[str]) -> str:
    """A convention as the caller gives it, else as the file has it. Who contradicts a file is heard, and the store says so."""
    if given is None:
        return read()
    with contextlib.suppress(SourceError):
        if (found := read()) != given:
            warnings.append(f"--{name} {given} was given, but the file says {found}")
    return given


def _orientation(data: h5py.Group, path: str) -> str:
    convention = data.attrs.get("macros_image_convention")
    name = convention.decode() if isinstance(convention, bytes) else convention
    if isinstance(name, str) and name in CONVENTIONS:
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
            states, joints = demo["states"], demo["obs/joint_states"]
            if states.ndim == 2 and states.shape[1] >= 8 and joints.shape[1:] == (7,):
                states, joints = states[:, 1:8], joints[()]
                after.append(np.abs(joints[:-1] - states[1:]).ravel())
                before.append(np.abs(joints[:-1] - states[:-1]).ravel())
    if after:
        late, early = float(np.median(np.concatenate(after))), float(np.median(np.concatenate(before)))
        if late * 5 <= early and early > 0:
            return "after"
        if early * 5 <= late and late > 0:
            return "before"
    raise SourceError(
        "nothing says whether observations were recorded before or after the action",
        file=path,
        expected="states and obs/joint_states that decide it",
        found="no such datasets" if not after else f"median differences {late:.3g} (after) and {early:.3g} (before)",
        hint="say it with --observation after (LIBERO's published files) or before (regenerated files)",
    )


def _attributes(node: h5py.Group | h5py.Dataset, on: str, path: str) -> dict[str, Any]:
    result = {}
    for name in sorted(node.attrs):
        try:
            result[name] = _attribute(node, name)
        except (TypeError, ValueError, OSError) as error:
            raise SourceError(
                "an attribute cannot be kept",
                file=path,
                on=on,
                attribute=name,
                expected="numbers or text",
                found=str(error)[:200],
            ) from None
    return result


def _attribute(node: h5py.Group | h5py.Dataset, name: str) -> dict[str, Any]:
    dtype = node.attrs.get_id(name).dtype
    if dtype.names or h5py.check_ref_dtype(dtype) or (dtype.kind == "O" and not h5py.check_string_dtype(dtype)):
        raise TypeError(f"a value of type {dtype}")
    value = node.attrs[name]
    return empty_value(str(dtype)) if isinstance(value, h5py.Empty) else encode_value(value)
