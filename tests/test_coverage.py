"""Coverage: the samplers are as their code says, formulas and simulation agree, and what is printed is what was found."""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import in_words

from vla_store import Samples, Store, cli, coverage, open_store
from vla_store.coverage import formulas, report, simulation
from vla_store.coverage.demos import Demos, near_gripper_changes
from vla_store.coverage.samplers import BufferSampler, ListSampler, RandomSampler, Sampler, all_samplers
from vla_store.errors import MachineError, OptionError, SourceError, SourceNotFound, UnknownName

CHECKOUT = Path(__file__).resolve().parents[1]
HUMAN = CHECKOUT / "docs/data/libero_human_lengths.csv"


@pytest.fixture(scope="module")
def libero(demo_store: Path) -> Demos:
    return coverage.demos_of_store(demo_store)


@pytest.fixture(scope="module")
def measured(libero: Demos) -> dict[str, Any]:
    return coverage.measure(libero)


def named(demos: Demos, seed: int = 0) -> dict[str, Sampler]:
    return {each.name: each for each in all_samplers(demos, seed)}


def mixed(seed: int = 0) -> Demos:
    """Demos that every refusal meets: too short for RDT, for the port, for its windows; a file of such alone; no motion."""
    lengths = [150, 31, 200, 20, 129, 64, 63, 10, 12, 140]
    demos = coverage.demos_of_lengths(lengths, ["a", "a", "a", "b", "b", "c", "c", "d", "d", "b"])
    moving = np.array([3, 1, -1, 2, 1, 5, 4, 1, -1, 9])
    rng = np.random.default_rng(seed)
    return dataclasses.replace(
        demos, moving=moving, moving_joints=moving, near_gripper=rng.random(demos.steps) < 0.1, k=5
    )


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tail"),
    [("port_quoted", 64), ("half_way", 64), ("port_s3", 63), ("port_s3_no_index", 63), ("every_step", 0)],
)
@pytest.mark.parametrize("which", ["demos", "human"])
def test_the_rules_that_lose_anchors_lose_exactly_so_many_of_each_demo(
    name: str, tail: int, which: str, request: pytest.FixtureRequest
) -> None:
    demos = request.getfixturevalue("libero") if which == "demos" else human()
    sampler = named(demos)[name]
    assert sampler.lost.tolist() == np.minimum(demos.lengths, tail).tolist()
    at = 0
    for length in demos.lengths.tolist():  # and it is the end that they lose
        kept = max(length - tail, 0)
        assert sampler.is_anchor[at : at + length].tolist() == [True] * kept + [False] * (length - kept)
        at += length


def test_the_anchors_of_each_rule_are_what_its_code_can_draw(libero: Demos, demos: Path) -> None:
    """Against the files themselves, read with h5py in the order in which HDF5 gives their keys."""
    h5py = pytest.importorskip("h5py")
    expected: dict[str, list[list[int]]] = {name: [] for name in ("rdt", "rdt_l", "port_s1", "port_s2", "causal")}
    for path in sorted((demos / "libero").rglob("*.hdf5"), key=lambda path: (path.parent.name, path.name)):
        with h5py.File(path) as file:
            keys = list(file["data"])
            for key in sorted(keys, key=lambda each: int(each.removeprefix("demo_"))):
                demo = file["data"][key]
                joints, fingers = demo["obs/joint_states"][:], demo["obs/gripper_states"][:]
                steps = len(joints)
                both, arm = (still(each) for each in (np.concatenate([joints, fingers], axis=1), joints))
                long = list(range(both - 1, steps)) if steps >= 128 else []
                expected["rdt"].append(long)
                expected["rdt_l"].append(long)
                port = list(range(max(arm - 1, 0), steps)) if steps >= 32 else []
                expected["port_s1"].append(port if key == keys[0] else [])
                expected["port_s2"].append(port)
                expected["causal"].append(list(range(1, steps)))
    samplers = named(libero)
    for name, anchors in expected.items():
        found = np.split(samplers[name].is_anchor, np.cumsum(libero.lengths)[:-1])
        assert [np.flatnonzero(each).tolist() for each in found] == anchors, name


def still(qpos: np.ndarray[Any, Any]) -> int:
    return next(t for t in range(len(qpos)) if (abs(qpos[t] - qpos[0]) > 1e-2).any())


def test_the_first_demo_of_a_file_is_the_one_whose_key_sorts_first_as_text(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    demos = coverage.demos_of_store(store)
    files: dict[tuple[str, str], list[str]] = {}
    for each in store.episodes:
        files.setdefault((each.suite, each.file), []).append(f"demo_{each.number}")
    assert any(min(keys) != keys[0] for keys in files.values()), "no file of the tiny source shows the difference"
    expected = [f"demo_{each.number}" == min(files[each.suite, each.file]) for each in store.episodes]
    assert demos.is_first_key.tolist() == expected


def test_rdt_weighs_demos_by_what_it_can_draw_and_its_port_by_all_steps() -> None:
    demos = dataclasses.replace(
        coverage.demos_of_lengths([200, 200], ["a", "a"]), moving=np.array([1, 101]), moving_joints=np.array([1, 101])
    )
    samplers = named(demos)
    chances = {}
    for name in ("rdt", "rdt_l"):
        sampler = samplers[name]
        assert isinstance(sampler, RandomSampler)
        chances[name] = [sampler.probability[at].sum() for at in (slice(0, 200), slice(200, 400))]
    assert chances["rdt"] == pytest.approx([2 / 3, 1 / 3])  # 200 and 100 steps can be drawn
    assert chances["rdt_l"] == pytest.approx([1 / 2, 1 / 2])


@pytest.mark.parametrize("name", ["rdt", "rdt_l", "port_quoted", "port_s1", "port_s2", "port_s3_no_index"])
def test_draws_come_as_often_as_the_formula_says(name: str) -> None:
    demos = mixed()
    sampler = named(demos, seed=3)[name]
    assert isinstance(sampler, RandomSampler)
    chance = sampler.probability
    assert chance.sum() == pytest.approx(1)
    assert ((chance > 0) == sampler.is_anchor).all() or name == "port_s2"  # S2 may have weighed a file with 0
    draws = 400_000
    counts = np.bincount(sampler.draw(np.random.default_rng(5), draws), minlength=demos.steps)
    assert not counts[chance == 0].any()
    error = np.sqrt(draws * chance * (1 - chance))
    assert (np.abs(counts - draws * chance) <= 6 * error + 1e-9).all()


def test_a_rule_that_refuses_every_demo_reaches_nothing_and_says_so() -> None:
    demos = coverage.demos_of_lengths([20, 30])
    made = coverage.measure(demos, runs=report.FEWEST_RUNS)
    reached = {each["name"]: each["ever"]["anchors"] for each in made["samplers"]}
    assert reached == {**dict.fromkeys(reached, 0), "every_step": 50}
    assert made["agreement"]["agrees"]
    assert "rdt_l" in reached
    assert "RDT, HDF5             0      0.0        20-30" in coverage.report_text(made)


def test_a_port_whose_files_all_weigh_nothing_draws_nothing() -> None:
    demos = coverage.demos_of_lengths([20, 100], ["a", "a"])
    sampler = next(
        each
        for seed in range(50)
        for each in [named(demos, seed)["port_s2"]]
        if not each.weights.any()  # type: ignore[attr-defined]
    )
    assert sampler.draw(np.random.default_rng(0), 5).tolist() == []
    assert not sampler.is_anchor.any()  # however long it trains
    assert formulas.draws_until(sampler, 0.99) is None


def test_what_stands_in_a_file_without_weight_is_no_anchor_and_the_rest_is_reached() -> None:
    demos = coverage.demos_of_lengths([20, 100, 50], ["a", "a", "b"])
    sampler = next(
        each
        for seed in range(50)
        for each in [named(demos, seed)["port_s2"]]
        if each.weights.tolist() == [0, 1]  # type: ignore[attr-defined]
    )
    assert np.flatnonzero(sampler.is_anchor).tolist() == list(range(120, 170))
    assert set(sampler.draw(np.random.default_rng(0), 5_000).tolist()) == set(range(120, 170))
    assert formulas.draws_until(sampler, 0.99) == pytest.approx(np.log(0.01) / np.log1p(-1 / 50))


# --- the formulas -----------------------------------------------------------------------------------------------------


def small(name: str) -> Sampler:
    """A sampler over seven steps of three demos, of which five or six can be anchors."""
    demos = coverage.demos_of_lengths([3, 1, 3], ["a", "b", "b"])
    demos = dataclasses.replace(demos, near_gripper=np.array([0, 1, 1, 0, 1, 0, 0], bool))
    low, high = np.array([1, 0, 0]), np.array([3, 1, 2])
    one = [np.array([0]), np.array([1, 2])]
    if name == "list":
        return ListSampler(name, name, "", demos, 5, low, high)
    weights = np.array([0.25, 0.75])
    high = high if name == "random" else np.array([3, 0, 2])  # "refusing": the second demo cannot be used
    return RandomSampler(name, name, "", demos, 5, low, high, tuple(one), weights, np.array([0.5, 0.5]))


@pytest.mark.parametrize("horizon", [1, 2, 64])
@pytest.mark.parametrize("draws", [1, 2, 4])
@pytest.mark.parametrize("name", ["random", "refusing"])
def test_formulas_of_independent_draws_are_the_mean_over_all_that_can_be_drawn(
    name: str, draws: int, horizon: int
) -> None:
    sampler = small(name)
    assert isinstance(sampler, RandomSampler)
    chance = sampler.probability
    if name == "refusing":  # 0.25 and 0.375 used at once; the missed 0.375 is dealt as 1/2 and 1/4
        assert chance[[1, 4]] == pytest.approx([(0.25 + 0.375 * 2 / 3) / 2, (0.375 + 0.375 / 3) / 2])
    anchors = np.flatnonzero(chance)
    all_draws = [np.array(each) for each in itertools.product(anchors, repeat=draws)]
    weights = [float(np.prod(chance[each])) for each in all_draws]
    check_means(sampler, draws, horizon, all_draws, weights)


@pytest.mark.parametrize("horizon", [1, 2, 64])
@pytest.mark.parametrize("draws", [1, 3, 5, 6, 7])
def test_formulas_of_a_list_are_the_mean_over_all_its_orders(draws: int, horizon: int) -> None:
    sampler = small("list")
    assert isinstance(sampler, ListSampler)
    orders = [np.array(each) for each in itertools.permutations(sampler.anchors)]
    if draws <= 5:
        all_draws = [order[:draws] for order in orders]
    else:
        all_draws = [np.concatenate([sampler.anchors, order[: draws - 5]]) for order in orders]
    check_means(sampler, draws, horizon, all_draws, [1 / len(orders)] * len(orders))


def check_means(
    sampler: Sampler, draws: int, horizon: int, all_draws: list[np.ndarray[Any, Any]], weights: list[float]
) -> None:
    exact = formulas.expected(sampler, draws, horizon)
    assert exact is not None
    found = [reached_slowly(each, sampler.demos, horizon) for each in all_draws]
    for name in report.FIGURES:
        mean = sum(weight * each[name] for weight, each in zip(weights, found, strict=True))
        assert getattr(exact, name) == pytest.approx(mean), name
    curve = formulas.expected_curve(sampler, np.array([draws]))
    assert curve == pytest.approx(exact.anchors)
    shares = formulas.count_shares(sampler, draws, draws)
    assert shares is not None
    counted = np.zeros(draws + 1)
    for weight, each in zip(weights, all_draws, strict=True):
        counts = np.bincount(each, minlength=sampler.demos.steps)
        counted += weight * np.bincount(counts, minlength=draws + 1) / sampler.demos.steps
    assert shares == pytest.approx(counted)


def reached_slowly(drawn: np.ndarray[Any, Any], demos: Demos, horizon: int) -> dict[str, float]:
    anchors = set(drawn.tolist())
    targets, tail = set(), set()
    start = 0
    for length in demos.lengths.tolist():
        steps = range(start, start + length)
        targets |= {s + d for s in anchors & set(steps) for d in range(horizon) if s + d in steps}
        tail |= set(steps[-max(1, -(-length // 10)) :])
        start += length
    near = set() if demos.near_gripper is None else set(np.flatnonzero(demos.near_gripper).tolist())
    counts = [drawn.tolist().count(step) for step in range(start)]
    mean = len(drawn) / start
    return {
        "anchors": len(anchors),
        "targets": len(targets),
        "tail": len(anchors & tail),
        "gripper": len(anchors & near),
        "variance": sum((each - mean) ** 2 for each in counts) / start,
    }


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    draws=st.integers(1, 60),
    horizon=st.integers(1, 50),
    seed=st.integers(0, 9),
)
def test_what_a_run_reached_is_counted_right(lengths: list[int], draws: int, horizon: int, seed: int) -> None:
    demos = coverage.demos_of_lengths(lengths)
    rng = np.random.default_rng(seed)
    demos = dataclasses.replace(demos, near_gripper=rng.random(demos.steps) < 0.5)
    drawn = rng.integers(0, demos.steps, draws)
    found = simulation.count(drawn, demos, horizon)
    assert dataclasses.asdict(found) == pytest.approx(reached_slowly(drawn, demos, horizon))


def test_the_epochs_to_99_percent_are_where_the_curve_is_there() -> None:
    for name in ("rdt", "port_s2", "port_quoted", "half_way", "every_step"):
        sampler = named(mixed())[name]
        until = formulas.draws_until(sampler, 0.99)
        assert until is not None
        curve = formulas.expected_curve(sampler, np.array([int(until), int(until) + 1]))
        assert curve is not None
        assert curve[0] <= 0.99 * sampler.is_anchor.sum() <= curve[1], name


def test_random_draws_of_n_from_n_reach_63_percent() -> None:
    demos = coverage.demos_of_lengths([500] * 20)
    reached = formulas.expected(named(demos)["rdt"], demos.steps, 64)
    assert reached is not None
    assert reached.anchors / demos.steps == pytest.approx(1 - np.exp(-1), abs=1e-3)


# --- formula and simulation -------------------------------------------------------------------------------------------


def test_formula_and_simulation_agree_on_the_demos(measured: dict[str, Any]) -> None:
    assert measured["agreement"]["agrees"]
    assert measured["agreement"]["figures"] == 50  # five of each sampler but the buffer
    for each in measured["samplers"]:
        for name, exact in (each["expected"] or {}).items():
            simulated = each["simulated"][name]
            assert abs(exact - simulated["mean"]) <= 5 * simulated["error"] + 1e-9 * exact, (each["name"], name)


def test_formula_and_simulation_agree_where_demos_are_refused() -> None:
    made = coverage.measure(mixed(), draws=300, runs=30, seed=2, horizon=16)
    assert made["agreement"]["agrees"], made["agreement"]


@pytest.mark.parametrize("name", report.FIGURES)
def test_a_formula_that_is_off_by_two_percent_is_found_and_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = formulas.expected

    def wrong(sampler: Sampler, draws: int, horizon: int) -> Any:
        made = right(sampler, draws, horizon)
        return made and dataclasses.replace(made, **{name: getattr(made, name) * 1.02})

    monkeypatch.setattr(formulas, "expected", wrong)
    made = coverage.measure(mixed(), draws=800, runs=24)
    assert not made["agreement"]["agrees"]
    assert "DISAGREE" in coverage.report_text(made)


@pytest.mark.parametrize("runs", [1, 2, report.FEWEST_RUNS - 1])
def test_of_few_runs_nothing_is_said_of_agreement_and_what_to_do_is(runs: int) -> None:
    """The standard error of two runs is off by any factor: 19.7 of them were once called agreement."""
    made = coverage.measure(mixed(), draws=300, runs=runs, horizon=16)
    assert made["agreement"] == {
        "agrees": None,
        "deviations": None,
        "figures": 0,
        "furthest": None,
        "standard_errors": None,
    }
    text = coverage.report_text(made)
    assert f"exact and simulated are not compared: {runs} run{'s' * (runs > 1)} cannot say" in text
    assert "give --runs 8 or more" in text
    assert "standard errors (" not in text
    assert ("±" in text) == (runs > 1)  # one run has no spread


@pytest.mark.parametrize("seed", range(3))
def test_what_is_called_agreement_is_within_what_chance_gives(seed: int) -> None:
    made = coverage.measure(mixed(), draws=300, runs=report.FEWEST_RUNS, horizon=16, seed=seed)
    assert made["agreement"]["agrees"]
    assert made["agreement"]["deviations"] <= made["agreement"]["standard_errors"]
    assert made["agreement"]["deviations"] <= report.CLOSE
    assert f"is {made['agreement']['deviations']:.1f} standard errors (" in coverage.report_text(made)


def test_the_same_seed_gives_the_same_report(libero: Demos, measured: dict[str, Any]) -> None:
    assert coverage.measure(libero) == measured
    assert coverage.measure(libero, seed=1, runs=2) != coverage.measure(libero, seed=2, runs=2)


# --- the buffer -------------------------------------------------------------------------------------------------------


def buffer(lengths: list[int], **options: int) -> BufferSampler:
    demos = coverage.demos_of_lengths(lengths)
    usual = named(demos)["rdt_buffer"]
    return BufferSampler("b", "b", "", demos, 0, usual.low, usual.high, **options)


def test_a_buffer_that_is_never_refilled_gives_each_of_its_samples_once() -> None:
    sampler = buffer([40, 60, 20], chunks=10, size=10, pace=0)
    drawn = sampler.draw(np.random.default_rng(1), 100)
    assert sorted(drawn.tolist()) == list(range(100))  # the demo of 20 steps is dropped


def test_a_buffer_that_is_refilled_repeats_some_steps_and_misses_others() -> None:
    sampler = buffer([100] * 10, chunks=10, size=100, pace=1)
    counts = np.bincount(sampler.draw(np.random.default_rng(1), 1_000), minlength=1_000)
    assert 0.5 < (counts > 0).mean() < 0.95
    assert counts.max() > 1


def test_a_sample_that_is_replaced_where_it_was_read_never_comes_twice() -> None:
    # Refills land in the following chunk, which here is the same one. The producer is not yet through the demos.
    sampler = buffer([500, 500], chunks=1, size=64, pace=1)
    drawn = sampler.draw(np.random.default_rng(1), 128)
    assert len(set(drawn.tolist())) == 128


def test_samples_come_again_because_refills_land_in_the_following_chunk() -> None:
    # The same with two chunks: what was read in one is marked clean, but the new sample was written into the other.
    sampler = buffer([500, 500], chunks=2, size=32, pace=1)
    drawn = sampler.draw(np.random.default_rng(1), 128)
    assert len(set(drawn.tolist())) < 120


def test_at_most_2048_steps_of_a_long_demo_enter_the_buffer_at_a_time() -> None:
    sampler = buffer([5_000], chunks=2, size=1_024, pace=0)
    drawn = sampler.draw(np.random.default_rng(0), 2_048)
    assert len(set(drawn.tolist())) == 2_048
    assert drawn.max() > 2_048


# --- what is sampled from ---------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    grippers=st.lists(st.lists(st.sampled_from([-1.0, 1.0]), min_size=1, max_size=30), min_size=1, max_size=4),
    k=st.integers(0, 8),
)
def test_steps_near_a_change_of_the_gripper_are_found(grippers: list[list[float]], k: int) -> None:
    actions = np.concatenate([np.array([[0.0, each] for each in one]) for one in grippers])
    near = near_gripper_changes(actions, np.array([len(each) for each in grippers]), k)
    expected = []
    for one in grippers:
        changes = [t for t in range(1, len(one)) if one[t] != one[t - 1]]
        expected += [any(abs(t - change) <= k for change in changes) for t in range(len(one))]
    assert near is not None
    assert near.tolist() == expected


def test_the_critical_steps_of_the_demos(measured: dict[str, Any], libero: Demos) -> None:
    assert measured["critical"]["tail"] == sum(-(-each // 10) for each in libero.lengths.tolist())
    # 28 changes, of which no two are 10 steps apart and none is within 5 of an end: 11 steps each.
    assert measured["critical"]["gripper"] == 28 * 11


def test_a_store_without_actions_or_joints_says_what_it_cannot_know() -> None:
    assert near_gripper_changes(None, np.array([3]), 5) is None
    made = coverage.measure(coverage.demos_of_lengths([40, 50]), runs=2)
    assert made["critical"]["gripper"] is None
    text = coverage.report_text(made)
    assert "no joints are known here" in text
    assert "not known from lengths" in text


@functools.cache
def human() -> Demos:
    if not HUMAN.exists():
        pytest.skip("the tests of an installed wheel run without the checkout")
    return coverage.read_lengths(HUMAN)


def test_the_lengths_in_the_docs_are_those_of_the_human_demonstrations() -> None:
    import make_stores

    given = make_stores.demos_place() / "human/libero_no_noops_episode_lengths.csv"
    if not given.exists():
        pytest.skip("the human lengths are not here")
    with given.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers: dict[str, int] = {}
    tasks = [numbers.setdefault(each["task"], len(numbers)) for each in rows]
    demos = human()
    assert demos.lengths.tolist() == [int(each["length"]) for each in rows]
    assert demos.files.tolist() == tasks
    assert (len(demos), demos.steps) == (1_693, 273_465)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty file"),
        ("steps,task\n3,a\n", "steps, task"),
        ("length\n", "names no demonstration"),
        ("length\n100\n12.5\n", "line      3"),
        ("length\n-4\n", "'-4'"),
        ("length\n0\n", "'0'"),
        ("task,length\na\n", "''"),
        ("length\n99999999999999999999\n", "9999999"),
        ("length\n9999999999999\n", "too many steps"),
        ("length\n\xe9\n".encode("latin-1"), "not a CSV file"),
    ],
)
def test_a_table_of_lengths_that_is_none_is_refused_with_its_place(
    text: str | bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "lengths.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError) as refused:
        coverage.read_lengths(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_table_may_have_other_columns_spaces_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_bytes("\ufefftask, length ,more\na, 7 ,x\nb,8,\na,9,y\n".encode())
    demos = coverage.read_lengths(path)
    assert demos.lengths.tolist() == [7, 8, 9]
    assert demos.files.tolist() == [0, 1, 0]
    assert demos.is_first_key.tolist() == [True, True, False]


def test_a_missing_table_is_a_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        coverage.read_lengths(tmp_path / "no.csv")


@pytest.mark.parametrize("lengths", [[], [0], [1.5], [[3]], ["a"]])
def test_lengths_are_positive_whole_numbers(lengths: Any) -> None:
    with pytest.raises(OptionError, match="positive whole numbers"):
        coverage.demos_of_lengths(lengths)


@pytest.mark.parametrize("options", [{"draws": 0}, {"horizon": 0}, {"runs": 0}, {"seed": -1}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        coverage.measure(coverage.demos_of_lengths([5]), **options)


# --- what was said ----------------------------------------------------------------------------------------------------


def verdicts(demos: Demos, made: dict[str, Any]) -> dict[str, str]:
    return {each["said"]: each["verdict"] for each in coverage.judge(made, demos)}


def verdict(found: dict[str, str], words: str) -> str:
    (said,) = [each for each in found if words in each]
    return found[said]


def test_the_quoted_figures_hold_for_the_demos_they_were_made_of() -> None:
    # The notes' own example, one file of 50 demos of 213 steps: the arithmetic holds, what they conclude from it does not.
    demos = coverage.demos_of_lengths([213] * 50, ["one"] * 50)
    found = verdicts(demos, coverage.measure(demos, runs=4))
    for words in ("213 steps", "can be anchors", "2 % of the demos"):
        assert verdict(found, words).startswith("holds"), words
    assert verdict(found, "30 %") == "does not hold; 30 % is the share that is lost"
    assert verdict(found, "13 %") == "does not hold"
    assert verdict(found, "did not train").startswith("cannot be told")


def test_what_was_said_is_judged_for_these_demos(libero: Demos, measured: dict[str, Any]) -> None:
    found = verdicts(libero, measured)
    assert verdict(found, "213 steps") == "does not hold"
    assert verdict(found, "last 64 steps") == "holds for the rule as quoted, does not hold for any version of the code"
    assert verdict(found, "short demos") == "holds"
    assert verdict(found, "2 % of the demos").startswith("does not hold")
    text = coverage.judged_text(coverage.judge(measured, libero))
    assert "as quoted exactly min(T, 64) a demo" in " ".join(text.split())
    assert "S3 exactly min(T, 63) a demo" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_that_fit_a_terminal(demo_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["coverage", str(demo_store), "--runs", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("port, as quoted      13     59.6           64     99.4    0.0     53.6") == 1
    assert out.count("\nevery step ") == 2
    assert [line.split()[-1] for line in out.splitlines()[5:16]] == [
        *["no"] * 5,
        "yes",
        "no",
        "yes",
        "no",
        "yes",
        "yes",
    ]
    assert max(map(len, out.splitlines())) <= 80


def test_the_command_gives_programs_everything(demo_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["coverage", str(demo_store), "--runs", "2", "--draws", "500", "--k", "0", "--horizon", "8", "--json"])
        == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert (made["draws"], made["horizon"], made["runs"], made["demos"]["k"]) == (500, 8, 2, 0)
    assert made["critical"]["gripper"] == 28
    s3 = next(each for each in made["samplers"] if each["name"] == "port_s3")
    assert s3["lost_anchors"] == [63] * 13
    assert len(made["quoted"]) == 10


def test_the_command_judges_lengths_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "lengths.csv"
    table.write_text("length,task\n" + "100,a\n" * 3 + "300,b\n" * 2)
    assert cli.main(["coverage", "--lengths", str(table), "--quoted", "--runs", "2"]) == 0
    assert "WHAT WAS SAID" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either"),
        (["x.vla", "--lengths", "y.csv"], "give either"),
        (["--lengths", "y.csv", "--k", "3"], "lengths do not tell"),
        (["nowhere.vla"], "no store"),
        *(
            (["--lengths", "lengths.csv", f"--{name}", value], f"{name} is a whole number")
            for name in ("horizon", "draws", "runs", "seed")
            for value in ("-1", str(-(10**30)))
        ),
        *(
            (["--lengths", "lengths.csv", f"--{name}", str(10**30)], f"{name} is a whole")
            for name in ("horizon", "draws")
        ),
        (["--lengths", "lengths.csv", "--seed", "-1", "--plot", "x.png"], "seed is a whole number of at least 0"),
    ],
)
def test_a_wrong_use_is_said(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lengths.csv").write_text("length\n40\n")
    assert cli.main(["coverage", *arguments]) == 2
    assert says in in_words(capsys.readouterr().err)


def test_the_plot_is_a_picture(libero: Demos, tmp_path: Path, read_png: Callable[[Path], tuple[int, int]]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "coverage.png"
    coverage.plot_report(libero, path)
    assert read_png(path) == (1650, 506)
    first = path.read_bytes()
    coverage.plot_report(libero, path)
    assert path.read_bytes() == first


@pytest.fixture
def read_png() -> Callable[[Path], tuple[int, int]]:
    def size(path: Path) -> tuple[int, int]:
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

    return size


def test_a_plot_without_matplotlib_says_what_to_install(
    libero: Demos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MachineError, match=r"vla-store\[plots\]"):
        coverage.plot_report(libero, tmp_path / "x.png")


def test_a_plot_that_cannot_be_written_is_the_machines_failure_and_leaves_what_was_there(
    libero: Demos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "x.png").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left on device while writing"):
        coverage.plot_report(libero, tmp_path / "x.png")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_a_plot_of_a_hostile_name_warns_of_nothing(libero: Demos, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    hostile = dataclasses.replace(libero, name="$\\frac{1}{0}$ \udce9 \N{CJK UNIFIED IDEOGRAPH-676F}\n\x1b[31m")
    coverage.plot_report(hostile, tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert "\x1b" not in text


def test_a_plot_of_an_unknown_kind_is_refused(libero: Demos, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.png"):
        coverage.plot_report(libero, tmp_path / "x.jpg")


# Views

VIEWED = Path(__file__).parent / "golden/version-1/views.vla"


def rows_of(demos: Demos) -> dict[str, dict[str, Any]]:
    report = coverage.measure(demos, horizon=3, runs=8)
    assert report["agreement"]["agrees"]
    return {each["name"]: each for each in report["samplers"]}


@pytest.mark.filterwarnings("ignore:view 'positive' tells of 31")
@pytest.mark.parametrize(
    "view", ["drawn", "moving", "positive", "started", "without.tail", ["moving", "drawn"]], ids=str
)
def test_under_a_view_enumeration_reaches_the_anchors_that_samples_have(view: Any) -> None:
    found = rows_of(coverage.demos_of_store(VIEWED, view=view))
    windows = {"ee_states": 0, "actions": range(3)}
    for alignment in ("as_stored", "causal"):
        samples = Samples(VIEWED, windows=windows, alignment=alignment, view=view)
        # Where no kept step is the first that was recorded, none lacks its observation, and there is no row of its own.
        names = ("view", "view_causal") if "view" in found else ("every_step", "causal")
        enumerated = found.get(names[alignment == "causal"], found[names[0]])
        assert enumerated["ever"]["anchors"] == len(samples)
        # The actions that stand in some window, each by its bytes; padding repeats one that is there anyway.
        actions = np.concatenate([samples[at]["actions"][~samples[at]["actions_is_pad"]] for at in range(len(samples))])
        assert enumerated["ever"]["targets"] == len(np.unique(actions, axis=0))


@pytest.mark.parametrize("view", ["moving", "started", "without.tail"])
def test_under_a_view_of_steps_all_is_as_if_the_others_had_never_been_recorded(view: str) -> None:
    store = open_store(VIEWED)
    kept = np.zeros(store.rows, bool)
    for start, stop in store.views[view].kept.tolist():
        kept[start:stop] = True
    lengths = [int(kept[each.start : each.start + each.length].sum()) for each in store.episodes]
    files = [each.file for each, length in zip(store.episodes, lengths) if length]
    found = coverage.demos_of_store(store, 1, view=view)
    alone = coverage.demos_of_lengths([each for each in lengths if each], files)
    assert found.lengths.tolist() == alone.lengths.tolist()
    assert found.files.tolist() == alone.files.tolist()
    assert found.in_view is None
    changes: list[bool] = []
    for each in store.episodes:
        rows = [row for row in range(each.start, each.start + each.length) if kept[row]]
        grip = (
            [bool(closed) for closed in store.read("actions", rows)[:, -1] > grip_middle(store, kept)] if rows else []
        )
        flips = [at for at in range(1, len(grip)) if grip[at] != grip[at - 1]]
        changes += [any(abs(at - flip) <= 1 for flip in flips) for at in range(len(grip))]
    assert found.near_gripper is not None
    assert found.near_gripper.tolist() == changes


def grip_middle(store: Store, kept: np.ndarray) -> float:
    grip = store.read("actions", np.flatnonzero(kept))[:, -1]
    return float(grip.min() + grip.max()) / 2


def test_a_view_of_anchors_takes_nothing_from_the_other_samplers() -> None:
    plain, viewed = (coverage.measure(coverage.demos_of_store(VIEWED, view=view), runs=8) for view in (None, "drawn"))
    assert viewed["samplers"][: len(plain["samplers"])] == plain["samplers"]
    assert [each["name"] for each in viewed["samplers"][len(plain["samplers"]) :]] == ["view", "view_causal"]
    assert (plain["demos"].pop("views"), len(viewed["demos"].pop("views"))) == ([], 1)
    assert plain["demos"] == viewed["demos"]


def test_a_view_that_keeps_every_step_says_which_it_is_and_adds_no_row() -> None:
    report = coverage.measure(coverage.demos_of_store(VIEWED, view="succeeded"), runs=8)
    assert not [each for each in report["samplers"] if each["name"].startswith("view")]
    assert "view succeeded (anchors: success" in coverage.report_text(report)


def test_views_that_keep_nothing_and_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="no view 'nope'"):
        coverage.demos_of_store(VIEWED, view="nope")
    with pytest.raises(OptionError, match="names no view"):
        coverage.demos_of_store(VIEWED, view=[])


def test_the_command_takes_views_and_tells_what_they_do_not_tell_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["coverage", str(VIEWED), "--view", "moving", "--view", "positive", "--runs", "8"]) == 0
    captured = capsys.readouterr()
    assert "view moving (steps: no_noops" in captured.out
    assert captured.err == "warning: view 'positive' tells of 31 of the store's 71 steps; the others are left out\n"
    assert cli.main(["coverage", "--lengths", "x.csv", "--view", "moving"]) == 2
    assert "lengths have none" in in_words(capsys.readouterr().err)
