"""What one rank of two runs in the tests of ranks, as a script that a launcher starts: python ranks.py HOW STORE FOLDER

Writes FOLDER/<rank>.json. `taken`: rows of the first batches of epoch 0. `rest`: those that came after its state was loaded
into something new. `next`: those of epoch 1.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import vla_store
from vla_store.torch import Loader, ShuffleSampler, StepDataset, collate

ROWS = 107  # so that the last batch is short on every rank, and unevenly so
EVEN = 112
BATCH, SEED, CUT = 8, 3, 3
WINDOWS = {"actions": 0, "robot_states": 0}


def dataset_of(store: str, rows: int = ROWS) -> StepDataset:
    return StepDataset(store, windows=WINDOWS, alignment="as_stored", dtype="float32", rows=range(rows))


def loader_of(store: str, **options: Any) -> Loader:
    return Loader(dataset_of(store), **{"batch_size": BATCH, "seed": SEED, "workers": 1, **options})


def rows_of(batches: Any, store: str) -> list[int]:
    starts = vla_store.open_store(store).episodes.starts
    return [row for batch in batches for row in (starts[batch["episode"].numpy()] + batch["step"].numpy()).tolist()]


def write(folder: str, rank: int, told: dict[str, Any]) -> None:
    Path(folder, f"{rank}.json").write_text(json.dumps(told))


def cut_and_resumed(store: str) -> dict[str, Any]:
    first = loader_of(store)
    taken = rows_of(itertools.islice(iter(first), CUT), store)
    state = first.state_dict()
    first.close()
    second = loader_of(store, workers=2)
    second.load_state_dict(state)
    told = {"taken": taken, "state": state, "rest": rows_of(second, store), "next": rows_of(second, store)}
    told["repr"] = repr(second)
    second.close()
    return told


def bare(store: str, folder: str) -> None:
    """Two gloo ranks and nothing else: no RANK in the environment."""
    rank = int(os.environ.pop("GLOO_RANK"))
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    write(folder, rank, cut_and_resumed(store))
    torch.distributed.destroy_process_group()


def environment(store: str, folder: str) -> None:
    """What torchrun sets, without a process group."""
    write(folder, int(os.environ["RANK"]), cut_and_resumed(store))


def accelerated(store: str, folder: str) -> None:
    """One rank of `accelerate launch`."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    accelerator = Accelerator(cpu=True)
    loader = loader_of(store)
    prepared = accelerator.prepare(loader)
    accelerator.register_for_checkpointing(prepared)
    stream = iter(prepared)
    taken = rows_of(itertools.islice(stream, CUT), store)
    accelerator.save_state(f"{folder}/checkpoint")
    accelerator.wait_for_everyone()  # the main process has written it
    rows_of(itertools.islice(stream, 2), store)  # these are lost, as in a crash
    accelerator.load_state(f"{folder}/checkpoint")
    told = {"is_unchanged": prepared is loader, "taken": taken, "rest": rows_of(prepared, store)}
    told |= {"next": rows_of(prepared, store), "repr": repr(prepared)}
    loader.close()

    dataset = dataset_of(store, EVEN)
    sampled = DataLoader(dataset, BATCH, sampler=ShuffleSampler(dataset, seed=SEED), collate_fn=collate)
    told["sampled"] = [rows_of(each, store) for each in itertools.repeat(accelerator.prepare(sampled), 2)]
    write(folder, accelerator.process_index, told)
    accelerator.end_training()


def fitted(store: str, folder: str) -> None:
    """One rank of Lightning's own launcher, which starts this script again for the other one."""
    import lightning
    from torch.utils.data import DataLoader

    calls: list[str] = []

    class Told(Loader):
        """Says what it was asked."""

        def __iter__(self) -> Any:
            calls.append("iter")
            stream = super().__iter__()

            def told() -> Any:
                for number, batch in enumerate(stream):
                    if not number:
                        calls.append("next")
                    yield batch

            return told()

        def set_epoch(self, epoch: int) -> None:
            calls.append(f"set_epoch({epoch})")
            super().set_epoch(epoch)

        def load_state_dict(self, state: dict[str, Any]) -> None:
            calls.append("load")
            super().load_state_dict(state)

    class Policy(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(9, 7)
            self.seen: dict[int, list[int]] = {}

        def training_step(self, batch: Any, number: int) -> Any:
            self.seen.setdefault(self.current_epoch, []).extend(rows_of([batch], store))
            return (self.layer(batch["robot_states"]) - batch["actions"]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-6)

    class SavesInTheMiddle(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step == CUT:
                trainer.save_checkpoint(f"{folder}/middle.ckpt")
                trainer.should_stop = True

    def fit(loader: Any, path: str | None, epochs: int, *callbacks: Any) -> Policy:
        policy = Policy()
        trainer = lightning.Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=epochs, min_epochs=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(policy, loader, ckpt_path=path)
        return policy

    options: dict[str, Any] = {"batch_size": BATCH, "seed": SEED, "workers": 1}
    first = Told(dataset_of(store), **options)
    taken = fit(first, None, 1, SavesInTheMiddle()).seen
    first.close()
    calls.clear()
    second = Told(dataset_of(store), **options)
    rest = fit(second, f"{folder}/middle.ckpt", 2).seen
    told = {"taken": taken[0], "rest": rest[0], "next": rest[1], "calls": list(calls), "repr": repr(second)}
    second.close()

    dataset = dataset_of(store, EVEN)
    sampled = DataLoader(dataset, BATCH, sampler=ShuffleSampler(dataset, seed=SEED), collate_fn=collate)
    told["sampled"] = list(fit(sampled, None, 2).seen.values())
    write(folder, torch.distributed.get_rank(), told)
    # Lightning leaves its process group to the interpreter's end. There gloo's thread may still hold the tensors of the last
    # exchange, and aborts the process when it wants Python's lock to free them (pytorch/pytorch#190489). This ends the thread.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    {"bare": bare, "environment": environment, "accelerated": accelerated, "fitted": fitted}[sys.argv[1]](*sys.argv[2:])
