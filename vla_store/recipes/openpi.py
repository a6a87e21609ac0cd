"""openpi (pi0, pi0-FAST, pi0.5): what its LeRobot dataset of LIBERO yields, from a store.

Sources, at Physical-Intelligence/openpi 15a9616:
    where the dataset is made          src/openpi/training/data_loader.py:130-151 (and scripts/compute_norm_stats.py:34)
    keys, state, 180 degrees           src/openpi/training/config.py:282-355; examples/libero/main.py:115-116
    horizon 50 and 10                  src/openpi/training/config.py:651-763
    past the end                       LeRobot repeats the last action and marks it; the repack drops the mark, so padding is trained on
    normalised form                    src/openpi/transforms.py:137-145; quantiles for all but pi0, config.py:187
The order after the item: repack, LiberoInputs, DeltaActions (pi0 and FAST), Normalize, resize with padding to 224, tokeniser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.format.statistics import FieldStatistics
from vla_store.recipes.dataset import AnyStore, Array, Empty, NormalizedOptions, Unpack, recipe
from vla_store.recipes.item_types import OpenPiItem
from vla_store.recipes.needs import numbers_of
from vla_store.recipes.normalize import TINY_RANGE, quantiles
from vla_store.recipes.regenerated import CAMERAS, STATE, RegeneratedRecipe
from vla_store.types import TypeVar


@dataclass(frozen=True)
class Config:
    """One of openpi's configurations for LIBERO.

    horizon: actions in a chunk. subtracts_state: from actions, before they are normalised.
    """

    horizon: int
    subtracts_state: bool


CONFIGS = {
    "pi0_libero": Config(50, True),
    "pi0_fast_libero": Config(10, True),
    "pi05_libero": Config(10, False),
}


Made = TypeVar("Made", default=OpenPiItem, covariant=True)


class OpenPiDataset(RegeneratedRecipe[Made], Generic[Made]):
    """openpi's dataset: every row is an anchor.

    (Under "causal" alignment, the default, the first of an episode that was recorded after the action is none.) Past the end of
    an episode the last action is repeated, without a mark: openpi trains on that padding. Where the store is not of the kind that
    openpi trains on, a warning and the dataset's `repr` say in what it differs.

    Parameters
    ----------
    config
        One of openpi's for LIBERO: it says the horizon (50 for pi0_libero, 10 for pi0_fast_libero and pi05_libero).
    horizon
        How many actions an item has, where it is another number.
    cameras, state
        Fields of the image, the wrist image and the state.
    normalize
        For pi05_libero: state and actions by their 1 % and 99 % quantiles, not clipped. openpi computes these from windows, in
        which tails count again, and from histograms; here they are exact, each step once. For the configurations that subtract
        the state first it is refused: let openpi do it.
    alignment, images, transform, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items: "image" and "wrist_image" (H, W, 3) uint8, turned by 180 degrees; "state" (8,) float32, the `ee_states` and
        `gripper_states`; "actions" (horizon, 7) float32, as recorded; "prompt", the task's text.
    """

    trainer = "openpi"
    (actions,) = numbers_of(["actions"])

    @recipe("openpi", normalize=False, alignment="causal", images="rot180")
    def __init__(
        self,
        store: AnyStore,
        *,
        config: str = "pi05_libero",
        horizon: int | None = None,
        cameras: tuple[str, str] = CAMERAS,
        state: tuple[str, ...] = STATE,
        transform: Callable[[OpenPiItem], Made] | None = None,
        **options: Unpack[NormalizedOptions],
    ) -> None:
        if config not in list(CONFIGS):
            raise UnknownName.among("config", config, list(CONFIGS))
        if options["normalize"] is not False and CONFIGS[config].subtracts_state:
            raise OptionError(
                f"{config} subtracts the state from the actions before it normalises them",
                hint="leave normalize out: openpi's own Normalize does it, by scripts/compute_norm_stats.py on this dataset",
            )
        steps = range(whole_number("horizon", CONFIGS[config].horizon if horizon is None else horizon))
        super().__init__(
            store, name="openpi", cameras=cameras, state=state, actions_at=steps, transform=transform, **options
        )

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        return {"state": self.state(fields), "actions": fields["actions"].astype(np.float32)}

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        return {**self.pictures(batch), **self.item_numbers(batch), "prompt": batch["task"]}

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        low, high = quantiles(by)
        return (values - low) / (np.maximum(high - low, TINY_RANGE) + 1e-6) * 2 - 1  # type: ignore[no-any-return]


openpi = OpenPiDataset
