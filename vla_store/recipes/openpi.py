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

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import OptionError, UnknownName, warn
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.store import Store, open_store
from vla_store.recipes.dataset import Array, Empty, recipe
from vla_store.recipes.needs import Needs, numbers_of, pictures_of
from vla_store.recipes.normalize import TINY_RANGE, NumericRecipe, quantiles, warn_of
from vla_store.recipes.openvla import CAMERAS, STATE, check_state, differences, state_needs


@dataclass(frozen=True)
class Config:
    """Of openpi's configurations for LIBERO: actions in a chunk; whether state is subtracted from actions before normalising."""

    horizon: int
    subtracts_state: bool


CONFIGS = {
    "pi0_libero": Config(50, True),
    "pi0_fast_libero": Config(10, True),
    "pi05_libero": Config(10, False),
}


@recipe
def openpi(
    store: Store | str | os.PathLike[str],
    *,
    config: str = "pi05_libero",
    horizon: int | None = None,
    cameras: tuple[str, str] = CAMERAS,
    state: tuple[str, ...] = STATE,
    normalize: bool | Mapping[str, FieldStatistics] = False,
    alignment: str = "causal",
    images: str = "rot180",
    transform: Callable[[dict[str, Any]], Any] | None = None,
    **selection: Any,
) -> OpenPiDataset:
    """openpi's items: "image" and "wrist_image" (H, W, 3) uint8, turned by 180 degrees; "state" (8,) float32, the `ee_states`
    and `gripper_states`; "actions" (horizon, 7) float32, as recorded; "prompt", the task's text.

    config: one of openpi's for LIBERO: it says the horizon (50 for pi0_libero, 10 for pi0_fast_libero and pi05_libero).
    Every row is an anchor (under "causal" alignment, the default, the first of an episode that was recorded after the action is
    none). Past the end of an episode the last action is repeated, without a mark: openpi trains on that padding.
    normalize: for pi05_libero: state and actions by their 1 % and 99 % quantiles, not clipped. openpi computes these from
        windows, in which tails count again, and from histograms; here they are exact, each step once. For the configurations
        that subtract the state first it is refused: let openpi do it.
    selection: suites, tasks, episodes, rows, split, view, keep_first, as `vla_store.Samples` has them.
    Where the store is not of the kind that openpi trains on, a warning and the dataset's `repr` say in what it differs.
    """
    if config not in CONFIGS:
        raise UnknownName.among("config", config, list(CONFIGS))
    if normalize is not False and CONFIGS[config].subtracts_state:
        raise OptionError(
            f"{config} subtracts the state from the actions before it normalises them",
            hint="leave normalize out: openpi's own Normalize does it, by scripts/compute_norm_stats.py on this dataset",
        )
    steps = CONFIGS[config].horizon if horizon is None else horizon
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise OptionError("horizon is a whole number of at least 1", found=repr(horizon)[:100])
    if cameras[0] == cameras[1]:
        raise OptionError("the two cameras are one", cameras=", ".join(cameras))
    return OpenPiDataset(
        store,
        needs=Needs(
            "openpi", (*(pictures_of(each, "cameras") for each in cameras), *state_needs(state), numbers_of("actions"))
        ),
        windows={cameras[0]: 0, cameras[1]: 0, **dict.fromkeys(state, 0), "actions": range(steps)},
        cameras=cameras,
        state=state,
        normalize=normalize,
        alignment=alignment,
        images=images,
        transform=transform,
        **selection,
    )


class OpenPiDataset(NumericRecipe):
    """What `openpi` gives."""

    def __init__(self, store: Any, *, cameras: tuple[str, str], state: tuple[str, ...], **options: Any) -> None:
        self._cameras, self._state = cameras, state
        self.unchanged = cameras
        store = store if isinstance(store, Store) else open_store(store)
        notes = differences(store, cameras, "openpi")
        super().__init__(store, notes=notes, **options)
        check_state("openpi", state, store)
        if notes:
            warn("this is not the data that openpi trains on: " + "; ".join(notes))

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        return {
            "state": np.concatenate([fields[name] for name in self._state], axis=-1).astype(np.float32),
            "actions": fields["actions"].astype(np.float32),
        }

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        outside, wrist = self._cameras
        return {
            "image": batch[outside],
            "wrist_image": batch[wrist],
            **self.item_numbers(batch),
            "prompt": batch["task"],
        }

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        low, high = quantiles(by)
        return (values - low) / (np.maximum(high - low, TINY_RANGE) + 1e-6) * 2 - 1  # type: ignore[no-any-return]

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        low, high = quantiles(by)
        warn_of(
            key,
            high - low < TINY_RANGE,
            f"from 1 % to 99 % it changes by less than {TINY_RANGE}, which stands in for that range",
        )
