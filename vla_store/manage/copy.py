"""`copy_store` copies a store from one place to another, each object verified by its digest; the root last."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vla_store.errors import DestinationExists, StoreDamaged, machine_errors
from vla_store.format import canonical, layout
from vla_store.format.needed import GROUP_BYTES, group_keys
from vla_store.format.schema import Root
from vla_store.format.views import views_of
from vla_store.manage import partial, roots
from vla_store.manage.result import ChangedStore
from vla_store.manage.views import views_in
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.publish.transfer import copy_part
from vla_store.storage import Storage, open_storage


@dataclass(frozen=True, repr=False)
class CopyReport(ChangedStore):
    """Result of a copy.

    Attributes
    ----------
    sent_nbytes
        Bytes of objects of parts that were sent, because they were not there already.
    notes
        One line for each damaged document of views.
    """

    sent_nbytes: int
    notes: tuple[str, ...] = ()

    def told(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield what the command says on stderr."""
        yield "note", self.notes

    def more(self) -> dict[str, Any]:
        """Return how much was sent."""
        return {"sent_nbytes": self.sent_nbytes}


@takes_progress
def copy_store(source: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: Shown = None) -> CopyReport:
    """Copy a store between any two paths or URLs; the same call resumes.

    All roots are copied, so that handles and pinned digests keep working. A local copy grows in TARGET.partial and is renamed;
    on other storage zarr.json comes last.

    Parameters
    ----------
    source, target
        Paths or URLs.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    CopyReport
        What was copied.

    Raises
    ------
    DestinationExists
        Something else is at the target.
    StoreDamaged
        The source is damaged; nothing damaged is ever made visible.
    MachineError, FetchError
        A disk or a storage fails.
    """
    talk = told_to(progress).talk
    origin, place = open_storage(source), open_storage(target)
    with machine_errors(f"copying to {place.url}"):
        root = roots.newest_root(origin)
        present = place.get(layout.ROOT_KEY)
        if present == root.to_bytes():
            return CopyReport(root, place.url, 0)
        if present is not None:
            raise DestinationExists("another store is there", store=place.url, hint="choose another name for the copy")
        documents, notes = _documents(origin, root)  # what is damaged of them is said before the work
        with partial.growing_at(place, {entry.path.partition("/")[0] for entry in root.parts}) as growing:
            sent = sum(copy_part(origin, entry, growing, entry.path, talk) for entry in root.parts)
            for key, data in documents.items():
                growing.write(key, data)
            growing.settle()
            growing.give_up_uploads()  # of a copy that was killed; all is there
            growing.write(layout.ROOT_KEY, root.to_bytes())
            partial.finish(growing, place, root, documents)
    return CopyReport(root, place.url, sent, notes)


def _documents(origin: Storage, root: Root) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return groups, small documents and roots, in the order in which they are written; and notes. Raises StoreDamaged.

    Views that only superseded roots name stop no copy where they are lost: as with such roots themselves, verify says so of both.
    """
    found = dict.fromkeys(group_keys(root), GROUP_BYTES)
    committed = {}
    notes: dict[str, str] = {}
    for generation in range(1, root.generation + 1):
        key = layout.root_key(generation)
        data = origin.get(key)
        if data is None:
            continue  # verify says so of both stores; the newest root, which is here, names all that is needed
        each = Root.from_bytes(data, key)
        for digest in (each.meta.statistics, each.meta.skipped):
            if digest is not None:
                found[layout.meta_key(digest)] = roots.document_bytes(origin, digest)
        if each.meta.views is not None and layout.meta_key(each.meta.views) not in found:
            views = layout.meta_key(each.meta.views)
            document = origin.get(views)
            if document is not None and canonical.sha256_hex(document) == each.meta.views:
                found[views] = document
                try:
                    views_of(document, each.meta.views, each.rows)
                except StoreDamaged as error:  # its bytes are whole, so they are copied
                    notes[views] = f"{views} was copied as it is, but: {error.what} ({error.places.get('found', '')})"
            elif each.meta.views != root.meta.views:
                notes[views] = (
                    f"{views} is damaged and was not copied: views of generation {generation}, which is superseded"
                )
            else:
                views_in(origin, root)  # raises
        committed[key] = data
    return found | committed, tuple(notes.values())
