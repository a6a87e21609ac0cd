"""`copy_store`: a store from one place to another, each object verified by its digest; the root last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vla_store.errors import DestinationExists, VlaStoreError, machine_error
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.manage import roots
from vla_store.manage.place import LocalPlace, Place, place_at
from vla_store.manage.transfer import copy_part


@dataclass(frozen=True)
class CopyReport:
    """root: of both stores. sent_nbytes: of parts that were not there already."""

    root: Root
    url: str
    sent_nbytes: int


def copy_store(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, talk: Callable[[str], None] = lambda text: None
) -> CopyReport:
    """Copy a store between any two paths or URLs; the same call resumes.

    All roots are copied, so that handles and pinned digests keep working. A local copy grows in TARGET.partial and is renamed;
    on other storage zarr.json comes last. Raises DestinationExists, StoreDamaged (nothing damaged is ever made visible).
    """
    origin, place = place_at(source), place_at(target)
    try:
        root = roots.newest_root(origin)
        present = place.read(layout.ROOT_KEY)
        if present is not None:
            there = Root.from_bytes(present, layout.ROOT_KEY)
            if there.digest == root.digest:
                return CopyReport(root, place.url, 0)
            raise DestinationExists("another store is there", store=place.url, hint="choose another name for the copy")
        if isinstance(place, LocalPlace):
            if place.folder.exists() and any(place.folder.iterdir()):
                raise DestinationExists("the destination exists and is not a store", path=place.url)
            growing: Place = LocalPlace(Path(layout.partial_path(str(place.folder))))
        else:
            growing = place
        sent = sum(copy_part(origin, entry, growing, entry.path, talk) for entry in root.parts)
        _copy_documents(origin, growing, root)
        growing.settle()
        if isinstance(place, LocalPlace) and isinstance(growing, LocalPlace):
            if place.folder.exists():
                place.folder.rmdir()
            os.rename(growing.folder, place.folder)
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"copying to {place.url}") from error
    return CopyReport(root, place.url, sent)


def remove_unfinished_copy(target: str | os.PathLike[str]) -> None:
    """Discard what an unfinished local copy left."""
    place = place_at(target)
    if isinstance(place, LocalPlace):
        shutil.rmtree(layout.partial_path(str(place.folder)), ignore_errors=True)


def group_keys(root: Root) -> list[str]:
    """The zarr.json of every group between a root and its parts, without which the hierarchy cannot be walked."""
    found: dict[str, None] = {}
    for entry in root.parts:
        segments = entry.path.split("/")[:-1]
        for count in range(1, len(segments) + 1):
            found["/".join([*segments[:count], "zarr.json"])] = None
    return list(found)


def _copy_documents(origin: Place, target: Place, root: Root) -> None:
    """Groups, small documents, roots, and zarr.json last."""
    for key in group_keys(root):
        target.write(key, origin.read(key) or roots.GROUP_BYTES)
    committed = []
    for generation in range(1, root.generation + 1):
        key = layout.root_key(generation)
        data = origin.read(key)
        if data is None:
            continue  # verify of the original says so; the newest root, which is here, names all that is needed
        each = Root.from_bytes(data, key)
        for digest in (each.meta.statistics, each.meta.skipped, each.meta.views):
            roots.read_document(origin, digest)
            document = None if digest is None else origin.read(layout.meta_key(digest))
            if document is not None and digest is not None:
                target.write(layout.meta_key(digest), document)
        committed.append((key, data))
    for key, data in committed:
        target.write(key, data)
    target.settle()
    target.write(layout.ROOT_KEY, root.to_bytes())
