"""OpenVLA and OpenVLA-OFT: what their RLDS pipelines yield, from a store.

Sources, at openvla/openvla c8f03f4 (OV), moojink/openvla-oft 213c5ff (OFT) and moojink/rlds_dataset_builder 6174b0b (RLDS):
    both pictures turned by 180 degrees    RLDS LIBERO_Spatial/LIBERO_Spatial_dataset_builder.py:46-47
    gripper 1 - clip(g, 0, 1)              OV prismatic/vla/datasets/rlds/oxe/transforms.py:827-838
    text lower-cased                       OV prismatic/vla/datasets/datasets.py:40-42; OFT, the same file:38-89
    every row an anchor, one action        OV the same
    OFT: t <= T - 8, nothing padded        OFT prismatic/vla/datasets/rlds/traj_transforms.py:27-57
    normalised form                        OV prismatic/vla/datasets/rlds/utils/data_utils.py:76-99; mask oxe/materialize.py:37-39
After the item come a resize to 224 and an augmentation (openvla_images.py), and the trainer's tokeniser. The RLDS files hold pictures after a JPEG;
here they are as recorded. OpenVLA leaves the last 5 % of its RLDS order out of training; here `split=` does such a thing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic

import numpy as np

from vla_store.errors import machine_errors, whole_number
from vla_store.format.statistics import FieldStatistics
from vla_store.recipes.conversions import MINUS_ONE_TO_ONE, opens_at_one
from vla_store.recipes.dataset import AnyStore, Array, Empty, NormalizedOptions, Unpack, recipe
from vla_store.recipes.item_types import OpenVLAItem, OpenVLAOFTItem
from vla_store.recipes.needs import Range, numbers_of
from vla_store.recipes.normalize import TINY_RANGE, quantiles, warn_of
from vla_store.recipes.regenerated import CAMERAS, STATE, RegeneratedRecipe
from vla_store.storage import local_path
from vla_store.types import TypeVar

OFT_CHUNK = 8
FILE = "dataset_statistics.json"
NAME = "libero"
KEPT = ("mean", "std", "max", "min", "q01", "q99")


Made = TypeVar("Made", default=OpenVLAItem, covariant=True)


class OpenVLADataset(RegeneratedRecipe[Made], Generic[Made]):
    """OpenVLA's dataset: every row is an anchor.

    (Under "causal" alignment, the default, the first of an episode that was recorded after the action is none.) Where the store
    is not of the kind that OpenVLA trains on, a warning and the dataset's `repr` say in what it differs.

    Parameters
    ----------
    name
        Of the statistics in `dataset_statistics`: the unnorm_key of the model.
    camera
        Whose picture is the image.
    normalize
        True, or the `statistics()` of a training set: numbers 0 to 5 of the action by its 1 % and 99 % quantiles.
    transform
        Called with each item, e.g. `lambda item: batch_transform(rlds_batch(item))`.
    alignment, images, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items: "image" (H, W, 3) uint8, turned by 180 degrees; "action" (7,) float32, whose gripper is 1 open, 0 close;
        "language", the task's text in lower case.
    """

    trainer = "OpenVLA"
    (actions,) = numbers_of(["actions"], ranges=(Range(6, *MINUS_ONE_TO_ONE),))

    @recipe("openvla", normalize=False, alignment="causal", images="rot180")
    def __init__(
        self,
        store: AnyStore,
        *,
        name: str = NAME,
        camera: str = CAMERAS[0],
        transform: Callable[[OpenVLAItem], Made] | None = None,
        **options: Unpack[NormalizedOptions],
    ) -> None:
        self.name = name
        super().__init__(
            store,
            name="openvla",
            cameras=(camera,),
            camera_option="camera",
            actions_at=0,
            transform=transform,
            **options,
        )

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        actions = fields["actions"].astype(np.float32)
        actions[..., -1] = opens_at_one(actions[..., -1])
        return {"proprio": self.state(fields), "actions": actions} if self._state else {"action": actions}

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        language = [text.lower() for text in batch["task"]]
        return {**self.pictures(batch), **self.item_numbers(batch), "language": language}

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        low, high = quantiles(by)
        span = np.maximum(high - low, TINY_RANGE)
        made = np.clip(2 * (values - low) / (span + 1e-8) - 1, -1, 1)
        if key != "proprio":
            made[..., -1] = values[..., -1]  # the gripper is masked
        return np.where(by.min == by.max, 0.0, made)  # also where it is the gripper

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        constant = by.min == by.max
        closed = " (which closes the gripper)" if key != "proprio" and constant[-1] else ""
        warn_of(key, constant, f"it never changes, and its normalised form is 0{closed}")
        scaled = ~constant
        scaled[-1] &= key == "proprio"
        self.warn_of_tiny(key, scaled, by)

    @property
    def dataset_statistics(self) -> dict[str, Any]:
        """Statistics that OpenVLA keeps beside a checkpoint to undo the normalising, {name: ...}.

        "action" (and "proprio"): mean, std, max, min, q01, q99; of the action also the mask of what is normalised;
        num_transitions and num_trajectories. Those that items are normalised by, else of the selection.
        """
        made: dict[str, Any] = {}
        for key, each in sorted(self.scales.items()):
            values = {what: np.asarray(getattr(each, what)).tolist() for what in KEPT}
            mask = {"mask": [True] * (len(each.mean) - 1) + [False]}
            made |= {"proprio": values} if key == "proprio" else {"action": values | mask}
        made["num_transitions"] = sum(len(rows) for _, rows in self._selected_rows())
        made["num_trajectories"] = len(self.selected_episodes)
        return {self.name: made}

    def write_statistics(self, folder: str | os.PathLike[str]) -> Path:
        """Write them as `dataset_statistics.json` into `folder`, as OpenVLA's `save_dataset_statistics` does; return its path.

        Raises MachineError.
        """
        path = local_path(folder, "the folder of statistics") / FILE
        with machine_errors("writing the statistics", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.dataset_statistics, indent=2) + "\n", encoding="utf-8")
        return path


OftMade = TypeVar("OftMade", default=OpenVLAOFTItem, covariant=True)


class OpenVLAOFTDataset(OpenVLADataset[OftMade], Generic[OftMade]):
    """OpenVLA-OFT's dataset: anchors are the steps from which `chunk` actions remain.

    t <= T - chunk: nothing is padded, and shorter episodes have none.

    Parameters
    ----------
    chunk
        How many actions an item has.
    cameras, state
        Fields of the image, the wrist image and the proprio.
    normalize
        As `openvla` has it; also all numbers of proprio.
    options
        The rest is as `openvla` has it.

    Returns
    -------
    dataset
        Of items: "image" and "wrist_image" (H, W, 3) uint8, turned by 180 degrees; "proprio" (1, 8) float32, the `ee_states` and
        `gripper_states`; "actions" (chunk, 7) float32 with OpenVLA's gripper; "language" in lower case.
    """

    @recipe("openvla_oft", normalize=False, alignment="causal", images="rot180")
    def __init__(
        self,
        store: AnyStore,
        *,
        name: str = NAME,
        chunk: int = OFT_CHUNK,
        cameras: tuple[str, str] = CAMERAS,
        state: tuple[str, ...] = STATE,
        transform: Callable[[OpenVLAOFTItem], OftMade] | None = None,
        **options: Unpack[NormalizedOptions],
    ) -> None:
        self.name, steps = name, range(whole_number("chunk", chunk))
        RegeneratedRecipe.__init__(
            self,
            store,
            name="openvla_oft",
            cameras=cameras,
            state=state,
            state_at=[0],
            actions_at=steps,
            keep=lambda at: at.kept_step <= at.kept_length - len(steps),
            transform=transform,
            **options,
        )


openvla = OpenVLADataset
openvla_oft = OpenVLAOFTDataset


def rlds_batch(item: Mapping[str, Any], dataset_name: str = NAME) -> dict[str, Any]:
    """Return an item as OpenVLA's and OFT's own `RLDSBatchTransform` takes it.

    Parameters
    ----------
    item
        An item of `openvla` or `openvla_oft`.
    dataset_name
        Becomes "dataset_name"; default "libero".

    Returns
    -------
    dict
        "dataset_name", bytes; "observation": "image_primary" (1, H, W, 3) uint8, and for OFT "image_wrist" (1, H, W, 3)
        uint8 and "proprio" (1, 8) float32; "task": {"language_instruction": bytes}; "action" (1, 7) float32, for OFT
        (chunk, 7). The leading axis of 1 is that of a window of one.
    """
    observation = {"image_primary": item["image"][None]}
    if "wrist_image" in item:
        observation |= {"image_wrist": item["wrist_image"][None], "proprio": item["proprio"]}
    return {
        "dataset_name": dataset_name.encode(),
        "observation": observation,
        "task": {"language_instruction": item["language"].encode()},
        "action": item["actions"] if "actions" in item else item["action"][None],
    }
