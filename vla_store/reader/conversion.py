"""Floating fields in another dtype: which gets which, and what a conversion may not lose without a word.

What is rounded is nobody's surprise; what becomes infinite, or stands still, is. An overflow is refused: by the store's statistics
before anything is read, and in fields that have none (of several widths, and cameras) at the first number that does not fit.
Differences between neighbouring steps that become nothing are warned of, by a bounded look at the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from vla_store.errors import OptionError, UnknownName
from vla_store.reader.bfloat16 import BFLOAT16, NAME, cast, digits_of, largest_of, name_of, widened
from vla_store.reader.parts import Parts
from vla_store.reader.values import StoreField
from vla_store.types import FLOATS, FloatName

if TYPE_CHECKING:
    from vla_store.format.statistics import FieldStatistics

Array = np.ndarray[Any, Any]
DTypes = Mapping[str, np.dtype[Any]]


class TensorDtype(Protocol):
    """One of torch's dtypes, seen from here."""

    is_floating_point: bool


AnyDtype = FloatName | Literal["bfloat16"] | np.dtype[Any] | type[np.floating[Any]] | type[float] | TensorDtype | None
DtypeChoice = AnyDtype | Mapping[Any, AnyDtype]
"""What an option `dtype` takes: one for all floating fields, or by field, where None is all others."""

LOOK_ROWS = 256  # one run of so many rows, of which
LOOK_RUNS = 16  # so many are looked at where that costs no request, else one
LEAST_MOTION = 1e-4  # of metres, radians or seconds: less, of a robot or of what lies there, is noise
LOST_SHARE = 0.25


def parse_dtypes(given: Any, fields: Mapping[str, StoreField]) -> dict[str, np.dtype[Any]]:
    """Return what floating fields are converted to, by name; not those that stay as they are stored.

    given: one dtype for all, or by field, where None is all others; None: as stored. fields: those of the windows.
    Raises OptionError, UnknownName.
    """
    by_field = given if isinstance(given, Mapping) else {None: given}
    floating = {name for name, each in fields.items() if np.dtype(each.dtype).kind == "f"}
    for name in by_field:
        if name is None:
            continue
        if name not in fields:
            raise UnknownName.among("field of the windows, for dtype", name, list(fields))
        if name not in floating:
            raise OptionError("dtype converts floating fields only", field=name, found=fields[name].dtype)
    asked = {key: _floating(value) for key, value in by_field.items()}
    wanted = {name: asked.get(name, asked.get(None)) for name in fields if name in floating}
    return {name: each for name, each in wanted.items() if each is not None and each != np.dtype(fields[name].dtype)}


def narrowed(dtypes: DTypes, fields: Mapping[str, StoreField]) -> dict[str, np.dtype[Any]]:
    """Return the fields that are converted to a dtype which holds less."""
    return {name: each for name, each in dtypes.items() if digits_of(each) < digits_of(np.dtype(fields[name].dtype))}


def dtypes_text(given: Any) -> str:
    """For people: what `parse_dtypes` was given."""
    by_field = given if isinstance(given, Mapping) else {None: given}
    names = {key: _floating(value) for key, value in by_field.items()}
    others = names.pop(None, None)
    lines = ["as stored" if others is None else f"floating fields as {name_of(others)}"]
    return "; ".join(
        [*lines, *(f"{name} as {'stored' if each is None else name_of(each)}" for name, each in names.items())]
    )


def holds(dtype: np.dtype[Any], found: FieldStatistics) -> bool:
    """Return whether every finite number of a field is finite in this dtype too."""
    return bool(np.isfinite(_ends(found, dtype)).all())


def check_range(field: StoreField, dtype: np.dtype[Any], found: FieldStatistics) -> None:
    """Raise OptionError where a finite number of a field would become infinite."""
    if not holds(dtype, found):
        ends = _ends(found, np.dtype(np.float64))
        raise _overflow(field.name, dtype, field.dtype, float(ends[np.abs(ends).argmax()]))


def _ends(found: FieldStatistics, dtype: np.dtype[Any]) -> Array:
    """Return the least and greatest finite numbers, in this dtype; none of components that have none."""
    ends = np.concatenate([found.min.reshape(-1), found.max.reshape(-1)])
    with np.errstate(over="ignore"):
        return _as_float64(cast(ends[np.isfinite(ends)], dtype))


@contextlib.contextmanager
def refusing_overflow(name: str, dtype: np.dtype[Any], stored: str) -> Iterator[None]:
    """Raise OptionError where a number of this field, which is converted inside, becomes infinite."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError:
        raise _overflow(name, dtype, stored, None) from None


def standing_still(parts: Parts, name: str, dtype: np.dtype[Any]) -> str | None:
    """Return what to warn of where this conversion would make a field stand still that moved: a component more than a quarter of whose
    differences between neighbouring steps, of those that are no noise, become 0."""
    moved: Any = 0
    gone: Any = 0
    for rows in _look(parts, name):
        with np.errstate(invalid="ignore", over="ignore"):
            differs = np.abs(np.diff(rows.astype(np.float64), axis=0)) >= LEAST_MOTION
            same = np.diff(_as_float64(cast(rows, dtype)), axis=0) == 0
        moved, gone = moved + differs.sum(axis=0), gone + (differs & same).sum(axis=0)
    bad = np.flatnonzero(gone > LOST_SHARE * moved)
    if not len(bad):
        return None
    worst = bad[(gone[bad] / moved[bad]).argmax()]
    stored = parts.documents[0].fields[name].dtype
    component = f", component {worst}" if len(moved) > 1 else ""
    return (
        f"in {name_of(dtype)}, {name!r}{component} loses {gone[worst] / moved[worst]:.0%} of the differences between neighbouring steps: "
        f"they are smaller than its digits. dtype={{{name!r}: {stored!r}, None: {name_of(dtype)!r}}} keeps them"
    )


def _look(parts: Parts, name: str) -> Iterator[Array]:
    """Yield some stretches of neighbouring rows of a field, (n, components) each; the first rows of the first episode where their
    width is an episode's own."""
    number = len(parts.documents) // 2
    part = parts[number]
    field = part.document.fields[name]
    if field.is_ragged:
        starts, widths = part.ragged_spans(field, np.zeros(1, np.int64))
        length, width = int(part.entries(0, 1)["length"][0]), int(widths[0])
        count = min(length, LOOK_ROWS)
        yield part.column(field).span(int(starts[0]), int(starts[0]) + count * width).reshape(count, width)
        return
    costs_nothing = part.column(field).whole is not None
    runs = min(LOOK_RUNS if costs_nothing else 1, -(-part.rows // LOOK_ROWS))
    for run in range(runs):
        start = (part.rows - min(LOOK_ROWS, part.rows)) * (2 * run + 1) // (2 * runs)
        rows = part.column(field).span(start, min(start + LOOK_ROWS, part.rows))
        yield rows.reshape(len(rows), -1)


def _overflow(name: str, dtype: np.dtype[Any], stored: str, value: float | None) -> OptionError:
    return OptionError(
        f"{name!r} has numbers that {name_of(dtype)} cannot hold",
        found=None if value is None else f"{value:g}",
        largest=f"{largest_of(dtype):g}",
        hint=f"dtype={{{name!r}: {stored!r}, None: {name_of(dtype)!r}}} leaves it as it is stored",
    )


def _as_float64(values: Array) -> Array:
    return (widened(values) if values.dtype == BFLOAT16 else values).astype(np.float64)


def _floating(dtype: Any) -> np.dtype[Any] | None:
    if dtype is None or (isinstance(dtype, np.dtype) and dtype == BFLOAT16):
        return dtype
    if str(dtype).removeprefix("torch.") == NAME:
        raise OptionError(
            "NumPy has no bfloat16",
            hint="vla_store.torch.StepDataset(..., dtype=torch.bfloat16) gives tensors of it",
        )
    try:
        made = np.dtype(str(dtype).removeprefix("torch.") if hasattr(dtype, "is_floating_point") else dtype)
    except TypeError:
        made = np.dtype(object)
    if made.name not in FLOATS:
        raise OptionError(
            f"dtype is one of {', '.join(FLOATS)} (StepDataset: {NAME} too), or None; or by field, as in {{'states': 'float64', None: 'float32'}}",
            found=repr(dtype)[:100],
        )
    return made
