"""Which rows are anchors. A selection lives in memory, compactly; the store's arrays do not know of it.

Anchors are *spans* of consecutive rows, in the store's order, or a list of rows. Where a span leaves out the first step of
every episode (causal alignment of a source whose first observation was never recorded), its i-th anchor is found through the
index alone, so that a whole store of any size costs a few numbers.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, StoreDamaged, UnknownName, several
from vla_store.format import layout
from vla_store.format.views import Runs, View, overlaps
from vla_store.reader.cached import cached_property
from vla_store.reader.kept import Kept, inside, kept_of, within
from vla_store.reader.part import Index, Part, Position, Positions
from vla_store.reader.parts import parts_of
from vla_store.reader.store import Store
from vla_store.reader.values import Episode, Split, StoreTask
from vla_store.text import counted
from vla_store.types import SPLITS, SplitName

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


BLOCK_ANCHORS = 1 << 16  # that are looked up at once

# A stretch of rows [start, stop) of one part. first_episode: the first episode whose step 0 lies in it; episodes: how many such
# episodes there are. is_after: whether its sources record observations after the action; skips: whether step 0 of these episodes
# is no anchor.
SPAN = np.dtype(
    [(name, np.int64) for name in ("part", "start", "stop", "first_episode", "episodes", "is_after", "skips")]
)
Spans = npt.NDArray[np.void]


@dataclass(frozen=True)
class Chosen:
    """What a selection names, before alignment: spans, or `rows` of the store in the order given, with `is_after` of each.

    kept: what its views keep, where it has views; the others are left out of spans and rows. text: for people.
    """

    text: str
    spans: Spans = field(default_factory=lambda: np.zeros(0, SPAN))
    rows: Int64 | None = None
    is_after: Mask | None = None
    is_first: Mask | None = None
    kept: Kept | None = None

    @property
    def has_after(self) -> bool:
        """True where any of it records observations after the action."""
        return bool((self.spans["is_after"] if self.is_after is None else self.is_after).any())

    def runs(self, store: Store) -> Iterator[tuple[Part, Runs]]:
        """Iterate over the selected rows, part by part, as stretches [start, stop) of the part's own rows."""
        if self.rows is not None:
            for part, _, rows in parts_of(store).of_rows(self.rows):
                yield part, np.stack([rows, rows + 1], axis=1)
        else:
            for part, at in parts_of(store).grouped(self.spans["part"]):
                yield part, np.stack([self.spans["start"][at], self.spans["stop"][at]], axis=1)

    def values(self, store: Store, name: str) -> dict[Any, str]:
        """Return what its sources have as `orientation`, `fps` or the like, each value with the name of a source that has it."""
        every = {getattr(each, name) for document in parts_of(store).documents for each in document.sources}
        found: dict[Any, str] = {}
        for part, runs in self.runs(store) if len(every) > 1 else ():
            sources = part.document.sources
            if len(runs) and len({getattr(each, name) for each in sources}) > 1:
                entries = part.entries(0, part.episodes)
                first = np.searchsorted(entries["start"], runs[:, 0], "right") - 1
                stop = np.searchsorted(entries["start"], runs[:, 1])
                edges = [np.bincount(each, minlength=part.episodes + 1)[:-1] for each in (first, stop)]
                chosen = entries["source"][np.cumsum(edges[0] - edges[1]) > 0]
                sources = tuple(sources[number] for number in np.unique(chosen).tolist())
            for each in sources if len(runs) else ():
                found.setdefault(getattr(each, name), f"{each.suite}/{each.file}")
        one = parts_of(store).documents[0].sources[0]
        return found or dict.fromkeys(every, f"{one.suite}/{one.file}")

    @property
    def count(self) -> int:
        """Number of rows that are selected."""
        return int((self.spans["stop"] - self.spans["start"]).sum()) if self.rows is None else len(self.rows)


def choose(store: Store, **given: Any) -> Chosen:
    """Return what all of `given` name together: suites, tasks, episodes, rows, split, view, None for all there are.

    Raises UnknownName for what does not exist, OptionError where nothing is left.
    """
    given = {
        name: list(value) if isinstance(value, Iterator) else value  # it is looked at twice
        for name, value in given.items()
        if value is not None
    }
    chosen = _chosen(store, given)
    if not chosen.count:
        raise _empty(store, given, chosen.text)
    return chosen


def _chosen(store: Store, given: Mapping[str, Any]) -> Chosen:
    """Return what the given parameters of `choose` name together, be it nothing."""
    masks = _episode_masks(store, *(given.get(name) for name in ("suites", "tasks", "episodes", "split")))
    rows = store.check_rows(given["rows"]) if "rows" in given else None
    kept = kept_of(store, given["view"]) if "view" in given else None
    text = ", ".join(f"{name}={_shown(value)}" for name, value in given.items()) or "whole store"
    if rows is not None:
        return _chosen_rows(store, rows if kept is None else rows[inside(kept.anchors, rows)], masks, text, kept)
    spans = np.array(list(_spans(store, masks)), SPAN)
    return Chosen(text, spans if kept is None else _kept_spans(spans, store, kept), kept=kept)


def anchors_of(chosen: Chosen, store: Store, *, leave_out_first: bool) -> Anchors:
    """Return the anchors of a selection; `leave_out_first` leaves out step 0 of sources that observe after the action."""
    if chosen.rows is not None:
        assert chosen.is_after is not None
        assert chosen.is_first is not None
        kept = ~(chosen.is_after & chosen.is_first) if leave_out_first else np.ones(len(chosen.rows), bool)
        anchors = Anchors(rows=chosen.rows if kept.all() else chosen.rows[kept])
    else:
        spans = chosen.spans.copy()
        spans["skips"] = spans["is_after"] & leave_out_first
        anchors = Anchors(spans)
    if not len(anchors):
        raise OptionError(
            "the selection is empty",
            selection=chosen.text,
            steps=f"{chosen.count:,}, each the first of an episode, which has no observation before its action",
            hint="choose others, or let the first steps be anchors: keep_first=True, or alignment='as_stored'",
        )
    return anchors


class Anchors:
    """Anchor numbers 0 ... len - 1 to rows: those of spans, or given one by one, in their order. Pickles to its spans, or its rows.

    Parameters
    ----------
    spans : (n,) array of SPAN
        In the store's order. Not used where `rows` is given.
    rows : (n,) int64, optional
        Rows of the store, in their order.
    """

    def __init__(self, spans: Spans | None = None, rows: Int64 | None = None) -> None:
        self.rows = rows
        spans = np.zeros(0, SPAN) if spans is None else spans
        counts = spans["stop"] - spans["start"] - spans["skips"] * spans["episodes"]
        spans, counts = spans[counts > 0], counts[counts > 0]
        names = ("part", "start", "stop", "first_episode", "skips")
        self._part, self._start, self._stop, self._base, self._skips = (spans[name].copy() for name in names)
        # First steps per anchor, for a first guess.
        self._slopes = self._skips * (self._stop - self._start - counts) / counts
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.count = len(rows) if rows is not None else int(self._firsts[-1])

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fast"}

    def parts(self, store: Store) -> list[int]:
        """Return the numbers of the parts that have some."""
        if self.rows is None:
            return sorted(set(self._part.tolist()))
        return sorted(set((np.searchsorted(parts_of(store).row_starts, self.rows, side="right") - 1).tolist()))

    def digest(self, store: Store) -> str:
        """Return a digest of which rows of the store are anchors, in which order; however the store is cut into parts."""
        if self.rows is not None:
            return hashlib.sha256(b"rows\n" + np.ascontiguousarray(self.rows, "<i8").tobytes()).hexdigest()
        # Rows [start, stop) of the store, and whether first steps are left out.
        starts = np.array(parts_of(store).row_starts, np.int64)[self._part]
        spans = np.stack([self._start + starts, self._stop + starts, self._skips], axis=1)
        # A span that goes on where the one before ends, and leaves out the same steps, is the same span.
        begins = np.ones(len(spans), bool)
        begins[1:] = (spans[1:, 0] != spans[:-1, 1]) | (spans[1:, 2] != spans[:-1, 2])
        ends = np.append(begins[1:], True)
        merged = np.stack([spans[begins, 0], spans[ends, 1], spans[begins, 2]], axis=1)
        return hashlib.sha256(b"spans\n" + np.ascontiguousarray(merged, "<i8").tobytes()).hexdigest()

    def one(self, anchor: int, store: Store) -> tuple[Part, Position]:
        """Return the part of one anchor, 0 <= anchor < len, and its position there. Raises StoreDamaged."""
        if self.rows is not None:
            part, row = parts_of(store).of_row(int(self.rows[anchor]))
            return part, part.position(row)
        firsts, parts, starts, stops, bases, skips, slopes = self._fast
        span = bisect.bisect_right(firsts, anchor) - 1 if len(parts) > 1 else 0
        part = parts_of(store)[parts[span]]
        start = starts[span]
        row = low = start + anchor - firsts[span]
        if not skips[span]:
            return part, part.position(row)
        # As `_settled` does for many.
        above = low + 1 - bases[span]
        row += int((low - start) * slopes[span])
        for _ in range(part.episodes + 2):
            pair = part.pair(row)
            found = above + pair[0]
            if found == row:
                if pair[1] != 0:
                    return part, part.position(row, pair)
                found -= 1
            if not start <= found < stops[span]:
                break
            row = found
        raise _disordered(part, row)

    def many(self, anchors: Int64, store: Store) -> Iterator[tuple[Part, Index, Positions]]:
        """Iterate over the parts that have some of `anchors`: the part, which of them it has, and their positions there.

        Raises StoreDamaged.
        """
        if self.rows is not None:
            for part, at, rows in parts_of(store).of_rows(self.rows[anchors]):
                yield part, at, part.positions(rows)
        elif len(self._part) == 1:
            _, parts, starts, _, bases, skips, slopes = self._fast
            part = parts_of(store)[parts[0]]
            yield part, slice(None), _settled(part, anchors, starts[0], bases[0], bool(skips[0]), slopes[0])
        else:
            spans = np.searchsorted(self._firsts, anchors, side="right") - 1
            within = anchors - self._firsts[spans]
            for part, at in parts_of(store).grouped(self._part[spans]):
                mine = spans[at]
                known = (self._start[mine], self._base[mine], self._skips[mine] != 0, self._slopes[mine])
                yield part, at, _settled(part, within[at], *known)

    def row_numbers(self, store: Store) -> Int64:
        """Return the store's row of every anchor, (len,) int64. Raises StoreDamaged."""
        if self.rows is not None:
            return self.rows.copy()
        found = np.empty(self.count, np.int64)
        for start in range(0, self.count, BLOCK_ANCHORS):
            block = np.arange(start, min(start + BLOCK_ANCHORS, self.count))
            for part, at, places in self.many(block, store):
                found[start : start + len(block)][at] = part.row_start + places.start + places.step
        return found

    @cached_property
    def _fast(self) -> tuple[memoryview, ...]:
        """The columns of the spans as memoryviews, which give Python's numbers, for one anchor at a time. They do not pickle."""
        arrays = (self._firsts, self._part, self._start, self._stop, self._base, self._skips, self._slopes)
        return tuple(each.data for each in arrays)


def _settled(part: Part, at: Int64, start: Any, base: Any, skips: Any, slope: Any) -> Positions:
    """Return the positions of anchors `at`, counted from the beginning of their span. Raises StoreDamaged.

    start, base, skips, slope: of their spans, (n,) or one for all: first row, first episode, whether first steps are left out,
    and how many of these there are per anchor.
    """
    if not (skips is True or np.any(skips)):
        return part.positions(at + start)
    # The row of an anchor is start + at + (episodes of the span that began up to it), a number that grows with the row: so from
    # a guess on either side, `above + episode` moves towards a row that fits, and never past it. Rows that fit are the
    # anchor's and, where they follow it, first steps, which are no anchors: from those one goes back.
    above = at + (start + 1 - base)
    rows = (at * (slope + 1)).astype(np.int64) + start
    for _ in range(part.episodes + 2):  # every move passes the beginning of an episode
        pairs = part.pairs(rows)
        found = above + pairs[:, 0]
        if skips is not True:
            found = np.where(skips, found, rows)
        if not np.count_nonzero(found != rows):
            is_first = (pairs[:, 1] == 0) & skips
            if not np.count_nonzero(is_first):
                return part.positions(rows, pairs)
            found = rows - is_first
        rows = np.minimum(np.maximum(found, 0), part.rows - 1)  # only a damaged index leads out of the part
    raise _disordered(part, int(rows[0]))


def _episode_masks(store: Store, suites: Any, tasks: Any, episodes: Any, split: Any) -> list[Mask] | None:
    """Per part, which episodes are selected; None for all of them."""
    if suites is None and tasks is None and episodes is None and split is None:
        return None
    suite_names = None if suites is None else several(suites)
    for name in suite_names or ():
        if name not in store.suites:
            raise UnknownName.among("suite", name, list(store.suites))
    task_names, texts = (None, set[str]()) if tasks is None else _known_tasks(store, tasks)
    numbers = np.arange(len(store.episodes))
    whole = np.ones(len(numbers), bool)
    if isinstance(episodes, Split):
        whole &= np.isin(numbers, _split(store, episodes).episodes)
    elif episodes is not None:
        whole &= np.isin(numbers, store.check_episodes(episodes))
    if split is not None:
        whole &= np.isin(numbers, _split(store, split).episodes)
    masks = []
    for part in parts_of(store).with_tables(layout.TABLE_ARRAY):
        mask = whole[part.episode_start : part.episode_start + part.episodes]
        entries = part.entries(0, part.episodes)
        if suite_names is not None:
            has = np.array([each.suite in suite_names for each in part.document.sources], bool)
            mask = mask & has[entries["source"]]
        if task_names is not None:
            has = np.array([(each.suite, each.name) in task_names for each in part.document.tasks], bool)
            of_task = has[entries["task"]]
            wanted = [number for number, text in enumerate(part.document.texts) if text in texts]
            mask = mask & (of_task | np.isin(part.own_texts(np.arange(part.episodes)), wanted) if wanted else of_task)
        masks.append(mask)
    return masks


def _spans(store: Store, masks: list[Mask] | None) -> Iterator[tuple[int, ...]]:
    parts = parts_of(store)
    if masks is not None or any(len(set(_is_after(part))) > 1 for part in parts):
        parts.bring(range(len(parts)), layout.TABLE_ARRAY)
    for part in parts:
        after = _is_after(part)
        if masks is None and (after.all() or not after.any()):
            yield part.number, 0, part.rows, 0, part.episodes, after[0], 0
            continue
        entries = part.entries(0, part.episodes)
        flags = after[entries["source"]]
        mask = np.ones(part.episodes, bool) if masks is None else masks[part.number]
        edges = np.flatnonzero((mask[1:] != mask[:-1]) | (flags[1:] != flags[:-1])) + 1
        bounds = [0, *edges.tolist(), part.episodes]
        for first, stop in itertools.pairwise(bounds):
            if mask[first]:
                begin, last = int(entries["start"][first]), entries[stop - 1]
                yield part.number, begin, int(last["start"] + last["length"]), first, stop - first, flags[first], 0


def _chosen_rows(store: Store, rows: Int64, masks: list[Mask] | None, text: str, kept: Kept | None) -> Chosen:
    has, is_after, is_first = (np.zeros(len(rows), bool) for _ in range(3))
    for part, at, local in parts_of(store).of_rows(rows):
        positions = part.positions(local)
        has[at] = True if masks is None else masks[part.number][positions.episode]
        is_after[at] = _is_after(part)[positions.source]
        is_first[at] = positions.step == 0
    return Chosen(text, rows=rows[has], is_after=is_after[has], is_first=is_first[has], kept=kept)


def _kept_spans(spans: Spans, store: Store, kept: Kept) -> Spans:
    found = [spans[:0]]
    for part, at in parts_of(store).grouped(spans["part"]):
        of_part = spans[at]
        runs, number = overlaps(np.stack([of_part["start"], of_part["stop"]], axis=1), within(kept.anchors, part))
        made = of_part[number]
        made["start"], made["stop"] = runs[:, 0], runs[:, 1]
        starts = part.entries(0, part.episodes)["start"]
        made["first_episode"] = np.searchsorted(starts, made["start"])
        made["episodes"] = np.searchsorted(starts, made["stop"]) - made["first_episode"]
        found.append(made)
    return np.concatenate(found)


def _is_after(part: Part) -> Mask:
    return np.array([each.observation == "after" for each in part.document.sources], bool)


def _split(store: Store, split: Any) -> Split:
    if isinstance(split, str):
        return store.split(cast(SplitName, split))
    if not isinstance(split, Split):
        raise OptionError(
            f"split is one of {', '.join(SPLITS)}, or what store.split(...) gives", found=repr(split)[:100]
        )
    # Its numbers mean these episodes only where its rule gives the same ones here.
    own = store.split(split.name, fraction=split.fraction, by=split.by, seed=split.seed)
    if not np.array_equal(own.episodes, split.episodes):
        rule = f"split({split.name!r}, fraction={split.fraction}, seed={split.seed})"
        raise OptionError(
            "this split was made of another store, or before something was appended to this one",
            expected=f"{counted(len(own), 'episode')} of the {len(store.episodes):,} of {store.url}",
            found=f"{len(split):,} others",
            hint=f"make it of this store: store.{rule}; or name its episodes: episodes=split.episodes",
        )
    return split


def _known_tasks(store: Store, tasks: Any) -> tuple[set[tuple[str, str]], set[str]]:
    """Return the tasks, as (suite, name), and the texts of single episodes that are named.

    tasks: by name, by text, as (suite, name), or as the values of `store.tasks`.
    """
    known = [(task.suite, task.name) for task in store.tasks]
    found: set[tuple[str, str]] = set()
    texts: set[str] = set()
    own = {text for task in store.tasks for text in task.texts}
    given: list[Any] = [tasks] if isinstance(tasks, tuple) and tasks in known else several(tasks)
    for each in given:
        if isinstance(each, StoreTask):
            wanted = {(each.suite, each.name)}
        elif isinstance(each, tuple):
            wanted = {each}
        else:
            wanted = {(task.suite, task.name) for task in store.tasks if each in (task.name, task.text)}
        is_own = isinstance(each, str) and each in own
        if not (wanted or is_own) or not wanted <= set(known):
            raise UnknownName.among("task", each, [*(task.name for task in store.tasks), *sorted(own)])
        found |= wanted
        texts |= {each} if is_own else set()
    return found, texts


def _shown(value: Any) -> str:
    if isinstance(value, (str, int, Split, range, slice)):
        return repr(value)
    items = several(value)
    if len(items) > 1 and isinstance(items[0], (bool, np.bool_)):
        return f"mask of {len(items):,}, {np.count_nonzero(items):,} of them"
    names = [_name_of(each) for each in items[:4]]
    return f"[{', '.join(names)}{f', ... ({len(items)})' if len(items) > 4 else ''}]"


def _name_of(value: Any) -> str:
    if isinstance(value, Episode):
        return str(value.episode)
    return value.name if isinstance(value, (StoreTask, View)) else str(value)


def _empty(store: Store, given: dict[str, Any], text: str) -> OptionError:
    """Return an error that says which of the conditions leave how many steps, each by itself and with those before it."""
    places: dict[str, str] = {}
    nothing = []
    for number, name in enumerate(given):
        alone = _chosen(store, {name: given[name]}).count
        together = _chosen(store, dict(list(given.items())[: number + 1])).count
        nothing += [] if alone else [name]
        places[name] = f"{alone:,} of {counted(store.rows, 'step')}" + (
            f"; {together:,} with those above" if number else ""
        )
    hint = "each of these leaves something, and all of them together nothing: leave one out"
    if nothing:
        hint = f"{nothing[0]} alone leaves nothing; " + {
            "split": f"each of the {counted(len(store.episodes), 'episode')} falls on one side by its digest: choose another fraction or seed",
            "view": "`vla-store views list STORE NAME` says what it keeps of every task",
        }.get(nothing[0], f"an empty list selects nothing, leave {nothing[0]} out to have all")
    return OptionError("the selection is empty", selection=text, **places, hint=hint)


def _disordered(part: Part, row: int) -> StoreDamaged:
    return StoreDamaged(
        "the index does not number its episodes in order",
        object=f"{part.path}/index/steps",
        row=part.row_start + row,
    )
