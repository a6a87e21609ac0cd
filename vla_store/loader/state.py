"""Where the passes over a dataset stand: epoch and position, what a checkpoint holds of them, and what counts as a pass."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

from vla_store.errors import OptionError, UsageError, warn
from vla_store.loader.dataset import Dataset
from vla_store.loader.order import Order
from vla_store.reader.lazily import lazily

# What ends a pass, as a sentence says it; and the end of its epoch, after which there is nothing to say.
BY_A_NEWER = "a newer pass began"
BY_A_STATE = "load_state_dict was called"
BY_CLOSING = "the loader was closed"
BY_AN_ERROR = "of the error that was raised before"
BY_ITS_END = ""


class Epochs:
    """The epochs of one dataset. position: rows of the epoch's order that were handed out, over all ranks.

    Epoch and position of a pass are settled when its first row is asked for. A pass that gave all is followed by the next epoch.
    One that did not is no epoch: the next pass goes on where it stood, and says so once where nobody asked for that. Either way
    unless `set_epoch` or `load_state_dict` said otherwise. look: what a user does who wanted to see a batch, or two passes.
    """

    def __init__(self, dataset: Dataset, seed: SupportsIndex, shuffle: bool, look: str) -> None:
        self.dataset, self.shuffle = dataset, bool(shuffle)
        self.look = look
        self.seed = _whole("seed", seed, least=None)
        self.following = (0, 0)  # epoch and position of the pass that begins next
        self._loaded = False  # whether that position came from a state
        self._current: Pass | None = None
        self._begun: int | None = None  # epoch of the last pass that began, if nothing was said since
        self._cut = False  # whether the next pass goes on where a newer one cut another
        self._warned = False

    def new_pass(self) -> Pass:
        """A pass that has not begun; the one before it ends."""
        if self._current is not None:
            self._current.supersede()
        self._current = Pass(self)
        return self._current

    def end(self) -> None:
        """No pass goes on; where it stood is where the next one begins."""
        if self._current is not None:
            self._current.abandon(BY_CLOSING)

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """The epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0."""
        wanted = _whole("epoch", epoch, least=0)
        current = self._running
        is_loaded = self._loaded if current is None else current.was_loaded and current.decides_next
        if not is_loaded or wanted != self.place[0]:
            self._say((wanted, 0), loaded=False)

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position of the pass that goes on, else of the next one."""
        current = self._running
        return self.following if current is None else (current.epoch, current.position)

    @property
    def _running(self) -> Pass | None:
        """The pass that has begun and goes on."""
        current = self._current
        return current if current is not None and current.is_live and current.has_begun else None

    def state_dict(self) -> dict[str, Any]:
        """A few hundred bytes, the same on every rank."""
        return self.state_at(*self.place)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """What `state_dict` gives at this place."""
        return {"epoch": epoch, "position": position, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stands. Raises OptionError where it is of another store, selection, seed or order."""
        place = self.place_of(state)
        if self._current is not None and self._current.has_begun:
            self._current.end(BY_A_STATE)
        self._say(place, loaded=True)

    def place_of(self, state: dict[str, Any]) -> tuple[int, int]:
        """Epoch and position of a state. Raises OptionError where it is of something else."""
        for name, expected in self._identity.items():
            if name not in state or state[name] != expected:
                what = _OTHERS.get(name, f"a dataset of another {name}")
                raise OptionError(f"the state is of {what}", expected=expected, found=state.get(name, "nothing"))
        epoch, position = (
            _whole("epoch", state.get("epoch"), least=0),
            _whole("position", state.get("position"), least=0),
        )
        if position > len(self.dataset):
            raise OptionError("the state cannot be", epoch=epoch, position=position, rows=len(self.dataset))
        return epoch, position

    @property
    def epoch_in_use(self) -> int:
        """Of the last pass that began, also if it has ended, unless `set_epoch` or `load_state_dict` named another since."""
        return self.following[0] if self._begun is None else self._begun

    def leave(self, epoch: int, position: int, loaded: bool, cut: bool) -> None:
        """A pass is over: where the next one begins. cut: though it had more to give."""
        self.following, self._loaded, self._cut = (epoch, position), loaded, cut

    def settle(self, place: tuple[int, int] | None) -> tuple[int, int, bool]:
        """A pass begins, at `place` or where the next one should: its epoch, its position, whether that was loaded."""
        epoch, position = place or self.following
        loaded = self._loaded or place is not None
        if self._cut and place is None and not self._warned:
            self._warned = True
            warn(
                f"the pass before this one was not finished, so this one goes on where that stood (epoch {epoch}, row {position:,} "
                f"of {len(self.dataset):,}). set_epoch({epoch}) before a pass begins that epoch anew; {self.look}. All ranks must do the "
                "same.",
                RuntimeWarning,
            )
        self._loaded, self._begun, self._cut = False, epoch, False
        return epoch, position, loaded

    def _say(self, following: tuple[int, int], loaded: bool) -> None:
        self.following, self._loaded, self._begun, self._cut = following, loaded, None, False
        if self._current is not None and self._current.has_begun:
            self._current.decides_next = False

    @lazily
    def _identity(self) -> dict[str, Any]:
        return {
            "selection": "",  # of a dataset that has none, so that a state of some of its samples is not its own
            **self.dataset.identity,
            "rows": len(self.dataset),
            "seed": self.seed,
            "shuffle": self.shuffle,
        }


class Pass:
    """One pass over an epoch. place: (epoch, position) to begin at instead of where the next pass should."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self.place: tuple[int, int] | None = None
        self.has_begun = False
        self.decides_next = True
        self.was_loaded = False
        self.epoch = self.position = 0
        self._has_given = self._has_given_all = False
        self._ended_by: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether this is the pass that goes on."""
        return self._ended_by is None

    def cut_short(self, hint: str = "a new pass goes on with what was not given") -> UsageError | None:
        """The error for whoever asks a pass for more that ended before its epoch did; None where it did not."""
        if not self._ended_by:
            return None
        if self._ended_by == BY_A_NEWER:
            hint = self._epochs.look
        stood = f"{self.epoch}, at row {self.position:,} of {len(self._epochs.dataset):,}" if self.has_begun else None
        return UsageError(f"this pass was ended, because {self._ended_by}", epoch=stood, hint=hint)

    @property
    def following(self) -> tuple[int, int]:
        """Epoch and position at which it would begin now."""
        return self.place or self._epochs.following

    def begin(self) -> Order:
        """Settle epoch and position; the order of the epoch."""
        self.epoch, self.position, self.was_loaded = self._epochs.settle(self.place)
        self.has_begun = True
        return Order(len(self._epochs.dataset), self._epochs.seed, self.epoch, self._epochs.shuffle)

    def give(self, position: int, is_last: bool) -> None:
        """The consumer has the rows up to this position. is_last: there are no more."""
        self.position, self._has_given, self._has_given_all = position, True, is_last

    def finish(self) -> None:
        """The pass is over: the next one is of the next epoch."""
        self._leave(BY_ITS_END, self.epoch + 1, 0, loaded=False)

    def abandon(self, by: str = BY_AN_ERROR) -> None:
        """The pass failed, or was stopped: the next one begins where it stood."""
        cut = by == BY_A_NEWER and self._has_given
        self._leave(by, self.epoch, self.position, loaded=self.was_loaded, cut=cut)

    def supersede(self) -> None:
        """Another pass follows: of the next epoch, if this one gave all that there was."""
        if self._has_given_all:
            self.finish()
        else:
            self.abandon(BY_A_NEWER)

    def end(self, by: str) -> None:
        """The pass is over, and has no say in where the next one begins."""
        if self.is_live:
            self._ended_by = by

    def _leave(self, by: str, epoch: int, position: int, loaded: bool, cut: bool = False) -> None:
        if self.is_live and self.has_begun and self.decides_next:
            self._epochs.leave(epoch, position, loaded, cut)
        self.end(by)


def _whole(name: str, value: Any, least: int | None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        raise OptionError(
            f"{name} is a whole number{'' if least is None else f' of at least {least}'}", found=repr(value)
        )
    return number


_OTHERS = {
    "fingerprint": "another store",
    "selection": "another selection of anchors",
    "rows": "another number of rows",
    "seed": "another seed",
    "shuffle": "another order",
}
