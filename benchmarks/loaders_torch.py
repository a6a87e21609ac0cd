"""What several contenders of benchmarks/loaders.py share: torch's DataLoader, and pictures by Pillow and torchvision."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np

from benchmarks.loaders_source import BATCH, Array


def torch_loader(dataset: Any, workers: int, **options: Any) -> Any:
    from torch.utils.data import DataLoader

    # As torch advises for data sets with an expensive start: workers that stay.
    return DataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0, **options)


def decoded(data: Any) -> Array:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


def let_torchvision_import() -> None:
    """torchvision's wheel is made for CUDA: beside a torch for CPUs its operators are missing, and it asks for these two at import. Nobody
    uses them here."""
    import torch

    for name in ("nms", "qnms") if "torchvision" not in sys.modules else ():
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
