"""A layer between a writer and its disk or storage, in which the n-th write fails, is cut short, or is done but says that it failed.

Locally what counts as a write is whatever makes something durable or gives it a name; of an object store, every request that
changes it. An object store has no write that is cut short: a put shows the whole object or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

LOCAL = ("replace", "rename", "link", "fsync")
HOWS = ("fails", "is cut short", "loses its reply")


@dataclass
class Faults:
    """at: which write, counted from 1; 0 for none. how: one of HOWS. count: how many writes there were."""

    at: int = 0
    how: str = "fails"
    count: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def around(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function, which behaves badly when it is its turn."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.lock:
                self.count += 1
                is_it = self.count == self.at
            if is_it and self.how == "loses its reply":
                real(*arguments, **options)
            if is_it and self.how == "is cut short" and name == "fsync":
                with contextlib.suppress(OSError):  # a folder
                    os.truncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
            if is_it:
                raise OSError(errno.EIO, f"{name} number {self.at} {self.how}")
            return real(*arguments, **options)

        return call


@contextlib.contextmanager
def local(at: int, how: str = "fails") -> Iterator[Faults]:
    """Faults of the disk, wherever in this process it is written to."""
    faults = Faults(at, how)
    with contextlib.ExitStack() as stack:
        for name in LOCAL:
            stack.enter_context(mock.patch.object(os, name, faults.around(getattr(os, name), name)))
        yield faults


@contextlib.contextmanager
def remote(kind: type[Any], at: int, how: str = "fails") -> Iterator[Faults]:
    """Faults of a filesystem of fsspec's."""
    faults = Faults(at, how)
    with contextlib.ExitStack() as stack:
        for name in ("pipe_file", "put_file", "rm_file"):
            stack.enter_context(mock.patch.object(kind, name, faults.around(getattr(kind, name), name)))
        yield faults
