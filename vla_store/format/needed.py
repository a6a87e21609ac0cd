"""Which objects a root needs beside those that its parts list, and the bytes of all of them: one count for who builds and who reads.

Pure. Imports only `format`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from vla_store.format import arrays, canonical, layout
from vla_store.format.listing import parse_listing
from vla_store.format.schema import Root

GROUP_BYTES = canonical.dumps(arrays.GROUP)


def group_keys(root: Root) -> list[str]:
    """Return the keys of the groups between a root and its parts, without which the hierarchy cannot be walked.

    Parameters
    ----------
    root
        The root.

    Returns
    -------
    list of str
        Key of the zarr.json of each group, below the store.
    """
    above = (folder for entry in root.parts for folder in reversed(PurePosixPath(entry.path).parents) if folder.name)
    return list(dict.fromkeys(f"{folder}/{layout.ROOT_KEY}" for folder in above))


def document_keys(root: Root) -> list[str]:
    """Return the keys of the documents and listings that a root names."""
    meta = root.meta
    documents = [layout.meta_key(each) for each in (meta.statistics, meta.skipped, meta.views) if each]
    return [*documents, *(f"{entry.path}/{layout.LISTING}" for entry in root.parts)]


def array_nbytes(root: Root, found: Mapping[str, bytes]) -> dict[str, int]:
    """Return the bytes of all objects that a root needs, by array.

    Parameters
    ----------
    root
        The root; it lies in two places, zarr.json and roots/.
    found
        {key: bytes} of `document_keys`. One that is not there counts nothing.

    Returns
    -------
    dict
        {"steps/actions": bytes}, each with its metadata; "" is everything that is no array.

    Raises
    ------
    StoreDamaged
        A listing is not as the format says.
    """
    nbytes = {"": 2 * len(root.to_bytes()) + len(GROUP_BYTES) * len(group_keys(root)) + sum(map(len, found.values()))}
    for key, data in found.items():
        for each in parse_listing(data, key) if key.endswith(f"/{layout.LISTING}") else ():
            array = "/".join(each.key.split("/")[:2]) if each.key.count("/") > 1 else ""
            nbytes[array] = nbytes.get(array, 0) + each.size
    return nbytes
