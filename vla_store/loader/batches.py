"""`Batches`: the batches of an epoch in their order, decoded by worker processes into a ring of leased buffers.

How a pass ends, and what holds then:
  1. The epoch is over: `next` raises StopIteration; workers wait for the next pass.
  2. A sample or a transform raises: `next` raises that error, with its sample, in the batch's turn; the pass is over.
  3. The consumer stops early (break, close, a new iter): tickets in hand finish, and their slots come back before reuse.
  4. A worker dies: `next` raises WorkerDied with its name as soon as the kernel closes its socket; all workers end.
  5. The loader is closed, collected, or the interpreter exits: sockets close and workers end. Leased batches stay valid.
  6. This process is killed: the kernel closes the sockets, workers end at once, and the ring, which has no name, goes with them.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_store.errors import OptionError, VlaStoreError
from vla_store.loader.order import Deal
from vla_store.loader.packing import Packed, slot_nbytes, unpack
from vla_store.loader.pool import Pool, pickled
from vla_store.loader.ring import Ring
from vla_store.loader.state import Epochs, Pass
from vla_store.loader.work import Job, Work
from vla_store.loader.worker import Failed, Filled, NewRing, Ticket
from vla_store.reader.samples import Samples

log = logging.getLogger("vla_store")

TICKETS_PER_WORKER = 2
SPARE_SLOTS = 3
ORDER_BLOCK_ROWS = 8_192
PATIENCE_S = 30.0
LOOK_UP_S = 0.5
MAX_WAITS = 10_000

Array = np.ndarray[Any, Any]
Ranks = Callable[[], tuple[int, int]]


@dataclass
class Stats:
    """What a loader did since it was made, or since `reset`."""

    batches: int = 0
    rows: int = 0
    nbytes: int = 0
    waited_s: float = 0.0
    elapsed_s: float = 0.0
    work_s: float = 0.0
    ready: int = 0
    copies: int = 0
    pickled_nbytes: int = 0
    waits_s: list[float] = field(default_factory=list, repr=False)  # of the last 10,000 batches

    def count(self, rows: int, waited_s: float, elapsed_s: float) -> None:
        """One more batch. elapsed_s: since the one before was asked for."""
        self.batches, self.rows = self.batches + 1, self.rows + rows
        self.waited_s, self.elapsed_s = self.waited_s + waited_s, self.elapsed_s + elapsed_s
        self.waits_s.append(waited_s)
        del self.waits_s[:-MAX_WAITS]

    def summary(self) -> str:
        """One line: is it the loader?"""
        share = self.waited_s / self.elapsed_s if self.elapsed_s else 0.0
        return (
            f"{self.batches} batches, {self.rows} rows in {self.elapsed_s:.1f} s; the consumer waited {share:.0%} of the time; "
            f"{self.ready} batches were ready when asked for; workers worked {self.work_s:.1f} s; "
            f"{self.nbytes / 1e6:.0f} MB, {self.pickled_nbytes / 1e6:.1f} MB pickled, {self.copies} batches copied"
        )


class Batches:
    """Iterable over NumPy batches of `samples`; `vla_store.torch.Loader` is its torch face, and documents the options.

    ranks: asked at the first batch of a pass for (rank, world size).
    dataset: indexed one by one instead of `samples` where it changes samples itself.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
        ranks: Ranks = lambda: (0, 1),
        dataset: Any = None,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise OptionError(f"{name} is a whole number of at least {least}", found=repr(value))
        self.samples = samples
        self.batch_size, self.drop_last = int(batch_size), bool(drop_last)
        self.epochs = Epochs(samples, seed, shuffle)
        self.workers = int(workers)
        self.stats = Stats()
        self._ranks = ranks
        self._work = Work(samples, dataset, transform, batch_transform)
        self._pickled = pickled(self._work) if workers else b""
        self._pool: Pool | None = None
        self._ring: Ring | None = None
        self._ring_number = 0
        self._ticket = 0
        self._tickets: dict[int, tuple[Ring, int, int]] = {}  # ticket -> ring, slot, worker
        self._texts: list[list[str]] = []
        self._warned = False

    def __len__(self) -> int:
        """Batches of a whole epoch, on every rank."""
        return self._deal().batches(0)

    def __iter__(self) -> BatchStream:
        """A new pass; it ends the one before. Epoch and position are settled at its first batch."""
        return BatchStream(self, self.epochs.new_pass())

    @property
    def rank(self) -> tuple[int, int]:
        """Rank and world size, as they are now."""
        rank, world_size = self._ranks()
        if not 0 <= rank < world_size:
            raise OptionError("rank lies outside the world", rank=rank, world_size=world_size)
        return rank, world_size

    def close(self) -> None:
        """End the workers. Batches that were handed out stay valid; a new pass starts workers again."""
        self.epochs.end()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self._tickets.clear()
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

    def _deal(self) -> Deal:
        return Deal(len(self.samples), self.batch_size, self.rank[1], self.drop_last)

    # Workers

    def _start(self) -> tuple[Pool, Ring]:
        if self._pool is None or self._pool.pid != os.getpid():
            self._pool = Pool(self._pickled, self.workers)
            self._texts = [[] for _ in range(self.workers)]
            self._tickets.clear()
            self._ring = None
            weakref.finalize(self, _close_pool, self._pool)
        if self._ring is None:
            columns = self._work.columns or self.samples.columns
            self._grow(slot_nbytes(columns, self.batch_size))
        assert self._ring is not None
        return self._pool, self._ring

    def _grow(self, nbytes: int) -> None:
        """A new ring; the workers map it before their next ticket. The old one goes with its last lease."""
        assert self._pool is not None
        slots = (TICKETS_PER_WORKER + 1) * self.workers + SPARE_SLOTS
        if self._ring is not None:
            log.info("vla_store loader: batches need %d bytes; the ring grows to %d slots of that", nbytes, slots)
            self._ring.close()
        self._ring = Ring(slots, nbytes)
        self._ring_number += 1
        for worker in range(len(self._pool)):
            self._pool.send(worker, NewRing(self._ring_number, slots, self._ring.slot_nbytes), self._ring.fd)

    def _submit(self, job: Job) -> int | None:
        """Give a job to the worker with the fewest; its ticket, or None where all slots or workers are busy."""
        pool, ring = self._start()
        load = [0] * len(pool)
        for _, _, worker in self._tickets.values():
            load[worker] += 1
        worker = load.index(min(load))
        if load[worker] >= TICKETS_PER_WORKER:
            return None
        slot = ring.acquire()
        if slot is None:
            return None
        self._ticket += 1
        self._tickets[self._ticket] = ring, slot, worker
        pool.send(worker, Ticket(self._ticket, slot, job))
        return self._ticket

    def _receive(self, wanted: set[int], done: dict[int, Any], timeout_s: float) -> bool:
        """Take what workers have finished: into `done` where it is wanted, else the slot is free again. Whether there was any."""
        pool = self._pool
        if pool is None:
            return False
        messages = pool.receive(timeout_s)
        for worker, message in messages:
            ring, slot, _ = self._tickets.pop(message.number)
            if isinstance(message, Filled):
                batch = _Slot(ring, slot, worker, message.packed)
                self.stats.work_s += message.seconds
                self._texts[worker] += batch.new_texts()
            if message.number not in wanted:
                ring.release(slot)
            elif isinstance(message, Failed):
                ring.release(slot)
                done[message.number] = message.error
            else:
                done[message.number] = batch
        return bool(messages)

    def _hand_over(self, batch: _Slot, unheld: int) -> dict[str, Any]:
        """Lease a filled slot to the consumer; copy it out where too few would be left to go on with."""
        nbytes = batch.packed.nbytes
        self.stats.nbytes += nbytes
        self.stats.pickled_nbytes += batch.packed.pickled_nbytes
        texts = self._texts[batch.worker]
        if batch.packed.needed > batch.ring.slot_nbytes and batch.ring is self._ring:
            self._grow(batch.packed.needed + batch.packed.needed // 8)
        if unheld > self.workers + 1 or batch.ring is not self._ring:
            return unpack(batch.packed, batch.ring.lease(batch.slot, nbytes), texts, copy=False)
        self.stats.copies += 1
        if not self._warned:
            self._warned = True
            warnings.warn(
                "so many batches are held that the loader's ring is nearly used up: batches are copied from now on. "
                "Drop batches that are done with, or clone what is kept.",
                RuntimeWarning,
                stacklevel=4,
            )
        made = unpack(batch.packed, batch.ring.peek(batch.slot, nbytes), texts, copy=True)
        batch.ring.release(batch.slot)
        return made


class _Slot:
    """A filled slot that is not handed over yet."""

    def __init__(self, ring: Ring, slot: int, worker: int, packed: Packed) -> None:
        self.ring, self.slot, self.worker, self.packed = ring, slot, worker, packed

    def new_texts(self) -> list[str]:
        return [text for entry in self.packed.entries for text in getattr(entry, "new", ())]


class BatchStream:
    """The batches of one pass."""

    def __init__(self, owner: Batches, current: Pass) -> None:
        self._owner = owner
        self._pass = current
        self._ahead = 0  # position up to which tickets are out
        self._left = 0  # batches for which none is out yet
        self._queue: list[tuple[int, int, int]] = []  # ticket, position after the batch, rows
        self._done: dict[int, Any] = {}
        self._block = (0, np.empty(0, np.int64))
        self._asked_at = 0.0

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> dict[str, Any]:
        try:
            batch, end = self.take()
        except StopIteration:
            self.finish()
            raise
        self.handed(end)
        return batch

    def take(self) -> tuple[dict[str, Any], int]:
        """The next batch, and the position after it; who hands the batch on later calls `handed` then."""
        owner, current = self._owner, self._pass
        if not current.is_live:
            self._release()
            raise StopIteration
        began = time.perf_counter()
        if not current.has_begun:
            self._begin()
            self._asked_at = began
        try:
            batch, end, rows = self._from_workers() if owner.workers else self._in_process()
        except VlaStoreError:
            current.abandon()
            self._release()
            raise
        now = time.perf_counter()
        owner.stats.count(rows, now - began, now - self._asked_at)
        self._asked_at = now
        return batch, end

    @property
    def is_live(self) -> bool:
        """Whether this is the pass that goes on."""
        return self._pass.is_live

    def handed(self, end: int) -> None:
        """The consumer has the batch that ends at this position."""
        self._pass.position = end

    def finish(self) -> None:
        """The consumer has all batches of the pass."""
        self._pass.finish()

    def _begin(self) -> None:
        owner = self._owner
        self._rank, _ = owner.rank
        self._deal = owner._deal()
        self._order = self._pass.begin()
        self._ahead = self._pass.position
        self._left = self._deal.batches(self._ahead)

    def _next_job(self) -> tuple[Job, int] | None:
        """The next batch of this rank that no ticket is out for, and the position after it."""
        if not self._left:
            return None
        start, stop = self._deal.stretch(self._ahead, self._rank)
        job = Job(self._order.seed, self._order.epoch, start, self._take(start, stop))
        return job, self._deal.end(self._ahead, 1)

    def _advance(self, end: int) -> None:
        self._ahead, self._left = end, self._left - 1

    def _take(self, start: int, stop: int) -> Array:
        """A stretch of the order, computed in blocks."""
        at, block = self._block
        if not at <= start or stop > at + len(block):
            at = start
            block = self._order.take(start, min(max(stop, start + ORDER_BLOCK_ROWS), self._order.rows))
            self._block = at, block
        return block[start - at : stop - at]

    def _in_process(self) -> tuple[dict[str, Any], int, int]:
        following = self._next_job()
        if following is None:
            raise StopIteration
        job, end = following
        began = time.perf_counter()
        batch = self._owner._work.run(job, None)
        self._owner.stats.work_s += time.perf_counter() - began
        self._advance(end)
        return batch, end, len(job.indices)

    def _from_workers(self) -> tuple[dict[str, Any], int, int]:
        owner = self._owner
        try:
            self._fill_queue()
            if not self._queue:
                raise StopIteration
            ticket, end, rows = self._queue[0]
            wanted = {number for number, _, _ in self._queue}
            if ticket in self._done:
                owner.stats.ready += 1
            waited_s = 0.0
            while ticket not in self._done:
                if not self._pass.is_live:  # closed by another thread
                    raise StopIteration
                if owner._receive(wanted, self._done, LOOK_UP_S):
                    waited_s = 0.0
                else:
                    waited_s += LOOK_UP_S
                    if waited_s % PATIENCE_S == 0:
                        worker = owner._tickets[ticket][2]
                        log.warning("vla_store loader: worker %d has been silent for %.0f s", worker, waited_s)
                self._fill_queue()
                wanted = {number for number, _, _ in self._queue}
        except (VlaStoreError, KeyboardInterrupt) as error:
            if isinstance(error, VlaStoreError):
                owner.close()  # a worker is gone: what the others still do is of no use
            raise
        self._queue.pop(0)
        found = self._done.pop(ticket)
        if isinstance(found, VlaStoreError):
            raise found
        ring = owner._ring
        assert ring is not None
        in_hand = sum(1 for other, _, _ in owner._tickets.values() if other is ring)
        waiting = sum(1 for each in self._done.values() if isinstance(each, _Slot) and each.ring is ring)
        batch = owner._hand_over(found, ring.free + in_hand + waiting + 1)
        self._fill_queue()
        return batch, end, rows

    def _fill_queue(self) -> None:
        """Give workers what they can take; without waiting."""
        if self._owner._pool is not None and self._owner._tickets:
            self._owner._receive({number for number, _, _ in self._queue}, self._done, 0.0)
        while (following := self._next_job()) is not None:
            job, end = following
            ticket = self._owner._submit(job)
            if ticket is None:
                return
            self._queue.append((ticket, end, len(job.indices)))
            self._advance(end)

    def _release(self) -> None:
        """Slots that are filled but were not handed over."""
        for each in self._done.values():
            if isinstance(each, _Slot):
                each.ring.release(each.slot)
        self._done.clear()
        self._queue.clear()


def environment_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size as given, else from RANK and WORLD_SIZE, else (0, 1). Raises OptionError for half of them."""
    if (rank is None) != (world_size is None):
        raise OptionError("rank and world_size go together", rank=rank, world_size=world_size)
    if rank is not None and world_size is not None:
        return rank, world_size
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def _close_pool(pool: Pool) -> None:
    pool.close()
