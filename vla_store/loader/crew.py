"""`Crew`: workers and the ring they fill. Jobs go in; batches come out in the order of the jobs, each on a lease."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, NamedTuple

from vla_store.errors import VlaStoreError, warn
from vla_store.loader.packing import unpack
from vla_store.loader.pool import Pool
from vla_store.loader.ring import Ring
from vla_store.loader.work import Job, Work
from vla_store.loader.worker import Filled, NewRing, Ticket

log = logging.getLogger("vla_store")

TICKETS_PER_WORKER = 2
SPARE_SLOTS = 3
PATIENCE_S = 30.0
LOOK_UP_S = 0.5


class Made(NamedTuple):
    """What a batch took: seconds of a worker, bytes that travelled pickled, whether it had to be copied out."""

    job: Job
    nbytes: int
    work_s: float
    pickled_nbytes: int = 0
    copied: bool = False


class _Out(NamedTuple):
    """A ticket that a worker has."""

    job: Job
    ring: Ring
    slot: int
    worker: int


class Crew:
    """Workers, their ring, and the jobs that are theirs. Used by one thread at a time; only `wake` may be called by another.

    rows: of a batch, for the first guess of what a slot must hold.
    """

    def __init__(self, work: Work, pickled: bytes, workers: int, rows: int) -> None:
        self._pool = Pool(pickled, workers)
        self._out: dict[int, _Out] = {}
        self._loads = [0] * workers
        self._queue: deque[int] = deque()  # tickets whose batches are wanted, in order
        self._done: dict[int, tuple[_Out, Filled] | VlaStoreError] = {}
        self._texts: list[list[str]] = [[] for _ in range(workers)]
        self._layouts: list[Any] = [None] * workers
        self._number = 0
        self._ring: Ring | None = None
        self._waited_s = 0.0
        self._warned = False
        try:
            self._grow(work.slot_nbytes(rows))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Jobs whose batches were not taken yet."""
        return len(self._queue)

    def pids(self) -> list[int]:
        return [self._pool.pid_of(number) for number in range(len(self._pool))]

    @property
    def is_closed(self) -> bool:
        return self._pool.is_closed

    @property
    def is_ready(self) -> bool:
        """Whether the next batch can be taken."""
        return bool(self._queue) and self._queue[0] in self._done

    def submit(self, job: Job) -> bool:
        """Give a job to the worker with the fewest; False where all of them, or all slots, are taken. Raises WorkerDied."""
        assert self._ring is not None
        load = min(self._loads)
        if load >= TICKETS_PER_WORKER:
            return False
        slot = self._ring.acquire()
        if slot is None:
            return False
        worker = self._loads.index(load)
        self._number += 1
        self._out[self._number] = _Out(job, self._ring, slot, worker)
        self._loads[worker] += 1
        self._queue.append(self._number)
        self._ring.write(slot, job.indices.tobytes())
        self._pool.send(worker, Ticket(self._number, slot, job.seed, job.epoch, job.position, len(job.indices)))
        return True

    def collect(self, timeout_s: float) -> bool:
        """Take in what workers have finished, waiting for something at most so long; whether there was anything.

        Raises WorkerDied, or why a worker could not start.
        """
        messages = self._pool.receive(timeout_s)
        for worker, message in messages:
            out = self._out.pop(message.number)
            self._loads[worker] -= 1
            filled = isinstance(message, Filled)
            if filled:
                self._texts[worker] += message.packed.new
                if message.packed.layout is None:
                    message = message._replace(packed=message.packed._replace(layout=self._layouts[worker]))
                self._layouts[worker] = message.packed.layout
            wanted = bool(self._queue) and message.number >= self._queue[0]
            if not (filled and wanted):
                out.ring.release(out.slot)
            if wanted:
                self._done[message.number] = (out, message) if filled else message.error
        return bool(messages)

    def wait(self) -> None:
        """Until something arrives, for half a second, or until `wake`; a worker that is long silent is named in the log."""
        if self.collect(LOOK_UP_S):
            self._waited_s = 0.0
            return
        self._waited_s += LOOK_UP_S
        if self._waited_s >= PATIENCE_S:
            self._waited_s = 0.0
            out = self._out.get(self._queue[0]) if self._queue else None
            if out is not None:
                log.warning("vla_store loader: worker %d has been silent for %.0f s", out.worker, PATIENCE_S)

    def wake(self) -> None:
        """Let a thread that waits in `wait` come back."""
        self._pool.wake()

    def take(self) -> tuple[Any, Made] | VlaStoreError:
        """The next batch, once `is_ready`, and what it took; or what making it raised."""
        number = self._queue.popleft()
        found = self._done.pop(number)
        if isinstance(found, VlaStoreError):
            return found
        out, filled = found
        packed = filled.packed
        if packed.needed > out.ring.slot_nbytes and out.ring is self._ring:
            self._grow(packed.needed + packed.needed // 8)
        # Slots of a ring that has been replaced need not come back.
        copy = out.ring is self._ring and out.ring.unheld <= len(self._pool) + 1
        if copy and not self._warned:
            self._warned = True
            warn(
                "so many batches are held that the loader's ring is nearly used up: batches are copied from now on. "
                "Drop batches that are done with, or clone what is kept.",
                RuntimeWarning,
            )
        made = Made(out.job, packed.nbytes, filled.seconds, packed.pickled_nbytes, copy)
        texts = self._texts[out.worker]
        if not copy:
            return unpack(packed, out.ring.lease(out.slot, packed.nbytes), texts, copy=False), made
        batch = unpack(packed, out.ring.peek(out.slot, packed.nbytes), texts, copy=True)
        out.ring.release(out.slot)
        return batch, made

    def cancel(self) -> None:
        """Nobody waits for the jobs that were given. Their slots come back when workers are done with them."""
        for found in self._done.values():
            if not isinstance(found, VlaStoreError):
                found[0].ring.release(found[0].slot)
        self._done.clear()
        self._queue.clear()

    def close(self) -> None:
        """End the workers. Batches that were taken stay valid."""
        self._pool.close()
        if self._ring is not None:
            self._ring.close()

    def _grow(self, nbytes: int) -> None:
        """A new ring; the workers map it before their next ticket. The old one goes with its last lease."""
        slots = (TICKETS_PER_WORKER + 1) * len(self._pool) + SPARE_SLOTS
        ring = Ring(slots, nbytes)
        before, self._ring = self._ring, ring  # at once: a ring that nobody knows of would not be closed
        if before is not None:
            log.info(
                "vla_store loader: a batch takes %d bytes; the ring is now %d slots of %d",
                nbytes,
                slots,
                ring.slot_nbytes,
            )
            before.close()
        for worker in range(len(self._pool)):
            self._pool.send(worker, NewRing(slots, ring.slot_nbytes), ring.fd)
