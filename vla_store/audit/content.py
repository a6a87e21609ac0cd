"""What follows from the data of all parts: episode digests, the fingerprint, the statistics, the views."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from vla_store.audit.objects import Objects
from vla_store.audit.part import Array, Part
from vla_store.audit.views import check_views
from vla_store.errors import DataError
from vla_store.format import canonical, digests, layout
from vla_store.format.schema import Root
from vla_store.format.statistics import store_statistics


def check_fields(objects: Objects, root: Root, parts: Sequence[Part]) -> None:
    for part in parts:
        if sorted(part.document.fields) != sorted(root.fields):
            objects.problem(f"{part.entry.path}/zarr.json", "its fields are not the root's")
        for name, each in part.document.fields.items():
            above = root.fields.get(name)
            same = (
                above is not None
                and above.dtype == each.dtype
                and (above.shape == each.shape or above.shape == (None,))
            )
            if above is not None and not same:
                objects.problem(f"{part.entry.path}/zarr.json", f"field {name!r} is not as the root has it")
    if len(parts) < len(root.parts):
        return
    for name, named in root.fields.items():
        found = [part.document.fields[name] for part in parts if name in part.document.fields]
        forms = {(each.kind, each.shape) for each in found}
        # Of several forms, a ragged field is made.
        if forms and (named.kind, named.shape) != (forms.pop() if len(forms) == 1 else ("ragged-episode", (None,))):
            objects.problem(layout.ROOT_KEY, f"field {name!r} is not what its parts make of it")


def check_content(objects: Objects, root: Root, parts: list[Part]) -> None:
    """Episode digests, the fingerprint over them, the statistics and the views, all from the data just read."""
    found: list[bytes] = []
    for part in parts:
        source_digests = [
            canonical.sha256_hex(part.file_attributes_of(number)) for number in range(len(part.document.sources))
        ]
        for number in range(part.entry.episodes):
            digest = _episode_digest(part, number, source_digests)
            if digest != part.episode_digests[number].tobytes():
                objects.problem(
                    f"{part.entry.path}/{layout.DIGEST_ARRAY}", f"episode {number} does not have the digest of its data"
                )
            found.append(digest)
    objects.report.fingerprint = digests.fingerprint(found)
    if objects.report.fingerprint != root.fingerprint:
        objects.problem(layout.ROOT_KEY, "its fingerprint is not that of the data")
    _check_statistics(objects, root, parts)
    check_views(objects, root, parts)


def _episode_digest(part: Part, number: int, source_digests: list[str]) -> bytes:
    source, task = int(part.column("source")[number]), int(part.column("task")[number])
    return digests.episode_digest(
        suite=part.document.sources[source].suite,
        file=part.document.sources[source].file,
        task=part.document.tasks[task].name,
        number=int(part.column("number")[number]),
        steps=int(part.column("length")[number]),
        attributes=canonical.sha256_hex(part.attributes_of(number)),
        file_attributes=source_digests[source],
        fields=part.field_digests[number],
        text=part.text_of(number),
    )


def _check_statistics(objects: Objects, root: Root, parts: list[Part]) -> None:
    names = [n for n, each in root.fields.items() if n in parts[0].columns and each.kind == "fixed"]
    episodes = [
        (part.document.sources[source].suite, length)
        for part in parts
        for source, length in zip(part.column("source").tolist(), part.column("length").tolist())
    ]

    def columns(name: str) -> list[Array]:
        return [part.columns[name].reshape(part.entry.rows, -1) for part in parts]

    shapes = {name: parts[0].document.fields[name].fixed_shape for name in names}
    found = store_statistics(episodes, [(name, shapes[name], functools.partial(columns, name)) for name in names])
    if root.meta.statistics is None:
        if found is not None:
            objects.problem(layout.ROOT_KEY, "names no statistics, though its fields have some")
        return
    key = layout.meta_key(root.meta.statistics)
    try:
        stored = objects.read(key)
        if stored != canonical.dumps(found) and stored != canonical.dumps(_by_the_first_rule(found, stored)):
            objects.problem(key, "the statistics are not those of the data")
    except DataError as error:
        objects.error(key, error)


def _by_the_first_rule(found: Any, stored: bytes) -> Any:
    """The statistics with what is stored in place of those that an infinity touches, where that does not tell of it: the first
    rule counted infinities among the values. What it made of them is not computed again."""
    if not isinstance(found, dict):
        return found
    try:
        older = json.loads(stored)
    except ValueError:
        return found

    def settled(new: Any, old: Any) -> Any:
        if "count" not in new:
            return {key: settled(each, old.get(key, {})) for key, each in new.items()}
        if "infinite" not in new or "infinite" in old:
            return new
        same = old.get("nan") == new["nan"] and old.get("count") == [
            a + b for a, b in zip(new["count"], new["infinite"])
        ]
        return old if same else new

    try:
        return {**found, "fields": settled(found["fields"], older["fields"])}
    except (AttributeError, KeyError, TypeError):
        return found
