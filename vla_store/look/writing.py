"""Output files of `show` and `report`: written whole or not at all; and what is told of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_store.errors import machine_errors
from vla_store.reader import Store
from vla_store.reader.values import Episode
from vla_store.storage import LocalStorage
from vla_store.text import Report, size_text


@dataclass(frozen=True, repr=False)
class Written(Report):
    """A file that shows an episode: where it is, and its bytes."""

    path: Path
    nbytes: int
    episode: Episode

    def to_json(self) -> dict[str, Any]:
        episode = self.episode
        return {
            "episode": episode.episode,
            "file": episode.file,
            "nbytes": self.nbytes,
            "number": episode.number,
            "path": str(self.path),
            "steps": episode.length,
            "suite": episode.suite,
            "task": episode.task,
        }

    @property
    def about(self) -> tuple[str, str]:
        """The kind of file, and how large what it shows is."""
        return "file", ""

    def text(self) -> str:
        kind, size = self.about
        episode = self.episode
        return (
            f"{kind:<14} {self.path}  ({size}, {size_text(self.nbytes)})\n"
            f"episode        {episode.episode} ({episode.length:,} steps)\n"
            f"source         {episode.suite}/{episode.file}, demonstration {episode.number}"
        )


def name_of(store: Store) -> str:
    """Return the name of a store on something that is handed around: the last part of its location, no path of this machine."""
    return store.url.rstrip("/").rpartition("/")[2] or store.url


def write_file(made: Path, data: bytes) -> None:
    """Write `data` to a path that `output_path` gave, in the place of what is there. Raises MachineError."""
    with machine_errors("writing", made):
        LocalStorage(made.parent).write(made.name, data)


@contextlib.contextmanager
def placed(made: Path) -> Iterator[Path]:
    """Yield the path of an empty file beside `made`, a path that `output_path` gave, which takes its place when the block ends.

    Nothing is left of it when the block fails. Raises MachineError, at once where nothing can be written there.
    """
    with machine_errors("writing", made), LocalStorage(made.parent).place(made.name) as path:
        yield path
