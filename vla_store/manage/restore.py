"""Roots and the small documents that they name, made again of what the rest of the store tells of them."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from vla_store.builder.commit import skipped_document
from vla_store.builder.scan import scan_sources
from vla_store.errors import DataError, SourceError, StoreDamaged
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.schema import MAX_ROWS, Meta, PartDocument, PartEntry, Root
from vla_store.format.statistics import COUNTS
from vla_store.format.views import document_of, overlaps, views_of
from vla_store.manage import roots
from vla_store.manage.rebuild import Sources, as_recorded, recorded_sources
from vla_store.manage.views import carried
from vla_store.sources.find import find_sources
from vla_store.sources.protocol import suite_and_file
from vla_store.storage import Storage, open_storage

MAX_GUESSES = 10_000


class ViewsLost(StoreDamaged):
    """Views that nothing tells of any more."""


def newest_sound_root(place: Storage) -> Root:
    """The newest root there is, from either of its two places. Raises StoreDamaged where both are damaged: an older one in its
    place would take the store back to what it was."""
    found: list[Root] = []
    generations = [0]
    for key in [layout.ROOT_KEY, *place.keys("roots")]:
        if match := re.fullmatch(r"roots/([0-9]{8})\.json", key):
            generations.append(int(match[1]))
        data = place.get(key)
        try:
            if data is not None:
                found.append(Root.from_bytes(data, key))
        except DataError:
            continue
    newest = max(found, key=lambda root: root.generation, default=None)
    if newest is None:
        raise StoreDamaged("no root of the store can be read", store=place.url, hint="build it again")
    if max(generations) > newest.generation:
        raise StoreDamaged(
            "the newest root is damaged in both places; nothing was written",
            object=layout.root_key(max(generations)),
            store=place.url,
            hint=f"to give up what was appended since generation {newest.generation}, remove that object and repair again",
        )
    return newest


def group_bytes(place: Storage, folder: str) -> bytes:
    """What the group above a part is: the root of a store that was merged in place, or the constant."""
    if place.keys(f"{folder}/roots"):
        return newest_sound_root(open_storage(f"{place.url}/{folder}")).to_bytes()
    return roots.GROUP_BYTES


def restore_superseded(place: Storage, root: Root, key: str) -> list[str]:
    """An older root, and those lost next to it, made again of what the next one knows of them: each names the one before it."""
    generation = int(key.rpartition("/")[2].partition(".")[0])
    if _read_root(place, generation) is not None:
        return []  # restored with its neighbour
    first = last = generation
    while first > 1 and _read_root(place, first - 1) is None:
        first -= 1
    while last + 1 < root.generation and _read_root(place, last + 1) is None:
        last += 1
    after = root if last + 1 == root.generation else _read_root(place, last + 1)
    assert after is not None
    before = _read_root(place, first - 1)
    least = len(before.parts) if before else 1
    made: dict[int, Root] = {}  # by number of parts
    parent = before.digest if before else None
    # What changed with a generation is known of none that are lost: the digest that the next root names tells.
    guesses = _superseded(after, last + 1 - first, _documents(place, "skipped"), _documents(place, "views"))
    for guess in itertools.islice(guesses, MAX_GUESSES):
        if before and guess[0][0] - least not in (0, 1):
            continue
        chain: list[Root] = []
        for number, (parts, skipped, views) in enumerate(guess, first):
            if parts not in made:
                entries = after.parts[:parts]
                made[parts] = _with_its_statistics(place, entries)
            meta = replace(made[parts].meta, skipped=skipped, views=views)
            above = chain[-1].digest if chain else parent
            chain.append(replace(made[parts], generation=number, parent=above, meta=meta).sealed())
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


def _superseded(
    after: Root, count: int, told: list[str | None], viewed: list[str | None]
) -> Iterator[list[tuple[int, str | None, str | None]]]:
    """What `count` roots before `after` may have been, oldest first: how many of its parts, and their small documents.

    An append adds a part; views that are added or removed change their document alone.
    """
    if not count:
        yield []
        return
    for parts in (len(after.parts) - 1, len(after.parts)):
        is_appended = parts < len(after.parts)
        for skipped in told if is_appended else [after.meta.skipped]:
            for views in viewed:
                if parts and (is_appended or views != after.meta.views):
                    this = replace(after, parts=after.parts[:parts], meta=Meta(None, skipped, views))
                    for earlier in _superseded(this, count - 1, told, viewed):
                        yield [*earlier, (parts, skipped, views)]


def _with_its_statistics(place: Storage, entries: tuple[PartEntry, ...]) -> Root:
    """A first root over these parts. Of numbers that are not finite, earlier versions made other statistics: where those of today
    are not there, it names what is there of so many rows."""
    made = roots.root_over(roots.open_parts(place.url, entries), entries, None, None).root
    computed = made.meta.statistics
    if computed is None or place.get(layout.meta_key(computed)) is not None:
        return made
    for digest in filter(None, _documents(place, "fields")):
        with contextlib.suppress(
            DataError, ValueError, LookupError, TypeError, AttributeError
        ):  # of another sort, or damaged
            document = roots.read_document(place, digest) or {}
            each = next(iter(document["fields"].values()))["all"]
            if made.rows == sum(each[name][0] for name in COUNTS if name in each):
                return replace(made, meta=replace(made.meta, statistics=digest))
    return made


def _documents(place: Storage, name: str) -> list[str | None]:
    """Digests of the small documents of this sort that are there, and None for none."""
    mark = f'"{name}"'.encode()
    keys = [each for each in place.keys("meta") if mark in (place.get(each) or b"")]
    return [None, *(each.removeprefix("meta/").removesuffix(".json") for each in keys)]


def _read_root(place: Storage, generation: int) -> Root | None:
    key = layout.root_key(generation)
    data = place.get(key)
    try:
        return None if data is None else Root.from_bytes(data, key)
    except DataError:
        return None


def restore_meta(place: Storage, root: Root, key: str, sources: Sources) -> list[str]:
    """Statistics from the stored columns, what was left out from a new scan, views from those of other roots; for the root that
    names them."""
    for generation in range(root.generation, 0, -1):
        each = _read_root(place, generation)
        if each is None:
            continue
        if each.meta.statistics and key == layout.meta_key(each.meta.statistics):
            made = roots.root_over(roots.open_parts(place.url, each.parts), each.parts, None, None)
            if key in made.documents:
                place.write(key, made.documents[key])
                return [key]
        if each.meta.skipped and key == layout.meta_key(each.meta.skipped):
            parts = [part.document for part in roots.open_parts(place.url, each.parts)]
            for data in _skipped_documents(parts, sources):
                if sha256_hex(data) == each.meta.skipped:
                    place.write(key, data)
                    return [key]
        if each.meta.views and key == layout.meta_key(each.meta.views):
            for data in _views_documents(place, each):
                if sha256_hex(data) == each.meta.views:
                    place.write(key, data)
                    return [key]
            stored = place.get(key)
            if stored is not None and sha256_hex(stored) == each.meta.views:
                try:
                    views_of(stored, each.meta.views, each.rows)
                except StoreDamaged as error:  # they are as whoever wrote them meant them
                    raise ViewsLost(error.what, hint=error.hint, **error.places).at(store=place.url) from None
            is_current = each.meta.views == root.meta.views
            raise ViewsLost(
                "a document of views cannot be restored: what they were is written nowhere else",
                object=key,
                store=place.url,
                hint="samples that name no view are not touched. Restore the object from a copy of the store; "
                + (
                    "else `vla-store views remove STORE --all`, and add them again"
                    if is_current
                    else f"only handles and digests of generation {generation} and before still miss it"
                ),
            )
    raise StoreDamaged(
        "a document cannot be restored from this source",
        object=key,
        store=place.url,
        hint="give --from all the sources that the store was built from, also those of which nothing was kept",
    )


def _views_documents(place: Storage, root: Root) -> Iterator[bytes]:
    """What the views of a root may have been, from those of other roots: the same, all but one of them, or one alone."""
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


def _skipped_documents(parts: list[PartDocument], sources: Sources) -> Iterator[bytes]:
    """What was left out, scanned again. Files of which nothing was kept are no source of any part: each part in turn is
    taken for the one that they were given with."""
    given = find_sources(sources, skip_bad=True)
    files = [{(each["suite"], each["file"]) for each in part.plan["sources"]} for part in parts]
    odd = [each for each in given if suite_and_file(each) not in set().union(*files)]
    scans: dict[tuple[int, bool, bool], dict[str, Any] | None] = {}

    def scanned(number: int, with_odd: bool, strict: bool) -> dict[str, Any] | None:
        key = number, with_odd, strict
        if key not in scans:
            chosen = [each for each in given if suite_and_file(each) in files[number]] + (odd if with_odd else [])
            told = [
                as_recorded(each, parts[number].plan["options"], recorded_sources(parts[number].plan))
                for each in chosen
            ]
            scan = scan_sources(told, skip_bad=True, require_finite=strict) if told else None
            scans[key] = skipped_document(scan) if scan else None
        return scans[key]

    for strict in (False, True):
        for holder in range(len(parts) + 1):  # the last: for none, as where a later part brought them
            with contextlib.suppress(SourceError):  # nothing would be left
                told = [scanned(number, number == holder, strict) for number in range(len(parts))]
                yield dumps(roots.combined_skipped(told))
