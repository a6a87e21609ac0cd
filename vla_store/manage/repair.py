"""`repair_store`: rewrites exactly the objects that `verify` finds damaged or missing, from the source, and nothing else.

What a store says of itself twice is restored from itself: a root from the other copy of it, a listing from the objects, a group
from the constant. Everything else of a part is encoded again from its sources, by the plan whose digest is the part's name, and is
put in place only where its sha256 is the one that the part's listing names.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_store.audit import verify_store
from vla_store.builder.commit import skipped_document, write_metadata, write_part
from vla_store.builder.encode import make_tasks
from vla_store.builder.executors import default_workers, run_tasks
from vla_store.builder.libero import LiberoFile
from vla_store.builder.plan import Plan, make_plan
from vla_store.builder.probe import probe_cameras
from vla_store.builder.scan import find_sources, scan_sources
from vla_store.builder.sources import EpisodeSource
from vla_store.errors import DataError, OptionError, StoreDamaged, VlaStoreError, machine_error
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.codecs import PRESETS
from vla_store.format.listing import ObjectEntry, encode_listing, parse_listing
from vla_store.format.schema import PartDocument, PartEntry, Root
from vla_store.manage import roots
from vla_store.manage.place import Place, place_at
from vla_store.manage.transfer import is_whole

Sources = Sequence[str | Path | EpisodeSource]


@dataclass(frozen=True)
class RepairReport:
    """repaired: keys that were rewritten. sound: whether the store verifies now."""

    url: str
    repaired: tuple[str, ...]
    sound: bool


def repair_store(
    store: str | os.PathLike[str], sources: Sources, *, talk: Callable[[str], None] = lambda text: None
) -> RepairReport:
    """Repair the store at a path or URL from the sources it was built from (all of a damaged part's must be given).

    Raises StoreDamaged where an object cannot be restored: the source is not the one the store was built from.
    """
    place = place_at(store)
    repaired: list[str] = []
    try:
        # Damage can hide damage: with a listing restored, its objects can be checked.
        for _ in range(4):
            report = verify_store(place.url)
            damaged = [each.object for each in report.problems if each.object and each.object not in repaired]
            if not damaged:
                break
            talk(f"{len(damaged)} objects to repair")
            repaired += _repair(place, damaged, sources, talk)
        place.settle()
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"repairing {place.url}") from error
    return RepairReport(place.url, tuple(repaired), verify_store(place.url).sound)


def _repair(place: Place, damaged: list[str], sources: Sources, talk: Callable[[str], None]) -> Iterable[str]:
    """Restore what can be restored now; the keys that were."""
    done: list[str] = []
    root = _sound_root(place)
    if root is None:
        raise StoreDamaged("no root of the store can be read", store=place.url, hint="build it again")
    for key in damaged:
        if key == layout.ROOT_KEY or key.startswith("roots/"):
            done += _restore_root(place, root, key)
        elif key.endswith("/zarr.json") and _part_of(root, key) is None:
            place.write(key, roots.GROUP_BYTES)
            done.append(key)
    for entry in root.parts:
        keys = [key for key in damaged if key.startswith(f"{entry.path}/")]
        if keys:
            done += _repair_part(place, entry, keys, sources, talk)
    for key in damaged:
        if key.startswith("meta/"):
            done += _restore_meta(place, root, key, sources)
    return done


# Roots and small documents


def _sound_root(place: Place) -> Root | None:
    """The newest root that can be read, from either of its two places."""
    found: list[Root] = []
    for key in [layout.ROOT_KEY, *place.keys("roots")]:
        data = place.read(key)
        try:
            if data is not None:
                found.append(Root.from_bytes(data, key))
        except DataError:
            continue
    return max(found, key=lambda root: root.generation, default=None)


def _restore_root(place: Place, root: Root, key: str) -> list[str]:
    """zarr.json from the newest root; a root from zarr.json, from the next one's knowledge of it, or made again."""
    if key in (layout.ROOT_KEY, layout.root_key(root.generation)):
        place.write(key, root.to_bytes())
        return [key]
    generation = int(key.rpartition("/")[2].partition(".")[0])
    after = _read_root(place, generation + 1) or (root if root.generation == generation + 1 else None)
    before = _read_root(place, generation - 1) if generation > 1 else None
    if after is None or (generation > 1 and before is None):
        raise StoreDamaged("a superseded root cannot be restored", object=key, store=place.url)
    entries = after.parts[:-1]  # an append adds one part
    told = [after.meta.skipped, None, before.meta.skipped if before else None]
    for skipped in told:
        made = roots.root_over(
            roots.open_parts(place.url, entries), entries, before, roots.read_document(place, skipped)
        )
        if made.root.digest == after.parent:
            place.write(key, made.root.to_bytes())
            return [key]
    raise StoreDamaged("a superseded root cannot be restored", object=key, store=place.url)


def _read_root(place: Place, generation: int) -> Root | None:
    key = layout.root_key(generation)
    data = place.read(key)
    try:
        return None if data is None else Root.from_bytes(data, key)
    except DataError:
        return None


def _restore_meta(place: Place, root: Root, key: str, sources: Sources) -> list[str]:
    """Statistics from the stored columns, what was left out from a new scan; for the root that names them."""
    for generation in range(root.generation, 0, -1):
        each = _read_root(place, generation)
        if each is None:
            continue
        if each.meta.statistics and key == layout.meta_key(each.meta.statistics):
            parts = roots.open_parts(place.url, each.parts)
            made = roots.root_over(parts, each.parts, None, None)
            if key in made.documents:
                place.write(key, made.documents[key])
                return [key]
        if each.meta.skipped and key == layout.meta_key(each.meta.skipped):
            documents = [_scan_document(part.document, sources) for part in roots.open_parts(place.url, each.parts)]
            data = dumps(roots.combined_skipped(documents))
            if sha256_hex(data) == each.meta.skipped:
                place.write(key, data)
                return [key]
    raise StoreDamaged("a document cannot be restored from this source", object=key, store=place.url)


def _scan_document(document: PartDocument, sources: Sources) -> dict[str, Any] | None:
    return skipped_document(scan_sources(_sources_of(document, sources), skip_bad=True))


# Parts


def _part_of(root: Root, key: str) -> PartEntry | None:
    return next((entry for entry in root.parts if key.startswith(f"{entry.path}/")), None)


def _repair_part(
    place: Place, entry: PartEntry, keys: list[str], sources: Sources, talk: Callable[[str], None]
) -> list[str]:
    listing_key = f"{entry.path}/{layout.LISTING}"
    if listing_key in keys:
        return [listing_key] if _restore_listing(place, entry) else _rebuild(place, entry, keys, sources, talk)
    return _rebuild(place, entry, keys, sources, talk)


def _restore_listing(place: Place, entry: PartEntry) -> bool:
    """Hash every object of the part; if that is the listing that the root names, it is whole again."""
    found = []
    for key in place.keys(entry.path):
        if key != f"{entry.path}/{layout.LISTING}":
            data = b"".join(place.pieces(key))
            found.append(ObjectEntry(key[len(entry.path) + 1 :], sha256_hex(data), len(data)))
    data = encode_listing(found)
    if sha256_hex(data) != entry.listing:
        return False
    place.write(f"{entry.path}/{layout.LISTING}", data)
    return True


def _rebuild(
    place: Place, entry: PartEntry, keys: list[str], sources: Sources, talk: Callable[[str], None]
) -> list[str]:
    """Make the objects again from the sources, and put those in place that are what the listing says."""
    talk(f"reading the sources of part {entry.path.rpartition('/')[2]}")
    plan = _plan_of(place, entry, sources)
    with tempfile.TemporaryDirectory(prefix="vla_store-repair-") as folder:
        part = Path(folder)
        relative = {key[len(entry.path) + 1 :] for key in keys}
        metadata = write_metadata(plan, part)
        tasks = make_tasks(plan, part)
        needs_all = layout.LISTING in relative or any(
            key.startswith((layout.DIGEST_ARRAY, layout.INDEX_ARRAY, layout.TABLE_ARRAY))
            and not key.endswith("zarr.json")
            for key in relative
        )
        chosen = (
            tasks if needs_all else [task for task in tasks if any(key.startswith(task.writes) for key in relative)]
        )
        receipts = {}

        def done(receipt: Any) -> None:
            receipts[receipt.task] = receipt

        talk(f"encoding {len(chosen)} of {len(tasks)} tasks again")
        run_tasks(chosen, done, executor="threads", workers=default_workers())
        if needs_all:
            write_part(plan, part, metadata, receipts)
        expected = _expected(place, entry, part if needs_all else None)
        for key in sorted(relative):
            _put(place, entry, part / key, key, expected)
    return keys


def _put(place: Place, entry: PartEntry, made: Path, key: str, expected: dict[str, ObjectEntry]) -> None:
    full = f"{entry.path}/{key}"
    if not made.exists():
        raise StoreDamaged("an object is of no array of its part", object=full, store=place.url, hint="remove it")
    data_sha256, size = _hash(made), made.stat().st_size
    if key != layout.LISTING and (
        key not in expected or (expected[key].sha256, expected[key].size) != (data_sha256, size)
    ):
        raise StoreDamaged(
            "an object made again is not the one that was lost; nothing was written",
            object=full,
            store=place.url,
            expected=expected[key].sha256 if key in expected else "an object of the listing",
            found=data_sha256,
            hint="give --from the very files that the store was built from, and the version of Blosc that the part's plan names",
        )
    with place.stream(full) as file, open(made, "rb") as source:
        shutil.copyfileobj(source, file, 8 << 20)


def _expected(place: Place, entry: PartEntry, made: Path | None) -> dict[str, ObjectEntry]:
    """The listing of the part: the stored one, or the one just made if that is the one the root names."""
    key = f"{entry.path}/{layout.LISTING}"
    data = place.read(key)
    if (data is None or sha256_hex(data) != entry.listing) and made is not None:
        data = (made / layout.LISTING).read_bytes()
    if data is None or sha256_hex(data) != entry.listing:
        raise StoreDamaged("the listing cannot be made again from this source", object=key, store=place.url)
    return {each.key: each for each in parse_listing(data, key)}


def _plan_of(place: Place, entry: PartEntry, sources: Sources) -> Plan:
    """The plan of a part, made again from its sources; its digest is the part's name. Raises OptionError."""
    document = _document_of(place, entry)
    part_id = entry.path.rpartition("/")[2]
    if document is not None:
        given = _sources_of(document, sources)
        options = [document.plan.get("options", {})]
    else:
        given = find_sources(sources, skip_bad=True)
        options = [{"observation": None, "orientation": None, "preset": preset} for preset in PRESETS]
    scan = scan_sources(given, skip_bad=True)
    for each in options:
        plan = make_plan(scan, probe_cameras(scan, each["preset"]), each)
        if plan.part_id == part_id:
            return plan
    raise OptionError(
        "the part was not built from these sources",
        part=entry.path,
        sources=", ".join(str(getattr(each, "path", each)) for each in given[:4]),
        hint="give --from all files that the part was built from, unchanged",
    )


def _document_of(place: Place, entry: PartEntry) -> PartDocument | None:
    key = f"{entry.path}/zarr.json"
    listing = place.read(f"{entry.path}/{layout.LISTING}")
    data = place.read(key)
    if data is None or listing is None:
        return None
    try:
        objects = {each.key: each for each in parse_listing(listing, key)}
        return PartDocument.from_zarr_json(data, key) if is_whole(place, key, objects["zarr.json"]) else None
    except (DataError, KeyError):
        return None


def _sources_of(document: PartDocument, sources: Sources) -> list[EpisodeSource]:
    """Those of the given sources that a part was built from, read by the conventions that it records."""
    wanted = {(each.suite, each.file): each for each in document.sources}
    found: list[EpisodeSource] = []
    for source in find_sources(sources, skip_bad=True):
        if not isinstance(source, LiberoFile):
            found.append(source)
            continue
        recorded = wanted.pop((source.suite, source.file), None)
        if recorded is not None:
            options = document.plan.get("options", {})
            told = {name: options.get(name) for name in ("orientation", "observation")}
            found.append(replace(source, **told))
    if wanted and all(isinstance(each, LiberoFile) for each in found):
        suite, file = next(iter(wanted))
        raise OptionError(
            "a source of the damaged part is not among those given",
            missing=f"{suite}/{file}" + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else ""),
            hint="give --from the folder of suites that the store was built from",
        )
    return found


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
