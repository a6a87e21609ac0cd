"""Copying parts between storages: every object is hashed on its way, and what arrived whole is not sent again.

Imports format and storage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vla_store.errors import StoreDamaged
from vla_store.format import layout
from vla_store.format.canonical import sha256_hex
from vla_store.format.listing import ObjectEntry, parse_listing
from vla_store.format.schema import PartEntry
from vla_store.storage import Storage

Talk = Callable[[str], None]
One = TypeVar("One")
Result = TypeVar("Result")

MOST_AT_ONCE = 16
IN_HAND_NBYTES = 256 << 20  # of the objects that are under way: fsspec's storages read what they send into the memory


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
    if target.get(f"{path}/{layout.LISTING}") == listing:
        sizes = target.sizes([f"{path}/{each.key}" for each in objects])
        are_there = [size == each.size for each, size in zip(objects, sizes)]
    else:  # objects of these sizes may be anybody's
        are_there = are_whole(target, path, objects)
    missing = [each for each, is_there in zip(objects, are_there) if not is_there]
    copy_objects(source, entry.path, target, path, missing, talk)
    target.write(f"{path}/{layout.LISTING}", listing)
    return sum(each.size for each in missing)


def copy_objects(
    source: Storage, folder: str, target: Storage, target_folder: str, objects: Sequence[ObjectEntry], talk: Talk
) -> None:
    """Copy some objects of a part; several at once, where one of the storages is far.

    Parameters
    ----------
    source, folder
        Storage and path of the part.
    target, target_folder
        Storage and path to copy to.
    objects
        What the part's listing says of them.
    talk
        Called with a line of progress.

    Raises
    ------
    StoreDamaged
        An object is not what the listing says.
    """

    def copy(each: ObjectEntry) -> None:
        copy_object(source, f"{folder}/{each.key}", target, f"{target_folder}/{each.key}", each)

    done = _several(copy, objects, _at_once(objects, source, target))
    for number in range(len(objects)):
        talk(f"copying object {number + 1} of {len(objects)}")
        next(done)


def send_part(stage: Storage, entry: PartEntry, place: Storage, talk: Talk) -> None:
    """Complete a part of which a build has put the large objects already: put what lies on its stage, and the listing last.

    Parameters
    ----------
    stage, entry
        Where its other objects and its listing lie, and how the root names it.
    place
        Where it shall be, by the same path.
    talk
        Called with a line of progress.

    Raises
    ------
    StoreDamaged
        An object that was put before is not there any more, or has another size.
    """
    listing, objects = part_listing(stage, entry)
    here = set(stage.keys(entry.path))
    copy_objects(
        stage, entry.path, place, entry.path, [each for each in objects if f"{entry.path}/{each.key}" in here], talk
    )
    for each, size in zip(objects, place.sizes([f"{entry.path}/{each.key}" for each in objects])):
        if size != each.size:
            raise StoreDamaged(
                "what was put before is not there any more",
                object=f"{entry.path}/{each.key}",
                store=place.url,
                expected=f"{each.size} bytes",
                found="nothing" if size is None else f"{size} bytes",
                hint="somebody removed it meanwhile; the same command puts it again",
            )
    place.write(f"{entry.path}/{layout.LISTING}", listing)


def remove_objects(place: Storage, keys: Sequence[str]) -> None:
    """Remove objects, several at once where the storage is far.

    Parameters
    ----------
    place, keys
        Storage and keys of the objects, which may be there.
    """
    for _ in _several(place.remove, keys, 1 if place.is_near else MOST_AT_ONCE):
        pass


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


def are_whole(place: Storage, path: str, objects: Sequence[ObjectEntry]) -> list[bool]:
    """Tell of objects of a part whether they are there with the bytes that they should have. Those whose sizes fit are read.

    Parameters
    ----------
    place, path
        Storage and path of the part.
    objects
        What its listing says of them.

    Returns
    -------
    list of bool
        False also for one that is missing.
    """
    sizes = place.sizes([f"{path}/{each.key}" for each in objects])

    def is_whole(given: tuple[ObjectEntry, int | None]) -> bool:
        each, size = given
        return size == each.size and place.digest(f"{path}/{each.key}")[1] == each.sha256

    return list(_several(is_whole, list(zip(objects, sizes)), _at_once(objects, place)))


def _at_once(objects: Sequence[ObjectEntry], *storages: Storage) -> int:
    """Return how many objects to ask for at once: of a disk, one after another."""
    if all(each.is_near for each in storages):
        return 1
    largest = max((each.size for each in objects), default=0)
    return max(1, min(MOST_AT_ONCE, IN_HAND_NBYTES // max(1, largest), len(objects)))


def _several(function: Callable[[One], Result], values: Sequence[One], at_once: int) -> Iterator[Result]:
    """Yield a result for each value, in their order. After an error what has not begun does not begin."""
    if at_once == 1:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(at_once, thread_name_prefix="vla-store-transfer") as threads:
        yield from threads.map(function, values)
