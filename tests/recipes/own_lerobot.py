"""Run by the Python of an environment that has lerobot: the recipe against LeRobot's own data set of the same frames.

python own_lerobot.py samples FOLDER STORE OPTIONS            every item under several delta_timestamps, and the metadata
python own_lerobot.py losses FOLDER STORE OPTIONS POLICY      ten updates of a policy from either, with one seed and one order

OPTIONS: of the recipe, as JSON. FOLDER: exported with the same. It prints what was compared.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata

from vla_store.recipes import lerobot

WINDOWS: list[dict[str, list[int]] | None] = [
    None,
    {"action": list(range(16))},
    {"action": list(range(-3, 13)), "observation.state": [-1, 0], "observation.images.agentview_rgb": [-1, 0]},
    {"action": [4, -9, 0], "observation.state": [-7, 0, 3], "observation.images.eye_in_hand_rgb": [2, 0, -5]},
]
SIZES = {
    "act": {"dim_model": 64, "n_heads": 4, "dim_feedforward": 64, "n_encoder_layers": 1, "n_vae_encoder_layers": 1},
    "diffusion": {"down_dims": (32, 64), "spatial_softmax_num_keypoints": 8, "num_train_timesteps": 20},
}


def real(folder: str, **options: Any) -> Any:
    return LeRobotDataset("local/exported", root=folder, **options)


def equal(ours: Any, theirs: Any, where: Any) -> None:
    assert type(ours) is type(theirs), (where, type(ours), type(theirs))
    if isinstance(theirs, torch.Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), (
            where,
            ours.shape,
            theirs.shape,
            ours.dtype,
            theirs.dtype,
        )
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def samples(folder: str, store: str, options: dict[str, Any]) -> None:
    count = 0
    for windows in WINDOWS:
        theirs = real(folder)
        fps, known = theirs.fps, theirs.features
        windows = None if windows is None else {key: each for key, each in windows.items() if key in known}
        seconds = None if windows is None else {key: [n / fps for n in each] for key, each in windows.items()}
        theirs, ours = real(folder, delta_timestamps=seconds), lerobot(store, delta_timestamps=seconds, **options)
        assert len(ours) == len(theirs)
        assert (ours.num_frames, ours.num_episodes, ours.episodes) == (theirs.num_frames, theirs.num_episodes, None)
        lengths = np.array(theirs.meta.episodes["dataset_to_index"]) - theirs.meta.episodes["dataset_from_index"]
        ends = np.cumsum(lengths)
        near = {int(at + more) for at in (0, *ends) for more in range(-12, 12) if 0 <= at + more < len(ours)}
        drawn = np.random.default_rng(len(windows or ())).permutation(len(ours))[:60]
        numbers = sorted({*near, *drawn.tolist()})[:: 1 if windows and len(windows) > 1 else 4]
        for number, many in zip(numbers, ours.__getitems__(numbers)):
            item, own = theirs[number], ours[number]
            assert list(own) == list(item), (list(own), list(item))
            for key in item:
                equal(own[key], item[key], (number, key))
                equal(many[key], item[key], (number, key))
        count += len(numbers)
    metadata(ours.meta, LeRobotDatasetMetadata("local/exported", root=folder))
    print(f"{count} samples and the metadata are equal")


def metadata(ours: Any, theirs: Any) -> None:
    assert ours.features == theirs.features, (ours.features, theirs.features)
    assert list(ours.features) == list(theirs.features)
    for name in ("fps", "camera_keys", "total_episodes", "total_frames", "names", "shapes", "robot_type", "video_keys"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.tasks.equals(theirs.tasks.rename_axis(None)), (ours.tasks, theirs.tasks)
    for name in ("dataset_from_index", "dataset_to_index", "length", "episode_index", "tasks"):
        assert list(ours.episodes[name]) == list(theirs.episodes[name]), name
    assert ours.stats.keys() == theirs.stats.keys()
    for key, each in theirs.stats.items():
        assert ours.stats[key].keys() == each.keys(), key
        for name, value in each.items():
            found = ours.stats[key][name]
            assert (found.shape, found.dtype) == (value.shape, value.dtype), (key, name, found, value)
            assert np.array_equal(found, value), (key, name, found, value)


def losses(folder: str, store: str, options: dict[str, Any], policy: str) -> None:
    from lerobot.configs.types import FeatureType
    from lerobot.datasets.factory import resolve_delta_timestamps
    from lerobot.datasets.utils import dataset_to_policy_features
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    def trained(make: Any) -> list[float]:
        torch.manual_seed(7)
        meta = make().meta
        features = dataset_to_policy_features(meta.features)
        config = make_policy_config(policy, device="cpu", push_to_hub=False, **SIZES[policy])
        if hasattr(config, "pretrained_backbone_weights"):
            config.pretrained_backbone_weights = None
        config.output_features = {k: v for k, v in features.items() if v.type is FeatureType.ACTION}
        config.input_features = {k: v for k, v in features.items() if k not in config.output_features}
        dataset = make(delta_timestamps=resolve_delta_timestamps(config, meta))
        model = get_policy_class(policy)(config)
        before, _ = make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        order = torch.utils.data.DataLoader(
            dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
        )
        found = []
        model.train()
        for batch, _ in zip(order, range(10)):
            loss, _ = model.forward(before(batch))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    theirs = trained(lambda **given: real(folder, **given))
    ours = trained(lambda **given: lerobot(store, **options, **given))
    assert ours == theirs, (ours, theirs)
    print(f"{len(ours)} updates of {policy}: equal losses, from {ours[0]:.4f} to {ours[-1]:.4f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    what, folder, store, options, *more = sys.argv[1:]
    {"samples": samples, "losses": losses}[what](folder, store, json.loads(options), *more)
