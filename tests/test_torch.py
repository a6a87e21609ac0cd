from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same
from store_tools import batches_of

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

import vla_store  # noqa: E402
from vla_store import Batch, OptionError, Samples, TransformError, open_store  # noqa: E402
from vla_store.torch import Loader, StepDataset, collate  # noqa: E402

WINDOWS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 0, "robot_states": 0, "actions": range(8)}
OPTIONS: dict[str, Any] = {"windows": WINDOWS, "alignment": "causal", "images": "upright", "dtype": "float32"}

# Forking a process that has threads is deprecated in Python 3.12; torch's DataLoader does it by default all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def dataset(tiny_store: Path) -> StepDataset:
    return StepDataset(open_store(tiny_store), **OPTIONS)


def expected_batch(dataset: StepDataset, indices: list[int]) -> dict[str, Any]:
    """The batch of these samples, as torch's default collate makes it of one sample after another."""
    return dict(default_collate([dataset[index] for index in indices]))


def test_samples_are_those_of_samples_as_tensors(dataset: StepDataset, tiny_store: Path) -> None:
    samples = Samples(tiny_store, **OPTIONS)
    assert len(dataset) == len(samples)
    for index in (0, 5, -1, np.int64(60)):
        found, expected = dataset[index], samples[index]
        assert_same(found, expected)
        assert all(isinstance(found[key], torch.Tensor) for key in expected if isinstance(expected[key], np.ndarray))
    assert isinstance(dataset[0]["task"], str)
    assert isinstance(dataset[0]["episode"], int)
    assert isinstance(dataset[0]["step"], int)


def test_tensors_own_their_memory(dataset: StepDataset) -> None:
    sample, same = dataset[3], dataset[3]
    batch, again = collate(dataset.__getitems__([3, 3])), collate(dataset.__getitems__([3, 3]))
    for made in (sample, batch):
        for value in made.values():
            if isinstance(value, torch.Tensor):
                assert value.untyped_storage().nbytes() == value.nbytes
                value.fill_(1)
    assert_same(again, expected_batch(dataset, [3, 3]))
    assert_same(same, dataset[3])


def test_collate_hands_a_batch_over_as_it_is(dataset: StepDataset) -> None:
    batch = dataset.__getitems__([1, 2, 3])
    assert isinstance(batch, Batch)
    made = collate(batch)
    assert_same(made, expected_batch(dataset, [1, 2, 3]))
    for key, value in made.items():
        assert value is batch.arrays[key]
    assert made["episode"].dtype == made["step"].dtype == torch.int64
    assert made["task"] == [dataset[index]["task"] for index in (1, 2, 3)]


def test_collate_stacks_what_was_changed_in_between(dataset: StepDataset) -> None:
    batch = dataset.__getitems__([1, 2])
    for sample in batch:
        sample["actions"] = sample["actions"] * 2
        sample["extra"] = torch.ones(3)
    made = collate(batch)
    assert_same(made["actions"], torch.stack([dataset[1]["actions"] * 2, dataset[2]["actions"] * 2]))
    assert made["extra"].shape == (2, 3)


def test_collate_takes_samples_of_any_make(dataset: StepDataset, tiny_store: Path) -> None:
    expected = expected_batch(dataset, [4, 9])
    samples = Samples(tiny_store, **OPTIONS)
    for given in (
        [dataset[4], dataset[9]],
        [samples[4], samples[9]],
        samples.__getitems__([4, 9]),
        dataset.__getitems__([4, 9])[:],
    ):
        assert_same(collate(given), expected)
    assert_same(collate([3, 4]), torch.tensor([3, 4]))


def test_a_ragged_field_is_collated_within_one_width_only(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    dataset = StepDataset(store, windows={"states": [0, 1]})
    starts = {each.suite: each.start for each in store.episodes}
    wide, narrow = starts["libero_10"], starts["libero_goal"]
    assert collate(dataset.__getitems__([wide, wide + 1]))["states"].shape == (2, 2, 17)
    for given in (dataset.__getitems__([wide, narrow]), [dataset[wide], dataset[narrow]]):
        with pytest.raises(OptionError, match=r"(?s)'states' has several widths.*12, 17"):
            collate(given)


def test_shapes_that_do_not_stack_are_named() -> None:
    with pytest.raises(OptionError, match=r"(?s)'a' has several shapes.*\(1, 2\), \(2, 2\)"):
        collate([{"a": torch.zeros(1, 2)}, {"a": torch.zeros(2, 2)}])
    with pytest.raises(OptionError, match=r"(?s)'a' has several shapes.*\(\), \(3,\)"):
        collate([{"a": torch.zeros(3)}, {"a": torch.tensor(1.0)}])


def test_out_is_filled(dataset: StepDataset) -> None:
    out = dataset.allocate(3)
    made = dataset.batch([5, 6, 5], out=out)
    assert all(made[name] is tensor for name, tensor in out.items())
    assert_same(made, expected_batch(dataset, [5, 6, 5]))
    assert_same(collate(dataset.__getitems__([7, 8, 9], out=out)), expected_batch(dataset, [7, 8, 9]))
    assert_same(out["actions"], expected_batch(dataset, [7, 8, 9])["actions"])


def test_a_transform_sees_each_sample(tiny_store: Path) -> None:
    def flattened(sample: dict[str, Any]) -> dict[str, Any]:
        return {"actions": sample["actions"].flatten(), "task": sample["task"].upper()}

    dataset = StepDataset(tiny_store, transform=flattened, **OPTIONS)
    assert dataset[0]["actions"].shape == (56,)
    made = collate(dataset.__getitems__([0, 1]))
    assert made["actions"].shape == (2, 56)
    assert made["task"][0].isupper()
    with pytest.raises(OptionError, match="one by one"):
        dataset.batch([0])


class Doubled(StepDataset):
    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return {"actions": sample["actions"] * 2, "step": sample["step"]}


def test_a_subclass_that_changes_getitem_changes_batches_too(tiny_store: Path) -> None:
    plain, doubled = StepDataset(tiny_store, **OPTIONS), Doubled(tiny_store, **OPTIONS)
    for loader in (
        DataLoader(doubled, batch_size=4, collate_fn=collate),
        DataLoader(doubled, batch_size=4),
        DataLoader(Subset(doubled, range(8)), batch_size=4),
    ):
        batch = next(iter(loader))
        assert list(batch) == ["actions", "step"]
        assert_same(batch["actions"], expected_batch(plain, [0, 1, 2, 3])["actions"] * 2)
    with pytest.raises(OptionError, match="one by one"):
        doubled.batch([0])


def test_dtypes_may_be_torchs(tiny_store: Path) -> None:
    assert StepDataset(tiny_store, windows={"actions": 0}, dtype=torch.float32)[0]["actions"].dtype == torch.float32
    with pytest.raises(OptionError, match="float32"):
        StepDataset(tiny_store, windows={"actions": 0}, dtype=torch.int32)


def test_every_dtype_of_the_store_becomes_a_tensor(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    sample = StepDataset(store, alignment="as_stored", images="as_stored")[0]
    for name, field in store.fields.items():
        if field.kind == "fixed":
            assert str(sample[name].dtype) == f"torch.{field.dtype}"


def test_a_dataset_pickles_small_and_its_repr_says_what_it_is(dataset: StepDataset) -> None:
    _ = dataset[0], dataset.__getitems__([0, 1])
    data = pickle.dumps(dataset)
    assert len(data) < 8_000
    assert_same(pickle.loads(data)[7], dataset[7])
    assert repr(dataset).startswith("StepDataset(127 anchors")
    assert dataset.store.rows == 137
    assert list(dataset.statistics()) == ["robot_states", "actions"]


def loaders(dataset: StepDataset) -> Iterator[tuple[str, DataLoader[Any]]]:
    kinds: dict[str, dict[str, Any]] = {
        "in process": {},
        "default collate": {"collate_fn": None},
        "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
        "spawn": {"num_workers": 1, "multiprocessing_context": "spawn"},
        "forkserver": {"num_workers": 1, "multiprocessing_context": "forkserver"},
        "fork and default collate": {"num_workers": 2, "multiprocessing_context": "fork", "collate_fn": None},
        "persistent": {"num_workers": 1, "multiprocessing_context": "fork", "persistent_workers": True},
    }
    for name, options in kinds.items():
        yield name, DataLoader(dataset, batch_size=20, **{"collate_fn": collate, **options})


def test_loaders_with_any_start_of_workers_give_the_same_batches(dataset: StepDataset) -> None:
    expected = [expected_batch(dataset, list(range(at, min(at + 20, 127)))) for at in range(0, 127, 20)]
    for name, loader in loaders(dataset):  # the dataset has been read here: forked workers inherit what it opened
        assert_same(list(loader), expected, name)


def test_workers_read_over_every_fetcher(tiny_store: Path) -> None:
    expected = expected_batch(StepDataset(tiny_store, **OPTIONS), list(range(127)))
    for kind in ("pread", "fsspec"):
        dataset = StepDataset(open_store(tiny_store, fetcher=kind), **OPTIONS)
        _ = dataset[0]
        (batch,) = DataLoader(
            dataset, batch_size=127, collate_fn=collate, num_workers=1, multiprocessing_context="fork"
        )
        assert_same(batch, expected, kind)


def test_a_loader_over_samples_without_tensors_gives_tensors(tiny_store: Path, dataset: StepDataset) -> None:
    samples = Samples(tiny_store, **OPTIONS)
    for collate_fn in (collate, None):
        batch = next(iter(DataLoader(samples, batch_size=5, collate_fn=collate_fn)))  # type: ignore[arg-type]
        assert_same(batch, expected_batch(dataset, [0, 1, 2, 3, 4]))


def test_shuffled_epochs_are_every_anchor_once(dataset: StepDataset) -> None:
    loader = DataLoader(dataset, batch_size=10, shuffle=True, collate_fn=collate)
    everything = sorted((sample["episode"], sample["step"]) for sample in dataset)
    for _ in range(2):
        seen = [pair for batch in loader for pair in zip(batch["episode"].tolist(), batch["step"].tolist())]
        assert seen != everything
        assert sorted(seen) == everything


def test_subset_concat_and_samplers_of_torch_work(dataset: StepDataset, tiny_store: Path) -> None:
    other = StepDataset(tiny_store, **OPTIONS, suites="libero_goal")
    subset = Subset(dataset, [9, 3, 50])
    assert_same(next(iter(DataLoader(subset, batch_size=3, collate_fn=collate))), expected_batch(dataset, [9, 3, 50]))
    nested = Subset(subset, [2, 0])
    assert_same(next(iter(DataLoader(nested, batch_size=2, collate_fn=collate))), expected_batch(dataset, [50, 9]))
    both = ConcatDataset([dataset, other])
    assert len(both) == len(dataset) + len(other)
    last = next(iter(DataLoader(Subset(both, [126, 127]), batch_size=2, collate_fn=collate)))
    assert_same(last, collate([dataset[126], other[0]]))
    sampler = BatchSampler(SequentialSampler(dataset), 50, drop_last=True)
    assert [len(batch["task"]) for batch in DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)] == [50, 50]
    drawn = RandomSampler(dataset, replacement=True, num_samples=30)
    assert sum(len(batch["task"]) for batch in DataLoader(dataset, 7, sampler=drawn, collate_fn=collate)) == 30
    whole = DataLoader(dataset, batch_size=None, sampler=[3, 4])
    assert_same(list(whole), [dataset[3], dataset[4]])


def test_a_distributed_sampler_deals_every_anchor_to_one_rank(dataset: StepDataset) -> None:
    seen = []
    for rank in range(3):
        sampler = DistributedSampler(dataset, num_replicas=3, rank=rank, shuffle=True, drop_last=True)
        for batch in DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate):
            seen += list(zip(batch["episode"].tolist(), batch["step"].tolist()))
    assert len(seen) == len(set(seen)) == 126


def _as_it_is(batch: Any) -> Any:
    return batch


def test_a_batch_that_nobody_collates_crosses_processes(dataset: StepDataset) -> None:
    loader = DataLoader(dataset, batch_size=3, collate_fn=_as_it_is, num_workers=1, multiprocessing_context="fork")
    first = next(iter(loader))
    assert isinstance(first, Batch)
    assert_same(list(first), [dataset[0], dataset[1], dataset[2]])


BARE = """
import sys
import vla_store
loaded = [name for name in ("zarr", "dask", "h5py", "torch", "fsspec", "numcodecs", "pandas") if name in sys.modules]
assert loaded == [], loaded
samples = vla_store.Samples(sys.argv[1], windows={"actions": 0, "agentview_rgb": 0}, alignment="causal", images="upright")
samples[0], samples.batch([1, 2])
loaded = [name for name in ("zarr", "dask", "h5py", "torch", "fsspec", "pandas") if name in sys.modules]
assert loaded == [], loaded
import vla_store.torch
loaded = [name for name in ("zarr", "dask", "h5py") if name in sys.modules]
assert loaded == [], loaded
"""


def test_reading_imports_only_what_it_needs(tiny_store: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(vla_store.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", BARE, str(tiny_store)], capture_output=True, text=True, check=False, env=environment
    )
    assert (run.returncode, run.stderr) == (0, "")


def forgets(sample: dict[str, Any]) -> None:
    sample["more"] = 1


class Forgets(StepDataset):
    def __getitem__(self, index: Any) -> Any:
        super().__getitem__(index)["more"] = 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_forgotten_return_is_an_error_in_a_dataloader_too(tiny_store: Path, workers: int) -> None:
    changed = StepDataset(tiny_store, windows={"actions": 0}, transform=forgets)
    with pytest.raises(TransformError, match=r"transform `forgets` returns None(.|\n)*forget `return`"):
        changed[3]
    for dataset, name in ((changed, "forgets"), (Forgets(tiny_store, windows={"actions": 0}), "the dataset")):
        torchs = DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=workers)
        with batches_of(torchs) as batches, pytest.raises(TransformError, match=f"{name}`? returns None"):
            next(batches)
        with Loader(dataset, batch_size=4, workers=0) as loader, pytest.raises(TransformError, match="returns None"):
            next(iter(loader))


# --- numbers of tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_the_number_of_a_task_is_in_every_batch_whoever_makes_it(tiny_store: Path, workers: int) -> None:
    dataset = StepDataset(tiny_store, **OPTIONS, task="index")
    with Loader(dataset, batch_size=200, shuffle=False, workers=workers) as loader:
        (ours,) = loader
    (theirs,) = DataLoader(dataset, batch_size=200, collate_fn=collate, num_workers=workers)
    (plain,) = DataLoader(dataset, batch_size=200, num_workers=workers)
    texts = StepDataset(tiny_store, **OPTIONS).batch(range(len(dataset)))["task"]
    for batch in (ours, theirs, plain):
        assert batch["task_index"].dtype == torch.int64
        assert [dataset.task_texts[number] for number in batch["task_index"].tolist()] == texts
        assert "task" not in batch


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("task", ["index", None])
def test_accelerate_dispatches_batches_without_texts(tiny_store: Path, task: str | None) -> None:
    """It cannot concatenate texts."""
    accelerate = pytest.importorskip("accelerate")
    from accelerate.data_loader import DataLoaderDispatcher
    from accelerate.utils import concatenate

    dataset = StepDataset(tiny_store, **OPTIONS, task=task)
    config = accelerate.utils.DataLoaderConfiguration(dispatch_batches=True)
    loader = DataLoader(dataset, batch_size=16, collate_fn=collate)
    prepared = accelerate.Accelerator(cpu=True, dataloader_config=config).prepare(loader)
    assert isinstance(prepared, DataLoaderDispatcher)
    batches = list(prepared)
    assert sum(len(batch["step"]) for batch in batches) == len(dataset)
    both = concatenate(batches[:2], dim=0)  # as it does for two ranks
    assert both["step"].shape == (32,)
    with pytest.raises(TypeError, match="Can only concatenate tensors"):
        concatenate([collate(StepDataset(tiny_store, **OPTIONS).__getitems__([1, 2]))] * 2, dim=0)


# --- what a user set for his own tensors ------------------------------------------------------------------------------------


class OfTheUser:
    """torch's defaults for new tensors as a user may have set them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.dtype = torch.get_default_dtype()
        if self.name == "dtype":
            torch.set_default_dtype(torch.float64)
        elif self.name == "type":
            torch.set_default_tensor_type(torch.DoubleTensor)
        elif self.name == "device":
            torch.set_default_device("meta")
        else:
            self.inside = torch.device("meta")
            self.inside.__enter__()

    def __exit__(self, *_: object) -> None:
        if self.name == "inside":
            self.inside.__exit__(None, None, None)
        elif self.name == "device":
            torch.set_default_device(None)
        else:
            torch.set_default_dtype(self.dtype)


def all_that_gives_tensors(store: Path) -> list[Any]:
    dataset = StepDataset(store, **OPTIONS)
    plain = StepDataset(store, windows={"actions": 0})
    changed = StepDataset(store, **OPTIONS, transform=with_numbers)
    out = dataset.allocate(3)
    found = [
        dataset[3],
        dataset.batch([1, 2]),
        dataset.batch([1, 2, 3], out),
        collate(dataset.__getitems__([4, 5])),
        collate([changed[4], changed[5]]),
        collate(Samples(store, windows={"actions": 0}).__getitems__([4, 5])),
    ]
    for workers in (0, 1):
        for kind in (dataset, changed, plain):
            with Loader(kind, batch_size=8, workers=workers) as loader:
                found += [next(iter(loader)), loader.peek()]
    return found


@pytest.fixture(scope="module")
def with_torchs_own_defaults(tiny_store: Path) -> list[Any]:
    return all_that_gives_tensors(tiny_store)


@pytest.mark.filterwarnings("ignore:.*set_default_tensor_type.*")
@pytest.mark.parametrize("name", ["dtype", "type", "device", "inside"])
def test_a_users_defaults_for_new_tensors_do_not_reach_samples_and_batches(
    tiny_store: Path, with_torchs_own_defaults: list[Any], name: str
) -> None:
    with OfTheUser(name):
        found = all_that_gives_tensors(tiny_store)
    assert_same(found, with_torchs_own_defaults)


def with_numbers(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "float": 1.5, "int": 3, "bool": True, "numpy": np.float32(2), "list": [1, 2.5]}


def test_a_users_default_device_does_not_reach_what_a_dataloaders_worker_shares(
    dataset: StepDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own DataLoader does not start under such a device; a worker may set one."""
    from vla_store.torch import dataset as datasets

    monkeypatch.setattr(datasets, "get_worker_info", lambda: "a worker")
    expected = dataset.batch([3, 4])
    with torch.device("meta"):
        shared = dataset.__getitems__([3, 4])
        assert type(shared) is not Batch
        assert_same(collate(shared), expected)
