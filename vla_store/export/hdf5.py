"""LIBERO's HDF5: a file a task with the groups /data/demo_<number>, their datasets, and the attributes that the store has of them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_store.features.frames import Batch, Frames
from vla_store.format import canonical
from vla_store.format.attributes import decode_value
from vla_store.reader.part import Part
from vla_store.reader.parts import parts_of
from vla_store.reader.values import Episode
from vla_store.sources.conventions import IMAGE_CONVENTIONS
from vla_store.sources.datasets import field_name, field_names
from vla_store.sources.overrides import ACTIONS, Choice, Overrides
from vla_store.text import counted

Array = np.ndarray[Any, Any]
Encoded = dict[str, dict[str, Any]]  # {path: {name: value of format.attributes}}

INSTRUCTION = "language_instruction"
CONVENTION = "macros_image_convention"
ENDINGS = (".hdf5", ".h5")
MAX_NAME_BYTES = 180
OBJECT_NBYTES = 4096  # that a dataset or group may take beside its data
SLACK_NBYTES = 256 << 10


class Hdf5Writer:
    """Writes files below folders of suites.

    Parameters
    ----------
    folder
        Where they grow.
    exported
        What is exported.
    """

    def __init__(self, folder: Path, exported: Frames) -> None:
        self._folder, self._exported = folder, exported
        store = exported.store
        self._fields = {name: store.fields[name] for name in exported.samples.columns if name in store.fields}
        self._fields |= {name: each for name, each in store.fields.items() if each.is_ragged}
        self._is_whole = len(exported.numbers) == len(store.episodes) and exported.steps == store.rows
        self._written: dict[Path, set[int]] = {}
        self._file: h5py.File | None = None
        self._path: Path | None = None
        self._places: dict[str, str] = {}
        self._lost_attributes = self._renumbered = self._foreign = 0
        self._observations: set[str] = set()

    def begin(self, episode: Episode, steps: int) -> None:
        """Begin an episode of so many steps."""
        part, at = parts_of(self._exported.store).of_episode(episode.episode)
        row = part.entries(at, at + 1)[0]
        own = _document(part, int(row["attributes_start"]), int(row["attributes_bytes"]))
        top = f"/data/demo_{episode.number}"
        choice = Overrides.recorded_of(part.document.plan, int(row["source"])).choice
        places = _places(own, top, list(self._fields), choice)
        is_native = top in own and episode.file.endswith(ENDINGS) and len(places) == len(self._fields)
        path = self._folder / _file_name(episode.suite)
        path /= _file_name(episode.file if is_native else f"{_short(episode.task)}_demo.hdf5")
        number = self._number(path, episode.number)
        ragged = [each for each in self._fields.values() if each.is_ragged]
        wide = sum(int(row[f"{each.name}_width"]) * np.dtype(each.dtype).itemsize for each in ragged)
        said = len(own) * OBJECT_NBYTES + int(row["attributes_bytes"])
        file = self._open(path, part, int(row["source"]), is_native, said + steps * (self._exported.step_nbytes + wide))
        group = file.require_group(f"/data/demo_{number}")
        if is_native:
            self._places, attributes = places, _relative(own, top)
        else:
            self._foreign += 1
            self._observations.add(part.document.sources[int(row["source"])].observation)
            attributes = {}
            self._places = {
                name: f"obs/{name}" if each.role == "observation" and name != ACTIONS else name
                for name, each in self._fields.items()
            }
            group.attrs[INSTRUCTION] = episode.text
            self._lost_attributes += sum(map(len, own.values()))
        self._group, self._attributes, self._steps, self._at = group, attributes, steps, 0

    def rows(self, batch: Batch) -> None:
        """Take the next steps of the episode."""
        for name, place in self._places.items():
            rows = np.asarray(batch[name])
            if place not in self._group:
                self._group.create_dataset(place, (self._steps, *rows.shape[1:]), rows.dtype)
            self._group[place][self._at : self._at + len(rows)] = rows
        self._at += len(rows)

    def end(self) -> None:
        """Write the attributes of the episode."""
        _write_attributes(self._group, self._attributes)
        if "num_samples" in self._group.attrs and not self._is_whole:
            self._group.attrs["num_samples"] = np.int64(self._steps)

    def close(self) -> list[str]:
        """Finish all files. Returns notes on what is not as in the store."""
        self.abort()
        if not self._is_whole:
            for path in self._written:
                check_room(path.parent, SLACK_NBYTES)
                with h5py.File(path, "r+") as file:
                    _recount(file)
        notes = ["texts are written as UTF-8 of variable length, datasets contiguous, without compression"]
        if not self._is_whole:
            notes.append("num_samples, num_demos, total and masks are of what was exported")
        if self._foreign:
            said = " or ".join(sorted(self._observations))
            notes.append(
                f"{counted(self._foreign, 'episode')} of other layouts: their files have the instruction, and no other attribute; "
                f"to build of them say --observation {said}"
            )
        if self._lost_attributes:
            notes.append(
                f"left out, as they have no place: {counted(self._lost_attributes, 'attribute')} of such episodes"
            )
        if self._renumbered:
            notes.append(
                f"of another number, as theirs was taken in their file: {counted(self._renumbered, 'demonstration')}"
            )
        return notes

    def abort(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _number(self, path: Path, number: int) -> int:
        """Return a number for a demonstration that is free in a file: its own, if that is."""
        taken = self._written.setdefault(path, set())
        if number in taken:
            number = max(taken) + 1
            self._renumbered += 1
        taken.add(number)
        return number

    def _open(self, path: Path, part: Part, source: int, is_native: bool, nbytes: int) -> h5py.File:
        """Return a file, opened for an episode of so many bytes."""
        described = part.document.sources[source].attributes
        path.parent.mkdir(parents=True, exist_ok=True)
        check_room(path.parent, SLACK_NBYTES + described[1] + nbytes)
        if path == self._path and self._file is not None:
            return self._file
        self.abort()
        is_new = not path.exists()
        self._file, self._path = h5py.File(path, "a"), path
        if is_new and is_native:
            _write_attributes(self._file, _relative(_document(part, *described), "/"))
        elif is_new:
            convention = {value: name for name, value in IMAGE_CONVENTIONS.items()}
            data = self._file.create_group("data")
            orientation = part.document.sources[source].orientation
            if orientation in convention:
                data.attrs[CONVENTION] = convention[orientation]
        return self._file


def check_room(folder: Path, nbytes: int) -> None:
    """Raise OSError where a disk has not so much room: HDF5 crashes the process when it finds a disk full."""
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _document(part: Part, start: int, nbytes: int) -> Encoded:
    found: Encoded = canonical.loads(part.attributes(start, nbytes), f"{part.path}/episodes/attributes")
    return found


def _short(name: str) -> str:
    """Return a name that a file can have: a task's may be a long sentence."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    kept = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _file_name(name: str) -> str:
    """Return a name of a file or folder that leads nowhere else, whatever a store says."""
    return re.sub(r"[/\0]", "_", name).lstrip(".") or "_"


def _places(own: Encoded, top: str, fields: list[str], choice: Choice) -> dict[str, str]:
    """Return the path below the demonstration of every field that has one in its attributes: all paths there are listed."""
    below = sorted(path.removeprefix(f"{top}/") for path in own if path.startswith(f"{top}/"))
    leaves = [path for path in below if not any(other.startswith(f"{path}/") for other in below)]
    encoded = {path: path.endswith("_jpeg") and field_name(path, True) in fields for path in leaves}
    names = {name: path for path, name in field_names(encoded, choice).items()}
    made = {name: names[name] for name in fields if name in names}
    # What was encoded there is pixels here, and has the name of such.
    return {name: path.removesuffix("_jpeg") if encoded[path] else path for name, path in made.items()}


def _relative(said: Encoded, top: str) -> Encoded:
    """Return what is said of a group and of all below it, by path below it."""
    return {path.removeprefix(top).strip("/"): named for path, named in said.items()}


def _write_attributes(root: h5py.Group, said: Encoded) -> None:
    """Write attributes by path below a group, where the fields are already.

    A path that is listed, and is there neither as a dataset nor as a group, is a dataset that was kept as an attribute of the
    group above it if that has one of its name; else an empty group.
    """
    kept = {
        at for path, named in said.items() for name in named if (at := _below(path, name)) in said and at not in root
    }
    for path in sorted(said):
        above, _, name = path.rpartition("/")
        if path in kept:
            _write_dataset(root, path, said[above][name])
        node = root if not path else root[path] if path in root else root.create_group(path)
        for name, value in said[path].items():
            if _below(path, name) not in kept:
                _write_attribute(node, name, value)


def _below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _write_dataset(root: h5py.Group, path: str, value: Mapping[str, Any]) -> None:
    data, dtype = _as_hdf5(value)
    root.create_dataset(path, data=data, dtype=dtype)


def _write_attribute(node: Any, name: str, value: Mapping[str, Any]) -> None:
    data, dtype = _as_hdf5(value)
    node.attrs.create(name, data, dtype=dtype)


def _as_hdf5(value: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a value as h5py takes it, with its dtype; None where that is the value's own."""
    if "strings" in value:
        items = [_text(each) for each in value["strings"]]
        array = np.array([*items, None], object)[:-1].reshape(value["shape"])
        if all(b"\0" not in each for each in items):
            return array, h5py.string_dtype()
        return array.astype(bytes), None
    if "utf8" in value or "bytes" in value:
        text = _text(value)
        return (text, h5py.string_dtype()) if b"\0" not in text else (np.bytes_(text), None)
    if value["shape"] is None:
        try:
            return h5py.Empty(np.dtype(value["dtype"])), None
        except TypeError:
            return h5py.Empty(h5py.string_dtype()), None
    return np.array(decode_value(dict(value))), None


def _text(value: Mapping[str, Any]) -> bytes:
    decoded = decode_value(dict(value))
    return decoded if isinstance(decoded, bytes) else str(decoded).encode()


def _recount(file: h5py.File) -> None:
    """Make the counts and lists of a file those of the demonstrations that are in it."""
    data = file["data"]
    steps = {name: len(data[name]["actions"]) for name in data}
    for name, count in (("num_demos", len(steps)), ("total", sum(steps.values()))):
        if name in data.attrs:
            data.attrs[name] = np.int64(count)
    masks = file.get("mask", {})
    for name in list(masks):
        names = [each for each in masks[name][()] if each.decode(errors="replace") in steps]
        attributes = dict(masks[name].attrs)
        del masks[name]
        masks.create_dataset(name, data=np.array([*names, None], object)[:-1], dtype=h5py.string_dtype())
        masks[name].attrs.update(attributes)
