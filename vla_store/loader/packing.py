"""How a batch lies in a slot: its arrays one after another, and a tree of the batch that says where; the rest travels pickled."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

ALIGN = 64
MAX_TEXTS = 10_000
PLAIN = frozenset({str, bytes, int, float, bool, type(None)})  # what a list may hold and still be one value

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Empty = Callable[[Shape, Any], Array]  # as np.empty


class Placed(NamedTuple):
    """An array in a slot."""

    dtype: str
    shape: Shape
    offset: int


class Carried(NamedTuple):
    """Any other value: `number` among those that travel beside the tree."""

    number: int


class Packed(NamedTuple):
    """tree: the batch, with a Placed or a Carried in place of each value. carried: those values, pickled as bytes, and lists of
    strings as numbers in a table that a worker and its parent share. nbytes: of the slot that are used. needed: bytes that would
    have held every array. new: strings that the parent does not know yet."""

    tree: Any
    carried: tuple[bytes | tuple[int, ...], ...]
    nbytes: int
    needed: int
    new: tuple[str, ...]

    @property
    def pickled_nbytes(self) -> int:
        return sum(len(each) for each in self.carried if isinstance(each, bytes))


def aligned(offset: int) -> int:
    """The next offset at which an array may begin."""
    return -(-offset // ALIGN) * ALIGN


def slot_nbytes(columns: Mapping[str, tuple[Shape, Any]], rows: int) -> int:
    """Bytes of a batch of so many rows, of arrays with these shapes and dtypes a row."""
    total = 0
    for shape, dtype in columns.values():
        total = aligned(total) + _nbytes((rows, *shape), np.dtype(dtype))
    return aligned(total)


def carve(slot: Array, columns: Mapping[str, tuple[Shape, Any]], rows: int) -> Carved | None:
    """Arrays for a batch of so many rows, lying in the slot; None where they do not fit."""
    if slot_nbytes(columns, rows) > slot.nbytes:
        return None
    arrays, offsets, offset = {}, {}, 0
    for key, (shape, dtype) in columns.items():
        offset = aligned(offset)
        array = arrays[key] = np.ndarray((rows, *shape), dtype, slot, offset)
        offsets[id(array)] = offset
        offset += array.nbytes
    return Carved(arrays, offsets)


class Carved(NamedTuple):
    """Arrays that lie in a slot, and by the id of each where it begins."""

    arrays: dict[str, Array]
    offsets: dict[int, int]


class Room:
    """A slot as memory for new arrays: one after another while they fit, and anywhere else after that."""

    def __init__(self, slot: Array) -> None:
        self._slot = slot
        self._end = 0

    def empty(self, shape: Shape, dtype: Any) -> Array:
        """As np.empty."""
        start = aligned(self._end)
        end = start + _nbytes(shape, np.dtype(dtype))
        if end > self._slot.nbytes:
            return np.empty(shape, dtype)
        self._end = end
        return np.ndarray(shape, dtype, self._slot, start)


def walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same tree of dicts, lists and tuples with `leaf` of every other value. A list of plain values is one value."""
    kind = type(value)
    if kind is dict:
        return {key: walk(each, leaf) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and not PLAIN.issuperset(map(type, value)):
        made = [walk(each, leaf) for each in value]
        return kind(*made) if hasattr(value, "_fields") else kind(made)
    return leaf(value)


def pack(batch: Any, slot: Array, texts: dict[str, int], carved: Carved | None = None) -> Packed:
    """Put a batch into a slot. Arrays that lie in it already stay; others are copied behind them while there is room.

    texts: the worker's table of strings, added to. carved: of this slot; those of its arrays that are in the batch are found
    without looking.
    """
    packer = _Packer(slot, texts, carved.offsets if carved is not None else {})
    batch = walk(batch, packer.look)
    packer.needed = packer.end
    tree = walk(batch, packer.put)
    texts |= packer.new  # only now: what is not sent must not be counted
    return Packed(tree, tuple(packer.carried), packer.end, packer.needed, tuple(packer.new))


def pack_alike(batch: Any, carved: Carved, before: Packed, texts: dict[str, int]) -> Packed | None:
    """As `pack`, in a few microseconds, for a batch of carved arrays and lists of known strings like the one `before`, of as many
    rows; None for any other."""
    arrays = carved.arrays
    if batch.keys() != before.tree.keys():
        return None
    carried = list(before.carried)
    for key, value in batch.items():
        if arrays.get(key) is value:
            continue
        there = before.tree[key]
        if type(value) is not list or type(there) is not Carried:
            return None
        try:
            carried[there.number] = tuple([texts[each] for each in value])
        except (KeyError, TypeError):
            return None
    return before._replace(carried=tuple(carried), new=())


def is_same(tree: Any, other: Any) -> bool:
    """Whether two trees are equal, also in what `==` passes over: the order of keys, and a namedtuple that is no plain tuple."""
    if tree is other or type(tree) is not type(other) or tree != other:
        return tree is other
    if type(tree) is dict:
        return list(tree) == list(other) and all(map(is_same, tree.values(), other.values()))
    return type(tree) in (Placed, Carried) or all(map(is_same, tree, other))


def unpack(packed: Packed, lease: Array, texts: list[str], *, copy: bool) -> Any:
    """The batch in a slot: views of the lease, or copies. texts: the parent's side of the worker's table."""
    # Not a function inside this one: one that calls itself is a cycle, which would keep the lease until the collector comes by.
    return _rebuilt(packed.tree, packed.carried, lease, texts, copy)


def _rebuilt(tree: Any, carried: Sequence[Any], lease: Array, texts: list[str], copy: bool) -> Any:
    kind = type(tree)
    if kind is Placed:
        view = np.ndarray(tree.shape, tree.dtype, lease, tree.offset)
        return view.copy() if copy else view
    if kind is Carried:
        value = carried[tree.number]
        return pickle.loads(value) if isinstance(value, bytes) else [texts[number] for number in value]
    if kind is dict:
        return {key: _rebuilt(each, carried, lease, texts, copy) for key, each in tree.items()}
    made = [_rebuilt(each, carried, lease, texts, copy) for each in tree]
    return kind(*made) if hasattr(tree, "_fields") else kind(made)


def array_nbytes(batch: Any) -> int:
    """Bytes of all arrays of a batch."""
    total = 0

    def leaf(each: Any) -> None:
        nonlocal total
        with contextlib.suppress(RuntimeError):  # torch does not count those of sparse tensors
            total += int(getattr(each, "nbytes", 0))

    walk(batch, leaf)
    return total


def tree_nbytes(batch: Any, rows: int) -> int:
    """Bytes in a slot of a batch of so many rows, of which `batch` is one of a single row."""
    total = 0

    def leaf(each: Any) -> None:
        nonlocal total
        total += aligned(rows * int(getattr(each, "nbytes", 0)))

    walk(batch, leaf)
    return total


def as_numpy(value: Any) -> Any:
    """A tensor of a transform as an array; bfloat16 and the like, which NumPy does not know, stay tensors."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        try:
            return value.detach().cpu().numpy()
        except TypeError:
            return value.detach().cpu()
    return value


class _Packer:
    def __init__(self, slot: Array, texts: Mapping[str, int], known: Mapping[int, int]) -> None:
        self._slot = slot
        self._base = slot.__array_interface__["data"][0]
        self._texts = texts
        self._known = known
        self.new: dict[str, int] = {}
        self.carried: list[bytes | tuple[int, ...]] = []
        self.end = self.needed = 0

    def look(self, value: Any) -> Any:
        """Nothing is copied over memory that a value refers to, in one piece or not: it may be copied later itself.

        What is more than its bytes (masked arrays, strings, objects) is pickled here, before anything is copied: nobody can
        see which memory such a value refers to.
        """
        known = self._known.get(id(value))
        if known is not None:
            self.end = max(self.end, known + value.nbytes)
            return value
        value = as_numpy(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and not isinstance(value, np.ma.MaskedArray):
            start, stop = (edge - self._base for edge in _edges(value))
            if start < self._slot.nbytes and stop > 0:
                self.end = max(self.end, min(stop, self._slot.nbytes))
            return value
        numbers = self._numbers(value) if type(value) is list and set(map(type, value)) == {str} else None
        return self._carry(pickle.dumps(value, protocol=5) if numbers is None else numbers)

    def put(self, value: Any) -> Placed | Carried:
        """`value`: what `look` made of one."""
        if type(value) is Carried:
            return value
        known = self._known.get(id(value))
        if known is not None:
            return Placed(value.dtype.str, value.shape, known)
        at = self._offset(value)
        if at is None:
            at, self.needed = aligned(self.end), aligned(self.needed) + value.nbytes
            if at + value.nbytes > self._slot.nbytes:
                return self._carry(pickle.dumps(value, protocol=5))
            np.ndarray(value.shape, value.dtype, self._slot, at)[...] = value
            self.end = at + value.nbytes
        return Placed(value.dtype.str, value.shape, at)

    def _carry(self, value: bytes | tuple[int, ...]) -> Carried:
        self.carried.append(value)
        return Carried(len(self.carried) - 1)

    def _numbers(self, value: list[str]) -> tuple[int, ...] | None:
        known = self._texts
        unknown = [each for each in dict.fromkeys(value) if each not in known and each not in self.new]
        count = len(known) + len(self.new)
        if count + len(unknown) > MAX_TEXTS:  # a table of strings that never come again would grow for ever
            return None
        self.new |= {each: count + number for number, each in enumerate(unknown)}
        return tuple(known[each] if each in known else self.new[each] for each in value)

    def _offset(self, array: Array) -> int | None:
        """Where in the slot an array lies, or None if it does not, or not in one piece."""
        at: int = array.__array_interface__["data"][0] - self._base
        inside = at >= 0 and at + array.nbytes <= self._slot.nbytes
        return at if inside and array.flags.c_contiguous and array.nbytes else None


def _edges(array: Array) -> tuple[int, int]:
    """The first address of an array's memory, and the one behind its last."""
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


def _nbytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize
