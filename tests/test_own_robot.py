"""docs/how-to/own-robot.md, end to end: its code draws recordings, builds a store of them, verifies it and reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import test_docs
from store_tools import run

from vla_store import open_store
from vla_store.torch import StepDataset

PAGE = test_docs.CHECKOUT / "docs/how-to/own-robot.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page has run."""
    made = tmp_path_factory.mktemp("own_robot")
    (made / "bin").mkdir()
    (made / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (made / "bin/python").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(made / "bin"), prepend=":")
        wrong = test_docs.run_page(PAGE, made, None)
    assert wrong == ""
    return made


def test_the_source_is_about_forty_lines() -> None:
    (source,) = [block for block in test_docs.parse(PAGE) if block.markers.get("file") == "robot.py"]
    before_main = source.text.split("if __name__")[0]
    assert sum(bool(line.strip()) for line in before_main.splitlines()) <= 45


def test_what_is_read_is_what_was_recorded(folder: Path) -> None:
    dataset = StepDataset(
        folder / "robot.vla", windows={"front": 0, "joints": 0, "actions": [0, 1]}, alignment="as_stored"
    )
    row = 0
    for number, steps in ((0, 60), (1, 45), (4, 80)):
        with np.load(folder / f"recordings/stack_the_cups/episode_{number:03}.npz") as recorded:
            for step in range(steps):
                sample = dataset[row]
                assert np.array_equal(sample["front"], recorded["front"][step])
                assert np.array_equal(sample["joints"], recorded["joints"][step])
                assert np.array_equal(sample["actions"][1], recorded["actions"][min(step + 1, steps - 1)])
                row += 1
    assert row == len(dataset)


def test_what_was_declared_is_in_the_store(folder: Path) -> None:
    store = open_store(folder / "robot.vla")
    assert [(each.number, each.length, each.success) for each in store.episodes] == [
        (0, 60, True),
        (1, 45, False),
        (4, 80, True),
    ]
    assert (store.suites, store.cameras) == (("my_robot",), ("front",))
    assert [(each.name, each.text) for each in store.tasks] == [("stack_the_cups", "stack the cups")]
    assert (store.conventions.orientation, store.conventions.observation) == ("top_down", "before")
    assert {name: each.role for name, each in store.fields.items()} == {
        "actions": "step",
        "front": "observation",
        "joints": "observation",
    }
    assert store.attributes(0)["/"]["robot"] == "my_robot, left arm"
    assert store.attributes(0)["/"]["control_hz"] == 30.0


def test_the_store_is_sound(folder: Path) -> None:
    ran = run("verify", folder / "robot.vla")
    assert ran.code == 0, ran.out
