"""The steps of an episode at which its gripper changes: where the pictures of a sheet stand that is asked for events. Reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import OptionError
from vla_store.look.curves import actions_of, is_curve, rows_of
from vla_store.look.saying import ACTIONS, fingers_of
from vla_store.look.steps import spread_steps
from vla_store.reader import Store
from vla_store.reader.values import Episode, StoreField
from vla_store.rules import POSE_ACTION_WIDTH, crossings, has_gripper_last
from vla_store.text import counted, shown

Array = np.ndarray[Any, Any]

HANDS = ("gripper", "finger")


@dataclass(frozen=True)
class Events:
    """Steps to show, ascending. note: what was looked at, and how many changes are not among the steps."""

    steps: tuple[int, ...]
    note: str


def events_of(store: Store, episode: Episode, at_most: int) -> Events:
    """Find the first step, the last, and those at which the gripper changes: a number of it crosses the middle of its range.

    The gripper is, whichever is there first: numbers of an action that are called one; the seventh number of an action like
    LIBERO's; fields that are called one, or fingers; numbers of observations that are. Where there are more than `at_most`
    steps, those of changes are evenly spread over the changes. Raises OptionError where no gripper is found.
    """
    changes, looked_at = changes_of(store, episode)
    steps = chosen(changes, episode.length, at_most)
    note = f"where {looked_at} crosses the middle of its range: {counted(len(changes), 'change')}"
    missing = len(set(changes) - set(steps))
    return Events(steps, note + (f", {missing:,} of them without a picture" if missing else ""))


def chosen(changes: Sequence[int], length: int, at_most: int) -> tuple[int, ...]:
    """Return the first step, the last, and changes between them, evenly spread over the changes where there are too many."""
    ends = {0, length - 1}
    between = [step for step in changes if step not in ends]
    kept = [between[place] for place in spread_steps(len(between), at_most - len(ends))] if between else []
    return tuple(sorted({*ends, *kept}))


def changes_of(store: Store, episode: Episode) -> tuple[list[int], str]:
    """Return the steps at which the gripper changes, ascending, and what was looked at. Raises OptionError where there is no gripper."""
    for values, looked_at in _grippers(store, episode):
        found = np.zeros(episode.length, bool)
        for numbers in values.T:
            found |= crossings(numbers.astype(np.float64), np.zeros(1, np.int64))
        return np.flatnonzero(found).tolist(), looked_at
    raise OptionError(
        "no gripper is known in this store, so there are no events to show",
        expected="a number of an action, or of an observation, or a field, whose name has gripper or finger in it; "
        "or actions of seven numbers whose last is -1, 0 or 1",
        found=f"fields {', '.join(shown(each.name) for each in store.fields.values() if is_curve(each))}"[:300]
        or "no fields of numbers",
        hint="choose a number of steps instead, as in --steps 12",
    )


def _grippers(store: Store, episode: Episode) -> Iterator[tuple[Array, str]]:
    """Yield (T, n) numbers of the gripper and what they are called, the surest ones first."""
    actions = actions_of(store, episode)
    if actions is not None:
        field = store.fields[ACTIONS]
        places = _named(field)
        if places:
            yield actions[:, places], _called(field, places)
        if actions.shape[1] == POSE_ACTION_WIDTH and (fingers_of(store) is not None or has_gripper_last(actions)):
            yield actions[:, -1:], f"{ACTIONS}[{POSE_ACTION_WIDTH - 1}]"
    curves = [each for each in store.fields.values() if is_curve(each) and each.role == "observation"]
    hands = [each for each in curves if _is_hand(each.name)]
    if hands:
        yield (
            np.concatenate([rows_of(store, each, episode).astype(np.float64) for each in hands], axis=1),
            ", ".join(shown(each.name) for each in hands),
        )
    for each in curves:
        places = _named(each)
        if places:
            yield rows_of(store, each, episode)[:, places], _called(each, places)


def _is_hand(name: str) -> bool:
    return any(hand in name.lower() for hand in HANDS)


def _named(field: StoreField) -> list[int]:
    return [place for place, name in enumerate(field.names) if _is_hand(name)]


def _called(field: StoreField, places: Sequence[int]) -> str:
    return f"{shown(field.name)} {', '.join(shown(field.names[place]) for place in places)}"
