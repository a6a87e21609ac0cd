"""Growing a store that is copied or merged to a local folder: beside it, as a build does; taking its name is the commit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vla_store.errors import DestinationExists
from vla_store.format import layout
from vla_store.format.needed import group_keys
from vla_store.format.schema import Root
from vla_store.publish.transfer import part_listing
from vla_store.storage import LocalStorage, Storage, holds_only, is_url, locked, sync_folder


@contextlib.contextmanager
def growing_at(place: Storage, folders: Iterable[str] = ("parts",)) -> Iterator[Storage]:
    """Yield the storage where a store grows: STORE.partial, or at a URL its place itself.

    STORE.partial is locked meanwhile, so that nobody else writes to it; a place at a URL is not.

    Parameters
    ----------
    place
        Where the store shall be.
    folders
        Names of the folders of its parts; default "parts".

    Yields
    ------
    Storage
        Where to write the store's objects.

    Raises
    ------
    DestinationExists
        Not at a URL: something is there that is not an unfinished store's, which is not touched; or another copy or
        merge is writing.
    """
    if is_url(place.url):
        yield place
        return
    target = Path(os.path.realpath(place.url))  # a link says which disk the store belongs on
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DestinationExists("the destination exists and is not a store", path=target, hint="choose another name")
    folder = Path(layout.partial_path(str(target)))
    if (folder / layout.BUILD_LOCK).exists():
        raise DestinationExists(
            "an unfinished build lies where the store would grow",
            path=folder,
            hint="finish it or remove it, or choose another name",
        )
    own = {"meta", "roots", layout.ROOT_KEY, *folders}
    if os.path.lexists(folder) and not holds_only(folder, own):  # `finish` tidies up in it
        raise DestinationExists(
            "the place where the store would grow is taken; nothing was touched",
            path=folder,
            hint="move it out of the way, or choose another name",
        )
    busy = DestinationExists(
        "another copy or merge is writing there now", path=folder, hint="wait for it, or choose another name"
    )
    with locked(folder, busy=busy):
        yield LocalStorage(folder, mapped=False)


def finish(growing: Storage, place: Storage, root: Root, others: Iterable[str]) -> None:
    """Give the store of this root its name; what else an unfinished attempt left is removed.

    Parameters
    ----------
    growing
        What `growing_at` gave.
    place
        Where the store shall be.
    root
        The store's root, whose parts are whole.
    others
        Keys of the other roots and documents to keep.

    Raises
    ------
    StoreDamaged
        The listing of a part is missing or changed.
    """
    growing.settle()
    if growing is place:
        return
    named = {layout.ROOT_KEY, *others, *group_keys(root)}
    for entry in root.parts:
        _, objects = part_listing(growing, entry)
        named.update(f"{entry.path}/{key}" for key in (layout.LISTING, *(each.key for each in objects)))
    for key in growing.keys():  # noqa: SIM118
        if key not in named:
            growing.remove(key)
    for folder, _, _ in os.walk(growing.url, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)
    target = growing.url.removesuffix(layout.partial_path(""))
    os.rename(growing.url, target)
    sync_folder(os.path.dirname(target))
