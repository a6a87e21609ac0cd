"""Where the passes over a dataset stand: epoch and position, what a checkpoint holds of them, and what counts as a pass."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from vla_store.errors import OptionError
from vla_store.loader.order import Order
from vla_store.reader.samples import Samples


class Epochs:
    """The epochs of one dataset. position: rows of the epoch's order that were handed out, over all ranks.

    Epoch and position of a pass are settled when it gives its first row; one that gave none does not count. A pass that
    ended is followed by the next epoch, unless `set_epoch` or `load_state_dict` said otherwise.
    """

    def __init__(self, samples: Samples, seed: int, shuffle: bool) -> None:
        self.samples, self.seed, self.shuffle = samples, int(seed), bool(shuffle)
        self._next = (0, 0)
        self._loaded = False
        self._current: Pass | None = None

    def new_pass(self) -> Pass:
        """A pass that has not begun; the one before it ends."""
        if self._current is not None and self._current.is_live and self._current.has_begun:
            self._current.finish()
        elif self._current is not None:
            self._current.is_live = False
        self._current = Pass(self)
        return self._current

    def end(self) -> None:
        """No pass goes on; where it stood is where the next one begins."""
        if self._current is not None:
            self._current.abandon()

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0."""
        if not self._loaded or epoch != self._next[0]:
            self._said((int(epoch), 0), loaded=False)

    def state_dict(self) -> dict[str, Any]:
        """A few hundred bytes, the same on every rank."""
        current = self._current
        running = current is not None and current.is_live and current.has_begun
        epoch, position = (current.epoch, current.position) if running and current is not None else self._next
        return {
            "epoch": epoch,
            "fingerprint": self.samples.store.fingerprint,
            "position": position,
            "rows": len(self.samples),
            "seed": self.seed,
            "selection": selection_digest(self.samples),
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stands. Raises OptionError where it is of another store, selection, seed or order."""
        now = self.state_dict()
        for name, what in _SAME.items():
            if name not in state or state[name] != now[name]:
                raise OptionError(f"the state is of {what}", expected=now[name], found=state.get(name, "nothing"))
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= now["rows"]:
            raise OptionError("the state cannot be", epoch=epoch, position=position, rows=now["rows"])
        if self._current is not None and self._current.has_begun:
            self._current.is_live = False
        self._said((epoch, position), loaded=True)

    def _said(self, following: tuple[int, int], loaded: bool) -> None:
        self._next, self._loaded = following, loaded
        if self._current is not None and self._current.has_begun:
            self._current.decides_next = False


class Pass:
    """One pass over an epoch, from `position` on."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self.has_begun = False
        self.is_live = True
        self.decides_next = True
        self.epoch = self.position = 0

    def begin(self) -> Order:
        """Settle epoch and position; the order of the epoch."""
        epochs = self._epochs
        self.epoch, self.position = epochs._next
        epochs._loaded = False
        self.has_begun = True
        return Order(len(epochs.samples), epochs.seed, self.epoch, epochs.shuffle)

    def finish(self) -> None:
        """The pass is over: the next one is of the next epoch."""
        self._leave(self.epoch + 1, 0, loaded=False)

    def abandon(self) -> None:
        """The pass failed: the next one begins where it stood."""
        self._leave(self.epoch, self.position, loaded=True)

    def _leave(self, epoch: int, position: int, loaded: bool) -> None:
        if self.is_live and self.has_begun and self.decides_next:
            self._epochs._next, self._epochs._loaded = (epoch, position), loaded
        self.is_live = False


def selection_digest(samples: Samples) -> str:
    """A digest of which anchors a dataset has, in which order."""
    anchors = samples._anchors
    digest = hashlib.sha256()
    arrays = {"rows": anchors.rows} if anchors.rows is not None else anchors.__getstate__()
    for name in sorted(arrays):
        if isinstance(arrays[name], np.ndarray):
            digest.update(name.encode() + b"\n" + np.ascontiguousarray(arrays[name], "<i8").tobytes())
    return digest.hexdigest()


_SAME = {
    "fingerprint": "another store",
    "selection": "another selection of anchors",
    "rows": "another number of rows",
    "seed": "another seed",
    "shuffle": "another order",
}
