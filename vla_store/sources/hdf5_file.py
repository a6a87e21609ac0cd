"""HDF5 files as they lie on disk: opening, walking, attributes, and failures turned into errors that name file and dataset.

May import overrides, protocol and strangers of this folder, format and errors.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import operator
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from vla_store.errors import MachineError, SourceError, VlaStoreError, machine_error
from vla_store.format.attributes import empty_value, encode_value
from vla_store.sources import strangers
from vla_store.sources.datasets import LEAVE_OUT
from vla_store.sources.overrides import ACTIONS, NOTHING, Choice
from vla_store.sources.protocol import is_machines

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
DAMAGED = "copy or download the file again, or leave the demonstration out with --skip-bad"


@contextlib.contextmanager
def opened(path: str) -> Iterator[h5py.File]:
    """Open a file, and turn every failure of h5py into an error that names it."""
    with naming(path), open_file(path) as file:
        yield file


def open_file(path: str) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        # Storage that cannot lock, where who only reads needs no lock; EAGAIN: somebody writes. Or it is open so already.
        lockless = "unable to lock file" in str(error) and error.errno != errno.EAGAIN
        if not lockless and "locking flag values don't match" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


@contextlib.contextmanager
def naming(path: str, demo: str | None = None, **places: Any) -> Iterator[dict[str, Any]]:
    """Turn every failure of h5py and of the system into an error that names the file and the demonstration.

    What a caller puts into the dictionary that it is given is named as well.
    """
    try:
        yield places
    except VlaStoreError as error:
        raise error.at(file=path, demo=demo, **places) from None
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
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
        return SourceError(
            "a source is gone", file=path, **places, hint="bring it back, then run the same command again"
        )
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
    hint = (
        f"{DAMAGED}; {LEAVE_OUT.format(places['dataset'])}" if places.get("dataset") not in (None, ACTIONS) else DAMAGED
    )
    return SourceError(what, file=path, **places, found=str(error)[:300], hint=hint)


def names_in(names: h5py.Group | h5py.AttributeManager) -> list[str]:
    """Return the names of a group's members, or of attributes, sorted. Raises SourceError for one that is no text."""
    found = list(names)
    for name in found:
        if not isinstance(name, str):  # h5py gives bytes for what is not UTF-8
            raise SourceError("a name in the file is not UTF-8", found=ascii(name)[:120], hint=DAMAGED)
    return sorted(found)


def walk(
    group: h5py.Group, path: str = "", *, top: str = "", choice: Choice = NOTHING, used: set[str] | None = None
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Give the group, as "", and everything below it by path. h5py's own `visit` passes over second names and links.

    top: the group's path in the file. choice: what is left out; the patterns that do are added to `used`.
    """
    yield path, group
    if path.count("/") >= MAX_DEPTH:
        raise SourceError("groups are nested too deeply", dataset=path, expected=f"at most {MAX_DEPTH} levels")
    with naming(group.file.filename) as where:
        for name in names_in(group):
            below = f"{path}/{name}" if path else name
            if (pattern := choice.excluding(f"{top.rstrip('/')}/{below}", below)) is not None:
                if used is not None:
                    used.add(pattern)
                continue
            where["dataset"] = below
            node = _member(group, name, below)
            if isinstance(node, h5py.Group):
                yield from walk(node, below, top=top, choice=choice, used=used)
            else:
                yield below, node


def _member(group: h5py.Group, name: str, path: str) -> h5py.Group | h5py.Dataset:
    """Return what has this name in a group. Raises SourceError for what does not lie in the file, or cannot be read."""
    is_hard = group.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD
    link = None if is_hard else group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise SourceError(
            "a dataset is a link to another file",
            found=f"{link.filename}:{link.path}",
            hint="copy the file with its links expanded (h5py: Group.copy with expand_external=True)",
        )
    node = group.get(name) if isinstance(link, h5py.SoftLink) else group[name]
    if isinstance(link, h5py.SoftLink) and not isinstance(node, h5py.Dataset):
        raise SourceError("a link that leads to no dataset", found=link.path, hint=LEAVE_OUT.format(path))
    if isinstance(node, h5py.Dataset):
        check_own(None if is_hard else group, node, path)
        check_filters(node)
    return node


def check_filters(node: h5py.Dataset) -> None:
    """Raise MachineError for a dataset that needs a filter which this machine has not, SourceError where nobody knows it."""
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
        raise SourceError("a dataset is compressed with an unknown filter", found=f"filter {number}", hint=DAMAGED)


def _reads(node: h5py.Dataset) -> bool:
    """Tell whether a dataset can be read without one of its filters: its writer had it neither, and was content."""
    try:
        return bool(node.size and node[(0,) * node.ndim] is not None)
    except (OSError, RuntimeError):
        return False


def check_own(above: h5py.Group | None, node: h5py.Group | h5py.Dataset, path: str) -> None:
    """Raise SourceError for what lies in another file. above: what led to it; None where that was no link.

    Nobody would notice that that one changes; and HDF5 gives zeros, and no error, for the parts of a virtual or external
    dataset that it does not find.
    """
    found = None
    if above is not None and h5py.h5o.get_info(node.id).fileno != h5py.h5o.get_info(above.id).fileno:
        found = f"{node.file.filename}:{node.name}"
    elif isinstance(node, h5py.Dataset):
        found = _elsewhere(node)
    if found is not None:
        raise SourceError(
            "what a file names lies in another file",
            dataset=path,
            found=found,
            hint="write a copy of the file that holds all of its data",
        )


def _elsewhere(node: h5py.Dataset) -> str | None:
    """Return which data of a dataset, and of those that it is made of, is not in its file; None where all is."""
    nodes = [node]
    for _ in range(MAX_DEPTH):
        for each in nodes:
            if each.external:
                return f"external storage in {each.external[0][0]}"
        sources = [source for each in nodes if each.is_virtual for source in each.virtual_sources()]
        if not sources:
            return None
        file = node.file
        for each in sources:
            if each.file_name != "." or each.dset_name not in file:
                return f"a virtual dataset of {each.file_name}:{each.dset_name}"
        made_of = (file[name] for name in {each.dset_name for each in sources})
        nodes = [each for each in made_of if isinstance(each, h5py.Dataset)]
    return "a virtual dataset that is made of itself"  # HDF5 would follow it for ever, and crash


def count_of(node: h5py.Group, name: str) -> int | str | None:
    """Return a count that an attribute declares; None where it declares none, its repr where that is no count."""
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
        raise SourceError(
            "a dataset has a type that NumPy does not have",
            dataset=node.name,
            found=error,
            hint=LEAVE_OUT.format(node.name),
        ) from None
    return dtype


def is_text(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is of texts, of a fixed or a variable length."""
    return dtype.kind == "S" or h5py.check_string_dtype(dtype) is not None


def attributes_of(node: h5py.Group | h5py.Dataset, on: str, path: str) -> dict[str, Any]:
    result = {}
    for name in names_in(node.attrs):
        try:
            result[name] = _value(node.attrs.get_id(name).dtype, functools.partial(node.attrs.__getitem__, name))
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
                hint="write it as numbers or text, or remove it; --skip-bad leaves out what has it",
            ) from None
    return result


def value_of(node: h5py.Dataset) -> dict[str, Any]:
    """Return a whole dataset, as an attribute of its group would be kept."""
    return _value(node.dtype, lambda: node[()])


def _value(dtype: np.dtype[Any], read: Callable[[], Any]) -> dict[str, Any]:
    if dtype.names or h5py.check_ref_dtype(dtype) or (dtype.kind == "O" and not h5py.check_string_dtype(dtype)):
        raise TypeError(f"a value of type {dtype}")
    value = read()
    return empty_value(str(dtype)) if isinstance(value, h5py.Empty) else encode_value(value)
