"""Weighted samples: floor or ceil of each share in every epoch, by whole numbers alone; and what weights can be made of."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import pickle
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loader.far_storage import far_store
from loader.test_toy_dataset import Squares

import vla_store
from vla_store import recipes, weights
from vla_store.errors import OptionError, UnknownName
from vla_store.loader.batches import Batches
from vla_store.loader.dataset import served
from vla_store.loader.facts import facts_of
from vla_store.loader.groups import groups_of
from vla_store.loader.marks import Shares, WeightedOrder, places_of
from vla_store.loader.order import Blocks, Order, Sharding, epoch_rows, order_of
from vla_store.loader.plan import Jobs, Plan

OPTIONS: dict[str, Any] = {"windows": {"actions": range(3)}, "alignment": "causal"}

small = st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(any)
lengths = st.integers(1, 90)
orders = st.sampled_from([True, False, Blocks(4, 2)])


def weighted_order(given: Any, rows: int, seed: int = 0, epoch: int = 0, shuffle: Any = True) -> WeightedOrder:
    return WeightedOrder(Order(rows, seed, epoch, shuffle), Shares.of(np.array(given, np.float64)))


def counts(order: WeightedOrder, samples: int) -> list[int]:
    found: list[int] = np.bincount(order.take(0, order.rows), minlength=samples).tolist()
    return found


def naive_sample(given: list[int], rows: int, offset: Fraction, mark: int) -> int:
    """The sample whose stretch of a circle of length `rows` holds mark + offset, where stretches are as long as shares."""
    place, end = mark + offset, Fraction(0)
    for sample, weight in enumerate(given):
        end += Fraction(rows * weight, sum(given))
        if place < end:
            return sample
    raise AssertionError("past the end")


# --- the order ----------------------------------------------------------------------------------------------------------


@given(small, lengths, st.integers(-5, 2**70), st.integers(0, 10**9), orders)
def test_each_sample_comes_floor_or_ceil_of_its_share_in_every_epoch(
    given: list[int], rows: int, seed: int, epoch: int, shuffle: Any
) -> None:
    found = counts(weighted_order(given, rows, seed, epoch, shuffle), len(given))
    assert sum(found) == rows
    for count, weight in zip(found, given, strict=True):
        share = Fraction(rows * weight, sum(given))
        assert count in (math.floor(share), math.ceil(share))


@given(small, lengths, st.integers(0, 99), st.integers(0, 99), orders)
def test_the_order_is_that_of_marks_whose_samples_a_naive_walk_finds(
    given: list[int], rows: int, seed: int, epoch: int, shuffle: Any
) -> None:
    order = weighted_order(given, rows, seed, epoch, shuffle)
    offset = Fraction(order.offset, order.shares.total)
    marks = Order(rows, seed, epoch, shuffle).take(0, rows).tolist()
    assert order.take(0, rows).tolist() == [naive_sample(given, rows, offset, mark) for mark in marks]


@given(small, lengths, st.integers(0, 9), orders, st.data())
def test_a_piece_of_the_order_is_that_piece_also_where_it_was_sent(
    given: list[int], rows: int, epoch: int, shuffle: Any, data: Any
) -> None:
    order = weighted_order(given, rows, 1, epoch, shuffle)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    sent = pickle.loads(pickle.dumps(order))
    assert sent.take(start, stop).tolist() == order.take(0, rows)[start:stop].tolist()
    assert order.unit(start - 1 if start else 0) == Order(rows, 1, epoch, shuffle).unit(start - 1 if start else 0)


@settings(max_examples=15)
@given(small, lengths, st.integers(0, 2**64), st.integers(0, 1000))
def test_over_epochs_each_sample_stays_near_its_share(given: list[int], rows: int, seed: int, first: int) -> None:
    total = np.zeros(len(given))
    share = np.array([rows * weight / sum(given) for weight in given])
    for number in range(60):
        total += counts(weighted_order(given, rows, seed, first + number), len(given))
        assert (np.abs(total - (number + 1) * share) < 3).all()
    assert (total[np.array(given) == 0] == 0).all()


@settings(max_examples=200)
@given(st.integers(1, 2**40), st.integers(1, 2**61), st.data())
def test_places_are_exact_where_products_have_a_hundred_bits(rows: int, total: int, data: Any) -> None:
    offset = data.draw(st.integers(0, total - 1))
    marks = [*data.draw(st.lists(st.integers(0, rows - 1), max_size=5)), 0, rows - 1]
    expected = [(mark * total + offset) // rows for mark in marks]
    assert places_of(np.array(marks), rows, total, offset).tolist() == expected
    assert max(expected) < total


@given(st.lists(st.floats(0, 1e300, allow_subnormal=False), min_size=1, max_size=20).filter(any))
def test_whole_weights_keep_the_ratios_of_what_is_given(given: list[float]) -> None:
    shares = Shares.of(np.array(given))
    largest = max(range(len(given)), key=given.__getitem__)
    assert shares.total < 2**62
    for weight, whole in zip(given, shares.each.tolist(), strict=True):
        assert (whole > 0) == (weight > 0)
        ratio = Fraction(weight) / Fraction(given[largest])
        assert abs(Fraction(whole, int(shares.each[largest])) - ratio) < Fraction(1, 2**50)


def test_small_whole_numbers_and_their_multiples_are_exact() -> None:
    for scale in (1, 0.125, 1024.0, 2.0**-1000):
        assert Shares.of(np.array([1, 5, 0, 2]) * scale).each.tolist() == [1, 5, 0, 2]
    assert Shares.of(np.ones(1000)).total == 1000


def test_equal_weights_give_the_plain_order() -> None:
    for shuffle in (True, False, Blocks(4, 2)):
        plain = Order(500, 3, 7, shuffle).take(0, 500)
        assert np.array_equal(weighted_order([0.3] * 500, 500, 3, 7, shuffle).take(0, 500), plain)


def test_the_order_of_before_is_still_the_order() -> None:
    """Checkpoints hold a position in it: it must never change once it was released."""
    given = np.arange(10_000) % 7 + np.arange(10_000) / 1e4
    found = [
        weighted_order(given, rows, 5, 9, shuffle).take(0, rows)
        for rows in (99, 20_000)
        for shuffle in (True, Blocks())
    ]
    digest = hashlib.sha256(np.concatenate(found).astype("<i8").tobytes()).hexdigest()
    assert digest == "b9c99be68c0310f376fa0d6f0c7b2219ff3e5fb07b460bb00a5ef00d082bb038"


# --- served -------------------------------------------------------------------------------------------------------------


def numbers(batches: Any) -> list[int]:
    return [number for batch in batches for number in np.asarray(batch["number"]).tolist()]


def toy(epoch: int | None = 57) -> Any:
    return served(vla_store.weighted(Squares(40), np.arange(40) % 4, epoch=epoch))


def test_the_length_is_that_of_the_samples_and_the_epoch_what_was_asked_for() -> None:
    given = vla_store.weighted(Squares(40), np.arange(40) % 4, epoch=57)
    assert (len(given), given.epoch_rows, epoch_rows(toy()), epoch_rows(toy(None))) == (40, 57, 57, 40)
    assert np.allclose(given.shares, np.arange(40) % 4 * 57 / 60)
    assert "57" in repr(given)
    assert "10 never come" in repr(given)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 4), st.integers(2, 9), st.integers(0, 6))
def test_ranks_share_the_order_and_a_resumed_one_is_its_suffix(
    world: int, batch: int, later_world: int, later_batch: int, taken: int
) -> None:
    whole = order_of(toy(), 3, 0, True).take(0, 57).tolist()
    assume(taken * world * batch < 57 - max(world, later_world))

    def made(world: int, batch: int) -> list[Batches]:
        return [
            Batches(toy(), batch_size=batch, seed=3, workers=0, ranks=lambda rank=rank: (rank, world))  # type: ignore[misc]
            for rank in range(world)
        ]

    loaders = made(world, batch)
    streams = [iter(each) for each in loaders]
    first = [number for _ in range(taken) for each in streams for number in numbers([next(each)])]
    assert first == whole[: taken * world * batch]
    resumed = made(later_world, later_batch)
    for each in resumed:
        each.epochs.load_state_dict(json.loads(json.dumps(loaders[0].epochs.state_dict())))
    turns = itertools.zip_longest(*([numbers([batch]) for batch in each] for each in resumed))
    assert [number for turn in turns for piece in turn for number in piece] == whole[len(first) :]


def test_a_state_of_other_weights_or_of_none_is_refused() -> None:
    def epochs(dataset: Any) -> Any:
        return Batches(dataset, batch_size=4, workers=0).epochs

    state = epochs(toy(40)).state_dict()
    epochs(toy(40)).load_state_dict(state)
    others = served(vla_store.weighted(Squares(40), np.arange(40) % 4 + 1, epoch=40))
    with pytest.raises(OptionError, match="of other weights"):
        epochs(others).load_state_dict(state)
    with pytest.raises(OptionError, match="of a dataset with weights"):
        epochs(Squares(40)).load_state_dict(state)
    for dataset, of in ((toy(41), state), (toy(40), epochs(Squares(40)).state_dict())):
        with pytest.raises(OptionError, match="of other weights"):
            epochs(dataset).load_state_dict(of)


def test_an_order_of_its_own_is_not_weighed_again_and_no_subset_is_taken() -> None:
    once = vla_store.weighted(Squares(6), np.ones(6))
    with pytest.raises(OptionError, match="order of its own already"):
        vla_store.weighted(once, np.ones(6))
    Subset = pytest.importorskip("torch").utils.data.Subset
    with pytest.raises(OptionError, match="would lose the order"):
        served(Subset(once, [1, 2]))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_and_dataloader_give_the_same_samples_in_the_same_order(tiny_store: Path, workers: int) -> None:
    data = pytest.importorskip("torch").utils.data
    from vla_store.torch import Loader, ShuffleSampler, StepDataset, collate

    dataset = vla_store.weighted(StepDataset(tiny_store, **OPTIONS), lambda at: at.step % 3, epoch=90)
    expected = order_of(dataset.samples, 4, 0, True).take(0, 90)
    rows = [(dataset[int(each)]["episode"], dataset[int(each)]["step"]) for each in expected]
    sampler = ShuffleSampler(dataset, seed=4)
    theirs = data.DataLoader(dataset, batch_size=16, sampler=sampler, collate_fn=collate, num_workers=0)
    with Loader(dataset, batch_size=16, seed=4, workers=workers) as loader:
        for batches in (loader, theirs):
            found = list(batches)
            steps = [pair for batch in found for pair in zip(batch["episode"].tolist(), batch["step"].tolist())]
            assert steps == rows
        loader.set_epoch(5)
        again = [int(each) for batch in loader for each in batch["step"]]
    assert again == [dataset[int(each)]["step"] for each in order_of(dataset.samples, 4, 5, True).take(0, 90)]


@pytest.mark.parametrize("kind", ["transform", "recipe", "own transform", "subset"])
def test_whatever_a_loader_takes_is_weighed_and_its_samples_stay(tiny_store: Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.torch import Loader, StepDataset

    steps = StepDataset(tiny_store, **OPTIONS)
    datasets = {
        "transform": StepDataset(tiny_store, **OPTIONS, transform=_only_step),
        "recipe": recipes.act(tiny_store, chunk=4),
        "own transform": steps,
        "subset": torch.utils.data.Subset(steps, range(60, 20, -2)),
    }
    dataset = datasets[kind]
    given = vla_store.weighted(dataset, np.arange(len(dataset)) % 5)
    options: dict[str, Any] = {"batch_size": len(dataset), "shuffle": False, "workers": 0}
    if kind == "own transform":
        options["transform"] = _numpy_step
    (batch,) = Loader(given, **options)
    expected = order_of(given.samples, 0, 0, False).take(0, len(dataset)).tolist()
    assert expected == sorted(expected)
    if kind == "recipe":
        assert np.array_equal(batch[1], np.stack([dataset[each][1] for each in expected]))
    else:
        assert batch["step"].tolist() == [int(dataset[each]["step"]) for each in expected]


@pytest.mark.parametrize("shuffle", [True, Blocks(16, 8)])
def test_groups_bring_all_of_a_batch_and_blocks_of_it_once_in_a_pool(shuffle: Any) -> None:
    given = np.random.default_rng(0).integers(0, 5, 5_000)
    order = weighted_order(given, 6_000, 3, 1, shuffle)
    plan = Plan(order, Sharding(6_000, 64), 0, 640, Sharding(6_000, 64).batches(640))
    jobs, here, count = Jobs(plan), set[int](), 0
    for group in groups_of(plan):
        here.update(group.indices.tolist())
        count += len(group.indices)
        while jobs.given < group.batches:
            assert here.issuperset(next(jobs).indices.tolist())
    assert jobs.given == plan.count
    assert count < 6_000


def test_a_far_store_gives_the_same_batches(tiny_store: Path, tmp_path: Path) -> None:
    def batches(store: Any, **options: Any) -> Batches:
        dataset: Any = served(vla_store.weighted(vla_store.Samples(store, **OPTIONS), lambda at: at.step % 4))
        return Batches(dataset, batch_size=8, shuffle=Blocks(4, 8), **options)

    far = batches(far_store(tiny_store, tmp_path), workers=2)
    for mine, other in zip(far, batches(tiny_store, workers=0), strict=True):
        assert np.array_equal(mine["actions"], other["actions"])
        assert mine["step"].tolist() == other["step"].tolist()
    far.close()


def _only_step(sample: Any) -> Any:
    return {"step": sample["step"]}


def _numpy_step(sample: Any) -> Any:
    assert isinstance(sample["actions"], np.ndarray)
    return {"step": sample["step"]}


# --- what weights are made of -------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tiny_store: Path) -> vla_store.Samples:
    return vla_store.Samples(tiny_store, **OPTIONS)


def whole(dataset: Any, given: Any) -> Any:
    return vla_store.weighted(dataset, given).samples.ordering.shares.each


def test_a_field_is_taken_at_the_row_of_each_sample(samples: vla_store.Samples) -> None:
    rewards = samples.store.read("rewards", samples.anchor_rows)
    where = [samples.where(number) for number in range(len(samples))]
    assert samples.anchor_rows.tolist() == [each["row"] for each in where]
    assert np.array_equal(whole(samples, "rewards") > 0, rewards.reshape(-1) > 0)
    chosen = vla_store.Samples(samples.store, rows=[50, 3, 90, 3], windows={"actions": 0})
    assert chosen.anchor_rows.tolist() == [50, 3, 90, 3]


def test_a_function_is_given_the_facts_of_each_sample(samples: vla_store.Samples) -> None:
    seen: list[Any] = []

    def function(at: Any) -> Any:
        seen.append(at)
        return np.ones(len(at))

    torch = pytest.importorskip("torch")
    numbers = [5, 100, 77, 5]
    vla_store.weighted(
        torch.utils.data.Subset(torch.utils.data.Subset(samples, range(10, 127)), [0, 90, 70, 0]), function
    )
    (at,) = seen
    numbers = [10, 100, 80, 10]
    for place, number in enumerate(numbers):
        where, store = samples.where(number), samples.store
        episode = store.episodes[where["episode"]]
        assert (at.row[place], at.episode[place], at.step[place]) == (where["row"], where["episode"], where["step"])
        assert (at.length[place], at.suite[place], at.file[place]) == (episode.length, episode.suite, episode.file)
        assert store.tasks[at.task[place]].name == episode.task
        assert at.text[place] == store.tasks[at.task[place]].text
    assert np.array_equal(at.field("actions"), samples.store.read("actions", at.row))


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.2, 1.0, math.nan]), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(0, 4),
)
def test_near_a_change_is_what_a_walk_over_each_episode_finds(episodes: list[list[float]], steps: int) -> None:
    from vla_store import rules

    values = [each for episode in episodes for each in episode]
    finite = [each for each in values if not math.isnan(each)]
    middle = (min(finite) + max(finite)) / 2 if finite else 0.0
    expected = []
    for episode in episodes:
        above = [each > middle for each in episode]
        changes = [number for number in range(1, len(episode)) if above[number] != above[number - 1]]
        expected += [any(abs(number - change) <= steps for change in changes) for number in range(len(episode))]
    sizes = np.array([len(each) for each in episodes])
    starts = np.cumsum(sizes) - sizes
    events = np.flatnonzero(rules.crossings(np.array(values), starts))
    rows = np.arange(len(values))
    found = rules.near(events, rows, np.repeat(starts, sizes), np.repeat(starts + sizes, sizes), steps)
    assert found.tolist() == expected


def test_ready_made_weights_are_what_they_say(samples: vla_store.Samples) -> None:
    def value(at: Any) -> Any:
        seen.append(at)
        return np.ones(len(at))

    seen: list[Any] = []
    vla_store.weighted(samples, value)
    at = seen[0]
    near = at.near(at.changes("dones", 0), 2)
    assert np.array_equal(near, (at.step >= at.length - 3) & (at.length > 1))  # done is the last step alone
    assert weights.near_changes("dones", index=0, steps=2, times=3)(at).tolist() == np.where(near, 3, 1).tolist()
    shares = vla_store.weighted(samples, weights.rare_tasks()).shares
    by_task = np.bincount(at.task, shares)
    assert np.allclose(by_task, by_task[0])
    assert np.array_equal(weights.rare_tasks(0)(at), np.ones(len(at)))
    halved = weights.recent(2, least=0.3)(at)
    assert halved[-1] == 1
    assert halved[at.episode == at.episode.max() - 2].tolist() == [0.5] * int(
        (at.episode == at.episode.max() - 2).sum()
    )
    assert halved.min() == 0.3
    both = weights.rare_tasks() * weights.recent(2, least=0.3) * value
    assert np.array_equal(both(at), weights.rare_tasks()(at) * halved)
    assert str(both) == "rare_tasks(power=1) * recent(half_life=2, least=0.3) * value"


def test_weights_times_a_number_an_array_or_a_function_are_the_same_from_either_side(
    samples: vla_store.Samples,
) -> None:
    at, rare, steps = facts_of(samples, "a test"), weights.rare_tasks(), np.arange(127)
    for factor, numbers, text in [
        (2, 2, "2"),
        (np.float32(0.5), 0.5, "0.5"),
        (steps, steps, "an array"),
        (lambda at: at.step, at.step, "<lambda>"),
    ]:
        for product, said in ((rare * factor, f"{rare} * {text}"), (factor * rare, f"{text} * {rare}")):  # type: ignore[operator]
            assert np.array_equal(product(at), rare(at) * numbers)
            assert str(product) == said
    for wrong in (-1, math.nan, True, None, "rewards", [1, 2]):
        for product in (lambda wrong=wrong: rare * wrong, lambda wrong=wrong: wrong * rare):
            with pytest.raises(OptionError):
                product()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (np.ones(137), "expected  127"),
        ([1.0] * 126 + [-1], "sample   126\n"),
        ([1.0] * 3 + [math.nan, math.inf] + [1] * 122, r"sample   3\n(.|\n)*2 such weights"),
        (np.zeros(127), "all weights are 0"),
        ("actions", "several numbers a step"),
        (None, "weights are numbers"),
        (["a"] * 127, "weights are numbers"),
        (np.ones((127, 1)), "weights are numbers"),
        (np.ma.masked_equal(np.arange(127) % 5, 3), r"sample   3\n(.|\n)*masked; 25 such weights(.|\n)*filled"),
        (lambda at: np.ma.masked_equal(at.step, 1), "found    masked"),
        (weights.rare_tasks() * (lambda at: np.ma.masked_equal(at.step, 1)), "found    masked"),
        (weights.near_changes, r"call it: weights.near_changes\(\)"),
        (weights.rare_tasks() * weights.recent, r"call it: weights.recent\(half_life=...\)"),
        (lambda at: weights.rare_tasks(), "this one returns a function"),
        (weights.rare_tasks() * np.ones(5), "expected  127 numbers"),
        (weights.rare_tasks() * (lambda at: at.text), "factor    <lambda>"),
        (lambda at: at.near([3]), "mask of all rows"),
        (lambda at: at.near(np.ma.masked_equal(at.changes("dones"), True)), "values masked"),
        (lambda at: at.changes("actions", 7), "no number 7"),
        (lambda at: at.step[:5], "one a sample"),
    ],
)
def test_weights_that_cannot_be_are_refused(samples: vla_store.Samples, given: Any, text: str) -> None:
    with pytest.raises(OptionError) as raised:
        vla_store.weighted(samples, given)
    assert re.search(text, str(raised.value)), raised.value
    assert len(str(raised.value).splitlines()) < 12


def test_what_is_no_field_dataset_or_option_is_refused(samples: vla_store.Samples) -> None:
    for name in ("reward", "agentview_rgb"):
        with pytest.raises(UnknownName, match="numeric field"):
            vla_store.weighted(samples, name)
    for of_a_store in ("rewards", weights.rare_tasks()):
        with pytest.raises(OptionError, match="of a store"):
            vla_store.weighted(Squares(5), of_a_store)
    with pytest.raises(OptionError, match="what a Loader takes"):
        vla_store.weighted([1, 2], [1, 1])
    with pytest.raises(OptionError, match="epoch"):
        vla_store.weighted(Squares(5), np.ones(5), epoch=0)
    with pytest.raises(UnknownName, match="write epoch=5"):
        vla_store.weighted(Squares(5), np.ones(5), num_samples=5)  # type: ignore[call-arg]
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (weights.near_changes, {"field": "actions", "radius": 3}),
        (weights.near_changes, {"times": 0}),
        (weights.near_changes, {"steps": -1}),
        (weights.rare_tasks, {"power": -1}),
        (weights.recent, {"half_life": 0}),
    ]
    for function, options in wrong:
        with pytest.raises((OptionError, UnknownName)):
            function(**options)


def test_weights_are_named_in_a_text(samples: vla_store.Samples) -> None:
    def parsed(text: str) -> str:
        return str(weights.parse_weights(text, samples.store))

    assert parsed("rewards") == "rewards"
    assert parsed("near_changes:states,times=3,index=0") == str(weights.near_changes("states", 0, times=3))
    assert parsed("rare_tasks * recent:40") == "rare_tasks(power=1) * recent(half_life=40, least=0)"
    for twice in ("recent:half_life=10,half_life=20", "recent:10,half_life=20"):
        with pytest.raises(OptionError, match="half_life of recent is given twice"):
            parsed(twice)
    for wrong in ("rare_task", "rare_tasks:strength=1", "rare_tasks:1,2", "recent", "rewards*rare_tasks", "recent:x"):
        with pytest.raises((UnknownName, OptionError)):
            parsed(wrong)
