"""The state machine of epochs and passes, against a model that says in a few lines what a user reads in the documentation."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule
from loader.serving import goes_on

from vla_store.errors import UsageError
from vla_store.loader.order import Order
from vla_store.loader.sampler import ShuffleSampler

ROWS = 4


class Nothing:
    """A dataset that is only counted."""

    identity: ClassVar = {"selection": "all"}
    batch = where = len

    def __len__(self) -> int:
        return ROWS


class Machine(RuleBasedStateMachine):
    states = Bundle("states")

    def __init__(self) -> None:
        super().__init__()
        dataset: Any = Nothing()
        self.sampler = ShuffleSampler(dataset, seed=1)
        self.passes: list[Any] = []
        self.at, self.loaded = (0, 0), False  # where the next pass begins, or the one that runs stands
        self.runs = False
        self.named: int | None = None  # the epoch that set_epoch named while a pass runs

    def leave(self, at: tuple[int, int], loaded: bool) -> None:
        """A pass is over: what was named meanwhile counts more."""
        self.at, self.loaded = (at, loaded) if self.named is None else ((self.named, 0), False)
        self.runs, self.named = False, None

    @rule()
    def new_pass(self) -> None:
        if self.runs:
            epoch, position = self.at
            self.leave(*(((epoch + 1, 0), False) if position == ROWS else (self.at, self.loaded)))
        self.passes.append(iter(self.sampler))

    @precondition(lambda self: self.passes)
    @rule()
    def ask(self) -> None:
        newest = self.passes[-1]
        if not newest._pass.is_live:
            with pytest.raises((StopIteration, UsageError)):
                next(newest)
            return
        self.runs = True
        epoch, position = self.at
        if position == ROWS:
            with pytest.raises(StopIteration):
                next(newest)
            self.leave((epoch + 1, 0), False)
        else:
            assert next(newest) == Order(ROWS, 1, epoch).take(position, position + 1)[0]
            self.at = epoch, position + 1

    @precondition(lambda self: len(self.passes) > 1)
    @rule(data=st.data())
    def ask_an_older_pass(self, data: Any) -> None:
        older = self.passes[data.draw(st.integers(0, len(self.passes) - 2))]
        with pytest.raises((StopIteration, UsageError)):
            next(older)

    @rule(epoch=st.integers(0, 2))
    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)
        if self.loaded and self.named is None and epoch == self.at[0]:
            return
        if self.runs:
            self.named = epoch
        else:
            self.at, self.loaded = (epoch, 0), False

    @rule(target=states)
    def save(self) -> Any:
        return multiple(self.sampler.state_dict())

    @rule(state=states)
    def load(self, state: Any) -> None:
        self.sampler.load_state_dict(state)
        self.at, self.loaded, self.runs, self.named = (state["epoch"], state["position"]), True, False, None

    @invariant()
    def stands_where_the_model_does(self) -> None:
        state = self.sampler.state_dict()
        assert (state["epoch"], state["position"]) == self.at


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestEpochs = goes_on(Machine.TestCase)
