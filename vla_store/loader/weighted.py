"""`weighted`: a dataset whose epochs take each sample as often as its weight says, by enumeration and not by draws.

An epoch has E slots. Sample i has a share of E * w_i / sum(w) of them, which is no whole number: in each epoch it comes floor or ceil of
it times. Which of the two, an offset says that is a function of (seed, epoch). Weights become whole numbers once; from there on
all is whole numbers, so that every machine has the same order.

May import numpy, errors, the order, the dataset protocol, and the facts that a function of weights is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, whole_number
from vla_store.loader.dataset import Ahead, Dataset, Empty, OneByOne, in_turn, served
from vla_store.loader.facts import StepFacts, facts_of
from vla_store.loader.order import EpochOrder, Order, Shuffle
from vla_store.loader.permutation import key_of
from vla_store.reader.cached import cached_property
from vla_store.reader.options import OF_WEIGHTS, by_name

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Weights = str | npt.ArrayLike | Callable[[StepFacts], npt.ArrayLike]

TOTAL_BITS = 60  # whole weights add up to about 2^60 at most
MOST_ROWS = 2**40
_HALF_BITS = 20
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: its multiples lie as evenly on a circle as can be


@by_name(OF_WEIGHTS)
def weighted(dataset: Any, weights: Weights, *, epoch: int | None = None) -> Weighted:
    """Return a dataset of the same samples, of which an epoch takes each as often as its weight says.

    Parameters
    ----------
    dataset
        What a Loader takes: Samples, a StepDataset, a recipe, a Subset of one, a dataset of your own.
    weights
        (n,) numbers, one a sample; or the name of a numeric field, of which every sample takes the number at its own row; or a function
        that is called once with a `StepFacts` of all samples and returns (n,) numbers, as those of `vla_store.weights` are. Finite, at
        least 0, not all 0. A sample of weight 0 never comes.
    epoch
        Samples in an epoch, E; default: as many as the dataset has.

    Returns
    -------
    Weighted
        For a Loader or a ShuffleSampler. `len` and the numbers of its samples are those of `dataset`.

    Raises
    ------
    OptionError
        For weights that cannot be; it names the first sample whose weight is wrong. For a dataset that has an order of its own already.
    UnknownName
        There is no such field.

    Notes
    -----
    In every epoch sample i comes floor or ceil of E * w_i / sum(w) times; over many epochs the mean is this share. The order is a
    function of seed, epoch, the weights and E alone. A state of other weights is refused.
    """
    return Weighted(dataset, weights, epoch)


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


def places_of(slots: Int64, rows: int, total: int, offset: int) -> Int64:
    """Return floor((slot * total + offset) / rows) of each slot in [0, rows), where rows <= 2^40, offset < total < 2^62."""
    whole, rest = divmod(total, rows)
    begin, more = divmod(offset, rows)
    # slot * rest may have 80 bits: the upper half of the slot goes first, and what it leaves goes on with the lower half.
    high, low = slots >> _HALF_BITS, slots & ((1 << _HALF_BITS) - 1)
    upper, left = np.divmod(high * rest, rows)
    lower = ((left << _HALF_BITS) + low * rest + more) // rows
    made: Int64 = slots * whole + begin + (upper << _HALF_BITS) + lower
    return made


@dataclass(frozen=True)
class WeightedOrder:
    """The order of one epoch of weighted samples: an `Order` of its slots, each of which is one of a sample."""

    slots: Order
    shares: Shares

    @property
    def rows(self) -> int:
        """Slots of the epoch."""
        return self.slots.rows

    @property
    def seed(self) -> int:
        """Seed of the order."""
        return self.slots.seed

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self.slots.epoch

    @property
    def block_rows(self) -> int:
        """Slots of a block: the samples in them follow one another too."""
        return self.slots.block_rows

    def take(self, start: int, stop: int) -> Int64:
        """As `Order.take`."""
        return self._samples(self.slots.take(start, stop))

    def blocks(self, start: int, stop: int) -> Int64:
        """As `Order.blocks`."""
        return self.slots.blocks(start, stop)

    def samples_of(self, blocks: Int64) -> Int64:
        """As `Order.samples_of`; each sample once."""
        return np.unique(self._samples(self.slots.samples_of(blocks)))

    def unit(self, position: int) -> tuple[int, int]:
        """As `Order.unit`."""
        return self.slots.unit(position)

    @cached_property
    def offset(self) -> int:
        """Where the first slot begins, in [0, total): from epoch to epoch by the golden ratio, from a start that the seed gives.

        So a sample with a share of 0.3 comes in 3 of 10 epochs that follow one another, nearly, wherever one begins to count.
        """
        return ((key_of(self.seed, -1) + self.epoch * _GOLDEN & _MASK) * self.shares.total) >> 64

    def _samples(self, slots: Int64) -> Int64:
        return self.shares.at(places_of(slots, self.rows, self.shares.total, self.offset))


@dataclass(frozen=True)
class Slots:
    """The orders of weighted samples, without the samples: what a mixture takes along of a part. epoch_rows: slots of an epoch."""

    shares: Shares
    epoch_rows: int

    def __len__(self) -> int:
        return self.shares.count

    def epoch_order(self, seed: int, epoch: int, shuffle: Shuffle) -> EpochOrder:
        """Return the order of an epoch."""
        return WeightedOrder(Order(self.epoch_rows, seed, epoch, shuffle), self.shares)


class WeightedSamples:
    """A `Dataset` with the order of its weights: what a Loader serves for a `Weighted`.

    Parameters
    ----------
    dataset
        The dataset that has the samples.
    ordering
        How often each comes.

    Attributes
    ----------
    dataset, ordering
        As they were given.
    epoch_rows, epoch_order
        Those of `ordering`.
    """

    def __init__(self, dataset: Dataset, ordering: Slots) -> None:
        self.dataset: Any = dataset
        self.ordering = ordering
        self.epoch_rows, self.epoch_order = ordering.epoch_rows, ordering.epoch_order

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the dataset, with a digest of the weights and of how many samples an epoch takes."""
        whole = self.dataset.identity
        digest = hashlib.sha256(f"{self.epoch_rows}\n{self.ordering.shares.digest()}".encode()).hexdigest()
        # In the selection too: who knows of no weights must refuse the state as well.
        both = hashlib.sha256(f"{whole.get('selection')}\n{digest}".encode()).hexdigest()
        others = {name: value for name, value in whole.items() if name != "selection"}
        return {
            **others,
            "weights": digest,
            "selection": both,
        }  # in the order in which a state that differs is told why

    @property
    def ahead(self) -> Ahead | None:
        """That of the dataset."""
        found: Ahead | None = getattr(self.dataset, "ahead", None)
        return found

    def items_in_turn(self, indices: Sequence[int]) -> Iterator[Any]:
        """Yield these samples one after another."""
        return in_turn(self.dataset, indices)

    def batch(self, indices: Any, *, empty: Empty = np.empty) -> Any:
        """Return the dataset's batch of these samples."""
        return self.dataset.batch(indices, empty=empty)

    def where(self, index: int | None = None) -> Mapping[str, Any]:
        """Return where the dataset says that a sample lies."""
        found: Mapping[str, Any] = self.dataset.where(index)
        return found


class Weighted:
    """Samples of a dataset, each as often as its weight says; `vla_store.weighted` makes it.

    `len`, numbers and samples are the dataset's: only the order of an epoch is another. A Loader and a ShuffleSampler know that order; a
    DataLoader does with `sampler=ShuffleSampler(weighted)`.

    Attributes
    ----------
    dataset
        As it was given.
    samples
        What a Loader serves: a dataset as vla_store/loader/dataset.py has it.
    makes_batches
        Whether the dataset makes a batch at once.
    epoch_rows
        Samples in an epoch.
    text
        What the weights are, for people.

    Raises
    ------
    OptionError, UnknownName
        As `weighted` says.
    """

    def __init__(self, dataset: Any, weights: Weights, epoch: int | None = None) -> None:
        found = served(dataset)
        if found is None:
            raise OptionError("weighted takes what a Loader takes", found=type(dataset).__name__)
        if hasattr(found, "epoch_order"):
            raise OptionError(
                "this dataset has an order of its own already",
                found=type(dataset).__name__,
                hint="weigh what it is made of, before; of two weights give the product: weighted(dataset, one * other)",
            )
        self.dataset = dataset
        self.makes_batches = not isinstance(found, OneByOne)
        self.epoch_rows = len(found) if epoch is None else whole_number("epoch", epoch, 1, MOST_ROWS)
        self.text = _said(weights)
        shares = Shares.of(checked(weights_of(found, weights), found))
        self.samples = WeightedSamples(
            found.plain if isinstance(found, OneByOne) else found, Slots(shares, self.epoch_rows)
        )
        if hasattr(dataset, "statistics"):
            self.statistics = dataset.statistics

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        """Return one sample of the dataset."""
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return many samples of the dataset; a DataLoader calls this."""
        many = getattr(self.dataset, "__getitems__", None)
        return many(indices) if many else [self.dataset[index] for index in indices]

    def items_in_turn(self, indices: Sequence[int]) -> Iterator[Any]:
        """Yield these samples of the dataset one after another."""
        return in_turn(self.dataset, indices)

    @property
    def shares(self) -> Floats:
        """How often each sample comes in an epoch, on average: (n,). In every epoch it is floor or ceil of it."""
        shares = self.samples.ordering.shares
        return shares.each.astype(np.float64) * (self.epoch_rows / shares.total)

    def __repr__(self) -> str:
        shares = self.shares
        never = int((shares == 0).sum())
        inner = repr(self.dataset).replace("\n", "\n  ")
        return (
            f"Weighted({len(self):,} samples, an epoch of {self.epoch_rows:,}\n"
            f"  weights    {self.text}\n"
            f"  an epoch   {np.minimum(shares, 1).sum():,.0f} different samples on average; {never:,} never come\n"
            f"  of         {inner})"
        )


def weights_of(dataset: Dataset, weights: Weights) -> Array:
    """Return what is given as weights as an array, unchecked. Raises OptionError and UnknownName for what needs a store."""
    if isinstance(weights, str):
        return facts_of(dataset, f"the name of a field, {weights!r},").number(weights)
    made = weights(facts_of(dataset, f"a function, {_said(weights)},")) if callable(weights) else weights
    return np.asarray(made)


def checked(weights: Array, dataset: Dataset) -> Array:
    """Return weights as float64. Raises OptionError, which names the first sample whose weight is wrong."""
    count = len(dataset)
    if weights.dtype.kind not in "biuf" or weights.ndim != 1:
        raise OptionError(
            "weights are numbers, one a sample",
            expected=f"{count:,} numbers",
            found=f"{weights.dtype} of shape {weights.shape}",
        )
    if len(weights) != count:
        raise OptionError(
            "weights are one a sample",
            expected=f"{count:,}, the length of the dataset",
            found=f"{len(weights):,}",
            hint="of weights of all rows of a store: weighted(samples, weights[samples.anchor_rows])",
        )
    values = weights.astype(np.float64)
    good = np.isfinite(values) & (values >= 0)
    if not good.all():
        bad = int(good.argmin())
        raise OptionError(
            "a weight is a finite number of at least 0",
            sample=bad,
            **dataset.where(bad),
            found=f"{weights[bad]}; {int((~good).sum()):,} such weights in all",
        )
    if not values.any():
        raise OptionError("all weights are 0: no sample would ever come", samples=f"{count:,}")
    return values


def _said(weights: Any) -> str:
    """Return what weights are, for people."""
    if isinstance(weights, str):
        return f"field {weights!r}"
    if callable(weights):
        return str(getattr(weights, "__name__", None) or weights)
    return "as given"
