from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import view_tools
from comparing import assert_same
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("h5py", reason="the other implementation reads the demonstrations with h5py")

from recipes import oracle_rdt as oracle

import vla_store
from vla_store import OptionError, SourceError, UnknownName
from vla_store.builder import SourceInfo, build_store
from vla_store.manage.recode import StoreSource
from vla_store.recipes import rdt
from vla_store.recipes.conversions import six_of_axis_angle, six_of_euler_xyz
from vla_store.recipes.rdt import MAPPINGS, RdtDataset, RdtMapping, Take

PORTS = {"L": "rdt_libero_finetune", "S1": "hdf5_libero_s1", "S2": "hdf5_libero_s2"}
EPISODES = (3, 10, 11)  # of three suites; 139, 127 and 123 steps
ROTATED = range(33, 39)

# Forking a process that has threads is deprecated in Python 3.12; torch's DataLoader does it by default all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def originals(demo_store: Path, demos: Path) -> dict[int, oracle.Demo]:
    """The demos of EPISODES, from their files."""
    found = {}
    for number in EPISODES:
        each = vla_store.open_store(demo_store).episodes[number]
        found[number] = oracle.load(demos / "libero" / each.suite / each.file, each.number)
    return found


def made(store: Path, port: str, **options: Any) -> RdtDataset:
    return rdt(store, mapping=PORTS[port], **{"episodes": EPISODES, **options})


def assert_item(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Everything to the bit, but for the 6 numbers of rotations, which are sines and cosines: to 1e-12."""
    assert set(found) == set(expected), where
    for key, value in expected.items():
        if key in ("state", "actions", "state_mean", "state_std", "state_norm"):
            left, right = found[key].copy(), np.array(value)
            assert (left.shape, left.dtype) == (right.shape, np.dtype(float)), f"{where}: {key}"
            assert np.abs(left[..., ROTATED] - right[..., ROTATED]).max() < 1e-12, f"{where}: {key}"
            left[..., ROTATED] = right[..., ROTATED] = 0
            assert_same(left, right, f"{where}: {key}")
        else:
            assert_same(found[key], value, f"{where}: {key}")


# --- equal to the ports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["L", "S1"])
def test_every_anchor_is_what_the_port_yields(port: str, demo_store: Path, originals: dict[int, oracle.Demo]) -> None:
    """With the port's own options: still starts skipped, its instruction, and for S1 its Euler routine."""
    euler = {"rotation": "euler_xyz"} if port == "S1" else {}
    dataset = made(
        demo_store,
        port,
        skip_still_start=True,
        instruction="file_name" if port == "L" else "source",
        dataset_name="libero_90",
        **euler,
    )
    at = 0
    for number, demo in originals.items():
        episode = oracle.Episode(demo, port, euler=port == "S1", skip=True)
        instruction = oracle.text_of(demo.path) if port == "L" else demo.problem_instruction
        anchors = range(episode.first, demo.steps)
        for t, found in zip(anchors, dataset.__getitems__(range(at, at + len(anchors))), strict=True):
            assert_item(found, episode.item(t, "libero_90", instruction), f"episode {number}, step {t}")
        at += len(anchors)
    assert at == len(dataset)


@pytest.mark.parametrize("port", ["S1", "S2"])
def test_every_step_is_an_anchor_by_default_and_rotations_are_axis_angle(
    port: str, demo_store: Path, originals: dict[int, oracle.Demo]
) -> None:
    dataset = made(demo_store, port)
    steps = [(number, t) for number, demo in originals.items() for t in range(demo.steps)]
    assert len(dataset) == len(steps)
    episodes = {number: oracle.Episode(demo, port) for number, demo in originals.items()}
    actions = np.concatenate([each.actions for each in episodes.values()])
    for index, (number, t) in enumerate(steps):
        expected = episodes[number].item(t, "libero", oracle.text_of(originals[number].path))
        found = dataset.get_item(index)
        if port == "S2":  # the standard deviation of all actions, which is merged block by block
            norm = found.pop("state_norm")
            assert np.abs(norm - (actions.std(axis=0) + 1e-8)).max() < 1e-12
            assert norm[60] == 1e-8
            del expected["state_norm"]
        assert_item(found, expected, f"episode {number}, step {t}")


def test_s3_draws_no_anchor_from_the_last_63_steps(demo_store: Path, originals: dict[int, oracle.Demo]) -> None:
    dataset = made(demo_store, "S2", tail=63, rotation="euler_xyz", instruction="source")
    expected = [(number, t) for number, demo in originals.items() for t in range(demo.steps - 63)]
    assert [(place["episode"], place["step"]) for place in map(dataset.place, range(len(dataset)))] == expected
    masks = [dataset[index]["cam_high_mask"].tolist() for index in (0, 1, 2)]
    assert masks == [[False, True], [True, True], [True, True]]


def test_causal_items_hold_what_was_seen_before_the_action(demo_store: Path, originals: dict[int, oracle.Demo]) -> None:
    dataset = made(demo_store, "S1", alignment="causal", skip_still_start=False)
    at = 0
    for number, demo in originals.items():
        episode = oracle.Episode(demo, "S1")
        for t in range(1, demo.steps):
            expected = episode.item(t, "libero", oracle.text_of(demo.path), late=1)
            assert_item(dataset[at], expected, f"episode {number}, step {t}")
            at += 1
    assert at == len(dataset)


def test_causal_still_starts_are_counted_in_observations(demo_store: Path, originals: dict[int, oracle.Demo]) -> None:
    dataset = made(demo_store, "L", alignment="causal", skip_still_start=True)
    at = 0
    for number, demo in originals.items():
        episode = oracle.Episode(demo, "L", skip=True)
        for t in range(episode.first + 1, demo.steps):
            place = dataset.place(at)
            assert (place["episode"], place["step"]) == (number, t)
            if t < episode.first + 4:
                expected = episode.item(t, "libero", oracle.text_of(demo.path), late=1)
                assert_item(dataset[at], expected, f"episode {number}, step {t}")
            at += 1
    assert at == len(dataset)


def test_the_frame_before_a_skipped_start_is_real_and_masked(
    demo_store: Path, originals: dict[int, oracle.Demo]
) -> None:
    starts = {number: oracle.Episode(demo, "L", skip=True).first for number, demo in originals.items()}
    number, first = next((number, first) for number, first in starts.items() if first > 0)
    item = made(demo_store, "L", skip_still_start=True, episodes=[number])[0]
    assert item["meta"]["step_id"] == first
    assert item["cam_high_mask"].tolist() == [False, True]
    pictures = originals[number].arrays["agentview_rgb"]
    assert_same(item["cam_high"], pictures[[first - 1, first]])


def test_the_six_numbers_turn_as_the_quaternion_of_the_same_row_does(demo_store: Path) -> None:
    """`robot_states` holds the same rotation once more, as xyzw; the port's Euler routine is far from it."""
    store = vla_store.open_store(demo_store)
    rows = np.arange(0, store.rows, 41)
    expected = [
        [*matrix[:, 0], *matrix[:, 1]]
        for matrix in map(oracle.matrix_of_quaternion, store.read("robot_states", rows)[:, 5:9])
    ]
    orientation = store.read("ee_ori", rows)
    assert np.abs(six_of_axis_angle(orientation) - expected).max() < 1e-6
    assert np.abs(six_of_euler_xyz(orientation) - expected).max(axis=1).mean() > 0.2


@given(st.lists(st.floats(-20, 20) | st.sampled_from([0.0, 1e-300, 1e-9, np.pi]), min_size=3, max_size=3))
def test_any_rotation_gives_the_first_two_columns_of_its_matrix(vector: list[float]) -> None:
    for function, matrix_of in (
        (six_of_axis_angle, oracle.matrix_of_axis_angle),
        (six_of_euler_xyz, oracle.matrix_of_euler),
    ):
        found = function(np.array([[vector]]))
        assert found.shape == (1, 1, 6)
        matrix = matrix_of(np.array(vector))
        assert np.abs(found[0, 0] - [*matrix[:, 0], *matrix[:, 1]]).max() < 1e-12


# --- the interface -------------------------------------------------------------------------------------------------------


def test_without_an_index_it_says_why_and_which_line_to_change(demo_store: Path) -> None:
    with pytest.raises(OptionError, match=r"get_item\(\) needs an index") as raised:
        made(demo_store, "L").get_item()
    for part in ("share nothing", "train/dataset.py", "self.hdf5_dataset.get_item(index)"):
        assert part in str(raised.value)


def test_state_only_gives_the_whole_trajectory(demo_store: Path, originals: dict[int, oracle.Demo]) -> None:
    number = EPISODES[0]
    for skip in (False, True):
        episode = oracle.Episode(originals[number], "L", skip=skip)
        found = made(demo_store, "L", skip_still_start=skip).get_item(3, state_only=True)
        assert_same(found, {"state": episode.states[episode.first :], "action": episode.actions[episode.first :]})
    last = made(demo_store, "L").get_item(-1, state_only=True)
    assert len(last["state"]) == originals[EPISODES[-1]].steps
    with pytest.raises(IndexError):
        made(demo_store, "L").get_item(10_000, state_only=True)


@pytest.mark.parametrize(("port", "skip"), [("L", True), ("S1", False)])
def test_dataset_stat_is_over_every_row_once(
    port: str, skip: bool, demo_store: Path, originals: dict[int, oracle.Demo]
) -> None:
    episodes = [oracle.Episode(demo, port, skip=skip) for demo in originals.values()]
    expected = oracle.dataset_stat(episodes, "mine")
    found = made(demo_store, port, skip_still_start=skip, dataset_name="mine").dataset_stat()
    assert list(found) == list(expected)
    assert found["dataset_name"] == "mine"
    for key in list(expected)[1:]:
        assert isinstance(found[key], list)
        assert np.abs(np.array(found[key]) - expected[key]).max() < 1e-10, key


def test_the_entry_is_written_beside_the_others(demo_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "dataset_stat.json"
    dataset = made(demo_store, "S2", dataset_name="mine")
    entry = dataset.write_dataset_stat(path)
    path.write_text(json.dumps({"other": {"state_mean": [1]}} | json.loads(path.read_text())))
    dataset.write_dataset_stat(path)
    found = json.loads(path.read_text())
    assert list(found) == ["other", "mine"]
    assert found["mine"] == entry
    # What S2 and S3 read as their state_norm.
    assert np.array_equal(np.array(found["mine"]["action_std"]) + 1e-8, dataset[0]["state_norm"])
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("{")
    with pytest.raises(OptionError, match="no JSON"):
        dataset.write_dataset_stat(path)
    assert path.read_text() == "{"


def test_arrays_are_fresh_and_writable(demo_store: Path) -> None:
    dataset = made(demo_store, "S2", episodes=[11])
    expected = pickle.loads(pickle.dumps([dataset[5], dataset[6]]))
    batch = dataset.__getitems__([5, 6, 5])
    for spoilt in (dataset[5], batch[0], batch[1]):
        for value in spoilt.values():
            if isinstance(value, np.ndarray):
                value[...] = 1
        spoilt["meta"]["instruction"] = "spoilt"
    assert_same(batch[2], expected[0])
    assert_same([dataset[5], dataset[6]], expected)


def test_instructions_are_of_the_file_name_the_source_or_given(
    demo_store: Path, tiny_store: Path, originals: Any
) -> None:
    texts = {task.text for task in vla_store.open_store(demo_store).tasks}
    paths = {text: f"embeddings/{at}.pt" for at, text in enumerate(sorted(texts))}
    demo = originals[11]
    assert made(demo_store, "L", episodes=[11])[0]["meta"]["instruction"] == oracle.text_of(demo.path)
    assert made(demo_store, "L", episodes=[11], instruction="source")[0]["meta"]["instruction"] == (
        demo.problem_instruction
    )
    given_paths = made(demo_store, "L", episodes=[11], instruction=paths)
    assert given_paths[0]["meta"]["instruction"] == paths[oracle.text_of(demo.path)]
    with pytest.raises(UnknownName, match=r"(?s)no instruction for task .*episode"):
        made(demo_store, "L", instruction={"another": "text"})
    # In the tiny store the two differ.
    tiny = [
        rdt(tiny_store, mapping="hdf5_libero_s1", instruction=each, suites="libero_spatial")
        for each in ("file_name", "source")
    ]
    assert [each[0]["meta"]["instruction"][:13] for each in tiny] == ["pick up the b", "pick the bowl"]


def test_cameras_can_be_left_out_or_stand_elsewhere(demo_store: Path) -> None:
    dataset = made(demo_store, "L", cameras={"cam_left_wrist": "eye_in_hand_rgb", "cam_high": "eye_in_hand_rgb"})
    item = dataset[0]
    assert item["cam_right_wrist"].shape == (2, 0, 0, 0)
    assert not item["cam_right_wrist_mask"].any()
    assert_same(item["cam_left_wrist"], item["cam_high"])
    item["cam_high"][...] = 0
    assert item["cam_left_wrist"].any()
    assert list(dataset.columns)[:2] == ["joint_states", "joint_states_is_pad"]
    assert "agentview_rgb" not in dataset.columns


def test_short_episodes_are_left_out_on_request(demo_store: Path, originals: dict[int, oracle.Demo]) -> None:
    dataset = made(demo_store, "L", shortest=128)
    assert len(dataset) == sum(demo.steps for demo in originals.values() if demo.steps >= 128) < 389
    assert "139 anchors of 389 steps" in repr(dataset)


@pytest.mark.parametrize("skip", [False, True])
def test_under_a_view_of_steps_an_episode_is_what_the_view_keeps(
    skip: bool, demo_store: Path, originals: dict[int, oracle.Demo], tmp_path: Path
) -> None:
    """As if the other rows had never been in the file; the last rows kept are those of no stretch of its own."""
    store = Path(shutil.copytree(demo_store, tmp_path / "viewed.vla", copy_function=os.link))
    opened = vla_store.open_store(store)
    masks = [[step % 7 != 3 and step < each.length - 4 for step in range(each.length)] for each in opened.episodes]
    tasks = [(each.suite, each.file.removesuffix("_demo.hdf5")) for each in opened.episodes]
    view_tools.put_views(store, {"some": view_tools.view_json("steps", masks, tasks)})
    dataset = made(store, "S1", view="some", skip_still_start=skip, tail=2)
    at = 0
    episodes = []
    for number, demo in originals.items():
        kept = np.flatnonzero(masks[number])
        arrays = {name: array[kept] for name, array in demo.arrays.items()}
        episodes.append(oracle.Episode(dataclasses.replace(demo, arrays=arrays), "S1", skip=skip))
        for t in range(episodes[-1].first, len(kept) - 2):
            assert dataset.place(at)["step"] == kept[t]
            expected = episodes[-1].item(t, "libero", oracle.text_of(demo.path))
            assert_item(dataset[at], expected, f"episode {number}, kept step {t}")
            at += 1
    assert at == len(dataset)
    expected = oracle.dataset_stat(episodes, "libero")
    assert np.abs(np.array(dataset.dataset_stat()["state_std"]) - expected["state_std"]).max() < 1e-10


# --- training ------------------------------------------------------------------------------------------------------------


class Consumer:
    """A stand-in for RDT's VLAConsumerDataset, reduced to what it does with its dataset, with the two changed lines."""

    def __init__(self, dataset: RdtDataset) -> None:
        self.hdf5_dataset = dataset  # the first: it was HDF5VLADataset()

    def __len__(self) -> int:
        return len(self.hdf5_dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        res = self.hdf5_dataset.get_item(index)  # the second: it was get_item()
        content = res["meta"]
        states = res["state"]
        states += np.random.normal(0.0, res["state_std"] / 100, states.shape)  # in place, as there
        return {
            "place": (content["instruction"], content["#steps"], content["step_id"]),
            "states": states,
            "actions": res["actions"],
            "images": np.concatenate([res["cam_high"], res["cam_right_wrist"]]),
        }


def consumed(batch: list[dict[str, Any]]) -> list[Any]:
    return [each["place"] for each in batch if each["images"].any() and each["actions"].any()]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_consumer_with_two_changed_lines_gets_each_anchor_exactly_once(
    method: str, demo_store: Path, originals: dict[int, oracle.Demo]
) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = made(demo_store, "L")
    loader = data.DataLoader(
        Consumer(dataset), 16, shuffle=True, num_workers=2, collate_fn=consumed, multiprocessing_context=method
    )
    places = Counter(place for batch in loader for place in batch)
    expected = [(oracle.text_of(demo.path), demo.steps, t) for demo in originals.values() for t in range(demo.steps)]
    assert places == Counter(expected)


def test_the_loader_gives_the_same_items(demo_store: Path) -> None:
    torch = pytest.importorskip("vla_store.torch")
    dataset = made(demo_store, "S2", episodes=[11])
    with torch.Loader(dataset, batch_size=16, shuffle=False, workers=1) as loader:
        batch = next(iter(loader))
    expected = [dataset[index] for index in range(16)]
    for key in ("state", "actions", "state_norm", "cam_high", "cam_left_wrist", "cam_high_mask"):
        assert_same(batch[key], np.stack([each[key] for each in expected]), key)
    assert batch["meta"]["step_id"].tolist() == list(range(16))
    assert batch["meta"]["instruction"] == [each["meta"]["instruction"] for each in expected]


def test_it_pickles_small_and_reads_the_same(demo_store: Path) -> None:
    dataset = rdt(demo_store, mapping="hdf5_libero_s2", skip_still_start=True)
    before = dataset[1234]
    dumped = pickle.dumps(dataset)
    assert len(dumped) < 8_000
    assert_same(pickle.loads(dumped)[1234], before)


def test_importing_it_loads_no_torch() -> None:
    """The Loader's workers, and spawned ones, import it."""
    code = "import sys, vla_store.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# --- wrong use and bad data ------------------------------------------------------------------------------------------------


def test_the_mapping_must_be_named(demo_store: Path) -> None:
    with pytest.raises(OptionError, match="mapping must be named") as raised:
        rdt(demo_store)
    assert all(name in str(raised.value) for name in MAPPINGS)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "mapping": ({"mapping": "RDT"}, "no mapping 'RDT'"),
    "rotation": ({"rotation": "quaternion"}, "no rotation 'quaternion'"),
    "rotation of a mapping that has none": (
        {"mapping": "rdt_libero_finetune", "rotation": "axis_angle"},
        "turns no rotation",
    ),
    "camera": ({"cameras": {"cam_top": "agentview_rgb"}}, "no camera of RDT 'cam_top'"),
    "field of a camera": ({"cameras": {"cam_high": "front"}}, "no camera 'front'"),
    "instruction": ({"instruction": "mine"}, "no instruction 'mine'"),
    "state_norm": ({"state_norm": [1.0, 2.0]}, r"(?s)another shape.*128"),
    "chunk_size": ({"chunk_size": 0}, "chunk_size is a whole number"),
    "tail": ({"tail": -1}, "tail is a whole number"),
    "option": ({"colour": "red"}, "colour"),
    "nothing left": ({"shortest": 4_000}, "no step of the selection"),
    "slots taken twice": (
        {
            "mapping": RdtMapping(
                "mine", (Take("ee_pos", 0, 3, 0), Take("ee_ori", 0, 3, 2)), (Take("actions", 0, 7, 0),), ()
            )
        },
        "fills slots outside the vector, or twice",
    ),
    "numbers that a field has not": (
        {"mapping": RdtMapping("mine", (Take("ee_pos", 0, 4, 0),), (Take("actions", 0, 7, 0),), ())},
        "is not what rdt",
    ),
    "slots of the action": (
        {"mapping": RdtMapping("mine", (Take("ee_pos", 0, 3, 0),), (Take("actions", 0, 7, 122),), ())},
        "fills slots outside the vector",
    ),
    "slots of the action twice": (
        {
            "mapping": RdtMapping(
                "mine", (Take("ee_pos", 0, 3, 0),), (Take("actions", 0, 3, 5), Take("actions", 3, 6, 7)), ()
            )
        },
        "or twice",
    ),
    "cameras in a list": ({"cameras": ["cam_high"]}, "cameras is a dict"),
    "a field of both": (
        {"mapping": RdtMapping("mine", (Take("actions", 0, 3, 0),), (Take("actions", 0, 7, 0),), ())},
        "not both",
    ),
    "a norm": (
        {"mapping": RdtMapping("mine", (Take("ee_pos", 0, 3, 0),), (Take("actions", 0, 7, 0),), (), norm="max")},
        "no norm 'max'",
    ),
}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("qpos", -7, 14, 0), "start of what is taken of 'qpos' is a whole number of at least 0"),
        (("qpos", 3, 3, 0), "stop of what is taken of 'qpos' is a whole number of at least 4"),
        (("qpos", "0", 3, 0), "start of"),
        (("qpos", 0, 3.0, 0), "stop of"),
        (("qpos", 0, 3, -1), "slot of what is taken of 'qpos' is a whole number from 0 to 127"),
        (("qpos", 0, 3, 128), "slot of"),
        (("qpos", 0, 3, 0, 5), "convert of"),
        ((["qpos"], 0, 3, 0), "by its name"),
    ],
)
def test_what_cannot_be_taken_is_refused_at_once(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Take(*given)


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_when_it_is_made(case: str, demo_store: Path) -> None:
    options, message = WRONG[case]
    with pytest.raises((vla_store.UsageError, TypeError), match=message):
        rdt(demo_store, **{"mapping": "hdf5_libero_s1", **options})


def test_a_mapping_of_ones_own(demo_store: Path) -> None:
    mapping = RdtMapping("mine", (Take("ee_pos", 1, 3, 60),), (Take("actions", 6, 7, 127),), (), norm="action_std")
    dataset = rdt(demo_store, mapping=mapping, state_norm=np.arange(128), chunk_size=3, img_history_size=1)
    item = dataset[7]
    store = vla_store.open_store(demo_store)
    assert_same(item["state"][0, 60:62], store.read("ee_pos", [7])[0, 1:])
    assert_same(item["actions"][:, 127], store.read("actions", [7, 8, 9])[:, 6])
    assert item["actions"].shape == (3, 128)
    assert item["cam_high"].shape[0] == 1
    assert_same(item["state_norm"], np.arange(128.0))
    assert np.flatnonzero(item["state_indicator"]).tolist() == [60, 61]


def test_an_error_names_the_sample(demo_store: Path) -> None:
    dataset = made(demo_store, "L", episodes=[3, 11], transform=_fail_at_2)
    reads: list[Callable[[], Any]] = [
        lambda: dataset[141],
        lambda: dataset.get_item(141),
        lambda: dataset.__getitems__([140, 141]),
    ]
    for read in reads:
        with pytest.raises(vla_store.VlaStoreError, match="could not be made") as raised:
            read()
        places = raised.value.places
        assert (places["sample"], places["episode"], places["step"]) == ("141", "11", "2")
        assert places["row"] == str(dataset.store.episodes[11].start + 2)
        assert str(demo_store) in places["store"]
    mapping = RdtMapping("mine", (Take("ee_pos", 0, 3, 0, _few_at_once),), (Take("actions", 0, 7, 0),), ())
    spoilt = rdt(demo_store, mapping=mapping, episodes=[3, 11])
    for read in (lambda: spoilt[141], lambda: spoilt.get_item(141, state_only=True)):
        with pytest.raises(vla_store.VlaStoreError, match="could not be made") as raised:
            read()
        assert (raised.value.places["sample"], raised.value.places["step"]) == ("141", "2")


def _few_at_once(values: np.ndarray) -> np.ndarray:
    if values.size > 3:
        raise ValueError("that many")
    return values


def _fail_at_2(item: dict[str, Any]) -> Any:
    if item["meta"]["step_id"] == 2:
        raise ValueError("two")
    return item


def test_an_episode_that_never_moves_is_named_or_used_whole(tiny_store: Path) -> None:
    """The tiny store has an episode of a single step."""
    cameras = {"cam_high": "agentview_rgb"}
    with pytest.raises(SourceError, match="never moves") as raised:
        rdt(tiny_store, mapping="rdt_libero_finetune", skip_still_start=True, cameras=cameras)
    assert raised.value.places["demo"] == "demo_1"
    assert "open_the_middle_drawer" in raised.value.places["file"]
    whole = rdt(tiny_store, mapping="hdf5_libero_s1", skip_still_start=True, cameras=cameras, suites="libero_goal")
    assert [whole.place(at)["step"] for at in range(len(whole))] == [*range(16), 0, *range(5)]
    left_out = rdt(tiny_store, mapping="rdt_libero_finetune", skip_still_start=True, shortest=2, cameras=cameras)
    assert len(left_out) == vla_store.open_store(tiny_store).rows - 1


# --- SigLIP's pictures -----------------------------------------------------------------------------------------------------


def processed(picture: np.ndarray | None) -> np.ndarray:
    """(3, 384, 384) float32 by PIL and NumPy, as RDT's consumer and its processor make it; None for the background."""
    image = pytest.importorskip("PIL.Image")
    if picture is None:
        picture = np.full((384, 384, 3), 127, np.uint8)
    side = max(picture.shape[:2])
    square = image.new("RGB", (side, side), (127, 127, 127))
    square.paste(image.fromarray(picture), ((side - picture.shape[1]) // 2, (side - picture.shape[0]) // 2))
    resized = np.asarray(square.resize((384, 384), image.BICUBIC))
    scaled = (resized * (1 / 255)).astype(np.float32)
    return ((scaled - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1)


def test_pictures_on_the_device_are_those_of_rdts_consumer(demo_store: Path) -> None:
    torch = pytest.importorskip("vla_store.torch")
    from vla_store.recipes import SiglipImages

    dataset = made(demo_store, "L", episodes=[11])
    with torch.Loader(
        dataset, batch_size=3, shuffle=False, workers=0, device="cpu", batch_transform=SiglipImages()
    ) as loader:
        batch = next(iter(loader))
    assert not any(key.startswith("cam_") for key in batch)
    assert batch["images"].shape == (3, 6, 3, 384, 384)
    for number in range(3):
        item = dataset[number]
        expected = [
            processed(item[camera][time] if item[f"{camera}_mask"][time] else None)
            for time in range(2)
            for camera in ("cam_high", "cam_right_wrist", "cam_left_wrist")
        ]
        assert_same(batch["images"][number], np.stack(expected))


@pytest.mark.parametrize("shape", [(256, 256), (84, 84), (384, 384), (500, 500), (60, 90), (91, 60)])
def test_any_size_is_resized_as_pil_does(shape: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.recipes.siglip import resized

    image = pytest.importorskip("PIL.Image")
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    found = resized(torch.from_numpy(pictures).movedim(-1, 1), 384, 127)
    side = max(shape)
    for picture, got in zip(pictures, found):
        square = image.new("RGB", (side, side), (127, 127, 127))
        square.paste(image.fromarray(picture), ((side - shape[1]) // 2, (side - shape[0]) // 2))
        assert_same(got.movedim(0, -1), np.asarray(square.resize((384, 384), image.BICUBIC)))


def test_pictures_are_masked_with_the_probabilities_asked_for(demo_store: Path) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.recipes import SiglipImages

    items = [made(demo_store, "L", episodes=[11])[step] for step in (0, 40)]
    pictures = {key: np.stack([each[key] for each in items]) for key in items[0] if key.startswith("cam_")}

    def background(transform: Callable[..., Any], seed: int = 0) -> np.ndarray:
        """Which of (2 samples, 2 times, 3 cameras) are the background; the left wrist always is."""
        batch = {key: torch.from_numpy(value) for key, value in pictures.items()}
        images = transform(batch, np.random.default_rng(seed))["images"]
        return np.asarray((images == images[0, 2, 0, 0, 0]).all(dim=(2, 3, 4))).reshape(2, 2, 3)

    shown = background(SiglipImages())
    assert shown[..., 2].all()
    assert shown[..., :2].ravel().tolist() == [True, True, *[False] * 6]  # the older frames of the first step
    only_exterior = background(SiglipImages(0.0, 1.0))
    assert only_exterior[..., 0].all()
    assert not only_exterior[1, :, 1].any()
    drawn = [background(SiglipImages(0.5), seed) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(OptionError, match="probability"):
        SiglipImages(2.0)
    with pytest.raises(OptionError, match="has no tensors"):
        SiglipImages()(pictures, np.random.default_rng(0))


# --- several instructions -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reworded:
    """A source of a store, whose episodes have the three kinds of instructions that RDT trains with."""

    of: StoreSource
    suite: str = "suite"
    file: str = "reworded"

    def scan(self) -> SourceInfo:
        info = self.of.scan()
        kinds = {"simplified": ("wipe it",), "expanded": ("take the cloth, and wipe it", "wipe it with the cloth")}
        episodes = tuple(dataclasses.replace(each, instructions=kinds) for each in info.episodes)
        return dataclasses.replace(info, suite=self.suite, file=self.file, episodes=episodes, skipped=())

    def read(self, number: int, field: str, start: int, stop: int) -> Any:
        return self.of.read(number, field, start, stop)

    def attributes(self, number: int | None) -> Any:
        return self.of.attributes(number)


def test_instructions_are_drawn_among_the_kinds_of_the_store(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="it builds a store")
    opened = vla_store.open_store(tiny_store)
    build_store([Reworded(StoreSource(opened.url, opened.digest, 0, 0))], tmp_path / "x.vla", preset="raw")
    options = {"mapping": PORTS["S2"]}
    drawn = rdt(tmp_path / "x.vla", instruction="random", **options)
    text = drawn.store.episodes[0].text
    counts = Counter(drawn.batch([0] * 600)["meta"]["instruction"])
    shares = {text: 1 / 3, "wipe it": 1 / 3, "take the cloth, and wipe it": 1 / 6, "wipe it with the cloth": 1 / 6}
    assert counts.keys() == shares.keys()
    assert all(abs(counts[each] / 600 - share) < 0.08 for each, share in shares.items())
    simplified = rdt(tmp_path / "x.vla", instruction="simplified", **options)
    assert {simplified[0]["meta"]["instruction"], simplified.get_item(1)["meta"]["instruction"]} == {"wipe it"}
    assert rdt(tmp_path / "x.vla", **options)[0]["meta"]["instruction"] == text
    with pytest.raises(UnknownName, match="simple"):
        rdt(tmp_path / "x.vla", instruction="simple", **options)
