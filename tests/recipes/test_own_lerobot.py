"""The recipe against LeRobot itself, and lerobot-train on a store.

VLA_STORE_LEROBOT_ENV names a Python that has lerobot (0.4.4 was tried), NumPy and google-crc32c; `pytest --campaign` runs this, for
some minutes: LeRobot decodes a PNG for each picture of each sample.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from own_sources import Own
from store_tools import built

import vla_store
from vla_store.builder import FieldSpec
from vla_store.export import export_store

pytest.importorskip("pyarrow")

SCRIPT = Path(__file__).with_name("own_lerobot.py")
PYTHON = os.environ.get("VLA_STORE_LEROBOT_ENV", "")
UPRIGHT = {"alignment": "causal", "images": "upright"}
SMALL = {
    "act": ["--policy.pretrained_backbone_weights=null", "--policy.dim_model=64", "--policy.n_heads=4"],
    "diffusion": ["--policy.down_dims=[32,64]", "--policy.num_train_timesteps=20"],
}

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(not PYTHON, reason="VLA_STORE_LEROBOT_ENV names no Python with lerobot"),
    pytest.mark.timeout(1800),
]


def run(folder: Path, *arguments: object) -> str:
    place = str(Path(vla_store.__file__).parents[1])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONPATH": place}
    done = subprocess.run(
        [PYTHON, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=1500, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout[-500:])
    return done.stdout + done.stderr


def exported(store: Path, folder: Path, **options: Any) -> Path:
    export_store(store, folder / "out", to="lerobot", **options)
    return folder / "out"


@pytest.mark.parametrize("images", ["upright", "rot180"])
def test_frames_and_metadata_of_short_episodes_are_lerobots(tiny_store: Path, tmp_path: Path, images: str) -> None:
    options = {"alignment": "causal", "images": images}
    out = exported(tiny_store, tmp_path, **options)
    assert "are equal" in run(tmp_path, SCRIPT, "samples", out, tiny_store, json.dumps(options))


def test_frames_and_metadata_of_libero_are_lerobots(demo_store: Path, tmp_path: Path) -> None:
    out = exported(demo_store, tmp_path, **UPRIGHT)
    assert "are equal" in run(tmp_path, SCRIPT, "samples", out, demo_store, json.dumps(UPRIGHT))


def test_numbers_of_every_kind_and_grey_pictures_are_lerobots(tmp_path: Path) -> None:
    fields = {
        "actions": FieldSpec("float32", (4,), "step"),
        "joints": FieldSpec("float64", (6,), "observation"),
        "front": FieldSpec("uint8", (8, 12, 3), "observation"),
        "grey": FieldSpec("uint8", (8, 12, 1), "observation"),
        "matrix": FieldSpec("float64", (3, 2), "observation"),
        "counts": FieldSpec("int32", (2, 2), "step"),
        "one": FieldSpec("float64", (1,), "observation"),
        "touch": FieldSpec("int16", (3,), "observation"),
    }
    store = built(tmp_path / "own.vla", [Own(fields=fields)])
    options = {"fps": 12.5, "state": ["joints"]}
    out = exported(store, tmp_path, **options)
    assert "are equal" in run(tmp_path, SCRIPT, "samples", out, store, json.dumps(options))


@pytest.mark.parametrize("policy", ["act", "diffusion"])
def test_ten_updates_have_equal_losses(demo_store: Path, tmp_path: Path, policy: str) -> None:
    out = exported(demo_store, tmp_path, **UPRIGHT)
    assert "equal losses" in run(tmp_path, SCRIPT, "losses", out, demo_store, json.dumps(UPRIGHT), policy)


@pytest.mark.parametrize("policy", ["act", "diffusion"])
def test_lerobot_train_runs_on_a_store(demo_store: Path, tmp_path: Path, policy: str) -> None:
    ours = ["-m", "vla_store.recipes.lerobot_train", "--store", demo_store, "--suite", "libero_goal", "--"]
    theirs = [f"--policy.type={policy}", "--policy.device=cpu", "--policy.push_to_hub=false", *SMALL[policy]]
    theirs += ["--steps=3", "--save_freq=3", "--log_freq=1", "--batch_size=4", "--num_workers=2"]
    said = run(tmp_path, *ours, *theirs, "--output_dir=run", "--dataset.episodes=[0,2]")
    assert "dataset.num_episodes=2" in said
    assert "step:3 " in said
    assert next((tmp_path / "run").rglob("model.safetensors"))
