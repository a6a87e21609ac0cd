"""Recipes and transforms for tests; workers import this module, as they import a user's."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_store.recipes import openvla
from vla_store.recipes.dataset import RecipeDataset
from vla_store.recipes.openvla import OpenVLADataset

Item = dict[str, Any]


class Plain(RecipeDataset):
    """The smallest recipe that makes batches at once: nothing of step 2 of an episode, as long as that is not forgiven."""

    unchanged = ("agentview_rgb",)

    def items(self, batch: Item, empty: Any) -> Any:
        if 2 in batch["step"]:
            raise ValueError("no such luck")
        return batch["agentview_rgb"], {"step": batch["step"].tolist(), "text": batch["task"]}


class OwnGetItem(OpenVLADataset):
    """As a user may change it as he would a torch dataset's."""

    def __getitem__(self, index: Any) -> Any:
        return {**super().__getitem__(index), "index": int(index)}


class OwnItems(OpenVLADataset):
    """As a user may change it for whole batches."""

    def items(self, batch: Item, empty: Any) -> Item:
        return super().items(batch, empty) | {"step": batch["step"]}


def openvla_of(kind: type[OpenVLADataset], store: Any, **options: Any) -> OpenVLADataset:
    """The same dataset as `openvla` gives, of a subclass."""
    made = openvla(store, **options)
    made.__class__ = kind
    return made


def numbered(item: Item) -> Item:
    """A recipe's own transform."""
    return {"action": item["action"] * 2, "language": item["language"].upper()}


def noisy(item: Item, generator: np.random.Generator) -> Item:
    """A Loader's, which draws."""
    return item | {"action": item["action"] + generator.normal(size=item["action"].shape).astype(np.float32)}


def noisy_batch(batch: Item, generator: np.random.Generator) -> Item:
    """The same for a whole batch, in place."""
    batch["action"] += generator.normal(size=batch["action"].shape).astype(np.float32)
    return batch
