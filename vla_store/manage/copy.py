"""`copy_store`: a store from one place to another, each object verified by its digest; the root last."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from vla_store.errors import DestinationExists, VlaStoreError, machine_error
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.manage import partial, roots
from vla_store.manage.place import Place, place_at
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
        growing = partial.begin(place)
        sent = sum(copy_part(origin, entry, growing, entry.path, talk) for entry in root.parts)
        documents = _documents(origin, root)
        for key, data in documents.items():
            growing.write(key, data)
        growing.settle()
        growing.write(layout.ROOT_KEY, root.to_bytes())
        partial.finish(growing, place, [layout.ROOT_KEY, *documents, *partial.keys_of(growing, root)])
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, f"copying to {place.url}") from error
    return CopyReport(root, place.url, sent)


def _documents(origin: Place, root: Root) -> dict[str, bytes]:
    """Groups, small documents and roots, in the order in which they are written. Raises StoreDamaged."""
    found = dict.fromkeys(roots.group_keys(root), roots.GROUP_BYTES)
    committed = {}
    for generation in range(1, root.generation + 1):
        key = layout.root_key(generation)
        data = origin.read(key)
        if data is None:
            continue  # verify says so of both stores; the newest root, which is here, names all that is needed
        each = Root.from_bytes(data, key)
        for digest in (each.meta.statistics, each.meta.skipped, each.meta.views):
            if digest is not None:
                found[layout.meta_key(digest)] = roots.document_bytes(origin, digest)
        committed[key] = data
    return found | committed
