"""Far storage with mirrors of its parts on this machine: what is there is read as local files are, the rest is fetched.

Two places keep mirrors. The cache lasts, and is shared by all processes of the machine; the transient folder is a Loader's own, for
what has no room in a cache: its pages are given back once their batch was collected. Whatever fails here, reading goes on without it.

Imports what else is in storage.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.errors import warn
from vla_store.storage.base import Contents, Range, Storage, Traffic
from vla_store.storage.cache import CacheFolder
from vla_store.storage.local import MAX_MAPS
from vla_store.storage.mirror import ABSENT, CHECKPOINT_NBYTES, PAGE, PRESENT, Mirror, runs_of

MAX_REQUEST_NBYTES = 4 << 20  # more is several requests beside each other
GAP_PAGES = 4  # absent pages so near each other are one request
PATIENCE_S = 30.0  # for what another process is bringing
LOOK_UP_S = 0.003


def mirrored(storage: Storage, cache: tuple[str, int | None] | None, transient: str | None) -> MirroredStorage:
    """Return a storage with mirrors of what it has in a cache, given as folder and size, and in a Loader's transient folder.

    A folder that cannot be used is said, and done without. Raises OptionError for one that is not meant as a cache.
    """
    return MirroredStorage(storage, _opened(*cache) if cache else None, _opened(transient) if transient else None)


def _opened(path: str, size: int | None = None) -> CacheFolder | None:
    try:
        return CacheFolder(path, size)
    except OSError as error:
        warn(f"the cache {path} cannot be used ({error.strerror}): reads go on without it", RuntimeWarning)
        return None


class _Span(NamedTuple):
    """Bytes [start, stop) of the object `key`, which lies at `offset` in the data of a mirror."""

    key: str
    start: int
    stop: int
    offset: int
    size: int

    @property
    def pages(self) -> tuple[int, int]:
        return (self.offset + self.start) // PAGE, -(-(self.offset + self.stop) // PAGE)


class MirroredStorage(Storage):
    """Another storage, and mirrors of what it `knows`.

    Parameters
    ----------
    inner
        Where objects come from.
    cache
        What keeps mirrors for good; None for nothing.
    transient
        What keeps them as long as a Loader needs them; None for nothing.
    """

    is_near = False
    max_open = MAX_MAPS

    def __init__(self, inner: Storage, cache: CacheFolder | None, transient: CacheFolder | None = None) -> None:
        self.inner = inner
        self.url = inner.url
        self.cache = cache
        self._transient = transient
        self._known: set[str] = set()
        # Of each object: its size, and its offset in the mirrors of its part.
        self._places: dict[str, tuple[int, int, Mirror | None, Mirror | None]] = {}
        self._mirrors: list[Mirror] = []
        self._uses: dict[
            int, npt.NDArray[np.int32]
        ] = {}  # by transient mirror: how many that are brought still need a page
        self._counting = threading.Lock()  # only who fetches ahead takes it, and that is no process that forks
        self._cleared: set[int] = set()  # mirrors in which nobody who died claims pages by this process's number
        self._own = Traffic()
        self._healed: set[str] = set()

    @property
    def fetcher(self) -> str:
        return self.inner.fetcher

    @property
    def traffic(self) -> Traffic:
        return self.inner.traffic + self._own

    def know(self, contents: Contents) -> None:
        self.inner.know(contents)
        if contents.prefix in self._known:
            return
        kept, passing = self._mirror(self.cache, contents), self._mirror(self._transient, contents)
        mirror = kept or passing
        if mirror is not None:
            for key, offset in mirror.offsets.items():
                self._places[key] = contents.sizes[key], offset, kept, passing
        self._known.add(contents.prefix)

    def knows(self, prefix: str) -> bool:
        return prefix in self._known

    def keeps_all(self) -> bool:
        """Tell whether all that this storage knows of fits into the cache."""
        if self.cache is None:
            return False
        mirrors = [each for each in self._mirrors if each.folder.parent == self.cache.path]
        try:
            return bool(mirrors) and sum(each.pages * PAGE - each.nbytes for each in mirrors) <= self.cache.room()
        except OSError:
            return False

    def absent_nbytes(self, key: str) -> int | None:
        """Return the bytes of an object that have to come into the cache yet; None where it has no place for it."""
        size, offset, kept, _ = self._places.get(key, (0, 0, None, None))
        if kept is None:
            return None
        marks = kept.marks[offset // PAGE : -(-(offset + size) // PAGE)]
        return min(size, int(np.count_nonzero(marks != PRESENT)) * PAGE)

    @property
    def kept(self) -> tuple[int, int]:
        mirrors = [each for each in self._mirrors if self.cache is not None and each.folder.parent == self.cache.path]
        return sum(each.nbytes for each in mirrors), sum(each.pages * PAGE for each in mirrors)

    def size(self, key: str) -> int:
        place = self._places.get(key)
        return self.inner.size(key) if place is None else place[0]

    def sizes(self, keys: Sequence[str]) -> list[int | None]:
        return self.inner.sizes(keys)

    def head(self, key: str, nbytes: int) -> bytes:
        return self.inner.head(key, nbytes)

    def heads(self, keys: Sequence[str], nbytes: int) -> list[bytes | None]:
        return self.inner.heads(keys, nbytes)

    def get(self, key: str) -> bytes | None:
        return self.inner.get(key)

    def pieces(self, key: str) -> Iterator[memoryview]:
        return self.inner.pieces(key)  # who reads objects whole checks what lies there, and not what was kept of it

    def digest(self, key: str) -> tuple[int, str]:
        return self.inner.digest(key)

    def keys(self, prefix: str = "") -> list[str]:
        return self.inner.keys(prefix)

    def whole(self, key: str) -> memoryview | None:
        place = self._places.get(key)
        if place is None:
            return None
        size, offset, kept, _ = place
        if kept is None or not kept.has_all(offset, size):
            return None
        return kept.data[offset : offset + size]

    def sparse(self, key: str) -> tuple[memoryview, Callable[[int, int], bool]] | None:
        place = self._places.get(key)
        kept = None if place is None else place[2]
        if place is None or kept is None:
            return None
        size, offset, _, _ = place
        has = kept.has
        return kept.data[offset : offset + size], lambda start, stop: has(offset + start, offset + stop)

    def hit(self, nbytes: int) -> None:
        self._own.hit_nbytes += nbytes

    def read(self, ranges: Sequence[Range]) -> list[memoryview]:
        found: list[Any] = [self._find(*each) for each in ranges]
        absent = [at for at, view in enumerate(found) if view is None]
        self._own.hit_nbytes += sum(len(view) for view in found if view is not None)
        if absent:
            wanted = [ranges[at] for at in absent]
            self._own.missed_nbytes += sum(stop - start for _, start, stop in wanted)
            for at, view in zip(absent, self._read_through(wanted)):
                found[at] = view
        return found

    def fetch_ahead(self, ranges: Sequence[Range], widen_nbytes: int = 0) -> None:
        wanted: dict[int, tuple[Mirror, list[_Span]]] = {}
        for key, start, stop in ranges:
            place = self._places.get(key)
            if place is None:
                continue
            size, offset, kept, passing = place
            if widen_nbytes:
                start, stop = start // widen_nbytes * widen_nbytes, -(-stop // widen_nbytes) * widen_nbytes
            span = _Span(key, start, min(stop, size), offset, size)
            mirror = self._choose(kept, passing, span) if span.start < span.stop else None
            if mirror is None:
                continue
            if passing is not None:  # wherever it is brought: `release` is told the same ranges
                self._use(passing, span)
            wanted.setdefault(id(mirror), (mirror, []))[1].append(span)
        for mirror, spans in wanted.values():
            self._bring(mirror, spans)

    def heal(self, key: str) -> bool:
        size, offset, kept, _ = self._places.get(key, (0, 0, None, None))
        if kept is None or not kept.writable or key in self._healed:
            return False
        self._healed.add(key)
        first, last = offset // PAGE, -(-(offset + size) // PAGE)
        here = runs_of(first + np.flatnonzero(kept.marks[first:last] == PRESENT))
        if not here:
            return False
        ranges = [
            (key, at * PAGE - offset, min(min(at + MAX_REQUEST_NBYTES // PAGE, stop) * PAGE - offset, size))
            for start, stop in here
            for at in range(start, stop, MAX_REQUEST_NBYTES // PAGE)
        ]
        folder = kept.folder.parent
        warn(
            f"the cache has damaged bytes of {key}, which are fetched again: `vla-store cache verify --cache {folder}` "
            "looks for more",
            RuntimeWarning,
        )
        for (_, begin, _), data in zip(ranges, self.inner.read(ranges)):
            try:
                kept.put(offset + begin, data)  # where they lie: who holds a view sees them
            except OSError:
                return False
        return True

    def release(self, ranges: Sequence[Range]) -> None:
        given: dict[int, tuple[Mirror, list[tuple[int, int]]]] = {}
        with self._counting:
            for key, start, stop in ranges:
                _, offset, _, passing = self._places.get(key, (0, 0, None, None))
                if passing is not None and id(passing) in self._uses:
                    first, last = (offset + start) // PAGE, -(-(offset + stop) // PAGE)
                    self._uses[id(passing)][first:last] -= 1
                    given.setdefault(id(passing), (passing, []))[1].append((first, last))
            unused = []
            for mirror, pages in given.values():
                uses = self._uses[id(mirror)]
                for first, last in _closed(sorted(pages), 0):
                    free = (uses[first:last] <= 0) & (mirror.marks[first:last] == PRESENT)
                    unused += [(mirror, first + start, first + stop) for start, stop in runs_of(np.flatnonzero(free))]
        for mirror, first, last in unused:
            mirror.give_back(first, last)

    def settle(self) -> None:
        for mirror in self._mirrors:
            if self._folder_of(mirror) is self.cache:
                with contextlib.suppress(OSError):
                    mirror.settle()

    def _mirror(self, folder: CacheFolder | None, contents: Contents) -> Mirror | None:
        if folder is None or not contents.sizes:
            return None
        try:
            mirror = folder.mirror(contents, self.url)
        except (OSError, ValueError) as error:
            warn(f"the cache {folder.path} cannot be used ({error}): reads go on without it", RuntimeWarning)
            return None
        self._mirrors.append(mirror)
        return mirror

    def _find(self, key: str, start: int, stop: int) -> memoryview | None:
        """Return a range that is on this machine, None where it is not."""
        place = self._places.get(key)
        if place is None:
            return None
        _, offset, kept, passing = place
        if kept is not None and kept.has(offset + start, offset + stop):
            return kept.data[offset + start : offset + stop]
        if passing is not None and passing.has(offset + start, offset + stop):
            copy = passing.copy(offset + start, offset + stop)
            # Its pages are given back some day: they were there all the while if they still are.
            return copy if passing.has(offset + start, offset + stop) else None
        return None

    def _read_through(self, ranges: Sequence[Range]) -> list[memoryview]:
        """Fetch ranges, and keep the pages that they lie in where there is room for them."""
        wide: list[Range] = []
        for key, start, stop in ranges:
            size, _, kept, _ = self._places.get(key, (0, 0, None, None))
            if kept is not None and stop <= size:
                wide.append((key, start // PAGE * PAGE, min(-(-stop // PAGE) * PAGE, size)))
            else:
                wide.append((key, start, stop))
        fetched = self.inner.read(wide)
        for (key, start, stop), data in zip(wide, fetched):
            size, offset, kept, _ = self._places.get(key, (0, 0, None, None))
            if kept is not None and stop <= size:
                self._keep(kept, offset + start, data)
        return [
            data[start - first :][: stop - start]
            for (_, start, stop), (_, first, _), data in zip(ranges, wide, fetched)
        ]

    def _keep(self, mirror: Mirror, start: int, data: memoryview) -> bool:
        folder = self._folder_of(mirror)
        if not mirror.writable or not folder.has_room(len(data)):
            return False
        try:
            mirror.put(start, data)
            if folder is self.cache:
                mirror.settle(CHECKPOINT_NBYTES)
        except OSError as error:
            folder.disk_is_full(error)
            return False
        return True

    def _choose(self, kept: Mirror | None, passing: Mirror | None, span: _Span) -> Mirror | None:
        """Return the mirror that a range is to be brought into: the one that has it, else one that has room."""
        if kept is not None and kept.writable:
            assert self.cache is not None
            if passing is None or kept.has(span.offset + span.start, span.offset + span.stop) or self.cache.has_room(0):
                return kept
        return passing

    def _use(self, mirror: Mirror, span: _Span) -> None:
        first, last = span.pages
        with self._counting:
            uses = self._uses.get(id(mirror))
            if uses is None:
                uses = self._uses[id(mirror)] = np.zeros(mirror.pages, np.int32)
            uses[first:last] += 1

    def _bring(self, mirror: Mirror, spans: list[_Span]) -> None:
        """Fetch what is absent of these bytes, and wait for what another process or thread is bringing."""
        folder = self._folder_of(mirror)
        number, _ = folder.number()
        if number and id(mirror) not in self._cleared:
            self._cleared.add(id(mirror))
            mirror.forget_claims(number)
        merged = _merged(spans)
        for is_last in (False, True):
            claims = mirror.claims(merged)
            alive = () if is_last else tuple(each for each in claims if folder.is_alive(each))
            absent, brought = _absent(mirror, merged, alive)
            self._fetch(mirror, absent, number or ABSENT)
            if not brought or self._wait(mirror, brought, folder):
                return

    def _fetch(self, mirror: Mirror, spans: list[_Span], claim: int) -> None:
        if not spans:
            return
        for span in spans:
            first, last = span.pages
            mirror.marks[first:last] = claim
        kept = 0
        try:
            fetched = self.inner.read([each[:3] for each in spans])
            for span, data in zip(spans, fetched):
                if not self._keep(mirror, span.offset + span.start, data):
                    break
                kept += 1
            for span, data in zip(spans[kept:], fetched[kept:]):  # the cache is full, but they are here now
                passing = self._places[span.key][3]
                if passing is None or passing is mirror:
                    break
                self._keep(passing, span.offset + span.start, data)
        finally:
            for span in spans[kept:]:
                first, last = span.pages
                marks = mirror.marks[first:last]
                marks[marks == claim] = ABSENT

    def _wait(self, mirror: Mirror, pages: list[tuple[int, int]], folder: CacheFolder) -> bool:
        """Wait until others have brought pages; False where they gave up, died, or took too long."""
        began = time.monotonic()
        looked: dict[int, bool] = {}
        while time.monotonic() - began < PATIENCE_S:
            left = {mark for first, last in pages for mark in mirror.marks[first:last].tobytes()} - {PRESENT}
            if not left:
                self._own.waited_s += time.monotonic() - began
                return True
            if ABSENT in left:
                return False
            if int(time.monotonic() - began) != len(looked):  # once a second
                looked[len(looked)] = True
                if not all(map(folder.is_alive, left)):
                    return False
            time.sleep(LOOK_UP_S)
        return False

    def _folder_of(self, mirror: Mirror) -> CacheFolder:
        folder = self.cache if self.cache is not None and mirror.folder.parent == self.cache.path else self._transient
        assert folder is not None
        return folder


def _absent(
    mirror: Mirror, merged: list[tuple[int, int, _Span]], alive: tuple[int, ...]
) -> tuple[list[_Span], list[tuple[int, int]]]:
    """Return what has to be fetched of some pages, in few pieces, and the pages that those who live are bringing."""
    absent: list[_Span] = []
    brought: list[tuple[int, int]] = []
    for first, last, span in merged:
        missing = mirror.absent(first, last)
        if missing and alive:
            marks = mirror.marks[first:last].copy()  # others change them meanwhile
            is_brought = np.isin(marks, alive)
            brought += [(first + start, first + stop) for start, stop in runs_of(np.flatnonzero(is_brought))]
            missing = runs_of(np.flatnonzero((marks != PRESENT) & ~is_brought))
        for start, stop in _closed(missing):
            for at in range(start, stop, MAX_REQUEST_NBYTES // PAGE):
                begin = (first + at) * PAGE - span.offset
                end = (first + min(at + MAX_REQUEST_NBYTES // PAGE, stop)) * PAGE - span.offset
                absent.append(_Span(span.key, begin, min(end, span.size), span.offset, span.size))
    return absent, brought


def _merged(spans: list[_Span]) -> list[tuple[int, int, _Span]]:
    """Return the pages [first, last) of spans, those that touch or nearly do as one, with one of their spans."""
    merged: list[tuple[int, int, _Span]] = []
    for span in sorted(spans, key=lambda each: (each.offset, each.start)):
        first, last = span.pages
        if merged and merged[-1][2].offset == span.offset and first <= merged[-1][1] + GAP_PAGES:
            merged[-1] = merged[-1][0], max(merged[-1][1], last), merged[-1][2]
        else:
            merged.append((first, last, span))
    return merged


def _closed(runs: list[tuple[int, int]], gap: int = GAP_PAGES) -> list[tuple[int, int]]:
    """Return ascending stretches, those as one that overlap, touch, or lie no more than `gap` apart."""
    if len(runs) < 2:
        return runs
    closed: list[tuple[int, int]] = []
    for start, stop in runs:
        if closed and start - closed[-1][1] <= gap:
            closed[-1] = closed[-1][0], max(closed[-1][1], stop)
        else:
            closed.append((start, stop))
    return closed
