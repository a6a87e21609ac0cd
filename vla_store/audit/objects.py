"""The objects of a store, and what was found wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vla_store.audit.report import Problem, VerifyReport
from vla_store.errors import DataError, OptionError
from vla_store.format.schema import MAX_DOCUMENT_BYTES
from vla_store.storage import Storage, read_document


class Objects:
    """The objects of a store: their bytes, which of them a root names, and what was found wrong with them."""

    def __init__(self, storage: Storage, report: VerifyReport) -> None:
        self.storage = storage
        self.report = report
        self.named: dict[str, int] = {}  # with their sizes
        self.damaged: set[str] = set()
        self.unchecked: set[str] = set()  # parts of whose objects nothing is known, and stores merged where they lie

    def problem(self, key: str, what: str) -> None:
        """Record a problem; the first of an object says it all, what else is wrong with it follows from that."""
        if not key or key not in self.damaged:
            self.damaged.add(key)
            self.report.problems.append(Problem(key, what))

    def is_damaged(self, place: str) -> bool:
        """Tell whether something was found wrong with an object at or below this key."""
        return any(key == place or key.startswith(place + "/") for key in self.damaged)

    def is_unchecked(self, key: str) -> bool:
        return any(key.startswith(place + "/") for place in self.unchecked)

    @contextlib.contextmanager
    def recording(self, key: str) -> Iterator[None]:
        """Record what is raised on an object, in place of the rest of the block."""
        try:
            yield
        except DataError as error:
            self.error(key, error)

    def error(self, key: str, error: DataError) -> None:
        """Record an error that names its object, or else `key`."""
        said = "; ".join(f"{label} {value}" for label, value in error.places.items() if label != "object")
        self.problem(error.places.get("object", key), error.what + (f" ({said})" if said else ""))

    def has(self, key: str) -> bool:
        return self.storage.sizes([key]) != [None]

    def read(self, key: str) -> bytes:
        """Return a small object whole. Raises StoreDamaged for one that is larger than any document may be."""
        self.named[key] = 0
        data = read_document(self.storage, key, MAX_DOCUMENT_BYTES)
        self.named[key] = len(data)
        return data


def list_keys(storage: Storage, prefix: str = "") -> list[str]:
    """Return every object below a store or a folder of it; none where its storage cannot say (plain HTTP)."""
    try:
        return storage.keys(prefix)
    except (OSError, OptionError):
        return []
