"""`Course`: the epochs of a dataset as seed and shuffle order them, and which states are of it.

May import numpy, errors, the dataset protocol and the order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from vla_store.errors import OptionError, whole_number
from vla_store.loader.dataset import Dataset
from vla_store.loader.order import Blocks, EpochOrder, Shuffle, epoch_rows, order_of
from vla_store.reader.cached import cached_property


class Course:
    """The epochs of a dataset, of which a state holds a place. It does not change: what a state or the ranks change is another one."""

    def __init__(self, dataset: Dataset, seed: int, shuffle: Shuffle) -> None:
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle

    @property
    def rows(self) -> int:
        """Positions of an epoch."""
        return epoch_rows(self.dataset)

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch. Raises OptionError where there is none."""
        return order_of(self.dataset, self.seed, epoch, self.shuffle)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """Return a state of this place, a few hundred bytes. Raises OptionError where there is no such place."""
        return {"epoch": epoch, "position": position, **self._identity, **self.counted(epoch, position)}

    def counted(self, epoch: int, position: int) -> dict[str, Any]:
        """Return what a state holds beside the place and what it is of. Raises OptionError where there is no such place."""
        counted = getattr(self.dataset, "counted", None)
        return {} if counted is None else dict(counted(self.seed, epoch, position))

    def in_batches(self, asked: Callable[[], tuple[int, int]]) -> Course:
        """Return the course for batches of a size on so many ranks, which the order of some datasets depends on. asked: gives both."""
        bound = getattr(self.dataset, "in_batches", None)
        return self if bound is None else self._of(bound(*asked()))

    def continued(self, state: Mapping[str, Any]) -> tuple[Course, int, int]:
        """Return what goes on from a state, and where: epoch and position. Raises OptionError where it is of something else."""
        continued = getattr(self.dataset, "continued", None)
        course = self
        if continued is not None:
            dataset, state = continued(state)
            course = self._of(dataset)
        return (course, *course._place_of(state))

    def _place_of(self, state: Mapping[str, Any]) -> tuple[int, int]:
        for name, expected in self._identity.items():
            if name not in state or state[name] != expected:
                what = _OTHERS.get(name, f"a dataset of another {name}")
                if name == "selection" and "weights" in state and "weights" not in self._identity:
                    what = "a dataset with weights"
                raise OptionError(f"the state is of {what}", expected=expected, found=state.get(name, "nothing"))
        epoch, position = (whole_number(name, state.get(name), least=0) for name in ("epoch", "position"))
        if position > self.rows:
            raise OptionError("the state cannot be", epoch=epoch, position=position, rows=self.rows)
        self.counted(epoch, position)
        return epoch, position

    def _of(self, dataset: Dataset) -> Course:
        return self if dataset is self.dataset else Course(dataset, self.seed, self.shuffle)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        try:  # as a checkpoint gives it back: tuples as lists
            whole = json.loads(json.dumps(dict(self.dataset.identity)))
            if not whole.keys().isdisjoint(("epoch", "position")):
                raise ValueError("`epoch` and `position`, which are the state's own")
        except (TypeError, ValueError) as error:
            raise OptionError("the identity of a dataset is a dict that fits into JSON", found=error) from None
        return {
            **whole,
            "selection": whole.get("selection", ""),  # always there: a state of some samples is not one of all
            "rows": self.rows,
            "seed": self.seed,
            "shuffle": str(self.shuffle) if isinstance(self.shuffle, Blocks) else self.shuffle,
        }


_OTHERS = {
    "fingerprint": "another store",
    "weights": "other weights",
    "selection": "another selection of anchors",
    "rows": "another number of rows",
    "seed": "another seed",
    "shuffle": "another order",
    "parts": "another mixture",
    "batches": "a mixture of other batches",
}
