"""A user's slips: each line that is marked must be an error for mypy --strict and for pyright. Nobody runs it."""

from typing import Any

import numpy as np
import torch

from vla_store import Samples, mixture, open_store, recipes
from vla_store.builder import build_store
from vla_store.torch import Loader, StepDataset

store = open_store("libero.vla", fetcher="map")  # ERROR
open_store("libero.vla", check="always")  # ERROR
store.split("test")  # ERROR
Samples(store, alignment="casual")  # ERROR
Samples(store, images="upside_down")  # ERROR
Samples(store, pad="last")  # ERROR
Samples(store, task="texts")  # ERROR
Samples(store, split="valid")  # ERROR
Samples(store, {"actions": 0})  # ERROR
Samples(store, window={"actions": 0})  # ERROR
Samples(store, windows={"actions": "0"}, keep_first="yes")  # ERROR
samples = Samples(store, alignment="causal")
number: int = samples[0]["task"]  # ERROR
text: str = samples[0]["actions"]  # ERROR
only: str = samples.batch([0])["task"]  # ERROR
dataset = StepDataset(store, alignment="casual")  # ERROR
StepDataset(store, shuffle=True)  # ERROR
StepDataset(store, images="rot90")  # ERROR
array: np.ndarray[Any, Any] = dataset[0]["actions"]  # ERROR
dataset[0]["actions"].men()  # ERROR
Loader(dataset)  # ERROR
Loader(dataset, batch_size=64, shuffle="block")  # ERROR
Loader(dataset, batch_size=64, num_workers=2)  # ERROR
for batch in Loader(dataset, batch_size=64):
    texts: str = batch["task"]  # ERROR
    tensor: torch.Tensor = batch["task"]  # ERROR
mixture([dataset], weights="steps")  # ERROR
mixture([dataset], epoch="longest")  # ERROR
recipes.act(store, pad="none")  # ERROR
recipes.openpi(store, alignment="casual")  # ERROR
recipes.openpi(store)[0]["promt"]  # ERROR
build_store("demos", "libero.vla", preset="smal")  # ERROR
build_store("demos", "libero.vla", executor="thread")  # ERROR
