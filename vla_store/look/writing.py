"""How a picture or a page gets to disk: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from vla_store.errors import machine_errors
from vla_store.reader import Store
from vla_store.storage import LocalStorage


def name_of(store: Store) -> str:
    """What to call a store on something that is handed around: the last part of its place, and not the path on this machine."""
    return store.url.rstrip("/").rpartition("/")[2] or store.url


def write_file(made: Path, data: bytes) -> None:
    """Write `data` to a path that `output_path` gave, in the place of what is there. Raises MachineError."""
    with machine_errors("writing", made):
        LocalStorage(made.parent).write(made.name, data)
