"""A torch Subset, random_split's too, is a selection of rows; what else torch has leads to a hint that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vla_store
from vla_store import recipes
from vla_store.errors import OptionError
from vla_store.loader.order import Order

torch = pytest.importorskip("torch")
from loader import torch_transforms  # noqa: E402
from torch.utils.data import (  # noqa: E402
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)

from vla_store.torch import Loader, ShuffleSampler, StepDataset, collate  # noqa: E402

OPTIONS: dict[str, Any] = {"windows": {"actions": range(4), "robot_states": 0}, "alignment": "causal"}


@pytest.fixture
def dataset(tiny_store: Path) -> StepDataset:
    return StepDataset(tiny_store, **OPTIONS)


def steps_of(batches: Any) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in zip(batch["episode"].tolist(), batch["step"].tolist())]


def of(dataset: Any, indices: Any) -> list[tuple[int, int]]:
    return [(dataset[int(index)]["episode"], dataset[int(index)]["step"]) for index in indices]


INDICES: dict[str, Any] = {
    "list": [7, 90, 3, 41],
    "range": range(20, 120, 3),
    "array": np.arange(10)[::-1].copy(),
    "tensor": torch.arange(5, 30),
    "tensors": [torch.tensor(4), torch.tensor(2)],
    "from the end, and twice": [-1, 5, 5, -127, 0],
}


@pytest.mark.filterwarnings("ignore:so many batches are held:RuntimeWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", INDICES)
def test_a_subset_is_its_samples_in_its_order(dataset: StepDataset, name: str, workers: int) -> None:
    subset = Subset(dataset, INDICES[name])
    with Loader(subset, batch_size=8, shuffle=False, workers=workers) as loader:
        found = list(loader)
    theirs = list(DataLoader(subset, batch_size=8, collate_fn=collate))
    assert steps_of(found) == of(dataset, INDICES[name])
    for one, other in zip(found, theirs, strict=True):
        assert list(one) == list(other)
        assert all(torch.equal(one[key], other[key]) for key in one if key != "task")
        assert one["task"] == other["task"]


def test_subsets_of_subsets_and_of_samples_are_the_same_rows(dataset: StepDataset) -> None:
    inner = Subset(dataset, range(10, 100))
    for base in (Subset(inner, [5, 0, -1]), Subset(dataset.samples, [15, 10, 99])):
        with Loader(base, batch_size=3, shuffle=False, workers=0) as loader:
            assert steps_of(loader) == of(dataset, [15, 10, 99])


def test_the_sides_of_a_split_are_shuffled_and_give_every_row_once(dataset: StepDataset) -> None:
    sides = random_split(dataset, [0.7, 0.3], torch.Generator().manual_seed(0))
    found = []
    for side in sides:
        with Loader(side, batch_size=16, workers=0, seed=2) as loader:
            assert len(loader) == -(-len(side) // 16)
            mine = steps_of(loader)
            assert mine == of(side, Order(len(side), 2, 0).take(0, len(side)))
            found += mine
    assert sorted(found) == sorted(of(dataset, range(len(dataset))))


def test_a_state_of_a_subset_is_of_these_rows_in_this_order(dataset: StepDataset) -> None:
    def loader(indices: Any) -> Loader:
        return Loader(Subset(dataset, indices), batch_size=4, workers=0, seed=1)

    first = loader([3, 9, 27, 81, 5, 6])
    taken = steps_of([next(iter(first))])
    state = first.state_dict()
    resumed = loader(np.array([3, 9, 27, 81, 5, 6]))
    resumed.load_state_dict(state)
    whole = of(Subset(dataset, [3, 9, 27, 81, 5, 6]), Order(6, 1, 0).take(0, 6))
    assert taken + steps_of(resumed) == whole
    for others in ([3, 9, 27, 81, 6, 5], [3, 9, 27, 81, 5, 7], [3, 9, 27, 81, 5]):
        with pytest.raises(OptionError, match="another selection"):
            loader(others).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_transform_of_a_dataset_is_kept(tiny_store: Path, workers: int) -> None:
    dataset = StepDataset(tiny_store, **OPTIONS, transform=torch_transforms.tripled)
    subset = Subset(Subset(dataset, range(50)), [40, 2])
    with Loader(subset, batch_size=2, shuffle=False, workers=workers) as loader:
        (batch,) = loader
    expected = collate([dataset[40], dataset[2]])
    assert all(torch.equal(batch[key], expected[key]) for key in expected if isinstance(expected[key], torch.Tensor))


def test_a_subset_that_makes_its_samples_is_asked_by_its_own_numbers(tiny_store: Path) -> None:
    dataset = torch_transforms.Numbered(tiny_store, **OPTIONS)
    subset = Subset(dataset, [30, 20, 10])
    with Loader(subset, batch_size=3, shuffle=False, workers=1) as loader:
        (batch,) = loader
    assert batch["number"].tolist() == [30, 20, 10]
    with Loader(torch_transforms.Twofold(dataset, [30, 20, 10]), batch_size=3, shuffle=False, workers=1) as loader:
        (batch,) = loader
    assert batch["number"].tolist() == [60, 40, 20]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_subset_of_a_recipe_gives_its_items(tiny_store: Path, workers: int) -> None:
    dataset = recipes.act(tiny_store, chunk=8)
    with Loader(Subset(dataset, [50, 4, 4]), batch_size=3, shuffle=False, workers=workers) as loader:
        (batch,) = loader
    for at, index in enumerate([50, 4, 4]):
        for one, other in zip(batch, dataset[index]):
            assert np.array_equal(np.asarray(one[at]), np.asarray(other))


@pytest.mark.parametrize("indices", [[0, 127], [-128]])
def test_a_number_that_no_sample_has_is_refused_when_the_loader_is_made(dataset: StepDataset, indices: Any) -> None:
    with pytest.raises(IndexError, match="of 127"):
        Loader(Subset(dataset, indices), batch_size=2)


@pytest.mark.parametrize("indices", [[], [0.5], [True, False]])
def test_what_are_no_numbers_of_samples_is_refused(dataset: StepDataset, indices: Any) -> None:
    with pytest.raises(OptionError, match=r"whole numbers|subset is empty"):
        Loader(Subset(dataset, indices), batch_size=2)


def test_the_sampler_takes_a_subset_too(dataset: StepDataset) -> None:
    subset = Subset(dataset, [30, 20, 10])
    sampler = ShuffleSampler(subset, seed=4)
    found = steps_of(DataLoader(subset, batch_size=2, sampler=sampler, collate_fn=collate))
    assert found == of(subset, Order(3, 4, 0).take(0, 3))


# --- what a Loader does not take ----------------------------------------------------------------------------------------


class Streams(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Any:
        return map(self.dataset.__getitem__, range(100))


class Wraps:
    """A dataset of one's own around one of ours."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


OTHERS: dict[str, Any] = {
    "ConcatDataset": lambda dataset: ConcatDataset([dataset, dataset]),
    "Subset of a ConcatDataset": lambda dataset: Subset(ConcatDataset([dataset, dataset]), range(200)),
    "IterableDataset": Streams,
    "TensorDataset": lambda dataset: TensorDataset(torch.arange(100), torch.zeros(100, 2)),
    "DataLoader": lambda dataset: DataLoader(dataset, batch_size=64),
    "list": lambda dataset: [dataset[index] for index in range(100)],
    "own": Wraps,
    "path": lambda dataset: dataset.store.url,
    "Store": lambda dataset: dataset.store,
    "None": lambda dataset: None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_loader_does_not_take_is_refused_with_a_hint_that_works(dataset: StepDataset, name: str) -> None:
    other = OTHERS[name](dataset)
    with pytest.raises(OptionError, match="takes a StepDataset or Samples, or a Subset of one") as raised:
        Loader(other, batch_size=64)
    names = {"torch": torch, "vla_store": vla_store, "dataset": other, "store": dataset.store}
    batch = next(iter(eval(raised.value.hint, names)))
    first = batch["step"] if isinstance(batch, dict) else batch[0]
    assert len(first) == 64


def test_a_data_loader_of_something_else_and_a_loader_are_said_to_be_what_they_are(dataset: StepDataset) -> None:
    with pytest.raises(OptionError, match="use that DataLoader as it is"):
        Loader(DataLoader([1, 2]), batch_size=2)
    with pytest.raises(OptionError, match="it is one already"):
        Loader(Loader(dataset, batch_size=4, workers=0), batch_size=2)


def test_a_sampler_says_what_to_write_for_what_it_does_not_take(dataset: StepDataset) -> None:
    other = ConcatDataset([dataset, dataset])
    with pytest.raises(OptionError, match="takes a StepDataset or Samples") as raised:
        ShuffleSampler(other)
    names = {"torch": torch, "vla_store": vla_store, "dataset": other}
    assert len(next(iter(eval(raised.value.hint, names)))["step"]) == 64
