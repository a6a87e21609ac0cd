"""Recipes whose items hold numbers made of fields: statistics of those numbers, and the items normalised by them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_store.errors import OptionError, UnknownName, warn
from vla_store.format.statistics import FieldStatistics, field_statistics
from vla_store.recipes.dataset import Array, Int64, RecipeDataset

TINY_RANGE = 1e-4  # of metres, radians or a controller's units: less is noise


class NumericRecipe(RecipeDataset):
    """A recipe that makes the numbers of an item with `numbers`, and normalises them with `normalized`.

    normalize: False: numbers as recorded. True: normalised as the trainer does it, by this dataset's own `statistics()`.
        Or statistics: those of the training set, for a validation set.
    """

    def __init__(self, store: Any, *, normalize: bool | Mapping[str, FieldStatistics] = False, **options: Any) -> None:
        super().__init__(store, **options)
        self._counted: dict[str, FieldStatistics] | None = None
        self.normalized_by: dict[str, FieldStatistics] | None = None
        if normalize is not False:
            self.normalized_by = self.statistics() if normalize is True else self._given(normalize)
            for key, each in self.normalized_by.items():
                self.check_scale(key, each)

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        """The numbers of items: {key: (..., n)} of fields (..., *shape), be it windows of a sample or rows of the store."""
        raise NotImplementedError

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        """Values (..., n) of `key` in the trainer's normalised form, float64."""
        raise NotImplementedError

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        """Warns of components that the trainer's rule would blow up."""

    def statistics(self) -> dict[str, FieldStatistics]:
        """Of the selection: {key: ...} of the item's numbers (cast and changed, before any normalising), each selected step once.

        Steps that are no anchors count, and so does each step only once, however many windows it is in. Computed at the first
        call, in float64 (see vla_store.format.statistics); with `normalize` it already was.
        """
        if self._counted is None:
            pieces: dict[str, list[Array]] = {}
            episodes, count = [], 0
            for part, rows in self._selected_rows():
                for key, values in self.numbers(self._fields(rows + part.row_start)).items():
                    pieces.setdefault(key, []).append(values)
                bounds = [0, *(np.flatnonzero(np.diff(part.pairs(rows)[:, 0])) + 1).tolist(), len(rows)]
                episodes += [(count + start, count + stop) for start, stop in itertools.pairwise(bounds)]
                count += len(rows)
            self._counted = {key: field_statistics(np.concatenate(each), episodes) for key, each in pieces.items()}
        return self._counted

    def facts(self) -> list[tuple[str, str]]:
        form = "as recorded" if self.normalized_by is None else "normalised"
        return [("numbers", f"{form}, float32"), *super().facts()]

    def item_numbers(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """The numbers of items, normalised if so asked, in the dtype that `numbers` gives."""
        made = self.numbers(batch)
        if self.normalized_by is None:
            return made
        return {
            key: self.normalized(key, values, self.normalized_by[key]).astype(values.dtype)
            for key, values in made.items()
        }

    def _given(self, given: Any) -> dict[str, FieldStatistics]:
        """Statistics that another dataset gave, if they are of the same numbers. Raises OptionError, UnknownName."""
        if not isinstance(given, Mapping) or not all(isinstance(each, FieldStatistics) for each in given.values()):
            raise OptionError(
                "normalize is True, False, or statistics as another dataset's `statistics()` gives them",
                found=type(given).__name__,
            )
        made = {}
        for key, values in self.numbers(self._fields(np.zeros(1, np.int64))).items():
            if key not in given:
                raise UnknownName.among("statistics of", key, list(given))
            if given[key].min.shape != values.shape[1:]:
                raise OptionError(
                    f"the statistics of {key!r} are of other numbers",
                    expected=values.shape[1:],
                    found=given[key].min.shape,
                )
            made[key] = given[key]
        return made

    def _fields(self, rows: Int64) -> dict[str, Array]:
        """Rows of the store, of all fields that `numbers` may use."""
        numeric = [window.field for window in self.windows if not self.store.fields[window.field].is_camera]
        return {name: self.store.read(name, rows) for name in numeric}


def warn_of(key: str, components: Array, what: str) -> None:
    """One warning that names the components for which this (n,) mask is true."""
    if components.any():
        numbers = ", ".join(map(str, np.flatnonzero(components).tolist()))
        warn(f"{key!r}, component {numbers}: {what}")


def quantiles(by: FieldStatistics) -> tuple[Array, Array]:
    """q01 and q99. Raises OptionError where there are none."""
    if by.q01 is None or by.q99 is None:
        raise OptionError("this trainer normalises by quantiles, and above 10^8 steps none are computed")
    return by.q01, by.q99
