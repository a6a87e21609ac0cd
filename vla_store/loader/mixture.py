"""`mixture`: several datasets as one, each with its share of the samples. May import numpy, errors, the dataset protocol, the order of
a mixture, and the reader's samples; no torch.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np

from vla_store.errors import OptionError, UnknownName
from vla_store.loader.dataset import Dataset, Empty, OneByOne, in_turn, served
from vla_store.loader.mixed import PartBatches, digest_of, is_name, names_of, schemas_of
from vla_store.loader.mixing import Mixing, MixtureOrder, Stretch, ordering_of
from vla_store.loader.order import Shuffle, epoch_rows
from vla_store.loader.remixing import continued
from vla_store.loader.schema import check_alike
from vla_store.loader.several import AheadOfParts
from vla_store.loader.shares import Int64, counts_of, epoch_length, tempered, weight_of
from vla_store.loader.weighted import WeightedSamples
from vla_store.reader.batch import Batch, checked_indices
from vla_store.reader.cached import cached_property
from vla_store.reader.numbers import one_number
from vla_store.reader.options import by_name
from vla_store.reader.samples import Samples
from vla_store.reader.texts import drawing_for
from vla_store.text import counted
from vla_store.types import MIXTURE_BATCHES, MIXTURE_WEIGHTS, MixtureBatches, MixtureEpoch, MixtureWeights

PART = "part"
HABITS = {
    "probabilities": "write mixture([(dataset, weight), ...])",
    "sample_weights": "write mixture([(dataset, weight), ...])",
    "stopping_strategy": 'write epoch="largest", until each part was given whole, or epoch="smallest", until the first one was',
    "seed": "that is the Loader's: Loader(mixture, batch_size=64, seed={value})",
    "shuffle": "that is the Loader's: Loader(mixture, batch_size=64, shuffle={value})",
    "batch_size": "that is the Loader's: Loader(mixture, batch_size={value})",
    "transform": "give each part its own, or Loader(mixture, batch_size=64, transform=...) one for all",
}


@by_name(HABITS)
def mixture(
    parts: Sequence[Any],
    *,
    names: Sequence[str] | None = None,
    weights: MixtureWeights = "shares",
    temperature: float = 1,
    epoch: MixtureEpoch | int = "largest",
    batches: MixtureBatches = "mixed",
    part: str | None = PART,
    reweighed: bool = False,
) -> Mixture:
    """Return several datasets as one, each with its share of the samples that training sees.

    Parameters
    ----------
    parts
        Datasets, or pairs (dataset, weight): whatever a Loader takes, another mixture too. A weight of 0 keeps a part without
        giving it; where none is said it is 1.
    names
        Of the parts, each another. A part's own order and its counts in a checkpoint go by its name. Default: those of their stores.
    weights
        What weights are: "shares", of the samples; "by_steps" or "by_episodes", of what a part has as many of: then 1 gives every
        step, or episode, the same chance.
    temperature
        Weights to the power of 1/temperature: 1 as they are, more makes them more equal, infinity equal.
    epoch
        How long the mixture's epoch is: "largest", until each part was given whole; "smallest", until the first one was; or so many
        samples. It decides nothing else: each part goes on where it stands in an epoch of its own.
    batches
        "mixed": any batch may have samples of all parts, which must be of one schema. "by_part": each batch of each rank is of one
        part, so that schemas may differ; shares are counted in batches, and an epoch is a whole number of them on every rank.
    part
        What the number of its part is called in a sample; None leaves it out.
    reweighed
        Take a state of a mixture with other weights, or with more or fewer parts, too: each part goes on where it stands in an epoch
        of its own, and from there on shares are what they are here. A part is known by its name.

    Returns
    -------
    Mixture

    Raises
    ------
    OptionError, UnknownName
        For options that cannot be, and for parts whose samples do not fit into one batch: it names the keys that differ.
    TransformError
        A part's first sample cannot be made: it names the part.

    Warns
    -----
    UserWarning
        A share is more than 1 % off what was asked, because it is too small for a measure of 1/1,048,576.

    Notes
    -----
    After any number of samples, counted over all epochs and ranks, each part has given its share of them within less than one. Each
    sample of a part comes once before any comes again. Nothing is drawn: the order is a function of the Loader's seed, the epoch
    and the position.
    """
    if not isinstance(parts, (list, tuple)):
        raise OptionError(
            "the parts of a mixture are a list", found=type(parts).__name__, hint="mixture([(dataset, weight), ...])"
        )
    pairs = [each if isinstance(each, tuple) and len(each) == 2 else (each, 1) for each in parts]
    if not pairs:
        raise OptionError("a mixture has at least one part", hint="mixture([(dataset, weight), ...])")
    found = [(served(given), given) for given, _ in pairs]
    for number, (each, given) in enumerate(found):
        if each is None:
            raise OptionError(
                "a part of a mixture is what a Loader takes: a StepDataset, Samples, a recipe, or a mixture",
                part=number,
                found=type(given).__name__,
                hint="a pair is (dataset, weight)"
                if isinstance(given, (list, tuple))
                else "open a store as Samples(store, ...)",
            )
    datasets: list[Any] = [each for each, _ in found]
    known = names_of(datasets, names)
    for each, name in zip(datasets, known):
        if not len(each):
            raise OptionError("a part has no samples", part=name, found=type(each).__name__)
        if getattr(each, "by_part", False):
            raise OptionError('a mixture whose batches are "by_part" is no part of another', part=name)
    if part is not None and not is_name(part):
        raise OptionError(
            "part is a text, what the number of its part is called in a sample, or None", found=repr(part)[:100]
        )
    if weights not in MIXTURE_WEIGHTS:
        raise UnknownName.among("kind of weights", weights, list(MIXTURE_WEIGHTS))
    exact = [weight_of(weight, name) for (_, weight), name in zip(pairs, known)]
    if weights != "shares":
        sizes = [_size(dataset, name, weights) for dataset, name in zip(datasets, known)]
        exact = [weight * size for weight, size in zip(exact, sizes)]
    counts = counts_of(tempered(exact, temperature, known), known)
    if batches not in MIXTURE_BATCHES:
        raise UnknownName.among("kind of batches", batches, list(MIXTURE_BATCHES))
    sources = [given for _, given in found]
    return Mixture(datasets, sources, known, counts, epoch, part, batches == "by_part", bool(reweighed))


class Mixture:
    """What `mixture` returns: a dataset whose samples are those of its parts, one part after the other.

    Attributes
    ----------
    names : list of str
        Of the parts.
    by_part : bool
        Whether each batch is of one part.
    ordering : Mixing
        What its order depends on.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        sources: Sequence[Any],
        names: Sequence[str],
        counts: tuple[int, ...],
        epoch: str | int,
        part: str | None,
        by_part: bool,
        reweighed: bool,
    ) -> None:
        self.names, self.by_part = list(names), by_part
        self._datasets, self._sources, self._part = list(datasets), list(sources), part
        self._batches = PartBatches(datasets)
        self._reweighed = reweighed
        self._in_batches: tuple[int, int] | None = None
        parts = tuple(map(ordering_of, datasets))
        length = epoch_length(epoch, list(map(epoch_rows, parts)), counts)
        self._epoch = epoch if isinstance(epoch, str) else int(epoch)
        self.ordering = Mixing(tuple(names), parts, counts, length, Stretch(0, 0, (0,) * len(parts)))
        schemas = schemas_of(datasets, sources, names)
        for name, schema in schemas.items():
            if part is not None and part in schema:
                raise self._has_part(name)
        if not by_part:
            check_alike(schemas)

    def __len__(self) -> int:
        """Return the number of samples of all parts."""
        return len(self.ordering)

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return one sample, as its part gives it, with the number of the part; for a slice a list of them. Negative numbers count
        from the end."""
        if isinstance(index, slice):
            return list(self.__getitems__(range(len(self))[index]))
        number = one_number("sample", index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        part, own = self._own(number % len(self))
        return self._marked(self._sources[part][own], part)

    def __getitems__(self, indices: Sequence[int] | Int64) -> Any:
        """Return many samples; a DataLoader calls this. Where parts are plain samples, they are views of one batch."""
        together = self._batches.together
        if together is None:
            return list(self.items_in_turn(indices))
        kind, *others = {type(each) for each in self._sources}
        convert = dict if kind is Samples else getattr(kind, "tensors", None)
        if others or convert is None:
            return list(self.items_in_turn(indices))
        numbers = together[0][0].whole_numbers
        return Batch(convert(self.batch(indices)), numbers if self._part is None else (*numbers, self._part))

    def items_in_turn(self, indices: Sequence[int] | Int64) -> Iterator[Any]:
        """Yield `self[index]` of one index after the other; each part reads its own together."""
        numbers = checked_indices(indices, len(self))
        parts, own = self._split(numbers)
        places = {part: np.flatnonzero(parts == part) for part in set(parts.tolist())}
        streams = {part: in_turn(self._sources[part], own[at].tolist()) for part, at in places.items()}
        done = dict.fromkeys(places, 0)
        for place, part in enumerate(parts.tolist()):
            at = done[part]
            with drawing_for(places[part][at:] - place):
                sample = next(streams[part])
            done[part] += 1
            yield self._marked(sample, part)

    @property
    def makes_batches(self) -> bool:
        """Whether a batch is made at once: nobody changes the samples of a part one by one."""
        return not any(isinstance(each, OneByOne) for each in self._datasets)

    def batch(self, indices: Any, *, empty: Empty = np.empty) -> Any:
        """Return samples as one batch.

        Parameters
        ----------
        indices
            (B,) whole numbers, each in [0, len); negative ones count from the end.
        empty
            As np.empty; makes the arrays.

        Returns
        -------
        tree
            As the parts give it: with the number of the part of each sample, (B,) int64, where it is a dict.

        Raises
        ------
        OptionError, IndexError
            For indices that cannot be, and where a part changes its samples one by one.
        """
        numbers = checked_indices(indices, len(self))
        parts, own = self._split(numbers)
        if not self.makes_batches:
            raise OptionError("a part changes its samples one by one", hint="mixture.__getitems__(indices)")
        made = self._batches.batch(parts, own, empty)
        if self._part is not None and type(made) is dict:
            column = empty((len(parts),), np.dtype(np.int64))
            column[...] = parts
            made[self._part] = column
        return made

    def where(self, index: int | None = None) -> dict[str, Any]:
        """Return what an error message says of where a sample lies: its part, its number there, and what the part says."""
        if index is None:
            return {"mixture": ", ".join(self.names)[:200]}
        part, own = self._own(index)
        found: dict[str, Any] = {PART: self.names[part], "its sample": own}
        with contextlib.suppress(Exception):
            found |= self._datasets[part].where()
        return found | dict(self._datasets[part].where(own))

    def part_of(self, indices: Any) -> Int64:
        """Return the numbers of the parts of samples, (n,) int64; `names` has their names."""
        return self._split(checked_indices(indices, len(self)))[0]

    @property
    def ahead(self) -> AheadOfParts | None:
        """What brings samples near before they are read; None where all parts are near."""
        found = [getattr(each, "ahead", None) for each in self._datasets]
        return AheadOfParts(found, self.ordering.firsts) if any(each is not None for each in found) else None

    @property
    def bare(self) -> Mixture:
        """The same, whose samples are arrays, as batches are: without what some parts make of them for torch."""
        made = copy.copy(self)
        made._sources = [each.source if isinstance(each, OneByOne) else each for each in self._datasets]
        return made

    @property
    def parts(self) -> dict[str, Any]:
        """The datasets that it was made of, by name."""
        return dict(zip(self.names, self._sources))

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part in the samples that training sees, by name: what they are, where weights had to be rounded."""
        counts = self.ordering.counts
        return {name: count / sum(counts) for name, count in zip(self.names, counts)}

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of each part, by its name. Raises OptionError where a part has none."""
        without = [name for name, each in self.parts.items() if not hasattr(each, "statistics")]
        if without:
            raise OptionError("a part has no statistics", part=without[0], found=type(self.parts[without[0]]).__name__)
        return {name: each.statistics() for name, each in self.parts.items()}

    @property
    def epoch_rows(self) -> int:
        """Samples of an epoch."""
        return self.ordering.epoch_rows

    def epoch_order(self, seed: int, epoch: int, shuffle: Shuffle) -> MixtureOrder:
        """Return the order of an epoch."""
        return self.ordering.epoch_order(seed, epoch, shuffle)

    def counted(self, seed: int, epoch: int, position: int) -> dict[str, Any]:
        """Return what a state holds beside the place: how many samples each part has given."""
        return {"given": dict(zip(self.names, self.ordering.given(seed, epoch, position).tolist()))}

    @property
    def identity(self) -> dict[str, Any]:
        """What a state must agree on: the parts, by name, their shares, and since when they are so."""
        begins = self.ordering.begins
        return {
            "parts": self._digests,
            "shares": dict(zip(self.names, self.ordering.counts)),
            "batches": f"by_part, epoch={self._epoch!r}" if self.by_part else "mixed",
            "run": self.ordering.run,
            "begins": [begins.epoch, begins.position, dict(zip(self.names, begins.given))],
        }

    def in_batches(self, batch_size: int, world_size: int) -> Mixture:
        """Return the mixture for such batches, each of which is of one part. Raises OptionError where it was bound to others."""
        shape = batch_size, world_size
        if not self.by_part or self._in_batches == shape:
            return self
        if self._in_batches is not None:
            raise OptionError(
                'the number of ranks changed in a pass, or after a state was loaded: with batches="by_part" the order depends on it',
                expected=self._in_batches[1],
                found=world_size,
                hint="load_state_dict(state) when the process group is there: it takes states of any number of ranks",
            )
        ordering = replace(
            self.ordering, run=batch_size, whole=batch_size * world_size, epoch_rows=self._length(*shape)
        )
        return self._ordered(ordering, shape)

    def continued(self, state: Mapping[str, Any]) -> tuple[Mixture, Mapping[str, Any]]:
        """Return the mixture that goes on from a state, and the state as it is one of that. Raises OptionError."""
        return continued(self, state, self._reweighed)

    def since(self, begins: Stretch) -> Mixture:
        """Return the same mixture whose positions are counted from there on."""
        return self._ordered(replace(self.ordering, begins=begins), self._in_batches)

    def _ordered(self, ordering: Mixing, in_batches: tuple[int, int] | None) -> Mixture:
        made = copy.copy(self)
        made.ordering, made._in_batches = ordering, in_batches
        return made

    def _length(self, run: int = 1, ranks: int = 1) -> int:
        return epoch_length(self._epoch, list(map(epoch_rows, self.ordering.parts)), self.ordering.counts, run, ranks)

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: digest_of(each) for name, each in zip(self.names, self._datasets)}

    def __repr__(self) -> str:
        counts, total = self.ordering.counts, sum(self.ordering.counts)
        lines = [("part", "samples", "share", "an epoch", "of its own")]
        for name, dataset, own, count in zip(self.names, self._datasets, self.ordering.parts, counts):
            given = self.epoch_rows * count / total
            lines.append(
                (name, f"{len(dataset):,}", f"{count / total:.2%}", f"{given:,.0f}", f"{given / epoch_rows(own):.2f}")
            )
        widths = [max(map(len, column)) for column in zip(*lines)]
        table = ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in lines]
        by_part = ", each batch of one part" if self.by_part else ""
        first = f"{type(self).__name__}({counted(len(self), 'sample')} of {counted(len(self.names), 'part')}, {self.epoch_rows:,} an epoch{by_part}"
        return "\n".join([first, *table]) + ")"

    def _own(self, number: int) -> tuple[int, int]:
        """Return the part of a sample, and its number there."""
        parts, own = self._split(np.array([number]))
        return int(parts[0]), int(own[0])

    def _split(self, numbers: Int64) -> tuple[Int64, Int64]:
        firsts = self.ordering.firsts
        parts = np.searchsorted(firsts, numbers, side="right") - 1
        return parts, numbers - firsts[parts]

    def _marked(self, sample: Any, part: int) -> Any:
        if self._part is None or not isinstance(sample, dict):
            return sample
        if self._part in sample:
            raise self._has_part(self.names[part])
        return {**sample, self._part: part}

    def _has_part(self, name: str) -> OptionError:
        hint = "mixture(..., part=None) leaves ours out, and part=NAME gives it another name"
        if isinstance(self._datasets[self.names.index(name)], Mixture):
            hint = (
                "make the inner mixture with part=None; or give this one another name for it: mixture(..., part=NAME)"
            )
        return OptionError(
            f"samples of a part have a value {self._part!r} already, which is to say of which part they are",
            part=name,
            hint=hint,
        )


def _size(dataset: Any, name: str, weights: str) -> int:
    """Return how many steps or episodes a part has. Raises OptionError where it does not say."""
    if weights == "by_steps":
        return len(dataset)
    if isinstance(dataset, Mixture):
        return sum(_size(each, f"{name}, {own}", weights) for own, each in dataset.parts.items())
    plain = dataset.plain if isinstance(dataset, OneByOne) else dataset
    plain = plain.dataset if isinstance(plain, WeightedSamples) else plain
    episodes = getattr(plain, "selected_episodes", None)
    if episodes is None:
        raise OptionError(
            "how many episodes a part has is not known",
            part=name,
            found=type(plain).__name__,
            hint='give its share, or weights="by_steps"; Samples and recipes of a selection know their episodes',
        )
    return len(episodes)
