"""One small module per trainer: what its own dataset yields, from a store.

    dataset = vla_store.recipes.openvla_oft("libero.vla", suites=["libero_spatial"])
    loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2)

An item is what the trainer takes from its *dataset*, before its own resize, JPEG, normalising, augmentation and tokeniser.
"""

from vla_store.recipes.act import act
from vla_store.recipes.diffusion_policy import diffusion_policy
from vla_store.recipes.lerobot import lerobot
from vla_store.recipes.libero import libero
from vla_store.recipes.openpi import openpi
from vla_store.recipes.openvla import openvla, openvla_oft, rlds_batch
from vla_store.recipes.openvla_images import OpenVlaImages
from vla_store.recipes.rdt import rdt
from vla_store.recipes.rdt_collate import RdtCollate
from vla_store.recipes.rdt_configs import rdt_weights
from vla_store.recipes.rdt_mapping import RdtMapping, Take
from vla_store.recipes.rdt_pretrain import rdt_buffered, rdt_pretrain
from vla_store.recipes.siglip import SiglipImages

__all__ = [
    "OpenVlaImages",
    "RdtCollate",
    "RdtMapping",
    "SiglipImages",
    "Take",
    "act",
    "diffusion_policy",
    "lerobot",
    "libero",
    "openpi",
    "openvla",
    "openvla_oft",
    "rdt",
    "rdt_buffered",
    "rdt_pretrain",
    "rdt_weights",
    "rlds_batch",
]
