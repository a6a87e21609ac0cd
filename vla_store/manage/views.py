"""Adding and removing views: a new root with another small document, by exclusive creation; no array is touched.

A view by a known rule is computed again for what a store grows by, in the commit that adds it. A predicate cannot be: it covers
the steps that were there when it was made, and says so. Imports `view_steps`, `reader`, `storage` and `manage.roots`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import OptionError, StoreDamaged, UnknownName, VlaStoreError, machine_errors, several
from vla_store.format import layout
from vla_store.format.new_root import NewRoot, root_with_views
from vla_store.format.schema import PartEntry, Root
from vla_store.format.views import (
    Runs,
    View,
    Views,
    document_of,
    mask_of,
    runs_of,
    united,
    views_of,
    without,
)
from vla_store.manage import roots
from vla_store.manage.result import ChangedStore
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.reader.part import Part
from vla_store.reader.store import Store
from vla_store.reader.whole import WholePart
from vla_store.storage import Storage, open_storage
from vla_store.text import Report, counted
from vla_store.view_rules import NewView, Rule, rule_of
from vla_store.view_steps import computed_view, counts_of, kept_in

MAX_NOTED = 5


@dataclass(frozen=True, repr=False)
class ViewsReport(Report):
    """Result of adding views.

    Attributes
    ----------
    root
        The root that is current now.
    views
        The views that were added.
    notes
        What a user should know of them, one line each.
    changed
        False where nothing was written, because the store was so already.
    """

    root: Root
    views: tuple[View, ...]
    notes: tuple[str, ...] = ()
    changed: bool = True

    def text(self) -> str:
        """Return the views for people, a line each."""
        return "\n".join(map(repr, self.views))

    def to_json(self) -> dict[str, Any]:
        """Return it for programs: values that JSON can hold."""
        return {
            "changed": self.changed,
            "digest": self.root.digest,
            "notes": list(self.notes),
            "views": {each.name: each.to_json() for each in self.views},
        }

    def told(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield what the command says on stderr."""
        yield "note", self.notes
        yield "note", [] if self.changed else ["the store has these views already; nothing was added"]


@dataclass(frozen=True, repr=False)
class ViewsRemoved(ChangedStore):
    """Result of removing views.

    Attributes
    ----------
    views
        The views that were removed; none for `names=None`, which does not read them.
    changed
        False where nothing was written, because there were none.
    removed
        Names of the views that were removed; "all" for `names=None`.
    """

    views: tuple[View, ...]
    changed: bool
    removed: tuple[str, ...]

    def told(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield what the command says on stderr."""
        yield "note", [] if self.changed else ["the store has no views"]

    def more(self) -> dict[str, Any]:
        """Return the names that were removed."""
        return {"removed": list(self.removed)}


def add_view(
    store: str | os.PathLike[str], name: str, rule: Rule, *, kind: str | None = None, allow_empty: bool = False
) -> View:
    """Record a view of all that a store holds now. To add the same view again is no error.

    Parameters
    ----------
    store
        A path, or a URL that can be written and can create an object exclusively.
    name
        1 to 64 of A-Z a-z 0-9 _ - and dots, no dot in front.
    rule
        One of `vla_store.view_rules`.
    kind
        "anchors" (which steps may be sampled) or "steps" (which steps exist); default the rule's usual one.
    allow_empty
        Add the view also where nothing is left of a task.

    Returns
    -------
    View
        The view as it was recorded.

    Raises
    ------
    OptionError
        The name cannot be a view's name, or another view has it. The rule fails, or keeps no step at all, or nothing of
        a task. The storage cannot be written, or cannot create an object exclusively.
    UnknownName
        There is no such field or kind.
    StoreNotFound, StoreDamaged
        There is no store, or what the view is computed from is damaged.
    MachineError, FetchError
        A disk or a storage fails.
    """
    return add_views(store, [NewView(name, rule, kind)], allow_empty=allow_empty).views[0]


@takes_progress
def add_views(
    store: str | os.PathLike[str],
    wanted: NewView | Sequence[NewView],
    *,
    allow_empty: bool = False,
    progress: Shown = None,
) -> ViewsReport:
    """Record several views at once, in one root; otherwise as `add_view`.

    Parameters
    ----------
    store
        A path, or a URL that can be written and can create an object exclusively.
    wanted
        The views to add; at least one, with different names.
    allow_empty
        Add views also where nothing is left of a task.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    ViewsReport
        The views as they were recorded.

    Raises
    ------
    OptionError, UnknownName, StoreNotFound, StoreDamaged, MachineError, FetchError
        As `add_view` raises them; none of the views is added then.
    """
    wanted = several(wanted)
    talk = told_to(progress).talk
    if not wanted:
        raise OptionError("no view to add")
    names = [each.name for each in wanted]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError("two views have the same name", name=twice[0], hint="as in length:shortest=128,name=long")
    place = open_storage(store)
    made: dict[str, View] = {}
    notes: list[str] = []

    @functools.cache
    def check_sound(entry: PartEntry, prefix: str) -> None:
        roots.check_columns(place, entry, (prefix,))

    def add(newest: Root) -> Views | None:
        made.clear()
        notes.clear()
        before = views_in(place, newest)
        parts = [WholePart(part) for part in roots.open_parts(place.url, newest.parts)]
        for each in wanted:
            _check_fields(each.rule, newest)
            for whole, entry in zip(parts, newest.parts):
                for prefix in ("episodes/", "zarr.json", *(f"{x.array}/" for x in each.rule.looks_at(whole.document))):
                    check_sound(entry, prefix)
            talk(f"computing view {each.name}")
            view = made[each.name] = computed_view(each, parts)
            there = before.get(each.name)
            if there is None:
                notes.extend(_checked(view, parts, allow_empty))
            elif there.to_json() != view.to_json():
                raise OptionError(
                    "a view of this name is there already",
                    view=each.name,
                    there=f"{there.text}: {there.steps:,} of {counted(there.covered_steps, 'step')}",
                    wanted=f"{view.text}: {view.steps:,} of {counted(view.covered_steps, 'step')}",
                    hint=f"give it another name, or first: vla-store views remove STORE {each.name}",
                )
        return {**before, **made} if made.keys() - before.keys() else None

    root, changed = _commit(place, add, "adding views to")
    return ViewsReport(root, tuple(made.values()), tuple(notes), changed)


def remove_views(store: str | os.PathLike[str], names: str | View | Iterable[str | View] | None) -> ViewsRemoved:
    """Record that views are no more. Older roots keep theirs.

    Parameters
    ----------
    store
        A path, or a URL that can be written and can create an object exclusively.
    names
        One name or several, or views of `store.views`; None for all views, even where they cannot be read.

    Returns
    -------
    ViewsRemoved

    Raises
    ------
    UnknownName
        There is no view of such a name.
    OptionError
        No name is given, or the storage cannot create an object exclusively.
    StoreNotFound, StoreDamaged
        There is no store, or its views are damaged.
    MachineError, FetchError
        A disk or a storage fails.
    """
    place = open_storage(store)
    wanted = None if names is None else [getattr(each, "name", each) for each in several(names)]
    if wanted == []:
        raise OptionError("no view to remove")
    gone: dict[str, View] = {}

    def remove(newest: Root) -> Views | None:
        gone.clear()
        if wanted is None:
            return {} if newest.meta.views is not None else None
        views = views_in(place, newest)
        for name in wanted:
            if name not in views:
                raise UnknownName.among("view", name, list(views), store=place.url)
            gone[name] = views[name]
        return {name: view for name, view in views.items() if name not in gone}

    root, changed = _commit(place, remove, "removing views from")
    removed = tuple(gone) if wanted is not None else ("all",) if changed else ()
    return ViewsRemoved(root, place.url, tuple(gone.values()), changed, removed)


def translate_views(before: Store, store: str | os.PathLike[str]) -> Root:
    """Give a store of the same episodes, which has no views yet, those of another store.

    Parameters
    ----------
    before
        The store that has the views.
    store
        Path or URL of the other store; its episodes may be in another order.

    Returns
    -------
    Root
        The current root of the other store.

    Raises
    ------
    StoreNotFound, OptionError, StoreDamaged, MachineError, FetchError
        As `add_views` raises them.
    """
    place = open_storage(store)
    doing = "giving views to"
    return _commit(place, lambda root: _translated(before, roots.open_parts(place.url, root.parts)), doing)[0]


def _commit(place: Storage, change: Callable[[Root], Views | None], doing: str) -> tuple[Root, bool]:
    """Commit the views that `change` gives for the newest root; return the current root, and whether anything changed.

    change: gives None where there is nothing to change.
    """
    changed = False

    def make(newest: Root) -> NewRoot | None:
        nonlocal changed
        views = change(newest)
        if views is None:
            return None
        if not changed:
            place.check_exclusive(layout.root_key(1))
        changed = True
        return root_with_views(newest, document_of(views))

    with machine_errors(f"{doing} {place.url}"):
        place.check_writable()
        return roots.commit(place, make), changed


def views_in(place: Storage, root: Root) -> dict[str, View]:
    """Return the views of a root.

    Parameters
    ----------
    place
        Where the store lies.
    root
        Its root.

    Returns
    -------
    dict of str to View
        By name; empty where the root names none.

    Raises
    ------
    StoreDamaged
        The document of the views is missing, changed, or not as the format says.
    """
    if root.meta.views is None:
        return {}
    try:
        return views_of(place.get(layout.meta_key(root.meta.views)), root.meta.views, root.rows)
    except StoreDamaged as error:
        raise error.at(store=place.url) from None


def carried(views: Views, parts: Sequence[Part]) -> tuple[dict[str, View], list[str]]:
    """Return the views of a store that may have grown, and a line on each that could not follow.

    Known rules are computed where a view does not cover episodes; what else a view covers stays. Rows keep their
    numbers.

    Parameters
    ----------
    views
        The views as they were.
    parts
        All parts of the store as it is now, in order.

    Returns
    -------
    views : dict of str to View
        By name.
    notes : list of str
        One line for each view that does not cover all steps, and for each new task of which a view keeps nothing.
    """
    made: dict[str, View] = {}
    notes: list[str] = []
    whole = [WholePart(part) for part in parts]
    rows = sum(part.rows for part in parts)
    for name, view in views.items():
        rule = rule_of(view)
        covered, kept, has_failed = [view.covered], [view.kept], False
        for each in whole:
            if rule is None:
                break
            here = np.array([[each.part.row_start, each.part.row_start + each.part.rows]], np.int64)
            missing = without(here, view.covered)
            try:
                kept.append(kept_in(rule, each, missing))
                covered.append(missing)
            except VlaStoreError as error:
                notes.append(f"view {name!r} could not be computed for all that is new: {error.what}")
                has_failed = True
        carried_on = _with_rows(view, whole, united(covered), united(kept))
        if carried_on.covered_steps < rows and not has_failed:
            notes.append(
                f"view {name!r} cannot be computed again: it covers {carried_on.covered_steps:,} of {counted(rows, 'step')}, and not the new"
            )
        before = {(each.suite, each.task) for each in view.counts}
        notes += [
            f"view {name!r} keeps nothing of {each.suite}/{each.task}"
            for each in carried_on.counts
            if not each.kept_steps and (each.suite, each.task) not in before
        ]
        made[name] = carried_on
    return made, notes


def merged(stores: Sequence[tuple[str, Views, int]]) -> dict[str, View]:
    """Return the views of a store that several are merged to, before `carried` makes known rules cover all of it.

    Parameters
    ----------
    stores
        Name, views and number of rows of each store, in the order of the parts.

    Returns
    -------
    dict of str to View
        By name, in the order of the names; rows are those of the merged store. `counts` are still those of one store.

    Raises
    ------
    OptionError
        Views of one name do not say the same.
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
            if not other.is_made_as(view):
                raise OptionError(
                    f"two stores call different views {name!r}",
                    first=f"{told[name]}: {other.text}",
                    second=f"{url}: {view.text}",
                    hint="add one of them under another name (views add), and remove it (views remove), then merge",
                )
            covered, kept = ([getattr(each, side) for each in (other, moved)] for side in ("covered", "kept"))
            together[name] = dataclasses.replace(other, covered=united(covered), kept=united(kept))
        start += rows
    return dict(sorted(together.items()))


def _translated(before: Store, after: Sequence[Part]) -> dict[str, View]:
    """Return the views of a store for another one of the same episodes, in whatever order."""
    first_rows = {(each.suite, each.file, each.number): each.start for each in before.episodes}
    rows = np.zeros(before.rows, np.int64)  # of each row of the new store, its row in the old one
    whole = [WholePart(part) for part in after]
    for each in whole:
        for (start, stop), source, number in zip(
            each.spans + each.part.row_start, each.column("source"), each.column("number")
        ):
            described = each.document.sources[source]
            rows[start:stop] = np.arange(stop - start) + first_rows[described.suite, described.file, int(number)]
    return {
        name: _with_rows(
            view, whole, *(runs_of(mask_of(runs, before.rows)[rows]) for runs in (view.covered, view.kept))
        )
        for name, view in before.views.items()
    }


def _with_rows(view: View, parts: Sequence[WholePart], covered: Runs, kept: Runs) -> View:
    return dataclasses.replace(view, covered=covered, kept=kept, counts=counts_of(covered, kept, parts))


def _checked(view: View, parts: Sequence[WholePart], allow_empty: bool) -> Iterator[str]:
    """Yield what a user should know of a new view. Raises OptionError where it keeps nothing, or nothing of a task."""
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
                [f"{each.suite}/{each.task} ({counted(each.steps, 'step')})" for each in empty[:MAX_NOTED]]
                + ([f"... and {len(empty) - MAX_NOTED} more"] if len(empty) > MAX_NOTED else [])
            ),
            hint="to have the view without them: --allow-empty (from Python: allow_empty=True)",
        )
    yield from (f"{view.name}: nothing is left of {each.suite}/{each.task}" for each in empty)
    if view.rule == "success":
        unknown = sum(int((whole.column("success") < 0).sum()) for whole in parts)
        if unknown:
            yield f"{view.name}: without rewards, and so left out as if failed: {counted(unknown, 'episode')}"
        constant = sum(each.kept_episodes in (0, each.episodes) for each in view.counts)
        if constant:
            yield (
                f"{view.name}: constant in {constant} of {counted(len(view.counts), 'task')}: all of their episodes agree"
                + ("; the view leaves nothing out" if view.steps == view.covered_steps else "")
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
