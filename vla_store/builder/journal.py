"""The journal of an unfinished build: what it builds from, and a receipt for every unit that is done.

parts/<id>.build/ beside the part: source.json, and one file a receipt. It goes before the store takes its name; the lock, which
keeps a second build away, right after.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vla_store.builder.plan import Plan
from vla_store.builder.shards import write_object
from vla_store.builder.units import Receipt
from vla_store.errors import DestinationExists, MachineError, SourceError
from vla_store.format import canonical, layout
from vla_store.format.listing import ObjectEntry
from vla_store.format.schema import PartEntry
from vla_store.sources.protocol import EpisodeSource, describe, name_of
from vla_store.storage import LocalStorage, Storage, holds_only, locked

SOURCES = "source.json"
FINISHED = "part.json"
PROPOSED = "proposed.json"


class Journal:
    """Held by the one process that builds into `partial`, the folder STORE.partial; for a store at a URL, its stage.

    place: where the objects of units are; default: there as well.
    """

    def __init__(self, partial: Path, plan: Plan, place: Storage | None = None) -> None:
        self.partial = partial
        self._place = place or LocalStorage(partial)
        self.part = partial / layout.part_path(plan.part_id)
        self._folder = partial / (layout.part_path(plan.part_id) + ".build")
        self._plan = plan
        self._lock = contextlib.ExitStack()

    def open(
        self, *, discard: bool = False, rehash: bool = False, talk: Callable[[str], None] = lambda text: None
    ) -> dict[str, Receipt]:
        """Start or resume: take the lock, check that this is the same build of unchanged sources, and return the receipts that
        still hold. The caller closes the journal, also after an error.

        discard: what another build left is removed instead of refused. rehash: compare, and note, the sha256 of every source.
        """
        busy = DestinationExists(
            "another build is writing there now", partial=self.partial, hint="wait for it, or choose another STORE"
        )
        self._lock.enter_context(locked(self.partial, layout.BUILD_LOCK, busy=busy))
        sources = [each.source for each in self._plan.scanned]
        now = states_of(sources, rehash, talk)
        try:
            self._check_same_build(sources, now)
        except (DestinationExists, SourceError):
            if not discard:
                raise
            self._clear()
        # Of a build that was stopped while it committed: a root is written again, and last.
        for name in ("roots", "meta"):
            shutil.rmtree(self.partial / name, ignore_errors=True)
        (self.partial / layout.ROOT_KEY).unlink(missing_ok=True)
        LocalStorage(self.partial).sweep(held=True)
        before = self._before()
        if before is None:  # receipts are of nobody knows what
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.part.mkdir(parents=True, exist_ok=True)
        # Times are those of the first run; what that one did not hash is noted now.
        noted = [{**new, **old} for old, new in zip(before, now)] if before else now
        if noted != before:
            write_object(LocalStorage(self._folder), SOURCES, canonical.dumps(noted))
        return self._receipts()

    def tell(self, done_nbytes: int, nbytes: int) -> None:
        """Note how far the build is, in the lock: for who asks what is going on. It is of no use to the build itself."""
        status = {"done_nbytes": done_nbytes, "host": socket.gethostname(), "nbytes": nbytes, "pid": os.getpid()}
        with contextlib.suppress(OSError):  # a full disk is said by what matters
            (self.partial / layout.BUILD_LOCK).write_bytes(canonical.dumps(status))

    def record(self, receipt: Receipt) -> None:
        """Note that a unit's objects are whole, once they are seen here: a cluster's worker may have other disks."""
        for each in self._missing(receipt):
            raise MachineError(
                "what a worker wrote is not there",
                path=f"{self._place.url}/{layout.part_path(self._plan.part_id)}/{each.key}",
                expected=f"{each.size} bytes",
                hint="all workers of a cluster must see the same file system, under the same path; or storage, by the same URL",
            )
        name = f"{receipt.unit}.json"
        if name.lower() == SOURCES:  # a field of this name; no other unit has a dot and a word
            name = f"{receipt.unit}.receipt.json"
        write_object(LocalStorage(self._folder), name, canonical.dumps(receipt.to_json()))

    def remove(self) -> None:
        """Remove what the format does not name from the store, which is done: all but the lock, which is still held."""
        shutil.rmtree(self._folder)

    def close(self, store: Path | None = None) -> None:
        """Let go of the lock. store: where the build lies now, if it is committed."""
        if store is not None:
            (store / layout.BUILD_LOCK).unlink()
        self._lock.close()

    def finish(self, entry: PartEntry) -> None:
        """Note that the part is whole, for whoever moves it from here."""
        write_object(LocalStorage(self.partial), FINISHED, canonical.dumps(entry.to_json()))

    def finished(self) -> PartEntry | None:
        """Return the part that was finished here, if it is of this plan."""
        with contextlib.suppress(TypeError):
            entry = PartEntry(**_read_json(self.partial, FINISHED))
            return entry if entry.path == layout.part_path(self._plan.part_id) else None
        return None

    def propose(self, keys: Iterable[str]) -> None:
        """Note the documents of a root before they are put: if another root is first, nobody may ever name them."""
        write_object(LocalStorage(self.partial), PROPOSED, canonical.dumps(sorted(self.proposed().union(keys))))

    def proposed(self) -> set[str]:
        """Return the documents that were noted, by this call and by those before it that were killed."""
        found = _read_json(self.partial, PROPOSED)
        return set(found) if isinstance(found, list) else set()

    def _check_same_build(self, sources: list[EpisodeSource], now: list[dict[str, Any]]) -> None:
        """Raise DestinationExists if something else lies there, SourceError if a source is not as it was."""
        own = {self.part.name, self._folder.name, layout.ROOT_KEY}
        parts = self.partial / "parts"
        if parts.exists() and not holds_only(parts, own):
            raise DestinationExists(
                "an unfinished build of other sources or options is in the way",
                partial=self.partial,
                hint="give the same sources and options to resume it, or --overwrite to discard it",
            )
        for source, old, new in zip(sources, self._before() or [], now):
            _check_state(
                old,
                new,
                "a source changed since the unfinished build began",
                "--overwrite discards the unfinished build and starts again",
                file=name_of(source),
                partial=self.partial,
            )

    def _before(self) -> list[dict[str, Any]] | None:
        """Return the states of the sources when the unfinished build began; None where there is none, or they are not known."""
        found = _read_json(self._folder, SOURCES)
        return found if isinstance(found, list) else None

    def _clear(self) -> None:
        for path in self.partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != layout.BUILD_LOCK:
                path.unlink()

    def _receipts(self) -> dict[str, Receipt]:
        found = []
        for key in LocalStorage(self._folder).keys():  # noqa: SIM118
            with contextlib.suppress(KeyError, TypeError, ValueError):  # unreadable: the unit is done again
                found.append(Receipt.from_json(_read_json(self._folder, key)))
        missing = {each.key for each in self._missing(*found)}
        return {each.unit: each for each in found if missing.isdisjoint(entry.key for entry in each.objects)}

    def _missing(self, *receipts: Receipt) -> list[ObjectEntry]:
        """Return the objects of receipts that are not there whole."""
        objects = [each for receipt in receipts for each in receipt.objects]
        path = layout.part_path(self._plan.part_id)
        sizes = self._place.sizes([f"{path}/{each.key}" for each in objects])
        return [each for each, size in zip(objects, sizes) if size != each.size]


def states_of(
    sources: Sequence[EpisodeSource], rehash: bool = False, talk: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Return what of each source must not change while it is built from, and between the runs of a build. Its path may: a disk can
    be mounted elsewhere."""
    found = []
    for number, source in enumerate(sources):
        described = describe(source)
        path, state = described["path"], {"type": described["type"]}
        if path is not None and os.path.exists(path):
            stat = os.stat(path)
            # A time of change in nanoseconds does not fit in the 53 bits of a canonical integer.
            state |= {"mtime_ns": str(stat.st_mtime_ns), "size": stat.st_size}
            if rehash and os.path.isfile(path):
                talk(f"hashing source {number + 1} of {len(sources)}")
                with open(path, "rb") as file:
                    state["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        state |= getattr(source, "state", {})
        found.append(state)
    return found


def check_unchanged(sources: Sequence[EpisodeSource], before: Sequence[dict[str, Any]], partial: Path) -> None:
    """Raise SourceError where a file is not what it was when `states_of` gave `before`: then nobody knows which of its rows were
    read before it changed, and which after. A folder may be the one that the store lies in."""
    for source, old, new in zip(sources, before, states_of(sources)):
        if hasattr(source, "state") or not os.path.isdir(name_of(source)):
            _check_state(
                old,
                new,
                "a source changed while it was being read",
                "once nobody writes to it any more, --overwrite discards the unfinished build and starts again",
                file=name_of(source),
                partial=partial,
            )


def _read_json(folder: Path, key: str) -> Any:
    try:
        return json.loads(LocalStorage(folder).get(key) or b"")
    except ValueError:
        return None


def _check_state(old: dict[str, Any], new: dict[str, Any], what: str, hint: str, **where: Any) -> None:
    """Raise SourceError where a source is not the one that a build began with."""
    if "sha256" in old and "sha256" in new:  # decides alone: a file that was copied anew is the same file
        kept, text = ["sha256"], "sha256 {sha256}"
    else:
        kept, text = ["mtime_ns", "size", "type"], "size {size}, changed at {mtime_ns} ns"
    states = [{name: each.get(name) for name in kept} for each in (old, new)]
    if states[0] != states[1]:
        expected, found = (text.format(**each) for each in states)
        raise SourceError(what, **where, expected=expected, found=found, hint=hint)
