"""openpi gives what openpi's LeRobot dataset of LIBERO would, by another implementation over h5py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from recipes.conftest import Both

from vla_store import OptionError, UnknownName
from vla_store.recipes import openpi

oracle = pytest.importorskip("recipes.oracle")

pytestmark = pytest.mark.filterwarnings("ignore:this is not the data")


@pytest.mark.parametrize(("config", "horizon"), [("pi0_libero", 50), ("pi0_fast_libero", 10), ("pi05_libero", 10)])
def test_openpi_gives_what_its_lerobot_dataset_gives(any_both: Both, config: str, horizon: int) -> None:
    dataset = openpi(any_both.store, config=config, episodes=any_both.episodes)
    count = oracle.assert_items(dataset, oracle.openpi(any_both.demos, horizon))
    assert count == sum(len(demo.times) for demo in any_both.demos)


def test_a_horizon_of_ones_own_takes_the_place_of_the_configs(tiny: Both) -> None:
    oracle.assert_items(openpi(tiny.store, config="pi0_libero", horizon=3), oracle.openpi(tiny.demos, 3))


def test_past_the_end_the_last_action_is_repeated_and_not_marked(tiny: Both) -> None:
    item = openpi(tiny.store)[-1]
    assert list(item) == ["image", "wrist_image", "state", "actions", "prompt"]
    assert (item["actions"] == item["actions"][0]).all()


def test_the_normalised_form_is_by_the_selections_quantiles_and_not_clipped(any_both: Both) -> None:
    rows = {"actions": oracle.all_actions(any_both.demos), "state": oracle.all_states(any_both.demos)}

    def expected() -> Iterator[Any]:
        for item in oracle.openpi(any_both.demos, 10):
            normalized = {key: oracle.quantile_form(item[key], rows[key]).astype(np.float32) for key in rows}
            yield item | normalized

    dataset = openpi(any_both.store, episodes=any_both.episodes, normalize=True)
    assert max(np.abs(dataset[number]["actions"][:, :6]).max() for number in range(0, len(dataset), 9)) > 1
    oracle.assert_items(dataset, expected(), within=1e-6)


@pytest.mark.parametrize("config", ["pi0_libero", "pi0_fast_libero"])
def test_a_config_that_subtracts_the_state_first_leaves_normalising_to_openpi(tiny: Both, config: str) -> None:
    with pytest.raises(OptionError, match=r"subtracts the state .*(?s:.*)compute_norm_stats"):
        openpi(tiny.store, config=config, normalize=True)


def test_a_tiny_range_is_clamped_with_a_warning(regenerated: Both) -> None:
    rows = range(20, 22)
    with pytest.warns(UserWarning, match="changes by less than 0.0001") as caught:
        dataset = openpi(regenerated.store, rows=rows, normalize=True)
    assert {each.filename for each in caught} == {__file__}
    assert [str(each.message).split(",")[0] for each in caught] == ["'state'", "'actions'"]
    by = dataset.statistics()
    for key in ("state", "actions"):
        tiny = by[key].q99 - by[key].q01 < 1e-4
        assert tiny.any()
        values, recorded = (
            np.array([np.atleast_2d(each[number][key])[0] for number in range(len(rows))])
            for each in (dataset, openpi(regenerated.store, rows=rows))
        )
        expected = np.ptp(recorded.astype(float), axis=0) / (1e-4 + 1e-6) * 2
        np.testing.assert_allclose(np.ptp(values, axis=0)[tiny], expected[tiny], rtol=1e-4, atol=1e-6)


def test_the_steps_that_openpi_makes_in_place_spoil_no_other_item(regenerated: Both) -> None:
    dataset = openpi(regenerated.store, config="pi0_libero")
    before = dataset[7]["actions"].copy()
    for item in dataset.__getitems__([7, 8]):  # DeltaActions, as openpi subtracts the pose in place
        item["actions"][:, :6] -= item["state"][:6]
        item["image"][:] = 0
    assert np.array_equal(dataset[7]["actions"], before)
    assert dataset[7]["image"].any()


def test_other_data_than_openpis_is_said(published: Both) -> None:
    with pytest.warns(UserWarning, match="not the data that openpi trains on.*as published.*128 x 128") as caught:
        dataset = openpi(published.store)
    assert caught[0].filename == __file__
    assert repr(dataset).count("  note  ") == 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"config": "pi1_libero"}, UnknownName, "pi05_libero"),
        ({"horizon": 0}, OptionError, "at least 1"),
        ({"horizon": True}, OptionError, "at least 1"),
        ({"cameras": ("eye_in_hand_rgb", "eye_in_hand_rgb")}, OptionError, "cameras is a list of 2 fields, each once"),
        ({"cameras": "agentview_rgb"}, OptionError, "a list of 2 fields"),
        ({"cameras": ("agentview_rgb",)}, OptionError, "a list of 2 fields"),
        ({"cameras": ("agentview_rgb", "eye_in_hand_rgb", "third_rgb")}, OptionError, "a list of 2 fields"),
        ({"state": "ee_states"}, OptionError, "state is a list of fields"),
        ({"state": ()}, OptionError, "state is a list of fields"),
        ({"config": ["pi0_libero"]}, UnknownName, "pi05_libero"),
        ({"episode": 3}, UnknownName, "episodes"),
    ],
)
def test_a_wrong_option_is_refused_with_what_there_is(
    tiny: Both, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        openpi(tiny.store, **options)
