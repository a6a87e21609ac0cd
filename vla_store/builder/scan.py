"""The first look at everything a build is given: which sources there are, in which order, and whether they fit together.

Headers, attributes and `actions` are read, no pictures. What is wrong is refused here, before any work starts.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.builder.libero import EXTENSIONS, LiberoFile
from vla_store.builder.sources import EpisodeInfo, EpisodeSource, FieldSpec, Skipped, SourceInfo
from vla_store.errors import OptionError, SourceError, SourceNotFound
from vla_store.format import canonical
from vla_store.format.attributes import encode_attributes
from vla_store.format.digests import episode_name
from vla_store.format.schema import (
    MAX_FIELDS,
    MAX_FRAME_BYTES,
    NUMERIC_DTYPES,
    OBSERVATIONS,
    ORIENTATIONS,
    check_field_names,
)


@dataclass(frozen=True)
class Blob:
    """Encoded attributes that are not kept in memory: how long they are, and their sha256."""

    nbytes: int
    sha256: str


@dataclass(frozen=True)
class ScannedSource:
    """A source, what it says of itself, and digests that name it in a build's plan."""

    source: EpisodeSource
    info: SourceInfo
    actions: str
    layout: str
    episode_attributes: tuple[Blob, ...]
    source_attributes: Blob


@dataclass(frozen=True)
class Scan:
    """Sources in the store's order: suites by name, files by name; their episodes by number."""

    sources: tuple[ScannedSource, ...]
    fields: dict[str, FieldSpec]
    skipped: tuple[Skipped, ...]

    @property
    def steps(self) -> int:
        return sum(episode.steps for each in self.sources for episode in each.info.episodes)

    @property
    def episodes(self) -> int:
        return sum(len(each.info.episodes) for each in self.sources)


def find_sources(
    paths: Sequence[str | Path | EpisodeSource],
    *,
    orientation: str | None = None,
    observation: str | None = None,
    skip_bad: bool = False,
) -> list[EpisodeSource]:
    """The sources that paths stand for: HDF5 files, folders of them (suites) and folders of suites; objects as they are."""
    for name, value, allowed in (
        ("orientation", orientation, ORIENTATIONS),
        ("observation", observation, OBSERVATIONS),
    ):
        if value is not None and value not in allowed:
            raise OptionError(f"{name} cannot be {value!r}", allowed=", ".join(allowed))
    if not paths:
        raise OptionError("nothing to build from", expected="at least one SOURCE")
    found: list[EpisodeSource] = []
    for each in paths:
        if not isinstance(each, (str, Path)):
            found.append(each)
            continue
        path = Path(each)
        if not path.exists():
            raise SourceNotFound("there is no such source", path=path)
        files = [path] if path.is_file() else _hdf5_below(path)
        for file in files:
            suite = file.resolve().parent.name
            found.append(LiberoFile(str(file.absolute()), suite, orientation, observation, skip_bad))
    return found


def scan_sources(
    sources: Sequence[EpisodeSource], *, skip_bad: bool = False, talk: Callable[[str], None] | None = None
) -> Scan:
    """Scan all of them and check them against each other. Raises SourceError; with skip_bad leaves bad ones out."""
    scanned: list[ScannedSource] = []
    skipped: list[Skipped] = []
    fields: dict[str, FieldSpec] = {}
    first_of: dict[str, str] = {}
    for number, source in enumerate(sources):
        if talk:
            talk(f"scanning source {number + 1} of {len(sources)}")
        try:
            info = source.scan()
            info, left_out = _consistent(info, fields, first_of, skip_bad)
            scanned.append(_identify(source, info))
            skipped += [*info.skipped, *left_out]
        except SourceError as error:
            if not skip_bad:
                raise
            suite, file = getattr(source, "suite", ""), getattr(source, "file", str(source))
            skipped.append(Skipped(suite, file, None, error.what))
    if not scanned:
        raise SourceError("every source is bad", found=f"{skipped[0].file}: {skipped[0].reason}")
    scanned.sort(key=lambda each: (each.info.suite.encode(), each.info.file.encode()))
    _check_names(scanned)
    return Scan(tuple(scanned), _settle_ragged(scanned, fields), tuple(skipped))


def _hdf5_below(folder: Path) -> list[Path]:
    def files_of(place: Path) -> list[Path]:
        return sorted(entry for entry in place.iterdir() if entry.suffix in EXTENSIONS and entry.is_file())

    files = files_of(folder)
    for suite in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        files += files_of(suite)
    if not files:
        raise SourceError(
            "no demonstrations in the folder",
            folder=folder,
            expected=f"files *{' or *'.join(EXTENSIONS)} in it, or in folders one level below",
            found=", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder",
        )
    return files


def _consistent(
    info: SourceInfo, fields: dict[str, FieldSpec], first_of: dict[str, str], skip_bad: bool
) -> tuple[SourceInfo, list[Skipped]]:
    """Check every episode against the fields seen first; the episodes that fit, and those left out."""
    for name, value, allowed in (
        ("orientation", info.orientation, ORIENTATIONS),
        ("observation", info.observation, OBSERVATIONS),
    ):
        if value not in allowed:
            raise SourceError(f"a source's {name} cannot be {value!r}", file=info.file, expected=", ".join(allowed))
    kept: list[EpisodeInfo] = []
    skipped: list[Skipped] = []
    for episode in sorted(info.episodes, key=lambda each: each.number):
        try:
            if kept and kept[-1].number == episode.number:
                raise SourceError("two episodes of a source have the same number")
            _check_episode(episode, fields, first_of)
        except SourceError as error:
            error.at(file=info.file, demo=episode.number)
            if not skip_bad:
                raise
            skipped.append(Skipped(info.suite, info.file, episode_name(episode.number), error.what))
            continue
        if not fields:
            fields.update(episode.fields)
            first_of["fields"] = f"{info.file}, demo {episode.number}"
        kept.append(episode)
    if not kept:
        raise SourceError(skipped[0].reason if skipped else "a source without episodes", file=info.file)
    return replace(info, episodes=tuple(kept)), skipped


def _check_episode(episode: EpisodeInfo, fields: dict[str, FieldSpec], first_of: dict[str, str]) -> None:
    if episode.steps < 1:
        raise SourceError("a demonstration without steps")
    if not fields:
        check_field_names(list(episode.fields))
        if len(episode.fields) > MAX_FIELDS:
            raise SourceError("too many fields", expected=f"at most {MAX_FIELDS}", found=len(episode.fields))
        for name, spec in episode.fields.items():
            if spec.dtype not in NUMERIC_DTYPES or 0 in spec.shape or spec.role not in ("observation", "step"):
                raise SourceError("a field that cannot be stored", field=name, found=f"{spec}")
            if spec.ragged and len(spec.shape) != 1:
                raise SourceError("a ragged field has one axis a step", field=name, found=f"shape {spec.shape}")
        return
    missing, extra = sorted(fields.keys() - episode.fields.keys()), sorted(episode.fields.keys() - fields.keys())
    if missing or extra:
        camera = any(fields[name].is_camera for name in missing)
        raise SourceError(
            "a demonstration without a camera that others have" if camera else "demonstrations have different datasets",
            missing=", ".join(missing) or None,
            more=", ".join(extra) or None,
            expected=f"the datasets of {first_of['fields']}",
        )
    for name, spec in episode.fields.items():
        other = fields[name]
        same_shape = spec.shape == other.shape or (spec.ragged and other.ragged and len(spec.shape) == len(other.shape))
        if spec.dtype != other.dtype or not same_shape:
            what = (
                "images of different size or type in one camera"
                if spec.is_camera or other.is_camera
                else "a field differs in dtype or shape"
            )
            raise SourceError(
                what,
                field=name,
                expected=f"{other.shape} of {other.dtype} a step, as in {first_of['fields']}",
                found=f"{spec.shape} of {spec.dtype}",
                hint="build sources that differ into stores of their own",
            )
        if spec.is_camera and _nbytes(spec) > MAX_FRAME_BYTES:
            raise SourceError("a picture is too large", field=name, expected=f"at most {MAX_FRAME_BYTES} bytes")


def _nbytes(spec: FieldSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _settle_ragged(scanned: list[ScannedSource], fields: dict[str, FieldSpec]) -> dict[str, FieldSpec]:
    """A field that may be ragged is fixed where all its widths agree."""
    settled = {}
    for name in sorted(fields):
        widths = {episode.fields[name].shape for each in scanned for episode in each.info.episodes}
        settled[name] = replace(fields[name], ragged=fields[name].ragged and len(widths) > 1)
    return settled


def _check_names(scanned: list[ScannedSource]) -> None:
    tasks: dict[tuple[str, str], SourceInfo] = {}
    for a, b in itertools.pairwise(scanned):
        if (a.info.suite, a.info.file) == (b.info.suite, b.info.file):
            raise SourceError(
                "the same file twice",
                suite=a.info.suite,
                file=a.info.file,
                first=getattr(a.source, "path", None),
                second=getattr(b.source, "path", None),
                hint="name each file once; files of one name need folders of different names",
            )
    for each in scanned:
        other = tasks.setdefault((each.info.suite, each.info.task), each.info)
        if (other.text, other.instruction) != (each.info.text, each.info.instruction):
            raise SourceError(
                "two files call different tasks by one name",
                task=each.info.task,
                files=f"{other.file}, {each.info.file}",
            )


def _identify(source: EpisodeSource, info: SourceInfo) -> ScannedSource:
    """Digests of all the source's actions, and of its datasets' names, shapes and dtypes and its attributes."""
    actions, layout = hashlib.sha256(), hashlib.sha256()
    blobs: list[Blob] = []
    for episode in info.episodes:
        if "actions" in episode.fields:
            actions.update(source.read(episode.number, "actions", 0, episode.steps).tobytes())
        shapes: Any = {name: [spec.dtype, [episode.steps, *spec.shape]] for name, spec in episode.fields.items()}
        layout.update(canonical.dumps({"fields": shapes, "number": episode.number}))
        blobs.append(_blob(source, episode.number))
        layout.update(bytes.fromhex(blobs[-1].sha256))
    own = _blob(source, None)
    layout.update(bytes.fromhex(own.sha256))
    return ScannedSource(source, info, actions.hexdigest(), layout.hexdigest(), tuple(blobs), own)


def _blob(source: EpisodeSource, number: int | None) -> Blob:
    encoded = encode_attributes(source.attributes(number))
    return Blob(len(encoded), canonical.sha256_hex(encoded))
