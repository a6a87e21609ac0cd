"""objects.jsonl: a line for every object of a part but itself, by key: C({"key", "sha256", "size"})."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from vla_store.errors import StoreDamaged
from vla_store.format import canonical
from vla_store.format.json_reader import HEX_DIGEST, check_key
from vla_store.format.layout import LISTING


@dataclass(frozen=True)
class ObjectEntry:
    """key: relative to the part."""

    key: str
    sha256: str
    size: int


def encode_listing(entries: Iterable[ObjectEntry]) -> bytes:
    """The listing, lines sorted by the bytes of their keys."""
    ordered = sorted(entries, key=lambda entry: entry.key.encode())
    return b"".join(
        canonical.dumps({"key": each.key, "sha256": each.sha256, "size": each.size}) + b"\n" for each in ordered
    )


def parse_listing(data: bytes, name: str) -> list[ObjectEntry]:
    """Raises StoreDamaged unless every line is canonical, its key stays in the part and is not the listing's, and the keys ascend."""
    lines = data.split(b"\n")
    if lines.pop():
        raise StoreDamaged("a listing does not end with a newline", object=name)
    entries = []
    for line in lines:
        value = canonical.loads(line, name)
        if (
            not isinstance(value, dict)
            or sorted(value) != ["key", "sha256", "size"]
            or not isinstance(value["key"], str)
            or value["key"] == LISTING
            or not isinstance(value["sha256"], str)
            or not HEX_DIGEST.match(value["sha256"])
            or type(value["size"]) is not int
            or value["size"] < 0
        ):
            raise StoreDamaged("a line of a listing is not as the format says", object=name, found=line[:100])
        entries.append(ObjectEntry(check_key(value["key"], name), value["sha256"], value["size"]))
    keys = [entry.key.encode() for entry in entries]
    if any(a >= b for a, b in itertools.pairwise(keys)):
        raise StoreDamaged("the keys of a listing do not ascend", object=name)
    return entries
