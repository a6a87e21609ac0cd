"""A mixture goes on where it stood when its weights, its parts, its batches or ranks were changed: nothing comes again, or is left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader.mixing import Numbers, given_by, ranks_of
from loader.serving import goes_on
from loader.test_state import can_be_sharded

import vla_store
from vla_store.errors import OptionError

ROWS = (23, 40, 7, 31)
NAMES = ("a", "b", "c", "d")
KEPT = ("part", "value", "name")


def mixed(weights: Sequence[int], kinds: Sequence[int] = (0, 1, 2), **options: Any) -> vla_store.Mixture:
    pairs = [(Numbers(kind, ROWS[kind]), weight) for kind, weight in zip(kinds, weights)]
    return vla_store.mixture(pairs, names=[NAMES[kind] for kind in kinds], **options)


def run_of(loaders: Sequence[Any], rounds: int, kinds: Sequence[int] = (0, 1, 2)) -> list[tuple[int, int]]:
    """(kind, its own sample) of so many batches of each rank, over epochs."""
    made: list[tuple[int, int]] = []
    while rounds:
        streams = [iter(each) for each in loaders]
        while rounds:
            got = given_by(streams, 1)
            if not got:
                break
            made += [(kinds[part], own) for part, own in got]
            rounds -= 1
    return made


def state_of(loaders: Sequence[Any]) -> dict[str, Any]:
    state, *others = [json.loads(json.dumps(each.epochs.state_dict(), sort_keys=True)) for each in loaders]
    assert all(other == state for other in others)
    return state


def check_enumerated(samples: list[tuple[int, int]]) -> None:
    """Each part's samples come once before any comes again, over all changes."""
    for kind, rows in enumerate(ROWS):
        own = [number for each, number in samples if each == kind]
        for start in range(0, len(own), rows):
            piece = own[start : start + rows]
            assert len(set(piece)) == len(piece)


def check_shares(samples: list[tuple[int, int]], weights: dict[int, int], run: int = 1) -> None:
    kinds = np.array([kind for kind, _ in samples])
    for kind, weight in weights.items():
        count = np.cumsum(kinds == kind)
        ideal = np.arange(1, len(kinds) + 1) * weight / sum(weights.values())
        assert (np.abs(count - ideal) < run + 1e-9).all()


WEIGHTS = st.tuples(*[st.integers(0, 5)] * 3).filter(any)


@goes_on
@settings(max_examples=25)
@given(
    weights=st.tuples(WEIGHTS, WEIGHTS),
    seed=st.integers(0, 99),
    worlds=st.tuples(*[st.integers(1, 3)] * 3),
    sizes=st.tuples(*[st.integers(3, 8)] * 3),
    rounds=st.tuples(*[st.integers(0, 9)] * 3),
)
def test_weights_may_change_in_mid_training(
    weights: tuple[Any, Any], seed: int, worlds: Any, sizes: Any, rounds: Any
) -> None:
    options = {"seed": seed}
    first = ranks_of(mixed(weights[0], epoch=60), worlds[0], batch_size=sizes[0], **options)
    taken = run_of(first, rounds[0])
    state = state_of(first)
    made = mixed(weights[1], epoch=45, reweighed=True)
    second = ranks_of(made, worlds[1], state, batch_size=sizes[1], **options)
    assert state_of(second)["given"] == state["given"]
    if not can_be_sharded(second[0], second[0].epochs.place[1]):
        return
    changed = run_of(second, rounds[1])
    check_shares(changed, dict(enumerate(weights[1])))
    # A state of after the change goes on exactly, with permission or without.
    rest = run_of(second, 9)
    again = mixed(weights[1], epoch=45, reweighed=bool(seed % 2))
    later = ranks_of(made, worlds[1], state, batch_size=sizes[1], **options)
    run_of(later, rounds[1])
    third = ranks_of(again, worlds[2], state_of(later), batch_size=sizes[2], **options)
    if not can_be_sharded(third[0], third[0].epochs.place[1]):
        return
    found = run_of(third, rounds[2])
    common = min(len(found), len(rest))
    if sizes[1] * worlds[1] == sizes[2] * worlds[2]:  # the same epochs' ends
        assert found[:common] == rest[:common]
    check_enumerated(taken + changed + found)
    check_enumerated(taken + changed + rest)


@goes_on
def test_parts_come_and_go_by_their_names() -> None:
    (first,) = ranks_of(mixed((2, 1), (0, 1), epoch=30), 1, batch_size=5)
    taken = run_of([first], 4, (0, 1))
    state = state_of([first])
    made = mixed((1, 1, 1), (3, 1, 2), epoch=30, reweighed=True)
    (second,) = ranks_of(made, 1, state, batch_size=5)
    assert state_of([second])["given"] == {"d": 0, "b": state["given"]["b"], "c": 0}
    changed = run_of([second], 10, (3, 1, 2))
    check_enumerated(taken + changed)
    check_shares(changed, {3: 1, 1: 1, 2: 1})
    # The order of the names makes none.
    (third,) = ranks_of(mixed((1, 1, 1), (1, 2, 3), epoch=30), 1, state_of([second]), batch_size=5)
    assert run_of([third], 10, (1, 2, 3)) == run_of([second], 10, (3, 1, 2))


def test_an_epoch_that_got_shorter_than_the_place_is_over() -> None:
    (first,) = ranks_of(mixed((1, 1, 1), epoch=60), 1, batch_size=10)
    run_of([first], 5)
    state = state_of([first])
    assert (state["epoch"], state["position"]) == (0, 50)
    for epoch, place in ((40, (1, 0)), (50, (1, 0)), (51, (0, 50)), (90, (0, 50))):
        (second,) = ranks_of(mixed((2, 1, 1), epoch=epoch, reweighed=True), 1, state, batch_size=10)
        assert second.epochs.place == place


def test_what_was_before_a_change_cannot_come_again() -> None:
    (first,) = ranks_of(mixed((1, 1, 1), epoch=30), 1, batch_size=10)
    run_of([first], 5)
    state = state_of([first])
    (second,) = ranks_of(mixed((2, 1, 1), epoch=30, reweighed=True), 1, state, batch_size=10)
    second.epochs.set_epoch(1)  # the loaded one
    assert second.epochs.place == (1, 20)
    run_of([second], 2)
    for epoch in (0, 1):
        with pytest.raises(OptionError, match="before the mixture was changed") as raised:
            second.epochs.set_epoch(epoch)
        assert raised.value.places["changed"] == "epoch 1, at row 20"
    second.epochs.set_epoch(2)
    with pytest.raises(OptionError, match="before the mixture was changed"):
        ranks_of(mixed((2, 1, 1), epoch=30), 1, {**state_of([second]), "epoch": 0}, batch_size=10)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (mixed((2, 1, 1), epoch=30), "with other shares"),
        (mixed((1, 1), (0, 1), epoch=30), "of other parts"),
        (mixed((1, 1, 1), epoch=31), "another number of rows"),
        (
            vla_store.mixture([Numbers(0, 23), Numbers(1, 41), Numbers(2, 7)], names=["a", "b", "c"], epoch=30),
            "another dataset",
        ),
        (
            vla_store.mixture(
                [(Numbers(0, 23), 2), Numbers(1, 41), Numbers(2, 7)], names=["a", "b", "c"], epoch=30, reweighed=True
            ),
            "another dataset",
        ),
        (Numbers(0, 30), "another kind"),
    ],
)
def test_a_state_of_another_mixture_is_refused(made: Any, text: str) -> None:
    (loader,) = ranks_of(mixed((1, 1, 1), epoch=30), 1, batch_size=10)
    with pytest.raises(OptionError, match=text):
        ranks_of(made, 1, state_of([loader]), batch_size=10)
    with pytest.raises(OptionError, match="another mixture"):
        ranks_of(mixed((1, 1, 1)), 1, ranks_of(Numbers(0, 30), 1, batch_size=5)[0].epochs.state_dict(), batch_size=5)


@pytest.mark.parametrize(
    "change",
    [
        {"given": {"a": -1}},
        {"given": 3},
        {"begins": [0]},
        {"begins": ["a", "b", {"a": 0, "b": 0, "c": 0}]},
        {"begins": [0, 0, {"a": "x", "b": 0, "c": 0}]},
        {"begins": [0, 0, {"a": 10**20, "b": 0, "c": 0}]},
        {"begins": [0, 0, {"a": 0}]},
        {"given": {}},
        {"position": "x"},
        {"epoch": 10**20},
        {"run": None},
        {"rows": "x"},
        {"parts": None},
        {"parts": {}},
        {"shares": {"a": "x"}},
        {"shares": {"a": 0, "b": 0, "c": 0}},
    ],
)
def test_a_state_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    (loader,) = ranks_of(mixed((1, 1, 1), epoch=30), 1, batch_size=10)
    for reweighed in (False, True):
        with pytest.raises(OptionError, match="the state cannot be"):
            ranks_of(
                mixed((1, 1, 1), epoch=30, reweighed=reweighed), 1, {**state_of([loader]), **change}, batch_size=10
            )


def test_an_epoch_is_no_larger_than_numbers_are() -> None:
    (loader,) = ranks_of(mixed((1, 1, 1), epoch=30), 1, batch_size=10)
    state = state_of([loader])
    with pytest.raises(OptionError, match="no such epoch"):
        ranks_of(mixed((1, 1, 1), epoch=30), 1, {**state, "epoch": 10**18}, batch_size=10)
    with pytest.raises(OptionError, match="no such epoch"):
        loader.epochs.set_epoch(10**20)
    # Of turns of two it goes on.
    ranks_of(mixed((1, 1, 1), epoch=30), 1, {**state, "run": 2}, batch_size=10)


def test_a_sampler_goes_on_after_a_change_too() -> None:
    pytest.importorskip("torch")
    from vla_store.torch import ShuffleSampler

    sampler = ShuffleSampler(mixed((1, 1, 1), epoch=30), seed=3)
    indices = iter(sampler)
    before = [next(indices) for _ in range(20)]
    made = mixed((3, 1, 0), epoch=30, reweighed=True)
    second = ShuffleSampler(made, seed=3)
    second.load_state_dict(sampler.state_dict())
    after = [*second, *second]
    assert len(after) == 40
    check_enumerated([(int(made.part_of([each])[0]), int(made[each]["value"]) % 1000) for each in before + after])
    passed = iter(ShuffleSampler(made, seed=3))  # as a StatefulDataLoader does it
    passed.load_state_dict(sampler.state_dict())
    assert list(passed) == after[:10]


# --- batches of one part ------------------------------------------------------------------------------------------------


class Others(Numbers):
    """Of another schema."""

    def __getitem__(self, index: int) -> Any:
        return {**super().__getitem__(index), "more": 0.5}

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        return {**super().batch(indices, empty=empty), "more": np.full(len(indices), 0.5)}


def by_part(weights: Sequence[int], **options: Any) -> vla_store.Mixture:
    pairs = [((Others if kind == 1 else Numbers)(kind, ROWS[kind]), weight) for kind, weight in enumerate(weights)]
    return vla_store.mixture(pairs, names=NAMES[: len(pairs)], batches="by_part", **options)


@goes_on
@settings(max_examples=25)
@given(
    weights=WEIGHTS,
    epoch=st.one_of(st.sampled_from(["largest", "smallest"]), st.integers(1, 99)),
    seed=st.integers(0, 99),
    worlds=st.tuples(*[st.integers(1, 3)] * 2),
    sizes=st.tuples(*[st.integers(1, 8)] * 2),
    rounds=st.tuples(*[st.integers(0, 9)] * 2),
    drop_last=st.booleans(),
)
def test_each_batch_is_of_one_part_and_another_size_goes_on_exactly(
    weights: tuple[int, ...], epoch: Any, seed: int, worlds: Any, sizes: Any, rounds: Any, drop_last: bool
) -> None:
    options = {"seed": seed, "drop_last": drop_last}
    first = ranks_of(by_part(weights, epoch=epoch), worlds[0], batch_size=sizes[0], **options)
    taken = run_of(first, rounds[0])
    check_batches(taken, sizes[0])
    check_shares(taken, dict(enumerate(weights)), sizes[0])
    state = state_of(first)
    second = ranks_of(by_part(weights, epoch=epoch), worlds[1], state, batch_size=sizes[1], **options)
    rest = run_of(second, rounds[1])
    check_batches(rest, sizes[1])
    check_shares(
        rest, dict(enumerate(weights)), 2 * sizes[1]
    )  # a stretch that began before, or with the first of these
    check_enumerated(taken + rest)
    if sizes[0] == sizes[1] and worlds[0] == worlds[1]:
        assert rest == run_of(first, rounds[1])
        check_shares(taken + rest, dict(enumerate(weights)), sizes[1])
    # And a state of that goes on exactly.
    later = run_of(second, 5)
    again = ranks_of(by_part(weights, epoch=epoch), worlds[1], state, batch_size=sizes[1], **options)
    run_of(again, rounds[1])
    third = ranks_of(by_part(weights, epoch=epoch), worlds[1], state_of(again), batch_size=sizes[1], **options)
    assert run_of(third, 5) == later


def check_batches(samples: list[tuple[int, int]], size: int) -> None:
    assert len(samples) % size == 0
    assert all(len({kind for kind, _ in samples[at : at + size]}) == 1 for at in range(0, len(samples), size))


def test_a_state_of_other_batches_or_another_epoch_is_refused() -> None:
    options = {"epoch": 16}
    (first,) = ranks_of(by_part((1, 1), **options), 1, batch_size=4)
    state = state_of([first])
    ranks_of(by_part((1, 1), epoch=np.int64(16)), 1, state, batch_size=8)  # of another size: it goes on
    whole = vla_store.mixture([Numbers(0, 23), Numbers(1, 40)], names=["a", "b"], **options)
    (plain,) = ranks_of(whole, 1, batch_size=4)
    for made, told in (
        (by_part((1, 1), epoch=24), state),
        (by_part((1, 1), **options), state_of([plain])),
        (whole, state),
    ):
        with pytest.raises(OptionError, match="of other batches, or with another epoch") as raised:
            ranks_of(made, 1, told, batch_size=4)
        assert "reweighed=True" in raised.value.hint
    run_of([first], 1)
    second = ranks_of(by_part((1, 1), epoch=24, reweighed=True), 1, state_of([first]), batch_size=4)
    assert state_of(second)["given"] == state_of([first])["given"]


def test_parts_of_other_schemas_go_by_part_alone() -> None:
    with pytest.raises(OptionError, match="do not fit"):
        vla_store.mixture([Numbers(0, 5), Others(1, 5)])
    dataset = by_part((1, 1))
    batches = list(ranks_of(dataset, 1, batch_size=4)[0])
    assert {("more" in each, int(each["part"][0])) for each in batches} == {(False, 0), (True, 1)}
    assert "each batch of one part" in repr(dataset)
    with pytest.raises(OptionError, match="no part of another"):
        vla_store.mixture([dataset], part=None)


def test_a_sampler_does_not_know_batches() -> None:
    pytest.importorskip("torch")
    from vla_store.torch import ShuffleSampler

    with pytest.raises(OptionError, match="for a Loader"):
        ShuffleSampler(by_part((1, 1)))


def test_ranks_that_change_in_a_pass_are_refused() -> None:
    from vla_store.loader.batches import Batches

    world = [1]
    batches = Batches(by_part((1, 1, 1)), batch_size=4, workers=0, ranks=lambda: (0, world[0]))
    world[0] = 2  # a process group that began before the first batch
    next(iter(batches))
    assert batches.epochs.rows % 8 == 0
    world[0] = 3
    with pytest.raises(OptionError, match="number of ranks changed"):
        batches.epochs.state_dict()
