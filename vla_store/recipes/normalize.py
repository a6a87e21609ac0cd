"""Recipes whose items hold numbers made of fields: statistics of those numbers, and the items normalised by them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Generic

import numpy as np

from vla_store.errors import OptionError, UnknownName, warn
from vla_store.format.statistics import FieldStatistics, field_statistics
from vla_store.reader.cached import cached_property
from vla_store.recipes.dataset import Array, Int64, Item, RecipeDataset

TINY_RANGE = 1e-4  # of metres, radians or a controller's units: less is noise


class NumericRecipe(RecipeDataset[Item], Generic[Item]):
    """A recipe that makes the numbers of an item with `numbers`, and normalises them with `normalized`.

    Parameters
    ----------
    normalize
        False: numbers as recorded. True: normalised as the trainer does it, by this dataset's own `statistics()`. Or statistics:
        those of the training set, for a validation set.
    options
        As `RecipeDataset` has them.
    """

    def __init__(self, store: Any, *, normalize: bool | Mapping[str, FieldStatistics] = False, **options: Any) -> None:
        super().__init__(store, **options)
        self.normalized_by: dict[str, FieldStatistics] | None = None
        if normalize is not False:
            self.normalized_by = self.statistics() if normalize is True else self._checked_statistics(normalize)
            for key, each in self.normalized_by.items():
                self.check_scale(key, each)

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        """Make the numbers of items, {key: (..., n)}, of fields (..., *shape), be it windows of samples or rows of the store."""
        raise NotImplementedError

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        """Return values (..., n) of `key` in the trainer's normalised form, float64."""
        raise NotImplementedError

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        """Warn of components that the trainer's rule would blow up."""

    def statistics(self) -> dict[str, FieldStatistics]:
        """Return statistics of the item's numbers (cast and changed, before any normalising) over the selection.

        {key: ...}, of each selected step once: of steps that are no anchors too, and however many windows they are in. Computed
        at the first call, in float64 (see vla_store.format.statistics); with `normalize` they already were.
        """
        return self._counted

    @cached_property
    def _counted(self) -> dict[str, FieldStatistics]:
        pieces: dict[str, list[Array]] = {}
        episodes, count = [], 0
        for part, rows in self._selected_rows():
            for key, values in self.numbers(self._fields(rows + part.row_start)).items():
                pieces.setdefault(key, []).append(values)
            bounds = [0, *(np.flatnonzero(np.diff(part.pairs(rows)[:, 0])) + 1).tolist(), len(rows)]
            episodes += [(count + start, count + stop) for start, stop in itertools.pairwise(bounds)]
            count += len(rows)
        return {key: field_statistics(np.concatenate(each), episodes) for key, each in pieces.items()}

    @property
    def scales(self) -> dict[str, FieldStatistics]:
        """The statistics to be kept beside a checkpoint: those that items are normalised by, else of the selection."""
        return self.normalized_by or self.statistics()

    def facts(self) -> list[tuple[str, str]]:
        form = "as recorded" if self.normalized_by is None else "normalised"
        return [("numbers", f"{form}, float32"), *super().facts()]

    def item_numbers(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Return the numbers of items, normalised if so asked, in the dtype that `numbers` gives."""
        made = self.numbers(batch)
        if self.normalized_by is None:
            return made
        return {
            key: self.normalized(key, values, self.normalized_by[key]).astype(values.dtype)
            for key, values in made.items()
        }

    def _checked_statistics(self, given: Any) -> dict[str, FieldStatistics]:
        """Return what another dataset gave, if it is of the same numbers. Raises OptionError, UnknownName."""
        if not isinstance(given, Mapping) or not all(isinstance(each, FieldStatistics) for each in given.values()):
            raise OptionError(
                "normalize is True, False, or statistics as another dataset's `statistics()` gives them",
                found=type(given).__name__,
            )
        own = self.numbers(self._fields(np.zeros(1, np.int64)))
        for key, values in own.items():
            if key not in given:
                raise UnknownName.among("statistics of", key, list(given))
            if given[key].min.shape != values.shape[1:]:
                raise OptionError(
                    f"the statistics of {key!r} are of other numbers",
                    expected=values.shape[1:],
                    found=given[key].min.shape,
                )
        return {key: given[key] for key in own}

    def _fields(self, rows: Int64) -> dict[str, Array]:
        """Read rows of the store, of all fields that `numbers` may use."""
        fields = (window.field for window in self.windows)
        return {name: self.store.read(name, rows) for name in fields if not self.store.fields[name].is_camera}


def joined(fields: Mapping[str, Array], names: tuple[str, ...]) -> Array:
    """Return some fields (..., n) side by side, as float32."""
    return np.concatenate([fields[name] for name in names], axis=-1).astype(np.float32)


def warn_of(key: str, components: Array, what: str) -> None:
    """Give one warning that names the components for which this (n,) mask is true."""
    if components.any():
        numbers = ", ".join(map(str, np.flatnonzero(components).tolist()))
        warn(f"{key!r}, component {numbers}: {what}")


def quantiles(by: FieldStatistics) -> tuple[Array, Array]:
    """Return q01 and q99. Raises OptionError where there are none."""
    if by.q01 is None or by.q99 is None:
        raise OptionError("this trainer normalises by quantiles, and above 10^8 steps none are computed")
    return by.q01, by.q99
