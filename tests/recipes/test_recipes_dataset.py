"""What holds for the datasets of all recipes: reading, sending to other processes, errors, anchors, statistics, views."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
import view_tools
from comparing import assert_same
from recipes.conftest import Both

from vla_store import OptionError, StoreDamaged, UnknownName, open_store
from vla_store.loader.work import TransformError
from vla_store.recipes import act, diffusion_policy, libero, openpi, openvla, openvla_oft, rdt
from vla_store.recipes.dataset import RecipeDataset, Steps

RECIPES = [openvla, openvla_oft, openpi, diffusion_policy, act]

pytestmark = pytest.mark.filterwarnings("ignore:this is not the data", "ignore:.*never changes")


class Numbers(RecipeDataset):
    """The smallest recipe: which row it is, by its number."""

    def items(self, batch: dict[str, Any], empty: Any) -> Any:
        return {"place": np.stack([batch["episode"], batch["step"]], axis=1), "text": batch["task"]}


class Fails(RecipeDataset):
    """Makes nothing of step 2."""

    def items(self, batch: dict[str, Any], empty: Any) -> Any:
        if 2 in batch["step"]:
            raise ValueError("no such luck")
        return batch["step"]


def numbers(tiny: Both, **options: Any) -> Numbers:
    return Numbers(tiny.store, windows={"actions": 0}, **options)


def leaves(item: Any) -> Iterator[np.ndarray]:
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, (list, tuple)):
        for each in item:
            yield from leaves(each)
    elif isinstance(item, np.ndarray):
        yield item


@pytest.mark.parametrize("recipe", RECIPES)
def test_items_of_a_batch_are_those_read_one_by_one(tiny: Both, recipe: Callable[..., Any]) -> None:
    dataset = recipe(tiny.store)
    indices = [len(dataset) - 1, 0, 3, 3, -2]
    for found, index in zip(dataset.__getitems__(indices), indices, strict=True):
        assert_same(found, dataset[index])


@pytest.mark.parametrize("recipe", RECIPES)
def test_who_spoils_an_item_spoils_no_other(tiny: Both, recipe: Callable[..., Any]) -> None:
    dataset = recipe(tiny.store, normalize=True)
    before = pickle.dumps([dataset[0], dataset[1]])
    for items in ([dataset[0], dataset[1]], dataset.__getitems__([0, 1, 1])):
        spoilt, *others = items
        for array in leaves(spoilt):
            array[...] = 1
        for other in others:
            assert_same(other, pickle.loads(before)[1])
    assert_same([dataset[0], dataset[1]], pickle.loads(before))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dataset_pickles_small_and_gives_the_same_items(tiny: Both, recipe: Callable[..., Any]) -> None:
    dataset = recipe(tiny.store, normalize=True)
    sent = pickle.dumps(dataset)
    assert len(sent) < 8_000
    arrived = pickle.loads(sent)
    assert len(arrived) == len(dataset)
    assert repr(arrived) == repr(dataset)
    assert_same(arrived.__getitems__([0, -1]), dataset.__getitems__([0, -1]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_transform_has_the_item_and_gives_what_is_taken(tiny: Both, recipe: Callable[..., Any]) -> None:
    dataset = recipe(tiny.store, transform=lambda item: [len(item), *(each.shape for each in leaves(item))])
    plain = recipe(tiny.store)[1]
    expected = [len(plain), *(each.shape for each in leaves(plain))]
    assert dataset[1] == dataset.__getitems__([1])[0] == expected


def test_importing_recipes_imports_no_torch() -> None:
    code = "import sys, vla_store.recipes; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_dataloader_give_every_item_once(tiny: Both, method: str) -> None:
    data = pytest.importorskip("torch.utils.data")
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    dataset = openvla_oft(tiny.store, normalize=True)
    loader = data.DataLoader(dataset, batch_size=7, num_workers=1, multiprocessing_context=method)
    count = 0
    for batch in loader:
        for at in range(len(batch["language"])):
            found = {key: value[at] for key, value in batch.items()}
            assert_same(found, dataset[count])
            count += 1
    assert count == len(dataset)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_takes_a_recipe_and_gives_its_items(tiny: Both, workers: int) -> None:
    pytest.importorskip("torch")
    from vla_store.torch import Loader

    dataset = diffusion_policy(tiny.store)
    with Loader(dataset, batch_size=16, shuffle=False, workers=workers) as loader:
        first = loader.peek()
        assert_same(first["obs"]["robot0_eef_pos"][5], dataset[5]["obs"]["robot0_eef_pos"])
        assert_same(first["obs"]["agentview_image"][7], dataset[7]["obs"]["agentview_image"])
        assert first["action"].shape == (16, 16, 7)
        assert sum(len(batch["action"]) for batch in loader) == len(dataset)


def test_an_item_that_cannot_be_read_names_its_sample(tiny: Both, tmp_path: Path) -> None:
    store = Path(shutil.copytree(tiny.store, tmp_path / "copy.vla"))
    dataset = openpi(store, rows=range(60, 80))
    row = dataset.place(11)["row"]
    spoil(store, "frames/eye_in_hand_rgb", row - 1)  # the observation of a step lies one row earlier
    for read in (lambda: dataset[11], lambda: dataset.__getitems__([0, 11, 19])):
        with pytest.raises(StoreDamaged) as caught:
            read()
        places = caught.value.places
        assert (places["sample"], places["anchor row"], places["row"]) == ("11", str(row), str(row - 1))
        assert (places["episode"], places["step"]) == tuple(str(dataset.place(11)[key]) for key in ("episode", "step"))
        assert places["store"] == str(store)
    assert dataset[12]["prompt"]


def spoil(store: Path, array: str, row: int) -> None:
    """Changes a byte of one encoded frame, found by the index at the end of its shard."""
    folder = store_tools.part_of(store) / array
    (shard,) = (path for path in (folder / "c").rglob("*") if path.is_file())
    rows = json.loads((folder / "zarr.json").read_bytes())["chunk_grid"]["configuration"]["chunk_shape"][0]
    entries = np.frombuffer(shard.read_bytes()[-4 - 16 * rows : -4], "<u8").reshape(rows, 2)
    store_tools.flip(shard, int(entries[row, 0] + entries[row, 1] // 2))


def test_an_item_that_cannot_be_made_names_its_sample(tiny: Both) -> None:
    dataset = Fails(tiny.store, windows={"actions": 0}, episodes=[3])
    for read in (lambda: dataset[2], lambda: dataset.__getitems__([0, 1, 2]), lambda: dataset[2 - len(dataset)]):
        with pytest.raises(TransformError) as caught:
            read()
        assert "ValueError: no such luck" in str(caught.value)
        assert (caught.value.places["episode"], caught.value.places["step"]) == ("3", "2")
        assert caught.value.places["row"] == str(open_store(tiny.store).episodes[3].start + 2)
        assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("index", [46, 47, -47, 10**9])
def test_an_item_past_the_end_is_an_index_error(tiny: Both, index: int) -> None:
    dataset = numbers(tiny, suites="libero_10")
    assert len(dataset) == 46
    with pytest.raises(IndexError):
        dataset[index]
    with pytest.raises(IndexError):
        dataset.__getitems__([0, index])


def test_anchors_that_a_recipe_leaves_out_are_left_out_whatever_the_selection(tiny: Both) -> None:
    """Selections by rows keep their order; all others that of the store."""

    def is_even(at: Steps) -> np.ndarray:
        return at.step % 2 == 0

    def is_short(at: Steps) -> np.ndarray:
        return at.step >= at.kept_length - 4

    episodes = open_store(tiny.store).episodes
    for keep, by_hand in (
        (is_even, lambda step, length: step % 2 == 0),
        (is_short, lambda step, length: step >= length - 4),
    ):
        for selection in ({}, {"suites": "libero_spatial"}, {"rows": [90, 3, 4, 88, 3, 20, 25]}):
            rows = [numbers(tiny, **selection).place(at)["row"] for at in range(len(numbers(tiny, **selection)))]
            expected = []
            for row in rows:
                episode = next(each for each in episodes if each.start <= row < each.start + each.length)
                if by_hand(row - episode.start, episode.length):
                    expected.append(row)
            dataset = numbers(tiny, keep=keep, **selection)
            assert [dataset.place(at)["row"] for at in range(len(dataset))] == expected
            places = [tuple(item["place"]) for item in dataset.__getitems__(range(len(dataset)))]
            assert places == [tuple(dataset[at]["place"]) for at in range(len(dataset))]
            assert [episodes[episode].start + step for episode, step in places] == expected


def test_an_anchor_left_out_of_each_episode_costs_few_bytes(demo_store: Path) -> None:
    whole = Numbers(demo_store, windows={"actions": 0})
    dataset = Numbers(demo_store, windows={"actions": 0}, keep=lambda at: at.step < at.kept_length - 5)
    assert len(whole) - len(dataset) == 5 * 13
    assert len(pickle.dumps(dataset)) - len(pickle.dumps(whole)) < 13 * 100


def test_a_store_of_several_parts_has_the_same_items(tiny: Both, tiny_source: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")
    from vla_store.builder import build_store
    from vla_store.manage.append import append_store

    store = tmp_path / "grown.vla"
    build_store([tiny_source / "libero_10"], store)
    for suite in ("libero_goal", "libero_spatial"):
        append_store([tiny_source / suite], store)
    grown, whole = (openvla_oft(each, normalize=True) for each in (store, tiny.store))
    assert len(open_store(store).parts) == 3
    assert len(grown) == len(whole)
    assert [grown.place(at) for at in range(len(grown))] == [whole.place(at) for at in range(len(whole))]
    assert_same(grown.__getitems__(range(len(grown))), whole.__getitems__(range(len(whole))))
    assert_same(grown[-1], whole[-1])
    assert len(pickle.dumps(grown)) < 8_000


def test_what_is_left_out_is_said_with_the_reason(tiny: Both) -> None:
    said = repr(openvla_oft(tiny.store))
    steps, demos = sum(map(len, tiny.demos)), len(tiny.demos)
    assert f"anchors of {steps} steps (left out: {demos} without a recorded observation, " in said
    assert "by the recipe's rule)" in said
    assert repr(numbers(tiny)).startswith(f"Numbers({steps} anchors\n")


def test_a_recipe_without_anchors_says_so(tiny: Both) -> None:
    with pytest.raises(OptionError, match="no step of the selection is an anchor"):
        numbers(tiny, keep=lambda at: np.zeros(len(at.step), bool))


def test_an_unknown_option_lists_what_there_is(tiny: Both) -> None:
    with pytest.raises(UnknownName, match=r"(?s)no option 'epsiodes'.*episodes.*split.*alignment"):
        numbers(tiny, epsiodes=[1])


WRONG_OPTIONS = {
    "act": (act, {"dtype": "float16"}, "chunk, cameras, qpos, pad, "),
    "diffusion_policy": (diffusion_policy, {"dtype": "float16"}, "horizon, n_obs_steps, "),
    "libero": (libero, {"pad": "zero"}, "sequence_length, "),
    "openpi": (openpi, {"pad": "zero"}, "config, horizon, "),
    "openvla": (openvla, {"windows": {"actions": 0}}, "name, camera, "),
    "openvla_oft": (openvla_oft, {"chunks": 8}, "name, chunk, "),
    "rdt": (partial(rdt, mapping="hdf5_libero_s1"), {"dtype": "float16"}, "mapping, dataset_name, "),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_a_wrong_option_is_refused_and_the_recipes_own_are_listed(tiny: Both, name: str) -> None:
    function, options, first = WRONG_OPTIONS[name]
    wrong = next(iter(options))
    with pytest.raises(UnknownName, match=rf"no option '{wrong}'\s+exists  {first}.*suites, .*split, view"):
        function(tiny.store, **options)


def test_there_is_no_batch_of_fields_behind_a_recipes_back(tiny: Both) -> None:
    with pytest.raises(OptionError, match="one by one"):
        numbers(tiny).__getitems__([0], out={})


def test_indices_that_are_no_whole_numbers_are_refused(tiny: Both) -> None:
    for indices in ([0.5], ["1"], [None]):
        with pytest.raises(TypeError):
            numbers(tiny).__getitems__(indices)
    assert numbers(tiny).__getitems__([]) == []
    assert numbers(tiny).__getitems__(np.array([1, 2], np.int32))[1]["place"].tolist() == [0, 2]


@pytest.mark.parametrize("selection", [{}, {"episodes": [6, 1]}, {"rows": [5, 90, 4, 5]}, {"suites": "libero_goal"}])
def test_statistics_are_of_the_selected_steps_each_once(tiny: Both, selection: dict[str, Any]) -> None:
    dataset = act(tiny.store, **selection)
    store = open_store(tiny.store)
    rows = {
        "episodes": lambda: [row for each in (1, 6) for row in range(store.episodes[each].start, store.episodes[each].start + store.episodes[each].length)],
        "rows": lambda: [4, 5, 90],
        "suites": lambda: [row for each in store.episodes if each.suite == "libero_goal" for row in range(each.start, each.start + each.length)],
    }.get(next(iter(selection), ""), lambda: list(range(store.rows)))()  # fmt: skip
    values = store.read("actions", rows).astype(np.float32).astype(np.float64)
    found = dataset.statistics()["action"]
    assert found.count.tolist() == [len(rows)] * 7
    for name, expected in {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "min": values.min(axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }.items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, atol=1e-9, err_msg=name)


def test_statistics_of_other_numbers_are_refused(tiny: Both) -> None:
    statistics = act(tiny.store).statistics()
    with pytest.raises(OptionError, match="'qpos' are of other numbers"):
        act(tiny.store, qpos=["ee_states"], normalize=statistics)
    with pytest.raises(UnknownName, match="statistics of 'state'"):
        openpi(tiny.store, normalize=statistics)


@pytest.mark.parametrize("recipe", [openvla_oft, openpi, diffusion_policy, act])
def test_a_view_of_kept_steps_is_to_a_recipe_a_shorter_episode(
    tiny: Both, tmp_path: Path, recipe: Callable[..., Any]
) -> None:
    oracle = pytest.importorskip("recipes.oracle")
    store = Path(shutil.copytree(tiny.store, tmp_path / "viewed.vla"))
    rng = np.random.default_rng(0)
    masks = [rng.random(len(demo)) < 0.8 for demo in tiny.demos]
    for mask in masks:
        mask[:1] = False  # whose observation was not recorded
    tasks = [(each.suite, each.task) for each in open_store(store).episodes]
    view_tools.put_views(store, {"calm": view_tools.view_json("steps", [mask.tolist() for mask in masks], tasks)})
    shorter = []
    for demo, mask in zip(tiny.demos, masks, strict=True):
        rows = np.flatnonzero(mask)
        if len(rows):
            # The observation stays with the step that follows it: this is how a source that observes before would have it.
            arrays = {
                name: array[rows] if name == "actions" else array[rows - 1] for name, array in demo.arrays.items()
            }
            shorter.append(oracle.Demo(arrays, demo.text, demo.suite, False))
    expected = {
        openvla_oft: lambda: oracle.openvla_oft(shorter),
        openpi: lambda: oracle.openpi(shorter, 10),
        diffusion_policy: lambda: oracle.diffusion(shorter),
        act: lambda: oracle.act(shorter),
    }[recipe]()
    dataset = recipe(store, view="calm")
    assert oracle.assert_items(dataset, expected) > 30
    statistics = next(value for key, value in dataset.statistics().items() if key.startswith("action"))
    assert statistics.count.tolist() == [sum(int(mask.sum()) for mask in masks)] * 7
