"""Adding and removing views: a new root with another small document, by exclusive creation; no array is touched.

A view by a known rule is computed again for what a store grows by, in the commit that adds it. A predicate cannot be: it covers
the steps that were there when it was made, and says so.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, StoreDamaged, UnknownName, VlaStoreError, machine_error
from vla_store.format import layout
from vla_store.format.nonfinite import counted
from vla_store.format.schema import Field, PartEntry, Root
from vla_store.format.views import (
    Runs,
    TaskCount,
    View,
    Views,
    check_view_name,
    document_of,
    joined,
    overlaps,
    rows_in,
    runs_of,
    views_of,
)
from vla_store.manage import roots
from vla_store.reader.part import Part
from vla_store.reader.store import Store
from vla_store.storage import Storage, open_storage
from vla_store.view_rules import EpisodeFacts, Rule, kind_of, parse_rule, rule_of

__all__ = ["NewView", "ViewsReport", "add_view", "add_views", "carried", "merged", "parse_view", "remove_views"]

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Talk = Callable[[str], None]

MAX_NOTED = 5
BLOCK_NBYTES = 8 << 20


@dataclass(frozen=True)
class NewView:
    """A view to add. kind: None for the rule's usual one."""

    name: str
    rule: Rule
    kind: str | None = None


@dataclass(frozen=True)
class ViewsReport:
    """root: the one that is current now. views: those that were added or removed. notes: what a user should know of them, a line
    each. changed: False where they were there already."""

    root: Root
    views: tuple[View, ...]
    notes: tuple[str, ...] = ()
    changed: bool = True


def add_view(
    store: str | os.PathLike[str], name: str, rule: Rule, *, kind: str | None = None, allow_empty: bool = False
) -> View:
    """Record a view of all that a store holds now. rule: from `vla_store.view_rules`. kind: "anchors" or "steps".

    allow_empty: also where nothing is left of a task. The same view again is no error.
    Raises OptionError, UnknownName, StoreDamaged; storage must be able to create an object exclusively.
    """
    return add_views(store, [NewView(name, rule, kind)], allow_empty=allow_empty).views[0]


def add_views(
    store: str | os.PathLike[str] | Path,
    wanted: Sequence[NewView],
    *,
    allow_empty: bool = False,
    talk: Talk = lambda text: None,
) -> ViewsReport:
    """The same for several views at once, in one root."""
    if not wanted:
        raise OptionError("no view to add")
    names = [check_view_name(each.name) for each in wanted]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError("two views have the same name", name=twice[0], hint="as in length:shortest=128,name=long")
    kinds = [kind_of(each.rule, each.kind) for each in wanted]
    place = open_storage(store)
    sound: set[tuple[str, str]] = set()
    made: dict[str, View] = {}
    notes: list[str] = []

    def make(newest: Root) -> roots.NewRoot | None:
        made.clear()
        notes.clear()
        before = views_in(place, newest)
        parts = roots.open_parts(place.url, newest.parts)
        added = dict(before)
        for each, kind in zip(wanted, kinds):
            _check_fields(each.rule, newest)
            for part, entry in zip(parts, newest.parts):
                check_sound(place, entry, part, each.rule, sound)
            talk(f"computing view {each.name}")
            view = computed(each.name, kind, each.rule, parts)
            there = before.get(each.name)
            if there is not None and not _same(there, view):
                raise OptionError(
                    "a view of this name is there already",
                    view=each.name,
                    there=f"{there.text}: {there.steps:,} of {there.covered_steps:,} steps",
                    wanted=f"{view.text}: {view.steps:,} of {view.covered_steps:,} steps",
                    hint=f"give it another name, or first: vla-store views remove STORE {each.name}",
                )
            if there is None:
                notes.extend(_checked(view, parts, allow_empty))
            added[each.name] = made[each.name] = view
        if len(added) == len(before):
            return None
        return roots.root_with_views(newest, document_of(added))

    root, changed = _commit(place, make, "adding views to")
    return ViewsReport(root, tuple(made.values()), tuple(notes), changed)


def remove_views(store: str | os.PathLike[str], names: Iterable[str] | None) -> ViewsReport:
    """Record that views are no more; None for all of them, even where they cannot be read. Older roots keep theirs.

    Raises UnknownName, StoreDamaged.
    """
    place = open_storage(store)
    wanted = None if names is None else [names] if isinstance(names, str) else list(names)
    gone: list[View] = []

    def make(newest: Root) -> roots.NewRoot | None:
        gone.clear()
        if wanted is None:
            return roots.root_with_views(newest, None) if newest.meta.views is not None else None
        views = views_in(place, newest)
        for name in wanted:
            if name not in views:
                raise UnknownName.among("view", name, list(views), store=place.url)
        gone.extend(views[name] for name in dict.fromkeys(wanted))
        return roots.root_with_views(newest, document_of({k: v for k, v in views.items() if k not in wanted}))

    if wanted == []:
        raise OptionError("no view to remove")
    root, changed = _commit(place, make, "removing views from")
    return ViewsReport(root, tuple(gone), (), changed)


def parse_view(text: str) -> NewView:
    """A view from RULE[:option=value,...]; see `vla_store.view_rules.parse_rule`. Raises UnknownName, OptionError."""
    name, rule, kind = parse_rule(text)
    return NewView(check_view_name(name), rule, kind_of(rule, kind))


def views_in(place: Storage, root: Root) -> dict[str, View]:
    """The views of a root. Raises StoreDamaged."""
    if root.meta.views is None:
        return {}
    try:
        return views_of(place.get(layout.meta_key(root.meta.views)), root.meta.views, root.rows)
    except StoreDamaged as error:
        raise error.at(store=place.url) from None


# Computing


def computed(name: str, kind: str, rule: Rule, parts: Sequence[Part]) -> View:
    """The view by a rule over everything in these parts. Raises OptionError where the rule cannot be applied."""
    rows = sum(part.rows for part in parts)
    found = [runs + part.row_start for part in parts for runs in [kept_in(rule, part)]]
    kept = joined(np.concatenate(found))
    covered = np.array([[0, rows]], np.int64)
    return View(name, kind, rule.name, rule.options, rule.said, covered, kept, counts_of(covered, kept, parts))


def kept_in(rule: Rule, part: Part) -> Runs:
    """What a rule keeps of a part, as the part's own rows."""
    pieces = [np.zeros(0, bool)]
    for number, facts in enumerate(_facts(rule, part)):
        try:
            mask = rule.keeps(facts)
        except VlaStoreError as error:
            raise error.at(rule=rule.name, **_where(part, number)) from None
        except Exception as error:
            raise OptionError(
                "a rule failed on an episode",
                rule=rule.name,
                **_where(part, number),
                found=f"{type(error).__name__}: {error}",
            ) from error
        pieces.append(mask)
    return runs_of(np.concatenate(pieces))


def counts_of(covered: Runs, kept: Runs, parts: Sequence[Part]) -> tuple[TaskCount, ...]:
    """Per task, by suite and name: episodes and steps that are covered, and that are kept."""
    totals: dict[tuple[str, str], Int64] = {}
    for part in parts:
        table = part.entries(0, part.episodes)
        starts = table[:, 0] + part.row_start
        episodes = np.stack([starts, starts + table[:, 1]], axis=1)
        steps, kept_steps = (_rows_of_each(episodes, runs) for runs in (covered, kept))
        for number, task in enumerate(part.document.tasks):
            mine = table[:, 2] == number
            told, left = steps[mine], kept_steps[mine]
            if told.any():
                counts = np.array([(told > 0).sum(), told.sum(), (left > 0).sum(), left.sum()], np.int64)
                totals[task.suite, task.name] = totals.get((task.suite, task.name), np.zeros(4, np.int64)) + counts
    order = sorted(totals, key=lambda key: (key[0].encode(), key[1].encode()))
    return tuple(TaskCount(*key, *totals[key].tolist()) for key in order)


def carried(views: Views, parts: Sequence[Part]) -> tuple[dict[str, View], list[str]]:
    """The same views of a store that may have grown, and a line on each that could not follow.

    Known rules are computed where a view does not cover episodes; what else a view covers stays. Rows keep their numbers.
    """
    made: dict[str, View] = {}
    notes: list[str] = []
    rows = sum(part.rows for part in parts)
    for name, view in views.items():
        rule = rule_of(view)
        covered, kept, is_told = [view.covered], [view.kept], False
        for part in parts:
            whole = np.array([[part.row_start, part.row_start + part.rows]], np.int64)
            missing = _without(whole, view.covered)
            if rule is None or not len(missing):
                continue
            try:
                found = kept_in(rule, part) + part.row_start
            except VlaStoreError as error:
                notes.append(f"view {name!r} could not be computed for all that is new: {error.what}")
                is_told = True
                continue
            covered.append(missing)
            kept.append(overlaps(missing, found)[0])
        all_covered, all_kept = _together(covered), _together(kept)
        if rows_in(all_covered) < rows and not is_told:
            notes.append(
                f"view {name!r} cannot be computed again: it covers {rows_in(all_covered):,} of {rows:,} steps, and not the new"
            )
        counts = counts_of(all_covered, all_kept, parts)
        made[name] = dataclasses.replace(view, covered=all_covered, kept=all_kept, counts=counts)
        before = {(each.suite, each.task) for each in view.counts}
        notes += [
            f"view {name!r} keeps nothing of {each.suite}/{each.task}"
            for each in counts
            if not each.kept_steps and (each.suite, each.task) not in before
        ]
    return made, notes


def merged(stores: Sequence[tuple[str, Views, int]]) -> dict[str, View]:
    """The views of a store that several are merged to, before `carried` makes known rules cover all of it.

    stores: name, views and rows of each, in the order of the parts. Views of one name must say the same. Raises OptionError.
    """
    together: dict[str, View] = {}
    told: dict[str, str] = {}
    start = 0
    for url, views, rows in stores:
        for name, view in views.items():
            moved = dataclasses.replace(view, covered=view.covered + start, kept=view.kept + start)
            other = together.get(name)
            if other is None:
                together[name], told[name] = moved, url
                continue
            if not _says_the_same(other, view):
                raise OptionError(
                    f"two stores call different views {name!r}",
                    first=f"{told[name]}: {other.text}",
                    second=f"{url}: {view.text}",
                    hint="add one of them under another name (views add), and remove it (views remove), then merge",
                )
            covered, kept = ([getattr(each, side) for each in (other, moved)] for side in ("covered", "kept"))
            together[name] = dataclasses.replace(other, covered=_together(covered), kept=_together(kept))
        start += rows
    return dict(sorted(together.items()))


def translated(before: Store, after: Sequence[Part]) -> dict[str, View]:
    """The views of a store for another one of the same episodes, in whatever order."""
    moves = []
    places = {(each.suite, each.file, each.number): each.start for each in before.episodes}
    for part in after:
        for start, length, _, source, number in part.entries(0, part.episodes)[:, :5].tolist():
            described = part.document.sources[source]
            moves.append((part.row_start + start, length, places[described.suite, described.file, number]))
    made = {}
    for name, view in before.views.items():
        runs = []
        for old in (view.covered, view.kept):
            mask = np.zeros(before.rows, bool)
            for first, stop in old.tolist():
                mask[first:stop] = True
            moved = np.zeros(before.rows, bool)
            for start, length, there in moves:
                moved[start : start + length] = mask[there : there + length]
            runs.append(runs_of(moved))
        counts = counts_of(runs[0], runs[1], after)
        made[name] = dataclasses.replace(view, covered=runs[0], kept=runs[1], counts=counts)
    return made


def translate_views(before: Store, store: str | os.PathLike[str]) -> Root:
    """Give a store of the same episodes, which has no views yet, those of `before`."""
    place = open_storage(store)

    def make(newest: Root) -> roots.NewRoot | None:
        return roots.root_with_views(newest, document_of(translated(before, roots.open_parts(place.url, newest.parts))))

    return roots.commit(place, make)


def _commit(place: Storage, make: Callable[[Root], roots.NewRoot | None], doing: str) -> tuple[Root, bool]:
    """The root that is current then, and whether there was anything to commit."""
    proposed: list[roots.NewRoot] = []

    def propose(newest: Root) -> roots.NewRoot | None:
        new = make(newest)
        if new is not None and not proposed:
            place.check_exclusive(layout.root_key(1))
        proposed.extend([new] if new else [])
        return new

    try:
        place.check_writable()
        return roots.commit(place, propose), bool(proposed)
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"{doing} {place.url}") from error


def check_sound(place: Storage, entry: PartEntry, part: Part, rule: Rule, sound: set[tuple[str, str]]) -> None:
    """Hash the numbers of a part that a rule looks at; `sound` remembers which were. Raises StoreDamaged."""
    prefixes = ["episodes/", "zarr.json", *(f"{each.array}/" for each in rule.looks_at(part.document))]
    missing = tuple(each for each in prefixes if (entry.listing, each) not in sound)
    if missing:
        roots.check_columns(place, entry, missing)
        sound.update((entry.listing, each) for each in missing)


def _facts(rule: Rule, part: Part) -> Iterator[EpisodeFacts]:
    table = part.entries(0, part.episodes)
    if rule.if_finite:
        yield from _finite_facts(rule, part, table)
        return
    described = {each.name: each for each in rule.looks_at(part.document)}
    # From a URL, a field is fetched whole: one request rather than one an episode.
    whole = {name: part.column(field).span(0, part.column(field).rows) for name, field in described.items()}
    spans = {
        name: part.ragged_spans(field, np.arange(part.episodes)) for name, field in described.items() if field.is_ragged
    }
    digests = part.digests.span(0, part.episodes)
    for number, (start, length, _, _, _, success) in enumerate(table[:, :6].tolist()):
        values = {}
        for name in described:
            if name in spans:
                base, width = int(spans[name][0][number]), int(spans[name][1][number])
                values[name] = whole[name][base : base + length * width].reshape(length, width)
            else:
                values[name] = whole[name][start : start + length]
        yield EpisodeFacts(length, success, digests[number].tobytes(), values)


def _finite_facts(rule: Rule, part: Part, table: Int64) -> Iterator[EpisodeFacts]:
    finite = {each.name: ~_nonfinite_rows(part, each) for each in rule.looks_at(part.document)}
    seen = [each.name for each in rule.looks_at(part.document) if each.role == "observation"]
    digests = part.digests.span(0, part.episodes)
    for number, (start, length, _, source, _, success) in enumerate(table[:, :6].tolist()):
        masks = {name: mask[start : start + length] for name, mask in finite.items()}
        earlier = seen if part.document.sources[source].observation == "after" else ()
        yield EpisodeFacts(length, success, digests[number].tobytes(), {}, masks, earlier)


def _nonfinite_rows(part: Part, field: Field) -> npt.NDArray[np.bool_]:
    """(rows,) of a part: whether any number of a field is not finite there. It reads them all: a part of an earlier version does not
    say where some are."""
    bad = np.zeros(part.rows, bool)
    if not field.is_floating:
        return bad
    if field.is_ragged:
        starts, widths = part.ragged_spans(field, np.arange(part.episodes))
        for (start, length), first, width in zip(part.entries(0, part.episodes)[:, :2].tolist(), starts, widths):
            values = part.column(field).span(int(first), int(first + length * width))
            bad[start : start + length] = counted(values.reshape(length, width)).any(axis=1)
        return bad
    at_once = max(1, BLOCK_NBYTES // field.step_nbytes)
    for start in range(0, part.rows, at_once):
        rows = np.arange(start, min(start + at_once, part.rows))
        values = np.empty((len(rows), *field.fixed_shape), field.dtype)
        if field.is_camera:
            episodes = part.locate_many(rows).episode.tolist()
            part.frames(field).fill(rows.tolist(), episodes, [0] * len(rows), values, list(range(len(rows))))
        else:
            part.column(field).take(rows, values)
        bad[rows] = counted(values).any(axis=1)
    return bad


def _checked(view: View, parts: Sequence[Part], allow_empty: bool) -> Iterator[str]:
    """What a user should know of a new view. Raises OptionError where it keeps nothing, or nothing of a task."""
    empty = [each for each in view.counts if not each.kept_steps]
    if not view.steps:
        raise OptionError(
            "the view would keep no step at all",
            view=view.name,
            rule=view.text,
            hint="finite:fields=NAME+NAME looks at these fields alone; `vla-store info` says which have such numbers"
            if view.rule == "finite"
            else "",
        )
    if empty and not allow_empty:
        raise OptionError(
            f"the view would leave nothing of {len(empty)} task{'s' if len(empty) > 1 else ''}",
            view=view.name,
            rule=view.text,
            tasks="\n".join(
                [f"{each.suite}/{each.task} ({each.steps:,} steps)" for each in empty[:MAX_NOTED]]
                + ([f"... and {len(empty) - MAX_NOTED} more"] if len(empty) > MAX_NOTED else [])
            ),
            hint="to have the view without them: --allow-empty (from Python: allow_empty=True)",
        )
    yield from (f"{view.name}: nothing is left of {each.suite}/{each.task}" for each in empty)
    if view.rule == "success":
        tables = [part.entries(0, part.episodes)[:, 5] for part in parts]
        unknown = sum(int((table < 0).sum()) for table in tables)
        if unknown:
            yield f"{view.name}: {unknown:,} episodes have no rewards, and are left out as if they had failed"
        constant = sum(each.kept_episodes in (0, each.episodes) for each in view.counts)
        if constant:
            yield f"{view.name}: constant in {constant} of {len(view.counts)} tasks: all of their episodes agree" + (
                "; the view leaves nothing out" if view.steps == view.covered_steps else ""
            )
    elif view.steps == view.covered_steps:
        yield f"{view.name}: leaves nothing out"


def _check_fields(rule: Rule, root: Root) -> None:
    numeric = [name for name, each in root.fields.items() if rule.if_finite or len(each.shape) < 3]
    for name in rule.fields or ():
        if name not in root.fields:
            option = {"no_noops": "field=NAME", "still_start": "fields=NAME+NAME"}.get(rule.name)
            hint = f"say which of these it is here: {rule.name}:{option}" if option else ""
            raise UnknownName.among("field", name, numeric, rule=rule.name, hint=hint)
        if name not in numeric:
            raise OptionError("a view looks at numeric fields only", field=name, rule=rule.name)


def _rows_of_each(spans: Runs, runs: Runs) -> Int64:
    found, at = overlaps(spans, runs)
    return np.bincount(at, weights=found[:, 1] - found[:, 0], minlength=len(spans)).astype(np.int64)


def _without(runs: Runs, taken: Runs) -> Runs:
    """What of these stretches lies in none of the others."""
    if not len(runs):
        return runs
    edges = np.concatenate([[runs[0, 0]], taken.reshape(-1), [max(runs[-1, 1], taken[-1, 1] if len(taken) else 0)]])
    gaps = edges.reshape(-1, 2)
    return joined(overlaps(runs, gaps[gaps[:, 0] < gaps[:, 1]])[0])


def _together(several: Sequence[Runs]) -> Runs:
    """Stretches none of which overlap, as ascending ones."""
    runs = np.concatenate(several)
    return joined(runs[np.argsort(runs[:, 0], kind="stable")])


def _says_the_same(one: View, other: View) -> bool:
    return (one.kind, one.rule, dict(one.options), one.description) == (
        other.kind,
        other.rule,
        dict(other.options),
        other.description,
    )


def _same(one: View, other: View) -> bool:
    return (
        _says_the_same(one, other)
        and np.array_equal(one.kept, other.kept)
        and np.array_equal(one.covered, other.covered)
    )


def _where(part: Part, number: int) -> Mapping[str, Any]:
    entry = part.entries(number, number + 1)[0]
    source = part.document.sources[int(entry[3])]
    return {"episode": part.episode_start + number, "file": f"{source.suite}/{source.file}", "number": int(entry[4])}
