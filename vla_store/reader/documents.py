"""What the documents of a store say, as the values that `Store` gives: tasks, fields, conventions, statistics, bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vla_store.errors import StoreDamaged
from vla_store.format import canonical, digests, layout
from vla_store.format.nonfinite import NonFinite, Tally
from vla_store.format.schema import LABELS, MAX_DOCUMENT_BYTES, PartDocument, Root
from vla_store.reader.parts import Parts
from vla_store.reader.values import (
    Conventions,
    Episode,
    SourceConvention,
    Statistics,
    StoreField,
    StoreTask,
    said_at_build,
)
from vla_store.storage import ObjectMissing, Storage, read_document, read_documents

if TYPE_CHECKING:
    from vla_store.format.statistics import FieldStatistics


def tasks_of(parts: Parts) -> tuple[StoreTask, ...]:
    """Return every task, by suite and name, with the texts that its episodes have of their own."""
    named: dict[tuple[str, str], StoreTask] = {}
    own: dict[tuple[str, str], set[str]] = {}
    parts.bring([number for number, document in enumerate(parts.documents) if document.texts], layout.TABLE_ARRAY)
    for number, document in enumerate(parts.documents):
        for each in document.tasks:
            named.setdefault((each.suite, each.name), StoreTask(each.suite, each.name, each.text, each.instruction))
        for task, text in parts[number].own_texts_by_task() if document.texts else ():
            each = document.tasks[task]
            own.setdefault((each.suite, each.name), set()).add(document.texts[text])
    return tuple(dataclasses.replace(named[key], texts=tuple(sorted(own.get(key, ())))) for key in sorted(named))


def fields_of(root: Root, documents: Sequence[PartDocument]) -> Mapping[str, StoreField]:
    """Return every field, by name; names and units of its numbers are () where parts differ."""
    first, made = documents[0].fields, {}
    for name, each in root.fields.items():
        said = [{getattr(document.fields[name], label) for document in documents} for label in LABELS]
        labels = [found.pop() if len(found) == 1 else () for found in said]
        made[name] = StoreField(
            name, each.kind, each.dtype, each.shape, first[name].role, first[name].is_camera, *labels
        )
    return MappingProxyType(made)


def conventions_of(documents: Sequence[PartDocument]) -> Conventions:
    """Return what every source says of its pictures and observations."""
    return Conventions(
        tuple(
            SourceConvention(
                each.suite, each.file, each.orientation, each.observation, each.codec, each.decoder, said, each.fps
            )
            for document in documents
            for each, said in zip(document.sources, said_at_build(document))
        )
    )


def statistics_of(document: Mapping[str, Any], digest: str | None, fields: Mapping[str, StoreField]) -> Statistics:
    """Return the statistics of a document of this digest. Raises StoreDamaged."""
    from vla_store.format.statistics import FieldStatistics  # a module that no sample needs costs importing it

    key = layout.meta_key(digest or "")
    whole: dict[str, FieldStatistics] = {}
    suites: dict[str, dict[str, FieldStatistics]] = {}
    try:
        for name, each in document.get("fields", {}).items():
            if name in fields:
                shape = tuple(n for n in fields[name].shape if n is not None)
                whole[name] = FieldStatistics.from_json(each["all"], shape, key)
                for suite, found in each["suites"].items():
                    suites.setdefault(suite, {})[name] = FieldStatistics.from_json(found, shape, key)
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreDamaged("statistics are not as the format says", object=key, found=repr(error)[:200]) from None
    return Statistics(whole, suites)


def nonfinite_of(
    parts: Parts, fields: Mapping[str, StoreField], episodes: Sequence[Episode]
) -> Mapping[str, NonFinite]:
    """Return what of the fields is NaN or infinite, by field, as counted when the parts were built."""
    found: dict[str, list[Tally]] = {}
    has_any = any(each.nonfinite for each in parts.documents)
    for part in parts.with_tables(layout.NONFINITE_ARRAY) if has_any else ():
        for name, tallies in part.nonfinite().items():
            if name in fields:
                moved = [each._replace(episode=part.episode_start + each.episode) for each in tallies]
                found.setdefault(name, []).extend(moved)
    made = {}
    for name in sorted(found):
        first = found[name][0]
        episode = episodes[first.episode]
        where = {"suite": episode.suite, "file": episode.file, "demo": digests.episode_name(episode.number)}
        made[name] = NonFinite.of(name, found[name], episode.start + first.first, **where)
    return MappingProxyType(made)


def left_out(document: Mapping[str, Any], digest: str | None, name: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a list of the document on what was left out: every entry has these keys, with text (`demo` may be null).

    Raises StoreDamaged.
    """
    found = document.get(name, [])
    if not isinstance(found, list):
        found = [found]
    for each in found:
        if not isinstance(each, dict) or not all(
            isinstance(each.get(key, 0), str) or (key == "demo" and each.get(key, 0) is None) for key in keys
        ):
            where = layout.meta_key(digest or "")
            raise StoreDamaged(f"{name!r} is not as the format says", object=where, found=repr(each)[:200])
    return found


def array_nbytes_of(root: Root, fetcher: Storage, url: str) -> Mapping[str, int]:
    """Return bytes of all objects that a root needs, by array; "" is everything that is no array. Raises StoreDamaged."""
    from vla_store.format import needed  # as above

    keys, views, found = needed.document_keys(root), root.meta.views, {}
    for key, data in zip(keys, read_documents(fetcher, keys, MAX_DOCUMENT_BYTES)):
        if data is not None:
            found[key] = data
        elif not views or key != layout.meta_key(views):  # no sample needs these, and `views` says that they are lost
            raise ObjectMissing("an object of the store is missing", object=key, store=url)
    return MappingProxyType(needed.array_nbytes(root, found))


def small_document(fetcher: Storage, digest: str | None, url: str) -> dict[str, Any]:
    """Return the document of this digest; {} for None. Raises StoreDamaged, ObjectMissing, FetchError."""
    if digest is None:
        return {}
    key = layout.meta_key(digest)
    data = read_document(fetcher, key, MAX_DOCUMENT_BYTES)
    if canonical.sha256_hex(data) != digest:
        raise StoreDamaged("a document is not what its name says", object=key, store=url)
    document = canonical.loads(data, key)
    if not isinstance(document, dict):
        raise StoreDamaged("a document is not as the format says", object=key, store=url)
    return document
