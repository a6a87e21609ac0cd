"""Samples: an anchor step and the windows around it, one at a time or a batch at once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from vla_store.errors import DataError, OptionError, StoreDamaged, UnknownName, VlaStoreError, warn, yes_or_no
from vla_store.format.texts import FIRST
from vla_store.reader.batch import NUMBERS, Batch, allocated, check_out, checked_indices, same_width
from vla_store.reader.cached import cached_property
from vla_store.reader.conversion import (
    DtypeChoice,
    check_range,
    dtypes_text,
    holds,
    narrowed,
    parse_dtypes,
    standing_still,
)
from vla_store.reader.frames import LocatedFrames, announce
from vla_store.reader.numbers import one_number
from vla_store.reader.options import OF_A_DATASET, by_name
from vla_store.reader.part import Index, Part, Positions
from vla_store.reader.part_reader import ListedPart, LocatedPart, Mask, PartReader, scatter
from vla_store.reader.parts import MAX_OPEN_PARTS, parts_of
from vla_store.reader.seconds import WindowChoice, in_steps
from vla_store.reader.selected import selected_rows, statistics_over
from vla_store.reader.selection import anchors_of, choose
from vla_store.reader.settings import check_names, check_settings, must_align, warn_of_turned
from vla_store.reader.several_parts import assemble_all, choose_all
from vla_store.reader.shards import open_shards
from vla_store.reader.store import Store, open_store
from vla_store.reader.texts import check_kind, choice_of, further_texts
from vla_store.reader.transforms import transformed
from vla_store.reader.values import EpisodeChoice, RowChoice, SplitChoice, SuiteChoice, TaskChoice, ViewChoice
from vla_store.reader.windows import Window, by_field, parse_windows
from vla_store.storage import Range, keep
from vla_store.text import counted
from vla_store.types import Alignment, ArrayBatch, ArraySample, Images, Item, Pad, TaskAs

if TYPE_CHECKING:
    from vla_store.format.statistics import FieldStatistics
    from vla_store.reader.ahead import Ahead

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Stage = TypeVar("Stage", bound=Callable[..., Any])

REACH_ANCHORS = 1 << 14  # whose windows are looked at at once
INDEX = "task_index"


@dataclass(frozen=True)
class Located:
    """Where samples of a batch lie: for each part that has some, positions, times and what each window reads.

    count: how many samples the batch has. ranges: byte ranges (key, start, stop) that have to be fetched, part after part; none of what is mapped.
    """

    count: int
    parts: list[LocatedPart]
    ranges: list[Range]

    def pictures(self) -> list[LocatedFrames]:
        """Return the pictures of all parts and cameras."""
        return [pictures for each in self.parts for pictures in each.reader.pictures(each)]


def _naming_store(stage: Stage) -> Stage:
    """Make a method of Samples name the store in an error about it."""

    @functools.wraps(stage)
    def named(self: Samples[Any], *args: Any, **options: Any) -> Any:
        try:
            return stage(self, *args, **options)
        except StoreDamaged as error:
            error.at(store=self.store.url)
            raise

    return cast(Stage, named)


class Samples(Generic[Item]):
    """The samples of a selection, as dicts of NumPy arrays.

    Parameters
    ----------
    store
        A Store, or where one is.
    windows
        {field: offset or offsets}; names the fields returned. Offset d of anchor step s is step s + d of the same episode; outside it
        the nearest step is repeated (pad="edge") or zeros stand (pad="zero"), and `<field>_is_pad` is true. A list of offsets adds
        an axis, an int does not; `vla_store.seconds(...)` says them in seconds. Or what another dataset has as `windows`.
        Default: every fixed field at 0.
    suites, tasks, episodes, rows, split, view
        The selection; several of them together select what all of them do. Each takes one or several alike: suites by name; tasks by
        name, text, (suite, name) or as in `store.tasks`; episodes and rows by number, as a slice or a mask of all, episodes also as
        in `store.episodes`. split: "train", "val", or what `store.split(...)` gave.
        view: one of `store.views`, by its name or as it is there, or several. One of kind "anchors" says which steps are anchors. One of kind "steps"
        also says which steps there are: offset d then counts kept steps, and the others are not there, except that causally an
        observation stays with the step that follows it.
    alignment
        "causal" or "as_stored"; must be given where windows mix observations and actions of a source that recorded observations
        after the action of the same row. "causal" reads those observations one row earlier; step 0 then has none, and is an anchor
        only with keep_first=True.
    keep_first
        Let the first steps be anchors under causal alignment; the first observation is repeated.
    images
        "as_stored" (the default), "upright" (the true picture, whatever the source's orientation), or "rot180" (what OpenVLA and
        openpi train on: upright but mirrored). Where it is left out and pictures of the selection do not lie as seen, a UserWarning
        says so.
    pad
        "edge" or "zero"; see `windows`.
    dtype
        "float16", "float32" or "float64", to convert floating fields to; as stored without it. By field, where None stands for all
        others: {"stamps": "float64", None: "float32"}. What cannot hold a field's numbers is refused; differences between
        neighbouring steps that would become nothing are warned of.
    task
        "text"; "index": `task_index`, an int, in its place, of which `task_texts` is the list; None: neither.
    instruction
        Which text is the `task`: "first": that of the step, where its source gives steps texts of their own, else that of its episode,
        else that of its task; the name of a kind (see `store.instruction_kinds`): one of the episode's instructions of this kind,
        which all of the selection must have; "random": one of any kind, each as likely, among them, as the kind "instruction" where
        none has this name, the first. A Loader draws by seed, epoch and position; otherwise NumPy's global generator does.
    transform
        Called with each sample; what it returns is the sample.

    Raises
    ------
    UnknownName, OptionError
        For options that cannot be, and selections that are empty.
    StoreDamaged, UnsupportedStore, FetchError, MachineError
        Where the store is read: here, and with each sample.

    Notes
    -----
    `store`, `windows` (a `Window` each), `alignment`, `images` and `pad` are attributes; `columns` has shape and dtype of what a
    sample has. A sample has, for every field of `windows`, `<field>` (K, *shape) and `<field>_is_pad` (K,), or without the axis; `task`, a text,
    see `instruction`; `episode` and `step`, ints. Arrays are fresh and writable.
    """

    @by_name(OF_A_DATASET)
    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        windows: WindowChoice | None = None,
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
        transform: Callable[[ArraySample], Item] | None = None,
    ) -> None:
        self.store = store if isinstance(store, Store) else open_store(store)
        fields = self.store.fields
        if windows is None:
            windows = {name: 0 for name, each in fields.items() if each.is_fixed}
        chosen = choose(self.store, suites=suites, tasks=tasks, episodes=episodes, rows=rows, split=split, view=view)
        self.windows: tuple[Window, ...] = parse_windows(
            in_steps(by_field(windows), functools.partial(chosen.values, self.store, "fps")), fields
        )
        self._camera_fields = [window.field for window in self.windows if fields[window.field].is_camera]
        self._ragged_fields = [window.field for window in self.windows if fields[window.field].is_ragged]
        check_settings(alignment, images, pad, task, transform)
        keep_first = yes_or_no("keep_first", keep_first)
        if keep_first and alignment != "causal":
            raise OptionError("keep_first needs alignment='causal': otherwise the first step is an anchor anyway")
        self.pad = pad
        self._task = task
        # What a sample has as one int, beside its fields.
        self.whole_numbers = (INDEX, *NUMBERS) if task == "index" else NUMBERS
        self.images = images or "as_stored"
        self._keep_first = keep_first
        self.transform = transform
        check_names(self.windows, (*(("task",) if task == "text" else ()), *self.whole_numbers))
        for document in parts_of(self.store).documents:
            for window in self.windows:
                document.fields[window.field].check_supported()
        self._dtypes = parse_dtypes(dtype, {window.field: fields[window.field] for window in self.windows})
        self._numbers = dtypes_text(dtype)
        roles = {fields[window.field].role for window in self.windows}
        if alignment is None and len(roles) > 1 and chosen.has_after:
            raise must_align(self.store, self.windows)
        self.alignment: Alignment = alignment or "as_stored"
        if images is None and self._camera_fields:
            warn_of_turned(self.store, set(chosen.values(self.store, "orientation")))
        self._anchors = anchors_of(chosen, self.store, leave_out_first=self.alignment == "causal" and not keep_first)
        self._chosen = dataclasses.replace(chosen, is_after=None, is_first=None)
        self._watched = self._checked_conversions()
        check_kind(instruction, self.store.instruction_kinds, self._selected_rows)
        # None: every sample has the text of its episode, or of its task.
        self._choice = choice_of(instruction, parts_of(self.store).documents) if task else None
        self._part_readers: dict[int, PartReader] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in _MADE_ANEW}
        return state | {"_part_readers": {}}

    def __len__(self) -> int:
        return len(self._anchors)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return one sample; for a slice a list of them, read at once. Negative numbers count from the end; IndexError past it."""
        if isinstance(index, slice):
            return list(self.__getitems__(range(len(self))[index]))
        sample = self.sample(index)
        return sample if self.transform is None else transformed(self.transform, sample)

    def __iter__(self) -> Iterator[Item]:
        """Yield one sample after the other."""
        return map(self.__getitem__, range(len(self)))

    def __getitems__(self, indices: Sequence[int] | Int64, out: dict[str, Array] | None = None) -> Any:
        """Return many samples, as a sequence of dicts: a `Batch`, whose `arrays` is what `batch` gives (a list with `transform`).

        indices, out: as `batch` takes them, and raises what it does.
        """
        made = Batch(self.batch_or_lists(indices, out), self.whole_numbers)
        return made if self.transform is None else [transformed(self.transform, sample) for sample in made]

    def sample(self, index: SupportsIndex) -> ArraySample:
        """Return one sample, without `transform`."""
        number = index if type(index) is int else _number(index)
        count = self._anchors.count
        if number < 0:
            number += count
        if not 0 <= number < count:
            raise IndexError(f"sample {_number(index)} of {count}")
        sample: ArraySample = {}  # type: ignore[assignment]
        try:
            part, position = self._anchors.one(number, self.store)
            reader = self._part_readers.get(part.number) or self._part_reader(part)
            if reader.ones is None:
                return cast(ArraySample, Batch(self.batch_or_lists([number]), self.whole_numbers)[0])
            for name, pad_name, one in reader.ones:
                sample[name], sample[pad_name] = one(position)
            if self._task is not None:
                choice = self._choice
                text = choice.of_one(part, position) if choice else part.text_of(position.episode, position.task)
                if self._task == "text":
                    sample["task"] = text
                else:
                    sample[INDEX] = self._number_of_text[text]
        except StoreDamaged as error:
            error.at(store=self.store.url)
            raise
        sample["episode"] = part.episode_start + position.episode
        sample["step"] = position.step
        return sample

    def batch(
        self,
        indices: Sequence[int] | Int64,
        out: dict[str, Array] | None = None,
        *,
        empty: Callable[..., Array] = np.empty,
    ) -> ArrayBatch:
        """Return B samples as one dict of arrays with a leading axis B; "task" is a list of B texts.

        Parameters
        ----------
        indices
            Whole numbers, (B,); negative ones count from the end, and one may come several times.
        out
            Arrays to fill, as `allocate` makes them; what is not in it is allocated. C-contiguous, of the right shape and dtype.
        empty
            Makes the arrays instead of np.empty, where `out` is not given.

        Raises
        ------
        IndexError
            For a sample past either end.
        OptionError
            An array of `out` that does not fit, a ragged field of several widths, a transform.
        """
        if self.transform is not None:
            raise OptionError("transform works on samples", hint="use __getitems__, or transform the batch yourself")
        if out is None and empty is not np.empty:
            out = {name: empty((len(indices), *shape), dtype) for name, (shape, dtype) in self.columns.items()}
        made = self.batch_or_lists(indices, out)
        same_width(made)
        return cast(ArrayBatch, made)

    @property
    def identity(self) -> dict[str, Any]:
        """What a Loader's state must agree on: the store's content, and which of its rows are anchors, in which order."""
        return {"fingerprint": self.store.fingerprint, "selection": self._anchors.digest(self.store)}

    @property
    def anchor_rows(self) -> Int64:
        """The store's row of each anchor, (len,) int64, worked out anew each time: what is said of rows, said of samples."""
        return self._anchors.row_numbers(self.store)

    @property
    def makes_batches(self) -> bool:
        """True where `batch` gives what `__getitem__` would: nobody changes the samples one by one."""
        return self.transform is None and type(self).__getitem__ is Samples.__getitem__

    @property
    def ahead(self) -> Ahead | None:
        """What brings samples near before they are read, also in another process; None where the store is near."""
        if parts_of(self.store).fetcher.is_near:
            return None
        from vla_store.reader.ahead import Ahead

        return Ahead(self.store, self.windows, self._anchors, self._chosen.kept, self.alignment, self.pad)

    def where(self, index: int | None = None) -> dict[str, Any]:
        """Return what an error message says of where a sample lies: store, row, episode and step; without `index`, the store."""
        where: dict[str, Any] = {"store": self.store.url}
        if index is not None:
            with contextlib.suppress(VlaStoreError):  # the index itself is damaged
                part, position = self._anchors.one(index, self.store)
                where["row"] = part.row_start + position.start + position.step
                where["episode"] = part.episode_start + position.episode
                where["step"] = position.step
        return where

    def allocate(self, count: int) -> dict[str, Array]:
        """Return uninitialised arrays for a batch of `count`, to give as `out=`; ragged fields have none."""
        return self._allocate(count, self.columns)

    def statistics(self) -> dict[str, FieldStatistics]:
        """Return statistics of every fixed numeric field of `windows` over all selected rows, as they are stored."""
        others = {*self._camera_fields, *self._ragged_fields}
        return {each.field: self._statistics_of(each.field) for each in self.windows if each.field not in others}

    @cached_property
    def selected_episodes(self) -> Int64:
        """Numbers of the episodes of the selection, ascending; it reads the whole index."""
        return np.unique(
            np.concatenate(
                [part.pairs(rows)[:, 0] + np.int64(part.episode_start) for part, rows in self._selected_rows()]
            )
        )

    def __repr__(self) -> str:
        chosen, store = self._chosen, self.store
        left_out = chosen.count - len(self)
        are_none = "is no anchor" if left_out == 1 else "are no anchors"
        first = f" ({counted(left_out, 'step')} without a recorded observation {are_none})" if left_out else ""
        stored = store.conventions.orientation or "of several orientations"
        lines = [
            f"{type(self).__name__}({counted(len(self), 'anchor')}{first}",
            f"  store      {store.url}",
            f"  selection  {chosen.text}",
            *(f"  view       {line}" for line in (chosen.kept.lines if chosen.kept else ())),
            f"  windows    {', '.join(f'{window.field} {window}' for window in self.windows)}",
            f"  alignment  {self.alignment}{', keep_first' if self._keep_first else ''}; pad {self.pad}",
            f"  images     {self.images} (stored {stored})",
            f"  numbers    {self._numbers})",
        ]
        if self._task != "text":
            said = "left out" if self._task is None else "its number in task_texts"
            lines[-1:] = [f"  task       {said}", lines[-1]]
        if self._choice is not None and self._choice.instruction != FIRST:
            lines[-1:] = [f"  task       its {self._choice.instruction} instruction", lines[-1]]
        return "\n".join(lines)

    def batch_or_lists(self, indices: Sequence[int] | Int64, out: dict[str, Array] | None = None) -> dict[str, Any]:
        """Return a batch as `batch` does, whatever `transform` is.

        Parameters
        ----------
        indices, out
            As `batch` takes them.

        Returns
        -------
        dict
            As `batch` gives it; but a ragged field of several widths is a list of B arrays.

        Raises
        ------
        IndexError, OptionError, UnknownName
            As `batch` does, except for a transform and for ragged fields of several widths.
        StoreDamaged, FetchError, MachineError
            Where the store is read.
        """
        located = self.locate(indices)
        return self.assemble(located, self.fetch(located), out)

    @_naming_store
    def locate(self, indices: Sequence[int] | Int64, places: Int64 | None = None, count: int | None = None) -> Located:
        """Find where the samples of a batch lie: the first stage of reading. What it gives may be held and used later.

        Parameters
        ----------
        indices
            As `batch` takes them.
        places, count
            Where they go in a batch of `count` samples, of which others are read by others; see `fill`.

        Raises
        ------
        IndexError, OptionError
            For indices that cannot be.
        StoreDamaged, FetchError, MachineError
            Where index, table or shards are read.
        """
        chosen = self._chosen_at(checked_indices(indices, self._anchors.count), places)
        return self._located(choose_all(chosen), len(indices) if count is None else count)

    def _chosen_at(self, anchors: Int64, places: Int64 | None) -> list[tuple[PartReader, Positions, Index]]:
        return [
            (
                self._part_readers.get(part.number) or self._part_reader(part),
                positions,
                at if places is None else places[at],
            )
            for part, at, positions in self._anchors.many(anchors, self.store)
        ]

    def _located(self, listed: list[ListedPart], count: int) -> Located:
        if not parts_of(self.store).fetcher.is_near:  # all that is not open yet of all parts at once
            open_shards([shard for each in listed for shard in each.reader.unopened(each)])
        parts = [each.reader.locate(each) for each in listed]
        return Located(count, parts, [each for part in parts for each in part.ranges])

    @_naming_store
    def fetch(self, located: Located) -> list[memoryview]:
        """Fetch what is not at hand of `located.ranges`, all in one call; where pages are mapped, ask the system for them."""
        announce(located.pictures())
        return self._fetched(located)

    def _fetched(self, located: Located) -> list[memoryview]:
        return parts_of(self.store).fetcher.read(located.ranges) if located.ranges else []

    @_naming_store
    def assemble(
        self, located: Located, data: Sequence[memoryview], out: dict[str, Array] | None = None
    ) -> dict[str, Any]:
        """Decode and gather the samples of a batch from what was fetched for it.

        Parameters
        ----------
        located
            Where the samples lie, from `locate`.
        data
            What `fetch` gave for it: one view for each of `located.ranges`.
        out
            Arrays to fill, as `batch` takes them; what is not in it is allocated.

        Returns
        -------
        dict
            The batch, as `batch` gives it; a ragged field of several widths is a list of B arrays.

        Raises
        ------
        OptionError
            Where `data` or `out` is not of this batch, and where a number does not fit into the `dtype` that was asked
            for.
        UnknownName
            For an array of `out` that the batch does not have.
        StoreDamaged, FetchError, MachineError
            Where the store, or what was fetched of it, is not sound or cannot be read.
        """
        count = located.count
        if len(data) != len(located.ranges):
            raise OptionError(
                "data is what `fetch` gives for the samples that were located",
                expected=counted(len(located.ranges), "piece"),
                found=len(data),
            )
        arrays: dict[str, Any] = self._arrays(count, out)
        tasks = [""] * count
        ragged: dict[str, list[Any]] = {name: [None] * count for name in self._ragged_fields}
        self.fill(located, data, arrays | ragged if ragged else arrays, tasks)
        if self._task == "index":
            arrays[INDEX][...] = [self._number_of_text[text] for text in tasks]
        return self.arranged(arrays | {name: _stacked(column) for name, column in ragged.items()}, tasks)

    @_naming_store
    def fill(self, located: Located, data: Sequence[memoryview], arrays: Mapping[str, Any], tasks: list[str]) -> None:
        """Decode and gather samples into their places of a batch, and leave its other samples as they are.

        Parameters
        ----------
        located, data
            As `assemble` takes them.
        arrays
            One of `located.count` samples for each of `columns`, but for `task_index`; a list for a ragged field.
        tasks
            As many texts.

        Raises
        ------
        OptionError, StoreDamaged, FetchError, MachineError
            As `assemble` does.
        """
        assemble_all(located.parts, iter(data), arrays)
        self._fill_texts(located, tasks)

    def _fill_texts(self, located: Located, tasks: list[str]) -> None:
        for each in located.parts if self._task is not None else ():
            scatter(tasks, each.at, self._texts_of(each, located.count))

    def arranged(self, arrays: Mapping[str, Any], tasks: list[str]) -> dict[str, Any]:
        """Return a batch of these columns, in the order that `batch` gives them in."""
        made: dict[str, Any] = {}
        for window in self.windows:
            for name in (window.field, f"{window.field}_is_pad"):
                made[name] = arrays[name]
        if self._task == "text":
            made["task"] = tasks
        return made | {name: arrays[name] for name in self.whole_numbers}

    @_naming_store
    def decode(self, located: Located, data: Sequence[memoryview], out: dict[str, Array]) -> None:
        """Decode only the pictures of a batch: what benchmarks take as the unavoidable work.

        Parameters
        ----------
        located
            Where the samples lie, from `locate`.
        data
            What `fetch` gave for it: one view for each of `located.ranges`.
        out
            {camera: (B, ...) array} to fill, one for every camera in `windows`, as `allocate` makes them; others are
            left as they are.

        Raises
        ------
        StoreDamaged, FetchError, MachineError
            Where the store, or what was fetched of it, is not sound or cannot be read.
        """
        fetched = iter(data)
        for each in located.parts:
            each.reader.assemble(each, fetched, out, only_pictures=True)

    def _texts_of(self, each: LocatedPart, count: int) -> list[str]:
        part, positions = each.reader.part, each.positions
        if self._choice is None:
            return part.texts_of(positions.episode, positions.task)
        return self._choice.of(part, positions, each.at, count)

    def _arrays(self, count: int, out: dict[str, Array] | None) -> dict[str, Array]:
        if out is None:
            return self._allocate(count, self.columns)
        for name in out:
            if name not in self.columns:
                raise UnknownName.among("array to fill", name, list(self.columns))
        check_out(out, self.columns, count)
        absent = {name: each for name, each in self.columns.items() if name not in out}
        return out | self._allocate(count, absent) if absent else out

    def _allocate(self, count: int, columns: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, Array]:
        return allocated(count, columns, [name for name in self._camera_fields if name in columns])

    @cached_property
    def columns(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape of one sample and dtype of every array of a batch but ragged ones."""
        made: dict[str, tuple[tuple[int, ...], Any]] = {}
        for window in self.windows:
            field = self.store.fields[window.field]
            if not field.is_ragged:
                shape = tuple(n for n in field.shape if n is not None)
                made[window.field] = (window.axes + shape, self._dtypes.get(window.field, np.dtype(field.dtype)))
            made[f"{window.field}_is_pad"] = (window.axes, np.dtype(bool))
        return made | {name: ((), np.dtype(np.int64)) for name in self.whole_numbers}

    @property
    def has_text(self) -> bool:
        """Whether a sample has a text `task`."""
        return self._task == "text"

    @property
    def is_even(self) -> bool:
        """Whether `fill` writes all that a batch has: no field is ragged, and no text is given as a number."""
        return not self._ragged_fields and self._task != "index"

    @cached_property
    def task_texts(self) -> list[str]:
        """Every text that a sample of the store may have as its `task`, each once; `task_index` is a number in this list. It is
        that of the store, whatever the selection."""
        texts = [text for task in self.store.tasks for text in (task.text, *task.texts)]
        return list(dict.fromkeys([*texts, *(text for part in parts_of(self.store) for text in further_texts(part))]))

    @cached_property
    def _number_of_text(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.task_texts)}

    def _checked_conversions(self) -> frozenset[str]:
        """Refuse, or warn of, what the conversions to a narrower dtype would lose; the fields of which that is not known before they
        are read. Raises OptionError."""
        fields, unknown = self.store.fields, set()
        for name, dtype in narrowed(self._dtypes, fields).items():
            known: FieldStatistics | None = None
            with contextlib.suppress(DataError):  # no sample needs them
                known = self.store.statistics.all.get(name)
            if known is None or not known.tells_range:
                unknown.add(name)
            elif not holds(dtype, known):  # what does not fit may not be selected; windows may reach it all the same
                check_range(fields[name], dtype, self._statistics_of(name))
                unknown.add(name)
            if not fields[name].is_camera and (text := standing_still(parts_of(self.store), name, dtype)):
                warn(text)
        return frozenset(unknown)

    def _part_reader(self, part: Part) -> PartReader:
        kept = self._chosen.kept.of(part) if self._chosen.kept is not None else None
        fields = self.store.fields
        reader = PartReader(
            part, self.windows, fields, self.alignment, self.images, self.pad, self._dtypes, self._watched, kept
        )
        keep(self._part_readers, part.number, reader, MAX_OPEN_PARTS)
        return reader

    def _statistics_of(self, name: str) -> FieldStatistics:
        """Return statistics of a fixed numeric field over all selected rows."""
        if self._chosen.text == "whole store" and name in self.store.statistics.all:
            return self.store.statistics.all[name]
        return statistics_over(name, self._selected_rows())

    def _statistics_in_use(self, name: str) -> FieldStatistics:
        """Return statistics over the selected rows and those beyond them that the field's window reaches: all that samples may hold."""
        if self._chosen.text == "whole store":
            return self._statistics_of(name)
        window = [each.field for each in self.windows].index(name)
        found: dict[int, tuple[Part, Mask]] = {}
        for part, rows in self._selected_rows():
            found[part.number] = part, np.zeros(part.rows, bool)
            found[part.number][1][rows] = True
        for start in range(0, len(self), REACH_ANCHORS):
            block = np.arange(start, min(start + REACH_ANCHORS, len(self)))
            for part, _, positions in self._anchors.many(block, self.store):
                reader = self._part_readers.get(part.number) or self._part_reader(part)
                found[part.number][1][reader.times(window, positions)[0] + positions.start[:, None]] = True
        return statistics_over(name, [(part, np.flatnonzero(used)) for part, used in found.values()])

    def _selected_rows(self) -> list[tuple[Part, Int64]]:
        """Return the rows of the selection, each once and in the store's order, by part."""
        return selected_rows(self._chosen, self.store)


_MADE_ANEW = ("columns", "task_texts", "_number_of_text", "selected_episodes")  # by each process


def _number(index: Any) -> int:
    try:
        return one_number("sample", index)
    except TypeError as error:
        raise TypeError(f"{error}: dataset.batch([1, 2, 3]) is for many") from None


def _stacked(values: list[Any]) -> Any:
    """Return one array where all have one shape, else the list."""
    return np.stack(values) if len({value.shape for value in values}) == 1 else values
