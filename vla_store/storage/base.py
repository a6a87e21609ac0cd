"""The protocol of storage: what may be asked of the place where a store's objects lie.

Owns the protocol, its error for objects that are not there, and what is done alike over every storage. Imports errors only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from vla_store.errors import OptionError, StoreDamaged

if TYPE_CHECKING:
    from pathlib import Path

Range = tuple[str, int, int]  # key, start, stop

MAX_INDICES = 512
PIECE_NBYTES = 8 << 20


class ObjectMissing(StoreDamaged):
    """An object that should be there is not."""


class Contents(NamedTuple):
    """What is known of the objects below one prefix, which never change.

    name: a digest of them all: what is cached of one store serves every other that has the same. sizes: bytes of each, by key.
    listing: the document that says so, as it is stored.
    """

    prefix: str
    name: str
    sizes: dict[str, int]
    listing: bytes


@dataclass
class Traffic:
    """What a storage was asked for until now, by this process.

    requests: that went out. nbytes: bytes that came back. retries: requests that were made again. waited_s: seconds that readers
    waited for storage. hit_nbytes, missed_nbytes: bytes that were asked for and lay in a cache on this machine, or did not.
    """

    requests: int = 0
    nbytes: int = 0
    retries: int = 0
    waited_s: float = 0.0
    hit_nbytes: int = 0
    missed_nbytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))


class Storage:
    """The objects below one folder or prefix. Keys are relative to it.

    `size` and `read` suffice to read a store; `keys`, `write` and `remove` to copy one there; `create` to append to it. The rest
    has defaults, which other storage may do better. An object becomes visible whole or not at all. `create` is what commits a
    root: of two writers one wins, and the other one is told.

    A storage belongs to one process: a `Location` is what travels, and opens one where it arrives. All methods raise FetchError,
    MachineError where the storage fails; those that write, OptionError where it is read-only.
    """

    url: str
    max_open: int = MAX_INDICES
    """How many objects a reader may keep open, as views or parsed indices, at one time."""
    is_near: bool = True
    """Whether asking costs next to nothing. Where it does not, readers `know` what they can, and ask for much at once."""
    scratch: str | None = None
    """Folder of this machine for large objects while they are written; None, or one that is not here: that for temporary files."""

    def connect(self) -> None:
        """Raise now what is wrong with the place itself, and not with the first thing that is asked."""

    def know(self, contents: Contents) -> None:
        """Be told the sizes of objects that never change: `size` need not ask for them any more, and a cache may keep them."""

    def knows(self, prefix: str) -> bool:
        """Tell whether `know` was called for this prefix, or need not be."""
        return self.is_near

    def fetch_ahead(self, ranges: Sequence[Range]) -> None:
        """Bring what is read soon near, where there is a place for it on this machine; all in as few requests as can be.

        Raises what `read` raises.
        """

    def keeps_all(self) -> bool:
        """Tell whether all that this storage `knows` fits into a cache on this machine."""
        return False

    def heal(self, key: str) -> bool:
        """Fetch what a cache has of an object anew, because its bytes are not what was written; return whether that was done.

        Views of it are right then, unless storage itself is not: an object is fetched anew once.
        """
        return False

    @property
    def kept(self) -> tuple[int, int]:
        """Bytes that a cache on this machine has of all that this storage `knows`, and of all of it; (0, 0) without a cache."""
        return 0, 0

    def release(self, ranges: Sequence[Range]) -> None:
        """Say that these ranges of an earlier `fetch_ahead` were used: a place that is not meant to last gives them up."""

    @property
    def fetcher(self) -> str:
        """What reads: a name that `open_store` takes as `fetcher`, or of a class that a user registered."""
        return type(self).__name__

    @property
    def traffic(self) -> Traffic:
        """What was asked for until now, by this process; all zero where storage is near."""
        return Traffic()

    def size(self, key: str) -> int:
        """Return the bytes of an object. Raises ObjectMissing."""
        raise NotImplementedError

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        """Return the bytes of many objects; None for one that is not there."""
        found: list[int | None] = []
        for key in keys:
            try:
                found.append(self.size(key))
            except ObjectMissing:
                found.append(None)
        return found

    def whole(self, key: str) -> memoryview | None:
        """Return all of an object as a view that costs nothing, to be held and indexed at will. Raises ObjectMissing.

        None where there is no such view: then ranges are to be read, and `size` and `read` raise what is wrong.
        """
        return None

    def sparse(self, key: str) -> tuple[memoryview, Callable[[int, int], bool]] | None:
        """Return a view of an object that may have holes, and what tells of [start, stop) whether it is there, and then stays.

        None where there is no such view. Whoever uses it says so by `hit`.
        """
        return None

    def hit(self, nbytes: int) -> None:
        """Be told that bytes of `sparse` views were used, for the `traffic`."""

    def head(self, key: str, nbytes: int) -> bytes:
        """Return the first bytes of an object, all of them where it has fewer. Raises ObjectMissing."""
        return bytes(self.read([(key, 0, min(nbytes, self.size(key)))])[0])

    def heads(self, keys: Sequence[str], nbytes: int) -> list[bytes | None]:
        """Return the first bytes of many objects, as `head` does; None for one that is not there."""
        found: list[bytes | None] = []
        for key in keys:
            try:
                found.append(self.head(key, nbytes))
            except ObjectMissing:
                found.append(None)
        return found

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        """Return the bytes of each (key, start, stop), as read-only views in the order asked for.

        A view stays valid as long as it is held. Raises ObjectMissing, StoreDamaged where an object ends before `stop`.
        """
        raise NotImplementedError

    def get(self, key: str) -> bytes | None:
        """Return a small object whole, as it is now; None where there is none."""
        try:
            return bytes(self.read([(key, 0, self.size(key))])[0])
        except ObjectMissing:
            return None

    def pieces(self, key: str) -> Iterator[memoryview]:
        """Yield an object, a few megabytes at a time. Raises ObjectMissing."""
        size = self.size(key)
        for start in range(0, size, PIECE_NBYTES):
            yield self.read([(key, start, min(start + PIECE_NBYTES, size))])[0]

    def digest(self, key: str) -> tuple[int, str]:
        """Return the size of an object and the sha256 of its bytes, which are read. Raises ObjectMissing."""
        digest, size = hashlib.sha256(), 0
        for piece in self.pieces(key):
            digest.update(piece)
            size += len(piece)
        return size, digest.hexdigest()

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects below a prefix, sorted."""
        raise self._read_only()

    def check_writable(self) -> None:
        """Say now what a first write would say later, after work."""

    def write(self, key: str, data: bytes) -> None:
        """Put a small object, replacing what is there."""
        raise self._read_only()

    @contextlib.contextmanager
    def stream(self, key: str) -> Iterator[Any]:
        """Yield a file to write a large object to; the object is there when the context ends well, and only then."""
        self.check_writable()
        with nameless_file(self.scratch) as (file, path):
            yield file
            file.flush()
            file.seek(0)
            self._upload(path, key)

    def _upload(self, path: str, key: str) -> None:
        """Put what lies in a file, and see that it arrived whole."""
        with open(path, "rb") as file:
            self.write(key, file.read())

    def create(self, key: str, data: bytes) -> bool:
        """Put an object only if there is none; return whether it was put. Raises OptionError where the storage cannot say."""
        raise not_exclusive(self.url, "it has no way to create an object only where there is none")

    def check_exclusive(self, key: str) -> None:
        """Try now whether `create` tells a second writer, which decides about a commit later. Raises OptionError.

        key: of an object that is there; whatever the storage does with its bytes, nothing is left behind.
        """
        data = self.get(key)
        if data is None:
            raise missing(key, self.url)
        if self.create(key, data):
            raise not_exclusive(self.url, "it replaces an object that it was told only to create")

    def remove(self, key: str) -> None:
        """Remove an object that may be there."""
        raise self._read_only()

    def adopt(self, folder: Path, key: str) -> bool:
        """Give a folder that lies elsewhere on this machine its place here, where that can be done at once; return whether."""
        return False

    def settle(self) -> None:
        """Make the names of what was written durable."""

    def sweep(self) -> None:
        """Remove half-written objects of writers that are no more."""

    def give_up_uploads(self, prefix: str = "") -> None:
        """Remove what storage keeps of uploads below a prefix that nobody finished. A writer that is at it now has to begin again."""

    def proposing(self) -> contextlib.AbstractContextManager[Any]:
        """Surround the writing of documents that no root names yet, and the creation of the root that does."""
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager[bool]:
        """Tell whether it is sure that nobody is `proposing`, nor begins to before the context ends. Never waits."""
        return contextlib.nullcontext(False)  # nothing tells a writer that lives from one that does not

    def _read_only(self) -> OptionError:
        return OptionError("this storage cannot be written to", store=self.url)


@contextlib.contextmanager
def nameless_file(folder: str | None) -> Iterator[tuple[IO[bytes], str]]:
    """Yield a new file, and a path by which this process can open it once more. It ends with its writer, however that ends.

    folder: where its bytes lie; None, or one that is not here: the folder for temporary files.
    """
    import tempfile  # not for whoever imports only to read

    place = folder if folder is not None and os.path.isdir(folder) else None
    with tempfile.TemporaryFile(prefix="vla_store-", dir=place) as file:
        path = f"/proc/self/fd/{file.fileno()}"
        if os.path.exists(path):
            yield file, path
            return
    with tempfile.NamedTemporaryFile(prefix="vla_store-", dir=place) as named:  # a system without such names
        yield named, named.name


def read_document(storage: Storage, key: str, max_nbytes: int) -> bytes:
    """Return a small object whole, by one request.

    Parameters
    ----------
    storage
        The storage that has it.
    key
        Its key.
    max_nbytes
        The most bytes that it may have.

    Returns
    -------
    bytes

    Raises
    ------
    StoreDamaged
        Where it is larger than it may be; ObjectMissing where it is not there.
    FetchError, MachineError
        Where the storage fails.
    """
    return _bounded(storage.head(key, max_nbytes + 1), key, max_nbytes)


def read_documents(storage: Storage, keys: Sequence[str], max_nbytes: int) -> list[bytes | None]:
    """Return small objects whole, by one request each, which all go at once where storage is far.

    Parameters
    ----------
    storage
        The storage that has them.
    keys
        Their keys.
    max_nbytes
        The most bytes that each may have.

    Returns
    -------
    list of bytes or None
        None for one that is not there.

    Raises
    ------
    StoreDamaged
        Where one is larger than it may be.
    FetchError, MachineError
        Where the storage fails.
    """
    found = storage.heads(keys, max_nbytes + 1)
    return [None if data is None else _bounded(data, key, max_nbytes) for key, data in zip(keys, found)]


def _bounded(data: bytes, key: str, max_nbytes: int) -> bytes:
    if len(data) > max_nbytes:
        raise StoreDamaged("a document is too large", object=key, expected=f"at most {max_nbytes} bytes")
    return data


def cut(view: memoryview, key: str, start: int, stop: int) -> memoryview:
    """Return a range of an object that is at hand whole.

    Parameters
    ----------
    view
        All of the object.
    key
        Its key, for the error message.
    start, stop
        The range, in bytes.

    Returns
    -------
    memoryview
        A view of `view`.

    Raises
    ------
    StoreDamaged
        Where the object ends before `stop`.
    """
    if stop > len(view):
        raise too_short(key, stop, len(view))
    return view[start:stop]


def missing(key: str, store: str) -> ObjectMissing:
    """Return the error for an object that is not there."""
    return ObjectMissing("an object of the store is missing", object=key, store=store)


def too_short(key: str, expected: int, found: int) -> StoreDamaged:
    """Return the error for an object that ends before a range of it does."""
    return StoreDamaged(
        "an object of the store is cut short",
        object=key,
        expected=f"at least {expected} bytes",
        found=f"{found}",
    )


def not_exclusive(store: str, found: object) -> OptionError:
    """Return the error for storage that cannot commit a root."""
    return OptionError(
        "this storage cannot create an object exclusively, so it cannot be appended to",
        store=store,
        found=str(found)[:200],
        hint="append to the store on a local disk and copy it there anew, or build the whole store again",
    )
