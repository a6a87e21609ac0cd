"""ShuffleSampler: the loader's order for torch's DataLoader and torchdata's StatefulDataLoader, resumed exactly."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loader.serving import first_rows, goes_on, rows_of, served

import vla_store
from vla_store.errors import OptionError, UsageError
from vla_store.loader.batches import Batches
from vla_store.loader.order import Order
from vla_store.loader.sampler import ShuffleSampler

TORCHDATAS_OWN = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # said by torch 2.13 of torchdata 0.11


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> vla_store.Store:
    return vla_store.open_store(tiny_store)


@pytest.fixture
def sampler(store: vla_store.Store) -> ShuffleSampler:
    return ShuffleSampler(first_rows(store, 100), seed=5)


def order(epoch: int, rows: int = 100, seed: int = 5) -> list[int]:
    return Order(rows, seed, epoch).take(0, rows).tolist()


def test_it_gives_every_index_once_an_epoch_in_the_order_of_the_epoch(sampler: ShuffleSampler) -> None:
    assert [list(sampler) for _ in range(3)] == [order(0), order(1), order(2)]
    assert len(sampler) == 100


def test_it_gives_the_order_of_the_loader(store: vla_store.Store) -> None:
    samples = first_rows(store, 100)
    loader = Batches(samples, batch_size=8, workers=0, seed=3)
    assert list(ShuffleSampler(samples, seed=3)) == [row for rows in served(iter(loader)) for row in rows]


def test_in_blocks_it_gives_the_order_of_the_loader(store: vla_store.Store) -> None:
    samples = first_rows(store, 100)
    loader = Batches(samples, batch_size=8, workers=0, seed=3, shuffle="blocks")
    found = list(ShuffleSampler(samples, seed=3, shuffle="blocks"))
    assert found == [row for rows in served(iter(loader)) for row in rows]
    assert found != list(ShuffleSampler(samples, seed=3))


def test_without_shuffling_it_gives_the_order_of_the_rows(store: vla_store.Store) -> None:
    assert list(ShuffleSampler(first_rows(store, 20), shuffle=False)) == list(range(20))


@given(st.integers(1, 137), st.integers(0, 140), st.integers(0, 50))
def test_a_resumed_pass_is_the_rest_of_it(store: vla_store.Store, rows: int, cut: int, epoch: int) -> None:
    samples = first_rows(store, rows)
    first, second = ShuffleSampler(samples), ShuffleSampler(samples)
    first.set_epoch(epoch)
    indices = iter(first)
    taken = list(itertools.islice(indices, min(cut, rows)))
    second.load_state_dict(first.state_dict())
    assert taken + list(second) == order(epoch, rows, 0)


def test_indices_that_were_read_ahead_are_told_apart_by_what_was_consumed(sampler: ShuffleSampler) -> None:
    list(itertools.islice(iter(sampler), 60))
    fresh = ShuffleSampler(sampler._epochs.dataset, seed=5)
    fresh.load_state_dict(sampler.state_dict(consumed=24))
    assert list(fresh) == order(0)[24:]


def test_what_was_consumed_is_of_the_epoch_that_was_read_to_its_end(sampler: ShuffleSampler) -> None:
    """A DataLoader has read the last index when the last batches are still to come."""
    list(sampler)
    list(sampler)
    state = sampler.state_dict(consumed=90)
    assert (state["epoch"], state["position"]) == (1, 90)


def test_what_was_consumed_is_of_the_epoch_that_set_epoch_names(sampler: ShuffleSampler) -> None:
    list(sampler)
    sampler.set_epoch(6)
    state = sampler.state_dict(consumed=0)
    assert (state["epoch"], state["position"]) == (6, 0)


def test_more_consumed_than_there_is_is_all_of_it(sampler: ShuffleSampler) -> None:
    """accelerate fills the last batches up with rows that came before."""
    next(iter(sampler))
    assert sampler.state_dict(consumed=112)["position"] == 100


@goes_on
def test_a_new_pass_cuts_the_one_before_and_goes_on_where_it_stood(sampler: ShuffleSampler) -> None:
    first = iter(sampler)
    next(first)
    second = iter(sampler)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"a newer pass began(.|\n)*make a second sampler"):
            next(first)
    assert list(second) == order(0)[1:]
    assert list(second) == []
    assert list(sampler) == order(1)


def test_it_says_once_that_a_pass_goes_on_and_what_of_what_was_read_ahead(sampler: ShuffleSampler) -> None:
    next(iter(sampler))
    with pytest.warns(RuntimeWarning, match=r"epoch 0, row 1 of 100(.|\n)*had read ahead is passed over"):
        next(iter(sampler))
    next(iter(sampler))


def test_a_loaded_position_is_kept_by_a_trainer_that_looks_and_names_its_epoch(store: vla_store.Store) -> None:
    """One who looks through a DataLoader goes back to what was consumed."""
    made = Serves("DataLoader", first_rows(store, 100), 2)
    made.sampler.load_state_dict(made.sampler._epochs.state_at(2, 32))
    looked = next(made.batches())
    state = made.sampler.state_dict(consumed=32)
    made.sampler.load_state_dict(state)
    made.sampler.set_epoch(2)
    assert looked == order(2)[32:48]
    assert [row for batch in made.batches() for row in batch] == order(2)[32:]


@goes_on
@TORCHDATAS_OWN
@pytest.mark.parametrize("kind", ["DataLoader", "StatefulDataLoader"])
@pytest.mark.parametrize("workers", [0, 2])
def test_passes_that_are_left_never_give_a_row_twice_in_an_epoch(
    store: vla_store.Store, kind: str, workers: int
) -> None:
    made = Serves(kind, first_rows(store, 100), workers)
    found: list[int] = []
    while made.sampler.state_dict()["epoch"] == 0:
        found += [row for batch in itertools.islice(made.batches(), 2) for row in batch]
    seen = [row for row in order(0) if row in found]
    assert found == seen  # each once, in the order of the epoch
    assert len(found) == 100 or workers  # what workers had read ahead is passed over


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloaders_pass_that_was_cut_raises(store: vla_store.Store, workers: int) -> None:
    made = Serves("DataLoader", first_rows(store, 137), workers)
    outer = iter(made.loader)
    next(outer)
    made.sampler.set_epoch(1)
    next(iter(made.loader))
    with pytest.raises(UsageError, match="a newer pass began"):
        list(outer)


def test_memory_does_not_depend_on_the_number_of_rows(store: vla_store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = first_rows(store, 10)
    monkeypatch.setattr(type(samples), "__len__", lambda self: 500_000_000)
    tracemalloc.start()
    indices = iter(ShuffleSampler(samples))
    list(itertools.islice(indices, 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_something_else_than_our_datasets_is_refused() -> None:
    with pytest.raises(OptionError, match="takes a StepDataset or Samples"):
        ShuffleSampler([1, 2, 3])


# --- in torch's own loaders ---------------------------------------------------------------------------------------------


class Serves:
    """The rows of each batch that a DataLoader over a ShuffleSampler gives."""

    def __init__(self, kind: str, samples: vla_store.Samples, workers: int, *, drop_last: bool = False) -> None:
        torch = pytest.importorskip("torch")
        from vla_store.torch import collate

        if kind == "StatefulDataLoader":
            made = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
        else:
            made = torch.utils.data.DataLoader
        self.store = samples.store
        self.sampler = ShuffleSampler(samples, seed=5)
        self.loader = made(
            samples, 16, sampler=self.sampler, num_workers=workers, collate_fn=collate, drop_last=drop_last
        )

    def batches(self) -> Any:
        return (rows_of(batch, self.store) for batch in self.loader)


@TORCHDATAS_OWN
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["DataLoader", "StatefulDataLoader"])
def test_torchs_loaders_give_every_row_once_an_epoch(store: vla_store.Store, kind: str, workers: int) -> None:
    made = Serves(kind, first_rows(store, 100), workers)
    assert [[row for batch in made.batches() for row in batch] for _ in range(2)] == [order(0), order(1)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cut", [1, 5, 6, 7])
def test_a_dataloader_resumes_at_what_was_consumed(store: vla_store.Store, workers: int, cut: int) -> None:
    made = Serves("DataLoader", first_rows(store, 100), workers)
    batches = made.batches()
    taken = [row for batch in itertools.islice(batches, cut) for row in batch]
    state = made.sampler.state_dict(consumed=len(taken))
    again = Serves("DataLoader", first_rows(store, 100), workers)
    again.sampler.load_state_dict(state)
    assert taken + [row for batch in again.batches() for row in batch] == order(0)


@TORCHDATAS_OWN
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cut", [0, 1, 5, 6, 7, "end"])
def test_a_stateful_dataloader_resumes_exactly_by_itself(store: vla_store.Store, workers: int, cut: Any) -> None:
    """Also with the last batch given and its end not seen (7), and with its end seen."""
    made = Serves("StatefulDataLoader", first_rows(store, 100), workers)
    epoch = 1  # so that the state of an earlier epoch would be noticed
    list(made.batches())
    batches = made.batches()
    taken = [row for batch in (batches if cut == "end" else itertools.islice(batches, cut)) for row in batch]
    state = made.loader.state_dict()
    again = Serves("StatefulDataLoader", first_rows(store, 100), workers)
    again.loader.load_state_dict(state)
    rest = [row for batch in again.batches() for row in batch]
    if cut == "end":
        assert taken == order(epoch)
        assert rest == order(epoch + 1)
    else:
        assert taken + rest == order(epoch)
        assert [row for batch in again.batches() for row in batch] == order(epoch + 1)
