"""ACT: what its episodic dataset yields, but each step once, from a store.

Sources, at tonyzhaozh/act 742c753 (ACT), MarkFzp/act-plus-plus 0909801 (ACT++) and huggingface/lerobot 7427f31 (LR):
    item, zero padding, mean and std of at least 1e-2    ACT utils.py:11-76, 79-108 (42a5e2f also kept std below 10)
    steps enumerated, actions cut to a chunk             ACT++ utils.py
    chunk of 100, last action repeated, loss masked      LR configuration_act.py:84-94; modeling_act.py:147-150
ACT itself draws one step of each episode and wants episodes of one length, which LIBERO has not. On real robots it pairs qpos[t]
with actions from t - 1 "to make timesteps more aligned"; in simulation, and here, from t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

import numpy as np

from vla_store.errors import UnknownName, whole_number
from vla_store.format.statistics import FieldStatistics
from vla_store.recipes.conversions import fill_channels_first
from vla_store.recipes.dataset import AnyStore, Array, Empty, NormalizedOptions, Unpack, recipe
from vla_store.recipes.item_types import ActItem
from vla_store.recipes.needs import Need, Needs, listed, pictures_of
from vla_store.recipes.normalize import NumericRecipe, joined, warn_of
from vla_store.types import PADS, Pad, TypeVar

MIN_STD = 1e-2

Made = TypeVar("Made", default=ActItem, covariant=True)


class ActDataset(NumericRecipe[Made], Generic[Made]):
    """ACT's dataset: every row is an anchor.

    (Under "causal" alignment, the default, the first of an episode that was recorded after the action is none.)

    Parameters
    ----------
    chunk
        How many actions an item has.
    cameras
        Whose pictures are stacked, in this order.
    qpos
        Fields that are put together: the seven joints and the two fingers.
    pad
        What stands past the end of an episode, where is_pad is true: "edge", the last action, as LeRobot has it, or "zero", as
        ACT has it, which normalises the zeros as well.
    normalize
        qpos and action less their mean, by their standard deviation (of a sample, n - 1), which is at least 1e-2.
    images
        "upright", or "rot180", on which LeRobot trains LIBERO.
    alignment, transform, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items (image (K, 3, H, W) float32 in 0..1, qpos (n,) float32, action (chunk, 7) float32, is_pad (chunk,) bool), with K
        cameras.
    """

    @recipe("act", normalize=False, alignment="causal", images="upright")
    def __init__(
        self,
        store: AnyStore,
        *,
        chunk: int = 100,
        cameras: Sequence[str] = ("agentview_rgb", "eye_in_hand_rgb"),
        qpos: Sequence[str] = ("joint_states", "gripper_states"),
        pad: Pad = "edge",
        transform: Callable[[ActItem], Made] | None = None,
        **options: Unpack[NormalizedOptions],
    ) -> None:
        steps = range(whole_number("chunk", chunk))
        if pad not in PADS:
            raise UnknownName.among("pad", pad, list(PADS))
        self._cameras, self._qpos, self._zeros = listed("cameras", cameras), listed("qpos", qpos), pad == "zero"
        fields = (*pictures_of(cameras), *(Need(name, "qpos") for name in qpos), Need("actions"))
        windows = {**dict.fromkeys([*cameras, *qpos], 0), "actions": steps}
        super().__init__(
            store, needs=Needs("act", fields, stacks=True), windows=windows, transform=transform, **options
        )

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        return {"qpos": joined(fields, self._qpos), "action": fields["actions"].astype(np.float32)}

    def items(self, batch: dict[str, Any], empty: Empty) -> ActItem:
        is_pad = batch["actions_is_pad"]
        if self._zeros:
            batch["actions"][is_pad] = 0
        numbers = self.item_numbers(batch)
        count, height, width, channels = batch[self._cameras[0]].shape
        image = empty((count, len(self._cameras), channels, height, width), np.float32)
        for at, camera in enumerate(self._cameras):
            fill_channels_first(batch[camera], image[:, at])
        return image, numbers["qpos"], numbers["action"], is_pad

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        return (values - by.mean) / np.maximum(_sample_std(by), MIN_STD)

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        warn_of(key, _sample_std(by) < MIN_STD, f"its standard deviation is below {MIN_STD}, which stands in for it")

    def norm_stats(self) -> dict[str, Array]:
        """Return what ACT keeps in `dataset_stats.pkl`: action_mean, action_std, qpos_mean, qpos_std, (n,) float32 each.

        And example_qpos, (T, n): the last episode's, of this selection.
        """
        made = {}
        for key, each in self.scales.items():
            made[f"{key}_mean"] = each.mean.astype(np.float32)
            made[f"{key}_std"] = np.maximum(_sample_std(each), MIN_STD).astype(np.float32)
        part, rows = self._selected_rows()[-1]
        episodes = part.pairs(rows)[:, 0]
        made["example_qpos"] = self.numbers(self._fields(rows[episodes == episodes[-1]] + part.row_start))["qpos"]
        return made


act = ActDataset


def _sample_std(by: FieldStatistics) -> Array:
    """Return the standard deviation with n - 1, as torch's `std` has it."""
    return by.std * np.sqrt(by.count / np.maximum(by.count - 1, 1))
