"""The samplers, as their authors wrote them: which steps can be anchors, how likely each draw is, and how to draw.

T is the number of steps of a demo. Sources: RDT = thu-ml/RoboticsDiffusionTransformer deb71d8; RDT-L =
tj-chen-1209/RDT_libero_finetune 3e9b0e9; S1, S2, S3 = three public versions of a LIBERO port of RDT's loader, the class
`HDF5LIBERODataset`; "quoted" is what that port's notes say it does. No code of theirs is here.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vla_store.coverage.demos import Demos
from vla_store.rules import (
    RDT_FINETUNE_SHORTEST,
    RDT_LONGEST,
    RDT_SHORTEST,
    TAIL_AS_CODED,
    TAIL_AS_QUOTED,
    drop_tail,
    has_length,
)

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

BUFFER_CHUNKS = 512
BUFFER_CHUNK_SAMPLES = 512


@dataclass(frozen=True, eq=False)
class Sampler(ABC):
    """What all samplers have.

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
        """(N,) can this step ever be an anchor?"""
        step, demo = self.demos.step_in_demo, self.demos.demo_of_step
        made: Mask = (step >= self.low[demo]) & (step < self.high[demo])
        return made

    @property
    def lost(self) -> Int64:
        """(E,) how many steps of each demo are never an anchor."""
        return self.demos.lengths - (self.high - self.low)

    @abstractmethod
    def draw(self, rng: np.random.Generator, draws: int) -> Int64:
        """(draws,) rows, in the order in which training gets them."""


@dataclass(frozen=True, eq=False)
class RandomSampler(Sampler):
    """Draws are independent: a file, a demo of it, a step of that; where the demo cannot be used, again.

    members: (F,) lists of demos. weights, again: (F,) chances of a file at first, and after a demo that cannot be used.
    """

    members: tuple[Int64, ...]
    weights: Floats
    again: Floats

    @cached_property
    def probability(self) -> Floats:
        """(N,) of being the anchor of one draw: the formula. It sums to 1, or to 0 where nothing can be drawn."""
        usable = self.high > self.low
        first, later = (self._chances(each, usable) for each in (self.weights, self.again))
        missed = 1.0 - first.sum() if first.sum() else 0.0
        chance = first + (missed * later / later.sum() if later.sum() else 0.0)
        per_step = np.divide(chance, self.high - self.low, out=np.zeros(len(chance)), where=usable)
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
        """(E,) of each demo to be drawn with these weights of the files and then used."""
        chance = np.zeros(len(usable))
        for file, demos in enumerate(self.members):
            chance[demos] += weights[file] / len(demos)
        return np.where(usable, chance, 0.0)


@dataclass(frozen=True, eq=False)
class ListSampler(Sampler):
    """A list of anchors, in a new random order each pass: draws are without replacement."""

    @cached_property
    def anchors(self) -> Int64:
        """(M,) the rows of the list."""
        return np.flatnonzero(self.is_anchor).astype(np.int64)

    def draw(self, rng: np.random.Generator, draws: int) -> Int64:
        if not len(self.anchors):
            return np.empty(0, np.int64)
        passes = [rng.permutation(self.anchors) for _ in range(-(-draws // len(self.anchors)))]
        return np.concatenate([np.empty(0, np.int64), *passes])[:draws]


@dataclass(frozen=True, eq=False)
class ViewSampler(ListSampler):
    """The same list, of the steps in it that a view lets be sampled. low, high: around them."""

    @cached_property
    def is_anchor(self) -> Mask:
        assert self.demos.in_view is not None
        made: Mask = super().is_anchor & self.demos.in_view
        return made

    @property
    def lost(self) -> Int64:
        return self.demos.lengths - np.add.reduceat(self.is_anchor, self.demos.starts, dtype=np.int64)


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
        self.made: list[int] = []  # samples that the producer has ready, the next one last
        self.chunks, self.size = sampler.chunks, sampler.size
        passes: list[int] = []
        while len(passes) < self.chunks * self.size:
            passes += self._pass()
        self.made = passes[::-1]
        self.content = [self._take(self.size) for _ in range(self.chunks)]
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
        self.content[self.at][self.pending.pop()] = self._make()
        if not self.pending:
            self.clean[self.locked] = self.all.copy()
            self.used[self.locked] = []

    def _make(self) -> int:
        if not self.made:
            self.made = self._pass()[::-1]
        return self.made.pop()

    def _take(self, count: int) -> list[int]:
        taken = self.made[: -count - 1 : -1]
        del self.made[-count:]
        return taken

    def _pass(self) -> list[int]:
        """One pass of the producer over the demos, in a random order."""
        demos = self.sampler.demos
        steps: list[int] = []
        for demo in self.rng.permutation(np.flatnonzero(self.sampler.high > self.sampler.low)).tolist():
            rows = self.starts[demo] + np.arange(demos.lengths[demo])
            if len(rows) > RDT_LONGEST:
                rows = self.rng.choice(rows, RDT_LONGEST, replace=False)
            steps += rows.tolist()
        return steps


def all_samplers(demos: Demos, seed: int = 0) -> list[Sampler]:
    """Every sampler of the table, RDT's first, full enumeration last. seed: of what S2 draws when it is constructed."""
    lengths, zero = demos.lengths, np.zeros(len(demos), np.int64)
    by_file = tuple(np.flatnonzero(demos.files == file) for file in range(int(demos.files.max()) + 1))
    first_only = tuple(each[demos.is_first_key[each]] for each in by_file)
    alone = tuple(np.array([demo]) for demo in range(len(demos)))

    # RDT: from one step before the first motion; where nothing moves it raises, and so draws nothing of that demo.
    moves = demos.moving is None or demos.moving >= 0
    start = zero if demos.moving is None else np.maximum(demos.moving - 1, 0)
    low, high = _where(has_length(lengths, RDT_FINETUNE_SHORTEST) & moves, start, lengths)
    rdt = RandomSampler(
        "rdt",
        "RDT, HDF5",
        "a demo by its length after the still start, a step from one before the first motion; T < 128 refused "
        "(RDT data/hdf5_vla_dataset.py, which holds one demo a file)",
        demos,
        len(demos),
        low,
        high,
        alone,
        *[_shares(high - low)] * 2,
    )
    # RDT-L weighs by T, still start and all; a demo without motion raises when it is drawn, and the consumer asks again.
    weights = _shares(np.where(has_length(lengths, RDT_FINETUNE_SHORTEST), lengths, 0))
    rdt_l = RandomSampler(
        "rdt_l",
        "port RDT-L",
        "a demo by its length, a step from one before the first motion; T < 128 left out (RDT-L data/hdf5_libero_dataset.py)",
        demos,
        len(by_file),
        low,
        high,
        alone,
        weights,
        weights,
    )
    weights = _shares(np.array([lengths[each].mean() for each in by_file]))
    low, high = _where(np.ones(len(demos), bool), zero, _kept(lengths, TAIL_AS_QUOTED))
    quoted = RandomSampler(
        "port_quoted",
        "port, as quoted",
        "a file by weight (here: its mean T), a demo of it uniformly, a step in [0, T - 64) (the port's notes)",
        demos,
        len(by_file),
        low,
        high,
        by_file,
        weights,
        weights,
    )
    start = zero if demos.moving_joints is None else np.maximum(demos.moving_joints - 1, 0)
    long_enough = has_length(lengths, RDT_SHORTEST)
    low, high = _where(long_enough & demos.is_first_key, start, lengths)
    weights = _shares(np.array([np.where(long_enough[each], lengths[each], 0)[0] for each in first_only]))
    uniform = np.full(len(by_file), 1 / len(by_file))
    s1 = RandomSampler(
        "port_s1",
        "port S1",
        "a file by the length of its first demo, always that demo, a step from one before the first motion; T < 32 refused "
        "(S1)",
        demos,
        len(by_file),
        low,
        high,
        first_only,
        weights,
        uniform,
    )
    low, high = _where(long_enough, start, lengths)
    rng = np.random.default_rng([seed, 2])
    looked_at = np.array([each[rng.integers(len(each))] for each in by_file])
    s2 = RandomSampler(
        "port_s2",
        "port S2",
        "a file by the length of a demo of it that was drawn at construction, a demo uniformly, a step from one before the "
        "first motion; T < 32: another file, uniformly (S2)",
        demos,
        len(by_file),
        low,
        high,
        by_file,
        _shares(np.where(long_enough[looked_at], lengths[looked_at], 0)),
        uniform,
    )
    low, high = _where(np.ones(len(demos), bool), zero, _kept(lengths, TAIL_AS_CODED))
    listed = int(high.sum())
    s3 = ListSampler(
        "port_s3",
        "port S3",
        "a list of the steps 0 ... T - 64 of every demo, if asked by index (S3)",
        demos,
        listed,
        low,
        high,
    )
    s3_random = RandomSampler(
        "port_s3_no_index",
        "S3 without index",
        "the same list, but RDT's consumer names no index: a random entry each time (S3 behind RDT train/dataset.py)",
        demos,
        listed,
        low,
        high,
        alone,
        *[_shares(high - low)] * 2,
    )
    low, high = _where(np.ones(len(demos), bool), zero, _kept(lengths, TAIL_AS_QUOTED))
    half_way = ListSampler(
        "half_way",
        "half-way list",
        "a list of (file, demo, step) for step in range(T - 64) (the port's notes)",
        demos,
        int(high.sum()),
        low,
        high,
    )
    low, high = _where(long_enough, zero, lengths)
    buffer = BufferSampler(
        "rdt_buffer",
        "RDT, buffer",
        "512 x 512 samples on disk, written by a producer beside training, read without order; T < 32 dropped "
        "(RDT data/producer.py, train/dataset.py)",
        demos,
        BUFFER_CHUNKS * BUFFER_CHUNK_SAMPLES,
        low,
        high,
    )
    every = ListSampler(
        "every_step",
        "every step",
        "every step once a pass (vla_store, alignment='as_stored')",
        demos,
        demos.steps,
        zero,
        lengths,
    )
    made: list[Sampler] = [rdt, rdt_l, quoted, s1, s2, s3, s3_random, half_way, buffer, every]
    if demos.has_late_observation.any():
        low = demos.has_late_observation.astype(np.int64)
        causal = ListSampler(
            "causal",
            "steps, causal",
            "every step with a recorded observation once a pass (vla_store, alignment='causal')",
            demos,
            int((lengths - low).sum()),
            low,
            lengths,
        )
        made.append(causal)
    if demos.in_view is not None:
        made += [_viewed(each) for each in made if each.name in ("every_step", "causal")]
    return made


def _viewed(sampler: Sampler) -> ViewSampler:
    """What is left of an enumeration under the demos' views."""
    demos = sampler.demos
    assert demos.in_view is not None
    step, demo = demos.step_in_demo, demos.demo_of_step
    kept = demos.in_view & sampler.is_anchor
    low, high = demos.lengths.copy(), np.zeros(len(demos), np.int64)
    np.minimum.at(low, demo[kept], step[kept])
    np.maximum.at(high, demo[kept], step[kept] + 1)
    low, high = _where(high > 0, low, high)
    causal = sampler.name == "causal"
    return ViewSampler(
        "view_causal" if causal else "view",
        "view, causal" if causal else "view",
        f"{sampler.rule.partition(' (')[0]}, of those that the view keeps (vla_store, view=)",
        demos,
        int(kept.sum()),
        low,
        high,
    )


def _where(usable: Mask, low: Int64, high: Int64) -> tuple[Int64, Int64]:
    """The ranges, made empty where a demo cannot be used."""
    usable = usable & (high > low)
    return np.where(usable, low, 0), np.where(usable, high, 0)


def _kept(lengths: Int64, tail: int) -> Int64:
    return np.array([drop_tail(each, tail) for each in lengths.tolist()], np.int64)


def _shares(weights: npt.NDArray[np.generic]) -> Floats:
    total = weights.sum()
    made: Floats = weights / total if total else np.zeros(len(weights))
    return made
