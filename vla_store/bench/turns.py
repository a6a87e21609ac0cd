"""What all measurements of `vla-store bench` share: samples that are like a policy's, turns by the clock, and what was read, hashed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import vla_store
from vla_store.errors import StoreDamaged
from vla_store.loader.batches import Batches
from vla_store.reader.samples import Samples

Array = np.ndarray[Any, Any]
Talk = Callable[[str], None]

ROUNDS = 5
TURN_S = 0.25  # of one contender in one round
LOADER_S = 1.5
ACTIONS = 16
LINE_WIDTH = 79


@dataclass(frozen=True)
class Setting:
    """What is measured: samples, so many to a batch. open_ms: to open the store and to make them; began: by perf_counter; cores: that
    this process may use; views: whose samples alone they are."""

    samples: Samples
    size: int
    open_ms: float
    began: float
    cores: int
    views: tuple[str, ...] = ()

    @property
    def described(self) -> dict[str, Any]:
        """What reports say of it."""
        samples, store = self.samples, self.samples.store
        presets = {str(document.plan.get("options", {}).get("preset", "unknown")) for _, document in store.parts}
        return {
            "store": store.url,
            "rows": store.rows,
            "anchors": len(samples),
            "preset": " and ".join(sorted(presets)),
            "windows": ", ".join(f"{each.field} {each}" for each in samples.windows),
            "batch_size": self.size,
            "sample_nbytes": sum(array[0].nbytes for array in samples.allocate(1).values()),
            "cores": self.cores,
            "version": vla_store.__version__,
            "views": self.views,
        }


class Others:
    """How many cores other programs kept busy since it was made."""

    def __init__(self) -> None:
        self._busy, self._since = _busy_cores_s(), time.monotonic()

    def cores(self) -> float | None:
        """Return them on average; None where the system does not tell."""
        busy = _busy_cores_s()
        if busy is None or self._busy is None:
            return None
        return round(max(0.0, busy - self._busy) / (time.monotonic() - self._since), 2)


def versions() -> dict[str, str]:
    """Return what besides the package decides about the figures."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numcodecs": metadata.version("numcodecs"),
        "google_crc32c": metadata.version("google-crc32c"),
        "system": platform.system(),
    }


def windows(store: Any) -> dict[str, Any]:
    fixed = {name: each for name, each in store.fields.items() if each.is_fixed}
    made: dict[str, Any] = {name: [-1, 0] if each.is_camera else 0 for name, each in fixed.items()}
    if "actions" in made:
        made["actions"] = range(ACTIONS)
    return made


def doubling(cores: int) -> tuple[int, ...]:
    most = min(cores, 8)
    return (*(count for count in (1, 2, 4) if count < most), most)


def roof_work(samples: Samples, indices: Array, out: dict[str, Array]) -> Callable[[], None]:
    """Return the unavoidable work of a batch: its distinct frames, located, fetched and checked before, decoded into `out`; its
    numbers copied."""
    fields = samples.store.fields
    samples.batch(indices, out)
    located = samples.locate(indices)
    data = samples.fetch(located)
    numbers = [(out[name], out[name].copy()) for name in out if name not in fields or not fields[name].is_camera]

    def work() -> None:
        samples.decode(located, data, out)
        for target, values in numbers:
            np.copyto(target, values)

    return work


def rate(units: Sequence[Any], work: Callable[[Any], object], size: int) -> float:
    """Return the samples a second of one turn."""
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < TURN_S:  # a busy machine may take a turn's time before it begins
        for each in units:
            work(each)
            count += size
            if time.perf_counter() - start > TURN_S:
                break
    return count / (time.perf_counter() - start)


@contextlib.contextmanager
def batches(samples: Samples, size: int, workers: int) -> Iterator[Iterator[Any]]:
    """Serve batches without end by worker processes."""
    with contextlib.closing(Batches(samples, batch_size=size, workers=workers, seed=0)) as made:
        yield itertools.chain.from_iterable(itertools.repeat(made))


def digest(batch: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for name in sorted(batch.keys() - {"task"}):
        array = np.ascontiguousarray(batch[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def check_same(name: str, batch: Mapping[str, Any], expected: str, url: str) -> None:
    if digest(batch) != expected:
        raise StoreDamaged(
            f"{name} reads other bytes than a batch does",
            store=url,
            hint="run `vla-store verify`; if the store is sound this is a bug of vla_store, please report it",
        )


def quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(values, q))


def wrapped(text: str, first: str, then: str) -> str:
    return textwrap.fill(text, LINE_WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)


def _busy_cores_s() -> float | None:
    """Return the core seconds since the system started that were not this process's, nor of its children that have ended."""
    try:
        ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    own = os.times()
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting for disks
    return busy - (own.user + own.system + own.children_user + own.children_system)
