"""What a checkpoint holds, what counts as a pass, and that a resumed epoch is the exact rest of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loader import transforms
from loader.serving import first_rows, goes_on, ranks_of, rows_of, served

import vla_store
from vla_store.errors import OptionError, UsageError
from vla_store.loader.batches import Batches
from vla_store.loader.order import Blocks, Order


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> vla_store.Store:
    return vla_store.open_store(tiny_store)


@pytest.fixture
def batches(store: vla_store.Store) -> Batches:
    """100 rows in 10 batches."""
    return Batches(first_rows(store, 100), batch_size=10, workers=0, seed=5)


def order(epoch: int, rows: int = 100, seed: int = 5) -> list[int]:
    return Order(rows, seed, epoch).take(0, rows).tolist()


def flat(lists: list[list[int]]) -> list[int]:
    return [each for one in lists for each in one]


def position(batches: Batches) -> tuple[int, int]:
    return batches.epochs.place


# --- resuming -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:drop_last leaves out all of the")
@given(
    rows=st.integers(1, 137),
    world_sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(-(2**65), 2**65),
    epoch=st.integers(0, 10**6),
    cut=st.integers(0, 12),
    drop_last=st.booleans(),
    shuffle=st.sampled_from([True, False, Blocks(), Blocks(3, 4)]),
)
def test_a_resumed_epoch_is_the_rest_of_it_whatever_the_ranks_and_batch_sizes(
    store: vla_store.Store,
    rows: int,
    world_sizes: tuple[int, int],
    sizes: tuple[int, int],
    seed: int,
    epoch: int,
    cut: int,
    drop_last: bool,
    shuffle: bool | Blocks,
) -> None:
    samples = first_rows(store, rows)
    options = {"seed": seed, "drop_last": drop_last, "shuffle": shuffle}
    before = ranks_of(samples, world_sizes[0], batch_size=sizes[0], **options)
    for each in before:
        each.epochs.set_epoch(epoch)
    if not can_be_sharded(before[0], 0):
        return
    taken = interleaved([iter(each) for each in before], cut)
    states = [each.epochs.state_dict() for each in before]
    assert all(state == states[0] for state in states)
    expected = Order(rows, seed, epoch, shuffle).take(0, rows).tolist()
    if states[0]["epoch"] != epoch:  # it was over
        assert (states[0]["epoch"], states[0]["position"]) == (epoch + 1, 0)
        assert taken == expected[: kept(0, rows, world_sizes[0] * sizes[0], drop_last)]
        return
    position = states[0]["position"]
    assert taken == expected[:position]
    after = ranks_of(samples, world_sizes[1], json.loads(json.dumps(states[0])), batch_size=sizes[1], **options)
    if can_be_sharded(after[0], position):
        rest = interleaved([iter(each) for each in after], None)
        assert rest == expected[position : kept(position, rows, world_sizes[1] * sizes[1], drop_last)]


def kept(position: int, rows: int, whole: int, drop_last: bool) -> int:
    """Where an epoch ends that goes on at a position with so many rows a round."""
    return position + (rows - position) // whole * whole if drop_last else rows


def can_be_sharded(batches: Batches, position: int) -> bool:
    try:
        batches.sharding().batches(position)
    except OptionError:
        return False
    return True


def interleaved(streams: list[Iterator[Any]], count: int | None) -> list[int]:
    """The rows of so many batches of all ranks, as the global order has them: every rank gives as many batches."""
    found = [served(stream, count) for stream in streams]
    assert len({len(each) for each in found}) == 1
    return flat([batch for together in zip(*found) for batch in together])


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("cut", [0, 1, 4, 10])
def test_a_resumed_epoch_is_the_rest_of_it_whatever_the_workers(store: vla_store.Store, workers: int, cut: int) -> None:
    samples = first_rows(store, 100)
    first = Batches(samples, batch_size=10, workers=workers, seed=5)
    taken = flat(served(iter(first), cut))
    state = first.epochs.state_dict()  # though workers are batches ahead
    first.close()
    second = Batches(samples, batch_size=7, workers=workers % 3, seed=5)
    second.epochs.load_state_dict(state)
    rest = flat(served(iter(second)))
    second.close()
    assert taken == order(0)[: 10 * cut]
    assert rest == order(0)[10 * cut :]


# --- what counts as a pass ----------------------------------------------------------------------------------------------


def test_each_pass_is_the_next_epoch(batches: Batches) -> None:
    assert [flat(served(iter(batches))) for _ in range(3)] == [order(0), order(1), order(2)]


def test_a_pass_that_gave_no_batch_does_not_count(batches: Batches) -> None:
    for _ in range(5):
        iter(batches)
    assert flat(served(iter(batches), 1)) == order(0)[:10]


def test_a_pass_that_failed_before_its_first_batch_does_not_count(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=10, workers=0, seed=5, transform=fails_once(0))
    with pytest.raises(vla_store.VlaStoreError):
        next(iter(batches))
    assert flat(served(iter(batches))) == order(0)


def test_a_pass_that_failed_goes_on_with_the_batch_that_was_not_given(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=10, workers=0, seed=5, transform=fails_once(34))
    stream = iter(batches)
    given = flat(served(stream, 3))
    with pytest.raises(vla_store.VlaStoreError):
        next(stream)
    for _ in range(2):
        with pytest.raises(UsageError, match="because of the error that was raised before"):
            next(stream)
    assert position(batches) == (0, 30)
    assert given + flat(served(iter(batches))) == order(0)


def fails_once(call: int) -> Any:
    left = iter([False] * call + [True])

    def transform(sample: Any) -> Any:
        if next(left, False):
            raise RuntimeError("once")
        return sample

    return transform


@goes_on
def test_a_new_pass_cuts_the_one_before_and_goes_on_where_it_stood(batches: Batches) -> None:
    first = iter(batches)
    next(first)
    second = iter(batches)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"because a newer pass began(.|\n)*0, at row 10 of 100(.|\n)*peek\(\)"):
            next(first)
        assert flat(served(second, 1))
    assert flat(served(second)) == order(0)[30:]
    assert flat(served(iter(batches), 1)) == order(1)[:10]


def test_a_new_iter_ends_the_pass_before_at_once(batches: Batches) -> None:
    """And not at its first batch: there is one position, and it must be somebody's."""
    first = iter(batches)
    next(first)
    iter(batches)
    with pytest.raises(UsageError, match="a newer pass began"):
        next(first)
    assert position(batches) == (0, 10)


def test_zipping_a_loader_with_itself_is_an_error_and_takes_nothing(batches: Batches) -> None:
    with pytest.raises(UsageError, match="two passes at a time need two Loaders"):
        list(zip(batches, batches))
    assert flat(served(iter(batches))) == order(0)


@goes_on
def test_a_pass_inside_a_pass_takes_what_is_left_and_the_outer_one_says_so(batches: Batches) -> None:
    outer = iter(batches)
    taken = flat(served(outer, 3))
    inner = flat(served(iter(batches)))
    with pytest.raises(UsageError, match="a newer pass began"):
        next(outer)
    assert taken + inner == order(0)
    assert position(batches) == (1, 0)


@goes_on
@pytest.mark.parametrize("limit", [1, 3, 10, 11])
def test_passes_that_are_left_after_some_batches_give_every_row_of_every_epoch(batches: Batches, limit: int) -> None:
    """`for step, batch in enumerate(loader): if step == limit: break` trains on all of the data, and never twice the same."""
    found: list[int] = []
    while len(found) < 200:
        found += flat(served(iter(batches), limit))
    assert found == order(0) + order(1)


def test_a_pass_that_gave_its_last_batch_is_an_epoch_though_its_end_was_not_seen(batches: Batches) -> None:
    for epoch in range(2):
        assert flat(served(iter(batches), 10)) == order(epoch)


def test_so_is_one_whose_last_rows_are_dropped(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=30, workers=0, seed=5, drop_last=True)
    for epoch in range(2):
        assert flat(served(iter(batches), 3)) == order(epoch)[:90]


def test_a_pass_that_goes_on_says_so_once_with_its_place(batches: Batches) -> None:
    next(iter(batches))
    with pytest.warns(RuntimeWarning, match=r"goes on where that stood \(epoch 0, row 10 of 100\)") as said:
        next(iter(batches))
    next(iter(batches))  # and not again: a warning is an error here
    assert [each.filename for each in said] == [__file__]
    assert position(batches) == (0, 30)


@pytest.mark.parametrize("epoch", [0, 4])
def test_who_names_the_epoch_before_each_pass_begins_it_anew_and_hears_nothing(batches: Batches, epoch: int) -> None:
    """As Lightning does, before its sanity check and before each evaluation."""
    for _ in range(3):
        batches.epochs.set_epoch(epoch)
        assert flat(served(iter(batches), 2)) == order(epoch)[:20]


@goes_on
def test_an_error_of_the_loops_body_costs_no_batch(batches: Batches) -> None:
    found: list[int] = []
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError):
            for batch in batches:
                found += rows_of(batch, batches.dataset.store)
                if len(found) == 40:
                    raise ZeroDivisionError
    assert found == order(0)


@goes_on
def test_a_look_at_a_batch_after_loading_costs_that_batch_alone(batches: Batches) -> None:
    batches.epochs.load_state_dict(batches.epochs.state_at(3, 40))
    seen = flat(served(iter(batches), 1))
    batches.epochs.set_epoch(3)  # a trainer names its epoch
    assert seen + flat(served(iter(batches))) == order(3)[40:]
    assert position(batches) == (4, 0)


@goes_on
def test_ranks_that_leave_their_passes_alike_go_on_alike(store: vla_store.Store) -> None:
    ranks = ranks_of(first_rows(store, 100), 3, batch_size=7, seed=5)
    found: list[int] = []
    while ranks[0].epochs.state_dict()["epoch"] == 0:
        if len(found) > 40:
            ranks[1].next_batch()  # on one rank alone
        found += interleaved([iter(each) for each in ranks], 2)
        assert len({each.epochs.place for each in ranks}) == 1
        if len(found) >= 100:
            break
    assert found[:100] == order(0)


def test_an_epoch_of_which_nothing_is_left_says_so(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 20), batch_size=30, workers=0, drop_last=True)
    with pytest.warns(UserWarning, match="drop_last leaves out all of the 20 rows") as said:
        assert list(batches) == []
    assert said[0].filename == __file__
    with pytest.raises(OptionError, match="there is no batch"):
        batches.next_batch()


# --- peek ---------------------------------------------------------------------------------------------------------------


def peeked(batches: Batches) -> list[int]:
    return rows_of(batches.next_batch()[0], batches.dataset.store)


def test_a_peek_is_the_batch_that_comes_and_takes_nothing(batches: Batches) -> None:
    assert peeked(batches) == peeked(batches) == order(0)[:10]
    stream, found = iter(batches), []
    for number in range(9):
        assert peeked(batches) == order(0)[10 * number : 10 * number + 10]
        found += flat(served(stream, 1))
    assert found + flat(served(stream)) == order(0)
    assert peeked(batches) == order(1)[:10]
    assert batches.counts.batches == 10


def test_a_peek_after_the_last_batch_is_of_the_next_epoch(batches: Batches) -> None:
    stream = iter(batches)
    served(stream, 10)
    assert peeked(batches) == order(1)[:10]
    assert list(stream) == []
    assert flat(served(iter(batches), 1)) == order(1)[:10]


def test_a_peek_leaves_a_loaded_position_alone(batches: Batches) -> None:
    batches.epochs.load_state_dict(batches.epochs.state_at(3, 40))
    assert peeked(batches) == order(3)[40:50]
    batches.epochs.set_epoch(3)
    assert flat(served(iter(batches))) == order(3)[40:]


def test_a_peek_is_of_the_rank_and_of_the_generator_of_its_place(store: vla_store.Store) -> None:
    options = {"batch_size": 10, "workers": 0, "transform": transforms.noise, "ranks": lambda: (1, 3)}
    batches = Batches(first_rows(store, 100), **options)
    stream = iter(batches)
    next(stream)
    seen = batches.next_batch()[0]["noise"]
    assert seen.tolist() == next(stream)["noise"].tolist()


def test_a_pass_that_was_closed_goes_on_where_it_stood(batches: Batches) -> None:
    next(iter(batches))
    batches.close()
    assert position(batches) == (0, 10)
    assert flat(served(iter(batches))) == order(0)[10:]


def test_position_counts_what_next_gave_and_an_end_is_the_next_beginning(batches: Batches) -> None:
    stream = iter(batches)
    assert position(batches) == (0, 0)
    for number in range(1, 11):
        next(stream)
        assert position(batches) == (0, 10 * number)
    assert list(stream) == []
    assert position(batches) == (1, 0)


def test_a_state_at_the_end_of_an_epoch_gives_its_end_and_then_the_next_epoch(batches: Batches) -> None:
    stream = iter(batches)
    served(stream, 10)
    state = batches.epochs.state_dict()
    batches.epochs.load_state_dict(state)
    assert served(iter(batches)) == []
    assert flat(served(iter(batches))) == order(1)


def test_len_is_of_the_whole_epoch_also_when_resumed(batches: Batches) -> None:
    next(iter(batches))
    batches.epochs.load_state_dict(batches.epochs.state_dict())
    assert len(batches) == 10


# --- set_epoch ----------------------------------------------------------------------------------------------------------


def test_set_epoch_names_the_epoch(batches: Batches) -> None:
    batches.epochs.set_epoch(7)
    assert flat(served(iter(batches))) == order(7)
    assert flat(served(iter(batches))) == order(8)


def test_set_epoch_keeps_a_position_that_was_loaded_for_that_epoch(batches: Batches) -> None:
    batches.epochs.load_state_dict(batches.epochs.state_at(3, 40))
    batches.epochs.set_epoch(3)
    batches.epochs.set_epoch(3)
    assert flat(served(iter(batches))) == order(3)[40:]


def test_set_epoch_of_another_epoch_drops_a_position_that_was_loaded(batches: Batches) -> None:
    batches.epochs.load_state_dict(batches.epochs.state_at(3, 40))
    batches.epochs.set_epoch(4)
    batches.epochs.set_epoch(3)
    assert flat(served(iter(batches))) == order(3)


def test_set_epoch_of_the_epoch_that_stood_still_begins_it_anew(batches: Batches) -> None:
    next(iter(batches))
    batches.close()
    batches.epochs.set_epoch(0)
    assert flat(served(iter(batches))) == order(0)


def test_set_epoch_during_a_pass_is_for_the_next_one(batches: Batches) -> None:
    stream = iter(batches)
    next(stream)
    batches.epochs.set_epoch(9)
    assert position(batches) == (0, 10)
    assert flat(served(stream)) == order(0)[10:]
    assert flat(served(iter(batches), 1)) == order(9)[:10]


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", None, True])
def test_an_epoch_that_cannot_be_is_refused(batches: Batches, epoch: Any) -> None:
    with pytest.raises(OptionError, match="epoch is a whole number"):
        batches.epochs.set_epoch(epoch)


# --- loading ------------------------------------------------------------------------------------------------------------


def test_lightnings_order_iter_load_iter_set_epoch_next_resumes_exactly(batches: Batches) -> None:
    stream = iter(batches)
    served(stream, 4)
    state = batches.epochs.state_dict()
    fresh = Batches(batches.dataset, batch_size=10, workers=0, seed=5)
    iter(fresh)
    fresh.epochs.load_state_dict(state)
    stream = iter(fresh)
    fresh.epochs.set_epoch(0)
    assert flat(served(stream)) == order(0)[40:]


def test_epoch_and_position_are_settled_at_the_first_next(batches: Batches) -> None:
    stream = iter(batches)
    batches.epochs.load_state_dict(batches.epochs.state_at(2, 50))
    assert flat(served(stream)) == order(2)[50:]


def test_loading_in_the_middle_of_a_pass_ends_it(batches: Batches) -> None:
    stream = iter(batches)
    next(stream)
    batches.epochs.load_state_dict(batches.epochs.state_at(2, 50))
    with pytest.raises(UsageError, match="because load_state_dict was called"):
        next(stream)
    assert flat(served(iter(batches))) == order(2)[50:]


def test_a_state_is_small_and_plain_and_the_same_at_any_batch_size(store: vla_store.Store) -> None:
    states = []
    for size in (10, 5):
        batches = Batches(first_rows(store, 100), batch_size=size, workers=0, seed=5)
        served(iter(batches), 50 // size)
        states.append(batches.epochs.state_dict())
    assert states[0] == states[1]
    assert len(json.dumps(states[0])) < 500
    assert {type(each) for each in states[0].values()} <= {int, str, bool}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fingerprint": "0" * 64}, "another store"),
        ({"selection": "0" * 64}, "another selection"),
        ({"rows": 99}, "another number of rows"),
        ({"seed": 6}, "another seed"),
        ({"shuffle": False}, "another order"),
        ({"shuffle": "blocks of 16 rows in pools of 256"}, "another order"),
    ],
)
def test_a_state_of_something_else_is_refused(batches: Batches, change: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        batches.epochs.load_state_dict({**batches.epochs.state_dict(), **change})


def test_a_state_of_other_blocks_is_refused_and_one_of_the_same_goes_on(store: vla_store.Store) -> None:
    one, same, other = (
        Batches(first_rows(store, 100), batch_size=10, workers=0, shuffle=shuffle)
        for shuffle in ("blocks", Blocks(16, 256), Blocks(16, 255))
    )
    taken = served(iter(one), 4)
    state = json.loads(json.dumps(one.epochs.state_dict()))
    same.epochs.load_state_dict(state)
    assert sorted(flat(taken + served(iter(same)))) == list(range(100))
    told = r"another order\n.*blocks of 16 rows in pools of 255\n.*blocks of 16 rows in pools of 256$"
    with pytest.raises(OptionError, match=told):
        other.epochs.load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"epoch": -1}, {"position": 101}, {"position": -1}, {"position": "5"}, {"epoch": None}]
)
def test_a_state_that_cannot_be_is_refused_and_changes_nothing(batches: Batches, change: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        batches.epochs.load_state_dict({**batches.epochs.state_dict(), **change})
    assert flat(served(iter(batches))) == order(0)


def test_a_state_that_lacks_something_is_refused(batches: Batches) -> None:
    with pytest.raises(OptionError, match="another store"):
        batches.epochs.load_state_dict({"epoch": 0, "position": 0})


def test_another_store_or_selection_is_another_identity(store: vla_store.Store, tiny_stores: dict[str, Path]) -> None:
    def identity(samples: vla_store.Samples) -> tuple[str, str]:
        return samples.identity["fingerprint"], samples.identity["selection"]

    windows = {"actions": 0}
    whole = identity(vla_store.Samples(store, windows=windows))
    assert identity(vla_store.Samples(tiny_stores["small"], windows=windows)) == whole  # the same content
    others = [
        vla_store.Samples(store, windows=windows, suites="libero_spatial"),
        vla_store.Samples(store, windows=windows, episodes=[0]),
        vla_store.Samples(store, windows=windows, rows=range(5)),
        vla_store.Samples(store, windows=windows, rows=range(5)[::-1]),
        vla_store.Samples(store, windows=windows, alignment="causal"),
    ]
    assert len({whole, *map(identity, others)}) == 6


def test_how_a_store_is_cut_into_parts_does_not_change_what_a_selection_is(
    store: vla_store.Store, tmp_path: Path
) -> None:
    from reader.conftest import merged

    cut = vla_store.open_store(merged(tmp_path / "cut.vla", [Path(store.url)], copies=2))
    windows = {"actions": 0}
    halves = vla_store.Samples(cut, windows=windows)
    spans = [len(part._part) for part in (halves._anchors,)]
    assert spans == [2]
    whole = vla_store.Samples(store, windows=windows)
    half = vla_store.Samples(cut, windows=windows, episodes=range(len(store.episodes)))
    assert half.identity["selection"] == whole.identity["selection"]
    assert halves.identity["selection"] != half.identity["selection"]


def test_the_digest_of_a_selection_is_computed_once(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    first = batches.epochs.state_dict()
    monkeypatch.setattr(vla_store.Samples, "identity", None)
    assert batches.epochs.state_dict() == first


# --- ranks --------------------------------------------------------------------------------------------------------------


def test_ranks_that_cannot_get_a_row_each_are_refused_and_nothing_has_begun(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 3), batch_size=2, workers=0, ranks=lambda: (0, 4))
    for _ in range(2):
        with pytest.raises(OptionError, match="fewer rows than ranks"):
            next(iter(batches))
    assert position(batches) == (0, 0)


@pytest.mark.parametrize("ranks", [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(store: vla_store.Store, ranks: tuple[int, int]) -> None:
    batches = Batches(first_rows(store, 30), batch_size=2, workers=0, ranks=lambda: ranks)
    with pytest.raises(OptionError, match="rank lies outside the world"):
        next(iter(batches))


def test_ranks_are_asked_at_the_first_batch_of_each_pass(store: vla_store.Store) -> None:
    world = {"ranks": (0, 1)}
    batches = Batches(first_rows(store, 40), batch_size=10, workers=0, ranks=lambda: world["ranks"])
    stream = iter(batches)
    world["ranks"] = (1, 2)
    first = order(0, 40, 0)
    assert served(stream) == [first[10:20], first[30:40]]
