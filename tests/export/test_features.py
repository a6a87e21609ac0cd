"""Which features fields become, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from vla_store import OptionError, UnknownName
from vla_store.export.rlds import NAMING as RLDS
from vla_store.export.rlds import check_nesting
from vla_store.features.lerobot import NAMING as LEROBOT
from vla_store.features.mapping import Mapped, fits_png, mapped
from vla_store.reader.values import StoreField

for module in ("PIL", "av", "pyarrow"):
    pytest.importorskip(module, reason=f"what leaves is read back with {module}")

LIBERO = {
    "actions": StoreField("actions", "fixed", "float64", (7,), "step", False),
    "agentview_rgb": StoreField("agentview_rgb", "fixed", "uint8", (8, 8, 3), "observation", True),
    "depth": StoreField("depth", "fixed", "float32", (8, 8, 1), "observation", True),
    "ee_states": StoreField("ee_states", "fixed", "float64", (6,), "observation", False),
    "gripper_states": StoreField("gripper_states", "fixed", "float64", (2,), "observation", False),
    "rewards": StoreField("rewards", "fixed", "uint8", (), "step", False),
    "states": StoreField("states", "ragged-episode", "float64", (None,), "step", False),
}


def made(naming: Any = LEROBOT, fields: Any = LIBERO, **given: Any) -> Mapped:
    return mapped(fields, naming, **({"state": None, "rename": {}, "exclude": ()} | given))


def names(mapped: Mapped) -> dict[tuple[str, ...], str]:
    return {each.fields: each.name for each in mapped.features}


def test_fields_have_lerobots_names() -> None:
    assert names(made()) == {
        ("agentview_rgb",): "observation.images.agentview_rgb",
        ("depth",): "observation.depth",
        ("ee_states", "gripper_states"): "observation.state",
        ("actions",): "action",
        ("rewards",): "rewards",
    }
    assert {each.dtype for each in made().features} == {"uint8", "float32"}


def test_fields_have_the_names_of_rlds() -> None:
    assert set(names(made(RLDS)).values()) == {
        "observation/agentview_rgb",
        "observation/depth",
        "observation/state",
        "action",
        "reward",
    }
    assert names(made(RLDS, rename={"rewards": "told"}))["rewards",] == "told"
    both = LIBERO | {"reward": StoreField("reward", "fixed", "float32", (), "step", False)}
    assert {"reward", "rewards"} <= set(names(made(RLDS, fields=both)).values())


def test_what_is_left_out_or_narrowed_is_said() -> None:
    told = "\n".join(made(exclude=("rewards",)).notes)
    for part in (
        "float64 became float32: ",
        "states",
        "rewards",
        "depth",
        "observation.state is ee_states + gripper_states",
    ):
        assert part in told


def test_the_state_is_what_was_asked_for() -> None:
    assert names(made(state=["gripper_states"]))["gripper_states",] == "observation.state"
    assert made(state="gripper_states") == made(state=["gripper_states"])
    assert "observation.state" not in names(made(state=[])).values()


def test_names_can_be_given() -> None:
    found = names(made(rename={"agentview_rgb": "image", "state": "state", "actions": "actions"}))
    assert {"image", "state", "actions"} <= set(found.values())


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"rename": {"nope": "x"}}, UnknownName, "nope"),
        ({"rename": {"states": "x"}}, UnknownName, "states"),
        ({"exclude": ("nope",)}, UnknownName, "nope"),
        ({"state": ["nope"]}, UnknownName, "nope"),
        ({"state": ["states"]}, OptionError, "width"),
        ({"state": ["agentview_rgb"]}, OptionError, "cannot be part of the state"),
        ({"state": ["actions"]}, OptionError, "cannot be part of the state"),
        ({"state": ["ee_states", "ee_states"]}, OptionError, "twice"),
        ({"rename": {"rewards": "action"}}, OptionError, "two features would have one name"),
        ({"rename": {"rewards": "a/b"}}, OptionError, "not a name of a feature"),
        ({"rename": {"rewards": "task_index"}}, OptionError, "LeRobot has 'task_index' itself"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        made(**given)


def test_a_field_called_state_is_the_state_where_no_other_is_made() -> None:
    field = StoreField("state", "fixed", "float32", (8,), "observation", False)
    alone = {"actions": LIBERO["actions"], "state": field}
    assert [each.name for each in made(fields=alone).features if each.is_state] == ["observation.state"]
    with pytest.raises(OptionError, match="two features would have one name"):
        made(fields=LIBERO | {"state": field})
    both = names(made(fields=LIBERO | {"state": field}, rename={"state": "pose"}))
    assert (both["ee_states", "gripper_states"], both["state",]) == ("pose", "observation.state")


@pytest.mark.parametrize("name", ["is_first", "language_instruction", "a b", "/a", "a//b", ""])
def test_names_that_rlds_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(OptionError):
        made(RLDS, rename={"rewards": name})


def test_a_name_of_rlds_is_no_feature_and_folder_at_once() -> None:
    with pytest.raises(OptionError, match="has features below it"):
        check_nesting(["observation", "observation/image"])


def test_a_field_with_a_name_of_lerobots_own_is_refused_until_it_has_another() -> None:
    fields = LIBERO | {"timestamp": StoreField("timestamp", "fixed", "float64", (), "step", False)}
    with pytest.raises(OptionError, match="--rename"):
        made(fields=fields)
    assert made(fields=fields, rename={"timestamp": "recorded_at"})


@pytest.mark.parametrize(
    ("dtype", "shape", "fits"),
    [
        ("uint8", (8, 8), True),
        ("uint8", (8, 8, 2), False),
        ("uint16", (8, 8, 3), True),
        ("float32", (8, 8, 1), False),
        ("uint8", (3, 8, 8, 3), False),
    ],
)
def test_what_png_holds(dtype: str, shape: tuple[int, ...], fits: bool) -> None:
    assert fits_png(dtype, shape) == fits
