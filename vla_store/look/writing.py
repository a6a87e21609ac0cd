"""How a picture or a page gets to disk: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from vla_store.errors import OptionError, UsageError, machine_error
from vla_store.reader import Store


def name_of(store: Store) -> str:
    """What to call a store on something that is handed around: the last part of its place, and not the path on this machine."""
    return store.url.rstrip("/").rpartition("/")[2] or store.url


def checked_path(path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
    """The path, if a file of that kind can be written there. Raises OptionError, UsageError."""
    made = Path(path)
    if made.suffix.lower() not in suffixes:
        raise OptionError(
            "not a name that can be written to", expected=f"a name that ends in {suffixes[0]}", found=str(made)
        )
    if made.is_dir():
        raise UsageError("there is a folder of this name", path=made)
    if not made.parent.is_dir():
        raise UsageError("the folder to write to does not exist", path=made.parent)
    return made


def write_file(path: str | os.PathLike[str], data: bytes, suffixes: tuple[str, ...]) -> Path:
    """Puts `data` at `path`, in the place of what is there. Raises OptionError, UsageError, MachineError."""
    made = checked_path(path, suffixes)
    unfinished = made.with_name(f".{made.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(made)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise machine_error(error, "writing", made) from None
    return made
