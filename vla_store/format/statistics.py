"""The rule of a store's statistics: what the numbers of the statistics document mean. Arrays to numbers; opens nothing.

Per component of a fixed, numeric field, in float64: sums are math.fsum per episode, then over the episodes in order; the
standard deviation is the population's, in two passes; quantiles are exact order statistics at q (n - 1), interpolated
a + (b - a) t. NaNs and infinities are counted and left out: all the numbers are those of the finite values. Zeros lose their
sign first: which zero a minimum finds is the hardware's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged
from vla_store.format.canonical import float_text
from vla_store.format.schema import Field, PartDocument

COUNTS = ("count", "nan", "infinite")
QUANTILES = {"q01": 0.01, "q99": 0.99}
MAX_QUANTILE_ROWS = 10**8
FLOATS = ("min", "max", "mean", "std", "q01", "q99")

FloatArray = npt.NDArray[np.float64]
Spans = Sequence[tuple[int, int]]


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
        """True where `min` and `max` are those of the finite values: infinities were among them in documents of the first rule."""
        return not np.isinf([self.min, self.max]).any()

    def to_json(self) -> dict[str, Any]:
        stated = COUNTS if self.infinite.any() else COUNTS[:2]  # infinities are rare; older documents do not know them
        made: dict[str, Any] = {key: getattr(self, key).reshape(-1).tolist() for key in stated}
        for key in FLOATS:
            value = getattr(self, key)
            made[key] = None if value is None else [float_text(x) for x in value.reshape(-1)]
        return made

    @classmethod
    def from_json(cls, value: Any, shape: tuple[int, ...], name: str = "statistics") -> FieldStatistics:
        """Read what `to_json` gave, for a field whose step has this shape; `name` is the object's. Raises StoreDamaged."""

        def array(key: str, read: Callable[[Any], Any], dtype: type) -> npt.NDArray[Any] | None:
            if value[key] is None and key in QUANTILES:
                return None
            return np.array([read(x) for x in value[key]], dtype).reshape(shape)

        try:
            value = {"infinite": [0] * len(value["count"])} | value
            found = [
                *(array(key, _count, np.int64) for key in COUNTS),
                *(array(key, _float, np.float64) for key in FLOATS),
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreDamaged(
                "statistics are not as the format says", object=name, found=f"{type(error).__name__}: {error}"[:200]
            ) from None
        return cls(*found)  # type: ignore[arg-type]


def field_statistics(rows: npt.NDArray[Any], episodes: Spans) -> FieldStatistics:
    """Return the statistics of (N, ...) rows that lie in `episodes`: ascending [start, stop) spans that do not overlap."""
    return _statistics([rows.reshape(len(rows), -1)], rows.shape[1:], episodes)


@dataclass(frozen=True)
class PartNumbers:
    """The numeric fields of a part, wherever they are read from.

    episodes: source and length of each, in row order. read: gives the rows of a field as pieces that follow one another; it is
    called when the field's turn comes.
    """

    document: PartDocument
    episodes: Sequence[tuple[int, int]]
    read: Callable[[Field], Iterable[npt.NDArray[Any]]]


def store_statistics(parts: Sequence[PartNumbers]) -> dict[str, Any] | None:
    """Return the statistics document of a store of these parts; None where it has no field to take them of."""
    spans: list[tuple[int, int]] = []
    suites: dict[str, list[tuple[int, int]]] = {}
    row = 0
    for part in parts:
        for source, length in part.episodes:
            spans.append((row, row + length))
            suites.setdefault(part.document.sources[source].suite, []).append(spans[-1])
            row += length
    described: dict[str, Any] = {}
    for name, field in parts[0].document.fields.items():
        alike = [part.document.fields[name] for part in parts]
        if field.is_camera or any((each.kind, each.shape) != ("fixed", field.shape) for each in alike):
            continue
        pieces = [piece.reshape(len(piece), -1) for part, each in zip(parts, alike) for piece in part.read(each)]
        everything = _statistics(pieces, field.fixed_shape, spans).to_json()
        described[name] = {
            "all": everything,
            "suites": {
                suite: everything if of == spans else _statistics(pieces, field.fixed_shape, of).to_json()
                for suite, of in suites.items()
            },
        }
    return {"fields": described, "version": 1} if described else None


def order_statistic(ordered: FloatArray, q: float) -> float:
    """Return the q-quantile of sorted values: a + (b - a) t between the neighbours of q (n - 1); a where t is 0 or a is b."""
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    a, b = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    t = place - below
    # Of ends far apart, b - a may be infinite, and 0 * inf is no number.
    return a if t == 0 or a == b else a + (b - a) * t


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _float(text: Any) -> float:
    if not isinstance(text, str) or float_text(float(text)) != text:
        raise ValueError(f"{text!r} is not a float's text")
    return float(text)


def _statistics(pieces: Sequence[npt.NDArray[Any]], shape: tuple[int, ...], episodes: Spans) -> FieldStatistics:
    # One component at a time: a whole field need not fit in memory.
    made = [_component(np.concatenate([each[:, i] for each in pieces]), episodes) for i in range(math.prod(shape))]

    def array(key: str, dtype: type) -> npt.NDArray[Any] | None:
        return None if made[0][key] is None else np.array([each[key] for each in made], dtype).reshape(shape)

    return FieldStatistics(*(array(key, np.int64) for key in COUNTS), *(array(key, np.float64) for key in FLOATS))  # type: ignore[arg-type]


def _component(column: npt.NDArray[Any], episodes: Spans) -> dict[str, Any]:
    values = [column[start:stop].astype(np.float64) + 0.0 for start, stop in episodes]
    kept = [each[np.isfinite(each)] for each in values]
    total, count = sum(map(len, values)), sum(map(len, kept))
    nan = sum(map(np.count_nonzero, map(np.isnan, values)))
    result: dict[str, Any] = {"count": count, "nan": nan, "infinite": total - count - nan}
    if not count:
        return result | dict.fromkeys(FLOATS, math.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = _sum(kept) / count
        variance = _sum([(each - mean) ** 2 for each in kept]) / count
    ordered = np.sort(np.concatenate(kept))
    exact = total <= MAX_QUANTILE_ROWS  # not `count`: all components of a field have quantiles, or none
    return result | {
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
        "mean": mean,
        "std": math.sqrt(variance) if variance >= 0 else math.nan,
        **{key: order_statistic(ordered, q) if exact else None for key, q in QUANTILES.items()},
    }


def _sum(episodes: Sequence[FloatArray]) -> float:
    try:
        return math.fsum(map(math.fsum, map(np.ndarray.tolist, episodes)))
    except (ValueError, OverflowError):  # beyond a double: no sum
        return math.nan
