"""Trees of values, which samples and batches are, and how a batch lies in a slot: its arrays one after another, and a layout that
says where; what is no array travels pickled.

May import numpy.
"""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

ALIGN = 64
MAX_TEXTS = 10_000
PLAIN = frozenset({str, bytes, int, float, bool, type(None)})  # what a list may hold and still be one value

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

Structure = tuple[Any, Any, Any] | None
"""A tree without its values: None in place of each; (kind, keys, structures) for a dict, and with keys None for a list or tuple.
Equal structures have the same kinds, and the same keys in the same order."""


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Return the values of a tree of dicts, lists and tuples, in order, and its structure. A list of plain values is one value."""
    leaves: list[Any] = []
    return leaves, _structure(tree, leaves)


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """Return the tree of a structure with these values."""
    values = iter(leaves)
    return next(values) if structure is None else _filled(structure, values)


def walk(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return the tree with `leaf(value)` in place of each value."""
    leaves, structure = flatten(tree)
    return unflatten(structure, map(leaf, leaves))


# Not functions inside those above: one that calls itself is a cycle, which would keep a batch's memory until the collector runs.
# Called for what has values inside, and not for each of these: they are all that costs anything here.


def _structure(tree: Any, leaves: list[Any]) -> Structure:
    kind = type(tree)
    keys, inside = None, tree
    if kind is dict:
        keys, inside = tuple(tree), tree.values()
    elif not isinstance(tree, (list, tuple)) or PLAIN.issuperset(map(type, tree)):
        leaves.append(tree)
        return None
    found = []
    for each in inside:
        if isinstance(each, (dict, list, tuple)):
            found.append(_structure(each, leaves))
        else:
            leaves.append(each)
            found.append(None)
    return kind, keys, tuple(found)


def _filled(structure: tuple[Any, Any, Any], leaves: Iterator[Any]) -> Any:
    kind, keys, inside = structure
    made = [next(leaves) if each is None else _filled(each, leaves) for each in inside]
    if keys is not None:
        return dict(zip(keys, made))
    return kind(*made) if hasattr(kind, "_fields") else kind(made)


class Span(NamedTuple):
    """An array in a slot, from `offset` to `end`."""

    dtype: np.dtype[Any]
    shape: Shape
    offset: int
    end: int


class Layout(NamedTuple):
    """What batches of one kind have in common. spans: of the values of the tree; None for one that travels beside it."""

    structure: Structure
    spans: tuple[Span | None, ...]


class Packed(NamedTuple):
    """A batch in a slot.

    layout: None on the way from a worker whose batch before had the same.
    carried: the values without a span: pickled as bytes, or, for a list of strings, numbers in a table that a worker and its parent
    share. nbytes: of the slot that are used. needed: bytes that would have held every array. new: strings that the parent does not
    know yet.
    """

    layout: Layout | None
    carried: tuple[bytes | tuple[int, ...], ...]
    nbytes: int
    needed: int
    new: tuple[str, ...]

    @property
    def pickled_nbytes(self) -> int:
        return sum(len(each) for each in self.carried if isinstance(each, bytes))


def aligned(offset: int) -> int:
    """Return the next offset at which an array may begin."""
    return -(-offset // ALIGN) * ALIGN


class Room:
    """A slot as memory for the arrays of a batch: one after another while they fit, and anywhere else after that.

    The next batch in the same slot gets the same arrays again, as far as it asks for the same: making them anew costs more than
    packing them. spans: where they lie, by the id of each.
    """

    def __init__(self, slot: Array) -> None:
        self.slot = slot
        self.base: int = slot.__array_interface__["data"][0]
        self.spans: dict[int, Span] = {}
        self._made: list[Array] = []
        self._used = 0

    def begin(self) -> Room:
        """Begin a batch: the arrays of the one before are free."""
        self._used = 0
        return self

    def empty(self, shape: Shape, dtype: Any) -> Array:
        """Return an uninitialised array, as np.empty does."""
        used = self._used
        if used < len(self._made):
            array = self._made[used]
            # Who saw it may have turned it into something else.
            if array.shape == shape and array.dtype == dtype and array.flags.carray:
                self._used += 1
                return array
            for array in self._made[used:]:
                del self.spans[id(array)]
            del self._made[used:]
        start = aligned(self.spans[id(self._made[-1])].end) if self._made else 0
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if start + nbytes > self.slot.nbytes:
            return np.empty(shape, dtype)
        array = np.ndarray(shape, dtype, self.slot, start)
        self._made.append(array)
        self.spans[id(array)] = Span(array.dtype, array.shape, start, start + nbytes)
        self._used += 1
        return array

    def offset(self, array: Array) -> int | None:
        """Return where in the slot an array lies, or None if it does not, or not in one piece."""
        at: int = array.__array_interface__["data"][0] - self.base
        inside = at >= 0 and at + array.nbytes <= self.slot.nbytes
        return at if inside and array.flags.c_contiguous and array.nbytes else None

    def reach(self, array: Array) -> int:
        """Return up to where in the slot an array refers to its memory, in one piece or not; 0 where it does not."""
        start = stop = array.__array_interface__["data"][0] - self.base
        if array.size:
            for count, stride in zip(array.shape, array.strides):
                if stride < 0:
                    start += (count - 1) * stride
                else:
                    stop += (count - 1) * stride
            stop += array.itemsize
        return min(stop, self.slot.nbytes) if start < self.slot.nbytes and stop > 0 else 0


def pack(batch: Any, room: Room, texts: dict[str, int]) -> Packed:
    """Put a batch into a slot. Arrays that lie in it already stay; others are copied behind them while there is room.

    texts: the worker's table of strings, added to.
    """
    leaves, structure = flatten(batch)
    # First all values are looked at, then some are copied: behind all memory that a value refers to, which may be copied itself.
    # What is more than its bytes (masked arrays, strings, objects) is pickled at once: nobody can see what memory that refers to.
    spans: list[Span | None] = []
    copied: dict[int, Array] = {}  # by their numbers among the values, as what is carried
    carried: dict[int, bytes | tuple[int, ...]] = {}
    new: dict[str, int] = {}
    end = 0
    for number, value in enumerate(leaves):
        span = room.spans.get(id(value))
        if span is not None and value.shape == span.shape and value.dtype is span.dtype and value.flags.carray:
            end = max(end, span.end)
        else:
            span, value = None, as_numpy(value)
            if (
                isinstance(value, np.ndarray)
                and value.dtype.kind in "biufc"
                and not isinstance(value, np.ma.MaskedArray)
            ):
                end = max(end, room.reach(value))
                copied[number] = value
            else:
                carried[number] = _numbers(value, texts, new) or pickle.dumps(value, protocol=5)
        spans.append(span)
    needed = end
    for number, value in copied.items():
        at = room.offset(value)
        if at is None:
            at, needed = aligned(end), aligned(needed) + value.nbytes
            if at + value.nbytes > room.slot.nbytes:
                carried[number] = pickle.dumps(value, protocol=5)
                continue
            np.ndarray(value.shape, value.dtype, room.slot, at)[...] = value
            end = at + value.nbytes
        spans[number] = Span(value.dtype, value.shape, at, at + value.nbytes)
    texts |= new  # only now: what is not sent must not be counted
    beside = tuple([carried[number] for number in sorted(carried)])
    return Packed(Layout(structure, tuple(spans)), beside, end, needed, tuple(new))


def unpack(packed: Packed, lease: Array, texts: list[str], *, copy: bool) -> Any:
    """Return the batch in a slot: views of the lease, or copies. texts: the parent's side of the worker's table."""
    assert packed.layout is not None
    carried = iter(packed.carried)
    leaves: list[Any] = []
    for span in packed.layout.spans:
        if span is None:
            value = next(carried)
            leaves.append(pickle.loads(value) if isinstance(value, bytes) else list(map(texts.__getitem__, value)))
        else:
            view = np.ndarray(span.shape, span.dtype, lease, span.offset)
            leaves.append(view.copy() if copy else view)
    return unflatten(packed.layout.structure, leaves)


def array_nbytes(batch: Any) -> int:
    """Return the bytes of all arrays of a batch."""
    return sum(_nbytes_of(each) for each in flatten(batch)[0])


def tree_nbytes(batch: Any, rows: int) -> int:
    """Return the bytes in a slot of a batch of so many rows, of which `batch` is one of a single row."""
    return sum(aligned(rows * _nbytes_of(each)) for each in flatten(batch)[0])


def as_numpy(value: Any) -> Any:
    """Return a tensor of a transform as an array; bfloat16 and the like, which NumPy does not know, stay tensors."""
    if type(value) is not np.ndarray and hasattr(value, "detach") and hasattr(value, "cpu"):
        try:
            return value.detach().cpu().numpy()
        except TypeError:
            return value.detach().cpu()
    return value


def _numbers(value: Any, texts: Mapping[str, int], new: dict[str, int]) -> tuple[int, ...] | None:
    """Return a list of strings as numbers of the table, adding to `new` what it lacks; None for anything else."""
    if type(value) is not list:
        return None
    numbers = tuple(map(texts.get, value))
    if None not in numbers:  # as nearly always
        return numbers  # type: ignore[return-value]
    if set(map(type, value)) != {str}:
        return None
    unknown = [each for each in dict.fromkeys(value) if each not in texts and each not in new]
    if len(texts) + len(new) + len(unknown) > MAX_TEXTS:  # a table of strings that never come again would grow for ever
        return None
    for each in unknown:
        new[each] = len(texts) + len(new)
    return tuple([texts[each] if each in texts else new[each] for each in value])


def _nbytes_of(value: Any) -> int:
    with contextlib.suppress(RuntimeError):  # torch does not count those of sparse tensors
        return int(getattr(value, "nbytes", 0))
    return 0
