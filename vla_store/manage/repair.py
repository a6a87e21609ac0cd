"""`repair_store`: rewrites exactly the objects that `verify` finds damaged or missing, from the source, and nothing else.

What a store says of itself twice is restored from itself: a root from the other copy of it, a listing from the objects, a group
from the constant. Everything else of a part is encoded again from its sources, by the plan whose digest is the part's name, and is
put in place only where its sha256 is the one that the part's listing names.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.audit import verify_store
from vla_store.builder.commit import skipped_document, write_metadata, write_part, write_tables
from vla_store.builder.encode import Receipt, make_tasks
from vla_store.builder.executors import default_workers, run_tasks
from vla_store.builder.find import find_sources
from vla_store.builder.hdf5 import Hdf5Source
from vla_store.builder.plan import Plan, make_plan
from vla_store.builder.probe import probe_cameras
from vla_store.builder.scan import scan_sources
from vla_store.builder.sources import EpisodeSource
from vla_store.errors import DataError, OptionError, SourceError, StoreDamaged, VlaStoreError, machine_error
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.codecs import PRESETS
from vla_store.format.listing import ObjectEntry, encode_listing, parse_listing
from vla_store.format.schema import MAX_ROWS, OBSERVATIONS, ORIENTATIONS, Meta, PartDocument, PartEntry, Root
from vla_store.format.views import document_of, overlaps, views_of
from vla_store.manage import roots
from vla_store.manage.place import Place, place_at, require_writable
from vla_store.manage.views import carried

MAX_GUESSES = 10_000

Sources = Sequence[str | Path | EpisodeSource]


@dataclass(frozen=True)
class RepairReport:
    """repaired: keys that were rewritten. sound: whether the store verifies now."""

    url: str
    repaired: tuple[str, ...]
    sound: bool


class _ViewsLost(StoreDamaged):
    """Views that nothing tells of any more."""


def repair_store(
    store: str | os.PathLike[str],
    sources: str | Path | EpisodeSource | Sources,
    *,
    talk: Callable[[str], None] = lambda text: None,
) -> RepairReport:
    """Repair the store at a path or URL from the sources it was built from (all of a damaged part's must be given).

    Raises StoreDamaged where an object cannot be restored: the source is not the one the store was built from.
    """
    place = place_at(store)
    if isinstance(sources, (str, Path, EpisodeSource)):
        sources = [sources]
    repaired: list[str] = []
    lost: StoreDamaged | None = None  # views, which stop nothing else
    try:
        require_writable(place)
        # Damage can hide damage: with a listing restored, its objects can be checked.
        for _ in range(4):
            report = verify_store(place.url)
            damaged = [each.object for each in report.problems if each.object and each.object not in repaired]
            if not damaged:
                break
            talk(f"{len(damaged)} objects to repair")
            done, lost = _repair(place, damaged, sources, talk)
            repaired += done
            if not done:
                break
        place.settle()
        if lost is not None:
            raise lost.at(repaired=f"{len(repaired)} other objects" if repaired else None)
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"repairing {place.url}") from error
    return RepairReport(place.url, tuple(repaired), verify_store(place.url).sound)


def _repair(
    place: Place, damaged: list[str], sources: Sources, talk: Callable[[str], None]
) -> tuple[list[str], StoreDamaged | None]:
    """Restore what can be restored now; the keys that were, and an error on views that cannot be. What depends on other objects
    comes after them."""
    root = _newest_sound_root(place)
    copies = {layout.ROOT_KEY, layout.root_key(root.generation)}
    done: list[str] = []
    for key in damaged:
        if key in copies:
            place.write(key, root.to_bytes())
            done.append(key)
        elif key.endswith("zarr.json") and key in roots.group_keys(root):
            place.write(key, _group_bytes(place, key.removesuffix("/zarr.json")))
            done.append(key)
    for entry in root.parts:
        keys = [key for key in damaged if key.startswith(f"{entry.path}/")]
        if keys:
            done += _repair_part(place, root, entry, keys, sources, talk)
    lost = None
    for key in damaged:
        if key.startswith("meta/"):
            try:
                done += _restore_meta(place, root, key, sources)
            except _ViewsLost as error:
                lost = error
    for key in sorted(damaged, reverse=True):  # the newest first: each names the one before it
        if key.startswith("roots/") and key not in copies:
            done += _restore_superseded(place, root, key)
    return done, lost


# Roots and small documents


def _newest_sound_root(place: Place) -> Root:
    """The newest root there is, from either of its two places. Raises StoreDamaged where both are damaged: an older one in its
    place would take the store back to what it was."""
    found: list[Root] = []
    generations = [0]
    for key in [layout.ROOT_KEY, *place.keys("roots")]:
        if match := re.fullmatch(r"roots/([0-9]{8})\.json", key):
            generations.append(int(match[1]))
        data = place.read(key)
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


def _group_bytes(place: Place, folder: str) -> bytes:
    """What the group above a part is: the root of a store that was merged in place, or the constant."""
    if place.keys(f"{folder}/roots"):
        return _newest_sound_root(place_at(f"{place.url}/{folder}")).to_bytes()
    return roots.GROUP_BYTES


def _restore_superseded(place: Place, root: Root, key: str) -> list[str]:
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
                made[parts] = roots.root_over(roots.open_parts(place.url, entries), entries, None, None).root
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


def _documents(place: Place, name: str) -> list[str | None]:
    """Digests of the small documents of this sort that are there, and None for none."""
    mark = f'"{name}"'.encode()
    keys = [each for each in place.keys("meta") if mark in (place.read(each) or b"")]
    return [None, *(each.removeprefix("meta/").removesuffix(".json") for each in keys)]


def _read_root(place: Place, generation: int) -> Root | None:
    key = layout.root_key(generation)
    data = place.read(key)
    try:
        return None if data is None else Root.from_bytes(data, key)
    except DataError:
        return None


def _restore_meta(place: Place, root: Root, key: str, sources: Sources) -> list[str]:
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
            stored = place.read(key)
            if stored is not None and sha256_hex(stored) == each.meta.views:
                try:
                    views_of(stored, each.meta.views, each.rows)
                except StoreDamaged as error:  # they are as whoever wrote them meant them
                    raise _ViewsLost(error.what, hint=error.hint, **error.places).at(store=place.url) from None
            is_current = each.meta.views == root.meta.views
            raise _ViewsLost(
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


def _views_documents(place: Place, root: Root) -> Iterator[bytes]:
    """What the views of a root may have been, from those of other roots: the same, all but one of them, or one alone."""
    parts = roots.open_parts(place.url, root.parts)
    below = np.array([[0, root.rows]], np.int64)
    for digest in _documents(place, "views"):
        if digest is None or digest == root.meta.views:
            continue
        try:
            found = views_of(place.read(layout.meta_key(digest)), digest, MAX_ROWS)
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
    odd = [each for each in given if _name(each) not in set().union(*files)]
    scans: dict[tuple[int, bool], dict[str, Any] | None] = {}

    def scanned(number: int, with_odd: bool) -> dict[str, Any] | None:
        if (number, with_odd) not in scans:
            chosen = [each for each in given if _name(each) in files[number]] + (odd if with_odd else [])
            told = [_told(each, parts[number].plan["options"], _recorded(parts[number].plan)) for each in chosen]
            scans[number, with_odd] = skipped_document(scan_sources(told, skip_bad=True)) if told else None
        return scans[number, with_odd]

    for holder in range(len(parts)):
        yield dumps(roots.combined_skipped([scanned(number, number == holder) for number in range(len(parts))]))


# Parts


def _repair_part(
    place: Place, root: Root, entry: PartEntry, keys: list[str], sources: Sources, talk: Callable[[str], None]
) -> list[str]:
    listing_key = f"{entry.path}/{layout.LISTING}"
    if listing_key in keys and _restore_listing(place, entry):
        return [listing_key]
    return _rebuild(place, root, entry, keys, sources, talk)


def _restore_listing(place: Place, entry: PartEntry) -> bool:
    """Hash every object of the part; if that is the listing that the root names, it is whole again."""
    found = []
    for key in place.keys(entry.path):
        is_temporary = key.endswith(".tmp")  # of a writer that was killed; no object's name
        if key != f"{entry.path}/{layout.LISTING}" and not is_temporary:
            data = b"".join(place.pieces(key))
            found.append(ObjectEntry(key[len(entry.path) + 1 :], sha256_hex(data), len(data)))
    data = encode_listing(found)
    if sha256_hex(data) != entry.listing:
        return False
    place.write(f"{entry.path}/{layout.LISTING}", data)
    return True


def _rebuild(
    place: Place, root: Root, entry: PartEntry, keys: list[str], sources: Sources, talk: Callable[[str], None]
) -> list[str]:
    """Make the objects again from the sources. Once all are what the listing says, they are put in place."""
    talk(f"reading the sources of part {entry.path.rpartition('/')[2]}")
    plan = _plan_of(place, root, entry, sources)
    relative = sorted(key[len(entry.path) + 1 :] for key in keys)
    with tempfile.TemporaryDirectory(prefix="vla_store-repair-") as folder:
        part = Path(folder)
        metadata = write_metadata(plan, part)
        tasks = make_tasks(plan, part)
        # The tables are of the plan alone; the episodes' digests are of every frame.
        needs_all = layout.LISTING in relative or any(key.startswith(f"{layout.DIGEST_ARRAY}/c/") for key in relative)
        chosen = [task for task in tasks if needs_all or any(key.startswith(task.writes) for key in relative)]
        receipts: dict[str, Receipt] = {}

        def done(receipt: Receipt) -> None:
            receipts[receipt.task] = receipt

        talk(f"encoding {len(chosen)} of {len(tasks)} tasks again")
        run_tasks(chosen, done, executor="threads", workers=default_workers())
        if needs_all:
            write_part(plan, part, metadata, receipts)
        else:
            write_tables(plan, part)
        expected = _expected(place, entry, part)
        for key in relative:
            _check_made(place, entry, part / key, key, expected)
        for key in relative:
            with place.stream(f"{entry.path}/{key}") as file, open(part / key, "rb") as source:
                shutil.copyfileobj(source, file, 8 << 20)
    return keys


def _check_made(place: Place, entry: PartEntry, made: Path, key: str, expected: dict[str, ObjectEntry]) -> None:
    full = f"{entry.path}/{key}"
    if not made.exists():
        raise StoreDamaged("an object is of no array of its part", object=full, store=place.url, hint="remove it")
    if key == layout.LISTING:
        return  # `expected` was read from it
    sha256, size = _hash(made), made.stat().st_size
    if key not in expected or (expected[key].sha256, expected[key].size) != (sha256, size):
        raise StoreDamaged(
            "an object made again is not the one that was lost; nothing was written",
            object=full,
            store=place.url,
            expected=expected[key].sha256 if key in expected else "an object of the listing",
            found=sha256,
            hint="give --from the very files that the store was built from, and the version of Blosc that the part's plan names",
        )


def _expected(place: Place, entry: PartEntry, made: Path) -> dict[str, ObjectEntry]:
    """The listing of the part that the root names: the stored one, or the one just made."""
    key = f"{entry.path}/{layout.LISTING}"
    again = made / layout.LISTING
    for data in (place.read(key), again.read_bytes() if again.exists() else None):
        if data is not None and sha256_hex(data) == entry.listing:
            return {each.key: each for each in parse_listing(data, key)}
    raise StoreDamaged(
        "the listing made again is not the one that was lost; nothing was written",
        object=key,
        store=place.url,
        hint="give --from the very files that the store was built from, and the version of Blosc that the part's plan names",
    )


def _plan_of(place: Place, root: Root, entry: PartEntry, sources: Sources) -> Plan:
    """The plan of a part, made again from its sources; its digest is the part's name. Raises OptionError."""
    part_id = entry.path.rpartition("/")[2]
    recorded = _recorded(_stored_plan(place, entry))
    decoders: set[str] = set()
    for given, options in _candidates(place, root, entry, sources):
        try:
            scan = scan_sources([_told(each, options, recorded) for each in given], skip_bad=True)
        except SourceError:
            continue  # conventions that do not fit these files
        plan = make_plan(scan, probe_cameras(scan, options["preset"]), options)
        if plan.part_id == part_id:
            return plan
        decoders |= {each.info.decoder for each in scan.sources} - {""}
    before = {each["decoder"] for each in recorded.values() if "decoder" in each}
    others = f"{', '.join(sorted(before))}; here {', '.join(sorted(decoders))} decodes, and may give other pixels"
    raise OptionError(
        "the part was not built from these sources",
        part=entry.path,
        sources=", ".join(str(getattr(each, "path", each)) for each in sources[:4]),
        **{"decoded by": others if decoders and before != decoders else None},
        hint="give --from all files that the part was built from, unchanged",
    )


def _candidates(
    place: Place, root: Root, entry: PartEntry, sources: Sources
) -> Iterator[tuple[list[EpisodeSource], dict[str, Any]]]:
    """Sources and options of a part: those that its document records; without it, what may have been given."""
    given = find_sources(sources, skip_bad=True)
    plan = _stored_plan(place, entry)
    if plan is not None:
        wanted = {(each["suite"], each["file"]) for each in plan["sources"]}
        missing = sorted(wanted - {_name(each) for each in given})
        if missing:
            raise OptionError(
                "a source of the damaged part is not among those given",
                missing="/".join(missing[0]) + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
                hint="give --from the folder of suites that the store was built from",
            )
        yield [each for each in given if _name(each) in wanted], plan["options"]
        return
    others = [_stored_plan(place, each) for each in root.parts if each != entry]
    taken = {(each["suite"], each["file"]) for other in others if other for each in other["sources"]}
    groups = [given, *(find_sources([each], skip_bad=True) for each in sources)]
    tried: list[set[tuple[str, str]]] = []
    for group in groups:
        kept = [each for each in group if _name(each) not in taken]
        names = {_name(each) for each in kept}
        if not kept or names in tried:
            continue
        tried.append(names)
        for orientation, observation in itertools.product((None, *ORIENTATIONS), (None, *OBSERVATIONS)):
            for preset in PRESETS:
                yield kept, {"observation": observation, "orientation": orientation, "preset": preset}


def _stored_plan(place: Place, entry: PartEntry) -> dict[str, Any] | None:
    """The plan that a part records, if it is whole: the part is named by its digest."""
    key = f"{entry.path}/zarr.json"
    data = place.read(key)
    try:
        plan = None if data is None else PartDocument.from_zarr_json(data, key).plan
    except VlaStoreError:
        return None
    return plan if plan is not None and sha256_hex(dumps(plan))[:16] == entry.path.rpartition("/")[2] else None


Recorded = dict[tuple[str, str], dict[str, Any]]


def _recorded(plan: dict[str, Any] | None) -> Recorded:
    """What a part's plan says of each source."""
    return {(each["suite"], each["file"]): each for each in (plan["sources"] if plan else ())}


def _told(source: EpisodeSource, options: dict[str, Any], recorded: Recorded) -> EpisodeSource:
    """A file, read by the conventions that its part was built with: its own, or where those are lost, what all were told."""
    if not isinstance(source, Hdf5Source):
        return source
    said = recorded.get((source.suite, source.file), options)
    return replace(
        source,
        orientation=said.get("orientation"),
        observation=said.get("observation"),
        said=tuple(said.get("said", ())),
    )


def _name(source: EpisodeSource) -> tuple[str, str]:
    """Suite and file of a source."""
    if isinstance(source, Hdf5Source):
        return source.suite, source.file
    info = source.scan()
    return info.suite, info.file


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
