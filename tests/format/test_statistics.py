"""Statistics against a naive statement of their rule, in fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_store.errors import StoreDamaged
from vla_store.format import canonical, statistics
from vla_store.format.codecs import NONE
from vla_store.format.schema import Field, PartDocument, Source
from vla_store.format.statistics import (
    FieldStatistics,
    PartNumbers,
    field_statistics,
    order_statistic,
    store_statistics,
)

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


def spans_of(lengths: list[int]) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(lengths))
    return [(end - length, end) for end, length in zip(ends, lengths)]


def same(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


@st.composite
def columns(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[int, int]]]:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    return draw(hnp.arrays(np.float64, sum(lengths), elements=FLOATS)), spans_of(lengths)


@given(columns())
def test_sums_are_exact_per_episode_and_then_over_episodes(made: tuple[np.ndarray, list[tuple[int, int]]]) -> None:
    column, spans = made
    found = field_statistics(column, spans)
    per_episode = [float(sum(Fraction(x) for x in column[a:b].tolist())) for a, b in spans]
    mean = float(sum(Fraction(x) for x in per_episode)) / len(column)
    assert found.mean[()] == mean
    # A product: Python's ** 2 calls pow, which may be off in the last bit.
    squares = [float(sum(Fraction((x - mean) * (x - mean)) for x in column[a:b].tolist())) for a, b in spans]
    assert found.std[()] == math.sqrt(float(sum(Fraction(x) for x in squares)) / len(column))
    assert (found.min[()], found.max[()]) == (min(column.tolist()), max(column.tolist()))
    assert (found.count[()], found.nan[()], found.infinite[()]) == (len(column), 0, 0)


@given(columns())
def test_statistics_are_near_numpy_s(made: tuple[np.ndarray, list[tuple[int, int]]]) -> None:
    column, spans = made
    found = field_statistics(column, spans)
    for ours, theirs in (
        (found.mean, column.mean()),
        (found.std, column.std()),
        (found.q01, np.quantile(column, 0.01, method="linear")),
        (found.q99, np.quantile(column, 0.99, method="linear")),
    ):
        assert math.isclose(float(ours), theirs, rel_tol=1e-9, abs_tol=1e-6)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=FLOATS), st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.99, 1.0]))
def test_a_quantile_lies_where_the_rule_says(values: np.ndarray, q: float) -> None:
    ordered = np.sort(values)
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    a, b = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    found = order_statistic(ordered, q)
    assert a <= found <= b or math.isclose(found, b)
    assert found == (a if place == below else a + (b - a) * (place - below))


def test_a_quantile_at_a_place_is_the_value_there_whatever_stands_beside_it() -> None:
    assert order_statistic(np.array([1.0, math.inf]), 0.0) == 1.0
    assert order_statistic(np.array([math.inf, math.inf]), 0.5) == math.inf
    assert order_statistic(np.array([-math.inf, 1.0]), 1.0) == 1.0
    assert order_statistic(np.array([7.0]), 0.99) == 7.0


@given(columns(), st.data())
def test_what_is_not_finite_is_counted_and_left_out(
    made: tuple[np.ndarray, list[tuple[int, int]]], data: st.DataObject
) -> None:
    column, spans = made
    junk = data.draw(hnp.arrays(np.float64, len(column), elements=st.sampled_from([0.0, np.nan, np.inf, -np.inf])))
    holes = junk != 0
    found = field_statistics(np.where(holes, junk, column), spans)
    kept_spans = spans_of([int((~holes[a:b]).sum()) for a, b in spans])
    assert found.nan[()] == sum(map(math.isnan, junk.tolist()))
    assert found.infinite[()] == sum(map(math.isinf, junk.tolist()))
    if holes.all():
        assert found.count[()] == 0
        assert all(np.isnan(x) for x in (found.min, found.max, found.mean, found.std, found.q01, found.q99))
        return
    left = field_statistics(column[~holes], kept_spans)
    assert all(same(getattr(found, key), getattr(left, key)) for key in ("count", *statistics.FLOATS))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 1.0], {"min": 1.0, "max": 1.0, "mean": 1.0, "std": 0.0}),
        ([-math.inf, math.inf], {"min": math.nan, "max": math.nan, "mean": math.nan, "std": math.nan}),
        ([1e308, 1e308], {"min": 1e308, "max": 1e308, "mean": math.nan, "std": math.nan}),
        ([1e200, -1e200], {"min": -1e200, "max": 1e200, "mean": 0.0, "std": math.inf}),
        ([5e-324], {"min": 5e-324, "max": 5e-324, "mean": 5e-324, "std": 0.0, "q01": 5e-324, "q99": 5e-324}),
        ([math.inf, 2.0, -math.inf], {"q01": 2.0, "q99": 2.0}),
    ],
    ids=str,
)
def test_infinities_and_overflow_have_stated_results(values: list[float], expected: dict[str, float]) -> None:
    found = field_statistics(np.array(values), [(0, len(values))])
    for key, value in expected.items():
        assert same(getattr(found, key), np.float64(value)) or (
            math.isnan(value) and math.isnan(getattr(found, key)[()])
        ), key


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300), st.integers(1, 40))
def test_a_constant_column_is_its_own_quantiles_and_extremes(value: float, count: int) -> None:
    found = field_statistics(np.full(count, value), [(0, count)])
    assert found.min[()] == found.max[()] == found.q01[()] == found.q99[()] == value


@given(hnp.arrays(np.float64, st.integers(1, 200), elements=st.sampled_from([0.0, -0.0])))
def test_zeros_lose_their_sign(column: np.ndarray) -> None:
    found = field_statistics(column, [(0, len(column))])
    for key in statistics.FLOATS:
        assert canonical.float_text(getattr(found, key)[()]) == "0.0"


@given(columns(), st.data())
def test_the_order_of_the_rows_of_an_episode_leaves_no_trace(
    made: tuple[np.ndarray, list[tuple[int, int]]], data: st.DataObject
) -> None:
    column, spans = made
    shuffled = np.concatenate([np.array(data.draw(st.permutations(column[a:b].tolist()))) for a, b in spans])
    one, two = field_statistics(column, spans), field_statistics(shuffled, spans)
    assert all(same(getattr(one, key), getattr(two, key)) for key in statistics.FLOATS)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint64", "float16", "float32"])
def test_every_dtype_is_taken_as_float64(dtype: str) -> None:
    rows = np.array([0, 1, 1, 0, 1, 1, 1], dtype).reshape(7, 1)
    assert field_statistics(rows, [(0, 7)]).to_json() == field_statistics(rows.astype(float), [(0, 7)]).to_json()


def test_only_the_rows_of_the_given_episodes_count() -> None:
    column = np.array([100.0, 1.0, 2.0, 200.0, 3.0, 300.0])
    found = field_statistics(column, [(1, 3), (4, 5)])
    assert (found.count[()], found.min[()], found.max[()], found.mean[()]) == (3, 1.0, 3.0, 2.0)


def test_statistics_have_the_shape_of_a_step() -> None:
    rows = np.arange(24, dtype=np.float64).reshape(4, 2, 3)
    found = field_statistics(rows, [(0, 4)])
    assert found.max.tolist() == [[18.0, 19.0, 20.0], [21.0, 22.0, 23.0]]
    assert found.count.shape == (2, 3)
    assert field_statistics(rows[:, 0, 0], [(0, 4)]).mean.shape == ()


def test_quantiles_are_left_out_above_the_stated_number_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "MAX_QUANTILE_ROWS", 5)
    rows = np.ones((6, 2))
    rows[0, 0] = np.nan  # five numbers are left of the first component, six of the second
    found = field_statistics(rows, [(0, 6)])
    assert found.q01 is None
    assert found.q99 is None
    assert found.to_json()["q01"] is None
    assert FieldStatistics.from_json(found.to_json(), (2,)).q01 is None
    assert field_statistics(rows[:5], [(0, 5)]).q01 is not None


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=3, max_side=3), elements=st.floats(width=64)),
)
def test_statistics_read_back_as_they_were(rows: np.ndarray) -> None:
    found = field_statistics(rows, [(0, len(rows))])
    document = canonical.loads(canonical.dumps(found.to_json()), "x")
    back = FieldStatistics.from_json(document, rows.shape[1:])
    for key in (*statistics.COUNTS, *statistics.FLOATS):
        a, b = getattr(found, key), getattr(back, key)
        assert a.shape == b.shape
        assert np.array_equal(a, b, equal_nan=True)


def test_the_document_is_spelled_so() -> None:
    field = Field("ee_pos", "fixed", "float64", (1,), "observation", NONE, (), "steps/ee_pos")
    source = Source("libero_goal", "x_demo.hdf5", "bottom_up", "after", (0, 0))
    part = PartNumbers(
        PartDocument({}, (), (source,), {"ee_pos": field}), [(0, 2)], lambda _: [np.array([[0.5], [1.5]])]
    )
    one = (
        '{"count":[2],"max":["1.5"],"mean":["1.0"],"min":["0.5"],"nan":[0],"q01":["0.51"],"q99":["1.49"],"std":["0.5"]}'
    )
    expected = '{"fields":{"ee_pos":{"all":' + one + ',"suites":{"libero_goal":' + one + '}}},"version":1}'
    assert canonical.dumps(store_statistics([part])).decode() == expected


def test_infinities_are_spelled_only_where_there_are_any() -> None:
    found = field_statistics(np.array([[0.5, np.inf], [1.5, 2.0]]), [(0, 2)]).to_json()
    assert (found["count"], found["nan"], found["infinite"]) == ([2, 1], [0, 0], [0, 1])
    assert "infinite" not in field_statistics(np.array([[0.5, np.nan]]), [(0, 1)]).to_json()


SOUND = field_statistics(np.array([[0.5, 2.0], [1.5, 2.0]]), [(0, 2)]).to_json()
UNUSUAL = SOUND | {"infinite": [0, 1]}


@pytest.mark.parametrize("key", UNUSUAL)
@pytest.mark.parametrize("junk", [None, 5, "x", [], ["x", "y"], [None, None], ["1.0"], [2**70, 1], {}, [[1], [2]]])
def test_statistics_of_another_shape_are_damage(key: str, junk: Any) -> None:
    if junk is None and key in ("q01", "q99"):
        assert getattr(FieldStatistics.from_json(UNUSUAL | {key: junk}, (2,)), key) is None
        return
    with pytest.raises(StoreDamaged, match="statistics"):
        FieldStatistics.from_json(UNUSUAL | {key: junk}, (2,), "meta/x.json")


def test_statistics_that_miss_something_are_damage() -> None:
    for key in SOUND:
        with pytest.raises(StoreDamaged):
            FieldStatistics.from_json({k: v for k, v in SOUND.items() if k != key}, (2,))
    for junk in (None, 5, [], "x"):
        with pytest.raises(StoreDamaged):
            FieldStatistics.from_json(junk, (2,))
