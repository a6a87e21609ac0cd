"""What a fetcher brings near, and in which order: the batches of a plan, in groups.

Pure arithmetic. Imports the order and the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.loader.plan import Plan

Int64 = npt.NDArray[np.int64]

FIRST_SAMPLES, GROUP_SAMPLES = 64, 512


class Group(NamedTuple):
    """Samples that are fetched together. Once they and all groups before are near, so are the plan's first `batches` batches.

    until: the position of the order up to which somebody may still need them.
    """

    batches: int
    indices: Int64
    until: int


def groups_of(plan: Plan) -> Iterator[Group]:
    """Yield the groups of a plan. The first is only what its first batch needs: somebody waits for it; the next ones grow.

    A block of samples is in the first group that needs a sample of it, whole, and not again while its pool lasts.
    """
    order: Any = plan.order
    rows = order.block_rows
    pool_stop, known = -1, set[int]()
    wanted: list[Int64] = []
    count, enough = 0, FIRST_SAMPLES
    for number, job in enumerate(plan.jobs()):
        start, stop, before = job.position, job.position + len(job.indices), len(wanted)
        if rows == 1:
            wanted.append(job.indices)
        while rows > 1 and start < stop:
            if start >= pool_stop:
                pool_stop = order.unit(start)[1]
                known.clear()
            end = min(stop, pool_stop)
            fresh = [each for each in np.unique(order.blocks(start, end)).tolist() if each not in known]
            known.update(fresh)
            wanted.append(order.samples_of(np.array(fresh, np.int64)))
            start = end
        count += sum(map(len, wanted[before:]))
        if count >= enough or number in (0, plan.count - 1):
            yield Group(number + 1, np.concatenate(wanted), max(job.end, pool_stop))
            wanted, count, enough = [], 0, min(GROUP_SAMPLES, 2 * enough)
