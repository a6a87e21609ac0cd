"""Where the passes over a dataset stand: epoch and position, what a checkpoint holds of them, and what counts as a pass.

May import numpy, errors, the order, and the course.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

from vla_store.errors import UsageError, warn, whole_number
from vla_store.loader.course import Course
from vla_store.loader.dataset import Dataset
from vla_store.loader.order import EpochOrder, ShuffleChoice, shuffle_of

# What ends a pass, as a sentence says it; and the end of its epoch, after which there is nothing to say.
BY_A_NEWER = "a newer pass began"
BY_A_STATE = "load_state_dict was called"
BY_CLOSING = "the loader was closed"
BY_AN_ERROR = "of the error that was raised before"
BY_ITS_END = ""


class Start(NamedTuple):
    """Where a pass begins. is_loaded: a state says so. is_cut: a newer pass cut another there, which had given something.

    used: the epoch whose rows were given last, where it is another.
    """

    epoch: int
    position: int
    is_loaded: bool = False
    is_cut: bool = False
    used: int | None = None


class Epochs:
    """The epochs of one dataset. position: rows of the epoch's order that were handed out, over all ranks.

    look: what a user should do who wanted to see a batch, or two passes. batches: asked for batch size and world size, which the
    order of some datasets depends on; what they were when a pass began, or a state was loaded, they stay.

    ========= ======== ===== ==========================================
    state     _running _next where the next pass begins
    ========= ======== ===== ==========================================
    ready     none     set   at `_next`
    running   a pass   none  is decided by how this pass ends
    overruled a pass   set   at `_next`, however this pass ends
    ========= ======== ===== ==========================================

    ================= ==================== ============================================================
    event             from                 to
    ================= ==================== ============================================================
    a pass begins     ready                running; says once that a cut pass goes on
    it gave all       running              ready, at the next epoch
    it fails, is cut  running              ready, where it stood: the next pass goes on with the rest
    it ends           overruled            ready
    set_epoch         ready                ready, at 0 of this epoch
    set_epoch         running, overruled   overruled, at 0 of this epoch
    load_state_dict   any                  ready, where the state says; a pass that has begun ends
    ================= ==================== ============================================================

    `set_epoch` of the epoch that a loaded position is of changes nothing. A pass begins when its first row is asked for, not when it
    is made; one that is made ends the one before.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: SupportsIndex,
        shuffle: ShuffleChoice,
        look: str,
        batches: Callable[[], tuple[int, int]] = lambda: (1, 1),
    ) -> None:
        self.shuffle = shuffle_of(shuffle)
        self.look = look
        self.seed = whole_number("seed", seed, least=None)
        self._course, self._batches = Course(dataset, self.seed, self.shuffle), batches
        self._next: Start | None = Start(0, 0)
        self._running: Pass | None = None
        self._newest: Pass | None = None
        self._warned = False

    @property
    def _start(self) -> Start:
        """Where the next pass begins, as far as it is known; else where the running one began."""
        if self._next is not None:
            return self._next
        assert self._running is not None
        return self._running.start

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position of the pass that runs, else of the next one."""
        at = self._start if self._running is None else self._running
        return at.epoch, at.position

    @property
    def epoch_in_use(self) -> int:
        """Of the last pass that began, also if it has ended, unless `set_epoch` or `load_state_dict` named another since."""
        return self._start.epoch if self._start.used is None else self._start.used

    @property
    def course(self) -> Course:
        """The epochs of the dataset, in batches as they are now."""
        return self._course.in_batches(self._batches)

    @property
    def dataset(self) -> Dataset:
        """The dataset as it is ordered."""
        return self.course.dataset

    @property
    def rows(self) -> int:
        """Positions of an epoch."""
        return self.course.rows

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch."""
        return self.course.order(epoch)

    def new_pass(self) -> Pass:
        """Return a pass that has not begun; the one before it ends."""
        self.end(BY_A_NEWER)
        self._newest = Pass(self)
        return self._newest

    def end(self, by: str = BY_CLOSING) -> None:
        """End the newest pass, whether it has begun or not."""
        if self._newest is not None:
            self._newest.end(by)

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Name the epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0.

        Raises OptionError where that place lies before the changes of a mixture.
        """
        wanted = whole_number("epoch", epoch, least=0)
        if not (self._start.is_loaded and self._start.epoch == wanted):
            self.course.counted(wanted, 0)
            self._next = Start(wanted, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return a few hundred bytes, the same on every rank."""
        return self.state_at(*self.place)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """Return what `state_dict` gives at this place."""
        return self.course.state_at(epoch, position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stands. Raises OptionError where it is of another store, selection, seed or order."""
        start = self.continued(state)
        if self._running is not None:
            self._running.end(BY_A_STATE)
        self._next = start

    def continued(self, state: dict[str, Any]) -> Start:
        """Let the epochs be those that go on from a state, and return where that is. Raises OptionError where it is of something else."""
        self._course, epoch, position = self.course.continued(state)
        return Start(epoch, position, is_loaded=True)

    # For Pass.

    def begin(self, which: Pass, start: Start | None) -> Start:
        """Let a pass run, from `start` or where the next one begins."""
        start = start or self._start
        if start.is_cut and not self._warned:
            self._warned = True
            warn(
                f"the pass before this one was not finished, so this one goes on where that stood (epoch {start.epoch}, row "
                f"{start.position:,} of {self.rows:,}). set_epoch({start.epoch}) before a pass begins that epoch anew; "
                f"{self.look}. All ranks must do the same.",
                RuntimeWarning,
            )
        self._running, self._next, self._course = which, None, self.course
        return start._replace(used=None)

    def leave(self, which: Pass, start: Start) -> None:
        """A pass is over, after which the next one begins at `start`, unless that was overruled."""
        if self._running is which:
            self._running, self._next = None, self._next or start


class Pass:
    """One pass over an epoch: new, then begun, then ended. wanted: where to begin, instead of where the next pass should."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self.wanted: Start | None = None
        self.start = Start(0, 0)
        self.position = 0
        self.has_begun = self._has_given_all = False
        self._ended_by: str | None = None

    @property
    def epoch(self) -> int:
        return self.start.epoch

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position where it stands, or would begin now."""
        if self.has_begun:
            return self.epoch, self.position
        return self._epochs.place if self.wanted is None else self.wanted[:2]

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self._ended_by is None

    def cut_short(self) -> UsageError | None:
        """Return the error for whoever asks a pass for more that ended before its epoch did; None where it did not."""
        if not self._ended_by:
            return None
        hint = self._epochs.look if self._ended_by == BY_A_NEWER else "a new pass goes on with what was not given"
        stood = f"{self.epoch}, at row {self.position:,} of {self._epochs.rows:,}" if self.has_begun else None
        return UsageError(f"this pass was ended, because {self._ended_by}", epoch=stood, hint=hint)

    def begin(self) -> EpochOrder:
        """Settle epoch and position, and return the order of the epoch."""
        self.start = self._epochs.begin(self, self.wanted)
        self.position, self.has_begun = self.start.position, True
        return self._epochs.order(self.epoch)

    def give(self, position: int, is_last: bool) -> None:
        """Count the rows up to this position as the consumer's. is_last: there are no more."""
        self.position, self._has_given_all = position, is_last

    def end(self, by: str) -> None:
        """End the pass, unless it has ended: BY_ITS_END where the consumer knows that there is no more."""
        if self._ended_by is not None:
            return
        is_complete = by == BY_ITS_END or (by == BY_A_NEWER and self._has_given_all)
        self._ended_by = BY_ITS_END if is_complete else by
        start = Start(self.epoch + 1, 0, used=self.epoch)
        if not is_complete:
            is_cut = by == BY_A_NEWER and self.position > self.start.position
            start = Start(self.epoch, self.position, self.start.is_loaded, is_cut)
        self._epochs.leave(self, start)
