"""The next root of a store, and the small documents that it names, as values: what a commit puts, the root last.

Imports only `format`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from vla_store.format import canonical, digests, layout
from vla_store.format.schema import PartEntry, Root, RootField


@dataclass(frozen=True)
class NewRoot:
    """A root that is not committed yet, and the small documents it names.

    Attributes
    ----------
    root
        The root, with its digest.
    documents
        {key below the store: bytes} of the documents.
    """

    root: Root
    documents: dict[str, bytes]


def new_root(
    before: Root | None,
    parts: tuple[PartEntry, ...],
    fields: dict[str, RootField],
    episodes: Iterable[bytes],
    **meta: dict[str, Any] | None,
) -> NewRoot:
    """Return the root after `before` over these parts.

    Parameters
    ----------
    before
        The root that it follows; None for the first root of a store.
    parts
        The parts, in order.
    fields
        {name: RootField}, as the whole store has them.
    episodes
        The digest of every episode, in row order.
    meta
        The documents `statistics`, `skipped` and `views`; None for none.

    Returns
    -------
    NewRoot
        Of the next generation, or of generation 1.
    """
    root = Root(
        generation=before.generation + 1 if before else 1,
        parent=before.digest if before else None,
        fingerprint=digests.fingerprint(episodes),
        parts=parts,
        fields=fields,
    )
    return _with_documents(root, meta)


def root_with_views(before: Root, views: dict[str, Any] | None) -> NewRoot:
    """Return the root after `before`, of which only the views differ.

    Parameters
    ----------
    before
        The root that it follows.
    views
        The document of the views; None for no views.

    Returns
    -------
    NewRoot
        Of the next generation, with the parts, fields and other documents of `before`.
    """
    return _with_documents(replace(before, generation=before.generation + 1, parent=before.digest), {"views": views})


def _with_documents(root: Root, meta: dict[str, dict[str, Any] | None]) -> NewRoot:
    made = {name: None if value is None else canonical.dumps(value) for name, value in meta.items()}
    named = {name: None if data is None else canonical.sha256_hex(data) for name, data in made.items()}
    documents = {
        layout.meta_key(digest): data for digest, data in zip(named.values(), made.values()) if digest and data
    }
    return NewRoot(replace(root, meta=replace(root.meta, **named)).sealed(), documents)
