"""The cache of this machine, looked after: what is in it, what may go, and a store brought into it ahead of time.

Mirrors are storage's; here is what needs the format: which of its objects a field needs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vla_store.errors import MachineError, OptionError, UnknownName, machine_errors, several
from vla_store.format.schema import Root
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.publish.transfer import part_listing
from vla_store.reader.opening import current_root
from vla_store.storage import Contents, Range, Storage, local_path, locate
from vla_store.storage.cache import CacheFolder, Entry, existing
from vla_store.storage.mirror import PAGE
from vla_store.storage.mirrored import MirroredStorage
from vla_store.text import MAX_LINES, Report, counted, duration_text, percent_text, size_text, table
from vla_store.types import Fetcher

GROUP_NBYTES = 32 << 20
AT_ONCE = 4
OF_ALL = ("index/", "episodes/")  # what every sample needs

Path = str | os.PathLike[str]
Talk = Callable[[str], None]


@dataclass(frozen=True)
class Kept:
    """What a cache has of one part of a store.

    Attributes
    ----------
    store, part
        Where it came from first: copies of a store share it.
    nbytes, all_nbytes
        Bytes that are here, and of all of the part.
    used
        When it was last opened, in seconds since 1970.
    users
        Processes that have it open now, as far as the system tells.
    is_used
        Whether any has.
    """

    store: str
    part: str
    nbytes: int
    all_nbytes: int
    used: float
    users: tuple[int, ...]
    is_used: bool


@dataclass(frozen=True, repr=False)
class CacheListing(Report):
    """What is in a cache, the least recently used first. nbytes: that it takes on the disk."""

    cache: str
    nbytes: int
    entries: tuple[Kept, ...]

    def to_json(self) -> dict[str, Any]:
        return {"cache": self.cache, "nbytes": self.nbytes, "entries": [vars(each) for each in self.entries]}

    def text(self) -> str:
        head = f"cache          {self.cache}\ntakes          {size_text(self.nbytes)}"
        rows = [
            [
                f"{each.store} {each.part}",
                size_text(each.nbytes),
                percent_text(each.nbytes, each.all_nbytes),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)),
                ", ".join(map(str, each.users)) or ("yes" if each.is_used else "-"),
            ]
            for each in self.entries
        ]
        return (
            f"{head}\n\n{table(('store and part', 'here', 'of all', 'last used', 'in use by'), rows)}" if rows else head
        )


@dataclass(frozen=True, repr=False)
class PruneReport(Report):
    """Result of `prune_cache`: what was removed, what is left, and which of that is in use."""

    cache: str
    removed: tuple[Kept, ...]
    freed_nbytes: int
    left_nbytes: int
    in_use: tuple[Kept, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "removed": [vars(each) for each in self.removed],
            "in_use": [vars(each) for each in self.in_use],
        }

    def text(self) -> str:
        lines = [
            f"freed          {size_text(self.freed_nbytes)} of {counted(len(self.removed), 'part')}",
            f"left           {size_text(self.left_nbytes)} in {self.cache}",
        ]
        lines += [f"removed        {each.store} {each.part}" for each in self.removed[:MAX_LINES]]
        for each in self.in_use[:MAX_LINES]:
            by = f" by {', '.join(map(str, each.users))}" if each.users else ""
            lines.append(f"in use{by:<9}  {each.store} {each.part}: kept")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class FillReport(Report):
    """Result of `fill_cache`: bytes that are wanted of the store, and those that this call fetched."""

    store: str
    cache: str
    nbytes: int
    fetched_nbytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def text(self) -> str:
        rate = f", {size_text(self.fetched_nbytes / self.seconds)}/s" if self.fetched_nbytes and self.seconds else ""
        return "\n".join(
            [
                f"store          {self.store}",
                f"cache          {self.cache}",
                f"here           {size_text(self.nbytes)}",
                f"fetched        {size_text(self.fetched_nbytes)} in {duration_text(self.seconds)}{rate}",
            ]
        )


def list_cache(cache: Path) -> CacheListing:
    """Say what is in a cache. Raises OptionError where there is none, MachineError."""
    folder = existing_cache(cache)
    with machine_errors("reading the cache", folder.path):
        entries = folder.entries()
        return CacheListing(str(folder.path), sum(each.nbytes for each in entries), tuple(map(_kept, entries)))


def prune_cache(cache: Path, *, to: int = 0) -> PruneReport:
    """Remove what nobody uses from a cache, the least recently used first, until it takes at most `to` bytes.

    Returns
    -------
    PruneReport
        What is in use stays, also where the cache then takes more.

    Raises
    ------
    OptionError, MachineError
        Where there is no cache, and where it cannot be read.
    """
    folder = existing_cache(cache)
    with machine_errors("pruning the cache", folder.path):
        folder.sweep()
        before = {each.folder: each for each in folder.entries()}
        total = sum(each.nbytes for each in before.values())
        told = {place: _kept(each) for place, each in before.items()}  # before they go
        removed = folder.prune(total - to if to else sys.maxsize)
        left = folder.entries()
    left_nbytes = sum(each.nbytes for each in left)
    in_use = tuple(kept for each in left if left_nbytes > to and (kept := _kept(each)).is_used)
    freed = tuple(told[each.folder] for each in removed)
    return PruneReport(str(folder.path), freed, sum(each.nbytes for each in removed), left_nbytes, in_use)


@takes_progress
def fill_cache(
    store: Path,
    *,
    fields: str | Sequence[str] | None = None,
    cache: Path | None = None,
    cache_size: str | int | None = None,
    fetcher: Fetcher | None = None,
    progress: Shown = None,
) -> FillReport:
    """Bring a store into the cache, so that nothing of it has to be fetched later. What is there is not fetched again.

    Parameters
    ----------
    store
        A path or URL.
    fields
        Name of the field to bring, or names of several, with all that every sample needs; None for all.
    cache, cache_size, fetcher
        As for `open_store`.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    FillReport

    Raises
    ------
    OptionError
        Where no cache is named, or the store does not fit into its size.
    MachineError
        Where the cache cannot be written, or the disk has too little room.
    UnknownName, StoreNotFound, StoreDamaged, FetchError
        Where the store has no such field, or cannot be read.
    """
    talk = told_to(progress).talk
    began = time.monotonic()
    location = locate(store, fetcher, cache=cache, cache_size=cache_size)
    if location.cache is None:
        raise OptionError("no cache is named", hint="give cache=, or set VLA_STORE_CACHE to a folder on a local disk")
    with machine_errors("making the cache", location.cache[0]):
        folder = CacheFolder(*location.cache)
    if not os.access(folder.path, os.W_OK):
        raise MachineError("this cache cannot be written to", path=folder.path, hint="check the permissions")
    storage = location.open()
    assert isinstance(storage, MirroredStorage)
    root = current_root(location, storage, None)
    fields = None if fields is None else several(fields)
    for name in fields or ():
        if name not in root.fields:
            raise UnknownName.among("field", name, list(root.fields), store=location.url)
    sizes = _wanted(storage, root, fields)
    absent = {key: storage.absent_nbytes(key) for key in sizes}
    if None in absent.values():
        raise MachineError("the cache has no place for this store", path=folder.path, store=location.url)
    needed = sum(each or 0 for each in absent.values())
    _check_room(folder, {each.listing for each in root.parts}, needed)
    before, brought = storage.traffic.nbytes, 0
    for nbytes in _bring(storage, [(key, 0, size) for key, size in sizes.items() if absent[key]]):
        brought += nbytes
        seconds = time.monotonic() - began
        left = max(0, needed - brought) * seconds / max(1, brought)
        talk(
            f"filling the cache: {size_text(min(brought, needed))} of {size_text(needed)}, {size_text(brought / seconds)}/s, "
            f"{duration_text(left)} left"
        )
    missing = sum(storage.absent_nbytes(key) or 0 for key in sizes)
    storage.settle()
    if missing:
        raise MachineError(
            "not all of the store came into the cache",
            store=location.url,
            path=folder.path,
            found=f"{size_text(missing)} are not there",
            hint="free some space, then run the same command again: it goes on",
        )
    # Another process may have brought some of it; storage that is near, as a mounted folder is, does not count.
    fetched = needed if storage.inner.is_near else storage.traffic.nbytes - before
    return FillReport(location.url, str(folder.path), sum(sizes.values()), fetched, time.monotonic() - began)


def existing_cache(cache: Path) -> CacheFolder:
    """Return the folder of a cache that is there. Raises OptionError, MachineError."""
    path = local_path(cache, "a cache")
    with machine_errors("opening the cache", path):
        return existing(path)


def _kept(entry: Entry) -> Kept:
    users = tuple(entry.users)
    return Kept(
        str(entry.about["url"]),
        str(entry.about["part"]),
        entry.present_nbytes,
        entry.all_nbytes,
        entry.used,
        users,
        bool(users) or entry.is_used,
    )


def _wanted(storage: Storage, root: Root, fields: Sequence[str] | None) -> dict[str, int]:
    """Return the keys and sizes of the objects to bring, of which storage is told."""
    sizes: dict[str, int] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for entry, (listing, objects) in zip(
            root.parts, pool.map(lambda each: part_listing(storage, each), root.parts)
        ):
            of_part = {f"{entry.path}/{each.key}": each.size for each in objects}
            storage.know(Contents(entry.path, entry.listing, of_part, listing))
            for each in objects:
                folders = each.key.split("/")
                if fields is None or len(folders) < 3 or each.key.startswith(OF_ALL) or folders[1] in fields:
                    sizes[f"{entry.path}/{each.key}"] = each.size
    return sizes


def _check_room(folder: CacheFolder, own: set[str], needed: int) -> None:
    """Raise OptionError, MachineError where so many bytes more do not fit, with all gone that nobody uses and that is not of this store."""
    others = [each for each in folder.entries() if each.folder.name not in own]
    room = folder.room() + sum(each.nbytes for each in others if not each.is_used)
    if needed <= room:
        return
    cases: dict[str, Any] = {"needed": size_text(needed), "room": size_text(room), "cache": folder.path}
    if folder.size is not None:
        raise OptionError(
            f"this does not fit into a cache of {size_text(folder.size)}",
            hint="give a larger --cache-size, or fewer fields by --field; a store larger than its cache is read well with "
            'shuffle="blocks"',
            **cases,
        )
    raise MachineError(
        "this does not fit on the disk of the cache",
        hint="free some space, name another folder by --cache, or fewer fields by --field; a store larger than its cache is "
        'read well with shuffle="blocks"',
        **cases,
    )


def _bring(storage: Storage, objects: list[Range]) -> Iterator[int]:
    """Fetch objects into the cache, some megabytes at a time and several beside each other; yield the bytes as they come."""

    def bring(ranges: list[Range]) -> int:
        storage.fetch_ahead(ranges)
        return sum(stop - start for _, start, stop in ranges)

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(bring, list(_groups(objects)))
    finally:
        pool.shutdown(cancel_futures=True)


def _groups(objects: list[Range]) -> Iterator[list[Range]]:
    group: list[Range] = []
    room = GROUP_NBYTES
    for key, _, size in objects:
        start = 0
        while start < size:
            stop = min(size, start + room // PAGE * PAGE)  # a page is fetched once
            group.append((key, start, stop))
            room -= stop - start
            start = stop
            if room < PAGE:
                yield group
                group, room = [], GROUP_NBYTES
    if group:
        yield group
