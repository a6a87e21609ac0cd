"""What weights do to an epoch, counted in epochs: every offset that an epoch can have, one after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader.test_toy_dataset import Squares
from store_tools import in_words

import vla_store
from vla_store import weights
from vla_store.cli import main
from vla_store.coverage import demos_of_store, measure_weights, weights_text
from vla_store.errors import OptionError
from vla_store.loader.marks import Shares, places_of


@settings(max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.integers(1, 40))
def test_the_figures_are_those_of_all_epochs_there_can_be(given: list[int], rows: int) -> None:
    weighted = vla_store.weighted(Squares(len(given)), given, epoch=rows)
    report = json.loads(json.dumps(measure_weights(weighted)))
    shares = Shares.of(np.array(given, float))
    marks = np.arange(rows)
    epochs = [
        np.bincount(shares.at(places_of(marks, rows, shares.total, offset)), minlength=len(given))
        for offset in range(shares.total)
    ]
    assert report["different"] == pytest.approx(np.mean([(each > 0).sum() for each in epochs]))
    least, most = np.min(epochs, axis=0), np.max(epochs, axis=0)
    for row in report["times"]:
        mine = (least >= row["least"]) & (most <= row["most"])
        assert row["samples"] <= mine.sum()
    assert sum(row["samples"] for row in report["times"]) == len(given)
    assert sum(row["epoch"] for row in report["times"]) == pytest.approx(1)
    assert {row["least"] for row in report["times"]} <= set(least.tolist())
    assert {row["most"] for row in report["times"]} <= set(most.tolist())
    is_there = np.array(given) > 0
    enough = report["epoch_of_all"]
    for epoch in range(max(enough - 1, 1), enough + 1):
        places = [places_of(np.arange(epoch), epoch, shares.total, offset) for offset in range(shares.total)]
        comes = [np.bincount(shares.at(each), minlength=len(given)) > 0 for each in places]
        assert np.all(comes, axis=0)[is_there].all() == (epoch == enough)


def test_equal_weights_take_each_sample_once_and_draws_do_not() -> None:
    report = measure_weights(vla_store.weighted(Squares(1000), np.ones(1000)))
    assert report["times"] == [{"least": 1, "most": 1, "samples": 1000, "epoch": 1.0}]
    assert (report["different"], report["different_equal"], report["epoch_of_all"]) == (1000, 1000, 1000)
    assert report["different_drawn"] == pytest.approx(1000 * (1 - (1 - 1 / 1000) ** 1000))
    assert report["effective"] == pytest.approx(1000)
    assert report["kinds"] == report["tasks"] == []
    assert "1,000 samples, an epoch of 1,000" in weights_text(report)


def test_of_a_store_the_kinds_of_steps_are_those_of_the_samplers(demo_store: Path) -> None:
    samples = vla_store.Samples(demo_store, windows={"actions": 0})
    weighted = vla_store.weighted(samples, weights.near_changes(steps=3, times=7))
    report, demos = measure_weights(weighted, k=3), demos_of_store(demo_store, 3)
    shares = weighted.shares / weighted.shares.sum()
    assert demos.near_gripper is not None
    for kind, mask in zip(report["kinds"], (demos.is_tail, demos.near_gripper), strict=True):
        assert kind["samples"] == mask.sum()
        assert kind["epoch"] == pytest.approx(shares[mask].sum())
    near = demos.near_gripper.mean()
    assert report["kinds"][1]["epoch"] == pytest.approx(7 * near / (1 + 6 * near))
    assert sum(task["epoch"] for task in report["tasks"]) == pytest.approx(1)


@pytest.mark.parametrize("given", [Squares(3), None])
def test_what_is_not_weighted_is_no_measure_of_weights(given: Any) -> None:
    with pytest.raises(OptionError, match=r"what vla_store\.weighted gave"):
        measure_weights(given)


def test_the_command_prints_the_same(tiny_store: Path, capsys: Any) -> None:
    assert main(["coverage", str(tiny_store), "--weights", "rare_tasks*recent:3", "--draws", "90", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    samples = vla_store.Samples(tiny_store, windows={"actions": 0})
    expected = measure_weights(vla_store.weighted(samples, weights.rare_tasks() * weights.recent(3), epoch=90))
    assert found == json.loads(json.dumps(expected))
    assert main(["coverage", str(tiny_store), "--weights", "rewards"]) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--weights", "rare_tasks"], "--weights need a STORE"),
        (["STORE", "--weights", "rare_tasks", "--quoted"], "--quoted goes without them"),
        (["STORE", "--weights", "rare_task"], "did you mean 'rare_tasks'"),
        (["STORE", "--weights", "recent"], "needs its half_life"),
        (["STORE", "--weights", "rewards", "--weights", "rare_tasks"], "--weights is given once"),
        (["STORE", "--weights", "actions"], "exists  near_changes, rare_tasks, recent, dones, rewards\n"),
        (["STORE", "--weights", "near_changes:ACTIONS"], "did you mean 'actions'?"),
    ],
)
def test_what_the_command_cannot_do_is_said(tiny_store: Path, capsys: Any, options: list[str], text: str) -> None:
    assert main(["coverage", *[each.replace("STORE", str(tiny_store)) for each in options]]) == 2
    assert in_words(text) in in_words(capsys.readouterr().err)
