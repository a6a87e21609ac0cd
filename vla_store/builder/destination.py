"""Where a store may be written, and how it takes its name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from vla_store.builder.shards import sync_folder
from vla_store.errors import DestinationExists, OptionError


def check_destination(given: str, target: Path, partial: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raises unless a store may be built at `target`. Nothing is touched."""
    if "://" in given:
        raise OptionError(
            "a store is built on a local path",
            found=given,
            hint="build it locally, then copy the folder to its place: objects never change after the build",
        )
    for source in sources:
        real, place = Path(os.path.realpath(source)), Path(os.path.realpath(target))
        if (
            place == real
            or place in real.parents
            or (real.is_dir() and real in place.parents and not overwrite and place.exists())
        ):
            raise DestinationExists(
                "STORE is one of the sources, or holds one; nothing was touched",
                store=target,
                source=source,
                hint="the last argument is the store to write: vla-store build SOURCE... STORE",
            )
    if target.exists() or target.is_symlink():
        if not is_store(target):
            raise DestinationExists(
                "STORE exists and is not a store; nothing was touched",
                store=target,
                hint="the last argument is the store to write: vla-store build SOURCE... STORE",
            )
        if not overwrite:
            raise DestinationExists(
                "STORE exists", store=target, hint="choose another name, or replace it with --overwrite"
            )
    if partial.exists() and not partial.is_dir():
        raise DestinationExists("the place of the unfinished build is taken", path=partial)


def is_store(path: Path) -> bool:
    """Whether a folder holds the root of a store, of whatever version or state."""
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        return isinstance(attributes["vla_store"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def replace_store(partial: Path, target: Path, *, overwrite: bool) -> None:
    """The commit: STORE.partial becomes STORE. A store that is there is set aside first and deleted after."""
    aside = target.with_name(f"{target.name}.replaced")
    if overwrite and aside.exists():
        shutil.rmtree(aside)
    if overwrite and target.exists():
        os.rename(target, aside)
    elif target.exists():
        raise DestinationExists("STORE appeared while it was being built", store=target, partial=partial)
    os.rename(partial, target)
    sync_folder(target.parent)
    if aside.exists() and overwrite:
        shutil.rmtree(aside)
