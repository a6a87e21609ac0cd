"""Keyed permutations of [0, count), and back. Pure arithmetic; imports numpy.

Below 4,096 numbers keyed hashes are sorted; above, a Feistel network over a grid of a x b >= count places permutes the grid, and
places beyond count are walked on until they fall inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Any
piece costs time and memory in proportion to the piece, whatever the count is.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SMALL_ROWS = 4_096
ROUNDS = 8

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def key_of(seed: int, number: int) -> int:
    """Return the key of the permutation of this number (an epoch's, a pool's) that a seed gives."""
    return _mix_int(_mix_int(seed & _MASK) + number * _GAMMA)


def hashed(numbers: Int64, key: int) -> UInt64:
    """Return a keyed hash of each number."""
    # Counted from 1: _mix(0) is 0, and a key of 0 (seed 0, epoch 0) would always put row 0 first.
    return _mix((numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA) + np.uint64(key))


def permuted(places: Int64, count: int, key: int) -> Int64:
    """Return what stands at these places of the permutation of [0, count)."""
    if count < SMALL_ROWS:
        return _sorted(count, key)[places]
    return _walk(places.astype(np.uint64), count, key)


def place_of(value: int, count: int, key: int) -> int:
    """Return where `value` stands in the permutation of [0, count): what `permuted` undoes."""
    if count < SMALL_ROWS:
        return int(np.flatnonzero(_sorted(count, key) == value)[0])
    width, height = _grid(count)
    while True:
        row, column = divmod(value, width)
        for number in reversed(range(0, ROUNDS, 2)):
            row = (row - _mix_int(column + _round_key(key, number + 1))) % height
            column = (column - _mix_int(row + _round_key(key, number))) % width
        value = row * width + column
        if value < count:
            return value


def _sorted(count: int, key: int) -> Int64:
    keys = hashed(np.arange(count), key)
    # Equal keys would be ordered by number: still a permutation, and one epoch in 10^12 has any.
    return np.argsort(keys, kind="stable").astype(np.int64)


def _walk(places: UInt64, count: int, key: int) -> Int64:
    width, height = _grid(count)
    found = _feistel(places, width, height, key)
    outside = np.flatnonzero(found >= np.uint64(count))
    while len(outside):
        again = _feistel(found[outside], width, height, key)
        found[outside] = again
        outside = outside[again >= np.uint64(count)]
    return found.astype(np.int64)


def _grid(count: int) -> tuple[int, int]:
    width = math.isqrt(count - 1) + 1
    return width, -(-count // width)


def _feistel(places: UInt64, width: int, height: int, key: int) -> UInt64:
    """Permute [0, width * height): in turn one coordinate moves by a keyed hash of the other."""
    row = places // np.uint64(width)
    column = places - row * np.uint64(width)
    for number in range(0, ROUNDS, 2):
        column = _modulo(column + _modulo(_hash(row, key, number), width), width)
        row = _modulo(row + _modulo(_hash(column, key, number + 1), height), height)
    return row * np.uint64(width) + column


def _modulo(values: UInt64, divisor: int) -> UInt64:
    # As `values % divisor`, in less than half the time: NumPy divides by one number without dividing, but has no such remainder.
    return values - values // np.uint64(divisor) * np.uint64(divisor)


def _hash(values: UInt64, key: int, number: int) -> UInt64:
    return _mix(values + np.uint64(_round_key(key, number)))


def _round_key(key: int, number: int) -> int:
    return _mix_int(key + (number + 1) * _GAMMA)


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
