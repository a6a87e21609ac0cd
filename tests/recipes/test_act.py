"""act gives what ACT's dataset would of every step, by another implementation over h5py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from recipes.conftest import Both

from vla_store import OptionError, UnknownName
from vla_store.recipes import act

oracle = pytest.importorskip("recipes.oracle")

QPOS = ("joint_states", "gripper_states")


@pytest.mark.parametrize("pad", ["edge", "zero"])
def test_act_gives_what_its_dataset_gives_of_every_step(any_both: Both, pad: str) -> None:
    dataset = act(any_both.store, pad=pad, episodes=any_both.episodes)
    count = oracle.assert_items(dataset, oracle.act(any_both.demos, zeros=pad == "zero"))
    assert count == sum(len(demo.times) for demo in any_both.demos)


def test_one_camera_is_a_stack_of_one_and_their_order_is_kept(tiny: Both) -> None:
    one = act(tiny.store, cameras=["eye_in_hand_rgb"])[5][0]
    assert one.shape == (1, 3, 16, 24)
    both = act(tiny.store, cameras=["eye_in_hand_rgb", "agentview_rgb"])[5][0]
    other = act(tiny.store)[5][0]
    assert np.array_equal(both, other[::-1])
    assert np.array_equal(both[:1], one)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.filterwarnings("ignore:'.*standard deviation is below")
def test_the_normalised_form_is_by_mean_and_clipped_deviation_zeros_too(any_both: Both, zeros: bool) -> None:
    actions, states = oracle.all_actions(any_both.demos), oracle.all_states(any_both.demos, QPOS)

    def expected() -> Iterator[Any]:
        for image, qpos, action, is_pad in oracle.act(any_both.demos, zeros=zeros):
            made = oracle.standardized(qpos, states), oracle.standardized(action, actions)
            yield image, made[0].astype(np.float32), made[1].astype(np.float32), is_pad

    dataset = act(any_both.store, pad="zero" if zeros else "edge", episodes=any_both.episodes, normalize=True)
    oracle.assert_items(dataset, expected(), within=1e-6)


def test_a_small_deviation_is_clipped_at_a_hundredth_with_a_warning(regenerated: Both) -> None:
    with pytest.warns(UserWarning, match="its standard deviation is below 0.01") as caught:
        dataset = act(regenerated.store, normalize=True)
    assert {each.filename for each in caught} == {__file__}
    assert [str(each.message).split(":")[0] for each in caught] == [
        "'qpos', component 7, 8",
        "'action', component 3, 4, 5",
    ]
    stats = dataset.norm_stats()
    assert sorted(stats) == ["action_mean", "action_std", "example_qpos", "qpos_mean", "qpos_std"]
    last = regenerated.demos[-1]
    assert np.array_equal(stats["example_qpos"], oracle.all_states([last], QPOS).astype(np.float32))
    assert stats["action_std"][3:6].tolist() == [np.float32(0.01)] * 3
    actions = oracle.all_actions(regenerated.demos)
    np.testing.assert_allclose(stats["action_std"][:3], actions.std(axis=0, ddof=1)[:3], rtol=1e-6)
    np.testing.assert_allclose(stats["action_mean"], actions.mean(axis=0), rtol=0, atol=1e-6)


def test_the_stats_for_a_checkpoint_are_those_that_items_are_normalised_by(published: Both) -> None:
    train = act(published.store, episodes=published.episodes[:3])
    held_out = act(published.store, episodes=published.episodes[3:], normalize=train.statistics())
    found, expected = held_out.norm_stats(), train.norm_stats()
    for key in ("action_mean", "action_std", "qpos_mean", "qpos_std"):
        assert np.array_equal(found[key], expected[key])


def test_a_large_deviation_is_kept(tiny: Both) -> None:
    by = act(tiny.store).statistics()
    wide = {key: replace(each, std=each.std + 50) for key, each in by.items()}
    stats = act(tiny.store, normalize=wide).norm_stats()
    assert stats["action_std"].min() > 50


def test_torchs_own_collate_makes_the_batch_that_act_unpacks(tiny: Both) -> None:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(act(tiny.store, chunk=20), batch_size=8)
    image, qpos, action, is_pad = next(iter(loader))
    assert (image.dtype, qpos.dtype, action.dtype, is_pad.dtype) == (*[torch.float32] * 3, torch.bool)
    assert (image.shape, qpos.shape, action.shape, is_pad.shape) == ((8, 2, 3, 16, 24), (8, 9), (8, 20, 7), (8, 20))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"chunk": -1}, OptionError, "at least 1"),
        ({"pad": "mean"}, UnknownName, "edge, zero"),
        ({"cameras": "agentview_rgb"}, OptionError, "a list of fields"),
        ({"cameras": []}, OptionError, "a list of fields"),
        ({"cameras": None}, OptionError, "a list of fields"),
        ({"qpos": [1]}, OptionError, "a list of fields"),
        ({"qpos": ["joint_states", "joint_states"]}, OptionError, "each once"),
        ({"qpos": ["joints"]}, UnknownName, "joint_states"),
    ],
)
def test_a_wrong_option_is_refused_with_what_there_is(
    tiny: Both, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        act(tiny.store, **options)
