"""`rdt_pretrain`: what RDT's disk buffer holds of every step, compared with another implementation of its rules."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same

pytest.importorskip("h5py", reason="the other implementation reads the demonstrations with h5py")

import tiny_layouts
from recipes import oracle_rdt_pretrain as oracle
from recipes.agilex import CAMERAS, agilex

import vla_store
from vla_store import OptionError, UnknownName
from vla_store.recipes import RdtMapping, Take, rdt, rdt_buffered, rdt_pretrain, rdt_weights
from vla_store.recipes.rdt_mapping import MAPPINGS
from vla_store.recipes.rdt_pretrain import as_sentence
from vla_store.rules import drawn_steps

LIBERO = (3, 10, 11)  # of three suites; 139, 127 and 123 steps
LENGTHS = (70, 33, 5)  # of the ALOHA episodes: longer than a chunk, between, and shorter than anything


@pytest.fixture(scope="module")
def aloha(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three episodes in ALOHA's layout, and beside it their files."""
    pytest.importorskip("zarr", reason="it builds a store")
    from vla_store.builder import build_store

    store = tmp_path_factory.mktemp("rdt") / "aloha.vla"
    for number, steps in enumerate(LENGTHS):
        tiny_layouts.aloha(store.with_suffix("") / "wipe_wine", number, steps=steps)
    build_store([store.with_suffix("")], store)
    return store


def of_aloha(store: Path, **options: Any) -> list[oracle.Episode]:
    folder = store.with_suffix("") / "wipe_wine"
    return [oracle.of_agilex(folder / f"episode_{number}.hdf5", **options) for number in range(3)]


def of_libero(store: Path, demos: Path, **options: Any) -> list[oracle.Episode]:
    found = [vla_store.open_store(store).episodes[number] for number in LIBERO]
    return [oracle.of_libero(demos / "libero" / each.suite / each.file, each.number, **options) for each in found]


def assert_sample(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Everything to the bit, but for what float32 rounds either way: 6 numbers of a rotation, a scaled gripper, moments."""
    assert list(found) == list(expected) == list(oracle.KEYS), where
    for key, value in expected.items():
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and key != "state_vec_mask":
            assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype), f"{where}: {key}"
            assert np.abs(found[key] - value).max() < 3e-7, f"{where}: {key}"
        else:
            assert_same(found[key], value, f"{where}: {key}")


def assert_every_step(dataset: Any, episodes: list[oracle.Episode]) -> None:
    at = 0
    for number, episode in enumerate(episodes):
        steps = range(len(episode.states))
        for t, found in zip(steps, dataset.__getitems__(range(at, at + len(steps))), strict=True):
            assert_sample(found, episode.sample(t), f"episode {number}, step {t}")
        at += len(steps)
    assert at == len(dataset)


# --- equal to the buffer -------------------------------------------------------------------------------------------------


def test_every_step_of_libero_is_what_the_buffer_has(demo_store: Path, demos: Path) -> None:
    dataset = rdt_pretrain(demo_store, mapping="hdf5_libero_s1", dataset_name="libero", episodes=LIBERO)
    assert_every_step(dataset, of_libero(demo_store, demos))


@pytest.mark.parametrize("action", ["actions", "states"])
def test_every_step_of_an_aloha_is_what_the_buffer_has(action: str, aloha: Path) -> None:
    """As RDT treats agilex, whose files hold actions, and as it treats all others."""
    assert_every_step(agilex(aloha, action=action), of_aloha(aloha, acts=action == "actions"))


def previous(*takes: Take) -> tuple[Take, ...]:
    return tuple(dataclasses.replace(each, previous=True) for each in takes)


def test_where_there_is_no_state_the_action_before_is_one(aloha: Path) -> None:
    """As RDT does it for four of its data sets."""
    mapping = RdtMapping("no state", previous(*MAPPINGS["agilex"].action))
    dataset = rdt_pretrain(aloha, mapping=mapping, dataset_name="agilex", cameras=CAMERAS)
    assert_every_step(dataset, [oracle.without_state(each) for each in of_aloha(aloha)])
    found = np.array(dataset.dataset_stat()["state_mean"])
    states = np.concatenate([oracle.without_state(each).states for each in of_aloha(aloha)])
    assert np.allclose(found, states.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("alignment", ["as_stored", "causal"])
def test_the_velocity_of_a_base_is_that_of_the_action_before(alignment: str, demo_store: Path, demos: Path) -> None:
    """A base moves by actions 0 and 1, say. Causally the states of LIBERO's row t are those before action t + 1."""
    mapping = RdtMapping("base", (Take("joint_states", 0, 7, 0), *previous(Take("actions", 0, 2, 100))))
    dataset = rdt_pretrain(demo_store, mapping=mapping, dataset_name="libero", episodes=LIBERO, alignment=alignment)
    at = 0
    for number in LIBERO:
        each = vla_store.open_store(demo_store).episodes[number]
        rows = np.arange(each.start, each.start + each.length)
        base = dataset.store.read("actions", rows)[:, :2]
        states = np.zeros((len(rows), 128))
        states[:, :7] = dataset.store.read("joint_states", rows)
        states[:, 100:102] = base if alignment == "causal" else np.concatenate([np.zeros((1, 2)), base[:-1]])
        episode = oracle.Episode("libero", "", states, [*range(7), 100, 101], [None] * 4)
        first = int(alignment == "causal")
        for t in range(len(rows) - first):
            found, expected = dataset[at], episode.sample(t)
            assert found["step_id"] == t + first
            for key in ("state_chunk", "action_chunk", "state_std", "state_mean", "state_norm"):
                assert np.abs(found[key] - expected[key]).max() < 3e-7, f"{key}, episode {number}, step {t}"
            for key in ("state_chunk_time_mask", "action_chunk_time_mask", "state_vec_mask"):
                assert_same(found[key], expected[key], key)
            at += 1
    assert at == len(dataset)


def test_one_by_one_and_in_a_batch_it_is_the_same(aloha: Path) -> None:
    dataset = agilex(aloha)
    batch = dataset.batch([0, 69, 70, 107])
    for at, index in enumerate([0, 69, 70, 107]):
        item = dataset[index]
        assert_same(batch["json_content"]["instruction"][at], item["json_content"]["instruction"])
        for key in oracle.KEYS[1:]:
            assert_same(batch[key][at], np.asarray(item[key]), key)
    assert_same(pickle.loads(pickle.dumps(dataset))[33], dataset[33])


def test_a_mapping_of_its_state_alone_will_do_where_states_are_foreseen(aloha: Path) -> None:
    alone = RdtMapping("mine", MAPPINGS["agilex"].state)
    found = rdt_pretrain(aloha, mapping=alone, dataset_name="mine", cameras={})
    assert_same(found[3]["state_chunk"], agilex(aloha)[3]["state_chunk"])
    assert found[3]["past_frames_0"].shape == (2, 0, 0, 0)
    assert found[0]["past_frames_0_time_mask"].tolist() == [False, True]
    with pytest.raises(OptionError, match="for the state and for the action"):
        rdt_pretrain(aloha, mapping=alone, dataset_name="mine", action="actions", cameras={})
    with pytest.raises(OptionError, match="for the state and for the action"):
        rdt(aloha, mapping=alone, cameras={})
    before = RdtMapping("mine", previous(Take("actions", 0, 2, 0)), (Take("qpos", 0, 2, 0),))
    with pytest.raises(OptionError, match="rdt_pretrain alone"):
        rdt(aloha, mapping=before, cameras={})


def test_causal_observations_are_those_before_the_step(demo_store: Path) -> None:
    """LIBERO's row t was seen after action t: the states and frames of step t are those of row t - 1."""
    options: dict[str, Any] = {"mapping": "hdf5_libero_s1", "dataset_name": "libero", "episodes": [11]}
    stored, causal = rdt_pretrain(demo_store, **options), rdt_pretrain(demo_store, alignment="causal", **options)
    assert len(causal) == len(stored) - 1
    for index in (0, 1, 70, len(causal) - 1):
        early, late = stored[index], causal[index]
        assert late["step_id"] == early["step_id"] + 1
        for key in ("state_chunk", "state_chunk_time_mask", "action_chunk", "past_frames_0", "past_frames_0_time_mask"):
            assert_same(late[key], early[key], key)
    with pytest.raises(OptionError, match="alignment"):
        rdt_pretrain(demo_store, action="actions", **options)


def test_arrays_are_fresh_and_each_its_own(demo_store: Path) -> None:
    """RDT adds noise to the states in place."""
    dataset = rdt_pretrain(
        demo_store,
        mapping="hdf5_libero_s1",
        dataset_name="libero",
        cameras={"cam_high": "agentview_rgb", "cam_fourth": "agentview_rgb"},
    )
    before = pickle.loads(pickle.dumps(dataset[70]))
    item = dataset[70]
    item["state_chunk"][...] = 9
    item["past_frames_0"][...] = 9
    item["state_chunk_time_mask"][...] = False
    for key in ("action_chunk", "past_frames_3", "action_chunk_time_mask", "past_frames_1_time_mask"):
        assert_same(item[key], before[key], key)
    assert_same(dataset[70], before)


def test_fine_tuning_takes_the_same_mapping(aloha: Path) -> None:
    """As RDT's own HDF5VLADataset has it, in float64."""
    dataset = rdt(aloha, mapping="agilex", cameras=CAMERAS)
    store = vla_store.open_store(aloha)
    scales = {"state": (("qpos", [33]), 4.7908, 4.7888), "actions": (("actions", range(33, 70)), 11.8997, 13.9231)}
    for key, ((field, rows), left, right) in scales.items():
        expected = store.read(field, list(rows)) / np.array([1] * 6 + [left] + [1] * 6 + [right])
        found = dataset[33][key][: len(expected)]
        assert_same(found[:, oracle.AGILEX], expected)
        assert np.count_nonzero(found) == expected.size


# --- episodes that are left out, and steps that are drawn ----------------------------------------------------------------


def test_rules_of_length(aloha: Path) -> None:
    assert len(agilex(aloha, shortest=33)) == 103
    drawn = agilex(aloha, shortest=6, longest=32)
    steps = [(place["episode"], place["step"]) for place in map(drawn.place, range(len(drawn)))]
    assert Counter(episode for episode, _ in steps) == {0: 32, 1: 32}
    assert [step for episode, step in steps if episode == 0] == np.flatnonzero(drawn_steps(70, 32)).tolist()
    # The whole episode is in its windows and moments, as there.
    whole = agilex(aloha)
    for at in (0, 31):
        assert_same(drawn[at], whole[steps[at][1]])
    other = agilex(aloha, shortest=6, longest=32, seed=1)
    assert [other.place(at)["step"] for at in range(32)] != [step for _, step in steps[:32]]


def test_a_text_is_a_sentence() -> None:
    texts = {"wipe it": "Wipe it.", "Wipe it.": "Wipe it.", "": "", "élan": "Élan.", "3 cups": "3 cups.", "ok.": "Ok."}
    assert {text: as_sentence(text) for text in texts} == texts == {text: oracle.sentence(text) for text in texts}


def test_what_stands_for_an_instruction_is_given_as_it_is(aloha: Path) -> None:
    assert agilex(aloha)[0]["json_content"]["instruction"] == "Wipe wine."
    path = agilex(aloha, instruction={"wipe wine": "embeddings/0.pt"})
    assert path[0]["json_content"]["instruction"] == "embeddings/0.pt"


# --- RDT's own files -------------------------------------------------------------------------------------------------------


def test_an_item_is_what_the_consumer_loads(aloha: Path) -> None:
    item = agilex(aloha)[7]
    (content, step, states, _, actions, _, mask, *images, std, mean, norm) = rdt_buffered(item)
    assert (content, step, len(images)) == (item["json_content"], 7, 8)
    found = [states, actions, mask, images[0], images[1], std, mean, norm]
    keys = ["state_chunk", "action_chunk", "state_vec_mask", "past_frames_0", "past_frames_0_time_mask"]
    for value, key in zip(found, [*keys, "state_std", "state_mean", "state_norm"], strict=True):
        assert value is item[key]
    given = agilex(aloha, transform=rdt_buffered)
    assert_same(list(given[7]), list(item.values()))
    assert_same(list(pickle.loads(pickle.dumps(given))[7]), list(item.values()))
    with pytest.raises(OptionError, match="no sample of rdt_pretrain"):
        rdt_buffered({"state": 1})
    with pytest.raises(OptionError, match="no sample of rdt_pretrain"):
        rdt_buffered(3)  # type: ignore[arg-type]


def test_weights_are_of_episodes_as_rdt_draws_them(aloha: Path, demo_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "pretrain_sample_weights.json"
    path.write_text(json.dumps({"libero": 100, "agilex": 50}))
    datasets = [
        rdt_pretrain(demo_store, mapping="hdf5_libero_s1", dataset_name="libero", episodes=LIBERO),
        agilex(aloha, shortest=32),
    ]
    expected = np.array([100 * (139 + 127 + 123) / 3, 50 * (70 + 33) / 3])
    assert np.allclose(rdt_weights(path, datasets), expected / expected.sum(), atol=1e-12)
    assert np.allclose(rdt_weights(path, datasets, by="samples"), [2 / 3, 1 / 3])
    with pytest.raises(UnknownName, match=r"no data set in pretrain_sample_weights\.json 'droid'"):
        rdt_weights(path, [agilex(aloha, dataset_name="droid")])
    with pytest.raises(UnknownName, match="way to weigh"):
        rdt_weights(path, datasets, by="steps")
    path.write_text(json.dumps({"agilex": 0}))
    with pytest.raises(OptionError, match="above 0"):
        rdt_weights(path, datasets[1:])
    for weight in ("1e400", "-1", "NaN", "true", '"x"', f"1{'0' * 400}"):
        path.write_text(f'{{"agilex": {weight}}}')
        with pytest.raises(OptionError, match=r"(?s)a weight is a finite number, 0 or more.*dataset +agilex"):
            rdt_weights(path, datasets[1:])
    path.write_text(json.dumps({"libero": 1e308, "agilex": 1e308}))
    assert np.allclose(rdt_weights(path, datasets, by="samples"), 0.5)
    with pytest.raises(OptionError, match="cannot be read"):
        rdt_weights(tmp_path / "none.json", datasets)
    with pytest.raises(OptionError, match=r"(?s)have a name in RDT.*found *dict"):
        rdt_weights(path, datasets[0])


def test_data_sets_of_several_robots_mix_with_rdts_weights(aloha: Path, tiny_store: Path, tmp_path: Path) -> None:
    """For RDT's consumer, which takes samples one by one, in the mixture's own order; and for the Loader, in batches of one part."""
    torch = pytest.importorskip("vla_store.torch")
    path = tmp_path / "pretrain_sample_weights.json"
    path.write_text(json.dumps({"libero": 30, "agilex": 10}))

    def parts(**options: Any) -> list[Any]:
        libero = rdt_pretrain(
            tiny_store,
            mapping="hdf5_libero_s1",
            dataset_name="libero",
            cameras={"cam_high": "agentview_rgb"},
            **options,
        )
        return [libero, agilex(aloha, **options)]

    weights = rdt_weights(path, parts())
    mixed = vla_store.mixture(list(zip(parts(transform=rdt_buffered), weights)), names=["libero", "agilex"])
    order = np.array(list(torch.ShuffleSampler(mixed, seed=0)))
    given = np.cumsum(order < len(parts()[0]))
    assert np.abs(given - weights[0] * np.arange(1, len(order) + 1)).max() < 1.01
    names = {next(iter(mixed[int(index)]))["dataset_name"] for index in order[:20]}
    assert names == {"libero", "agilex"}
    by_part = vla_store.mixture(list(zip(parts(), weights)), names=["libero", "agilex"], batches="by_part")
    with torch.Loader(by_part, batch_size=4, workers=0, drop_last=True) as loader:
        found = Counter(tuple(batch["json_content"]["dataset_name"]) for batch in loader)
    assert set(found) == {("libero",) * 4, ("agilex",) * 4}


def test_the_configs_get_what_the_consumer_looks_up(aloha: Path, tmp_path: Path) -> None:
    (tmp_path / "pretrain_datasets.json").write_text('["fractal20220817_data"]')
    (tmp_path / "dataset_control_freq.json").write_text('{"fractal20220817_data": 3}')
    dataset = agilex(aloha)
    for _ in range(2):
        dataset.write_configs(tmp_path, control_freq=25.0)
    dataset.write_configs(tmp_path, dataset_type="finetune", control_freq=12.5)
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert found["pretrain_datasets.json"] == ["fractal20220817_data", "agilex"]
    assert found["finetune_datasets.json"] == ["agilex"]
    assert found["dataset_control_freq.json"] == {"fractal20220817_data": 3, "agilex": 12.5}
    states = np.concatenate([each.states for each in of_aloha(aloha)])
    assert np.allclose(found["dataset_stat.json"]["agilex"]["state_mean"], states.mean(axis=0), atol=1e-6)
    assert np.allclose(found["dataset_stat.json"]["agilex"]["state_max"], states.max(axis=0), atol=1e-6)
    with pytest.raises(OptionError, match=r"(?s)not stated.*control_freq=20"):
        dataset.write_configs(tmp_path)
    with pytest.raises(OptionError, match="no such folder"):
        dataset.write_configs(tmp_path / "conifgs", control_freq=20)
    with pytest.raises(UnknownName, match="dataset_type of RDT 'train'"):
        dataset.write_configs(tmp_path, dataset_type="train", control_freq=20)
    (tmp_path / "pretrain_datasets.json").write_text("{}")
    with pytest.raises(OptionError, match="no JSON list"):
        dataset.write_configs(tmp_path, control_freq=20)


# --- wrong use ---------------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no mapping": ({"mapping": ""}, r"(?s)mapping must be named.*rdt_pretrain\("),
    "no name": ({"dataset_name": ""}, "dataset_name must be given"),
    "action": ({"action": "deltas"}, "no action 'deltas'"),
    "camera": ({"cameras": {"cam_top": "cam_high"}}, "no camera of RDT 'cam_top'"),
    "no such field": ({"cameras": {"cam_high": "front"}}, "no camera 'front'"),
    "history": ({"img_history_size": 9, "chunk_size": 8}, "at most chunk_size"),
    "shortest": ({"shortest": 0}, "shortest is a whole number"),
    "longest": ({"longest": 0.5}, "longest is a whole number"),
    "nothing left": ({"shortest": 71}, "no step of the selection"),
    "option": ({"skip_still_start": True}, "skip_still_start"),
    "the step before, of an observation": (
        {"mapping": RdtMapping("x", previous(Take("qpos", 0, 6, 0))), "action": "states"},
        "no observation",
    ),
    "a step and the step before": (
        {
            "mapping": RdtMapping("x", (Take("actions", 0, 6, 0), *previous(Take("actions", 6, 7, 6)))),
            "action": "states",
        },
        "of a step or of the step before",
    ),
    "the step before, of an action": (
        {"mapping": RdtMapping("x", (Take("qpos", 0, 6, 0),), previous(Take("actions", 0, 6, 0)))},
        "rdt_pretrain alone",
    ),
    "fields of LIBERO": ({"mapping": "hdf5_libero_s1"}, "joint_states"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_when_it_is_made(case: str, aloha: Path) -> None:
    options, message = WRONG[case]
    given = {"mapping": "agilex", "dataset_name": "agilex", "action": "actions", "cameras": CAMERAS, **options}
    with pytest.raises((vla_store.UsageError, TypeError), match=message):
        rdt_pretrain(aloha, **given)
