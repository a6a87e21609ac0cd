"""Frames: whole episodes of a store, or the steps of them that views keep, read some steps at a time; and their rate."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, several, warn
from vla_store.features.mapping import EXCLUDE
from vla_store.format.views import STEPS
from vla_store.reader import Samples, Store
from vla_store.reader.conversion import standing_still
from vla_store.reader.kept import view_of
from vla_store.reader.parts import parts_of
from vla_store.reader.seconds import checked_rate
from vla_store.reader.selection import Anchors, anchors_of, choose
from vla_store.reader.values import Episode, SourceConvention
from vla_store.types import Alignment, FloatName, Images

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Batch = dict[str, Any]

SLICE_NBYTES = 32 << 20  # raw bytes of the steps that are read at once
BLOCK = 1 << 16  # rows whose episodes are looked up at once
LIBERO_CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
LIBERO_FPS = 20


@dataclass(frozen=True)
class Frames:
    """Episodes as a data set of frames has them, and what reads them.

    Attributes
    ----------
    store
        The store.
    samples
        One sample a step, in the order of the store; every field at offset 0.
    numbers
        (n,) numbers of the episodes that have steps.
    bounds
        (n + 1,): episode i has the samples bounds[i] to bounds[i + 1].
    runs
        (m, 2): the rows of the store that the samples are anchored at, as stretches [start, stop), in order.
    without_steps
        How many selected episodes have no step left.
    """

    store: Store
    samples: Samples
    numbers: Int64
    bounds: Int64
    runs: Int64
    without_steps: int

    @property
    def steps(self) -> int:
        """Steps of all of them."""
        return int(self.bounds[-1])

    @property
    def step_nbytes(self) -> int:
        """Raw bytes of one step."""
        columns = self.samples.columns.values()
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in columns)

    @functools.cached_property
    def sources(self) -> tuple[SourceConvention, ...]:
        """How the files that they come from were recorded."""
        files = {(each.suite, each.file) for each, _, _ in self.episodes()}
        return tuple(each for each in self.store.conventions.sources if (each.suite, each.file) in files)

    def episodes(self) -> Iterator[tuple[Episode, int, int]]:
        """Yield every episode with the first of its samples and how many it has."""
        for number, start, stop in zip(self.numbers.tolist(), self.bounds.tolist(), self.bounds[1:].tolist()):
            yield self.store.episodes[number], start, stop - start

    def slices(self, numbers: Sequence[int] | Int64) -> Iterator[Batch]:
        """Yield the samples of these numbers in order, as batches of at most so many that memory stays small."""
        most = max(1, SLICE_NBYTES // max(1, self.step_nbytes))
        with in_our_words():
            for first in range(0, len(numbers), most):
                yield self.samples.batch(numbers[first : first + most])


def frames_of(
    store: Store,
    fields: Sequence[str],
    selection: Mapping[str, Any],
    *,
    alignment: Alignment | None,
    images: Images,
    dtype: FloatName | None,
    keep_first: bool = False,
) -> Frames:
    """Return what a selection names of a store.

    Parameters
    ----------
    store
        The store.
    fields
        Those to read.
    selection
        suites, tasks, episodes, split and view, as Samples takes them; what is left out selects all there is.
    alignment
        "causal" or "as_stored"; None asks where some of it recorded observations after the action.
    images, dtype, keep_first
        As Samples takes them.

    Returns
    -------
    Frames

    Raises
    ------
    UnknownName, OptionError
        The selection names what is not there, leaves nothing, or cuts within episodes.
    """
    check_whole(store, selection.get("view"))
    chosen = choose(store, **selection)
    if alignment is None and chosen.has_after:
        raise _must_align()
    leave_out_first = alignment == "causal" and not keep_first
    numbers, counts, runs = _counted(anchors_of(chosen, store, leave_out_first=leave_out_first), store)
    selected = numbers if not leave_out_first else _counted(anchors_of(chosen, store, leave_out_first=False), store)[0]
    with warnings.catch_warnings(), in_our_words():
        warnings.simplefilter("ignore", UserWarning)  # `choose` has told of views, and `lost_in` of numbers
        samples = Samples(
            store,
            windows=dict.fromkeys(fields, 0),
            **selection,
            alignment=alignment or "as_stored",
            images=images,
            dtype=dtype,
            keep_first=keep_first,
        )
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Frames(store, samples, numbers, bounds, runs, len(selected) - len(numbers))


def rate_of(frames: Frames, given: float | None) -> float:
    """Return the steps a second that were said, that the store says, or that LIBERO has. Raises OptionError.

    What was said counts, as where a store is built, and one warning tells that the store says another number.
    """
    said = {float(each.fps) for each in frames.sources if each.fps is not None}
    if given is not None:
        rate = checked_rate(given)
        if len(said) == 1 and rate not in said:  # of several, the caller had to choose
            warn(
                f"fps {rate:g} was given, but the store says {said.pop():g}: the same steps lie at other times, and none "
                "is left out"
            )
        return rate
    if len(said) > 1:
        raise OptionError(
            "these are recordings of several rates, and a LeRobot data set has one",
            found=", ".join(f"{each:g}" for each in sorted(said)),
            hint="choose those of one by suite, task or episode; or fps (--fps N) says which is written",
        )
    if said:
        return said.pop()
    with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
        attributes = frames.store.source_attributes(int(frames.numbers[0]))["/data"]
        rate = float(json.loads(attributes["env_args"])["env_kwargs"]["control_freq"])
        if np.isfinite(rate) and rate > 0:
            return rate
    if all(name in frames.store.fields for name in LIBERO_CAMERAS):
        return LIBERO_FPS
    raise OptionError(
        "LeRobot must have the steps a second, and the store does not say them",
        store=frames.store.url,
        hint="fps (--fps N), as of the recording: 50 for ALOHA, 25 for AgileX, 20 for robosuite",
    )


@contextlib.contextmanager
def in_our_words() -> Iterator[None]:
    """Let errors about numbers that are too large say what an export can do about them."""
    try:
        yield
    except OptionError as error:
        if error.hint.startswith("dtype="):
            error.hint = f"{EXCLUDE} leaves the field out"
        raise


def lost_in(store: Store, fields: Sequence[str], dtype: str) -> list[str]:
    """Return a line for each field whose small differences become nothing in a dtype, as those of clocks do."""
    said = (standing_still(parts_of(store), name, np.dtype(dtype)) for name in fields)
    return [text.partition(": they are")[0] for text in said if text]


def check_whole(store: Store, names: Any) -> None:
    """Refuse views that say which steps may be sampled, and not which there are. Raises OptionError, UnknownName."""
    for each in several(names):
        view = view_of(store, each)
        if view.kind != STEPS:
            raise OptionError(
                f"view {view.name!r} cuts within episodes: it says which steps may be sampled, while all of them exist",
                expected="a view of kind steps, which says which steps there are; or none",
                found=view.text,
                hint=f"add one of the other kind: `vla-store views add {store.url} {view.rule}:kind=steps,name=...`",
            )


def _must_align() -> OptionError:
    return OptionError(
        "alignment must be named: what is seen was recorded after the action of its row",
        expected="a row is what was seen, and the action that followed",
        causal="observations of the row before; the first step of an episode has none and is left out",
        as_stored="rows as recorded: an action beside its own result",
        hint="--alignment causal is what policies are trained on; in Python alignment='causal'",
    )


def _counted(anchors: Anchors, store: Store) -> tuple[Int64, Int64, Int64]:
    """Return the episodes of anchors in the store's order, how many each has, and their rows as stretches."""
    found: list[Int64] = []
    counts: list[Int64] = []
    runs: list[Int64] = []
    for start in range(0, len(anchors), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(anchors)))
        numbers, rows = np.empty((2, len(block)), np.int64)
        for part, at, positions in anchors.many(block, store):
            numbers[at] = part.episode_start + positions.episode
            rows[at] = part.row_start + positions.start + positions.step
        edges = np.flatnonzero(np.diff(rows) != 1) + 1
        runs.append(np.stack([rows[np.append(0, edges)], rows[np.append(edges, 0) - 1] + 1], axis=1))
        each, count = np.unique(numbers, return_counts=True)
        if found and found[-1][-1] == each[0]:
            counts[-1][-1] += count[0]
            each, count = each[1:], count[1:]
        if len(each):
            found.append(each)
            counts.append(count)
    return np.concatenate(found), np.concatenate(counts), np.concatenate(runs)
