"""The recipes and RDT's own code: what its producer writes to the buffer, and its consumer and collator with the lines changed that
the how-tos change.

VLA_STORE_RDT_REPO names a git repository of thu-ml/RoboticsDiffusionTransformer, VLA_STORE_RDT_ENV a Python that has what its
train/dataset.py imports (torch, torchvision, transformers 4.41, imgaug, NumPy 1.26), VLA_STORE_RDT_PRODUCER_ENV one with TensorFlow
and PyYAML; `pytest --campaign` runs this.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("h5py", reason="a source is written with h5py")
pytest.importorskip("zarr", reason="a store is built")

import h5py
import tiny_layouts
from recipes import oracle_rdt_pretrain as oracle
from recipes.agilex import agilex
from recipes.test_rdt_pretrain import of_libero

from vla_store.builder import build_store
from vla_store.recipes import RdtMapping, Take, rdt_buffered, rdt_pretrain
from vla_store.recipes.rdt import MAPPINGS

COMMIT = "deb71d8"
PYTHON, PRODUCER, REPOSITORY = (os.environ.get(f"VLA_STORE_RDT_{name}", "") for name in ("ENV", "PRODUCER_ENV", "REPO"))
TESTS = Path(__file__).parents[1]
EPISODES, LENGTHS = (3, 10, 11), (70, 33, 5)
CHANCE, COUNT = 0.2, 200
MOMENTS = ("state_std", "state_mean", "state_norm")
NO_STATE = "cmu_franka_exploration_dataset_converted_externally_to_rlds"  # one of four [RDT data/preprocess.py:11-16]
# Names of slots [RDT configs/state_vec.py].
S1 = [*(f"arm_joint_{number}_pos" for number in range(7)), "gripper_open", "eef_pos_x", "eef_pos_y", "eef_pos_z"]
S1 += [f"eef_angle_{number}" for number in range(6)]
ARMS = [
    name
    for side in ("left", "right")
    for name in (*(f"{side}_arm_joint_{number}_pos" for number in range(6)), f"{side}_gripper_open")
]
BASE = ["base_vel_x", "base_vel_y"]


def given_episodes(store: Path, demos: Path, aloha: Path) -> Iterator[dict[str, Any]]:
    """What the producer is given: of LIBERO; of RDT's own robot; of it as if it had no state; and of it with a base, which moves by the
    first two numbers of an action."""
    for each in of_libero(store, demos):
        frames = {f"frames_{at}": value for at, value in enumerate(each.cameras) if value is not None}
        yield {
            "name": "libero",
            "text": each.text,
            "states": each.states[:, each.slots],
            "format": ",".join(S1),
        } | frames
    for name in ("agilex", NO_STATE, "aloha_mobile"):
        for number in range(3):
            path = aloha.with_suffix("") / f"wipe_wine/episode_{number}.hdf5"
            each, arms = oracle.of_agilex(path), oracle.AGILEX
            frames = {f"frames_{at}": value for at, value in enumerate(each.cameras) if value is not None}
            if name == "agilex":
                with h5py.File(path) as file:
                    arrays: dict[str, Any] = {"qpos": file["observations/qpos"][()], "action": file["action"][()]}
            else:
                arrays = {"states": each.states[:, arms], "format": ",".join(ARMS), "arm": each.actions[:, arms]}
                base = [] if name == NO_STATE else BASE
                arrays |= {"base": each.actions[:, arms[:2]]} if base else {}
                arrays["action_format"] = ",".join([*ARMS, *base])
            yield {"name": name, "text": "wipe wine", **arrays, **frames}


@pytest.fixture
def rdts(tmp_path: Path) -> Path:
    """A copy of RDT's repository, to be changed."""
    archive = subprocess.run(["git", "-C", REPOSITORY, "archive", COMMIT], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "rdt", filter="data")
    return tmp_path / "rdt"


@pytest.fixture
def aloha(tmp_path: Path) -> Path:
    """A store of three episodes in ALOHA's layout, and beside it their files."""
    for number, steps in enumerate(LENGTHS):
        tiny_layouts.aloha(tmp_path / "aloha/wipe_wine", number, steps=steps)
    build_store([tmp_path / "aloha"], tmp_path / "aloha.vla")
    return tmp_path / "aloha.vla"


def run(python: str, script: str, folder: Path, *arguments: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "HF_HUB_OFFLINE": "1"}
    command = [python, str(TESTS / "recipes" / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.campaign
@pytest.mark.skipif(not PRODUCER or not REPOSITORY, reason="VLA_STORE_RDT_PRODUCER_ENV and _REPO are not set")
def test_every_step_is_what_rdts_producer_writes(
    demo_store: Path, demos: Path, aloha: Path, rdts: Path, tmp_path: Path
) -> None:
    """Numbers to the bit, but for what float32 rounds: TensorFlow sums an episode's moments in float32."""
    (tmp_path / "episodes").mkdir()
    (tmp_path / "buffer").mkdir()
    for number, given in enumerate(given_episodes(demo_store, demos, aloha)):
        np.savez(tmp_path / f"episodes/{number:02}.npz", **given)
    count = int(run(PRODUCER, "rdt_producer.py", rdts, tmp_path / "episodes", tmp_path / "buffer"))
    robot = MAPPINGS["agilex"]
    no_state = tuple(dataclasses.replace(each, previous=True) for each in robot.action)
    with_base = (*robot.state, Take("actions", 0, 2, 100, previous=True))
    datasets = [
        rdt_pretrain(demo_store, mapping="hdf5_libero_s1", dataset_name="libero", episodes=EPISODES),
        agilex(aloha),
        agilex(aloha, mapping=RdtMapping("no state", no_state), action="states", dataset_name=NO_STATE),
        agilex(aloha, mapping=RdtMapping("a base", with_base), action="states", dataset_name="aloha_mobile"),
    ]
    assert count == sum(map(len, datasets)) == 389 + 3 * sum(LENGTHS)
    worst: dict[str, float] = {}
    for number, (dataset, index) in enumerate((each, index) for each in datasets for index in range(len(each))):
        content, *arrays = rdt_buffered(dataset[index])
        theirs = json.loads((tmp_path / f"buffer/json_content_{number}.json").read_text())
        assert {**content, "instruction": ""} == {**theirs, "instruction": ""}
        if dataset is not datasets[1]:  # agilex has the path of an embedding, drawn at random
            assert content["instruction"] == theirs["instruction"]
        with np.load(tmp_path / f"buffer/sample_{number}.npz") as file:
            for (key, value), ours in zip(file.items(), arrays, strict=True):
                assert (value.shape, value.dtype.kind) == (np.shape(ours), np.asarray(ours).dtype.kind), key
                if key in MOMENTS or key.endswith("_chunk"):
                    assert value.dtype == ours.dtype
                    worst[key] = max(worst.get(key, 0), float(np.abs(value - ours).max()))
                else:
                    assert np.array_equal(value, ours), key
    print(json.dumps(worst))
    assert max(worst[key] for key in ("state_chunk", "action_chunk")) < 2.5e-7
    assert max(worst[key] for key in MOMENTS) < 3e-6


@pytest.mark.campaign
@pytest.mark.skipif(not PYTHON or not REPOSITORY, reason="VLA_STORE_RDT_ENV and VLA_STORE_RDT_REPO are not set")
@pytest.mark.parametrize("dataset_type", ["pretrain", "finetune"])
def test_rdts_own_consumer_and_collator(
    dataset_type: str, demo_store: Path, aloha: Path, rdts: Path, tmp_path: Path
) -> None:
    """Every anchor once an epoch; batches that are equal with nothing masked; conditions that are masked as often."""
    config = tmp_path / "config.json"
    stores = {"libero": str(demo_store), "aloha": str(aloha)}
    options = {"episodes": EPISODES, "dataset_type": dataset_type, "chance": CHANCE, "count": COUNT}
    config.write_text(json.dumps(stores | options))
    found = json.loads(run(PYTHON, "rdt_consumer.py", rdts, config))
    print(json.dumps(found, indent=1))
    steps = 139 + 127 + 123
    assert found["without an entry"].startswith("50 times KeyError")
    epochs = {"epoch": steps + sum(LENGTHS)} | ({"epoch of rdt": steps} if dataset_type == "finetune" else {})
    for kind, anchors in epochs.items():
        assert found[kind] == {"anchors": anchors, "distinct": anchors, "most": 1}
    for given, share in found.get("weighted", {}).values():
        assert abs(given - share) < 1
    expected = [CHANCE] * 4 + [2 * CHANCE, CHANCE]
    for figures in found.get("masked", {}).values():
        rates, noise = figures.values()
        assert np.abs(np.array(rates) - expected).max() < 4 * np.sqrt(0.24 / COUNT)
        assert abs(noise[0]) < 0.01
        assert abs(noise[1] - 10**-0.5) < 0.01
