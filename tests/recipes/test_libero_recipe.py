from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same

pytest.importorskip("h5py", reason="the other implementation reads the demonstrations with h5py")

from recipes import oracle_rdt as oracle

import vla_store
from vla_store.recipes import libero

EPISODES = (3, 10, 11)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def test_every_anchor_is_what_liberos_dataset_yields(demo_store: Path, demos: Path) -> None:
    dataset = libero(demo_store, episodes=EPISODES)
    at = 0
    for number in EPISODES:
        each = dataset.store.episodes[number]
        demo = oracle.load(demos / "libero" / each.suite / each.file, each.number)
        for t in range(demo.steps):
            assert_same(dataset[at], oracle.libero_item(demo, t), f"episode {number}, step {t}")
            at += 1
    assert at == len(dataset)
    assert_same(dataset.__getitems__([0, at - 1]), [dataset[0], dataset[-1]])


def test_an_embedding_stands_in_place_of_the_text(demo_store: Path) -> None:
    tasks = vla_store.open_store(demo_store).tasks
    embeddings = {task.text: np.full(768, at, np.float32) for at, task in enumerate(tasks)}
    dataset = libero(demo_store, task_emb=embeddings, episodes=[11])
    item = dataset[4]
    assert list(item) == ["actions", "obs", "task_emb"]
    text = next(task.text for task in tasks if task.name == dataset.store.episodes[11].task)
    assert_same(item["task_emb"], embeddings[text])
    item["task_emb"][...] = -1
    assert_same(dataset[5]["task_emb"], embeddings[text])
    with pytest.raises(vla_store.UnknownName, match="no embedding of task"):
        libero(demo_store, task_emb={"another": np.zeros(3)})


def test_arrays_are_fresh_and_it_pickles_small(demo_store: Path) -> None:
    dataset = libero(demo_store)
    expected = dataset[100]
    spoilt: dict[str, Any] = dataset[100]
    for array in (spoilt["actions"], *spoilt["obs"].values()):
        array[...] = 9
    dumped = pickle.dumps(dataset)
    assert len(dumped) < 4_000
    assert_same(pickle.loads(dumped)[100], expected)


def test_a_dataloader_and_the_loader_collate_it(demo_store: Path) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.torch import Loader

    dataset = libero(demo_store, episodes=[11])
    batch = next(iter(torch.utils.data.DataLoader(dataset, 4, num_workers=1)))
    with Loader(dataset, batch_size=4, shuffle=False, workers=1) as loader:
        same = next(iter(loader))
    expected = np.stack([dataset[at]["obs"]["agentview_rgb"] for at in range(4)])
    for made in (batch, same):
        assert made["actions"].shape == (4, 10, 7)
        assert_same(made["obs"]["agentview_rgb"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "sequence_length is a whole number"),
        ({"cameras": ("front",)}, "no camera 'front'"),
        ({"cameras": ("actions",)}, "'actions' is not what libero takes"),
        ({"low_dim": ("agentview_rgb",)}, "'agentview_rgb' is not what libero takes"),
        ({"low_dim": ("qpos",)}, "no field 'qpos'"),
        ({"alignment": "late"}, "no alignment 'late'"),
        ({"cameras": "agentview_rgb"}, "cameras is a list of fields"),
        ({"low_dim": "ee_states"}, "low_dim is a list of fields"),
        ({"task_emb": [1.0]}, "task_emb is a dict"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(options: dict[str, Any], message: str, demo_store: Path) -> None:
    with pytest.raises(vla_store.UsageError, match=message):
        libero(demo_store, **options)


def test_liberos_training_finds_what_it_asks_its_datasets_for(demo_store: Path) -> None:
    dataset = libero(demo_store, suites="libero_goal", tasks="put_the_bowl_on_the_plate")
    assert (dataset.n_demos, dataset.total_num_sequences) == (3, 427) == (3, len(dataset))
    assert dataset.shape_meta == {
        "ac_dim": 7,
        "all_shapes": {
            "agentview_rgb": [3, 128, 128],
            "eye_in_hand_rgb": [3, 128, 128],
            "gripper_states": [2],
            "joint_states": [7],
        },
        "all_obs_keys": ["agentview_rgb", "eye_in_hand_rgb", "gripper_states", "joint_states"],
        "use_images": True,
    }


def test_it_says_that_an_action_comes_with_its_own_result(demo_store: Path) -> None:
    assert "after it" in repr(libero(demo_store))
    assert "after it" not in repr(libero(demo_store, alignment="causal"))
