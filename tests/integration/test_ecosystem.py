"""What people put between a dataset and their training loop: torch's own wrappers, torchdata, Lightning, accelerate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import child_processes
import ecosystem_ranks
import numpy as np
import pytest
from comparing import assert_same

import vla_store

torch = pytest.importorskip("torch")

from torch.utils.data import (  # noqa: E402
    ConcatDataset,
    DataLoader,
    Subset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from vla_store.errors import OptionError  # noqa: E402
from vla_store.loader.order import Order  # noqa: E402
from vla_store.torch import Loader, StepDataset, collate  # noqa: E402

WINDOWS = {"agentview_rgb": [-1, 0], "robot_states": 0, "actions": range(4)}
OPTIONS = {"windows": WINDOWS, "alignment": "causal", "images": "upright", "dtype": "float32"}

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def dataset(tiny_store: Path) -> StepDataset:
    return StepDataset(tiny_store, **OPTIONS)


def pairs_of(batches: Any) -> list[tuple[int, int]]:
    """(episode, step) of every sample, in order."""
    return [pair for batch in batches for pair in ecosystem_ranks.pairs_of(batch)]


def anchors_of(dataset: StepDataset) -> list[tuple[int, int]]:
    """The same of the whole dataset."""
    return [(sample["episode"], sample["step"]) for sample in dataset.__getitems__(range(len(dataset)))]


class Relabelled(StepDataset):
    """What a user makes of a dataset: another sample than the one stored."""

    def __getitem__(self, index: int) -> Any:
        sample = super().__getitem__(index)
        return {"prompt": f"please {sample['task']}", "actions": sample["actions"] * 2, "step": sample["step"]}


# --- torch -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("as_indices", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_a_subset_gives_the_samples_of_its_indices(dataset: StepDataset, as_indices: Any, workers: int) -> None:
    indices = [40, 3, 3, 100, 17, -1]
    subset = Subset(dataset, as_indices(indices))
    expected = collate([dataset[index] for index in indices])
    (batch,) = DataLoader(subset, batch_size=8, collate_fn=collate, num_workers=workers)
    assert_same(batch, expected)
    assert_same(subset[2], dataset[3])


def test_random_split_deals_every_row_to_one_side(dataset: StepDataset) -> None:
    sides = random_split(dataset, [0.8, 0.2], torch.Generator().manual_seed(1))
    dealt = [pairs_of(DataLoader(side, batch_size=16, collate_fn=collate)) for side in sides]
    assert sorted(dealt[0] + dealt[1]) == anchors_of(dataset)
    assert [len(side) for side in dealt] == [len(side) for side in sides]


@pytest.mark.parametrize("workers", [0, 2])
def test_concatenated_datasets_give_one_after_the_other(tiny_store: Path, workers: int) -> None:
    store = vla_store.open_store(tiny_store)
    parts = [StepDataset(store, suites=[suite], **OPTIONS) for suite in store.suites]
    loader = DataLoader(ConcatDataset(parts), batch_size=10, collate_fn=collate, num_workers=workers)
    expected = [part[number] for part in parts for number in range(len(part))]
    assert_same(list(loader), [collate(expected[start : start + 10]) for start in range(0, len(expected), 10)])
    assert pairs_of(loader) == anchors_of(StepDataset(store, **OPTIONS))


def test_a_sampler_that_repeats_rows_gets_them_repeated(dataset: StepDataset) -> None:
    weights = [1.0 if number in (5, 50) else 0.0 for number in range(len(dataset))]
    sampler = WeightedRandomSampler(weights, 40, generator=torch.Generator().manual_seed(0))
    batches = list(DataLoader(dataset, batch_size=20, sampler=sampler, collate_fn=collate))
    anchors = anchors_of(dataset)
    assert set(pairs_of(batches)) == {anchors[5], anchors[50]}
    assert len(pairs_of(batches)) == 40


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(len(d))), lambda d: ConcatDataset([d])])
def test_a_subclass_that_overrides_getitem_is_heard_everywhere(tiny_store: Path, wrap: Any, workers: int) -> None:
    dataset, plain = Relabelled(tiny_store, **OPTIONS), StepDataset(tiny_store, **OPTIONS)
    (batch,) = DataLoader(wrap(dataset), batch_size=len(dataset), collate_fn=collate, num_workers=workers)
    expected = collate([plain[number] for number in range(len(plain))])
    assert list(batch) == ["prompt", "actions", "step"]
    assert batch["prompt"] == [f"please {task}" for task in expected["task"]]
    assert_same(batch["actions"], expected["actions"] * 2)
    assert_same(batch["step"], expected["step"])


def test_a_subclass_that_changes_samples_gives_no_batches_behind_its_own_back(tiny_store: Path) -> None:
    with pytest.raises(OptionError, match="one by one"):
        Relabelled(tiny_store, **OPTIONS).batch([1, 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_default_collate_gives_the_same_batches(dataset: StepDataset, workers: int) -> None:
    own = list(DataLoader(dataset, batch_size=16, collate_fn=collate))
    assert_same(list(DataLoader(dataset, batch_size=16, num_workers=workers)), own)
    assert own[0]["episode"].dtype == torch.int64
    assert own[0]["actions"].shape == (16, 4, 7)
    assert isinstance(own[0]["task"], list)


def test_samples_of_several_widths_are_refused_by_both_collates(tiny_store: Path) -> None:
    dataset = StepDataset(tiny_store, windows={"states": 0})
    widths = {tuple(dataset[number]["states"].shape): number for number in range(len(dataset))}
    indices = list(widths.values())
    assert len(indices) > 1
    with pytest.raises(OptionError, match="states"):
        list(DataLoader(Subset(dataset, indices), batch_size=8, collate_fn=collate))
    with pytest.raises(RuntimeError, match="equal size"):
        list(DataLoader(Subset(dataset, indices), batch_size=8))


def test_a_sample_without_batching_is_the_sample(dataset: StepDataset) -> None:
    samples = list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert len(samples) == len(dataset)
    assert_same(samples[33], dataset[33])


def test_batches_do_not_share_memory(dataset: StepDataset) -> None:
    loader = DataLoader(dataset, batch_size=16, collate_fn=collate)
    first, second = (batch for batch, _ in zip(loader, range(2)))
    kept = second["actions"].clone()
    first["actions"].add_(torch.randn_like(first["actions"]))  # as trainers add noise in place
    first["agentview_rgb"].zero_()
    assert_same(second["actions"], kept)
    assert_same(
        default_collate([dataset[number] for number in range(16)])["actions"],
        collate(dataset.__getitems__(range(16)))["actions"],
    )


# --- several ranks -----------------------------------------------------------------------------------------------------


def test_two_gloo_ranks_with_a_distributed_sampler_share_every_row_and_none_twice(
    tiny_store: Path, tmp_path: Path
) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    jobs = [(ecosystem_ranks.distributed_sampler, rank, tiny_store, tmp_path) for rank in range(2)]
    assert child_processes.in_processes("spawn", jobs, timeout_s=120) == [None, None]
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert seen[0] == seen[1]  # both gathered the same
    every = [list(pair) for pair in anchors_of(ecosystem_ranks.dataset_of(tiny_store))]
    for ranks in seen[0]:
        assert [len(mine) for mine in ranks] == [56, 56]
        assert sorted(ranks[0] + ranks[1]) == every
    assert seen[0][0] != seen[0][1]  # another epoch, another order


def test_accelerate_launched_ranks_share_every_row_and_none_twice(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    tests = str(Path(ecosystem_ranks.__file__).parent)
    paths = [str(Path(vla_store.__file__).parents[1]), tests, os.environ.get("PYTHONPATH", "")]
    # accelerate starts several processes on one machine for --multi_gpu alone; the script itself asks for the CPU.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    ran = subprocess.run(
        [sys.executable, *launch, ecosystem_ranks.__file__, tiny_store, tmp_path],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(tmp_path / "none"),  # nobody's own settings
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [(each["rank"], each["ranks"]) for each in told] == [(0, 2), (1, 2)]
    every = [list(pair) for pair in anchors_of(ecosystem_ranks.dataset_of(tiny_store))]
    assert sorted(told[0]["pairs"] + told[1]["pairs"]) == every


# --- torchdata, Lightning, accelerate ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # their own
def test_a_stateful_dataloader_goes_on_in_mid_epoch_where_it_stopped(dataset: StepDataset, tmp_path: Path) -> None:
    pytest.importorskip("torchdata", reason="torchdata is not installed")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> Any:
        generator = torch.Generator().manual_seed(5)
        return StatefulDataLoader(
            dataset, batch_size=8, shuffle=True, generator=generator, num_workers=2, collate_fn=collate
        )

    whole, first = list(loader()), loader()
    batches = iter(first)
    begun = [next(batches) for _ in range(7)]  # an odd number: the next batch is the second worker's
    torch.save(first.state_dict(), tmp_path / "state.pt")
    went_on = list(batches)
    second = loader()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False))
    resumed = list(second)
    assert_same(begun + went_on, whole)
    assert_same(resumed, whole[7:])
    assert sorted(pairs_of(begun + resumed)) == anchors_of(dataset)


@pytest.mark.filterwarnings("ignore")  # their own
def test_lightning_fits_over_every_row_once(dataset: StepDataset, tmp_path: Path) -> None:
    try:
        import lightning as lightning
    except ImportError:
        lightning = pytest.importorskip("pytorch_lightning", reason="lightning is not installed")

    class Policy(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(9, 28)
            self.seen: list[tuple[int, int]] = []

        def training_step(self, batch: dict[str, Any], number: int) -> Any:
            self.seen += pairs_of([batch])
            assert len(batch["task"]) == len(batch["step"])
            found = self.head(batch["robot_states"] / 1e7)
            loss = torch.nn.functional.mse_loss(found, batch["actions"].flatten(1) / 1e7, reduction="none")
            return loss[~batch["actions_is_pad"].repeat_interleave(7, 1)].mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    policy = Policy()
    before = policy.head.weight.detach().clone()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(policy, DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2, collate_fn=collate))
    assert sorted(policy.seen) == anchors_of(dataset)
    assert not torch.equal(policy.head.weight, before)
    assert torch.isfinite(policy.head.weight).all()


@pytest.mark.filterwarnings("ignore")  # their own
@pytest.mark.parametrize("workers", [0, 2])
def test_accelerate_prepares_a_loader_that_gives_every_row_once(dataset: StepDataset, workers: int) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=workers, collate_fn=collate)
    prepared = accelerate.Accelerator(cpu=True).prepare(loader)
    batches = list(prepared)
    assert sorted(pairs_of(batches)) == anchors_of(dataset)
    assert len(batches) == len(prepared) == -(-len(dataset) // 32)
    assert all(isinstance(batch["task"], list) for batch in batches)
    skipped = accelerate.skip_first_batches(DataLoader(dataset, batch_size=32, collate_fn=collate), 2)
    assert pairs_of(skipped) == anchors_of(dataset)[64:]


@pytest.mark.filterwarnings("ignore")  # their own
@pytest.mark.parametrize("limit", [1.0, 2])
def test_lightnings_sanity_check_and_limits_lose_no_batch_of_a_loader(
    dataset: StepDataset, tmp_path: Path, limit: float, recwarn: pytest.WarningsRecorder
) -> None:
    """It names the epoch before its sanity check and before each epoch, so each begins at its beginning."""
    try:
        import lightning as lightning
    except ImportError:
        lightning = pytest.importorskip("pytorch_lightning", reason="lightning is not installed")

    class Policy(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(9, 28)
            self.seen: list[list[tuple[int, int]]] = []
            self.checked: list[list[tuple[int, int]]] = []

        def on_train_epoch_start(self) -> None:
            self.seen.append([])

        def on_validation_epoch_start(self) -> None:
            self.checked.append([])

        def training_step(self, batch: dict[str, Any], number: int) -> Any:
            self.seen[-1] += pairs_of([batch])
            return (self.head(batch["robot_states"] / 1e7) ** 2).mean()

        def validation_step(self, batch: dict[str, Any], number: int) -> None:
            self.checked[-1] += pairs_of([batch])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def epoch_of(seed: int, epoch: int, batches: int) -> list[tuple[int, int]]:
        anchors = anchors_of(dataset)
        return [anchors[row] for row in Order(len(anchors), seed, epoch).take(0, len(anchors))[: 16 * batches]]

    policy = Policy()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        limit_train_batches=limit,
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with (
        Loader(dataset, batch_size=16, seed=1, workers=1) as train,
        Loader(dataset, batch_size=16, seed=2, workers=0) as held_out,
    ):
        trainer.fit(policy, train, held_out)
    assert policy.seen == [epoch_of(1, epoch, 2 if limit == 2 else 8) for epoch in range(3)]
    assert policy.checked[0] == epoch_of(2, 0, 1)
    assert [len(each) for each in policy.checked[1:]] == [len(dataset)] * 3
    assert not [each for each in recwarn if "was not finished" in str(each.message)]


@pytest.mark.filterwarnings("ignore")  # their own
def test_accelerate_gives_a_loader_that_goes_on_after_it_was_left(dataset: StepDataset) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    with Loader(dataset, batch_size=16, workers=0) as loader:
        assert accelerate.Accelerator(cpu=True).prepare(loader) is loader
        seen: list[tuple[int, int]] = []
        for _ in range(4):
            for step, batch in enumerate(loader):
                seen += pairs_of([batch])
                if step == 1:
                    break
    assert sorted(seen) == anchors_of(dataset)
    assert len(seen) == len(dataset)
