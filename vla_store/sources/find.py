"""Which sources there are: what the paths that a build is given stand for, and what the caller says of their conventions."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from vla_store.errors import OptionError, SourceError, SourceNotFound, VlaStoreError, machine_error
from vla_store.format.schema import OBSERVATIONS, ORIENTATIONS
from vla_store.sources.cosmos import CosmosFile, is_cosmos, suite_of
from vla_store.sources.datasets import NOTHING, Choice
from vla_store.sources.hdf5 import EXTENSIONS
from vla_store.sources.hdf5_file import opened
from vla_store.sources.libero import LiberoFile
from vla_store.sources.protocol import EpisodeSource
from vla_store.storage import is_url, place_of

# A convention that the caller states: for all sources, or by path (None: for the others).
Said = str | Mapping[str | Path | None, str] | None
Given = str | os.PathLike[str] | EpisodeSource

MAX_FOLDERS = 1000  # that are looked into for a hint


def local_sources(given: Given | Sequence[Given]) -> list[Path | EpisodeSource]:
    """One source or several as a list, paths absolute. Raises OptionError, SourceNotFound for a URL."""
    several = [given] if isinstance(given, (str, os.PathLike, EpisodeSource)) else given
    return [each if isinstance(each, EpisodeSource) else _local(each) for each in several]


def _local(given: str | os.PathLike[str]) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise OptionError(
            "a source is a path, or has the methods of EpisodeSource: scan, read and attributes",
            found=type(given).__qualname__,
        )
    place = place_of(given)
    if is_url(place):
        raise SourceNotFound(
            "a source is a local path",
            found=place,
            hint=f"download or mount the demonstrations first, as in: {_download(place)}",
        )
    return Path(place)


def _download(url: str) -> str:
    """The command that fetches what lies at a URL."""
    hub = re.match(r"(?:hf://|https?://huggingface\.co/)datasets/([^/@?#]+/[^/@?#]+)", url)
    if hub:
        return f"hf download {hub[1]} --repo-type dataset --local-dir LIBERO"
    if url.startswith("s3://"):
        return f"aws s3 sync {shlex.quote(url)} LIBERO"
    if url.startswith(("gs://", "gcs://")):
        return f"gcloud storage rsync -r {shlex.quote(url)} LIBERO"
    if url.startswith(("http://", "https://")):
        return f"curl -LO {shlex.quote(url)}"
    return "rclone copy"


def find_sources(
    given: Given | Sequence[Given],
    *,
    orientation: Said = None,
    observation: Said = None,
    skip_bad: bool = False,
    choice: Choice = NOTHING,
) -> list[EpisodeSource]:
    """The sources that paths stand for: HDF5 files, folders of them (suites) and folders of suites; objects as they are."""
    orientations = _Convention("orientation", orientation, ORIENTATIONS)
    observations = _Convention("observation", observation, OBSERVATIONS)
    sources = local_sources(given)
    if not sources:
        raise OptionError("nothing to build from", expected="at least one SOURCE")
    found: list[EpisodeSource] = []
    for path in sources:
        if isinstance(path, EpisodeSource):
            found.append(path)
            continue
        try:
            if not path.exists():
                raise SourceNotFound(
                    "there is no such source",
                    path=path,
                    hint="check the path: it is an HDF5 file, a suite folder or a folder of suites",
                )
            if not path.is_file() and not path.is_dir():
                raise SourceNotFound(
                    "a source is neither a file nor a folder",
                    path=path,
                    hint="copy what it gives into an HDF5 file first",
                )
            files = [path] if path.is_file() else _hdf5_below(path)
        except VlaStoreError:
            raise
        except OSError as error:
            raise machine_error(error, "looking for sources", error.filename or path) from error
        for file in files:
            place = str(file)
            said = tuple(sorted(each.name for each in (orientations, observations) if each.is_by_path(place)))
            found.append(_file_source(place, orientations.of(place), observations.of(place), skip_bad, said, choice))
    orientations.check_used()
    observations.check_used()
    return found


class _Convention:
    """What the caller says of sources: one value for all of them, or one by path of a file or a folder; None for the others."""

    def __init__(self, name: str, given: Said, allowed: Sequence[str]) -> None:
        self.name = name
        by_path = given if isinstance(given, Mapping) else {None: given}
        for value in by_path.values():
            if value is not None and value not in allowed:
                raise OptionError(f"{name} cannot be {value!r}", allowed=", ".join(allowed))
        self._others = by_path.get(None)
        self._by_path = {place_of(path): value for path, value in by_path.items() if path is not None}
        self._used: set[str] = set()

    def of(self, place: str) -> str | None:
        """Of the file at an absolute path; the nearest folder above it counts."""
        above = self._above(place)
        self._used.update(above)
        return self._by_path[max(above, key=len)] if above else self._others

    def is_by_path(self, place: str) -> bool:
        """Whether it is said of this file, or of a folder above it."""
        return bool(self._above(place)) and self.of(place) is not None

    def _above(self, place: str) -> list[str]:
        return [path for path in self._by_path if place == path or place.startswith(path.rstrip(os.sep) + os.sep)]

    def check_used(self) -> None:
        for path in self._by_path:
            if path not in self._used:
                raise OptionError(
                    f"{self.name} is said of a path that is no source and holds none",
                    path=path,
                    hint=f"--{self.name} PATH=VALUE takes the path of a SOURCE, or of a file or folder in one",
                )


def _file_source(
    place: str,
    orientation: str | None,
    observation: str | None,
    skip_bad: bool,
    said: tuple[str, ...],
    choice: Choice,
) -> EpisodeSource:
    """The source that an HDF5 file is, by its layout. One that cannot be opened says why when it is scanned."""
    # The folder's name as it was given: where links lead (a cache of downloads, say) is no suite.
    suite = Path(place).parent.name
    with contextlib.suppress(VlaStoreError), opened(place) as file:
        if is_cosmos(file):
            suite = suite_of(Path(place).name) or suite
            return CosmosFile(place, suite, orientation, observation, skip_bad, said, choice)
    return LiberoFile(place, suite, orientation, observation, skip_bad, said, choice)


def _hdf5_below(folder: Path) -> list[Path]:
    def files_of(place: Path) -> list[Path]:
        named = [each for each in place.iterdir() if each.suffix.lower() in EXTENSIONS and each.name[0] != "."]
        for each in named:
            if not each.exists():
                raise SourceError(
                    "a link that leads nowhere",
                    file=each,
                    expected=os.path.realpath(each),
                    hint="a download may be incomplete; remove the link to build without it",
                )
        return sorted(each for each in named if each.is_file())

    files = files_of(folder)
    for suite in sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."):
        files += files_of(suite)
    if not files:
        there = sorted(entry.name for entry in folder.iterdir())
        raise SourceError(
            "no demonstrations in the folder",
            folder=folder,
            expected=f"files *{' or *'.join(EXTENSIONS)} in it, or in folders one level below",
            found=(", ".join(there[:8]) + (", ..." if len(there) > 8 else "")) or "an empty folder",
            hint="this is a store, not a source; of stores, vla-store copy, merge and recode make another one"
            if {"zarr.json", "parts"} <= set(there)
            else _deeper(folder),
        )
    return files


def _deeper(folder: Path) -> str:
    """What to give instead of a folder that holds no HDF5 files: where the first lie, if that is not far."""
    for place, folders, names in itertools.islice(os.walk(folder), MAX_FOLDERS):
        folders.sort()
        if any(Path(name).suffix.lower() in EXTENSIONS and name[0] != "." for name in names):
            return f"the first ones lie deeper: give {place}"
    return (
        "give the folder of a suite, the folder of such folders, or a file; files need one of these endings, and another format "
        "an EpisodeSource of forty lines (docs/how-to/own-robot.md)"
    )
