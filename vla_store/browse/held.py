"""An open store with what a page asks of it again and again, held in bounded size: a store sees one root for ever, so nothing of it
changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vla_store.errors import DataError, VlaStoreError
from vla_store.look.cameras import RANGE_STEPS, range_of
from vla_store.look.pictures import is_colour
from vla_store.look.steps import spread_steps
from vla_store.reader import Samples, Store
from vla_store.reader.values import Episode
from vla_store.storage.bounded import keep

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
TaskCount = tuple[int, int, int]  # the number of a task in the store, and how many of its episodes and steps are listed
Made = TypeVar("Made")

MAX_SAMPLES = 32  # objects, by their options
MAX_RANGES = 512  # of cameras that are coloured, by episode
MAX_LISTS = 16  # of episodes, by filter


class Memo(Generic[Made]):
    """Values by key, at most so many; each is made by one thread while those that want it too wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Hashable, Made] = {}
        self._lock = threading.RLock()  # what makes one value may ask for another

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the value of a key, made where it is not held. Raises what making it raises, and holds nothing then."""
        with self._lock:
            if key not in self._held:
                keep(self._held, key, make(), self._most)
            return self._held[key]


class Held:
    """A store and what was found of it, safe to use from several threads.

    Parameters
    ----------
    store
        The store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lists: Memo[Int64] = Memo(MAX_LISTS)  # numbers of the episodes that a filter lets through
        self.task_lists: Memo[list[TaskCount]] = Memo(MAX_LISTS)
        self._episodes: Memo[list[Episode]] = Memo(1)
        self._samples: Memo[Samples] = Memo(MAX_SAMPLES)
        self._ranges: Memo[tuple[float, float] | None] = Memo(MAX_RANGES)

    @property
    def episodes(self) -> list[Episode]:
        """All episodes, read once: what filters go over."""
        return self._episodes.get("all", lambda: list(self.store.episodes))

    def samples(self, **options: Any) -> Samples:
        """Return the samples of these options. Raises what `Samples` raises."""
        return self._samples.get(repr(sorted(options.items())), lambda: Samples(self.store, **options))

    def rows(self, names: Iterable[str], rows: range, images: str = "as_stored") -> dict[str, Array]:
        """Return rows of fields as they lie in the store, pictures turned; {field: (n, ...)}. All lie in one episode.

        Raises what `Samples` raises.
        """
        windows = dict.fromkeys(names, 0)
        made: dict[str, Array] = self.samples(windows=windows, alignment="as_stored", images=images).batch(rows)
        return {name: made[name] for name in windows}

    def rows_that_can(
        self, names: Iterable[str], rows: range, images: str = "as_stored"
    ) -> tuple[dict[str, Array], dict[str, VlaStoreError]]:
        """Return what `rows` does of the fields that can be read, and the errors of the others, each of which is tried alone."""
        names = list(names)
        try:
            return (self.rows(names, rows, images) if names else {}), {}
        except DataError as error:
            if len(names) == 1:
                return {}, {names[0]: error}
        found: dict[str, Array] = {}
        wrong: dict[str, VlaStoreError] = {}
        for name in names:
            try:
                found |= self.rows([name], rows, images)
            except DataError as error:
                wrong[name] = error
        return found, wrong

    def range_of(self, camera: str, episode: Episode) -> tuple[float, float] | None:
        """Return the range of numbers that is shown as colours all through an episode, of steps spread over it; None where pictures
        are colours. Raises what reading raises."""
        if is_colour(self.store.fields[camera]):
            return None
        return self._ranges.get(
            (camera, episode.episode),
            lambda: range_of(self.store, episode, camera, spread_steps(episode.length, RANGE_STEPS)),
        )
