"""The cache of this machine, looked after: what is in it, whether it is sound, what may go, and a store brought into it ahead of time.

Mirrors are storage's; here is what needs the format: which bytes of a part can be checked, and which of its objects a field needs.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_store.errors import DataError, MachineError, OptionError, UnknownName, machine_errors, several
from vla_store.format.canonical import sha256_hex
from vla_store.format.codecs import checked_body
from vla_store.format.listing import ObjectEntry, parse_listing
from vla_store.format.schema import Root
from vla_store.format.shard_index import find_index
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.publish.transfer import part_listing
from vla_store.reader.opening import current_root
from vla_store.storage import Contents, Range, Storage, local_path, locate
from vla_store.storage.cache import CacheFolder, Entry, existing
from vla_store.storage.mirror import PAGE, PRESENT, Mirror, layout_of, runs_of
from vla_store.storage.mirrored import MirroredStorage
from vla_store.text import MAX_LINES, Report, counted, duration_text, percent_text, size_text, table
from vla_store.types import Fetcher

PIECE_NBYTES = 8 << 20
GROUP_NBYTES = 32 << 20
AT_ONCE = 4
OF_ALL = ("index/", "episodes/")  # what every sample needs
SEALED = ("frames/", "residuals/", "backgrounds/", "episodes/attributes/")  # arrays whose chunks end with their crc32c

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


@dataclass(repr=False)
class CacheReport(Report):
    """Result of `verify_cache`.

    Attributes
    ----------
    cache
        Folder of the cache.
    checked_nbytes, unchecked_nbytes
        Bytes that were checked, and that cannot be yet: of objects that are partly here and whose checksums are not, or that have
        only one for all.
    dropped_nbytes
        Bytes that were damaged and are forgotten: they are fetched again when they are wanted.
    problems
        For each damaged object its store, part and key, and what was found.
    """

    cache: str
    checked_nbytes: int = 0
    unchecked_nbytes: int = 0
    dropped_nbytes: int = 0
    entries: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "sound": self.sound}

    def text(self) -> str:
        lines = [
            f"{'sound' if self.sound else 'DAMAGED':<13}  {self.cache}",
            f"checked        {size_text(self.checked_nbytes)} of {counted(self.entries, 'part')}",
        ]
        if self.unchecked_nbytes:
            lines.append(f"not checked    {size_text(self.unchecked_nbytes)} of objects that are partly here")
        if self.problems:
            lines.append(
                f"dropped        {size_text(self.dropped_nbytes)}, which are fetched again when they are wanted"
            )
            lines.append("               (who has the store open now may have read them)")
        lines += [f"{each['store']} {each['object']}: {each['what']}" for each in self.problems[:MAX_LINES]]
        if len(self.problems) > MAX_LINES:
            lines.append(f"... and {len(self.problems) - MAX_LINES} more (--json lists all)")
        return "\n".join(lines)


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
    folder = _existing(cache)
    with machine_errors("reading the cache", folder.path):
        entries = folder.entries()
        return CacheListing(str(folder.path), sum(each.nbytes for each in entries), tuple(map(_kept, entries)))


@takes_progress
def verify_cache(cache: Path, *, workers: int | None = None, progress: Shown = None) -> CacheReport:
    """Check all bytes of a cache that can be checked, and forget the damaged ones, which are then fetched again.

    An object that is all here must have the sha256 of its part's listing. Of a shard that is partly here each frame must have its
    crc32c. Nothing is read from afar. Processes may use the cache meanwhile.

    Parameters
    ----------
    cache
        The folder.
    workers
        Threads that hash; default one a CPU.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    CacheReport
        Damage is not raised.

    Raises
    ------
    OptionError, MachineError
        Where there is no cache, and where it cannot be read, or not be mended for want of permissions.
    """
    talk = told_to(progress).talk
    folder = _existing(cache)
    report = CacheReport(str(folder.path))
    with machine_errors("checking the cache", folder.path), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for entry in folder.entries():
            talk(f"checking {entry.about['url']} {entry.about['part']}")
            _check_entry(folder, entry, report, pool)
    return report


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
    folder = _existing(cache)
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


def _existing(cache: Path) -> CacheFolder:
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


def _check_entry(folder: CacheFolder, entry: Entry, report: CacheReport, pool: ThreadPoolExecutor) -> None:
    def problem(key: str, what: str) -> None:
        report.problems.append({"store": entry.about["url"], "object": f"{entry.about['part']}/{key}", "what": what})

    try:
        listing = entry.listing()
        if sha256_hex(listing) != entry.folder.name:
            raise DataError("the listing is not the one that the mirror is named after")
        objects = parse_listing(listing, "objects.jsonl")
        contents = Contents("", entry.folder.name, {each.key: each.size for each in objects}, listing)
        mirror = Mirror(entry.folder, contents)
    except FileNotFoundError:
        return  # it was removed meanwhile
    except (DataError, ValueError) as error:
        went = folder.remove(entry)
        report.dropped_nbytes += entry.nbytes if went else 0
        problem(
            "", f"{error}; {'removed' if went else 'in use, so it stays until nobody reads it: run this again then'}"
        )
        return
    report.entries += 1
    offsets, _ = layout_of(contents)
    for each, found in zip(objects, pool.map(lambda each: _check_object(mirror, offsets[each.key], each), objects)):
        checked, unchecked, pages, what = found
        report.checked_nbytes += checked
        report.unchecked_nbytes += unchecked
        if what:
            problem(each.key, what if mirror.writable else f"{what}; the cache is another user's, who has to mend it")
            for first, last in runs_of(np.array(sorted(pages))).tolist() if mirror.writable else ():
                mirror.drop(first, last)
                report.dropped_nbytes += (last - first) * PAGE
    mirror.settle(0)


Checked = tuple[int, int, set[int], str]  # bytes checked, bytes that cannot be, damaged pages, what is wrong


def _check_object(mirror: Mirror, offset: int, listed: ObjectEntry) -> Checked:
    """Check what is here of an object."""
    first, last = offset // PAGE, -(-(offset + listed.size) // PAGE)
    pages = first + np.flatnonzero(mirror.marks[first:last] == PRESENT)
    if not len(pages):
        return 0, 0, set(), ""
    try:
        if len(pages) < last - first:
            return _check_shard(mirror, offset, listed, set(pages.tolist()))
        digest = hashlib.sha256()
        for start in range(0, listed.size, PIECE_NBYTES):
            digest.update(mirror.load(offset + start, offset + min(start + PIECE_NBYTES, listed.size)))
    except OSError as error:
        return 0, 0, set(pages.tolist()), f"cannot be read from the disk ({error.strerror})"
    if digest.hexdigest() == listed.sha256:
        return listed.size, 0, set(), ""
    everything = set(pages.tolist())
    try:  # a few frames of a shard may be all that is wrong
        damaged = _check_shard(mirror, offset, listed, everything)[2]
    except OSError:
        damaged = everything
    return listed.size, 0, damaged or everything, "its sha256 is not the listing's"


def _check_shard(mirror: Mirror, offset: int, listed: ObjectEntry, here: set[int]) -> Checked:
    """Check the frames of a shard that are here. Raises OSError."""

    def pages_of(start: int, stop: int) -> set[int]:
        return set(range((offset + start) // PAGE, -(-(offset + stop) // PAGE)))

    tail = -(-(offset + listed.size) // PAGE)
    while tail - 1 in here:
        tail -= 1
    start, unchecked = max(0, tail * PAGE - offset), len(here) * PAGE
    if not listed.key.startswith(SEALED) or start >= listed.size:
        return 0, unchecked, set(), ""
    try:
        index = find_index(mirror.load(offset + start, offset + listed.size), listed.size)
    except DataError as error:
        return 0, 0, pages_of(start, listed.size), error.what
    if index is None:
        return 0, unchecked, set(), ""
    damaged, checked, wrong = set[int](), index.nbytes, 0
    for at, nbytes in index[(index != np.uint64(2**64 - 1)).all(axis=1)].tolist():
        pages = pages_of(at, at + nbytes)
        if not pages <= here:
            continue
        checked += nbytes
        try:
            checked_body(memoryview(mirror.load(offset + at, offset + at + nbytes)))
        except ValueError:
            damaged |= pages
            wrong += 1
    return checked, 0, damaged, f"{counted(wrong, 'frame')} of it without their crc32c" if wrong else ""


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
