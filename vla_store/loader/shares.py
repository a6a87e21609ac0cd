"""Shares of a mixture's parts: weights as whole numbers, and a schedule that keeps every prefix within one sample of them.

Pure arithmetic; imports numpy, errors and the hash of permutation.py.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, warn, whole_number
from vla_store.loader.permutation import hashed, key_of
from vla_store.reader.cached import cached_property

Int64 = npt.NDArray[np.int64]

PERIOD = 1 << 17  # shares are whole numbers of turns, of which a schedule has so many before it begins again
MOST_PERIOD = 1 << 20  # and so many where a share would be far off else: a table of these takes half a second
LEAST = 1 << 14  # and so many at least
NEAR = Fraction(1, 100)  # of what was asked: a share that is further off is far off
TIE_BITS = 26
MOST_TOLD = 10
KEPT_TABLES = 8


def weight_of(given: Any, name: str) -> Fraction:
    """Return a weight as the number that was written: 0.1 is a tenth. Raises OptionError for what is none, or negative."""
    try:
        if isinstance(given, (bool, np.bool_, str)):
            raise ValueError
        found = given if isinstance(given, Fraction) else Fraction(str(given))
    except (ValueError, ZeroDivisionError):  # nan and inf are texts of no number
        found = None
    if found is None or found < 0:
        raise OptionError("a weight is a number, at least 0", part=name, found=repr(given)[:100])
    return found


def tempered(weights: Sequence[Fraction], temperature: Any, names: Sequence[str]) -> list[Fraction]:
    """Return weights to the power of 1/temperature: 1 leaves them as they are, infinity makes them equal. Raises OptionError."""
    power = _power_of(temperature)
    if power == 1:
        return list(weights)
    most = max(weights)
    # Of their ratios: a number of steps to the power of 10 is no float.
    made = [_raised(each / most, power) if each else each for each in weights]
    for name, each, weight in zip(names, made, weights):
        if weight and not each:
            raise _too_small(name, each)
    return made


def _power_of(temperature: Any) -> float:
    """Return 1/temperature. Raises OptionError for what is no number above 0."""
    is_number = isinstance(temperature, (int, float, np.integer, np.floating, Fraction))
    if not is_number or isinstance(temperature, bool) or not temperature > 0:
        raise OptionError("temperature is a number above 0", found=repr(temperature)[:100])
    try:
        value = float(temperature)
    except OverflowError:
        return 0.0
    return 1 / value if value else math.inf


def _raised(ratio: Fraction, power: float) -> Fraction:
    """Return a ratio of at most 1 to a power: 0 where that is too small for a float."""
    if float(ratio):
        return Fraction(float(ratio) ** power)
    return Fraction(math.exp((math.log(ratio.numerator) - math.log(ratio.denominator)) * power))


def counts_of(weights: Sequence[Fraction], names: Sequence[str]) -> tuple[int, ...]:
    """Return whole numbers in the ratio of weights, at most PERIOD in all; the nearest such, by largest remainder, where there are none.

    Where these are far from the weights they are at most MOST_PERIOD in all; a share that is far off even so is warned of. Raises
    OptionError where no weight is positive, and where a positive one would be 0.
    """
    total = sum(weights, Fraction(0))
    if not total:
        raise OptionError("no part of the mixture has a weight above 0", parts=", ".join(names))
    shares = [each / total for each in weights]
    whole, measure = math.lcm(*(each.denominator for each in shares)), PERIOD
    counts, far = _nearest(shares, whole, measure)
    while far and measure < MOST_PERIOD:
        measure *= 2
        counts, far = _nearest(shares, whole, measure)
    for at in far:
        if not counts[at]:
            raise _too_small(names[at], shares[at])
    if far:
        told = [
            f"{names[at]!r} is {_percent(counts[at] / measure)}, and not {_percent(float(shares[at]))}" for at in far
        ]
        more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
        warn(
            f"shares of a mixture are multiples of 1/{measure:,}, which are not near to what was asked: "
            + ", ".join(told[:MOST_TOLD] + more)
        )
    return counts


def _nearest(shares: Sequence[Fraction], whole: int, measure: int) -> tuple[tuple[int, ...], list[int]]:
    """Return whole numbers in the ratio of shares, at most `measure` in all, and which are far off. whole: what all are parts of."""
    if whole <= measure:
        return tuple(int(each * whole) for each in shares), []
    counts = [int(each * measure) for each in shares]
    largest = sorted(range(len(shares)), key=lambda at: (counts[at] - shares[at] * measure, at))
    for at in largest[: measure - sum(counts)]:
        counts[at] += 1
    wanted = [each * measure for each in shares]
    return tuple(counts), [at for at, each in enumerate(wanted) if abs(counts[at] - each) > NEAR * each]


def _too_small(name: str, share: Fraction) -> OptionError:
    return OptionError(
        f"the share of a part is too small: it is given as a multiple of 1/{MOST_PERIOD:,}",
        part=name,
        found=f"{float(share):.3g}" if float(share) else "less than 1e-300",
        hint="give it a larger weight, or 0 to leave it out",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@dataclass(frozen=True)
class Table:
    """Whose turn it is at each place of a period. part: (D,) number of the part; number: (D,) how many of that part came before.

    counts: of each part in a period.
    """

    part: Int64
    number: Int64
    counts: Int64

    @property
    def period(self) -> int:
        """Places of a period."""
        return len(self.part)

    def before(self, place: int) -> Int64:
        """Return how many of each part came before a place, which may be of any period."""
        periods, rest = divmod(place, self.period)
        return periods * self.counts + np.bincount(self.part[:rest], minlength=len(self.counts))

    def place_of(self, part: int, number: int) -> int:
        """Return the place at which it is a part's turn, of which it had so many before."""
        periods, rest = divmod(number, int(self.counts[part]))
        return periods * self.period + int(self._places[part][rest])

    @cached_property
    def _places(self) -> list[Int64]:
        return [np.flatnonzero(self.part == part) for part in range(len(self.counts))]

    def take(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """Return the parts at places [start, stop), and how many of the same part came before each: (n,) both."""
        wanted = np.arange(start, stop)
        periods = wanted // self.period
        places = wanted - periods * self.period
        parts = self.part[places]
        return parts, self.number[places] + periods * self.counts[parts]


@functools.lru_cache(maxsize=KEPT_TABLES)
def table_of(counts: tuple[int, ...], seed: int) -> Table:
    """Return the schedule of parts that have so many turns in each sum of `counts`.

    After P places a part has had P * count / sum turns, but for less than one, whatever P is: the chairman assignment problem
    (Tijdeman 1980). Turn j of a part may come from place floor(j D / c) on and must come before ceil((j + 1) D / c); the earliest
    deadline goes first. A hash of the seed breaks ties, so that parts do not follow each other in one pattern for ever.
    """
    total = sum(counts)
    times = _up(LEAST, total)  # a pattern of half the shares each would be 2 places long
    turns = np.array(counts, np.int64) * times
    period = total * times
    parts = np.repeat(np.arange(len(counts)), turns)
    numbers = np.arange(period) - np.repeat(np.cumsum(turns) - turns, turns)
    each = turns[parts]
    released, due = numbers * period // each, -(-(numbers + 1) * period // each)
    order = np.argsort(released, kind="stable")
    ties = hashed(order, key_of(seed, period)) >> np.uint64(64 - TIE_BITS)
    by_due = np.lexsort((ties, due[order]))
    ranks = np.empty(period, np.int64)
    ranks[by_due] = np.arange(period)
    jobs = order[by_due[_earliest_first(ranks.tolist(), released[order].tolist())]]
    return Table(parts[jobs], numbers[jobs], turns)


def _earliest_first(keys: list[int], released: list[int]) -> list[int]:
    """Return the smallest key at each place of those that are released, each once. There is always one, because the shares of all
    parts together are 1."""
    waiting: list[int] = []
    chosen, upcoming = [], 0
    for place in range(len(keys)):
        while upcoming < len(keys) and released[upcoming] <= place:
            heapq.heappush(waiting, keys[upcoming])
            upcoming += 1
        chosen.append(heapq.heappop(waiting))
    return chosen


def epoch_length(epoch: Any, rows: Sequence[int], counts: Sequence[int], run: int = 1, ranks: int = 1) -> int:
    """Return how many samples an epoch of a mixture has: of whole runs on every rank.

    epoch: "largest", until each part was given whole; "smallest", until the first one was; or so many samples. rows: of each part's
    own epoch. Raises OptionError, UnknownName.
    """
    drawn = [(own, count) for own, count in zip(rows, counts) if count]
    total, whole = sum(counts), run * ranks
    if epoch == "largest":
        turns = max(_up(_up(own, run) * total, count) for own, count in drawn)
        return _up(turns, ranks) * whole
    if epoch == "smallest":
        turns = min(own // run * total // count for own, count in drawn)
        return max(1, turns // ranks) * whole
    if isinstance(epoch, str):
        raise UnknownName.among(
            "epoch of a mixture", epoch, ["largest", "smallest"], hint="or write a number of samples"
        )
    return _up(whole_number("epoch", epoch), whole) * whole


def _up(value: int, by: int) -> int:
    """Return value / by, rounded up."""
    return -(-value // by)
