"""The dataset that every recipe is: samples of a store, made a trainer's items. And the decorator that gives recipes the options
they share.

It stands on `reader.samples`; of the loader it uses only how a batch is collated, and it imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, SupportsIndex, TypedDict, overload

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, TransformError, VlaStoreError, warn
from vla_store.format.statistics import FieldStatistics
from vla_store.loader.collate import collate
from vla_store.loader.dataset import Empty as Empty
from vla_store.reader.batch import same_width
from vla_store.reader.numbers import one_number
from vla_store.reader.options import OF_A_DATASET, by_name
from vla_store.reader.parts import parts_of
from vla_store.reader.samples import Samples
from vla_store.reader.selection import SPAN, Anchors
from vla_store.reader.store import Store, open_store
from vla_store.reader.transforms import a_sample, transformed
from vla_store.reader.values import EpisodeChoice, RowChoice, SplitChoice, SuiteChoice, TaskChoice, ViewChoice
from vla_store.recipes.needs import Needs, nonfinite_notes
from vla_store.text import counted
from vla_store.types import Alignment, Images, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:
    Unpack = None  # in annotations only, which nobody evaluates

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

AnyStore = Store | str | os.PathLike[str]  # a store, or where one is

BLOCK_ANCHORS = 1 << 18
# Of fields that are read at once for a list of items. Pictures become four times as large as floats, and arrays of more than
# 32 MiB are never kept by the C library: the system would have to find fresh pages for each batch.
BLOCK_NBYTES = 8 << 20


class Options(TypedDict, total=False):
    """Options that every recipe takes beside its own: which steps, and how they are given, as `vla_store.Samples` has it.

    Not what a trainer's rule has settled: dtype, or how windows are padded. And `transform`, called with each item, is an option of
    each recipe by itself: it decides what the recipe's items are.
    """

    alignment: Alignment
    images: Images
    suites: SuiteChoice | None
    tasks: TaskChoice | None
    episodes: EpisodeChoice | None
    rows: RowChoice | None
    split: SplitChoice | None
    view: ViewChoice | None
    keep_first: bool


class NormalizedOptions(Options, total=False):
    """Of a recipe whose items can be normalised; see `vla_store.recipes.normalize`."""

    normalize: bool | Mapping[str, FieldStatistics]


Parameters = ParamSpec("Parameters")
Item = TypeVar("Item", default=Any, covariant=True)


def recipe(name: str, **defaults: Any) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Decorate the `__init__` of a dataset that is a recipe of this name: it takes `Options` beside its own.

    defaults: of the trainer, for those of `NormalizedOptions` that it has beside the selection. The signature
    lists them. An option that does not exist raises UnknownName, which lists all.
    """

    def decorate(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        @functools.wraps(function)
        def made(*arguments: Parameters.args, **options: Parameters.kwargs) -> None:
            function(*arguments, **{**defaults, **options})

        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        more = [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=value) for each, value in defaults.items()
        ]
        more.append(inspect.Parameter("selection", inspect.Parameter.VAR_KEYWORD))
        made.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        made.__qualname__ = name  # in errors
        return by_name(OF_A_DATASET, Options.__annotations__)(made)

    return decorate


def opened(store: AnyStore) -> Store:
    """Return an open store."""
    return store if isinstance(store, Store) else open_store(store)


@dataclass(frozen=True)
class Steps:
    """Where anchors lie: (n,) int64 each. episode: the store's number; step: within it.

    kept_step: the same, counted in the steps that exist for windows, of which the episode has kept_length; another number only
    under a view of kind "steps".
    """

    episode: Int64
    step: Int64
    kept_step: Int64
    kept_length: Int64


class RecipeDataset(Samples[Item], Generic[Item]):
    """`vla_store.Samples` whose samples are a trainer's items. A subclass says in `items` what many samples become.

    A map-style dataset for torch's DataLoader, under fork, spawn and forkserver, which collates arrays to tensors; and for
    `vla_store.torch.Loader`. It imports no torch, and pickles to a few kB (48 bytes an episode more where `keep` leaves anchors
    out). Arrays are fresh and writable.

    Parameters
    ----------
    store, windows, options
        As `vla_store.Samples` has them.
    needs
        What the recipe takes of the store's fields; checked before anything else.
    keep
        Which of the selection's anchors are anchors of the recipe: called with `Steps`, for a mask (n,). What it leaves out is
        still in windows, and in `statistics`.
    transform
        Called with each item; what it returns is the item.
    notes
        What a user should know of this store under this recipe, a line each; `repr` shows them.

    Raises
    ------
    OptionError, UnknownName
        For options, and fields that are not what the recipe takes.
    TransformError
        For an item that cannot be made; it names sample, row, episode and step, as the store's own errors do.
    """

    unchanged: tuple[str, ...] = ()
    """Fields that `items` gives as they are read. The Loader lets them be read where its batch lies."""

    def __init__(
        self,
        store: AnyStore,
        *,
        windows: Mapping[str, int | Iterable[int]],
        needs: Needs | None = None,
        keep: Callable[[Steps], Mask] | None = None,
        transform: Callable[[Any], Item] | None = None,
        notes: Sequence[str] = (),
        **options: Any,
    ) -> None:
        store = opened(store)
        if needs is not None:
            needs.check(store)
        super().__init__(store, windows=windows, **options)
        if needs is not None:
            needs.check_ranges(store, self._statistics_in_use)
        fields = [window.field for window in self.windows]
        for text in nonfinite_notes(store, fields, options.get("view"), self._statistics_in_use):
            warn(text)
        self.transform = transform
        self.notes = tuple(notes)
        self._aligned = len(self._anchors)
        if keep is not None:
            self._keep_anchors(keep)

    def items(self, batch: dict[str, Any], empty: Empty) -> Any:
        """Make the trainer's items of a batch; one item is those of a batch of one.

        Parameters
        ----------
        batch
            Fresh arrays (B, ...), as `vla_store.Samples.batch` gives them: `<field>` and `<field>_is_pad` of every window,
            `episode` and `step` int64; `task` is a list. A ragged field of several widths is an error.
        empty
            As np.empty; makes the large arrays of the items: in the Loader, where the batch lies.

        Returns
        -------
        tree
            Dicts and tuples of what has a leading axis B: arrays, or lists of B values.
        """
        raise NotImplementedError

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return one item; for a slice a list of them, read at once. Negative numbers count from the end; IndexError past it."""
        if isinstance(index, slice):
            return self.__getitems__(range(len(self))[index])
        number = self._in_range(index)
        with self._naming(number):
            sample = self.sample(number).items()  # which costs less than a batch of one
            fields = {key: [each] if isinstance(each, str) else np.asarray(each)[None] for key, each in sample}
            return self._transformed(_part(self._made(fields), 0))

    def __getitems__(self, indices: Sequence[int] | Int64, out: Any = None) -> list[Item]:
        """Return many items, which are read and made at once; a DataLoader calls this. `out` cannot be given."""
        if out is not None:
            raise OptionError("items of a recipe are made one by one: there is nothing to fill", recipe=self)
        return list(self.items_in_turn(indices))

    def items_in_turn(self, indices: Sequence[int] | Int64) -> Iterator[Item]:
        """Yield `self[index]` of one index after the other, but read many at once."""
        numbers, is_own = list(indices), type(self).__getitem__ is RecipeDataset.__getitem__
        nbytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.columns.values())
        count = max(1, BLOCK_NBYTES // nbytes)
        for start in range(0, len(numbers), count):
            block, tree = numbers[start : start + count], None
            if is_own:
                with contextlib.suppress(Exception):  # the one that cannot be read or made says so in its turn
                    tree = self._tree(block)
            for at, index in enumerate(block):
                if tree is None:
                    yield self[index]
                else:
                    with self._naming(index):
                        item = self._transformed(_part(tree, at))
                    yield item

    @property
    def makes_batches(self) -> bool:
        """True where `batch` gives what `__getitem__` would: nobody changes the items one by one."""
        return self.transform is None and type(self).__getitem__ is RecipeDataset.__getitem__

    def batch(
        self, indices: Sequence[int] | Int64, out: dict[str, Array] | None = None, *, empty: Empty = np.empty
    ) -> Any:
        """Return B items as one, as the Loader gives them: dicts and lists of arrays (B, ...), and lists of texts.

        Parameters
        ----------
        indices
            As `vla_store.Samples.batch` takes them.
        empty
            As np.empty; makes the large arrays.

        Raises
        ------
        OptionError
            Where items are made one by one: there is a transform.
        """
        if out is not None or not self.makes_batches:
            raise OptionError(
                f"{type(self).__name__} makes its items one by one"
                if out is None
                else "items of a recipe are not the arrays that are read: there is nothing to fill",
                hint="dataset.__getitems__(indices), which reads them at once and gives a list",
            )
        try:
            return _collated(self._tree(indices, empty))
        except Exception:
            for index in indices:
                self[index]  # the one that cannot be made says so
            raise

    def place(self, index: SupportsIndex) -> dict[str, Any]:
        """Return where item `index` lies: {"row", "episode", "step"}, numbered as `store.provenance` and other methods do it."""
        found = self.where(self._in_range(index))
        return {name: found[name] for name in ("row", "episode", "step")}

    def __repr__(self) -> str:
        total = self._chosen.count
        left_out = {
            "without a recorded observation": total - self._aligned,
            "by the recipe's rule": self._aligned - len(self),
        }
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        first = f"{type(self).__name__}({counted(len(self), 'anchor')}"
        if why:
            first += f" of {counted(total, 'step')} (left out: {why})"
        # What Samples says of its numbers is of the fields, not of items.
        lines = [line for line in super().__repr__().split("\n")[1:] if not line.startswith("  numbers ")]
        return "\n".join([first, *lines, *(f"  {name:<9}  {text}" for name, text in self.facts())]) + ")"

    def facts(self) -> list[tuple[str, str]]:
        """Return what `repr` says beside selection, windows and conventions: (name, text) a line."""
        return [("note", note) for note in self.notes]

    def _in_range(self, index: SupportsIndex) -> int:
        """Return a number of an item, 0 or more. Raises IndexError."""
        number = one_number("sample", index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        return number % len(self)

    def _tree(self, indices: Sequence[int] | Int64, empty: Empty = np.empty) -> Any:
        """Read a batch and make its items, without the transform."""
        columns = {name: self.columns[name] for name in self.unchanged if empty is not np.empty}
        fields = self.batch_or_lists(
            indices, {name: empty((len(indices), *shape), dtype) for name, (shape, dtype) in columns.items()}
        )
        same_width(fields)
        return self._made(fields, empty)

    def _made(self, fields: dict[str, Any], empty: Empty = np.empty) -> Any:
        return a_sample(self.items(fields, empty), "the recipe's", self.items)

    def _transformed(self, item: Any) -> Any:
        return item if self.transform is None else transformed(self.transform, item)

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Let errors name the item that is made."""
        try:
            yield
        except Exception as error:
            number = index % len(self)
            where: dict[str, Any] = {"store": self.store.url, "sample": number} | self.where(number)
            if not isinstance(error, VlaStoreError):
                found = f"{type(error).__name__}: {error}"
                raise TransformError("a sample could not be made", **where, found=found) from error
            if "row" in error.places and "row" in where:
                where["anchor row"] = where.pop("row")  # theirs is that of the damage, which a window reads
            error.at(**where)
            raise

    def _keep_anchors(self, keep: Callable[[Steps], Mask]) -> None:
        """Leave out anchors that `keep` does not say. Raises OptionError where none is left."""
        anchors, view, found = self._anchors, self._chosen.kept, []
        for start in range(0, len(anchors), BLOCK_ANCHORS):
            block = np.arange(start, min(start + BLOCK_ANCHORS, len(anchors)))
            rows, mask = np.empty(len(block), np.int64), np.empty(len(block), bool)
            for part, where, places in anchors.many(block, self.store):
                kept = None if view is None else view.of(part)
                counted = (places.step, places.length) if kept is None else kept.counted(places)
                rows[where] = part.row_start + places.start + places.step
                mask[where] = keep(Steps(part.episode_start + places.episode, places.step, *counted))
            found.append(rows[mask])
        rows = np.concatenate(found)
        if not len(rows):
            raise OptionError(
                "no step of the selection is an anchor by this recipe's rule",
                steps=len(anchors),
                hint="episodes may be shorter than the window that must fit into them",
            )
        if len(rows) < len(anchors):
            self._anchors = _anchors_at(rows, self.store, in_order=anchors.rows is None)


def _anchors_at(rows: Int64, store: Store, *, in_order: bool) -> Anchors:
    """Return anchors at these rows. in_order: they ascend, and pickle small as runs of rows that follow one another."""
    starts = np.array(parts_of(store).row_starts, np.int64)
    parts = np.searchsorted(starts, rows, side="right") - 1
    edges = np.flatnonzero((np.diff(rows) != 1) | (np.diff(parts) != 0)) + 1
    if not in_order or len(edges) > len(rows) // 8:
        return Anchors(rows=rows)
    firsts, lasts = np.concatenate([[0], edges]), np.concatenate([edges, [len(rows)]]) - 1
    bases = starts[parts[firsts]]
    spans = np.zeros(len(firsts), SPAN)  # and no first steps to be left out
    spans["part"], spans["start"], spans["stop"] = parts[firsts], rows[firsts] - bases, rows[lasts] + 1 - bases
    return Anchors(spans)


def _part(tree: Any, at: int) -> Any:
    """Return one item of a tree of many."""
    if isinstance(tree, dict):
        return {key: _part(each, at) for key, each in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_part(each, at) for each in tree)
    return tree[at] if isinstance(tree, list) else tree[at, ...]  # with the ellipsis it is an array, also without axes


def _collated(tree: Any) -> Any:
    """Return a tree of many items as `collate` makes it of a list of them."""
    if isinstance(tree, dict):
        return {key: _collated(each) for key, each in tree.items()}
    if isinstance(tree, tuple):
        return [_collated(each) for each in tree]
    return collate(tree) if isinstance(tree, list) and tree else tree
