"""Putting a root and the documents that it names: whoever creates roots/<generation>.json first, exclusively, has committed.

Imports format and storage.
"""

from __future__ import annotations

from vla_store.errors import OptionError
from vla_store.format import layout
from vla_store.format.needed import GROUP_BYTES, group_keys
from vla_store.format.new_root import NewRoot
from vla_store.storage import Storage


def create(place: Storage, new: NewRoot) -> bool:
    """Put the documents of a root, then the root, if there is none of its generation.

    Parameters
    ----------
    place
        Where the store lies.
    new
        The root and its documents.

    Returns
    -------
    bool
        Whether this root is there now.
    """
    with place.proposing():
        put_documents(place, new)
        key, data = layout.root_key(new.root.generation), new.root.to_bytes()
        try:
            return place.create(key, data) or place.get(key) == data  # a put whose reply was lost is sent again
        except OSError:
            if place.get(key) != data:
                raise
            return True  # only the reply was lost


def put_documents(place: Storage, new: NewRoot) -> None:
    """Put the documents that a root names, and the groups above its parts where there are none.

    The root of a store that was merged in place is such a group.

    Parameters
    ----------
    place
        Where the store lies.
    new
        The root and its documents.
    """
    for key in group_keys(new.root):
        if place.get(key) is None:
            place.write(key, GROUP_BYTES)
    for key, data in new.documents.items():
        place.write(key, data)
    place.settle()


def put_root(place: Storage, new: NewRoot, *, exclusively: bool) -> bool:
    """Put a root of a store that nobody reads yet, after the documents that it names.

    Parameters
    ----------
    place
        Where the store lies.
    new
        The root and its documents.
    exclusively
        Where storage cannot tell one of two writers at once, put nothing. Else the root is put as a copy puts its roots: where
        there is none.

    Returns
    -------
    bool
        Whether this root is there now, and not another one.

    Raises
    ------
    OptionError
        The storage cannot create an object exclusively, and has to.
    """
    try:
        return create(place, new)
    except OptionError:
        if exclusively:
            raise
        key, data = layout.root_key(new.root.generation), new.root.to_bytes()
        if place.get(key) not in (None, data):
            return False
        place.write(key, data)
        return True
