"""Run the units of a build on threads, on processes, or on a cluster: the same bytes whoever runs them.

Local builds use concurrent.futures; dask is imported by `cluster` alone.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from vla_store.builder.cluster import run_on_cluster
from vla_store.builder.overlap import Threads
from vla_store.builder.units import FrameShard, Receipt, WorkUnit
from vla_store.errors import MachineError, VlaStoreError
from vla_store.types import ExecutorName

AUTO: ExecutorName = "auto"
# Python's lock makes threads on two cores 1.5 times as fast as on one; processes are 1.8 times as fast from about here on, their
# start included (benchmarks/build_speed.py).
PROCESSES_FROM_NBYTES = 512 << 20  # of the source, for each worker
PARENT_S = 1.0  # how often a worker process looks for its parent

OnReceipt = Callable[[Receipt], None]


def default_workers() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_executor(executor: str, workers: int | None, source_nbytes: int) -> str:
    """Return the executor that "auto" stands for with a source of so many bytes; any other as it is."""
    if executor != AUTO:
        return executor
    wanted = workers or default_workers()
    return "processes" if wanted > 1 and source_nbytes >= wanted * PROCESSES_FROM_NBYTES else "threads"


def run_units(
    units: Sequence[WorkUnit],
    on_receipt: OnReceipt,
    *,
    executor: str = "threads",
    workers: int = 1,
    scheduler: str | None = None,
) -> None:
    """Run all units, begun in their order; the first error stops the rest.

    Parameters
    ----------
    units
        What to run.
    on_receipt
        Called in this thread for each unit that is done.
    executor
        "threads" or "processes".
    workers
        How many run at once.
    scheduler
        Address of a dask scheduler whose workers see source and destination; they run the units instead.

    Raises
    ------
    MachineError
        A worker died, or a cluster does not work.
    """
    if scheduler is not None:
        run_on_cluster(_run, units, on_receipt, scheduler)
    elif executor == "threads":
        _run_on_threads(units, on_receipt, workers)
    else:
        _run_on_processes(units, on_receipt, workers)


def _run_on_threads(units: Sequence[WorkUnit], on_receipt: OnReceipt, workers: int) -> None:
    encoders = Threads(workers)
    slots = workers + 1  # while one waits for the disk, the others keep the encoders busy

    def run(unit: WorkUnit) -> Receipt:
        if isinstance(unit, FrameShard):
            return unit.run(encoders.in_order)
        with encoders.cores:
            return unit.run()

    pool = ThreadPoolExecutor(slots, thread_name_prefix="vla-store-build")
    try:
        _run_on_pool(pool, lambda unit: pool.submit(run, unit), units, on_receipt, slots)
    finally:
        encoders.close()


def _run_on_processes(units: Sequence[WorkUnit], on_receipt: OnReceipt, workers: int) -> None:
    # Fresh interpreters: h5py and the parent's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),))

    def submit(unit: WorkUnit) -> Future[Receipt]:
        # Ctrl-C reaches the whole process group, and the parent decides what stops: a process that is started here never
        # hears it, because a child begins with its parent's mask.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return pool.submit(_run, pickle.dumps(unit))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        _run_on_pool(pool, submit, units, on_receipt, workers)
    except BrokenProcessPool as error:
        raise MachineError(
            "a worker process died",
            found=str(error),
            hint="if memory ran out, use fewer --workers; then run the same command again: it resumes. "
            'A script must call build_store below `if __name__ == "__main__":`',
        ) from None
    except VlaStoreError as error:
        raise error from None  # without the worker's traceback: it says itself what is wrong
    finally:
        # There are some yet where Ctrl-C came again, while units in hand were waited for: who interrupts twice wants none.
        for process in (pool._processes or {}).values():
            process.terminate()


def _run_on_pool(
    pool: Executor,
    submit: Callable[[WorkUnit], Future[Receipt]],
    units: Sequence[WorkUnit],
    on_receipt: OnReceipt,
    slots: int,
) -> None:
    """Keep `slots` units running: one that has begun ends, so what waits in a pool could not be stopped by an error."""
    left = iter(units)
    running: set[Future[Receipt]] = set()
    try:
        running.update(submit(unit) for unit in itertools.islice(left, slots))
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                running.remove(future)
                receipt = future.result()
                running.update(submit(unit) for unit in itertools.islice(left, 1))
                on_receipt(receipt)
    finally:
        # Units in hand finish: an object is whole or absent, and Ctrl-C stops within a shard's time. They need not be done again.
        pool.shutdown(wait=True, cancel_futures=True)
        for future in running:
            if not future.cancelled() and future.exception() is None:
                on_receipt(future.result())


def _run(unit: bytes) -> Receipt:
    """Run a pickled unit in a process of its own. What it raises can cross processes."""
    try:
        made: WorkUnit = pickle.loads(unit)
        return made.run()
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError("".join(traceback.format_exception_only(error)).strip()) from error
        raise


def _end_with(parent: int) -> None:
    """Let this process end when its parent is killed: it would wait for its next unit for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
