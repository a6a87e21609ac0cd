"""Making the next root of a store, and committing it: whoever creates roots/<generation>.json first, exclusively, has committed.

Imports `reader`, `storage` and `format`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vla_store.errors import DataError, OptionError, StoreDamaged
from vla_store.format import canonical, layout
from vla_store.format.new_root import NewRoot as NewRoot
from vla_store.format.schema import PartDocument, PartEntry, Root
from vla_store.publish.commit import create
from vla_store.publish.transfer import are_whole, part_listing
from vla_store.reader.opening import no_store
from vla_store.reader.part import Part
from vla_store.reader.shards import Opened
from vla_store.storage import Storage, locate

MAX_TRIES = 1_000
_DOCUMENT = re.compile(r"meta/[0-9a-f]{64}\.json")


def newest_root(place: Storage) -> Root:
    """Return the newest root there is, which zarr.json may not hold yet: a writer that was killed had no time.

    Parameters
    ----------
    place
        Where the store lies.

    Returns
    -------
    Root
        The newest one.

    Raises
    ------
    StoreNotFound
        There is no zarr.json.
    DataError
        A root cannot be read; the message names the store.
    """
    data = place.get(layout.ROOT_KEY)
    if data is None:
        raise no_store(place.url)
    try:
        return _newest_from(place, Root.from_bytes(data, layout.ROOT_KEY))
    except DataError as error:
        raise error.at(store=place.url) from None


def sound_root(place: Storage, key: str) -> Root | None:
    """Return a root as it is.

    Parameters
    ----------
    place, key
        Where the store lies, and the key of the root.

    Returns
    -------
    Root or None
        None where it is missing or damaged.
    """
    try:
        return Root.from_bytes(place.get(key) or b"", key)
    except DataError:
        return None


def heal(place: Storage, committed: Root) -> Root:
    """Bring zarr.json up to the newest root.

    Parameters
    ----------
    place
        Where the store lies.
    committed
        A root that is known to be committed.

    Returns
    -------
    Root
        The newest root.
    """
    while True:
        committed = _newest_from(place, committed)
        current = sound_root(place, layout.ROOT_KEY)  # another writer may have brought it further since
        if current is None or current.generation != committed.generation:
            place.write(layout.ROOT_KEY, committed.to_bytes())
            place.settle()
        if place.get(layout.root_key(committed.generation + 1)) is None:
            return committed


def commit(place: Storage, make: Callable[[Root], NewRoot | None]) -> Root:
    """Commit what `make` makes of the newest root; where another writer was first, make it again of that one's root.

    Parameters
    ----------
    place
        Where the store lies.
    make
        Called with the newest root; gives the root to commit, or None where the newest root holds it already: a commit
        whose reply was lost was ours.

    Returns
    -------
    Root
        The current root.

    Raises
    ------
    StoreNotFound, DataError
        As `newest_root` raises them.
    OptionError
        Other writers were faster, a thousand times.
    """
    for _ in range(MAX_TRIES):
        newest = newest_root(place)
        new = make(newest)
        if new is None:
            return heal(place, newest)
        if create(place, new):
            healed = heal(place, new.root)
            sweep_documents(place)
            return healed
    raise OptionError("other writers were faster every time", store=place.url, tries=MAX_TRIES, hint="try again")


def sweep_documents(place: Storage) -> list[str]:
    """Remove the small documents of roots that came second, or were never created; and half-written objects of writers
    that are gone.

    A document is surely unused if no root names it, every root there ever was can be read, and nobody is about to
    create another one. Where one of these cannot be known, no document is removed.

    Parameters
    ----------
    place
        Where the store lies.

    Returns
    -------
    list of str
        Keys of the documents that were removed.
    """
    place.sweep()
    with place.alone() as is_possible:
        if not is_possible:
            return []
    generations = layout.generations_in(place.keys("roots"))
    if not generations or generations != list(range(1, len(generations) + 1)):
        return []  # what a lost root named may be needed to make it again
    named: set[str] = set()
    try:
        for generation in generations:
            key = layout.root_key(generation)
            named |= {layout.meta_key(each) for each in Root.from_bytes(place.get(key) or b"", key).meta.digests}
    except (DataError, OSError):
        return []
    with place.alone() as is_alone:  # for as short as can be: others wait for it before they propose a root
        if not is_alone or layout.generations_in(place.keys("roots")) != generations:
            return []
        unused = [key for key in place.keys("meta") if _DOCUMENT.fullmatch(key) and key not in named]
        for key in unused:
            place.remove(key)
    return unused


COLUMNS = ("steps/", "episodes/", "zarr.json")


def check_columns(place: Storage, entry: PartEntry, prefixes: tuple[str, ...] = COLUMNS) -> None:
    """Hash what a root is made of: a part's document, tables, digests and numeric fields.

    Their arrays carry no checksum of their own, and damage would go into statistics and fingerprint for ever.

    Parameters
    ----------
    place, entry
        Where the store lies, and the part, as the root names it.
    prefixes
        What the keys of the objects to hash begin with, below the part; default all of the above.

    Raises
    ------
    StoreDamaged
        The listing, or one of these objects, is missing or changed.
    """
    _, objects = part_listing(place, entry)
    columns = [each for each in objects if each.key.startswith(prefixes)]
    for each, is_whole in zip(columns, are_whole(place, entry.path, columns)):
        if not is_whole:
            raise StoreDamaged(
                "an object of the store is damaged, and no root can be made over it",
                object=f"{entry.path}/{each.key}",
                store=place.url,
            )


def open_parts(url: str, entries: tuple[PartEntry, ...]) -> list[Part]:
    """Open parts as the reader has them; they need not be of any root.

    Parameters
    ----------
    url
        Path or URL below which they lie.
    entries
        The parts, in order.

    Returns
    -------
    list of Part
        Rows and episodes are numbered from 0 over all of them.
    """
    fetcher = locate(url, cache="").open()
    parts, row, episode = [], 0, 0
    for number, entry in enumerate(entries):
        key = f"{entry.path}/zarr.json"
        data = bytes(fetcher.read([(key, 0, fetcher.size(key))])[0])
        document = PartDocument.from_zarr_json(data, key)
        parts.append(Part(number, entry, document, fetcher, Opened(), row, episode))
        row, episode = row + entry.rows, episode + entry.episodes
    return parts


def read_document(place: Storage, digest: str | None) -> dict[str, Any] | None:
    """Return a small document that a root names.

    Parameters
    ----------
    place
        Where the store lies.
    digest
        SHA-256 that the root names it by; None for none.

    Returns
    -------
    dict or None
        The document; None where `digest` is None.

    Raises
    ------
    StoreDamaged
        It is missing or changed.
    """
    if digest is None:
        return None
    value: dict[str, Any] = canonical.loads(document_bytes(place, digest), layout.meta_key(digest))
    return value


def document_bytes(place: Storage, digest: str) -> bytes:
    """Return the bytes of a small document that a root names.

    Parameters
    ----------
    place
        Where the store lies.
    digest
        SHA-256 that the root names it by.

    Returns
    -------
    bytes
        As they are stored.

    Raises
    ------
    StoreDamaged
        It is missing or changed.
    """
    key = layout.meta_key(digest)
    data = place.get(key)
    if data is None or canonical.sha256_hex(data) != digest:
        raise StoreDamaged("a document is missing or changed", object=key, store=place.url)
    return data


def has_part(root: Root, entry: PartEntry) -> bool:
    """Tell whether a root names exactly this part.

    Parameters
    ----------
    root
        The root.
    entry
        The part.

    Returns
    -------
    bool
        True if path (its id) and digest of the listing are the same.
    """
    return any((each.path, each.listing) == (entry.path, entry.listing) for each in root.parts)


def _newest_from(place: Storage, root: Root) -> Root:
    while (data := place.get(layout.root_key(root.generation + 1))) is not None:
        root = Root.from_bytes(data, layout.root_key(root.generation + 1))
    return root
