"""What samples look like, so that it can be said before training whether those of several datasets make one batch; and batches of
several datasets put together.

May import numpy, errors, packing and what the reader says of samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla_store.errors import OptionError
from vla_store.loader.dataset import Empty
from vla_store.loader.packing import PLAIN
from vla_store.reader.batch import ragged_error
from vla_store.reader.samples import Samples

MOST = 10
Schema = dict[str, str]  # what each value of a sample is, by its path


def schema_of(dataset: Any, source: Any) -> Schema:
    """Return the schema of the samples `source[index]`. Plain samples of a store say theirs unread; of others one is made."""
    if type(source) is Samples and type(dataset) is Samples:
        return of_samples(source)
    return of_value(source[0])


def of_samples(samples: Samples) -> Schema:
    """Return the schema of a store's plain samples."""
    found = {key: _array(shape, dtype.name) for key, (shape, dtype) in samples.columns.items()}
    fields = samples.store.fields
    ragged = {each.field: fields[each.field] for each in samples.windows if fields[each.field].is_ragged}
    found |= {name: f"an array of {field.dtype}" for name, field in ragged.items()}
    return found | {"task": "a text"} if samples.has_text else found


def of_value(value: Any, path: str = "") -> Schema:
    """Return the schema of a sample, or of a value in it."""
    if isinstance(value, Mapping):
        inside = {f"{path}.{key}" if path else str(key): each for key, each in value.items()}
    elif isinstance(value, (list, tuple)):
        inside = {f"{path}[{at}]": each for at, each in enumerate(value)}
    else:
        return {path: _text(value)}
    return {key: text for name, each in inside.items() for key, text in of_value(each, name).items()}


def check_alike(schemas: Mapping[str, Schema]) -> None:
    """Raise OptionError where samples of parts, by name, do not fit into one batch: it says which values differ, and how."""
    (first, expected), *others = schemas.items()
    found = []
    for name, schema in others:
        for key in [*expected, *(each for each in schema if each not in expected)]:
            if key not in schema or key not in expected:
                has, lacks = (first, name) if key in expected else (name, first)
                found.append(f"{key!r} is in {has!r}, and not in {lacks!r}")
            elif schema[key] != expected[key] and not _is_ragged_like(schema[key], expected[key]):
                found.append(f"{key!r} is {expected[key]} in {first!r}, and {schema[key]} in {name!r}")
    if found:
        more = [f"... and {len(found) - MOST} more"] if len(found) > MOST else []
        raise OptionError(
            "the samples of a mixture's parts do not fit into one batch",
            parts=", ".join(schemas)[:200],
            differ="\n".join(found[:MOST] + more),
            hint='give them one schema (the same `windows` and dtype="float32", a recipe, or a `transform`), or let each batch be '
            'of one part: batches="by_part"',
        )


class Reused:
    """Memory for arrays of one batch after the other: each is as large as the largest that was asked for in its turn."""

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._used = 0

    def begin(self) -> Reused:
        """Begin a batch: the arrays of the one before are free."""
        self._used = 0
        return self

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised array, as np.empty does."""
        number, self._used = self._used, self._used + 1
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if number == len(self._made):
            self._made.append(np.empty(nbytes, np.uint8))
        elif self._made[number].nbytes < nbytes:
            self._made[number] = np.empty(nbytes + nbytes // 4, np.uint8)
        return np.ndarray(shape, dtype, self._made[number])


def joined(trees: Sequence[Any], at: Sequence[Any], count: int, empty: Empty, key: str = "sample") -> Any:
    """Return one batch of `count` samples from batches of some of them.

    trees: batches of several datasets. at: which of the samples they are. empty: makes the arrays.
    """
    first = trees[0]
    if isinstance(first, dict) and all(isinstance(each, dict) and each.keys() == first.keys() for each in trees):
        return {name: joined([each[name] for each in trees], at, count, empty, name) for name in first}
    if all(isinstance(each, np.ndarray) for each in trees):
        return _joined_arrays(trees, at, count, empty, key)
    if all(isinstance(each, (list, tuple)) for each in trees):
        if all(_is_column(each, len(places)) for each, places in zip(trees, at)):
            column: list[Any] = [None] * count
            for each, places in zip(trees, at):
                for place, value in zip(places.tolist(), each):
                    column[place] = value
            return column
        if len({len(each) for each in trees}) == 1:
            made = [joined(list(each), at, count, empty, key) for each in zip(*trees)]
            kind = type(first)
            return kind(*made) if hasattr(kind, "_fields") else kind(made)
    raise OptionError("batches of a mixture's parts do not fit together", value=key, found=_kinds(trees))


def _joined_arrays(trees: Sequence[Any], at: Sequence[Any], count: int, empty: Empty, key: str) -> Any:
    first = trees[0]
    shapes = {each.shape[1:] for each in trees}
    if len(shapes) > 1 and len({shape[:-1] for shape in shapes}) == 1 and () not in shapes:
        raise ragged_error(key, sorted({shape[-1] for shape in shapes}))
    if len(shapes) > 1 or len({each.dtype for each in trees}) > 1:
        raise OptionError(f"{key!r} has several shapes or dtypes in one batch", found=_kinds(trees))
    made = empty((count, *first.shape[1:]), first.dtype)
    for each, places in zip(trees, at):
        made[places] = each
    return made


def _is_column(values: Any, count: int) -> bool:
    """Whether a list has one value for each sample, and is not a tree of such."""
    if type(values) is not list or len(values) != count:
        return False
    return PLAIN.issuperset(map(type, values)) or not any(
        isinstance(each, (dict, list, tuple, np.ndarray)) for each in values
    )


def _kinds(trees: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(_text(each) for each in trees))


def _text(value: Any) -> str:
    if isinstance(value, (str, bytes)):
        return "a text"
    if isinstance(value, (bool, int, float, complex, np.generic)):
        value = np.asarray(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        name = str(getattr(value.dtype, "name", value.dtype)).removeprefix("torch.")
        return _array(tuple(value.shape), name)
    return f"a {type(value).__name__}"


def _array(shape: tuple[int, ...], dtype: str) -> str:
    return f"{shape} {dtype}" if shape else f"a number, {dtype}"


def _is_ragged_like(one: str, other: str) -> bool:
    """Whether one is a ragged field, whose width only its samples know, and the other an array of its dtype."""
    ragged = [each for each in (one, other) if each.startswith("an array of ")]
    return bool(ragged) and all(each.rsplit(" ", 1)[1] == ragged[0].rsplit(" ", 1)[1] for each in (one, other))
