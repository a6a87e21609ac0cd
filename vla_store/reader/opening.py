"""Finding the root of a store: the current one, a pinned one, or why there is none."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from vla_store.errors import OptionError, StoreDamaged, StoreNotFound, StoreUnfinished, VlaStoreError
from vla_store.format import layout
from vla_store.format.schema import MAX_ROOT_BYTES, Root
from vla_store.storage import LocalStorage, Location, ObjectMissing, Storage, is_held, is_url, read_document
from vla_store.text import shown

_FOLDER = "give the folder that `vla-store build` wrote"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"


def current_root(location: Location, fetcher: Storage, digest: str | None) -> Root:
    """Return the root that zarr.json holds; with `digest`, that root, however old.

    Raises StoreNotFound, StoreUnfinished, StoreDamaged.
    """
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", str(digest)):
        raise OptionError("digest is 64 hex digits, as `vla-store info` prints them", found=repr(digest)[:100])
    try:
        data = read_document(fetcher, layout.ROOT_KEY, MAX_ROOT_BYTES)
    except ObjectMissing:
        raise no_store(location.url) from None
    if b'"vla_store"' not in data:
        raise StoreDamaged(
            "not a vla_store",
            store=location.url,
            found="a zarr.json of something else",
            hint=_FOLDER,
        )
    try:
        root = Root.from_bytes(data, layout.ROOT_KEY)
    except VlaStoreError as error:
        raise error.at(store=location.url) from None
    return root if digest is None or root.digest == digest else _search(location, fetcher, root, digest)


def pinned_root(location: Location, fetcher: Storage, generation: int, digest: str) -> Root:
    """Root `generation`, which a handle saw before. Raises StoreNotFound, StoreDamaged."""
    key = layout.root_key(generation)
    try:
        root = Root.from_bytes(read_document(fetcher, key, MAX_ROOT_BYTES), key)
    except ObjectMissing as error:
        is_gone = location.is_local and not os.path.exists(os.path.join(location.url, layout.ROOT_KEY))
        raise (no_store(location.url) if is_gone else error.at(store=location.url)) from None
    if root.digest != digest:
        raise StoreDamaged(
            "another store is where this handle's store was",
            store=location.url,
            object=key,
            expected=f"root {digest}",
            found=f"root {root.digest}",
            hint="it was built anew since the handle was made: open it again",
        )
    return root


def _search(location: Location, fetcher: Storage, current: Root, digest: str) -> Root:
    """Return the root with this digest, among those before `current`, then those after it that zarr.json does not name yet."""
    generations = [*range(current.generation - 1, 0, -1), current.generation + 1]
    for generation in generations:
        try:
            key = layout.root_key(generation)
            root = Root.from_bytes(read_document(fetcher, key, MAX_ROOT_BYTES), key)
        except ObjectMissing:
            continue
        if root.digest == digest:
            return root
    raise StoreDamaged(
        "the store does not have the root that was asked for",
        store=location.url,
        expected=f"a root {digest}",
        found=f"root {current.digest} of generation {current.generation}",
        hint="it is another store, or it was built anew; leave `digest` out to open what is there",
    )


def no_store(place: str) -> VlaStoreError:
    """Return the error for a place without a zarr.json: what is there instead, and what to do about it."""
    import shlex

    if is_url(place):
        return StoreNotFound("no store at this URL", store=place, hint="check the URL: it must hold zarr.json")
    if os.path.isfile(place):
        magic = LocalStorage(os.path.dirname(place), mapped=False).head(os.path.basename(place), len(_HDF5_MAGIC))
        found, hint = "a file", "a store is a folder: " + _FOLDER
        if magic == _HDF5_MAGIC:
            found, hint = "an HDF5 file", f"build a store of it first: vla-store build {shlex.quote(place)} STORE"
        elif magic.startswith(_ZIP_MAGIC):
            found, hint = (
                "a zip archive",
                f"unpack it; if a store is at its top, {shlex.quote(f'zip::{place}')} reads it",
            )
        return StoreDamaged("not a vla_store", store=place, found=found, hint=hint)
    if place.endswith(".partial") and os.path.isdir(place):
        return _unfinished(place)
    if any(os.path.exists(os.path.join(place, name)) for name in (".zgroup", ".zarray", ".zmetadata")):
        return StoreDamaged("not a vla_store", store=place, found="Zarr of version 2", hint=_FOLDER)
    if any(os.path.exists(os.path.join(place, name)) for name in ("parts", "roots")):
        return StoreDamaged(
            "a store without its zarr.json",
            store=place,
            hint=f"copy the newest file of roots/ to zarr.json, or: vla-store repair {shlex.quote(place)} --from SOURCE",
        )
    if os.path.isdir(layout.partial_path(place)):
        return _unfinished(layout.partial_path(place))
    if not os.path.exists(place):
        return StoreNotFound("no store at this path", store=place, hint="check the path; `vla-store build` makes one")
    return StoreNotFound(
        "this folder is not a vla_store",
        store=place,
        expected="a folder with zarr.json",
        hint=f"if it holds demonstrations, build a store of them first: vla-store build {shlex.quote(place)} STORE",
    )


def _unfinished(partial: str) -> StoreUnfinished:
    """Return the error for a build that was stopped, or goes on now: then who is at it, and how far, if it says so."""
    # A copy or a merge locks the folder.
    is_running = any(map(is_held, (os.path.join(partial, layout.BUILD_LOCK), partial)))
    status = _status(partial)
    share = status.get("done_nbytes", 0) / max(1, status.get("nbytes", 0))
    places = {
        "store": partial.removesuffix(".partial"),
        "found": partial,
        "process": f"{status['pid']} on {status['host']}" if is_running and status else None,
        "encoded": f"{share:.0%} of the data" if status else None,
    }
    if is_running:
        return StoreUnfinished(
            "this store is being written now",
            **places,
            hint="wait until it is done: it then has its name, and can be read",
        )
    return StoreUnfinished(
        "the build of this store is unfinished",
        **places,
        hint="run the same `vla-store build` command again: it resumes",
    )


def _status(partial: str) -> dict[str, Any]:
    """Return what a build says of itself, in its lock; {} where it says nothing, as other versions do."""
    try:
        found = json.loads(LocalStorage(partial, mapped=False).get(layout.BUILD_LOCK) or b"{}")
        numbers = {name: int(found[name]) for name in ("done_nbytes", "nbytes", "pid")}
        return numbers | {"host": shown(str(found["host"]))}
    except (KeyError, TypeError, ValueError):
        return {}
