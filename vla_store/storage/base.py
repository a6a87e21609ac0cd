"""The protocol of storage: what may be asked of the place where a store's objects lie.

Owns the protocol, its error for objects that are not there, and what is done alike over every storage. Imports errors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vla_store.errors import StoreDamaged

Range = tuple[str, int, int]  # key, start, stop


class ObjectMissing(StoreDamaged):
    """An object that should be there is not."""


class Storage(Protocol):
    """The objects below one folder or prefix. Keys are relative to it.

    A storage belongs to one process: a `Location` is what travels, and opens one where it arrives.
    """

    url: str

    @property
    def max_open(self) -> int:
        """How many objects a reader may keep open, as views or parsed indices, at one time."""

    def size(self, key: str) -> int:
        """Return the bytes of an object. Raises ObjectMissing, FetchError, MachineError."""

    def whole(self, key: str) -> memoryview | None:
        """Return all of an object as a view that costs nothing, to be held and indexed at will.

        None where there is no such view: then ranges are to be read. Errors as for `size`; where there is no view, `size` and
        `read` raise them.
        """

    def head(self, key: str, nbytes: int) -> bytes:
        """Return the first bytes of an object, all of them where it has fewer, by one request. Errors as for `size`."""

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        """Return the bytes of each (key, start, stop), as read-only views in the order asked for.

        A view stays valid as long as it is held. Raises ObjectMissing, StoreDamaged where an object ends before `stop`,
        FetchError, MachineError.
        """


def read_document(storage: Storage, key: str, max_nbytes: int) -> bytes:
    """Return a small object whole, by one request. Raises StoreDamaged where it is larger than it may be."""
    data = storage.head(key, max_nbytes + 1)
    if len(data) > max_nbytes:
        raise StoreDamaged("a document is too large", object=key, expected=f"at most {max_nbytes} bytes")
    return data


def cut(view: memoryview, key: str, start: int, stop: int) -> memoryview:
    """Return a range of an object that is at hand whole. Raises StoreDamaged where it ends before `stop`."""
    if stop > len(view):
        raise too_short(key, stop, len(view))
    return view[start:stop]


def too_short(key: str, expected: int, found: int) -> StoreDamaged:
    """Return the error for an object that ends before a range of it does."""
    return StoreDamaged(
        "an object of the store is cut short",
        object=key,
        expected=f"at least {expected} bytes",
        found=f"{found}",
    )
