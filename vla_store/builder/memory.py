"""How much memory a build takes, before it takes it."""

from __future__ import annotations

from dataclasses import dataclass

from vla_store.builder.encode import BLOCK_NBYTES
from vla_store.builder.executors import default_workers
from vla_store.builder.plan import Plan
from vla_store.errors import OptionError
from vla_store.format.predictions import BACKGROUND_FRAMES

# Measured by benchmarks/build_memory.py, rounded up: interpreter with zarr, dask and h5py; a spawned worker's.
PROCESS_NBYTES = 260 << 20
WORKER_PROCESS_NBYTES = 200 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """workers: how many run at once. nbytes: projected peak of all processes together."""

    workers: int
    nbytes: int


def plan_memory(plan: Plan, executor: str, workers: int | None, max_memory: int | None) -> MemoryPlan:
    """The number of workers that fits in `max_memory`, or an OptionError that says which number to change."""
    if workers is not None and workers < 1:
        raise OptionError(f"workers cannot be {workers}", expected="at least 1")
    wanted = workers or default_workers()
    while wanted > 1 and workers is None and max_memory is not None and _projected(plan, executor, wanted) > max_memory:
        wanted -= 1
    need = _projected(plan, executor, wanted)
    if max_memory is not None and need > max_memory:
        raise OptionError(
            "the build does not fit in the memory it may use",
            needed=f"{need >> 20} MiB with {wanted} worker{'s' * (wanted > 1)} ({executor})",
            allowed=f"{max_memory >> 20} MiB (--max-memory)",
            hint="raise --max-memory" + (", or lower --workers" if wanted > 1 else ""),
        )
    return MemoryPlan(wanted, need)


def _projected(plan: Plan, executor: str, workers: int) -> int:
    frame = max((field.step_nbytes for field in plan.cameras), default=0)
    # A block, its residuals and a temporary; the frames of a background, sorted, with the masks of the count.
    worker = 6 * max(BLOCK_NBYTES, frame) + 8 * BACKGROUND_FRAMES * frame
    # Digests of frames (binary, base64, JSON), and a few copies of one numeric component for the statistics.
    driver = PROCESS_NBYTES + plan.rows * (48 + 160 * len(plan.cameras))
    return driver + workers * (worker + (WORKER_PROCESS_NBYTES if executor == "processes" else 0))
