"""`weighted`: a dataset whose epochs take each sample as often as its weight says, by enumeration and not by draws: marks.py.

May import numpy, errors, the dataset protocol, the order of marks, and the facts that a function of weights is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, whole_number
from vla_store.loader.dataset import Ahead, Dataset, Empty, OneByOne, in_turn, served
from vla_store.loader.facts import StepFacts, facts_of
from vla_store.loader.marks import MOST_ROWS, Marks, Shares
from vla_store.reader.options import OF_WEIGHTS, by_name
from vla_store.text import counted
from vla_store.types import Item

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Weights = str | npt.ArrayLike | Callable[[StepFacts], npt.ArrayLike]


@by_name(OF_WEIGHTS)
def weighted(dataset: Indexed[Item] | Dataset, weights: Weights, *, epoch: int | None = None) -> Weighted[Item]:
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

    def __init__(self, dataset: Dataset, ordering: Marks) -> None:
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
        # A state that differs is told of the first difference: of weights before what follows from them.
        return {**others, "weights": digest, "selection": both}

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


class Indexed(Protocol[Item]):
    """What gives a sample for its number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


class Weighted(Generic[Item]):
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

    def __init__(self, dataset: Indexed[Item] | Dataset, weights: Weights, epoch: int | None = None) -> None:
        found = served(dataset)
        if found is None:
            raise OptionError("weighted takes what a Loader takes", found=type(dataset).__name__)
        if hasattr(found, "epoch_order"):
            raise OptionError(
                "this dataset has an order of its own already",
                found=type(dataset).__name__,
                hint="weigh what it is made of, before; of two weights give the product: weighted(dataset, one * other)",
            )
        self.dataset: Any = dataset
        self.makes_batches = not isinstance(found, OneByOne)
        self.epoch_rows = len(found) if epoch is None else whole_number("epoch", epoch, 1, MOST_ROWS)
        self.text = _said(weights)
        shares = Shares.of(checked(weights_of(found, weights), found))
        self.samples = WeightedSamples(
            found.plain if isinstance(found, OneByOne) else found, Marks(shares, self.epoch_rows)
        )
        if hasattr(dataset, "statistics"):
            self.statistics = dataset.statistics

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        """Return one sample of the dataset."""
        found: Item = self.dataset[index]
        return found

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
            f"Weighted({counted(len(self), 'sample')}, an epoch of {self.epoch_rows:,}\n"
            f"  weights    {self.text}\n"
            f"  an epoch   {np.minimum(shares, 1).sum():,.0f} different samples on average; {never:,} never come\n"
            f"  of         {inner})"
        )


def weights_of(dataset: Dataset, weights: Weights) -> Array:
    """Return what is given as weights as an array, unchecked. Raises OptionError and UnknownName for what needs a store."""
    if isinstance(weights, str):
        return facts_of(dataset, f"the name of a field, {weights!r},").number(weights)
    if callable(weights):
        return called(weights, facts_of(dataset, f"a function, {_said(weights)},"))
    return np.asanyarray(weights)  # a mask stays: `checked` refuses what it hides


def called(function: Callable[[StepFacts], npt.ArrayLike], at: StepFacts) -> Array:
    """Return what a function of weights gives, masks as they are. Raises OptionError where that is one more function."""
    made = function(at)
    if callable(made):
        raise OptionError(
            "a function of weights returns numbers, and this one returns a function",
            function=_said(function),
            found=_said(made),
            hint="give what it returns, and not the function that makes it",
        )
    return np.asanyarray(made)


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
    values = np.ma.getdata(weights).astype(np.float64)
    masked = np.ma.getmaskarray(weights)
    good = np.isfinite(values) & (values >= 0) & ~masked
    if not good.all():
        bad = int(good.argmin())
        raise OptionError(
            "a weight is a finite number of at least 0",
            sample=bad,
            **dataset.where(bad),
            found=f"{'masked' if masked[bad] else weights[bad]}; {int((~good).sum()):,} such weights in all",
            hint="of a masked array: weights.filled(0) never gives what is masked" if masked.any() else "",
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
