"""Where a store is written that lies there already, or is copied there: a local folder, or any URL that fsspec can write.

An object becomes visible whole: locally by a temporary name, fsync and rename; on object stores by the put itself. Creating an
object *exclusively* is what commits a root: of two writers one wins, and the other one is told.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from vla_store.errors import MachineError, OptionError
from vla_store.reader.fetch import is_url

PIECE_NBYTES = 8 << 20


class Place(Protocol):
    """Objects below one folder or prefix."""

    url: str

    def read(self, key: str) -> bytes | None:
        """A small object whole; None where there is none."""

    def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""

    def pieces(self, key: str) -> Iterator[bytes]:
        """An object, a few megabytes at a time."""

    def write(self, key: str, data: bytes) -> None:
        """Put a small object, replacing what is there."""

    def stream(self, key: str) -> contextlib.AbstractContextManager[Any]:
        """A file to write a large object to; the object is there when the context ends well, and only then."""

    def create(self, key: str, data: bytes) -> bool:
        """Put an object only if there is none; whether it was put. Raises OptionError where the storage cannot say."""

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all objects below a prefix."""

    def remove(self, key: str) -> None:
        """Remove an object that may be there."""

    def settle(self) -> None:
        """Make the names of what was written durable."""


def place_at(url: str | os.PathLike[str]) -> Place:
    """The place at a path or URL."""
    text = os.fspath(url)
    for scheme in ("file://", "local://"):
        text = text.removeprefix(scheme)
    return RemotePlace(text) if is_url(text) else LocalPlace(Path(os.path.abspath(os.path.expanduser(text))))


class LocalPlace:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)
        self._touched: set[Path] = set()

    def read(self, key: str) -> bytes | None:
        try:
            return (self.folder / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, key: str) -> int | None:
        try:
            return (self.folder / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def pieces(self, key: str) -> Iterator[bytes]:
        with open(self.folder / key, "rb") as file:
            while piece := file.read(PIECE_NBYTES):
                yield piece

    def write(self, key: str, data: bytes) -> None:
        with self.stream(key) as file:
            file.write(data)

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[IO[bytes]]:
        temporary = self._temporary(key)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / key)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def create(self, key: str, data: bytes) -> bool:
        temporary = self._temporary(key)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, self.folder / key)
        except FileExistsError:
            return False
        except PermissionError as error:
            raise OptionError(
                "this file system cannot create an object exclusively, so it cannot be appended to",
                path=self.folder / key,
                found=error.strerror,
                hint="build a store of its own, and merge or copy it to a file system that has hard links",
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
        self.settle()
        return True

    def keys(self, prefix: str = "") -> list[str]:
        base = self.folder / prefix
        found = (Path(folder, name) for folder, _, names in os.walk(base) for name in names)
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def remove(self, key: str) -> None:
        (self.folder / key).unlink(missing_ok=True)

    def settle(self) -> None:
        for folder in sorted(self._touched):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._touched.clear()

    def _temporary(self, key: str) -> Path:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        self._touched.add(path.parent)
        # Two writers may be at the same object at once: each has a temporary file of its own.
        return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


class RemotePlace:
    """A URL of fsspec's."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/") if not url.endswith("://") else url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise OptionError(f"fsspec cannot open this URL: {error}", url=url) from error

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path(key)))
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            return None

    def pieces(self, key: str) -> Iterator[bytes]:
        size = self.size(key)
        if size is None:
            raise MachineError("an object is gone", object=key, store=self.url)
        for start in range(0, size, PIECE_NBYTES):
            yield bytes(self._fs.cat_file(self._path(key), start, min(start + PIECE_NBYTES, size)))

    def write(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(key), data)

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[Any]:
        # fsspec's files are put when they are closed; one that fails is discarded, so that no cut object appears.
        file = self._fs.open(self._path(key), "wb", block_size=PIECE_NBYTES)
        try:
            yield file
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            file.closed = True
            raise
        file.close()

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(self._path(key), data, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError, ValueError) as error:
            raise OptionError(
                "this storage cannot create an object exclusively, so it cannot be appended to",
                store=self.url,
                found=str(error)[:200],
                hint="build the whole store anew, or append locally and copy it to another URL",
            ) from None
        return True

    def keys(self, prefix: str = "") -> list[str]:
        self._fs.invalidate_cache()
        base = self._path(prefix) if prefix else self._root
        try:
            return sorted(str(path)[len(self._root.rstrip("/")) + 1 :] for path in self._fs.find(base))
        except FileNotFoundError:
            return []

    def remove(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def settle(self) -> None:
        """A put that returned is durable."""

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"
