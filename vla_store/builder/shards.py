"""Writing the objects of a part: whole or absent, streamed, hashed on the way.

Owns the layout of chunks and index in a shard's bytes. Imports format, and storage, which makes an object of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_store.format.layout import Grid
from vla_store.format.listing import ObjectEntry
from vla_store.format.shard_index import encode_index
from vla_store.storage import LocalStorage, Storage

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11, which building needs and importing this does not

PADDING_NBYTES = 1 << 20


def write_object(storage: Storage, key: str, data: bytes) -> ObjectEntry:
    """Write one small object."""
    storage.write(key, data)
    return ObjectEntry(key, hashlib.sha256(data).hexdigest(), len(data))


class ArrayWriter:
    """Takes the inner chunks of an array in order and writes its shards. As a context that ends badly, it drops the last one.

    storage: of the part. array: its path there.
    """

    def __init__(self, storage: Storage, array: str, grid: Grid, first_shard: int = 0) -> None:
        self._storage, self._array, self._grid = storage, array, grid
        self._shard = first_shard
        self._sizes: list[int] = []
        self._open = contextlib.ExitStack()
        self._file: Any = None
        self.objects: list[ObjectEntry] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is None:
            self.finish()
        else:
            self._open.__exit__(kind, error, traceback)

    def add(self, encoded: bytes | memoryview, sizes: Sequence[int] | None = None) -> None:
        """Add inner chunks, end to end, of so many bytes each (default: one chunk); they must not pass a shard's end."""
        if len(self._sizes) == self._grid.chunks_per_shard:
            self.finish()
        if self._file is None:
            self._file = self._open.enter_context(self._storage.stream(self._key()))
            self._hash, self._written = hashlib.sha256(), 0
        self._put(encoded)
        self._sizes += [len(encoded)] if sizes is None else sizes

    def finish(self) -> list[ObjectEntry]:
        """Close the last shard; return all objects written."""
        if self._file is not None:
            self._put(encode_index(self._sizes, self._grid.chunks_per_shard))
            self._open.close()
            self.objects.append(ObjectEntry(self._key(), self._hash.hexdigest(), self._written))
            self._file, self._sizes = None, []
            self._shard += 1
        return self.objects

    def _key(self) -> str:
        return f"{self._array}/{self._grid.key(self._shard)}"

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._written += len(data)


class RowWriter(ArrayWriter):
    """Takes the rows of a numeric array in order, in pieces of any length. They go to the file as they come: an inner chunk of
    wide rows may be larger than the memory."""

    _rows_nbytes = 0

    def add_rows(self, rows: np.ndarray[Any, Any]) -> None:
        """Add rows in C order, little-endian."""
        self._add_bytes(memoryview(rows.tobytes()))

    def finish(self) -> list[ObjectEntry]:
        """Pad the last inner chunk with zeros and close."""
        missing = -self._rows_nbytes % self._grid.chunk_nbytes
        zeros = memoryview(bytes(min(missing, PADDING_NBYTES)))
        while missing:
            self._add_bytes(zeros[:missing])
            missing -= len(zeros[:missing])
        return super().finish()

    def _add_bytes(self, data: memoryview) -> None:
        chunk = self._grid.chunk_nbytes
        shard = chunk * self._grid.chunks_per_shard
        while data:
            piece = data[: shard - self._rows_nbytes % shard]
            ended = (self._rows_nbytes % chunk + len(piece)) // chunk
            self.add(piece, [chunk] * ended)
            self._rows_nbytes += len(piece)
            data = data[len(piece) :]


def write_array(folder: Path, array: str, grid: Grid, rows: np.ndarray[Any, Any]) -> list[ObjectEntry]:
    """Write a small numeric array that is at hand whole."""
    with RowWriter(LocalStorage(folder), array, grid) as writer:
        writer.add_rows(rows)
        return writer.finish()
