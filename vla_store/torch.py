"""Samples and batches as torch tensors: `StepDataset`, `collate`, `Loader`. The only file that imports torch; it may import the loader.

dataset = StepDataset("libero.vla", windows={"agentview_rgb": [-1, 0], "actions": range(64)}, alignment="causal", images="upright")
loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=collate)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, SupportsIndex, cast, overload

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from vla_store.errors import OptionError, warn
from vla_store.format.statistics import FieldStatistics
from vla_store.loader.batches import Batches
from vla_store.loader.collate import collate as stacked
from vla_store.loader.dataset import NEEDED, served
from vla_store.loader.dataset import Dataset as ServedDataset
from vla_store.loader.mixture import Mixture
from vla_store.loader.order import Blocks, ShuffleChoice
from vla_store.loader.packing import walk
from vla_store.loader.sampler import ShuffleSampler
from vla_store.loader.stream import BatchStream, Stats
from vla_store.loader.weighted import Weighted
from vla_store.loader.work import Job, apply_to_batch, takes_generator
from vla_store.reader.batch import Batch, Sample, same_width
from vla_store.reader.bfloat16 import BFLOAT16, NAME
from vla_store.reader.conversion import DtypeChoice
from vla_store.reader.options import OF_A_DATASET, OF_A_LOADER, by_name
from vla_store.reader.samples import Samples
from vla_store.reader.seconds import Seconds
from vla_store.reader.store import Store
from vla_store.reader.transforms import transformed
from vla_store.reader.values import EpisodeChoice, RowChoice, SplitChoice, SuiteChoice, TaskChoice, ViewChoice
from vla_store.reader.windows import Window
from vla_store.text import counted
from vla_store.types import Alignment, ArraySample, Images, Pad, TaskAs, TypeVar

if TYPE_CHECKING:

    class TensorSample(dict[str, Any]):
        """One sample, a dict: `task` is a str; `episode`, `step` and `task_index` are ints; every field of `windows` is a tensor."""

        @overload
        def __getitem__(self, key: Literal["task"], /) -> str: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: Literal["episode", "step", "task_index"], /) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> torch.Tensor: ...
        def __getitem__(self, key: str, /) -> Any: ...

    class TensorBatch(dict[str, Any]):
        """Many samples, a dict: `task` is a list of str, all else are tensors with a leading axis."""

        @overload
        def __getitem__(self, key: Literal["task"], /) -> list[str]: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> torch.Tensor: ...
        def __getitem__(self, key: str, /) -> Any: ...

else:  # plain dicts
    TensorSample = TensorBatch = dict[str, Any]

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

Item = TypeVar("Item", default=TensorSample, covariant=True)
Given = TypeVar("Given", default=TensorBatch, covariant=True)
Made = TypeVar("Made", default=TensorBatch)

__all__ = ["Blocks", "Loader", "ShuffleSampler", "StepDataset", "collate"]


class StepDataset(Dataset[Item], Generic[Item]):
    """`vla_store.Samples` as a torch dataset: the same options, samples of tensors.

    Parameters
    ----------
    store, windows, suites, tasks, episodes, rows, split, view, alignment, keep_first, images, pad, task, instruction
        As `vla_store.Samples` has them.
    dtype
        As there, or as torch's dtypes; `torch.bfloat16` too, as torch itself rounds to it.
    transform
        Called with each sample of tensors; what it returns is the sample.

    Notes
    -----
    Tensors own their memory. `task` is a str, `episode` and `step` are ints; `collate` makes them a list and int64 tensors.
    For a DataLoader give `collate_fn=vla_store.torch.collate`: a batch then is decoded at once and never copied. torch's own
    default collate gives the same values.
    """

    @by_name(OF_A_DATASET)
    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        windows: Mapping[str, int | Iterable[int] | Seconds] | None = None,
        suites: SuiteChoice | None = None,
        tasks: TaskChoice | None = None,
        episodes: EpisodeChoice | None = None,
        rows: RowChoice | None = None,
        split: SplitChoice | None = None,
        view: ViewChoice | None = None,
        alignment: Alignment | None = None,
        keep_first: bool = False,
        images: Images | None = None,
        pad: Pad = "edge",
        dtype: DtypeChoice | None = None,
        task: TaskAs | None = "text",
        instruction: str = "first",
        transform: Callable[[TensorSample], Item] | None = None,
    ) -> None:
        self.samples: Samples[ArraySample] = Samples(
            store,
            windows=windows,
            suites=suites,
            tasks=tasks,
            episodes=episodes,
            rows=rows,
            split=split,
            view=view,
            alignment=alignment,
            keep_first=keep_first,
            images=images,
            pad=pad,
            dtype=_with_bfloat16(dtype),
            task=task,
            instruction=instruction,
        )
        self.transform = transform

    @property
    def store(self) -> Store:
        """The store that the samples come from."""
        return self.samples.store

    @property
    def windows(self) -> tuple[Window, ...]:
        """A window of each field, with its offsets in steps."""
        return self.samples.windows

    @property
    def columns(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of one sample and dtype of every tensor of a batch but ragged ones."""
        return {
            name: (shape, torch.from_numpy(np.empty(0, dtype)).dtype)
            for name, (shape, dtype) in self.samples.columns.items()
        }

    @property
    def alignment(self) -> str:
        """Which rows are read beside an action: "causal" or "as_stored"."""
        return self.samples.alignment

    @property
    def images(self) -> str:
        """How pictures are given: "as_stored", "upright" or "rot180"."""
        return self.samples.images

    @property
    def pad(self) -> str:
        """What stands outside an episode: "edge" or "zero"."""
        return self.samples.pad

    @property
    def task_texts(self) -> list[str]:
        """What `task_index` numbers, with task="index"."""
        return self.samples.task_texts

    @property
    def makes_batches(self) -> bool:
        """Whether a batch is made at once: nobody changes its samples one by one."""
        return self.transform is None and type(self).__getitem__ is StepDataset.__getitem__

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return one sample; for a slice a list of them, read at once. Negative numbers count from the end; IndexError past it."""
        if isinstance(index, slice):
            return list(self._several(range(len(self))[index]))
        sample = {key: _tensor(value) for key, value in self.samples.sample(index).items()}
        return sample if self.transform is None else transformed(self.transform, sample)

    def __iter__(self) -> Iterator[Item]:
        """Yield one sample after the other."""
        return map(self.__getitem__, range(len(self)))

    def __getitems__(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None = None) -> Any:
        """Return many samples, as a sequence of dicts, which `collate` turns into a batch without copying; a DataLoader calls this.

        In a DataLoader's worker with `collate` the tensors lie in torch's shared memory from the start: sending them copies nothing.
        out: tensors to fill, as `allocate` makes them.
        """
        if type(self).__getitem__ is not StepDataset.__getitem__:  # what a subclass makes of a sample counts here too
            return [self[index] for index in indices]
        if out is None and self.transform is None and _SharedBatch.is_wanted and get_worker_info() is not None:
            tensors = _in_shared_memory(len(indices), self.samples.columns)
            return _SharedBatch(self._filled(indices, tensors), self.samples.whole_numbers)
        return self._several(indices, out)

    def _several(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None = None) -> Any:
        made = Batch(self._filled(indices, out), self.samples.whole_numbers)
        return made if self.transform is None else [transformed(self.transform, sample) for sample in made]

    def batch(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None = None) -> TensorBatch:
        """Return B samples as one dict of tensors with a leading axis B; "task" is a list of B texts.

        Parameters
        ----------
        indices
            Whole numbers, (B,); negative ones count from the end, and one may come several times.
        out
            Tensors to fill, as `allocate` makes them; what is not in it is allocated.

        Returns
        -------
        dict

        Raises
        ------
        IndexError, OptionError, UnknownName
            As `Samples.batch` does; OptionError also where the dataset has a transform, or a `__getitem__` of its own.
        StoreDamaged, UnsupportedStore, FetchError, MachineError
            Where the store is read.
        """
        if not self.makes_batches:
            raise OptionError(
                "this dataset changes its samples one by one", hint="collate(dataset.__getitems__(indices))"
            )
        made = self._filled(indices, out)
        same_width(made)
        return cast(TensorBatch, made)

    def allocate(self, count: int) -> dict[str, torch.Tensor]:
        """Return uninitialised tensors for a batch of `count`, to give as `out=`."""
        return {name: _tensor(array) for name, array in self.samples.allocate(count).items()}

    @staticmethod
    def tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of arrays as one of tensors over the same memory."""
        return {key: _tensor(column) for key, column in batch.items()}

    def statistics(self) -> dict[str, FieldStatistics]:
        """Return those of the selection: of every fixed numeric field of `windows`, over all selected rows, as they are stored."""
        return self.samples.statistics()

    def __repr__(self) -> str:
        return type(self).__name__ + repr(self.samples).removeprefix(type(self.samples).__name__)

    def _filled(self, indices: Sequence[int] | Int64, out: dict[str, torch.Tensor] | None) -> dict[str, Any]:
        given = out or {}
        made = self.samples.batch_or_lists(indices, {name: _as_numpy(each) for name, each in given.items()})
        return self.tensors(made) | given


def collate(samples: Any) -> Any:
    """Make samples a batch: tensors with a leading axis, "task" as a list; what `DataLoader(collate_fn=...)` wants.

    Parameters
    ----------
    samples
        What `__getitems__` of a StepDataset or of `Samples` gave (handed over without copying), or any list of samples, which may
        be dicts, lists or tuples of tensors, arrays, numbers and texts.

    Raises
    ------
    OptionError
        Their keys, or a field's shapes, dtypes or kinds, differ in one batch.
    """
    if isinstance(samples, Batch) and samples.is_untouched:
        same_width(samples.arrays)
        return {key: _tensor(column) for key, column in samples.arrays.items()}
    return stacked(samples, _as_tensor)


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
        self._convert = _Convert(batch_transform if self.device is not None else None)
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
            ranks=_ranks_of(rank, world_size),
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

    def _copier(self) -> _Copier:
        # Asked here: the thread that copies has a current device of its own.
        gpu = self.device if self.device is not None and self._moves else torch.device("cuda")
        if gpu.index is None:
            gpu = torch.device(gpu.type, torch.cuda.current_device())
        return _Copier(gpu, self._moves)


class _Convert:
    """Makes a batch tensors, in the consumer's thread, before it counts as handed out, and calls its transform."""

    def __init__(self, transform: Callable[..., Any] | None) -> None:
        self._transform = transform
        self._wants = takes_generator(transform)

    def __call__(self, batch: Any, job: Job) -> Any:
        made = batch.settled() if isinstance(batch, _Copied) else walk(batch, _tensor)
        if self._transform is None:
            return made
        try:
            return apply_to_batch(self._transform, made, job, self._wants)
        except StopIteration as error:  # the pass would end here, as if the epoch were over
            raise RuntimeError("batch_transform raised StopIteration") from error


class _Copier:
    """Copies a batch into page-locked tensors and, if `moves`, from there to a GPU, on a stream of its own. One thread calls it."""

    def __init__(self, gpu: torch.device, moves: bool) -> None:
        self._gpu = gpu
        self._moves = moves
        self._stream: Any = None

    def __call__(self, batch: Any) -> _Copied:
        if self._stream is None:
            torch.cuda.set_device(self._gpu)
            self._stream = torch.cuda.Stream(self._gpu)  # type: ignore[no-untyped-call]
        pinned = walk(batch, self._pin)
        if not self._moves:
            return _Copied(pinned, None)
        with torch.cuda.stream(self._stream):
            # torch's allocator of page-locked memory keeps each source until this stream has passed the copy.
            moved = walk(pinned, self._move)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return _Copied(moved, event)

    def _pin(self, value: Any) -> Any:
        each = _tensor(value)
        if not isinstance(each, torch.Tensor):
            return each
        return torch.empty(each.shape, dtype=each.dtype, device="cpu", pin_memory=True).copy_(each)

    def _move(self, value: Any) -> Any:
        return value.to(self._gpu, non_blocking=True) if isinstance(value, torch.Tensor) else value


class _Copied:
    """A batch whose copy to a GPU may still be under way. event: recorded behind it; None where there was none."""

    def __init__(self, batch: Any, event: Any) -> None:
        self._batch = batch
        self._event = event

    def settled(self) -> Any:
        """Return the batch, once the current stream waits for its copy, and its memory for the current stream."""
        if self._event is not None:
            current = torch.cuda.current_stream(self._event.device)
            current.wait_event(self._event)
            walk(self._batch, lambda each: each.record_stream(current) if isinstance(each, torch.Tensor) else None)
        return self._batch


def _ranks_of(rank: int | None, world_size: int | None) -> Callable[[], tuple[int, int]]:
    """Return what is asked for rank and world size when they are needed: as given, else torch's, else those of RANK and WORLD_SIZE."""
    if (rank is None) != (world_size is None):
        raise OptionError("rank and world_size go together", rank=rank, world_size=world_size)

    def ranks() -> tuple[int, int]:  # not a method: workers end with the last reference to a loader, without a cycle
        if rank is not None and world_size is not None:
            return rank, world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return _ranks_in(os.environ)

    return ranks


def _ranks_in(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return what RANK and WORLD_SIZE say; (0, 1) without them, and in a world of one. Raises OptionError."""
    names = ("RANK", "WORLD_SIZE")
    given = {name: environment[name] for name in names if name in environment}
    if not given or given == {"WORLD_SIZE": "1"}:
        return 0, 1
    what = ""
    try:
        numbers = {name: int(text) for name, text in given.items()}
    except ValueError:
        what = "RANK and WORLD_SIZE of the environment are whole numbers"
    else:
        if len(given) == 1:
            what = f"{' and '.join(given)} is in the environment, and {next(name for name in names if name not in given)} is not"
        elif not 0 <= numbers["RANK"] < numbers["WORLD_SIZE"]:
            what = "RANK of the environment lies outside the world: it is from 0 to WORLD_SIZE - 1"
    if what:
        places = {name: repr(environment[name]) if name in given else "not set" for name in names}
        raise OptionError(
            what,
            **places,
            hint="start the processes with torchrun, which sets both; or give both to the Loader: Loader(..., rank=0, world_size=1); or, "
            "for one process alone: unset RANK WORLD_SIZE",
        )
    return numbers["RANK"], numbers["WORLD_SIZE"]


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


class _SharedBatch(Batch):
    """One that a DataLoader's worker made in shared memory.

    is_wanted: in this process. A collate that takes the samples one by one makes shared memory of its own: then ours, which is
    fresh for each batch, would cost more than it saves.
    """

    is_wanted = True

    def _all(self) -> list[Sample]:
        if get_worker_info() is not None:
            _SharedBatch.is_wanted = False
        return super()._all()


def _in_shared_memory(count: int, columns: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, torch.Tensor]:
    """Return uninitialised tensors for a batch of `count`, each in shared memory of its own, as torch's default collate makes them."""
    made = {}
    for name, (shape, dtype) in columns.items():
        nbytes = count * math.prod(shape) * dtype.itemsize
        storage = torch.UntypedStorage._new_shared(nbytes)  # type: ignore[no-untyped-call]
        kind = _tensor(np.empty(0, dtype)).dtype
        made[name] = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).view(kind).view(count, *shape)
    return made


def _as_tensor(values: list[Any]) -> Any:
    """Stack arrays or tensors of one shape and dtype to one tensor; arrays that are no numbers stay one."""
    if all(isinstance(each, np.ndarray) for each in values):
        return _tensor(np.stack(values))
    return torch.stack([_tensor(each) if isinstance(each, np.ndarray) else each for each in values])


def tensors(tree: Any) -> Any:
    """Return a tree of values with tensors in place of its arrays; the memory is the same."""
    return walk(tree, _tensor)


def _bfloat16(value: Array) -> torch.Tensor:
    """Return a tensor over the memory of an array of bfloat16's bits."""
    return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)


def _as_numpy(value: torch.Tensor) -> Array:
    """Return an array over the memory of a tensor."""
    return value.view(torch.int16).numpy().view(BFLOAT16) if value.dtype == torch.bfloat16 else value.numpy()


def _with_bfloat16(given: Any) -> Any:
    """Return what `dtype` was given, with bfloat16 as `Samples` takes it."""
    if isinstance(given, Mapping):
        return {key: _with_bfloat16(each) for key, each in given.items()}
    return BFLOAT16 if given == torch.bfloat16 or (isinstance(given, str) and given == NAME) else given


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            return _bfloat16(value) if value.dtype == BFLOAT16 else value
        # What a transform made may be what torch cannot refer to: turned around, read-only, of the other byte order.
        if not value.flags.writeable or min(value.strides, default=0) < 0 or not value.dtype.isnative:
            value = value.astype(value.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(value)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [_tensor(each) for each in value]
    return value
