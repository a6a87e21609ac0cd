"""How a batch lies in a slot: arrays one after another, described by a few numbers; the rest travels pickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ALIGN = 64

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """An array in a slot. of_torch: the worker was given a tensor."""

    key: str
    dtype: str
    shape: Shape
    offset: int


@dataclass(frozen=True)
class Pickled:
    """Any other value, or an array that did not fit."""

    key: str
    data: bytes


@dataclass(frozen=True)
class Texts:
    """A list of strings, as numbers in a table that a worker and its parent share. new: strings not sent before."""

    key: str
    numbers: tuple[int, ...]
    new: tuple[str, ...]


Entry = Placed | Pickled | Texts


@dataclass(frozen=True)
class Packed:
    """entries: in the batch's order. nbytes: of the slot that are used. needed: bytes that would have held every array."""

    entries: tuple[Entry, ...]
    nbytes: int
    needed: int

    @property
    def pickled_nbytes(self) -> int:
        return sum(len(each.data) for each in self.entries if isinstance(each, Pickled))


def aligned(offset: int) -> int:
    """The next offset at which an array may begin."""
    return -(-offset // ALIGN) * ALIGN


def slot_nbytes(columns: Mapping[str, tuple[Shape, Any]], rows: int) -> int:
    """Bytes of a batch of so many rows, of arrays with these shapes and dtypes a row."""
    total = 0
    for shape, dtype in columns.values():
        total = aligned(total) + rows * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
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


def pack(batch: Mapping[str, Any], slot: Array, texts: dict[str, int]) -> Packed:
    """Put a batch into a slot. Arrays that lie in it already stay; others are copied behind them while there is room.

    texts: the worker's table of strings, added to.
    """
    base = slot.__array_interface__["data"][0]
    inside = {key: _offset(value, base, slot.nbytes) for key, value in batch.items() if isinstance(value, np.ndarray)}
    end = max([0, *(at + batch[key].nbytes for key, at in inside.items() if at is not None)])
    needed = end
    entries: list[Entry] = []
    added: dict[str, int] = {}
    for key, value in batch.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            at = inside[key]
            if at is None:
                at, needed = aligned(end), aligned(needed) + value.nbytes
                if at + value.nbytes > slot.nbytes:
                    entries.append(Pickled(key, pickle.dumps(value, protocol=5)))
                    continue
                _at(slot, at, value.shape, value.dtype)[...] = value
                end = at + value.nbytes
            entries.append(Placed(key, value.dtype.str, value.shape, at))
        elif isinstance(value, list) and value and all(type(each) is str for each in value):
            new = [each for each in dict.fromkeys(value) if each not in texts and each not in added]
            for each in new:
                added[each] = len(texts) + len(added)
            numbers = tuple(texts[each] if each in texts else added[each] for each in value)
            entries.append(Texts(key, numbers, tuple(new)))
        else:
            entries.append(Pickled(key, pickle.dumps(value, protocol=5)))
    texts |= added  # only now: what is not sent must not be counted
    return Packed(tuple(entries), end, max(needed, end))


def unpack(packed: Packed, lease: Array, texts: list[str], *, copy: bool) -> dict[str, Any]:
    """The batch in a slot: views of the lease, or copies. texts: the parent's side of the worker's table."""
    batch: dict[str, Any] = {}
    for each in packed.entries:
        if isinstance(each, Placed):
            view = _at(lease, each.offset, each.shape, np.dtype(each.dtype))
            batch[each.key] = view.copy() if copy else view
        elif isinstance(each, Texts):
            batch[each.key] = [texts[number] for number in each.numbers]
        else:
            batch[each.key] = pickle.loads(each.data)
    return batch


def _at(slot: Array, offset: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return slot[offset : offset + nbytes].view(dtype).reshape(shape)


def _offset(array: Array, base: int, nbytes: int) -> int | None:
    """Where in the slot an array lies, or None if it does not, or not in one piece."""
    at: int = array.__array_interface__["data"][0] - base
    return at if array.flags.c_contiguous and at >= 0 and at + array.nbytes <= nbytes and array.nbytes else None
