"""What one rank of several runs in the ecosystem's tests; started by their launchers, or as a process of its own.

As a script: python ecosystem_ranks.py STORE FOLDER; writes FOLDER/<rank>.json, the (episode, step) pairs of its batches.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROWS = range(112)  # what 2 ranks share evenly in batches of 8
BATCH = 8
WINDOWS = {"agentview_rgb": [-1, 0], "actions": range(4)}


def dataset_of(store: str | Path) -> Any:
    from vla_store.torch import StepDataset

    return StepDataset(store, windows=WINDOWS, alignment="as_stored", rows=ROWS, images="as_stored")


def pairs_of(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """(episode, step) of every sample of a batch."""
    return list(zip(batch["episode"].tolist(), batch["step"].tolist()))


def distributed_sampler(rank: int, store: Path, folder: Path) -> None:
    """One of two gloo ranks: two epochs with DistributedSampler, and what all ranks saw, gathered by gloo itself."""
    import torch.distributed
    from torch.utils.data import DataLoader, DistributedSampler

    from vla_store.torch import collate

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    dataset = dataset_of(store)
    sampler = DistributedSampler(dataset, shuffle=True, seed=3)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler, collate_fn=collate)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        mine = [pair for batch in loader for pair in pairs_of(batch)]
        everyone: list[Any] = [None, None]
        torch.distributed.all_gather_object(everyone, mine)
        epochs.append(everyone)
    (folder / f"{rank}.json").write_text(json.dumps(epochs))
    torch.distributed.destroy_process_group()


def accelerated(store: str, folder: str) -> None:
    """One rank of `accelerate launch`."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from vla_store.torch import collate

    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(dataset_of(store), batch_size=BATCH, shuffle=True, collate_fn=collate))
    mine = [pair for batch in loader for pair in pairs_of(batch)]
    told = {"rank": accelerator.process_index, "ranks": accelerator.num_processes, "pairs": mine}
    Path(folder, f"{accelerator.process_index}.json").write_text(json.dumps(told))
    accelerator.end_training()


if __name__ == "__main__":
    accelerated(*sys.argv[1:])
