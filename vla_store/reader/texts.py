"""Which text a sample has as its `task`: that of its step or its episode, or one that is drawn among the episode's instructions.

Imports the part, and what draws; the arrays are those of `format.texts`.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, StoreDamaged, UnknownName
from vla_store.format.schema import PartDocument
from vla_store.format.texts import FIRST, OWN_KIND, RANDOM, SPANS_ARRAY, STEPS_ARRAY, BadTexts, Instructions, Segments
from vla_store.reader.part import Part, Position, Positions
from vla_store.storage import keep
from vla_store.text import counted

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

OF_A_TEXT = 2  # beside the generators of transforms, of a sample and of a batch
PER_DRAW = 4  # what Philox makes at a time
MAX_KEPT = 1 << 12


class Place(NamedTuple):
    """A place in the order of an epoch, by which texts are drawn: the same whoever reads, and after a resume.

    ahead: how far behind it the samples that are read stand; None where they follow each other.
    """

    seed: int
    epoch: int
    position: int
    ahead: Int64 | None = None

    def numbers(self, count: int) -> Float64:
        """Return two numbers in [0, 1) for each of so many samples from here on, (count, 2)."""
        key = np.random.SeedSequence([self.seed & (2**64 - 1), self.epoch], spawn_key=(OF_A_TEXT,))
        drawn = np.random.Generator(np.random.Philox(key).advance(self.position))
        if self.ahead is None:
            return drawn.random((count, PER_DRAW))[:, :2]
        ahead = self.ahead[:count]
        return drawn.random((int(ahead.max(initial=-1)) + 1, PER_DRAW))[ahead, :2]


_place: contextvars.ContextVar[Place | None] = contextvars.ContextVar("place", default=None)


@contextlib.contextmanager
def drawing_at(seed: int, epoch: int, position: int) -> Iterator[None]:
    """Let texts in this context be drawn by a place in the order of an epoch; otherwise NumPy's global generator draws them, which
    torch seeds in each worker of a DataLoader."""
    token = _place.set(Place(seed, epoch, position))
    try:
        yield
    finally:
        _place.reset(token)


@contextlib.contextmanager
def drawing_for(ahead: Int64) -> Iterator[None]:
    """Let texts in this context be drawn for samples that stand so far behind the place in the order, and not one after another."""
    place = _place.get()
    if place is None:
        yield
        return
    token = _place.set(place._replace(ahead=ahead if place.ahead is None else place.ahead[ahead]))
    try:
        yield
    finally:
        _place.reset(token)


def _drawn(count: int) -> Float64:
    place = _place.get()
    return np.random.random((count, 2)) if place is None else place.numbers(count)


class Choice:
    """What becomes the `task` of samples: `instruction` as `Samples` takes it."""

    def __init__(self, instruction: str) -> None:
        self.instruction = instruction
        # Of (part, episode): its texts by kind, as numbers of the part's.
        self._groups: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Choice, (self.instruction,)

    def of(self, part: Part, positions: Positions, at: Any = slice(None), count: int = 0) -> list[str]:
        """Return the texts of samples at (n,) positions of a part. at: which of a batch of so many they are."""
        found = part.texts_of(positions.episode, positions.task)
        with _naming(part):
            for number, text in enumerate(step_texts(part, positions.start + positions.step)):
                found[number] = text or found[number]
            if self.instruction != FIRST:
                drawn = _drawn(count or len(found))[at]
                for number, episode in enumerate(positions.episode.tolist()):
                    found[number] = self._one(part, episode, found[number], drawn[number])
        return found

    def of_one(self, part: Part, position: Position) -> str:
        """Return the text of the sample at one position."""
        episode, step, start, length, task, source = (np.array([each]) for each in position)
        return self.of(part, Positions(episode, step, start, length, task, source))[0]

    def _one(self, part: Part, episode: int, first: str, drawn: Float64) -> str:
        """Return the text of an episode by two numbers in [0, 1): its kind, and which of that. first: what it has anyway."""
        groups = self._groups_of(part, episode)
        if self.instruction == RANDOM:
            own = 0 if any(kind == OWN_KIND for kind, _ in groups) else 1
            place = int(drawn[0] * (len(groups) + own)) - own
            texts = groups[place][1] if place >= 0 else []
        else:
            texts = next((texts for kind, texts in groups if kind == self.instruction), [])
        return part.texts.text(texts[int(drawn[1] * len(texts))]) if texts else first

    def _groups_of(self, part: Part, episode: int) -> list[tuple[str, list[int]]]:
        key = part.number, episode
        groups = self._groups.get(key)
        if groups is None:
            about = part.document.wordings
            rows = part.texts.rows_of(episode).tolist() if about and about.kinds else []
            grouped = itertools.groupby(rows, key=lambda row: int(row[0]))
            groups = [(about.kinds[kind], [text for _, text in of_kind]) for kind, of_kind in grouped] if about else []
            keep(self._groups, key, groups, MAX_KEPT)
        return groups


def choice_of(instruction: str, documents: Iterable[PartDocument]) -> Choice | None:
    """Return what chooses texts; None where every sample has that of its episode, or of its task."""
    has_steps = any(each.wordings and each.wordings.has_steps for each in documents)
    return Choice(instruction) if has_steps or instruction != FIRST else None


def step_texts(part: Part, rows: Int64) -> list[str]:
    """Return the texts that (n,) rows of a part have of their own, "" for none. Raises StoreDamaged."""
    about = part.document.wordings
    if about is None or not about.has_steps:
        return [""] * len(rows)
    numbers = np.empty(len(rows), np.int32)
    with _naming(part):
        part.small(STEPS_ARRAY).take(rows, numbers)
        return ["" if number < 0 else part.texts.text(number) for number in numbers.tolist()]


def instructions_of(part: Part, episode: int) -> Instructions:
    """Return the further instructions of an episode of a part, by kind. Raises StoreDamaged."""
    with _naming(part):
        return {} if part.document.wordings is None else part.texts.instructions_of(episode)


def segments_of(part: Part, episode: int) -> Segments:
    """Return the stretches of an episode of a part that have texts of their own. Raises StoreDamaged."""
    entry = part.entries(episode, episode + 1)[0]
    with _naming(part):
        return (
            () if part.document.wordings is None else part.texts.segments_of(int(entry["start"]), int(entry["length"]))
        )


def further_texts(part: Part) -> list[str]:
    """Return every text of a part that is one of these. Raises StoreDamaged."""
    with _naming(part):
        return [] if part.document.wordings is None else part.texts.all()


def kinds_of(documents: Iterable[PartDocument]) -> tuple[str, ...]:
    """Return the kinds of instructions that some episode has, ascending."""
    return tuple(sorted({kind for each in documents if each.wordings for kind in each.wordings.kinds}))


def check_kind(instruction: str, known: tuple[str, ...], selected: Callable[[], Iterable[tuple[Part, Int64]]]) -> None:
    """Refuse a kind that selected rows have none of. Raises UnknownName, OptionError."""
    if not isinstance(instruction, str) or instruction not in (FIRST, RANDOM, OWN_KIND, *known):
        raise UnknownName.among("instruction", instruction, [FIRST, RANDOM, *known])
    if instruction in (FIRST, RANDOM, OWN_KIND):
        return
    lacking: list[int] = []
    count = 0
    for part, rows in selected():
        episodes = np.unique(part.pairs(rows)[:, 0])
        count += len(episodes)
        lacking += (part.episode_start + episodes[~_have(part, instruction)[episodes]]).tolist()
    if lacking:
        raise OptionError(
            f"no instruction of the kind {instruction!r} in {len(lacking):,} of {counted(count, 'episode')}",
            episode=lacking[0],
            hint='instruction="random" draws among what each has; or select others, by episodes= or tasks=',
        )


def _have(part: Part, kind: str) -> Mask:
    """Return which episodes of a part have instructions of a kind, (episodes,)."""
    about = part.document.wordings
    if about is None or kind not in about.kinds:
        return np.zeros(part.episodes, bool)
    with _naming(part):
        spans = part.small(SPANS_ARRAY).span(0, part.episodes)
        if (spans < 0).any() or (spans.sum(axis=1) > about.instructions).any():
            raise BadTexts(SPANS_ARRAY, "instructions lie outside their array")
        is_one = part.texts.kinds() == about.kinds.index(kind)
        before = np.concatenate([[0], np.cumsum(is_one)])
        return np.asarray(before[spans.sum(axis=1)] > before[spans[:, 0]])


@contextlib.contextmanager
def _naming(part: Part) -> Iterator[None]:
    """Let what cannot be among the texts of a part be damage."""
    try:
        yield
    except BadTexts as error:
        where = f"{part.path}/{error.array}"
        raise StoreDamaged("texts are not as the format says", object=where, found=str(error)[:200]) from None
