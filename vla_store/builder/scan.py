"""The first look into everything a build is given: in which order the sources stand, and whether they fit together. May import
sources and format.

Headers, attributes and `actions` are read, and no pictures, but for one case: where bad demonstrations are to be left out, all is
read that may turn out to be bad (compressed, encoded). A plan is made of what is kept, so nothing of it may fail afterwards.
What is wrong is refused here, before any work starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vla_store.errors import MachineError, SourceError, UsageError, VlaStoreError
from vla_store.format import canonical, schema
from vla_store.format.attributes import encode_attributes
from vla_store.format.digests import episode_name
from vla_store.format.nonfinite import Tally, counted, counts_text, tallied, together
from vla_store.format.skipped import Skipped
from vla_store.sources.pictures import with_pictures
from vla_store.sources.protocol import (
    EpisodeInfo,
    EpisodeSource,
    FieldSpec,
    SourceInfo,
    TaskInfo,
    check_actions,
    check_kept,
    is_machines,
    name_of,
    read_rows,
    reason_of,
)
from vla_store.sources.saying import check_labels, check_rate, info_of, is_text, settled_labels, settled_texts
from vla_store.types import OBSERVATIONS, ORIENTATIONS

log = logging.getLogger("vla_store.builder")

BLOCK_NBYTES = 4 << 20  # that one thread reads at a time, to check it
DIFFERENT = (
    "build sources that differ into stores of their own, or leave the odd ones out with --skip-bad, or what they have more "
    "with --exclude"
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


def scan_sources(
    sources: Sequence[EpisodeSource],
    *,
    skip_bad: bool = False,
    require_finite: bool = False,
    thorough: bool = True,
    talk: Callable[[str], None] = lambda text: None,
) -> Scan:
    """Scan all sources and check them against each other.

    Parameters
    ----------
    skip_bad
        Leave out, and record, what is bad.
    require_finite
        Refuse episodes with a number, in whatever field, that is NaN or infinite.
    thorough
        With skip_bad, read also what only reading can find to be bad.
    talk
        Called with a line about each stage.

    Raises
    ------
    SourceError
        For what is bad; with skip_bad, where nothing is left.
    """
    sieve = _Sieve(skip_bad, thorough and skip_bad, require_finite)
    infos: list[tuple[EpisodeSource, SourceInfo]] = []
    for number, source in enumerate(sources):
        talk(f"scanning source {number + 1} of {len(sources)}")
        with sieve.sifting(source):
            info = check_rate(source, info_of(source))
            _check_info(source, info)
            infos.append((source, info))
            sieve.skipped += info.skipped
    infos.sort(key=lambda each: (each[1].suite.encode(), each[1].file.encode()))
    _check_names(infos)
    sound: list[ScannedSource] = []
    for source, info in infos:
        if sieve.thorough or require_finite:
            talk(f"reading {info.suite}/{info.file} beforehand, to find what is bad")
        with sieve.sifting(source):
            sound += _examined(source, info, sieve)
    fields, example = _expected_fields(sound) if sound else ({}, "")
    scanned = [made for each in sound for made in _identified(each, fields, example, sieve)]
    if not scanned:
        raise sieve.errors[0]
    sieve.skipped.sort(key=lambda each: (each.suite.encode(), each.file.encode()))
    return Scan(*_labelled(scanned, _settle_ragged(scanned, fields)), tuple(sieve.skipped))


@dataclass
class _Sieve:
    """Leaves out what is bad, where that is wanted, and keeps the reasons.

    thorough: every field that is not plain is read beforehand. require_finite: every floating field, for its numbers.
    """

    skip_bad: bool
    thorough: bool
    require_finite: bool
    skipped: list[Skipped] = field(default_factory=list)
    errors: list[SourceError] = field(default_factory=list)

    @contextlib.contextmanager
    def sifting(
        self, source: EpisodeSource, info: SourceInfo | None = None, number: int | None = None
    ) -> Iterator[None]:
        """Let errors of this context name the source, or one of its episodes; with skip_bad end it and note the error instead."""
        try:
            with self.blaming(source, number):
                yield
        except SourceError as error:
            if not self.skip_bad:
                raise
            self.errors.append(error)
            named = source if info is None else info
            suite, file = getattr(named, "suite", ""), getattr(named, "file", type(source).__qualname__)
            demo = None if number is None else episode_name(number)
            self.skipped.append(Skipped(suite, file, demo, reason_of(error)))
            log.info("left out: %s: %s", self.skipped[-1].place, self.skipped[-1].reason)

    @contextlib.contextmanager
    def blaming(self, source: EpisodeSource, number: int | None = None, field: str | None = None) -> Iterator[None]:
        """Let errors of this context name the source, the episode and the field. With skip_bad, whatever a source raises is its
        own fault, and so a SourceError, but for what is the machine's or the caller's."""
        demo = None if number is None else episode_name(number)
        where: dict[str, Any] = {"file": name_of(source), "demo": demo, "field": field}
        try:
            yield
        except SourceError as error:
            error.at(**where)
            raise
        except (MachineError, UsageError, MemoryError):
            raise
        except Exception as error:
            if not self.skip_bad or (isinstance(error, OSError) and is_machines(error)):
                raise
            what = f"reading a source raised {type(error).__name__}"
            raise SourceError(what, **where, found=str(error)[:300]) from error


def _check_info(source: EpisodeSource, info: SourceInfo) -> None:
    conventions = {"orientation": ORIENTATIONS, "observation": OBSERVATIONS}
    for name, allowed in conventions.items():
        if (value := getattr(info, name)) not in allowed:
            raise SourceError(
                f"a source's {name} cannot be {value!r}", file=name_of(source), expected=", ".join(allowed)
            )
    if bool(info.codec) != bool(info.decoder) or not all(isinstance(each, str) for each in (info.codec, info.decoder)):
        raise SourceError(
            "a source's codec and decoder are two texts, or both empty",
            file=name_of(source),
            found=(info.codec, info.decoder),
        )
    texts = [("suite", info.suite), ("file", info.file)]
    for task in info.tasks:
        texts += [("task", task.name), ("text", task.text)]
        texts += [("instruction", task.instruction)] if task.instruction is not None else []
    for name, text in texts:
        if not is_text(text):
            raise SourceError(
                f"a source's {name} must be a text that is not empty, in UTF-8",
                file=name_of(source),
                found=ascii(text)[:120],
                hint="rename the file or its folder" if name != "instruction" else "",
            )
    if not info.episodes:
        raise SourceError("a source without episodes", file=name_of(source))


# One signature per layout of an episode: the fields' names, dtypes, shapes, roles and whether they are pictures, the width of a
# ragged field left open.
_Signature = tuple[tuple[str, str, tuple[int | None, ...], str, bool], ...]


def _expected_fields(sound: list[ScannedSource]) -> tuple[dict[str, FieldSpec], str]:
    """Return the fields of most episodes, so that the odd one out is refused, and an episode that has them, to name in messages.

    Of ties those of the earlier in the store's order.
    """
    counts: Counter[_Signature] = Counter()
    first: dict[_Signature, tuple[EpisodeSource, EpisodeInfo]] = {}
    for each in sound:
        for episode in each.info.episodes:
            signature = _signature(episode)
            counts[signature] += 1
            first.setdefault(signature, (each.source, episode))
    source, episode = first[counts.most_common(1)[0][0]]
    where: dict[str, Any] = {"file": name_of(source), "demo": episode.number}
    schema.check_field_names(list(episode.fields), **where)
    if not 0 < len(episode.fields) <= schema.MAX_FIELDS:
        raise SourceError(
            "too many or no fields", **where, expected=f"1 to {schema.MAX_FIELDS}", found=len(episode.fields)
        )
    for name, spec in episode.fields.items():
        if spec.dtype not in schema.NUMERIC_DTYPES or 0 in spec.shape or spec.role not in ("observation", "step"):
            raise SourceError("a field that cannot be stored", **where, field=name, found=spec)
        if spec.ragged and len(spec.shape) != 1:
            raise SourceError("a ragged field has one axis a step", **where, field=name, found=f"shape {spec.shape}")
        if spec.is_camera and (len(spec.shape) < 2 or spec.ragged):
            raise SourceError("a picture has rows and columns", **where, field=name, found=f"shape {spec.shape}")
        if _nbytes(spec) > schema.MAX_FRAME_BYTES:
            raise SourceError(
                "a field is too large",
                **where,
                field=name,
                expected=f"at most {schema.MAX_FRAME_BYTES} bytes a step",
                found=f"{spec.shape} of {spec.dtype}",
            )
    return episode.fields, f"{os.path.basename(name_of(source))}, demo {episode.number}"


def _signature(episode: EpisodeInfo) -> _Signature:
    return tuple(
        (name, spec.dtype, (None,) if spec.ragged else spec.shape, spec.role, spec.is_camera)
        for name, spec in sorted(episode.fields.items())
    )


def _check_itself(episode: EpisodeInfo) -> None:
    if episode.steps < 1:
        raise SourceError("a demonstration without steps")
    if not 0 <= episode.number <= canonical.MAX_INTEGER:
        raise SourceError("an episode's number cannot be", found=episode.number)
    if episode.success not in (-1, 0, 1):
        raise SourceError("an episode's success is 1, 0, or -1 where it is not known", found=episode.success)
    for name, spec in episode.fields.items():
        check_labels(name, spec)


def _check_alike(episode: EpisodeInfo, fields: dict[str, FieldSpec], example: str) -> None:
    missing, extra = sorted(fields.keys() - episode.fields.keys()), sorted(episode.fields.keys() - fields.keys())
    if missing or extra:
        camera = any(fields[name].is_camera for name in missing)
        raise SourceError(
            "a demonstration without a camera that others have" if camera else "demonstrations have different datasets",
            missing=", ".join(missing) or None,
            more=", ".join(extra) or None,
            expected=f"the datasets that most have (one: {example})",
            hint=DIFFERENT,
        )
    for name, spec in episode.fields.items():
        other = fields[name]
        kinds = [(each.dtype, each.role, each.ragged, each.is_camera, each.codec) for each in (spec, other)]
        if kinds[0] == kinds[1] and (spec.shape == other.shape or (spec.ragged and len(spec.shape) == 1)):
            continue
        camera = spec.is_camera or other.is_camera
        raise SourceError(
            "images of different size or type in one camera" if camera else "a field differs in dtype or shape",
            field=name,
            expected=f"{_text(other)}, as most have (one: {example})",
            found=_text(spec),
            hint=f"--encoded decode makes pixels of both; or {DIFFERENT}" if spec.codec != other.codec else DIFFERENT,
        )


def _text(spec: FieldSpec) -> str:
    shape = "any width" if spec.ragged else spec.shape
    return f"{shape} of {spec.dtype} for each {spec.role}{', as pictures' if spec.is_camera else ''}{f' in {spec.codec}' if spec.codec else ''}"


def _nbytes(spec: FieldSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _settle_ragged(scanned: list[ScannedSource], fields: dict[str, FieldSpec]) -> dict[str, FieldSpec]:
    """Return the fields; one that may be ragged is fixed where all its widths agree."""
    settled = {}
    for name in sorted(fields):
        widths = {episode.fields[name].shape for each in scanned for episode in each.info.episodes}
        ragged = fields[name].ragged and len(widths) > 1
        settled[name] = replace(fields[name], ragged=ragged, shape=fields[name].shape if ragged else min(widths))
    return settled


def _labelled(
    scanned: list[ScannedSource], fields: dict[str, FieldSpec]
) -> tuple[tuple[ScannedSource, ...], dict[str, FieldSpec]]:
    """Return the fields with the names and units of their numbers, and the sources, of which the first warns where they differ."""
    made, warnings = {}, []
    for name, spec in fields.items():
        specs = (episode.fields[name] for each in scanned for episode in each.info.episodes)
        made[name], differing = settled_labels(name, spec, specs)
        warnings += [f"{label} of {name} differ between demonstrations, and are not kept" for label in differing]
    if warnings:
        info = scanned[0].info
        first = replace(scanned[0], info=replace(info, warnings=(*info.warnings, *warnings)))
        scanned = [first, *scanned[1:]]
    return tuple(scanned), made


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
    tasks: dict[tuple[str, str], tuple[TaskInfo, str]] = {}
    for _, info in infos:
        for task in info.tasks:
            first, file = tasks.setdefault((info.suite, task.name), (task, info.file))
            if first != task:
                raise SourceError(
                    f"{'a source calls' if file == info.file else 'two files call'} different tasks by one name",
                    task=task.name,
                    files=f"{file}, {info.file}",
                    hint="rename one of the files, or put it into a folder (a suite) of its own",
                )


def _examined(source: EpisodeSource, info: SourceInfo, sieve: _Sieve) -> Iterator[ScannedSource]:
    """Check every episode by itself; give the source with those that are sound, if there are any, without its digests."""
    own = _blob(source, None)
    kept: dict[int, tuple[EpisodeInfo, Blob]] = {}
    for episode in sorted(info.episodes, key=lambda each: each.number):
        with sieve.sifting(source, info, episode.number):
            if episode.number in kept:
                raise SourceError("two episodes of a source have the same number")
            _check_itself(episode)
            episode = replace(settled_texts(episode), fields=with_pictures(episode.fields))
            blob = _blob(source, episode.number)
            _check_content(source, episode, sieve)
            kept[episode.number] = episode, blob
    if kept:
        episodes, blobs = zip(*kept.values())
        yield ScannedSource(source, replace(info, episodes=episodes), "", "", blobs, own)


def _identified(
    sound: ScannedSource, fields: dict[str, FieldSpec], example: str, sieve: _Sieve
) -> Iterator[ScannedSource]:
    """Check every episode against the others, and take digests of all actions, of the datasets' names, shapes and dtypes, and of
    the attributes; give the source with the episodes that are as they should be, if there are any."""
    source, info = sound.source, sound.info
    actions, layout = hashlib.sha256(), hashlib.sha256()
    kept: list[tuple[EpisodeInfo, Blob]] = []
    for episode, blob in zip(info.episodes, sound.episode_attributes):
        with sieve.sifting(source, info, episode.number):
            _check_alike(episode, fields, example)
            actions.update(_actions(source, episode))
            shapes: Any = {name: [spec.dtype, [episode.steps, *spec.shape]] for name, spec in episode.fields.items()}
            layout.update(canonical.dumps({"fields": shapes, "number": episode.number}))
            layout.update(bytes.fromhex(blob.sha256))
            kept.append((episode, blob))
    if kept:
        layout.update(bytes.fromhex(sound.source_attributes.sha256))
        episodes, blobs = zip(*kept)
        info = replace(info, episodes=episodes)
        yield replace(
            sound, info=info, actions=actions.hexdigest(), layout=layout.hexdigest(), episode_attributes=blobs
        )


def _actions(source: EpisodeSource, episode: EpisodeInfo) -> bytes:
    spec = episode.fields.get("actions")
    if spec is None:
        return b""
    actions = read_rows(source, episode.number, "actions", spec.dtype, spec.shape, 0, episode.steps)
    check_actions(actions)
    return actions.tobytes()


def _check_content(source: EpisodeSource, episode: EpisodeInfo, sieve: _Sieve) -> None:
    """Read what of an episode only reading can find to be bad, and keep nothing. Raises SourceError for the first that is."""
    is_plain = getattr(source, "is_plain", None)
    spans: list[tuple[str, FieldSpec, int, int]] = []
    for name, spec in sorted(episode.fields.items()):
        is_doubtful = sieve.thorough and (is_plain is None or not is_plain(episode.number, name))
        if is_doubtful or (sieve.require_finite and spec.dtype in schema.FLOATING_DTYPES):
            at_once = max(1, BLOCK_NBYTES // max(1, _nbytes(spec)))  # a few megabytes
            starts = range(0, episode.steps, at_once)
            spans += [(name, spec, start, min(start + at_once, episode.steps)) for start in starts]
    if not spans:
        return

    def read(span: tuple[str, FieldSpec, int, int]) -> tuple[Tally, ...]:
        name, spec, start, stop = span
        with sieve.blaming(source, episode.number, name):
            rows = read_rows(source, episode.number, name, *spec.given, start, stop)
            if spec.codec is not None and spec.codec.keeps:
                check_kept(rows, spec.codec, spec.shape, start)
        return tallied(episode.number, counted(rows), start) if sieve.require_finite else ()

    found: dict[str, list[Tally]] = {}
    threads = 1 if getattr(source, "reads_forward", False) else min(len(spans), os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for (name, *_), tallies in zip(spans, pool.map(read, spans)):  # in order: the same error, however many cores
            found.setdefault(name, []).extend(tallies)
    for name, stretches in found.items():
        for each in together(stretches):
            raise SourceError(
                "a field is not all finite numbers",
                field=name,
                row=each.first,
                found=f"{counts_text(each.nan, each.infinite)} in {each.steps:,} of {episode.steps:,} steps",
                hint="leave such demonstrations out with --skip-bad, or build without --require-finite: they are counted in the store",
            )


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
