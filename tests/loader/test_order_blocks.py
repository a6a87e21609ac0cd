"""The order in blocks: a permutation for every shape, the same as the plain reading of its definition, and what it says of its blocks."""

from __future__ import annotations

import itertools
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loader.test_order import BOUND, GAMMA, LARGEST, is_permutation, mix, z_of_chi_square, z_of_independence

from vla_store.errors import OptionError, UnknownName
from vla_store.loader.order import Blocks, Order, shuffle_of
from vla_store.loader.permutation import key_of, permuted, place_of

# Orders of one pool and of thousands; longer ones are only slower.
shapes = st.builds(Blocks, st.integers(1, 40), st.integers(1, 100))
in_blocks = st.builds(
    Order, st.integers(1, 4_000), st.integers(-(2**70), 2**70), st.integers(0, 2**40), shapes
)  # rows, seed, epoch, shuffle


def naive_pools(order: Order) -> list[tuple[list[range], np.ndarray]]:
    """For each pool its blocks and its rows as they come: with tables, where the order has arithmetic."""
    shape = order.shuffle
    assert isinstance(shape, Blocks)
    count = math.ceil(order.rows / shape.rows)
    blocks = [
        range(block * shape.rows, min(order.rows, (block + 1) * shape.rows))
        for block in Order(count, order.seed, order.epoch).take(0, count).tolist()
    ]
    key = mix(mix(order.seed) + order.epoch * GAMMA)
    pools = math.ceil(count / shape.pool)
    cuts = [math.ceil(number * count / pools) for number in range(pools + 1)]
    made = []
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        rows = np.concatenate([np.array(block) for block in blocks[start:stop]])
        made.append((blocks[start:stop], rows[Order(len(rows), key, number + 1).take(0, len(rows))]))
    return made


@given(in_blocks)
def test_it_is_what_its_definition_says(order: Order) -> None:
    expected = np.concatenate([rows for _, rows in naive_pools(order)])
    assert order.take(0, order.rows).tolist() == expected.tolist()


@given(in_blocks)
def test_every_row_comes_once(order: Order) -> None:
    assert is_permutation(order.take(0, order.rows), order.rows)


def test_every_row_comes_once_for_every_number_of_rows_up_to_some_hundreds() -> None:
    for shape in (Blocks(4, 5), Blocks(16, 8)):
        wrong = [
            rows for rows in range(1, 700) if not is_permutation(Order(rows, 7, rows % 5, shape).take(0, rows), rows)
        ]
        assert not wrong


@given(in_blocks, st.data())
def test_it_is_the_same_in_pieces(order: Order, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, order.rows), max_size=6)))
    pieces = [Order(*vars_of(order)).take(start, stop) for start, stop in itertools.pairwise([0, *cuts, order.rows])]
    assert np.concatenate(pieces).tolist() == order.take(0, order.rows).tolist()


def vars_of(order: Order) -> tuple[int, int, int, bool | Blocks]:
    return order.rows, order.seed, order.epoch, order.shuffle


@pytest.mark.parametrize("rows", [10_000_019, 123_456_789, 2**28 + 1, LARGEST])
def test_no_row_comes_twice_in_stretches_of_a_long_order(rows: int) -> None:
    order = Order(rows, 5, 6, Blocks())
    starts = [0, 12_345, rows // 3, rows // 2, rows - 50_000]
    found = np.concatenate([order.take(start, min(rows, start + 50_000)) for start in starts])
    places = np.concatenate([np.arange(start, min(rows, start + 50_000)) for start in starts])
    assert len(np.unique(found)) == len(np.unique(places))
    assert found.min() >= 0
    assert found.max() < rows


@given(st.integers(1, LARGEST), st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.data())
def test_the_place_of_a_value_is_where_it_stands(count: int, seed: int, number: int, data: st.DataObject) -> None:
    value, key = data.draw(st.integers(0, count - 1)), key_of(seed, number)
    place = place_of(value, count, key)
    assert permuted(np.array([place]), count, key).tolist() == [value]


def test_a_stretch_costs_memory_for_itself_and_a_pool_and_not_for_the_order() -> None:
    tracemalloc.start()
    Order(LARGEST - 1, 1, 1, Blocks()).take(LARGEST // 2, LARGEST // 2 + 8_192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (8_192 + 4_096) * 8 * 20


# --- what it says of its blocks -----------------------------------------------------------------------------------------


@given(in_blocks, st.data())
def test_the_unit_of_a_position_is_its_pool(order: Order, data: st.DataObject) -> None:
    sizes = [len(rows) for _, rows in naive_pools(order)]
    bounds = list(itertools.pairwise([0, *itertools.accumulate(sizes)]))
    position = data.draw(st.integers(0, order.rows - 1))
    assert order.unit(position) == next((start, stop) for start, stop in bounds if start <= position < stop)


@given(in_blocks)
def test_the_rows_of_a_pool_are_whole_blocks(order: Order) -> None:
    shape = order.shuffle
    assert isinstance(shape, Blocks)
    rows = np.sort(order.take(*order.unit(order.rows // 2)))
    blocks = np.unique(rows // shape.rows)
    assert len(blocks) <= shape.pool
    whole = (blocks[:, None] * shape.rows + np.arange(shape.rows)).reshape(-1)
    assert rows.tolist() == whole[whole < order.rows].tolist()


@pytest.mark.parametrize("shuffle", [True, False])
def test_in_other_orders_a_row_is_a_unit(shuffle: bool) -> None:
    assert Order(10_000, 1, 2, shuffle).unit(77) == (77, 78)


@pytest.mark.parametrize("shuffle", [True, Blocks()])
def test_positions_outside_the_order_are_refused(shuffle: bool | Blocks) -> None:
    order = Order(10, 0, 0, shuffle)
    for call in (lambda: order.unit(10), lambda: order.take(3, 2), lambda: order.take(0, 11)):
        with pytest.raises(ValueError, match="of an order of 10"):
            call()


# --- evenly random, with the bound of test_order.py ---------------------------------------------------------------------


def test_where_a_row_stands_in_its_pool_says_nothing_about_which_it_is() -> None:
    statistic = freedom = 0.0
    for epoch in range(8):
        order = Order(65_537, 11, epoch, Blocks())
        for start, stop in pools(order):
            one, more = z_of_independence(np.argsort(np.argsort(order.take(start, stop))), np.arange(stop - start), 16)
            statistic, freedom = statistic + one, freedom + more
    assert abs(z_of_chi_square(statistic, int(freedom))) < BOUND


@pytest.mark.parametrize("step", ["epoch", "pool"])
def test_neighbouring_epochs_and_pools_have_nothing_in_common(step: str) -> None:
    statistic = freedom = 0.0
    for epoch in range(8):
        order, other = (Order(16 * 4096, 11, each, Blocks()) for each in (epoch, epoch + 1))
        cuts = pools(order)  # all of 256 whole blocks
        for number, cut in enumerate(cuts):
            next_to = order.take(*cuts[number - 1]) if step == "pool" else other.take(*cut)
            ranks = (np.argsort(np.argsort(each)) for each in (order.take(*cut), next_to))
            one, more = z_of_independence(*ranks, 16)
            statistic, freedom = statistic + one, freedom + more
    assert abs(z_of_chi_square(statistic, int(freedom))) < BOUND


def test_pools_are_equal_so_that_none_at_the_end_is_mixed_badly() -> None:
    sizes = [stop - start for start, stop in pools(Order(257 * 16, 0, 0, Blocks()))]
    assert sizes == [129 * 16, 128 * 16]


def pools(order: Order) -> list[tuple[int, int]]:
    found, start = [], 0
    while start < order.rows:
        found.append(order.unit(start))
        start = found[-1][1]
    return found


# --- the option ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shuffle"),
    [
        ("blocks", Blocks(16, 256)),
        (Blocks(4, 5), Blocks(4, 5)),
        (True, True),
        (np.True_, True),
        (1, True),
        (False, False),
        (0, False),
        (None, False),
    ],
)
def test_an_option_is_an_order(given: object, shuffle: bool | Blocks) -> None:
    assert shuffle_of(given) == shuffle
    assert type(shuffle_of(given)) in (bool, Blocks)


def test_a_slip_is_refused_with_what_was_probably_meant() -> None:
    with pytest.raises(UnknownName, match=r"there is no order 'block'(?s:.*)did you mean 'blocks'\?"):
        shuffle_of("block")


@pytest.mark.parametrize("given", [2, 0.5, (16, 256), Blocks])
def test_what_is_no_order_is_refused_with_those_there_are(given: object) -> None:
    with pytest.raises(OptionError, match=r'shuffle is no order(?s:.*)shuffle="blocks"'):
        shuffle_of(given)


@pytest.mark.parametrize("options", [{"rows": 0}, {"pool": 0}, {"rows": 1.5}, {"pool": True}])
def test_blocks_of_no_size_are_refused(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(OptionError, match=rf"Blocks\({name}=\) is a whole number of at least 1"):
        Blocks(**options)  # type: ignore[arg-type]


def test_blocks_and_their_order_travel() -> None:
    order = Order(1_000, 1, 2, Blocks(np.int64(4), 8))
    order.take(0, 10)
    data = pickle.dumps(order)
    assert len(data) < 300  # a message that never blocks
    there = pickle.loads(data)
    assert there == order
    assert there.take(10, 20).tolist() == order.take(10, 20).tolist()
    assert type(there.shuffle.rows) is int
