"""Working on several blocks of one unit at once, on the threads of the whole build, and taking the results back in order.

A camera's shard takes seconds and is the format's unit, not the machine's: shared out whole, the last one would keep one core busy
while the others wait. So its blocks are read and encoded by whichever thread is free, and hashed and written in order by the
unit itself, while other threads encode what comes next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

BLOCKS_PER_WORKER = 2  # begun and not yet written: one in hand, one that waits for those before it


class InOrder(Protocol):
    """Runs jobs and gives their results in the jobs' order. Close the iterator where it is not used up."""

    def __call__(self, jobs: Iterable[Callable[[], T]]) -> Generator[T, None, None]: ...


def one_by_one(jobs: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
    """Run jobs in the calling thread: an `InOrder` for a unit that runs in a process of its own."""
    for job in jobs:
        yield job()


class Threads:
    """The threads that encode. workers: how many run at once, whether they encode, hash or write; fsync counts for none.

    cores: held by whoever works; for a unit that is not shared out, by the thread that runs it.
    """

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="vla-store-encode")
        self.cores = threading.Semaphore(workers)
        self._room = threading.Semaphore(BLOCKS_PER_WORKER * workers)  # bounds the memory, however many units there are

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, jobs: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """Run jobs on the threads: an `InOrder`. A core is held while a job is made, while it runs, and while its result is used."""
        left = iter(jobs)
        pending: deque[Future[T]] = deque()
        ended = False
        try:
            while True:
                # Who has begun blocks finishes them before it waits for room: so nobody waits for ever.
                while not ended and self._room.acquire(blocking=not pending):
                    try:
                        with self.cores:
                            job = next(left, None)
                        if job is not None:
                            pending.append(self._pool.submit(self._run, job))
                    except BaseException:
                        self._room.release()
                        raise
                    if job is None:
                        self._room.release()
                        ended = True
                if not pending:
                    return
                result = pending[0].result()
                pending.popleft()
                self._room.release()
                with self.cores:
                    yield result
        finally:
            wait([each for each in pending if not each.cancel()])
            for _ in pending:
                self._room.release()

    def _run(self, job: Callable[[], Any]) -> Any:
        with self.cores:
            return job()
