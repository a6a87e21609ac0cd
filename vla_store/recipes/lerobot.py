"""LeRobot: what its LeRobotDataset yields, and says of itself, from a store.

Sources, at huggingface/lerobot v0.4.4, below src/lerobot/:
    item, padding                      datasets/lerobot_dataset.py:972-999, 1082-1118
    seconds to frames, tolerance       datasets/utils.py:834-892
    numbers and pictures as tensors    datasets/utils.py:410-434
    what training asks of it           datasets/factory.py, scripts/lerobot_train.py:213-328, policies/factory.py
and at 7427f31 (0.6.2): datasets/factory.py:88-243, scripts/lerobot_train.py, datasets/sampler.py.
Its frames are those that `vla_store.export` writes: features are named by the same rule.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from vla_store.errors import OptionError, UnknownName, finite_number, yes_or_no
from vla_store.features.frames import frames_of, rate_of
from vla_store.features.lerobot import NAMING, OWN, own_columns, whole
from vla_store.features.mapping import FLOAT, Feature
from vla_store.features.mapping import mapped as features_of
from vla_store.reader.kept import Kept
from vla_store.reader.part_reader import scatter
from vla_store.reader.transforms import transformed
from vla_store.recipes.conversions import channels_first
from vla_store.recipes.dataset import AnyStore, Array, Empty, Int64, Options, RecipeDataset, Unpack, opened, recipe
from vla_store.recipes.lerobot_meta import LeRobotMeta
from vla_store.recipes.needs import mapped
from vla_store.text import counted
from vla_store.types import TypeVar

if TYPE_CHECKING:
    from vla_store.torch import TensorSample

SELECTION = ("suites", "tasks", "episodes", "split", "view")
FORM = "{feature: [seconds, ...]}"
TEXTS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class _Window:
    """Which frames a feature is of. offsets: as asked for, ascending or not; None: of the frame itself, without an axis.

    read: those that are read, ascending; others only where an offset past the last frame stands for the last one.
    """

    offsets: tuple[int, ...] | None
    read: tuple[int, ...]

    def taken(self, values: Array, left: Int64) -> Array:
        """Return the values (B, K, ...) of the offsets, of those that were read. left: frames after each, (B,)."""
        assert self.offsets is not None
        if self.read == self.offsets:
            return values
        at = np.searchsorted(self.read, np.minimum(self.offsets, left[:, None]))
        return values[np.arange(len(values))[:, None], at]


Made = TypeVar("Made", default="TensorSample", covariant=True)


class LeRobotDataset(RecipeDataset[Made], Generic[Made]):
    """LeRobot's dataset: every row is an anchor, as a frame.

    (Under "causal" alignment, the default, the first of an episode that was recorded after the action is none, unless keep_first
    is true.) Frames are those of the data set that `vla-store export --to lerobot` would write of the same selection, also at the
    ends of episodes: what lies beyond them is no frame, and the nearest one is repeated and marked.

    Parameters
    ----------
    delta_timestamps
        {feature: [seconds, ...]}, as LeRobotDataset takes it: the feature has a leading axis then, and `<feature>_is_pad` tells
        which of it lie beyond the episode. Seconds are whole frames, within `tolerance_s`.
    image_transforms
        Called with each picture, a tensor (..., C, H, W).
    fps
        Frames a second. Default: what the store says, 20 for LIBERO. Another number than the store says is a warning.
    state
        Fields whose numbers stand side by side as observation.state. Default: ee_states and gripper_states where these are LIBERO's.
    rename
        {field: feature}, as {"agentview_rgb": "observation.images.image"}; "state" for what `state` makes.
    exclude
        Fields to leave out.
    uint8
        Give pictures as they are stored, uint8, a quarter of the bytes: as LeRobotDataset's return_uint8 gives those of videos.
    images
        "upright", or "rot180", or "as_stored".
    alignment, transform, suites, tasks, episodes, split, view, keep_first
        As `vla_store.Samples` has them; views of kind "steps".

    Returns
    -------
    dataset
        Of items of tensors: observation.images.<camera> (3, H, W) float32 in 0..1, observation.state, action and the other features
        of the store, timestamp, frame_index, episode_index, index, task_index, and `task`, a text.
    """

    absolute_to_relative_idx = None  # of LeRobot 0.6: frames are numbered as items are
    episodes = None

    @recipe("lerobot", alignment="causal", images="upright")
    def __init__(
        self,
        store: AnyStore,
        *,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        image_transforms: Callable[[Any], Any] | None = None,
        fps: float | None = None,
        state: str | Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        exclude: str | Sequence[str] = (),
        uint8: bool = False,
        tolerance_s: float = 1e-4,
        transform: Callable[[TensorSample], Made] | None = None,
        **options: Unpack[Options],
    ) -> None:
        store = opened(store)
        if image_transforms is not None and not callable(image_transforms):
            raise OptionError("image_transforms is a function of a picture", found=repr(image_transforms)[:100])
        found = features_of(store.fields, NAMING, state=state, rename=rename or {}, exclude=exclude)
        self._features, self._image_transforms = found.features, image_transforms
        self._uint8, tolerance_s = yes_or_no("uint8", uint8), finite_number("tolerance_s", tolerance_s, least=0)
        selection = _selection(options)
        read = functools.partial(
            frames_of,
            store,
            selection=selection,
            alignment=options["alignment"],
            images=options["images"],
            dtype=FLOAT,
            keep_first=options.get("keep_first", False),
        )
        numbers = [name for each in found.features if not each.is_picture for name in each.fields]
        frames = read(numbers or found.fields)
        rate = rate_of(frames, fps)
        is_after = options["alignment"] == "causal" and any(each.observation == "after" for each in frames.sources)
        self._windows = _windows(self._features, delta_timestamps or {}, rate, tolerance_s, is_after=is_after)
        self.delta_timestamps = None if delta_timestamps is None else dict(delta_timestamps)
        windows = {
            name: 0 if (window := self._windows[each.name]).offsets is None else window.read
            for each in self._features
            for name in each.fields
        }
        chosen: dict[str, Any] = {**options, **selection}
        super().__init__(store, windows=windows, dtype=FLOAT, notes=found.notes, transform=transform, **chosen)
        self._episode_numbers, self._bounds, self._runs = frames.numbers, frames.bounds, frames.runs
        self._ranks = np.cumsum(np.diff(self._runs)) - np.diff(self._runs)[:, 0]
        if is_after and not options.get("keep_first"):
            self._only_frames_exist()
        texts, self._starts = self._episode_texts()
        every = dict.fromkeys(text for each in texts for text in each)
        self._task_numbers = {text: number for number, text in enumerate(every)}
        self.meta = LeRobotMeta(read, frames, self._features, whole(rate), texts, self._task_numbers)

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        at = np.searchsorted(self._episode_numbers, batch["episode"])
        rows = self._starts[at] + batch["step"]
        run = np.searchsorted(self._runs[:, 0], rows, side="right") - 1
        index = self._ranks[run] + rows - self._runs[run, 0]
        first, count = self._bounds[at], self._bounds[at + 1] - self._bounds[at]
        frame = index - first
        made: dict[str, Any] = {}
        for each in self._features:
            window = self._windows[each.name]
            values = self._values(each, batch, () if window.offsets is None else (len(window.read),))
            if window.offsets is not None:
                values = window.taken(values, count - 1 - frame)
            made[each.name] = self._as_given(each, values, empty)
        task = np.array([self._task_numbers[text] for text in batch["task"]], np.int64)
        own = own_columns(frame, self.meta.fps, episode=at, index=index, task=task)
        pads = {}
        for name in self.delta_timestamps or ():
            times = frame[:, None] + np.array(self._windows[name].offsets, np.int64)
            pads[f"{name}_is_pad"] = (times < 0) | (times >= count[:, None])
        return {**made, **{name: own[name].copy() for name in OWN}, **pads, "task": batch["task"]}

    @property
    def makes_batches(self) -> bool:
        return super().makes_batches and self._image_transforms is None

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.meta.fps

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """{name: {"dtype", "shape", "names"}}."""
        return self.meta.features

    @property
    def repo_id(self) -> str:
        """What LeRobot calls the data set: the name of the store."""
        return self.meta.repo_id

    @property
    def num_frames(self) -> int:
        """Items."""
        return len(self)

    @property
    def num_episodes(self) -> int:
        """Episodes that have frames."""
        return self.meta.total_episodes

    def store_episodes(self, numbers: Sequence[int]) -> list[int]:
        """Return the store's numbers of episodes of these numbers here. Raises UnknownName."""
        count = len(self._episode_numbers)
        for number in numbers:
            if not 0 <= number < count:
                raise UnknownName.among("episode", number, [f"0 to {count - 1}"], store=self.store.url)
        found: list[int] = self._episode_numbers[list(numbers)].tolist()
        return found

    def facts(self) -> list[tuple[str, str]]:
        said = ", ".join(f"{each.name} {each.shape}" for each in self._features)
        return [
            ("frames", f"{self.fps:g} a second, {counted(self.num_episodes, 'episode')}"),
            ("features", said),
            *super().facts(),
        ]

    def _only_frames_exist(self) -> None:
        """Let windows end where frames do: what precedes the first is that frame again, and not a step that is no frame."""
        kept = self._chosen.kept
        kept = Kept(self._runs, self._runs, () if kept is None else kept.lines)
        self._chosen = dataclasses.replace(self._chosen, kept=kept)
        self._part_readers.clear()  # which know of all steps, where statistics were asked for

    def _values(self, feature: Feature, batch: Mapping[str, Any], axes: tuple[int, ...]) -> Array:
        """Return a feature (B, *axes, *shape) of what was read."""
        lead = (len(batch["episode"]), *axes)
        if len(feature.fields) == 1:
            values: Array = batch[feature.fields[0]]
            return values.reshape(*lead, *feature.shape)
        parts = [batch[name].reshape(*lead, -1) for name in feature.fields]
        return np.concatenate(parts, axis=-1, dtype=feature.dtype, casting="same_kind")

    def _as_given(self, feature: Feature, values: Array, empty: Empty) -> Array:
        """Return values as LeRobot's tensors have them: one number without an axis, whole numbers of any kind as int64."""
        if feature.is_picture:
            if not self._uint8:
                return channels_first(values, empty)
            out = empty((*values.shape[:-3], values.shape[-1], *values.shape[-3:-1]), np.uint8)
            out[...] = np.moveaxis(values, -1, -3)
            return out
        if feature.shape == (1,):
            values = values[..., 0]
        return values.astype(np.int64) if values.dtype.kind in "iu" else values

    def _episode_texts(self) -> tuple[list[list[str]], Int64]:
        """Return the texts of each episode in the order of its frames, each once, and its first row in the store."""
        firsts, count = self._bounds[:-1], len(self._episode_numbers)
        starts, tasks = np.empty(count, np.int64), [""] * count
        for part, at, positions in self._anchors.many(firsts, self.store):
            starts[at] = part.row_start + positions.start
            scatter(tasks, at, part.texts_of(positions.episode, positions.task))
        if self._choice is None:
            return [[text] for text in tasks], starts
        found: list[dict[str, None]] = [{} for _ in range(count)]
        for start in range(0, len(self), TEXTS_AT_ONCE):
            block = np.arange(start, min(start + TEXTS_AT_ONCE, len(self)))
            texts = [""] * len(block)
            for part, at, positions in self._anchors.many(block, self.store):
                scatter(texts, at, self._choice.of(part, positions, at, len(block)))
            for number, text in zip((np.searchsorted(firsts, block, side="right") - 1).tolist(), texts):
                found[number][text] = None
        return [list(each) for each in found], starts

    def _transformed(self, item: Any) -> Any:
        from vla_store.torch.tensors import tensors

        made = tensors(item)
        if self._image_transforms is not None:
            for key in self.meta.camera_keys:
                made[key] = transformed(self._image_transforms, made[key], "image_transforms")
        return super()._transformed(made)


lerobot = LeRobotDataset


def _selection(options: Options) -> dict[str, Any]:
    """Return what is selected, of these options. Raises OptionError."""
    if options.get("rows") is not None:
        raise OptionError(
            "lerobot gives whole episodes, as LeRobot's own has them: no rows= can be chosen",
            hint="torch.utils.data.Subset(dataset, numbers) gives some frames; episodes= or view= choose here",
        )
    given = ((name, options.get(name)) for name in SELECTION)
    return {name: list(each) if isinstance(each, Iterator) else each for name, each in given if each is not None}


def _windows(
    features: Sequence[Feature], given: Any, fps: float, tolerance_s: float, *, is_after: bool
) -> dict[str, _Window]:
    """Return the window of each feature. is_after: what is seen was recorded after the action. Raises UnknownName, OptionError."""
    seconds = mapped("delta_timestamps", given, FORM)
    names = [each.name for each in features]
    for name in seconds:
        if name not in names:
            raise UnknownName.among("feature", name, names)
    made = {}
    for each in features:
        if each.name not in seconds:
            made[each.name] = _Window(None, (0,))
            continue
        offsets = _in_frames(each.name, seconds[each.name], fps, tolerance_s)
        # A frame is what was seen before its action. What was seen after the last one is in the store, and in no frame.
        ends_early = is_after and each.is_observation and max(offsets) > 0
        read = tuple(sorted({*offsets, *range(max(offsets) + 1)})) if ends_early else offsets
        made[each.name] = _Window(offsets, read)
    return made


def _in_frames(name: str, given: Any, fps: float, tolerance_s: float) -> tuple[int, ...]:
    """Return seconds as frames, by LeRobot's rule. Raises OptionError."""
    try:
        seconds = [float(each) for each in given]
    except (TypeError, ValueError):
        seconds = []
    if not seconds or isinstance(given, str) or not all(map(math.isfinite, seconds)):
        raise OptionError(f"delta_timestamps is a dict: {FORM}", found=f"{name!r}: {given!r}"[:100])
    apart = [each for each in seconds if abs(each * fps - round(each * fps)) / fps > tolerance_s]
    if apart:
        raise OptionError(
            f"delta_timestamps of {name!r} are no whole frames",
            expected=f"multiples of 1/{fps:g} s, within {tolerance_s:g} s",
            found=", ".join(f"{each:g}" for each in apart[:8]),
            hint="fps= says how many frames a second the recording has, where the store does not",
        )
    return tuple(round(each * fps) for each in seconds)
