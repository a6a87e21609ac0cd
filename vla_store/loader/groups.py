"""What a fetcher brings near, and in which order: the batches of a plan, in groups.

Pure arithmetic. Imports the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.loader.plan import Plan

Int64 = npt.NDArray[np.int64]

GROUP_SAMPLES = 512


class Group(NamedTuple):
    """Samples that are fetched together. Once they and all groups before are near, so are the plan's first `batches` batches.

    until: the position of the order up to which somebody may still need them.
    """

    batches: int
    indices: Int64
    until: int


def groups_of(plan: Plan) -> Iterator[Group]:
    """Yield the groups of a plan. The first is only what its first batch needs: somebody waits for it.

    A block of samples is in the first group that needs a sample of it, whole, and not again while its pool lasts.
    """
    order = plan.order
    pool_stop, known = -1, set[int]()
    wanted: list[Int64] = []
    count = until = 0
    for number, job in enumerate(plan.jobs()):
        start, stop = job.position, job.position + len(job.indices)
        while start < stop:
            if start >= pool_stop:
                pool_stop = order.unit(start)[1]
                known.clear()
            end = min(stop, pool_stop)
            for first, last in order.blocks(start, end).tolist():
                if first not in known:
                    known.add(first)
                    wanted.append(np.arange(first, last))
                    count += last - first
            start = end
        until = max(job.end, pool_stop)
        if count >= GROUP_SAMPLES or number in (0, plan.count - 1):
            yield Group(number + 1, np.concatenate([np.empty(0, np.int64), *wanted]), until)
            wanted, count = [], 0
