"""One part: every object hashed and compared with the listing, then its document, table and arrays read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vla_store.audit.arrays import ArrayReader, read_attributes
from vla_store.audit.fields import digest_camera, digest_numbers
from vla_store.audit.metadata import check_metadata
from vla_store.audit.nonfinite import check_nonfinite
from vla_store.audit.objects import Objects
from vla_store.audit.part import DIGEST_NBYTES, Part
from vla_store.audit.table import check_table
from vla_store.errors import DataError, StoreDamaged, UnsupportedStore
from vla_store.format import canonical, layout
from vla_store.format.listing import ObjectEntry, parse_listing
from vla_store.format.schema import PartDocument, PartEntry


def check_part(
    objects: Objects, entry: PartEntry, pool: ThreadPoolExecutor, talk: Callable[[str], None]
) -> Part | None:
    """A part as far as it can be read, and every problem of its objects recorded; None where its table cannot be."""
    listing_key = f"{entry.path}/{layout.LISTING}"
    try:
        data = objects.read(listing_key)
        if canonical.sha256_hex(data) != entry.listing:
            raise StoreDamaged("is not the listing that the root names; the part's objects were not checked")
        listing = parse_listing(data, listing_key)
    except DataError as error:
        objects.error(listing_key, error)
        objects.unchecked.add(entry.path)
        return None
    talk(f"hashing {len(listing):,} objects")
    for problems in pool.map(lambda each: list(_check_object(objects, entry.path, each)), listing):
        for key, what in problems:
            objects.problem(key, what)
    objects.named |= {f"{entry.path}/{each.key}": each.size for each in listing}
    key = f"{entry.path}/zarr.json"
    if objects.is_damaged(key):
        return None  # what it says of the other objects would be held against them
    try:
        document = PartDocument.from_zarr_json(objects.read(key), key)
    except UnsupportedStore:
        raise
    except DataError as error:
        objects.error(key, error)
        return None
    try:
        return _read_part(objects, entry, document, {each.key for each in listing}, pool, talk)
    except DataError as error:
        objects.error(key, error)
        return None


def _check_object(objects: Objects, part: str, each: ObjectEntry) -> Iterator[tuple[str, str]]:
    key = f"{part}/{each.key}"
    digest, size = hashlib.sha256(), 0
    try:
        for piece in objects.pieces(key):
            digest.update(piece)
            size += len(piece)
    except DataError as error:
        yield key, error.what
        return
    if size != each.size:
        yield key, f"has {size} bytes instead of {each.size}"
    elif digest.hexdigest() != each.sha256:
        yield key, f"has changed: its sha256 is {digest.hexdigest()}, the listing says {each.sha256}"


def _read_part(
    objects: Objects,
    entry: PartEntry,
    document: PartDocument,
    listed: set[str],
    pool: ThreadPoolExecutor,
    talk: Callable[[str], None],
) -> Part | None:
    path, rows, episodes = entry.path, entry.rows, entry.episodes
    if path.rpartition("/")[2] != canonical.sha256_hex(canonical.dumps(document.plan))[:16]:
        objects.problem(f"{path}/zarr.json", "the part's name is not the digest of its plan")
    reader = ArrayReader(objects, path)
    table = reader.numeric(layout.TABLE_ARRAY, layout.numeric_grid((episodes, len(document.columns)), "int64", rows))
    index = reader.numeric(layout.INDEX_ARRAY, layout.numeric_grid((rows, 2), "int32", rows))
    digest_rows = reader.numeric(layout.DIGEST_ARRAY, layout.numeric_grid((episodes, DIGEST_NBYTES), "uint8", rows))
    if table is None or digest_rows is None or objects.is_damaged(f"{path}/{layout.TABLE_ARRAY}"):
        return None
    if objects.is_damaged(f"{path}/{layout.INDEX_ARRAY}"):
        index = None
    complete = index is not None
    part = Part(entry, document, table, digest_rows, b"", [{} for _ in range(episodes)], {}, {}, complete)
    check_table(objects, part, index)
    part.attributes = read_attributes(reader, part)
    check_metadata(objects, part, listed)
    for each in document.fields.values():
        if each.unsupported():
            objects.problem(
                f"{path}/{each.array}/zarr.json",
                f"field {each.name!r} has a {each.unsupported()} that this version cannot check",
            )
            part.complete = False
            continue
        talk(f"checking {each.name}")
        digested = digest_camera(reader, part, each, pool) if each.is_camera else digest_numbers(reader, part, each)
        part.complete &= digested
    if part.complete and document.nonfinite:
        check_nonfinite(reader, part)
    return part
