"""Writing the shards of one array: whole or absent, streamed, hashed on the way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from vla_store.format.layout import Grid
from vla_store.format.listing import ObjectEntry
from vla_store.format.shard_index import encode_index

TEMPORARY = ".tmp"
PADDING_NBYTES = 1 << 20


def write_object(folder: Path, key: str, data: bytes) -> ObjectEntry:
    """One small object below `folder`, whole or absent."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too; and on a full disk every byte counts
        temporary.unlink(missing_ok=True)
        raise
    return ObjectEntry(key, hashlib.sha256(data).hexdigest(), len(data))


def _temporary(path: Path) -> Path:
    # A name of its own: a worker of an interrupted build may still be writing the same object.
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def sync_folder(path: Path) -> None:
    """Make the names in a folder as durable as the files they name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ArrayWriter:
    """Takes the inner chunks of an array in order and writes its shard files.

    folder: of the part. array: its path there. Each file is written under a temporary name, fsynced and renamed.
    """

    def __init__(self, folder: Path, array: str, grid: Grid, first_shard: int = 0) -> None:
        self._folder, self._array, self._grid = folder, array, grid
        self._shard = first_shard
        self._sizes: list[int] = []
        self._file: IO[bytes] | None = None
        self._temporary = folder
        self._hash = hashlib.sha256()
        self._written = 0
        self.objects: list[ObjectEntry] = []

    def add(self, encoded: bytes | memoryview, sizes: Sequence[int] | None = None) -> None:
        """The next inner chunks, end to end, of so many bytes each (default: one chunk); they must not pass a shard's end."""
        if len(self._sizes) == self._grid.chunks_per_shard:
            self._close()
        if self._file is None:
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = _temporary(path)
            self._file = open(self._temporary, "wb", buffering=1 << 20)  # noqa: SIM115
            self._hash, self._written = hashlib.sha256(), 0
        self._put(encoded)
        self._sizes += [len(encoded)] if sizes is None else sizes

    def finish(self) -> list[ObjectEntry]:
        """Close the last shard; all objects written."""
        if self._file is not None:
            self._close()
        return self.objects

    def _path(self) -> Path:
        return self._folder / self._array / self._grid.key(self._shard)

    def _put(self, data: bytes | memoryview) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._written += len(data)

    def _close(self) -> None:
        assert self._file is not None
        self._put(encode_index(self._sizes, self._grid.chunks_per_shard))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path())
        self.objects.append(
            ObjectEntry(f"{self._array}/{self._grid.key(self._shard)}", self._hash.hexdigest(), self._written)
        )
        self._file, self._sizes = None, []
        self._shard += 1

    def abandon(self) -> None:
        """Close without finishing; the temporary file is removed."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is buffered may not fit on the disk either
                self._file.close()
            self._temporary.unlink(missing_ok=True)
            self._file = None


class RowWriter:
    """Takes the rows of a numeric array in order, in pieces of any length. They go to the file as they come: an inner chunk of
    wide rows may be larger than the memory."""

    def __init__(self, folder: Path, array: str, grid: Grid) -> None:
        self._out = ArrayWriter(folder, array, grid)
        self._grid = grid
        self._written = 0

    def add(self, rows: np.ndarray[Any, Any]) -> None:
        """Rows in C order, little-endian."""
        self._add(memoryview(rows.tobytes()))

    def finish(self) -> list[ObjectEntry]:
        """Pad the last inner chunk with zeros and close."""
        missing = -self._written % self._grid.chunk_nbytes
        zeros = memoryview(bytes(min(missing, PADDING_NBYTES)))
        while missing:
            self._add(zeros[:missing])
            missing -= len(zeros[:missing])
        return self._out.finish()

    def abandon(self) -> None:
        self._out.abandon()

    def _add(self, data: memoryview) -> None:
        chunk = self._grid.chunk_nbytes
        shard = chunk * self._grid.chunks_per_shard
        while data:
            piece = data[: shard - self._written % shard]
            ended = (self._written % chunk + len(piece)) // chunk
            self._out.add(piece, [chunk] * ended)
            self._written += len(piece)
            data = data[len(piece) :]


def write_array(folder: Path, array: str, grid: Grid, rows: np.ndarray[Any, Any]) -> list[ObjectEntry]:
    """A small numeric array that is at hand whole."""
    writer = RowWriter(folder, array, grid)
    try:
        writer.add(rows)
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def remove_temporaries(folder: Path) -> None:
    """Sweep what a killed build left half-written."""
    for path in list(folder.rglob(f"*{TEMPORARY}")):
        path.unlink(missing_ok=True)
