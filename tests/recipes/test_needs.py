"""A recipe refuses, when it is made, a store whose fields are not what its trainer takes; and says what to name or to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from odd_files import assert_equals_h5py, each_demo, odd_file, with_liberos_hand

from vla_store import open_store
from vla_store.builder import build_store
from vla_store.errors import OptionError, UnknownName
from vla_store.recipes import act, diffusion_policy, libero, openpi, openvla, openvla_oft, rdt
from vla_store.recipes.rdt import MAPPINGS, RdtMapping, Take

Change = Callable[[h5py.Group], None]

RECIPES: dict[str, Callable[..., Any]] = {
    "act": act,
    "diffusion_policy": diffusion_policy,
    "libero": libero,
    "openpi": openpi,
    "openvla": openvla,
    "openvla_oft": openvla_oft,
    "rdt L": lambda store, **options: rdt(store, mapping="rdt_libero_finetune", **options),
    "rdt S1": lambda store, **options: rdt(store, mapping="hdf5_libero_s1", **options),
}
OF_SEVEN = [name for name in RECIPES if name not in ("act", "diffusion_policy")]
pytestmark = pytest.mark.filterwarnings("ignore:this is not the data that")


def put(demo: h5py.Group, path: str, data: np.ndarray) -> None:
    if path in demo:
        del demo[path]
    demo[path] = data


def store_of(folder: Path, *changes: Change) -> Path:
    """A store of the odd file, made LIBERO's, then changed demo by demo; held against h5py."""
    pytest.importorskip("zarr", reason="building needs zarr")

    def change(file: h5py.File) -> None:
        with_liberos_hand(file)
        for demo in each_demo(file):
            for each in changes:
                each(demo)

    path = odd_file(folder, change)
    build_store([path.parent], folder / "x.vla", observation="after")
    assert_equals_h5py(folder / "x.vla", path)
    return folder / "x.vla"


def pictures(make: Callable[[np.ndarray], np.ndarray], path: str = "obs/agentview_rgb") -> Change:
    return lambda demo: put(demo, path, make(demo["obs/agentview_rgb"][()]))


def width(path: str, count: int, value: float = 0.5) -> Change:
    return lambda demo: put(demo, path, np.full((len(demo["actions"]), count), value))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_store_of_what_they_take_is_taken(plain: Path, recipe: str) -> None:
    RECIPES[recipe](plain)[3]


ODD_PICTURES: dict[str, tuple[Change, str, str]] = {
    "floats from 0 to 1": (
        pictures(lambda data: (data / 255).astype(np.float32)),
        "pictures (16, 24, 3) of float32",
        "np.rint(data * 255).astype(np.uint8)",
    ),
    "floats from 0 to 255": (
        pictures(lambda data: data.astype(np.float64)),
        "pictures (16, 24, 3) of float64",
        "if it is from 0 to 1",
    ),
    "a fourth channel": (
        pictures(lambda data: np.concatenate([data, data[..., :1]], axis=-1)),
        "pictures (16, 24, 4) of uint8",
        "data[..., :3]",
    ),
    "grey with a channel": (
        pictures(lambda data: data[..., :1]),
        "pictures (16, 24, 1) of uint8",
        "np.repeat(data, 3, axis=-1)",
    ),
    "grey without": (
        pictures(lambda data: data[..., 0]),
        "pictures (16, 24) of uint8",
        "np.repeat(data[..., None], 3, axis=-1)",
    ),
    "sixteen bits": (
        pictures(lambda data: data.astype(np.uint16) * 257),
        "pictures (16, 24, 3) of uint16",
        "eye_in_hand_rgb",
    ),
    "a mask": (pictures(lambda data: data[..., 0] > 9), "pictures (16, 24) of bool", "eye_in_hand_rgb"),
}


@pytest.mark.parametrize("odd", ODD_PICTURES)
def test_every_recipe_refuses_pictures_that_are_no_colours_of_a_byte(odd: str, tmp_path: Path) -> None:
    change, found, hint = ODD_PICTURES[odd]
    store = store_of(tmp_path, change)
    for name, recipe in RECIPES.items():
        with pytest.raises(OptionError, match="'agentview_rgb' is not what") as caught:
            recipe(store)
        text = str(caught.value)
        assert name.split()[0] in text
        assert "expected  pictures (H, W, 3) of uint8, from 0 to 255" in text
        assert found in text
        assert hint in text
        assert f"with {'camera' if name == 'openvla' else 'cameras'}=, and of this form are eye_in_hand_rgb" in text
        assert len(text.splitlines()) <= 8


def test_what_the_hint_names_is_taken(tmp_path: Path) -> None:
    store = store_of(tmp_path, ODD_PICTURES["a fourth channel"][0])
    assert openvla(store, camera="eye_in_hand_rgb")[0]["image"].dtype == np.uint8
    assert act(store, cameras=["eye_in_hand_rgb"])[0][0].max() > 0.1
    assert libero(store, cameras=("eye_in_hand_rgb",))[0]["obs"]["eye_in_hand_rgb"].max() > 0.1
    chosen = {"cam_high": "eye_in_hand_rgb"}
    assert RECIPES["rdt L"](store, cameras=chosen)[0]["cam_high"].dtype == np.uint8


def test_a_depth_given_as_a_camera_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, pictures(lambda data: data[..., :1].astype(np.uint16), "obs/depth"))
    for recipe, options in (
        (act, {"cameras": ["agentview_rgb", "depth"]}),
        (diffusion_policy, {"cameras": {"d": "depth"}}),
        (libero, {"cameras": ("depth",)}),
        (openpi, {"cameras": ("agentview_rgb", "depth")}),
        (openvla, {"camera": "depth"}),
        (RECIPES["rdt L"], {"cameras": {"cam_high": "depth"}}),
    ):
        with pytest.raises(OptionError, match=r"'depth' is not what .* takes") as caught:
            recipe(store, **options)
        assert "uint16" in str(caught.value)
    with pytest.raises(OptionError, match="'depth' is not what act takes"):
        act(store, qpos=["joint_states", "depth"])
    with pytest.raises(OptionError, match="'agentview_rgb' is not what libero takes"):
        libero(store, low_dim=("agentview_rgb",))


def test_act_refuses_cameras_of_two_sizes_which_it_would_stack(tmp_path: Path) -> None:
    store = store_of(tmp_path, pictures(lambda data: data[:, ::2, ::2], "obs/small_rgb"))
    with pytest.raises(OptionError, match="act stacks its cameras, and these differ in size") as caught:
        act(store, cameras=["agentview_rgb", "small_rgb"])
    assert "8 x 12 x 3" in str(caught.value)
    assert diffusion_policy(store, cameras={"a": "agentview_rgb", "b": "small_rgb"})[0]["obs"]["b"].shape[-2:] == (
        8,
        12,
    )


@pytest.mark.parametrize("count", [6, 8, 14])
def test_actions_of_another_width_are_refused_by_recipes_of_seven(count: int, tmp_path: Path) -> None:
    store = store_of(tmp_path, width("actions", count))
    for name in OF_SEVEN:
        with pytest.raises(OptionError, match="'actions' is not what") as caught:
            RECIPES[name](store)
        assert "(7,): 7 numbers a step" in str(caught.value)
        assert f"numbers ({count},) of float64" in str(caught.value)
        assert "RdtMapping of your own" in str(caught.value)
    assert act(store)[0][2].shape == (100, count)
    assert diffusion_policy(store)[0]["action"].shape == (16, count)


WIDTHS = {
    "obs/joint_states": (14, ["libero", "rdt L", "rdt S1"]),
    "obs/gripper_states": (1, ["diffusion_policy", "libero", "openpi", "openvla_oft", "rdt L", "rdt S1"]),
    "obs/ee_states": (7, ["openpi", "openvla_oft"]),
    "robot_states": (12, ["diffusion_policy"]),
    "obs/ee_pos": (6, ["diffusion_policy", "rdt S1"]),
    "obs/ee_ori": (4, ["rdt S1"]),
}


@pytest.mark.parametrize("path", WIDTHS)
def test_a_field_of_another_width_is_refused_by_recipes_that_assume_its_width(path: str, tmp_path: Path) -> None:
    count, refusing = WIDTHS[path]
    store = store_of(tmp_path, width(path, count, 0.05))
    for name, recipe in RECIPES.items():
        if name in refusing:
            with pytest.raises(OptionError, match=f"'{path.removeprefix('obs/')}' is not what") as caught:
                recipe(store)
            assert f"({count},) of float64" in str(caught.value)
        else:
            recipe(store)[0]


def test_a_missing_field_is_the_recipes_error_and_names_the_option(tmp_path: Path) -> None:
    def without(demo: h5py.Group) -> None:
        del demo["obs/ee_states"], demo["obs/eye_in_hand_rgb"]
        demo["obs/wrist_rgb"] = demo["obs/agentview_rgb"][()]

    store = store_of(tmp_path, without)
    with pytest.raises(UnknownName, match="there is no camera 'eye_in_hand_rgb'") as caught:
        openpi(store)
    text = str(caught.value)
    assert "openpi takes pictures (H, W, 3) of uint8" in text
    assert "cameras=, and of this form are agentview_rgb, wrist_rgb" in text
    with pytest.raises(UnknownName, match="there is no field 'ee_states'") as caught:
        openpi(store, cameras=("agentview_rgb", "wrist_rgb"))
    text = str(caught.value)
    assert "openpi takes (6,): 6 numbers a step" in text
    assert "state=" in text
    assert "joint_states" in text  # what exists
    assert act(store, cameras=["agentview_rgb", "wrist_rgb"])[0][0].shape[0] == 2


def test_a_state_of_ones_own_has_the_numbers_that_the_model_takes(plain: Path) -> None:
    assert openpi(plain, state=("ee_pos", "ee_ori", "gripper_states"))[0]["state"].shape == (8,)
    for recipe in (openpi, openvla_oft):
        with pytest.raises(OptionError, match="takes a state of 8 numbers") as caught:
            recipe(plain, state=("joint_states", "gripper_states"))
        assert "found           9" in str(caught.value)
        with pytest.raises(OptionError, match="'rewards' is not what"):
            recipe(plain, state=("ee_states", "rewards"))


# The gripper


def gripper(values: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(demo: h5py.Group) -> None:
        actions = demo["actions"][()]
        actions[:, 6] = values(actions[:, 6])
        put(demo, "actions", actions)

    return change


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (lambda g: (g + 1) * 127.5, "0 to 255"),
        (lambda g: np.where(g > 0, 1.5, -1), "-1 to 1.5"),
        (lambda g: g * 40, "-40 to 40"),
    ],
    ids=["bytes", "beyond", "millimetres"],
)
def test_a_gripper_outside_of_what_a_recipe_turns_around_is_refused(
    values: Callable[[np.ndarray], np.ndarray], found: str, tmp_path: Path
) -> None:
    store = store_of(tmp_path, gripper(values))
    for name in ("openvla", "openvla_oft", "rdt S1"):
        with pytest.raises(OptionError, match="'actions', component 6, is not what") as caught:
            RECIPES[name](store)
        assert "-1 to 1 (the gripper: -1 opens, 1 closes)" in str(caught.value)
        assert found in str(caught.value)
    for name in ("act", "diffusion_policy", "libero", "openpi", "rdt L"):  # as recorded
        RECIPES[name](store)[0]


def test_fingers_that_are_no_metres_are_refused_by_the_mapping_that_scales_them(tmp_path: Path) -> None:
    store = store_of(tmp_path, width("obs/gripper_states", 2, 0.7))
    with pytest.raises(OptionError, match="'gripper_states', component 0, is not what rdt") as caught:
        RECIPES["rdt L"](store)
    assert "in metres" in str(caught.value)
    RECIPES["rdt S1"](store)[0]


def test_episodes_that_are_not_selected_do_not_count(tmp_path: Path) -> None:
    first = iter([True])

    def spoil(demo: h5py.Group) -> None:
        if next(first, False):
            gripper(lambda g: g * 100)(demo)

    store = store_of(tmp_path, spoil)
    with pytest.raises(OptionError, match="component 6"):
        openvla(store)
    with pytest.raises(OptionError, match="component 6"):
        openvla(store, episodes=[0])
    assert len(openvla(store, episodes=[1, 2])) == 17 + 9 - 2


def test_what_windows_reach_beyond_the_selected_steps_counts(tmp_path: Path) -> None:
    def late(demo: h5py.Group) -> None:
        gripper(lambda g: np.where(np.arange(len(g)) < 8, g, 255))(demo)

    store = store_of(tmp_path, late)
    assert openvla(store, rows=[3, 5])[0]
    with pytest.raises(OptionError, match="component 6") as caught:
        openvla_oft(store, rows=[3, 5])
    assert "-1 to 255" in str(caught.value)


# A mapping of one's own says what it takes


def test_a_mapping_of_ones_own_takes_what_it_says_of_fields_of_any_width(tmp_path: Path) -> None:
    """Two arms in fields of 14: each number is named, so nothing is taken for something else."""
    store = store_of(tmp_path, width("actions", 14), width("obs/joint_states", 14))
    both = RdtMapping(
        "two_arms",
        state=(Take("joint_states", 0, 6, 50), Take("joint_states", 7, 13, 0)),
        action=(Take("actions", 0, 6, 50), Take("actions", 7, 13, 0)),
        moves_by=("joint_states",),
    )
    item = rdt(store, mapping=both)[0]
    assert np.flatnonzero(item["state_indicator"]).tolist() == [*range(6), *range(50, 56)]
    with pytest.raises(
        OptionError, match="'joint_states' is not what rdt, by its mapping 'rdt_libero_finetune', takes"
    ):
        RECIPES["rdt L"](store)
    with pytest.raises(OptionError, match="n at least 16"):
        rdt(store, mapping=RdtMapping("more", both.state, (Take("actions", 0, 16, 0),), ("joint_states",)))


def test_the_mappings_say_what_their_rules_assume() -> None:
    scaled = [
        (name, take.field, take.between is not None)
        for name, mapping in MAPPINGS.items()
        for take in (*mapping.state, *mapping.action)
        if getattr(take.convert, "__name__", "") in ("gripper_to_unit", "fingers_to_unit")
    ]
    assert len(scaled) == 3
    assert all(known for *_, known in scaled)


def test_recipes_of_a_store_at_hand_open_no_other(plain: Path) -> None:
    store = open_store(plain)
    assert openvla(store).store is store
