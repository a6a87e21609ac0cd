"""`WorkerPool`: worker processes and the ring they fill; `Workers`: its owner. Jobs go in, batches come out in their order.

May import everything of the loader but batches and streams.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from vla_store.errors import VlaStoreError, warn
from vla_store.loader.ahead import Lookahead
from vla_store.loader.filling import Filling
from vla_store.loader.packing import Layout, Packed, unpack
from vla_store.loader.plan import Jobs
from vla_store.loader.processes import FETCHER, Processes, pickled
from vla_store.loader.ring import Ring
from vla_store.loader.scratch import Scratch
from vla_store.loader.work import Job, Work
from vla_store.loader.worker import NewRing, Ticket
from vla_store.storage import Traffic

log = logging.getLogger("vla_store.loader")

TICKETS_PER_WORKER = 2
SPARE_SLOTS = 3
PATIENCE_S = 30.0
LOOK_UP_S = 0.5


class Stopped(Exception):
    """The pass, or the loader, was ended by somebody else: there is no next batch, but the epoch is not over."""


class Made(NamedTuple):
    """What a batch took: seconds of a worker, bytes that travelled pickled, whether it had to be copied out. was_ready: when it was
    asked for. traffic: of all processes since the batch before, where the dataset lies afar."""

    job: Job
    nbytes: int
    work_s: float
    pickled_nbytes: int = 0
    copied: bool = False
    was_ready: bool = False
    traffic: Traffic | None = None


class _Out(NamedTuple):
    """A ticket that a worker has."""

    job: Job
    ring: Ring
    slot: int
    worker: int


class WorkerPool:
    """Worker processes, their ring, and the jobs that are theirs. One thread at a time; any may call `processes.wake`.

    rows: of a batch, for the first guess of what a slot must hold.
    """

    def __init__(self, work: Work, sent: bytes, workers: int, rows: int) -> None:
        ahead = work.ahead
        self._scratch = None if ahead is None else Scratch()
        self._ahead: Lookahead | None = None
        self._filling = None if ahead is None else Filling(ahead)
        self._traffic = Traffic()
        if self._scratch is None:
            self.processes = Processes(sent, workers)
        else:
            self.processes = self._processes_beside(sent, workers, ahead, self._scratch)
            self._ahead = Lookahead(self.processes)
        self._out: dict[int, _Out] = {}
        self._loads = [0] * workers
        self._queue: deque[int] = deque()  # tickets whose batches are wanted, in order
        self._done: dict[int, tuple[_Out, Packed | VlaStoreError, float]] = {}
        self._texts: list[list[str]] = [[] for _ in range(workers)]
        self._layouts: list[Layout | None] = [None] * workers
        self._number = 0
        self._ring: Ring | None = None
        self._waited_s = 0.0
        self._warned = False
        try:
            self._grow(work.slot_nbytes(rows))
        except BaseException:
            self.close()
            raise

    def _processes_beside(self, sent: bytes, workers: int, ahead: Any, scratch: Scratch) -> Processes:
        try:
            return Processes(sent, workers, pickled(ahead), scratch.path)
        except BaseException:
            scratch.close()
            raise

    def next(self, jobs: Jobs, is_over: Callable[[], bool]) -> tuple[Any, Made] | VlaStoreError:
        """Return the next batch and what it took, or what making it raised. Workers get as many of the jobs as they can take.

        Raises StopIteration where there are no more jobs, Stopped once `is_over` (looked at after a `wake`), WorkerDied, or why a
        worker could not start.
        """
        self._collect(0.0)
        is_more, was_ready = self._submit(jobs), True
        while not self._queue or self._queue[0] not in self._done:
            was_ready = False
            if not self._queue and not is_more:
                raise StopIteration
            if is_over():
                raise Stopped
            self._wait()
            is_more = self._submit(jobs)
        return self._take(was_ready)

    def cancel(self) -> None:
        """Forget the jobs that were given. Their slots come back when workers are done with them."""
        for out, *_ in self._done.values():
            out.ring.release(out.slot)
        self._done.clear()
        self._queue.clear()
        if self._ahead is not None:
            self._ahead.forget()
        if self._filling is not None:
            self._filling.clear()

    def close(self) -> None:
        """End the workers. Batches that were taken stay valid."""
        if self._filling is not None:
            self._filling.clear()
        if self._scratch is not None:
            self._scratch.remove()  # before the fetcher sees its end: it looks whether that is its to do
        self.processes.close()
        if self._scratch is not None:
            self._scratch.close()
        if self._ring is not None:
            self._ring.close()

    def _submit(self, jobs: Jobs) -> bool:
        """Give each job to the worker with the fewest, until all of them, or all slots, are taken, or one is not near yet; False
        where no job is left."""
        assert self._ring is not None
        while (load := min(self._loads)) < TICKETS_PER_WORKER:
            if self._ahead is not None and not self._ahead.lets(jobs):
                break
            slot = self._ring.acquire()
            if slot is None:
                break
            job = next(jobs, None)
            if job is None:
                self._ring.release(slot)
                return False
            worker = self._loads.index(load)
            self._number += 1
            self._out[self._number] = _Out(job, self._ring, slot, worker)
            self._loads[worker] += 1
            self._queue.append(self._number)
            self._ring.write(slot, job.indices.tobytes())
            ticket = Ticket(self._number, slot, job.seed, job.epoch, job.position, len(job.indices))
            self.processes.send(worker, ticket)
        return True

    def _collect(self, timeout_s: float) -> bool:
        """Take in what workers have finished, waiting for something at most so long; whether there was anything."""
        messages = self.processes.receive(timeout_s)
        for worker, answer in messages:
            if worker == FETCHER:
                assert self._ahead is not None
                self._traffic += self._ahead.heard(answer)
                continue
            if answer.traffic is not None:
                self._traffic += answer.traffic
            out, made = self._out.pop(answer.number), answer.made
            self._loads[worker] -= 1
            if isinstance(made, Packed):
                self._texts[worker] += made.new
                if made.layout is None:
                    made = made._replace(layout=self._layouts[worker])
                self._layouts[worker] = made.layout
            if self._queue and answer.number >= self._queue[0]:
                self._done[answer.number] = out, made, answer.seconds
            else:
                out.ring.release(out.slot)
        return bool(messages)

    def _wait(self) -> None:
        """Wait until something arrives, for half a second, or until `wake`; name a worker that is long silent in the log."""
        if self._collect(LOOK_UP_S):
            self._waited_s = 0.0
            return
        self._waited_s += LOOK_UP_S
        if self._waited_s >= PATIENCE_S:
            self._waited_s = 0.0
            out = self._out.get(self._queue[0]) if self._queue else None
            if out is not None:
                log.warning("vla_store loader: worker %d has been silent for %.0f s", out.worker, PATIENCE_S)

    def _take(self, was_ready: bool) -> tuple[Any, Made] | VlaStoreError:
        out, packed, seconds = self._done.pop(self._queue.popleft())
        traffic = None
        if self._ahead is not None and self._filling is not None:
            self._ahead.took()
            self._filling.look()
            traffic, self._traffic = self._traffic, Traffic()
        ring = out.ring
        if isinstance(packed, VlaStoreError):
            ring.release(out.slot)
            return packed
        if packed.needed > ring.slot_nbytes and ring is self._ring:
            self._grow(packed.needed + packed.needed // 8)
        # Slots of a ring that has been replaced need not come back.
        copy = ring is self._ring and ring.unheld <= len(self.processes) + 1
        if copy and not self._warned:
            self._warned = True
            warn(
                "so many batches are held that the loader's ring is nearly used up: batches are copied from now on. "
                "Drop batches that are done with, or clone what is kept.",
                RuntimeWarning,
            )
        memory = ring.peek(out.slot, packed.nbytes) if copy else ring.lease(out.slot, packed.nbytes)
        batch = unpack(packed, memory, self._texts[out.worker], copy=copy)
        if copy:
            ring.release(out.slot)
        return batch, Made(out.job, packed.nbytes, seconds, packed.pickled_nbytes, copy, was_ready, traffic)

    def _grow(self, nbytes: int) -> None:
        """Make a new ring; the workers map it before their next ticket. The old one goes with its last lease."""
        workers = len(self.processes)
        slots = (TICKETS_PER_WORKER + 1) * workers + SPARE_SLOTS
        ring = Ring(slots, nbytes)
        before, self._ring = self._ring, ring  # at once: a ring that nobody knows of would not be closed
        if before is not None:
            text = "vla_store loader: a batch takes %d bytes; the ring is now %d slots of %d"
            log.info(text, nbytes, slots, ring.slot_nbytes)
            before.close()
        for worker in range(workers):
            self.processes.send(worker, NewRing(slots, ring.slot_nbytes), ring.fd)


class Workers:
    """The owner of a worker pool, which starts when a batch is wanted, and of the lock under which one thread at a time uses it.

    Who may call what: `next` who holds `lock`, from before it looks whether its pass is over; it keeps the lock while it waits. `wake`
    anybody, without the lock: who wants a waiting thread to stop says so where that looks, and wakes it. `cancel` and `end` anybody
    who has said so: they wake and then take the lock. The pool ends with the last reference to its owner.
    """

    def __init__(self, work: Work, count: int, rows: int) -> None:
        self.pool: WorkerPool | None = None
        self.lock = threading.RLock()
        self._given = (work, pickled(work) if count else b"", count, rows)
        self._finalizer: Any = None
        self._pid = os.getpid()

    def pids(self) -> list[int]:
        """Return the processes of the workers; none before the first batch."""
        return [] if self.pool is None else self.pool.processes.pids()

    def next(self, jobs: Jobs, is_over: Callable[[], bool]) -> tuple[Any, Made]:
        """Return the next batch, as `WorkerPool.next`, and raise what making it raised. Any other error ends the workers."""
        pool = self.pool
        try:
            if pool is None:
                pool = self.pool = WorkerPool(*self._given)
                self._finalizer = weakref.finalize(self, WorkerPool.close, pool)
            found = pool.next(jobs, is_over)
        except (StopIteration, Stopped):
            raise
        except BaseException as error:
            if pool is not None and pool.processes.is_closed and isinstance(error, Exception):
                raise Stopped from None  # the interpreter exits, and did not wait for the lock
            self._dismiss()  # what workers were asked, and what they answered, may be lost in the middle
            raise
        if isinstance(found, VlaStoreError):
            raise found
        return found

    def wake(self) -> None:
        """Let a thread that waits for a batch look up."""
        pool = self.pool
        if pool is not None:
            pool.processes.wake()

    def cancel(self) -> None:
        """Forget what workers were asked for."""
        self.wake()
        with self.lock:
            if self.pool is not None:
                try:
                    self.pool.cancel()
                except BaseException:
                    self._dismiss()  # a Ctrl-C in the middle: which slots are free is not known any more
                    raise

    def end(self) -> None:
        """End the workers, if there are any."""
        self.wake()
        with self.lock:
            self._dismiss()

    def check_fork(self) -> None:
        """Begin anew in a forked copy of the process: the lock may be held for ever, and the workers are the parent's."""
        if self._pid != os.getpid():
            self._pid, self.lock = os.getpid(), threading.RLock()
            self._dismiss()

    def _dismiss(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            self._finalizer.detach()
            pool.close()
