"""What samples look like, so that it can be said before training whether those of several datasets make one batch; and batches of
several datasets put together.

May import numpy, errors, packing and what the reader says of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError
from vla_store.loader.dataset import Empty
from vla_store.loader.packing import PLAIN
from vla_store.reader.batch import ragged_error
from vla_store.reader.bfloat16 import name_of
from vla_store.reader.samples import Samples

Int64 = npt.NDArray[np.int64]

MOST = 10
Schema = dict[str, str]  # what each value of a sample is, by its path


def schema_of(dataset: Any, source: Any) -> Schema:
    """Return the schema of the samples `source[index]`. Plain samples of a store say theirs unread; of others one is made."""
    if type(source) is Samples and type(dataset) is Samples:
        return of_samples(source)
    return of_value(source[0])


def of_samples(samples: Samples) -> Schema:
    """Return the schema of a store's plain samples."""
    found = {key: _array(shape, name_of(dtype)) for key, (shape, dtype) in samples.columns.items()}
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


def joined(batches: Iterable[tuple[Any, Int64]], count: int, empty: Empty) -> Any:
    """Return one batch of `count` samples from batches of some of them: each with which they are. Each is done with before the next is
    asked for. empty: makes the arrays. Raises OptionError where they do not fit together."""
    made: Any = None
    for tree, at in batches:
        if made is None:
            made = _room_for(tree, len(at), count, empty)
        _put(made, tree, at, count, "sample")
    return made


def _room_for(tree: Any, own: int, count: int, empty: Empty) -> Any:
    """Return a tree for `count` samples like this one, which is of `own` samples."""
    if isinstance(tree, dict):
        return {key: _room_for(each, own, count, empty) for key, each in tree.items()}
    if isinstance(tree, np.ndarray):
        return empty((count, *tree.shape[1:]), tree.dtype)
    if _is_column(tree, own):
        return [None] * count
    if isinstance(tree, (list, tuple)):
        kind, made = type(tree), [_room_for(each, own, count, empty) for each in tree]
        return kind(*made) if hasattr(kind, "_fields") else kind(made)
    return None


def _put(into: Any, tree: Any, at: Int64, count: int, key: str) -> None:
    """Put samples where they belong. Raises OptionError where they are of another schema."""
    if isinstance(into, dict) and isinstance(tree, dict) and into.keys() == tree.keys():
        for name, each in tree.items():
            _put(into[name], each, at, count, name)
    elif isinstance(into, dict) and isinstance(tree, dict):
        keys = sorted(into.keys() ^ tree.keys(), key=str)
        raise OptionError(
            "batches of a mixture's parts do not fit together: what one has another lacks",
            value=key,
            keys=", ".join(map(repr, keys))[:300],
            hint="a dataset's `batch` has the keys of its `__getitem__`, which were looked at when the mixture was made",
        )
    elif isinstance(into, np.ndarray) and isinstance(tree, np.ndarray):
        shapes = into.shape[1:], tree.shape[1:]
        if shapes[0] != shapes[1] and () not in shapes and shapes[0][:-1] == shapes[1][:-1]:
            raise ragged_error(key, sorted(shape[-1] for shape in shapes))
        if shapes[0] != shapes[1] or into.dtype != tree.dtype:
            raise OptionError(f"{key!r} has several shapes or dtypes in one batch", found=_kinds(into, tree))
        into[at] = tree
    elif _is_column(into, count) and _is_column(tree, len(at)):
        for place, value in zip(at.tolist(), tree):
            into[place] = value
    elif isinstance(into, (list, tuple)) and isinstance(tree, (list, tuple)) and len(into) == len(tree):
        for one, each in zip(into, tree):
            _put(one, each, at, count, key)
    else:
        raise OptionError("batches of a mixture's parts do not fit together", value=key, found=_kinds(into, tree))


def _is_column(values: Any, count: int) -> bool:
    """Whether a list has one value for each sample, and is not a tree of such."""
    if type(values) is not list or len(values) != count:
        return False
    return PLAIN.issuperset(map(type, values)) or not any(
        isinstance(each, (dict, list, tuple, np.ndarray)) for each in values
    )


def _kinds(*trees: Any) -> str:
    return ", ".join(dict.fromkeys(_text(each) for each in trees))


def _text(value: Any) -> str:
    if isinstance(value, (str, bytes)):
        return "a text"
    if isinstance(value, (bool, int, float, complex, np.generic)):
        value = np.asarray(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        is_numpy = isinstance(value.dtype, np.dtype)
        name = name_of(value.dtype) if is_numpy else str(value.dtype).removeprefix("torch.")
        return _array(tuple(value.shape), name)
    return f"a {type(value).__name__}"


def _array(shape: tuple[int, ...], dtype: str) -> str:
    return f"{shape} {dtype}" if shape else f"a number, {dtype}"


def _is_ragged_like(one: str, other: str) -> bool:
    """Whether one is a ragged field, whose width only its samples know, and the other an array of its dtype."""
    ragged = [each for each in (one, other) if each.startswith("an array of ")]
    return bool(ragged) and all(each.rsplit(" ", 1)[1] == ragged[0].rsplit(" ", 1)[1] for each in (one, other))
