"""`build_store`: scan, probe, plan, encode, commit. Each object is whole or absent; the same call resumes."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vla_store.builder.cluster import require_dask
from vla_store.builder.commit import nonfinite_of, write_first_root, write_metadata, write_part
from vla_store.builder.destination import check_destination, destination_of, replace_store
from vla_store.builder.executors import AUTO, EXECUTORS, chosen_executor, default_workers, run_tasks
from vla_store.builder.journal import Journal, check_unchanged, states_of
from vla_store.builder.memory import MemoryPlan, plan_memory, share_one_heap
from vla_store.builder.overlap import Threads
from vla_store.builder.plan import Plan, make_plan
from vla_store.builder.probe import Probe, probe_cameras
from vla_store.builder.scan import Scan, scan_sources
from vla_store.builder.tasks import Receipt, Task, make_tasks
from vla_store.errors import OptionError, VlaStoreError, machine_error
from vla_store.format.codecs import PRESETS
from vla_store.format.conventions import check_alike
from vla_store.format.digests import episode_name
from vla_store.format.nonfinite import NonFinite
from vla_store.format.schema import PartDocument, Root
from vla_store.sources.find import Given, find_sources, local_sources
from vla_store.sources.overrides import Choice, Stated
from vla_store.sources.protocol import Skipped, close_files, name_of
from vla_store.storage import LocalStorage, sync_folder


class Progress(Protocol):
    """What a build tells of itself while it works."""

    def talk(self, text: str) -> None:
        """One line about the stage it is in."""

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        """Encoding starts: so many steps and raw bytes in all, of which some are done already."""

    def advance(self, nbytes: int) -> None:
        """So many more raw bytes are encoded."""

    def end(self) -> None:
        """Encoding is over, well or not."""


@dataclass(frozen=True)
class CameraReport:
    """What was chosen for one camera. share: stored bytes over raw pixels, backgrounds included."""

    name: str
    shape: tuple[int, ...]
    prediction: tuple[str, ...]
    codec: str
    share: float


@dataclass(frozen=True)
class BuildReport:
    """What a build made. `root` is None for a dry run, whose sizes are projections by the probe's frames; and which reads too
    little to know of numbers that are not finite (`nonfinite`: of each field that has some)."""

    store: Path
    root: Root | None
    part_id: str
    document: PartDocument
    preset: str
    rows: int
    episodes: int
    pieces: int
    cameras: tuple[CameraReport, ...]
    nbytes: int
    source_nbytes: int
    memory: MemoryPlan
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    seconds: float
    resumed: bool
    nonfinite: tuple[NonFinite, ...] = ()


@dataclass(frozen=True)
class PlannedBuild:
    """A build that is known in every detail, and of which nothing is written yet."""

    target: Path
    partial: Path
    preset: str
    scheduler: str | None
    overwrite: bool
    rehash: bool
    scan: Scan
    probe: Probe
    plan: Plan
    memory: MemoryPlan
    tasks: tuple[Task, ...]
    states: Mapping[str, dict[str, Any]]  # of the sources, before anything of them was read
    started: float

    def report(
        self, root: Root | None = None, receipts: dict[str, Receipt] | None = None, *, resumed: bool = False
    ) -> BuildReport:
        """What was built; without a root, what would be."""
        cameras, projected = [], 0
        for field in self.plan.document.fields.values():
            if not field.is_camera and not field.is_ragged:
                projected += self.plan.rows * field.step_nbytes
        for field in self.plan.cameras:
            raw = self.plan.rows * field.step_nbytes
            trial = next(each for each in self.probe.trials[field.name] if each.prediction == field.prediction)
            nbytes = trial.nbytes if receipts is None else _camera_nbytes(field.name, receipts)
            projected += trial.nbytes
            cameras.append(
                CameraReport(field.name, field.fixed_shape, field.prediction, str(field.codec), nbytes / raw)
            )
        if root is not None:
            projected = sum(path.stat().st_size for path in self.target.rglob("*") if path.is_file())
        warnings = [f"{each.info.file}: {text}" for each in self.scan.sources for text in each.info.warnings]
        return BuildReport(
            store=self.target,
            root=root,
            part_id=self.plan.part_id,
            document=self.plan.document,
            preset=self.preset,
            rows=self.plan.rows,
            episodes=len(self.plan.episodes),
            pieces=len(self.tasks),
            cameras=tuple(cameras),
            nbytes=projected,
            source_nbytes=self.plan.source_nbytes,
            memory=self.memory,
            skipped=self.scan.skipped,
            warnings=tuple(warnings),
            seconds=time.monotonic() - self.started,
            resumed=resumed,
            nonfinite=tuple(self._nonfinite(receipts or {})),
        )

    def _nonfinite(self, receipts: dict[str, Receipt]) -> Iterator[NonFinite]:
        for name, tallies in nonfinite_of(receipts).items():
            episode = self.plan.episodes[tallies[0].episode]
            info = self.plan.scanned[episode.source].info
            where = {"suite": info.suite, "file": info.file, "demo": episode_name(episode.number)}
            yield NonFinite.of(name, tallies, episode.start + tallies[0].first, **where)


def build_store(
    sources: Given | Sequence[Given],
    store: str | os.PathLike[str],
    *,
    preset: str = "fast",
    orientation: Stated = None,
    observation: Stated = None,
    mixed: bool = False,
    executor: str = "threads",
    workers: int | None = None,
    scheduler: str | None = None,
    max_memory: int | None = None,
    overwrite: bool = False,
    rehash: bool = False,
    skip_bad: bool = False,
    require_finite: bool = False,
    exclude: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    dry_run: bool = False,
    finish: Callable[[Path], Root] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Convert every step of every demonstration of `sources` into a new store.

    sources: HDF5 files, suite folders, folders of suites, or EpisodeSource objects; one, or several.
    store: a local path that does not exist yet. The build happens in STORE.partial; renaming it is the commit.
    preset: "raw", "fast" or "small". orientation ("bottom_up", "top_down", "rot180"), observation ("before", "after"):
    what the sources do not say themselves; for all of them, or by path of a file or folder (None: for the others).
    mixed: let sources differ in these; each keeps its own. executor: "threads", "processes" (a script must then call this below
    `if __name__ == "__main__":`), or "auto": processes where the source is large enough; scheduler: address of a dask cluster
    instead.
    max_memory: bytes that all processes of the build together may use. overwrite: replace an existing store, and discard an
    unfinished build of other sources or options. rehash: tell sources that changed since an unfinished build began by their
    sha256, which costs reading them once more; else by size and time of change. skip_bad: leave out demonstrations that are
    bad and record them. require_finite: a number that is NaN or infinite, in whatever field, makes its demonstration bad; all of
    them are read to know. exclude: datasets and groups to leave out, by path below a demonstration ("obs/agentview_depth"; names
    may have *, ? and []), or from the file's root ("/meta"). rename: {path of a dataset: name of its field}. dry_run: plan only,
    write nothing. finish: called with the folder of the store before it gets its name, to commit one more root, which it returns.
    Raises SourceError, UsageError, MachineError; the message names file and demonstration.
    """
    planned = plan_build(
        sources,
        store,
        preset=preset,
        orientation=orientation,
        observation=observation,
        mixed=mixed,
        executor=executor,
        workers=workers,
        scheduler=scheduler,
        max_memory=max_memory,
        overwrite=overwrite,
        rehash=rehash,
        skip_bad=skip_bad,
        require_finite=require_finite,
        choice=Choice.of(exclude, rename),
        talk=progress.talk if progress else lambda text: None,
    )
    return planned.report() if dry_run else run_build(planned, progress, finish)


def plan_build(
    sources: Given | Sequence[Given],
    store: str | os.PathLike[str],
    *,
    preset: str,
    orientation: Stated,
    observation: Stated,
    mixed: bool,
    executor: str,
    workers: int | None,
    scheduler: str | None,
    max_memory: int | None,
    overwrite: bool,
    rehash: bool,
    skip_bad: bool,
    require_finite: bool,
    choice: Choice,
    talk: Callable[[str], None],
    must_name: Choice | None = None,
) -> PlannedBuild:
    """Everything that a build does before it writes. Parameters and errors: as for `build_store`.

    must_name: what of `choice` must name something in the sources; None for all of it.
    """
    started = time.monotonic()
    share_one_heap()
    _check_options(preset, executor, workers, scheduler, max_memory)
    target, partial = destination_of(store)
    given = local_sources(sources)
    check_destination(target, partial, [each for each in given if isinstance(each, Path)], overwrite=overwrite)
    try:
        found = find_sources(given, orientation=orientation, observation=observation, skip_bad=skip_bad, choice=choice)
        states = states_of(found)
        (choice if must_name is None else must_name).check_used(found)
        scan = scan_sources(found, skip_bad=skip_bad, require_finite=require_finite, talk=talk)
        if not mixed:
            check_alike((name_of(each.source), each.info.orientation, each.info.observation) for each in scan.sources)
        talk(f"probing the cameras of {scan.episodes} episodes")
        likely = chosen_executor(executor, workers, sum(each.info.nbytes for each in scan.sources))
        probe = _probe(scan, preset, 1 if max_memory is not None or likely != "threads" else workers)
    finally:
        close_files()
    # Paths do not belong into a plan; what they said of each source is there, with the source.
    said = {
        name: given.get(None) if isinstance(given, Mapping) else given
        for name, given in (("observation", observation), ("orientation", orientation))
    }
    plan = make_plan(scan, probe, {**said, **choice.to_json(), "preset": preset})
    memory = plan_memory(plan, executor, workers, max_memory)
    tasks = tuple(make_tasks(plan, partial / "parts" / plan.part_id))
    return PlannedBuild(
        target, partial, preset, scheduler, overwrite, rehash, scan, probe, plan, memory, tasks, states, started
    )


def run_build(
    planned: PlannedBuild, progress: Progress | None = None, finish: Callable[[Path], Root] | None = None
) -> BuildReport:
    """Do, or go on with, what was planned. finish: as for `build_store`."""
    talk: Callable[[str], None] = progress.talk if progress else lambda text: None
    plan, partial = planned.plan, planned.partial
    journal = Journal(partial, plan)
    committed = None
    try:
        try:
            receipts = journal.open(discard=planned.overwrite, rehash=planned.rehash, talk=talk)
            resumed = bool(receipts)
            metadata = write_metadata(plan, journal.part)
            missing = journal.missing(planned.tasks, receipts)
            total = sum(task.raw_nbytes for task in planned.tasks)
            size_of = {task.name: task.raw_nbytes for task in planned.tasks}

            def done(receipt: Receipt) -> None:
                journal.record(receipt)
                receipts[receipt.task] = receipt
                if progress:
                    progress.advance(size_of[receipt.task])

            if progress:
                progress.begin(plan.rows, total, total - sum(task.raw_nbytes for task in missing))
            try:
                run_tasks(
                    missing,
                    done,
                    executor=planned.memory.executor,
                    workers=planned.memory.workers,
                    scheduler=planned.scheduler,
                )
            finally:
                if progress:
                    progress.end()
            check_unchanged(planned.states, partial)
            talk("writing tables, statistics and the root")
            entry, episodes = write_part(plan, journal.part, metadata, receipts)
            for folder in ("roots", "meta"):  # of an attempt that came as far as here
                shutil.rmtree(partial / folder, ignore_errors=True)
            root = write_first_root(partial, plan, planned.scan, entry, episodes)
            if finish:
                root = finish(partial)
            journal.remove()
            # Of a cluster's worker that died, whose task another one did.
            LocalStorage(partial).sweep(held=True)
            sync_folder(partial)
            replace_store(partial, planned.target, overwrite=planned.overwrite)
            committed = planned.target
        finally:
            journal.close(committed)
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"building {planned.target.name}") from error
    finally:
        close_files()
    return planned.report(root, receipts, resumed=resumed)


def _probe(scan: Scan, preset: str, workers: int | None) -> Probe:
    """The probe on as many threads; 1 where the memory counts, which is not planned yet."""
    if workers == 1:
        return probe_cameras(scan, preset)
    with contextlib.closing(Threads(workers or default_workers())) as threads:
        return probe_cameras(scan, preset, threads.in_order)


def _check_options(
    preset: str, executor: str, workers: int | None, scheduler: str | None, max_memory: int | None
) -> None:
    if preset not in PRESETS:
        raise OptionError(f"there is no preset {preset!r}", exists=", ".join(PRESETS))
    if executor not in (AUTO, *EXECUTORS):
        raise OptionError(f"executor cannot be {executor!r}", allowed=", ".join((AUTO, *EXECUTORS)))
    if workers is not None and workers < 1:
        raise OptionError(f"workers cannot be {workers}", expected="at least 1")
    if scheduler is not None:
        require_dask()
    if scheduler is not None and (workers is not None or max_memory is not None):
        raise OptionError(
            "workers and max_memory are the cluster's own affair when there is a scheduler",
            scheduler=scheduler,
            hint=f"dask worker {scheduler} --nworkers N --memory-limit SIZE",
        )


def _camera_nbytes(name: str, receipts: dict[str, Any]) -> int:
    return sum(
        entry.size for task, receipt in receipts.items() if task.rpartition(".")[0] == name for entry in receipt.objects
    )
