"""A mixture: each part's share at every prefix, each part enumerated, resumed exactly; and what its samples and errors say."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader.mixing import Numbers, given_by, naive_order, ranks_of
from loader.test_state import can_be_sharded

import vla_store
from vla_store.errors import OptionError, TransformError, UnknownName
from vla_store.loader.order import Blocks, epoch_rows

WINDOWS = {"agentview_rgb": [-1, 0], "actions": range(4)}
OPTIONS: dict[str, Any] = {"windows": WINDOWS, "alignment": "causal", "images": "upright"}

PARTS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 4)), min_size=1, max_size=4).filter(
    lambda parts: any(weight for _, weight in parts)
)


def mixed(parts: list[tuple[int, int]], **options: Any) -> vla_store.Mixture:
    pairs = [(Numbers(kind, rows), weight) for kind, (rows, weight) in enumerate(parts)]
    return vla_store.mixture(pairs, names=names_of(parts), **options)


def names_of(parts: list[tuple[int, int]]) -> list[str]:
    return [f"part {kind}" for kind in range(len(parts))]


# --- the order ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    parts=PARTS,
    epoch=st.one_of(st.sampled_from(["largest", "smallest"]), st.integers(20, 90)),
    seed=st.integers(-(2**65), 2**65),
    shuffle=st.sampled_from([True, False, Blocks(3, 4)]),
    worlds=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    sizes=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    cut=st.integers(0, 9),
)
def test_a_run_is_the_naive_order_on_any_ranks_and_goes_on_exactly(
    parts: list[tuple[int, int]],
    epoch: str | int,
    seed: int,
    shuffle: Any,
    worlds: tuple[int, int],
    sizes: tuple[int, int],
    cut: int,
) -> None:
    dataset = mixed(parts, epoch=epoch)
    length = epoch_rows(dataset)
    if length < 3:  # fewer than ranks
        return
    options = {"seed": seed, "shuffle": shuffle}
    rows, weights = zip(*parts)
    counts = tuple(each // math.gcd(*weights) for each in weights)
    expected = naive_order(rows, names_of(parts), counts, seed, shuffle, 2 * length)
    before = ranks_of(dataset, worlds[0], batch_size=sizes[0], **options)
    taken = given_by([iter(each) for each in before], cut)
    assert taken == expected[: len(taken)]
    state, *others = [json.loads(json.dumps(each.epochs.state_dict())) for each in before]
    assert all(each == state for each in others)
    after = ranks_of(mixed(parts, epoch=epoch), worlds[1], state, batch_size=sizes[1], **options)
    if not (can_be_sharded(after[0], state["position"]) and can_be_sharded(after[0], 0)):
        return
    while len(taken) < 2 * length:  # the rest of this epoch, and then the next
        taken += given_by([iter(each) for each in after], None)
    assert taken == expected


@settings(max_examples=40)
@given(parts=PARTS, epochs=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_prefix_has_the_shares_and_each_part_comes_whole_before_it_comes_again(
    parts: list[tuple[int, int]], epochs: int, seed: int
) -> None:
    dataset = mixed(parts)
    length, firsts = epoch_rows(dataset), np.cumsum([0, *(rows for rows, _ in parts)])
    whole = np.concatenate([dataset.epoch_order(seed, epoch, True).take(0, length) for epoch in range(epochs)])
    found = dataset.part_of(whole)
    total = sum(weight for _, weight in parts)
    for number, (rows, weight) in enumerate(parts):
        count = np.cumsum(found == number)
        assert (np.abs(count * total - np.arange(1, len(whole) + 1) * weight) < total).all()
        own = (whole[found == number] - firsts[number]).tolist()
        for start in range(0, len(own), rows):
            piece = own[start : start + rows]
            assert len(set(piece)) == len(piece)  # so a whole one is each sample once
    first = np.bincount(found[:length], minlength=len(parts))
    assert all(count >= rows for count, (rows, weight) in zip(first, parts) if weight)  # until the largest was whole


def test_a_part_keeps_its_order_when_others_come_and_go() -> None:
    def of(*kinds: int) -> list[int]:
        dataset = vla_store.mixture([Numbers(kind, 50) for kind in kinds], names=[f"part {kind}" for kind in kinds])
        taken = dataset.epoch_order(3, 0, True).take(0, 50)
        return [int(dataset[each]["value"]) for each in taken if dataset[each]["name"] == "1"]

    assert of(1)[:10] == of(0, 1)[:10] == of(2, 1, 0)[:10]


def test_a_mixture_may_be_part_of_another() -> None:
    inner = mixed([(20, 3), (10, 1)], part=None)
    outer = vla_store.mixture([(inner, 2), (Numbers(5, 7), 1)], names=["inner", "other"])
    length = epoch_rows(outer)
    own = outer.epoch_order(1, 0, True).take(0, length)
    of_inner = own[outer.part_of(own) == 0]
    assert np.bincount(inner.part_of(of_inner[:24])).tolist() in ([18, 6], [17, 7], [19, 5])
    (loader,) = ranks_of(outer, 1, batch_size=5, seed=1)
    batches = list(loader)
    values = [outer[int(each)]["value"] for each in own]
    assert np.concatenate([each["value"] for each in batches]).tolist() == values
    assert outer[0]["part"] == 0


def test_many_mixtures_in_a_mixture_make_their_schedules_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_store.loader import mixing

    made: list[int] = []
    table_of = mixing.table_of
    monkeypatch.setattr(mixing, "table_of", lambda counts, seed: made.append(seed) or table_of(counts, seed))
    inner = [mixed([(20 + kind, 2), (10, 1)], part=None) for kind in range(10)]
    dataset = vla_store.mixture(inner, names=[f"inner {kind}" for kind in range(10)])
    order = dataset.epoch_order(0, 0, True)
    for start in range(0, 100, 20):
        order.take(start, start + 20)
    assert len(made) == 11
    assert len(pickle.dumps(order)) < 4_000


def test_a_part_may_have_weights_of_its_own_samples(of_a_store: list[vla_store.Samples]) -> None:
    weights = np.where(np.arange(len(of_a_store[0])) < 10, 3, 1)
    dataset = vla_store.mixture(
        [(vla_store.weighted(of_a_store[0], weights), 2), (of_a_store[1], 1)],
        names=["weighted", "plain"],
        epoch="largest",
    )
    (loader,) = ranks_of(dataset, 1, batch_size=7, seed=1)
    found = np.zeros(len(dataset), int)
    for batch in loader:
        for part, episode, step in zip(batch["part"].tolist(), batch["episode"], batch["step"]):
            samples = of_a_store[part]
            where = [(each["episode"], each["step"]) for each in map(samples.where, range(len(samples)))]
            found[where.index((episode, step)) + part * len(of_a_store[0])] += 1
    assert found.sum() == epoch_rows(dataset)
    of_weighted = found[: len(of_a_store[0])]
    ideal = of_weighted.sum() * weights / weights.sum()
    assert (np.abs(of_weighted - ideal) < 2).all()  # less than one in each own epoch


def test_the_order_and_the_dataset_pickle_small() -> None:
    dataset = mixed([(10**9, 1)] * 20)
    order = dataset.epoch_order(0, 3, True)
    order.take(5, 9)
    assert len(pickle.dumps(order)) < 3_000
    assert len(pickle.dumps(dataset)) < 6_000
    assert (pickle.loads(pickle.dumps(order)).take(0, 99) == order.take(0, 99)).all()
    assert (order.take(10**9, 10**9 + 50)[20:] == order.take(10**9 + 20, 10**9 + 50)).all()


def test_weights_by_steps_and_temperature() -> None:
    parts = [(30, 1), (10, 1)]
    assert mixed(parts, weights="by_steps").shares == {"part 0": 0.75, "part 1": 0.25}
    assert epoch_rows(mixed(parts, weights="by_steps")) == 40
    assert mixed([(30, 1), (10, 3)], weights="by_steps").shares == {"part 0": 0.5, "part 1": 0.5}
    assert mixed([(40, 1), (10, 1)], weights="by_steps", temperature=2).shares["part 0"] == pytest.approx(2 / 3)
    assert mixed(parts, weights="by_steps", temperature=float("inf")).shares == {"part 0": 0.5, "part 1": 0.5}
    with pytest.raises(OptionError, match="how many episodes") as raised:
        mixed(parts, weights="by_episodes")
    assert raised.value.places["part"] == "part 0"
    with pytest.raises(UnknownName, match="by_step'"):
        mixed(parts, weights="by_step")


# --- samples ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> vla_store.Store:
    return vla_store.open_store(tiny_store)


@pytest.fixture
def of_a_store(store: vla_store.Store) -> list[vla_store.Samples]:
    return [vla_store.Samples(store, suites=suite, **OPTIONS) for suite in store.suites]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return np.array_equal(one, other)


def copied(batch: Any) -> dict[str, Any]:
    return {
        key: np.array(batch[key].tolist() if hasattr(batch[key], "tolist") else batch[key]) for key in sorted(batch)
    }


def test_samples_are_those_of_the_parts_in_any_way_they_are_read(of_a_store: list[vla_store.Samples]) -> None:
    dataset = vla_store.mixture(of_a_store, names=["x", "y", "z"])
    wanted = np.random.default_rng(0).integers(0, len(dataset), 40)
    parts, firsts = dataset.part_of(wanted), np.cumsum([0, *map(len, of_a_store)])
    expected = [
        {**of_a_store[part][index - firsts[part]], "part": part} for part, index in zip(parts.tolist(), wanted.tolist())
    ]
    assert all(same(dataset[index], each) for index, each in zip(wanted.tolist(), expected))
    assert all(same(one, each) for one, each in zip(dataset.items_in_turn(wanted), expected))
    assert all(same(one, each) for one, each in zip(dataset.__getitems__(wanted.tolist()), expected))
    assert same(dataset[-1], {**of_a_store[-1][-1], "part": 2})
    batch = dataset.batch(wanted)
    assert batch["part"].dtype == np.int64
    for key, column in batch.items():
        assert all(np.array_equal(column[at], each[key]) for at, each in enumerate(expected)), key
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_whatever_the_parts_are(store: vla_store.Store, workers: int) -> None:
    torch = pytest.importorskip("torch").utils.data
    from vla_store.torch import Loader, ShuffleSampler, StepDataset, collate

    def parts(make: Any) -> list[Any]:
        return [make(store, suites=suite, **OPTIONS) for suite in store.suites]

    plain = parts(vla_store.Samples)
    kinds = [
        plain,
        parts(StepDataset),
        [torch.Subset(each, range(len(each))) for each in plain],
        [vla_store.Samples(store, suites=store.suites[0], transform=dict, **OPTIONS), *plain[1:]],
        [StepDataset(store, suites=store.suites[0], transform=dict, **OPTIONS), *plain[1:]],
    ]
    expected: list[dict[str, Any]] = []
    for each in kinds[: 5 if workers == 0 else 2]:
        dataset = vla_store.mixture(list(zip(each, (3, 2, 1))), names=["x", "y", "z"])
        with Loader(dataset, batch_size=10, seed=4, workers=workers) as loader:
            found = [copied(batch) for batch in loader]
        expected = expected or found
        assert all(same(one, other) for one, other in zip(found, expected))
        sampler = ShuffleSampler(dataset, seed=4)
        batches = torch.DataLoader(dataset, batch_size=10, sampler=sampler, collate_fn=collate)
        found = [copied(batch) for batch in batches]
        assert all(same(one, other) for one, other in zip(found, expected))


class Trees(Numbers):
    """Samples of all that a batch may have: deep, as tuples and lists, of texts and objects."""

    def __init__(self, kind: int, rows: int, width: int = 2, **more: Any) -> None:
        super().__init__(kind, rows)
        self.width, self.more = width, more

    def __getitem__(self, index: int) -> Any:
        value = np.full((3, self.width), 10 * self.kind + index, np.float32)
        return {
            "deep": {"pair": (value, value[0] + 1), "list": [value[:, 0]]},
            "text": str(index),
            "none": None,
            **self.more,
        }

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        values = empty((len(indices), 3, self.width), np.float32)
        values[...] = (10 * self.kind + np.asarray(indices))[:, None, None]
        more = {key: np.array([each] * len(indices)) for key, each in self.more.items()}
        deep = {"pair": (values, values[:, 0] + 1), "list": [values[:, :, 0]]}
        return {"deep": deep, "text": [str(each) for each in indices], "none": [None] * len(indices), **more}


def test_batches_of_any_trees_are_put_together() -> None:
    from vla_store.loader.collate import collate

    dataset = vla_store.mixture([Trees(kind, 20) for kind in range(3)], names=["x", "y", "z"])
    for seed in range(3):  # memory that is used again
        wanted = np.random.default_rng(seed).integers(0, 60, 16 - seed)
        batch, expected = dataset.batch(wanted), collate([dataset[int(each)] for each in wanted])
        assert all(np.array_equal(one, other) for one, other in zip(batch["deep"]["pair"], expected["deep"]["pair"]))
        assert np.array_equal(batch["deep"]["list"][0], expected["deep"]["list"][0])
        assert [batch[key] for key in ("text", "none")] == [expected[key] for key in ("text", "none")]
        assert batch["part"].tolist() == (wanted // 20).tolist()


def test_parts_that_turn_out_to_differ_are_refused_by_value() -> None:
    dataset = vla_store.mixture([Trees(0, 5), Trees(1, 5)], names=["x", "y"])
    for change, text in (({"width": 4}, "several widths"), ({"more": {"extra": 1}}, "do not fit together")):
        other = Trees(1, 5)
        other.__dict__.update(change)
        dataset._batches._datasets[1] = other
        with pytest.raises(OptionError, match=text) as raised:
            dataset.batch([0, 7])
    assert raised.value.places["keys"] == "'extra'"


def test_workers_of_a_mixture_of_torch_datasets_do_not_import_torch(store: vla_store.Store) -> None:
    pytest.importorskip("torch")
    from vla_store.loader.dataset import served
    from vla_store.torch import StepDataset

    dataset = vla_store.mixture([StepDataset(store, suites=suite, **OPTIONS) for suite in store.suites])
    assert b"torch" not in pickle.dumps(served(dataset))
    assert type(dataset[0]["actions"]).__module__ == "torch"


def test_drawn_texts_are_those_of_their_position_however_parts_are_read() -> None:
    from vla_store.reader.texts import Place, drawing_at, drawing_for

    class Drawing(Numbers):
        def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
            from vla_store.reader import texts

            return {"drawn": texts._drawn(len(indices))[:, 0]}

        def __getitem__(self, index: int) -> Any:
            return {"drawn": self.batch([index])["drawn"][0]}

    dataset = vla_store.mixture([Drawing(kind, 30) for kind in range(3)], names=["x", "y", "z"])
    wanted = np.random.default_rng(1).integers(0, 90, 20)
    with drawing_at(5, 2, 70):
        batch = dataset.batch(wanted)
        one_by_one = [each["drawn"] for each in dataset.items_in_turn(wanted)]
    assert batch["drawn"].tolist() == Place(5, 2, 70).numbers(20)[:, 0].tolist()
    assert one_by_one[0] == batch["drawn"][0]
    with drawing_at(5, 2, 70), drawing_for(np.array([3, 4, 9])), drawing_for(np.array([0, 2])):
        assert (dataset.batch([0, 40])["drawn"] == batch["drawn"][[3, 9]]).all()


# --- what it says -------------------------------------------------------------------------------------------------------


def test_parts_whose_samples_differ_are_refused_by_name(store: vla_store.Store) -> None:
    one, other = store.suites[:2]
    parts = [
        vla_store.Samples(store, suites=one, windows={"actions": range(4), "ee_pos": 0}, alignment="causal"),
        vla_store.Samples(store, suites=other, windows={"actions": range(5)}, dtype="float32"),
    ]
    with pytest.raises(OptionError, match="do not fit into one batch") as raised:
        vla_store.mixture(parts, names=["left", "right"])
    found = raised.value.places["differ"]
    assert "'actions' is (4, 7) float64 in 'left', and (5, 7) float32 in 'right'" in found
    assert "'ee_pos' is in 'left', and not in 'right'" in found
    assert "by_part" in raised.value.hint


def test_a_value_that_has_the_name_of_ours_is_refused() -> None:
    inner = mixed([(3, 1), (4, 1)])
    with pytest.raises(OptionError, match="'part' already") as raised:
        vla_store.mixture([inner, Numbers(1, 3)])
    assert raised.value.places["part"] == "Mixture"
    assert "the inner mixture with part=None" in raised.value.hint
    assert vla_store.mixture([inner, inner], names=["x", "y"], part="source")[8] | {"value": 0, "name": ""} == {
        "value": 0,
        "name": "",
        "part": 0,
        "source": 1,
    }
    assert "part" not in mixed([(3, 1)], part=None)[0]
    assert "part" not in mixed([(3, 1)], part=None).batch([0])


def test_a_part_whose_first_sample_cannot_be_made_is_named() -> None:
    class Failing(Numbers):
        def __getitem__(self, index: int) -> Any:
            return self.transform(index)

        def transform(self, index: int, *generator: Any) -> Any:
            return index / 0

    class Drawing(Failing):
        def transform(self, index: int, generator: Any) -> Any:
            return generator

    for made, text, hint in (
        (Failing(1, 3), "ZeroDivisionError", ""),
        (Drawing(1, 3), "'generator'", "Loader(mixture, tr"),
    ):
        with pytest.raises(TransformError, match="first sample of a part") as raised:
            vla_store.mixture([Numbers(0, 3), (made, 0)], names=["sound", "bad"])
        assert raised.value.places["part"] == "bad"
        assert text in raised.value.places["traceback"]
        assert hint in raised.value.hint


def test_an_error_names_the_part_and_its_own_sample() -> None:
    class Broken(Numbers):
        def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
            assert 3 not in indices, "no three"
            return super().batch(indices, empty=empty)

    dataset = vla_store.mixture([Numbers(0, 5), Broken(1, 5)], names=["sound", "broken"])
    (loader,) = ranks_of(dataset, 1, batch_size=4, seed=1)
    with pytest.raises(TransformError, match="no three") as raised:
        list(loader)
    places = raised.value.places
    assert (places["part"], places["its sample"], places["sample"], places["number"]) == ("broken", "3", "8", "3")


@pytest.mark.parametrize(
    ("parts", "options", "text"),
    [
        ([], {}, "at least one part"),
        (Numbers(0, 3), {}, "are a list"),
        ([3], {}, "what a Loader takes"),
        ([Numbers(0, 3), Numbers(1, 3)], {"names": ["x"]}, "one for each part"),
        ([Numbers(0, 3), Numbers(1, 3)], {"names": ["x", "x"]}, "each another"),
        ([Numbers(0, 3), Numbers(1, 3)], {"names": ["x", "y\nz"]}, "of one line"),
        ([Numbers(0, 3), Numbers(1, 3)], {"names": {"x", "y"}}, "names are a list"),
        ([Numbers(0, 3)], {"names": "x"}, "names are a list"),
        ([Numbers(0, 3)], {"names": 3}, "names are a list"),
        ([Numbers(0, 3)], {"part": 3}, "part is a text"),
        ([Numbers(0, 3)], {"part": ""}, "part is a text"),
        ([Numbers(0, 3)], {"part": True}, "part is a text"),
        ([Numbers(0, 3)], {"part": ("a",)}, "part is a text"),
        ([Numbers(0, 3), (Numbers(1, 0), 0)], {"names": ["x", "y"]}, "no samples"),
        ([Numbers(0, 3), Numbers(1, 3)], {"seed": 3}, "no option 'seed'"),
        ([Numbers(0, 3), Numbers(1, 3)], {"epoch": 0}, "epoch"),
        ([(Numbers(0, 3), -1)], {}, "at least 0"),
    ],
)
def test_what_no_mixture_can_be_is_refused(parts: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises((OptionError, UnknownName), match=text):
        vla_store.mixture(parts, **options)


def test_it_says_what_it_is() -> None:
    dataset = mixed([(30, 3), (10, 1), (7, 0)])
    assert repr(dataset).splitlines() == [
        "Mixture(47 samples of 3 parts, 40 an epoch",
        "  part    samples   share  an epoch  of its own",
        "  part 0       30  75.00%        30        1.00",
        "  part 1       10  25.00%        10        1.00",
        "  part 2        7   0.00%         0        0.00)",
    ]
    assert dataset.statistics()["part 1"] == "statistics of 1"
    assert list(dataset.parts) == dataset.names
    assert dataset.where(31) == {"part": "part 1", "its sample": 1, "kind": 1, "number": 1}


def test_names_are_those_of_the_stores(of_a_store: list[vla_store.Samples]) -> None:
    assert vla_store.mixture([*of_a_store[:2], Numbers(0, 3)][:2]).names == ["tiny-fast", "tiny-fast 2"]


def test_a_loader_counts_the_rows_of_each_part() -> None:
    (loader,) = ranks_of(mixed([(30, 3), (10, 1), (5, 0)]), 1, batch_size=8)
    for _ in loader:
        pass
    first = loader.counts.copy()
    assert first.parts == {"part 0": 30, "part 1": 10, "part 2": 0}
    for _ in loader:
        pass
    assert loader.counts.parts["part 0"] == 60
    assert loader.counts.since(first).parts == first.parts
    assert "of the rows part 0 75.0%, part 1 25.0%, part 2 0.0%" in first.summary()
    (other,) = ranks_of(Numbers(0, 9), 1, batch_size=3)
    list(other)
    assert "of the rows" not in other.counts.summary()
