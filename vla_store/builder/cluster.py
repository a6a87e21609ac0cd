"""Encoding on the workers of a dask cluster.

The only module that imports dask, which is the extra `cluster`.
"""

from __future__ import annotations

import contextlib
import pickle
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait

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
    from distributed import Client, KilledWorker
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
        pool = client.get_executor(pure=False)
        try:
            running = {
                pool.submit(run, pickle.dumps(unit), key=f"vla-store-{secrets.token_hex(4)}-{unit.name}")
                for unit in units
            }
            last_seen = time.monotonic()
            while running:
                ended, running = wait(running, timeout=WATCH_S, return_when=FIRST_COMPLETED)
                for future in ended:
                    on_receipt(future.result())
                with contextlib.suppress(OSError, TimeoutError):
                    if ended or client.nthreads():
                        last_seen = time.monotonic()
                if time.monotonic() - last_seen > LOST_S:  # long enough to restart them
                    raise MachineError(
                        "nobody is left in the cluster",
                        scheduler=address,
                        found=f"no worker for {LOST_S} s",
                        hint="start the scheduler and workers again, then run the same command again: it resumes",
                    )
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
                pool.shutdown(wait=False)
