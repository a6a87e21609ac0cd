"""Output files of `show` and `report`: written whole or not at all; and what is told of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_store.errors import UsageError, machine_errors
from vla_store.reader import Store
from vla_store.reader.values import Episode
from vla_store.storage import LocalStorage, is_url, output_path
from vla_store.text import WIDTH, Report, counted, size_text, wrapped

LABEL = 15  # columns


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
        return "\n".join(
            [
                beside(f"{kind:<{LABEL}}{self.path}", "  ", f"({size}, {size_text(self.nbytes)})"),
                labelled("episode", f"{episode.episode} ({counted(episode.length, 'step')})"),
                beside(f"{'source':<{LABEL}}{episode.suite}/{episode.file},", " ", f"demonstration {episode.number}"),
            ]
        )


def labelled(label: str, text: str) -> str:
    """Return what is told of a file, with its label at the left, in lines that a terminal need not wrap."""
    return wrapped(text, f"{label:<{LABEL}}", " " * LABEL)


def beside(line: str, space: str, more: str) -> str:
    """Return a line, which stays whole, with more text beside it, or below where there is no room."""
    is_short = len(line) + len(space) + len(more) <= WIDTH
    return f"{line}{space}{more}" if is_short else f"{line}\n{' ' * LABEL}{more}"


def name_of(store: Store) -> str:
    """Return the name of a store on something that is handed around: the last part of its location, no path of this machine."""
    return store.url.rstrip("/").rpartition("/")[2] or store.url


def path_outside(store: Store, given: str | os.PathLike[str], endings: tuple[str, ...]) -> Path:
    """Return the path of a file to write, as `output_path` does, if it is not in the store's own folder.

    Raises OptionError, UsageError.
    """
    made = output_path(given, endings)
    if not is_url(store.url):
        folder = made.parent.resolve()
        if Path(store.url).resolve() in (folder, *folder.parents):
            raise UsageError(
                "this is in the folder of the store, which has nothing but what its root names",
                path=made,
                expected="a place outside of it",
                hint="choose another folder: a store that is copied takes all that lies in it along",
            )
    return made


def write_file(made: Path, data: bytes) -> None:
    """Write `data` to a path that `path_outside` gave, in the place of what is there. Raises MachineError."""
    with machine_errors("writing", made):
        LocalStorage(made.parent).write(made.name, data)


@contextlib.contextmanager
def placed(made: Path) -> Iterator[Path]:
    """Yield the path of an empty file beside `made`, a path that `path_outside` gave, which takes its place when the block ends.

    Nothing is left of it when the block fails. Raises MachineError, at once where nothing can be written there.
    """
    with machine_errors("writing", made), LocalStorage(made.parent).place(made.name) as path:
        yield path
