"""HDF5 files as sources: opening, reading, attributes, and failures turned into errors that name the file.

What a file's groups mean is its layout's affair: libero.py and cosmos.py.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla_store.builder import jpeg, strangers
from vla_store.builder.datasets import (
    ACTIONS,
    LEAVE_OUT,
    NOTHING,
    Choice,
    Described,
    aside,
    check_aside,
    check_aside_nbytes,
    field_names,
    told_names,
)
from vla_store.builder.pictures import with_pictures
from vla_store.builder.sources import Array, FieldSpec, check_actions, is_machines
from vla_store.errors import MachineError, SourceError, VlaStoreError, machine_error
from vla_store.format.attributes import Attributes, empty_value, encode_value
from vla_store.format.schema import NUMERIC_DTYPES

EXTENSIONS = (".hdf5", ".h5")
MAX_DEPTH = 32

# Filters that are known by number and that HDF5 need not have. To lack one is the machine's fault; any other number is damage.
FILTERS = {
    4: "szip",
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DAMAGED = "copy or download the file again, or leave the demonstration out with --skip-bad"


@dataclass(frozen=True)
class Hdf5Source:
    """One HDF5 file of demonstrations of one task.

    orientation, observation: what the caller says of it, None to read it from the file. said: which of them by its path.
    skip_bad: leave out demonstrations that are not as they should be, instead of raising. choice: what the caller says of datasets.
    """

    path: str
    suite: str
    orientation: str | None = None
    observation: str | None = None
    skip_bad: bool = False
    said: tuple[str, ...] = ()
    choice: Choice = NOTHING

    @property
    def file(self) -> str:
        return Path(self.path).name

    def group(self, number: int) -> str:
        """The HDF5 path of an episode."""
        raise NotImplementedError

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        group = self.group(number)
        with naming(self.path, group.rpartition("/")[2] or None):
            return _handle(self.path).read(group, self.choice, field, start, stop)

    def layout(self) -> FileLayout:
        """Which of the datasets of this file are no fields, judged by all its demonstrations."""
        stat = os.stat(self.path)
        return _layout_of(self, stat.st_mtime_ns, stat.st_size)

    def demonstrations(self, file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
        """The groups of all demonstrations, each with its path."""
        raise NotImplementedError

    def beside(self, file: h5py.File) -> list[str]:
        """The paths of what lies in a file outside its demonstrations."""
        return []

    def attributes_below(self, file: h5py.File, top: str) -> Attributes:
        """The attributes of a demonstration's group and of all below it, and what of it is kept as attributes, by path."""
        made: Attributes = {}
        no_fields = self.layout().aside
        kept: list[tuple[str, h5py.Dataset]] = []
        for path, node in walk(file[top], top=top, choice=self.choice):
            at = f"{top.rstrip('/')}/{path}" if path else top
            made[at] = attributes_of(node, at, self.path)
            if path in no_fields and isinstance(node, h5py.Dataset):
                kept.append((at, node))
        for at, node in kept:
            above, _, name = at.rpartition("/")
            if name in made.setdefault(above or "/", {}):
                raise SourceError(
                    "a dataset that is kept as an attribute has the name of one",
                    dataset=at,
                    hint=LEAVE_OUT.format(at.removeprefix(top).lstrip("/")),
                )
            made[above or "/"][name] = _dataset_value(node)
        return made

    def is_plain(self, number: int, field: str) -> bool:
        """See EpisodeSource."""
        group = self.group(number)
        with naming(self.path, group.rpartition("/")[2] or None):
            return _handle(self.path).place(group, self.choice, field).offset is not None


@dataclass(frozen=True)
class FileLayout:
    """aside: datasets that are no fields, and whether they can be attributes. paths: of all datasets. used: what of the caller's
    choice the file has."""

    aside: Mapping[str, bool]
    paths: frozenset[str]
    used: tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def _layout_of(source: Hdf5Source, mtime_ns: int, size: int) -> FileLayout:
    demos: list[dict[str, Described]] = []
    used: set[str] = set()
    with opened(source.path) as file:
        beside = source.beside(file)
        for top, group in source.demonstrations(file):
            with contextlib.suppress(SourceError):  # a demonstration that is bad has no say; its own scan says why
                with naming(source.path):
                    described = described_below(group, top, source.choice, used)
                demos += [described] if ACTIONS in described else []
    paths = frozenset(path for each in demos for path in each)
    used |= {path for path, _ in source.choice.rename if path in paths}
    used |= {each for path in beside if (each := source.choice.excluding(path)) is not None}
    return FileLayout(aside(demos), paths, tuple(sorted(used)))


@dataclass(frozen=True)
class _Place:
    """Where a dataset lies. offset: of its rows in the file, None unless they lie there as NumPy has them. shape: of the
    pixels, where it holds encoded pictures."""

    path: str
    offset: int | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_encoded: bool


class _Handle:
    """One open file: h5py for its structure, a plain descriptor for contiguous data."""

    def __init__(self, path: str) -> None:
        self.file = _open(path)
        self.raw = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._paths: dict[tuple[str, Choice], dict[str, str]] = {}
        self._places: dict[str, _Place] = {}

    def place(self, group: str, choice: Choice, field: str) -> _Place:
        if (group, choice) not in self._paths:
            described = described_below(self.file[group], group, choice)
            names = field_names({path: each.is_encoded for path, each in described.items()}, choice)
            self._paths[group, choice] = {name: f"{group.rstrip('/')}/{path}" for path, name in names.items()}
        at = self._paths[group, choice][field]
        if at not in self._places:
            node = self.file[at]
            encoded = is_encoded(node)
            shape = (len(node), *jpeg.shape_of(node[0])) if encoded else node.shape
            self._places[at] = _Place(
                at, self._offset(node, at.removeprefix(group).lstrip("/")), node.dtype, shape, encoded
            )
        return self._places[at]

    def _offset(self, node: h5py.Dataset, path: str) -> int | None:
        offset, size = _plain_offset(node), os.fstat(self.raw).st_size
        if offset is not None and offset + node.nbytes > size:
            raise SourceError(
                "a dataset lies past the end of the file",
                dataset=path,
                expected=f"{offset + node.nbytes} bytes",
                found=f"{size} bytes",
                hint="download or copy it again",
            )
        return offset

    def read(self, group: str, choice: Choice, field: str, start: int, stop: int) -> Array:
        place = self.place(group, choice, field)
        with naming(self.file.filename, dataset=place.path.removeprefix(group).lstrip("/")):
            return self._rows(place, start, stop)

    def _rows(self, place: _Place, start: int, stop: int) -> Array:
        if place.is_encoded:
            return _decoded(self.file[place.path], place.shape[1:], start, stop)
        if place.offset is None:
            rows: Array = self.file[place.path][start:stop]
            return rows
        # Contiguous datasets are read past h5py, which holds one lock for the whole process.
        rows = np.empty((stop - start, *place.shape[1:]), place.dtype)
        _read_into(self.raw, rows.data.cast("B"), place.offset + start * (rows.nbytes // len(rows)))
        return rows

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            os.close(self.raw)
            self.file.close()


def is_encoded(node: h5py.Dataset) -> bool:
    """Whether a dataset holds an encoded picture a row: (T,) of byte strings of variable length."""
    return bool(node.ndim == 1 and h5py.check_vlen_dtype(node.dtype) == np.uint8)


def _decoded(node: h5py.Dataset, shape: tuple[int, ...], start: int, stop: int) -> Array:
    """Encoded pictures [start, stop) as pixels (n, *shape)."""
    out = np.empty((stop - start, *shape), np.uint8)
    for row, data in enumerate(node[start:stop], start):
        try:
            jpeg.decode(data, out[row - start])
        except SourceError as error:
            raise error.at(row=row) from None
    return out


def _plain_offset(node: h5py.Dataset) -> int | None:
    plain = node.chunks is None and not node.external and not node.is_virtual and not is_encoded(node)
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
    _layout_of.cache_clear()


def _handle(path: str) -> _Handle:
    stat = os.stat(path)
    return _handle_at(path, stat.st_mtime_ns, stat.st_size, os.getpid())


@contextlib.contextmanager
def opened(path: str) -> Iterator[h5py.File]:
    """The file, every failure of h5py turned into an error that names it."""
    with naming(path), _open(path) as file:
        yield file


def _open(path: str) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        # Storage that cannot lock, where who only reads needs no lock; EAGAIN: somebody writes. Or it is open so already.
        lockless = "unable to lock file" in str(error) and error.errno != errno.EAGAIN
        if not lockless and "locking flag values don't match" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


@contextlib.contextmanager
def naming(path: str, demo: str | None = None, **places: Any) -> Iterator[None]:
    """Every failure of h5py and of the system turned into an error that names the file and the demonstration."""
    try:
        yield
    except VlaStoreError as error:
        raise error.at(file=path, demo=demo, **places) from None
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _unreadable(error, path, demo=demo, **places) from error


def _unreadable(error: Exception, path: str, **places: Any) -> VlaStoreError:
    if isinstance(error, OSError) and is_machines(error):
        number = error.errno or 0
        failed = machine_error(OSError(number, os.strerror(number)), "reading a source", path)
        if number == errno.EAGAIN:
            failed.hint = (
                "another program is writing the file: wait for it; if there is none (the file system's locks are stale), set "
                "HDF5_USE_FILE_LOCKING=FALSE"
            )
        return failed
    if not os.path.exists(path):
        return SourceError("a source is gone", file=path, **places)
    with open(path, "rb") as raw:
        head = raw.read(strangers.HEAD_NBYTES)
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
    if not head.startswith(_SIGNATURE) and "file signature not found" in str(error):
        name, hint = strangers.what_it_is(head)
        return SourceError(
            f"not an HDF5 file but {name}" if name else "not an HDF5 file",
            file=path,
            expected="an HDF5 signature",
            found=f"{size} bytes that begin with {head[: len(_SIGNATURE)]!r}" if size else "an empty file",
            hint=hint,
        )
    kinds = {"dataset": "a dataset of ", "demo": "a demonstration of "}
    inside = next((kinds[name] for name in kinds if places.get(name) is not None), "")
    what = f"{inside}the HDF5 file cannot be read"
    return SourceError(what, file=path, **places, found=str(error)[:300], hint=_DAMAGED)


def names_in(names: h5py.Group | h5py.AttributeManager) -> list[str]:
    """The names of a group's members, or of attributes, sorted. Raises SourceError for one that is no text."""
    found = list(names)
    for name in found:
        if not isinstance(name, str):  # h5py gives bytes for what is not UTF-8
            raise SourceError("a name in the file is not UTF-8", found=ascii(name)[:120], hint=_DAMAGED)
    return sorted(found)


def walk(
    group: h5py.Group, path: str = "", *, top: str = "", choice: Choice = NOTHING, used: set[str] | None = None
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """The group, as "", and everything below it by path. Every name counts: h5py's own `visit` passes over second names and links.

    top: the group's path in the file. choice: what is left out; `used` hears by which pattern.
    """
    yield path, group
    if path.count("/") >= MAX_DEPTH:
        raise SourceError("groups are nested too deeply", dataset=path, expected=f"at most {MAX_DEPTH} levels")
    file = group.file.filename
    for name in names_in(group):
        below = f"{path}/{name}" if path else name
        if (pattern := choice.excluding(f"{top.rstrip('/')}/{below}", below)) is not None:
            if used is not None:
                used.add(pattern)
            continue
        with naming(file, dataset=below):
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise SourceError(
                    "a dataset is a link to another file",
                    found=f"{link.filename}:{link.path}",
                    hint="copy the file with its links expanded (h5py: Group.copy with expand_external=True)",
                )
            node = group.get(name) if isinstance(link, h5py.SoftLink) else group[name]
            if isinstance(link, h5py.SoftLink) and not isinstance(node, h5py.Dataset):
                raise SourceError("a link that leads to no dataset", found=link.path)
            if isinstance(node, h5py.Dataset):
                check_own(group, node, below)
                check_filters(node)
        if isinstance(node, h5py.Group):
            yield from walk(node, below, top=top, choice=choice, used=used)
        else:
            yield below, node


def check_filters(node: h5py.Dataset) -> None:
    """Raises MachineError for a dataset that needs a filter which this machine has not, SourceError where nobody knows that filter."""
    if node.chunks is None:
        return
    filters = node.id.get_create_plist()
    for number in (filters.get_filter(each)[0] for each in range(filters.get_nfilters())):
        if h5py.h5z.filter_avail(number):
            continue
        with contextlib.suppress(ImportError):  # registers its filters
            importlib.import_module("hdf5plugin")
        if h5py.h5z.filter_avail(number) or _reads(node):
            continue
        if number in FILTERS:
            raise MachineError(
                f"the source is compressed with {FILTERS[number]}, which the HDF5 of this machine has not",
                found=f"filter {number}",
                hint="pip install hdf5plugin (it is then used of itself), or write the file anew: h5repack -f GZIP=4 OLD NEW",
            )
        raise SourceError("a dataset is compressed with an unknown filter", found=f"filter {number}", hint=_DAMAGED)


def _reads(node: h5py.Dataset) -> bool:
    """Whether a dataset can be read without one of its filters: who wrote it had it neither, and was content."""
    try:
        return bool(node.size and node[(0,) * node.ndim] is not None)
    except (OSError, RuntimeError):
        return False


def check_own(above: h5py.Group, node: h5py.Group | h5py.Dataset, path: str) -> None:
    """Raises SourceError for what lies in another file. That one is not told apart when it changes; and HDF5 gives zeros, and
    no error, for the parts of a virtual or external dataset that it does not find."""
    found = None
    if h5py.h5o.get_info(node.id).fileno != h5py.h5o.get_info(above.id).fileno:
        found = f"{node.file.filename}:{node.name}"
    elif isinstance(node, h5py.Dataset) and node.external:
        found = f"external storage in {node.external[0][0]}"
    elif isinstance(node, h5py.Dataset) and node.is_virtual:
        lost = [each for each in node.virtual_sources() if each.file_name != "." or each.dset_name not in node.file]
        found = f"a virtual dataset of {lost[0].file_name}:{lost[0].dset_name}" if lost else None
    if found is not None:
        raise SourceError(
            "what a file names lies in another file",
            dataset=path,
            found=found,
            hint="write a copy of the file that holds all of its data",
        )


# What is in it


def described_below(group: h5py.Group, top: str, choice: Choice, used: set[str] | None = None) -> dict[str, Described]:
    """Every dataset of a demonstration by its path, without those that the caller leaves out."""
    nodes = walk(group, top=top, choice=choice, used=used)
    return {path: _described(node) for path, node in nodes if isinstance(node, h5py.Dataset)}


def _described(node: h5py.Dataset) -> Described:
    dtype = dtype_of(node)
    is_text = dtype.kind == "S" or h5py.check_string_dtype(node.dtype) is not None
    nbytes = 0 if node.shape is None else node.nbytes
    return Described(node.shape, dtype, nbytes, is_text, is_encoded(node))


def fields_of(
    group: h5py.Group, top: str, source: Hdf5Source, role_of: Callable[[str], str], note: Callable[[str], None]
) -> tuple[int, dict[str, FieldSpec], list[str]]:
    """Steps and fields of an episode's group, and the names of the fields whose pictures are encoded. Raises SourceError.

    top: the group's path. role_of: "observation" or "step" of a dataset's path below the group; encoded pictures are observations
    anyway. note: told of what is no field, and of names that are not the usual ones.
    """
    choice, layout = source.choice, source.layout()
    described = described_below(group, top, choice)
    if ACTIONS not in described:
        raise SourceError("--exclude leaves out the actions", exclude=", ".join(choice.exclude))
    encoded_paths = {path: each.is_encoded for path, each in described.items()}
    names = field_names(encoded_paths, choice)
    actions = group[ACTIONS]
    if dtype_of(actions).kind != "f" or actions.ndim != 2:
        raise SourceError(
            "actions have the wrong dtype or shape",
            dataset="actions",
            expected="(T, n) of a float type",
            found=f"{actions.shape} of {dtype_of(actions)}",
        )
    steps = actions.shape[0]
    if steps == 0:
        raise SourceError(
            "a demonstration without steps", dataset="actions", expected="at least one row", found=actions.shape
        )
    for path in described:
        if unwritten := _unwritten(group[path]):
            if path == ACTIONS:
                raise SourceError(
                    "actions that were never written, or not to their end", dataset=path, found=unwritten, hint=_DAMAGED
                )
            note(f"{path}: {unwritten}; HDF5 gives {group[path].fillvalue} for them")
    kept = {path: each for path, each in described.items() if path in layout.aside}
    for path, each in kept.items():
        check_aside(path, each, steps, layout.aside[path])
        note(f"dataset {path} has no row a step, and is kept as an attribute of its episode")
    check_aside_nbytes({path: each.nbytes for path, each in kept.items()})
    names = {path: name for path, name in names.items() if path not in kept}
    for text in told_names(names, encoded_paths, choice):
        note(text)
    encoded = {path for path in names if encoded_paths[path]}
    fields = {
        name: _encoded_spec(path, group[path], steps)
        if path in encoded
        else _spec(path, group[path], steps, role_of(path))
        for path, name in names.items()
    }
    fields = with_pictures(fields, {name: path for path, name in names.items()})
    if not any(spec.is_camera for spec in fields.values()):
        raise SourceError(
            "a demonstration without a camera",
            expected="images (T, H, W, C) of uint8 below obs/",
            found=", ".join(sorted(names)),
            hint="every camera is left out by --exclude"
            if layout.used and choice.exclude
            else "robomimic's low_dim files hold none: its dataset_states_to_obs.py renders them"
            if is_robomimic(names.values())
            else "",
        )
    with naming(group.file.filename, dataset="actions"):
        check_actions(actions[()])
    return steps, fields, sorted(names[path] for path in encoded)


def _unwritten(node: h5py.Dataset) -> str:
    """Which part of a dataset was never written, as an interrupted recording leaves it; "" where all was."""
    if not node.size or node.is_virtual:
        return ""
    if node.chunks is None:
        return "" if node.id.get_storage_size() else "no row was ever written"
    there, of = node.id.get_num_chunks(), math.prod(-(-n // chunk) for n, chunk in zip(node.shape, node.chunks))
    return "" if there == of else f"{of - there} of {of} chunks were never written"


def is_robomimic(names: Iterable[str]) -> bool:
    """Whether fields are called as robomimic calls them."""
    return any("robot0_" in name for name in names)


def _encoded_spec(path: str, node: h5py.Dataset, steps: int) -> FieldSpec:
    _check_length(path, node, steps)
    try:
        return FieldSpec("uint8", jpeg.shape_of(node[0]), "observation")
    except SourceError as error:
        raise error.at(dataset=path, row=0) from None


def _check_length(path: str, node: h5py.Dataset, steps: int) -> None:
    if node.shape[0] != steps:
        raise SourceError(
            "datasets of one demonstration have different lengths",
            dataset=path,
            expected=f"{steps} rows, as actions has",
            found=f"{node.shape[0]} rows",
        )


def _spec(path: str, node: h5py.Dataset, steps: int, role: str) -> FieldSpec:
    dtype = dtype_of(node)
    if node.shape is None or node.ndim == 0 or dtype.name not in NUMERIC_DTYPES:
        raise SourceError(
            "a dataset has the wrong dtype or shape",
            dataset=path,
            expected="an array of numbers with one row a step",
            found=f"{node.shape} of {dtype}",
        )
    _check_length(path, node, steps)
    if 0 in node.shape:
        raise SourceError(
            "a dataset of zero width", dataset=path, expected="at least one number a step", found=node.shape
        )
    return FieldSpec(dtype.name, tuple(node.shape[1:]), role, ragged=path == "states" and node.ndim == 2)


def count_of(node: h5py.Group, name: str) -> int | str | None:
    """A count that an attribute declares; None where it declares none, what it says where that is no count."""
    value = node.attrs.get(name)
    if value is None:
        return None
    try:
        return operator.index(np.asarray(value).item())
    except (TypeError, ValueError):
        return repr(value)[:60]


def dtype_of(node: h5py.Dataset) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = node.dtype
    except TypeError as error:  # HDF5 has types that NumPy has not
        raise SourceError("a dataset has a type that NumPy does not have", dataset=node.name, found=error) from None
    return dtype


def attributes_of(node: h5py.Group | h5py.Dataset, on: str, path: str) -> dict[str, Any]:
    result = {}
    for name in names_in(node.attrs):
        try:
            result[name] = _attribute(node, name)
        except (TypeError, ValueError, OSError) as error:
            if isinstance(error, OSError) and is_machines(error):
                raise
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
    return _value(node.attrs.get_id(name).dtype, lambda: node.attrs[name])


def _dataset_value(node: h5py.Dataset) -> dict[str, Any]:
    """A whole dataset, as an attribute of its group would be kept."""
    return _value(node.dtype, lambda: node[()])


def _value(dtype: np.dtype[Any], read: Callable[[], Any]) -> dict[str, Any]:
    if dtype.names or h5py.check_ref_dtype(dtype) or (dtype.kind == "O" and not h5py.check_string_dtype(dtype)):
        raise TypeError(f"a value of type {dtype}")
    value = read()
    return empty_value(str(dtype)) if isinstance(value, h5py.Empty) else encode_value(value)
