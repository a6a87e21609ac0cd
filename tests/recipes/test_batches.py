"""Batches that recipes make at once: to the bit what is made item by item, in every way to get them, and so are the errors."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import view_tools
from comparing import assert_same
from recipes import items
from recipes.test_recipes_dataset import spoil

from vla_store import OptionError, StoreDamaged, open_store
from vla_store.errors import VlaStoreError
from vla_store.loader.collate import collate
from vla_store.loader.dataset import OneByOne
from vla_store.loader.order import Order
from vla_store.loader.packing import Room, walk
from vla_store.loader.work import Job, TransformError, Work
from vla_store.recipes import act, diffusion_policy, libero, openpi, openvla, openvla_oft, rdt, rdt_pretrain
from vla_store.recipes import dataset as recipe_dataset

Make = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings(
    "ignore:this is not the data", "ignore:.*never changes", "ignore:.*which stands in"
)


def with_embeddings(store: Any, **options: Any) -> Any:
    texts = [each.text for each in open_store(store).tasks]
    given = {text: np.arange(3.0) + number for number, text in enumerate(texts)}
    return libero(store, sequence_length=3, task_emb=given, **options)


def two_names_for_a_camera(store: Any, **options: Any) -> Any:
    cameras = {"cam_high": "agentview_rgb", "cam_left_wrist": "agentview_rgb", "cam_right_wrist": None}
    return rdt(store, mapping="hdf5_libero_s2", alignment="causal", img_history_size=3, cameras=cameras, **options)


RECIPES: dict[str, Make] = {
    "rdt L": lambda store, **options: rdt(store, mapping="rdt_libero_finetune", tail=2, **options),
    "rdt S1": lambda store, **options: rdt(store, mapping="hdf5_libero_s1", skip_still_start=True, **options),
    "rdt Euler": lambda store, **options: rdt(store, mapping="hdf5_libero_s1", rotation="euler_xyz", **options),
    "rdt S2, a camera twice": two_names_for_a_camera,
    "rdt_pretrain": lambda store, **options: rdt_pretrain(
        store, mapping="hdf5_libero_s1", dataset_name="libero", shortest=2, longest=30, **options
    ),
    "rdt_pretrain, actions": lambda store, **options: rdt_pretrain(
        store, mapping="hdf5_libero_s1", dataset_name="libero", action="actions", alignment="causal", **options
    ),
    "openvla": lambda store, **options: openvla(store, normalize=True, **options),
    "oft": lambda store, **options: openvla_oft(store, normalize=True, **options),
    "openpi": lambda store, **options: openpi(store, normalize=True, **options),
    "diffusion_policy": diffusion_policy,
    "diffusion_policy, normalised": lambda store, **options: diffusion_policy(store, normalize=True, **options),
    "act": lambda store, **options: act(store, pad="zero", normalize=True, **options),
    "libero": libero,
    "libero with embeddings": with_embeddings,
}
LOADED = (
    "rdt L",
    "rdt S2, a camera twice",
    "rdt_pretrain",
    "oft",
    "openpi",
    "diffusion_policy, normalised",
    "act",
    "libero with embeddings",
)
of_every_recipe = pytest.mark.parametrize("recipe", RECIPES)


@pytest.fixture(params=["tiny", "published", "regenerated"])
def a_store(request: pytest.FixtureRequest) -> Path:
    """Short demos of 16 x 24 pixels; LIBERO as published; LIBERO as regenerated, with 256 pixels."""
    found: Path = {
        "tiny": lambda: request.getfixturevalue("tiny_store"),
        "published": lambda: request.getfixturevalue("demo_store"),
        "regenerated": lambda: request.getfixturevalue("regenerated").store,
    }[request.param]()
    return found


def one_by_one(dataset: Any, indices: Any) -> Any:
    """What a batch has to be."""
    return collate([dataset[int(index)] for index in indices])


def assert_batch(found: Any, expected: Any, where: str = "") -> None:
    """Equal to the bit, and of the same types."""
    assert walk(found, type) == walk(expected, type), where
    assert_same(found, expected, where)


# --- equal to items one by one, which are compared with the other implementation elsewhere -----------------------------


@of_every_recipe
def test_a_batch_is_its_items_one_by_one(a_store: Path, recipe: str) -> None:
    """All anchors of the tiny demos, of 1 to 33 steps, and a few of the large ones, in batches of several sizes."""
    is_tiny = a_store.name.startswith("tiny")
    dataset = RECIPES[recipe](a_store, **{} if is_tiny else {"episodes": [0, 1]})
    assert dataset.makes_batches
    order = np.random.default_rng(0).permutation(len(dataset))[: 200 if is_tiny else 12]
    for indices in np.split(order, np.cumsum([1, 2, 9]))[: 4 if is_tiny else 3]:
        expected = one_by_one(dataset, indices)
        assert_batch(dataset.batch(indices), expected)
        assert_batch(collate(dataset.__getitems__(indices.tolist())), expected)


@of_every_recipe
def test_an_item_of_a_batch_is_of_the_same_types_as_by_itself(tiny_store: Path, recipe: str) -> None:
    dataset = RECIPES[recipe](tiny_store)
    indices = [5, 3, 3, -1]
    for found, index in zip(dataset.__getitems__(indices), indices, strict=True):
        assert_batch(found, dataset[index])


@pytest.mark.parametrize("nbytes", [0, 10_000])
def test_items_are_the_same_however_many_are_read_at_once(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    dataset = openvla_oft(tiny_store)
    expected = dataset.__getitems__(range(20))
    reads: list[int] = []
    read = dataset.batch_or_lists
    monkeypatch.setattr(
        dataset, "batch_or_lists", lambda indices, out: reads.append(len(indices)) or read(indices, out)
    )
    monkeypatch.setattr(recipe_dataset, "BLOCK_NBYTES", nbytes)
    assert_same(dataset.__getitems__(range(20)), expected)
    assert sum(reads) == 20
    assert 1 < len(reads) < 20 if nbytes else len(reads) == 20


@of_every_recipe
def test_a_batch_under_a_view_of_steps_is_its_items_one_by_one(tiny_store: Path, tmp_path: Path, recipe: str) -> None:
    store = Path(shutil.copytree(tiny_store, tmp_path / "viewed.vla", copy_function=os.link))
    opened = open_store(store)
    rng = np.random.default_rng(0)
    masks = [(rng.random(each.length) < 0.8).tolist() for each in opened.episodes]
    tasks = [(each.suite, each.task) for each in opened.episodes]
    view_tools.put_views(store, {"some": view_tools.view_json("steps", masks, tasks)})
    options = {} if "S1" in recipe else {"view": "some"}
    dataset = RECIPES[recipe](store, **options)
    assert_batch(dataset.batch(range(len(dataset))), one_by_one(dataset, range(len(dataset))))


@of_every_recipe
def test_large_arrays_are_made_where_the_batch_is_to_lie(tiny_store: Path, recipe: str) -> None:
    dataset = RECIPES[recipe](tiny_store)
    slot = np.full(1 << 24, 7, np.uint8)
    made = dataset.batch([4, 9, 1], empty=Room(slot).empty)
    assert_batch(made, one_by_one(dataset, [4, 9, 1]))
    outside: list[int] = []
    walk(made, lambda each: outside.append(getattr(each, "nbytes", 0)) if not np.shares_memory(each, slot) else None)
    assert max(outside) <= 3 * 100 * 7 * 4  # the float32 actions of ACT: nothing of the size of a picture


def test_what_does_not_fit_where_the_batch_is_to_lie_is_made_elsewhere(tiny_store: Path) -> None:
    dataset = diffusion_policy(tiny_store)
    expected = one_by_one(dataset, range(8))
    picture = expected["obs"]["agentview_image"]
    for nbytes in (0, 100, picture.nbytes, picture.nbytes + 10, 3 * picture.nbytes):
        assert_batch(dataset.batch(range(8), empty=Room(np.zeros(nbytes, np.uint8)).empty), expected)


# --- through the Loader and torch's DataLoader -------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", LOADED)
def test_the_loader_gives_them_with_any_workers_and_after_a_resume(tiny_store: Path, recipe: str) -> None:
    pytest.importorskip("torch")
    from vla_store.torch import Loader

    dataset = RECIPES[recipe](tiny_store)
    rows = Order(len(dataset), 3, 0).take(0, len(dataset))
    expected = [one_by_one(dataset, rows[at : at + 16]) for at in range(0, len(rows), 16)]
    state: Any = None
    at = 0
    for workers, count in ((2, 3), (1, 2), (0, None)):
        with Loader(dataset, batch_size=16, seed=3, workers=workers) as loader:
            if state is not None:
                loader.load_state_dict(state)
            for batch in itertools.islice(loader, count):
                assert_same(batch, expected[at], f"batch {at}, {workers} workers")
                at += 1
            state = loader.state_dict()
            assert loader.stats().pickled_nbytes == 0  # every array lies in a slot, from the first batch on
    assert at == len(expected)


@pytest.mark.parametrize("recipe", ["rdt L", "oft", "diffusion_policy", "act", "libero with embeddings"])
def test_torchs_dataloader_gives_them_with_its_own_collate(tiny_store: Path, recipe: str) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = RECIPES[recipe](tiny_store)
    for workers in (0, 1):
        for number, batch in enumerate(data.DataLoader(dataset, 16, num_workers=workers)):
            expected = one_by_one(dataset, range(number * 16, min(number * 16 + 16, len(dataset))))
            assert_same(batch, expected, f"batch {number}, {workers} workers")
            if workers and number == 1:
                break


def loaded(dataset: Any, workers: int, **options: Any) -> list[Any]:
    """The batches of a Loader, as arrays of their own."""
    from vla_store.torch import Loader

    with Loader(dataset, **{"batch_size": 8, "seed": 1, "workers": workers} | options) as loader:
        return [walk(batch, lambda each: each.numpy().copy() if hasattr(each, "numpy") else each) for batch in loader]


class Indexed:
    """A dataset that can only be indexed: what a Loader does with it is what it did before recipes made batches."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


@pytest.mark.parametrize(
    ("own", "options"),
    [
        (None, {"transform": items.noisy}),
        (None, {"batch_transform": items.noisy_batch}),
        (None, {"transform": items.noisy, "batch_transform": items.noisy_batch}),
        (items.numbered, {}),
        (items.numbered, {"transform": items.noisy}),
        (items.numbered, {"batch_transform": items.noisy_batch}),
    ],
)
def test_transforms_draw_what_they_drew_item_by_item(tiny_store: Path, own: Any, options: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    dataset = openvla(tiny_store, transform=own, rows=range(60, 100))
    work = Work(OneByOne(dataset, Indexed(dataset)), options.get("transform"), options.get("batch_transform"))
    rows = Order(len(dataset), 1, 0).take(0, len(dataset))
    expected = [work.run(Job(1, 0, at, rows[at : at + 8])) for at in range(0, len(rows), 8)]
    for workers in (0, 1):
        found = loaded(dataset, workers, **options)
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_batch(one, other, f"{workers} workers")


@pytest.mark.parametrize("kind", [items.OwnGetItem, items.OwnItems])
def test_what_a_subclass_makes_of_a_sample_counts_everywhere(tiny_store: Path, kind: Any) -> None:
    pytest.importorskip("torch")
    dataset = items.openvla_of(kind, tiny_store, rows=range(60, 80))
    assert dataset.makes_batches == (kind is items.OwnItems)
    expected = one_by_one(dataset, range(len(dataset)))
    assert {"step", "index"} & set(expected)
    assert_batch(collate(dataset.__getitems__(range(len(dataset)))), expected)
    for workers in (0, 1):
        (found,) = loaded(dataset, workers, batch_size=len(dataset), shuffle=False)
        assert_batch(found, expected, f"{workers} workers")


# --- errors ------------------------------------------------------------------------------------------------------------


def told(raised: VlaStoreError) -> tuple[Any, ...]:
    return type(raised), raised.what, raised.places, raised.hint


@pytest.mark.parametrize("recipe", ["rdt L", "openvla", "openpi", "diffusion_policy", "act", "libero"])
def test_a_sample_in_the_middle_of_a_batch_that_cannot_be_read_is_named(
    tiny_store: Path, tmp_path: Path, recipe: str
) -> None:
    pytest.importorskip("torch")
    store = Path(shutil.copytree(tiny_store, tmp_path / "copy.vla"))
    dataset = RECIPES[recipe](store, rows=range(60, 100))
    spoil(store, "residuals/agentview_rgb", 75)
    bad = next(at for at in range(len(dataset)) if fails(dataset, at))
    with pytest.raises(StoreDamaged) as single:
        dataset[bad]
    place = dataset.place(bad)
    wanted = {"store": str(store), "sample": str(bad), "episode": str(place["episode"]), "step": str(place["step"])}
    assert {key: single.value.places[key] for key in wanted} == wanted
    assert (single.value.places["anchor row"], single.value.places["row"]) == (str(place["row"]), "75")
    indices = [bad - 3, bad - 1, bad, 0]
    for read in (dataset.batch, dataset.__getitems__):
        with pytest.raises(StoreDamaged) as raised:
            read(indices)
        assert told(raised.value) == told(single.value)
    with pytest.raises(StoreDamaged) as before:
        Work(OneByOne(dataset, Indexed(dataset))).run(Job(0, 0, 0, np.array(indices)))
    for workers in (0, 1):
        with pytest.raises(StoreDamaged) as raised:
            loaded(dataset, workers, batch_size=len(dataset), shuffle=False)
        assert told(raised.value) == told(before.value)


def fails(dataset: Any, index: int) -> bool:
    try:
        dataset[index]
    except StoreDamaged:
        return True
    return False


def test_an_item_in_the_middle_of_a_batch_that_cannot_be_made_is_named(tiny_store: Path) -> None:
    pytest.importorskip("torch")
    dataset = items.Plain(tiny_store, windows={"agentview_rgb": 0}, images="upright", episodes=[3])
    assert dataset.makes_batches
    assert_batch(dataset.batch([0, 1, 3]), one_by_one(dataset, [0, 1, 3]))
    readers: list[Callable[[], Any]] = [
        lambda: dataset[2],
        lambda: dataset.batch([0, 1, 2, 3]),
        lambda: dataset.__getitems__([0, 1, 2, 3]),
        lambda: loaded(dataset, 0, shuffle=False),
        lambda: loaded(dataset, 1, shuffle=False),
    ]
    row = open_store(tiny_store).episodes[3].start + 2
    for read in readers:
        with pytest.raises(TransformError, match="ValueError: no such luck") as raised:
            read()
        places = raised.value.places
        assert [places[key] for key in ("store", "sample", "row", "episode", "step")] == [
            str(tiny_store),
            "2",
            str(row),
            "3",
            "2",
        ]


def test_of_two_samples_that_fail_the_first_is_named_whatever_fails(tiny_store: Path, tmp_path: Path) -> None:
    """Sample 3 cannot be transformed, sample 7 cannot be read: one by one, nobody gets as far as that."""
    store = Path(shutil.copytree(tiny_store, tmp_path / "copy.vla"))
    dataset = openvla(store, rows=range(60, 80), transform=SpoilsOne())
    spoil(store, "residuals/agentview_rgb", dataset.place(7)["row"] - 1)
    for indices, error, sample in (([0, 3, 7], TransformError, "3"), ([7, 3], StoreDamaged, "7")):
        with pytest.raises(error) as raised:
            dataset.__getitems__(indices)
        assert raised.value.places["sample"] == sample
        with pytest.raises(error) as raised:
            Work(OneByOne(dataset, dataset)).run(Job(0, 0, 0, np.array(indices)))
        assert raised.value.places["sample"] == sample


class SpoilsOne:
    """A transform that fails from its second sample on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, item: Any) -> Any:
        self.calls += 1
        if self.calls % 2 == 0:
            raise ZeroDivisionError("deep down")
        return item


def test_fields_of_several_widths_are_refused_in_a_batch_and_given_one_by_one(tiny_store: Path) -> None:
    pytest.importorskip("torch")
    dataset = libero(tiny_store, sequence_length=2, low_dim=("states",), rows=[0, 60])
    singles = [dataset[0], dataset[1]]
    assert singles[0]["obs"]["states"].shape != singles[1]["obs"]["states"].shape
    assert_same(dataset.__getitems__([0, 1]), singles)
    assert_batch(dataset.batch([1, 1]), one_by_one(dataset, [1, 1]))
    readers: list[Callable[[], Any]] = [
        lambda: dataset.batch([0, 1]),
        *(lambda n=n: loaded(dataset, n) for n in (0, 1)),
    ]
    for read in readers:
        with pytest.raises(OptionError, match="'states' has several widths in one batch"):
            read()


# --- `batch` by itself -------------------------------------------------------------------------------------------------


def test_batch_is_refused_where_items_are_made_one_by_one(tiny_store: Path) -> None:
    plain = openvla(tiny_store)
    dataset = openvla(tiny_store, transform=items.numbered)
    assert not dataset.makes_batches
    with pytest.raises(OptionError, match="makes its items one by one"):
        dataset.batch([0, 1])
    with pytest.raises(OptionError, match="nothing to fill"):
        plain.batch([0], {})


def test_batch_takes_indices_as_a_sample_set_does(tiny_store: Path) -> None:
    dataset = openpi(tiny_store)
    last = len(dataset) - 1
    assert_batch(dataset.batch([-1, 0]), dataset.batch(np.array([last, 0], np.int16)))
    assert dataset.batch([])["image"].shape[0] == 0
    for wrong in ([last + 1], [0, -last - 2]):
        with pytest.raises(IndexError):
            dataset.batch(wrong)


def test_a_batch_has_arrays_of_its_own(tiny_store: Path) -> None:
    dataset = act(tiny_store)
    first, second = dataset.batch([3, 3]), dataset.batch([3, 3])
    for array in first:
        array[...] = 1
    assert_batch(second, one_by_one(dataset, [3, 3]))
