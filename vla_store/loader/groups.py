"""What a fetcher brings near, and in which order: the batches of a plan, in groups.

Pure arithmetic. Imports the order and the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from vla_store.loader.order import BlockedOrder, Piece, pieces_of
from vla_store.loader.plan import Plan

Int64 = npt.NDArray[np.int64]

FIRST_SAMPLES, GROUP_SAMPLES = 64, 512


class Group(NamedTuple):
    """Samples that are fetched together. Once they and all groups before are near, so are the plan's first `batches` batches.

    last: the batches after which nobody waits for them. until: the position of the order up to which somebody may still need them.
    """

    batches: int
    last: int
    indices: Int64
    until: int


def groups_of(plan: Plan) -> Iterator[Group]:
    """Yield the groups of a plan. The first are only what its first batch needs: somebody waits for it; the next ones grow.

    A block of samples is in the first group that needs a sample of it, whole, and not again while its pool lasts. What is given up at
    another time is another group: the pool of a part that comes rarely lasts long.
    """
    known = _Known()
    wanted: dict[tuple[int, ...], list[Int64]] = {}  # by the part that they are of
    until: dict[tuple[int, ...], int] = {}
    count, enough, complete = 0, FIRST_SAMPLES, 0
    for number, job in enumerate(plan.jobs()):
        for piece in pieces_of(plan.order, job.position, job.indices):
            part = piece.pool[:-1]
            fresh = known.fresh(piece, job.position)
            wanted.setdefault(part, []).append(fresh)
            until[part] = max(until.get(part, 0), job.end, piece.until if piece.order.block_rows > 1 else 0)
            count += len(fresh)
        if count >= enough or number in (0, plan.count - 1):
            for left, (part, samples) in zip(reversed(range(len(wanted))), wanted.items()):
                yield Group(complete if left else number + 1, number + 1, np.concatenate(samples), until[part])
            wanted, until, complete = {}, {}, number + 1
            count, enough = 0, min(GROUP_SAMPLES, 2 * enough)


class _Known:
    """Blocks that are in a group already, by pool."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, ...], tuple[int, set[int]]] = {}

    def fresh(self, piece: Piece, position: int) -> Int64:
        """Return the samples of a piece's blocks that are in no group yet, and count them as known."""
        if piece.order.block_rows == 1:
            return piece.samples
        if piece.pool not in self._pools:
            self._pools = {pool: each for pool, each in self._pools.items() if each[0] > position}
        _, known = self._pools.setdefault(piece.pool, (piece.until, set()))
        order = cast(BlockedOrder, piece.order)
        blocks = np.unique(order.blocks(piece.start, piece.start + len(piece.samples)))
        fresh = [each for each in blocks.tolist() if each not in known]
        known.update(fresh)
        return order.samples_of(np.array(fresh, np.int64)) + piece.shift
