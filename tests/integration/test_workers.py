"""torch's DataLoader with worker processes: the same batches over any storage, and an error instead of a hang."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same
from range_server import RangeServer
from s3_server import S3Server
from store_tools import batches_of

import vla_store
from vla_store.errors import FetchError, StoreDamaged

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from vla_store.torch import StepDataset, collate  # noqa: E402

WINDOWS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 0, "robot_states": 0, "actions": range(8)}
BATCH = 24

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def dataset_of(store: vla_store.Store | Path) -> StepDataset:
    return StepDataset(store, windows=WINDOWS, alignment="causal", images="upright", dtype="float32")


def loader_of(dataset: Any, method: str | None = "fork", **options: Any) -> DataLoader:
    settings = {"batch_size": BATCH, "num_workers": 2, "collate_fn": collate, "timeout": 60}
    return DataLoader(dataset, multiprocessing_context=method, **settings | options)


@pytest.fixture(scope="module")
def expected(wide_store: Path) -> list[dict[str, Any]]:
    """Every batch in order, read in this process from the folder."""
    dataset = dataset_of(wide_store)
    starts = range(0, len(dataset), BATCH)
    return [collate([dataset[n] for n in range(start, min(start + BATCH, len(dataset)))]) for start in starts]


@pytest.fixture(scope="module")
def open_by_kind(wide_store: Path) -> Iterator[Callable[[str], vla_store.Store]]:
    """Opens the store over one kind of storage."""
    for module in ("aiohttp", "moto", "s3fs", "boto3"):
        pytest.importorskip(module, reason=f"http:// and s3:// need {module}")
    with RangeServer(wide_store) as web, S3Server() as bucket:
        url = bucket.upload(wide_store, "wide.vla")
        yield {
            "mmap": lambda: vla_store.open_store(wide_store),
            "pread": lambda: vla_store.open_store(wide_store, fetcher="pread"),
            "http": lambda: vla_store.open_store(web.url, fetcher="fsspec"),
            "s3": lambda: vla_store.open_store(url, storage_options=bucket.options),
        }.__getitem__


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *(("mmap", "fork"), ("pread", "fork"), ("http", "fork"), ("s3", "fork")),
        *(("mmap", "forkserver"), ("http", "spawn"), ("s3", "spawn")),
    ],
)
def test_workers_give_the_same_batches_after_their_parent_has_read(
    open_by_kind: Callable[[str], Any], expected: list[dict[str, Any]], kind: str, method: str
) -> None:
    dataset = dataset_of(open_by_kind(kind)())
    assert_same(collate([dataset[number] for number in range(BATCH)]), expected[0])
    assert_same(list(loader_of(dataset, method)), expected)
    assert_same(collate(dataset.__getitems__(range(BATCH))), expected[0])  # the parent reads on


def test_workers_that_stay_give_every_epoch_and_let_the_parent_read_meanwhile(
    open_by_kind: Callable[[str], Any], expected: list[dict[str, Any]]
) -> None:
    dataset = dataset_of(open_by_kind("http")())
    loader = loader_of(dataset, persistent_workers=True)
    for _ in range(2):
        for batch, right in zip(loader, expected, strict=True):
            assert_same(batch, right)
            assert_same(dataset[5]["robot_states"], expected[0]["robot_states"][5])


def test_two_loaders_over_one_dataset_do_not_disturb_each_other(
    open_by_kind: Callable[[str], Any], expected: list[dict[str, Any]]
) -> None:
    dataset = dataset_of(open_by_kind("http")())
    for one, other, right in zip(loader_of(dataset), loader_of(dataset), expected, strict=True):
        assert_same(one, right)
        assert_same(other, right)


def test_a_server_that_goes_away_reaches_the_training_loop_as_a_fetch_error(wide_store: Path) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with RangeServer(wide_store) as server:
        dataset = dataset_of(vla_store.open_store(server.url))
        with batches_of(loader_of(dataset, batch_size=2, prefetch_factor=1)) as batches:
            next(batches)
            server.stop()
            with pytest.raises(FetchError, match=r"storage did not answer\n") as caught:
                list(batches)
    assert "DataLoader worker" in str(caught.value)
    assert f"store   {server.url}" in str(caught.value)


def shared_and_where(samples: Any) -> dict[str, Any]:
    """Runs in a worker: the batch, which of its tensors lie in shared memory already, and which of them in one block of it."""
    batch = collate(samples)
    tensors = {name: each for name, each in batch.items() if isinstance(each, torch.Tensor)}
    blocks = {name: each.untyped_storage().data_ptr() for name, each in tensors.items()}
    return {"batch": batch, "shared": {name: each.is_shared() for name, each in tensors.items()}, "blocks": blocks}


def test_a_worker_decodes_into_torchs_shared_memory_from_the_start(
    wide_store: Path, expected: list[dict[str, Any]]
) -> None:
    dataset = dataset_of(wide_store)
    assert not any(
        each.is_shared() for each in collate(dataset.__getitems__([0, 1])).values() if hasattr(each, "numpy")
    )
    made = list(loader_of(dataset, collate_fn=shared_and_where))
    assert all(all(each["shared"].values()) for each in made)
    assert set(made[0]["shared"]) == set(expected[0]) - {"task"}
    # A block each: who keeps the actions of a batch does not keep its pictures.
    assert all(len(set(each["blocks"].values())) == len(each["blocks"]) for each in made)
    assert len(made) == len(expected)
    for each, right in zip(made, expected):
        assert_same(each["batch"], right)


def one_by_one(samples: Any) -> dict[str, Any]:
    """Runs in a worker: a collate that takes each sample by itself."""
    taken = [sample["actions"] for sample in samples]
    return {"actions": torch.stack(taken), "shared": all(each.is_shared() for each in taken)}


def test_shared_memory_is_not_made_twice_when_another_collate_takes_samples(
    wide_store: Path, expected: list[dict[str, Any]]
) -> None:
    made = list(loader_of(dataset_of(wide_store), collate_fn=one_by_one, num_workers=1))
    assert [each["shared"] for each in made] == [True] + [False] * (len(expected) - 1)
    for each, right in zip(made, expected, strict=True):
        assert_same(each["actions"], right["actions"])


def test_a_damaged_frame_reaches_the_training_loop_with_its_object(wide_store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(wide_store, tmp_path / "copy.vla")
    (shard,) = (path for path in copy.glob("parts/*/frames/eye_in_hand_rgb/c/**/*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with (
        batches_of(loader_of(dataset_of(copy))) as batches,
        pytest.raises(StoreDamaged, match="does not decode") as caught,
    ):
        list(batches)
    assert shard.relative_to(copy).as_posix() in str(caught.value)


def killed_in_the_first_worker(sample: dict[str, Any]) -> dict[str, Any]:
    info = torch.utils.data.get_worker_info()
    if info is not None and info.id == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
    return sample


# torch raises its error from a signal handler. Where that finds the interpreter in a finalizer, Python reports it and goes on:
# then the loader finds the dead worker by itself, which with a timeout of its own would be when that has passed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["mmap", "http"])
def test_a_worker_that_is_killed_is_an_error_and_no_hang(open_by_kind: Callable[[str], Any], kind: str) -> None:
    dataset = dataset_of(open_by_kind(kind)())
    dataset.transform = killed_in_the_first_worker
    assert dataset[3]["step"] == 4  # the parent is no worker
    says = r"DataLoader worker .*(killed by signal|exited unexpectedly)"
    with batches_of(loader_of(dataset, timeout=0)) as batches, pytest.raises(RuntimeError, match=says):
        list(batches)


def test_a_loader_under_a_low_limit_of_open_files_reads_every_row(many_objects: Path) -> None:
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from torch.utils.data import DataLoader
from vla_store.torch import StepDataset, collate
dataset = StepDataset(sys.argv[1], windows={"agentview_rgb": 0, "robot_states": [-1, 0]}, images="as_stored")
dataset[0], dataset[len(dataset) - 1]
loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2, collate_fn=collate)
seen = [pair for batch in loader for pair in zip(batch["episode"].tolist(), batch["step"].tolist())]
print(len(seen), len(set(seen)))
"""
    ran = subprocess.run([sys.executable, "-c", code, many_objects], capture_output=True, text=True, timeout=120)
    rows = len(vla_store.open_store(many_objects))
    assert (ran.returncode, ran.stdout) == (0, f"{rows} {rows}\n"), ran.stderr
