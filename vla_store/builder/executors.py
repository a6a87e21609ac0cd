"""Running the tasks of a build on dask: threads, processes, or a cluster's scheduler. The same bytes whoever runs them."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from vla_store.builder.overlap import Threads
from vla_store.builder.tasks import FrameShard, Receipt, Task
from vla_store.errors import MachineError, OptionError, VlaStoreError

EXECUTORS = ("threads", "processes")
AUTO = "auto"
# Python's lock makes threads on two cores 1.5 times as fast as on one; processes are 1.8 times as fast from about here on, their
# start included (benchmarks/build_speed.py).
PROCESSES_FROM_NBYTES = 512 << 20  # of the source, for each worker
ANSWER_S = 20
WORKERS_S = 20
LOST_S = 60
WATCH_S = 1.0


def default_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_executor(executor: str, workers: int | None, source_nbytes: int) -> str:
    """The executor that "auto" stands for with a source of so many bytes; any other as it is."""
    if executor != AUTO:
        return executor
    wanted = workers or default_workers()
    return "processes" if wanted > 1 and source_nbytes >= wanted * PROCESSES_FROM_NBYTES else "threads"


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

    threads = executor == "threads"
    encoders = Threads(workers) if threads else None
    # dask begins independent tasks in the order of their keys.
    graph = {
        f"{number:08} {task.name}": (_run_on, encoders, task) if encoders else (_run, pickle.dumps(task))
        for number, task in enumerate(tasks)
    }
    # Fresh interpreters: h5py and the parent's threads do not survive a fork.
    slots = workers + 1 if threads else workers  # while one waits for the disk, the others keep the threads busy
    pool = (
        ThreadPoolExecutor(slots, thread_name_prefix="vla-store-build")
        if threads
        else ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
        )
    )
    across = {} if threads else {"loads": pickle.loads, "dumps": pickle.dumps}
    submit = pool.submit if threads else _deaf_to_interrupts(pool.submit)
    try:
        with Callback(posttask=posttask):
            get_async(submit, slots, graph, list(graph), pack_exception=_pack if threads else _pickle, **across)
    except BrokenProcessPool as error:
        raise MachineError(
            "a worker process died",
            found=str(error),
            hint="if memory ran out, use fewer --workers; then run the same command again: it resumes. "
            'A script must call build_store below `if __name__ == "__main__":`',
        ) from None
    finally:
        # Tasks in hand finish: an object is whole or absent, and Ctrl-C stops within a shard's time.
        pool.shutdown(wait=True, cancel_futures=True)
        if encoders:
            encoders.close()


def _run(task: bytes) -> Receipt:
    made: Task = pickle.loads(task)
    return made.run()


def _run_on(threads: Threads, task: Task) -> Receipt:
    if isinstance(task, FrameShard):
        return task.run(threads.in_order)
    with threads.core():
        return task.run()


def _deaf_to_interrupts(submit: Callable[..., Any]) -> Callable[..., Any]:
    """Ctrl-C reaches the whole process group, and the parent decides what stops: processes started here never hear it."""

    def quiet_submit(*args: Any) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child begins with its parent's mask
        try:
            return submit(*args)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return quiet_submit


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for its next task for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pack(error: BaseException, dumps: Callable[[Any], Any]) -> Any:
    return dumps((error, error.__traceback__))


def _pickle(error: BaseException, dumps: Callable[[Any], bytes]) -> bytes:
    """An error that can cross processes. Where it was raised goes with it as a note: tracebacks do not pickle."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError("".join(traceback.format_exception_only(error)).strip())
    if not isinstance(error, VlaStoreError):
        error.add_note("raised in a worker process:\n" + "".join(traceback.format_exc()))
    return dumps((error, None))


def _run_on_cluster(tasks: Sequence[Task], on_receipt: Callable[[Receipt], None], address: str) -> None:
    from distributed import CancelledError, Client, KilledWorker
    from distributed.comm import CommClosedError

    try:
        client = Client(address, timeout=f"{ANSWER_S}s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise MachineError(
            "the scheduler does not answer",
            scheduler=address,
            found=str(error)[:200],
            hint="check that it runs: `dask scheduler` prints its address",
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError:
            raise MachineError(
                "the scheduler has no workers", scheduler=address, hint=f"start some: dask worker {address}"
            ) from None
        futures = [
            client.submit(_run, pickle.dumps(task), key=f"vla-store-{secrets.token_hex(4)}-{task.name}", pure=False)
            for task in tasks
        ]
        try:
            ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for future in futures:
                future.add_done_callback(ended.put)
            left, watch = len(futures), _Watch(client, address)
            while left:
                try:
                    future = ended.get(timeout=WATCH_S)
                except queue.Empty:
                    watch.look()
                    continue
                try:
                    receipt = future.result(timeout=WATCH_S)
                except TimeoutError:
                    if future.status == "error":  # the task's own
                        raise
                    # The worker that had the receipt is gone, and the task is to be done again.
                    future.add_done_callback(ended.put)
                    watch.look()
                    continue
                watch.seen()
                on_receipt(receipt)
                left -= 1
        except (CancelledError, CommClosedError, KilledWorker, ImportError) as error:
            raise MachineError(
                "the cluster failed to run a task",
                scheduler=address,
                found=f"{type(error).__name__}: {error}"[:300],
                hint="its workers need the same vla_store, memory for their tasks, and the same paths; "
                "then run the same command again: it resumes",
            ) from error
        finally:
            # Also after an error, and Ctrl-C: what has not begun shall not begin.
            with contextlib.suppress(Exception):
                client.cancel(futures)


class _Watch:
    """Looks whether anybody works on a cluster: tasks of which no worker is left would be waited for without end."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self.seen()

    def seen(self) -> None:
        """Somebody works."""
        self._last_seen = time.monotonic()

    def look(self) -> None:
        """Raises MachineError once there has been no worker, or no scheduler, for a while: who restarts them has some time."""
        with contextlib.suppress(OSError, TimeoutError):
            if self._client.nthreads():
                self.seen()
        if time.monotonic() - self._last_seen > LOST_S:
            raise MachineError(
                "nobody is left in the cluster",
                scheduler=self._address,
                found=f"no worker for {LOST_S} s",
                hint="start the scheduler and workers again, then run the same command again: it resumes",
            )
