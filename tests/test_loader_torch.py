"""`vla_store.torch.Loader`: tensors, options, what it says of itself, and what torch's world asks of it."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader import transforms
from loader.serving import rows_of, wait_until

from vla_store.errors import OptionError, TransformError, UsageError
from vla_store.loader.order import Order

torch = pytest.importorskip("torch")
from loader import torch_transforms  # noqa: E402

from vla_store.torch import Blocks, Loader, ShuffleSampler, StepDataset  # noqa: E402

WINDOWS = {"agentview_rgb": [-1, 0], "actions": range(4)}


@pytest.fixture(scope="module")
def dataset(tiny_store: Path) -> StepDataset:
    return StepDataset(tiny_store, windows=WINDOWS, alignment="as_stored", images="as_stored")


@pytest.fixture
def make(dataset: StepDataset) -> Any:
    made: list[Loader] = []

    def loader(**options: Any) -> Loader:
        made.append(Loader(options.pop("dataset", dataset), **{"batch_size": 16, "workers": 0, **options}))
        return made[-1]

    yield loader
    for each in made:
        each.close()


def rows(batches: Any, dataset: StepDataset) -> list[int]:
    return [row for batch in batches for row in rows_of(batch, dataset.store)]


def test_batches_are_dicts_of_tensors_over_the_rings_memory(make: Any, dataset: StepDataset) -> None:
    loader = make(workers=1)
    batch = next(iter(loader))
    assert list(batch) == [
        "agentview_rgb",
        "agentview_rgb_is_pad",
        "actions",
        "actions_is_pad",
        "task",
        "episode",
        "step",
    ]
    assert (batch["agentview_rgb"].shape, batch["agentview_rgb"].dtype) == ((16, 2, 16, 24, 3), torch.uint8)
    assert (batch["actions_is_pad"].dtype, batch["step"].dtype) == (torch.bool, torch.int64)
    assert all(type(text) is str for text in batch["task"])
    addresses = [each.data_ptr() for each in batch.values() if isinstance(each, torch.Tensor)]
    assert max(addresses) - min(addresses) < loader.processes.pool._ring.slot_nbytes  # one slot
    assert loader.stats().pickled_nbytes == 0


def test_it_says_its_length_batch_size_order_and_rank(make: Any) -> None:
    text = repr(make(batch_size=10, seed=4, rank=1, world_size=2, drop_last=True, workers=3))
    assert "Loader(6 batches of 10 on rank 1 of 2, last dropped" in text
    assert "137, shuffled with seed 4; epoch 0 at 0" in text
    assert "workers  3" in text
    assert "in order" in repr(make(shuffle=False))
    assert "shuffled in blocks of 4 rows in pools of 8 with seed 0" in repr(make(shuffle=Blocks(rows=4, pool=8)))
    assert "none: decodes in this process" in repr(make())


def test_its_repr_never_raises(make: Any) -> None:
    assert "too few rows for batches" in repr(make(rank=0, world_size=500))


def test_its_length_is_of_a_whole_epoch(make: Any) -> None:
    assert len(make()) == 9
    assert len(make(drop_last=True)) == 8
    assert len(make(rank=0, world_size=4, batch_size=4)) == 9
    assert make().batch_size == 16


def test_it_takes_our_datasets_only(make: Any, dataset: StepDataset) -> None:
    assert len(make(dataset=dataset.samples)) == 9
    with pytest.raises(OptionError, match="takes a StepDataset or Samples"):
        Loader([1, 2], batch_size=2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size is a whole number of at least 1"),
        ({"batch_size": True}, "batch_size is a whole number"),
        ({"workers": -1}, "workers is a whole number of at least 0"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"shuffle": 0.5}, "shuffle is no order"),
        ({"rank": 1}, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, "rank lies outside the world"),
        ({"device": "cuda:0"}, "there is no such device here"),
        ({"device": "cdua"}, "not the name of a device"),
    ],
)
def test_options_that_cannot_be_are_refused_when_it_is_made(make: Any, options: dict[str, Any], text: str) -> None:
    if "device" in options and torch.cuda.is_available():
        pytest.skip("here there is one")
    with pytest.raises(OptionError, match=text):
        make(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_pinning_without_a_gpu_is_a_warning(make: Any, dataset: StepDataset) -> None:
    with pytest.warns(RuntimeWarning, match="without a GPU") as seen:
        loader = make(pin_memory=True)
    assert seen[0].filename.endswith("test_loader_torch.py")
    assert len(rows(loader, dataset)) == 137


# --- ranks --------------------------------------------------------------------------------------------------------------


def test_ranks_come_from_the_launchers_environment_at_the_first_batch(
    make: Any, dataset: StepDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make(seed=2)
    stream = iter(loader)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    order = Order(137, 2, 0).take(0, 137).tolist()
    assert rows([next(stream)], dataset) == order[16:32]
    assert "rank 1 of 2" in repr(loader)


WRONG_RANKS = {
    ("abc", "2"): "are whole numbers",
    ("", "2"): "are whole numbers",
    ("", ""): "are whole numbers",
    ("0", "2.0"): "are whole numbers",
    ("x", None): "are whole numbers",
    ("2", "2"): "lies outside the world",
    ("-1", "2"): "lies outside the world",
    ("0", "0"): "lies outside the world",
    ("0", "-1"): "lies outside the world",
    ("1", None): "RANK is in the environment, and WORLD_SIZE is not",
    (None, "2"): "WORLD_SIZE is in the environment, and RANK is not",
}


def set_ranks(monkeypatch: pytest.MonkeyPatch, *values: str | None) -> None:
    for name, value in zip(("RANK", "WORLD_SIZE"), values, strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize("values", WRONG_RANKS, ids=str)
def test_ranks_of_the_environment_that_cannot_be_are_named(
    make: Any, monkeypatch: pytest.MonkeyPatch, values: tuple[str | None, str | None]
) -> None:
    set_ranks(monkeypatch, *values)
    with pytest.raises(OptionError, match=WRONG_RANKS[values]) as caught:
        next(iter(make()))
    found = [caught.value.places[name] for name in ("RANK", "WORLD_SIZE")]
    assert found == ["not set" if each is None else repr(each) for each in values]
    assert "torchrun" in caught.value.hint


@pytest.mark.parametrize("values", [(None, None), (None, "1"), ("0", "1")])
def test_a_world_of_one_is_one_process(
    make: Any, monkeypatch: pytest.MonkeyPatch, values: tuple[str | None, str | None]
) -> None:
    set_ranks(monkeypatch, *values)
    assert "rank 0 of 1" in repr(make())


def test_ranks_that_are_given_come_before_the_environment(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "rank 3 of 5" in repr(make(rank=3, world_size=5))


# --- state --------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_torch_holds_its_state(make: Any, dataset: StepDataset, tmp_path: Path) -> None:
    loader = make(seed=1, workers=1)
    stream = iter(loader)
    taken = rows([next(stream) for _ in range(3)], dataset)
    torch.save({"loader": loader.state_dict()}, tmp_path / "checkpoint.pt")
    resumed = make(seed=1, batch_size=5)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["loader"])
    assert taken + rows(resumed, dataset) == Order(137, 1, 0).take(0, 137).tolist()


def test_its_sampler_is_itself_for_those_who_look_for_set_epoch_there(make: Any, dataset: StepDataset) -> None:
    loader = make()
    loader.sampler.set_epoch(3)
    assert rows(loader, dataset) == Order(137, 0, 3).take(0, 137).tolist()


def test_it_satisfies_torchdatas_protocol_of_things_with_a_state(make: Any, dataset: StepDataset) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader.stateful")
    assert isinstance(make(), stateful.Stateful)
    assert isinstance(ShuffleSampler(dataset), stateful.Stateful)


# --- passes that are cut, and peeks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_a_look_at_a_batch_cut_raises_and_nothing_is_lost(
    make: Any, dataset: StepDataset, workers: int
) -> None:
    loader, found = make(workers=workers), []

    def looks_inside_its_loop() -> None:
        for batch in loader:
            found.extend(rows([batch], dataset))
            if len(found) == 48:
                found.extend(rows([next(iter(loader))], dataset))

    cut = pytest.raises(UsageError, match=r"a newer pass began(.|\n)*peek\(\) shows the next batch")
    with pytest.warns(RuntimeWarning, match="goes on where that stood"), cut:
        looks_inside_its_loop()
    found += rows(loader, dataset)
    assert found == Order(137, 0, 0).take(0, 137).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_peek_takes_nothing_from_a_loop_nor_from_a_loaded_position(
    make: Any, dataset: StepDataset, workers: int
) -> None:
    loader, found = make(workers=workers), []
    loader.load_state_dict(loader.epochs.state_at(2, 32))
    for _ in range(2):
        seen = rows([loader.peek()], dataset)
    for batch in loader:
        assert rows([batch], dataset) == seen
        found += seen
        seen = rows([loader.peek()], dataset)
    assert found == Order(137, 0, 2).take(32, 137).tolist()
    assert seen == Order(137, 0, 3).take(0, 16).tolist()


def test_a_peek_is_changed_as_batches_are(make: Any) -> None:
    loader = make(device="cpu", transform=transforms.noise, batch_transform=lambda batch: batch["noise"] * 2)
    assert torch.equal(loader.peek(), next(iter(loader)))


@pytest.mark.parametrize("how", ["close", "error"])
def test_a_pass_that_ended_early_never_looks_like_a_complete_one(make: Any, how: str) -> None:
    loader = make(
        workers=1, transform=transforms.of_step_7_fails if how == "error" else None, shuffle=False, batch_size=4
    )
    stream = iter(loader)
    next(stream)
    if how == "close":
        loader.close()
    else:
        with pytest.raises(TransformError):
            next(stream)
    for _ in range(2):
        with pytest.raises(UsageError, match="this pass was ended"):
            list(stream)


def test_a_pass_that_is_complete_stays_complete(make: Any) -> None:
    loader = make()
    stream = iter(loader)
    assert len(list(stream)) == 9
    iter(loader)
    assert list(stream) == []


# --- transforms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_may_use_torch(make: Any, workers: int) -> None:
    batch = next(iter(make(workers=workers, shuffle=False, transform=torch_transforms.as_tensors)))
    assert torch.equal(batch["half"], torch.arange(16, dtype=torch.bfloat16)[:, None].expand(16, 3))
    assert not batch["actions"].requires_grad
    assert batch["scalar"].tolist() == [float(step) for step in range(16)]
    assert torch.equal(batch["sparse"].to_dense()[:, 1, 1], batch["scalar"])
    batch = next(iter(make(workers=workers, shuffle=False, batch_transform=torch_transforms.batch_as_tensors)))
    assert torch.equal(batch["actions"], 2 * next(iter(make(shuffle=False)))["actions"])


def test_a_batch_transform_without_a_device_gets_arrays_in_the_worker(make: Any) -> None:
    for workers in (0, 1):
        batch = next(iter(make(workers=workers, batch_transform=transforms.batch_adds_drops_and_reshapes)))
        assert batch["small"].shape == (16, 2, 8, 12, 3)
        assert isinstance(batch["both"][1]["step"], torch.Tensor)


def test_a_batch_transform_with_a_device_runs_here_on_tensors(make: Any) -> None:
    seen: list[tuple[str, type]] = []

    def here(batch: Any) -> Any:  # a local function: it goes nowhere
        seen.append((threading.current_thread().name, type(batch["actions"])))
        return {**batch, "pictures": batch["agentview_rgb"].float() / 255}

    batch = next(iter(make(workers=1, device="cpu", batch_transform=here)))
    assert batch["pictures"].dtype == torch.float32
    assert seen == [("MainThread", torch.Tensor)]


def test_a_batch_transform_with_a_device_gets_the_generator_of_its_place(make: Any, dataset: StepDataset) -> None:
    def noisy(batch: Any, generator: np.random.Generator) -> Any:
        return {**batch, "noise": generator.random()}

    first = make(device="cpu", batch_transform=noisy, seed=1)
    found = [batch["noise"] for batch in first]
    assert len(set(found)) == 9
    resumed = make(device="cpu", batch_transform=noisy, seed=1, workers=1)
    resumed.load_state_dict(resumed.epochs.state_at(0, 64))
    assert [batch["noise"] for batch in resumed] == found[4:]


def test_what_a_device_transform_raises_leaves_the_batch_to_be_given_again(make: Any, dataset: StepDataset) -> None:
    calls = iter(range(100))

    def fails(batch: Any) -> Any:
        if next(calls) == 2:
            raise ValueError("of the transform")
        return batch

    loader = make(device="cpu", batch_transform=fails)
    found: list[int] = []
    with pytest.raises(ValueError, match="of the transform"):
        found.extend(row for batch in loader for row in rows_of(batch, dataset.store))
    assert len(found) == 32
    assert found + rows(loader, dataset) == Order(137, 0, 0).take(0, 137).tolist()


def test_a_device_transform_that_raises_stop_iteration_is_an_error(make: Any, dataset: StepDataset) -> None:
    calls = iter(range(3))
    loader = make(device="cpu", batch_transform=lambda batch: (next(calls), batch)[1])
    with pytest.raises(RuntimeError, match="batch_transform raised StopIteration"):
        list(loader)
    assert loader.state_dict()["epoch"] == 0
    assert loader.state_dict()["position"] == 48


# --- in sight -----------------------------------------------------------------------------------------------------------


def test_stats_count_what_was_handed_out(make: Any) -> None:
    loader = make(workers=1)
    for _ in range(2):
        nbytes = [sum(each.nbytes for each in batch.values() if isinstance(each, torch.Tensor)) for batch in loader]
    stats = loader.stats()
    assert (stats.batches, stats.rows, stats.copies, stats.pickled_nbytes) == (18, 274, 0, 0)
    assert 2 * sum(nbytes) <= stats.nbytes <= 2 * (sum(nbytes) + 9 * 10 * 64)
    assert 0 < stats.waited_s <= stats.elapsed_s
    assert len(stats.waits_s) == 18
    assert stats.work_s > 0


def test_stats_of_a_while_are_the_difference_of_two(make: Any) -> None:
    loader = make()
    next(iter(loader))
    loader.set_epoch(1)
    before = loader.stats()
    assert sum(1 for _ in loader) == 9
    between = loader.stats().since(before)
    assert (between.batches, between.rows) == (9, 137)
    assert len(between.waits_s) == 9
    assert before.batches == 1


def test_a_consumer_that_takes_its_time_finds_batches_ready(make: Any) -> None:
    loader = make(workers=1)
    stream = iter(loader)
    next(stream)
    pool = loader.processes.pool
    for _ in range(8):
        assert wait_until(lambda: pool._collect(0.0) or pool._queue[0] in pool._done)
        next(stream)
    assert loader.stats().ready == 8


def test_a_summary_of_the_epoch_is_printed_at_its_end_and_only_then(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = make(summary=True)
    next(iter(loader))
    assert capsys.readouterr().err == ""
    loader.set_epoch(1)
    for _ in range(2):
        assert sum(1 for _ in loader) == 9
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("vla_store loader: 9 batches, 137 rows in ")
        assert "the consumer waited" in said


def test_it_can_be_used_in_a_with_statement(make: Any, dataset: StepDataset) -> None:
    with Loader(dataset, batch_size=16, workers=1) as loader:
        next(iter(loader))
        assert len(loader.pids()) == 1
    assert loader.pids() == []


def test_it_does_not_pickle_and_says_what_does(make: Any) -> None:
    with pytest.raises(TypeError, match="send the dataset"):
        pickle.dumps(make())


@pytest.mark.parametrize("workers", [0, 1])
def test_arrays_that_torch_cannot_refer_to_are_copied(make: Any, workers: int) -> None:
    batch = next(iter(make(workers=workers, batch_transform=transforms.what_torch_cannot_refer_to, shuffle=False)))
    assert batch["turned"].tolist() == list(range(15, -1, -1))
    assert batch["broadcast"].tolist() == [[0] * 3, [1] * 3] + [[step] * 3 for step in range(2, 16)]
    assert batch["swapped"].tolist() == list(range(16))
    assert batch["names"].tolist() == ["x"] * 16
