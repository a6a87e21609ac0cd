"""An open store: what it holds, and rows of its fields."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, StoreDamaged, UnknownName
from vla_store.format import digests, layout
from vla_store.format.nonfinite import NonFinite
from vla_store.format.schema import MAX_DOCUMENT_BYTES, PartDocument, PartEntry, Root
from vla_store.format.skipped import Skipped
from vla_store.format.views import View, views_of
from vla_store.reader import opening
from vla_store.reader.batch import check_out
from vla_store.reader.cached import cached_property
from vla_store.reader.documents import (
    array_nbytes_of,
    conventions_of,
    fields_of,
    left_out,
    nonfinite_of,
    small_document,
    statistics_of,
    tasks_of,
)
from vla_store.reader.episodes import Episodes
from vla_store.reader.numbers import one_number, whole_numbers
from vla_store.reader.parts import Documents, Parts
from vla_store.reader.rows import read_rows
from vla_store.reader.splits import split_of
from vla_store.reader.texts import instructions_of, kinds_of, segments_of
from vla_store.reader.values import (
    Conventions,
    Episode,
    Provenance,
    Split,
    Statistics,
    StoreField,
    StoreTask,
)
from vla_store.storage import Location, ObjectMissing, Storage, locate, read_document
from vla_store.text import counted
from vla_store.types import CHECKS, Check, Fetcher, SplitName

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

Carried = tuple[bytes, Documents]


def open_store(
    url: str | os.PathLike[str],
    *,
    digest: str | None = None,
    fetcher: Fetcher | None = None,
    storage_options: Mapping[str, Any] | None = None,
    check: Check = "first",
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
) -> Store:
    """Open the store at a path or URL.

    Parameters
    ----------
    url : str or path
        A path, or what storage knows: s3://, gs://, https://, memory://, ...
    digest : str, optional
        Pins the root with this digest; without it, the current one is opened.
    fetcher : {"mmap", "pread", "fsspec"}, optional
        How bytes are read: maps (default for paths), reads (network file systems, cold disks), or fsspec (default for URLs).
    storage_options : mapping, optional
        What fsspec takes besides the URL, e.g. {"anon": True}.
    check : {"first", "every"}
        "first" checks the crc32c of a frame when this process first decodes it from a map, "every" each time. What is not
        mapped is checked each time it comes.
    cache : str or path, optional
        Folder on a disk of this machine that keeps what is fetched, shared by all processes and stores: what it has is read as
        local files are. Default: VLA_STORE_CACHE of the environment for a URL; "" for none.
    cache_size : str or int, optional
        The most bytes that the folder may take, as in "200GB". Default: VLA_STORE_CACHE_SIZE of the environment, else what the
        disk has, but for a little.

    Returns
    -------
    Store

    Raises
    ------
    StoreNotFound, StoreUnfinished, StoreDamaged, UnsupportedStore, FetchError, MachineError, OptionError
    """
    if check not in CHECKS:
        raise UnknownName.among("check", check, list(CHECKS))
    location = locate(url, fetcher, storage_options, cache, cache_size)
    opened = location.open()
    root = opening.current_root(location, opened, digest)
    store = Store(location, root.generation, root.digest, check == "every")
    store._fetcher, store._root = opened, root
    _ = store._parts.documents  # what is wrong with them is said at opening
    return store


class Store:
    """A store, open for reading; made by `open_store`.

    It sees one root for ever, and pickles as (place, generation, digest): a copy reads that root again where it
    arrives. Nothing is held open until it is needed; maps are bounded in number. Safe to use from several threads and
    after a fork.

    Parameters
    ----------
    location
        Where the store lies and what opens it.
    generation
        Which of the store's roots it sees, from 1.
    digest
        Digest of that root.
    every
        Check the crc32c of a frame each time it is decoded; see `open_store`.

    Raises
    ------
    StoreNotFound, StoreDamaged, UnsupportedStore, FetchError, MachineError
        Where the store is read: not when the object is made, but with the first property or method that needs it.
    """

    def __init__(self, location: Location, generation: int, digest: str, every: bool = False) -> None:
        self._location = location
        self._generation = generation
        self._digest = digest
        self._every = every
        self._carried: Carried | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        location = self._location.after(vars(self).get("_fetcher"))
        made, carried = (location, self._generation, self._digest, self._every), self._to_carry()
        return (Store, made) if carried is None else (_with_documents, (*made, carried))

    def __repr__(self) -> str:
        return (
            f"Store({self.url!r}: {counted(self.rows, 'step')}, {counted(len(self.episodes), 'episode')}, {counted(len(self.tasks), 'task')}, "
            f"suites {', '.join(self.suites)})"
        )

    def __len__(self) -> int:
        return self.rows

    @property
    def url(self) -> str:
        """Its absolute path or URL."""
        return self._location.url

    @property
    def fetcher(self) -> str:
        """What reads it: "mmap", "pread", "fsspec" or "obstore"."""
        return self._fetcher.fetcher

    @property
    def generation(self) -> int:
        """Which of the store's roots this is, from 1."""
        return self._generation

    @property
    def digest(self) -> str:
        """The digest of the root; `open_store(url, digest=...)` pins it."""
        return self._digest

    @property
    def fingerprint(self) -> str:
        """The content fingerprint: depends on the data alone, not on preset, parts or codecs."""
        return self._root.fingerprint

    @property
    def rows(self) -> int:
        """Steps of all episodes."""
        return self._parts.row_starts[-1]

    @property
    def parts(self) -> tuple[tuple[PartEntry, PartDocument], ...]:
        """Every part: its line in the root, and what it says of itself (plan, tasks, sources, fields with codec and prediction)."""
        return tuple(zip(self._root.parts, self._parts.documents))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all objects that this root needs, by the listings of its parts."""
        return sum(self.array_nbytes.values())

    @cached_property
    def array_nbytes(self) -> Mapping[str, int]:
        """Bytes of all objects by array ("steps/actions", ...), over all parts, with its metadata; "" is everything that is no array."""
        return array_nbytes_of(self._root, self._fetcher, self.url)

    @cached_property
    def episodes(self) -> Episodes:
        """A sequence of all episodes; each is looked up when it is asked for."""
        return Episodes(self)

    @cached_property
    def tasks(self) -> tuple[StoreTask, ...]:
        """Every task, by suite and name; one that occurs in several parts is one."""
        return tasks_of(self._parts)

    @cached_property
    def instruction_kinds(self) -> tuple[str, ...]:
        """The kinds of instructions that episodes have beside their own text, ascending: `Samples(store, instruction=kind)`."""
        return kinds_of(self._parts.documents)

    def instructions(self, episode: SupportsIndex | Episode) -> dict[str, tuple[str, ...]]:
        """Return the instructions that an episode has beside its own text, by kind, ascending.

        Parameters
        ----------
        episode
            Number of the episode, from 0; or one of `episodes`.

        Returns
        -------
        {kind: (text, ...)}

        Raises
        ------
        OptionError, UnknownName
            As `check_episodes` does.
        TypeError
            For what is no whole number.
        """
        return instructions_of(*self._parts.of_episode(self._episode(episode)))

    def segments(self, episode: SupportsIndex | Episode) -> tuple[tuple[int, str], ...]:
        """Return the stretches of steps of an episode that have a text of their own.

        Parameters
        ----------
        episode
            Number of the episode, from 0; or one of `episodes`.

        Returns
        -------
        ((first step, text), ...)
            Ascending; "" where steps have none again. Before the first, they have none.

        Raises
        ------
        OptionError, UnknownName
            As `check_episodes` does.
        TypeError
            For what is no whole number.
        """
        return segments_of(*self._parts.of_episode(self._episode(episode)))

    @cached_property
    def suites(self) -> tuple[str, ...]:
        """Names of the suites."""
        return tuple(sorted({each.suite for document in self._parts.documents for each in document.sources}))

    @cached_property
    def fields(self) -> Mapping[str, StoreField]:
        """Every per-step quantity, by name."""
        return fields_of(self._root, self._parts.documents)

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Names of the fields that are pictures."""
        return tuple(name for name, each in self.fields.items() if each.is_camera)

    @cached_property
    def conventions(self) -> Conventions:
        """Orientation of pictures, and order of observation and action, of every source."""
        return conventions_of(self._parts.documents)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the fixed numeric fields, over all rows and per suite, as computed by the build."""
        return statistics_of(self._meta(self._root.meta.statistics), self._root.meta.statistics, self.fields)

    @cached_property
    def nonfinite(self) -> Mapping[str, NonFinite]:
        """What of the fields is NaN or infinite, by field; none of those whose numbers are all finite.

        As counted when the parts were built; parts of versions before they were counted have nothing to tell.
        """
        return nonfinite_of(self._parts, self.fields, self.episodes)

    @cached_property
    def views(self) -> Mapping[str, View]:
        """Named choices of steps that were recorded in the store, by name: `Samples(store, view=name)`.

        Raises
        ------
        StoreDamaged
            Where the document of the views is damaged or missing: no sample without a view needs it.
        """
        if self._root.meta.views is None:
            return MappingProxyType({})
        digest = self._root.meta.views
        try:
            data = read_document(self._fetcher, layout.meta_key(digest), MAX_DOCUMENT_BYTES)
        except ObjectMissing:
            data = None
        try:
            return MappingProxyType(views_of(data, digest, self.rows))
        except StoreDamaged as error:
            raise error.at(store=self.url) from None

    @cached_property
    def skipped(self) -> tuple[Skipped, ...]:
        """What the build left out (--skip-bad), and why."""
        keys = ("suite", "file", "demo", "reason")
        return tuple(
            Skipped(*(each[key] for key in keys))
            for each in left_out(self._meta(self._root.meta.skipped), self._root.meta.skipped, "skipped", keys)
        )

    @cached_property
    def warnings(self) -> tuple[dict[str, str], ...]:
        """What the build noticed in the sources and did not need to refuse: {suite, file, warning}."""
        meta = self._root.meta.skipped
        return tuple(left_out(self._meta(meta), meta, "warnings", ("suite", "file", "warning")))

    def split(self, name: SplitName, *, fraction: float = 0.9, by: str = "episode", seed: int = 0) -> Split:
        """Return the episodes of one side of a split.

        Computed from each episode's digest, so adding episodes moves none of the old ones to the other side.

        Parameters
        ----------
        name : {"train", "val"}
            About `fraction` of all, or the others.
        fraction
            From 0 to 1.
        by : {"episode"}
            What falls on one side as a whole.
        seed
            Another one gives another split.

        Returns
        -------
        Split

        Raises
        ------
        UnknownName
            For a `name` or `by` that does not exist.
        OptionError
            For a `fraction` that is not from 0 to 1, and a `seed` that is no whole number.
        """
        return split_of(self._parts, name, fraction, by, seed)

    def provenance(self, row: SupportsIndex) -> Provenance:
        """Return the source file, demo and step of a row.

        Parameters
        ----------
        row
            Number of the row, from 0.

        Returns
        -------
        Provenance

        Raises
        ------
        OptionError, UnknownName
            As `check_rows` does.
        TypeError
            For what is no whole number.
        """
        part, at = self._parts.of_row(self._row(row))
        episode, step = part.position(at)[:2]
        each = self.episodes[part.episode_start + episode]
        demo = digests.episode_name(each.number)
        return Provenance(part.row_start + at, each.suite, each.file, demo, each.number, step, each.episode)

    def attributes(self, episode: SupportsIndex | Episode) -> dict[str, dict[str, Any]]:
        """Return every HDF5 attribute of an episode's groups and datasets.

        Parameters
        ----------
        episode
            Number of the episode, from 0; or one of `episodes`.

        Returns
        -------
        {path: {name: value}}
            Strings are str (bytes where they are not UTF-8), numbers arrays, HDF5's Empty None.

        Raises
        ------
        OptionError, UnknownName
            As `check_episodes` does.
        TypeError
            For what is no whole number.
        """
        part, at = self._parts.of_episode(self._episode(episode))
        row = part.entries(at, at + 1)[0]
        return part.decoded_attributes(int(row["attributes_start"]), int(row["attributes_bytes"]))

    def source_attributes(self, episode: SupportsIndex | Episode) -> dict[str, dict[str, Any]]:
        """Return every attribute of the file that an episode comes from, without those of its episodes.

        Parameters
        ----------
        episode
            Number of the episode, from 0; or one of `episodes`.

        Returns
        -------
        {path: {name: value}}
            As `attributes` has it.

        Raises
        ------
        OptionError, UnknownName
            As `check_episodes` does.
        TypeError
            For what is no whole number.
        """
        part, at = self._parts.of_episode(self._episode(episode))
        return part.decoded_attributes(*part.document.sources[int(part.entries(at, at + 1)["source"][0])].attributes)

    def read(self, field: str, rows: npt.ArrayLike | slice, out: Array | None = None) -> Array:
        """Return rows of one fixed field, as they are stored, in the order asked for.

        Parameters
        ----------
        field
            Its name.
        rows
            (n,) numbers of rows, of which one may come several times; a slice, as of a list of all rows; or a mask, (rows,) bool.
        out
            (n, *shape) of the field's dtype, C-contiguous; it is filled and returned.

        Returns
        -------
        (n, *shape) array of the field's dtype
            `out` where it was given.

        Raises
        ------
        UnknownName
            For a field or a row that does not exist.
        OptionError
            For a ragged field, rows that are none of these, a mask of another length, and an `out` that does not fit.
        StoreDamaged, UnsupportedStore, FetchError, MachineError
            Where the store is read.
        """
        if field not in self.fields:
            raise UnknownName.among("field", field, list(self.fields), store=self.url)
        if self.fields[field].kind == "ragged-episode":
            raise OptionError(
                f"{field!r} has a width of its own in each episode", hint=f'Samples(store, windows={{"{field}": 0}})'
            )
        wanted = self.check_rows(rows)
        shape = tuple(n for n in self.fields[field].shape if n is not None)
        if out is None:
            out = np.empty((len(wanted), *shape), self.fields[field].dtype)
        check_out({field: out}, {field: (shape, np.dtype(self.fields[field].dtype))}, len(wanted))
        read_rows(self._parts, self._fetcher, field, wanted, out)
        return out

    def check_rows(self, rows: npt.ArrayLike | slice) -> Int64:
        """Return row numbers as int64.

        Parameters
        ----------
        rows
            (n,) whole numbers of rows, or one; a slice, as of a list of all rows; or a mask, (rows,) bool.

        Returns
        -------
        (n,) int64

        Raises
        ------
        OptionError
            For what is none of these, and a mask of another length.
        UnknownName
            For a row that does not exist; negative numbers count from the end in slices alone.
        """
        return whole_numbers("row", rows, self.rows)

    def check_episodes(self, episodes: Any) -> Int64:
        """Return episode numbers as int64.

        Parameters
        ----------
        episodes
            (n,) whole numbers of episodes or values of `episodes`, or one; a slice, as of a list of all; or a mask,
            (episodes,) bool.

        Returns
        -------
        (n,) int64

        Raises
        ------
        OptionError
            For what is none of these, a mask of another length, and an `Episode` of another store.
        UnknownName
            For an episode that does not exist; negative numbers count from the end in slices alone.
        """
        return self.episodes.numbers(episodes)

    @cached_property
    def _fetcher(self) -> Storage:
        return self._location.open(connect=self._carried is None)

    @cached_property
    def _root(self) -> Root:
        if self._carried is not None:
            return Root.from_bytes(self._carried[0], layout.root_key(self._generation))
        return opening.pinned_root(self._location, self._fetcher, self._generation, self._digest)

    @cached_property
    def _parts(self) -> Parts:
        carried = None if self._carried is None else self._carried[1]
        return Parts(self._root, self._fetcher, self.url, self._every, carried)

    def _to_carry(self) -> Carried | None:
        """Return what a copy need not read again; None for a near store, for much, and where nobody said that it goes at once."""
        if not _carrying.get():
            return None
        documents = self._parts.carried if "_parts" in vars(self) else None
        return self._carried if documents is None else (self._root.to_bytes(), documents)

    def _row(self, row: SupportsIndex) -> int:
        return int(self.check_rows([one_number("row", row)])[0])

    def _episode(self, episode: SupportsIndex | Episode) -> int:
        number = episode if isinstance(episode, Episode) else one_number("episode", episode)
        return int(self.check_episodes([number])[0])

    def _meta(self, digest: str | None) -> dict[str, Any]:
        """Return a small document; {} where the root names none."""
        return small_document(self._fetcher, digest, self.url)


def _with_documents(location: Location, generation: int, digest: str, every: bool, carried: Carried) -> Store:
    """Return a store whose documents another process has read."""
    store = Store(location, generation, digest, every)
    store._carried = carried
    return store


@contextlib.contextmanager
def carrying() -> Iterator[None]:
    """Let stores that are pickled in this context have with them what of their documents a copy would have to read again: it goes to
    another process at once, and the store there is the same."""
    token = _carrying.set(True)
    try:
        yield
    finally:
        _carrying.reset(token)


_carrying = contextvars.ContextVar("carrying", default=False)
