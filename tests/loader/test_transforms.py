"""What transforms may do, how their batches travel, and the generator they may ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader import transforms
from loader.serving import first_rows, rows_of

import vla_store
from vla_store.loader import packing
from vla_store.loader.batches import Batches
from vla_store.loader.collate import collate
from vla_store.loader.dataset import OneByOne
from vla_store.loader.order import Order
from vla_store.loader.work import Job, Work

Make = Callable[..., Batches]


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> vla_store.Store:
    return vla_store.open_store(tiny_store)


@pytest.fixture
def make(store: vla_store.Store) -> Any:
    """Makes loaders over the first 40 rows, and closes them."""
    made: list[Batches] = []

    def loader(**options: Any) -> Batches:
        windows = {"agentview_rgb": [-1, 0], "actions": range(4)}
        samples = vla_store.Samples(store, windows=windows, rows=range(40), alignment="as_stored", images="as_stored")
        made.append(Batches(samples, **{"batch_size": 8, "workers": 1, "shuffle": False, **options}))
        return made[-1]

    yield loader
    for each in made:
        each.close()


def same(one: Any, other: Any) -> bool:
    """Whether two batches are equal: structure, types, dtypes, shapes, values."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        equal = one.dtype == other.dtype and one.shape == other.shape and type(one) is type(other)
        return equal and bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return type(one) is type(other) and one == other


# --- what they may do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"transform": transforms.adds_drops_reshapes_and_retypes},
        {"batch_transform": transforms.batch_adds_drops_and_reshapes},
        {"transform": transforms.nothing, "batch_transform": transforms.batch_adds_drops_and_reshapes},
        {"batch_transform": transforms.two_views_of_one_array},
        {"batch_transform": transforms.only_strided_views},
        {"batch_transform": transforms.by_turns_a_tuple_and_a_namedtuple},
        {"batch_transform": transforms.keys_in_one_order_and_in_the_other},
        {"transform": transforms.grows},
        {"batch_transform": transforms.things_that_no_slot_holds},
        {"transform": transforms.as_a_tuple},
        {"transform": transforms.as_a_namedtuple},
        {"transform": transforms.noise},
        {"batch_transform": transforms.noise_of_batch},
        {},
    ],
    ids=lambda options: "+".join(each.__name__ for each in options.values()) or "none",
)
def test_a_workers_batches_are_those_that_are_made_here(make: Make, options: dict[str, Any]) -> None:
    found = [
        packing.walk(batch, lambda each: each.copy() if isinstance(each, np.ndarray) else each)
        for batch in make(**options)
    ]
    expected = list(make(workers=0, **options))
    assert len(found) == len(expected) == 5
    assert all(map(same, found, expected))


def test_a_transform_adds_drops_reshapes_and_retypes(make: Make) -> None:
    batch = next(iter(make(transform=transforms.adds_drops_reshapes_and_retypes)))
    assert "agentview_rgb" not in batch
    assert batch["picture"].shape == (8, 3, 16, 24)
    assert batch["picture"].dtype == np.float32
    assert batch["sum"].dtype == np.float64
    assert batch["is_late"].tolist() == [False] * 4 + [True] * 4
    assert batch["nested"]["actions"].dtype == np.float16
    assert batch["nested"]["step"].tolist() == list(range(8))
    assert [each.tolist() for each in batch["row"]] == [[0] * 8, list(range(8))]
    assert batch["task"][0].isupper()


def test_the_sum_of_two_strided_views_is_not_the_sum_of_one(make: Make) -> None:
    """Copying the first view into the slot must not go over what the second one is a view of."""
    for batch in make(batch_transform=transforms.only_strided_views):
        turned, half = batch["turned"], batch["half"]
        assert np.array_equal(turned[:, :, ::-1][:, :, ::2], half)
        assert np.array_equal(batch["last"][:, ::-1, ::-1], turned[:, :, ::-1])


def test_a_dataset_may_have_a_transform_of_its_own(store: vla_store.Store) -> None:
    samples = vla_store.Samples(store, windows={"actions": 0}, rows=range(8), transform=transforms.noise_free)
    batches = Batches(OneByOne(samples, samples), batch_size=8, workers=1, shuffle=False, transform=transforms.adds_one)
    assert next(iter(batches))["step"].tolist() == [10 * step + 1 for step in range(8)]
    batches.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_transform_returns_need_not_be_a_dict(make: Make, workers: int) -> None:
    batch = next(iter(make(transform=transforms.as_a_tuple, workers=workers)))
    assert batch[0].tolist() == list(range(8))
    assert batch[1].shape == (8, 4, 7)
    assert len(batch[2]) == 8
    batch = next(iter(make(transform=transforms.as_a_namedtuple, workers=workers)))
    assert batch.step.tolist() == list(range(8))


def test_workers_import_neither_torch_nor_the_tests_nor_what_builds(make: Make) -> None:
    batch = next(iter(make(batch_transform=transforms.which_modules)))
    assert batch["modules"] == ""
    assert batch["main"].endswith("worker.py")


def test_blosc_and_blas_have_one_thread(make: Make) -> None:
    batch = next(iter(make(batch_transform=transforms.which_threads)))
    assert batch["threads"] == ["1", "1", "1"]
    assert batch["blosc"] is False


# --- how they travel ----------------------------------------------------------------------------------------------------


def test_slots_grow_once_with_one_line_and_then_hold_everything(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    batches = make(transform=transforms.grows, workers=2)
    with caplog.at_level(logging.INFO, "vla_store"):
        for _ in range(3):
            for batch in batches:
                assert (batch["large"] == batch["step"][:, None, None]).all()
    assert caplog.text.count("the ring is now") == 1
    assert 0 < batches.counts.pickled_nbytes < 6 * 8 * 50 * 50 * 8  # those that were under way
    before = batches.counts.pickled_nbytes
    assert sum(1 for _ in batches) == 5
    assert batches.counts.pickled_nbytes == before


def test_slots_grow_again_where_batches_do(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vla_store"):
        for batch in make(batch_transform=transforms.batch_that_grows):
            assert np.array_equal(batch["padded"].reshape(-1), np.arange(batch["padded"].size))
    assert caplog.text.count("the ring is now") >= 2


@pytest.mark.filterwarnings("ignore:so many batches are held:RuntimeWarning")
def test_batches_held_from_a_ring_that_was_replaced_stay_right(make: Make) -> None:
    held = list(make(batch_transform=transforms.batch_that_grows, batch_size=2))
    for batch in held:
        assert np.array_equal(batch["padded"].reshape(-1), np.arange(batch["padded"].size))


def test_what_no_slot_holds_travels_pickled_and_is_counted(make: Make) -> None:
    batches = make(batch_transform=transforms.things_that_no_slot_holds)
    batch = next(iter(batches))
    assert batch["none"] is None
    assert batch["set"] == {1, 2}
    assert batch["objects"].tolist() == [{"a": 1}] * 8
    assert batch["names"].tolist() == ["x", "yy"] * 8
    assert batch["masked"].sum() == 1 + 3 + 5 + 7
    assert batch["empty"].shape == (0, 3)
    assert batch["scalar"] == 3.5
    assert batches.counts.pickled_nbytes > 100


def test_plain_batches_do_not_travel_pickled(make: Make) -> None:
    batches = make()
    assert [batch["task"][0] for batch in batches] == ["put both the cups in the basket"] * 5
    assert batches.counts.pickled_nbytes == 0


def test_texts_that_never_come_again_do_not_fill_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make(batch_transform=transforms.new_texts_every_time)
    seen: set[str] = set()
    for _ in range(300):
        for batch in batches:
            assert len(batch["names"]) == 8
            seen |= set(batch["names"])
    assert len(seen) == 300 * 40
    assert max(map(len, batches.processes.pool._texts)) <= packing.MAX_TEXTS


def test_a_ragged_field_travels_as_the_others(store: vla_store.Store) -> None:
    samples = vla_store.Samples(store, windows={"states": [0, 1]}, rows=range(40))
    batches = Batches(samples, batch_size=8, workers=1, shuffle=False)
    for epoch in range(2):
        for number, batch in enumerate(batches):
            assert np.array_equal(batch["states"], samples.batch(range(number * 8, number * 8 + 8))["states"])
        if not epoch:
            first = batches.counts.pickled_nbytes
    assert batches.counts.pickled_nbytes == first  # slots have grown by then
    batches.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_ragged_fields_of_several_widths_are_refused_as_elsewhere(store: vla_store.Store, workers: int) -> None:
    samples = vla_store.Samples(store, windows={"states": 0}, rows=[0, 60])
    for transform in (None, transforms.nothing):
        batches = Batches(samples, batch_size=2, workers=workers, transform=transform)
        with pytest.raises(vla_store.VlaStoreError, match="'states' has several widths in one batch"):
            next(iter(batches))
        batches.close()


@pytest.mark.parametrize("values", [(np.zeros(3), None), (np.array(1.0), np.zeros(2))])
def test_an_array_beside_what_has_no_axes_is_said_to_have_another_shape(values: tuple[Any, ...]) -> None:
    with pytest.raises(vla_store.VlaStoreError, match="'x' has several shapes in one batch"):
        collate([{"x": each} for each in values])


def test_a_batch_whose_arrays_are_smaller_than_its_indices_is_given_whole() -> None:
    batches = Batches(transforms.Bytes(), batch_size=2_000, workers=2, seed=3)
    found = np.concatenate([batch["byte"] for batch in batches])
    batches.close()
    assert np.array_equal(found, Order(10_000, 3, 0).take(0, 10_000) % 251)


# --- packing, without processes -----------------------------------------------------------------------------------------


def through_a_slot(batch: Any, slot: np.ndarray) -> Any:
    packed = packing.pack(batch, packing.Room(slot), {})
    assert packed.nbytes <= slot.nbytes
    return packing.unpack(packed, slot, list(packed.new), copy=True)


def test_arrays_that_lie_in_the_slot_already_stay_where_they_are() -> None:
    slot = np.zeros(1_000, np.uint8)
    inside = slot[64:128].view(np.float32).reshape(2, 8)
    packed = packing.pack({"x": inside, "y": inside[:, 0], "z": np.arange(4)}, packing.Room(slot), {})
    assert [each.offset for each in packed.layout.spans] == [64, 128, 192]
    assert packed.nbytes == 192 + 32


def test_nothing_is_copied_over_memory_that_is_still_to_be_copied() -> None:
    numbers = np.random.default_rng(0).integers(0, 255, (6, 100), dtype=np.uint8)
    views = {
        "turned": lambda x: x[:, ::-1],
        "half": lambda x: x[::2, ::3],
        "column": lambda x: x[:, 99],
        "end": lambda x: x[4:, 50:],
        "same": lambda x: x,
    }
    for first in views:
        slot = np.zeros(5_000, np.uint8)
        inside = slot[: numbers.size].reshape(numbers.shape)
        inside[...] = numbers
        names = [first, *(each for each in views if each != first)]
        found = through_a_slot({name: views[name](inside) for name in names}, slot)
        for name in names:
            assert np.array_equal(found[name], views[name](numbers)), (first, name)


def test_what_a_value_refers_to_out_of_sight_is_not_copied_over() -> None:
    slot, held = np.zeros(1_000, np.uint8), np.empty(1, object)
    held[0] = slot[:600]
    held[0][...] = 5
    found = through_a_slot({"new": np.full(600, 7, np.uint8), "held": held}, slot)
    assert (found["new"] == 7).all()
    assert (found["held"][0] == 5).all()


def test_what_does_not_fit_is_pickled_and_the_need_is_told() -> None:
    slot = np.zeros(256, np.uint8)
    batch = {"a": np.arange(20), "b": np.arange(30), "c": np.arange(5)}
    packed = packing.pack(batch, packing.Room(slot), {})
    assert [each and each.offset for each in packed.layout.spans] == [0, None, 192]
    assert packed.needed == 192 + 256 + 40
    assert same(through_a_slot(batch, slot), batch)
    assert None not in packing.pack(batch, packing.Room(np.zeros(packed.needed, np.uint8)), {}).layout.spans


@pytest.mark.parametrize("dtype", ["?", "i1", "<u2", "<u4", "<i8", "<f2", "<f4", "<f8", ">f4", "<c8"])
def test_numbers_of_any_dtype_keep_it(dtype: str) -> None:
    array = np.arange(12).astype(dtype).reshape(3, 4)
    found = through_a_slot({"x": array}, np.zeros(4_096, np.uint8))["x"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_texts_are_sent_once() -> None:
    slot, texts = np.zeros(64, np.uint8), {}
    room = packing.Room(slot)
    assert packing.pack({"t": ["a", "b", "a"]}, room, texts).new == ("a", "b")
    second = packing.pack({"t": ["b", "c"], "u": ["c"]}, room, texts)
    assert second.new == ("c",)
    assert packing.unpack(second, slot, ["a", "b", "c"], copy=False) == {"t": ["b", "c"], "u": ["c"]}


def test_the_next_batch_in_a_slot_gets_the_same_arrays_when_it_asks_for_them() -> None:
    room = packing.Room(np.zeros(4_096, np.uint8))
    asked: list[Any] = [((2, 3), "f4"), ((2,), "i8"), ((2, 5), "u1")]
    first = [room.empty(*each) for each in asked]
    assert [room.offset(each) for each in first] == [0, 64, 128]
    again = [room.begin().empty(*asked[0]), *(room.empty(*each) for each in asked[1:])]
    assert all(one is other for one, other in zip(first, again))
    first[1].shape = (2, 1)  # by somebody who kept it
    room.begin()
    third = [room.empty(*each) for each in asked]
    assert third[0] is first[0]
    assert third[1] is not first[1]
    assert [each.shape for each in third] == [(2, 3), (2,), (2, 5)]
    assert [room.offset(each) for each in (*third, first[1])] == [0, 64, 128, 64]
    assert room.empty((5_000,), "u1").nbytes == 5_000  # elsewhere
    assert room.offset(np.arange(3)) is None


def test_a_batch_that_fails_to_pickle_teaches_no_texts() -> None:
    texts: dict[str, int] = {}
    with pytest.raises(Exception, match="pickle"):
        packing.pack({"t": ["a"], "x": lambda: None}, packing.Room(np.zeros(64, np.uint8)), texts)
    assert texts == {}


def test_collating_agrees_with_torchs() -> None:
    default_collate = pytest.importorskip("torch.utils.data").default_collate
    samples = [
        {
            "array": np.full((2, 3), number, np.float32),
            "int": number,
            "float": number / 2,
            "bool": number > 0,
            "text": str(number),
            "text of numpy": np.str_(number),
            "scalar": np.float64(number),
            "tuple": (number, np.arange(3)),
            "list": [number, [number]],
            "nested": {"a": {"b": np.uint8(number)}},
        }
        for number in range(3)
    ]
    ours, theirs = collate(samples), default_collate(samples)
    as_array = packing.walk(theirs, packing.as_numpy)
    assert list(ours) == list(theirs)
    for key in ours:
        one, other = packing.walk(ours[key], np.asarray), packing.walk(as_array[key], np.asarray)
        assert str(one) == str(other), key
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype


# --- the generator ------------------------------------------------------------------------------------------------------


def noises(batches: Any, store: vla_store.Store) -> dict[int, list[float]]:
    """By row."""
    return {
        row: noise
        for batch in batches
        for row, noise in zip(rows_of(batch, store), np.asarray(batch["noise"]).tolist())
    }


def test_the_generator_is_keyed_by_the_place_in_the_order_and_by_nothing_else(store: vla_store.Store) -> None:
    samples = first_rows(store, 60)
    found = []
    for workers, batch_size in ((0, 8), (1, 8), (2, 8), (2, 5), (0, 60)):
        batches = Batches(samples, batch_size=batch_size, workers=workers, seed=4, transform=transforms.noise)
        found.append(noises(batches, store))
        batches.close()
    assert len(found[0]) == 60
    assert all(each == found[0] for each in found)
    assert len({tuple(noise) for noise in found[0].values()}) == 60


def test_the_generator_is_the_same_on_any_number_of_ranks_and_after_a_resume(store: vla_store.Store) -> None:
    samples, options = first_rows(store, 60), {"workers": 0, "transform": transforms.noise, "batch_size": 4}
    alone = noises(Batches(samples, **options), store)
    shared: dict[int, list[float]] = {}
    for rank in range(3):
        shared |= noises(Batches(samples, ranks=lambda rank=rank: (rank, 3), **options), store)
    assert shared == alone
    resumed = Batches(samples, **options)
    resumed.epochs.load_state_dict(resumed.epochs.state_at(0, 24))
    rest = noises(resumed, store)
    assert len(rest) == 36
    assert rest == {row: alone[row] for row in rest}


def test_epochs_and_seeds_have_noise_of_their_own(store: vla_store.Store) -> None:
    samples, seen = first_rows(store, 10), set()
    for seed in (0, 1, -1):
        batches = Batches(samples, batch_size=10, workers=0, seed=seed, transform=transforms.noise)
        for _ in range(3):
            seen |= {tuple(noise) for noise in noises(batches, store).values()}
    assert len(seen) == 3 * 3 * 10


def test_the_generator_of_a_batch_is_not_that_of_its_first_sample(store: vla_store.Store) -> None:
    batches = Batches(
        first_rows(store, 10),
        batch_size=5,
        workers=0,
        transform=transforms.noise,
        batch_transform=transforms.first_noise_of_batch,
    )
    for batch in batches:
        assert not np.array_equal(batch["noise"][0], batch["of_batch"])


@pytest.mark.parametrize("transform", [transforms.Noise(), transforms.Noise().__call__])
def test_any_callable_with_an_argument_of_that_name_gets_it(store: vla_store.Store, transform: Any) -> None:
    plain = Batches(first_rows(store, 10), batch_size=5, workers=0, transform=transforms.noise)
    other = Batches(first_rows(store, 10), batch_size=5, workers=1, transform=transform)
    assert noises(other, store) == noises(plain, store)
    other.close()


def test_the_noise_of_today_is_the_noise_of_tomorrow(store: vla_store.Store) -> None:
    """A resumed training gets the augmentation that it would have had: this must not change between versions."""
    work = Work(first_rows(store, 10), transform=transforms.noise, batch_transform=transforms.first_noise_of_batch)
    batch = work.run(Job(seed=3, epoch=2, position=7, indices=np.array([4])))
    assert batch["noise"][0].tolist() == GOLDEN_NOISE
    assert batch["of_batch"].tolist() == GOLDEN_NOISE_OF_BATCH


GOLDEN_NOISE = [0.2628945637854142, 0.011959059815556339, 0.8432313488898188]
GOLDEN_NOISE_OF_BATCH = [0.6829601881501061, 0.26473090399061416, 0.1470007248006573]
