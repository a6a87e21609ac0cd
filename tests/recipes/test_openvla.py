"""openvla and openvla_oft give what OpenVLA's own pipelines would, by another implementation over h5py."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes.conftest import Both

from vla_store import OptionError, UnknownName, recipes
from vla_store.recipes import openvla, openvla_oft, rlds_batch

oracle = pytest.importorskip("recipes.oracle")

pytestmark = pytest.mark.filterwarnings("ignore:this is not the data")


def test_openvla_gives_what_openvlas_pipeline_gives(any_both: Both) -> None:
    dataset = openvla(any_both.store, episodes=any_both.episodes)
    count = oracle.assert_items(dataset, oracle.openvla(any_both.demos))
    assert count == sum(len(demo.times) for demo in any_both.demos)


def test_oft_gives_what_ofts_pipeline_gives_and_pads_nothing(any_both: Both) -> None:
    dataset = openvla_oft(any_both.store, episodes=any_both.episodes)
    count = oracle.assert_items(dataset, oracle.openvla_oft(any_both.demos))
    assert count == sum(len([s for s in demo.times if s <= len(demo) - 8]) for demo in any_both.demos)


def test_a_longer_chunk_ends_with_its_episode(tiny: Both) -> None:
    dataset = openvla_oft(tiny.store, chunk=20)
    assert oracle.assert_items(dataset, oracle.openvla_oft(tiny.demos, 20)) == 1 + 13  # of demos of 21 and 33 steps


def test_a_chunk_longer_than_every_episode_leaves_nothing_and_says_so(tiny: Both) -> None:
    with pytest.raises(OptionError, match="no step of the selection is an anchor"):
        openvla_oft(tiny.store, chunk=34)


def test_as_stored_alignment_has_every_row_as_an_anchor(published: Both) -> None:
    dataset = openvla_oft(published.store, episodes=published.episodes, alignment="as_stored")
    together = [oracle.Demo(each.arrays, each.text, each.suite, False) for each in published.demos]
    assert oracle.assert_items(dataset, oracle.openvla_oft(together)) == sum(len(each) - 7 for each in together)


def normalized(items: Any, rows: dict[str, np.ndarray]) -> Any:
    for item in items:
        for key in set(item) & set(rows):
            is_gripper = np.arange(rows[key].shape[1]) == (6 if key != "proprio" else -1)
            item[key] = oracle.bounds_q99(item[key], rows[key], is_gripper).astype(np.float32)
        yield item


@pytest.mark.parametrize("recipe", ["openvla", "openvla_oft"])
def test_the_normalised_form_is_by_the_selections_quantiles(any_both: Both, recipe: str) -> None:
    actions = oracle.all_actions(any_both.demos)
    rows = {"action": actions, "actions": actions, "proprio": oracle.all_states(any_both.demos)}
    dataset = getattr(recipes, recipe)(any_both.store, episodes=any_both.episodes, normalize=True)
    expected = getattr(oracle, recipe)(any_both.demos)
    oracle.assert_items(dataset, normalized(expected, rows), within=1e-6)


def test_a_validation_set_is_normalised_by_the_training_set(published: Both) -> None:
    train = openvla_oft(published.store, episodes=published.episodes[:2])
    dataset = openvla_oft(published.store, episodes=published.episodes[2:], normalize=train.statistics())
    rows = {"actions": oracle.all_actions(published.demos[:2]), "proprio": oracle.all_states(published.demos[:2])}
    expected = normalized(oracle.openvla_oft(published.demos[2:]), rows)
    oracle.assert_items(dataset, expected, within=1e-6)


def test_dataset_statistics_are_written_as_openvla_reads_them(published: Both, tmp_path: Path) -> None:
    dataset = openvla_oft(published.store, episodes=published.episodes, name="libero_some")
    path = dataset.write_statistics(tmp_path / "run")
    assert path == tmp_path / "run" / "dataset_statistics.json"
    written = json.loads(path.read_text())["libero_some"]
    assert written["num_transitions"] == sum(map(len, published.demos))
    assert written["num_trajectories"] == len(published.demos)
    rows = np.array([oracle.openvla_action(row) for demo in published.demos for row in demo.arrays["actions"]])
    for key, values in {"action": rows.astype(float), "proprio": oracle.all_states(published.demos)}.items():
        for name, found in {
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "q01": np.quantile(values, 0.01, axis=0),
            "q99": np.quantile(values, 0.99, axis=0),
        }.items():
            np.testing.assert_allclose(written[key][name], found, rtol=0, atol=1e-9, err_msg=f"{key} {name}")
    assert written["action"]["mask"] == [True] * 6 + [False]


def test_statistics_are_of_the_selection_and_count_rows_that_are_no_anchors(tiny: Both) -> None:
    one = openvla_oft(
        tiny.store, episodes=[8]
    )  # 9 steps, of which the one that is seen and has 8 actions left is an anchor
    assert len(one) == 1
    assert one.statistics()["actions"].count.tolist() == [9] * 7


def test_an_item_becomes_the_batch_that_their_transform_takes(regenerated: Both) -> None:
    item = openvla_oft(regenerated.store)[3]
    batch = rlds_batch(item, "libero_object_no_noops")
    assert batch["observation"]["image_primary"].shape == batch["observation"]["image_wrist"].shape == (1, 256, 256, 3)
    assert batch["observation"]["proprio"].shape == (1, 8)
    assert batch["action"].shape == (8, 7)
    assert batch["task"]["language_instruction"] == b"pick up the tomato sauce and place it in the basket"
    assert batch["dataset_name"] == b"libero_object_no_noops"
    single = rlds_batch(openvla(regenerated.store)[3])
    assert single["action"].shape == (1, 7)
    assert list(single["observation"]) == ["image_primary"]


def test_other_data_than_openvlas_is_said_once_and_in_repr(published: Both, regenerated: Both) -> None:
    with pytest.warns(UserWarning, match=r"not the data .* as published .*128 x 128") as caught:
        dataset = openvla(published.store)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "no-ops and failures" in repr(dataset)
    assert "pictures are 128 x 128; OpenVLA's are 256 x 256" in repr(dataset)


@pytest.mark.filterwarnings("error")
def test_openvlas_own_data_needs_no_warning(regenerated: Both) -> None:
    assert "note" not in repr(openvla_oft(regenerated.store, normalize=True))


def test_a_component_that_never_changes_becomes_zero_with_a_warning(published: Both) -> None:
    # The first two steps of a demo: nothing of the pose has changed by much yet, and the gripper not at all.
    rows = range(2)
    with pytest.warns(UserWarning, match=r"component .*it never changes.*which closes the gripper"):
        dataset = openvla(published.store, rows=rows, alignment="as_stored", normalize=True)
    constant = dataset.statistics()["action"].min == dataset.statistics()["action"].max
    assert constant[6]  # OpenVLA's rule has no exception for a gripper that stays open, and 0 closes it
    assert dataset.statistics()["action"].min[6] == 1
    assert (dataset[1]["action"][constant] == 0).all()
    assert np.isfinite(dataset[1]["action"]).all()


def test_a_tiny_range_does_not_blow_up(regenerated: Both) -> None:
    # Two steps; of some of the pose's numbers the difference is a few hundred-thousandths.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = openvla_oft(regenerated.store, rows=range(20, 22), normalize=True)
    by = dataset.statistics()["proprio"]
    tiny = (by.q99 - by.q01 < 1e-4) & (by.min < by.max)
    assert tiny.any()
    said = [each for each in caught if "'proprio'" in str(each.message) and "less than 0.0001" in str(each.message)]
    assert len(said) == 1
    assert ", ".join(map(str, np.flatnonzero(tiny))) in str(said[0].message)
    assert said[0].filename == __file__
    first, second = (dataset[number]["proprio"][0] for number in range(2))
    expected = np.clip(2 * (by.max - by.q01) / (1e-4 + 1e-8) - 1, -1, 1)
    np.testing.assert_allclose(np.maximum(first, second)[tiny], expected[tiny], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"chunk": 0}, OptionError, "at least 1"),
        ({"chunk": 2.5}, OptionError, "at least 1"),
        ({"cameras": ("agentview_rgb", "agentview_rgb")}, OptionError, "cameras is a list of 2 fields, each once"),
        ({"cameras": ("agentview", "eye_in_hand_rgb")}, UnknownName, "agentview_rgb"),
        ({"state": ("ee_state",)}, UnknownName, "ee_states"),
        ({"suite": "libero_10"}, UnknownName, "suites"),
        ({"alignment": "late"}, UnknownName, "causal"),
        ({"normalize": "yes"}, OptionError, "normalize is True"),
        ({"normalize": {}}, UnknownName, "statistics of 'proprio'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_there_is(
    tiny: Both, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        openvla_oft(tiny.store, **options)


def test_the_language_is_in_lower_case(tiny: Both) -> None:
    dataset = openvla(tiny.store)
    fields = dataset.batch_or_lists([0]) | {"task": ["Put the Mug of SCENE 1 on the Plate"]}
    assert dataset.items(fields, np.empty)["language"] == ["put the mug of scene 1 on the plate"]
