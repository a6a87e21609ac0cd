"""RDT-1B's pre-training: what its disk buffer holds of each step, straight from a store.

Sources, in thu-ml/RoboticsDiffusionTransformer at commit deb71d8, where [RDT ...] is said: data/episode_transform.py makes the
samples, data/preprocess.py their vectors, data/vla_dataset.py leaves episodes out, data/producer.py writes them to the buffer,
and train/dataset.py reads that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic

import numpy as np

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.recipes.dataset import AnyStore, Array, Empty, Mask, Options, Steps, Unpack, opened, recipe
from vla_store.recipes.item_types import RdtPretrainItem
from vla_store.recipes.needs import Needs, pictures_of
from vla_store.recipes.rdt_episodes import (
    CAMERAS,
    CHUNK_SIZE,
    IMAGE_HISTORY_SIZE,
    Episode,
    RdtEpisodes,
    checked_cameras,
)
from vla_store.recipes.rdt_mapping import STATE_SIZE, RdtMapping, Take, checked_mapping, needs_of, slots_of, vectors
from vla_store.recipes.rdt_statistics import moments
from vla_store.rules import drawn_steps, has_length
from vla_store.types import TypeVar

# RDT's order [docs/pretrain.md, "configs/dataset_img_keys.json"]; of the four, training uses the first three.
BUFFER_CAMERAS: Mapping[str, str | None] = {**CAMERAS, "cam_fourth": None}
FRAMES: Mapping[str, str] = {camera: f"past_frames_{number}" for number, camera in enumerate(BUFFER_CAMERAS)}
ACTIONS = ("states", "actions")


Made = TypeVar("Made", default=RdtPretrainItem, covariant=True)


class RdtPretrainDataset(RdtEpisodes[Made], Generic[Made]):
    """What RDT-1B's pre-training reads from its disk buffer, every step once: item i is anchor i of a selection.

    RDT learns to foresee *states*: what it calls an action is the states that follow. Its producer writes them to a buffer of
    262,144 samples, its consumer takes what it finds there. Several such datasets, mixed by `vla_store.mixture` with
    `rdt_weights`, take the place of producer and buffer; with `transform=rdt_buffered` an item is what RDT's consumer reads.

    Under a view of kind "steps" an episode is made of the steps that it keeps: in #steps, step_id and all statistics.

    Parameters
    ----------
    mapping
        Which numbers go where in the vector of 128: a key of `MAPPINGS`, or an RdtMapping, which needs an action only with
        action="actions". Its own `norm` and `moves_by` are not used.
    dataset_name
        Must be given: a key of RDT's pretrain_datasets.json (or finetune_datasets.json), dataset_control_freq.json and
        dataset_stat.json; see `write_configs`.
    action
        "states" (default): states t+1 to t+K. "actions": those that are recorded, t to t+K-1, and state_norm is of the
        episode's actions, as RDT does it for `agilex` alone.
    rotation, chunk_size, img_history_size
        As `rdt` takes them.
    instruction
        As `rdt` takes it. A text gets a capital letter and a full stop, as there; of a dict {text of a task: what to give} the
        value is given as it is, such as the path of a saved embedding.
    cameras
        {"cam_high", "cam_right_wrist", "cam_left_wrist", "cam_fourth": field, or None where there is none}; RDT's training
        uses the first three.
    shortest
        Leave out episodes of fewer steps (RDT 32).
    longest
        Of an episode of more steps so many are anchors, drawn at random (RDT 2,048). RDT draws anew each time it loads the
        episode; here the same `seed` gives the same steps.
    seed
        See `longest`.
    alignment
        Needed only where action="actions" mixes observations and actions of a source that recorded observations after the
        action; see `vla_store.Samples`.
    images
        "upright" (default), "as_stored", "rot180".
    transform, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items, with K chunk_size, H img_history_size, all numbers float32 and every array fresh, named and in the order in which
        the buffer has them:
        json_content {dataset_name, "#steps": the last step's number, which is one less than there are steps, instruction};
        step_id; state_chunk (K, 128), states t-K+1 to t, the first one repeated before the start; action_chunk (K, 128), the
        last one repeated past the end; `<chunk>_time_mask` (K,) bool, false where repeated; state_vec_mask (128,) of 1 and 0;
        past_frames_0 to past_frames_3 (H, height, width, 3) uint8, or (H, 0, 0, 0) where there is no camera, and
        `<frames>_time_mask` (H,) bool, true also where there is no camera; state_std, state_mean, state_norm (128,), over the
        whole episode.
        [RDT data/episode_transform.py:224-379, data/preprocess.py:132-220, data/producer.py:97-117.]

    Raises
    ------
    OptionError, UnknownName
        For what cannot be.
    """

    @recipe("rdt_pretrain", alignment=None, images="upright")
    def __init__(
        self,
        store: AnyStore,
        *,
        mapping: str | RdtMapping = "",
        dataset_name: str = "",
        action: str = "states",
        rotation: str | None = None,
        instruction: str | Mapping[str, str] = "file_name",
        cameras: Mapping[str, str | None] | None = None,
        shortest: int | None = None,
        longest: int | None = None,
        seed: int = 0,
        chunk_size: int = CHUNK_SIZE,
        img_history_size: int = IMAGE_HISTORY_SIZE,
        transform: Callable[[RdtPretrainItem], Made] | None = None,
        **options: Unpack[Options],
    ) -> None:
        store = opened(store)
        if action not in ACTIONS:
            raise UnknownName.among("action", action, list(ACTIONS))
        self._acts = action == "actions"
        self.mapping = chosen = checked_mapping(mapping, "rdt_pretrain", needs_action=self._acts, takes_previous=True)
        if not dataset_name or not isinstance(dataset_name, str):
            raise OptionError(
                "dataset_name must be given: RDT looks up frequency and statistics by it",
                store=store.url,
                found=repr(dataset_name)[:100],
                hint='rdt_pretrain(store, ..., dataset_name="mine")',
            )
        drawn = self._settle(store, rotation, dataset_name, instruction, checked_cameras(cameras, BUFFER_CAMERAS))
        self._shortest = None if shortest is None else whole_number("shortest", shortest)
        self._longest = None if longest is None else whole_number("longest", longest)
        self._seed = whole_number("seed", seed, least=0)
        self._chunk = whole_number("chunk_size", chunk_size)
        self._history = whole_number("img_history_size", img_history_size)
        if self._history > self._chunk:
            raise OptionError("img_history_size is at most chunk_size", found=f"{self._history} of {self._chunk}")
        action_takes = chosen.action if self._acts else ()
        self._window = np.arange(1 - self._chunk, 1 if self._acts else self._chunk + 1)
        self._previous = {each.field for each in chosen.state if each.previous}
        super().__init__(
            store,
            needs=Needs(
                f"rdt_pretrain, by its mapping {chosen.name!r},",
                (*pictures_of(self.unchanged), *needs_of(chosen, (*chosen.state, *action_takes))),
            ),
            windows={each.field: (self._window - each.previous).tolist() for each in chosen.state}
            | {each.field: range(self._chunk) for each in action_takes}
            | dict.fromkeys(self.unchanged, range(1 - self._history, 1)),
            keep=None if shortest is None and longest is None else self._keep,
            notes=[
                f"mapping {chosen.name}: {chosen.about}" if self._acts else f"mapping {chosen.name}, its state alone"
            ],
            **drawn,
            transform=transform,
            **options,
        )
        self._check_previous()
        state_slots = slots_of(chosen.state, store)
        # What exists of a vector: of the action, as RDT's own mask is the one that it made last.
        self._mask_slots = slots_of(action_takes, store) if self._acts else state_slots
        self._slots = np.union1d(state_slots, self._mask_slots)
        self._check_instructions()

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        episodes, steps = self._placed(batch)
        count, size, takes = len(episodes), self._chunk, self.mapping.state
        batch = self._with_previous(batch, episodes, steps)
        states, state_mask = self._chunk_of(takes, batch, slice(size), empty)
        if self._acts:
            action, action_mask = self._chunk_of(self.mapping.action, batch, slice(size), empty)
        else:
            action, action_mask = self._chunk_of(takes, batch, slice(size, None), empty)
        made: dict[str, Any] = {
            "json_content": {
                "dataset_name": [self._name] * count,
                "#steps": [each.length - 1 for each in episodes],
                "instruction": self._instructions(batch, episodes),
            },
            "step_id": steps,
            "state_chunk": states,
            "state_chunk_time_mask": state_mask,
            "action_chunk": action,
            "action_chunk_time_mask": action_mask,
            "state_vec_mask": np.zeros((count, STATE_SIZE), np.float32),
        }
        made["state_vec_mask"][:, self._mask_slots] = 1
        seen = self._frames(batch, empty)
        for camera, field in self._cameras.items():
            key, history = FRAMES[camera], self._history
            made[key] = np.zeros((count, history, 0, 0, 0), np.uint8) if field is None else seen[camera]
            made[f"{key}_time_mask"] = (
                state_mask[:, size - history :].copy() if field is None else ~batch[f"{field}_is_pad"]
            )
        mean, std, norm = np.stack([each.moments for each in episodes], axis=1)
        for key, values in (("state_std", std), ("state_mean", mean), ("state_norm", norm)):
            made[key] = np.zeros((count, STATE_SIZE), np.float32)
            made[key][:, self._slots] = values
        return made

    def _check_previous(self) -> None:
        """Raise OptionError where the step before is not known."""
        kept = self._chosen.kept
        for field in self._previous:
            if self.store.fields[field].role != "step":
                raise OptionError("what is taken of the step before is no observation", field=field)
            if kept is not None and kept.steps is not None:
                raise OptionError('under a view of kind "steps" nothing is taken of the step before', field=field)

    def _with_previous(
        self, batch: dict[str, Any], episodes: Sequence[Episode], steps: Sequence[int]
    ) -> dict[str, Any]:
        """Return a batch in which windows of the step before are as those of states: nothing is before an episode's first step, and
        past its last one stands what was before that."""
        if not self._previous:
            return batch
        step, length, shift = (
            np.array(each)[:, None]
            for each in (steps, [each.length for each in episodes], [each.shift for each in episodes])
        )
        seen = step + shift + self._window
        row = np.clip(seen, 0, length - 1)
        own = row - 1 - shift  # a step that was seen after its action is seen before the next one
        at = np.clip(own - (step + self._window[0] - 1), 0, len(self._window) - 1)
        made = dict(batch)
        for field in self._previous:
            made[field] = np.take_along_axis(batch[field], at[..., None], axis=1)
            made[field][own < 0] = 0
            made[f"{field}_is_pad"] = seen != row
        return made

    def _chunk_of(self, takes: Sequence[Take], batch: dict[str, Any], part: slice, empty: Empty) -> tuple[Array, Mask]:
        """Return the vectors of part of a window, and which of them are no padding."""
        fields = dict.fromkeys(each.field for each in takes)
        values = {field: batch[field][:, part] for field in fields}
        is_pad = np.any([batch[f"{field}_is_pad"][:, part] for field in fields], axis=0)
        return vectors(takes, values, self._six, empty, np.float32), ~is_pad

    def _instructions(self, batch: dict[str, Any], episodes: Any) -> list[str]:
        found = super()._instructions(batch, episodes)
        return found if isinstance(self._instruction, dict) else [as_sentence(each) for each in found]

    def _states(self, number: int) -> Array:
        """Return the states of an episode, (T, 128)."""
        rows, takes = self._rows(number), self.mapping.state
        values = {field: self.store.read(field, rows) for field in dict.fromkeys(each.field for each in takes)}
        if self._source(number)[1] == 0:
            for field in self._previous:
                values[field] = np.concatenate([np.zeros_like(values[field][:1]), values[field][:-1]])
        return vectors(takes, values, self._six, dtype=np.float32)

    def _moments(self, number: int) -> Array:
        """Return mean, std and norm of an episode, (3, 128): computed in float64, of the numbers as float32."""
        mean, std, norm = moments(self._states(number).astype(np.float64))
        if self._acts:
            actions = self._vectors(self.mapping.action, self._rows(number)).astype(np.float32)
            norm = moments(actions.astype(np.float64))[2]
        return np.stack([mean, std, norm])

    def _keep(self, anchors: Steps) -> Mask:
        """Return which anchors the rules of length keep [RDT data/vla_dataset.py:119-126]."""
        kept = has_length(anchors.kept_length, self._shortest)
        if self._longest is not None:
            is_long = anchors.kept_length > self._longest
            for number in np.unique(anchors.episode[is_long]).tolist():
                at = np.flatnonzero(anchors.episode == number)
                # A stretch of keys for each episode, so that no two draw alike.
                drawn = drawn_steps(int(anchors.kept_length[at[0]]), self._longest, (number << 32) + self._seed)
                kept[at] &= drawn[anchors.kept_step[at]]
        return kept


rdt_pretrain = RdtPretrainDataset


def as_sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop, as RDT's pre-training has it [RDT data/utils.py]."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") or not text else f"{text}."


class Buffered:
    """What RDT's consumer reads of a sample from its buffer: unpacks as the tuple that `_safe_load` returns.

    It is no tuple, so that parts of a mixture are alike whatever the sizes of their pictures: RDT's consumer takes them one by one.
    """

    __slots__ = ("values",)

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


def rdt_buffered(sample: Mapping[str, Any]) -> Buffered:
    """Return an item of `rdt_pretrain` as RDT's consumer reads one from its buffer; for `transform=`.

    Parameters
    ----------
    sample
        An item.

    Returns
    -------
    Buffered
        It unpacks in place of `self._safe_load(index)`: json_content, step_id, state_chunk, its time mask, action_chunk, its time
        mask, state_vec_mask, four times frames and their time mask, state_std, state_mean, state_norm
        [RDT train/dataset.py:226-238, 260-262].

    Raises
    ------
    OptionError
        For what is no such item.
    """
    try:
        return Buffered(tuple(sample[key] for key in BUFFERED))
    except (KeyError, TypeError, IndexError):
        keys = ", ".join(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
        raise OptionError(
            "this is no sample of rdt_pretrain",
            expected=", ".join(BUFFERED),
            found=keys[:300],
            hint="rdt_pretrain(store, ..., transform=rdt_buffered)",
        ) from None


BUFFERED = (
    "json_content",
    "step_id",
    "state_chunk",
    "state_chunk_time_mask",
    "action_chunk",
    "action_chunk_time_mask",
    "state_vec_mask",
    *(key for frames in FRAMES.values() for key in (frames, f"{frames}_time_mask")),
    "state_std",
    "state_mean",
    "state_norm",
)
