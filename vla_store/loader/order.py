"""The order of an epoch, and how it is sharded over ranks. Pure arithmetic; may import numpy, errors, and permutation.py.

An order is a permutation of [0, N) that is a function of (seed, epoch, N) alone, and any piece of it costs time and memory in
proportion to the piece, whatever N is. The global order permutes all rows. The order in blocks permutes blocks of consecutive rows,
cuts the permuted blocks into pools, and permutes the rows of each pool: what is fetched from afar are whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.loader.permutation import Int64, key_of, permuted, place_of
from vla_store.reader.cached import cached_property

KEPT_ROWS = 1 << 16


@dataclass(frozen=True)
class Blocks:
    """An order in blocks, as `shuffle=` takes it: `shuffle="blocks"` is `Blocks()`.

    Parameters
    ----------
    rows
        Consecutive rows in a block.
    pool
        Blocks in a pool, at most: their rows are mixed with each other.
    """

    rows: int = 16
    pool: int = 256

    def __post_init__(self) -> None:
        for name in ("rows", "pool"):
            object.__setattr__(self, name, whole_number(f"Blocks({name}=)", getattr(self, name)))

    def __str__(self) -> str:
        return f"blocks of {self.rows} rows in pools of {self.pool}"


Shuffle = bool | Blocks
ShuffleChoice = Shuffle | Literal["blocks"]  # as users give it


def shuffle_of(given: Any) -> Shuffle:
    """Return the value of an option `shuffle`: a bool, "blocks" or a Blocks. Raises OptionError and UnknownName for others."""
    if isinstance(given, Blocks):
        return given
    if isinstance(given, str):
        if given == "blocks":
            return Blocks()
        raise UnknownName.among("order", given, ["blocks"], hint=_SHUFFLES)
    if given is None or isinstance(given, (bool, np.bool_)) or (isinstance(given, int) and given in (0, 1)):
        return bool(given)
    raise OptionError("shuffle is no order", found=repr(given)[:100], hint=_SHUFFLES)


_SHUFFLES = (
    'shuffle=True is the global order, shuffle=False that of the rows, shuffle="blocks" one in blocks of 16 rows and pools of 256 '
    "blocks, vla_store.torch.Blocks(rows=, pool=) one in others"
)


class EpochOrder(Protocol):
    """Which sample of a dataset stands at each position of an epoch: a small value that pickles, and a pure function.

    rows: positions of the epoch. block_rows: so many samples that follow one another in the dataset are best fetched together, because
    all of them stand in one `unit`; 1 where it is not so. Where it is more, the order is a `BlockedOrder`.

    An order of several parts says in `pieces(position, samples)`, which yields a `Piece` for each pool, what it has `take`n there.
    """

    @property
    def rows(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def block_rows(self) -> int: ...

    def take(self, start: int, stop: int) -> Int64:
        """Return the samples at positions [start, stop): (stop - start,) int64, in time and memory that grow with these."""

    def unit(self, position: int) -> tuple[int, int]:
        """Return positions [start, stop) whose samples are best fetched together with that of `position`."""


class BlockedOrder(EpochOrder, Protocol):
    """An order whose samples come in blocks."""

    def blocks(self, start: int, stop: int) -> Int64:
        """Return the number of the block at each of these positions: what lies in one is best fetched together."""

    def samples_of(self, blocks: Int64) -> Int64:
        """Return the samples in these blocks."""


class Piece(NamedTuple):
    """Samples at some positions of an order that come from one pool of it, or of one of its parts.

    pool: which one; its last number is the pool's among those of the same order, the others are the part's. samples: their numbers.
    order, start: the plain order that they are of, and where they begin there. shift: what is added to its numbers. until: the position
    after which the pool has no more.
    """

    pool: tuple[int, ...]
    samples: Int64
    order: EpochOrder
    start: int
    shift: int
    until: int


def epoch_rows(dataset: Sized) -> int:
    """Return how many positions an epoch of a dataset has: as many as samples, but where the dataset has an order of its own."""
    own: int | None = getattr(dataset, "epoch_rows", None)
    return len(dataset) if own is None else own


def order_of(dataset: Sized, seed: int, epoch: int, shuffle: Shuffle) -> EpochOrder:
    """Return the order of an epoch of a dataset: its own where it has one, else a permutation of its samples."""
    own = getattr(dataset, "epoch_order", None)
    made: EpochOrder = Order(len(dataset), seed, epoch, shuffle) if own is None else own(seed, epoch, shuffle)
    return made


def pieces_of(order: EpochOrder, position: int, samples: Int64) -> Iterator[Piece]:
    """Yield the samples that an order has from a position on, by the pools that they come from."""
    own = getattr(order, "pieces", None)
    if own is not None:
        yield from own(position, samples)
        return
    rows, stop = order.block_rows, position + len(samples)
    if rows == 1:
        yield Piece((), samples, order, position, 0, stop)
        return
    while position < stop:
        first, last = order.unit(position)
        end = min(stop, last)
        begin = len(samples) - (stop - position)
        yield Piece((first,), samples[begin : begin + end - position], order, position, 0, last)
        position = end


@dataclass(frozen=True)
class Order:
    """The order of one epoch over `rows` rows. shuffle: True for the global order, a Blocks, or False for that of the rows."""

    rows: int
    seed: int
    epoch: int
    shuffle: Shuffle = True

    def take(self, start: int, stop: int) -> Int64:
        """Return positions [start, stop) of the order: (stop - start,) int64 numbers in [0, rows)."""
        self._check(start, stop)
        if self._pools is not None:
            return self._pools.take(start, stop)
        places = np.arange(start, stop)
        return permuted(places, self.rows, key_of(self.seed, self.epoch)) if self.shuffle else places

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return self.shuffle.rows if isinstance(self.shuffle, Blocks) else 1

    def unit(self, position: int) -> tuple[int, int]:
        """Return positions [start, stop) whose rows are best fetched together with that of `position`: its pool, or it alone."""
        self._check(position, position + 1)
        if self._pools is not None:
            return self._pools.pool_at(position)[1:]
        return position, position + 1

    def blocks(self, start: int, stop: int) -> Int64:
        """Return the number of the block at each of these positions: what lies in one is best fetched together."""
        return self.take(start, stop) // self.block_rows

    def samples_of(self, blocks: Int64) -> Int64:
        """Return the numbers in these blocks."""
        found: Int64 = (blocks[:, None] * self.block_rows + np.arange(self.block_rows)).reshape(-1)
        return found[found < self.rows]  # the last block may be short

    def __reduce__(self) -> tuple[Any, ...]:
        return Order, (self.rows, self.seed, self.epoch, self.shuffle)  # without what was worked out

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"[{start}, {stop}) of an order of {self.rows}")

    @cached_property
    def _pools(self) -> _Pools | None:
        if not isinstance(self.shuffle, Blocks):
            return None
        return _Pools(self.rows, self.shuffle, key_of(self.seed, self.epoch))


class _Pools:
    """The order in blocks of one epoch.

    Three numbers say where a row is: its *position* in the order; its *place* before the rows of its pool were mixed, where the rows
    of a permuted block follow each other; and the row itself. The last block may be short, and it may stand anywhere: places behind
    it are fewer than blocks before them would say. Pools are as equal as they can be, so that no small one at the end is mixed badly.

    The pool that was taken from last is kept: an order is mostly taken a batch at a time.
    """

    def __init__(self, rows: int, shape: Blocks, key: int) -> None:
        self._size = shape.rows
        self._key = key
        self._count = -(-rows // shape.rows)  # of blocks
        self._pools = -(-self._count // shape.pool)
        self._missing = self._count * shape.rows - rows  # rows of the last block
        self._short = place_of(self._count - 1, self._count, key) if self._missing else self._count
        self._kept: tuple[int, Int64] | None = None  # a pool, and its rows in order

    def take(self, start: int, stop: int) -> Int64:
        """As `Order.take`."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            pool, first, last = self.pool_at(start)
            end = min(stop, last)
            pieces.append(self._stretch(pool, first, last, start, end))
            start = end
        return np.concatenate(pieces)

    def pool_at(self, position: int) -> tuple[int, int, int]:
        """Return the number of the pool at a position, and the positions [start, stop) of all its rows."""
        number = int(self._block_at(np.array([position]))[0]) * self._pools // self._count
        first, last = (-(-each * self._count // self._pools) for each in (number, number + 1))
        return number, *self._starts(np.array([first, last])).tolist()

    def _stretch(self, pool: int, first: int, last: int, start: int, stop: int) -> Int64:
        """Return the rows at positions [start, stop), all of a pool [first, last)."""
        if last - first > KEPT_ROWS:
            return self._mixed(pool, first, last, start, stop)
        kept = self._kept
        if kept is None or kept[0] != pool:
            kept = self._kept = pool, self._mixed(pool, first, last, first, last)
        return kept[1][start - first : stop - first]

    def _mixed(self, pool: int, first: int, last: int, start: int, stop: int) -> Int64:
        numbers = np.arange(start - first, stop - first)
        places = first + permuted(numbers, last - first, key_of(self._key, pool + 1))
        block = self._block_at(places)
        return permuted(block, self._count, self._key) * self._size + places - self._starts(block)

    def _starts(self, block: Int64) -> Int64:
        """The places where permuted blocks begin."""
        return block * self._size - np.where(block > self._short, self._missing, 0)

    def _block_at(self, places: Int64) -> Int64:
        """Which permuted blocks these places lie in."""
        behind = (self._short + 1) * self._size - self._missing
        return (places + np.where(places >= behind, self._missing, 0)) // self._size


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
