"""How a batch lies in a slot: its arrays one after another, and a tree of the batch that says where; the rest travels pickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ALIGN = 64
MAX_TEXTS = 10_000

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """An array in a slot."""

    dtype: str
    shape: Shape
    offset: int


@dataclass(frozen=True)
class Pickled:
    """Any other value, or an array that did not fit."""

    data: bytes


@dataclass(frozen=True)
class Texts:
    """A list of strings, as numbers in a table that a worker and its parent share."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """tree: the batch, with one of the above in place of each value. nbytes: of the slot that are used. needed: bytes that would
    have held every array. new: strings that the parent does not know yet."""

    tree: Any
    nbytes: int
    needed: int
    pickled_nbytes: int
    new: tuple[str, ...]


def aligned(offset: int) -> int:
    """The next offset at which an array may begin."""
    return -(-offset // ALIGN) * ALIGN


def slot_nbytes(columns: Mapping[str, tuple[Shape, Any]], rows: int) -> int:
    """Bytes of a batch of so many rows, of arrays with these shapes and dtypes a row."""
    total = 0
    for shape, dtype in columns.values():
        total = aligned(total) + _nbytes((rows, *shape), np.dtype(dtype))
    return aligned(total)


def carve(slot: Array, columns: Mapping[str, tuple[Shape, Any]], rows: int) -> dict[str, Array] | None:
    """Arrays for a batch of so many rows, lying in the slot; None where they do not fit."""
    if slot_nbytes(columns, rows) > slot.nbytes:
        return None
    arrays, offset = {}, 0
    for key, (shape, dtype) in columns.items():
        offset = aligned(offset)
        arrays[key] = _at(slot, offset, (rows, *shape), np.dtype(dtype))
        offset += arrays[key].nbytes
    return arrays


def walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same tree of dicts, lists and tuples with `leaf` of every other value. A list without arrays is one value."""
    kind = type(value)
    if kind is dict:
        return {key: walk(each, leaf) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and any(
        isinstance(each, (dict, list, tuple)) or _is_array(each) for each in value
    ):
        made = [walk(each, leaf) for each in value]
        return kind(*made) if hasattr(value, "_fields") else kind(made)
    return leaf(value)


def pack(batch: Any, slot: Array, texts: dict[str, int]) -> Packed:
    """Put a batch into a slot. Arrays that lie in it already stay; others are copied behind them while there is room.

    texts: the worker's table of strings, added to.
    """
    packer = _Packer(slot, texts)
    batch = walk(batch, as_numpy)
    walk(batch, packer.look)
    packer.needed = packer.end
    tree = walk(batch, packer.put)
    texts |= packer.new  # only now: what is not sent must not be counted
    return Packed(tree, packer.end, packer.needed, packer.pickled_nbytes, tuple(packer.new))


def unpack(packed: Packed, lease: Array, texts: list[str], *, copy: bool) -> Any:
    """The batch in a slot: views of the lease, or copies. texts: the parent's side of the worker's table."""

    def leaf(each: Any) -> Any:
        if isinstance(each, Placed):
            view = _at(lease, each.offset, each.shape, np.dtype(each.dtype))
            return view.copy() if copy else view
        if isinstance(each, Texts):
            return [texts[number] for number in each.numbers]
        return pickle.loads(each.data)

    return _rebuild(packed.tree, leaf)


def array_nbytes(batch: Any) -> int:
    """Bytes of all arrays of a batch."""
    total = 0

    def leaf(each: Any) -> None:
        nonlocal total
        total += int(getattr(each, "nbytes", 0))

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
    def __init__(self, slot: Array, texts: Mapping[str, int]) -> None:
        self._slot = slot
        self._base = slot.__array_interface__["data"][0]
        self._texts = texts
        self.new: dict[str, int] = {}
        self.end = self.needed = self.pickled_nbytes = 0

    def look(self, value: Any) -> None:
        """Nothing is copied over memory that a value refers to, in one piece or not: it may be copied later itself."""
        if isinstance(value, np.ndarray):
            start, stop = (edge - self._base for edge in _edges(value))
            if start < self._slot.nbytes and stop > 0:
                self.end = max(self.end, min(stop, self._slot.nbytes))

    def put(self, value: Any) -> Placed | Pickled | Texts:
        # What is more than its bytes (masked arrays, strings, objects) is pickled.
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" and not isinstance(value, np.ma.MaskedArray):
            at = self._offset(value)
            if at is None:
                at, self.needed = aligned(self.end), aligned(self.needed) + value.nbytes
                if at + value.nbytes > self._slot.nbytes:
                    return self._pickled(value)
                _at(self._slot, at, value.shape, value.dtype)[...] = value
                self.end = at + value.nbytes
            return Placed(value.dtype.str, value.shape, at)
        if type(value) is list and value and all(type(each) is str for each in value):
            return self._numbered(value)
        return self._pickled(value)

    def _numbered(self, value: list[str]) -> Texts | Pickled:
        unknown = [each for each in dict.fromkeys(value) if each not in self._texts and each not in self.new]
        known = len(self._texts) + len(self.new)
        if known + len(unknown) > MAX_TEXTS:  # a table of strings that never come again would grow for ever
            return self._pickled(value)
        self.new |= {each: known + number for number, each in enumerate(unknown)}
        return Texts(tuple(self._texts[each] if each in self._texts else self.new[each] for each in value))

    def _pickled(self, value: Any) -> Pickled:
        made = Pickled(pickle.dumps(value, protocol=5))
        self.pickled_nbytes += len(made.data)
        return made

    def _offset(self, array: Array) -> int | None:
        """Where in the slot an array lies, or None if it does not, or not in one piece."""
        at: int = array.__array_interface__["data"][0] - self._base
        inside = at >= 0 and at + array.nbytes <= self._slot.nbytes
        return at if inside and array.flags.c_contiguous and array.nbytes else None


def _rebuild(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    kind = type(tree)
    if kind is dict:
        return {key: _rebuild(each, leaf) for key, each in tree.items()}
    if isinstance(tree, (list, tuple)):
        made = [_rebuild(each, leaf) for each in tree]
        return kind(*made) if hasattr(tree, "_fields") else kind(made)
    return leaf(tree)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _edges(array: Array) -> tuple[int, int]:
    """The first address of an array's memory, and the one behind its last."""
    start = stop = array.__array_interface__["data"][0]
    if array.size:
        for count, stride in zip(array.shape, array.strides):
            if stride < 0:
                start += (count - 1) * stride
            else:
                stop += (count - 1) * stride
        stop += array.itemsize
    return start, stop


def _at(slot: Array, offset: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return slot[offset : offset + _nbytes(shape, dtype)].view(dtype).reshape(shape)


def _nbytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    count = 1
    for each in shape:
        count *= each
    return count * dtype.itemsize
