"""The samplers, as their authors wrote them: which steps can be anchors, how likely each draw is, and how to draw.

T is the number of steps of a demo. Sources: RDT = thu-ml/RoboticsDiffusionTransformer deb71d8; RDT-L =
tj-chen-1209/RDT_libero_finetune 3e9b0e9; S1, S2, S3 = three versions of another LIBERO port of RDT's loader, the class
`HDF5LIBERODataset` of zxy6677/RoboticsDiffusionTransformer c073c0a, 5396abb and d5ad60f; "quoted" is what that port's notes say it does. No code of theirs is here.
"""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.coverage.demos import Demos
from vla_store.errors import whole_number
from vla_store.rules import (
    RDT_FINETUNE_SHORTEST,
    RDT_LONGEST,
    RDT_SHORTEST,
    TAIL_AS_CODED,
    TAIL_AS_QUOTED,
    has_length,
)

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

BUFFER_CHUNKS = 512
BUFFER_CHUNK_SAMPLES = 512


@dataclass(frozen=True, eq=False)
class Sampler(ABC):
    """One sampler over some demos; its subclasses say how it draws.

    name: for programs. title: for tables. rule: in a sentence, with its source. epoch: what its own `len` is.
    low, high: (E,) the anchors of each demo, half-open; low = high where it has none.
    """

    name: str
    title: str
    rule: str
    demos: Demos
    epoch: int
    low: Int64
    high: Int64

    @cached_property
    def is_anchor(self) -> Mask:
        """Mask of the steps that can ever be an anchor, (N,)."""
        step, demo = self.demos.step_in_demo, self.demos.demo_of_step
        made: Mask = (step >= self.low[demo]) & (step < self.high[demo])
        return made

    @property
    def lost(self) -> Int64:
        """Steps of each demo that are never an anchor, (E,)."""
        return self.demos.lengths - np.add.reduceat(self.is_anchor, self.demos.starts, dtype=np.int64)

    @abstractmethod
    def draw(self, rng: np.random.Generator, draws: int) -> Int64:
        """Draw rows in the order in which training gets them, (draws,)."""


@dataclass(frozen=True, eq=False)
class RandomSampler(Sampler):
    """Draws are independent: a file, a demo of it, a step of that; where the demo cannot be used, again.

    members: (F,) lists of demos. weights, again: (F,) chances of a file at first, and after a demo that cannot be used.
    """

    members: tuple[Int64, ...]
    weights: Floats
    again: Floats

    @cached_property
    def is_anchor(self) -> Mask:
        made: Mask = super().is_anchor & (self._chance > 0)[self.demos.demo_of_step]
        return made

    @cached_property
    def _chance(self) -> Floats:
        """Probability of each demo to be that of one draw, (E,): 0 also for what could be used, but is in a file without weight."""
        usable = self.high > self.low
        first, later = (self._chances(each, usable) for each in (self.weights, self.again))
        missed = 1.0 - first.sum() if first.sum() else 0.0
        made: Floats = first + (missed * later / later.sum() if later.sum() else 0.0)
        return made

    @cached_property
    def probability(self) -> Floats:
        """Probability of each step to be the anchor of one draw, (N,). It sums to 1, or to 0 where nothing can be drawn."""
        steps = self.high - self.low
        per_step = np.divide(self._chance, steps, out=np.zeros(len(steps)), where=steps > 0)
        made: Floats = np.where(self.is_anchor, per_step[self.demos.demo_of_step], 0.0)
        return made

    def draw(self, rng: np.random.Generator, draws: int) -> Int64:
        if not self.probability.any():
            return np.empty(0, np.int64)
        demos = self._draw_demos(rng, draws, self.weights)
        while (refused := np.flatnonzero(self.high[demos] <= self.low[demos])).size:
            demos[refused] = self._draw_demos(rng, len(refused), self.again)
        return self.demos.starts[demos] + rng.integers(self.low[demos], self.high[demos])

    def _draw_demos(self, rng: np.random.Generator, draws: int, weights: Floats) -> Int64:
        files = rng.choice(len(weights), draws, p=weights)
        counts = np.array([len(each) for each in self.members])
        listed, offsets = np.concatenate(self.members), np.cumsum(counts) - counts
        made: Int64 = listed[offsets[files] + rng.integers(0, counts[files])]
        return made

    def _chances(self, weights: Floats, usable: Mask) -> Floats:
        """Return the probability of each demo to be drawn with these weights of the files, and used, (E,)."""
        chance = np.zeros(len(usable))
        for file, demos in enumerate(self.members):
            chance[demos] += weights[file] / len(demos)
        return np.where(usable, chance, 0.0)


@dataclass(frozen=True, eq=False)
class ListSampler(Sampler):
    """A list of anchors, in a new random order each pass: draws are without replacement.

    only: (N,) the steps that the list may hold; default: all of the ranges.
    """

    only: Mask | None = None

    @cached_property
    def is_anchor(self) -> Mask:
        made: Mask = super().is_anchor if self.only is None else super().is_anchor & self.only
        return made

    @cached_property
    def anchors(self) -> Int64:
        """Rows of the list, (M,)."""
        return np.flatnonzero(self.is_anchor).astype(np.int64)

    def draw(self, rng: np.random.Generator, draws: int) -> Int64:
        if not len(self.anchors):
            return np.empty(0, np.int64)
        passes = [rng.permutation(self.anchors) for _ in range(-(-draws // len(self.anchors)))]
        return np.concatenate([np.empty(0, np.int64), *passes])[:draws]


@dataclass(frozen=True, eq=False)
class BufferSampler(Sampler):
    """RDT's buffer on disk: a producer fills chunks of samples, a consumer reads one clean sample of a chunk and marks it dirty.

    As coded there: the consumer asks for index i of a shuffled range over all slots and gets the item i mod (clean items) of chunk
    i // 512, or of the next chunk that has any. The producer takes the dirty items of one chunk after another, writes new samples
    *into the following chunk's* folder under these numbers, and then marks the first chunk clean: what was read there comes again.
    Here it makes `pace` samples for each one read, in one process; episodes come in a new random order each pass.
    """

    chunks: int = BUFFER_CHUNKS
    size: int = BUFFER_CHUNK_SAMPLES
    pace: int = 1

    def draw(self, rng: np.random.Generator, draws: int) -> Int64:
        if not (self.high > self.low).any():
            return np.empty(0, np.int64)
        return _Buffer(self, rng).read(draws)


class _Buffer:
    def __init__(self, sampler: BufferSampler, rng: np.random.Generator) -> None:
        self.sampler, self.rng, self.starts = sampler, rng, sampler.demos.starts
        self.chunks, self.size = sampler.chunks, sampler.size
        self.made = self._samples()
        self.content = [list(itertools.islice(self.made, self.size)) for _ in range(self.chunks)]
        self.all = list(range(self.size))
        self.clean = [self.all.copy() for _ in range(self.chunks)]
        self.used: list[list[int]] = [[] for _ in range(self.chunks)]  # the dirty items of each chunk
        self.dirty: list[int] = []  # chunks with a sample that was read, ascending, without the locked one
        self.at = 0  # the chunk at which the producer looks next, and into which it writes
        self.locked = 0
        self.pending: list[int] = []

    def read(self, draws: int) -> Int64:
        rows = np.empty(draws, np.int64)
        asked: list[int] = []
        for number in range(draws):
            if not asked:
                asked = self.rng.permutation(self.chunks * self.size)[: draws - number].tolist()
            rows[number] = self._consume(asked.pop())
            for _ in range(self.sampler.pace):
                self._produce()
        return rows

    def _consume(self, index: int) -> int:
        chunk = index // self.size
        while not self.clean[chunk]:
            chunk = (chunk + 1) % self.chunks
            if chunk == index // self.size:
                self._produce()  # all are dirty or locked: the consumer waits
        if not self.used[chunk]:
            bisect.insort(self.dirty, chunk)
        item = self.clean[chunk].pop(index % len(self.clean[chunk]))
        self.used[chunk].append(item)
        return self.content[chunk][item]

    def _produce(self) -> None:
        if not self.pending:
            if not self.dirty:
                return
            found = bisect.bisect_left(self.dirty, self.at)  # the next one around from where the last look ended
            self.locked = self.dirty.pop(found if found < len(self.dirty) else 0)
            self.pending = sorted(self.used[self.locked])
            self.clean[self.locked] = []
            self.at = (self.locked + 1) % self.chunks
        self.content[self.at][self.pending.pop()] = next(self.made)
        if not self.pending:
            self.clean[self.locked] = self.all.copy()
            self.used[self.locked] = []

    def _samples(self) -> Iterator[int]:
        """Yield what the producer makes, without end: one pass over the demos after another, each in a new random order."""
        usable = np.flatnonzero(self.sampler.high > self.sampler.low)
        while True:
            steps: list[int] = []
            for demo in self.rng.permutation(usable).tolist():
                rows = self.starts[demo] + np.arange(self.sampler.demos.lengths[demo])
                if len(rows) > RDT_LONGEST:
                    rows = self.rng.choice(rows, RDT_LONGEST, replace=False)
                steps += rows.tolist()
            yield from steps


# What each sampler is called in tables, and its rule with its source.
RULES = {
    "rdt": (
        "RDT, HDF5",
        "a demo by its length after the still start, a step from one before the first motion; T < 128 refused "
        "(RDT data/hdf5_vla_dataset.py, which holds one demo a file)",
    ),
    "rdt_l": (
        "port RDT-L",
        "a demo by its length, a step from one before the first motion; T < 128 left out (RDT-L data/hdf5_libero_dataset.py)",
    ),
    "port_quoted": (
        "port, as quoted",
        "a file by weight (here: its mean T), a demo of it uniformly, a step in [0, T - 64) (the port's notes)",
    ),
    "port_s1": (
        "port S1",
        "a file by the length of its first demo, always that demo, a step from one before the first motion; T < 32 refused "
        "(S1)",
    ),
    "port_s2": (
        "port S2",
        "a file by the length of a demo of it that was drawn at construction, a demo uniformly, a step from one before the "
        "first motion; T < 32: another file, uniformly (S2)",
    ),
    "port_s3": ("port S3", "a list of the steps 0 ... T - 64 of every demo, if asked by index (S3)"),
    "port_s3_no_index": (
        "S3 without index",
        "the same list, but RDT's consumer names no index: a random entry each time (S3 behind RDT train/dataset.py)",
    ),
    "half_way": ("half-way list", "a list of (file, demo, step) for step in range(T - 64) (the port's notes)"),
    "rdt_buffer": (
        "RDT, buffer",
        "512 x 512 samples on disk, written by a producer beside training, read without order; T < 32 dropped "
        "(RDT data/producer.py, train/dataset.py)",
    ),
    "every_step": ("every step", "every step once a pass (vla_store, alignment='as_stored')"),
    "causal": (
        "steps, causal",
        "every step with a recorded observation once a pass (vla_store, alignment='causal')",
    ),
    "view": ("view", "every step once a pass, of those that the view keeps (vla_store, view=)"),
    "view_causal": (
        "view, causal",
        "every step with a recorded observation once a pass, of those that the view keeps (vla_store, view=)",
    ),
}


def all_samplers(demos: Demos, seed: int = 0) -> list[Sampler]:
    """Return every sampler of the tables, RDT's first, full enumeration last. seed: of what S2 draws when it is constructed.

    Raises OptionError for a seed below 0."""
    whole_number("seed", seed, 0)
    lengths, late = demos.lengths, demos.has_late_observation
    by_file = tuple(np.flatnonzero(demos.files == file) for file in range(int(demos.files.max()) + 1))
    first_only = tuple(each[demos.is_first_key[each]] for each in by_file)
    alone = tuple(np.array([demo]) for demo in range(len(demos)))
    long, long_enough = has_length(lengths, RDT_FINETUNE_SHORTEST), has_length(lengths, RDT_SHORTEST)
    first_lengths = np.array([np.where(long_enough[each], lengths[each], 0)[0] for each in first_only])
    rng = np.random.default_rng([seed, 2])
    seen = np.array([each[rng.integers(len(each))] for each in by_file])  # by S2, of each file
    # RDT raises where nothing moves, and so draws nothing of that demo; RDT-L weighs it all the same.
    start, moves = _motion(demos.moving, lengths)
    arm_start, _ = _motion(demos.moving_joints, lengths)
    uniform = np.ones(len(by_file))

    def range_of(usable: Mask | bool = True, low: Int64 | int = 0, high: Int64 = lengths) -> tuple[Int64, Int64]:
        used = usable & (high > low)
        return np.where(used, low, 0), np.where(used, high, 0)

    def drawn(
        name: str,
        anchors: tuple[Int64, Int64],
        members: tuple[Int64, ...],
        weights: npt.NDArray[Any] | None = None,
        again: Floats | None = None,
        epoch: int = len(by_file),
    ) -> RandomSampler:
        weights = anchors[1] - anchors[0] if weights is None else weights
        later = weights if again is None else again
        return RandomSampler(name, *RULES[name], demos, epoch, *anchors, members, _shares(weights), _shares(later))

    def listed(name: str, low: Int64 | int, high: Int64, only: Mask | None = None) -> ListSampler:
        low, high = range_of(True, low, high)
        epoch = (high - low).sum() if only is None else only.sum()
        return ListSampler(name, *RULES[name], demos, int(epoch), low, high, only)

    as_coded, as_quoted = (np.maximum(lengths - tail, 0) for tail in (TAIL_AS_CODED, TAIL_AS_QUOTED))
    means = np.array([lengths[each].mean() for each in by_file])
    moving = range_of(long & moves, start)
    buffered = range_of(long_enough)
    made: list[Sampler] = [
        drawn("rdt", moving, alone, epoch=len(demos)),
        drawn("rdt_l", moving, alone, np.where(long, lengths, 0)),
        drawn("port_quoted", range_of(high=as_quoted), by_file, means),
        drawn("port_s1", range_of(long_enough & demos.is_first_key, arm_start), first_only, first_lengths, uniform),
        drawn("port_s2", range_of(long_enough, arm_start), by_file, lengths[seen] * long_enough[seen], uniform),
        listed("port_s3", 0, as_coded),
        drawn("port_s3_no_index", range_of(high=as_coded), alone, epoch=int(as_coded.sum())),
        listed("half_way", 0, as_quoted),
        BufferSampler("rdt_buffer", *RULES["rdt_buffer"], demos, BUFFER_CHUNKS * BUFFER_CHUNK_SAMPLES, *buffered),
        listed("every_step", 0, lengths),
    ]
    if late.any():
        made.append(listed("causal", late.astype(np.int64), lengths))
    if demos.in_view is not None:
        kept = demos.in_view
        made.append(listed("view", *_around(demos, kept), kept))
        if late.any():
            kept = kept & (demos.step_in_demo >= late[demos.demo_of_step])
            made.append(listed("view_causal", *_around(demos, kept), kept))
    return made


def _motion(first: Int64 | None, lengths: Int64) -> tuple[Int64, Mask]:
    """Return one step before the first motion of each demo, and where there is any; where that is not known, step 0."""
    if first is None:
        return np.zeros(len(lengths), np.int64), np.ones(len(lengths), bool)
    return np.maximum(first - 1, 0), first >= 0


def _around(demos: Demos, kept: Mask) -> tuple[Int64, Int64]:
    """Return the range of steps of each demo around those that are kept, (E,) each."""
    low, high = demos.lengths.copy(), np.zeros(len(demos), np.int64)
    np.minimum.at(low, demos.demo_of_step[kept], demos.step_in_demo[kept])
    np.maximum.at(high, demos.demo_of_step[kept], demos.step_in_demo[kept] + 1)
    return low, high


def _shares(weights: npt.NDArray[Any]) -> Floats:
    total = weights.sum()
    made: Floats = weights / total if total else np.zeros(len(weights))
    return made
