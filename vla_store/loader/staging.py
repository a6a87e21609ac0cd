"""A thread that copies each batch elsewhere (pinned memory, a device) while the consumer works on the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from vla_store.loader.batches import BatchStream

AHEAD = 2
LOOK_UP_S = 0.2


class Staged:
    """The batches of one pass, each after `copy(batch)` in a thread of its own. The slot returns as soon as that is done.

    copy: called in the thread. What it raises is raised by `next` in its turn. The thread ends with the pass: at its last
    batch, at an error, at `close`, and when another pass begins.
    """

    def __init__(self, batches: BatchStream, copy: Callable[[dict[str, Any]], Any]) -> None:
        self._batches = batches
        self._copy = copy
        self._queue: queue.Queue[tuple[str, Any, int]] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Staged:
        return self

    def __next__(self) -> Any:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vla_store-staging", daemon=True)
            self._thread.start()
        while True:
            try:
                kind, value, end = self._queue.get(timeout=LOOK_UP_S)
                break
            except queue.Empty:
                if self._stopped.is_set() or not (self._batches.is_live or self._thread.is_alive()):
                    raise StopIteration from None
        if kind == "batch" and self._batches.is_live:
            self._batches.handed(end)
            return value
        self.close()
        if kind == "error":
            raise value
        if kind == "end":
            self._batches.finish()
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                batch, end = self._batches.take()
                self._put(("batch", self._copy(batch), end))
                del batch  # the slot is free now, not when the next batch comes
        except StopIteration:
            self._put(("end", None, 0))
        except BaseException as error:
            self._put(("error", error, 0))

    def _put(self, item: tuple[str, Any, int]) -> None:
        while not self._stopped.is_set() and (self._batches.is_live or item[0] != "batch"):
            try:
                self._queue.put(item, timeout=LOOK_UP_S)
                return
            except queue.Full:
                continue
