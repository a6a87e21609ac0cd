"""A store against the sources it was built from, which are read anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_store.audit.objects import Objects
from vla_store.audit.part import Part
from vla_store.errors import DataError, SourceError
from vla_store.format import canonical, digests, layout
from vla_store.format.attributes import encode_attributes
from vla_store.format.schema import Root, Source

if TYPE_CHECKING:
    from vla_store.sources.protocol import EpisodeInfo, EpisodeSource, SourceInfo

FRAMES_AT_ONCE = 64


def compare_with_sources(objects: Objects, root: Root, parts: list[Part], found: Sequence[EpisodeSource]) -> None:
    """Compare every field's digest, dtype and shape, and the bytes of all attributes, with sources read anew."""
    from vla_store.sources.datasets import recorded_choice_of
    from vla_store.sources.hdf5 import Hdf5Source, close_files
    from vla_store.sources.protocol import storable

    report = objects.report
    given: dict[tuple[str, str], EpisodeSource] = {}
    for each in found:
        named: Any = each if isinstance(each, Hdf5Source) else each.scan()
        given[named.suite, named.file] = each
    left_out = _left_out(objects, root)
    report.compared_episodes = 0
    for part in parts:
        for number, source in enumerate(part.document.sources):
            opened = given.pop((source.suite, source.file), None)
            name = f"{source.suite}/{source.file}"
            if opened is None:
                objects.problem("", f"{name} is in the store, but not in the sources given")
                continue
            if isinstance(opened, Hdf5Source):  # the build may have been told what the file does not say
                opened = replace(
                    opened,
                    orientation=source.orientation,
                    observation=source.observation,
                    choice=recorded_choice_of(part.document.plan, number),
                )
            try:
                _compare_source(objects, part, number, opened, left_out)
            except SourceError as error:
                objects.problem("", f"{name}: the source cannot be read: {error.what}")
            finally:
                close_files()
    for suite, file in sorted((storable(suite), storable(file)) for suite, file in given):
        if not any((suite, file) == each[:2] for each in left_out):  # whole, or demo by demo
            objects.problem("", f"{suite}/{file} is in the sources given, but not in the store")


def _compare_source(objects: Objects, part: Part, number: int, opened: Any, left_out: set[Any]) -> None:
    from vla_store.sources.protocol import reason_of

    source = part.document.sources[number]
    name = f"{source.suite}/{source.file}"
    info = opened.scan()
    if encode_attributes(opened.attributes(None)) != part.file_attributes_of(number):
        objects.problem("", f"{name}: the file's attributes differ from the source's")
    there = {each.number: each for each in info.episodes}
    for episode in np.flatnonzero(part.column("source") == number).tolist():
        demo = int(part.column("number")[episode])
        where = f"{name} demo_{demo}"
        found = there.pop(demo, None)
        if found is None:
            objects.problem("", f"{where} is in the store, but not (or bad) in the source")
            continue
        objects.report.compared_episodes = (objects.report.compared_episodes or 0) + 1
        objects.report.decoded_episodes += bool(source.codec)
        try:
            _compare_episode(objects, part, episode, opened, info, found)
        except SourceError as error:
            objects.problem("", f"{where}: cannot be read in the source: {reason_of(error)}")
    for demo in sorted(there):
        if (source.suite, source.file, f"demo_{demo}") not in left_out:
            objects.problem("", f"{name} demo_{demo} is in the source, but not in the store")


def _compare_episode(
    objects: Objects, part: Part, episode: int, opened: Any, info: SourceInfo, found: EpisodeInfo
) -> None:
    from vla_store.sources.protocol import read_rows

    source = part.document.sources[int(part.column("source")[episode])]
    demo = found.number
    where = f"{source.suite}/{source.file} demo_{demo}"
    if encode_attributes(opened.attributes(demo)) != part.attributes_of(episode):
        objects.problem("", f"{where}: attributes differ from the source's")
    task, stored_task = info.task_of(found), part.document.tasks[int(part.column("task")[episode])]
    if task.name != stored_task.name:
        objects.problem("", f"{where}: the source says its task is {task.name!r}")
    said = found.text or task.text
    if said != (part.text_of(episode) or stored_task.text):
        objects.problem("", f"{where}: the source says its text is {said!r}")
    if sorted(found.fields) != sorted(part.document.fields):
        objects.problem("", f"{where}: the datasets are not the fields of the store")
    for field_name, spec in found.fields.items():
        # As the store has it: one that was built before pictures were known by their size has those as numbers.
        known = part.document.fields.get(field_name)
        is_camera = known.is_camera if known is not None else spec.is_camera
        digest = digests.FieldDigest(field_name, spec.dtype, (found.steps, *spec.shape))
        for start in range(0, found.steps, FRAMES_AT_ONCE):
            stop = min(start + FRAMES_AT_ONCE, found.steps)
            rows = read_rows(opened, demo, field_name, spec.dtype, spec.shape, start, stop)
            if is_camera:
                digest.update(b"".join(hashlib.sha256(frame.data).digest() for frame in rows))
            else:
                digest.update(rows.tobytes())
        stored = part.field_digests[episode].get(field_name)
        if stored is not None and digest.hexdigest() != stored:
            objects.problem("", f"{where}: {field_name} differs from the source's{_decoders(source, info, is_camera)}")


def _decoders(source: Source, info: SourceInfo, is_camera: bool) -> str:
    """What else may explain pictures that differ: two decoders need not agree in the last bit."""
    if not is_camera or info.decoder == source.decoder:
        return ""
    return f" (decoded by {source.decoder} when it was built, by {info.decoder} now)"


def _left_out(objects: Objects, root: Root) -> set[tuple[str, str, str | None]]:
    if root.meta.skipped is None:
        return set()
    key = layout.meta_key(root.meta.skipped)
    try:
        skipped = canonical.loads(objects.read(key), key)["skipped"]
        return {(each["suite"], each["file"], each["demo"]) for each in skipped}
    except (DataError, KeyError, TypeError):
        return set()
