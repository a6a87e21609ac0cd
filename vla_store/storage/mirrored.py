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
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import warn
from vla_store.storage.base import Contents, Range, Storage, Traffic
from vla_store.storage.cache import CacheFolder
from vla_store.storage.local import MAX_MAPS
from vla_store.storage.mirror import (
    ABSENT,
    CHECKPOINT_NBYTES,
    PAGE,
    PRESENT,
    Mirror,
    Pages,
    Runs,
    Span,
    pages_of,
    runs_of,
)

MAX_REQUEST_NBYTES = 4 << 20  # more is several requests beside each other
GAP_PAGES = 4  # absent pages so near each other are one request
PATIENCE_S = 30.0  # for what another process is bringing
WAIT_S, LOOK_UP_S = 0.003, 1.0
CALL_NBYTES, CALLS = 16 << 20, 3  # what comes in one call is in memory until it is written


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
        self._uses: dict[int, npt.NDArray[np.int32]] = {}  # by transient mirror: how many still need a page
        # Of marks and uses that this process changes. Only who fetches ahead takes it, and that is no process that forks.
        self._marking = threading.Lock()
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

    def fetch_ahead(self, ranges: Sequence[Range]) -> None:
        is_open = self.cache is not None and self.cache.has_room(0)
        wanted: dict[int, tuple[Mirror, list[tuple[int, int]]]] = {}
        used: dict[int, tuple[Mirror, list[tuple[int, int]]]] = {}
        for key, start, stop in ranges:
            place = self._places.get(key)
            if place is None or start >= stop:
                continue
            _, offset, kept, passing = place
            pages = (offset + start) // PAGE, -(-(offset + stop) // PAGE)
            mirror = passing
            if kept is not None and kept.writable:  # of two, the one that has it, else the one that has room
                is_better = passing is None or is_open or kept.has(offset + start, offset + stop)
                mirror = kept if is_better else passing
            if mirror is not None:
                wanted.setdefault(id(mirror), (mirror, []))[1].append(pages)
            if passing is not None:  # wherever it is brought: `release` is told the same ranges
                used.setdefault(id(passing), (passing, []))[1].append(pages)
        for passing, runs in used.values():
            with self._marking:
                self._use(passing, np.array(runs), 1)
        for mirror, runs in wanted.values():
            self._bring(mirror, np.array(runs))

    def heal(self, key: str) -> bool:
        size, offset, kept, _ = self._places.get(key, (0, 0, None, None))
        if kept is None or not kept.writable or key in self._healed:
            return False
        self._healed.add(key)
        first, last = offset // PAGE, -(-(offset + size) // PAGE)
        spans = kept.spans(runs_of(first + np.flatnonzero(kept.marks[first:last] == PRESENT)), MAX_REQUEST_NBYTES)
        if not spans:
            return False
        folder = kept.folder.parent
        warn(
            f"the cache has damaged bytes of {key}, which are fetched again: `vla-store cache verify --cache {folder}` "
            "looks for more",
            RuntimeWarning,
        )
        for span, data in zip(spans, self.inner.read([each[:3] for each in spans])):
            try:
                kept.put(offset + span.start, data)  # where they lie: who holds a view sees them
            except OSError:
                return False
        return True

    def release(self, ranges: Sequence[Range]) -> None:
        given: dict[int, tuple[Mirror, list[tuple[int, int]]]] = {}
        for key, start, stop in ranges:
            _, offset, _, passing = self._places.get(key, (0, 0, None, None))
            if passing is not None:
                pages = (offset + start) // PAGE, -(-(offset + stop) // PAGE)
                given.setdefault(id(passing), (passing, []))[1].append(pages)
        for mirror, runs in given.values():
            with self._marking:  # until they are gone: what another thread brings meanwhile would go with them
                unused = self._use(mirror, np.array(runs), -1)
                mirror.give_back(runs_of(unused[mirror.marks[unused] == PRESENT]))

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
                # In a Loader, whoever fetches ahead says that the cache is full, and not each worker too.
                self._keep(kept, offset + start, data, says=self._transient is None)
        return [
            data[start - first :][: stop - start]
            for (_, start, stop), (_, first, _), data in zip(ranges, wide, fetched)
        ]

    def _keep(self, mirror: Mirror, start: int, data: memoryview, says: bool = True) -> bool:
        folder = self._folder_of(mirror)
        if not mirror.writable or not folder.has_room(len(data), says):
            return False
        try:
            mirror.put(start, data)
        except OSError as error:
            folder.disk_is_full(error)
            return False
        if folder is self.cache and mirror.unsettled_nbytes >= CHECKPOINT_NBYTES:
            # Nobody waits for the disk: until then, what a power cut takes is fetched again.
            threading.Thread(target=_settle, args=(mirror,), daemon=True).start()
        return True

    def _use(self, mirror: Mirror, runs: Runs, more: int) -> Pages:
        """Count for each page how many of these stretches lie on it, and return those of their pages that none needs any more."""
        pages = pages_of(runs)
        uses = self._uses.get(id(mirror))
        if uses is None:
            uses = self._uses[id(mirror)] = np.zeros(mirror.pages, np.int32)
        np.add.at(uses, pages, more)
        return np.unique(pages[uses[pages] <= 0]) if more < 0 else pages[:0]

    def _bring(self, mirror: Mirror, runs: Runs) -> None:
        """Fetch what is absent of these pages, and wait for what another process or thread is bringing."""
        folder = self._folder_of(mirror)
        number, _ = folder.number()
        if number and id(mirror) not in self._cleared:
            self._cleared.add(id(mirror))
            mirror.forget_claims(number)
        pages = pages_of(mirror.joined(runs, 0))
        for is_last in (False, True):
            with self._marking:
                marks = mirror.marks[pages]
                if (marks == PRESENT).all():
                    return
                claims = set(np.flatnonzero(np.bincount(marks)).tolist()) - {ABSENT, PRESENT}
                alive = [] if is_last else [each for each in claims if folder.is_alive(each)]
                is_brought = np.isin(marks, alive)
                absent = pages[(marks != PRESENT) & ~is_brought]
                mirror.marks[absent] = number or ABSENT
            self._fetch(mirror, absent, number or ABSENT)
            if self._wait(mirror, pages[is_brought], folder):
                return

    def _fetch(self, mirror: Mirror, absent: Pages, claim: int) -> None:
        """Fetch pages, by few requests and several calls beside each other."""
        spans = mirror.spans(mirror.joined(runs_of(absent), GAP_PAGES), MAX_REQUEST_NBYTES)
        calls = [spans[start:stop] for start, stop in _shares([each.stop - each.start for each in spans], CALL_NBYTES)]
        try:
            if len(calls) == 1:
                self._fetch_these(mirror, spans, absent)
            elif calls:
                from concurrent.futures import ThreadPoolExecutor  # not for whoever imports only to read

                with ThreadPoolExecutor(CALLS) as threads:
                    list(threads.map(lambda each: self._fetch_these(mirror, each, absent), calls))
        finally:
            left = absent[mirror.marks[absent] == claim]
            mirror.marks[left] = ABSENT

    def _fetch_these(self, mirror: Mirror, spans: list[Span], absent: Pages) -> None:
        """Fetch spans by one call, and write those of their pages that are `absent`: what else they cover is not ours to mark."""
        for span, data in zip(spans, self.inner.read([each[:3] for each in spans])):
            begin = span.offset + span.start
            first, last = np.searchsorted(absent, (begin // PAGE, -(-(begin + len(data)) // PAGE)))
            passing = self._places[span.key][3]
            for start, stop in (runs_of(absent[first:last]) * PAGE).tolist():
                piece = data[start - begin : stop - begin]
                # Where the cache is full they go on beside it: they are here now.
                if not self._keep(mirror, start, piece) and passing is not None and passing is not mirror:
                    self._keep(passing, start, piece)

    def _wait(self, mirror: Mirror, pages: Pages, folder: CacheFolder) -> bool:
        """Wait until others have brought pages; False where they gave up, died, or took too long."""
        began = looked_at = time.monotonic()
        while len(pages):
            begun = time.monotonic()
            marks = mirror.marks[pages]
            pages, marks = pages[marks != PRESENT], marks[marks != PRESENT]
            now = time.monotonic()
            if (marks == ABSENT).any() or now - began > PATIENCE_S:
                return False
            if now - looked_at > LOOK_UP_S:
                looked_at = now
                if not all(map(folder.is_alive, np.unique(marks).tolist())):
                    return False
            time.sleep(max(WAIT_S, 20 * (now - begun)))  # who waits takes no time from who brings
        self._own.waited_s += time.monotonic() - began
        return True

    def _folder_of(self, mirror: Mirror) -> CacheFolder:
        folder = self.cache if self.cache is not None and mirror.folder.parent == self.cache.path else self._transient
        assert folder is not None
        return folder


def _shares(sizes: list[int], most: int) -> list[tuple[int, int]]:
    """Return stretches [start, stop) of things of these sizes, in order, each of `most` together or of one more."""
    shares: list[tuple[int, int]] = []
    start = together = 0
    for at, size in enumerate(sizes, 1):
        together += size
        if together >= most or at == len(sizes):
            shares.append((start, at))
            start, together = at, 0
    return shares


def _settle(mirror: Mirror) -> None:
    with contextlib.suppress(OSError):
        mirror.settle(CHECKPOINT_NBYTES)
