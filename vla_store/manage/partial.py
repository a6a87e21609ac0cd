"""A store that is copied or merged to a local folder grows beside it, as a build does; taking its name is the commit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vla_store.errors import DestinationExists
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.manage import roots
from vla_store.manage.place import LocalPlace, Place
from vla_store.manage.transfer import part_listing

LOCK = "build.lock"  # what an unfinished build has


def begin(place: Place) -> Place:
    """Where the store grows: STORE.partial, or on other storage its place itself. Raises DestinationExists."""
    if not isinstance(place, LocalPlace):
        return place
    if place.folder.exists() and (not place.folder.is_dir() or any(place.folder.iterdir())):
        raise DestinationExists("the destination exists and is not a store", path=place.url, hint="choose another name")
    growing = LocalPlace(Path(layout.partial_path(place.url)))
    if growing.size(LOCK) is not None:
        raise DestinationExists(
            "an unfinished build lies where the store would grow",
            path=growing.url,
            hint="finish it or remove it, or choose another name",
        )
    return growing


def finish(growing: Place, place: Place, keys: Iterable[str]) -> None:
    """Give the store, which consists of these objects, its name; what else an unfinished attempt left is removed."""
    growing.settle()
    if not isinstance(place, LocalPlace) or not isinstance(growing, LocalPlace) or growing is place:
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
    above = LocalPlace(place.folder.parent)
    above.adopt(growing.folder, place.folder.name)
    above.settle()


def keys_of(place: Place, root: Root) -> list[str]:
    """Every object of the parts of a root, and of the groups above them."""
    found = roots.group_keys(root)
    for entry in root.parts:
        _, objects = part_listing(place, entry)
        found += [f"{entry.path}/{each.key}" for each in objects]
        found.append(f"{entry.path}/{layout.LISTING}")
    return found
