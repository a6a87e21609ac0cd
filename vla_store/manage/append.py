"""`append_store`: one more part, then the next root by exclusive creation.

The new part is encoded in a folder beside STORE, resumable like any build; then it is moved below STORE, where no root names it
yet; then a root that does is committed. At a URL its large objects are put below STORE as they are encoded, as a build does. Killed
at any moment, STORE is as it was, and the same command goes on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_store.builder.build import PlannedPart, encode_part, plan_part
from vla_store.builder.commit import skipped_document
from vla_store.builder.destination import check_unfinished
from vla_store.builder.journal import Journal
from vla_store.builder.options import AppendOptions, BuildOptions, takes_options
from vla_store.builder.places import stage_of
from vla_store.builder.report import BuildReport
from vla_store.errors import DestinationExists, machine_errors
from vla_store.format import canonical, layout
from vla_store.format.conventions import check_alike
from vla_store.format.schema import PartEntry, Root
from vla_store.format.views import document_of
from vla_store.manage import combining, roots
from vla_store.manage.result import ChangedStore
from vla_store.manage.views import carried, views_in
from vla_store.publish.transfer import copy_part, part_listing, remove_objects, send_part
from vla_store.reader.part import Part
from vla_store.sources.find import Given, Named, named_sources
from vla_store.sources.protocol import describe
from vla_store.storage import LocalStorage, Storage, is_url, open_storage


@dataclass(frozen=True, repr=False)
class AppendReport(ChangedStore):
    """Result of an append.

    Attributes
    ----------
    part
        The part that was added.
    build
        How the part was built; a plan only, where an earlier call had built it.
    added
        False where the store had the part already: the reply of a commit was lost, or the append was called twice.
    notes
        One line for each view that does not cover the new part, or keeps nothing of a new task.
    """

    part: PartEntry
    build: BuildReport
    added: bool = True
    notes: tuple[str, ...] = ()

    def told(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield what the command says on stderr."""
        yield from self.build.told()
        has_all = [] if self.added else ["the store has these demonstrations already; nothing was added"]
        yield "note", [*self.notes, *has_all]

    def more(self) -> dict[str, Any]:
        """Return the part that was added."""
        return {"added": self.part.to_json() if self.added else None}


@takes_options(AppendOptions)
def append_store(
    sources: Given | Sequence[Given], store: str | os.PathLike[str], options: AppendOptions
) -> AppendReport:
    """Add every step of `sources` to a store, as one more part.

    Readers that hold the old root go on to see the old store. The same call goes on with an unfinished append.

    Parameters
    ----------
    sources
        HDF5 files, suite folders, folders of suites, or EpisodeSource objects; one, or several. They must agree with
        the store's, and among themselves, in orientation and observation, unless `mixed` says otherwise.
    store
        A path, or a URL that can be written.

    Returns
    -------
    AppendReport
        The current root, and what was added.

    Raises
    ------
    OptionError
        The sources do not fit the store, or its storage cannot create an object exclusively.
    StoreDamaged
        No root can be made over the store.
    SourceError, UsageError, MachineError
        As `build_store` raises them.

    Options
    -------
    """
    place = open_storage(store)
    given = named_sources(sources)
    with machine_errors(f"appending to {place.url}"):
        place.check_writable()
        current = roots.newest_root(place)
        roots.sweep_documents(place)  # also after a commit that was killed before it had tidied up
        parts = roots.open_parts(place.url, current.parts)
        build = options.to_build(parts[-1].document.plan.get("options"))
        stage = _staging(place, given, build, options.staging)
        check_unfinished(stage, [each for each in given if isinstance(each, Path)])
        far = place if is_url(place.url) else None
        planned = plan_part(given, stage, build, must_name=options.choice, place=far)
        for there in current.parts:
            if there.path == layout.part_path(planned.plan.part_id):
                root = roots.heal(place, current)
                _remove_unnamed(place, root, Journal(stage, planned.plan))
                shutil.rmtree(stage, ignore_errors=True)
                return AppendReport(root, place.url, there, planned.report(stage), added=False)
        _check_fits(parts, planned)
        views_in(place, current)  # what is wrong with them is said before the work
        place.check_exclusive(layout.root_key(1))
        journal = Journal(stage, planned.plan, far)
        try:
            entry, report = _encode(planned, journal, place)
            build.reports.talk("moving the new part into the store")
            _move(stage, entry, place)
            addition = _Addition(place, entry, skipped_document(planned.scan), journal)
            build.reports.talk("committing the next root")
            root = roots.commit(place, addition.root_after)
            _remove_unnamed(place, root, journal)
            shutil.rmtree(stage, ignore_errors=True)
        finally:
            journal.close()
    return AppendReport(root, place.url, entry, report, notes=addition.notes)


def _check_fits(parts: list[Part], planned: PlannedPart) -> None:
    """Raises OptionError where the new part does not fit those that are there."""
    there, new = [(part.path, part.document) for part in parts], ("the new part", planned.plan.document)
    if not planned.options.mixed:
        check_alike(combining.conventions_of([new]), combining.conventions_of(there))
    combining.check_names([*there, new])
    combining.combined_fields([*there, new])


def _encode(planned: PlannedPart, journal: Journal, place: Storage) -> tuple[PartEntry, BuildReport]:
    """Encode the part on its stage, unless an append that was killed later had done so and it is there or in the store."""
    options = planned.options
    # What lies on the stage is of this command: of other sources than today's it is worth nothing.
    receipts = journal.open(discard=True, rehash=options.rehash, talk=options.reports.talk)
    entry = journal.finished()
    if entry is not None and any(
        _listing(each, entry) == entry.listing for each in (LocalStorage(planned.folder), place)
    ):
        return entry, planned.report(planned.folder)
    made = encode_part(planned, journal, receipts)
    journal.finish(made.entry)
    listing, objects = part_listing(LocalStorage(planned.folder), made.entry)
    nbytes = len(listing) + sum(each.size for each in objects)
    return made.entry, planned.report(planned.folder, None, made, nbytes=nbytes)


def _move(stage: Path, entry: PartEntry, place: Storage) -> None:
    """Put the part, whole, below the store; an append that was killed later may have done so."""
    staged = LocalStorage(stage)
    if (
        _listing(place, entry) is None
        and not place.adopt(stage / entry.path, entry.path)  # another disk, or a copy that was killed had begun it
        and _listing(staged, entry) is not None  # else another appender of the same was faster
    ):
        if is_url(place.url):  # which has the large objects already
            send_part(staged, entry, place, lambda text: None)
            place.give_up_uploads(entry.path)  # of an append that was killed
        else:
            copy_part(staged, entry, place, entry.path, lambda text: None)
    if _listing(place, entry) != entry.listing:
        raise DestinationExists(
            "another part lies where the new one belongs",
            path=f"{place.url}/{entry.path}",
            hint="vla-store verify lists left-overs; remove that folder if it is one, then append again",
        )
    place.settle()


def _listing(place: Storage, entry: PartEntry) -> str | None:
    """Return the digest of a part's listing; None where there is none."""
    data = place.get(f"{entry.path}/{layout.LISTING}")
    return None if data is None else canonical.sha256_hex(data)


@dataclass
class _Addition:
    """The commit of a part that lies below its store, which is tried over each root that another writer commits meanwhile."""

    place: Storage
    entry: PartEntry
    skipped: dict[str, Any] | None
    journal: Journal
    notes: tuple[str, ...] = ()
    sound: set[PartEntry] = field(default_factory=set)  # parts that were checked

    def root_after(self, newest: Root) -> roots.NewRoot | None:
        """Return the root with the part after `newest`; None where that has it already."""
        if roots.has_part(newest, self.entry):
            return None
        entries = (*newest.parts, self.entry)
        for each in entries:
            if each not in self.sound:
                roots.check_columns(self.place, each)
                self.sound.add(each)
        skipped = combining.combined_skipped([roots.read_document(self.place, newest.meta.skipped), self.skipped])
        parts = roots.open_parts(self.place.url, entries)
        views, notes = carried(views_in(self.place, newest), parts)
        self.notes = tuple(notes)
        new = combining.root_over(parts, entries, newest, skipped, document_of(views))
        self.journal.propose(new.documents)
        return new


def _remove_unnamed(place: Storage, root: Root, journal: Journal) -> None:
    """Remove the documents of roots that this append proposed, and others were faster with theirs.

    Storage that knows its writers sweeps by itself. The part is committed: a root that comes later is over more parts than those
    that were proposed, so that none of its documents can be one of these.
    """
    proposed = journal.proposed() if is_url(place.url) else set()
    proposed -= {layout.meta_key(each) for each in root.meta.digests}
    if not proposed:
        return
    for generation in range(1, root.generation):
        before = roots.sound_root(place, layout.root_key(generation))
        if before is None:
            return  # what it names is not known
        proposed -= {layout.meta_key(each) for each in before.meta.digests}
    remove_objects(place, sorted(proposed))


def _staging(
    place: Storage,
    sources: Sequence[Named],
    options: BuildOptions,
    staging: str | os.PathLike[str] | None,
) -> Path:
    """Return a folder that the same command finds again."""
    named = [
        str(each) if isinstance(each, (Path, str)) else sorted(map(str, describe(each).items())) for each in sources
    ]
    said = [
        _utf8(place.url),
        sorted(map(_utf8, named)),
        _utf8([options.recorded(), options.orientation, options.observation, options.skip_bad]),
    ]
    digest = hashlib.sha256(canonical.dumps(said)).hexdigest()
    if staging is None and not is_url(place.url):
        return Path(f"{place.url}.append-{digest[:12]}")
    return stage_of("append", digest, staging)


def _utf8(value: object) -> str:
    """Return a text of a value; bytes of a path that are no UTF-8 are spelled out."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
