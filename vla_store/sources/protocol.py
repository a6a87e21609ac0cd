"""What a build reads from: the protocols `EpisodeSource` and `StreamedSource`, and the values sources describe themselves with.

To convert your own robot's recordings, write a class with the three methods of one of them and give an instance to
`build_store` beside, or instead of, paths. Instances are pickled to worker processes: keep paths in them, not open files.
May import format and errors, and of this folder what a caller states of a source (overrides).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vla_store.errors import SourceError, index_of
from vla_store.format.attributes import Attributes
from vla_store.format.codecs import Codec
from vla_store.format.nonfinite import counted
from vla_store.format.schema import GIVEN_BYTES
from vla_store.format.skipped import Skipped, storable
from vla_store.sources.overrides import NO_OVERRIDES, Overrides

Array = np.ndarray[Any, Any]

MIN_SIDE = 8  # pixels: what has fewer rows or columns is taken for a matrix, unless it is plainly a picture

MEND = "mend it, or leave it out with --skip-bad (the store records which)"

WHERE = ("dataset", "field", "on", "attribute", "row", "missing", "more", "reason")


@dataclass(frozen=True)
class FieldSpec:
    """One quantity recorded at every step of an episode.

    Attributes
    ----------
    dtype : str
        NumPy's name ("float64", "uint8", ...).
    shape : tuple of int
        Shape of one step.
    role : str
        "observation" (what causal alignment shifts) or "step".
    ragged : bool
        True for a field of one axis a step whose width may differ between episodes.
    picture : bool or None
        True: it is stored as pictures, which are compressed one by one and turned with their source; its shape then is (H, W)
        or (H, W, ...). None: it is if it is an observation (H, W, C), C at most 4, of uint8 or uint16 or of at least 8 x 8, or
        has the size of such a field of the same episode.
    codec : Codec or None
        What its pictures are encoded by; None: by the codec of the build's preset. Of one that keeps pictures as the source
        has them encoded (`Codec.keeps`), rows are (n,) of `bytes` in place of pixels.
    names : tuple of str
        A name for each number of a step, as "x" or "left_gripper"; () where the source gives none.
    units : tuple of str
        The unit of each, as "m" or "rad", "" where it is not known; () where none is.
    """

    dtype: str
    shape: tuple[int, ...]
    role: str
    ragged: bool = False
    picture: bool | None = None
    codec: Codec | None = None
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype).name)  # np.float32 and "<f4" are welcome
        object.__setattr__(self, "shape", tuple(map(index_of, self.shape)))
        for name in ("names", "units"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def given(self) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape of one step as the source gives it."""
        return GIVEN_BYTES if self.codec is not None and self.codec.keeps else (self.dtype, self.shape)

    @property
    def is_camera(self) -> bool:
        """True if this is stored as pictures, by what it says itself."""
        if self.picture is not None:
            return self.picture
        return (
            self.role == "observation"
            and len(self.shape) == 3
            and self.shape[2] <= 4
            and (self.dtype in ("uint8", "uint16") or min(self.shape[:2]) >= MIN_SIDE)
        )


@dataclass(frozen=True)
class TaskInfo:
    """A task that episodes belong to.

    Attributes
    ----------
    name : str
        Short name, unique in its suite.
    text : str
        Instruction that evaluations use.
    instruction : str or None
        The source's own wording.
    """

    name: str
    text: str
    instruction: str | None = None


@dataclass(frozen=True)
class EpisodeInfo:
    """One episode of a source.

    Attributes
    ----------
    number : int
        Unique within its source.
    steps : int
        Number of its steps.
    fields : dict of str to FieldSpec
        Everything that is recorded at each step.
    success : int
        1, 0, or -1 where it cannot be known.
    text : str or None
        Instruction of this episode, where it has one of its own; None: its task's.
    task : TaskInfo or None
        Task of this episode, in a source of several tasks; None: the source's.
    instructions : dict of str to tuple of str
        Other wordings of its instruction, by kind, as {"simplified": ("wipe it",), "expanded": ("take the cloth ...", ...)}.
    segments : tuple of (int, str)
        First step and text of each stretch of steps that has an instruction of its own, ascending by step; "" for a stretch
        that has none. Before the first one, steps have that of the episode.
    """

    number: int
    steps: int
    fields: dict[str, FieldSpec]
    success: int = -1
    text: str | None = None
    task: TaskInfo | None = None
    instructions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    segments: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.success, (bool, np.bool_)):  # as a file's own flag is
            object.__setattr__(self, "success", int(self.success))
        for name in ("number", "steps", "success"):
            object.__setattr__(self, name, index_of(getattr(self, name)))  # NumPy's integers are welcome


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What one source holds.

    Attributes
    ----------
    suite, file : str
        Its names in the store; a pair occurs once.
    task, text, instruction : str, str, str or None
        Task of all episodes that have none of their own (see `TaskInfo`).
    orientation : str
        How its pictures lie: "bottom_up", "top_down" or "rot180".
    observation : str
        "before" or "after": when observations are recorded, relative to the action of the same row.
    nbytes : int
        Size of the source.
    episodes : tuple of EpisodeInfo
        In any order.
    warnings : tuple of str
        Oddities worth recording that do not make it wrong.
    skipped : tuple of Skipped
        What it leaves out.
    codec, decoder : str
        What its pictures are in, as "jpeg" or "av1" (several with - between them), and what decoded them, where that lost
        something; else "".
    fps : float or None
        Steps a second; None where the source does not say it.
    reading_nbytes : (int, int)
        Memory that reading it takes beside the rows: in each process, and for each thread that reads.
    """

    suite: str
    file: str
    task: str = ""
    text: str = ""
    instruction: str | None = None
    orientation: str
    observation: str
    nbytes: int
    episodes: tuple[EpisodeInfo, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    codec: str = ""
    decoder: str = ""
    fps: float | None = None
    reading_nbytes: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if isinstance(self.nbytes, np.integer):
            object.__setattr__(self, "nbytes", int(self.nbytes))
        object.__setattr__(self, "warnings", tuple(map(storable, self.warnings)))

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks of the episodes, in the order in which they first occur."""
        return tuple(dict.fromkeys(self.task_of(each) for each in self.episodes))

    def task_of(self, episode: EpisodeInfo) -> TaskInfo:
        """Return the task of an episode: its own, or else the source's."""
        return episode.task or TaskInfo(self.task, self.text, self.instruction)


@runtime_checkable
class EpisodeSource(Protocol):
    """Anything a store can be built from that gives any of its steps at any time.

    Methods may be called from several threads and processes. A source may also have the members below.

    Notes
    -----
    path : str
        What messages call it, and what must not change while a store is built from it.
    suite, file : str
        Those of its `SourceInfo`, known without a scan.
    overrides : Overrides
        What it is read by, which a store records.
    overridden(overrides) -> EpisodeSource
        The same source, read by these. So a store is verified and repaired by the conventions that it was built with.
        What has no such method is read as it is.
    layout()
        An object with `used`, the parts of the overrides' choice that name something in the source, and `paths`, what
        there is.
    is_plain(number, field) -> bool
        True if nothing but the disk can keep a field of an episode from being read, because its rows lie in a file as
        they are. With `skip_bad`, what is not plain is read whole beforehand.
    reads_forward : bool
        True if steps cost less in their order, as those of a video do: a build then reads a shard's from its first to its
        last, one block after another.
    """

    def scan(self) -> SourceInfo:
        """Describe the source without reading its pictures.

        Returns
        -------
        SourceInfo

        Raises
        ------
        SourceError
            For what is not as it should be.
        """
        ...

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        """Return steps of one field of one episode.

        Parameters
        ----------
        number
            Number of the episode, as `scan` gives it.
        field
            Name of the field, as `scan` gives it.
        start, stop
            The steps [start, stop).

        Returns
        -------
        (stop - start, *shape) array
            In the shape and dtype of its FieldSpec.
        """
        ...

    def attributes(self, number: int | None) -> Attributes:
        """Return the attributes of one episode, or of the source.

        Parameters
        ----------
        number
            Number of the episode; None for the source.

        Returns
        -------
        {path: {name: value}}
            Each value as `encode_value` makes it.
        """
        ...


@runtime_checkable
class StreamedSource(Protocol):
    """Anything a store can be built from that gives its steps from the first to the last: a video, a file of records.

    Its steps are read once and kept beside (see spool.py), in the folder for temporary files (`TMPDIR`), which must
    have room for them as they are, without compression. It may have what an `EpisodeSource` may have, but for
    `is_plain`.
    """

    def scan(self) -> SourceInfo:
        """Describe the source.

        Returns
        -------
        SourceInfo

        Raises
        ------
        SourceError
            For what is not as it should be.
        """
        ...

    def stream(self) -> Iterator[tuple[int, Mapping[str, Array]]]:
        """Give all steps of all episodes once, in blocks.

        A block has the next n >= 1 steps of one episode, in every field, in the dtype of its FieldSpec. Blocks of an
        episode follow each other; the episodes come in any order.

        Yields
        ------
        (int, {field: (n, *shape) array})
            The number of the episode, and its next steps.

        Raises
        ------
        SourceError
            For what cannot be read.
        """
        ...

    def attributes(self, number: int | None) -> Attributes:
        """Return what `EpisodeSource.attributes` does. It is called after the stream has ended, or without one.

        Parameters
        ----------
        number
            Number of the episode; None for the source.

        Returns
        -------
        {path: {name: value}}
            Each value as `encode_value` makes it.
        """
        ...


def overridden(source: EpisodeSource, overrides: Overrides) -> EpisodeSource:
    """Return a source as it is read by overrides; as it is, where it takes none."""
    method = getattr(source, "overridden", None)
    found: EpisodeSource = source if method is None else method(overrides)
    return found


def overrides_of(source: EpisodeSource) -> Overrides:
    """Return what a source is read by."""
    found: Overrides = getattr(source, "overrides", NO_OVERRIDES)
    return found


def suite_and_file(source: EpisodeSource) -> tuple[str, str]:
    """Return the names of a source in a store; by its scan, where it does not have them as attributes."""
    named: Any = source if hasattr(source, "suite") and hasattr(source, "file") else source.scan()
    return named.suite, named.file


def read_rows(
    source: EpisodeSource, number: int, field: str, dtype: str, shape: tuple[int, ...], start: int, stop: int
) -> Array:
    """Return steps [start, stop) of a field, C-contiguous and little-endian. Raises SourceError for another dtype or shape."""
    where = {"file": name_of(source), "demo": number, "field": field}
    return as_promised(source.read(number, field, start, stop), dtype, shape, start, stop, **where)


def as_promised(given: Any, dtype: str, shape: tuple[int, ...], start: int, stop: int, **where: Any) -> Array:
    """Return what a source gave for steps [start, stop) as `read_rows` does; exactly: a conversion would change values silently."""
    if (dtype, shape) == GIVEN_BYTES:
        return _as_bytes(given, start, stop, **where)
    rows = np.asarray(given)
    if rows.shape != (stop - start, *shape) or rows.dtype.name != dtype:
        raise SourceError(
            "a source does not give what its scan promised",
            **where,
            expected=f"{(stop - start, *shape)} of {dtype} for steps {start} to {stop}",
            found=f"{rows.shape} of {rows.dtype}",
        )
    return np.ascontiguousarray(rows, np.dtype(dtype).newbyteorder("<"))


def check_kept(rows: Array, codec: Codec, shape: tuple[int, ...], start: int, **where: Any) -> None:
    """Raise SourceError for the first of (n,) pictures, from step `start` on, that cannot be kept: none may fail in training."""
    for row, data in enumerate(rows, start):
        try:
            codec.check(data, shape)
        except ValueError as error:
            raise SourceError(
                f"a picture cannot be kept as {codec.name.upper()}",
                **where,
                row=row,
                expected=f"a whole picture of {shape}",
                found=str(error)[:200],
                hint="--encoded decode makes pixels of the pictures" if "in rows of" in str(error) else MEND,
            ) from None


def _as_bytes(given: Any, start: int, stop: int, **where: Any) -> Array:
    """Return what a source gave for steps [start, stop) of pictures that are kept, (n,) of `bytes`."""
    found = list(given)
    if len(found) != stop - start or not all(isinstance(each, bytes) for each in found):
        raise SourceError(
            "a source does not give what its scan promised",
            **where,
            expected=f"{stop - start} times bytes for steps {start} to {stop}",
            found=f"{len(found)} times {type(found[0]).__name__ if found else 'nothing'}",
        )
    rows = np.empty(len(found), object)
    rows[:] = found
    return rows


def check_actions(actions: Array) -> None:
    """Raise SourceError for (T, ...) actions that are not all finite: no policy can be trained on them."""
    bad = counted(actions).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise SourceError(
            "actions are not all finite numbers", dataset="actions", row=row, found=actions[row], hint=MEND
        )


def is_machines(error: OSError) -> bool:
    """Tell whether the machine failed, and not what was read: disk, permission, memory or network.

    What is not there, or lies where no byte can be, is the data's fault.
    """
    return error.errno is not None and error.errno not in (errno.ENOENT, errno.EINVAL, errno.EOVERFLOW)


def name_of(source: EpisodeSource) -> str:
    """Return what to call a source in a message: its path, or else its type."""
    return str(getattr(source, "path", None) or type_of(source))


def type_of(source: EpisodeSource) -> str:
    """Return the name of a source's class; of one that is spooled, of what streams."""
    return type(getattr(source, "streamed", source)).__qualname__


def reason_of(error: SourceError) -> str:
    """Return why something was left out, as the store records it: without paths, which are the building machine's."""
    known = error.places.keys() - ({"field"} if "dataset" in error.places else set())  # one name is enough
    where = [f"{label} {error.places[label]}" for label in WHERE if label in known]
    return error.what + (f" ({', '.join(where)})" if where else "")


def describe(source: EpisodeSource) -> dict[str, Any]:
    """Return what identifies a source, for the journal of an unfinished build."""
    path = getattr(source, "path", None)
    return {"path": None if path is None else str(path), "type": type_of(source)}


CLOSERS: list[Callable[[], None]] = []  # what lets go of open files: who keeps some adds to it


def close_files() -> None:
    """Let go of the files that were read: HDF5, for one, does not let anybody write to one that is open."""
    for close in CLOSERS:
        close()
