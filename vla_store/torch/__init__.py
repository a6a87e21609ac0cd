"""Samples and batches as torch tensors: `StepDataset`, `collate`, `Loader`. Nothing else imports torch; it may import the loader.

dataset = StepDataset("libero.vla", windows={"agentview_rgb": [-1, 0], "actions": range(64)}, alignment="causal", images="upright")
loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=collate)
"""

from vla_store.loader.order import Blocks
from vla_store.loader.sampler import ShuffleSampler
from vla_store.torch.dataset import StepDataset
from vla_store.torch.loader import Loader
from vla_store.torch.tensors import TensorBatch as TensorBatch
from vla_store.torch.tensors import TensorSample as TensorSample
from vla_store.torch.tensors import collate

__all__ = ["Blocks", "Loader", "ShuffleSampler", "StepDataset", "collate"]
