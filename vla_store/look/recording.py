"""One episode as a recording for the viewer rerun (.rrd): cameras, numbers and texts on its clock, every pixel and number as it is.

Needs the extra `rerun`.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from vla_store.errors import MachineError
from vla_store.extras import needed
from vla_store.look.cameras import camera_names, read_steps, sizes
from vla_store.look.curves import curve_names, drawn_first, is_curve, rows_of
from vla_store.look.episodes import shown_episode
from vla_store.look.pictures import is_colour, with_channels
from vla_store.look.scene import Scene, scene_of
from vla_store.look.writing import LABEL, Written, beside, labelled, path_outside, placed
from vla_store.reader import Store
from vla_store.reader.values import Episode, StoreField
from vla_store.text import counted, number_text, shown
from vla_store.types import Images

ENDINGS = (".rrd",)
EXTRA = "rerun"
APPLICATION = "vla_store"
MAX_NUMBERS = 64  # of a field: more are no curves that a viewer can show
MAX_PLOTS = 4
STEP, TIME = "step", "time"
OLDEST = (0, 26, 2)
"""Older ones of rerun's SDK do not say when the disk is full."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False)
class RecordingWritten(Written):
    """Where a recording was written. cameras, fields: what is in it; left_out: fields that are not."""

    cameras: tuple[str, ...]
    fields: tuple[str, ...]
    left_out: tuple[str, ...]
    fps: float
    has_fps: bool

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "cameras": list(self.cameras),
            "fields": list(self.fields),
            "fps": self.fps,
            "fps_is_assumed": not self.has_fps,
            "left_out": list(self.left_out),
            "lossy": False,
        }

    @property
    def about(self) -> tuple[str, str]:
        return "recording", f"{counted(len(self.cameras), 'camera')}, {counted(len(self.fields), 'field')} of numbers"

    def text(self) -> str:
        assumed = "" if self.has_fps else ", which is assumed: the source states no rate"
        lines = [
            super().text(),
            labelled("clock", f"{STEP}, and {TIME} at {number_text(self.fps)} steps a second{assumed}"),
        ]
        if self.left_out:
            lines.append(labelled("left out", ", ".join(map(shown, self.left_out))))
        said = f"{'exact':<{LABEL}}yes: every pixel and number of these; to see it:"
        lines.append(beside(said, " ", f"rerun {shlex.quote(str(self.path))}"))
        return "\n".join(lines)


def write_recording(
    store: Store | str | os.PathLike[str],
    episode: Episode | SupportsIndex | str,
    path: str | os.PathLike[str],
    *,
    images: Images = "upright",
) -> RecordingWritten:
    """Write an episode as a recording for rerun to `path`, an .rrd, replacing what is there.

    Cameras are /cameras/NAME, fields of numbers /NAME, its text /instruction, the texts of steps /segment, where it comes from
    /about. store, episode, images: as `write_episode` takes them. Raises OptionError, UsageError, MachineError (rerun's
    SDK is missing or too old; the disk), and what reading raises.
    """
    store, episode = shown_episode(store, episode)
    made = path_outside(store, path, ENDINGS)  # before the work
    rerun = sdk()
    written: list[str] = []
    with placed(made) as temporary:
        scene = scene_of(store, episode, images)
        recording = rerun.RecordingStream(APPLICATION, recording_id=f"{store.fingerprint[:16]}-{episode.episode}")
        recording.save(temporary)
        try:
            recording.send_recording_name(f"{scene.source}: {scene.title}")
            _send_texts(rerun, recording, scene)
            _send_cameras(rerun, recording, store, scene, images)
            for field in number_fields(store):
                values = rows_of(store, field, episode)
                if is_exact(values):
                    _send_numbers(rerun, recording, store, field, values, scene.fps)
                    written.append(field.name)
            recording.send_blueprint(_blueprint(rerun, store, scene))
            recording.flush()
        except RuntimeError as error:  # rerun's thread that writes has ended
            raise MachineError(f"the recording could not be written: {error}", path=made) from None
        finally:
            recording.disconnect()
        nbytes = temporary.stat().st_size
    return RecordingWritten(
        made,
        nbytes,
        episode,
        tuple(camera_names(store)),
        tuple(written),
        tuple(each.name for each in store.fields.values() if not each.is_camera and each.name not in written),
        scene.fps,
        scene.has_fps,
    )


def sdk() -> Any:
    """Import rerun's SDK. Raises MachineError where it is missing or too old."""
    rerun = needed("rerun", EXTRA)
    found = getattr(rerun, "__version__", "")  # a package of another purpose has this name, too
    numbers = tuple(int(part) for part in found.partition("-")[0].split(".")[:3] if part.isdecimal())
    if not hasattr(rerun, "RecordingStream") or numbers < OLDEST:
        raise MachineError(
            "this needs a newer SDK of rerun",
            expected=f"rerun-sdk {'.'.join(map(str, OLDEST))} or newer",
            found=found or "a package rerun that is not rerun's SDK",
            hint=f'pip install "vla-store[{EXTRA}]"',
        )
    return rerun


def number_fields(store: Store) -> list[StoreField]:
    """Return the fields whose numbers a recording has: of one axis or none, and not of very many numbers."""
    return [each for each in store.fields.values() if is_curve(each) and math.prod(sizes(each)) <= MAX_NUMBERS]


def is_exact(values: Array) -> bool:
    """Return True if float64, which rerun's numbers are, holds these: all but some integers above 2**53."""
    return values.dtype.kind not in "iu" or bool((values.astype(np.float64).astype(values.dtype) == values).all())


def camera_path(name: str) -> list[str]:
    """Return the entity of a camera, as rerun names it: its parts, of any characters."""
    return ["cameras", name]


def _clock(rerun: Any, steps: Array, fps: float) -> list[Any]:
    return [rerun.TimeColumn(STEP, sequence=steps), rerun.TimeColumn(TIME, duration=steps / fps)]


def _send_texts(rerun: Any, recording: Any, scene: Scene) -> None:
    recording.log("instruction", rerun.TextDocument(scene.title), static=True)
    about = [*([("", scene.under_title)] if scene.under_title else []), *scene.notes, ("clock", scene.rate_note)]
    recording.log("about", rerun.TextDocument("\n".join(f"{name}: {text}" for name, text in about)), static=True)
    if scene.segments:
        steps = np.array([step for step, _ in scene.segments], np.int64)
        texts = [text for _, text in scene.segments]
        recording.send_columns(
            "segment", indexes=_clock(rerun, steps, scene.fps), columns=rerun.TextDocument.columns(text=texts)
        )


def _send_cameras(rerun: Any, recording: Any, store: Store, scene: Scene, images: Images) -> None:
    names = camera_names(store)
    for first, frames in read_steps(store, scene.episode, names, range(scene.length), images):
        for name in names:
            pictures = np.ascontiguousarray(with_channels(frames[name]))
            entity, field = camera_path(name), store.fields[name]
            steps = np.arange(first, first + len(pictures))
            kind = _archetype(rerun, field, pictures.shape[3])
            if kind is None:
                _send_tensors(rerun, recording, entity, pictures, steps, scene.fps)
                continue
            archetype, model = kind
            if not first:
                layout = rerun.components.ImageFormat(
                    width=pictures.shape[2],
                    height=pictures.shape[1],
                    color_model=model,
                    channel_datatype=getattr(rerun.ChannelDatatype, _datatype(field.dtype)),
                )
                recording.log(entity, archetype.from_fields(format=layout), static=True)
            buffer = pictures.reshape(len(pictures), -1).view(np.uint8)
            recording.send_columns(
                _joined(rerun, entity),
                indexes=_clock(rerun, steps, scene.fps),
                columns=archetype.columns(buffer=buffer),
            )


def _archetype(rerun: Any, field: StoreField, channels: int) -> tuple[Any, Any] | None:
    """Return rerun's class of such pictures, and its colour model; None where it has none, so that they are tensors."""
    if _datatype(field.dtype) not in dir(rerun.ChannelDatatype):
        return None
    if channels == 1:
        return (rerun.Image, rerun.ColorModel.L) if is_colour(field) else (rerun.DepthImage, None)
    models = {3: rerun.ColorModel.RGB, 4: rerun.ColorModel.RGBA}
    return (rerun.Image, models[channels]) if channels in models else None


def _send_tensors(rerun: Any, recording: Any, entity: list[str], pictures: Array, steps: Array, fps: float) -> None:
    for step, picture in zip(steps.tolist(), pictures):
        recording.set_time(STEP, sequence=step)
        recording.set_time(TIME, duration=step / fps)
        recording.log(entity, rerun.Tensor(picture, dim_names=["height", "width", "channel"]))
    recording.reset_time()


def _send_numbers(rerun: Any, recording: Any, store: Store, field: StoreField, values: Array, fps: float) -> None:
    length, width = values.shape
    names = [field.name] if not field.shape else list(curve_names(store, field, width))
    recording.log([field.name], rerun.SeriesLines(names=names), static=True)
    scalars = rerun.Scalars.columns(scalars=np.ascontiguousarray(values, np.float64).reshape(-1))
    recording.send_columns(
        _joined(rerun, [field.name]),
        indexes=_clock(rerun, np.arange(length), fps),
        columns=scalars.partition(np.full(length, width)),
    )


def _blueprint(rerun: Any, store: Store, scene: Scene) -> Any:
    """Lay out the viewer's window: the text, the cameras side by side, and below them the curves of the actions and the state."""
    views = needed("rerun.blueprint", EXTRA)
    cameras = []
    for name in camera_names(store):
        is_tensor = _archetype(rerun, store.fields[name], _channels(store.fields[name])) is None
        view = views.TensorView if is_tensor else views.Spatial2DView
        cameras.append(view(origin=_joined(rerun, camera_path(name)), name=shown(name)))
    chosen = {field.name for field in number_fields(store)}
    curves = [each.name for each in drawn_first(store) if each.name in chosen][:MAX_PLOTS]
    rows = [views.TextDocumentView(origin="/", contents=["/instruction", "/segment"], name="instruction")]
    if cameras:
        rows.append(views.Horizontal(*cameras))
    rows += [views.TimeSeriesView(origin=_joined(rerun, [name]), name=shown(name)) for name in curves]
    shares = [1, *([6] if cameras else []), *[3] * len(curves)]
    return views.Blueprint(views.Vertical(*rows, row_shares=shares), collapse_panels=True)


def _channels(field: StoreField) -> int:
    return math.prod(sizes(field)[2:])


def _datatype(dtype: str) -> str:
    """uint8 -> U8, rerun's name of it; of what it does not know, another one."""
    kind = np.dtype(dtype)
    return f"{kind.kind.upper()}{8 * kind.itemsize}"


def _joined(rerun: Any, parts: Sequence[str]) -> str:
    path: str = rerun.new_entity_path(list(parts))
    return path
