"""The Loader on two ranks: bare gloo, torchrun's environment, `accelerate launch`, Lightning. Every row once, and resumed exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vla_store.loader.order import Order, Sharding

pytest.importorskip("torch")
from loader import ranks

TESTS = Path(ranks.__file__).parents[1]


def run(command: list[Any], *, several: bool, environment: dict[str, Any] | None = None) -> None:
    """The command, or both of its ranks, to the end."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    base = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "PL_"))}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**base, "PYTHONPATH": path, **{name: str(value(rank)) for name, value in (environment or {}).items()}},
        )
        for rank in range(2 if several else 1)
    ]
    for each in started:
        said, _ = each.communicate(timeout=240)
        assert each.returncode == 0, said


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def expected(epoch: int, first_batch: int, stop_batch: int | None = None) -> list[list[int]]:
    """What each rank gets of an epoch, from a batch on."""
    order = Order(ranks.ROWS, ranks.SEED, epoch).take(0, ranks.ROWS).tolist()
    sharding = Sharding(ranks.ROWS, ranks.BATCH, 2)
    stop = sharding.batches(0) if stop_batch is None else stop_batch
    found: list[list[int]] = [[], []]
    for batch in range(first_batch, stop):
        position = sharding.end(0, batch) if batch else 0
        for rank in range(2):
            found[rank] += order[slice(*sharding.shard(position, rank))]
    return found


def check(folder: Path) -> list[dict[str, Any]]:
    """Every row once, disjoint, and after the cut exactly what would have come."""
    found = told(folder)
    assert [each["taken"] for each in found] == expected(0, 0, ranks.CUT)
    assert [each["rest"] for each in found] == expected(0, ranks.CUT)
    assert [each["next"] for each in found] == expected(1, 0)
    for epoch in (["taken", "rest"], ["next"]):
        assert sorted(row for each in found for part in epoch for row in each[part]) == list(range(ranks.ROWS))
    for rank, each in enumerate(found):
        assert f"rank {rank} of 2" in each["repr"]
    return found


def check_sampled(found: list[dict[str, Any]]) -> None:
    """A ShuffleSampler in a DataLoader that the framework shards: every row once, in each epoch another order."""
    for epoch in range(2):
        assert sorted(row for each in found for row in each["sampled"][epoch]) == list(range(ranks.EVEN))
    assert found[0]["sampled"][0] != found[0]["sampled"][1]


def test_two_bare_gloo_ranks(tiny_store: Path, tmp_path: Path) -> None:
    run([ranks.__file__, "bare", tiny_store, tmp_path], several=True, environment={"GLOO_RANK": lambda rank: rank})
    found = check(tmp_path)
    assert found[0]["state"] == found[1]["state"]


def test_ranks_of_torchruns_environment(tiny_store: Path, tmp_path: Path) -> None:
    run(
        [ranks.__file__, "environment", tiny_store, tmp_path],
        several=True,
        environment={"RANK": lambda rank: rank, "WORLD_SIZE": lambda _: 2},
    )
    check(tmp_path)


def test_ranks_of_accelerate_launch(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    # accelerate starts several processes on one machine for --multi_gpu alone; the script itself asks for the CPU.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run([*launch, ranks.__file__, "accelerated", tiny_store, tmp_path], several=False)
    found = check(tmp_path)
    assert all(each["is_unchanged"] for each in found)
    check_sampled(found)


def test_ranks_of_lightning(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    run([ranks.__file__, "fitted", tiny_store, tmp_path], several=False)
    found = check(tmp_path)
    check_sampled(found)
    # Its real order, in which epoch and position must not be settled before the first batch.
    assert found[0]["calls"][:5] == ["iter", "load", "iter", "set_epoch(0)", "next"]
