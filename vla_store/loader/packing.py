"""How a batch lies in a slot: its arrays one after another, and a layout that says where; what is no array travels pickled.

May import numpy and trees.
"""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vla_store.loader.trees import Structure, flatten, unflatten

ALIGN = 64
MAX_TEXTS = 10_000

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class Span(NamedTuple):
    """An array in a slot."""

    dtype: str
    shape: Shape
    offset: int


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
    packing them.
    """

    def __init__(self, slot: Array) -> None:
        self.slot = slot
        self.base: int = slot.__array_interface__["data"][0]
        self._made: list[tuple[Array, Span, int]] = []  # with their ends
        self._used = 0
        self._known: dict[int, tuple[Array, Span, int]] = {}  # the same by the id of each array

    def begin(self) -> Room:
        """Begin a batch: the arrays of the one before are free."""
        self._used = 0
        return self

    def empty(self, shape: Shape, dtype: Any) -> Array:
        """Return an uninitialised array, as np.empty does."""
        used = self._used
        if used < len(self._made):
            array = self._made[used][0]
            # Who saw it may have turned it into something else.
            if array.shape == shape and array.dtype == dtype and array.flags.carray:
                self._used += 1
                return array
            for array, _, _ in self._made[used:]:
                del self._known[id(array)]
            del self._made[used:]
        start = aligned(self._made[-1][2]) if self._made else 0
        end = start + _nbytes(shape, np.dtype(dtype))
        if end > self.slot.nbytes:
            return np.empty(shape, dtype)
        array = np.ndarray(shape, dtype, self.slot, start)
        made = array, Span(array.dtype.str, array.shape, start), end
        self._made.append(made)
        self._known[id(array)] = made
        self._used += 1
        return array

    def known(self, value: Any) -> tuple[Array, Span, int] | None:
        """Return one of the arrays that were asked for, where it lies and ends; None where it is none, or none any more."""
        found = self._known.get(id(value))
        if (
            found is None
            or value.shape != found[1].shape
            or value.dtype.str != found[1].dtype
            or not value.flags.carray
        ):
            return None
        return found

    def offset(self, array: Array) -> int | None:
        """Return where in the slot an array lies, or None if it does not, or not in one piece."""
        at: int = array.__array_interface__["data"][0] - self.base
        inside = at >= 0 and at + array.nbytes <= self.slot.nbytes
        return at if inside and array.flags.c_contiguous and array.nbytes else None


def pack(batch: Any, room: Room, texts: dict[str, int]) -> Packed:
    """Put a batch into a slot. Arrays that lie in it already stay; others are copied behind them while there is room.

    texts: the worker's table of strings, added to.
    """
    packer = _Packer(room, texts)
    leaves, structure = flatten(batch)
    looked = [packer.look(each) for each in leaves]
    packer.needed = packer.end
    made = [packer.put(each) if isinstance(each, np.ndarray) else each for each in looked]
    texts |= packer.new  # only now: what is not sent must not be counted
    layout = Layout(structure, tuple([each if isinstance(each, Span) else None for each in made]))
    carried = tuple([each for each in made if not isinstance(each, Span)])
    return Packed(layout, carried, packer.end, packer.needed, tuple(packer.new))


def unpack(packed: Packed, lease: Array, texts: list[str], *, copy: bool) -> Any:
    """Return the batch in a slot: views of the lease, or copies. texts: the parent's side of the worker's table."""
    assert packed.layout is not None
    carried = iter(packed.carried)
    leaves: list[Any] = []
    for span in packed.layout.spans:
        if span is None:
            value = next(carried)
            leaves.append(pickle.loads(value) if isinstance(value, bytes) else [texts[number] for number in value])
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


class _Packer:
    def __init__(self, room: Room, texts: Mapping[str, int]) -> None:
        self._room = room
        self._texts = texts
        self.new: dict[str, int] = {}
        self.end = self.needed = 0

    def look(self, value: Any) -> Array | Span | bytes | tuple[int, ...]:
        """Return an array that `put` takes, where one lies that was asked for, or what is carried.

        Nothing is copied over memory that a value refers to, in one piece or not: it may be copied later itself. What is more than
        its bytes (masked arrays, strings, objects) is pickled here, before anything is copied: nobody can see which memory such a
        value refers to.
        """
        known = self._room.known(value)
        if known is not None:
            self.end = max(self.end, known[2])
            return known[1]
        value = as_numpy(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and not isinstance(value, np.ma.MaskedArray):
            room = self._room
            start, stop = (edge - room.base for edge in _edges(value))
            if start < room.slot.nbytes and stop > 0:
                self.end = max(self.end, min(stop, room.slot.nbytes))
            return value
        numbers = self._numbers(value) if type(value) is list and set(map(type, value)) == {str} else None
        return pickle.dumps(value, protocol=5) if numbers is None else numbers

    def put(self, array: Array) -> Span | bytes:
        """Return where the array lies in the slot, having copied it there if need be; pickled where there is no room."""
        room, at = self._room, self._room.offset(array)
        if at is None:
            at, self.needed = aligned(self.end), aligned(self.needed) + array.nbytes
            if at + array.nbytes > room.slot.nbytes:
                return pickle.dumps(array, protocol=5)
            np.ndarray(array.shape, array.dtype, room.slot, at)[...] = array
            self.end = at + array.nbytes
        return Span(array.dtype.str, array.shape, at)

    def _numbers(self, value: list[str]) -> tuple[int, ...] | None:
        known, new = self._texts, self.new
        with contextlib.suppress(KeyError):  # as nearly always
            return tuple([known[each] for each in value])
        unknown = [each for each in dict.fromkeys(value) if each not in known and each not in new]
        count = len(known) + len(new)
        if count + len(unknown) > MAX_TEXTS:  # a table of strings that never come again would grow for ever
            return None
        new |= {each: count + number for number, each in enumerate(unknown)}
        return tuple([known[each] if each in known else new[each] for each in value])


def _edges(array: Array) -> tuple[int, int]:
    """Return the first address of an array's memory, and the one behind its last."""
    start = stop = array.__array_interface__["data"][0]
    if array.flags.c_contiguous:
        return start, start + array.nbytes
    if array.size:
        for count, stride in zip(array.shape, array.strides):
            if stride < 0:
                start += (count - 1) * stride
            else:
                stop += (count - 1) * stride
        stop += array.itemsize
    return start, stop


def _nbytes_of(value: Any) -> int:
    with contextlib.suppress(RuntimeError):  # torch does not count those of sparse tensors
        return int(getattr(value, "nbytes", 0))
    return 0


def _nbytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize
