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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_store.builder.build import BuildReport, Progress, build_store
from vla_store.builder.sources import EpisodeSource, describe
from vla_store.errors import DestinationExists, VlaStoreError, machine_error
from vla_store.format import canonical, layout
from vla_store.format.schema import PartEntry, Root
from vla_store.manage import roots
from vla_store.manage.place import LocalPlace, Place, place_at
from vla_store.manage.transfer import copy_part, part_listing


@dataclass(frozen=True)
class AppendReport:
    """root: the one that is current now. part: what was added. build: how it was built."""

    root: Root
    part: PartEntry
    build: BuildReport


def append_store(
    sources: Sequence[str | Path | EpisodeSource],
    store: str | os.PathLike[str],
    *,
    preset: str | None = None,
    staging: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> AppendReport:
    """Add every step of `sources` to a store, as one more part.

    preset: default that of the store's last part. staging: a local folder for the part while it is built; default beside a
    local store, else in the folder for temporary files. options: as for `build_store`.
    Readers that hold the old root go on to see the old store. Raises what `build_store` raises; OptionError where the sources
    do not fit the store, or its storage cannot create an object exclusively.
    """
    place = place_at(store)
    talk = progress.talk if progress else lambda text: None
    try:
        current = roots.newest_root(place)
        parts = roots.open_parts(place.url, current.parts)
        chosen = preset or str(parts[-1].document.plan.get("options", {}).get("preset", "fast"))
        stage = _staging(place, sources, chosen, options, staging)
        plan = build_store(sources, stage, preset=chosen, dry_run=True, **{**options, "overwrite": True})
        for there in current.parts:
            if there.path == layout.part_path(plan.part_id):  # the reply of a commit was lost, or it was called twice
                shutil.rmtree(stage, ignore_errors=True)
                return AppendReport(roots.heal(place, current), there, plan)
        documents = [(part.path, part.document) for part in parts] + [("the new part", plan.document)]
        roots.check_names(documents)
        roots.combined_fields(documents)
        report, staged = _staged(sources, stage, plan, chosen, progress, options)
        entry = staged.parts[0]
        talk("moving the new part into the store")
        _move(stage, entry, place)
        skipped = roots.read_document(LocalPlace(stage), staged.meta.skipped)

        def make(newest: Root) -> roots.NewRoot | None:
            if roots.has_part(newest, entry):
                return None
            entries = (*newest.parts, entry)
            told = roots.combined_skipped([roots.read_document(place, newest.meta.skipped), skipped])
            return roots.root_over(roots.open_parts(place.url, entries), entries, newest, told)

        talk("committing the next root")
        root = roots.commit(place, make)
        shutil.rmtree(stage, ignore_errors=True)
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"appending to {place.url}") from error
    return AppendReport(root, entry, report)


def _staged(
    sources: Sequence[str | Path | EpisodeSource],
    stage: Path,
    plan: BuildReport,
    preset: str,
    progress: Progress | None,
    options: dict[str, Any],
) -> tuple[BuildReport, Root]:
    """The store of the new part alone, built, or as an append that was killed later had finished it."""
    path = stage / layout.ROOT_KEY
    if path.exists():
        root = Root.from_bytes(path.read_bytes(), layout.ROOT_KEY)
        if root.parts[0].path == layout.part_path(plan.part_id):
            return plan, root
        shutil.rmtree(stage)  # of sources that have changed since
    report = build_store(sources, stage, preset=preset, progress=progress, **options)
    assert report.root is not None
    return report, report.root


def _move(stage: Path, entry: PartEntry, place: Place) -> None:
    """The part, whole, below the store; there already where an append was killed after this."""
    source = stage / entry.path
    if not isinstance(place, LocalPlace):
        copy_part(LocalPlace(stage), entry, place, entry.path, lambda text: None)
        return
    target = place.folder / entry.path
    if source.exists() and not target.exists():
        target.parent.mkdir(exist_ok=True)
        try:
            os.rename(source, target)
        except OSError:
            if not target.exists():  # another file system, or another appender of the same was faster
                copy_part(LocalPlace(stage), entry, place, entry.path, lambda text: None)
    listing = place.read(f"{entry.path}/{layout.LISTING}")
    if listing is None or canonical.sha256_hex(listing) != entry.listing:
        raise DestinationExists(
            "another part lies where the new one belongs",
            path=target,
            hint="vla-store verify lists left-overs; remove that folder if it is one, then append again",
        )
    part_listing(place, entry)
    place.settle()


def _staging(
    place: Place, sources: Sequence[Any], preset: str, options: dict[str, Any], staging: str | Path | None
) -> Path:
    """A folder that the same command finds again."""
    named = [str(each) if isinstance(each, (str, Path)) else describe(each)["type"] for each in sources]
    conventions = [str(options.get(key)) for key in ("orientation", "observation", "skip_bad")]
    digest = hashlib.sha256(canonical.dumps([place.url, preset, sorted(named), conventions])).hexdigest()[:12]
    if staging is not None:
        return Path(staging).absolute() / f"append-{digest}"
    if isinstance(place, LocalPlace):
        return place.folder.with_name(f"{place.folder.name}.append-{digest}")
    return Path(tempfile.gettempdir()) / f"vla_store-append-{digest}"
