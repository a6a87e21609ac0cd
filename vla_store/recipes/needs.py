"""Declarations of the fields that a recipe takes, and their checks when its dataset is made: a trainer would train on other
fields without a word. It looks at the store's metadata and statistics, and reads no sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import DataError, OptionError, UnknownName, several
from vla_store.format.nonfinite import counts_text
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.kept import view_of
from vla_store.reader.store import Store
from vla_store.reader.values import StoreField

# Numbers a step of fields of LIBERO and robomimic, which recipes take by default.
WIDTHS: Mapping[str, int] = {
    "actions": 7,
    "ee_ori": 3,
    "ee_pos": 3,
    "ee_states": 6,
    "gripper_states": 2,
    "joint_states": 7,
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot_states": 9,
}
MAPPING = "mapping"
STATE_WIDTH = 8
TOLERANCE = 1e-3  # of a range's width: rounding is no other convention
MAX_NAMED = 8

Counted = Callable[[str], FieldStatistics]


@dataclass(frozen=True)
class Range:
    """Between which values a trainer's rule takes number `component` of a field to lie. meaning: of the two ends, for people."""

    component: int
    low: float
    high: float
    meaning: str

    def holds(self, by: FieldStatistics | None) -> bool:
        """Return whether all numbers are known to lie within."""
        if by is None:
            return False
        low, high = float(by.min[self.component]), float(by.max[self.component])
        margin = (self.high - self.low) * TOLERANCE
        # NaN where no value is finite: then nothing is outside.
        return not (low < self.low - margin or high > self.high + margin)


@dataclass(frozen=True)
class Need:
    """One field that a recipe takes.

    option: of the recipe, that names another one; "" where none does. is_picture: (H, W, 3) of uint8. width: how many numbers a
    step; None: any one axis. at_least: ... or more. ragged: a width of its own in each episode will do.
    """

    field: str
    option: str = ""
    is_picture: bool = False
    width: int | None = None
    at_least: int = 1
    ragged: bool = False
    ranges: tuple[Range, ...] = ()

    @property
    def expected(self) -> str:
        if self.is_picture:
            return "pictures (H, W, 3) of uint8, from 0 to 255"
        if self.width is not None:
            return f"({self.width},): {self.width} numbers a step"
        return f"(n,): one axis a step{f', n at least {self.at_least}' if self.at_least > 1 else ''}"

    def fits(self, field: StoreField) -> bool:
        """Return whether this field is such a one, by shape and dtype."""
        if self.is_picture:
            return field.is_camera and field.dtype == "uint8" and len(field.shape) == 3 and field.shape[2] == 3
        if field.is_camera or field.is_ragged:
            return self.ragged and field.is_ragged
        wide = (field.shape[0] or 0) if len(field.shape) == 1 else 0
        return wide == self.width if self.width is not None else wide >= self.at_least


def listed(option: str, given: Any, least: int = 1, most: int | None = None) -> tuple[str, ...]:
    """Return an option that lists fields. Raises OptionError where it does not, names one twice, or too few or too many."""
    names: tuple[Any, ...] = tuple(given) if isinstance(given, (list, tuple)) else (None,)
    are_names = all(isinstance(each, str) for each in names)
    if not are_names or len(set(names)) < len(names) or not least <= len(names) <= (most or len(names)):
        what = "the name of a field" if most == 1 else f"a list of {most or ''} fields, each once".replace("  ", " ")
        raise OptionError(f"{option} is {what}", found=repr(given)[:100])
    return names


def mapped(option: str, given: Any, form: str) -> dict[str, Any]:
    """Return an option that is a dict. Raises OptionError where it is none."""
    if not isinstance(given, Mapping):
        raise OptionError(f"{option} is a dict: {form}", found=repr(given)[:100])
    return dict(given)


def pictures_of(fields: Iterable[str], option: str = "cameras") -> tuple[Need, ...]:
    """Return the needs of cameras, as every trainer here takes them: three colours of a byte."""
    return tuple(Need(name, option, is_picture=True) for name in fields)


def numbers_of(fields: Iterable[str], option: str = "", **more: Any) -> tuple[Need, ...]:
    """Return the needs of fields of numbers: of one in WIDTHS so many; of another, any. more: as `Need` has it."""
    return tuple(Need(name, option, width=WIDTHS.get(name), **more) for name in fields)


@dataclass(frozen=True)
class Needs:
    """All that a recipe takes, and what to call the recipe.

    stacks: its cameras must have one size. Fields that are named with `state=` have STATE_WIDTH numbers together.
    """

    recipe: str
    fields: tuple[Need, ...]
    stacks: bool = False

    def check(self, store: Store) -> None:
        """Raise UnknownName for a field that the store has not, OptionError for one that is not as the recipe takes it."""
        for need in self.fields:
            field = store.fields.get(need.field)
            if field is not None and need.fits(field):
                continue
            fitting = [name for name, each in store.fields.items() if need.fits(each)]
            if field is None:
                raise UnknownName.among(
                    "camera" if need.is_picture else "field",
                    need.field,
                    list(store.cameras if need.is_picture else store.fields),
                    store=store.url,
                    expected=f"{self.recipe} takes {need.expected}",
                    hint=_other(need, fitting),
                )
            raise OptionError(
                f"{need.field!r} is not what {self.recipe} takes",
                store=store.url,
                expected=need.expected,
                found=_described(field),
                hint="; ".join(filter(None, [_other(need, fitting), _conversion(need, field)])),
            )
        shapes = {each.field: store.fields[each.field].shape for each in self.fields if each.is_picture}
        if self.stacks and len(set(shapes.values())) > 1:
            raise OptionError(
                f"{self.recipe} stacks its cameras, and these differ in size",
                **{name: " x ".join(map(str, shape)) for name, shape in shapes.items()},
                hint="name cameras of one size with cameras=",
            )
        widths = {each.field: store.fields[each.field].shape[0] or 0 for each in self.fields if each.option == "state"}
        if widths and sum(widths.values()) != STATE_WIDTH:
            raise OptionError(
                f"{self.recipe} takes a state of {STATE_WIDTH} numbers",
                **{name: f"{width} numbers" for name, width in widths.items()},
                found=sum(widths.values()),
                hint="name other fields with state=; LIBERO's are ee_states, gripper_states",
            )

    def check_ranges(self, store: Store, counted: Counted) -> None:
        """Raise OptionError where a number lies outside of what the recipe's rule assumes.

        counted: statistics of the rows that are used; asked only where those of the whole store do not settle it.
        """
        for need in self.fields:
            known: FieldStatistics | None = None
            if need.ranges:
                with contextlib.suppress(DataError):  # no item needs them
                    known = store.statistics.all.get(need.field)
            if all(each.holds(known) for each in need.ranges):
                continue
            by = counted(need.field)
            for each in need.ranges:
                if not each.holds(by):
                    raise OptionError(
                        f"{need.field!r}, component {each.component}, is not what {self.recipe} takes",
                        expected=f"{each.low:g} to {each.high:g} ({each.meaning})",
                        found=f"{by.min[each.component]:g} to {by.max[each.component]:g}",
                        hint="write the files anew with it in this range, or leave those episodes out",
                    )


def nonfinite_notes(store: Store, fields: Iterable[str], view: Any, counted: Counted) -> Iterator[str]:
    """Yield a line on each field whose numbers, of which items are made, are not all finite.

    counted: as for `Needs.check_ranges`. Of fields without statistics (cameras, and those of several widths) the store's counts
    are told, whatever is selected.
    """
    known = store.statistics.all
    is_left_out = any(view_of(store, each).rule == "finite" for each in several(view))
    for name in fields:
        listed, by = store.nonfinite.get(name), known.get(name)
        counts = (0, 0) if listed is None or is_left_out else (listed.nan, listed.infinite)
        if by is not None and (listed or by.nan.any() or not np.isfinite([by.min, by.max]).all()):
            by = counted(name)
            counts = int(by.nan.sum()), int(by.infinite.sum())
        if any(counts):
            yield (
                f"{name!r} is not all finite numbers ({counts_text(*counts)}), and items made of these are not either; "
                "view='finite' leaves them out, after `vla-store views add STORE finite`"
            )


def _described(field: StoreField) -> str:
    if field.is_ragged:
        return "a width of its own in each episode"
    shape = f"({', '.join(map(str, field.shape))}{',' if len(field.shape) == 1 else ''})"
    return f"{'pictures' if field.is_camera else 'numbers'} {shape} of {field.dtype}"


def _other(need: Need, fitting: list[str]) -> str:
    """Say how another field is named."""
    if not need.option:  # of actions
        if need.width is None:
            return f"recipes take the field {need.field!r}, by this name"
        return "act and diffusion_policy take any number of them, and so does rdt with an RdtMapping of your own"
    if need.option == MAPPING:
        return "an RdtMapping of your own says which numbers of which field are taken: mapping="
    if not fitting:
        return f"another is named with {need.option}=, but the store has none that fits"
    named = ", ".join(fitting[:MAX_NAMED]) + (", ..." if len(fitting) > MAX_NAMED else "")
    return f"another is named with {need.option}=, and of this form are {named}"


def _conversion(need: Need, field: StoreField) -> str:
    """Say how files could be brought into the form of a picture; "" for numbers."""
    if not need.is_picture or field.is_ragged or not 2 <= len(field.shape) <= 3:
        return ""
    steps = []
    if len(field.shape) == 3 and field.shape[0] in (1, 3, 4) and not field.is_camera:
        steps.append("np.moveaxis(data, 1, -1)")
    elif len(field.shape) == 2 or field.shape[2] == 1:
        steps.append(f"np.repeat(data{'[..., None]' if len(field.shape) == 2 else ''}, 3, axis=-1)")
    elif field.shape[2] == 4:
        steps.append("data[..., :3]")
    if np.dtype(field.dtype).kind == "f":
        steps.append("np.rint(data * 255).astype(np.uint8) if it is from 0 to 1")
    return f"or write the files anew with {', then '.join(steps)}" if steps else ""
