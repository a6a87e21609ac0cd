"""OpenVLA and OpenVLA-OFT: what their RLDS pipelines yield, from a store.

Sources, at openvla/openvla c8f03f4 (OV), moojink/openvla-oft 213c5ff (OFT) and moojink/rlds_dataset_builder 6174b0b (RLDS):
    both pictures turned by 180 degrees    RLDS LIBERO_Spatial/LIBERO_Spatial_dataset_builder.py:46-47
    gripper 1 - clip(g, 0, 1)              OV prismatic/vla/datasets/rlds/oxe/transforms.py:827-838
    text lower-cased                       OV prismatic/vla/datasets/datasets.py:40-42; OFT, the same file:38-89
    every row an anchor, one action        OV the same
    OFT: t <= T - 8, nothing padded        OFT prismatic/vla/datasets/rlds/traj_transforms.py:27-57
    normalised form                        OV prismatic/vla/datasets/rlds/utils/data_utils.py:76-99; mask oxe/materialize.py:37-39
After the item come the trainer's own Lanczos resize to 224, augmentation and tokeniser. The RLDS files hold pictures after a JPEG;
here they are as recorded. OpenVLA leaves the last 5 % of its RLDS order out of training; here `split=` does such a thing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import OptionError, machine_error, warn
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.store import Store, open_store
from vla_store.recipes.dataset import Array, Empty, recipe
from vla_store.recipes.gripper import MINUS_ONE_TO_ONE, opens_at_one
from vla_store.recipes.needs import Need, Needs, Range, numbers_of, pictures_of
from vla_store.recipes.normalize import TINY_RANGE, NumericRecipe, quantiles, warn_of
from vla_store.storage import local_path

OFT_CHUNK = 8
PIXELS = 256
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
STATE = ("ee_states", "gripper_states")
FILE = "dataset_statistics.json"
NAME = "libero"
ACTIONS = numbers_of("actions", ranges=[Range(6, *MINUS_ONE_TO_ONE)])
STATE_WIDTH = 8
KEPT = ("mean", "std", "max", "min", "q01", "q99")


@recipe
def openvla(
    store: Store | str | os.PathLike[str],
    *,
    name: str = NAME,
    camera: str = CAMERAS[0],
    normalize: bool | Mapping[str, FieldStatistics] = False,
    alignment: str = "causal",
    images: str = "rot180",
    transform: Callable[[dict[str, Any]], Any] | None = None,
    **selection: Any,
) -> OpenVLADataset:
    """OpenVLA's items: "image" (H, W, 3) uint8, turned by 180 degrees; "action" (7,) float32, whose gripper is 1 open, 0 close;
    "language", the task's text in lower case.

    Every row is an anchor (under "causal" alignment, the default, the first of an episode that was recorded after the action is
    none). normalize: True, or the `statistics()` of a training set: numbers 0 to 5 of the action by its 1 % and 99 % quantiles.
    name: of these statistics in `dataset_statistics`: the unnorm_key of the model.
    transform: called with each item, e.g. `lambda item: batch_transform(rlds_batch(item))`.
    selection: suites, tasks, episodes, rows, split, view, keep_first, as `vla_store.Samples` has them.
    Where the store is not of the kind that OpenVLA trains on, a warning and the dataset's `repr` say in what it differs.
    """
    windows = {camera: 0, "actions": 0}
    shared = {"alignment": alignment, "images": images, "transform": transform, "normalize": normalize, **selection}
    needs = Needs("openvla", (pictures_of(camera, "camera"), ACTIONS))
    return OpenVLADataset(store, name=name, windows=windows, needs=needs, cameras=(camera,), state=(), **shared)


@recipe
def openvla_oft(
    store: Store | str | os.PathLike[str],
    *,
    name: str = NAME,
    chunk: int = OFT_CHUNK,
    cameras: tuple[str, str] = CAMERAS,
    state: tuple[str, ...] = STATE,
    normalize: bool | Mapping[str, FieldStatistics] = False,
    alignment: str = "causal",
    images: str = "rot180",
    transform: Callable[[dict[str, Any]], Any] | None = None,
    **selection: Any,
) -> OpenVLADataset:
    """OpenVLA-OFT's items: "image" and "wrist_image" (H, W, 3) uint8, turned by 180 degrees; "proprio" (1, 8) float32, the
    `ee_states` and `gripper_states`; "actions" (chunk, 7) float32 with OpenVLA's gripper; "language" in lower case.

    Anchors are the steps from which `chunk` actions remain, t <= T - chunk: nothing is padded, and shorter episodes have none.
    normalize: also all numbers of proprio. The rest is as `openvla` has it.
    """
    if isinstance(chunk, bool) or not isinstance(chunk, (int, np.integer)) or chunk < 1:
        raise OptionError("chunk is a whole number of at least 1", found=repr(chunk)[:100])
    if cameras[0] == cameras[1]:
        raise OptionError("the two cameras are one", cameras=", ".join(cameras))
    windows = {cameras[0]: 0, cameras[1]: 0, **{name: [0] for name in state}, "actions": range(chunk)}
    shared = {"alignment": alignment, "images": images, "transform": transform, "normalize": normalize, **selection}
    return OpenVLADataset(
        store,
        name=name,
        windows=windows,
        needs=Needs("openvla_oft", (*(pictures_of(each, "cameras") for each in cameras), *state_needs(state), ACTIONS)),
        cameras=cameras,
        state=state,
        keep=lambda at: at.kept_step <= at.kept_length - chunk,
        **shared,
    )


def rlds_batch(item: Mapping[str, Any], dataset_name: str = NAME) -> dict[str, Any]:
    """An item as OpenVLA's and OFT's own `RLDSBatchTransform` takes it, with the leading axis of a window of one."""
    observation = {"image_primary": item["image"][None]}
    if "wrist_image" in item:
        observation |= {"image_wrist": item["wrist_image"][None], "proprio": item["proprio"]}
    return {
        "dataset_name": dataset_name.encode(),
        "observation": observation,
        "task": {"language_instruction": item["language"].encode()},
        "action": item["actions"] if "actions" in item else item["action"][None],
    }


class OpenVLADataset(NumericRecipe):
    """What `openvla` and `openvla_oft` give."""

    def __init__(
        self, store: Any, *, name: str, cameras: tuple[str, ...], state: tuple[str, ...], **options: Any
    ) -> None:
        self.name, self._cameras, self._state = name, cameras, state
        self.unchanged = cameras
        store = store if isinstance(store, Store) else open_store(store)
        notes = differences(store, cameras, "OpenVLA")
        super().__init__(store, notes=notes, **options)
        check_state("openvla_oft", state, store)
        if notes:
            warn("this is not the data that OpenVLA trains on: " + "; ".join(notes))

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        actions = fields["actions"].astype(np.float32)
        actions[..., -1] = opens_at_one(actions[..., -1])
        if not self._state:
            return {"action": actions}
        return {
            "proprio": np.concatenate([fields[name] for name in self._state], axis=-1).astype(np.float32),
            "actions": actions,
        }

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        pictures = dict(zip(("image", "wrist_image"), (batch[name] for name in self._cameras)))
        return {**pictures, **self.item_numbers(batch), "language": [text.lower() for text in batch["task"]]}

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        low, high = quantiles(by)
        span = np.where(high - low < TINY_RANGE, np.maximum(high - low, TINY_RANGE), high - low)
        made = np.clip(2 * (values - low) / (span + 1e-8) - 1, -1, 1)
        if key != "proprio":
            made[..., -1] = values[..., -1]  # the gripper is masked
        return np.where(by.min == by.max, 0.0, made)  # also where it is the gripper

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        low, high = quantiles(by)
        constant = by.min == by.max
        closed = " (which closes the gripper)" if key != "proprio" and constant[-1] else ""
        warn_of(key, constant, f"it never changes, and its normalised form is 0{closed}")
        tiny = ~constant & (high - low < TINY_RANGE)
        tiny[-1] &= key == "proprio"
        warn_of(key, tiny, f"from 1 % to 99 % it changes by less than {TINY_RANGE}, which stands in for that range")

    @property
    def dataset_statistics(self) -> dict[str, Any]:
        """What OpenVLA keeps beside a checkpoint to undo the normalising, {name: ...}.

        "action" (and "proprio"): mean, std, max, min, q01, q99; of the action also the mask of what is normalised;
        num_transitions and num_trajectories. Those that items are normalised by, else of the selection.
        """
        chosen = self.normalized_by or self.statistics()
        made: dict[str, Any] = {}
        for key, each in sorted(chosen.items()):
            values = {what: np.asarray(getattr(each, what)).tolist() for what in KEPT}
            if key == "proprio":
                made["proprio"] = values
            else:
                made["action"] = values | {"mask": [True] * (len(values["mean"]) - 1) + [False]}
        made["num_transitions"] = sum(len(rows) for _, rows in self._selected_rows())
        made["num_trajectories"] = len(self.selected_episodes)
        return {self.name: made}

    def write_statistics(self, folder: str | os.PathLike[str]) -> Path:
        """Writes them as `dataset_statistics.json` into `folder`, as OpenVLA's `save_dataset_statistics` does; its path.

        Raises MachineError.
        """
        path = local_path(folder, "the folder of statistics") / FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.dataset_statistics, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise machine_error(error, "writing the statistics", path) from None
        return path


def state_needs(state: tuple[str, ...]) -> list[Need]:
    """What OpenVLA-OFT and openpi take of the fields of a state."""
    return [numbers_of(name, "state") for name in state]


def check_state(recipe: str, state: tuple[str, ...], store: Store) -> None:
    """Raises OptionError unless the fields of a state, if there are some, have as many numbers as these trainers' models take."""
    widths = {name: store.fields[name].shape[0] or 0 for name in state}
    if state and sum(widths.values()) != STATE_WIDTH:
        raise OptionError(
            f"{recipe} takes a state of {STATE_WIDTH} numbers",
            **{name: f"{width} numbers" for name, width in widths.items()},
            found=sum(widths.values()),
            hint=f"name other fields with state=; LIBERO's are {', '.join(STATE)}",
        )


def differences(store: Store, cameras: tuple[str, ...], trainer: str) -> tuple[str, ...]:
    """In what a store differs from the regenerated LIBERO that OpenVLA and openpi train on, a line each."""
    notes = []
    if any(each.observation == "after" for each in store.conventions.sources):
        notes.append(
            "the demonstrations are as published (observation after the action); "
            f"{trainer} trains on regenerated ones, without no-ops and failures"
        )
    sizes = {store.fields[name].shape[:2] for name in cameras if name in store.cameras} - {(PIXELS, PIXELS)}
    if sizes:
        shown = ", ".join(f"{height} x {width}" for height, width in sorted(sizes, key=str))
        notes.append(f"pictures are {shown}; {trainer}'s are {PIXELS} x {PIXELS}")
    return tuple(notes)
