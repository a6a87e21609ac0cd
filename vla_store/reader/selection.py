"""Which rows are anchors. A selection lives in memory, compactly; the store's arrays do not know of it.

Anchors are *spans* of consecutive rows, in the store's order, or a list of rows. Where a span leaves out the first step of
every episode (causal alignment of a source whose first observation was never recorded), its i-th anchor is found through the
index alone, so that a whole store of any size costs a few numbers.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, StoreDamaged, UnknownName
from vla_store.format.views import Runs, overlaps, rows_in
from vla_store.reader.kept import Kept, kept_of, within
from vla_store.reader.lazily import lazily
from vla_store.reader.part import Part, Place, Places
from vla_store.reader.store import SPLITS, Store, parts_of
from vla_store.reader.values import Split, StoreTask

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Span:
    """Rows [start, stop) of one part, of sources that all record observations the same way (`is_after`).

    first_episode: the first episode whose step 0 lies in the span. episodes: how many such episodes there are.
    """

    part: int
    start: int
    stop: int
    first_episode: int
    episodes: int
    is_after: bool


@dataclass(frozen=True)
class Chosen:
    """What a selection names, before alignment: spans, or `rows` of the store in the order given, with `is_after` of each.

    kept: what its views keep of the spans; `rows` are kept by them. text: for people.
    """

    text: str
    spans: tuple[Span, ...] = ()
    rows: Int64 | None = None
    is_after: Mask | None = None
    is_first: Mask | None = None
    kept: Kept | None = None

    @property
    def has_after(self) -> bool:
        """Whether any of it records observations after the action."""
        if self.is_after is not None:
            return bool(self.is_after.any())
        return any(span.is_after for span in self.spans)

    def runs(self, store: Store) -> Iterator[tuple[Part, Runs, Mask]]:
        """The selected rows that are not given one by one, part by part: as stretches of the part's own rows, and whether
        each is of sources that observe after the action."""
        for number, group in itertools.groupby(self.spans, key=lambda span: span.part):
            spans, part = list(group), parts_of(store)[number]
            runs = np.array([(each.start, each.stop) for each in spans], np.int64)
            after = np.array([each.is_after for each in spans], bool)
            if self.kept is not None:
                runs, at = overlaps(runs, within(self.kept.anchors, part))
                after = after[at]
            yield part, runs, after

    def orientations(self, store: Store) -> set[str]:
        """How the pictures of its sources lie."""
        only = store.conventions.orientation
        found = set[str]() if only is None else {only}
        for part, runs in self._stretches(store) if only is None else ():
            sources = part.document.sources
            if len(runs) and len({each.orientation for each in sources}) > 1:
                entries = part.entries(0, part.episodes)
                first = np.searchsorted(entries[:, 0], runs[:, 0], "right") - 1
                stop = np.searchsorted(entries[:, 0], runs[:, 1])
                edges = [np.bincount(each, minlength=part.episodes + 1)[:-1] for each in (first, stop)]
                chosen = entries[np.cumsum(edges[0] - edges[1]) > 0, 3]
                sources = tuple(sources[number] for number in np.unique(chosen).tolist())
            found.update(each.orientation for each in sources if len(runs))
        return found

    def _stretches(self, store: Store) -> Iterator[tuple[Part, Runs]]:
        """All selected rows as stretches of their parts' own rows."""
        if self.rows is None:
            yield from ((part, runs) for part, runs, _ in self.runs(store))
        else:
            for part, _, rows in parts_of(store).of_rows(self.rows):
                yield part, np.stack([rows, rows + 1], axis=1)

    def count(self, store: Store) -> int:
        """How many rows are selected."""
        if self.rows is not None:
            return len(self.rows)
        return sum(rows_in(runs) for _, runs, _ in self.runs(store))


def choose(
    store: Store,
    *,
    suites: Any = None,
    tasks: Any = None,
    episodes: Any = None,
    rows: Any = None,
    split: Any = None,
    view: Any = None,
) -> Chosen:
    """What all of these name together. Raises UnknownName for what does not exist, OptionError where nothing is left."""
    given = {"suites": suites, "tasks": tasks, "episodes": episodes, "rows": rows, "split": split, "view": view}
    given = {
        name: list(value) if isinstance(value, Iterator) else value  # it is looked at twice
        for name, value in given.items()
        if value is not None
    }
    chosen = _chosen(store, given)
    if not chosen.spans and not (chosen.rows is not None and len(chosen.rows)):
        raise _empty(store, given, chosen.text)
    return chosen


def _chosen(store: Store, given: Mapping[str, Any]) -> Chosen:
    """What the parameters of `choose` that are given name together, be it nothing."""
    text = ", ".join(f"{name}={_shown(value)}" for name, value in given.items()) or "whole store"
    masks = _episode_masks(store, *(given.get(name) for name in ("suites", "tasks", "episodes", "split")))
    if "rows" in given:
        chosen = _chosen_rows(store, store.check_rows(given["rows"]), masks, text)
    else:
        chosen = Chosen(text, spans=tuple(_spans(store, masks)))
    return _viewed(chosen, kept_of(store, given["view"])) if "view" in given else chosen


def anchors_of(chosen: Chosen, store: Store, *, leave_out_first: bool) -> Anchors:
    """The anchors of a selection; `leave_out_first` leaves out step 0 of sources that observe after the action."""
    if chosen.rows is not None:
        assert chosen.is_after is not None
        assert chosen.is_first is not None
        kept = ~(chosen.is_after & chosen.is_first) if leave_out_first else np.ones(len(chosen.rows), bool)
        anchors = Anchors((), chosen.rows if kept.all() else chosen.rows[kept], ())
    elif chosen.kept is not None:
        anchors = Anchors(_kept_table(chosen, store, leave_out_first), None, ())
    else:
        skips = tuple(leave_out_first and span.is_after for span in chosen.spans)
        anchors = Anchors(chosen.spans, None, skips)
    if not len(anchors):
        raise OptionError(
            "the selection is empty",
            selection=chosen.text,
            steps=f"{chosen.count(store):,}, each the first of an episode, which has no observation before its action",
            hint="choose others, or let the first steps be anchors: keep_first=True, or alignment='as_stored'",
        )
    return anchors


class Anchors:
    """Anchor numbers 0 ... len - 1 to rows. Pickles to its spans, or its rows.

    spans: with, in `skips`, whether the first steps in each are left out; or a table of all that, (n, 6): part, start, stop,
    first_episode, episodes, skip.
    """

    def __init__(self, spans: tuple[Span, ...] | Int64, rows: Int64 | None, skips: tuple[bool, ...]) -> None:
        self._rows = rows
        if not isinstance(spans, np.ndarray):
            listed = [(*dataclasses.astuple(each)[:5], skip) for each, skip in zip(spans, skips)]
            spans = np.array(listed, np.int64).reshape(-1, 6)
        counts = spans[:, 2] - spans[:, 1] - spans[:, 5] * spans[:, 4]
        kept, counts = spans[counts > 0], counts[counts > 0]
        self._part, self._start, self._stop, self._base, self._skips = (kept[:, i].copy() for i in (0, 1, 2, 3, 5))
        # First steps per anchor, for a first guess.
        self._slopes = self._skips * (self._stop - self._start - counts) / counts
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._count = len(rows) if rows is not None else int(self._firsts[-1])

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fast"}

    @property
    def rows(self) -> Int64 | None:
        """The rows, where they were given one by one."""
        return self._rows

    def spans_of(self, store: Store) -> Int64:
        """(n, 3), where they were not given one by one: rows [start, stop) of the store, and whether first steps are left out."""
        starts = np.array(parts_of(store).row_starts, np.int64)[self._part]
        return np.stack([self._start + starts, self._stop + starts, self._skips], axis=1)

    def digest(self, store: Store) -> str:
        """Return a digest of which rows of the store are anchors, in which order; however the store is cut into parts."""
        if self._rows is not None:
            return hashlib.sha256(b"rows\n" + np.ascontiguousarray(self._rows, "<i8").tobytes()).hexdigest()
        spans = self.spans_of(store)
        # A span that goes on where the one before ends, and leaves out the same steps, is the same span.
        begins = np.ones(len(spans), bool)
        begins[1:] = (spans[1:, 0] != spans[:-1, 1]) | (spans[1:, 2] != spans[:-1, 2])
        ends = np.append(begins[1:], True)
        merged = np.stack([spans[begins, 0], spans[ends, 1], spans[begins, 2]], axis=1)
        return hashlib.sha256(b"spans\n" + np.ascontiguousarray(merged, "<i8").tobytes()).hexdigest()

    def one(self, anchor: int, store: Store) -> tuple[Part, Place]:
        """The part and the place in it of one anchor, 0 <= anchor < len. Raises StoreDamaged."""
        if self._rows is not None:
            part, row = parts_of(store).of_row(int(self._rows[anchor]))
            return part, part.locate(row)
        firsts, parts, starts, stops, bases, skips, slopes = self._fast
        span = bisect.bisect_right(firsts, anchor) - 1 if len(parts) > 1 else 0
        part = parts_of(store)[parts[span]]
        start = starts[span]
        row = low = start + anchor - firsts[span]
        if not skips[span]:
            return part, part.locate(row)
        # As `_settled` does for many.
        above = low + 1 - bases[span]
        row += int((low - start) * slopes[span])
        for _ in range(part.episodes + 2):
            pair = part.pair(row)
            found = above + pair[0]
            if found == row:
                if pair[1] != 0:
                    return part, part.place(row, pair)
                found -= 1
            if not start <= found < stops[span]:
                break
            row = found
        raise _disordered(part, row)

    def many(self, anchors: Int64, store: Store) -> Iterator[tuple[Part, Int64 | None, Places]]:
        """Part by part: the part, which of `anchors` are in it (None for all), and their places in it. Raises StoreDamaged."""
        if self._rows is not None:
            for part, at, rows in parts_of(store).of_rows(self._rows[anchors]):
                yield part, at, part.locate_many(rows)
        elif len(self._part) == 1:
            _, parts, starts, _, bases, skips, slopes = self._fast
            part = parts_of(store)[parts[0]]
            yield part, None, _settled(part, anchors, starts[0], bases[0], bool(skips[0]), slopes[0])
        else:
            spans = np.searchsorted(self._firsts, anchors, side="right") - 1
            within = anchors - self._firsts[spans]
            for part, at in parts_of(store).grouped(self._part[spans]):
                mine, those = (spans, within) if at is None else (spans[at], within[at])
                known = (self._start[mine], self._base[mine], self._skips[mine] != 0, self._slopes[mine])
                yield part, at, _settled(part, those, *known)

    @lazily
    def _fast(self) -> tuple[memoryview, ...]:
        """The same as `many` looks at, for one at a time: a memoryview gives Python's numbers, and pickles nothing."""
        arrays = (self._firsts, self._part, self._start, self._stop, self._base, self._skips, self._slopes)
        return tuple(each.data for each in arrays)


def _settled(part: Part, at: Int64, start: Any, base: Any, skips: Any, slope: Any) -> Places:
    """The places of anchors `at`, counted from the beginning of their span. Raises StoreDamaged.

    start, base, skips, slope: of their spans, (n,) or one for all: first row, first episode, whether first steps are left out,
    and how many of these there are per anchor.
    """
    if not np.any(skips):
        return part.locate_many(at + start)
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
        if (found == rows).all():
            is_first = (pairs[:, 1] == 0) & skips
            if not is_first.any():
                return part.places(rows, pairs)
            found = rows - is_first
        rows = np.minimum(np.maximum(found, 0), part.rows - 1)  # only a damaged index leads out of the part
    raise _disordered(part, int(rows[0]))


def _episode_masks(store: Store, suites: Any, tasks: Any, episodes: Any, split: Any) -> list[Mask] | None:
    """Per part, which episodes are selected; None for all of them."""
    if suites is None and tasks is None and episodes is None and split is None:
        return None
    suite_names = None if suites is None else _known("suite", _as_list(suites), list(store.suites))
    task_names, texts = (None, set[str]()) if tasks is None else _known_tasks(store, tasks)
    numbers = [store.check_episodes(_episode_numbers(each)) for each in (episodes,) if each is not None]
    if split is not None:
        numbers.append(_split(store, split).episodes)
    whole = np.ones(len(store.episodes), bool)
    for chosen in numbers:
        named = np.zeros(len(whole), bool)
        named[chosen] = True
        whole &= named
    masks = []
    for part in parts_of(store):
        mask = whole[part.episode_start : part.episode_start + part.episodes]
        entries = part.entries(0, part.episodes)
        if suite_names is not None:
            has = np.array([each.suite in suite_names for each in part.document.sources], bool)
            mask = mask & has[entries[:, 3]]
        if task_names is not None:
            has = np.array([(each.suite, each.name) in task_names for each in part.document.tasks], bool)
            of_task = has[entries[:, 2]]
            wanted = [number for number, text in enumerate(part.document.texts) if text in texts]
            mask = mask & (of_task | np.isin(part.own_texts(np.arange(part.episodes)), wanted) if wanted else of_task)
        masks.append(mask)
    return masks


def _spans(store: Store, masks: list[Mask] | None) -> Iterator[Span]:
    for part in parts_of(store):
        after = _is_after(part)
        if masks is None and (after.all() or not after.any()):
            yield Span(part.number, 0, part.rows, 0, part.episodes, bool(after[0]))
            continue
        entries = part.entries(0, part.episodes)
        flags = after[entries[:, 3]]
        mask = np.ones(part.episodes, bool) if masks is None else masks[part.number]
        edges = np.flatnonzero((mask[1:] != mask[:-1]) | (flags[1:] != flags[:-1])) + 1
        bounds = [0, *edges.tolist(), part.episodes]
        for first, stop in itertools.pairwise(bounds):
            if mask[first]:
                begin, end = int(entries[first, 0]), int(entries[stop - 1, 0] + entries[stop - 1, 1])
                yield Span(part.number, begin, end, first, stop - first, bool(flags[first]))


def _chosen_rows(store: Store, rows: Int64, masks: list[Mask] | None, text: str) -> Chosen:
    kept, is_after, is_first = (np.zeros(len(rows), bool) for _ in range(3))
    for part, at, local in parts_of(store).of_rows(rows):
        places = part.locate_many(local)
        into = slice(None) if at is None else at
        kept[into] = True if masks is None else masks[part.number][places.episode]
        is_after[into] = _is_after(part)[places.source]
        is_first[into] = places.step == 0
    return Chosen(text, rows=rows[kept], is_after=is_after[kept], is_first=is_first[kept])


def _viewed(chosen: Chosen, kept: Kept) -> Chosen:
    """The same, without what views leave out."""
    if chosen.rows is None:
        made = dataclasses.replace(chosen, kept=kept)
        return made if len(kept.anchors) else dataclasses.replace(made, spans=())
    has = kept.has(chosen.rows)
    assert chosen.is_after is not None
    assert chosen.is_first is not None
    return dataclasses.replace(
        chosen, rows=chosen.rows[has], is_after=chosen.is_after[has], is_first=chosen.is_first[has], kept=kept
    )


def _kept_table(chosen: Chosen, store: Store, leave_out_first: bool) -> Int64:
    """What `Anchors` is made of, where views keep some rows."""
    tables = []
    for part, runs, after in chosen.runs(store):
        starts = part.entries(0, part.episodes)[:, 0]
        first, stop = (np.searchsorted(starts, runs[:, side]) for side in (0, 1))
        columns = [
            np.full(len(runs), part.number),
            runs[:, 0],
            runs[:, 1],
            first,
            stop - first,
            after & leave_out_first,
        ]
        tables.append(np.stack(columns, axis=1).astype(np.int64))
    return np.concatenate(tables)


def _is_after(part: Part) -> Mask:
    return np.array([each.observation == "after" for each in part.document.sources], bool)


def _split(store: Store, split: Any) -> Split:
    if isinstance(split, str):
        return store.split(split)
    if not isinstance(split, Split):
        raise OptionError(
            f"split is one of {', '.join(SPLITS)}, or what store.split(...) gives", found=repr(split)[:100]
        )
    store.check_episodes(split.episodes)
    return split


def _known(kind: str, names: list[Any], known: list[str]) -> set[str]:
    for name in names:
        if name not in known:
            raise UnknownName.among(kind, name, known)
    return set(names)


def _known_tasks(store: Store, tasks: Any) -> tuple[set[tuple[str, str]], set[str]]:
    """Tasks by name, by text, as (suite, name), or as the values of `store.tasks`; and the texts of single episodes."""
    found: set[tuple[str, str]] = set()
    texts: set[str] = set()
    own = {text for task in store.tasks for text in task.texts}
    given = [tasks] if _is_pair(tasks, store) else _as_list(tasks)
    for each in given:
        if isinstance(each, StoreTask):
            wanted = {(each.suite, each.name)}
        elif isinstance(each, tuple):
            wanted = {each}
        else:
            wanted = {(task.suite, task.name) for task in store.tasks if each in (task.name, task.text)}
        is_own = isinstance(each, str) and each in own
        if not (wanted or is_own) or not wanted <= {(task.suite, task.name) for task in store.tasks}:
            raise UnknownName.among("task", each, [*(task.name for task in store.tasks), *sorted(own)])
        found |= wanted
        texts |= {each} if is_own else set()
    return found, texts


def _is_pair(tasks: Any, store: Store) -> bool:
    return isinstance(tasks, tuple) and any((task.suite, task.name) == tasks for task in store.tasks)


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes, StoreTask)) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _episode_numbers(episodes: Any) -> Any:
    return [getattr(each, "episode", each) for each in _as_list(episodes)]


def _shown(value: Any) -> str:
    if isinstance(value, (str, int, Split, range)):
        return repr(value)
    items = _as_list(value)
    names = [each.name if isinstance(each, StoreTask) else str(each) for each in items[:4]]
    return f"[{', '.join(names)}{f', ... ({len(items)})' if len(items) > 4 else ''}]"


def _empty(store: Store, given: dict[str, Any], text: str) -> OptionError:
    """Which of the conditions leave how many steps, each by itself and with those before it."""
    places: dict[str, str] = {}
    nothing = []
    for number, name in enumerate(given):
        alone = _chosen(store, {name: given[name]}).count(store)
        together = _chosen(store, dict(list(given.items())[: number + 1])).count(store)
        nothing += [] if alone else [name]
        places[name] = f"{alone:,} of {store.rows:,} steps" + (f"; {together:,} with those above" if number else "")
    hint = "each of these leaves something, and all of them together nothing: leave one out"
    if nothing:
        hint = f"{nothing[0]} alone leaves nothing; " + {
            "split": f"each of the {len(store.episodes):,} episodes falls on one side by its digest: choose another fraction or seed",
            "view": "`vla-store views list STORE NAME` says what it keeps of every task",
        }.get(nothing[0], f"an empty list selects nothing, leave {nothing[0]} out to have all")
    return OptionError("the selection is empty", selection=text, **places, hint=hint)


def _disordered(part: Part, row: int) -> StoreDamaged:
    return StoreDamaged(
        "the index does not number its episodes in order",
        object=f"{part.path}/index/steps",
        row=part.row_start + row,
    )
