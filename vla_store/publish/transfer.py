"""Copying parts between storages: every object is hashed on its way, and what arrived whole is not sent again.

Imports format and storage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from vla_store.errors import StoreDamaged
from vla_store.format import layout
from vla_store.format.canonical import sha256_hex
from vla_store.format.listing import ObjectEntry, parse_listing
from vla_store.format.schema import PartEntry
from vla_store.storage import Storage

Talk = Callable[[str], None]


def part_listing(place: Storage, entry: PartEntry) -> tuple[bytes, list[ObjectEntry]]:
    """Return the listing of a part, once it has the digest that the root names.

    Parameters
    ----------
    place
        Where the store lies.
    entry
        The part, as the root names it.

    Returns
    -------
    data : bytes
        The listing as it is stored.
    objects : list of ObjectEntry
        What it lists.

    Raises
    ------
    StoreDamaged
        The listing is missing or changed.
    """
    key = f"{entry.path}/{layout.LISTING}"
    data = place.get(key)
    if data is None or sha256_hex(data) != entry.listing:
        raise StoreDamaged("a listing is missing or changed", object=key, store=place.url)
    return data, parse_listing(data, key)


def copy_part(source: Storage, entry: PartEntry, target: Storage, path: str, talk: Talk) -> int:
    """Copy a part to another storage, its listing last; objects that arrived whole before are not sent again.

    Parameters
    ----------
    source, entry
        Where the part lies, and how the root names it.
    target, path
        Storage to copy it to, and its path there.
    talk
        Called with a line of progress.

    Returns
    -------
    int
        Bytes of the objects that were sent.

    Raises
    ------
    StoreDamaged
        An object of the source is not what the listing says; nothing of it becomes visible then.
    """
    listing, objects = part_listing(source, entry)
    sent = 0
    if target.get(f"{path}/{layout.LISTING}") == listing:
        sizes = target.sizes([f"{path}/{each.key}" for each in objects])
        missing = [each for each, size in zip(objects, sizes) if size != each.size]
    else:
        missing = [each for each in objects if not is_whole(target, f"{path}/{each.key}", each)]
    for number, each in enumerate(missing):
        talk(f"copying object {number + 1} of {len(missing)}")
        copy_object(source, f"{entry.path}/{each.key}", target, f"{path}/{each.key}", each)
        sent += each.size
    target.write(f"{path}/{layout.LISTING}", listing)
    return sent


def copy_object(source: Storage, key: str, target: Storage, target_key: str, expected: ObjectEntry) -> None:
    """Copy one object as a stream.

    Parameters
    ----------
    source, key
        Storage and key of the object.
    target, target_key
        Storage and key to write.
    expected
        The size and SHA-256 that its listing says.

    Raises
    ------
    StoreDamaged
        The object is not what its listing says; nothing becomes visible then.
    """
    digest, size = hashlib.sha256(), 0
    with target.stream(target_key) as file:
        for piece in source.pieces(key):
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        if (size, digest.hexdigest()) != (expected.size, expected.sha256):
            raise StoreDamaged(
                "an object is not what its listing says",
                object=key,
                store=source.url,
                expected=f"{expected.size} bytes, sha256 {expected.sha256}",
                found=f"{size} bytes, sha256 {digest.hexdigest()}",
            )


def is_whole(place: Storage, key: str, expected: ObjectEntry) -> bool:
    """Tell whether an object is there with the bytes that it should have. It is read if its size fits.

    Parameters
    ----------
    place, key
        Storage and key of the object.
    expected
        The size and SHA-256 that its listing says.

    Returns
    -------
    bool
        False also where the object is missing.
    """
    return place.sizes([key]) == [expected.size] and place.digest(key)[1] == expected.sha256
