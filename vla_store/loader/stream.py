"""The batches of one pass: `Source` makes them in their order, `CopiedAhead` copies them in a thread, `BatchStream` hands them out,
and `Stats` counts them.

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

May import everything of the loader but `Batches`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from vla_store.errors import UsageError, warn
from vla_store.loader.packing import array_nbytes
from vla_store.loader.plan import Jobs, Plan
from vla_store.loader.pool import Made, Stopped
from vla_store.loader.state import BY_AN_ERROR, BY_ITS_END, Pass
from vla_store.loader.work import Job
from vla_store.text import counted

if TYPE_CHECKING:
    from vla_store.loader.batches import Batches

MAX_WAITS = 10_000
MAX_SHARES = 10
AHEAD = 2
NO_BATCH = "drop_last leaves out all of the {0.rows:,} rows: they are fewer than a batch of {0.batch_size} on each of {0.world_size} ranks"
LOOK_UP_S = 0.2

Convert = Callable[[Any, Job], Any]
Given = TypeVar("Given", covariant=True)
Copy = Callable[[Any], Any]


@dataclass
class Stats:
    """What a loader did: batches, rows and bytes that it handed out; seconds that the consumer waited, and of all time since it
    asked for the first batch; seconds that workers worked; batches that were ready when asked for; batches that had to be copied;
    bytes that travelled pickled. Where the dataset lies afar, of all its processes: requests, bytes that came back, requests that were
    made again, seconds that readers waited for storage; bytes that they wanted and found on this machine, or did not. parts: rows of each
    part of a mixture, by name."""

    batches: int = 0
    rows: int = 0
    nbytes: int = 0
    waited_s: float = 0.0
    elapsed_s: float = 0.0
    work_s: float = 0.0
    ready: int = 0
    copies: int = 0
    pickled_nbytes: int = 0
    requests: int = 0
    fetched_nbytes: int = 0
    retries: int = 0
    storage_waited_s: float = 0.0
    hit_nbytes: int = 0
    missed_nbytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    waits_s: list[float] = field(default_factory=list, repr=False)  # of the last 10,000 batches

    def count(self, made: Made, waited_s: float, elapsed_s: float, parts: Mapping[str, int]) -> None:
        """Add one batch. elapsed_s: since the one before was handed out. parts: its rows of each part of a mixture."""
        self.batches += 1
        self.rows += len(made.job.indices)
        self.nbytes += made.nbytes
        self.waited_s += waited_s
        self.elapsed_s += elapsed_s
        self.work_s += made.work_s
        self.ready += made.was_ready
        self.copies += made.copied
        self.pickled_nbytes += made.pickled_nbytes
        if made.traffic is not None:
            self.requests += made.traffic.requests
            self.fetched_nbytes += made.traffic.nbytes
            self.retries += made.traffic.retries
            self.storage_waited_s += made.traffic.waited_s
            self.hit_nbytes += made.traffic.hit_nbytes
            self.missed_nbytes += made.traffic.missed_nbytes
        for name, rows in parts.items():
            self.parts[name] = self.parts.get(name, 0) + rows
        self.waits_s.append(waited_s)
        if len(self.waits_s) >= 2 * MAX_WAITS:
            del self.waits_s[:-MAX_WAITS]

    def since(self, earlier: Stats) -> Stats:
        """Return what came after `earlier`, a copy of this taken before."""
        names = [each.name for each in fields(self) if each.name not in ("waits_s", "parts")]
        made = Stats(**{name: getattr(self, name) - getattr(earlier, name) for name in names})
        made.parts = {name: rows - earlier.parts.get(name, 0) for name, rows in self.parts.items()}
        made.waits_s = self.waits_s[max(0, len(self.waits_s) - made.batches) :]
        return made

    def copy(self) -> Stats:
        return replace(self, waits_s=self.waits_s[-MAX_WAITS:], parts=dict(self.parts))

    def summary(self) -> str:
        """Return one line: is it the loader?"""
        share = self.waited_s / self.elapsed_s if self.elapsed_s else 0.0
        line = (
            f"{counted(self.batches, 'batch', 'batches')}, {counted(self.rows, 'row')} in {self.elapsed_s:.1f} s; the consumer waited {share:.0%} of the time; "
            f"ready when asked for: {counted(self.ready, 'batch', 'batches')}; workers worked {self.work_s:.1f} s; "
            f"{self.nbytes / 1e6:.0f} MB, {self.pickled_nbytes / 1e6:.1f} MB pickled, {counted(self.copies, 'batch', 'batches')} copied"
        )
        return line + self._of_parts() + self._of_storage()

    def _of_parts(self) -> str:
        shares = [f"{name} {rows / max(1, self.rows):.1%}" for name, rows in self.parts.items()]
        more = f", ... ({counted(len(shares), 'part')})" if len(shares) > MAX_SHARES else ""
        return f"; of the rows {', '.join(shares[:MAX_SHARES])}{more}" if shares else ""

    def _of_storage(self) -> str:
        asked = self.hit_nbytes + self.missed_nbytes
        if not asked + self.requests:
            return ""
        return (
            f"; storage: {self.requests} requests, {self.fetched_nbytes / 1e6:.0f} MB, {self.retries} made again, waited for "
            f"{self.storage_waited_s:.1f} s; {self.hit_nbytes / asked if asked else 0:.0%} of what was read was here before"
        )


class Source:
    """The batches of one pass, before the consumer has them. One thread calls `take`, any may call `stop`."""

    def __init__(self, owner: Batches, current: Pass) -> None:
        self._owner = owner
        self._pass = current
        self._stopped = False
        self._jobs: Jobs | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody wants more."""
        return self._stopped or not self._pass.is_live

    def take(self) -> tuple[Any, Made]:
        """Return the next batch. Raises StopIteration, Stopped, and what making the batch raised."""
        owner = self._owner
        with owner.processes.lock:
            if self.is_over:
                raise Stopped
            if self._jobs is None:
                self._jobs = self._begin()
            if owner.workers:
                return owner.processes.next(self._jobs, lambda: self.is_over)
            job = next(self._jobs)
            began = time.perf_counter()
            batch = owner.work.run(job)
            return batch, Made(job, array_nbytes(batch), time.perf_counter() - began)

    def stop(self, wait: bool = True) -> None:
        """Let `take` raise Stopped from now on, also one that waits."""
        self._stopped = True
        self._owner.processes.wake()

    def _begin(self) -> Jobs:
        rank, _ = self._owner.rank
        sharding = self._owner.sharding()
        position = self._pass.place[1]
        count = sharding.batches(position)  # before the pass begins: it may raise
        if not count and not position:
            warn(NO_BATCH.format(sharding))
        order = self._pass.begin()
        return Jobs(Plan(order, sharding, rank, self._pass.position, count))


class CopiedAhead:
    """The batches of a source, each after `copy(batch)` in a thread of its own. The slot returns as soon as that is done.

    What `copy` raises is raised by `take` in its turn. The thread starts with the first `take` and ends with the pass: at its last
    batch, at an error, at `stop`, and when another pass begins.
    """

    def __init__(self, source: Source, copy: Copy) -> None:
        self._source = source
        self._copy = copy
        self._copies: deque[tuple[Any, Made] | BaseException] = deque()
        # Reentrant, because a finalizer may call `stop` wherever this thread is.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    def take(self) -> tuple[Any, Made]:
        """As `Source.take`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vla_store-staging", daemon=True)
            self._thread.start()
        with self._changed:
            was_ready = bool(self._copies)
            while not self._copies and not self._source.is_over:
                self._changed.wait(LOOK_UP_S)
            if self._source.is_over:
                raise Stopped
            item = self._copies.popleft()
            self._changed.notify_all()
        if isinstance(item, BaseException):
            raise item
        return item[0], item[1]._replace(was_ready=was_ready)

    def stop(self, wait: bool = True) -> None:
        """Stop the thread, and wait for it if asked to."""
        self._source.stop()
        with self._changed:
            self._copies.clear()
            self._changed.notify_all()
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._source.is_over:
                batch, made = self._source.take()
                item = self._copy(batch), made
                del batch  # the slot is free now, not when the next batch comes
                self._put(item)
                del item
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[Any, Made] | BaseException) -> None:
        with self._changed:
            while len(self._copies) >= AHEAD and not self._source.is_over:
                self._changed.wait(LOOK_UP_S)
            if not self._source.is_over:
                self._copies.append(item)
                self._changed.notify_all()


class BatchStream(Generic[Given]):
    """What iterating over `Batches` gives: the batches of one pass, for one thread at a time. Closed with its last reference.

    Not a generator: that raises an error once, and then ends as if the epoch were complete. convert: called with each batch and its
    job before it counts as handed out. copy: called with each batch in a thread, ahead of that. summary: print one line at the end.
    """

    def __init__(
        self, owner: Batches, current: Pass, convert: Convert | None, copy: Copy | None, summary: bool
    ) -> None:
        self._pid = os.getpid()
        self._owner = owner
        self._pass = current
        source = Source(owner, current)
        self._source: Source | CopiedAhead = source if copy is None else CopiedAhead(source, copy)
        self._convert = convert
        self._before = owner.counts.copy() if summary else None
        self._handed_at: float | None = None

    def __iter__(self) -> BatchStream[Given]:
        return self

    def __next__(self) -> Given:
        began = time.perf_counter()
        if self._pid != os.getpid():
            raise UsageError("this pass over the loader began in another process", hint="call iter(loader) in this one")
        try:
            batch, made = self._source.take()
            if self._convert is not None:
                batch = self._convert(batch, made.job)
        except Stopped:
            self.close()
            raise self._pass.cut_short() or StopIteration() from None
        except StopIteration:
            self._finish()
            raise
        except BaseException:
            self._pass.end(BY_AN_ERROR)
            self.close()
            raise
        now = time.perf_counter()
        since = began if self._handed_at is None else self._handed_at
        self._handed_at = now
        self._owner.counts.count(made, now - began, now - since, self._owner.rows_by_part(made.job))
        self._pass.give(made.job.end, made.job.is_last)
        return cast(Given, batch)

    def close(self, wait: bool = True) -> None:
        """End the stream; where the pass stands does not change. A `next` that waits in another thread comes back."""
        if os.getpid() == self._pid:  # in a forked copy the thread is not here, and its lock may be held for ever
            self._source.stop(wait)

    def __del__(self) -> None:
        self.close(wait=False)  # whoever holds a lock that the thread waits for may be who collects garbage here

    def _finish(self) -> None:
        before, self._before = self._before, None
        if before is not None and self._pass.is_live:
            text = self._owner.counts.since(before).summary()
            print(f"vla_store loader: {text}", file=sys.stderr, flush=True)
        self._pass.end(BY_ITS_END)
        self.close()
