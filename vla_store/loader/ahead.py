"""`Lookahead`: the parent's side of a fetcher. It says which batches may be given to workers, because what they need is near.

Workers are never kept waiting for what may not come: a fetcher that is late, or gone, is not waited for, and workers read for
themselves. May import processes, the fetcher's messages, and the plan.
"""

from __future__ import annotations

import logging
import time

from vla_store.errors import MachineError
from vla_store.loader.fetcher import Follow, Here, Used
from vla_store.loader.plan import Jobs, Plan
from vla_store.loader.processes import Processes
from vla_store.storage import Traffic

log = logging.getLogger("vla_store.loader")

LATE_S = 10.0
MAX_FAILURES = 3


class Lookahead:
    """Which batches are near. One thread at a time, as the pool that owns it.

    `processes` has started a fetcher, whose messages come to `heard`. It is replaced where it dies, unless that happened before it
    had brought anything, three times in a row: then there is none until the next pass.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._jobs: Jobs | None = None
        self._number = 0
        self._base = 0  # batches of the pass that were taken when the fetcher was told of it
        self._near = 0  # batches of the pass that need not be waited for
        self._taken = 0
        self._waits_since: float | None = None
        self._is_open = False  # nobody waits, until the fetcher is heard of
        self._is_over = False  # the fetcher need not hear more of this pass
        self._failures = 0
        self._has_said = False

    def lets(self, jobs: Jobs) -> bool:
        """Return whether the next of the jobs may be given to a worker now."""
        if jobs is not self._jobs:
            self._begin(jobs)
        if self._is_open or jobs.given < self._near or jobs.given == jobs.plan.count:
            self._waits_since = None
            return True
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        if now - self._waits_since < LATE_S:
            return False
        log.info("vla_store loader: what is fetched ahead is late; workers read for themselves")
        self._is_open = True
        return True

    def took(self) -> None:
        """Count a batch as done: what it needed may go."""
        self._taken += 1
        if not self._is_over:
            self._processes.tell_fetcher(Used(self._number, self._taken - self._base))

    def forget(self) -> None:
        """End the pass: nothing more is given."""
        self._jobs = None

    def heard(self, message: Here | None) -> Traffic:
        """Take in what the fetcher says, and return what it asked storage for since it told last; None: it is gone."""
        if message is None:
            self._replace()
            return Traffic()
        if message.number != self._number:
            return message.traffic
        self._failures = 0
        self._is_open, self._waits_since = False, None
        self._is_over = message.is_over
        self._near = max(self._near, self._base + message.batches)
        if message.error is not None and not self._has_said:
            self._has_said = True
            log.warning("vla_store loader: fetching ahead failed, and workers read for themselves: %s", message.error)
        return message.traffic

    def _begin(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._taken = self._near = 0
        self._has_said = False
        self._failures = 0
        if not self._processes.has_fetcher:
            self._processes.start_fetcher()
        self._follow(jobs.plan)

    def _replace(self) -> None:
        """Start another fetcher in place of one that is gone."""
        self._is_open = True
        self._failures += 1
        again = self._failures < MAX_FAILURES
        log.warning(
            "vla_store loader: the process that fetches ahead died; workers read for themselves%s",
            ", and another one is started" if again else "",
        )
        if again:
            try:
                self._processes.start_fetcher()
            except (OSError, MachineError) as error:
                log.warning("vla_store loader: it could not be started: %s", error)
                return
            if self._jobs is not None:
                self._follow(self._jobs.plan.after(self._taken))

    def _follow(self, plan: Plan) -> None:
        self._number += 1
        self._base = self._taken
        self._is_over = False
        # A fetcher that cannot be told is one that does not read, or is gone; that it is gone is heard.
        self._is_open = not self._processes.tell_fetcher(Follow(self._number, plan))
        self._waits_since = None
