"""Whether the cache of this machine is sound: which bytes of a part can be checked, checked."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_store.errors import DataError, machine_errors
from vla_store.format.canonical import sha256_hex
from vla_store.format.codecs import checked_body
from vla_store.format.listing import ObjectEntry, parse_listing
from vla_store.format.shard_index import find_index
from vla_store.manage.cache import Path, existing_cache
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.storage import Contents
from vla_store.storage.cache import CacheFolder, Entry
from vla_store.storage.mirror import PAGE, PRESENT, Mirror, layout_of, runs_of
from vla_store.text import MAX_LINES, Report, counted, size_text

PIECE_NBYTES = 8 << 20
SEALED = ("frames/", "residuals/", "backgrounds/", "episodes/attributes/")  # arrays whose chunks end with their crc32c


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
    folder = existing_cache(cache)
    report = CacheReport(str(folder.path))
    with machine_errors("checking the cache", folder.path), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for entry in folder.entries():
            talk(f"checking {entry.about['url']} {entry.about['part']}")
            _check_entry(folder, entry, report, pool)
    return report


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
