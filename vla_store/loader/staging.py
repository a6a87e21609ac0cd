"""A thread that copies each batch elsewhere (pinned memory, a device) while the consumer works on the one before."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from vla_store.loader.batches import BatchStream, Convert, Handout, Stopped

AHEAD = 2
LOOK_UP_S = 0.2


class Staged:
    """The batches of one pass, each after `copy(batch)` in a thread of its own. The slot returns as soon as that is done.

    copy: called in the thread. What it raises is raised by `next` in its turn. convert: as in BatchStream, of what `copy` made.
    The thread starts with the first `next` and ends with the pass: at its last batch, at an error, at `close`, and when another
    pass begins.
    """

    def __init__(self, batches: BatchStream, copy: Callable[[Any], Any], convert: Convert | None = None) -> None:
        self._batches = batches
        self._copy = copy
        self._convert = convert
        self._copies: deque[tuple[Handout, Any] | BaseException] = deque()
        # Reentrant, because a finalizer may call `close` wherever this thread is.
        self._changed = threading.Condition(threading.RLock())
        self._pid = os.getpid()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Staged:
        return self

    def __next__(self) -> Any:
        began = time.perf_counter()
        self._batches.check_process()
        try:
            was_ready, item = self._wait()
            if isinstance(item, BaseException):
                raise item
            handout, value = item
            if self._convert is not None:
                value = self._convert(value, handout.made.job)
            self._batches.hand(handout, began, was_ready)
        except Stopped:
            self.close()
            raise self._batches.why_over() from None
        except StopIteration:
            self._batches.finish()
            self.close()
            raise
        except BaseException:
            self._batches.fail()
            self.close()
            raise
        return value

    @property
    def is_finished(self) -> bool:
        """Whether the consumer has all batches of the pass."""
        return self._batches.is_finished

    def close(self) -> None:
        """Stop the thread and wait for it; where the pass stands does not change."""
        if os.getpid() != self._pid:  # a forked copy: the thread is not here, and its lock may be held for ever
            return
        with self._changed:
            self._stopped = True
            self._copies.clear()
            self._changed.notify_all()
        self._batches.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _wait(self) -> tuple[bool, tuple[Handout, Any] | BaseException]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vla_store-staging", daemon=True)
            self._thread.start()
        with self._changed:
            was_ready = bool(self._copies)
            while not self._copies and not self._is_over:
                self._changed.wait(LOOK_UP_S)
            if self._is_over:
                raise Stopped
            item = self._copies.popleft()
            self._changed.notify_all()
        return was_ready, item

    @property
    def _is_over(self) -> bool:
        return self._stopped or not self._batches.is_live

    def _run(self) -> None:
        try:
            while not self._is_over:
                batch, handout = self._batches.take()
                item = handout, self._copy(batch)
                del batch  # the slot is free now, not when the next batch comes
                self._put(item)
                del item
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[Handout, Any] | BaseException) -> None:
        with self._changed:
            while len(self._copies) >= AHEAD and not self._is_over:
                self._changed.wait(LOOK_UP_S)
            if not self._is_over:
                self._copies.append(item)
                self._changed.notify_all()
