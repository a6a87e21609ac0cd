"""Mappings of a store's numbers to RDT's vectors of 128: declarations, and pure functions of arrays.

RDT-L and RDT-S are the two ports to LIBERO that `rdt` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.reader.store import Store
from vla_store.recipes.conversions import MINUS_ONE_TO_ONE, six_of_axis_angle, six_of_euler_xyz
from vla_store.recipes.dataset import Array, Empty, Int64
from vla_store.recipes.needs import MAPPING, Need, Range, numbers_of

STATE_SIZE = 128

# Where quantities of a single arm, or of the right one, stand in RDT's vector, and by how much further on those of the left one
# [RDT configs/state_vec.py].
LEFT = 50
JOINTS, GRIPPER, EEF_POSITION, EEF_ROTATION, EEF_VELOCITY, EEF_ANGULAR_VELOCITY = 0, 10, 30, 33, 39, 42

ROTATIONS: Mapping[str, Callable[[Array], Array]] = {"axis_angle": six_of_axis_angle, "euler_xyz": six_of_euler_xyz}
NORMS = ("state_rms", "action_std")


def as_it_is(values: Array) -> Array:
    return values


def fingers_to_unit(values: Array) -> Array:
    """Take finger positions to 0 ... 1, by RDT-L's least and greatest value [RDT-L data/hdf5_libero_dataset.py]."""
    return (values - -0.04245) / (0.05185 - -0.04245)


def divided(values: Array, by: float) -> Array:
    return values.astype(np.float64) / by


def gripper_to_unit(values: Array) -> Array:
    """Take -1 ... 1 to 0 ... 1 (1 means close)."""
    return (values + 1.0) / 2.0


@dataclass(frozen=True)
class Take:
    """Numbers [start, stop) of a field, after `convert`, stand in RDT's vector from `slot` on.

    convert: (..., stop - start) -> (..., n); picklable, as a function of a module is. is_rotation: the 3 numbers that convert
    gives are a rotation, of which 6 are made. between: what `convert` takes them to lie between, and what the two ends mean;
    numbers that do not are refused. previous: of a state in `rdt_pretrain`, the numbers of the step before, and zeros at an
    episode's first: so RDT makes a state of actions, of a base's velocities and where there is no state
    [RDT data/preprocess.py:167-185, 228-262].
    """

    field: str
    start: int
    stop: int
    slot: int
    convert: Callable[[Array], Array] = as_it_is
    is_rotation: bool = False
    between: tuple[float, float, str] | None = None
    previous: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            raise OptionError("what is taken is of a field, by its name", found=repr(self.field)[:100])
        of = f"of what is taken of {self.field!r}"
        start = whole_number(
            f"start {of}", self.start, 0
        )  # a negative one would be counted from the end by NumPy alone
        whole_number(f"stop {of}", self.stop, start + 1)
        whole_number(f"slot {of}", self.slot, 0, STATE_SIZE - 1)
        if not callable(self.convert):
            raise OptionError(f"convert {of} is a function of arrays", found=repr(self.convert)[:100])


@dataclass(frozen=True)
class RdtMapping:
    """A choice of the store's numbers that make RDT's vectors of 128.

    state, action: what is taken; `rdt_pretrain` needs no action where states stand for it. moves_by: the fields by which an episode begins to move; must_move: whether one that never
    does is an error, or is used from its first step on. norm: "state_rms", of the episode's states, or "action_std", of all
    actions of the selection. about: for people.
    """

    name: str
    state: tuple[Take, ...]
    action: tuple[Take, ...] = ()
    moves_by: tuple[str, ...] = ()
    must_move: bool = True
    norm: str = "state_rms"
    about: str = "given by the caller"

    @property
    def has_rotation(self) -> bool:
        return any(each.is_rotation for each in (*self.state, *self.action))


def _of_poses(name: str, about: str, scale: float, norm: str = "state_rms") -> RdtMapping:
    """A mapping of RDT-S. scale: of an action's position; S1 takes one unit for 0.012 metres, and the controller's own is 0.05."""
    return RdtMapping(
        name,
        state=(
            Take("joint_states", 0, 7, JOINTS),
            Take("gripper_states", 0, 1, GRIPPER),
            Take("ee_pos", 0, 3, EEF_POSITION),
            Take("ee_ori", 0, 3, EEF_ROTATION, is_rotation=True),
        ),
        action=(
            Take("actions", 0, 3, EEF_POSITION, partial(np.multiply, scale)),
            # 0.5 radians are the controller's own scale.
            Take("actions", 3, 6, EEF_ROTATION, partial(np.multiply, 0.5), is_rotation=True),
            Take("actions", 6, 7, GRIPPER, gripper_to_unit, between=MINUS_ONE_TO_ONE),
        ),
        moves_by=("joint_states",),
        must_move=False,
        norm=norm,
        about=about,
    )


def _of_two_arms(field: str, left: float, right: float) -> tuple[Take, ...]:
    """The numbers of a robot of ALOHA's kind: of each arm six joints, and a gripper of which the greatest value is given."""
    return (
        Take(field, 0, 6, LEFT),
        Take(field, 6, 7, LEFT + GRIPPER, partial(divided, by=left)),
        Take(field, 7, 13, JOINTS),
        Take(field, 13, 14, GRIPPER, partial(divided, by=right)),
    )


MAPPINGS: Mapping[str, RdtMapping] = {
    each.name: each
    for each in (
        RdtMapping(
            "rdt_libero_finetune",
            state=(
                Take("joint_states", 0, 7, JOINTS),
                # The two of a gripper that opens to 8 cm; those of regenerated files pass RDT-L's least and greatest by a little.
                Take(
                    "gripper_states",
                    *(0, 2, GRIPPER, fingers_to_unit),
                    between=(-0.1, 0.1, "where the two fingers are, in metres"),
                ),
            ),
            action=(
                Take("actions", 0, 3, EEF_VELOCITY),
                Take("actions", 3, 6, EEF_ANGULAR_VELOCITY),
                Take("actions", 6, 7, GRIPPER),
            ),
            moves_by=("joint_states", "gripper_states"),
            about="RDT-L: joints and fingers; actions raw, in the slots of velocities",
        ),
        _of_poses(
            "hdf5_libero_s1",
            "RDT-S, version S1: joints, finger and pose; actions in the slots of a pose, position x 0.012",
            0.012,
        ),
        _of_poses(
            "hdf5_libero_s2",
            "RDT-S, versions S2 and S3: position x 1.2, and state_norm is the actions' standard deviation",
            1.2,
            norm="action_std",
        ),
        # [RDT data/hdf5_vla_dataset.py:140-175, data/preprocess_scripts/agilex.py:106-140]
        RdtMapping(
            "agilex",
            state=_of_two_arms("qpos", 4.7908, 4.7888),
            action=_of_two_arms("actions", 11.8997, 13.9231),
            moves_by=("qpos",),
            about="RDT's own robot, in ALOHA's layout: joints and grippers of two arms, grippers 0 to 1",
        ),
    )
}


def checked_mapping(
    given: Any, recipe: str = "rdt", *, needs_action: bool = True, takes_previous: bool = False
) -> RdtMapping:
    """Return the mapping that `mapping=` of a recipe names. Raises OptionError, UnknownName."""
    if given == "":
        raise OptionError(
            "mapping must be named: of LIBERO into RDT's vector two are in use, and neither is RDT's own",
            **{name: each.about for name, each in MAPPINGS.items()},
            hint=f'{recipe}(store, mapping="rdt_libero_finetune"), or an RdtMapping of your own',
        )
    if not isinstance(given, RdtMapping):
        if given not in list(MAPPINGS):
            raise UnknownName.among("mapping", given, list(MAPPINGS))
        return MAPPINGS[given]
    if given.norm not in NORMS:
        raise UnknownName.among("norm", given.norm, list(NORMS))
    if not given.state or (needs_action and not given.action):
        both = " and for the action" if needs_action else ""
        raise OptionError(f"a mapping takes something for the state{both}", mapping=given.name)
    twice = {each.field for each in given.state} & {each.field for each in given.action if needs_action}
    if twice:
        raise OptionError("a field is of the state or of the action, not both", field=sorted(twice)[0])
    before = {each.field for each in given.state if each.previous}
    if any(each.previous for each in given.action) or (before and not takes_previous):
        raise OptionError("the numbers of the step before are for a state of rdt_pretrain alone", mapping=given.name)
    if before & {each.field for each in given.state if not each.previous}:
        raise OptionError("a field is of a step or of the step before, not both", field=sorted(before)[0])
    return given


def checked_rotation(given: str | None, mapping: RdtMapping) -> Callable[[Array], Array]:
    """Return what makes 6 numbers of a rotation. Raises UnknownName, OptionError."""
    if given is not None and given not in ROTATIONS:
        raise UnknownName.among("rotation", given, list(ROTATIONS))
    if given is not None and not mapping.has_rotation:
        raise OptionError("this mapping turns no rotation into 6 numbers", mapping=mapping.name, rotation=given)
    return ROTATIONS[given or "axis_angle"]


def needs_of(mapping: RdtMapping, takes: Sequence[Take], more: Sequence[str] = ()) -> tuple[Need, ...]:
    """Return what a recipe takes by a mapping, and the names of more fields: the mappings of LIBERO are of its fields, as wide as
    these are."""
    is_liberos = mapping in MAPPINGS.values() and mapping.name != "agilex"
    found = []
    for field in dict.fromkeys((*more, *(each.field for each in takes))):
        own = [each for each in takes if each.field == field]
        ranges = tuple(
            Range(number, *each.between) for each in own if each.between for number in range(each.start, each.stop)
        )
        at_least = max((each.stop for each in own), default=1)
        (need,) = numbers_of([field], MAPPING, at_least=at_least, ranges=ranges)
        found.append(need if is_liberos else replace(need, width=None))
    return tuple(found)


def vectors(
    takes: Sequence[Take],
    values: Mapping[str, Array],
    six: Callable[[Array], Array],
    empty: Empty = np.empty,
    dtype: Any = np.float64,
) -> Array:
    """Pack fields (..., n) into vectors (..., 128): what is taken, zeros elsewhere."""
    made = empty((*values[takes[0].field].shape[:-1], STATE_SIZE), dtype)
    made[...] = 0
    for take in takes:
        taken = take.convert(values[take.field][..., take.start : take.stop])
        taken = six(taken) if take.is_rotation else taken
        made[..., take.slot : take.slot + taken.shape[-1]] = taken
    return made


def slots_of(takes: Sequence[Take], store: Store) -> Int64:
    """Return the slots that are filled, ascending. Raises OptionError for some outside the vector, or filled twice."""
    filled = np.zeros(STATE_SIZE, bool)
    for take in takes:
        width = np.shape(take.convert(np.zeros(take.stop - take.start, store.fields[take.field].dtype)))[-1]
        width = 6 if take.is_rotation else width
        if not 0 <= take.slot < take.slot + width <= STATE_SIZE or filled[take.slot : take.slot + width].any():
            raise OptionError(
                "a mapping fills slots outside the vector, or twice, or none",
                field=take.field,
                slots=f"{take.slot} + {width}",
            )
        filled[take.slot : take.slot + width] = True
    return np.flatnonzero(filled)
