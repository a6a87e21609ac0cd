"""`Plan`: which batches come next, as a value that travels; `Jobs`: these batches one after another. Imports order and work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from vla_store.loader.order import EpochOrder, Sharding
from vla_store.loader.work import Job

ORDER_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class Plan:
    """The next `count` batches of a rank, from a position of an epoch's order on."""

    order: EpochOrder
    sharding: Sharding
    rank: int
    position: int
    count: int

    def after(self, batches: int) -> Plan:
        """Return what is left once so many batches are done."""
        if batches >= self.count:
            return replace(self, position=self.order.rows, count=0)
        return replace(self, position=self.sharding.end(self.position, batches), count=self.count - batches)

    def jobs(self) -> Iterator[Job]:
        """Yield the batches."""
        sharding, order, position = self.sharding, self.order, self.position
        whole = sharding.batch_size * sharding.world_size
        at, block = 0, np.empty(0, np.int64)
        for number in range(self.count):
            start, stop = sharding.shard(position, self.rank)
            position = sharding.end(position, 1)
            if not at <= start <= stop <= at + len(block):
                # One block serves several batches; where ranks lie further apart than that, it would serve only this one.
                block_stop = start + ORDER_BLOCK_ROWS if whole < ORDER_BLOCK_ROWS else stop
                at, block = start, order.take(start, max(stop, min(block_stop, order.rows)))
            indices = block[start - at : stop - at]
            yield Job(order.seed, order.epoch, start, indices, position, number == self.count - 1)


class Jobs(Iterator[Job]):
    """The batches of a plan, one after another. given: how many there were."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.given = 0
        self._jobs = plan.jobs()

    def __next__(self) -> Job:
        job = next(self._jobs)
        self.given += 1
        return job
