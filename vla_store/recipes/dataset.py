"""What all recipes share: a dataset whose samples are the items that a trainer takes from its own dataset."""

from __future__ import annotations

import contextlib
import inspect
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, TransformError, VlaStoreError, warn
from vla_store.format.nonfinite import counts_text
from vla_store.loader.collate import collate
from vla_store.loader.packing import slot_nbytes
from vla_store.reader.batch import Batch, Sample, same_width
from vla_store.reader.kept import Kept, KeptSteps
from vla_store.reader.lazily import lazily
from vla_store.reader.options import OF_A_DATASET, by_name
from vla_store.reader.samples import Samples
from vla_store.reader.selection import Anchors
from vla_store.reader.store import Store, open_store, parts_of
from vla_store.reader.transforms import a_sample, transformed
from vla_store.recipes.needs import Needs

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Empty = Callable[[tuple[int, ...], Any], Array]  # as np.empty

BLOCK_ANCHORS = 1 << 18
# Of fields that are read at once for a list of items. Pictures become four times as large as floats, and arrays of more than
# 32 MiB are never kept by the C library: the system would have to find fresh pages for each batch.
BLOCK_NBYTES = 8 << 20
# What a recipe hands on to Samples.
OPTIONS = tuple(
    name for name in inspect.signature(Samples).parameters if name not in ("store", "windows", "task", "transform")
)
# What every recipe lets its caller choose. Not what a trainer's rule has settled: dtype, or how windows are padded.
SELECTION = ("suites", "tasks", "episodes", "rows", "split", "view", "keep_first")

Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")


def recipe(function: Callable[Parameters, Made]) -> Callable[Parameters, Made]:
    """The function, with an error for options that the recipe has not, or takes by name, which lists those that it has."""
    return by_name(OF_A_DATASET, SELECTION)(function)


@dataclass(frozen=True)
class Steps:
    """Where anchors lie: (n,) int64 each. row and episode: the store's numbers; step: within its episode, of this length.

    kept_step, kept_length: the same two, counted in the steps that exist for windows; others only under a view of kind "steps".
    """

    row: Int64
    episode: Int64
    step: Int64
    length: Int64
    kept_step: Int64
    kept_length: Int64


class RecipeDataset(Samples):
    """`vla_store.Samples` whose samples are a trainer's items. A subclass says in `items` what many are made of, at once, or,
    simpler and slower, in `item` what one is.

    store, windows, and options: as `vla_store.Samples` has them.
    needs: what the recipe takes of the store's fields; checked before anything else.
    keep: which of the selection's anchors are anchors of the recipe: asked once, with `Steps`, for a mask (n,). What it leaves
        out is still in windows, and in `statistics`.
    transform: called with each item; what it returns is the item.
    notes: what a user should know of this store under this recipe, a line each; `repr` shows them.

    A map-style dataset for torch's DataLoader, under fork, spawn and forkserver, which collates arrays to tensors. Where items are
    dicts, lists or tuples of arrays, numbers and texts, `vla_store.torch.Loader` takes it as well. It imports no torch, and pickles
    to a few kB (48 bytes an episode more where `keep` leaves anchors out). Arrays are fresh and writable.
    An item that cannot be made raises the store's own error, or TransformError, that names sample, row, episode and step.
    """

    @by_name(OF_A_DATASET, OPTIONS)
    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        windows: Mapping[str, int | Iterable[int]],
        needs: Needs | None = None,
        keep: Callable[[Steps], Mask] | None = None,
        transform: Callable[[Any], Any] | None = None,
        notes: Sequence[str] = (),
        **options: Any,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        if needs is not None:
            needs.check(opened)
        super().__init__(opened, windows=windows, **options)
        if needs is not None:
            needs.check_ranges(opened, self._statistics_in_use)
        for text in self._not_finite(options.get("view")):
            warn(text)
        self.transform = transform
        self.notes = tuple(notes)
        self._aligned = len(self._anchors)
        if keep is not None:
            self._anchors = kept_anchors(self._anchors, self.store, keep, self._chosen.kept)

    unchanged: tuple[str, ...] = ()
    """Fields that `items` gives as they are read. The Loader lets them be read where its batch lies."""

    def items(self, batch: dict[str, Any], empty: Empty) -> Any:
        """The trainer's items of a batch, as a tree of dicts and tuples of what has a leading axis B: arrays, or lists of B values.

        batch: fresh arrays (B, ...), as `vla_store.Samples.batch` gives them: `<field>` and `<field>_is_pad` of every window,
        `episode` and `step` int64; `task` is a list. empty: makes the large arrays of the items; in the Loader, where the batch lies.
        """
        raise NotImplementedError

    def item(self, sample: Sample) -> Any:
        """The trainer's item of one sample, which has the same without the axis."""
        batch = {key: [each] if isinstance(each, str) else np.asarray(each)[None] for key, each in sample.items()}
        return _part(self.items(batch, np.empty), 0)

    @property
    def makes_batches(self) -> bool:
        """Whether a batch of items is made at once: nobody says what becomes of a single one."""
        return self._has_items and self.transform is None

    def __getitem__(self, index: SupportsIndex) -> Any:
        """One item. Negative numbers count from the end; IndexError past it."""
        try:
            made = a_sample(self.item(self.sample(index)), "the recipe's", self.item)
            return made if self.transform is None else transformed(self.transform, made)
        except Exception as error:
            raise self._named(error, operator.index(index)) from error

    def __getitems__(self, indices: Sequence[int] | Int64, out: Any = None) -> list[Any]:
        """Many items, which are read and made at once; a DataLoader calls this. `out` cannot be given."""
        if out is not None:
            raise OptionError("items of a recipe are made one by one: there is nothing to fill", recipe=self)
        return list(self.items_in_turn(indices))

    def items_in_turn(self, indices: Sequence[int] | Int64) -> Iterator[Any]:
        """As `self[index]` of one index after the other, but many are read at once."""
        numbers = list(indices)
        count = max(1, BLOCK_NBYTES // slot_nbytes(self.columns, 1))
        for start in range(0, len(numbers), count):
            yield from self._block(numbers[start : start + count])

    def batch(
        self, indices: Sequence[int] | Int64, out: dict[str, Array] | None = None, *, empty: Empty | None = None
    ) -> Any:
        """B items as one, as the Loader gives them: dicts and lists of arrays (B, ...), and lists of texts.

        empty: makes the large arrays, as np.empty. Raises OptionError where items are made one by one: `item` was written anew,
        or there is a transform.
        """
        if out is not None or not self.makes_batches:
            raise OptionError(
                f"{type(self).__name__} makes its items one by one"
                if out is None
                else "items of a recipe are not the arrays that are read: there is nothing to fill",
                hint="dataset.__getitems__(indices), which reads them at once and gives a list",
            )
        try:
            return _collated(self._made(indices, empty))
        except Exception:
            for index in indices:
                self[index]  # the one that cannot be made says so
            raise

    def place(self, index: SupportsIndex) -> dict[str, Any]:
        """Of item `index`: {"row", "episode", "step"}, as `store.provenance(row)` and the store's other methods number them."""
        number = operator.index(index)
        part, found = self._anchors.one(number + len(self) if number < 0 else number, self.store)
        return {
            "row": part.row_start + found[2] + found[1],
            "episode": part.episode_start + found[0],
            "step": found[1],
        }

    @lazily
    def selected_episodes(self) -> Int64:
        """Numbers of the episodes of the selection, ascending; it reads the whole index."""
        return np.unique(
            np.concatenate(
                [part.pairs(rows)[:, 0] + np.int64(part.episode_start) for part, rows in self._selected_rows()]
            )
        )

    def __repr__(self) -> str:
        total = self._chosen.count(self.store)
        left_out = {
            "without a recorded observation": total - self._aligned,
            "by the recipe's rule": self._aligned - len(self),
        }
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        first = f"{type(self).__name__}({len(self):,} anchors"
        if why:
            first += f" of {total:,} steps (left out: {why})"
        # What Samples says of its numbers is of the fields, not of items.
        lines = [line for line in super().__repr__().split("\n")[1:] if not line.startswith("  numbers ")]
        return "\n".join([first, *lines, *(f"  {name:<9}  {text}" for name, text in self.facts())]) + ")"

    def facts(self) -> list[tuple[str, str]]:
        """What `repr` says beside selection, windows and conventions: (name, text) a line."""
        return [("note", note) for note in self.notes]

    @property
    def _has_items(self) -> bool:
        """Whether `items` says what becomes of samples, and nobody has said otherwise since."""
        kind = type(self)
        return (
            kind.items is not RecipeDataset.items
            and kind.item is RecipeDataset.item
            and kind.__getitem__ is RecipeDataset.__getitem__
        )

    def _not_finite(self, view: Any) -> Iterator[str]:
        """A line on each field that the items are made of and whose numbers are not all finite, in the selection or where windows
        reach beyond it. Of fields without statistics (cameras, and those of several widths) the store's counts are told, whatever
        is selected."""
        known = self.store.statistics.all
        names = [view] if isinstance(view, str) else view or ()
        is_left_out = any(self.store.views[name].rule == "finite" for name in names)
        for name in (window.field for window in self.windows):
            told = self.store.nonfinite.get(name)
            counts = (0, 0) if told is None or is_left_out else (told.nan, told.infinite)
            if name in known and (
                told or known[name].nan.any() or not np.isfinite([known[name].min, known[name].max]).all()
            ):
                found = self._statistics_in_use(name)
                counts = int(found.nan.sum()), int(found.infinite.sum())
            if any(counts):
                yield (
                    f"{name!r} is not all finite numbers ({counts_text(*counts)}), and items made of these are not either; "
                    "view='finite' leaves them out, after `vla-store views add STORE finite`"
                )

    def _block(self, numbers: Sequence[Any]) -> Iterator[Any]:
        made = self._read(numbers)
        if made is None:
            yield from map(self.__getitem__, numbers)  # one that cannot be read says so in its turn
            return
        for index in numbers:
            try:
                item = next(made)
                if self.transform is not None:
                    item = transformed(self.transform, item)
            except Exception as error:
                raise self._named(error, operator.index(index)) from error
            yield item

    def _read(self, indices: Sequence[int] | Int64) -> Iterator[Any] | None:
        """Items without the transform, all of which are read; None where that cannot be done at once."""
        if type(self).__getitem__ is not RecipeDataset.__getitem__:
            return None
        try:
            if not self._has_items:
                return (
                    a_sample(self.item(each), "the recipe's", self.item) for each in Batch(self.batch_or_lists(indices))
                )
            tree = self._made(indices, None)
        except Exception:
            return None
        return (_part(tree, at) for at in range(len(indices)))

    def _made(self, indices: Sequence[int] | Int64, empty: Empty | None) -> Any:
        out = None
        if empty is not None:
            columns = {name: self.columns[name] for name in self.unchanged if name in self.columns}
            out = {name: empty((len(indices), *shape), dtype) for name, (shape, dtype) in columns.items()}
        fields = self.batch_or_lists(indices, out)
        same_width(fields)
        return self.items(fields, empty or np.empty)

    def _named(self, error: Exception, index: int) -> Exception:
        """The error, with the sample that it is of."""
        if isinstance(error, IndexError) and not -len(self) <= index < len(self):
            return error
        where: dict[str, Any] = {"store": self.store.url, "sample": index}
        with contextlib.suppress(VlaStoreError):  # then the index itself is damaged
            where |= self.place(index)
            if isinstance(error, VlaStoreError) and "row" in error.places:
                where["anchor row"] = where.pop("row")  # theirs is that of the damage, which a window reads
        if isinstance(error, VlaStoreError):
            return error.at(**where)
        return TransformError("a sample could not be made", **where, found=f"{type(error).__name__}: {error}")


def _part(tree: Any, at: int) -> Any:
    """One item of a tree of many."""
    if isinstance(tree, dict):
        return {key: _part(each, at) for key, each in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_part(each, at) for each in tree)
    return tree[at] if isinstance(tree, list) else tree[at, ...]  # with the ellipsis it is an array, also without axes


def _collated(tree: Any) -> Any:
    """A tree of many items as `collate` makes it of a list of them."""
    if isinstance(tree, dict):
        return {key: _collated(each) for key, each in tree.items()}
    if isinstance(tree, tuple):
        return [_collated(each) for each in tree]
    return collate(tree) if isinstance(tree, list) and tree else tree


def kept_anchors(anchors: Anchors, store: Store, keep: Callable[[Steps], Mask], view: Kept | None = None) -> Anchors:
    """Those of `anchors` that `keep` says, in the same order. view: what their views keep. Raises OptionError where none is left."""
    rows, numbers = [], []
    existing: dict[int, KeptSteps | None] = {}
    for start in range(0, len(anchors), BLOCK_ANCHORS):
        block = np.arange(start, min(start + BLOCK_ANCHORS, len(anchors)))
        row, episode, step, length, kept_step, kept_length, number = (np.empty(len(block), np.int64) for _ in range(7))
        for part, at, places in anchors.many(block, store):
            where: Any = slice(None) if at is None else at
            row[where] = part.row_start + places.start + places.step
            episode[where] = part.episode_start + places.episode
            step[where], length[where], number[where] = places.step, places.length, part.number
            if part.number not in existing:
                existing[part.number] = view.of(part) if view is not None else None
            steps = existing[part.number]
            counted = (places.step, places.length) if steps is None else steps.counted(places)
            kept_step[where], kept_length[where] = counted
        mask = np.asarray(keep(Steps(row, episode, step, length, kept_step, kept_length)), bool)
        rows.append(row[mask])
        numbers.append(number[mask])
    kept, parts = np.concatenate(rows), np.concatenate(numbers)
    if not len(kept):
        raise OptionError(
            "no step of the selection is an anchor by this recipe's rule",
            steps=len(anchors),
            hint="episodes may be shorter than the window that must fit into them",
        )
    if len(kept) == len(anchors):
        return anchors
    # Runs of rows that follow one another, rather than each row: that is what pickles small.
    edges = np.flatnonzero((np.diff(kept) != 1) | (np.diff(parts) != 0)) + 1
    if anchors.rows is not None or len(edges) > len(kept) // 8:
        return Anchors((), kept, ())
    firsts, lasts = np.concatenate([[0], edges]), np.concatenate([edges, [len(kept)]]) - 1
    bases = np.array(parts_of(store).row_starts, np.int64)[parts[firsts]]
    table = np.zeros((len(firsts), 6), np.int64)  # part, start, stop; and no first steps to be left out
    table[:, :3] = np.stack([parts[firsts], kept[firsts] - bases, kept[lasts] + 1 - bases], axis=1)
    return Anchors(table, None, ())
