"""What other processes have used: CPU time and memory, as Linux tells."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KIB = 1 << 10


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. rss: resident; pss: with shared pages divided among those who share them; private: pages that it
    wrote and that nobody else has, which leaves out the page cache of mapped files and the loader's ring; peak: rss at its most."""

    rss: int
    pss: int
    private: int
    peak: int


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of all threads of these processes."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                total += int(thread.read_text().split()[0])
    return total / 1e9


def below(pid: int) -> Iterator[int]:
    """The processes that this one has started, and those that they have."""
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(each) for each in thread.read_text().split()]
        except OSError:  # a thread that has just ended
            continue
        for child in children:
            yield child
            yield from below(child)


def memory(pid: int) -> Memory:
    """Of a process of the same user. Raises OSError where the system does not tell."""
    values = _numbers(f"/proc/{pid}/smaps_rollup")
    return Memory(
        values["Rss"] * KIB,
        values["Pss"] * KIB,
        values["Private_Dirty"] * KIB,
        _numbers(f"/proc/{pid}/status").get("VmHWM", 0) * KIB,
    )


def _numbers(path: str) -> dict[str, int]:
    made = {}
    for line in Path(path).read_text().splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()[:1]
        if value and value[0].isdigit():
            made[name] = int(value[0])
    return made
