"""What becomes of the fields of a store in a data set whose frames have features with names: LeRobot and RLDS.

Pure functions over names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vla_store.errors import OptionError, UnknownName, several
from vla_store.reader.values import StoreField
from vla_store.types import FloatName

Array = np.ndarray[Any, Any]

ACTIONS = "actions"
STATE = "state"  # what --rename calls the fields of --state
LIBERO_STATE = {"ee_states": (6,), "gripper_states": (2,)}  # what its LeRobot and RLDS sets have as the state
RENAME = "rename={field: name} (--rename FIELD=NAME)"  # for hints, in Python and on the command line
EXCLUDE = "exclude=[...] (--exclude FIELD)"
FLOAT: FloatName = "float32"
PNG_CHANNELS = (1, 3, 4)  # grey, colour, and colour with opacity


@dataclass(frozen=True)
class Feature:
    """A feature of the rows that are written.

    Attributes
    ----------
    name
        Its name in the format.
    fields
        The fields of the store that it is made of: one, or several that are put side by side.
    widths
        How many numbers it has of each.
    dtype, shape
        Those of one row, as it is written.
    is_picture
        True: it is written as pictures.
    is_observation
        True: it was seen or measured.
    names
        A name for each of its numbers, or none.
    is_state
        True: it is the state, whatever its name.
    """

    name: str
    fields: tuple[str, ...]
    widths: tuple[int, ...]
    dtype: str
    shape: tuple[int, ...]
    is_picture: bool
    is_observation: bool
    names: tuple[str, ...] = ()
    is_state: bool = False

    def rows(self, batch: Mapping[str, Array]) -> Array:
        """Return its rows of a batch of steps, (n, *shape)."""
        count = len(batch[self.fields[0]])
        if len(self.fields) == 1:
            return np.ascontiguousarray(batch[self.fields[0]], self.dtype).reshape(count, *self.shape)
        parts = [batch[name].reshape(count, -1) for name in self.fields]
        return np.concatenate(parts, axis=1, dtype=self.dtype, casting="same_kind")


@dataclass(frozen=True)
class Naming:
    """How a format names features.

    Attributes
    ----------
    action, state
        Names of the action and of the state.
    picture, observation
        What stands before the names of cameras, and of other observations.
    fits
        Tells whether pictures of a dtype and shape are pictures there; others are written as numbers.
    check
        Raises OptionError for a name that cannot be.
    usual
        Names of the format for fields that have others here; not where a field has that name itself.
    """

    action: str
    state: str
    picture: str
    observation: str
    fits: Callable[[str, tuple[int, ...]], bool]
    check: Callable[[str], None]
    usual: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mapped:
    """Features, and a line on each kind of thing that is not as it is in the store."""

    features: tuple[Feature, ...]
    notes: tuple[str, ...]

    @property
    def fields(self) -> list[str]:
        """Every field that is read."""
        return [name for each in self.features for name in each.fields]


def mapped(
    fields: Mapping[str, StoreField],
    naming: Naming,
    *,
    state: str | Sequence[str] | None,
    rename: Mapping[str, str],
    exclude: str | Sequence[str],
) -> Mapped:
    """Return the features that the fields of a store become.

    Parameters
    ----------
    fields
        The store's.
    naming
        The format's names.
    state
        Fields that together are the state; None: LIBERO's where it has them, else none.
    rename
        {field, or "state": name in the format}.
    exclude
        Fields to leave out.

    Returns
    -------
    Mapped

    Raises
    ------
    UnknownName, OptionError
        For a field that is not there, and names that cannot be or clash.
    """
    state, exclude = None if state is None else several(state), several(exclude)
    for name in exclude:
        if name not in fields:
            raise UnknownName.among("field", name, list(fields))
    left_out = [name for name, each in fields.items() if not each.is_fixed and name not in exclude]
    there = {name: each for name, each in fields.items() if each.is_fixed and name not in exclude}
    state_fields = _state_fields(there, left_out, state)
    for name in rename:
        if name not in there and not (name == STATE and state_fields):
            raise UnknownName.among("field", name, [*there, *([STATE] if state_fields else [])])
    rename = {old: new for old, new in naming.usual.items() if old in there and new not in there} | dict(rename)
    made = [
        _feature(each, naming, None if name == STATE and state_fields else rename.get(name))
        for name, each in there.items()
        if name not in state_fields
    ]
    if state_fields:
        made.append(_concatenated([there[name] for name in state_fields], rename.get(STATE, naming.state)))
    made.sort(key=lambda each: (not each.is_picture, not each.is_observation, each.fields != (ACTIONS,)))
    _check_names(made, naming)
    notes = []
    wide = [name for each in made for name in each.fields if fields[name].dtype == "float64"]
    if wide:
        notes.append(f"float64 became float32: {', '.join(wide)}")
    if state_fields:
        name = next(each.name for each in made if each.is_state)
        notes.append(f"{name} is {' + '.join(state_fields)}, side by side")
    if left_out:
        notes.append(f"left out, as their width differs between episodes: {', '.join(left_out)}")
    if exclude:
        notes.append(f"left out, as asked: {', '.join(exclude)}")
    numbers = [name for each in made if not each.is_picture for name in each.fields if fields[name].is_camera]
    if numbers:
        notes.append(f"written as numbers, as no PNG holds such pictures: {', '.join(numbers)}")
    return Mapped(tuple(made), tuple(notes))


def _state_fields(there: Mapping[str, StoreField], left_out: Sequence[str], state: Sequence[str] | None) -> list[str]:
    if state is None:
        has = all(name in there and there[name].shape == shape for name, shape in LIBERO_STATE.items())
        return list(LIBERO_STATE) if has else []
    for name in state:
        if name in left_out:
            raise OptionError(f"{name!r} has a width of its own in each episode, and cannot be part of the state")
        if name not in there:
            raise UnknownName.among("field", name, [each for each in there if each != ACTIONS])
        if there[name].is_camera or name == ACTIONS or there[name].dtype == "bool":
            raise OptionError(f"{name!r} cannot be part of the state", expected="fields of measured numbers")
    if len(set(state)) < len(state):
        raise OptionError("a field is named twice for the state", found=", ".join(state))
    return list(state)


def _shape(field: StoreField) -> tuple[int, ...]:
    return tuple(n for n in field.shape if n is not None)


def _dtype(field: StoreField) -> str:
    return FLOAT if np.dtype(field.dtype).kind == "f" else field.dtype


def _feature(field: StoreField, naming: Naming, given: str | None) -> Feature:
    shape, is_observation = _shape(field), field.role == "observation"
    is_picture = field.is_camera and naming.fits(field.dtype, shape)
    if field.name == ACTIONS:
        name = naming.action
    else:
        name = (naming.picture if is_picture else naming.observation if is_observation else "") + field.name
    if is_picture and len(shape) == 2:
        shape = (*shape, 1)
    written = name if given is None else given
    names = () if is_picture else field.names
    is_state = name == naming.state
    return Feature(
        written,
        (field.name,),
        (int(np.prod(shape)),),
        _dtype(field),
        shape,
        is_picture,
        is_observation,
        names,
        is_state,
    )


def _concatenated(fields: Sequence[StoreField], name: str) -> Feature:
    widths = tuple(int(np.prod(_shape(each))) for each in fields)
    dtype = np.result_type(*(_dtype(each) for each in fields))
    names = [
        name for each, width in zip(fields, widths) for name in each.names or [f"{each.name}.{n}" for n in range(width)]
    ]
    written = FLOAT if dtype.kind == "f" else dtype.name
    made = (sum(widths),)
    return Feature(name, tuple(each.name for each in fields), widths, written, made, False, True, tuple(names), True)


def _check_names(features: Sequence[Feature], naming: Naming) -> None:
    taken: dict[str, Feature] = {}
    for each in features:
        naming.check(each.name)
        if each.name in taken:
            raise OptionError(
                "two features would have one name",
                name=each.name,
                fields=f"{'+'.join(taken[each.name].fields)} and {'+'.join(each.fields)}",
                hint=f"{RENAME} gives one of them another name, {EXCLUDE} leaves it out",
            )
        taken[each.name] = each


def fits_png(dtype: str, shape: tuple[int | None, ...]) -> bool:
    """Tell whether PNG holds pictures of this dtype and shape: 8 or 16 bits, (H, W) or (H, W, C) with C of PNG_CHANNELS."""
    return dtype in ("uint8", "uint16") and (len(shape) == 2 or (len(shape) == 3 and shape[2] in PNG_CHANNELS))
