"""Objects of a part, made again from its sources, and put in place only where they are the very objects that were lost."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_store.builder.commit import write_metadata, write_nonfinite, write_part, write_tables
from vla_store.builder.executors import default_workers, run_units
from vla_store.builder.plan import Plan, make_plan
from vla_store.builder.probe import probe_cameras
from vla_store.builder.scan import Scan, scan_sources
from vla_store.builder.units import FieldArray, FrameShard, Receipt, work_units
from vla_store.errors import OptionError, SourceError, StoreDamaged, VlaStoreError
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.codecs import PRESETS
from vla_store.format.listing import ObjectEntry, encode_listing, parse_listing
from vla_store.format.schema import PartDocument, PartEntry, Root
from vla_store.publish.transfer import copy_object
from vla_store.sources.find import find_sources
from vla_store.sources.overrides import Overrides
from vla_store.sources.protocol import EpisodeSource, overridden, suite_and_file
from vla_store.storage import LocalStorage, Storage
from vla_store.text import counted
from vla_store.types import OBSERVATIONS, ORIENTATIONS

OTHER_SOURCE = (
    "give --from the very files that the store was built from, and the version of Blosc that the part's plan names"
)

Sources = Sequence[str | Path | EpisodeSource]


def repair_part(
    place: Storage, root: Root, entry: PartEntry, keys: list[str], sources: Sources, talk: Callable[[str], None]
) -> list[str]:
    """Make lost objects of a part again: a listing from the objects, all else from the sources.

    They are put in place once all of them are what the listing says.

    Parameters
    ----------
    place, root
        Where the store lies, and its newest root.
    entry
        The part, as the root names it.
    keys
        Keys of the lost objects, below the store.
    sources
        What the store was built from.
    talk
        Called with a line of progress.

    Returns
    -------
    list of str
        Keys of the objects that were made.

    Raises
    ------
    StoreDamaged
        An object made again is not the one that was lost, or an object cannot be made again; nothing was written.
    OptionError
        The part was not built from these sources.
    """
    listing_key = f"{entry.path}/{layout.LISTING}"
    if listing_key in keys and _restore_listing(place, entry):
        return [listing_key]
    talk(f"reading the sources of part {entry.path.rpartition('/')[2]}")
    plan = _plan_of(place, root, entry, sources)
    relative = sorted(key[len(entry.path) + 1 :] for key in keys)
    with tempfile.TemporaryDirectory(prefix="vla_store-repair-") as folder:
        part = Path(folder)
        metadata = write_metadata(plan, part)
        units = work_units(plan, part)
        # The tables are of the plan alone; the episodes' digests are of every frame.
        needs_all = layout.LISTING in relative or any(key.startswith(f"{layout.DIGEST_ARRAY}/c/") for key in relative)
        counts = _needs_counts(place, entry, relative)
        chosen = [
            unit
            for unit in units
            if needs_all
            or any(key.startswith(unit.writes) for key in relative)
            or (counts and isinstance(unit, (FieldArray, FrameShard)) and unit.field.is_floating)
        ]
        receipts: dict[str, Receipt] = {}

        def done(receipt: Receipt) -> None:
            receipts[receipt.unit] = receipt

        talk(f"encoding {len(chosen)} of {counted(len(units), 'unit')} again")
        run_units(chosen, done, executor="threads", workers=default_workers())
        if needs_all:
            write_part(plan, part, metadata, receipts)
        else:
            write_tables(plan, part)
            if counts:
                write_nonfinite(plan, part, receipts)
        made = LocalStorage(part)
        expected = _expected(place, entry, made)
        for key in relative:
            _check_made(place, f"{entry.path}/{key}", made, expected.get(key), key)
        for key in relative:
            copy_object(made, key, place, f"{entry.path}/{key}", expected[key])
    return keys


def _restore_listing(place: Storage, entry: PartEntry) -> bool:
    """Hash every object of the part; if that is the listing that the root names, it is whole again."""
    listing = f"{entry.path}/{layout.LISTING}"
    found = [
        _described(place, key, key.removeprefix(f"{entry.path}/"))
        for key in place.keys(entry.path)
        if key != listing and not key.endswith(".tmp")  # of a writer that was killed; no object's name
    ]
    data = encode_listing(found)
    if sha256_hex(data) != entry.listing:
        return False
    place.write(listing, data)
    return True


def _described(place: Storage, key: str, listed: str) -> ObjectEntry:
    """Return an object as its listing has it. Reads it."""
    size, sha256 = place.digest(key)
    return ObjectEntry(listed, sha256, size)


def _needs_counts(place: Storage, entry: PartEntry, relative: list[str]) -> bool:
    """Tell whether what was lost depends on which numbers are not finite: the counts, and the document that names their array."""
    key = f"{entry.path}/{layout.LISTING}"
    listed = parse_listing(place.get(key) or b"", key) if "zarr.json" in relative else ()
    return any(each.startswith(f"{layout.NONFINITE_ARRAY}/") for each in [*relative, *(each.key for each in listed)])


def _check_made(place: Storage, lost: str, made: Storage, expected: ObjectEntry | None, key: str) -> None:
    """Raise StoreDamaged where an object that was made again is not the one that was lost, or nothing was lost."""
    if made.keys(key):
        raise StoreDamaged(
            "an array was written with wrong content, and is listed so: that cannot be repaired",
            object=lost,
            store=place.url,
            hint="build the store again",
        )
    if made.sizes([key]) == [None]:
        raise StoreDamaged("an object is of no array of its part", object=lost, store=place.url, hint="remove it")
    found = _described(made, key, key)
    if found != expected:
        raise StoreDamaged(
            "an object made again is not the one that was lost; nothing was written",
            object=lost,
            store=place.url,
            expected=expected.sha256 if expected else "an object of the listing",
            found=found.sha256,
            hint=OTHER_SOURCE,
        )


def _expected(place: Storage, entry: PartEntry, made: Storage) -> dict[str, ObjectEntry]:
    """Return the objects of the part that the root names, its listing too: by the stored listing, or by the one just made."""
    key = f"{entry.path}/{layout.LISTING}"
    for data in (place.get(key), made.get(layout.LISTING)):
        if data is not None and sha256_hex(data) == entry.listing:
            listing = ObjectEntry(layout.LISTING, entry.listing, len(data))
            return {each.key: each for each in [*parse_listing(data, key), listing]}
    raise StoreDamaged(
        "the listing made again is not the one that was lost; nothing was written",
        object=key,
        store=place.url,
        hint=OTHER_SOURCE,
    )


def _plan_of(place: Storage, root: Root, entry: PartEntry, sources: Sources) -> Plan:
    """The plan of a part, made again from its sources; its digest is the part's name. Raises OptionError."""
    part_id = entry.path.rpartition("/")[2]
    document = _stored_document(place, entry)
    stored = document.plan if document else None
    recorded = recorded_sources(stored)
    # Another Blosc may encode pictures in other bytes, which are compared when they are made; all else stays what it was.
    blosc = stored["codecs"]["blosc"] if stored else None
    decoders: set[str] = set()
    # First as if nothing had been left out that only reading finds: that is nearly always so, and costs least.
    candidates = list(_candidates(place, root, entry, sources, stored))
    for thorough, (given, options), strict in itertools.product((False, True), candidates, (False, True)):
        told = [as_recorded(each, options, recorded) for each in given]
        try:
            scan = scan_sources(told, skip_bad=True, require_finite=strict, thorough=thorough)
            probe = probe_cameras(_as_told(scan, document)[0], options["preset"])
            plans = [make_plan(each, probe, options, blosc=blosc) for each in _as_told(scan, document)]
        except SourceError:
            continue  # conventions that do not fit these files, or one that cannot be read
        for plan in plans:
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
    place: Storage, root: Root, entry: PartEntry, sources: Sources, plan: dict[str, Any] | None
) -> Iterator[tuple[list[EpisodeSource], dict[str, Any]]]:
    """Sources and options of a part: those that its plan records; without it, what may have been given."""
    given = find_sources(sources, skip_bad=True)
    if plan is not None:
        wanted = {(each["suite"], each["file"]) for each in plan["sources"]}
        missing = sorted(wanted - {suite_and_file(each) for each in given})
        if missing:
            raise OptionError(
                "a source of the damaged part is not among those given",
                missing="/".join(missing[0]) + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
                hint="give --from the folder of suites that the store was built from",
            )
        yield [each for each in given if suite_and_file(each) in wanted], plan["options"]
        return
    others = [_stored_document(place, each) for each in root.parts if each != entry]
    taken = {(each.suite, each.file) for other in others if other for each in other.sources}
    groups = [given, *(find_sources([each], skip_bad=True) for each in sources)]
    tried: list[set[tuple[str, str]]] = []
    for group in groups:
        kept = [each for each in group if suite_and_file(each) not in taken]
        names = {suite_and_file(each) for each in kept}
        if not kept or names in tried:
            continue
        tried.append(names)
        for orientation, observation in itertools.product((None, *ORIENTATIONS), (None, *OBSERVATIONS)):
            for preset in PRESETS:
                yield kept, {"observation": observation, "orientation": orientation, "preset": preset}


def _as_told(scan: Scan, document: PartDocument | None) -> list[Scan]:
    """Return what the version that built a part may have been told: before their size told pictures, some were numbers; and rates,
    names and units were not asked for."""
    if document is None:
        fields = {name: replace(spec, names=(), units=()) for name, spec in scan.fields.items()}
        unrated = tuple(replace(each, info=replace(each.info, fps=None)) for each in scan.sources)
        return [scan, replace(scan, sources=unrated, fields=fields)]
    fields = {}
    for name, spec in scan.fields.items():
        if (field := document.fields.get(name)) is not None:
            names, units = spec.names if field.names else (), spec.units if field.units else ()
            spec = replace(spec, picture=field.is_camera, names=names, units=units)
        fields[name] = spec
    rated = {(each.suite, each.file) for each in document.sources if each.fps is not None}
    sources = tuple(
        each if (each.info.suite, each.info.file) in rated else replace(each, info=replace(each.info, fps=None))
        for each in scan.sources
    )
    return [replace(scan, sources=sources, fields=fields)]


def _stored_document(place: Storage, entry: PartEntry) -> PartDocument | None:
    """Return the document of a part, if it is whole: the part is named by the digest of its plan."""
    key = f"{entry.path}/zarr.json"
    data = place.get(key)
    try:
        document = None if data is None else PartDocument.from_zarr_json(data, key)
    except VlaStoreError:
        return None
    named = document is not None and sha256_hex(dumps(document.plan))[:16] == entry.path.rpartition("/")[2]
    return document if named else None


Recorded = dict[tuple[str, str], dict[str, Any]]


def recorded_sources(plan: dict[str, Any] | None) -> Recorded:
    """Return the entries of a part's plan.

    Parameters
    ----------
    plan
        The plan; None where it is lost.

    Returns
    -------
    dict
        {(suite, file): entry}; empty without a plan.
    """
    return {(each["suite"], each["file"]): each for each in (plan["sources"] if plan else ())}


def as_recorded(source: EpisodeSource, options: dict[str, Any], recorded: Recorded) -> EpisodeSource:
    """Return a source as it is read by the overrides of its part.

    Parameters
    ----------
    source
        The source as it was given.
    options
        The options that the part's plan records.
    recorded
        What `recorded_sources` gave.

    Returns
    -------
    EpisodeSource
        Read by the overrides of its own entry, or where those are lost, by those of all.
    """
    return overridden(source, Overrides.recorded(options, recorded.get(suite_and_file(source))))
