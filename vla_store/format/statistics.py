"""The rule of a store's statistics: what the numbers of the statistics document mean. Arrays to numbers; opens nothing.

Per component of a fixed, numeric field, in float64: sums are math.fsum per episode, then over the episodes in order; the
standard deviation is the population's, in two passes; quantiles are exact order statistics at q (n - 1), interpolated
a + (b - a) t. NaNs and infinities are counted and left out: all the numbers are those of the finite values. Zeros lose their
sign first: which zero a minimum finds is the hardware's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged
from vla_store.format.canonical import float_text

COUNTS = ("count", "nan", "infinite")
QUANTILES = {"q01": 0.01, "q99": 0.99}
MAX_QUANTILE_ROWS = 10**8
FLOATS = ("min", "max", "mean", "std", "q01", "q99")

FloatArray = npt.NDArray[np.float64]
Spans = Sequence[tuple[int, int]]
Pieces = Callable[[], Iterable[npt.NDArray[Any]]]


@dataclass(frozen=True)
class FieldStatistics:
    """Of one field over some rows: of its finite values, which `count` counts, beside those that are `nan` or `infinite`.

    Arrays have the shape of one step; q01 and q99 are None above 10^8 rows.
    """

    count: npt.NDArray[np.int64]
    nan: npt.NDArray[np.int64]
    infinite: npt.NDArray[np.int64]
    min: FloatArray
    max: FloatArray
    mean: FloatArray
    std: FloatArray
    q01: FloatArray | None
    q99: FloatArray | None

    @property
    def tells_range(self) -> bool:
        """Whether `min` and `max` are those of the finite values: infinities were among them in documents of the first rule."""
        return not np.isinf([self.min, self.max]).any()

    def to_json(self) -> dict[str, Any]:
        stated = (
            COUNTS if self.infinite.any() else COUNTS[:2]
        )  # infinities are rare, and older documents do not know them
        whole = {key: getattr(self, key).reshape(-1).tolist() for key in stated}
        floats = {key: getattr(self, key) for key in FLOATS}
        return whole | {
            key: None if value is None else [float_text(x) for x in value.reshape(-1)] for key, value in floats.items()
        }

    @classmethod
    def from_json(cls, value: Any, shape: tuple[int, ...], name: str = "statistics") -> FieldStatistics:
        """What `to_json` gave, for a field whose step has this shape; `name` is the object's. Raises StoreDamaged."""
        try:
            counts = value if "infinite" in value else value | {"infinite": [0] * len(value["count"])}
            whole = [np.array([_count(x) for x in counts[key]], np.int64).reshape(shape) for key in COUNTS]
            floats = [
                None
                if value[key] is None and key in QUANTILES
                else np.array([_float(x) for x in value[key]], np.float64).reshape(shape)
                for key in FLOATS
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreDamaged(
                "statistics are not as the format says", object=name, found=f"{type(error).__name__}: {error}"[:200]
            ) from None
        return cls(*whole, *floats)  # type: ignore[arg-type]


def field_statistics(rows: npt.NDArray[Any], episodes: Spans) -> FieldStatistics:
    """Statistics of (N, ...) rows that lie in `episodes`, given as ascending [start, stop) spans that do not overlap."""
    flat = rows.reshape(len(rows), -1)
    return statistics_of_components((flat[:, i] for i in range(flat.shape[1])), rows.shape[1:], episodes)


def statistics_of_components(
    columns: Iterable[npt.NDArray[Any]], shape: tuple[int, ...], episodes: Spans
) -> FieldStatistics:
    """The same for a field whose components come one at a time, each (N,), in C order of `shape`."""
    made = [_component(column, episodes) for column in columns]
    whole = {key: np.array([each[key] for each in made], np.int64).reshape(shape) for key in COUNTS}
    floats = {
        key: None if made[0][key] is None else np.array([each[key] for each in made], np.float64).reshape(shape)
        for key in FLOATS
    }
    return FieldStatistics(**whole, **floats)  # type: ignore[arg-type]


def statistics_document(fields: dict[str, tuple[FieldStatistics, dict[str, FieldStatistics]]]) -> dict[str, Any]:
    """meta.statistics of a root: {"fields": {name: {"all": ..., "suites": {suite: ...}}}, "version": 1}."""
    described = {
        name: {"all": whole.to_json(), "suites": {suite: each.to_json() for suite, each in suites.items()}}
        for name, (whole, suites) in fields.items()
    }
    return {"fields": described, "version": 1}


def store_statistics(
    episodes: Iterable[tuple[str, int]], fields: Iterable[tuple[str, tuple[int, ...], Pieces]]
) -> dict[str, Any] | None:
    """The statistics document of a store; None where it has no field to take them of.

    episodes: suite and length of each, in row order. fields: name and shape of one step of every fixed numeric field, and what
    gives its rows as (n, components) pieces that follow one another; it is called when the field's turn comes.
    """
    spans: list[tuple[int, int]] = []
    suites: dict[str, list[tuple[int, int]]] = {}
    row = 0
    for suite, length in episodes:
        spans.append((row, row + length))
        suites.setdefault(suite, []).append(spans[-1])
        row += length
    found: dict[str, tuple[FieldStatistics, dict[str, FieldStatistics]]] = {}
    for name, shape, read in fields:
        pieces = list(read())

        def of(where: Spans, pieces: Any = pieces, shape: tuple[int, ...] = shape) -> FieldStatistics:
            # One component at a time: a whole field need not fit in memory.
            columns = (np.concatenate([each[:, i] for each in pieces]) for i in range(math.prod(shape)))
            return statistics_of_components(columns, shape, where)

        found[name] = of(spans), {suite: of(where) for suite, where in suites.items()}
    return statistics_document(found) if found else None


def order_statistic(ordered: FloatArray, q: float) -> float:
    """The q-quantile of sorted values: a + (b - a) t between the neighbours of q (n - 1); a where t is 0 or a is b."""
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    a, b = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    t = place - below
    return (
        a if t == 0 or a == b else a + (b - a) * t
    )  # of ends far apart, b - a may be infinite, and 0 * inf is no number


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _float(text: Any) -> float:
    if not isinstance(text, str) or float_text(float(text)) != text:
        raise ValueError(f"{text!r} is not a float's text")
    return float(text)


def _component(column: npt.NDArray[Any], episodes: Spans) -> dict[str, Any]:
    values = np.concatenate([column[start:stop] for start, stop in episodes]).astype(np.float64) + 0.0
    finite = np.isfinite(values)
    kept = values[finite]
    nan = int(np.isnan(values).sum())
    result: dict[str, Any] = {"count": len(kept), "nan": nan, "infinite": len(values) - len(kept) - nan}
    if not len(kept):
        return result | dict.fromkeys(("min", "max", "mean", "std", "q01", "q99"), math.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = _sum(_pieces(values, finite, episodes)) / len(kept)
        variance = _sum((piece - mean) ** 2 for piece in _pieces(values, finite, episodes)) / len(kept)
    result |= {
        "min": float(kept.min()),
        "max": float(kept.max()),
        "mean": mean,
        "std": math.sqrt(variance) if variance >= 0 else math.nan,
    }
    kept.sort()
    exact = len(values) <= MAX_QUANTILE_ROWS  # not `kept`: all components of a field have quantiles, or none
    return result | {key: order_statistic(kept, q) if exact else None for key, q in QUANTILES.items()}


def _pieces(values: FloatArray, finite: npt.NDArray[np.bool_], episodes: Spans) -> Iterator[FloatArray]:
    at = 0
    for start, stop in episodes:
        piece = values[at : at + stop - start]
        yield piece[finite[at : at + stop - start]]
        at += stop - start


def _sum(pieces: Iterator[FloatArray]) -> float:
    try:
        return math.fsum([math.fsum(piece.tolist()) for piece in pieces])
    except (ValueError, OverflowError):  # beyond a double: no sum
        return math.nan
