"""Parquet files: their columns as rows of numbers and as encoded pictures, and errors that name file, column and row.

A column of a row group is read once, from its first row to its last, and kept as it is in a file for temporary use (`TMPDIR`, which
needs room for a few row groups), from which any row is read. So it costs the same whether a file has a row group for each episode,
as LeRobot writes it, or a single one, as its converter to v3.0 does: pages of pictures are then as large as the file, and no reader
of Parquet gives one picture for less. May import extras, protocol and strangers of this folder, and errors.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from vla_store.errors import SourceError, VlaStoreError, machine_error
from vla_store.extras import needed
from vla_store.sources import strangers
from vla_store.sources.protocol import CLOSERS, Array, is_machines
from vla_store.text import counted

EXTRA = "lerobot"
NUMBER, PICTURE, TEXT, OTHER = "number", "picture", "text", "other"

BATCH_NBYTES = 1 << 20
PAGE_ROWS = 1024  # Arrow looks at the size of a page each time it has written so many rows
SPOOLED_GROUPS = 8 + 2 * (os.cpu_count() or 1)  # kept at a time: each camera of each thread, and its neighbour
DAMAGED = "copy or download the file again, or leave out what it holds with --skip-bad"

_FLOATING = {"halffloat": "float16", "float": "float32", "double": "float64"}  # Arrow's names that are not NumPy's
_SIGNATURE = b"PAR1"
_LARGEST_ERRNO = 4095  # what is above is a library's own number


@dataclass(frozen=True)
class Column:
    """A column as a file has it. shape: of one row of numbers. nbytes: of its largest page as it may lie in memory."""

    kind: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    nbytes: int = 0


@dataclass(frozen=True)
class Table:
    """A file's number of rows, and its columns by name."""

    rows: int
    columns: dict[str, Column]


@contextlib.contextmanager
def reading(path: str, **places: Any) -> Iterator[None]:
    """Turn every failure of a library and of the system into an error that names the file."""
    try:
        yield
    except VlaStoreError as error:
        raise error.at(file=path, **places) from None
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise _unreadable(error, path, places) from error


def stamp_of(path: str) -> tuple[int, int]:
    """Return what changes when a file does."""
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size


def table_of(path: str) -> Table:
    """Describe a file by its footer and its first row. Raises SourceError."""
    with reading(path):
        meta = _metadata(path, *stamp_of(path))
        with _opened(path, meta) as file:
            schema = file.schema_arrow
            lists = [name for name in schema.names if _is_list(schema.field(name).type)]
            first = (
                next(file.iter_batches(1, row_groups=[0], columns=lists, use_threads=False))
                if lists and meta.num_rows
                else None
            )
        columns = {}
        for name in schema.names:
            kind = _kind(schema.field(name).type)
            dtype, shape = "", tuple[int, ...]()
            if kind == NUMBER and meta.num_rows:
                array = None if first is None or name not in lists else first.column(name)
                inner = str(_innermost(schema.field(name).type))
                dtype = _FLOATING.get(inner, inner)
                shape = () if array is None else _flat(array)[1]
            columns[name] = Column(kind, dtype, shape, _page_nbytes(meta, name) if kind == PICTURE else 0)
        return Table(meta.num_rows, columns)


def whole(path: str, columns: list[str]) -> dict[str, Any]:
    """Return columns of a small file, or small columns of a file, as Arrow's arrays."""
    with reading(path), _opened(path, _metadata(path, *stamp_of(path))) as file:
        table = file.read(columns=columns, use_threads=False)
        return {name: table.column(name).combine_chunks() for name in columns if name in table.column_names}


def integers(array: Any, column: str) -> Array:
    """Return a column of numbers with one a row, as an array. Raises SourceError for one that lacks some."""
    flat, shape = _flat(array)
    if shape not in ((), (1,)):
        raise SourceError("a column has not one number a row", dataset=column, found=shape)
    return flat


def numbers(path: str, column: str, start: int, stop: int) -> Array:
    """Return rows [start, stop) of a column of numbers."""
    with reading(path, dataset=column):
        return np.concatenate([each.numbers(*span) for each, span in _groups(path, column, start, stop)])


def pictures(path: str, column: str, start: int, stop: int) -> list[bytes]:
    """Return rows [start, stop) of a column of encoded pictures."""
    with reading(path, dataset=column):
        found = _groups(path, column, start, stop)
        return [data for each, span in found for data in each.pictures(*span)]


def _opened(path: str, metadata: Any) -> contextlib.closing[Any]:
    """Open a file to be read once and in order; checksums of pages are compared where the writer has made some."""
    opened = needed("pyarrow.parquet", EXTRA).ParquetFile(
        path, metadata=metadata, pre_buffer=False, buffer_size=BATCH_NBYTES, page_checksum_verification=True
    )
    return contextlib.closing(opened)


# A row group's column, kept


class _Group:
    """The rows of one column of one row group, as bytes in a temporary file that has no name."""

    def __init__(self, path: str, metadata: Any, column: str, group: int) -> None:
        row = sum(metadata.row_group(each).num_rows for each in range(group))
        kept = tempfile.TemporaryFile(prefix="vla-store-")  # noqa: SIM115, closed with this object
        weakref.finalize(self, kept.close)
        self._descriptor = kept.fileno()
        self._dtype, self._shape = np.dtype(np.uint8), None
        ends = [0]
        with _opened(path, metadata) as file:
            is_picture = _kind(file.schema_arrow.field(column).type) == PICTURE
            row_nbytes = _chunk_nbytes(metadata, column, group) // max(1, metadata.row_group(group).num_rows)
            for batch in file.iter_batches(
                max(1, min(65536, BATCH_NBYTES // max(1, row_nbytes))),
                row_groups=[group],
                columns=[f"{column}.bytes" if is_picture else column],
                use_threads=False,
            ):
                array = batch.column(column)
                if is_picture:
                    encoded = _bytes_of(array, row)
                    ends += [ends[-1] + total for total in accumulate(map(len, encoded))]
                    _kept(kept.write, b"".join(encoded))
                else:
                    flat, self._shape = _flat(array, row, self._shape)
                    self._dtype = flat.dtype
                    _kept(kept.write, np.ascontiguousarray(flat).data.cast("B"))
                row += len(array)
            _kept(kept.flush)
        self._ends = np.array(ends)

    def numbers(self, start: int, stop: int) -> Array:
        made: Array = np.empty((stop - start, *(self._shape or ())), self._dtype)
        self._read_into(made.data.cast("B"), start * (made.nbytes // len(made)))
        return made

    def pictures(self, start: int, stop: int) -> Iterator[bytes]:
        for begin, end in pairwise(self._ends[start : stop + 1].tolist()):
            made = bytearray(end - begin)
            self._read_into(memoryview(made), begin)
            yield bytes(made)

    def _read_into(self, out: memoryview, offset: int) -> None:
        done = 0
        while done < len(out):
            got = os.preadv(self._descriptor, [out[done:]], offset + done)
            if not got:
                raise SourceError("a column has fewer rows than its file says", hint=DAMAGED)
            done += got


def _kept(write: Callable[..., Any], *data: Any) -> None:
    try:
        write(*data)
    except OSError as error:
        failed = machine_error(error, "keeping a row group while it is read", tempfile.gettempdir())
        failed.hint = (
            "free some space there, or set TMPDIR to a folder with room; then run the same command again: it resumes"
        )
        raise failed from error


_SPOOLING = threading.Lock()  # one at a time: the pages of pictures that it takes may be as large as a row group


def _groups(path: str, column: str, start: int, stop: int) -> Iterator[tuple[_Group, tuple[int, int]]]:
    """Give the row groups in which rows [start, stop) lie, each with the rows of it that are wanted."""
    stamp = stamp_of(path)
    metadata = _metadata(path, *stamp)
    if not 0 <= start < stop <= metadata.num_rows:
        raise SourceError(
            "a file has not these rows", expected=f"{start} to {stop}", found=counted(metadata.num_rows, "row")
        )
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if first < stop and start < first + rows:
            with _SPOOLING:
                kept = _group_of(path, *stamp, column, group, os.getpid())
            yield kept, (max(start - first, 0), min(stop - first, rows))
        first += rows


@functools.lru_cache(maxsize=SPOOLED_GROUPS)
def _group_of(path: str, mtime_ns: int, size: int, column: str, group: int, pid: int) -> _Group:
    return _Group(path, _metadata(path, mtime_ns, size), column, group)


@functools.lru_cache(maxsize=256)
def _metadata(path: str, mtime_ns: int, size: int) -> Any:
    return needed("pyarrow.parquet", EXTRA).read_metadata(path)


CLOSERS += [_group_of.cache_clear, _metadata.cache_clear]


# Arrow's types and arrays


def _kind(type_: Any) -> str:
    types = needed("pyarrow", EXTRA).types
    innermost = _innermost(type_)
    if types.is_boolean(innermost) or types.is_integer(innermost) or types.is_floating(innermost):
        return NUMBER
    if types.is_struct(type_) and "bytes" in (names := [each.name for each in type_]):
        data = type_.field(names.index("bytes")).type
        return PICTURE if types.is_binary(data) or types.is_large_binary(data) else OTHER
    return TEXT if types.is_string(type_) or types.is_large_string(type_) else OTHER


def _is_list(type_: Any) -> bool:
    types = needed("pyarrow", EXTRA).types
    type_ = getattr(type_, "storage_type", type_)
    return bool(types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_))


def _innermost(type_: Any) -> Any:
    while _is_list(type_):
        type_ = getattr(type_, "storage_type", type_).value_type
    return type_


def _flat(array: Any, first: int = 0, expected: tuple[int, ...] | None = None) -> tuple[Array, tuple[int, ...]]:
    """Return the numbers of an array of lists of lists ..., and the shape of one row. Raises SourceError.

    first: row of the first in its file, for errors. expected: the shape of rows before.
    """
    array = getattr(array, "storage", array)
    shape: list[int] = []
    while True:
        if array.null_count:
            row = first + array.is_null().index(True).as_py() // max(1, int(np.prod(shape)))
            raise SourceError("a row lacks a number", row=row, hint=DAMAGED)
        if not _is_list(array.type):
            break
        lengths = needed("pyarrow.compute", EXTRA).list_value_length(array).to_numpy()
        length = int(lengths[0]) if len(lengths) else 0
        length = expected[len(shape)] if expected and len(shape) < len(expected) else length
        if (is_odd := lengths != length).any():
            raise SourceError(
                "rows of one column have different lengths",
                row=first + int(is_odd.argmax()) // max(1, int(np.prod(shape))),
                expected=f"{length} numbers, as the first",
                found=lengths[is_odd][0],
            )
        shape.append(length)
        array = array.flatten()
    flat: Array = array.to_numpy(zero_copy_only=False)
    return flat, tuple(shape)


def _bytes_of(array: Any, first: int) -> list[bytes]:
    """Return the encoded pictures of an array of structs. first: the row of the first. Raises SourceError."""
    values = array.flatten()[0]
    if values.null_count:
        raise SourceError(
            "a picture is not in the file",
            row=first + values.is_null().index(True).as_py(),
            expected="its bytes",
            found="none; perhaps a path of a file beside",
            hint="write the data set with its pictures embedded (LeRobot: embed_images), or leave the column out with --exclude",
        )
    found: list[bytes] = values.to_pylist()
    return found


def _chunk_nbytes(metadata: Any, column: str, group: int) -> int:
    row_group = metadata.row_group(group)
    chunks = (row_group.column(each) for each in range(row_group.num_columns))
    return sum(each.total_uncompressed_size for each in chunks if f"{each.path_in_schema}.".startswith(f"{column}."))


def _page_nbytes(metadata: Any, column: str) -> int:
    largest = 0
    for group in range(metadata.num_row_groups):
        nbytes, rows = _chunk_nbytes(metadata, column, group), metadata.row_group(group).num_rows
        largest = max(largest, nbytes if rows <= PAGE_ROWS else nbytes * PAGE_ROWS // rows)
    return largest


def _unreadable(error: Exception, path: str, places: dict[str, Any]) -> VlaStoreError:
    if isinstance(error, OSError) and is_machines(error) and (error.errno or 0) <= _LARGEST_ERRNO:
        number = error.errno or 0
        return machine_error(OSError(number, os.strerror(number)), "reading a source", path)
    if not os.path.exists(path):
        return SourceError(
            "a file of the data set is missing",
            file=path,
            **places,
            hint="a download may be incomplete: get it again, or leave out what it holds with --skip-bad",
        )
    size = os.path.getsize(path)
    with open(path, "rb") as raw:
        head = raw.read(strangers.HEAD_NBYTES)
        raw.seek(max(0, size - len(_SIGNATURE)))
        last = raw.read()
    name, hint = strangers.what_it_is(head)
    found = f"{size} bytes that begin with {head[:8]!r} and end with {last!r}" if size else "an empty file"
    is_table = path.endswith(".parquet") and head.startswith(_SIGNATURE)
    if is_table and last != _SIGNATURE:
        return SourceError("a Parquet file is cut short", file=path, **places, found=found, hint=DAMAGED)
    if name and not is_table:
        return SourceError(f"not a file of a data set but {name}", file=path, **places, found=found, hint=hint)
    text = f"{type(error).__name__}: {str(error)[:200]}"
    return SourceError("a file of the data set cannot be read", file=path, **places, found=text, hint=DAMAGED)
