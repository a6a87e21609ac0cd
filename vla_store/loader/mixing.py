"""The order of a mixture: whose turn each position is, and which of that part's samples comes then. Pure arithmetic.

A mixture counts the samples that it gave of each part over all epochs: `number` n of a part is position n % L of its own epoch n // L,
where L is how long that is. So every part is enumerated, whatever the epochs of the mixture are. May import numpy, errors, the order
and the shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from vla_store.errors import OptionError
from vla_store.loader.order import EpochOrder, Piece, Shuffle, epoch_rows, order_of, pieces_of
from vla_store.loader.shares import KEPT_TABLES, Int64, Table, table_of
from vla_store.reader.cached import cached_property

MOST_PLACES = 1 << 61  # sums of two such numbers are int64


class Stretch(NamedTuple):
    """Where shares, or the length of an epoch, last changed: epoch and position, and how many samples each part had given by then."""

    epoch: int
    position: int
    given: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """So many samples, in place of a dataset that has no order of its own."""

    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class Mixing:
    """What the order of a mixture depends on beside seed, epoch and shuffle. It pickles small where its parts do.

    In which order parts were named makes no difference to whose turn it is: a checkpoint may sort them.

    parts: of each the dataset, or what orders it. counts: its turns in `sum(counts)`. epoch_rows: positions of an epoch. begins: what
    positions are counted from. run: samples that a part gives in one turn. whole: what an epoch is a multiple of.
    """

    names: tuple[str, ...]
    parts: tuple[Sized, ...]
    counts: tuple[int, ...]
    epoch_rows: int
    begins: Stretch
    run: int = 1
    whole: int = 1

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def epoch_order(self, seed: int, epoch: int, shuffle: Shuffle) -> MixtureOrder:
        """Return the order of an epoch. Raises OptionError where that lies before the stretch."""
        self.place(epoch, self.epoch_rows)
        return MixtureOrder(self, seed, epoch, shuffle)

    def given(self, seed: int, epoch: int, position: int) -> Int64:
        """Return how many samples of each part came before a position, (K,). Raises OptionError where that lies before the stretch."""
        turn, rest = divmod(self.place(epoch, position), self.run)
        before = np.empty(len(self.parts), np.int64)
        before[self._by_name] = self._table(seed).before(turn) * self.run
        if rest:
            before[self.turns(seed, turn * self.run, turn * self.run + 1)[0]] += rest
        before += np.array(self.begins.given)
        return before

    def place(self, epoch: int, position: int) -> int:
        """Return how many samples lie between the stretch's beginning and a position. Raises OptionError."""
        first = self.begins
        place = (epoch - first.epoch) * self.epoch_rows + position - first.position
        if place < 0:
            raise OptionError(
                "this lies before the mixture was changed by the state that was loaded: its order was another then",
                changed=f"epoch {first.epoch}, at row {first.position:,}",
                found=f"epoch {epoch}, at row {position:,}",
                hint="name the epoch of the change or a later one, after load_state_dict; or load a state of before, into a mixture as "
                "it was then",
            )
        if place > MOST_PLACES:
            raise OptionError("there is no such epoch of a mixture: its samples are counted to 2**61", found=epoch)
        return place

    def turns(self, seed: int, start: int, stop: int) -> tuple[Int64, Int64]:
        """Return the parts at places [start, stop), and their numbers of their samples: (n,) both."""
        run = self.run
        first, last = start // run, -(-stop // run)
        parts, numbers = self._table(seed).take(first, last)
        parts = self._by_name[parts]
        if run > 1:
            parts, numbers = np.repeat(parts, run), (numbers[:, None] * run + np.arange(run)).reshape(-1)
            mine = slice(start - first * run, stop - first * run)
            parts, numbers = parts[mine], numbers[mine]
        return parts, numbers + np.array(self.begins.given)[parts]

    def place_of(self, seed: int, part: int, number: int) -> int:
        """Return the place at which a part gives its sample of this number, which it has not given before the stretch."""
        turn, rest = divmod(number - self.begins.given[part], self.run)
        at = int(np.flatnonzero(self._by_name == part)[0])
        return self._table(seed).place_of(at, turn) * self.run + rest

    @cached_property
    def firsts(self) -> Int64:
        """Number of the first sample of each part among those of the mixture, and of all samples: (K + 1,)."""
        return np.cumsum([0, *map(len, self.parts)])

    @cached_property
    def _by_name(self) -> Int64:
        return np.array(sorted(range(len(self.names)), key=self.names.__getitem__))

    def _table(self, seed: int) -> Table:
        # Kept here beside the few that all share: mixtures in mixtures ask for one after another.
        found = self._tables.get(seed)
        if found is None:
            if len(self._tables) == KEPT_TABLES:
                self._tables.pop(next(iter(self._tables)), None)  # threads may ask at once
            found = self._tables[seed] = table_of(tuple(self.counts[at] for at in self._by_name.tolist()), seed)
        return found

    @cached_property
    def _tables(self) -> dict[int, Table]:
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Mixing, tuple(getattr(self, each.name) for each in fields(self))  # without what was worked out


@dataclass(frozen=True)
class MixtureOrder:
    """The order of one epoch of a mixture: an `EpochOrder`."""

    mixing: Mixing
    seed: int
    epoch: int
    shuffle: Shuffle

    @property
    def rows(self) -> int:
        """Positions of the epoch."""
        return self.mixing.epoch_rows

    @property
    def block_rows(self) -> int:
        """1: samples that follow one another lie in the pools of several parts; `pieces` says in which."""
        return 1

    def unit(self, position: int) -> tuple[int, int]:
        """Return as many positions from this one on as the pool of its part has samples."""
        place = self.mixing.place(self.epoch, position)
        (part,), (number,) = self.mixing.turns(self.seed, place, place + 1)
        epoch, own = divmod(int(number), epoch_rows(self.mixing.parts[part]))
        start, stop = self._order(int(part), epoch).unit(own)
        return position, min(self.rows, position + stop - start)

    def take(self, start: int, stop: int) -> Int64:
        """Return the samples at positions [start, stop): (stop - start,) int64 numbers of the mixture."""
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"[{start}, {stop}) of an order of {self.rows}")
        taken = np.empty(stop - start, np.int64)
        for part, at, first in self._turns(start, stop - start):
            pieces = [
                self._order(part, epoch).take(own, own + count)
                for epoch, own, count in self._epochs(part, first, len(at))
            ]
            taken[at] = self.mixing.firsts[part] + np.concatenate(pieces)
        return taken

    def pieces(self, position: int, samples: Int64) -> Iterator[Piece]:
        """Yield samples that were taken from a position on, by the pools of the parts."""
        begin = self.mixing.place(self.epoch, 0)
        for part, at, number in self._turns(position, len(samples)):
            shift, done = int(self.mixing.firsts[part]), 0
            rows = epoch_rows(self.mixing.parts[part])
            for epoch, own, count in self._epochs(part, number, len(at)):
                mine = samples[at[done : done + count]] - shift
                done += count
                for piece in pieces_of(self._order(part, epoch), own, mine):
                    end = self.mixing.place_of(self.seed, part, epoch * rows + piece.until - 1) + 1 - begin
                    yield piece._replace(
                        pool=(part, *piece.pool[:-1], epoch, *piece.pool[-1:]),
                        samples=piece.samples + shift,
                        shift=piece.shift + shift,
                        until=min(end, self.rows),
                    )

    def __reduce__(self) -> tuple[Any, ...]:
        return MixtureOrder, (self.mixing, self.seed, self.epoch, self.shuffle)  # without what was worked out

    def _turns(self, position: int, count: int) -> Iterator[tuple[int, Int64, int]]:
        """Yield each part that has some of so many positions, which of them it has, and how many of its samples came before."""
        place = self.mixing.place(self.epoch, position)
        parts, numbers = self.mixing.turns(self.seed, place, place + count)
        for part in np.flatnonzero(np.bincount(parts)).tolist():
            at = np.flatnonzero(parts == part)
            yield part, at, int(numbers[at[0]])

    def _epochs(self, part: int, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield where so many samples of a part lie, of which `first` came before: its own epoch, a position there, and how many."""
        rows = epoch_rows(self.mixing.parts[part])
        while count:
            epoch, position = divmod(first, rows)
            taken = min(count, rows - position)
            yield epoch, position, taken
            first, count = first + taken, count - taken

    def _order(self, part: int, epoch: int) -> EpochOrder:
        """Return the order of a part's own epoch; the last one is kept, with the pool that it may hold."""
        kept = self._kept.get(part)
        if kept is None or kept[0] != epoch:
            seed = part_seed(self.seed, self.mixing.names[part])
            kept = self._kept[part] = epoch, order_of(self.mixing.parts[part], seed, epoch, self.shuffle)
        return kept[1]

    @cached_property
    def _kept(self) -> dict[int, tuple[int, EpochOrder]]:
        return {}


def part_seed(seed: int, name: str) -> int:
    """Return the seed of a part: by its name, so that its order stays when other parts come or go."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "little")


def ordering_of(dataset: Any) -> Sized:
    """Return what orders a dataset, and pickles smaller: its number of samples where it has no order of its own."""
    if not hasattr(dataset, "epoch_order"):
        return Rows(len(dataset))
    found: Sized = getattr(dataset, "ordering", dataset)
    return found
