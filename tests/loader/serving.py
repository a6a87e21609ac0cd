"""What the loader's tests share: small selections of a store, which rows a batch holds, and ranks played one after another."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vla_store
from vla_store.errors import UsageError
from vla_store.loader.batches import Batches

goes_on = pytest.mark.filterwarnings("ignore:the pass before this one was not finished:RuntimeWarning")
"""For tests that leave a pass, and know that the next one goes on."""


def first_rows(store: Path, count: int, **options: Any) -> vla_store.Samples:
    """The first rows of a store as samples that are quick to read."""
    options = {"windows": {"actions": 0}, **options}
    return vla_store.Samples(store, rows=range(count), **options)


def rows_of(batch: Any, store: vla_store.Store) -> list[int]:
    """The store's row of each sample of a batch."""
    return (store.episodes.starts[np.asarray(batch["episode"])] + np.asarray(batch["step"])).tolist()


def served(batches: Any, count: int | None = None) -> list[list[int]]:
    """The rows of the next `count` batches of an iterator, or of all that are left."""
    store = opened_store(batches)
    return [rows_of(batch, store) for batch in itertools.islice(batches, count)]


def opened_store(batches: Any) -> vla_store.Store:
    return batches._owner.dataset.store


def ranks_of(
    samples: vla_store.Samples, world_size: int, state: dict[str, Any] | None = None, **options: Any
) -> list[Batches]:
    """One loader a rank, all as `state` says."""
    made = [
        Batches(samples, ranks=lambda rank=rank: (rank, world_size), **{"workers": 0, **options})
        for rank in range(world_size)
    ]
    for each in made:
        if state is not None:
            each.epochs.load_state_dict(state)
    return made


def ended_by(stream: Any) -> str:
    """What a pass that was cut says when it is asked for more."""
    with pytest.raises(UsageError) as raised:
        next(stream)
    return raised.value.what.partition("because ")[2]


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it came to hold; a machine under load gets its time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        gc.collect()
        time.sleep(0.02)
    return True


def memfds() -> set[str]:
    """Names of all rings that any process has mapped or open."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        found |= set(_names_in(process))
    return found


def _names_in(process: Path) -> Iterator[str]:
    try:
        # Others map files of any name, in UTF-8 or not.
        for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
            if "memfd:vla_store-" in line:
                yield line.split("memfd:")[1].split()[0]
        for fd in (process / "fd").iterdir():
            target = os.readlink(fd)
            if "memfd:vla_store-" in target:
                yield target.split("memfd:")[1].split()[0]
    except OSError:  # it is gone, or not ours to see
        return


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] != b"Z"
    except OSError:
        return False


def rings_of(pid: int) -> set[str]:
    """Names of the rings that one process has mapped or open."""
    return set(_names_in(Path(f"/proc/{pid}")))


def children_of(pid: int) -> list[int]:
    """Processes whose parent this is, zombies left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_bytes().rsplit(b")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != b"Z":
            found.append(int(process.name))
    return found
