"""The schedule of a mixture: shares within one turn at every prefix, the same for ever, and weights as they were written."""

from __future__ import annotations

import hashlib
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader.test_order import GAMMA, MASK, mix

from vla_store.errors import OptionError, UnknownName
from vla_store.loader.shares import LEAST, MOST_PERIOD, PERIOD, counts_of, epoch_length, table_of, tempered, weight_of

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any).map(tuple)


def naive_schedule(counts: tuple[int, ...], seed: int, places: int) -> list[int]:
    """The same, one place after another: of the parts whose next turn may come, the one whose turn must come first."""
    total = sum(counts)
    times = -(-LEAST // total)
    turns, period = [each * times for each in counts], total * times
    key = mix(mix(seed & MASK) + period * GAMMA)
    given, made = [0] * len(counts), []
    for place in range(places):
        waiting = []
        for part, turn in enumerate(turns):
            if turn and given[part] * period // turn <= place and given[part] < turn:
                due = -(-(given[part] + 1) * period // turn)
                number = sum(turns[:part]) + given[part]
                waiting.append((due, mix((number + 1) * GAMMA + key) >> 38, part))
        part = min(waiting)[2]
        given[part] += 1
        made.append(part)
    return made


@settings(max_examples=20)
@given(COUNTS, st.integers(-(2**70), 2**70))
def test_the_schedule_is_what_the_naive_twin_says(counts: tuple[int, ...], seed: int) -> None:
    assert table_of(counts, seed).part[:300].tolist() == naive_schedule(counts, seed, 300)


@settings(max_examples=20)
@given(COUNTS, st.integers(0, 2**40))
def test_every_prefix_has_each_share_within_one_turn(counts: tuple[int, ...], seed: int) -> None:
    table, total = table_of(counts, seed), sum(counts)
    places = np.arange(table.period + 1)
    for part, count in enumerate(counts):
        given = np.concatenate([[0], np.cumsum(table.part == part)])
        assert (np.abs(given * total - places * count) < total).all()  # in whole numbers: nothing is rounded
        assert given[-1] * total == table.period * count
        assert (table.number[table.part == part] == np.arange(given[-1])).all()


@settings(max_examples=20)
@given(COUNTS, st.integers(0, 9), st.integers(0, 3 * PERIOD), st.integers(0, 50))
def test_a_piece_of_the_schedule_is_that_of_the_whole(
    counts: tuple[int, ...], seed: int, start: int, length: int
) -> None:
    table = table_of(counts, seed)
    parts, numbers = table.take(start, start + length)
    assert parts.tolist() == [table.part[place % table.period] for place in range(start, start + length)]
    given = table.before(start)
    for part, number in zip(parts.tolist(), numbers.tolist()):
        assert number == given[part]
        given[part] += 1
    assert given.tolist() == table.before(start + length).tolist()


def test_a_schedule_stays_the_same_for_ever() -> None:
    """Checkpoints hold a position in it."""
    found = [table_of(counts, seed) for counts in ((1, 1), (5, 3, 1), (100_003, 2_003, 77, 1_000)) for seed in (0, 7)]
    digest = hashlib.sha256(b"".join(each.part.astype("<i8").tobytes() for each in found)).hexdigest()
    assert digest[:16] == "c54b9936579574dd"


def test_parts_of_one_share_do_not_follow_each_other_in_one_pattern() -> None:
    parts = table_of((1, 1), 0).part
    assert 0.4 < (parts[1:] == parts[:-1]).mean() * 2 < 0.6
    assert not (parts[:1000] == table_of((1, 1), 1).part[:1000]).all()


def shares(*weights: object) -> list[Fraction]:
    return [weight_of(each, "a part") for each in weights]


def test_weights_are_what_was_written() -> None:
    names = ["a", "b", "c"]
    assert counts_of(shares(0.1, 0.2, 0.7), names) == (1, 2, 7)
    assert counts_of(shares(3, 0, 0.5), names) == (6, 0, 1)
    assert counts_of(shares(np.float32(0.5), np.int64(1), Fraction(1, 3)), names) == (3, 6, 2)
    assert counts_of(shares(10**9, 10**9, 2 * 10**9), names) == (1, 1, 2)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50))
def test_weights_without_a_common_measure_are_the_nearest_that_have_one(weights: list[float]) -> None:
    exact = shares(*weights)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        counts = counts_of(exact, [str(each) for each in range(len(weights))])
    total = sum(counts)
    asked = [each / sum(exact) for each in exact]
    assert total <= MOST_PERIOD
    assert all(abs(Fraction(c, total) - share) < Fraction(1, PERIOD) for c, share in zip(counts, asked))
    far = [at for at, share in enumerate(asked) if abs(Fraction(counts[at], total) - share) > share / 100]
    assert len(told) == bool(far)
    assert all(f"'{at}' is" in str(told[0].message) for at in far[:10])


def test_small_shares_get_a_finer_measure_and_a_warning_where_that_is_not_near() -> None:
    names = ["a", "b", "c"]
    assert sum(counts_of(shares(1_000_003, 2_003, 1_001), names)) == 1 << 17
    assert counts_of(shares(5_000_000, 300, 60, 45), [*names, "d"]) == (1_000_000, 60, 12, 9)  # every step once
    with pytest.warns(UserWarning, match="'b' is 0.000858 %, and not 0.0009 %") as told:
        assert sum(counts_of(shares(5_000_003, 45, 301), names)) == MOST_PERIOD
    assert len(told) == 1


def test_a_long_schedule_keeps_its_shares_too() -> None:
    counts = (2**18 - 2_008, 2_001, 7)
    table = table_of(counts, 3)
    for part, count in enumerate(counts):
        given = np.cumsum(table.part == part)
        assert (np.abs(given * 2**18 - np.arange(1, 2**18 + 1) * count) < 2**18).all()


def test_a_temperature_makes_shares_more_equal() -> None:
    names = ["a", "b", "c"]
    assert tempered(shares(1, 4), 1, names) == [1, 4]
    one, four = tempered(shares(1, 4), 2, names)
    assert four / one == 2
    for infinite in (math.inf, 10**400):
        assert set(tempered(shares(1, 10**400), infinite, names)) == {1}
    assert float(tempered(shares(1, 10**400), 200, names)[0]) == pytest.approx(0.01)  # of a ratio that is no float
    assert tempered(shares(0, 3), 5, names)[0] == 0
    assert tempered(shares(3, 3), Fraction(1, 10**400), names) == [1, 1]


@pytest.mark.parametrize(
    ("weights", "temperature"),
    [((3, 1), 0.001), ((1000, 1), 0.009), ((1, Fraction(1, 10**330)), 0.5), ((2, 1), Fraction(1, 10**400))],
)
def test_a_part_that_a_temperature_leaves_nothing_is_refused(weights: tuple[object, ...], temperature: object) -> None:
    with pytest.raises(OptionError, match="too small") as raised:
        counts_of(tempered(shares(*weights), temperature, ["a", "rare"]), ["a", "rare"])
    assert raised.value.places["part"] == "rare"


@pytest.mark.parametrize(
    ("weights", "text"),
    [((1, -1), "at least 0"), ((1, float("nan")), "at least 0"), ((True, 1), "at least 0"), (("x", 1), "at least 0")],
)
def test_what_is_no_weight_is_refused(weights: tuple[object, ...], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        shares(*weights)


def test_weights_that_would_give_nothing_are_refused() -> None:
    with pytest.raises(OptionError, match="above 0"):
        counts_of(shares(0, 0), ["a", "b"])
    with pytest.raises(OptionError, match="too small") as raised:
        counts_of(shares(1, 1e-7), ["a", "rare"])
    assert raised.value.places["part"] == "rare"
    for temperature in (0, -1, float("nan"), None, True, np.complex128(1)):
        with pytest.raises(OptionError, match="temperature"):
            tempered(shares(1), temperature, ["a"])


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9)), min_size=1, max_size=5), st.data())
def test_an_epoch_is_until_the_largest_or_the_smallest_was_given(
    parts: list[tuple[int, int]], data: st.DataObject
) -> None:
    rows, counts = zip(*parts)
    if not any(counts):
        return
    run, ranks = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4))
    table = table_of(counts, 3)
    given = {name: epoch_length(name, rows, counts, run, ranks) for name in ("largest", "smallest")}
    assert all(each % (run * ranks) == 0 for each in given.values())
    largest = table.before(given["largest"] // run) * run
    assert all(n >= own for n, own, count in zip(largest, rows, counts) if count)
    smallest = table.before(given["smallest"] // run) * run
    if given["smallest"] > run * ranks:
        assert all(n <= own for n, own in zip(smallest, rows))
    assert epoch_length(run * ranks * 5 - run * ranks + 1, rows, counts, run, ranks) == run * ranks * 5


def test_an_epoch_that_cannot_be_is_refused() -> None:
    with pytest.raises(UnknownName, match="'biggest'"):
        epoch_length("biggest", (3,), (1,))
    for epoch in (0, -3, 1.5, None):
        with pytest.raises(OptionError):
            epoch_length(epoch, (3,), (1,))
