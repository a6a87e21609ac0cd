"""A store that is copied or merged to a local folder grows beside it, as a build does; taking its name is the commit."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vla_store.errors import DestinationExists
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.manage import roots
from vla_store.manage.place import TEMPORARY, LocalPlace, Place
from vla_store.manage.transfer import part_listing

LOCK = "build.lock"  # what an unfinished build has


@contextlib.contextmanager
def growing_at(place: Place, folders: Iterable[str] = ("parts",)) -> Iterator[Place]:
    """Where the store grows, which nobody else writes to meanwhile: STORE.partial, or on other storage its place itself.

    folders: those of its parts. Raises DestinationExists, and touches nothing that is not an unfinished store's.
    """
    if not isinstance(place, LocalPlace):
        yield place
        return
    if place.folder.exists() and (not place.folder.is_dir() or any(place.folder.iterdir())):
        raise DestinationExists("the destination exists and is not a store", path=place.url, hint="choose another name")
    growing = LocalPlace(Path(layout.partial_path(place.url)))
    if growing.size(LOCK) is not None:
        raise DestinationExists(
            "an unfinished build lies where the store would grow",
            path=growing.url,
            hint="finish it or remove it, or choose another name",
        )
    _check_own(growing.folder, {"meta", "roots", layout.ROOT_KEY, *folders})
    with _held(growing.folder):
        yield growing


def _check_own(folder: Path, own: set[str]) -> None:
    """Raises DestinationExists for a folder that holds more than an unfinished store: `finish` tidies up in it."""
    if not folder.exists() and not folder.is_symlink():
        return
    if (
        folder.is_symlink()
        or not folder.is_dir()
        or not all(x in own or x.endswith(TEMPORARY) for x in os.listdir(folder))
    ):
        raise DestinationExists(
            "the place where the store would grow is taken; nothing was touched",
            path=folder,
            hint="move it out of the way, or choose another name",
        )


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A lock on a folder, made if need be, which ends with its holder; none on file systems that have none."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # who was there has just given the store its name
                continue
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DestinationExists(
                    "another copy or merge is writing there now",
                    path=folder,
                    hint="wait for it, or choose another name",
                ) from None
            except OSError:  # no locks here
                pass
            try:
                if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                    continue
            except FileNotFoundError:
                continue
            yield
            return


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
