"""How samples become a batch: one rule, whoever makes it. Samples that do not fit together are an error that says where.

May import numpy, errors, and what the reader says of batches and transforms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vla_store.errors import OptionError
from vla_store.loader.packing import as_numpy
from vla_store.reader.batch import ragged_error
from vla_store.reader.transforms import a_sample

Stack = Callable[[list[Any]], Any]
MOST = 10


def as_arrays(values: list[Any]) -> Any:
    """Stack arrays and tensors of one shape and dtype to one array; to one tensor where NumPy does not know the dtype."""
    made = [as_numpy(each) for each in values]
    if all(isinstance(each, np.ndarray) for each in made):
        return np.stack(made)
    return sys.modules["torch"].stack(made)


def collate(samples: Sequence[Any], stack: Stack = as_arrays) -> Any:
    """Make samples a batch: stack arrays, tensors and numbers, list anything else; through dicts, lists and tuples, as torch's own
    collate goes.

    Parameters
    ----------
    samples
        Trees of one kind; at least one.
    stack
        Makes one of arrays and tensors that fit, and of arrays of numbers.

    Raises
    ------
    OptionError
        Keys, shapes, dtypes or kinds differ, whichever sample is the first.
    """
    for sample in samples:
        if not isinstance(sample, Mapping):
            a_sample(sample, "the dataset")
    return _Collation(samples, stack).of("sample", list(samples))


class _Collation:
    def __init__(self, samples: Sequence[Any], stack: Stack) -> None:
        self._samples = samples
        self._stack = stack

    def of(self, key: Any, values: list[Any]) -> Any:
        kinds = [_kind(each) for each in values]
        distinct = set(kinds)
        if distinct <= {"array", "number"}:
            return self._stacked(
                key, [np.asarray(each) if kind == "number" else each for each, kind in zip(values, kinds)]
            )
        if distinct == {"array", "object"}:  # None beside an array
            raise _uneven(key, {tuple(np.shape(each)) for each in values} | {()})
        if len(distinct) > 1 and not distinct <= {"text", "object"}:
            raise self._mixed(key, "kinds", kinds)
        if kinds[0] == "dict":
            self._check_keys(key, values)
            return {name: self.of(name, [each[name] for each in values]) for name in values[0]}
        if kinds[0] in ("list", "tuple"):
            if len({len(each) for each in values}) > 1:
                raise self._mixed(key, "lengths", [len(each) for each in values])
            made = [self.of(key, list(each)) for each in zip(*values)]
            first = values[0]
            return type(first)(*made) if hasattr(first, "_fields") else made
        return values

    def _stacked(self, key: Any, values: list[Any]) -> Any:
        shapes = {tuple(each.shape) for each in values}
        if len(shapes) > 1:
            raise _uneven(key, shapes)
        dtypes = [_dtype(each) for each in values]
        if len(set(dtypes)) > 1:
            raise self._mixed(key, "dtypes", dtypes)
        return self._stack(values)

    def _check_keys(self, key: Any, values: list[Any]) -> None:
        if all(each.keys() == values[0].keys() for each in values):
            return
        names = dict.fromkeys(name for each in values for name in each)
        found = [
            f"{name!r} is in {self._where([name in each for each in values])}, and not in "
            f"{self._where([name not in each for each in values])}"
            for name in names
            if any(name not in each for each in values)
        ]
        inside = "" if key == "sample" else f", in {key!r}"
        raise OptionError(
            f"samples of one batch have different keys{inside}",
            found="\n".join(found[:MOST]),
            hint="give their datasets the same fields (`windows`), or let a `transform` leave out what only some have",
        )

    def _mixed(self, key: Any, what: str, each: Sequence[Any]) -> OptionError:
        found = [f"{one} in {self._where([other == one for other in each])}" for one in dict.fromkeys(each)]
        hint = 'datasets of several dtypes go together with dtype="float32"' if what == "dtypes" else ""
        return OptionError(f"{key!r} has several {what} in one batch", found="\n".join(found[:MOST]), hint=hint)

    def _where(self, holds: list[bool]) -> str:
        """Return the first sample for which it holds, in words."""
        at = holds.index(True)
        sample = self._samples[at]
        place = [
            f"{name} {sample[name]}" for name in ("episode", "step") if isinstance(sample, Mapping) and name in sample
        ]
        return f"sample {at} of the batch" + (f" ({', '.join(place)})" if place else "")


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "dict"
    if isinstance(value, (str, bytes)):
        return "text"
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return "array"
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return "number"
    if isinstance(value, (list, tuple)):
        return "list" if isinstance(value, list) else "tuple"
    return "object"


def _dtype(value: Any) -> str:
    name = str(getattr(value.dtype, "name", value.dtype)).removeprefix("torch.")
    # Texts are of one dtype, whatever their width.
    return name.rstrip("0123456789") if name.startswith(("str", "bytes", "void")) else name


def _uneven(key: Any, shapes: set[tuple[int, ...]]) -> OptionError:
    if () not in shapes and len({shape[:-1] for shape in shapes}) == 1:
        return ragged_error(key, sorted({shape[-1] for shape in shapes}))
    return OptionError(f"{key!r} has several shapes in one batch", found=", ".join(map(str, sorted(shapes)[:MOST])))
