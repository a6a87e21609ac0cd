"""Diffusion Policy: what its robomimic image dataset yields, from a store.

Sources, at real-stanford/diffusion_policy 5ba07ac, below diffusion_policy/:
    item                               dataset/robomimic_replay_image_dataset.py:193-220
    windows, anchors, padding          common/sampler.py:14-46, 121-153; pad_before = n_obs - 1, pad_after = n_action - 1 (task yaml)
    normaliser                         dataset/robomimic_replay_image_dataset.py:148-185; common/normalize_util.py
    validation episodes                common/sampler.py, get_val_mask; the yaml: seed 42, ratio 0.02
Its own pictures passed a lossy JPEG 2000 (the same dataset file, 331); here they are as recorded. Horizon 16 is of the U-Net, 10 of
the transformer; 8 actions are executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, whole_number, yes_or_no
from vla_store.format.statistics import FieldStatistics
from vla_store.reader.cached import cached_property
from vla_store.reader.store import Store
from vla_store.recipes.conversions import channels_first
from vla_store.recipes.dataset import AnyStore, Array, Empty, Mask, NormalizedOptions, Steps, Unpack, opened, recipe
from vla_store.recipes.item_types import DiffusionPolicyItem
from vla_store.recipes.needs import Need, Needs, mapped, numbers_of, pictures_of
from vla_store.recipes.normalize import NumericRecipe, warn_of
from vla_store.types import TypeVar

CAMERAS = {"agentview_image": "agentview_rgb", "robot0_eye_in_hand_image": "eye_in_hand_rgb"}
# robomimic's names, which decide how each is normalised; the quaternion is xyzw.
LOW_DIM: dict[str, str | tuple[str, int, int]] = {
    "robot0_eef_pos": "ee_pos",
    "robot0_eef_quat": ("robot_states", 5, 9),
    "robot0_gripper_qpos": "gripper_states",
}
MIN_RANGE = 1e-7
FORM = "{name: field, or (field, start, stop) for some of its numbers}"


Made = TypeVar("Made", default=DiffusionPolicyItem, covariant=True)


class DiffusionPolicyDataset(NumericRecipe[Made], Generic[Made]):
    """Diffusion Policy's dataset, under robomimic's names.

    A window of `horizon` steps begins n_obs_steps - 1 before the anchor. Anchors are 0 .. T - horizon + n_action_steps +
    n_obs_steps - 2 (T - 8, by default): the window reaches at most n_obs_steps - 1 steps before its episode and n_action_steps - 1
    past it. There the first or last step is repeated, without a mark. Shorter episodes have no anchor.
    Under "causal" alignment, the default, an episode that was recorded after the action has no anchor 0. Its first
    observation is repeated in the history, while its first action, which was recorded, stands in the window of anchor 1.

    Parameters
    ----------
    horizon, n_obs_steps, n_action_steps
        As there.
    cameras
        {name in the item: camera of the store}.
    low_dim
        {name: field, or (field, start, stop) for some of its numbers}. By default of both robomimic's names, of the store's
        fields of the same names, or else of LIBERO's that hold the same.
    val_ratio, seed, validation
        Which episodes are held out, as Diffusion Policy draws them (its yaml has 0.02 and 42); validation=True gives those
        instead. `statistics` and the normalised form are of both sides, as there.
    normalize
        Items as its LinearNormalizer makes them: pictures and positions to -1..1, quaternions and actions as they are.
    images
        robomimic's pictures are upright.
    alignment, transform, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items {"obs": {camera: (n_obs_steps, 3, H, W) float32 in 0..1, low-dim: (n_obs_steps, n) float32}, "action":
        (horizon, 7) float32}.
    """

    @recipe("diffusion_policy", normalize=False, alignment="causal", images="upright")
    def __init__(
        self,
        store: AnyStore,
        *,
        horizon: int = 16,
        n_obs_steps: int = 2,
        n_action_steps: int = 8,
        cameras: Mapping[str, str] | None = None,
        low_dim: Mapping[str, str | tuple[str, int, int]] | None = None,
        val_ratio: float = 0.0,
        seed: int = 42,
        validation: bool = False,
        transform: Callable[[DiffusionPolicyItem], Made] | None = None,
        **options: Unpack[NormalizedOptions],
    ) -> None:
        store = opened(store)
        steps: dict[str, Any] = {"horizon": horizon, "n_obs_steps": n_obs_steps, "n_action_steps": n_action_steps}
        for name, value in steps.items():
            whole_number(name, value)
        if n_obs_steps > horizon or n_action_steps > horizon:
            raise OptionError("a window holds its observations and its executed actions", **steps)
        is_ratio = isinstance(val_ratio, (int, float)) and 0 <= val_ratio < 1
        if not is_ratio or (validation and val_ratio == 0):
            raise OptionError(
                "val_ratio is from 0 to below 1, and above 0 for validation=True",
                val_ratio=val_ratio,
                validation=validation,
            )
        before = n_obs_steps - 1
        self._tail = horizon - n_action_steps - before
        self._held_out = float(val_ratio), whole_number("seed", seed, least=0), yes_or_no("validation", validation)
        named = _present(CAMERAS, store) if cameras is None else cameras
        self._cameras = mapped("cameras", named, "{name in the item: camera of the store}")
        self._low_dim: dict[str, tuple[str, int | None, int | None]] = {}
        needs = list(pictures_of(self._cameras.values()))
        numbers = _present(LOW_DIM, store) if low_dim is None else low_dim
        for name, each in mapped("low_dim", numbers, FORM).items():
            _is_scaled(name)
            self._low_dim[name] = field, _, stop = _slice_of(name, each)
            is_known = each in LOW_DIM.values()
            needs += numbers_of([field], "low_dim") if is_known else [Need(field, "low_dim", at_least=stop or 1)]
        observed = [*self._cameras.values(), *(field for field, _, _ in self._low_dim.values())]
        names = [*self._cameras, *self._low_dim, "action"]
        if len(set(names)) < len(names):
            raise OptionError("two values of an item have one name", names=", ".join(names))
        if "actions" in observed:
            raise OptionError("the actions are no observation", hint="leave 'actions' out of low_dim")
        super().__init__(
            store,
            needs=Needs("diffusion_policy", (*needs, Need("actions"))),
            windows={**dict.fromkeys(observed, range(-before, 1)), "actions": range(-before, horizon - before)},
            keep=self._keeps,
            transform=transform,
            **options,
        )
        if val_ratio:
            side = "validation" if validation else "training"
            self.notes += (f"the {side} side of val_ratio {float(val_ratio)}, seed {seed}",)

    def numbers(self, fields: Mapping[str, Array]) -> dict[str, Array]:
        made = {
            name: fields[field][..., start:stop].astype(np.float32)
            for name, (field, start, stop) in self._low_dim.items()
        }
        return {**made, "action": fields["actions"].astype(np.float32)}

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        numbers = self.item_numbers(batch)
        action = numbers.pop("action")
        pictures = {name: channels_first(batch[camera], empty) for name, camera in self._cameras.items()}
        if self.normalized_by is not None:
            for picture in pictures.values():
                picture *= 2
                picture -= 1
        return {"obs": {**pictures, **numbers}, "action": action}

    def normalized(self, key: str, values: Array, by: FieldStatistics) -> Array:
        scale, offset = _scale_of(key, by)
        return values * scale + offset

    def check_scale(self, key: str, by: FieldStatistics) -> None:
        if _is_scaled(key):
            warn_of(key, by.max - by.min < MIN_RANGE, "it never changes; its normalised form is 0")

    def normalizer(self) -> dict[str, dict[str, Any]]:
        """Return what to make Diffusion Policy's LinearNormalizer of.

        {key: {"scale", "offset", "input_stats_dict"}}, float32 arrays, for `SingleFieldLinearNormalizer.create_manual(**each)`;
        input_stats_dict has min, max, mean, std.
        """
        made: dict[str, dict[str, Any]] = {}
        for key, each in self.scales.items():
            self.check_scale(key, each)
            made[key] = _parameters(*_scale_of(key, each), min=each.min, max=each.max, mean=each.mean, std=each.std)
        for key in self._cameras:
            made[key] = _parameters([2], [-1], min=[0], max=[1], mean=[0.5], std=[np.sqrt(1 / 12)])
        return made

    @cached_property
    def held_out(self) -> npt.NDArray[np.int64]:
        """Numbers of the episodes held out: round(n * ratio) of the selection's n, at least 1 and at most n - 1."""
        ratio, seed, _ = self._held_out
        episodes = self.selected_episodes
        count = min(max(1, round(len(episodes) * ratio)), len(episodes) - 1)
        return episodes[np.random.default_rng(seed).choice(len(episodes), size=count, replace=False)]

    def _keeps(self, at: Steps) -> Mask:
        kept: Mask = at.kept_step < at.kept_length - self._tail
        ratio, _, validation = self._held_out
        return kept & (np.isin(at.episode, self.held_out) == validation) if ratio else kept


diffusion_policy = DiffusionPolicyDataset


def _present(named: Mapping[str, Any], store: Store) -> dict[str, Any]:
    return {name: name if name in store.fields else field for name, field in named.items()}


def _slice_of(name: str, given: Any) -> tuple[str, int | None, int | None]:
    match given:
        case str():
            return given, None, None
        case (str(field), int(start), int(stop)) if 0 <= start < stop:
            return field, start, stop
    raise OptionError(f"low_dim is a dict: {FORM}", found=f"{name!r}: {given!r}"[:100])


def _is_scaled(key: str) -> bool:
    """Return whether this number's range becomes -1 to 1; False for one that stays as it is. Raises OptionError."""
    if key == "action" or key.endswith("quat"):
        return False
    if key.endswith("pos"):  # "qpos" too
        return True
    raise OptionError(
        "Diffusion Policy knows how to normalise an observation by the end of its name",
        name=key,
        expected="... pos, ... qpos or ... quat",
        hint="name it so in low_dim",
    )


def _scale_of(key: str, by: FieldStatistics) -> tuple[Array, Array]:
    if not _is_scaled(key):
        return np.ones_like(by.min), np.zeros_like(by.min)
    spread = by.max - by.min
    constant = spread < MIN_RANGE
    scale = 2 / np.where(constant, 2.0, spread)
    return scale, np.where(constant, -by.min, -1 - scale * by.min)


def _parameters(scale: Any, offset: Any, **stats: Any) -> dict[str, Any]:
    listed = {name: np.asarray(value, np.float32) for name, value in stats.items()}
    return {
        "scale": np.asarray(scale, np.float32),
        "offset": np.asarray(offset, np.float32),
        "input_stats_dict": listed,
    }
