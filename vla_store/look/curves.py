"""Which numbers of an episode are drawn as curves, in which order, panels and names, wherever they are drawn; what of LIBERO's rules
holds for its actions; and what a sheet or film has of them. Reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.look.saying import ACTIONS, fingers_of, has_pose_actions, is_action, number_names
from vla_store.reader import Store
from vla_store.reader.values import Episode, StoreField
from vla_store.rules import has_gripper_last, noops
from vla_store.text import shown

Array = np.ndarray[Any, Any]
Floats = npt.NDArray[np.float64]

MAX_CURVES = 8  # in one panel: more cannot be told apart
MAX_PANELS = 4  # of actions
MAX_STATE_PANELS = 3
SINGLES = "single numbers"

# What of a robot's state is drawn first: the field's usual names of its whole, then of its joints, hand and pose. What is felt
# or derived comes last.
_FIRST = ("qpos", "joint", "state", "grip", "finger", "pose", "pos")
_LAST = ("vel", "effort", "torque", "force", "acc", "current", "tactile")


@dataclass(frozen=True)
class Span:
    """Numbers [start, stop) of a step of a field, which share a panel; a name for each."""

    title: str
    names: tuple[str, ...]
    start: int
    stop: int


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
    if actions is not None and fingers is not None and has_pose_actions(store, store.fields[ACTIONS]):
        panels = tuple(_liberos(store, actions, rows_of(store, fingers, episode), fingers.name))
    else:
        panels, left_out = _others(store, episode)
    if actions is None:
        nothing = f"the store has no field {ACTIONS!r} of one axis and one width"
        left_out = (("curves", nothing if panels else f"none: {nothing}"), *left_out)
    is_ruled = actions is not None and (fingers is not None or has_gripper_last(actions))
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


def is_curve(field: StoreField) -> bool:
    """Return True if a field has numbers that can be drawn as curves: one a step, or one axis of them."""
    return field.kind == "fixed" and not field.is_camera and len(field.shape) <= 1 and 0 not in field.shape


def in_order(store: Store) -> list[StoreField]:
    """Return the fields of a store that are no cameras as they are drawn: actions, what is observed, the rest."""
    return sorted((each for each in store.fields.values() if not each.is_camera), key=_place)


def drawn_first(store: Store) -> list[StoreField]:
    """Return the fields that are drawn where there is no room for all, in their order: actions, and the numbers of a robot's state."""
    return [
        each
        for each in in_order(store)
        if is_curve(each)
        and (
            each.name == ACTIONS or (each.dtype.startswith("float") and (is_action(each) or each.role == "observation"))
        )
    ]


def spans_of(store: Store, field: StoreField, width: int) -> list[Span]:
    """Return the panels of a field that has `width` numbers a step: those that belong together, else as many each as there can be,
    up to MAX_CURVES."""
    names = curve_names(store, field, width)
    if has_pose_actions(store, field):
        gripper = (f"{names[6]}: -1 open, 1 close",)
        return [
            Span(f"{field.name}: move", names[:3], 0, 3),
            Span(f"{field.name}: turn", names[3:6], 3, 6),
            Span(f"{field.name}: gripper", gripper, 6, 7),
        ]
    each = -(-width // max(1, -(-width // MAX_CURVES)))
    return [
        Span(_title(field, start, stop, width), names[start:stop], start, stop)
        for start in range(0, width, max(1, each))
        for stop in [min(start + each, width)]
    ]


def curve_names(store: Store, field: StoreField, width: int) -> tuple[str, ...]:
    """Return what the numbers of a field are called, each with its place: "x (m) [0]", "[1]"; a single one has none."""
    named = number_names(store, field)
    named += [""] * (width - len(named))
    return tuple(f"{named[n]} [{n}]".lstrip() if field.shape else named[n] for n in range(width))


def _title(field: StoreField, start: int, stop: int, width: int) -> str:
    if width == 1:
        return field.name
    return f"{field.name} {start} to {stop - 1}" if stop - start > 1 else f"{field.name} {start}"


def _place(field: StoreField) -> tuple[bool, bool, bool, bool, bool, int, bool, str]:
    name = field.name.lower()
    is_late = any(part in name for part in _LAST)
    first = next((number for number, part in enumerate(_FIRST) if part in name), len(_FIRST))
    first = -1 if name == "state" else first
    is_seen, is_float = field.role == "observation", field.dtype.startswith("float")
    return field.name != ACTIONS, not is_action(field), not is_seen, not is_float, is_late, first, not field.shape, name


def _others(store: Store, episode: Episode) -> tuple[tuple[Panel, ...], tuple[tuple[str, str], ...]]:
    """Return the panels of a robot that is not LIBERO's, and what is said of its numbers that are not drawn."""
    first = drawn_first(store)
    actions = [field for field in first if is_action(field)]
    state = [field for field in first if not is_action(field)]
    panels: list[Panel] = []
    drawn: list[StoreField] = []
    told: list[tuple[str, str]] = []
    for fields, room, singles in ((actions, MAX_PANELS, f"actions: {SINGLES}"), (state, MAX_STATE_PANELS, SINGLES)):
        more, these, cut = _fitting(store, episode, fields, room, singles)
        panels += more
        drawn += these
        told += [("curves", text) for text in cut]
    others = [shown(field.name) for field in in_order(store) if field not in drawn]
    if others:
        of = f"of {', '.join(shown(each.name) for each in drawn)}; " if drawn else ""
        told.append(("curves", f"{of}not of {', '.join(others)}"))
    return tuple(panels), tuple(told)


def _fitting(
    store: Store, episode: Episode, fields: Sequence[StoreField], room: int, title_of_singles: str
) -> tuple[list[Panel], list[StoreField], list[str]]:
    """Return as many panels of these fields as there is room for, the fields that are drawn, and what is said of those that are cut.

    A field that does not fit is left out whole, but for the first one. Fields of a single number share a panel, after the first.
    """
    panels: list[Panel] = []
    drawn: list[StoreField] = []
    cut: list[str] = []
    singles = [field for field in fields if not field.shape][:MAX_CURVES]
    for field in (each for each in fields if each.shape):
        width = int(field.shape[0] or 0)
        spans = spans_of(store, field, width)
        kept_for_singles = 1 if singles and drawn else 0
        if len(spans) <= room - kept_for_singles or not drawn:
            rows = rows_of(store, field, episode)
            panels += [_panel(span, rows) for span in spans[:room]]
            drawn.append(field)
            if len(spans) > room:
                cut.append(f"the first {spans[room].start} of the {width:,} numbers of {shown(field.name)}")
            room -= min(len(spans), room)
    if singles and room:
        values = np.concatenate([rows_of(store, field, episode) for field in singles], axis=1).astype(np.float64)
        panels.append(Panel(title_of_singles, tuple(shown(field.name) for field in singles), values))
        drawn += singles
    return panels, drawn, cut


def _liberos(store: Store, actions: Array, opening: Array, fingers: str) -> Iterator[Panel]:
    *motion, gripper = spans_of(store, store.fields[ACTIONS], actions.shape[1])
    yield from (_panel(span, actions) for span in motion)
    names = tuple(f"{fingers}[{n}]" for n in range(opening.shape[1]))
    right = Panel("fingers", names[:MAX_CURVES], opening[:, :MAX_CURVES].astype(np.float64))
    yield _panel(gripper, actions, right)


def _panel(span: Span, rows: Array, right: Panel | None = None) -> Panel:
    return Panel(span.title, span.names, rows[:, span.start : span.stop].astype(np.float64), right)
