"""Which numbers of an episode are drawn as curves, and in which panels; and what of LIBERO's rules holds for its actions. Reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.look.facts import ACTION_WIDTH
from vla_store.look.saying import ACTIONS, fingers_of, number_names
from vla_store.reader import Store
from vla_store.reader.values import Episode, StoreField
from vla_store.rules import noops
from vla_store.text import shown

Array = np.ndarray[Any, Any]
Floats = npt.NDArray[np.float64]

MAX_CURVES = 8  # in one panel: more cannot be told apart
MAX_PANELS = 4  # of actions
MAX_STATE_PANELS = 3
SINGLES = "single numbers"

OPEN_OR_CLOSE = (-1.0, 0.0, 1.0)

# What of a robot's state is drawn first: the field's usual names of its whole, then of its joints, hand and pose. What is felt
# or derived comes last.
_FIRST = ("qpos", "joint", "state", "grip", "finger", "pose", "pos")
_LAST = ("vel", "effort", "torque", "force", "acc", "current", "tactile")


@dataclass(frozen=True)
class Panel:
    """Curves over the steps of an episode: names and (T, n) values. right: others, on a second scale at the right."""

    title: str
    names: tuple[str, ...]
    values: Floats
    right: Panel | None = None


@dataclass(frozen=True)
class Curves:
    """Curves of an episode. actions: (T, n), None where the store has none. idle: mask of the no-ops, (T,), None where the rule
    does not apply. left_out: (name, text) about what is not drawn."""

    panels: tuple[Panel, ...]
    actions: Array | None
    idle: npt.NDArray[np.bool_] | None
    left_out: tuple[tuple[str, str], ...]


def curves_of(store: Store, episode: Episode) -> Curves:
    """Read the curves of an episode. Raises what reading raises."""
    actions, fingers = actions_of(store, episode), fingers_of(store)
    left_out: tuple[tuple[str, str], ...] = ()
    if actions is not None and actions.shape[1] == ACTION_WIDTH and fingers is not None:
        panels = tuple(_liberos(actions, rows_of(store, fingers, episode), fingers.name))
    else:
        panels, left_out = _states(store, episode)
        if actions is not None:
            panels = (*_grouped(store, store.fields[ACTIONS], actions, MAX_PANELS), *panels)
    if actions is None:
        nothing = f"the store has no field {ACTIONS!r} of one axis and one width"
        left_out = (("curves", nothing if panels else f"none: {nothing}"), *left_out)
    elif actions.shape[1] > MAX_CURVES * MAX_PANELS:
        left_out = (("curves", _first_of(MAX_PANELS, actions.shape[1], "an action")), *left_out)
    is_ruled = actions is not None and has_noop_rule(actions, fingers is not None)
    return Curves(panels, actions, noops(actions) if is_ruled and actions is not None else None, left_out)


def actions_of(store: Store, episode: Episode) -> Array | None:
    """Read the actions of an episode, (T, n); None where the store has no such field."""
    field = store.fields.get(ACTIONS)
    if field is None or field.kind != "fixed" or len(field.shape) != 1 or field.role != "step":
        return None
    return rows_of(store, field, episode)


def rows_of(store: Store, field: StoreField, episode: Episode) -> Array:
    """Read a field of at most one axis over an episode, (T, n)."""
    values = store.read(field.name, range(episode.start, episode.start + episode.length))
    return values.reshape(episode.length, -1)


def has_noop_rule(actions: Array, has_fingers: bool) -> bool:
    """Return True where OpenVLA's rule about no-ops applies: seven numbers, six of motion and one that opens or closes a gripper."""
    if actions.shape[1] != ACTION_WIDTH:
        return False
    return has_fingers or bool(np.isin(actions[:, -1], OPEN_OR_CLOSE).all())


def is_curve(field: StoreField) -> bool:
    """Return True if a field has numbers that can be drawn as curves: one a step, or one axis of them."""
    return field.kind == "fixed" and not field.is_camera and len(field.shape) <= 1 and 0 not in field.shape


def state_fields(store: Store) -> Iterator[StoreField]:
    """Yield the fields of numbers of a robot's state, those that are drawn first before others."""
    found = [each for each in store.fields.values() if is_curve(each) and each.role == "observation"]
    yield from sorted((each for each in found if each.dtype.startswith("float")), key=_place)


def _place(field: StoreField) -> tuple[int, int, bool, str]:
    name = field.name.lower()
    is_late = any(part in name for part in _LAST)
    first = next((number for number, part in enumerate(_FIRST) if part in name), len(_FIRST))
    return is_late, -1 if name == "state" else first, not field.shape, name


def _states(store: Store, episode: Episode) -> tuple[tuple[Panel, ...], tuple[tuple[str, str], ...]]:
    """Return the panels of a robot's state, and what is said of numbers that are not drawn.

    A field that does not fit is left out whole, but for the first one. Fields of a single number share a panel, after the first.
    """
    panels: list[Panel] = []
    drawn: list[StoreField] = []
    told: list[tuple[str, str]] = []
    fields = list(state_fields(store))
    singles = [field for field in fields if not field.shape][:MAX_CURVES]
    room = MAX_STATE_PANELS
    for field in (each for each in fields if each.shape):
        width = int(field.shape[0] or 0)
        count = -(-width // MAX_CURVES)
        kept_for_singles = 1 if singles and drawn else 0
        if count <= room - kept_for_singles or not drawn:
            panels += _grouped(store, field, rows_of(store, field, episode), room)
            drawn.append(field)
            if count > room:
                told.append(("curves", _first_of(room, width, shown(field.name))))
            room -= min(count, room)
    if singles and room:
        values = np.concatenate([rows_of(store, field, episode) for field in singles], axis=1).astype(np.float64)
        panels.append(Panel(SINGLES, tuple(shown(field.name) for field in singles), values))
        drawn += singles
    others = [shown(field.name) for field in fields if field not in drawn]
    if others:
        told.append(
            ("curves", f"of the state {', '.join(shown(each.name) for each in drawn)}; not {', '.join(others)}")
        )
    return tuple(panels), tuple(told)


def _first_of(panels: int, width: int, what: str) -> str:
    return f"the first {panels * -(-width // -(-width // MAX_CURVES))} of the {width:,} numbers of {what}"


def _liberos(actions: Array, opening: Array, fingers: str) -> Iterator[Panel]:
    values = actions.astype(np.float64)
    names = tuple(f"{fingers}[{n}]" for n in range(opening.shape[1]))
    yield Panel(f"{ACTIONS}: move", ("x [0]", "y [1]", "z [2]"), values[:, :3])
    yield Panel(f"{ACTIONS}: turn", ("x [3]", "y [4]", "z [5]"), values[:, 3:6])
    right = Panel("fingers", names[:MAX_CURVES], opening[:, :MAX_CURVES].astype(np.float64))
    yield Panel("gripper", (f"{ACTIONS}[6]: -1 open, 1 close",), values[:, 6:], right)


def _grouped(store: Store, field: StoreField, rows: Array, at_most: int) -> Iterator[Panel]:
    """Yield the numbers of a field in panels of as many each as there can be, up to MAX_CURVES."""
    width = rows.shape[1]
    count = -(-width // MAX_CURVES)
    each = -(-width // count)
    names = curve_names(store, field, width)
    for start in list(range(0, width, each))[:at_most]:
        stop = min(start + each, width)
        title = field.name if width == 1 else f"{field.name} {start} to {stop - 1}"
        yield Panel(title, names[start:stop], rows[:, start:stop].astype(np.float64))


def curve_names(store: Store, field: StoreField, width: int) -> tuple[str, ...]:
    """Return what the numbers of a field are called, each with its place: "x (m) [0]", "[1]"."""
    named = number_names(store, field)
    named += [""] * (width - len(named))
    return tuple(f"{named[n]} [{n}]".lstrip() for n in range(width))
