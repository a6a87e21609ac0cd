"""`export_store`: from the arguments to a folder that is whole, and a report of what is not as in the store."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vla_store.errors import OptionError, UnknownName
from vla_store.export import growing, png
from vla_store.features import mapping
from vla_store.features.frames import Batch, Frames, frames_of, lost_in, rate_of
from vla_store.progress import Progress, Shown, takes_progress, told_to
from vla_store.reader import Store, open_store
from vla_store.reader.values import Episode
from vla_store.text import Report, counted, size_text
from vla_store.types import (
    ALIGNMENTS,
    EXPORT_FORMATS,
    IMAGES,
    LEROBOT_VERSIONS,
    Alignment,
    ExportFormat,
    Images,
    LeRobotVersion,
)

OF_LEROBOT = ("version", "video", "modality", "fps")
OF_ROWS = ("alignment", "state", "rename", "exclude")
RECORD = "vla_store.json"
MAX_THREADS = 8  # that encode pictures


class Writer(Protocol):
    """Writes one format."""

    def begin(self, episode: Episode, steps: int) -> None: ...

    def rows(self, batch: Batch) -> None: ...

    def end(self) -> None: ...

    def close(self) -> list[str]: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, repr=False)
class ExportReport(Report):
    """Result of an export.

    Attributes
    ----------
    folder
        What was written, an absolute path.
    format
        Its format, as people call it.
    episodes, steps
        How many were written.
    nbytes
        Bytes of all files.
    unequal
        A line on each thing that is not as in the store, or that the format cannot say.
    """

    folder: str
    format: str
    episodes: int
    steps: int
    nbytes: int
    unequal: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return dict(sorted(vars(self).items())) | {"unequal": list(self.unequal)}

    def text(self) -> str:
        """Return it for people."""
        lines = [
            f"folder         {self.folder}",
            f"format         {self.format}",
            f"episodes       {self.episodes:,} ({counted(self.steps, 'step')})",
            f"size           {size_text(self.nbytes)}",
        ]
        lines += [f"{'' if number else 'not equal':<13}  {line}" for number, line in enumerate(self.unequal)]
        return "\n".join(lines)


@takes_progress
def export_store(
    store: Store | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    to: ExportFormat,
    suites: Any = None,
    tasks: Any = None,
    episodes: Any = None,
    split: Any = None,
    view: str | Sequence[str] | None = None,
    alignment: Alignment | None = None,
    images: Images = "as_stored",
    state: str | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    exclude: str | Sequence[str] = (),
    fps: float | None = None,
    version: LeRobotVersion | None = None,
    video: bool = False,
    modality: bool = False,
    progress: Shown = None,
) -> ExportReport:
    """Write a store, or whole episodes of it, as a data set of another format.

    It grows in FOLDER.partial, which is renamed when it is whole. Memory holds an episode at a time, its pictures as PNG.

    Parameters
    ----------
    store
        A Store, or where one is.
    folder
        The folder to write; must not exist.
    to : {"lerobot", "rlds", "hdf5"}
        The format: LeRobot's data set, RLDS as tensorflow_datasets reads it, or LIBERO's HDF5.
    suites, tasks, episodes, split, view
        The selection, as Samples takes it. Views are of kind "steps": only the steps that they keep are written.
    alignment : {"causal", "as_stored"}, optional
        For LeRobot and RLDS, of stores that recorded observations after the action of the same row; see Samples.
    images : {"as_stored", "upright", "rot180"}
        How pictures lie in what is written. HDF5 has them as stored.
    state
        Fields whose numbers stand side by side as the state. Default: ee_states and gripper_states where these are LIBERO's,
        else each field is a feature of its own.
    rename
        {field: name in the format}, as {"agentview_rgb": "observation.images.image"}; "state" for what `state` makes.
    exclude
        Fields to leave out.
    fps
        Steps a second, which LeRobot must have. Default: what the store says, 20 for LIBERO.
    version : {"v3.0", "v2.1"}, optional
        LeRobot's; default "v3.0".
    video
        LeRobot: pictures as video, which loses some of them. Without it they are PNG, and equal.
    modality
        LeRobot: write GR00T's meta/modality.json.
    progress
        True shows a bar, as `build_store` does; or an object that is told how far it is.

    Returns
    -------
    ExportReport

    Raises
    ------
    OptionError, UnknownName
        Options that cannot be, a selection that is empty or cuts within episodes, names that clash.
    DestinationExists
        The folder is there already.
    StoreNotFound, StoreDamaged, UnsupportedStore, FetchError, MachineError
        Where the store is read, and where the folder is written.
    """
    for name, value, known in (("format", to, EXPORT_FORMATS), ("images", images, IMAGES)):
        if value not in known:
            raise UnknownName.among(name, value, list(known))
    if alignment is not None and alignment not in ALIGNMENTS:
        raise UnknownName.among("alignment", alignment, list(ALIGNMENTS))
    given: dict[str, Any] = {"version": version, "video": video, "modality": modality, "fps": fps}
    given |= {"alignment": alignment, "state": state, "rename": rename, "exclude": exclude}
    _check_options(to, given, images)
    opened = store if isinstance(store, Store) else open_store(store)
    target = growing.destination(folder)
    selection = {"suites": suites, "tasks": tasks, "episodes": episodes, "split": split, "view": view}
    selection = {name: value for name, value in selection.items() if value is not None}
    plan = {"lerobot": _lerobot, "rlds": _rlds, "hdf5": _hdf5}[to](opened, target.name, given)
    chosen = frames_of(
        opened,
        plan.fields,
        selection,
        alignment="as_stored" if to == "hdf5" else alignment,
        images=images,
        dtype=None if to == "hdf5" else mapping.FLOAT,
    )
    what, make = plan.ready(chosen)
    notes = [*plan.notes, *_notes_on(chosen, plan, images)]
    with growing.growing(target) as place, contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1)))
        writer = make(place, functools.partial(_encoded, pool))
        stack.callback(writer.abort)
        _write(writer, chosen, told_to(progress))
        notes += writer.close()
        if plan.record:
            record = _record(chosen, images, selection) | {"not_equal": notes}
            (place / plan.record).write_text(json.dumps(record, indent=1), encoding="utf-8")
        nbytes = sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
    return ExportReport(str(target), what, len(chosen.numbers), chosen.steps, nbytes, tuple(notes))


Encode = Callable[[Any], list[bytes]]
Ready = tuple[str, Callable[[Path, Encode], Writer]]


@dataclass(frozen=True)
class _Plan:
    """How a format is written.

    fields: those that are read. notes: what is not as in the store. record: where what was done is written, "" for nowhere.
    ready: from what is exported, what people call the format, and what makes its writer, of the folder that grows and the encoder of
    pictures.
    """

    fields: list[str]
    notes: tuple[str, ...]
    record: str
    ready: Callable[[Frames], Ready]


def _lerobot(store: Store, name: str, given: Mapping[str, Any]) -> _Plan:
    from vla_store.export.lerobot import LeRobotWriter
    from vla_store.features.lerobot import NAMING

    version, is_video, modality = given["version"] or LEROBOT_VERSIONS[0], given["video"], given["modality"]
    if version not in LEROBOT_VERSIONS:
        raise UnknownName.among("version", version, list(LEROBOT_VERSIONS))
    mapped = _mapped(store, NAMING, given)
    if modality and not any(each.is_state for each in mapped.features):
        raise OptionError(
            "GR00T's modality.json describes a state, and there is none",
            hint="--state FIELD,FIELD names the fields that it is made of",
        )

    def ready(chosen: Frames) -> Ready:
        fps = rate_of(chosen, given["fps"])
        what = f"LeRobot {version}, {'video' if is_video else 'PNG in parquet'}, {fps:g} frames a second"
        options = {"version": version, "fps": fps, "is_video": is_video, "modality": modality}
        return what, lambda folder, encode: LeRobotWriter(folder, mapped.features, encode, **options)

    return _Plan(mapped.fields, mapped.notes, f"meta/{RECORD}", ready)


def _rlds(store: Store, name: str, given: Mapping[str, Any]) -> _Plan:
    from vla_store.export.rlds import NAMING, VERSION, RldsWriter, check_nesting

    mapped = _mapped(store, NAMING, given)
    check_nesting(each.name for each in mapped.features)

    def ready(chosen: Frames) -> Ready:
        return "RLDS (TFRecord), PNG", lambda folder, encode: RldsWriter(folder, name, mapped.features, encode)

    return _Plan(mapped.fields, mapped.notes, f"{VERSION}/{RECORD}", ready)


def _hdf5(store: Store, name: str, given: Mapping[str, Any]) -> _Plan:
    from vla_store.export.hdf5 import Hdf5Writer

    def ready(chosen: Frames) -> Ready:
        return "HDF5 as LIBERO has it", lambda folder, encode: Hdf5Writer(folder, chosen)

    return _Plan(list(store.fields), (), "", ready)  # the folder is one of suites, and of nothing else


def _mapped(store: Store, naming: mapping.Naming, given: Mapping[str, Any]) -> mapping.Mapped:
    return mapping.mapped(
        store.fields, naming, state=given["state"], rename=given["rename"] or {}, exclude=given["exclude"] or ()
    )


def _check_options(to: str, given: Mapping[str, Any], images: str) -> None:
    """Refuse options that the format has no use for. Raises OptionError."""
    unused = [] if to == "lerobot" else [name for name in OF_LEROBOT if given[name]]
    if to == "hdf5":
        unused += [name for name in OF_ROWS if given[name]]
        if images != "as_stored":
            unused.append("images")
    if unused:
        why = (
            "LIBERO's files have fields, rows and pictures as the store has them" if to == "hdf5" else "it is LeRobot's"
        )
        raise OptionError(f"{to} has no use for --{unused[0]}: {why}", hint="leave it out")


def _notes_on(chosen: Frames, plan: _Plan, images: str) -> list[str]:
    """Return what is not as in the store because of what was chosen. plan: a format whose record is nowhere has its rows as stored."""
    store, sources, notes = chosen.store, chosen.sources, []
    if chosen.without_steps:
        notes.append(f"left out, as no step of them is left: {counted(chosen.without_steps, 'episode')}")
    codecs = (field.codec for _, document in store.parts for field in document.fields.values())
    if any(each.codec for each in sources) or any(each.keeps for each in codecs):
        notes.append("pictures that were recorded as JPEG are written as the pixels that samples have")
    if not plan.record and any(store.segments(int(each)) for each in chosen.numbers):
        notes.append(
            "an episode has one text in LIBERO's files: of those that change within an episode the first is written"
        )
    if images == "rot180" and any(each.orientation == "top_down" for each in sources):
        notes.append(
            "rot180 is upright but mirrored, as LIBERO's sets are: pictures that were recorded top_down are mirrored now"
        )
    kinds = store.instruction_kinds
    if kinds:
        notes.append(f"one text a step is written; further instructions have no place: {', '.join(kinds)}")
    if not plan.record:
        return notes
    wide = [name for name in plan.fields if store.fields[name].dtype == "float64"]
    notes += lost_in(store, wide, mapping.FLOAT)
    if any(each.observation == "after" for each in sources):
        notes.append(
            "each row is what was seen before its action; the first step of an episode has no such row"
            if chosen.samples.alignment == "causal"
            else "rows are as recorded: what is seen in one is what its action led to, which readers do not know"
        )
    lie = {each.orientation for each in sources} if images == "as_stored" else {images}
    if store.cameras and not lie <= {"upright", "top_down"}:
        more = "; --images upright turns them" if images == "as_stored" else ""
        notes.append(f"pictures lie {' or '.join(sorted(lie))}, and readers take them to be upright{more}")
    notes.append(f"attributes and names of files have no place; {plan.record} says of which file each episode is")
    return notes


def _record(chosen: Frames, images: str, selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done, to be written beside the data."""
    return {
        "store": {"digest": chosen.store.digest, "fingerprint": chosen.store.fingerprint},
        "images": images,
        "orientation": sorted({each.orientation for each in chosen.sources}),
        "alignment": chosen.samples.alignment,
        "lie": _lying(chosen, images),
        "selection": {name: _said(value) for name, value in selection.items()},
        "episodes": [_origin(each) for each, _, _ in chosen.episodes()],
    }


def _lying(chosen: Frames, images: str) -> dict[str, str]:
    """Return how the rows that are written lie, as who builds of them would state it; nothing where they lie in several ways."""
    orientations, observations = (
        {getattr(each, name) for each in chosen.sources} for name in ("orientation", "observation")
    )
    orientations = {"as_stored": orientations, "upright": {"top_down"}}.get(images, {images})
    observations = {"before"} if chosen.samples.alignment == "causal" else observations
    lie = {"orientation": orientations, "observation": observations}
    return {name: each.pop() for name, each in lie.items() if len(each) == 1}


def _write(writer: Writer, chosen: Frames, progress: Progress) -> None:
    progress.begin(chosen.steps, chosen.steps * chosen.step_nbytes, 0)
    for episode, start, count in chosen.episodes():
        writer.begin(episode, count)
        for batch in chosen.slices(range(start, start + count)):
            writer.rows(batch)
            progress.advance(len(batch["step"]) * chosen.step_nbytes)
        writer.end()
    progress.end()


def _encoded(pool: ThreadPoolExecutor, pictures: Any) -> list[bytes]:
    return list(pool.map(png.encode, pictures))


def _origin(episode: Episode) -> dict[str, Any]:
    return {
        "suite": episode.suite,
        "file": episode.file,
        "number": episode.number,
        "task": episode.task,
        "success": episode.success,
    }


def _said(value: Any) -> Any:
    if isinstance(value, (str, int)):
        return value
    listed = list(value) if hasattr(value, "__iter__") else [value]
    return [each if isinstance(each, (str, int)) else str(each) for each in listed]
