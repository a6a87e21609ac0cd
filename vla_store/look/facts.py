"""Facts of a store for its page, as values: counts, distributions and bytes, from its tables, statistics and a sample of rows.

No more than a bounded number of steps and frames is read, however large the store is: `MAX_ACTION_STEPS` for no-ops,
`MAX_SAMPLED_ROWS` of each numeric field, `MAX_SAMPLED_FRAMES` of each camera, one frame of each task that is shown, and where
episodes are few a strip of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.format.statistics import FieldStatistics
from vla_store.look.page_episodes import ListedTask, listed_tasks, strips
from vla_store.look.pictures import Pictures, is_colour, shrunk, to_rgb, value_range, with_channels
from vla_store.look.saying import ACTIONS, fingers_of, number_names
from vla_store.reader import Samples, Store
from vla_store.reader.parts import parts_of
from vla_store.reader.values import SourceConvention, StoreField, StoreTask
from vla_store.rules import (
    NOOP_THRESHOLD,
    POSE_ACTION_WIDTH,
    RDT_FINETUNE_SHORTEST,
    RDT_SHORTEST,
    has_gripper_last,
    noops,
)

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]


MAX_ACTION_STEPS = 1 << 21
MAX_SAMPLED_ROWS = 1 << 16
MAX_SAMPLED_NBYTES = 32 << 20
MAX_SAMPLED_FRAMES = 48
MAX_COMPONENTS = 16
MAX_CHANNELS = 4
MAX_PICTURES = 320
MAX_CAMERAS_OF_A_TASK = 4
MAX_FAILURES = 8
PICTURE_SIDE = 160  # pixels; larger frames are shrunk by a whole factor
RUN_ROWS = 256
BINS = 40


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins from low to high."""

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def most(self) -> int:
        return max(self.counts)


@dataclass(frozen=True)
class Group:
    """Some episodes: those of the store, of a suite or of a task.

    lengths: the shortest, the median and the longest. ends: an episode of the shortest and of the longest.
    failed, unknown: episodes without success, and without rewards; failures: the first few that failed.
    noops: of `counted` steps, None where none was counted.
    """

    suite: str
    episodes: int
    steps: int
    lengths: tuple[int, float, int]
    ends: tuple[int, int]
    succeeded: int
    failed: int
    failures: tuple[int, ...]
    unknown: int
    noops: int | None
    counted: int


@dataclass(frozen=True)
class SourceFacts:
    source: SourceConvention
    episodes: int
    steps: int


@dataclass(frozen=True)
class TaskFacts:
    """pictures: (camera, (H, W, 3), upright, no side above PICTURE_SIDE) of the middle step, `shown_step`, of its first episode;
    none where there are too many tasks."""

    task: StoreTask
    group: Group
    first: int
    shown_step: int
    pictures: tuple[tuple[str, Pictures], ...]


@dataclass(frozen=True)
class Component:
    """One number of a field. index: its place, "" for a field of one number. statistics: min, q01, mean, q99, max, std of the
    finite values; nan, infinite: how many are none."""

    index: str
    histogram: Histogram | None
    statistics: dict[str, float] | None
    nan: int
    infinite: int


@dataclass(frozen=True)
class FieldFacts:
    field: StoreField
    components: tuple[Component, ...]
    left_out: int  # components beyond MAX_COMPONENTS
    sampled_rows: int


@dataclass(frozen=True)
class RaggedFacts:
    """A field of several widths: {width: episodes}."""

    field: StoreField
    widths: dict[int, int]


@dataclass(frozen=True)
class CameraFacts:
    """coded: (prediction, codec) of its parts; the prediction of what was kept encoded is "". channels: the histogram of each, of the first MAX_CHANNELS, over
    `sampled_frames`."""

    field: StoreField
    coded: tuple[tuple[str, str], ...]
    nbytes: int
    raw_nbytes: int
    channels: tuple[Histogram, ...]
    sampled_frames: int
    has_more_channels: bool

    @property
    def share(self) -> float:
        return self.nbytes / max(1, self.raw_nbytes)

    @property
    def kept(self) -> bool:
        """Whether there are parts that have its pictures as they were recorded, still encoded."""
        return any(not prediction for prediction, _ in self.coded)

    @property
    def encoded(self) -> bool:
        """Whether there are parts whose build encoded its pictures."""
        return any(prediction for prediction, _ in self.coded)


@dataclass(frozen=True)
class Facts:
    """Facts of a store that its page shows."""

    name: str
    store: Store
    whole: Group
    suites: tuple[Group, ...]
    tasks: tuple[TaskFacts, ...]
    presets: tuple[str, ...]
    sources: tuple[SourceFacts, ...]
    cameras: tuple[CameraFacts, ...]
    fields: tuple[FieldFacts, ...]
    ragged: tuple[RaggedFacts, ...]
    lengths: Histogram
    suite_lengths: tuple[Histogram, ...]  # in the bins of `lengths`
    shorter: Mapping[int, int]  # {bound of RDT's: episodes that are shorter}
    noop_episodes: int | None  # whose actions were read; None: the store has no actions of that kind
    array_nbytes: tuple[tuple[str, int], ...]
    listed: tuple[ListedTask, ...]
    strips: tuple[Pictures, ...]  # of each episode; none where there are too many

    @property
    def listed_episodes(self) -> int:
        """How many episodes are listed."""
        return sum(len(each.episodes) for each in self.listed)


def gather(store: Store, name: str) -> Facts:
    """Gather the facts of a store that its page calls `name`. Raises what reading raises."""
    table = _table(store)
    counted, found = _noops(store, table)

    def group(suite: str, chosen: Int64) -> Group:
        order = chosen[np.argsort(table["length"][chosen], kind="stable")]
        lengths = table["length"][order]
        success = table["success"][chosen]
        steps_counted = int((table["length"][chosen] * counted[chosen]).sum())
        return Group(
            suite=suite,
            episodes=len(lengths),
            steps=int(lengths.sum()),
            lengths=(int(lengths[0]), median(lengths), int(lengths[-1])) if len(lengths) else (0, 0, 0),
            ends=(int(order[0]), int(order[-1])) if len(order) else (0, 0),
            succeeded=int((success > 0).sum()),
            failed=int((success == 0).sum()),
            failures=tuple(chosen[success == 0][:MAX_FAILURES].tolist()),
            unknown=int((success < 0).sum()),
            noops=None if found is None or not steps_counted else int(found[chosen].sum()),
            counted=steps_counted,
        )

    sources = [
        SourceFacts(each, len(chosen), int(table["length"][chosen].sum()))
        for each, chosen in zip(store.conventions.sources, _indices_of(table["source"], len(store.conventions.sources)))
    ]
    by_suite = _indices_of(table["suite"], len(store.suites))
    lengths = _lengths(table["length"], [table["length"], *(table["length"][each] for each in by_suite)])
    return Facts(
        name=name,
        store=store,
        whole=group("", np.arange(len(table["length"]))),
        suites=tuple(map(group, store.suites, by_suite)),
        tasks=tuple(_tasks(store, table, group)),
        presets=tuple(sorted({str(each.plan.get("options", {}).get("preset", "?")) for _, each in store.parts})),
        sources=tuple(sources),
        cameras=tuple(_camera(store, each) for each in store.fields.values() if each.is_camera),
        fields=tuple(
            _field(store, each) for each in store.fields.values() if not each.is_camera and not each.is_ragged
        ),
        ragged=tuple(_ragged(store, each) for each in store.fields.values() if each.is_ragged),
        lengths=lengths[0],
        suite_lengths=lengths[1:],
        shorter={bound: int((table["length"] < bound).sum()) for bound in (RDT_SHORTEST, RDT_FINETUNE_SHORTEST)},
        noop_episodes=None if found is None else int(counted.sum()),
        array_nbytes=tuple(sorted(store.array_nbytes.items(), key=lambda item: (-item[1], item[0]))),
        listed=listed_tasks(store, name),
        strips=tuple(strips(store)),
    )


def median(numbers: Int64) -> float:
    """Return the median of whole numbers: itself a whole one but where it lies half-way between two."""
    middle = float(np.median(numbers))
    return int(middle) if middle.is_integer() else middle


def spread(count: int, at_most: int, run: int = 1) -> Int64:
    """Return at most `at_most` numbers below `count`, all of them or runs of `run`, evenly spread and ascending."""
    if count <= at_most:
        return np.arange(count)
    run = min(run, at_most)
    runs = at_most // run
    starts = (
        (2 * np.arange(runs) + 1) * (count - runs * run) // (2 * runs)
    )  # what lies before each, less the runs before
    return (starts[:, None] + np.arange(runs * run).reshape(runs, run)).reshape(-1)


def histogram(values: npt.NDArray[np.float64], low: float, high: float, bins: int = BINS) -> Histogram | None:
    """Count the finite values in equal bins; None where there are none. One bin where low is high."""
    kept = values[np.isfinite(values)]
    if not kept.size:
        return None
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = float(kept.min()), float(kept.max())
    if low == high:
        return Histogram(low, high, (len(kept),))
    counts, _ = np.histogram(np.clip(kept, low, high), bins=bins, range=(low, high))
    return Histogram(low, high, tuple(counts.tolist()))


def _table(store: Store) -> dict[str, Int64]:
    """Return columns of a row per episode, (n,): start, length, success, and indices of its task, source and suite in the store's lists."""
    tasks = {(each.suite, each.name): at for at, each in enumerate(store.tasks)}
    suites = {each: at for at, each in enumerate(store.suites)}
    columns: list[list[Int64]] = []
    sources = 0
    for part in parts_of(store):
        entries = part.entries(0, part.episodes)
        task, source = entries["task"], entries["source"]
        of_task = np.array([tasks[each.suite, each.name] for each in part.document.tasks])
        of_suite = np.array([suites[each.suite] for each in part.document.sources])
        columns.append([entries["success"], of_task[task], source + sources, of_suite[source]])
        sources += len(part.document.sources)
    joined = dict(zip(("success", "task", "source", "suite"), map(np.concatenate, zip(*columns))))
    return {"start": store.episodes.starts, "length": store.episodes.lengths, **joined}


def _noops(store: Store, table: dict[str, Int64]) -> tuple[npt.NDArray[np.bool_], Int64 | None]:
    """Return which episodes were counted, and the no-ops of each; None where the rule does not apply to this store."""
    starts, lengths = table["start"], table["length"]
    counted = np.zeros(len(lengths), bool)
    field = store.fields.get(ACTIONS)
    if field is None or field.kind != "fixed" or field.shape != (POSE_ACTION_WIDTH,):
        return counted, None
    fingers = fingers_of(store)
    counted[:: -(-store.rows // MAX_ACTION_STEPS)] = True
    found = np.zeros(len(lengths), np.int64)
    chosen = np.flatnonzero(counted)
    read = np.cumsum(lengths[chosen]) // MAX_SAMPLED_ROWS  # of neighbours, about so many rows are read at once
    ends = np.flatnonzero((np.diff(chosen) > 1) | (np.diff(read) > 0)) + 1
    for episodes in np.split(chosen, ends):
        start, last = int(starts[episodes[0]]), episodes[-1]
        actions = store.read(ACTIONS, range(start, int(starts[last] + lengths[last])))
        if fingers is None and not has_gripper_last(actions):
            return np.zeros(len(lengths), bool), None
        for episode in episodes.tolist():
            at = int(starts[episode]) - start
            found[episode] = noops(actions[at : at + int(lengths[episode])], NOOP_THRESHOLD).sum()
    return counted, found


def _lengths(lengths: Int64, groups: Sequence[Int64]) -> tuple[Histogram, ...]:
    """Return the histogram of each group of lengths, all in the same bins of whole steps."""
    low, span = int(lengths.min()), int(np.ptp(lengths)) + 1
    width = -(-span // min(BINS, max(5, len(lengths))))
    bins = -(-span // width)
    made = [histogram(each.astype(np.float64), low, low + bins * width, bins) for each in groups]
    return tuple(each for each in made if each is not None)


def _indices_of(numbers: Int64, count: int) -> list[Int64]:
    """Return for each number below `count` its indices in `numbers`, ascending."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers, minlength=count))[:-1])


def _tasks(store: Store, table: dict[str, Int64], group: Callable[[str, Int64], Group]) -> Iterator[TaskFacts]:
    """Describe every task, with pictures of as many as the page has room for."""
    places = _indices_of(table["task"], len(store.tasks))
    first = [int(each[0]) for each in places]
    steps = [int(table["length"][each]) // 2 for each in first]
    rows = [int(table["start"][each]) + step for each, step in zip(first, steps)]
    cameras = sorted(store.cameras, key=lambda name: not is_colour(store.fields[name]))  # before depth
    each_has = min(MAX_CAMERAS_OF_A_TASK, max(1, MAX_PICTURES // len(store.tasks)))
    pictures = {name: list(_upright(store, name, rows[:MAX_PICTURES])) for name in cameras[:each_has]}
    for number, (task, chosen) in enumerate(zip(store.tasks, places)):
        shown = ((name, found[number]) for name, found in pictures.items() if number < MAX_PICTURES)
        yield TaskFacts(task, group(task.suite, chosen), first[number], steps[number], tuple(shown))


def _upright(store: Store, camera: str, rows: Sequence[int]) -> Iterator[Pictures]:
    """Read the pictures of these rows, shrunk to what a page has room for; many at once."""
    nbytes = math.prod(n or 1 for n in store.fields[camera].shape) * np.dtype(store.fields[camera].dtype).itemsize
    at_once = max(1, MAX_SAMPLED_NBYTES // nbytes)
    for start in range(0, len(rows), at_once):
        samples = Samples(store, windows={camera: 0}, rows=rows[start : start + at_once], images="upright")
        for frame in samples.batch(range(len(samples)))[camera]:
            yield shrunk(to_rgb(frame[None], value_range(frame[None]))[0], PICTURE_SIDE)


def _camera(store: Store, field: StoreField) -> CameraFacts:
    documents = [document.fields[field.name] for _, document in store.parts]
    frame_nbytes = documents[0].step_nbytes
    rows = spread(store.rows, max(1, min(MAX_SAMPLED_FRAMES, MAX_SAMPLED_NBYTES // frame_nbytes)))
    frames = with_channels(store.read(field.name, rows))
    low, high = (0.0, 255.0) if field.dtype == "uint8" else value_range(frames) or (0.0, 0.0)
    made = [
        histogram(frames[..., c].astype(np.float64).reshape(-1), low, high, 32)
        for c in range(min(frames.shape[3], MAX_CHANNELS))
    ]
    folders = ("frames", "residuals", "backgrounds")
    return CameraFacts(
        field=field,
        coded=tuple(
            sorted(
                {
                    ("" if each.codec.keeps else "+".join(each.prediction) or "none", str(each.codec))
                    for each in documents
                }
            )
        ),
        nbytes=sum(store.array_nbytes.get(f"{folder}/{field.name}", 0) for folder in folders),
        raw_nbytes=frame_nbytes * store.rows,
        channels=tuple(each for each in made if each is not None),
        sampled_frames=len(rows),
        has_more_channels=frames.shape[3] > MAX_CHANNELS,
    )


def _field(store: Store, field: StoreField) -> FieldFacts:
    shape = tuple(n for n in field.shape if n is not None)
    row_nbytes = math.prod(shape) * np.dtype(field.dtype).itemsize
    at_most = max(1, min(MAX_SAMPLED_ROWS, MAX_SAMPLED_NBYTES // max(1, row_nbytes)))
    rows = spread(store.rows, at_most, RUN_ROWS)
    shown = min(MAX_COMPONENTS, math.prod(shape))
    values = store.read(field.name, rows).reshape(len(rows), -1)[:, :shown].astype(np.float64)
    known = store.statistics.all.get(field.name)
    components: list[Component] = []
    named = number_names(store, field)
    for column, place in zip(values.T, np.ndindex(shape)):
        if known is None:
            statistics, low, high = None, math.nan, math.nan
            nan, infinite = np.isnan(column).sum(), np.isinf(column).sum()
        else:
            statistics = _statistics(known, place)
            low, high = statistics["min"], statistics["max"]
            nan, infinite = known.nan[place], known.infinite[place]
        index = " ".join(["".join(f"[{n}]" for n in place), *named[len(components) : len(components) + 1]]).strip()
        components.append(Component(index, histogram(column, low, high), statistics, int(nan), int(infinite)))
    return FieldFacts(field, tuple(components), math.prod(shape) - shown, len(rows))


def _statistics(known: FieldStatistics, place: tuple[int, ...]) -> dict[str, float]:
    """Return the statistics of one component; q01 and q99 are NaN where the store has none."""
    arrays = {key: getattr(known, key) for key in ("min", "q01", "mean", "q99", "max", "std")}
    return {key: math.nan if each is None else float(each[place]) for key, each in arrays.items()}


def _ragged(store: Store, field: StoreField) -> RaggedFacts:
    widths: dict[int, int] = {}
    for part in parts_of(store):
        described = part.document.fields[field.name]
        if described.is_ragged:
            widths_of = part.entries(0, part.episodes)[f"{field.name}_width"]
            found, counts = np.unique(widths_of, return_counts=True)
        else:  # of one width in this part
            found, counts = np.array(described.fixed_shape), np.array([part.episodes])
        for width, count in zip(found.tolist(), counts.tolist()):
            widths[width] = widths.get(width, 0) + count
    return RaggedFacts(field, dict(sorted(widths.items())))
