"""Running the tasks of a build on dask: threads, processes, or a cluster's scheduler. The same bytes whoever runs them."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from vla_store.builder.encode import Receipt, Task
from vla_store.errors import MachineError, OptionError

EXECUTORS = ("threads", "processes")


def default_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    tasks: Sequence[Task],
    on_receipt: Callable[[Receipt], None],
    *,
    executor: str = "threads",
    workers: int = 1,
    scheduler: str | None = None,
) -> None:
    """Run all tasks; `on_receipt` is called in this thread for each that is done. The first error stops the rest.

    scheduler: address of a dask.distributed scheduler whose workers see source and destination.
    """
    if scheduler is not None:
        _run_on_cluster(tasks, on_receipt, scheduler)
        return
    if executor not in EXECUTORS:
        raise OptionError(f"executor cannot be {executor!r}", allowed=", ".join(EXECUTORS))
    if not tasks:
        return
    from dask.callbacks import Callback
    from dask.local import get_async

    def posttask(key: str, result: Receipt, *_: Any) -> None:
        on_receipt(result)

    graph = {task.name: (_run, pickle.dumps(task)) for task in tasks}
    pool = _pool(executor, workers)
    try:
        with Callback(posttask=posttask):
            get_async(
                pool.submit, workers, graph, list(graph), loads=pickle.loads, dumps=pickle.dumps, pack_exception=_pack
            )
    except BrokenProcessPool as error:
        raise MachineError(
            "a worker process died",
            found=str(error),
            hint="if memory ran out, use fewer --workers; then run the same command again: it resumes",
        ) from None
    finally:
        # Tasks in hand finish: an object is whole or absent, and Ctrl-C stops within a shard's time.
        pool.shutdown(wait=True, cancel_futures=True)


def _run(task: bytes) -> Receipt:
    made: Task = pickle.loads(task)
    return made.run()


def _pool(executor: str, workers: int) -> Executor:
    if executor == "threads":
        return ThreadPoolExecutor(workers, thread_name_prefix="vla-store-build")
    # Fresh interpreters: h5py and the parent's threads do not survive a fork.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ignore_interrupt)


def _ignore_interrupt() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; the parent decides what stops


def _pack(error: BaseException, dumps: Callable[[Any], bytes]) -> bytes:
    return dumps((error, None))


def _run_on_cluster(tasks: Sequence[Task], on_receipt: Callable[[Receipt], None], address: str) -> None:
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise MachineError("the scheduler does not answer", scheduler=address, found=str(error)[:200]) from None
    with client:
        futures = [
            client.submit(_run, pickle.dumps(task), key=f"vla-store-{os.getpid()}-{task.name}", pure=False)
            for task in tasks
        ]
        try:
            for future in as_completed(futures, loop=client.loop):
                on_receipt(future.result())
        except BaseException:
            client.cancel(futures)
            raise
