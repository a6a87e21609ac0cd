"""`Batches`: the batches of an epoch in their order, decoded by worker processes into a ring of leased buffers.

How a pass ends, and what holds then:
  1. The epoch is over: `next` raises StopIteration; workers wait for the next pass. Nothing else ends a pass in silence.
  2. A sample or a transform raises: `next` raises that error, with its sample, in the batch's turn; the pass is over.
  3. The consumer stops early (break, a new iter): tickets in hand finish, and their slots come back before reuse.
  4. A worker dies: `next` raises WorkerDied with its name as soon as the kernel closes its socket; all workers end.
  5. The loader is closed, by any thread, or collected, or the interpreter exits: a `next` that waits ends; sockets close and
     workers end. Leased batches stay valid.
  6. This process is killed: the kernel closes the sockets, workers end at once, and the ring, which has no name, goes with them.
  7. Ctrl-C, or any other error, inside `next`: workers end, because what they were asked is no longer known.
  8. The process forks: the child's copy of a pass raises; a new iter there starts workers of its own.
After 2 to 7 the next pass begins with the batch that was not handed out, and a new one starts workers where they ended. Whoever
asks a pass for more that ended so gets a UsageError that says why.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np

from vla_store.errors import OptionError, UsageError, VlaStoreError
from vla_store.loader.crew import Crew, Made
from vla_store.loader.dataset import Dataset
from vla_store.loader.order import Deal, Order
from vla_store.loader.packing import array_nbytes
from vla_store.loader.pool import pickled
from vla_store.loader.state import BY_AN_ERROR, BY_ITS_END, Epochs, Pass
from vla_store.loader.work import Job, Work

ORDER_BLOCK_ROWS = 8_192
MAX_WAITS = 10_000
LOOK = "peek() shows the next batch without taking it; two passes at a time need two Loaders"

Array = np.ndarray[Any, Any]
Ranks = Callable[[], tuple[int, int]]
Convert = Callable[[Any, Job], Any]


@dataclass
class Stats:
    """What a loader did: batches, rows and bytes that it handed out; seconds that the consumer waited, and of all time since it
    asked for the first batch; seconds that workers worked; batches that were ready when asked for; batches that had to be copied;
    bytes that travelled pickled."""

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

    def count(self, made: Made, waited_s: float, elapsed_s: float, was_ready: bool) -> None:
        """One more batch. elapsed_s: since the one before was handed out."""
        self.batches += 1
        self.rows += len(made.job.indices)
        self.nbytes += made.nbytes
        self.waited_s += waited_s
        self.elapsed_s += elapsed_s
        self.work_s += made.work_s
        self.ready += was_ready
        self.copies += made.copied
        self.pickled_nbytes += made.pickled_nbytes
        self.waits_s.append(waited_s)
        if len(self.waits_s) >= 2 * MAX_WAITS:
            del self.waits_s[:-MAX_WAITS]

    def since(self, earlier: Stats) -> Stats:
        """What came after `earlier`, a copy of this taken before."""
        names = [each.name for each in fields(self) if each.name != "waits_s"]
        made = Stats(**{name: getattr(self, name) - getattr(earlier, name) for name in names})
        made.waits_s = self.waits_s[max(0, len(self.waits_s) - made.batches) :]
        return made

    def copy(self) -> Stats:
        return replace(self, waits_s=self.waits_s[-MAX_WAITS:])

    def summary(self) -> str:
        """One line: is it the loader?"""
        share = self.waited_s / self.elapsed_s if self.elapsed_s else 0.0
        return (
            f"{self.batches} batches, {self.rows} rows in {self.elapsed_s:.1f} s; the consumer waited {share:.0%} of the time; "
            f"{self.ready} batches were ready when asked for; workers worked {self.work_s:.1f} s; "
            f"{self.nbytes / 1e6:.0f} MB, {self.pickled_nbytes / 1e6:.1f} MB pickled, {self.copies} batches copied"
        )


class Batches:
    """Iterable over NumPy batches of a dataset; `vla_store.torch.Loader` is its torch face, and documents the options.

    ranks: asked at the first batch of a pass for (rank, world size).
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
        ranks: Ranks = lambda: (0, 1),
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise OptionError(f"{name} is a whole number of at least {least}", found=repr(value))
        self.dataset = dataset
        self.batch_size, self.drop_last = int(batch_size), bool(drop_last)
        self.epochs = Epochs(dataset, seed, shuffle, LOOK)
        self.workers = int(workers)
        self.stats = Stats()
        self._ranks = ranks
        self.work = Work(dataset, transform, batch_transform)
        self._pickled = pickled(self.work) if workers else b""
        self._crew: Crew | None = None
        self._finalizer: Any = None
        self._pid = os.getpid()
        self.lock = threading.RLock()

    def __len__(self) -> int:
        """Batches of a whole epoch, on every rank."""
        return self.deal().batches(0)

    def __iter__(self) -> BatchStream:
        """A new pass; it ends the one before. Epoch and position are settled at its first batch."""
        return self.stream()

    def stream(self, convert: Convert | None = None) -> BatchStream:
        """As `iter`; `convert` is called with each batch and its job before it counts as handed out."""
        self._look_for_fork()
        current = self.epochs.new_pass()
        self.wake()
        with self.lock:
            if self._crew is not None:
                try:
                    self._crew.cancel()
                except BaseException:
                    self.dismiss()  # a Ctrl-C in the middle: which slots are free is not known any more
                    raise
        return BatchStream(self, current, convert)

    def peek(self) -> tuple[Any, Job]:
        """The batch that comes next, made in this process, and its job; it is not handed out, and no pass ends or begins."""
        self._look_for_fork()
        epoch, position = self.epochs.place
        deal = self.deal()
        if not deal.batches(position):
            epoch, position = epoch + 1, 0
        start, stop = deal.stretch(position, self.rank[0])
        order = Order(len(self.dataset), self.epochs.seed, epoch, self.epochs.shuffle)
        job = Job(order.seed, epoch, start, order.take(start, stop))
        return self.work.run(job), job

    @property
    def rank(self) -> tuple[int, int]:
        """Rank and world size, as they are now."""
        rank, world_size = self._ranks()
        if not 0 <= rank < world_size:
            raise OptionError("rank lies outside the world", rank=rank, world_size=world_size)
        return rank, world_size

    def deal(self) -> Deal:
        """How batches are dealt to the ranks, as many as there are now."""
        return Deal(len(self.dataset), self.batch_size, self.rank[1], self.drop_last)

    def pids(self) -> list[int]:
        """The processes of the workers; none before the first batch."""
        return [] if self._crew is None else self._crew.pids()

    def close(self) -> None:
        """End the workers. Batches that were handed out stay valid; a new pass goes on where this one stood, with new workers."""
        self._look_for_fork()
        self.epochs.end()
        self.wake()
        with self.lock:
            self.dismiss()

    # For BatchStream. Whoever uses the crew holds `lock`, also while it waits for workers; whoever wants it to stop waiting
    # says so where it looks (the pass, the stream), and wakes it.

    def wake(self) -> None:
        """Let a thread that waits for a batch look up."""
        crew = self._crew
        if crew is not None:
            crew.wake()

    def crew(self) -> Crew:
        """The workers, started where there are none."""
        if self._crew is None:
            rows = min(self.batch_size, len(self.dataset))
            self._crew = Crew(self.work, self._pickled, self.workers, rows)
            self._finalizer = weakref.finalize(self, Crew.close, self._crew)
        return self._crew

    def dismiss(self) -> None:
        """End the workers, if there are any."""
        crew, self._crew = self._crew, None
        if crew is not None:
            self._finalizer.detach()
            crew.close()

    def _look_for_fork(self) -> None:
        if self._pid != os.getpid():  # a forked copy: the lock may be held for ever, and the workers are the parent's
            self._pid, self.lock = os.getpid(), threading.RLock()
            self.dismiss()


class Handout(NamedTuple):
    """A batch on its way to the consumer. end: the position after it. was_ready: when it was asked for."""

    made: Made
    end: int
    was_ready: bool


class Stopped(Exception):
    """The pass, or the loader, was ended by somebody else: there is no next batch, but the epoch is not over."""


class BatchStream:
    """The batches of one pass, for one thread at a time."""

    def __init__(self, owner: Batches, current: Pass, convert: Convert | None = None) -> None:
        self._owner = owner
        self._pass = current
        self._convert = convert
        self._pid = os.getpid()
        self._stopped = False
        self._ahead = 0  # position up to which jobs were made
        self._left = 0  # batches for which none was
        self._owed = 0  # batches that the consumer has not got
        self._ends: deque[int] = deque()  # positions after the batches whose jobs workers have
        self._block = (0, np.empty(0, np.int64))
        self._handed_at: float | None = None
        self.is_finished = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        began = time.perf_counter()
        self.check_process()
        try:
            batch, handout = self.take()
            if self._convert is not None:
                batch = self._convert(batch, handout.made.job)
            self.hand(handout, began)
        except Stopped:
            raise self.why_over() from None
        except StopIteration:
            self.finish()
            raise
        except BaseException:
            self.fail()
            raise
        return batch

    def why_over(self) -> Exception:
        """What `next` raises where nothing comes any more: an error, unless the epoch was over, or the consumer closed the pass."""
        return self._pass.cut_short() or StopIteration()

    def take(self) -> tuple[Any, Handout]:
        """The next batch, before the consumer has it. Raises StopIteration, Stopped, and what making the batch raised.

        Who takes ahead of the consumer calls `hand`, `finish` or `fail` when the consumer gets there.
        """
        owner = self._owner
        with owner.lock:
            if self._is_over:
                raise Stopped
            if not self._pass.has_begun:
                self._begin()
            return self._from_workers(owner) if owner.workers else self._in_process(owner)

    def check_process(self) -> None:
        """Raises UsageError in a forked copy of the process: the workers are not its own."""
        if self._pid != os.getpid():
            raise UsageError("this pass over the loader began in another process", hint="call iter(loader) in this one")

    def hand(self, handout: Handout, began: float, was_ready: bool | None = None) -> None:
        """The consumer has this batch, which it asked for at `began`."""
        now = time.perf_counter()
        since = began if self._handed_at is None else self._handed_at
        self._handed_at = now
        ready = handout.was_ready if was_ready is None else was_ready
        self._owner.stats.count(handout.made, now - began, now - since, ready)
        self._owed -= 1
        self._pass.give(handout.end, is_last=not self._owed)

    def finish(self) -> None:
        """The consumer has all batches of the pass."""
        self.is_finished = self._pass.is_live
        self._pass.end(BY_ITS_END)

    def fail(self) -> None:
        """The consumer got an error instead of a batch."""
        self._pass.end(BY_AN_ERROR)

    def close(self) -> None:
        """No more batches; where the pass stands does not change. A `take` in another thread comes back."""
        self._stopped = True
        self._owner.wake()

    @property
    def _is_over(self) -> bool:
        return self._stopped or not self._pass.is_live

    @property
    def is_live(self) -> bool:
        """Whether this is the pass that goes on."""
        return self._pass.is_live

    def _begin(self) -> None:
        owner = self._owner
        self._rank, _ = owner.rank
        self._deal = owner.deal()
        self._left = self._owed = self._deal.batches(self._pass.place[1])  # before the pass begins: it may raise
        self._order = self._pass.begin()
        self._ahead = self._pass.position

    def _next_job(self) -> Job:
        """Of the next batch of this rank for which there was none."""
        start, stop = self._deal.stretch(self._ahead, self._rank)
        at, block = self._block
        if not at <= start <= stop <= at + len(block):
            # One block serves several batches; where ranks lie further apart than that, it would serve only this one.
            whole = self._deal.batch_size * self._deal.world_size
            block_stop = start + ORDER_BLOCK_ROWS if whole < ORDER_BLOCK_ROWS else stop
            at, block = self._block = start, self._order.take(start, max(stop, min(block_stop, self._order.rows)))
        return Job(self._order.seed, self._order.epoch, start, block[start - at : stop - at])

    def _advance(self) -> int:
        self._ahead, self._left = self._deal.end(self._ahead, 1), self._left - 1
        return self._ahead

    def _in_process(self, owner: Batches) -> tuple[Any, Handout]:
        if not self._left:
            raise StopIteration
        job = self._next_job()
        began = time.perf_counter()
        batch = owner.work.run(job)
        made = Made(job, array_nbytes(batch), time.perf_counter() - began)
        return batch, Handout(made, self._advance(), False)

    def _from_workers(self, owner: Batches) -> tuple[Any, Handout]:
        crew: Crew | None = None
        try:
            crew = owner.crew()
            while crew.collect(0.0):
                pass
            self._submit(crew)
            was_ready = crew.is_ready
            while not crew.is_ready:
                if not len(crew) and not self._left:
                    raise StopIteration
                if self._is_over:
                    raise Stopped
                crew.wait()
                self._submit(crew)
            end = self._ends.popleft()
            taken = crew.take()
        except (StopIteration, Stopped):
            raise
        except BaseException as error:
            if crew is not None and crew.is_closed and isinstance(error, Exception):
                raise Stopped from None  # the interpreter exits, and did not wait for the lock
            owner.dismiss()  # what workers were asked, and what they said, may be lost in the middle
            raise
        if isinstance(taken, VlaStoreError):
            raise taken
        batch, made = taken
        return batch, Handout(made, end, was_ready)

    def _submit(self, crew: Crew) -> None:
        """Give workers all that they can take."""
        while self._left and crew.submit(self._next_job()):
            self._ends.append(self._advance())


def environment_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size as given, else from RANK and WORLD_SIZE, else (0, 1). Raises OptionError for half of them."""
    if (rank is None) != (world_size is None):
        raise OptionError("rank and world_size go together", rank=rank, world_size=world_size)
    if rank is not None and world_size is not None:
        return rank, world_size
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1
