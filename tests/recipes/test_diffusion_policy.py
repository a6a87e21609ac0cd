"""diffusion_policy gives what Diffusion Policy's image dataset would, by another implementation over h5py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes.conftest import Both

from vla_store import OptionError, UnknownName, open_store
from vla_store.recipes import diffusion_policy

oracle = pytest.importorskip("recipes.oracle")


def test_diffusion_policy_gives_what_its_dataset_gives(any_both: Both) -> None:
    dataset = diffusion_policy(any_both.store, episodes=any_both.episodes)
    count = oracle.assert_items(dataset, oracle.diffusion(any_both.demos))
    assert count == sum(len([s for s in demo.times if s <= len(demo) - 8]) for demo in any_both.demos)


def test_an_episode_seen_from_its_first_step_has_seven_anchors_less(regenerated: Both) -> None:
    assert len(diffusion_policy(regenerated.store)) == sum(len(demo) - 7 for demo in regenerated.demos)


@pytest.mark.parametrize(("horizon", "n_obs", "n_action"), [(10, 2, 8), (4, 3, 2), (1, 1, 1), (16, 1, 16), (8, 8, 1)])
def test_other_windows_have_the_anchors_and_the_padding_that_theirs_have(
    tiny: Both, horizon: int, n_obs: int, n_action: int
) -> None:
    dataset = diffusion_policy(tiny.store, horizon=horizon, n_obs_steps=n_obs, n_action_steps=n_action)
    assert oracle.assert_items(dataset, oracle.diffusion(tiny.demos, horizon, n_obs, n_action)) > 0


def test_as_stored_windows_repeat_both_ends(tiny: Both) -> None:
    together = [oracle.Demo(each.arrays, each.text, each.suite, False) for each in tiny.demos]
    dataset = diffusion_policy(tiny.store, alignment="as_stored")
    assert oracle.assert_items(dataset, oracle.diffusion(together)) == sum(max(0, len(each) - 7) for each in together)


def form_of(key: str, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """min to max becomes -1 to 1, but quaternions and actions stay."""
    if not key.endswith("pos"):
        return values
    low, high = rows.min(axis=0), rows.max(axis=0)
    return ((values - low) / (high - low) * 2 - 1).astype(np.float32)


def test_the_normalised_form_is_that_of_their_linear_normalizer(any_both: Both) -> None:
    rows = {key: oracle.all_states(any_both.demos, (name,))[:, part] for key, (name, part) in LOW_DIM.items()}

    def expected() -> Iterator[Any]:
        for item in oracle.diffusion(any_both.demos):
            obs = {
                key: each * 2 - 1 if key not in rows else form_of(key, each, rows[key])
                for key, each in item["obs"].items()
            }
            yield {"obs": obs, "action": item["action"]}

    dataset = diffusion_policy(any_both.store, episodes=any_both.episodes, normalize=True)
    oracle.assert_items(dataset, expected(), within=1e-6)


LOW_DIM = oracle.DIFFUSION_LOW_DIM


def test_the_parameters_of_the_normalizer_do_the_same_to_an_item(published: Both) -> None:
    plain, normalized = (
        diffusion_policy(published.store, episodes=published.episodes, normalize=each) for each in (False, True)
    )
    parameters = plain.normalizer()
    assert sorted(parameters) == sorted([*LOW_DIM, *oracle.DIFFUSION_CAMERAS, "action"])
    item, wanted = plain[50], normalized[50]
    for key, each in parameters.items():
        raw, form = (item["action"], wanted["action"]) if key == "action" else (item["obs"][key], wanted["obs"][key])
        assert {each["scale"].dtype, each["offset"].dtype} == {np.dtype(np.float32)}
        assert sorted(each["input_stats_dict"]) == ["max", "mean", "min", "std"]
        np.testing.assert_allclose(raw * each["scale"] + each["offset"], form, rtol=0, atol=2e-6, err_msg=key)


def test_the_held_out_episodes_are_those_that_theirs_holds_out(tiny: Both) -> None:
    # Theirs: the first so many that default_rng(42).choice draws of all, without repeating.
    drawn = np.random.default_rng(42).choice(10, size=2, replace=False).tolist()
    train = diffusion_policy(tiny.store, val_ratio=0.2)
    held_out = diffusion_policy(tiny.store, val_ratio=0.2, validation=True)
    assert sorted(held_out.held_out.tolist()) == sorted(drawn)
    oracle.assert_items(held_out, oracle.diffusion([tiny.demos[number] for number in sorted(drawn)]))
    others = [demo for number, demo in enumerate(tiny.demos) if number not in drawn]
    oracle.assert_items(train, oracle.diffusion(others))
    # The normaliser is of both, as theirs is of the whole replay buffer.
    assert train.statistics()["action"].count.tolist() == [sum(map(len, tiny.demos))] * 7
    assert "validation side of val_ratio 0.2, seed 42" in repr(held_out)


def test_a_small_ratio_still_holds_one_episode_out(published: Both) -> None:
    held_out = diffusion_policy(published.store, episodes=published.episodes, val_ratio=0.02, validation=True)
    assert len(held_out.held_out) == 1
    assert {held_out.place(number)["episode"] for number in range(len(held_out))} == set(held_out.held_out.tolist())


def test_a_number_that_never_changes_is_centred_with_a_warning(published: Both) -> None:
    start = 0
    with pytest.warns(UserWarning, match="'robot0_gripper_qpos', component 0, 1: it never changes") as caught:
        dataset = diffusion_policy(
            published.store,
            rows=[start],
            alignment="as_stored",
            normalize=True,
            low_dim={"robot0_gripper_qpos": "gripper_states"},
        )
    assert caught[0].filename == __file__
    assert (dataset[0]["obs"]["robot0_gripper_qpos"] == 0).all()


def test_a_store_of_a_robomimic_file_needs_no_names(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")
    from own_sources import Own

    from vla_store.builder import FieldSpec, build_store

    widths = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
    fields = {name: FieldSpec("float64", (width,), "observation") for name, width in widths.items()}
    fields |= {name: FieldSpec("uint8", (8, 12, 3), "observation") for name in oracle.DIFFUSION_CAMERAS}
    build_store([Own(fields=fields | {"actions": FieldSpec("float64", (7,), "step")})], tmp_path / "own.vla")
    dataset = diffusion_policy(tmp_path / "own.vla")  # a source that is upright, and observes before the action
    assert len(dataset) == 20 - 7  # of the episodes of 20 and of 7 steps
    store, item = open_store(tmp_path / "own.vla"), dataset[4]
    assert list(item["obs"]) == [*oracle.DIFFUSION_CAMERAS, *widths]
    for name in widths:
        assert np.array_equal(item["obs"][name], store.read(name, [3, 4]).astype(np.float32))
    for name in oracle.DIFFUSION_CAMERAS:
        frames = store.read(name, [3, 4]).astype(np.float32) / np.float32(255)
        assert np.array_equal(item["obs"][name], frames.transpose(0, 3, 1, 2))
    assert np.array_equal(item["action"], store.read("actions", range(3, 19)).astype(np.float32))


def test_cameras_and_numbers_of_ones_own_choice(tiny: Both) -> None:
    dataset = diffusion_policy(
        tiny.store, cameras={"wrist": "eye_in_hand_rgb"}, low_dim={"arm_qpos": "joint_states", "finger_qpos": ("gripper_states", 0, 1)}
    )  # fmt: skip
    item = dataset[3]
    assert {key: value.shape for key, value in item["obs"].items()} == {
        "wrist": (2, 3, 16, 24),
        "arm_qpos": (2, 7),
        "finger_qpos": (2, 1),
    }


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"low_dim": {"joints": "joint_states"}}, OptionError, "by the end of its name"),
        ({"low_dim": {"robot0_qpos": "joints"}}, UnknownName, "joint_states"),
        ({"cameras": {"agentview_image": "agentview"}}, UnknownName, "agentview_rgb"),
        ({"low_dim": {"a_pos": "actions"}}, OptionError, "actions are no observation"),
        ({"horizon": 0}, OptionError, "at least 1"),
        ({"n_obs_steps": 17}, OptionError, "a window holds"),
        ({"val_ratio": 1.0}, OptionError, "val_ratio"),
        ({"validation": True}, OptionError, "val_ratio"),
        ({"horizons": 4}, UnknownName, "alignment"),
        ({"cameras": ["agentview_rgb"]}, OptionError, "cameras is a dict"),
        ({"low_dim": ["ee_pos"]}, OptionError, "low_dim is a dict"),
        ({"low_dim": {"a_pos": ("robot_states", 5)}}, OptionError, "or \\(field, start, stop\\)"),
        ({"low_dim": {"a_pos": ("robot_states", 5, 2)}}, OptionError, "or \\(field, start, stop\\)"),
        ({"cameras": {"a_pos": "agentview_rgb"}, "low_dim": {"a_pos": "ee_pos"}}, OptionError, "have one name"),
        ({"low_dim": {"action": "ee_pos"}}, OptionError, "have one name"),
        ({"val_ratio": "much"}, OptionError, "val_ratio"),
        ({"seed": -1}, OptionError, "seed is a whole number"),
    ],
)
def test_a_wrong_option_is_refused_with_what_there_is(
    tiny: Both, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        diffusion_policy(tiny.store, **options)
