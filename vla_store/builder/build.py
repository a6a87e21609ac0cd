"""`build_store`: scan, probe, plan, encode, commit. Each object is whole or absent; the same call resumes.

`plan_part` and `encode_part` make one part in a folder, or at a URL, which a build makes a store of, and an append moves into one.
May import the rest of the builder, sources and format.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_store.builder.commit import nonfinite_of, write_first_root, write_metadata, write_part
from vla_store.builder.executors import chosen_executor, default_workers, run_units
from vla_store.builder.journal import Journal, check_unchanged, states_of
from vla_store.builder.memory import MemoryPlan, plan_memory, share_one_heap
from vla_store.builder.options import BuildOptions, takes_options
from vla_store.builder.overlap import Threads
from vla_store.builder.places import building_at
from vla_store.builder.plan import Plan, make_plan
from vla_store.builder.probe import Probe, probe_cameras
from vla_store.builder.report import BuildReport, CameraReport
from vla_store.builder.scan import Scan, scan_sources
from vla_store.builder.units import Receipt, WorkUnit, work_units
from vla_store.errors import machine_errors
from vla_store.extras import zarr_python
from vla_store.format import layout
from vla_store.format.conventions import check_alike
from vla_store.format.digests import episode_name
from vla_store.format.needed import array_nbytes, document_keys
from vla_store.format.nonfinite import NonFinite
from vla_store.format.schema import MAX_DOCUMENT_BYTES, PartEntry, Root
from vla_store.sources.find import Given, Named, find_sources, named_sources
from vla_store.sources.overrides import Choice
from vla_store.sources.protocol import EpisodeSource, close_files, name_of
from vla_store.storage import LocalStorage, Storage, read_document
from vla_store.text import counted

log = logging.getLogger("vla_store.builder")


@dataclass(frozen=True)
class PlannedPart:
    """A part that is known in every detail, and of which nothing is written yet. folder: what its path is below."""

    folder: Path
    options: BuildOptions
    scan: Scan
    probe: Probe
    plan: Plan
    memory: MemoryPlan
    units: tuple[WorkUnit, ...]
    sources: list[EpisodeSource]  # all that were given
    states: list[dict[str, Any]]  # of these, before anything of them was read
    started: float

    def report(
        self, store: Path | str, root: Root | None = None, made: EncodedPart | None = None, nbytes: int | None = None
    ) -> BuildReport:
        """Return what was built; without `made`, what would be. nbytes: of all that was written."""
        receipts = made.receipts if made else None
        cameras, projected = [], 0
        for field in self.plan.document.fields.values():
            raw = self.plan.rows * field.step_nbytes if not field.is_ragged else 0
            if field.is_camera:
                expected = self.probe.trials[field.name][field.prediction]
                stored = expected if receipts is None else _camera_nbytes(field.name, receipts)
                cameras.append(
                    CameraReport(field.name, field.fixed_shape, field.prediction, str(field.codec), stored / raw)
                )
                raw = expected
            projected += raw
        warnings = [f"{each.info.file}: {text}" for each in self.scan.sources for text in each.info.warnings]
        return BuildReport(
            store=store,
            root=root,
            part_id=self.plan.part_id,
            document=self.plan.document,
            preset=self.options.preset,
            rows=self.plan.rows,
            episodes=len(self.plan.episodes),
            pieces=len(self.units),
            cameras=tuple(cameras),
            nbytes=projected if nbytes is None else nbytes,
            source_nbytes=self.plan.source_nbytes,
            memory=self.memory,
            skipped=self.scan.skipped,
            warnings=tuple(warnings),
            seconds=time.monotonic() - self.started,
            resumed=made is not None and made.resumed,
            nonfinite=tuple(self._nonfinite(receipts or {})),
        )

    def _nonfinite(self, receipts: Mapping[str, Receipt]) -> Iterator[NonFinite]:
        for name, tallies in nonfinite_of(receipts).items():
            episode = self.plan.episodes[tallies[0].episode]
            info = self.plan.scanned[episode.source].info
            where = {"suite": info.suite, "file": info.file, "demo": episode_name(episode.number)}
            yield NonFinite.of(name, tallies, episode.start + tallies[0].first, **where)


@dataclass(frozen=True)
class EncodedPart:
    """A part that lies whole in its folder. episodes: the digest of each. resumed: another call had begun it."""

    entry: PartEntry
    episodes: list[bytes]
    receipts: Mapping[str, Receipt]
    resumed: bool


@takes_options(BuildOptions)
def build_store(sources: Given | Sequence[Given], store: str | os.PathLike[str], options: BuildOptions) -> BuildReport:
    """Convert every step of every demonstration of `sources` into a new store.

    The build happens in STORE.partial; renaming it is the commit. At a URL objects are put there as they are encoded, each compared
    with what the storage says of it, and the root last: until then there is no store. The same call resumes an unfinished one.

    Parameters
    ----------
    sources
        HDF5 files, suite folders, folders of suites, or EpisodeSource objects; one, or several. Files and folders may be at
        URLs, with * in names: each file is fetched for as long as it is needed.
    store
        A local path, or a URL that can be written, where there is nothing yet.

    Raises
    ------
    SourceError, UsageError, MachineError, FetchError
        The message names file and demonstration, or the object and the storage.

    Options
    -------
    """
    with machine_errors("looking at where STORE goes"):
        place = building_at(store, options.staging)
        given = named_sources(sources)
        place.check([each for each in given if isinstance(each, Path)], overwrite=options.overwrite)
    planned = plan_part(given, place.folder, options, place=place.objects)
    plan, talk = planned.plan, options.reports.talk
    if options.dry_run:
        return planned.report(place.store)
    journal = Journal(place.folder, plan, place.objects)
    with machine_errors(f"building {os.path.basename(place.store)}"):
        if not options.overwrite and (done := place.committed(plan)):
            return replace(planned.report(place.store, done), resumed=True)
        try:
            receipts = journal.open(discard=options.overwrite, rehash=options.rehash, talk=talk)
            place.begin(plan, overwrite=options.overwrite)
            made = encode_part(planned, journal, receipts)
            place.fetch_numbers(plan, made.receipts)
            root = write_first_root(place.folder, plan, planned.scan, made.entry, made.episodes)
            if options.finish:
                root = options.finish(place.folder)
            nbytes = _needed_nbytes(root, LocalStorage(place.folder))
            place.commit(journal, made.entry, overwrite=options.overwrite, talk=talk)
        finally:
            journal.close()
    return planned.report(place.store, root, made, nbytes=nbytes)


def _needed_nbytes(root: Root, place: Storage) -> int:
    """Return the bytes of all objects that a root needs, as `Store.nbytes` of the store will say. Raises StoreDamaged."""
    return sum(
        array_nbytes(root, {key: read_document(place, key, MAX_DOCUMENT_BYTES) for key in document_keys(root)}).values()
    )


def plan_part(
    sources: Sequence[Named],
    folder: Path,
    options: BuildOptions,
    must_name: Choice | None = None,
    place: Storage | None = None,
) -> PlannedPart:
    """Do everything that comes before the first byte is written.

    Parameters
    ----------
    sources
        As `named_sources` gives them.
    folder
        Where the part is to grow.
    must_name
        Which datasets and groups must be in the sources; default: all that the options name.
    place
        Far storage that takes the large objects at once; default: they grow in the folder too.

    Raises
    ------
    SourceError, OptionError
        The sources cannot be built from, or not with these options.
    MachineError
        Of what building needs, something is too old.
    """
    started, choice = time.monotonic(), options.choice
    zarr_python()  # which one that is, is said now and not after the scan
    share_one_heap()
    try:
        found = find_sources(
            sources,
            orientation=options.orientation,
            observation=options.observation,
            conventions=options.conventions,
            skip_bad=options.skip_bad,
            choice=choice,
            scratch_size=options.scratch_size,
            talk=options.reports.talk,
        )
        states = states_of(found)
        (choice if must_name is None else must_name).check_used(found)
        scan = scan_sources(
            found,
            skip_bad=options.skip_bad,
            require_finite=options.require_finite,
            talk=options.reports.talk,
        )
        if not options.mixed:
            check_alike((name_of(each.source), each.info.orientation, each.info.observation) for each in scan.sources)
        options.reports.talk(f"probing the cameras of {counted(scan.episodes, 'episode')}")
        probe = _probe(scan, options)
    finally:
        close_files()
    plan = make_plan(scan, probe, options.recorded())
    memory = plan_memory(plan, options.executor, options.workers, options.max_memory, is_sent=place is not None)
    base, scratch = (folder, None) if place is None else (place.url, str(folder))
    units = tuple(work_units(plan, f"{base}/{layout.part_path(plan.part_id)}", scratch))
    return PlannedPart(folder, options, scan, probe, plan, memory, units, found, states, started)


def encode_part(planned: PlannedPart, journal: Journal, receipts: Mapping[str, Receipt]) -> EncodedPart:
    """Encode what of a part is missing, then write its tables and listing. receipts: of its open journal, for what is there."""
    plan, options, reports = planned.plan, planned.options, planned.options.reports
    found = dict(receipts)
    missing = [unit for unit in planned.units if unit.name not in found]
    nbytes_of = {unit.name: unit.raw_nbytes for unit in planned.units}
    total = sum(nbytes_of.values())
    encoded = total - sum(unit.raw_nbytes for unit in missing)
    journal.tell(encoded, total)
    try:
        metadata = write_metadata(plan, journal.part)

        def done(receipt: Receipt) -> None:
            nonlocal encoded
            journal.record(receipt)
            found[receipt.unit] = receipt
            encoded += nbytes_of[receipt.unit]
            journal.tell(encoded, total)
            reports.advance(nbytes_of[receipt.unit])

        if receipts:
            log.info(
                "resuming: %d of %d pieces are encoded already", len(planned.units) - len(missing), len(planned.units)
            )
        reports.begin(plan.rows, total, encoded)
        try:
            run_units(
                missing,
                done,
                executor=planned.memory.executor,
                workers=planned.memory.workers,
                scheduler=options.scheduler,
            )
        finally:
            reports.end()
        check_unchanged(planned.sources, planned.states, planned.folder)
        reports.talk("writing tables, statistics and the root")
        entry, episodes = write_part(plan, journal.part, metadata, found)
    finally:
        close_files()
    return EncodedPart(entry, episodes, found, resumed=bool(receipts))


def _probe(scan: Scan, options: BuildOptions) -> Probe:
    """Probe on as many threads as will encode; on one where the memory counts, which is not planned yet."""
    likely = chosen_executor(options.executor, options.workers, sum(each.info.nbytes for each in scan.sources))
    workers = 1 if options.max_memory is not None or likely != "threads" else options.workers or default_workers()
    if workers == 1:
        return probe_cameras(scan, options.preset)
    with contextlib.closing(Threads(workers)) as threads:
        return probe_cameras(scan, options.preset, threads.in_order)


def _camera_nbytes(name: str, receipts: Mapping[str, Receipt]) -> int:
    return sum(
        entry.size for unit, receipt in receipts.items() if unit.rpartition(".")[0] == name for entry in receipt.objects
    )
