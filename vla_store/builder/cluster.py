"""Encoding on the workers of a dask cluster.

The only module that imports dask, which is the extra `cluster`.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from vla_store.builder.units import Receipt, WorkUnit
from vla_store.errors import MachineError

ANSWER_S = 20
WORKERS_S = 20
LOST_S = 60
WATCH_S = 1.0


def require_dask() -> None:
    """Raise MachineError where dask's scheduler is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise MachineError(
            "a cluster needs dask.distributed, which is not installed here", hint='pip install "vla-store[cluster]"'
        ) from None


def run_on_cluster(
    run: Callable[[bytes], Receipt], units: Sequence[WorkUnit], on_receipt: Callable[[Receipt], None], address: str
) -> None:
    """Call `run` with each pickled unit on the workers of the scheduler at `address`, until all are done or one fails."""
    require_dask()
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
            client.submit(run, pickle.dumps(unit), key=f"vla-store-{secrets.token_hex(4)}-{unit.name}", pure=False)
            for unit in units
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
                    if future.status == "error":  # the unit's own
                        raise
                    # The worker that had the receipt is gone, and the unit is to be done again.
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
    """Notices that a cluster has no worker left: its units would be waited for without end."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self.seen()

    def seen(self) -> None:
        """Note that somebody works."""
        self._last_seen = time.monotonic()

    def look(self) -> None:
        """Raise MachineError once there has been no worker, or no scheduler, for long enough to restart them."""
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
