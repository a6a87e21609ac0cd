"""The common part of OpenVLA, OpenVLA-OFT and openpi: they train on LIBERO as OpenVLA regenerated it.

Pictures of one camera or two, turned by 180 degrees; a state of 8 numbers; actions; a text; and numbers that are normalised by
their 1 % and 99 % quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

import numpy as np

from vla_store.errors import warn
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.store import Store
from vla_store.recipes.dataset import AnyStore, Array, Item, opened
from vla_store.recipes.needs import Need, Needs, listed, numbers_of, pictures_of
from vla_store.recipes.normalize import TINY_RANGE, NumericRecipe, joined, quantiles, warn_of

CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
STATE = ("ee_states", "gripper_states")
PIXELS = 256


class RegeneratedRecipe(NumericRecipe[Item], Generic[Item]):
    """A dataset whose items have "image" (and "wrist_image") as they are read, a state and actions.

    Parameters
    ----------
    name
        Of the recipe, for errors.
    cameras, camera_option
        One or two fields, and the option that names them.
    state, state_at, actions_at
        Fields of the state; its offset or offsets, and those of the actions.
    options
        As `NumericRecipe` has them.
    """

    trainer = ""
    actions: Need  # what is taken of the actions

    def __init__(
        self,
        store: AnyStore,
        *,
        name: str,
        cameras: tuple[str, ...],
        camera_option: str = "cameras",
        state: tuple[str, ...] = (),
        state_at: Any = 0,
        actions_at: Any,
        **options: Any,
    ) -> None:
        store = opened(store)
        count = 1 if camera_option == "camera" else 2
        self._cameras = self.unchanged = cameras = listed(camera_option, cameras, count, count)
        self._state = state = listed("state", state, least=0 if count == 1 else 1)
        fields = (*pictures_of(cameras, camera_option), *numbers_of(state, "state"), self.actions)
        windows = {**dict.fromkeys(cameras, 0), **dict.fromkeys(state, state_at), "actions": actions_at}
        notes = differences(store, cameras, self.trainer)
        super().__init__(store, needs=Needs(name, fields), windows=windows, notes=notes, **options)
        if notes:
            warn(f"this is not the data that {self.trainer} trains on: " + "; ".join(notes))

    def pictures(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Return the pictures of items."""
        return dict(zip(("image", "wrist_image"), (batch[name] for name in self._cameras)))

    def state(self, fields: Mapping[str, Array]) -> Array:
        """Return the state of items (..., 8) float32."""
        return joined(fields, self._state)

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        self.warn_of_tiny(key, np.ones(len(by.min), bool), by)

    def warn_of_tiny(self, key: str, components: Array, by: FieldStatistics) -> None:
        """Warn of those of these components whose range the trainer's rule would blow up."""
        low, high = quantiles(by)
        tiny = components & (high - low < TINY_RANGE)
        warn_of(key, tiny, f"from 1 % to 99 % it changes by less than {TINY_RANGE}, which stands in for that range")


def differences(store: Store, cameras: tuple[str, ...], trainer: str) -> tuple[str, ...]:
    """Return in what a store differs from the regenerated LIBERO that a trainer trains on, a line each."""
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
