"""The training run of docs/tutorial-training.md: it is fair, it says what it found, and the page shows what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not (Path(__file__).resolve().parents[1] / "benchmarks").exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)

from benchmarks import training  # noqa: E402
from vla_store import open_store  # noqa: E402
from vla_store.coverage import demos_of_store  # noqa: E402


@pytest.fixture(scope="module")
def result(demo_store: Path) -> dict[str, Any]:
    return training.measure(demo_store, training.Options(updates=24, batch_size=64, seeds=1))


def test_all_arms_start_alike_and_make_as_many_updates(result: dict[str, Any]) -> None:
    runs = [arm["runs"][0] for arm in result["arms"].values()]
    assert len({run["initial_weights"] for run in runs}) == 1
    assert len({run["curve"][0]["all"] for run in runs}) == 1
    assert {run["curve"][-1]["updates"] for run in runs} == {24}
    assert len({run["curve"][-1]["all"] for run in runs}) == 3


def test_enumeration_has_had_every_step_evenly_and_the_port_has_not(result: dict[str, Any]) -> None:
    # 24 x 64 draws of some 1,300 training steps: a little more than one epoch (whose last, short batch is left out).
    runs = {name: arm["runs"][0] for name, arm in result["arms"].items()}
    assert runs["every step"]["anchors"] > 0.95
    assert runs["port_s2"]["anchors"] < 0.75
    assert runs["every step"]["counts"][2] <= 2
    assert runs["port"]["anchors"] < 0.62
    assert runs["port_s2"]["counts"][2] > 3


def test_policies_learn(result: dict[str, Any]) -> None:
    for arm in result["arms"].values():
        curve = arm["runs"][0]["curve"]
        assert curve[-1]["all"] < 0.95 * curve[0]["all"]


def test_the_port_never_trains_at_the_end_of_a_demo(demo_store: Path) -> None:
    store = open_store(demo_store)
    demos = demos_of_store(store)
    chosen, _ = training.split(demos, 0)
    part = training.part_of(demos, chosen)
    dataset = training.windows_dataset(store, chosen)
    assert len(dataset) == part.steps
    batches = training.batches_of("port", dataset, part, chosen, training.Options(batch_size=512), 0)
    batch, rows = next(batches)
    left = part.lengths[part.demo_of_step[rows]] - 1 - part.step_in_demo[rows]
    assert left.min() >= 64
    assert batch["step"].tolist() == part.step_in_demo[rows].tolist()
    assert not batch["actions_is_pad"].any()


def test_the_steps_that_enumeration_gives_are_counted_right(demo_store: Path) -> None:
    store = open_store(demo_store)
    demos = demos_of_store(store)
    chosen, _ = training.split(demos, 1)
    part = training.part_of(demos, chosen)
    dataset = training.windows_dataset(store, chosen)
    batches = training.batches_of("every step", dataset, part, chosen, training.Options(batch_size=64), 0)
    batch, rows = next(batches)
    batches.close()
    assert batch["step"].tolist() == part.step_in_demo[rows].tolist()
    assert batch["episode"].tolist() == [chosen[each] for each in part.demo_of_step[rows]]


@pytest.mark.parametrize("seed", range(4))
def test_no_held_out_demo_is_trained_on_and_each_has_its_task_there(demo_store: Path, seed: int) -> None:
    demos = demos_of_store(demo_store)
    chosen, held = training.split(demos, seed)
    assert sorted(chosen + held) == list(range(len(demos)))
    assert len(held) == 5
    assert set(demos.files[held]) <= set(demos.files[chosen])


def test_phases_cover_a_demo() -> None:
    actions = np.zeros((100, 7))
    actions[:, -1] = np.where(np.arange(100) < 40, -1, 1)
    found = [training.PHASES[each] for each in training.phases_of(actions)]
    expected = ["approach"] * 30 + ["grasp"] * 21 + ["rest"] * 39 + ["last 10 %"] * 10
    assert found == expected
    actions[:, -1] = -1
    assert training.phases_of(actions).tolist() == [0] * 90 + [3] * 10


def test_a_difference_is_called_one_only_beyond_the_spread_of_the_seeds() -> None:
    def runs(*ends: float) -> list[dict[str, Any]]:
        return [{"curve": [{"all": 1.0}, {"all": end}, {"all": end}]} for end in ends]

    for ends, says in (
        ((0.30, 0.31, 0.32), "every step is better"),
        ((0.10, 0.11, 0.12), "the port is better"),
        ((0.10, 0.20, 0.33), "no clear difference"),
    ):
        found = training.differences({"port": runs(*ends), "every step": runs(0.2, 0.2, 0.2)}, "port")
        assert training.verdict(found["all"]) == says
    alone = training.differences({"port": runs(0.5), "every step": runs(0.1)}, "port")
    assert training.verdict(alone["all"]) == "no clear difference"


def test_the_figures_of_a_run_become_a_table_a_picture_and_a_summary(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    again = json.loads(json.dumps(result, allow_nan=False))
    text = training.page_part(again)
    assert text.count("\n| every step |") == 1
    assert "Against port, as quoted" in text
    assert str(tmp_path.home()) not in json.dumps(result)
    training.draw(again, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_the_tutorial_shows_what_was_measured() -> None:
    saved = training.RESULTS / "training.json"
    if not saved.exists():
        pytest.skip("no result is committed")
    measured = json.loads(saved.read_text())
    assert training.PAGE.read_text() == training.page(measured), "run `python -m benchmarks.training --save`"
    assert training.PICTURE.exists()
