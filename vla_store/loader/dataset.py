"""What a Loader serves: the protocol, and the adapters for what users hand over in its place. May import numpy, errors, and what the
reader says of batches."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError
from vla_store.loader.several import AheadOfSome
from vla_store.reader.batch import checked_indices
from vla_store.storage import Range, Traffic

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Empty = Callable[[tuple[int, ...], Any], Array]  # as np.empty


class Dataset(Protocol):
    """What a Loader serves.

    `vla_store.Samples` and recipes are such datasets; so is any object with these members. It is pickled to the
    workers.

    Notes
    -----
    More members are used where a dataset has them.

    `__getitem__(index)`
        One sample, which the Loader's `transform` needs.
    `makes_batches`
        False where a sample is what `__getitem__` says, and `batch` must not be asked.
    `items_in_turn(indices)`
        An iterator over many such samples, for a dataset that reads them together.
    `ahead`
        None where the dataset is near; else an `Ahead`, which a process of its own uses to bring samples near before the
        workers read them.
    `epoch_rows` and `epoch_order(seed, epoch, shuffle)`
        The positions of an epoch, and the `EpochOrder` of one, where an epoch is not a permutation of all samples.
    `ordering`
        What has these two and a length, and pickles smaller than the dataset: a mixture's order takes it along.
    `counted(seed, epoch, position)`
        What a state holds beside the place and the identity; raises OptionError where there is no such place.
    `continued(state)`
        The dataset that goes on from a state, and the state as it is one of that dataset.
    `in_batches(batch_size, world_size)`
        The dataset whose epochs are ordered for such batches.
    `bare`
        The same dataset without what is only for torch: what workers get.
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Values that fit into JSON, and differ where samples or their order do: a state of another dataset is refused by them."""

    def batch(self, indices: Any, *, empty: Empty = np.empty) -> Any:
        """Return the samples of these indices as one batch.

        Parameters
        ----------
        indices
            (B,) int64, each in [0, len).
        empty
            Gives uninitialised arrays, as np.empty does. In a worker they lie where the batch is handed over: such an
            array is not copied again. Ask for the same ones in the same order.

        Returns
        -------
        tree
            Dicts, lists and tuples, of arrays (B, ...) and lists of texts.

        Raises
        ------
        Any exception. The Loader asks for the samples one by one then, and names the first that fails.
        """

    def where(self, index: int | None = None) -> Mapping[str, Any]:
        """Return what an error message says of where a sample lies, by name.

        Parameters
        ----------
        index
            Number of the sample; None: where the dataset lies.
        """


class Ahead(Protocol):
    """Brings samples near before they are read, in another process: pickled like the dataset, and called from several threads."""

    @property
    def fits(self) -> bool:
        """Whether all samples have room on this machine, where they stay."""

    @property
    def is_near(self) -> bool:
        """Whether all samples are on this machine now, and stay: then nothing is fetched."""

    @property
    def kept(self) -> tuple[int, int]:
        """Bytes that a cache on this machine has, and of all that it is to have; (0, 0) without a cache."""

    @property
    def traffic(self) -> Traffic:
        """What storage was asked for until now, by this process."""

    def fetch(self, indices: Int64, is_whole: bool) -> list[Range]:
        """Bring samples near, and return what `release` is to be told once they were used; raise what reading raises.

        is_whole: all samples are wanted some time, and have room.
        """

    def release(self, ranges: list[Range]) -> None:
        """Give up what one `fetch` returned, but for what another one needs too."""


NEEDED = ("__len__", "identity", "batch", "where")
# Members of a dataset that has an order of its own, or that is a mixture.
OF_ORDERS = (
    "epoch_order",
    "epoch_rows",
    "ordering",
    "counted",
    "continued",
    "in_batches",
    "by_part",
    "part_of",
    "names",
)


def served(given: Any) -> Dataset | None:
    """Return what a Loader serves for what it is given.

    Parameters
    ----------
    given
        A dataset; what stands for one by its `samples`, as a StepDataset does; or a torch Subset of either. What says
        itself what a sample is, is served one by one.

    Returns
    -------
    Dataset or None
        None for what cannot be served.

    Raises
    ------
    IndexError, OptionError
        For a Subset with indices that `choose` refuses.
    """
    subset: Any = getattr(
        sys.modules.get("torch.utils.data"), "Subset", None
    )  # where nobody imported torch there is none
    if isinstance(given, subset or ()):
        inner = served(given.dataset)
        if inner is None:
            return None
        chosen = choose(inner, given.indices)
        changes = type(given).__getitem__ is not subset.__getitem__
        return OneByOne(chosen, given) if changes else chosen
    plain: Any = given if _is_dataset(given) else getattr(given, "samples", None)
    if not _is_dataset(plain):
        return None
    if plain is given:
        plain = given = getattr(given, "bare", given)
    return plain if getattr(given, "makes_batches", given is plain) else OneByOne(plain, given)


def choose(dataset: Dataset, indices: Any) -> Dataset:
    """Return the dataset of some samples, in this order, numbered anew.

    Parameters
    ----------
    dataset
        The dataset that has them.
    indices
        (n,) whole numbers; negative ones count from the end, and one may come several times.

    Returns
    -------
    Dataset

    Raises
    ------
    IndexError
        For a sample past either end.
    OptionError
        For what are no whole numbers, and for no sample at all.
    """
    if hasattr(dataset, "epoch_order"):
        raise OptionError(
            "a subset would lose the order that this dataset has of its own",
            found=type(dataset).__name__,
            hint="choose samples of what it is made of, before it is made",
        )
    if isinstance(dataset, OneByOne):
        return OneByOne(choose(dataset.plain, indices), choose(dataset.source, indices))
    return Chosen(dataset, indices)


class Chosen:
    """Some samples of a dataset under new numbers: 0 is the first of `indices`, one of which may come several times.

    Parameters
    ----------
    dataset
        The dataset that has them.
    indices
        (n,) whole numbers, n at least 1; negative ones count from the end.

    Attributes
    ----------
    dataset, indices
        As they were given; indices are (n,) int64, none of them negative.

    Raises
    ------
    IndexError
        For a sample past either end.
    OptionError
        For what are no whole numbers, and for no sample at all.
    """

    def __init__(self, dataset: Any, indices: Any) -> None:
        self.dataset = dataset
        self.indices: Int64 = checked_indices(indices, len(dataset)).copy()
        if not self.indices.size:
            raise OptionError("the subset is empty", samples=f"0 of {len(dataset):,}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    @property
    def identity(self) -> dict[str, Any]:
        """That of the dataset, with a digest of which samples these are."""
        whole = self.dataset.identity
        digest = hashlib.sha256(f"{whole.get('selection')}\n".encode() + self.indices.astype("<i8").tobytes())
        return {**whole, "selection": digest.hexdigest()}

    @property
    def ahead(self) -> Ahead | None:
        """That of the dataset, by the new numbers."""
        inner = getattr(self.dataset, "ahead", None)
        return None if inner is None else AheadOfSome(inner, self.indices)

    def items_in_turn(self, indices: Sequence[int]) -> Iterator[Any]:
        """Yield these samples one after another."""
        return in_turn(self.dataset, self.indices[np.asarray(indices)].tolist())

    def batch(self, indices: Any, *, empty: Empty = np.empty) -> Any:
        """Return the dataset's batch of these samples."""
        return self.dataset.batch(self.indices[np.asarray(indices)], empty=empty)

    def where(self, index: int | None = None) -> Mapping[str, Any]:
        """Return where the dataset says that a sample lies."""
        found: Mapping[str, Any] = self.dataset.where(None if index is None else int(self.indices[index]))
        return found


class OneByOne:
    """Samples that are made one at a time, and collated.

    Parameters
    ----------
    plain
        The dataset that says how many samples there are, where they lie and which they are.
    source
        What gives the samples: `source[index]`, with the indices of `plain`.

    Attributes
    ----------
    plain, source
        As they were given.
    where
        That of `plain`.
    """

    def __init__(self, plain: Dataset, source: Any) -> None:
        self.plain, self.source = plain, source
        self.where = plain.where
        for name in OF_ORDERS:
            if hasattr(plain, name):
                setattr(self, name, getattr(plain, name))

    def __len__(self) -> int:
        return len(self.plain)

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the plain dataset."""
        return self.plain.identity

    @property
    def ahead(self) -> Ahead | None:
        """That of the plain dataset."""
        found: Ahead | None = getattr(self.plain, "ahead", None)
        return found

    def batch(self, indices: Any, *, empty: Empty = np.empty) -> Any:
        """Return the samples collated.

        Parameters
        ----------
        indices
            (B,) whole numbers.
        empty
            Not used.
        """
        from vla_store.loader.collate import collate

        return collate(list(in_turn(self.source, indices)))


def in_turn(source: Any, indices: Sequence[int]) -> Iterator[Any]:
    """Return an iterator over `source[index]` of each index, which are read together where the source can.

    Parameters
    ----------
    source
        What has the samples; its `items_in_turn(indices)` is used where it has one.
    indices
        (n,) whole numbers.

    Returns
    -------
    iterator
        Of n samples, in the order of `indices`.
    """
    many = getattr(source, "items_in_turn", None)
    return many(indices) if many else map(source.__getitem__, indices)


def _is_dataset(given: Any) -> bool:
    # Looked for without asking: a property may read the store.
    return all(inspect.getattr_static(given, name, None) is not None for name in NEEDED)
