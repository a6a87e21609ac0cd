"""`repair_store`: rewrites exactly the objects that `verify` finds damaged or missing, from the source, and nothing else.

What a store says of itself twice is restored from itself: a root from the other copy of it, a listing from the objects, a group
from the constant. Everything else of a part is encoded again from its sources, by the plan whose digest is the part's name, and is
put in place only where its sha256 is the one that the part's listing names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vla_store.audit import verify_store
from vla_store.errors import StoreDamaged, machine_errors
from vla_store.format import layout
from vla_store.format.needed import group_keys
from vla_store.manage import roots
from vla_store.manage.rebuild import Sources, repair_part
from vla_store.manage.restore import ViewsLost, group_bytes, newest_sound_root, restore_meta, restore_superseded
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.sources.find import Given, named_sources
from vla_store.storage import Storage, open_storage
from vla_store.text import MAX_LINES, Report, counted


@dataclass(frozen=True, repr=False)
class RepairReport(Report):
    """Result of a repair.

    Attributes
    ----------
    url
        Where the store is: an absolute path, or a URL.
    repaired
        Keys of the objects that were rewritten, below the store.
    sound
        True if `verify_store` finds no problem now.
    """

    url: str
    repaired: tuple[str, ...]
    sound: bool

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return dict(sorted(vars(self).items()))

    def text(self) -> str:
        """Return it for people."""
        lines = [f"rewritten      {key}" for key in self.repaired[:MAX_LINES]]
        if len(self.repaired) > MAX_LINES:
            lines.append(f"               ... and {len(self.repaired) - MAX_LINES} more (--json lists all)")
        return "\n".join([*lines, f"{'sound' if self.sound else 'DAMAGED':<13}  {self.url}"])


@takes_progress
def repair_store(
    store: str | os.PathLike[str],
    sources: Given | Sequence[Given],
    *,
    progress: Shown = None,
) -> RepairReport:
    """Rewrite the damaged and missing objects of a store from the sources that it was built from.

    Parameters
    ----------
    store
        A path, or a URL that can be written.
    sources
        What the store was built from, in any form that `build_store` takes; all sources of a damaged part must be
        given.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    RepairReport
        What was rewritten, and whether the store is sound now.

    Raises
    ------
    StoreDamaged
        An object cannot be restored: the source is not the one the store was built from, or nothing else tells what it
        was.
    OptionError
        A damaged part was not built from these sources.
    StoreNotFound
        There is no store.
    SourceNotFound, SourceError
        A source is not there, or cannot be read.
    MachineError, FetchError
        A disk or a storage fails.
    """
    talk = told_to(progress).talk
    place = open_storage(store)
    given = named_sources(sources)
    repaired: list[str] = []
    lost: StoreDamaged | None = None  # views, which stop nothing else
    with machine_errors(f"repairing {place.url}"):
        place.check_writable()
        # Damage can hide damage: with a listing restored, its objects can be checked.
        for _ in range(4):
            report = verify_store(place.url)
            damaged = [each.object for each in report.problems if each.object and each.object not in repaired]
            if not damaged:
                break
            talk(f"{counted(len(damaged), 'object')} to repair")
            done, lost = _repair(place, damaged, given, talk)
            repaired += done
            if not done:
                break
        roots.sweep_documents(place)
        place.settle()
        if lost is not None:
            raise lost.at(repaired=f"{len(repaired)} other objects" if repaired else None)
    return RepairReport(place.url, tuple(repaired), verify_store(place.url).sound)


def _repair(
    place: Storage, damaged: list[str], sources: Sources, talk: Callable[[str], None]
) -> tuple[list[str], StoreDamaged | None]:
    """Restore what can be restored now; the keys that were, and an error on views that cannot be. What depends on other objects
    comes after them."""
    root = newest_sound_root(place)
    copies = {layout.ROOT_KEY, layout.root_key(root.generation)}
    done: list[str] = []
    for key in damaged:
        if key in copies:
            place.write(key, root.to_bytes())
            done.append(key)
        elif key.endswith("zarr.json") and key in group_keys(root):
            place.write(key, group_bytes(place, key.removesuffix("/zarr.json")))
            done.append(key)
    for entry in root.parts:
        keys = [key for key in damaged if key.startswith(f"{entry.path}/")]
        if keys:
            done += repair_part(place, root, entry, keys, sources, talk)
    lost = None
    for key in damaged:
        if key.startswith("meta/"):
            try:
                done += restore_meta(place, root, key, sources)
            except ViewsLost as error:
                lost = error
    for key in sorted(damaged, reverse=True):  # the newest first: each names the one before it
        if key.startswith("roots/") and key not in copies:
            done += restore_superseded(place, root, key)
    return done, lost
