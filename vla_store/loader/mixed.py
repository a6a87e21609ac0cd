"""What a mixture knows of its parts: what they are called, what tells them from others, and how batches of them become one.

May import numpy, errors, the dataset protocol and the reader's samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vla_store.errors import OptionError, StoreDamaged, TransformError, VlaStoreError
from vla_store.loader.dataset import Chosen, Dataset, Empty
from vla_store.loader.order import epoch_rows
from vla_store.loader.schema import Reused, Schema, joined, schema_of
from vla_store.loader.shares import Int64
from vla_store.loader.weighted import WeightedSamples
from vla_store.reader.cached import cached_property
from vla_store.reader.samples import Samples
from vla_store.reader.texts import drawing_for
from vla_store.reader.together import fill_all

MAX_FRAMES = 4


class PartBatches:
    """Batches of samples of several datasets."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self._datasets = list(datasets)

    def batch(self, parts: Int64, own: Int64, empty: Empty) -> Any:
        """Return one batch. parts, own: (B,) of each sample its dataset, and its number there. empty: as np.empty."""
        if self.together is not None:
            return self._read_together(parts, own, empty)
        return self._read(parts, own, empty)

    def __getstate__(self) -> dict[str, Any]:
        return {"_datasets": self._datasets}

    def _read(self, parts: Int64, own: Int64, empty: Empty) -> Any:
        """Let each part make a batch of its samples, and put these together."""
        groups = self._grouped(parts)
        if len(groups) == 1:
            return self._datasets[groups[0][0]].batch(own, empty=empty)
        with self._reused() as room:
            return joined(self._batches(groups, own, room), len(parts), empty)

    def _batches(self, groups: Sequence[tuple[int, Int64]], own: Int64, room: Reused) -> Iterator[tuple[Any, Int64]]:
        """Yield a batch of each part, in the same memory, and which samples it has."""
        for part, at in groups:
            with drawing_for(at):
                made = self._datasets[part].batch(own[at], empty=room.begin().empty)
            yield made, at

    def _grouped(self, parts: Int64) -> list[tuple[int, Int64]]:
        """Return which of a batch each part has that has some."""
        order = np.argsort(parts, kind="stable")
        counts = np.bincount(parts, minlength=len(self._datasets))
        stops = np.cumsum(counts).tolist()
        return [
            (part, order[stop - count : stop])
            for part, (count, stop) in enumerate(zip(counts.tolist(), stops))
            if count
        ]

    @contextlib.contextmanager
    def _reused(self) -> Iterator[Reused]:
        """Give memory for batches of parts, which are copied from there: the system need not find fresh pages for each."""
        room = self._rooms.pop() if self._rooms else Reused()
        try:
            yield room
        finally:
            self._rooms.append(room)

    @cached_property
    def _rooms(self) -> list[Reused]:
        return []

    @cached_property
    def together(self) -> list[tuple[Samples, Int64 | None]] | None:
        """Plain samples of one schema, and which of them each part has; None where a part is something else. They are read in place,
        so that no picture is copied."""
        found = [_plain(each) for each in self._datasets]
        plain = [each for each in found if each is not None]
        kinds = {(frozenset(each.columns.items()), each.has_text) for each, _ in plain}
        return (
            plain if len(plain) == len(found) and len(kinds) == 1 and all(each.is_even for each, _ in plain) else None
        )

    def _read_together(self, parts: Int64, own: Int64, empty: Empty) -> dict[str, Any]:
        assert self.together is not None
        count, first = len(parts), self.together[0][0]
        if empty is np.empty:
            arrays = first.allocate(count)
        else:
            arrays = {name: empty((count, *shape), dtype) for name, (shape, dtype) in first.columns.items()}
        wanted = []
        for part, at in self._grouped(parts):
            samples, chosen = self.together[part]
            wanted.append((samples, own[at] if chosen is None else chosen[own[at]], at))
        tasks = [""] * count
        try:
            fill_all(wanted, arrays, tasks)
        except StoreDamaged:  # each by itself names the store
            for samples, mine, at in wanted:
                located = samples.locate(mine, at, count)
                samples.fill(located, samples.fetch(located), arrays, tasks)
            raise
        return first.arranged(arrays, tasks)


def _plain(dataset: Any) -> tuple[Samples, Int64 | None] | None:
    """Return the plain samples of a store that a dataset has, and which of them; None where it is something else."""
    if type(dataset) is WeightedSamples:
        return _plain(dataset.dataset)
    if type(dataset) is Chosen:
        return (dataset.dataset, dataset.indices) if type(dataset.dataset) is Samples else None
    return (dataset, None) if type(dataset) is Samples else None


def names_of(datasets: Sequence[Any], given: Sequence[str] | None) -> list[str]:
    """Return the names of parts: those given, or those of their stores. Raises OptionError."""
    if given is not None:
        if not isinstance(given, (list, tuple)):  # a set has another order in another process
            raise OptionError("names are a list, one for each part", found=repr(given)[:200])
        names = list(given)
        if len(names) != len(datasets):
            raise OptionError("names are one for each part", expected=len(datasets), found=len(names))
        if not all(map(is_name, names)) or len(set(names)) < len(names):
            raise OptionError("names are texts of one line, each another", found=", ".join(map(repr, names))[:200])
        return names
    names = []
    for dataset in datasets:
        name = first = _name_of(dataset)
        number = 2
        while name in names:
            name, number = f"{first} {number}", number + 1
        names.append(name)
    return names


def is_name(given: Any) -> bool:
    """Whether this is a text of one line, as a part or a value may be called."""
    return isinstance(given, str) and bool(given) and given.isprintable()


def schemas_of(datasets: Sequence[Any], sources: Sequence[Any], names: Sequence[str]) -> dict[str, Schema]:
    """Return the schemas of parts, by name. Raises an error that names the part where its first sample cannot be made."""
    found = {}
    for name, dataset, source in zip(names, datasets, sources):
        try:
            found[name] = schema_of(dataset, source)
        except VlaStoreError as error:
            error.at(part=name)
            raise
        except Exception as error:
            hint = ""
            if isinstance(error, TypeError) and "generator" in str(error):
                hint = "only the Loader's transform is given a generator: Loader(mixture, transform=...)"
            raise TransformError(
                "the first sample of a part cannot be made",
                part=name,
                traceback=_traceback_of(error),
                hint=hint,
            ) from error
    return found


def _traceback_of(error: Exception) -> str:
    """Return the innermost frames of an error, without the two that are ours."""
    frames = traceback.extract_tb(error.__traceback__)[2:][-MAX_FRAMES:]
    return "".join([*traceback.format_list(frames), *traceback.format_exception_only(error)]).rstrip("\n")


def _name_of(dataset: Any) -> str:
    store = dict(dataset.where()).get("store")
    if store is None:
        return type(dataset).__name__
    last = str(store).rstrip("/").rpartition("/")[2]
    return last.removesuffix(".vla") or last


def digest_of(dataset: Any) -> str:
    """Return a digest of which samples a part has, and how long its own epoch is."""
    text = json.dumps([dict(dataset.identity), len(dataset), epoch_rows(dataset)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
