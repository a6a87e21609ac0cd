"""A user's code, which mypy --strict and pyright (strict) find nothing wrong in. Nobody runs it: tests/test_user_types.py."""

from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

import vla_store
from vla_store import Samples, mixture, open_store, recipes, seconds, weighted
from vla_store.torch import Loader, StepDataset, TensorBatch, TensorSample, collate
from vla_store.types import Alignment, ArrayBatch, ArraySample

Array = np.ndarray[Any, Any]

# --- NumPy ---
store = open_store("libero.vla", fetcher="mmap", check="every")
how: Alignment = "causal"
samples = Samples(
    store,
    windows={"agentview_rgb": [-1, 0], "actions": seconds(0, 3.2)},
    alignment=how,
    images="upright",
    pad="zero",
    tasks=store.tasks[0],
    episodes=[0, 1, 2],
    split=store.split("train", fraction=0.9),
    dtype={"actions": "float64", None: np.float32},
)
assert_type(samples, Samples[ArraySample])
sample = samples[0]
assert_type(sample, ArraySample)
assert_type(sample["actions"], Array)
assert_type(sample["task"], str)
assert_type(sample["episode"], int)
assert_type(sample["step"], int)
batch = samples.batch([0, 5, 7])
assert_type(batch, ArrayBatch)
assert_type(batch["actions"], Array)
assert_type(batch["task"], list[str])
assert_type(batch["episode"], Array)
several = samples[0:3]
assert_type(several, list[ArraySample])
for name in ("actions", "agentview_rgb"):
    assert_type(sample[name], Array)
for each in samples:
    assert_type(each, ArraySample)
sample["actions"] = sample["actions"] * 2
plain: dict[str, Any] = sample
rows: Array = store.read("actions", np.arange(10))


def halved(given: ArraySample) -> ArraySample:
    given["actions"] = given["actions"] / 2
    return given


def pair(given: ArraySample) -> tuple[Array, str]:
    return given["actions"], given["task"]


def untyped_dict(given: dict[str, Any]) -> dict[str, Any]:
    return {"x": given["actions"]}


assert_type(Samples("libero.vla", transform=halved)[0], ArraySample)
assert_type(Samples("libero.vla", transform=pair)[0], tuple[Array, str])
assert_type(Samples("libero.vla", transform=untyped_dict)[0], dict[str, Any])
assert_type(Samples("libero.vla", transform=None)[0], ArraySample)
assert_type(Samples("libero.vla", transform=lambda given: given["actions"])[0], Array)


def takes_samples(given: Samples) -> float:  # without a parameter: those of a store
    return float(given[0]["actions"].sum())


takes_samples(samples)

# --- torch ---
dataset = StepDataset(
    "libero.vla",
    windows={"agentview_rgb": 0, "actions": range(64)},
    alignment="causal",
    images="upright",
    dtype={"actions": torch.bfloat16, None: "float32"},
)
assert_type(dataset[0], TensorSample)
assert_type(dataset[0]["actions"], torch.Tensor)
assert_type(dataset[0]["task"], str)
assert_type(dataset[0]["episode"], int)
assert_type(dataset.batch([0, 1])["actions"], torch.Tensor)
assert_type(dataset.batch([0, 1])["task"], list[str])
assert_type(dataset.batch(np.arange(4)), TensorBatch)


def triple(given: TensorSample) -> tuple[torch.Tensor, str, int]:
    return given["actions"], given["task"], given["step"]


changed = StepDataset("libero.vla", transform=triple)
assert_type(changed[0], tuple[torch.Tensor, str, int])


def loss(actions: torch.Tensor, texts: list[str]) -> torch.Tensor:
    return actions.mean() * len(texts)


def loss_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return batch["actions"].mean()


loader = Loader(dataset, batch_size=64, seed=0, shuffle="blocks", workers=4, device="cuda:0")
assert_type(loader, Loader[TensorBatch])
for found in loader:
    assert_type(found, TensorBatch)
    assert_type(found["actions"], torch.Tensor)
    assert_type(found["task"], list[str])
    assert_type(found["episode"], torch.Tensor)
    loss(found["actions"], found["task"])
    loss_of(found)
assert_type(loader.peek()["actions"], torch.Tensor)
with Loader(Subset(dataset, [0, 1]), batch_size=2) as subset_loader:
    assert_type(next(iter(subset_loader)), TensorBatch)
with Loader(samples, batch_size=2) as array_loader:
    assert_type(next(iter(array_loader)), TensorBatch)
with Loader(weighted(dataset, np.ones(10)), batch_size=2) as weighted_loader:
    assert_type(next(iter(weighted_loader)), TensorBatch)


def stacked(batch: TensorBatch) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["actions"], batch["agentview_rgb"]


for actions, pictures in Loader(dataset, batch_size=8, batch_transform=stacked, device="cuda"):
    assert_type(actions, torch.Tensor)
    assert_type(pictures, torch.Tensor)

# Of what a transform of single samples makes a batch is for the user to say.
pairs: Loader[tuple[torch.Tensor, list[str]]] = Loader(changed, batch_size=8)
for values, texts in pairs:
    assert_type((values, texts), tuple[torch.Tensor, list[str]])

# Parts of a mixture may be anything: the user says what its batches are.
mixed: Loader[TensorBatch] = Loader(
    mixture([(dataset, 2), (dataset, 1)], weights="by_steps", batches="mixed"), batch_size=8
)
for found in mixed:
    assert_type(found, TensorBatch)
for other in DataLoader(dataset, batch_size=4, collate_fn=collate):
    other["actions"].mean()

# --- recipes ---
image, qpos, action, is_pad = recipes.act("libero.vla", pad="zero", normalize=True)[0]
assert_type(image, Array)
item = recipes.openpi("libero.vla", tasks="open the drawer", images="upright")[0]
assert_type(item["prompt"], str)
assert_type(item["actions"], Array)
assert_type(recipes.openvla("libero.vla")[0]["language"], str)
assert_type(recipes.openvla_oft("libero.vla", transform=lambda each: each["proprio"])[0], Array)
assert_type(recipes.diffusion_policy("libero.vla")[0]["obs"], dict[str, Array])
assert_type(recipes.libero("libero.vla")[0]["actions"], Array)
assert_type(recipes.lerobot("libero.vla")[0]["action"], torch.Tensor)
assert_type(recipes.lerobot("libero.vla")[0]["task"], str)
assert_type(recipes.rdt("libero.vla")[0]["state"], Array)
assert_type(recipes.rdt_pretrain("libero.vla", dataset_name="mine")[0]["step_id"], int)

try:
    open_store("nowhere.vla")
except vla_store.StoreNotFound as error:
    print(error)
