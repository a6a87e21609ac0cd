"""Many samples over one set of arrays: a list to whoever wants samples, the arrays to whoever wants a batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError
from vla_store.reader.numbers import one_number
from vla_store.text import counted

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Sample = dict[str, Any]

NUMBERS = ("episode", "step")
_ALIGNMENT = 64


class Batch:
    """B samples, as a sequence of dicts; each is made of views of the batch's arrays when it is asked for.

    Parameters
    ----------
    arrays
        The batch itself: {field: (B, ...), "<field>_is_pad": (B, ...), "task": list of str, "episode": (B,), "step":
        (B,)}. A ragged field is a list of B arrays where their widths differ.
    numbers
        Keys of which a sample has a Python int.

    Attributes
    ----------
    arrays
        As it was given.
    """

    def __init__(self, arrays: dict[str, Any], numbers: tuple[str, ...] = NUMBERS) -> None:
        self.arrays = arrays
        self._numbers = numbers
        self._samples: list[Sample] | None = None

    @property
    def is_untouched(self) -> bool:
        """True until somebody saw the samples, and so may have put other values into them."""
        return self._samples is None

    def __len__(self) -> int:
        return len(self.arrays["episode"])

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._all())

    def __getitem__(self, index: Any) -> Any:
        """Return one sample, or a list of them for a slice.

        Parameters
        ----------
        index
            Number of a sample of the batch; negative ones count from the end. Or a slice.

        Returns
        -------
        dict or list of dict

        Raises
        ------
        IndexError
            For a sample past either end.
        TypeError
            For what is neither a whole number nor a slice.
        """
        return self._all()[index if isinstance(index, slice) else one_number("sample", index)]

    def __repr__(self) -> str:
        return f"Batch of {counted(len(self), 'sample')}: {', '.join(self.arrays)}"

    def _all(self) -> list[Sample]:
        # Made once: who changes a sample finds it changed.
        if self._samples is None:
            self._samples = [
                {key: _value(column, at, key in self._numbers) for key, column in self.arrays.items()}
                for at in range(len(self))
            ]
        return self._samples


def same_width(arrays: dict[str, Any]) -> None:
    """Raise OptionError where a ragged field has several widths in one batch."""
    for field, column in arrays.items():
        if isinstance(column, list) and column and field != "task":
            raise ragged_error(field, sorted({each.shape[-1] for each in column}))


def checked_indices(indices: Sequence[int] | Int64, count: int) -> Int64:
    """Return the numbers of samples, of which there are `count`; negative ones count from the end. Raises IndexError, OptionError."""
    given = np.asarray(indices)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise OptionError("indices are a list of whole numbers", found=f"{given.dtype} of shape {given.shape}")
    numbers = given.astype(np.int64, copy=False)
    if np.count_nonzero(numbers.view(np.uint64) >= count):  # as unsigned, negative numbers are too large
        if given.dtype.kind == "i":  # 2^64 - 1 is no -1
            numbers = np.where(numbers < 0, numbers + count, numbers)
        wrong = (numbers < 0) | (numbers >= count)
        if wrong.any():
            raise IndexError(f"sample {given[wrong.argmax()]} of {count}")
    return numbers


def allocated(
    count: int, columns: Mapping[str, tuple[tuple[int, ...], Any]], pictures: Sequence[str]
) -> dict[str, Array]:
    """Return uninitialised arrays for a batch of `count`. columns: shape of a sample and dtype, by name. pictures: which of them are."""
    # The pictures of all cameras are one allocation: the C library keeps such a block for the next batch, while it gives
    # several large ones back to the system, and then a third of a batch's time goes into touching fresh pages.
    arrays = {
        name: np.empty((count, *shape), dtype) for name, (shape, dtype) in columns.items() if name not in pictures
    }
    sizes = [count * math.prod(columns[name][0]) * columns[name][1].itemsize for name in pictures]
    starts = [0, *itertools.accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]
    block = np.empty(starts[-1], np.uint8)
    for name, start, size in zip(pictures, starts, sizes):
        shape, dtype = columns[name]
        arrays[name] = block[start : start + size].view(dtype).reshape(count, *shape)
    return arrays


def check_out(arrays: Mapping[str, Any], columns: Mapping[str, tuple[tuple[int, ...], Any]], count: int) -> None:
    """Raise OptionError where one of a caller's arrays cannot be filled: (count, *shape) of the dtype of its column, C-contiguous."""
    for name, array in arrays.items():
        shape, dtype = columns[name]
        if not isinstance(array, np.ndarray) or array.shape != (count, *shape) or array.dtype != dtype:
            found = f"{getattr(array, 'shape', type(array).__name__)} {getattr(array, 'dtype', '')}"
        elif not array.flags.c_contiguous or not array.flags.writeable:
            found = "one that is not C-contiguous" if array.flags.writeable else "one that is read-only"
        else:
            continue
        expected = f"{(count, *shape)} {dtype}, C-contiguous, writable"
        raise OptionError("out does not fit", array=name, expected=expected, found=found)


def ragged_error(field: str, widths: list[int]) -> OptionError:
    return OptionError(
        f"{field!r} has several widths in one batch",
        found=", ".join(map(str, widths[:10])),
        hint="take episodes of one width into a batch (tasks=...), or leave the field out of `windows`",
    )


def _value(column: Any, at: int, is_number: bool) -> Any:
    if is_number:
        return int(column[at])
    # With the ellipsis NumPy gives an array, also where it has no axes.
    return column[at] if isinstance(column, list) else column[at, ...]
