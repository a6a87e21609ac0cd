"""The order of an epoch: a permutation for every number of rows, evenly random, and the same for ever; and how it is sharded.

`python tests/loader/test_order.py` writes golden_orders.json anew. It must never change once a version that has it is released:
checkpoints hold a position in these orders.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import OptionError
from vla_store.loader.order import Blocks, Order, Sharding
from vla_store.loader.permutation import SMALL_ROWS

GOLDEN = Path(__file__).with_name("golden_orders.json")
MASK = (1 << 64) - 1
LARGEST = 500_000_000

SHAPES = sorted(
    {
        *(2**k + d for k in range(12, 21) for d in (-1, 0, 1)),
        *(k * k + d for k in (64, 65, 100, 257, 1000) for d in (-1, 0, 1)),
        *(k * (k + 1) + d for k in (64, 99, 512) for d in (-1, 0, 1)),
        *(4_099, 65_537, 99_991, 1_000_003),
    }
)


# --- the same, one number after another ---------------------------------------------------------------------------------


def mix(value: int) -> int:
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


GAMMA = 0x9E3779B97F4A7C15


def naive_place(rows: int, seed: int, epoch: int, place: int) -> int:
    """Which row stands at a place, for orders of SMALL_ROWS and more."""
    base = mix(mix(seed & MASK) + epoch * GAMMA)
    width = math.isqrt(rows - 1) + 1
    height = -(-rows // width)
    while True:
        row, column = divmod(place, width)
        for number in range(8):
            key = mix(base + (number + 1) * GAMMA)
            if number % 2 == 0:
                column = (column + mix(row + key) % width) % width
            else:
                row = (row + mix(column + key) % height) % height
        place = row * width + column
        if place < rows:
            return place


def naive_small(rows: int, seed: int, epoch: int) -> list[int]:
    base = mix(mix(seed & MASK) + epoch * GAMMA)
    return sorted(range(rows), key=lambda row: (mix(base + (row + 1) * GAMMA), row))


@given(st.integers(SMALL_ROWS, LARGEST), st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.data())
def test_an_order_is_what_the_scalar_twin_says(rows: int, seed: int, epoch: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, rows - 1))
    stop = min(rows, place + 5)
    expected = [naive_place(rows, seed, epoch, each) for each in range(place, stop)]
    assert Order(rows, seed, epoch).take(place, stop).tolist() == expected


@given(st.integers(1, SMALL_ROWS - 1), st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_a_small_order_is_what_the_scalar_twin_says(rows: int, seed: int, epoch: int) -> None:
    assert Order(rows, seed, epoch).take(0, rows).tolist() == naive_small(rows, seed, epoch)


# --- every row once -----------------------------------------------------------------------------------------------------


def is_permutation(values: np.ndarray, rows: int) -> bool:
    return len(values) == rows and bool((np.bincount(values, minlength=rows) == 1).all())


def test_every_row_comes_once_for_every_number_of_rows_up_to_some_thousands() -> None:
    wrong = [rows for rows in range(1, 4_600) if not is_permutation(Order(rows, 7, rows % 5).take(0, rows), rows)]
    assert not wrong


@pytest.mark.parametrize("rows", SHAPES)
def test_every_row_comes_once_where_the_grid_has_an_odd_shape(rows: int) -> None:
    assert is_permutation(Order(rows, 1, 2).take(0, rows), rows)


@pytest.mark.parametrize("rows", [10_000_019, 123_456_789, 2**28 + 1, LARGEST])
def test_no_row_comes_twice_in_stretches_of_a_long_order(rows: int) -> None:
    starts = [0, 12_345, rows // 3, rows // 2, rows - 50_000]
    found = np.concatenate([Order(rows, 5, 6).take(start, min(rows, start + 50_000)) for start in starts])
    places = np.concatenate([np.arange(start, min(rows, start + 50_000)) for start in starts])
    assert len(np.unique(found)) == len(np.unique(places))
    assert found.min() >= 0
    assert found.max() < rows


@pytest.mark.campaign
def test_every_row_comes_once_in_an_order_of_twenty_million() -> None:
    rows = 20_000_003
    seen = np.zeros(rows, bool)
    for start in range(0, rows, 1 << 20):
        seen[Order(rows, 3, 9).take(start, min(rows, start + (1 << 20)))] = True
    assert seen.all()


@given(st.integers(1, 20_000), st.integers(0, 100), st.data())
def test_an_order_in_pieces_is_the_order(rows: int, seed: int, data: st.DataObject) -> None:
    order = Order(rows, seed, 1)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=6)))
    pieces = [order.take(start, stop) for start, stop in itertools.pairwise([0, *cuts, rows])]
    assert np.concatenate(pieces).tolist() == order.take(0, rows).tolist()


def test_without_shuffling_the_order_is_that_of_the_rows() -> None:
    assert Order(10_000, 1, 2, shuffle=False).take(4_000, 4_005).tolist() == [4_000, 4_001, 4_002, 4_003, 4_004]


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11)])
def test_a_stretch_outside_the_order_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="of an order of 10"):
        Order(10, 0, 0).take(start, stop)


def test_a_stretch_costs_memory_for_itself_and_not_for_the_order() -> None:
    import tracemalloc

    tracemalloc.start()
    Order(LARGEST, 1, 1).take(LARGEST // 2, LARGEST // 2 + 8_192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_192 * 8 * 20


# --- evenly random ------------------------------------------------------------------------------------------------------
# Seeds are fixed, so that these never fail by chance. The bounds: had the orders been drawn by chance, each of these tests
# would fail less than once in 100,000 times (4.75 standard deviations of a statistic that is close to normal: a sum of many
# terms). The generator of NumPy passes them too.

BOUND = 4.75
ROWS = [97, 1_000, 4_095, 4_096, 4_097, 5_000, 65_537]


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> int:
    """How many times more orders to look at: 10 with --campaign."""
    return 10 if request.config.getoption("--campaign") else 1


def orders(rows: int, epochs: int, seed: int = 11) -> list[np.ndarray]:
    return [Order(rows, seed, epoch).take(0, rows) for epoch in range(epochs)]


def z_of_chi_square(statistic: float, freedom: int) -> float:
    # Wilson and Hilferty: the cube root is nearly normal, also far out.
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def z_of_independence(one: np.ndarray, other: np.ndarray, bins: int) -> tuple[float, int]:
    """The chi-square statistic of two rankings of the same things, in bins, and its degrees of freedom."""
    rows = len(one)
    counts = np.zeros((bins, bins))
    np.add.at(counts, (one * bins // rows, other * bins // rows), 1)
    expected = np.outer(counts.sum(1), counts.sum(0)) / rows
    return float(((counts - expected) ** 2 / expected).sum()) * (rows - 1) / rows, (bins - 1) ** 2


@pytest.mark.parametrize("rows", ROWS)
def test_where_a_row_stands_says_nothing_about_which_it_is(rows: int, effort: int) -> None:
    bins = 5 if rows < 1_000 else 16
    found = [z_of_independence(np.arange(rows), order, bins) for order in orders(rows, 20 * effort)]
    assert abs(z_of_chi_square(sum(each for each, _ in found), sum(freedom for _, freedom in found))) < BOUND


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("distance", [1, 2, 64])
def test_a_row_says_nothing_about_one_that_comes_later(rows: int, distance: int, effort: int) -> None:
    bins = 5 if rows < 1_000 else 16
    statistic = freedom = 0.0
    for order in orders(rows, 8 * effort, seed=distance):
        ranks = np.argsort(np.argsort(order[:-distance])), np.argsort(np.argsort(order[distance:]))
        one, more = z_of_independence(*ranks, bins)
        statistic, freedom = statistic + one, freedom + more
    assert abs(z_of_chi_square(statistic, int(freedom))) < BOUND


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("step", ["epoch", "seed"])
def test_neighbouring_epochs_and_seeds_have_nothing_in_common(rows: int, step: str, effort: int) -> None:
    bins = 5 if rows < 1_000 else 16
    statistic, freedom = 0.0, 0
    for number in range(8 * effort):
        one = Order(rows, number, 0) if step == "seed" else Order(rows, 0, number)
        other = Order(rows, number + 1, 0) if step == "seed" else Order(rows, 0, number + 1)
        each, more = z_of_independence(one.take(0, rows), other.take(0, rows), bins)
        statistic, freedom = statistic + each, freedom + more
    assert abs(z_of_chi_square(statistic, freedom)) < BOUND


@pytest.mark.parametrize("rows", ROWS)
def test_fixed_rows_and_kept_neighbours_are_as_rare_as_by_chance(rows: int, effort: int) -> None:
    count = 50 * effort
    made = orders(rows, count)
    fixed = sum(int((order == np.arange(rows)).sum()) for order in made)
    together = sum(int((np.abs(np.diff(order)) == 1).sum()) for order in made)
    assert abs(fixed - count) / math.sqrt(count) < BOUND  # one an order, nearly as Poisson has it
    assert abs(together - 2 * count * (rows - 1) / rows) / math.sqrt(2 * count) < BOUND


@pytest.mark.parametrize("rows", [2, 3, 5, 6])
def test_every_order_of_a_few_rows_comes_equally_often(rows: int, effort: int) -> None:
    each_one = 30 * effort
    epochs = each_one * math.factorial(rows)
    counts: dict[tuple[int, ...], int] = dict.fromkeys(itertools.permutations(range(rows)), 0)
    for epoch in range(epochs):
        counts[tuple(Order(rows, 3, epoch).take(0, rows).tolist())] += 1
    statistic = sum((each - each_one) ** 2 / each_one for each in counts.values())
    assert abs(z_of_chi_square(statistic, math.factorial(rows) - 1)) < BOUND


@pytest.mark.parametrize("rows", [50, 4_096, 4_097, 1_000_003])
@pytest.mark.parametrize("place", [0, 1, 49])
def test_every_row_comes_first_equally_often(rows: int, place: int, effort: int) -> None:
    count = 800 * effort
    firsts = np.array([int(Order(rows, 0, epoch).take(place, place + 1)[0]) for epoch in range(count)])
    bins = min(rows, 40)
    counts = np.bincount(firsts * bins // rows, minlength=bins)
    sizes = np.bincount(np.arange(rows) * bins // rows, minlength=bins) if rows < 10_000 else np.full(bins, rows / bins)
    expected = count * sizes / rows
    assert abs(z_of_chi_square(float(((counts - expected) ** 2 / expected).sum()), bins - 1)) < BOUND


@pytest.mark.parametrize("rows", [10, 100, 1_000, 4_000])
def test_row_zero_does_not_come_first_for_seed_zero(rows: int) -> None:
    """It did: a hash of zero is zero."""
    assert Order(rows, 0, 0).take(0, 1)[0] != 0


def test_epochs_and_seeds_do_not_repeat_each_other() -> None:
    digests = {Order(500, seed, epoch).take(0, 500).tobytes() for seed in range(-20, 20) for epoch in range(40)}
    assert len(digests) == 40 * 40


# --- the same for ever --------------------------------------------------------------------------------------------------


def golden() -> list[dict[str, object]]:
    cases: list[tuple[int, int, int, bool | Blocks]] = [
        *itertools.product(
            (1, 2, 10, 4_095, 4_096, 4_097, 65_537, 1_000_003, LARGEST), (0, 1, -1, 2**63), (0, 1, 1000), (True,)
        ),
        *itertools.product(
            (1, 2, 100, 4_097, 65_537, 1_000_003, LARGEST - 1),
            (0, -1),
            (0, 1000),
            (Blocks(), Blocks(64, 64), Blocks(3, 7)),
        ),
    ]
    made: list[dict[str, object]] = []
    for rows, seed, epoch, shuffle in cases:
        order = Order(rows, seed, epoch, shuffle)
        middle = rows // 2
        whole = hashlib.sha256(order.take(0, rows).astype("<i8").tobytes()).hexdigest() if rows <= 65_537 else None
        made.append(
            {
                "rows": rows,
                "seed": seed,
                "epoch": epoch,
                **({"blocks": [shuffle.rows, shuffle.pool]} if isinstance(shuffle, Blocks) else {}),
                "first": order.take(0, min(rows, 8)).tolist(),
                "middle": order.take(middle, min(rows, middle + 4)).tolist(),
                "sha256": whole,
            }
        )
    return made


def test_orders_are_the_golden_ones() -> None:
    expected = json.loads(GOLDEN.read_text())
    assert len(expected) >= 100
    assert golden() == expected


# --- sharding -----------------------------------------------------------------------------------------------------------


def hand_out(sharding: Sharding, position: int, batches: int | None = None) -> tuple[list[list[tuple[int, int]]], int]:
    """[batch][rank] -> (start, stop) of the order, and the position after them."""
    made = []
    for _ in range(sharding.batches(position) if batches is None else batches):
        made.append([sharding.shard(position, rank) for rank in range(sharding.world_size)])
        position = sharding.end(position, 1)
    return made, position


def flat(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [place for ranks in batches for start, stop in ranks for place in range(start, stop)]


shardings = st.builds(
    lambda world, batch, more, drop: Sharding(world + more, batch, world, drop),
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(0, 700),
    st.booleans(),
)


def can_be_sharded(sharding: Sharding, position: int = 0) -> bool:
    left = sharding.rows - position
    return (
        sharding.drop_last
        or left == 0
        or (left >= sharding.world_size and (sharding.batch_size > 1 or not left % sharding.world_size))
    )


@given(shardings)
def test_ranks_get_disjoint_stretches_that_are_the_whole_order(sharding: Sharding) -> None:
    if not can_be_sharded(sharding):
        return
    batches, end = hand_out(sharding, 0)
    whole = sharding.batch_size * sharding.world_size
    kept = sharding.rows // whole * whole if sharding.drop_last else sharding.rows
    assert flat(batches) == list(range(kept))
    assert end == kept
    assert len(batches) == (sharding.rows // whole if sharding.drop_last else -(-sharding.rows // whole))


@given(shardings)
def test_every_rank_gets_rows_of_every_batch_and_never_too_many(sharding: Sharding) -> None:
    if not can_be_sharded(sharding):
        return
    batches, _ = hand_out(sharding, 0)
    sizes = [[stop - start for start, stop in ranks] for ranks in batches]
    assert all(1 <= size <= sharding.batch_size for ranks in sizes for size in ranks)
    assert all(max(ranks) - min(ranks) <= 1 for ranks in sizes)
    assert all(set(ranks) == {sharding.batch_size} for ranks in sizes[:-2])


@given(shardings)
def test_rank_r_takes_its_stretch_of_each_round(sharding: Sharding) -> None:
    batches = sharding.rows // (sharding.batch_size * sharding.world_size) - 1
    for number in range(batches):
        for rank in range(sharding.world_size):
            start = number * sharding.batch_size * sharding.world_size + rank * sharding.batch_size
            position = number * sharding.batch_size * sharding.world_size
            assert sharding.shard(position, rank) == (start, start + sharding.batch_size)


@given(shardings, st.integers(0, 40), st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_after_a_change_of_ranks_in_mid_epoch_every_row_comes_once(
    sharding: Sharding, cut: int, world_size: int, batch_size: int, drop_last: bool
) -> None:
    if not can_be_sharded(sharding):
        return
    before, position = hand_out(sharding, 0, min(cut, sharding.batches(0)))
    if sharding.rows < world_size:
        return
    other = Sharding(sharding.rows, batch_size, world_size, drop_last)
    if not can_be_sharded(other, position):
        with pytest.raises(OptionError, match="the last rows cannot be shared out"):
            other.batches(position)
        return
    after, end = hand_out(other, position)
    whole = batch_size * world_size
    kept = position + (sharding.rows - position) // whole * whole if drop_last else sharding.rows
    assert flat(before) + flat(after) == list(range(kept))
    assert end == kept


@given(shardings, st.integers(0, 40))
def test_the_rest_of_an_epoch_is_the_same_whether_it_was_interrupted_or_not(sharding: Sharding, cut: int) -> None:
    if not can_be_sharded(sharding):
        return
    whole, _ = hand_out(sharding, 0)
    cut = min(cut, len(whole))
    _, position = hand_out(sharding, 0, cut)
    assert hand_out(sharding, position)[0] == whole[cut:]
    assert sharding.batches(position) == len(whole) - cut


def test_fewer_rows_than_ranks_are_refused() -> None:
    with pytest.raises(OptionError, match="fewer rows than ranks"):
        Sharding(3, 1, 4)


def test_rows_that_cannot_be_shared_out_are_refused_with_the_way_out() -> None:
    with pytest.raises(OptionError, match="with batch_size=2 or more there are none"):
        Sharding(10, 1, 4).batches(0)
    assert Sharding(10, 1, 4, drop_last=True).batches(0) == 2
    assert Sharding(10, 2, 4).batches(0) == 2


if __name__ == "__main__":
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(each) for each in golden()) + "\n]\n")
