"""The order of an epoch, and how it is sharded over ranks. Pure arithmetic; may import numpy and errors.

The global order of an epoch is a permutation of [0, N) that is a function of (seed, epoch, N) alone. Below 4,096 rows keyed
hashes are sorted; above, a Feistel network over a grid of a x b >= N places permutes the grid, and places beyond N are
walked on until they fall inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Any piece of the order
costs time and memory in proportion to the piece, whatever N is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError

SMALL_ROWS = 4_096
ROUNDS = 8

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Order:
    """The order of one epoch over `rows` rows."""

    rows: int
    seed: int
    epoch: int
    shuffle: bool = True

    def take(self, start: int, stop: int) -> Int64:
        """Return positions [start, stop) of the order: (stop - start,) int64 numbers in [0, rows)."""
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"[{start}, {stop}) of an order of {self.rows}")
        places = np.arange(start, stop, dtype=np.uint64)
        if not self.shuffle:
            return places.astype(np.int64)
        base = _mix_int(_mix_int(self.seed & _MASK) + self.epoch * _GAMMA)
        if self.rows < SMALL_ROWS:
            # Counted from 1: _mix(0) is 0, and a base of 0 (seed 0, epoch 0) would always put row 0 first.
            keys = _mix(np.arange(1, self.rows + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(base))
            # Equal keys would be ordered by number: still a permutation, and one epoch in 10^12 has any.
            return np.argsort(keys, kind="stable")[start:stop].astype(np.int64)
        return _walk(places, self.rows, base)


@dataclass(frozen=True)
class Sharding:
    """How the order of an epoch is sharded over ranks, from a position on: batch k of rank r is a piece of the global order.

    batch_size: of one rank. From position c, rank r of W takes c + k W B + r B + [0, B), so that W and B may change between
    two positions. The last batch: dropped where it is not full (drop_last), else shared evenly by all ranks; if it has fewer
    rows than ranks, the batch before it gives up the missing ones. So all ranks take the same number of batches.
    """

    rows: int
    batch_size: int
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_size < 1:
            raise OptionError("batch_size and world_size are at least 1", found=f"{self.batch_size}, {self.world_size}")
        if self.rows < self.world_size:
            raise OptionError("there are fewer rows than ranks", rows=self.rows, ranks=self.world_size)

    def batches(self, position: int) -> int:
        """Return how many batches every rank still takes from a position on."""
        left, whole = self.rows - position, self.batch_size * self.world_size
        if self.drop_last or left == 0:
            return left // whole
        if left < self.world_size or (self.batch_size == 1 and left % self.world_size):
            raise OptionError(
                "the last rows cannot be shared out: every rank must get at least one row of each batch, and none twice",
                rows_left=left,
                ranks=self.world_size,
                batch_size=self.batch_size,
                hint="drop_last=True leaves such rows out"
                + (", and with batch_size=2 or more there are none" if left >= self.world_size else ""),
            )
        return -(-left // whole)

    def end(self, position: int, batch: int) -> int:
        """Return the position after so many more batches (1: after the next one)."""
        whole = self.batch_size * self.world_size
        end = position + batch * whole
        short = self.rows - end
        if not self.drop_last and 0 < short < self.world_size:
            return self.rows - self.world_size  # the last batch would not reach every rank: it gets these rows
        return min(end, self.rows)

    def shard(self, position: int, rank: int) -> tuple[int, int]:
        """Return [start, stop) of the global order: the next batch of a rank, from a position where a batch begins."""
        end = self.end(position, 1)
        count, extra = divmod(end - position, self.world_size)
        start = position + rank * count + min(rank, extra)
        return start, start + count + (rank < extra)


def _walk(places: UInt64, rows: int, base: int) -> Int64:
    width = math.isqrt(rows - 1) + 1
    height = -(-rows // width)
    found = _feistel(places, width, height, base)
    outside = np.flatnonzero(found >= np.uint64(rows))
    while len(outside):
        again = _feistel(found[outside], width, height, base)
        found[outside] = again
        outside = outside[again >= np.uint64(rows)]
    return found.astype(np.int64)


def _feistel(places: UInt64, width: int, height: int, base: int) -> UInt64:
    """Permute [0, width * height): in turn one coordinate moves by a keyed hash of the other."""
    row = places // np.uint64(width)
    column = places - row * np.uint64(width)
    for number in range(0, ROUNDS, 2):
        column = _modulo(column + _modulo(_hash(row, base, number), width), width)
        row = _modulo(row + _modulo(_hash(column, base, number + 1), height), height)
    return row * np.uint64(width) + column


def _modulo(values: UInt64, divisor: int) -> UInt64:
    # As `values % divisor`, in less than half the time: NumPy divides by one number without dividing, but has no such remainder.
    return values - values // np.uint64(divisor) * np.uint64(divisor)


def _hash(values: UInt64, base: int, number: int) -> UInt64:
    return _mix(values + np.uint64(_mix_int(base + (number + 1) * _GAMMA)))


def _mix(values: UInt64) -> UInt64:
    """The output function of splitmix64, on unsigned integers that wrap around."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _mix_int(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
