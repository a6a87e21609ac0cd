"""`Loader`: batches of tensors, decoded by processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, cast, overload

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset

from vla_store.errors import OptionError, warn
from vla_store.loader.batches import Batches
from vla_store.loader.dataset import NEEDED, served
from vla_store.loader.dataset import Dataset as ServedDataset
from vla_store.loader.mixture import Mixture
from vla_store.loader.order import Blocks, ShuffleChoice
from vla_store.loader.packing import walk
from vla_store.loader.stream import BatchStream, Stats
from vla_store.loader.weighted import Weighted
from vla_store.loader.work import Job, apply_to_batch, takes_generator
from vla_store.reader.options import OF_A_LOADER, by_name
from vla_store.reader.samples import Samples
from vla_store.text import counted
from vla_store.torch.copying import Copied, Copier
from vla_store.torch.dataset import StepDataset
from vla_store.torch.ranks import ranks_of
from vla_store.torch.tensors import TensorBatch, TensorSample, tensor_of
from vla_store.types import ArraySample, TypeVar

Given = TypeVar("Given", default=TensorBatch, covariant=True)
Made = TypeVar("Made", default=TensorBatch)

PlainDataset = (
    StepDataset[TensorSample]
    | Samples[ArraySample]
    | Subset[TensorSample]
    | Subset[ArraySample]
    | Weighted[TensorSample]
    | Weighted[ArraySample]
)
"""What has samples of a store as they are read."""
AnyDataset = StepDataset[Any] | Samples[Any] | Weighted[Any] | Mixture | Subset[Any] | ServedDataset


class Loader(Batches, Generic[Given]):
    """Batches of a dataset as dicts of tensors, decoded by worker processes into reused shared memory.

    Parameters
    ----------
    dataset
        A StepDataset, `vla_store.Samples`, a recipe's dataset, a torch Subset of one, a `vla_store.mixture`, or what `vla_store.weighted`
        gives; or any object that is a
        `vla_store.loader.dataset.Dataset`.
    batch_size
        Samples in a batch of one rank.
    seed, shuffle
        The order of an epoch is a function of these, the epoch and the number of rows alone. True: any row may come next. "blocks":
        rows lie in blocks of 16 that follow each other in the dataset, and are mixed in pools of 256 blocks, which from afar takes a
        tenth of the requests; `Blocks(rows=, pool=)` for other sizes. False: the order of the dataset. After a complete pass comes
        the next epoch, after one that was left the rest of its own, which one warning says; `peek` takes nothing.
    drop_last
        Leave out a last batch that is not full; otherwise it is shared evenly by all ranks.
    workers
        Processes; 0 decodes in this one. They import neither torch nor the caller's script, unless a transform needs it.
    transform
        Called in the workers with each sample, a dict of NumPy arrays (what the dataset gives, if it has a transform or a
        `__getitem__` of its own). What it returns is collated as by torch: dicts, tuples and lists of arrays, tensors, numbers, texts.
    batch_transform
        Called with each whole batch: in the workers and with arrays, which are the worker's own memory and not to be kept, or, if
        `device` is given, here and with tensors on the device. Either transform, if it takes an argument `generator`, gets a
        numpy.random.Generator that depends on (seed, epoch, position) alone.
    pin_memory
        Copy each batch into page-locked memory, in a thread.
    device
        Copy it from there to this device, on a stream of its own; the current stream waits for it.
    rank, world_size
        Default: torch.distributed where it is initialised, else RANK and WORLD_SIZE; asked at the first batch.
    summary
        Print one line to stderr at the end of an epoch: is it the loader?

    Raises
    ------
    VlaStoreError
        `next` raises what a sample or a transform raised, with the sample it was; WorkerDied where a worker is gone; MachineError
        where there is too little memory. After an error a new pass begins with the batch that was not given.

    Notes
    -----
    A batch is valid as long as any tensor, view or storage of it lives: its memory is reused only then. Who holds more batches
    than the ring has gets copies, and one warning. Not covered: processes forked later, arrays of a tensor that is then moved to
    shared memory, raw pointers, and memory that the caller page-locks himself.
    Where the store lies far away, a process fetches ahead what the next batches need: 32 of them, at least 2,048 samples, or a pool of
    blocks. What has no room in a cache lies in a folder in /dev/shm or TMPDIR until it was used, twice as much at most.
    It is not a torch DataLoader: accelerate's `prepare` and Lightning return it unchanged, and it shards itself.
    """

    # Batches are those of plain samples; else what a batch_transform makes of them; else what nobody but the user knows.
    @overload
    def __init__(
        self: Loader[TensorBatch],
        dataset: PlainDataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: ShuffleChoice = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: None = None,
        batch_transform: None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        summary: bool = False,
    ) -> None: ...

    @overload
    def __init__(
        self: Loader[Made],
        dataset: AnyDataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: ShuffleChoice = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Made],
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        summary: bool = False,
    ) -> None: ...

    @overload
    def __init__(
        self: Loader[Any],
        dataset: AnyDataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: ShuffleChoice = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: Callable[..., Any] | None = None,
        batch_transform: None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        summary: bool = False,
    ) -> None: ...

    @by_name(OF_A_LOADER)
    def __init__(
        self,
        dataset: AnyDataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: ShuffleChoice = True,
        drop_last: bool = False,
        workers: int = 2,
        transform: Callable[..., Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        summary: bool = False,
    ) -> None:
        try:
            self.device = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise OptionError(
                "not the name of a device", found=repr(device), hint='as in "cuda", "cuda:1", "cpu"'
            ) from error
        self._moves = self.device is not None and self.device.type != "cpu"
        if (pin_memory or self._moves) and not torch.cuda.is_available():
            if self._moves:
                raise OptionError(
                    "there is no such device here", device=device, hint="leave `device` out, or install a CUDA torch"
                )
            warn("pin_memory=True without a GPU: batches are not pinned", RuntimeWarning)
            pin_memory = False
        self._stages = pin_memory or self._moves
        self._convert = Convert(batch_transform if self.device is not None else None)
        self._summary = summary
        found = served(dataset)
        if found is None:
            raise _not_ours(dataset)
        super().__init__(
            found,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            workers=workers,
            transform=transform,
            batch_transform=batch_transform if self.device is None else None,
            ranks=ranks_of(rank, world_size),
        )
        self.dataset = dataset
        if rank is not None:
            _ = self.rank  # which cannot be said to lie outside the world too early

    @property
    def sampler(self) -> Loader[Given]:
        """Itself: Lightning calls `loader.sampler.set_epoch`."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None: Lightning looks for one before it evaluates."""
        return None

    def __iter__(self) -> BatchStream[Given]:
        """Begin a new pass; it ends the one before, whose `next` then raises UsageError. Epoch and position are settled at its first
        batch: the next epoch, or what is left of one that was not finished."""
        return self.stream(self._convert, self._copier() if self._stages else None, self._summary)

    def peek(self) -> Given:
        """Return the batch that comes next, without taking it: it will be given by `next` as well, to this pass or to the next one.

        It is made in this process, where transforms run too.
        """
        batch, job = self.next_batch()
        return cast(Given, self._convert(self._copier()(batch) if self._stages else batch, job))

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0."""
        self.epochs.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch stands: rows of the batches that `next` gave, counted over all ranks. The same on every rank."""
        return self.epochs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` stands; batch size, world size and workers may differ.

        Raises OptionError for a state of another store, selection, seed or order.
        """
        self.epochs.load_state_dict(state)

    def stats(self) -> Stats:
        """Return what it did until now: batches, rows, bytes, the consumer's waits, copies. `later.since(earlier)` is what lies between."""
        return self.counts.copy()

    def __enter__(self) -> Loader[Given]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> Any:
        raise TypeError("a Loader does not pickle: send the dataset, and make a Loader where it arrives")

    def __repr__(self) -> str:
        rank, world_size = self.rank
        try:
            length = counted(len(self), "batch", "batches")
        except OptionError:
            length = "too few rows for batches"
        epoch, position = self.epochs.place
        shuffle = self.epochs.shuffle
        blocks = f" in {shuffle}" if isinstance(shuffle, Blocks) else ""
        order = f"shuffled{blocks} with seed {self.epochs.seed}" if shuffle else "in order"
        where = f", to {self.device}" if self._moves else ", pinned" if self._stages else ""
        return (
            f"Loader({length} of {self.batch_size} on rank {rank} of {world_size}"
            f"{', last dropped' if self.drop_last else ''}\n"
            f"  rows     {self.epochs.rows:,}, {order}; epoch {epoch} at {position:,}\n"
            f"  workers  {self.workers or 'none: decodes in this process'}{where})"
        )

    def _copier(self) -> Copier:
        # Asked here: the thread that copies has a current device of its own.
        gpu = self.device if self.device is not None and self._moves else torch.device("cuda")
        if gpu.index is None:
            gpu = torch.device(gpu.type, torch.cuda.current_device())
        return Copier(gpu, self._moves)


class Convert:
    """Makes a batch tensors, in the consumer's thread, before it counts as handed out, and calls its transform."""

    def __init__(self, transform: Callable[..., Any] | None) -> None:
        self._transform = transform
        self._wants = takes_generator(transform)

    def __call__(self, batch: Any, job: Job) -> Any:
        made = batch.settled() if isinstance(batch, Copied) else walk(batch, tensor_of)
        if self._transform is None:
            return made
        try:
            return apply_to_batch(self._transform, made, job, self._wants)
        except StopIteration as error:  # the pass would end here, as if the epoch were over
            raise RuntimeError("batch_transform raised StopIteration") from error


def _not_ours(dataset: Any) -> OptionError:
    """Return the error for what is no dataset, with what to write instead."""
    torchs = "torch.utils.data.DataLoader(dataset, batch_size=64{}, collate_fn=vla_store.torch.collate)"
    missing = [name for name in NEEDED if getattr(dataset, name, None) is None]
    if isinstance(dataset, Loader):
        hint = "it is one already"
    elif len(missing) == 1:
        hint = f"a dataset of your own has {missing[0]!r} too: see vla_store.loader.dataset.Dataset"
    elif isinstance(dataset, DataLoader):
        is_ours = served(dataset.dataset) is not None
        hint = "vla_store.torch.Loader(dataset.dataset, batch_size=64)" if is_ours else "use that DataLoader as it is"
    elif isinstance(dataset, IterableDataset):
        hint = torchs.format("")
    elif not isinstance(dataset, (str, bytes)) and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        hint = torchs.format(", shuffle=True")
    else:
        dataset_of = 'vla_store.torch.StepDataset(store, alignment="causal", images="upright")'
        hint = f"vla_store.torch.Loader({dataset_of}, batch_size=64)"
    return OptionError(
        "a Loader takes a StepDataset or Samples, or a Subset of one", found=type(dataset).__name__, hint=hint
    )
