"""The recipes in RDT's own training code: its consumer and its collator, with the lines changed that the how-tos change.

VLA_STORE_RDT_ENV names a Python that has what RDT's train/dataset.py imports (torch, torchvision, transformers 4.41, imgaug, NumPy
1.26), and VLA_STORE_RDT_REPO a git repository of thu-ml/RoboticsDiffusionTransformer; `pytest --campaign` runs this.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="a source is written with h5py")
pytest.importorskip("zarr", reason="a store is built")

import tiny_layouts

from vla_store.builder import build_store

COMMIT = "deb71d8"
PYTHON, REPOSITORY = (os.environ.get(f"VLA_STORE_RDT_{name}", "") for name in ("ENV", "REPO"))
TESTS = Path(__file__).parents[1]
EPISODES, LENGTHS = (3, 10, 11), (70, 33, 5)
CHANCE, COUNT = 0.2, 400


@pytest.mark.campaign
@pytest.mark.skipif(not PYTHON or not REPOSITORY, reason="VLA_STORE_RDT_ENV and VLA_STORE_RDT_REPO are not set")
def test_rdts_own_consumer_and_collator(demo_store: Path, tmp_path: Path) -> None:
    archive = subprocess.run(["git", "-C", REPOSITORY, "archive", COMMIT], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "rdt", filter="data")
    for number, steps in enumerate(LENGTHS):
        tiny_layouts.aloha(tmp_path / "aloha/wipe_wine", number, steps=steps)
    build_store([tmp_path / "aloha"], tmp_path / "aloha.vla")
    config = tmp_path / "config.json"
    stores = {"libero": str(demo_store), "aloha": str(tmp_path / "aloha.vla")}
    config.write_text(json.dumps(stores | {"episodes": EPISODES}))
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "HF_HUB_OFFLINE": "1"}
    command = [PYTHON, str(TESTS / "recipes/rdt_consumer.py"), str(config)]
    done = subprocess.run(command, env=environment, cwd=tmp_path / "rdt", capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    steps = 139 + 127 + 123
    for dataset_type in ("pretrain", "finetune"):
        for kind, anchors in (("", steps + sum(LENGTHS)), (", from rdt", steps)):
            assert found[f"epoch, {dataset_type}{kind}"] == {"anchors": anchors, "distinct": anchors, "most": 1}
        for kind in ("libero", "agilex", "rdt"):
            assert found[f"batch of {kind}, {dataset_type}"] == 9
        assert found[f"without an entry, {dataset_type}"].startswith("50 times KeyError")
    expected = [CHANCE] * 4 + [2 * CHANCE, CHANCE]
    for figures in found["masked"].values():
        rates, noise = figures.values()
        assert np.abs(np.array(rates) - expected).max() < 4 * np.sqrt(0.24 / COUNT)
        assert abs(noise[0]) < 0.01
        assert abs(noise[1] - 10**-0.5) < 0.01
