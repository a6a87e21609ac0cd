"""The order of weighted samples, by systematic selection. Pure arithmetic; may import numpy, the order, and permutation.py.

Samples lie on a line, each as long as its whole weight. An epoch of E samples puts E marks on it at equal distances, from an offset on
that is a function of (seed, epoch): so a sample gets floor or ceil of its share of the marks. Weights become whole numbers once; from
there on all is whole numbers, so that every machine has the same order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.loader.order import EpochOrder, Order, Shuffle
from vla_store.loader.permutation import key_of
from vla_store.reader.cached import cached_property

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

TOTAL_BITS = 60  # whole weights add up to about 2^60 at most
MOST_ROWS = 2**40
_HALF_BITS = 20
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: its multiples lie as evenly on a circle as can be


@dataclass(frozen=True)
class Shares:
    """Whole weights of the samples, as runs of equal ones: `counts[r]` samples in a row have `weights[r]` each, (R,) int64 both."""

    counts: Int64
    weights: Int64

    @classmethod
    def of(cls, weights: Array) -> Shares:
        """Return the whole weights that stand for these, which are finite, at least 0 and not all 0.

        They keep each ratio to 2^-(60 - log2 n) of the largest weight; those of small whole numbers are exact.
        """
        # Scaled by a power of two, which is exact; the sum of n numbers up to 1 needs no rounding that machines might differ in.
        _, exponent = np.frexp(weights.max())
        bits = TOTAL_BITS - len(weights).bit_length()
        whole = np.rint(np.ldexp(np.ldexp(weights, -int(exponent)), bits)).astype(np.int64)
        whole[(weights > 0) & (whole == 0)] = 1
        whole //= np.gcd.reduce(whole)
        begins = np.flatnonzero(np.concatenate([[True], whole[1:] != whole[:-1]]))
        return cls(np.diff(begins, append=len(whole)), whole[begins])

    def __getstate__(self) -> dict[str, Any]:
        return {"counts": self.counts, "weights": self.weights}

    @cached_property
    def count(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    @cached_property
    def total(self) -> int:
        """Sum of all weights."""
        return int((self.counts * self.weights).sum())

    @cached_property
    def each(self) -> Int64:
        """The weight of every sample, (n,) int64."""
        return np.repeat(self.weights, self.counts)

    def at(self, places: Int64) -> Int64:
        """Return the samples at these places in [0, total), where each sample has as many places as its weight says."""
        lasts, weights, ends = self._runs
        # Sorted, neighbours are looked for in the same memory: of ten million runs in a fifth of the time.
        by_place = np.argsort(places)
        run = np.empty(len(places), np.int64)
        run[by_place] = np.searchsorted(ends, places[by_place], side="right")
        # Counted from the end of the run, whose first place nobody then needs to know.
        made: Int64 = lasts[run] - (ends[run] - 1 - places) // weights[run]
        return made

    def digest(self) -> str:
        """Return a digest of the weights of all samples."""
        both = np.ascontiguousarray(np.stack([self.counts, self.weights]), "<i8")
        return hashlib.sha256(b"weights\n" + both.tobytes()).hexdigest()

    @cached_property
    def _runs(self) -> tuple[Int64, Int64, Int64]:
        """Of every run whose weight is not 0: its last sample, its weight, and the place behind it."""
        some = self.weights > 0
        return (np.cumsum(self.counts) - 1)[some], self.weights[some], np.cumsum(self.counts * self.weights)[some]


def places_of(marks: Int64, rows: int, total: int, offset: int) -> Int64:
    """Return floor((mark * total + offset) / rows) of each mark in [0, rows), where rows <= 2^40, offset < total < 2^62."""
    whole, rest = divmod(total, rows)
    begin, more = divmod(offset, rows)
    # mark * rest may have 80 bits: the upper half of the mark goes first, and what it leaves goes on with the lower half.
    high, low = marks >> _HALF_BITS, marks & ((1 << _HALF_BITS) - 1)
    upper, left = np.divmod(high * rest, rows)
    lower = ((left << _HALF_BITS) + low * rest + more) // rows
    made: Int64 = marks * whole + begin + (upper << _HALF_BITS) + lower
    return made


@dataclass(frozen=True)
class WeightedOrder:
    """The order of one epoch of weighted samples: an `Order` of its marks, each of which lies on a sample."""

    marks: Order
    shares: Shares

    @property
    def rows(self) -> int:
        """Marks of the epoch."""
        return self.marks.rows

    @property
    def seed(self) -> int:
        """Seed of the order."""
        return self.marks.seed

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self.marks.epoch

    @property
    def block_rows(self) -> int:
        """Marks of a block: the samples in them follow one another too."""
        return self.marks.block_rows

    def take(self, start: int, stop: int) -> Int64:
        """As `Order.take`."""
        return self._samples(self.marks.take(start, stop))

    def blocks(self, start: int, stop: int) -> Int64:
        """As `Order.blocks`."""
        return self.marks.blocks(start, stop)

    def samples_of(self, blocks: Int64) -> Int64:
        """As `Order.samples_of`; each sample once."""
        return np.unique(self._samples(self.marks.samples_of(blocks)))

    def unit(self, position: int) -> tuple[int, int]:
        """As `Order.unit`."""
        return self.marks.unit(position)

    @cached_property
    def offset(self) -> int:
        """Where the first mark lies, in [0, total): from epoch to epoch by the golden ratio, from a start that the seed gives.

        So a sample with a share of 0.3 comes in 3 of 10 epochs that follow one another, nearly, wherever one begins to count.
        """
        return ((key_of(self.seed, -1) + self.epoch * _GOLDEN & _MASK) * self.shares.total) >> 64

    def _samples(self, marks: Int64) -> Int64:
        return self.shares.at(places_of(marks, self.rows, self.shares.total, self.offset))


@dataclass(frozen=True)
class Marks:
    """The orders of weighted samples, without the samples: what a mixture takes along of a part. epoch_rows: marks of an epoch."""

    shares: Shares
    epoch_rows: int

    def __len__(self) -> int:
        return self.shares.count

    def epoch_order(self, seed: int, epoch: int, shuffle: Shuffle) -> EpochOrder:
        """Return the order of an epoch."""
        return WeightedOrder(Order(self.epoch_rows, seed, epoch, shuffle), self.shares)
