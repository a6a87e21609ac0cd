"""The first look at everything a build is given: which sources there are, in which order, and whether they fit together.

Headers, attributes and `actions` are read, no pictures. What is wrong is refused here, before any work starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.builder.cosmos import CosmosFile, is_cosmos, suite_of
from vla_store.builder.hdf5 import EXTENSIONS, opened
from vla_store.builder.libero import LiberoFile
from vla_store.builder.sources import (
    EpisodeInfo,
    EpisodeSource,
    FieldSpec,
    Skipped,
    SourceInfo,
    name_of,
    read_rows,
    reason_of,
)
from vla_store.errors import OptionError, SourceError, SourceNotFound, VlaStoreError, machine_error
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

# A convention that the caller states: for all sources, or by path (None: for the others).
Said = str | Mapping[str | Path | None, str] | None

DIFFERENT = "build sources that differ into stores of their own, or leave the odd ones out with --skip-bad"


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
    orientation: Said = None,
    observation: Said = None,
    skip_bad: bool = False,
) -> list[EpisodeSource]:
    """The sources that paths stand for: HDF5 files, folders of them (suites) and folders of suites; objects as they are."""
    orientations = _Convention("orientation", orientation, ORIENTATIONS)
    observations = _Convention("observation", observation, OBSERVATIONS)
    if not paths:
        raise OptionError("nothing to build from", expected="at least one SOURCE")
    found: list[EpisodeSource] = []
    for each in paths:
        if isinstance(each, EpisodeSource):
            found.append(each)
            continue
        if not isinstance(each, (str, Path)):
            raise OptionError(
                "a source is a path, or has the methods of EpisodeSource: scan, read and attributes",
                found=type(each).__qualname__,
            )
        path = Path(each)
        try:
            if not path.exists():
                raise SourceNotFound("there is no such source", path=path)
            if not path.is_file() and not path.is_dir():
                raise SourceNotFound("a source is neither a file nor a folder", path=path)
            files = [path] if path.is_file() else _hdf5_below(path)
        except VlaStoreError:
            raise
        except OSError as error:
            raise machine_error(error, "looking for sources", error.filename or path) from error
        for file in files:
            place = os.path.abspath(file)
            found.append(_file_source(place, orientations.of(place), observations.of(place), skip_bad))
    orientations.check_used()
    observations.check_used()
    return found


class _Convention:
    """What the caller says of sources: one value for all of them, or one by path of a file or a folder; None for the others."""

    def __init__(self, name: str, given: Said, allowed: Sequence[str]) -> None:
        self._name = name
        by_path = given if isinstance(given, Mapping) else {None: given}
        for value in by_path.values():
            if value is not None and value not in allowed:
                raise OptionError(f"{name} cannot be {value!r}", allowed=", ".join(allowed))
        self._others = by_path.get(None)
        self._by_path = {os.path.abspath(path): value for path, value in by_path.items() if path is not None}
        self._used: set[str] = set()

    def of(self, place: str) -> str | None:
        """Of the file at an absolute path; the nearest folder above it counts."""
        above = [path for path in self._by_path if place == path or place.startswith(path.rstrip(os.sep) + os.sep)]
        self._used.update(above)
        return self._by_path[max(above, key=len)] if above else self._others

    def check_used(self) -> None:
        for path in self._by_path:
            if path not in self._used:
                raise OptionError(
                    f"{self._name} is said of a path that is no source and holds none",
                    path=path,
                    hint=f"--{self._name} PATH=VALUE takes the path of a SOURCE, or of a file or folder in one",
                )


def _file_source(place: str, orientation: str | None, observation: str | None, skip_bad: bool) -> EpisodeSource:
    """The source that an HDF5 file is, by its layout. One that cannot be opened says why when it is scanned."""
    # The folder's name as it was given: where links lead (a cache of downloads, say) is no suite.
    suite = Path(place).parent.name
    with contextlib.suppress(VlaStoreError), opened(place) as file:
        if is_cosmos(file):
            return CosmosFile(place, suite_of(Path(place).name) or suite, orientation, observation, skip_bad)
    return LiberoFile(place, suite, orientation, observation, skip_bad)


def scan_sources(
    sources: Sequence[EpisodeSource], *, skip_bad: bool = False, talk: Callable[[str], None] | None = None
) -> Scan:
    """Scan all of them and check them against each other. Raises SourceError; with skip_bad leaves bad ones out."""
    infos: list[tuple[EpisodeSource, SourceInfo]] = []
    skipped: list[Skipped] = []
    errors: list[SourceError] = []
    for number, source in enumerate(sources):
        if talk:
            talk(f"scanning source {number + 1} of {len(sources)}")
        try:
            info = source.scan()
            _check_info(source, info)
        except SourceError as error:
            if not skip_bad:
                raise
            errors.append(error)
            suite = getattr(source, "suite", "")
            file = getattr(source, "file", type(source).__qualname__)
            skipped.append(Skipped(suite, file, None, reason_of(error)))
        else:
            infos.append((source, info))
            skipped += info.skipped
    infos.sort(key=lambda each: (each[1].suite.encode(), each[1].file.encode()))
    _check_names(infos)
    scanned: list[ScannedSource] = []
    if infos:
        expected = _expected_fields(infos)
        for source, info in infos:
            made, left_out, bad = _identify(source, info, expected, skip_bad)
            scanned += [made] if made else []
            skipped += left_out
            errors += bad
    if not scanned:
        raise errors[0]
    skipped.sort(key=lambda each: (each.suite.encode(), each.file.encode()))
    return Scan(tuple(scanned), _settle_ragged(scanned, expected.fields), tuple(skipped))


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
            hint="this is a store, not a source" if {"zarr.json", "parts"} <= set(there) else "",
        )
    return files


def _check_info(source: EpisodeSource, info: SourceInfo) -> None:
    for name, value, allowed in (
        ("orientation", info.orientation, ORIENTATIONS),
        ("observation", info.observation, OBSERVATIONS),
    ):
        if value not in allowed:
            raise SourceError(
                f"a source's {name} cannot be {value!r}", file=name_of(source), expected=", ".join(allowed)
            )
    if bool(info.codec) != bool(info.decoder) or not all(isinstance(each, str) for each in (info.codec, info.decoder)):
        raise SourceError(
            "a source's codec and decoder are two texts, or both empty",
            file=name_of(source),
            found=(info.codec, info.decoder),
        )
    for name in ("suite", "file", "task", "text", "instruction"):
        text = getattr(info, name)
        if name == "instruction" and text is None:
            continue
        if not isinstance(text, str) or not text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise SourceError(
                f"a source's {name} must be a text that is not empty, in UTF-8",
                file=name_of(source),
                found=ascii(text)[:120],
                hint="rename the file or its folder" if name != "instruction" else "",
            )
    if not info.episodes:
        raise SourceError("a source without episodes", file=name_of(source))


# One signature per layout of an episode: the fields' names, dtypes, shapes and roles, the width of a ragged field left open.
_Signature = tuple[tuple[str, str, tuple[int | None, ...], str], ...]


@dataclass(frozen=True)
class _Expected:
    """The fields that every episode must have, and an episode that has them, to name in messages."""

    fields: dict[str, FieldSpec]
    example: str


def _expected_fields(infos: list[tuple[EpisodeSource, SourceInfo]]) -> _Expected:
    """What most episodes have, ties to the earlier in the store's order: so that the odd one out is the one refused."""
    counts: Counter[_Signature] = Counter()
    first: dict[_Signature, tuple[EpisodeSource, EpisodeInfo]] = {}
    for source, info in infos:
        for episode in sorted(info.episodes, key=lambda each: each.number):
            signature = _signature(episode)
            counts[signature] += 1
            first.setdefault(signature, (source, episode))
    source, episode = first[counts.most_common(1)[0][0]]
    where: dict[str, Any] = {"file": name_of(source), "demo": episode.number}
    check_field_names(list(episode.fields), **where)
    if not 0 < len(episode.fields) <= MAX_FIELDS:
        raise SourceError("too many or no fields", **where, expected=f"1 to {MAX_FIELDS}", found=len(episode.fields))
    for name, spec in episode.fields.items():
        if spec.dtype not in NUMERIC_DTYPES or 0 in spec.shape or spec.role not in ("observation", "step"):
            raise SourceError("a field that cannot be stored", **where, field=name, found=spec)
        if spec.ragged and len(spec.shape) != 1:
            raise SourceError("a ragged field has one axis a step", **where, field=name, found=f"shape {spec.shape}")
        if _nbytes(spec) > MAX_FRAME_BYTES:
            raise SourceError(
                "a field is too large",
                **where,
                field=name,
                expected=f"at most {MAX_FRAME_BYTES} bytes a step",
                found=f"{spec.shape} of {spec.dtype}",
            )
    return _Expected(episode.fields, f"{os.path.basename(name_of(source))}, demo {episode.number}")


def _signature(episode: EpisodeInfo) -> _Signature:
    return tuple(
        (name, spec.dtype, (None,) if spec.ragged else spec.shape, spec.role)
        for name, spec in sorted(episode.fields.items())
    )


def _check_episode(episode: EpisodeInfo, expected: _Expected) -> None:
    if episode.steps < 1:
        raise SourceError("a demonstration without steps")
    if not 0 <= episode.number <= canonical.MAX_INTEGER:
        raise SourceError("an episode's number cannot be", found=episode.number)
    if episode.success not in (-1, 0, 1):
        raise SourceError("an episode's success is 1, 0, or -1 where it is not known", found=episode.success)
    fields = expected.fields
    missing, extra = sorted(fields.keys() - episode.fields.keys()), sorted(episode.fields.keys() - fields.keys())
    if missing or extra:
        camera = any(fields[name].is_camera for name in missing)
        raise SourceError(
            "a demonstration without a camera that others have" if camera else "demonstrations have different datasets",
            missing=", ".join(missing) or None,
            more=", ".join(extra) or None,
            expected=f"the datasets that most have (one: {expected.example})",
            hint=DIFFERENT,
        )
    for name, spec in episode.fields.items():
        other = fields[name]
        if (spec.dtype, spec.role, spec.ragged) == (other.dtype, other.role, other.ragged) and (
            spec.shape == other.shape or (spec.ragged and len(spec.shape) == 1)
        ):
            continue
        camera = spec.is_camera or other.is_camera
        raise SourceError(
            "images of different size or type in one camera" if camera else "a field differs in dtype or shape",
            field=name,
            expected=f"{_text(other)}, as most have (one: {expected.example})",
            found=_text(spec),
            hint=DIFFERENT,
        )


def _text(spec: FieldSpec) -> str:
    shape = "any width" if spec.ragged else spec.shape
    return f"{shape} of {spec.dtype} for each {spec.role}"


def _nbytes(spec: FieldSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _settle_ragged(scanned: list[ScannedSource], fields: dict[str, FieldSpec]) -> dict[str, FieldSpec]:
    """A field that may be ragged is fixed where all its widths agree."""
    settled = {}
    for name in sorted(fields):
        widths = {episode.fields[name].shape for each in scanned for episode in each.info.episodes}
        ragged = fields[name].ragged and len(widths) > 1
        settled[name] = replace(fields[name], ragged=ragged, shape=fields[name].shape if ragged else min(widths))
    return settled


def _check_names(infos: list[tuple[EpisodeSource, SourceInfo]]) -> None:
    for (source, info), (other, same) in itertools.pairwise(infos):
        if (info.suite, info.file) == (same.suite, same.file):
            raise SourceError(
                "the same file twice",
                suite=info.suite,
                file=info.file,
                first=getattr(source, "path", None),
                second=getattr(other, "path", None),
                hint="name each file once; files of one name need folders of different names",
            )
    tasks: dict[tuple[str, str], SourceInfo] = {}
    for _, info in infos:
        first = tasks.setdefault((info.suite, info.task), info)
        if (first.text, first.instruction) != (info.text, info.instruction):
            raise SourceError(
                "two files call different tasks by one name",
                task=info.task,
                files=f"{first.file}, {info.file}",
            )


def _identify(
    source: EpisodeSource, info: SourceInfo, expected: _Expected, skip_bad: bool
) -> tuple[ScannedSource | None, list[Skipped], list[SourceError]]:
    """Check every episode, and take digests of all actions, of the datasets' names, shapes and dtypes, and of the attributes.

    Returns the source with the episodes that are as they should be (None if there are none), what was left out, and why.
    """
    actions, layout = hashlib.sha256(), hashlib.sha256()
    kept: list[EpisodeInfo] = []
    blobs: list[Blob] = []
    skipped: list[Skipped] = []
    errors: list[SourceError] = []
    for episode in sorted(info.episodes, key=lambda each: each.number):
        try:
            if kept and kept[-1].number == episode.number:
                raise SourceError("two episodes of a source have the same number")
            _check_episode(episode, expected)
            blob = _blob(source, episode.number)
            numbers = _actions(source, episode)
        except SourceError as error:
            error.at(file=name_of(source), demo=episode_name(episode.number))
            if not skip_bad:
                raise
            errors.append(error)
            skipped.append(Skipped(info.suite, info.file, episode_name(episode.number), reason_of(error)))
            continue
        kept.append(episode)
        blobs.append(blob)
        actions.update(numbers)
        shapes: Any = {name: [spec.dtype, [episode.steps, *spec.shape]] for name, spec in episode.fields.items()}
        layout.update(canonical.dumps({"fields": shapes, "number": episode.number}))
        layout.update(bytes.fromhex(blob.sha256))
    if not kept:
        return None, skipped, errors
    own = _blob(source, None)
    layout.update(bytes.fromhex(own.sha256))
    info = replace(info, episodes=tuple(kept))
    return ScannedSource(source, info, actions.hexdigest(), layout.hexdigest(), tuple(blobs), own), skipped, errors


def _actions(source: EpisodeSource, episode: EpisodeInfo) -> bytes:
    spec = episode.fields.get("actions")
    if spec is None:
        return b""
    return read_rows(source, episode.number, "actions", spec.dtype, spec.shape, 0, episode.steps).tobytes()


def _blob(source: EpisodeSource, number: int | None) -> Blob:
    try:
        encoded = encode_attributes(source.attributes(number))
    except (TypeError, ValueError) as error:  # values that encode_value did not make, names that are not UTF-8
        if isinstance(error, VlaStoreError):
            raise
        raise SourceError(
            "attributes that cannot be kept",
            file=name_of(source),
            demo=number,
            expected="{path: {name: value made by encode_value}}",
            found=str(error)[:200],
        ) from error
    return Blob(len(encoded), canonical.sha256_hex(encoded))
