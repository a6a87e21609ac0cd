"""`merge_stores`: several stores as one. Stores that lie below the new root's folder stay where they are; others are copied."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vla_store.errors import DestinationExists, OptionError, StoreDamaged, machine_errors, several
from vla_store.format import layout
from vla_store.format.conventions import check_alike
from vla_store.format.json_reader import check_key
from vla_store.format.schema import PartEntry
from vla_store.format.views import document_of
from vla_store.manage import combining, partial, roots
from vla_store.manage.result import ChangedStore
from vla_store.manage.views import carried, merged, views_in
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.publish.commit import put_documents, put_root
from vla_store.publish.transfer import copy_part
from vla_store.storage import Storage, open_storage


@dataclass(frozen=True, repr=False)
class MergeReport(ChangedStore):
    """Result of a merge.

    Attributes
    ----------
    copied_nbytes
        Bytes of parts that were copied, because they did not lie below the new root.
    notes
        One line for each view that does not cover all of the new store, or keeps nothing of a task.
    """

    copied_nbytes: int
    notes: tuple[str, ...] = ()

    def told(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield what the command says on stderr."""
        yield "note", self.notes

    def more(self) -> dict[str, Any]:
        """Return how much was copied."""
        return {"copied_nbytes": self.copied_nbytes}


@takes_progress
def merge_stores(
    stores: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    *,
    mixed: bool = False,
    progress: Shown = None,
) -> MergeReport:
    """Make one root over the parts of several stores, in the order given.

    Views go along: a view by a known rule covers all stores, any other view covers the stores that have it.

    Parameters
    ----------
    stores
        Paths or URLs of the stores; at least one.
    target
        Path or URL of a new store: the parts are copied to it. Or a folder that holds all the stores (a common parent):
        their parts stay where they are, and the new root names them there.
    mixed
        Let stores differ in orientation and observation; each source keeps its own.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    MergeReport
        The new root, and what was copied.

    Raises
    ------
    OptionError
        The stores do not fit together: a file occurs twice, cameras or fields differ, or views of one name do not say
        the same.
    DestinationExists
        A store, or something else, is at the target.
    StoreNotFound, StoreDamaged
        One of the stores is not there, or is damaged.
    MachineError, FetchError
        A disk or a storage fails.
    """
    stores = several(stores)
    talk = told_to(progress).talk
    if not stores:
        raise OptionError("nothing to merge", expected="at least one STORE")
    place = open_storage(target)
    with machine_errors(f"merging into {place.url}"):
        if place.get(layout.ROOT_KEY) is not None:
            raise DestinationExists("a store is there", store=place.url, hint="choose another name")
        origins = [open_storage(each) for each in stores]
        found = [roots.newest_root(origin) for origin in origins]
        prefixes = [_below(origin, place) for origin in origins]
        documents = [
            (f"{origin.url}/{part.path}", part.document)
            for origin, root in zip(origins, found)
            for part in roots.open_parts(origin.url, root.parts)
        ]
        if not mixed:
            check_alike(combining.conventions_of(documents))
        combining.check_names(documents)
        combining.combined_fields(documents)
        viewed = merged([(origin.url, views_in(origin, root), root.rows) for origin, root in zip(origins, found)])
        inside = all(prefix is not None for prefix in prefixes)
        place.sweep()  # after a merge in place that was killed
        with contextlib.nullcontext(place) if inside else partial.growing_at(place) as growing:
            entries: list[PartEntry] = []
            copied = 0
            for origin, root, prefix in zip(origins, found, prefixes):
                for entry in root.parts:
                    if inside:
                        talk(f"checking {prefix}/{entry.path}")
                        roots.check_columns(origin, entry)
                        entries.append(replace(entry, path=f"{prefix}/{entry.path}"))
                    else:
                        path = layout.part_path(entry.path.rpartition("/")[2])
                        copied += copy_part(origin, entry, growing, path, talk)
                        entries.append(replace(entry, path=path))
            told = combining.combined_skipped(
                [roots.read_document(origin, root.meta.skipped) for origin, root in zip(origins, found)]
            )
            if not inside:
                growing.give_up_uploads()  # of a merge that was killed; all is there
            talk("writing the root")
            parts = roots.open_parts(growing.url, tuple(entries))
            views, notes = carried(viewed, parts)
            made = combining.root_over(parts, tuple(entries), None, told, document_of(views))
            key, data = layout.root_key(1), made.root.to_bytes()
            if growing is not place:  # what lies in STORE.partial was never a store
                put_documents(growing, made)
                growing.write(key, data)
            elif not put_root(place, made, exclusively=inside):
                raise DestinationExists(
                    "a root of another store is there", store=place.url, object=key, hint="choose another place for NEW"
                )
            growing.write(layout.ROOT_KEY, data)
            partial.finish(growing, place, made.root, [key, *made.documents])
    return MergeReport(made.root, place.url, copied, tuple(notes))


def _below(store: Storage, target: Storage) -> str | None:
    """The path of a store below the target's folder, as a root can name it, or None."""
    base = target.url.rstrip("/") + "/"
    if not store.url.startswith(base):
        return None
    prefix = store.url[len(base) :].rstrip("/")
    try:
        return check_key(prefix, layout.ROOT_KEY)
    except StoreDamaged:  # a folder's name that a root cannot hold: its parts are copied
        return None
