"""objects.jsonl: a line for every object of a part but itself, by key: C({"key", "sha256", "size"})."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from vla_store.errors import StoreDamaged
from vla_store.format import canonical
from vla_store.format.json_reader import JsonReader, check_key
from vla_store.format.layout import LISTING


@dataclass(frozen=True)
class ObjectEntry:
    """key: relative to the part."""

    key: str
    sha256: str
    size: int


def encode_listing(entries: Iterable[ObjectEntry]) -> bytes:
    """Return the listing, lines sorted by the bytes of their keys."""
    ordered = sorted(entries, key=lambda entry: entry.key.encode())
    return b"".join(
        canonical.dumps({"key": each.key, "sha256": each.sha256, "size": each.size}) + b"\n" for each in ordered
    )


def parse_listing(data: bytes, name: str) -> list[ObjectEntry]:
    """Return the entries of a listing. Raises StoreDamaged unless every line is canonical, its key stays in the part and is not the listing's, and the keys ascend."""
    lines = data.split(b"\n")
    if lines.pop():
        raise StoreDamaged("a listing does not end with a newline", object=name)
    entries = []
    for line in lines:
        read = JsonReader(canonical.loads(line, name), name, "a line of a listing is not as the format says")
        read.only(("key", "sha256", "size"))
        key = check_key(read.get("key", str), name)
        read.check(key != LISTING, "any other object", key)
        entries.append(ObjectEntry(key, read.digest("sha256") or "", read.count("size", canonical.MAX_INTEGER)))
    keys = [entry.key.encode() for entry in entries]
    if any(a >= b for a, b in itertools.pairwise(keys)):
        raise StoreDamaged("the keys of a listing do not ascend", object=name)
    return entries
