"""Where a store is written that lies there already, or is copied there: a local folder, or any URL that fsspec can write.

An object becomes visible whole: locally by a temporary name, fsync and rename; on object stores by the put itself. Creating an
object *exclusively* is what commits a root: of two writers one wins, and the other one is told.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from vla_store.errors import FetchError, MachineError, OptionError, StoreDamaged, VlaStoreError
from vla_store.format import layout
from vla_store.storage import is_url, place_of
from vla_store.storage.remote import NOT_PERMITTED, filesystem_of, hint_for

PIECE_NBYTES = 8 << 20
TEMPORARY = ".tmp"
CONFLICT_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_OWN_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp|probe-[0-9a-f]{32}\.tmp")
WITHOUT_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)


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

    def tells_second_writers(self) -> bool:
        """Whether `create` refuses to replace an object. Raises OptionError as `create` does."""

    def sweep(self) -> None:
        """Remove half-written objects of writers that are no more."""

    def proposing(self) -> contextlib.AbstractContextManager[None]:
        """Around the writing of documents that no root names yet, and the creation of the root that does."""

    def alone(self) -> contextlib.AbstractContextManager[bool]:
        """Whether it is sure that nobody is `proposing`, and that nobody begins before this ends. Never waits."""

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all objects below a prefix."""

    def remove(self, key: str) -> None:
        """Remove an object that may be there."""

    def settle(self) -> None:
        """Make the names of what was written durable."""


def place_at(url: str | os.PathLike[str]) -> Place:
    """The place at a path or URL."""
    place = place_of(url)
    return RemotePlace(place) if is_url(place) else LocalPlace(Path(place))


def require_exclusive(place: Place) -> None:
    """Try now whether `create` tells a second writer, which decides about a commit later. Raises OptionError."""
    if not place.tells_second_writers():
        raise _not_exclusive(place.url, "it replaces an object that it was told only to create")


def require_writable(place: Place) -> None:
    """Say now what a first write would say later, after work. Raises OptionError for storage that is read-only by its nature."""
    if isinstance(place, RemotePlace):
        place.check_writable()


def _not_exclusive(store: str, found: object) -> OptionError:
    return OptionError(
        "this storage cannot create an object exclusively, so it cannot be appended to",
        store=store,
        found=str(found)[:200],
        hint="append to the store on a local disk and copy it there anew, or build the whole store again",
    )


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
        try:
            file = open(self.folder / key, "rb")  # noqa: SIM115
        except (FileNotFoundError, NotADirectoryError):
            raise StoreDamaged("an object of the store is missing", object=key, store=self.url) from None
        with file:
            while piece := file.read(PIECE_NBYTES):
                yield piece

    def write(self, key: str, data: bytes) -> None:
        with self.stream(key) as file:
            file.write(data)

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[IO[bytes]]:
        with self._temporary(key) as (file, temporary):
            yield file
            _flush(file)
            os.replace(temporary, self.folder / key)

    def create(self, key: str, data: bytes) -> bool:
        with self._temporary(key) as (file, temporary):
            file.write(data)
            _flush(file)
            try:
                os.link(temporary, self.folder / key)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in WITHOUT_LINKS:
                    raise
                raise _not_exclusive(self.url, f"no hard links: {error.strerror}") from None
        self.settle()
        return True

    def tells_second_writers(self) -> bool:
        # Both names end as temporary files do: were this process killed here, `sweep` would remove them.
        probe = f"roots/probe-{uuid.uuid4().hex}{TEMPORARY}"
        try:
            return self.create(probe, b"first") and not self.create(probe, b"second")
        finally:
            with contextlib.suppress(OSError):
                self.remove(probe)

    def sweep(self) -> None:
        # Only what is called as `_temporary` calls its files: of stores that were merged where they lie, this is the folder above
        # them, where anything may lie.
        for key in self.keys():
            if _OWN_TEMPORARY.fullmatch(key.rpartition("/")[2]):
                _remove_if_nobody_holds(self.folder / key)

    @contextlib.contextmanager
    def proposing(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as held:
            yield held

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[bool]:
        """A lock on the folder of roots, which ends with its holder; False where there is none to be had."""
        try:
            descriptor = os.open(self.folder / "roots", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield False
            return
        try:
            try:
                fcntl.flock(descriptor, how)
                held = True
            except OSError:  # somebody holds it; or a file system without locks, where nothing is swept
                held = False
            yield held
        finally:
            os.close(descriptor)

    def adopt(self, folder: Path, key: str) -> None:
        """Give a folder that lies elsewhere on this disk its place here. Raises OSError where that is taken, or not possible."""
        target = self.folder / key
        self._make_folder(target.parent)
        os.rename(folder, target)
        self._touched.add(target.parent)

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

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[IO[bytes], Path]]:
        """A file of its own for each of two writers that may be at the same object at once; gone when the context ends."""
        path = self.folder / key
        self._make_folder(path.parent)
        while True:
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")
            with open(temporary, "xb") as file:
                if not _hold(file, temporary):
                    continue  # it was swept before it was held
                try:
                    yield file, temporary
                finally:
                    temporary.unlink(missing_ok=True)
                return

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._touched:
            folder.mkdir(parents=True, exist_ok=True)
            # A new folder's own name lies in the one above it.
            self._touched.update(each for each in (folder, *folder.parents) if each.is_relative_to(self.folder))
            self._touched.add(self.folder.parent)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _hold(file: IO[bytes], path: Path) -> bool:
    """Lock a file that is being written: the lock ends with its writer, however that ends. Whether it is still there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks, where nothing is swept
    return path.exists()


def _remove_if_nobody_holds(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:  # OSError: held, gone, or without locks
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


class RemotePlace:
    """A URL of fsspec's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = filesystem_of(url, {})

    def check_writable(self) -> None:
        """Raises OptionError for HTTP: a server may take a PUT, but of two writers it tells none that the other was first."""
        if _is_http(self._fs):
            raise OptionError(
                "a store at an HTTP URL is read-only",
                store=self.url,
                hint="give the place that the server shows: a folder there, or the URL of the bucket (s3://, gs://)",
            )

    def read(self, key: str) -> bytes | None:
        try:
            with self._asking(key):
                return bytes(self._fs.cat_file(self._path(key)))
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            with self._asking(key):
                return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            return None

    def pieces(self, key: str) -> Iterator[bytes]:
        size = self.size(key)
        if size is None:
            raise StoreDamaged("an object of the store is missing", object=key, store=self.url)
        for start in range(0, size, PIECE_NBYTES):
            with self._asking(key):
                piece = bytes(self._fs.cat_file(self._path(key), start=start, end=min(start + PIECE_NBYTES, size)))
            yield piece

    def write(self, key: str, data: bytes) -> None:
        self.check_writable()
        with self._asking(key):
            self._fs.pipe_file(self._path(key), data)

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[Any]:
        self.check_writable()
        # Not written to the URL as it comes: many of fsspec's storages show a file from its first byte on.
        with tempfile.NamedTemporaryFile(prefix="vla_store-") as file:
            yield file
            file.flush()
            with self._asking(key):
                self._fs.put_file(file.name, self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        self.check_writable()
        if not _creates_itself(self._fs):
            raise _not_exclusive(self.url, f"{type(self._fs).__name__} looks first and writes then")
        for wait_s in (*CONFLICT_WAITS_S, None):
            try:
                with self._asking(key):
                    self._fs.pipe_file(self._path(key), data, mode="create")
                return True
            except FileExistsError:
                return False
            except FetchError as error:
                status = _status_of(error)
                if status == 412:  # storage that does not say which condition failed: there was only one
                    return False
                if status != 409 or wait_s is None:
                    raise
                # ConditionalRequestConflict: another writer's request for this object is under way, and nobody's has won yet.
                time.sleep(wait_s * random.uniform(0.5, 1.5))
        raise AssertionError("the last try has no wait")

    def tells_second_writers(self) -> bool:
        # With the bytes of an object that is there: whatever the storage does with them, it leaves nothing behind.
        key = layout.root_key(1)
        data = self.read(key)
        if data is None:
            raise StoreDamaged("the first root is missing", object=key, store=self.url)
        return not self.create(key, data)

    def sweep(self) -> None:
        """A put shows an object whole or not at all."""

    def proposing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager[bool]:
        """Nothing here tells a writer that lives from one that does not."""
        return contextlib.nullcontext(False)

    def keys(self, prefix: str = "") -> list[str]:
        self._fs.invalidate_cache()
        base = self._path(prefix) if prefix else self._root
        try:
            with self._asking(prefix):
                return sorted(str(path).removeprefix(self._root).lstrip("/") for path in self._fs.find(base))
        except FileNotFoundError:
            return []

    def remove(self, key: str) -> None:
        self.check_writable()
        with contextlib.suppress(FileNotFoundError), self._asking(key):
            self._fs.rm_file(self._path(key))

    def settle(self) -> None:
        """A put that returned is durable."""

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Turns what storage raises into our errors, but for an object that is, or is not, there."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, VlaStoreError):
            raise
        except PermissionError as error:
            raise MachineError(
                "storage refuses access", object=key, store=self.url, found=str(error)[:200], hint=NOT_PERMITTED
            ) from error
        except (NotImplementedError, TypeError) as error:
            raise OptionError(
                "this storage cannot be written to", store=self.url, found=f"{type(error).__name__}: {error}"[:200]
            ) from error
        except Exception as error:
            raise FetchError(
                "storage answered with an error, or did not answer",
                object=key,
                store=self.url,
                found=f"{type(error).__name__}: {error}"[:300],
                hint=hint_for(error),
            ) from error


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status that storage answered with, from the error of botocore's that lies below; None where there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        error = error.__cause__
    return None


def _creates_itself(fs: Any) -> bool:
    """Whether a filesystem of fsspec's has its own way to create an object. The inherited one looks whether there is one and
    then writes, and of two writers at once both would be told that they were first."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    fs = _innermost(fs)
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._pipe_file is not AsyncFileSystem._pipe_file
    return type(fs).pipe_file is not AbstractFileSystem.pipe_file


def _is_http(fs: Any) -> bool:
    protocol = _innermost(fs).protocol
    return "http" in ((protocol,) if isinstance(protocol, str) else protocol)


def _innermost(fs: Any) -> Any:
    """The filesystem that caches and the like of fsspec's stand before."""
    from fsspec import AbstractFileSystem

    while isinstance(inner := getattr(fs, "fs", None), AbstractFileSystem):
        fs = inner
    return fs
