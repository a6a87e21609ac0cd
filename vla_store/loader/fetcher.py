"""A fetcher process: it brings near what the batches of a plan need, ahead of the workers. Started as
`python -m vla_store.loader.fetcher FD PARENT`.

It is told which batches come, and how many of them are done; it tells how many are near. Several threads fetch a group of samples
each, all ranges of it in as few requests as can be. Nothing depends on it: who does not find what he reads near reads it himself.
What fails is said once and counts as near: the worker that reads it says in its turn what is wrong. May import what a worker does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vla_store.loader import worker
from vla_store.loader.channel import Channel, Closed
from vla_store.loader.groups import Group, groups_of
from vla_store.loader.plan import Plan
from vla_store.loader.scratch import remove_orphan
from vla_store.storage import Range, Traffic

THREADS = 4
AHEAD_BATCHES = 32
AHEAD_SAMPLES = 2_048


class Follow(NamedTuple):
    """Fetch for this plan from now on, and forget the one before."""

    number: int
    plan: Plan


class Used(NamedTuple):
    """So many batches of a plan are done."""

    number: int
    batches: int


class Here(NamedTuple):
    """So many batches of a plan are near. error: what the first group that failed did for.

    traffic: of this process, since it told last. is_over: there is nothing more to do for this plan, and no need to hear of it.
    """

    number: int
    batches: int
    traffic: Traffic
    error: str | None = None
    is_over: bool = False


def serve(channel: Channel, ahead: Any, start: worker.Start) -> None:
    """Fetch for one parent until it goes away."""
    if start.folder is not None:
        folder = Path(start.folder)
        # Of a parent that was killed the system closes what this process waits for, and the lock, in an order of its own.
        worker.at_end.append(lambda: remove_orphan(folder, 1.0))
    with contextlib.suppress(Exception):  # opened by one thread; what is wrong is said by who reads a sample
        _ = ahead.is_near
    fetcher = _Fetcher(channel, ahead)
    for _ in range(THREADS):
        threading.Thread(target=_working, args=(fetcher,), daemon=True).start()
    while True:
        message, _ = channel.receive()
        if isinstance(message, Follow):
            fetcher.follow(message)
        else:
            fetcher.used(message)


def _working(fetcher: _Fetcher) -> None:
    try:
        fetcher.work()
    except BaseException:  # with a thread less, the parent would wait for what never comes
        traceback.print_exc()
        os._exit(1)


def ahead_rows(plan: Plan) -> int:
    """Return how many rows of the order are fetched ahead of what was used: 32 batches, at least 2,048 rows, and a pool where
    there are pools."""
    whole = plan.sharding.batch_size * plan.sharding.world_size
    start, stop = plan.order.unit(plan.position) if plan.count else (0, 1)
    return max(AHEAD_BATCHES * whole, AHEAD_SAMPLES * plan.sharding.world_size, stop - start)


class _Fetcher:
    """What the threads share, under one lock."""

    def __init__(self, channel: Channel, ahead: Any) -> None:
        self._channel, self._ahead = channel, ahead
        self._changed = threading.Condition()
        self._number = -1
        self._plan: Plan | None = None
        self._groups: Iterator[Group] = iter(())
        self._is_whole = False
        self._planned_to = 0  # position of the order
        self._used = self._used_to = 0  # batches, and position
        self._ahead_rows = 0
        self._order = 0  # of the next group among those of this plan
        self._done: dict[int, Group] = {}
        self._first = 0  # group that is not yet near, before which all are
        self._near = 0
        self._error: str | None = None
        self._holding: list[tuple[int, list[Range]]] = []
        self._told = Traffic()

    def follow(self, message: Follow) -> None:
        """Begin with another plan."""
        plan = message.plan
        is_near, is_whole = self._asked("is_near"), self._asked("fits")
        with self._changed:
            self._number, self._plan = message.number, plan
            self._is_whole = is_whole
            self._groups = groups_of(plan)
            self._planned_to = self._used_to = plan.position
            self._ahead_rows = ahead_rows(plan)
            self._order = self._first = self._near = self._used = 0
            self._done.clear()
            self._error = None
            # Often the new plan goes on where that one was left: what it needs too is to be found before it goes.
            self._holding = [(plan.position + 1, ranges) for _, ranges in self._holding]
            if is_near:
                self._end()
            self._changed.notify()

    def used(self, message: Used) -> None:
        """Give up what nobody needs any more, and go on."""
        with self._changed:
            if message.number != self._number or self._plan is None:
                return
            self._used, self._used_to = message.batches, self._plan.after(message.batches).position
            done = [each for each in self._holding if each[0] <= self._used_to]
            self._holding = [each for each in self._holding if each[0] > self._used_to]
            if self._is_over:
                self._tell()
            self._changed.notify()
        self._release(done)

    def work(self) -> None:
        """Fetch one group after another."""
        while True:
            number, order, group = self._next()
            if self._is_whole and order and self._asked("is_near"):
                with self._changed:
                    if number == self._number:
                        self._end()
                continue
            error: str | None = None
            ranges: list[Range] = []
            try:
                if len(group.indices) and group.last > self._used:
                    # For the first group somebody waits: it takes no more than it needs.
                    ranges = self._ahead.fetch(group.indices, self._is_whole and order > 0)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            with self._changed:
                if ranges:
                    self._holding.append((group.until if number == self._number else -1, ranges))
                if number != self._number:
                    continue
                self._done[order] = group
                self._error = self._error or error
                before = self._near
                while (near := self._done.pop(self._first, None)) is not None:
                    self._first += 1
                    self._near = max(self._near, near.batches)
                if self._near > before:
                    self._changed.notify()
                    self._tell()

    def _next(self) -> tuple[int, int, Group]:
        """Return the next group to be fetched, once there is one and it is its time: (number of the plan, of the group, group)."""
        with self._changed:
            while True:
                # Nothing competes with the first group: somebody waits for it.
                is_free = self._first > 0 or self._order == 0
                if is_free and self._planned_to < self._used_to + self._ahead_rows:
                    group = next(self._groups, None)
                    if group is not None:
                        assert self._plan is not None
                        self._planned_to = self._plan.after(group.batches).position
                        self._order += 1
                        self._changed.notify()  # there may be more to do at once
                        return self._number, self._order - 1, group
                self._changed.wait()

    def _end(self) -> None:
        """Let all batches go: whatever they need is near, and stays."""
        assert self._plan is not None
        self._groups, self._near = iter(()), self._plan.count
        self._tell()

    @property
    def _is_over(self) -> bool:
        return self._plan is not None and self._near >= self._plan.count and not self._holding

    def _tell(self) -> None:
        traffic = self._told
        with contextlib.suppress(Exception):  # where the store could not be opened there was none
            traffic = self._ahead.traffic
        since, self._told = traffic - self._told, traffic
        with contextlib.suppress(Closed):  # the parent is gone, and so are we in a moment
            self._channel.send(Here(self._number, self._near, since, self._error, self._is_over))

    def _asked(self, name: str) -> bool:
        try:
            return bool(getattr(self._ahead, name))
        except Exception:  # a store that cannot be read: whoever reads a sample says so
            return False

    def _release(self, holding: list[tuple[int, list[Range]]]) -> None:
        for _, ranges in holding:
            self._ahead.release(ranges)


if __name__ == "__main__":
    # Messages are pickled as values of the importable module, not of __main__.
    from vla_store.loader.fetcher import serve as fetch

    worker.main(int(sys.argv[1]), int(sys.argv[2]), fetch)
