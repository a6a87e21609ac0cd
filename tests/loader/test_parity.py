"""The Loader, with any number of workers, gives what StepDataset gives, and what the slow twin says by the rules alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reader import naive

import vla_store
from vla_store.loader.order import Order

torch = pytest.importorskip("torch")
from loader import torch_transforms  # noqa: E402

from vla_store.torch import Loader, StepDataset, collate  # noqa: E402

NEAR = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": [-1, 0], "robot_states": 0, "actions": range(16)}
OPTIONS = [
    {"windows": NEAR, "alignment": "causal", "images": "upright", "dtype": "float32"},
    {"windows": NEAR, "alignment": "as_stored", "images": "rot180", "pad": "zero"},
    {"windows": {"actions": [5, -3, 5, 0], "rewards": 0, "dones": [-1]}, "alignment": "as_stored", "dtype": "float16"},
    {
        "windows": {"eye_in_hand_rgb": [-40, 2], "ee_pos": -1},
        "alignment": "causal",
        "images": "as_stored",
        "pad": "zero",
        "dtype": "float64",
    },
]
IDS = ["near", "turned", "numbers", "far"]


def as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def assert_same_batch(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        one, other = as_array(found[key]), as_array(value)
        assert type(one) is type(other), key
        if isinstance(other, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), key
            assert one.tobytes() == other.tobytes(), key
        else:
            assert one == other, key


def slow(plain: naive.Naive, options: dict[str, Any], indices: list[int]) -> dict[str, Any]:
    """A batch by the slow twin."""
    anchors = plain.anchors(alignment=options["alignment"])
    samples = [plain.sample(*anchors[index], **options) for index in indices]
    return {
        key: [sample[key] for sample in samples]
        if key == "task"
        else np.stack([np.asarray(sample[key]) for sample in samples])
        for key in samples[0]
    }


def check(store: Path, plain: naive.Naive, options: dict[str, Any], *, batches: int | None, batch_size: int) -> None:
    dataset = StepDataset(store, **options)
    order = Order(len(dataset), 3, 0)
    loaders = [Loader(dataset, batch_size=batch_size, seed=3, workers=workers) for workers in (0, 1, 2)]
    streams: list[Iterator[Any]] = [iter(each) for each in loaders]
    for number in range(len(loaders[0]) if batches is None else batches):
        start = number * batch_size
        indices = order.take(start, min(start + batch_size, len(dataset))).tolist()
        expected = slow(plain, options, indices)
        assert_same_batch(dataset.batch(indices), expected)
        assert_same_batch(collate(dataset.__getitems__(indices)), expected)
        for stream in streams:
            assert_same_batch(next(stream), expected)
    for each in loaders:
        each.close()


@pytest.mark.filterwarnings("ignore:in float16, 'actions'")  # so that a conversion is among the options
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_tiny_stores_are_served_as_the_rules_say(tiny_store: Path, options: dict[str, Any]) -> None:
    check(tiny_store, naive.of_tiny(), options, batches=None, batch_size=16)


@pytest.mark.parametrize("preset", ["raw", "small"])
def test_every_preset_is_served_as_the_rules_say(tiny_stores: dict[str, Path], preset: str) -> None:
    check(tiny_stores[preset], naive.of_tiny(), OPTIONS[0], batches=3, batch_size=16)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=IDS[:2])
def test_demonstrations_are_served_as_their_hdf5_files_say(
    demos: Path, demo_store: Path, options: dict[str, Any]
) -> None:
    pytest.importorskip("h5py")
    check(demo_store, naive.of_hdf5(demos / "libero"), options, batches=3, batch_size=24)


@pytest.mark.parametrize(
    "make",
    [
        lambda store: StepDataset(store, windows={"actions": range(3)}, transform=torch_transforms.tripled),
        lambda store: torch_transforms.Doubled(store, windows={"actions": range(3)}),
        lambda store: torch_transforms.Doubled(
            store, windows={"actions": range(3)}, transform=torch_transforms.tripled
        ),
        lambda store: vla_store.Samples(store, windows={"actions": range(3)}, transform=torch_transforms.tripled),
        lambda store: torch_transforms.DoubledSamples(store, windows={"actions": range(3)}),
    ],
    ids=["transform", "subclass", "both", "Samples", "subclass of Samples"],
)
def test_a_dataset_that_changes_its_samples_is_served_as_it_serves_itself(tiny_store: Path, make: Any) -> None:
    dataset = make(tiny_store)
    order = Order(len(dataset), 0, 0)
    loaders = [Loader(dataset, batch_size=8, workers=workers) for workers in (0, 1)]  # each worker imports torch
    for number, together in enumerate(zip(*loaders)):
        indices = order.take(number * 8, min(number * 8 + 8, len(dataset))).tolist()
        expected = collate([dataset[index] for index in indices])
        assert {"doubled", "tripled"} & set(expected)
        for batch in together:
            assert_same_batch(batch, expected)
    for each in loaders:
        each.close()


def test_a_store_that_is_read_over_a_network_is_served_the_same(tiny_store: Path) -> None:
    expected = vla_store.Samples(tiny_store, windows=NEAR, alignment="causal", images="as_stored")
    for fetcher in ("pread", "fsspec"):
        samples = vla_store.Samples(
            vla_store.open_store(tiny_store, fetcher=fetcher), windows=NEAR, alignment="causal", images="as_stored"
        )
        with Loader(samples, batch_size=32, workers=1, shuffle=False) as loader:
            for number, batch in enumerate(loader):
                indices = range(number * 32, min(number * 32 + 32, len(samples)))
                assert_same_batch(batch, expected.batch(indices))


def test_a_batch_whose_indices_overfill_a_sockets_buffer_stops_nobody(
    tiny_store: Path,
) -> None:
    store = vla_store.open_store(tiny_store)
    rows = np.resize(np.arange(store.rows), 100_000)
    dataset = StepDataset(store, windows={"rewards": 0}, alignment="as_stored", rows=rows)
    with Loader(dataset, batch_size=40_000, workers=1) as loader:
        found = [
            (
                store.episodes.starts[batch["episode"].numpy()] + batch["step"].numpy()
            ).copy()  # and the texts are carried
            for batch in loader
        ]
    assert np.array_equal(np.concatenate(found), rows[Order(len(rows), 0, 0).take(0, len(rows))])
