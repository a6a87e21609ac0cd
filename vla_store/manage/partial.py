"""Growing a store that is copied or merged to a local folder: beside it, as a build does; taking its name is the commit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vla_store.errors import DestinationExists
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.manage import roots
from vla_store.manage.transfer import part_listing
from vla_store.storage import LocalStorage, Storage, holds_only, locked, sync_folder


@contextlib.contextmanager
def growing_at(place: Storage, folders: Iterable[str] = ("parts",)) -> Iterator[Storage]:
    """Yield where the store grows, which nobody else writes to meanwhile: STORE.partial, or on other storage its place itself.

    folders: those of its parts. Raises DestinationExists, and touches nothing that is not an unfinished store's.
    """
    if not isinstance(place, LocalStorage):
        yield place
        return
    if place.folder.exists() and (not place.folder.is_dir() or any(place.folder.iterdir())):
        raise DestinationExists("the destination exists and is not a store", path=place.url, hint="choose another name")
    growing = LocalStorage(Path(layout.partial_path(place.url)))
    if growing.get(layout.BUILD_LOCK) is not None:
        raise DestinationExists(
            "an unfinished build lies where the store would grow",
            path=growing.url,
            hint="finish it or remove it, or choose another name",
        )
    own = {"meta", "roots", layout.ROOT_KEY, *folders}
    if os.path.lexists(growing.url) and not holds_only(growing.folder, own):  # `finish` tidies up in it
        raise DestinationExists(
            "the place where the store would grow is taken; nothing was touched",
            path=growing.url,
            hint="move it out of the way, or choose another name",
        )
    busy = DestinationExists(
        "another copy or merge is writing there now", path=growing.url, hint="wait for it, or choose another name"
    )
    with locked(growing.folder, busy=busy):
        yield growing


def finish(growing: Storage, place: Storage, keys: Iterable[str]) -> None:
    """Give the store, which consists of these objects, its name; what else an unfinished attempt left is removed."""
    growing.settle()
    if not isinstance(place, LocalStorage) or not isinstance(growing, LocalStorage) or growing is place:
        return
    named = set(keys)
    for key in list(growing.keys()):
        if key not in named:
            growing.remove(key)
    for folder, _, _ in os.walk(growing.folder, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)
    if place.folder.exists():
        place.folder.rmdir()
    os.rename(growing.folder, place.folder)
    sync_folder(place.folder.parent)


def keys_of(place: Storage, root: Root) -> list[str]:
    """Return the keys of every object of the parts of a root, and of the groups above them."""
    found = roots.group_keys(root)
    for entry in root.parts:
        _, objects = part_listing(place, entry)
        found += [f"{entry.path}/{each.key}" for each in objects]
        found.append(f"{entry.path}/{layout.LISTING}")
    return found
