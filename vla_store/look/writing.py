"""Output files of `show` and `report`: written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from vla_store.errors import machine_errors
from vla_store.reader import Store
from vla_store.storage import LocalStorage


def name_of(store: Store) -> str:
    """Return the name of a store on something that is handed around: the last part of its location, no path of this machine."""
    return store.url.rstrip("/").rpartition("/")[2] or store.url


def write_file(made: Path, data: bytes) -> None:
    """Write `data` to a path that `output_path` gave, in the place of what is there. Raises MachineError."""
    with machine_errors("writing", made):
        LocalStorage(made.parent).write(made.name, data)
