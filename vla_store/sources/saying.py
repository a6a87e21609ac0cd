"""What sources say beside their data, checked and brought into the one form that stores have: instructions and texts of steps, the
rate, and names and units of numbers. May import protocol and overrides of this folder, format and errors.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vla_store.errors import SourceError
from vla_store.format import canonical, schema
from vla_store.format.texts import is_kind, merged_segments, sorted_instructions
from vla_store.sources.overrides import FPS
from vla_store.sources.protocol import EpisodeInfo, EpisodeSource, FieldSpec, SourceInfo, name_of, overrides_of


def is_text(text: Any) -> bool:
    """Return whether this is a text that a store can keep: not empty, in UTF-8."""
    return isinstance(text, str) and text != "" and text.encode(errors="ignore").decode() == text


def info_of(source: EpisodeSource) -> SourceInfo:
    """Return what a source's scan says, with the rate that was stated of it where it says none itself. Raises SourceError."""
    info = source.scan()
    stated = dict(overrides_of(source).conventions).get(FPS.name)
    if stated is not None:
        rate = float(stated)
        if info.fps is not None and info.fps != rate:
            said = f"--{FPS.name} {stated} was given, but the file says {canonical.float_text(info.fps)}"
            info = replace(info, warnings=(*info.warnings, said))
        info = replace(info, fps=rate)
    return info


def check_rate(source: EpisodeSource, info: SourceInfo) -> SourceInfo:
    """Return the description with its rate as a float. Raises SourceError for what is none."""
    if info.fps is None:
        return info
    is_number = isinstance(info.fps, numbers.Real) and not isinstance(info.fps, bool)
    if not is_number or not 0 < info.fps <= schema.MAX_FPS:
        raise SourceError(
            "a source's rate is a number of steps a second", file=name_of(source), expected="above 0", found=info.fps
        )
    return replace(info, fps=float(info.fps))


def settled_texts(episode: EpisodeInfo) -> EpisodeInfo:
    """Return an episode whose instructions and segments are as a store tells them. Raises SourceError for what are none."""
    if episode.text is not None and not is_text(episode.text):
        raise SourceError(
            "an episode's text must be one that is not empty, in UTF-8, or None for its task's",
            found=ascii(episode.text)[:120],
        )
    if not episode.instructions and not episode.segments:
        return episode
    if not isinstance(episode.instructions, Mapping):
        raise SourceError("an episode's instructions are texts by kind", found=ascii(episode.instructions)[:120])
    for kind, texts in episode.instructions.items():
        if not is_kind(kind):
            raise SourceError(
                "a kind of instructions cannot have this name",
                expected="1 to 64 of A-Z a-z 0-9 . _ -, neither first nor random",
                found=ascii(kind)[:120],
            )
        if isinstance(texts, str) or not isinstance(texts, Iterable) or not all(map(is_text, texts)):
            raise SourceError(
                "the instructions of a kind are texts that are not empty, in UTF-8", kind=kind, found=ascii(texts)[:120]
            )
    before = -1
    for each in episode.segments:
        sound = isinstance(each, Sequence) and len(each) == 2 and isinstance(each[0], numbers.Integral)
        if not sound or not before < each[0] < episode.steps or not (each[1] == "" or is_text(each[1])):
            raise SourceError(
                "an episode's segments are pairs of a first step and a text",
                expected=f"steps that ascend, below {episode.steps}; texts in UTF-8",
                found=ascii(each)[:120],
            )
        before = int(each[0])
    return replace(
        episode,
        instructions=sorted_instructions(episode.instructions),
        segments=merged_segments(episode.segments),
    )


def check_labels(name: str, spec: FieldSpec) -> None:
    """Raise SourceError where names or units of a field are not those of its numbers."""
    for label in schema.LABELS:
        given = getattr(spec, label)
        if not given:
            continue
        sound = all(isinstance(each, str) and (is_text(each) or each == "") for each in given)
        if spec.is_camera or not sound or len(given) != math.prod(spec.shape):
            raise SourceError(
                f"the {label} of a field are a text for each number of a step",
                field=name,
                expected="none for pictures" if spec.is_camera else f"{math.prod(spec.shape)} texts",
                found=ascii(given)[:120],
            )


def settled_labels(name: str, spec: FieldSpec, specs: Iterable[FieldSpec]) -> tuple[FieldSpec, list[str]]:
    """Return a field with the names and units that its episodes give, and which of the two differ: those are left out."""
    differing = []
    found: dict[str, tuple[str, ...]] = {}
    given = list(specs)
    for label in schema.LABELS:
        distinct = {getattr(each, label) for each in given} - {()}
        found[label] = distinct.pop() if len(distinct) == 1 and not spec.ragged else ()
        if distinct and not spec.ragged:
            differing.append(label)
    return replace(spec, names=found["names"], units=found["units"]), differing
