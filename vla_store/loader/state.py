"""Where the passes over a dataset stand: epoch and position, what a checkpoint holds of them, and what counts as a pass."""

from __future__ import annotations

import hashlib
import operator
from typing import Any, SupportsIndex

import numpy as np

from vla_store.errors import OptionError
from vla_store.loader.order import Order
from vla_store.reader.lazily import lazily
from vla_store.reader.samples import Samples


class Epochs:
    """The epochs of one dataset. position: rows of the epoch's order that were handed out, over all ranks.

    Epoch and position of a pass are settled when its first row is asked for; a pass that gave none does not count. A pass that
    ended is followed by the next epoch, unless `set_epoch` or `load_state_dict` said otherwise.
    """

    def __init__(self, samples: Samples, seed: SupportsIndex, shuffle: bool) -> None:
        self.samples, self.shuffle = samples, bool(shuffle)
        self.seed = _whole("seed", seed, least=None)
        self.following = (0, 0)  # epoch and position of the pass that begins next
        self._loaded = False  # whether that position came from a state
        self._current: Pass | None = None
        self._begun: int | None = None  # epoch of the last pass that began, if nothing was said since

    def new_pass(self) -> Pass:
        """A pass that has not begun; the one before it ends."""
        if self._current is not None:
            self._current.supersede()
        self._current = Pass(self)
        return self._current

    def end(self) -> None:
        """No pass goes on; where it stood is where the next one begins."""
        if self._current is not None:
            self._current.abandon()

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """The epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0."""
        wanted = _whole("epoch", epoch, least=0)
        if not self._loaded or wanted != self.following[0]:
            self._say((wanted, 0), loaded=False)

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position of the pass that goes on, else of the next one."""
        current = self._current
        running = current is not None and current.is_live and current.has_begun
        return (current.epoch, current.position) if running and current is not None else self.following

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
            self._current.is_live = False
        self._say(place, loaded=True)

    def place_of(self, state: dict[str, Any]) -> tuple[int, int]:
        """Epoch and position of a state. Raises OptionError where it is of something else."""
        for name, what in _SAME.items():
            if name not in state or state[name] != self._identity[name]:
                raise OptionError(
                    f"the state is of {what}", expected=self._identity[name], found=state.get(name, "nothing")
                )
        epoch, position = (
            _whole("epoch", state.get("epoch"), least=0),
            _whole("position", state.get("position"), least=0),
        )
        if position > len(self.samples):
            raise OptionError("the state cannot be", epoch=epoch, position=position, rows=len(self.samples))
        return epoch, position

    @property
    def epoch_in_use(self) -> int:
        """Of the last pass that began, also if it has ended, unless `set_epoch` or `load_state_dict` named another since."""
        return self.following[0] if self._begun is None else self._begun

    def leave(self, epoch: int, position: int, loaded: bool) -> None:
        """A pass is over: where the next one begins."""
        self.following, self._loaded = (epoch, position), loaded

    def settle(self, place: tuple[int, int] | None) -> tuple[int, int, bool]:
        """A pass begins, at `place` or where the next one should: its epoch, its position, whether that was loaded."""
        epoch, position = place or self.following
        loaded = self._loaded or place is not None
        self._loaded, self._begun = False, epoch
        return epoch, position, loaded

    def _say(self, following: tuple[int, int], loaded: bool) -> None:
        self.following, self._loaded, self._begun = following, loaded, None
        if self._current is not None and self._current.has_begun:
            self._current.decides_next = False

    @lazily
    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.samples.store.fingerprint,
            "rows": len(self.samples),
            "seed": self.seed,
            "selection": selection_digest(self.samples),
            "shuffle": self.shuffle,
        }


class Pass:
    """One pass over an epoch. place: (epoch, position) to begin at instead of where the next pass should."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self.place: tuple[int, int] | None = None
        self.has_begun = False
        self.is_live = True
        self.decides_next = True
        self.epoch = self.position = 0
        self._has_given = self._was_loaded = False

    @property
    def following(self) -> tuple[int, int]:
        """Epoch and position at which it would begin now."""
        return self.place or self._epochs.following

    def begin(self) -> Order:
        """Settle epoch and position; the order of the epoch."""
        self.epoch, self.position, self._was_loaded = self._epochs.settle(self.place)
        self.has_begun = True
        return Order(len(self._epochs.samples), self._epochs.seed, self.epoch, self._epochs.shuffle)

    def give(self, position: int) -> None:
        """The consumer has the rows up to this position."""
        self.position, self._has_given = position, True

    def finish(self) -> None:
        """The pass is over: the next one is of the next epoch."""
        self._leave(self.epoch + 1, 0, loaded=False)

    def abandon(self) -> None:
        """The pass failed, or was stopped: the next one begins where it stood."""
        self._leave(self.epoch, self.position, loaded=self._was_loaded and not self._has_given)

    def supersede(self) -> None:
        """Another pass follows: of the next epoch, if this one gave anything."""
        if self._has_given:
            self.finish()
        else:
            self.abandon()

    def _leave(self, epoch: int, position: int, loaded: bool) -> None:
        if self.is_live and self.has_begun and self.decides_next:
            self._epochs.leave(epoch, position, loaded)
        self.is_live = False


def selection_digest(samples: Samples) -> str:
    """A digest of which rows of the store are anchors, in which order; the same however the store is cut into parts."""
    anchors, digest = samples._anchors, hashlib.sha256()
    if anchors.rows is not None:
        digest.update(b"rows\n" + np.ascontiguousarray(anchors.rows, "<i8").tobytes())
        return digest.hexdigest()
    spans = anchors.spans_of(samples.store)
    # A span that goes on where the one before ends, and leaves out the same steps, is the same span.
    begins = np.ones(len(spans), bool)
    begins[1:] = (spans[1:, 0] != spans[:-1, 1]) | (spans[1:, 2] != spans[:-1, 2])
    ends = np.append(begins[1:], True)
    merged = np.stack([spans[begins, 0], spans[ends, 1], spans[begins, 2]], axis=1)
    digest.update(b"spans\n" + np.ascontiguousarray(merged, "<i8").tobytes())
    return digest.hexdigest()


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


_SAME = {
    "fingerprint": "another store",
    "selection": "another selection of anchors",
    "rows": "another number of rows",
    "seed": "another seed",
    "shuffle": "another order",
}
