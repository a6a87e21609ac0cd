"""Where a build puts its store: under a local name, which it takes when all is done; or at a URL, where the root comes last.

Either way one folder of this machine says where the build stands: STORE.partial, or the stage of a URL. Owns what happens at a
URL; `destination` owns the names on a disk. Imports publish, storage and format.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vla_store.builder.destination import FORGOTTEN, check_destination, check_unfinished, destination_of, replace_store
from vla_store.builder.journal import Journal
from vla_store.builder.plan import Plan
from vla_store.builder.units import Receipt
from vla_store.errors import DataError, DestinationExists, OptionError
from vla_store.format import layout
from vla_store.format.needed import group_keys
from vla_store.format.new_root import NewRoot
from vla_store.format.schema import PartEntry, Root
from vla_store.publish.commit import put_documents, put_root
from vla_store.publish.transfer import copy_objects, part_listing, remove_objects, send_part
from vla_store.storage import LocalStorage, Storage, is_url, local_path, locked, open_storage, place_of, sync_folder

Talk = Callable[[str], None]

OWN = ("meta", "parts", "roots", layout.ROOT_KEY)  # at the top of a store
PROBE = "parts/probe.tmp"


class Place(Protocol):
    """Where a store is built.

    store: its name. folder: of this machine, where the build grows. objects: where the objects of units go, None for `folder`.
    """

    folder: Path

    @property
    def store(self) -> Path | str: ...

    @property
    def objects(self) -> Storage | None: ...

    def check(self, sources: Sequence[Path], *, overwrite: bool) -> None:
        """Raise DestinationExists, OptionError or MachineError unless a store may be built here. Nothing is touched."""

    def committed(self, plan: Plan) -> Root | None:
        """Return the root where a build of this plan was killed after it had committed, and tidy up after it."""

    def begin(self, plan: Plan, *, overwrite: bool) -> None:
        """Check once more, now that it is known what is built, and nobody else of this machine is at it."""

    def fetch_numbers(self, plan: Plan, receipts: Mapping[str, Receipt]) -> None:
        """Bring what is no picture into `folder`: columns of numbers, of which statistics and views are made, and attributes."""

    def commit(self, journal: Journal, entry: PartEntry, *, overwrite: bool, talk: Talk) -> None:
        """Make what `folder` holds a store."""


def building_at(store: str | os.PathLike[str], staging: str | os.PathLike[str] | None) -> Place:
    """Return the place that a name stands for. Raises OptionError, StoreNotFound, FetchError for one that cannot be opened."""
    place = place_of(store)
    if is_url(place):
        storage = open_storage(place)
        storage.check_writable()
        digest = hashlib.sha256(place.encode("utf-8", "backslashreplace")).hexdigest()
        return AtUrl(place, storage, stage_of("build", digest, staging))
    if staging is not None:
        raise OptionError(
            "a store on a local path has no stage", store=place, hint="it grows in STORE.partial; leave `staging` out"
        )
    target, partial = destination_of(store)
    return Here(target, partial)


def stage_of(command: str, digest: str, staging: str | os.PathLike[str] | None) -> Path:
    """Return the stage of what a digest names, which the same command finds again: in `staging`, or among temporary files."""
    name = f"{command}-{digest[:12]}"
    if staging is not None:
        return local_path(staging, "the staging folder") / name
    return Path(tempfile.gettempdir()) / f"vla_store-{name}"


@dataclass
class Here:
    """A local path. The store grows in STORE.partial; renaming that is the commit."""

    store: Path
    folder: Path

    @property
    def objects(self) -> None:
        return None

    def check(self, sources: Sequence[Path], *, overwrite: bool) -> None:
        check_destination(self.store, self.folder, sources, overwrite=overwrite)

    def committed(self, plan: Plan) -> None:
        return None  # where the store has its name, there is nothing to resume

    def begin(self, plan: Plan, *, overwrite: bool) -> None: ...

    def fetch_numbers(self, plan: Plan, receipts: Mapping[str, Receipt]) -> None: ...

    def commit(self, journal: Journal, entry: PartEntry, *, overwrite: bool, talk: Talk) -> None:
        journal.remove()
        LocalStorage(self.folder).sweep(held=True)  # of a cluster's worker that died, whose unit another one did
        sync_folder(self.folder)
        replace_store(self.folder, self.store, overwrite=overwrite)
        journal.close(self.store)


@dataclass
class AtUrl:
    """A URL. Units put their objects there at once, below a part that no root names; all else lies on the stage until the end."""

    store: str
    objects: Storage
    folder: Path

    def check(self, sources: Sequence[Path], *, overwrite: bool) -> None:
        keys = self.objects.keys()
        odd = next((key for key in keys if key.partition("/")[0] not in OWN), None)
        data = self.objects.get(layout.ROOT_KEY)
        if odd is not None or (data is not None and b'"vla_store"' not in data):
            raise DestinationExists(
                "STORE exists and is not a store; nothing was touched",
                store=self.store,
                object=odd or layout.ROOT_KEY,
                hint=FORGOTTEN,
            )
        if data is not None and not overwrite and self._staged() != data:
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # of a build that was killed in its very last step
            raise DestinationExists(
                "STORE exists",
                store=self.store,
                hint="choose another name, add to it with vla-store append, or replace it with --overwrite",
            )
        check_unfinished(self.folder, sources)
        # What a first write would say after all the work: no bucket, no permission.
        self.objects.write(PROBE, b"")
        self.objects.remove(PROBE)

    def committed(self, plan: Plan) -> Root | None:
        data = self._staged()
        if data is None or self.objects.get(layout.ROOT_KEY) != data:
            return None
        root = Root.from_bytes(data, layout.ROOT_KEY)
        if root.parts[0].path != layout.part_path(plan.part_id):
            return None
        busy = DestinationExists("another build is finishing there now", store=self.store, hint="wait for it")
        with locked(self.folder, layout.BUILD_LOCK, busy=busy):
            self._remove_stage()
        return root

    def begin(self, plan: Plan, *, overwrite: bool) -> None:
        own = (f"{layout.part_path(plan.part_id)}/", f"parts/{layout.ROOT_KEY}")
        others = [key for key in self.objects.keys("parts") if not key.startswith(own)]
        if others and not overwrite:
            raise DestinationExists(
                "an unfinished build of other sources or options is in the way",
                store=self.store,
                object=others[0],
                hint="give the same sources and options to resume it, or --overwrite to discard it",
            )

    def fetch_numbers(self, plan: Plan, receipts: Mapping[str, Receipt]) -> None:
        path, stage = layout.part_path(plan.part_id), LocalStorage(self.folder)
        cameras = {field.name for field in plan.cameras}  # a unit of one is called by it, a dot and what it is
        numbers = [receipt for unit, receipt in receipts.items() if unit.rpartition(".")[0] not in cameras]
        objects = [each for receipt in numbers for each in receipt.objects]
        sizes = stage.sizes([f"{path}/{each.key}" for each in objects])
        missing = [each for each, size in zip(objects, sizes) if size != each.size]
        copy_objects(self.objects, path, stage, path, missing, lambda text: None)

    def commit(self, journal: Journal, entry: PartEntry, *, overwrite: bool, talk: Talk) -> None:
        stage = LocalStorage(self.folder)
        send_part(stage, entry, self.objects, talk)
        talk("writing the root")
        documents = {key: stage.get(key) or b"" for key in stage.keys("meta")}
        roots = [Root.from_bytes(stage.get(key) or b"", key) for key in stage.keys("roots")]
        _, objects = part_listing(stage, entry)
        named = {f"{entry.path}/{key}" for key in (layout.LISTING, *(each.key for each in objects))}
        named |= {*documents, *(layout.root_key(each.generation) for each in roots), layout.ROOT_KEY}
        named |= {key for each in roots for key in group_keys(each)}
        unnamed = [key for key in self.objects.keys() if key not in named]  # noqa: SIM118
        self.objects.give_up_uploads()  # of a build that was killed; all is there
        if overwrite:
            self._replace(roots, documents)
            remove_objects(self.objects, unnamed)
        else:
            for each in roots:
                if not put_root(self.objects, NewRoot(each, documents), exclusively=False):
                    raise DestinationExists(
                        "STORE appeared while it was being built",
                        store=self.store,
                        object=layout.root_key(each.generation),
                        hint="replace it with --overwrite, which then finishes; or choose another name, and remove what "
                        "vla-store verify lists there as left over",
                    )
            remove_objects(
                self.objects, unnamed
            )  # nobody can have won with them, nor reads them: there is no zarr.json yet
            self._show(roots[-1])
        self._remove_stage()  # and the journal with it: a build that is killed before need not encode again

    def _replace(self, roots: Sequence[Root], documents: Mapping[str, bytes]) -> None:
        """Put a store over another one. At every moment zarr.json is of one of them, which is whole."""
        for generation in reversed(layout.generations_in(self.objects.keys("roots"))):
            if generation > roots[-1].generation:  # an append would take them for what comes after the new root
                self.objects.remove(layout.root_key(generation))
        put_documents(self.objects, NewRoot(roots[-1], dict(documents)))
        for each in roots:
            self.objects.write(layout.root_key(each.generation), each.to_bytes())
        self.objects.write(layout.ROOT_KEY, roots[-1].to_bytes())

    def _show(self, root: Root) -> None:
        """Put zarr.json; another build of the same may have done so, and somebody may have appended since."""
        there = None
        with contextlib.suppress(DataError):
            there = Root.from_bytes(self.objects.get(layout.ROOT_KEY) or b"", layout.ROOT_KEY)
        if there is None or there.generation < root.generation:
            self.objects.write(layout.ROOT_KEY, root.to_bytes())

    def _staged(self) -> bytes | None:
        """Return the root that a build was committing when it was killed."""
        return LocalStorage(self.folder).get(layout.ROOT_KEY)

    def _remove_stage(self) -> None:
        """Remove the stage; what tells that all is done goes last."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != layout.ROOT_KEY:
                path.unlink()
        (self.folder / layout.ROOT_KEY).unlink()
        self.folder.rmdir()
