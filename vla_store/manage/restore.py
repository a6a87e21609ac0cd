"""Roots and the small documents that they name, made again of what the rest of the store tells of them.

A root is named by its digest, and so is a document: of all that it may have been, the right one is known when it is made.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from vla_store.builder.commit import skipped_document
from vla_store.builder.scan import scan_sources
from vla_store.errors import DataError, SourceError, StoreDamaged
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.needed import GROUP_BYTES
from vla_store.format.schema import MAX_ROWS, Meta, Root
from vla_store.format.views import document_of, overlaps, views_of
from vla_store.manage import combining, roots
from vla_store.manage.rebuild import Sources, as_recorded, recorded_sources
from vla_store.manage.views import carried
from vla_store.sources.find import find_sources
from vla_store.sources.protocol import suite_and_file
from vla_store.storage import Storage, open_storage

MAX_GUESSES = 10_000


class ViewsLost(StoreDamaged):
    """Views that nothing tells of any more."""


def newest_sound_root(place: Storage) -> Root:
    """Return the newest root there is, from either of its two places.

    Parameters
    ----------
    place
        Where the store lies.

    Returns
    -------
    Root
        The newest one.

    Raises
    ------
    StoreDamaged
        The newest root is damaged in both places: an older one in its place would take the store back to what it was.
        Or no root can be read.
    """
    generations = layout.generations_in(place.keys("roots"))
    keys = [layout.ROOT_KEY, *map(layout.root_key, generations)]
    newest = max(
        filter(None, (roots.sound_root(place, key) for key in keys)), key=lambda root: root.generation, default=None
    )
    if newest is None:
        raise StoreDamaged("no root of the store can be read", store=place.url, hint="build it again")
    if generations and generations[-1] > newest.generation:
        raise StoreDamaged(
            "the newest root is damaged in both places; nothing was written",
            object=keys[-1],
            store=place.url,
            hint=f"to give up what was appended since generation {newest.generation}, remove that object and repair again",
        )
    return newest


def group_bytes(place: Storage, folder: str) -> bytes:
    """Return the group above a part: the root of a store that was merged in place, or the constant.

    Parameters
    ----------
    place
        Where the store lies.
    folder
        Folder of the group, below the store.

    Returns
    -------
    bytes
        Content of its zarr.json.

    Raises
    ------
    StoreDamaged
        The root of the store that was merged cannot be read.
    """
    if place.keys(f"{folder}/roots"):
        return newest_sound_root(open_storage(f"{place.url}/{folder}")).to_bytes()
    return GROUP_BYTES


def restore_superseded(place: Storage, root: Root, key: str) -> list[str]:
    """Make an older root again, and those lost next to it, of what the roots around them know.

    Parameters
    ----------
    place, root
        Where the store lies, and its newest root.
    key
        Key of the older root.

    Returns
    -------
    list of str
        Keys of the roots that were written; empty where this one is there already.

    Raises
    ------
    StoreDamaged
        The root cannot be restored.
    """
    generation = int(key.rpartition("/")[2].partition(".")[0])
    sound = {root.generation: root}
    sound |= {
        each: found for each in range(1, root.generation) if (found := roots.sound_root(place, layout.root_key(each)))
    }
    if generation in sound:
        return []  # restored with its neighbour
    before = sound.get(max((each for each in sound if each < generation), default=0))
    after = sound[min(each for each in sound if each > generation)]
    for chain in itertools.islice(_chains(place, before, after), MAX_GUESSES):
        if chain[-1].digest == after.parent:
            for each in chain:
                place.write(layout.root_key(each.generation), each.to_bytes())
            return [layout.root_key(each.generation) for each in chain]
    raise StoreDamaged(
        "a superseded root cannot be restored",
        object=key,
        store=place.url,
        hint="it is needed only by handles and digests of that generation; the store itself is whole without it",
    )


def _chains(place: Storage, before: Root | None, after: Root) -> Iterator[list[Root]]:
    """Give all that the roots between two may have been, oldest first.

    An append adds a part, and documents; views that are added or removed change theirs alone. Which it was is written nowhere:
    the digest that `after` names tells, because each root holds the digest of the one before it.
    """
    skipped, viewed = _documents(place, "skipped"), _documents(place, "views")

    @functools.cache
    def first_over(parts: int) -> Root:
        entries = after.parts[:parts]
        return combining.root_over(roots.open_parts(place.url, entries), entries, None, None).root

    def statistics_over(parts: int) -> list[str | None]:
        """Those of today's rule; where these are not there, an earlier rule made what is."""
        made = first_over(parts).meta.statistics
        return (
            [made] if made is None or place.get(layout.meta_key(made)) is not None else _documents(place, "fields")[1:]
        )

    def next_roots(last: Root | None, generation: int) -> Iterator[Root]:
        had, meta, parent = (len(last.parts), last.meta, last.digest) if last else (0, None, None)
        least = len(after.parts) - (after.generation - generation)  # each of those that follow adds one part at most
        most = had + 1 if last else len(after.parts)
        for parts in range(max(had, 1, least), min(most, len(after.parts)) + 1):
            others = [[meta.statistics], [meta.skipped]] if meta and parts == had else [statistics_over(parts), skipped]
            for found in itertools.starmap(Meta, itertools.product(*others, viewed)):
                if found != meta or parts > had:
                    yield replace(first_over(parts), generation=generation, parent=parent, meta=found).sealed()

    def chains(last: Root | None, generation: int) -> Iterator[list[Root]]:
        if generation == after.generation:
            yield []
            return
        for each in next_roots(last, generation):
            yield from ([each, *rest] for rest in chains(each, generation + 1))

    return chains(before, before.generation + 1 if before else 1)


def _documents(place: Storage, name: str) -> list[str | None]:
    """Digests of the small documents of this sort that are there, and None for none."""
    mark = f'"{name}"'.encode()
    keys = [each for each in place.keys("meta") if mark in (place.get(each) or b"")]
    return [None, *(each.removeprefix("meta/").removesuffix(".json") for each in keys)]


def restore_meta(place: Storage, root: Root, key: str, sources: Sources) -> list[str]:
    """Make a small document again, for the newest root that names it.

    Statistics are made from the stored columns, what was left out from a new scan, views from those of other roots.

    Parameters
    ----------
    place, root
        Where the store lies, and its newest root.
    key
        Key of the document.
    sources
        What the store was built from.

    Returns
    -------
    list of str
        The key.

    Raises
    ------
    ViewsLost
        The document is of views, and nothing tells of them any more.
    StoreDamaged
        The document cannot be restored from these sources.
    """
    for generation in range(root.generation, 0, -1):
        each = roots.sound_root(place, layout.root_key(generation))
        named = {layout.meta_key(digest): name for name, digest in vars(each.meta).items() if digest} if each else {}
        if each and key in named:
            for data in _DOCUMENTS[named[key]](place, each, sources):
                if layout.meta_key(sha256_hex(data)) == key:
                    place.write(key, data)
                    return [key]
            if named[key] == "views":
                raise _views_lost(place, each, key, is_current=each.meta.views == root.meta.views)
    raise StoreDamaged(
        "a document cannot be restored from this source",
        object=key,
        store=place.url,
        hint="give --from all the sources that the store was built from, also those of which nothing was kept",
    )


def _views_lost(place: Storage, root: Root, key: str, *, is_current: bool) -> ViewsLost:
    stored = place.get(key)
    if stored is not None and sha256_hex(stored) == root.meta.views:
        try:
            views_of(stored, root.meta.views, root.rows)
        except StoreDamaged as error:  # they are as whoever wrote them meant them
            return ViewsLost(error.what, hint=error.hint, **{"store": place.url} | error.places)
    return ViewsLost(
        "a document of views cannot be restored: what they were is written nowhere else",
        object=key,
        store=place.url,
        hint="samples that name no view are not touched. Restore the object from a copy of the store; "
        + (
            "else `vla-store views remove STORE --all`, and add them again"
            if is_current
            else f"only handles and digests of generation {root.generation} and before still miss it"
        ),
    )


def _statistics_documents(place: Storage, root: Root, sources: Sources) -> Iterator[bytes]:
    yield from combining.root_over(roots.open_parts(place.url, root.parts), root.parts, None, None).documents.values()


def _views_documents(place: Storage, root: Root, sources: Sources) -> Iterator[bytes]:
    """Give the documents of views that a root may have had: those of other roots whole, but for one, or one of them alone."""
    parts = roots.open_parts(place.url, root.parts)
    below = np.array([[0, root.rows]], np.int64)
    for digest in _documents(place, "views"):
        if digest is None or digest == root.meta.views:
            continue
        try:
            found = views_of(place.get(layout.meta_key(digest)), digest, MAX_ROWS)
        except DataError:
            continue
        views = {
            name: replace(each, covered=overlaps(below, each.covered)[0], kept=overlaps(below, each.kept)[0])
            for name, each in found.items()
        }
        carried_on, _ = carried(views, parts)
        for size in dict.fromkeys((len(views), len(views) - 1, 1)):
            for chosen in itertools.combinations(carried_on, size):
                if chosen:
                    yield dumps(document_of({name: carried_on[name] for name in chosen}))


def _skipped_documents(place: Storage, root: Root, sources: Sources) -> Iterator[bytes]:
    """Give the documents of what was left out, by scanning again. Files of which nothing was kept are no source of any part: each part in turn is
    taken for the one that they were given with."""
    plans = [part.document.plan for part in roots.open_parts(place.url, root.parts)]
    given = find_sources(sources, skip_bad=True)
    files = [{(each["suite"], each["file"]) for each in plan["sources"]} for plan in plans]
    odd = [each for each in given if suite_and_file(each) not in set().union(*files)]

    @functools.cache
    def scanned(number: int, with_odd: bool, strict: bool) -> dict[str, Any] | None:
        plan = plans[number]
        chosen = [each for each in given if suite_and_file(each) in files[number]] + (odd if with_odd else [])
        told = [as_recorded(each, plan["options"], recorded_sources(plan)) for each in chosen]
        return skipped_document(scan_sources(told, skip_bad=True, require_finite=strict)) if told else None

    for strict in (False, True):
        for holder in range(len(plans) + 1):  # the last: for none, as where a later part brought them
            with contextlib.suppress(SourceError):  # nothing would be left
                told = [scanned(number, number == holder, strict) for number in range(len(plans))]
                yield dumps(combining.combined_skipped(told))


# By what a root calls each document, all that it may have been.
_DOCUMENTS: dict[str, Callable[[Storage, Root, Sources], Iterator[bytes]]] = {
    "statistics": _statistics_documents,
    "skipped": _skipped_documents,
    "views": _views_documents,
}
