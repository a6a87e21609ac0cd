"""`Batches`: the batches of an epoch in their order, decoded by worker processes into a ring of leased buffers.

How a pass ends, and what holds then: stream.py. May import everything of the loader, and no torch.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from vla_store.errors import OptionError, whole_number
from vla_store.loader.dataset import Dataset
from vla_store.loader.order import Sharding, ShuffleChoice
from vla_store.loader.pool import Workers
from vla_store.loader.state import Epochs
from vla_store.loader.stream import NO_BATCH, BatchStream, Convert, Copy, Stats
from vla_store.loader.work import Job, Work

LOOK = "peek() shows the next batch without taking it; two passes at a time need two Loaders"

Ranks = Callable[[], tuple[int, int]]


class Batches:
    """Iterable over NumPy batches of a dataset; `vla_store.torch.Loader` is its torch face, and documents the options.

    Parameters
    ----------
    dataset : what is served, as loader/dataset.py's `Dataset`
    ranks : asked at the first batch of a pass for (rank, world size)
    batch_size, seed, shuffle, drop_last, workers, transform, batch_transform : as in Loader
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: ShuffleChoice = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
        ranks: Ranks = lambda: (0, 1),
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            whole_number(name, value, least)
        self.dataset: Any = dataset  # or, in a Loader, what that is served for
        self.batch_size, self.drop_last = int(batch_size), bool(drop_last)
        self.epochs = Epochs(dataset, seed, shuffle, LOOK, lambda: (int(batch_size), ranks()[1]))
        self.counts = Stats()
        self._ranks = ranks
        self.work = Work(dataset, transform, batch_transform)
        self.workers = int(workers)
        self.processes = Workers(self.work, self.workers, min(self.batch_size, self.epochs.rows))
        self._stream: Callable[[], BatchStream[Any] | None] = lambda: None

    def __len__(self) -> int:
        """Batches of a whole epoch, on every rank."""
        return self.sharding().batches(0)

    def __iter__(self) -> BatchStream[Any]:
        """Begin a new pass; it ends the one before. Epoch and position are settled at its first batch."""
        return self.stream()

    def stream(
        self, convert: Convert | None = None, copy: Copy | None = None, summary: bool = False
    ) -> BatchStream[Any]:
        """As `iter`, with the options of a BatchStream."""
        self.processes.check_fork()
        current = self.epochs.new_pass()
        self.processes.cancel()
        self._close_stream(wait=False)  # it gives nothing any more, and a copy in hand may take its time
        made: BatchStream[Any] = BatchStream(self, current, convert, copy, summary)
        self._stream = weakref.ref(made)
        return made

    def next_batch(self) -> tuple[Any, Job]:
        """Return the batch that comes next, made in this process, and its job; it is not handed out, and no pass ends or begins."""
        self.processes.check_fork()
        epoch, position = self.epochs.place
        sharding = self.sharding()
        if not sharding.batches(position):
            epoch, position = epoch + 1, 0
            if not sharding.batches(position):
                raise OptionError("there is no batch", hint=NO_BATCH.format(sharding))
        start, stop = sharding.shard(position, self.rank[0])
        order = self.epochs.order(epoch)
        job = Job(order.seed, epoch, start, order.take(start, stop))
        return self.work.run(job), job

    @property
    def rank(self) -> tuple[int, int]:
        """Rank and world size, as they are now."""
        rank, world_size = self._ranks()
        if not 0 <= rank < world_size:
            raise OptionError("rank lies outside the world", rank=rank, world_size=world_size)
        return rank, world_size

    def sharding(self) -> Sharding:
        """Return how batches are sharded over the ranks, as many as there are now."""
        return Sharding(self.epochs.rows, self.batch_size, self.rank[1], self.drop_last)

    def rows_by_part(self, job: Job) -> dict[str, int]:
        """Return how many samples of a job are of each part of a mixture, by its name; nothing where the dataset is none."""
        part_of = getattr(self.work.dataset, "part_of", None)
        if part_of is None:
            return {}
        names = self.work.dataset.names
        return dict(zip(names, np.bincount(part_of(job.indices), minlength=len(names)).tolist()))

    def pids(self) -> list[int]:
        """Return the processes of the workers; none before the first batch."""
        return self.processes.pids()

    def close(self) -> None:
        """End the workers. Batches that were handed out stay valid; a new pass goes on where this one stood, with new workers."""
        self.processes.check_fork()
        self.epochs.end()
        self.processes.end()
        self._close_stream(wait=True)

    def _close_stream(self, wait: bool) -> None:
        stream = self._stream()
        if stream is not None:
            stream.close(wait)
