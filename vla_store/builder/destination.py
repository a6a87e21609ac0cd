"""The folders that a build writes: whether a store may grow there, and how it takes its name. Imports format and storage."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from vla_store.builder.journal import FINISHED, PROPOSED
from vla_store.errors import DestinationExists, machine_error
from vla_store.format.layout import BUILD_LOCK, ROOT_KEY, partial_path, root_key
from vla_store.storage import LocalStorage, check_length, holds_only, local_path, sync_folder

FORGOTTEN = "the last argument is the store to write: vla-store build SOURCE... STORE"


def destination_of(store: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return where the store and its unfinished build lie: absolute, and at the end of the link where `store` is one. Raises
    OptionError for what is no local path."""
    target = local_path(store, "where this store grows")
    if target.is_symlink():  # it was made to say which disk the store belongs on
        target = Path(os.path.realpath(target))
    return target, Path(partial_path(str(target)))


def check_destination(target: Path, partial: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raise DestinationExists unless a store may be built at `target`. Nothing is touched."""
    _check_apart(target, "STORE", sources, FORGOTTEN)
    _check_apart(partial, "STORE.partial", sources)
    _check_apart(_aside(target), "STORE.replaced", sources)
    if target.exists():
        if not is_store(target):
            raise DestinationExists(
                "STORE exists and is not a store; nothing was touched", store=target, hint=FORGOTTEN
            )
        if not overwrite:
            raise DestinationExists(
                "STORE exists", store=target, hint="choose another name, or replace it with --overwrite"
            )
    check_unfinished(partial, sources)
    if overwrite and _aside(target).exists() and not is_store(_aside(target)):
        raise DestinationExists(
            "the place for the store that is replaced is taken; nothing was touched",
            path=_aside(target),
            hint="move it out of the way",
        )


def check_unfinished(partial: Path, sources: Sequence[Path]) -> None:
    """Raise DestinationExists unless a part may be encoded in the folder `partial`. Nothing is touched."""
    _check_apart(partial, "the folder of the unfinished build", sources)
    own = (BUILD_LOCK, FINISHED, PROPOSED, "meta", "parts", "roots", ROOT_KEY)  # what an unfinished build leaves
    # A store of this name has no lock: it goes once a build has its own name, as the last of what is the build's.
    is_another = is_store(partial) and not (partial / BUILD_LOCK).exists()
    if os.path.lexists(partial) and (is_another or not holds_only(partial, own)):
        raise DestinationExists(
            "the place of the unfinished build is taken; nothing was touched",
            path=partial,
            hint="move it out of the way, or choose another name for STORE",
        )
    _check_writable(partial)


def _check_apart(folder: Path, name: str, sources: Sequence[Path], hint: str = "choose another name for STORE") -> None:
    check_length(folder)
    taken = Path(os.path.realpath(folder))
    for source in sources:
        real = Path(os.path.realpath(source))
        if taken == real or taken in real.parents:
            raise DestinationExists(
                f"{name} is one of the sources, or holds one; nothing was touched",
                store=folder,
                source=source,
                hint=hint,
            )


def _aside(target: Path) -> Path:
    return Path(f"{target}.replaced")


def _check_writable(target: Path) -> None:
    """Raise an error now that would otherwise come after the scan."""
    above = next(each for each in target.parents if each.exists())
    if not above.is_dir():
        raise DestinationExists("STORE would lie below a file", store=target, file=above, hint="choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        read_only = os.statvfs(above).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise machine_error(OSError(number, os.strerror(number)), "looking at where STORE goes", above)


def is_store(path: Path) -> bool:
    """Tell whether a folder holds the root of a store, of whatever version or state."""
    for key in (ROOT_KEY, root_key(1)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if isinstance(json.loads(LocalStorage(path).get(key) or b"")["attributes"]["vla_store"], dict):
                return True
    return False


def replace_store(partial: Path, target: Path, *, overwrite: bool) -> None:
    """Commit: STORE.partial becomes STORE. A store that is there is set aside first and deleted after."""
    aside = _aside(target)
    if target.exists() and not overwrite:
        raise DestinationExists(
            "STORE appeared while it was being built",
            store=target,
            partial=partial,
            hint="replace it with --overwrite, or move it away: the same command then finishes",
        )
    if target.exists():
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(target, aside)
    os.rename(partial, target)
    sync_folder(target.parent)
    if overwrite and is_store(aside):
        shutil.rmtree(aside)
