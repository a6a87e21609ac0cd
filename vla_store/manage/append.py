"""`append_store`: one more part, then the next root by exclusive creation.

The new part is built as a store of its own beside STORE (for a URL: in a local folder), resumable like any build; then it is
moved below STORE, where no root names it yet; then a root that does is committed. Killed at any moment, STORE is as it was, and
the same command goes on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_store.builder.build import BuildReport, Progress, plan_build, run_build
from vla_store.builder.destination import is_store
from vla_store.errors import DataError, DestinationExists, VlaStoreError, machine_error
from vla_store.format import canonical, layout
from vla_store.format.conventions import check_alike
from vla_store.format.schema import PartEntry, Root
from vla_store.format.views import document_of
from vla_store.manage import roots
from vla_store.manage.transfer import copy_part
from vla_store.manage.views import carried, views_in
from vla_store.sources.find import Given, local_sources
from vla_store.sources.overrides import Choice, Overrides, Stated
from vla_store.sources.protocol import EpisodeSource, describe
from vla_store.storage import LocalStorage, Storage, local_path, open_storage


@dataclass(frozen=True)
class AppendReport:
    """root: the one that is current now. part: what was added. build: how it was built; a plan only, where an earlier call had
    built it. added: False where the store had the part already: the reply of a commit was lost, or it was called twice.
    notes: on views that do not cover the new part, a line each."""

    root: Root
    part: PartEntry
    build: BuildReport
    added: bool = True
    notes: tuple[str, ...] = ()


def append_store(
    sources: Given | Sequence[Given],
    store: str | os.PathLike[str],
    *,
    preset: str | None = None,
    orientation: Stated = None,
    observation: Stated = None,
    mixed: bool = False,
    executor: str = "threads",
    workers: int | None = None,
    scheduler: str | None = None,
    max_memory: int | None = None,
    rehash: bool = False,
    skip_bad: bool = False,
    require_finite: bool = False,
    exclude: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    staging: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> AppendReport:
    """Add every step of `sources` to a store, as one more part.

    preset: default that of the store's last part. staging: a local folder for the part while it is built; default beside a
    local store, else in the folder for temporary files. mixed: the new sources may differ from the store's, and among
    themselves, in orientation and observation; each keeps its own. exclude, rename: default those of the store's last part. The others: as for `build_store`.
    Readers that hold the old root go on to see the old store. Raises what `build_store` raises; OptionError where the sources
    do not fit the store, or its storage cannot create an object exclusively; StoreDamaged where no root can be made over it.
    """
    place = open_storage(store)
    talk = progress.talk if progress else lambda text: None
    given = local_sources(sources)
    conventions: dict[str, Any] = {"orientation": orientation, "observation": observation, "skip_bad": skip_bad}
    try:
        place.check_writable()
        current = roots.newest_root(place)
        place.sweep()  # also after a commit that was killed before it had tidied up
        roots.sweep_documents(place)
        parts = roots.open_parts(place.url, current.parts)
        preset = preset or str(parts[-1].document.plan.get("options", {}).get("preset", "fast"))
        known, said = Overrides.recorded(parts[-1].document.plan.get("options")).choice, Choice.of(exclude, rename)
        choice = Choice(
            known.exclude if exclude is None else said.exclude, known.rename if rename is None else said.rename
        )
        stage = _staging(place, given, preset, conventions | choice.to_json(), staging)
        if stage.exists() and not is_store(stage):  # it was being removed
            shutil.rmtree(stage)

        # What lies on the stage is of this command: of other sources than today's it is worth nothing.
        plan = plan_build(
            given,
            stage,
            preset=preset,
            executor=executor,
            workers=workers,
            scheduler=scheduler,
            max_memory=max_memory,
            overwrite=True,
            rehash=rehash,
            mixed=mixed,
            require_finite=require_finite,
            choice=choice,
            must_name=said,
            talk=talk,
            **conventions,
        )
        document = plan.plan.document
        for there in current.parts:
            if there.path == layout.part_path(plan.plan.part_id):
                shutil.rmtree(stage, ignore_errors=True)
                place.sweep()  # an append that was killed right after its commit may have left something half-written
                return AppendReport(roots.heal(place, current), there, plan.report(), added=False)
        documents = [(part.path, part.document) for part in parts]
        if not mixed:
            check_alike(roots.conventions_of([("the new part", document)]), roots.conventions_of(documents))
        roots.check_names([*documents, ("the new part", document)])
        roots.combined_fields([*documents, ("the new part", document)])
        views_in(place, current)  # what is wrong with them is said before the work
        place.check_exclusive(layout.root_key(1))
        staged = _finished(stage, plan.plan.part_id, place)
        report = plan.report() if staged else run_build(plan, progress)
        staged = staged or report.root
        assert staged is not None
        entry = staged.parts[0]
        skipped = roots.read_document(LocalStorage(stage), staged.meta.skipped)
        talk("moving the new part into the store")
        _move(stage, entry, place)
        sound: set[PartEntry] = set()
        notes: list[str] = []

        def make(newest: Root) -> roots.NewRoot | None:
            if roots.has_part(newest, entry):
                return None
            entries = (*newest.parts, entry)
            for each in entries:
                if each not in sound:
                    roots.check_columns(place, each)
                    sound.add(each)
            told = roots.combined_skipped([roots.read_document(place, newest.meta.skipped), skipped])
            parts = roots.open_parts(place.url, entries)
            views, notes[:] = carried(views_in(place, newest), parts)
            return roots.root_over(parts, entries, newest, told, document_of(views))

        talk("committing the next root")
        root = roots.commit(place, make)
        shutil.rmtree(stage, ignore_errors=True)
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"appending to {place.url}") from error
    return AppendReport(root, entry, report, notes=tuple(notes))


def _finished(stage: Path, part_id: str, place: Storage) -> Root | None:
    """The store of the new part alone, where an append that was killed later had finished it."""
    try:
        root = Root.from_bytes((stage / layout.ROOT_KEY).read_bytes(), layout.ROOT_KEY)
    except (OSError, DataError):
        return None
    entry = root.parts[0]
    key = f"{entry.path}/{layout.LISTING}"
    is_somewhere = any(
        (data := each.get(key)) is not None and canonical.sha256_hex(data) == entry.listing
        for each in (LocalStorage(stage), place)
    )
    return root if is_somewhere and entry.path == layout.part_path(part_id) else None


def _move(stage: Path, entry: PartEntry, place: Storage) -> None:
    """The part, whole, below the store; there already where an append was killed after this."""
    key = f"{entry.path}/{layout.LISTING}"
    listing = place.get(key)
    if listing is None:
        try:
            if not isinstance(place, LocalStorage):
                raise OSError
            place.adopt(stage / entry.path, entry.path)
        except OSError:  # another disk, or begun by a copy that was killed, or another appender of the same was faster
            if (stage / key).exists():
                copy_part(LocalStorage(stage), entry, place, entry.path, lambda text: None)
        listing = place.get(key)
    if listing is None or canonical.sha256_hex(listing) != entry.listing:
        raise DestinationExists(
            "another part lies where the new one belongs",
            path=f"{place.url}/{entry.path}",
            hint="vla-store verify lists left-overs; remove that folder if it is one, then append again",
        )
    place.settle()


def _staging(
    place: Storage,
    sources: Sequence[Path | EpisodeSource],
    preset: str,
    conventions: dict[str, Any],
    staging: str | os.PathLike[str] | None,
) -> Path:
    """A folder that the same command finds again."""
    named = [str(each) if isinstance(each, Path) else sorted(map(str, describe(each).items())) for each in sources]
    said = [_utf8(place.url), preset, sorted(map(_utf8, named)), sorted(map(_utf8, conventions.items()))]
    name = f"append-{hashlib.sha256(canonical.dumps(said)).hexdigest()[:12]}"
    if staging is not None:
        return local_path(staging, "the staging folder") / name
    if isinstance(place, LocalStorage):
        return place.folder.with_name(f"{place.folder.name}.{name}")
    return Path(tempfile.gettempdir()) / f"vla_store-{name}"


def _utf8(value: object) -> str:
    """As text; what a path holds that is no UTF-8 is written out."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
