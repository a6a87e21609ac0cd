"""Trees of values: what samples and batches are made of. Imports only the standard library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

PLAIN = frozenset({str, bytes, int, float, bool, type(None)})  # what a list may hold and still be one value

Structure = tuple[Any, Any, Any] | None
"""A tree without its values: None in place of each; (kind, keys, structures) for a dict, and with keys None for a list or tuple.
Equal structures have the same kinds, and the same keys in the same order."""


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Return the values of a tree of dicts, lists and tuples, in order, and its structure. A list of plain values is one value."""
    leaves: list[Any] = []
    return leaves, _structure(tree, leaves)


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """Return the tree of a structure with these values."""
    return _filled(structure, iter(leaves))


def walk(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return the tree with `leaf(value)` in place of each value."""
    leaves, structure = flatten(tree)
    return _filled(structure, map(leaf, leaves))


# Not functions inside those above: one that calls itself is a cycle, which would keep a batch's memory until the collector runs.


def _structure(tree: Any, leaves: list[Any]) -> Structure:
    kind = type(tree)
    if kind is dict:
        return dict, tuple(tree), tuple([_structure(each, leaves) for each in tree.values()])
    if isinstance(tree, (list, tuple)) and not PLAIN.issuperset(map(type, tree)):
        return kind, None, tuple([_structure(each, leaves) for each in tree])
    leaves.append(tree)
    return None


def _filled(structure: Structure, leaves: Iterator[Any]) -> Any:
    if structure is None:
        return next(leaves)
    kind, keys, inner = structure
    made = [_filled(each, leaves) for each in inner]
    if keys is not None:
        return dict(zip(keys, made))
    return kind(*made) if hasattr(kind, "_fields") else kind(made)
