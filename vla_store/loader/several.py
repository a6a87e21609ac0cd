"""What brings samples near, for datasets that are made of others: some of its samples, or several one after another. May import numpy,
and storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.storage import Traffic

Int64 = npt.NDArray[np.int64]


class AheadOfSome:
    """An `Ahead` of a dataset, for some of its samples under new numbers."""

    def __init__(self, inner: Any, indices: Int64) -> None:
        self._inner, self._indices = inner, indices

    @property
    def fits(self) -> bool:
        return bool(self._inner.fits)

    @property
    def is_near(self) -> bool:
        return bool(self._inner.is_near)

    @property
    def kept(self) -> tuple[int, int]:
        kept: tuple[int, int] = self._inner.kept
        return kept

    @property
    def traffic(self) -> Traffic:
        traffic: Traffic = self._inner.traffic
        return traffic

    @property
    def storage(self) -> Any:
        return getattr(self._inner, "storage", self._inner)

    def fetch(self, indices: Int64, is_whole: bool) -> list[Any]:
        held: list[Any] = self._inner.fetch(self._indices[indices], is_whole)
        return held

    def release(self, ranges: list[Any]) -> None:
        self._inner.release(ranges)


class AheadOfParts:
    """An `Ahead` of several datasets, whose samples are numbered one dataset after the other.

    inner: of each dataset; None for one that is near. firsts: number of the first sample of each, and of all samples.
    """

    def __init__(self, inner: Sequence[Any], firsts: Int64) -> None:
        self._inner, self._firsts = tuple(inner), firsts

    @property
    def fits(self) -> bool:
        return all(each.fits for each in self._far)

    @property
    def is_near(self) -> bool:
        # All are asked, whatever the first says: a fetcher asks in one thread, so that its other threads find each store open.
        found = [each.is_near for each in self._far]
        return all(found)

    @property
    def kept(self) -> tuple[int, int]:
        found = [each.kept for each in self._asked]
        return sum(here for here, _ in found), sum(of for _, of in found)

    @property
    def traffic(self) -> Traffic:
        found = Traffic()
        for each in self._asked:
            found = found + each.traffic
        return found

    def fetch(self, indices: Int64, is_whole: bool) -> list[Any]:
        parts, held = np.searchsorted(self._firsts, indices, side="right") - 1, []
        for part in np.flatnonzero(np.bincount(parts)).tolist():
            inner = self._inner[part]
            ranges = [] if inner is None else inner.fetch(indices[parts == part] - self._firsts[part], is_whole)
            if ranges:
                held.append((part, ranges))
        return held

    def release(self, ranges: list[Any]) -> None:
        for part, held in ranges:
            self._inner[part].release(held)

    @property
    def _far(self) -> list[Any]:
        return [each for each in self._inner if each is not None]

    @property
    def _asked(self) -> list[Any]:
        """One of those that ask the same storage."""
        return list({id(getattr(each, "storage", each)): each for each in self._far}.values())
