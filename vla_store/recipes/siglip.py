"""The six pictures of an RDT sample as SigLIP takes them, for a whole batch on its device.

RDT's consumer makes them one by one, on the CPU, with PIL: padded to a square, 384 x 384 by bicubic interpolation, from -1 to 1
[thu-ml/RoboticsDiffusionTransformer deb71d8, train/dataset.py:251-340; the processor of siglip-so400m-patch14-384]. This gives
the same numbers: PIL's own integer arithmetic, on whatever device the pictures are. It imports no torch: tensors bring what it
needs.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, finite_number
from vla_store.reader.options import by_name

SIZE = 384
MEAN = 0.5
STD = 0.5
CAMERAS = ("cam_high", "cam_right_wrist", "cam_left_wrist")  # their order within one time

PRECISION_BITS = 22  # PIL's, for pictures of 8 bits
SUPPORT = 2  # of the bicubic filter, in pixels of the smaller picture

Int32 = npt.NDArray[np.int32]


class SiglipImages:
    """A `batch_transform` for `vla_store.torch.Loader(..., device=...)` over `rdt`: adds pictures as SigLIP takes them.

    "images" is (B, H * 3, 3, 384, 384) float32, from -1 to 1, in RDT's order: for each of H times cam_high, right
    wrist, left wrist. Where a mask is false, or there is no camera, the background stands, a plain grey. The cameras
    and their masks are taken out of the batch. RDT's corruptions and changes of colour (`image_aug`) are not here.

    Parameters
    ----------
    mask_probability
        Of each picture, to be replaced by the background as RDT does in training (there 0.1, `cond_mask_prob`). Default
        0. Drawn from (seed, epoch, position).
    exterior_mask_probability
        That of cam_high, where it is another (`cam_ext_mask_prob`); default `mask_probability`.

    Raises
    ------
    OptionError
        A probability is not a number from 0 to 1; when it is called: the pictures are no tensors.

    Notes
    -----
    Source: thu-ml/RoboticsDiffusionTransformer deb71d8, train/dataset.py:251-340; the processor of siglip-so400m-patch14-384.
    """

    @by_name({}, also=["mask_probability", "exterior_mask_probability"])
    def __init__(self, mask_probability: float = 0.0, exterior_mask_probability: float | None = None) -> None:
        probability = exterior = finite_number("mask_probability", mask_probability, 0, 1)
        if exterior_mask_probability is not None:
            exterior = finite_number("exterior_mask_probability", exterior_mask_probability, 0, 1)
        self._probabilities = np.array([exterior, probability, probability])

    def __call__(self, batch: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        """Return the batch with "images" in place of its cameras.

        Parameters
        ----------
        batch
            Of `rdt`, as tensors: for each camera pictures (B, H, height, width, 3) uint8, or (B, H, 0, 0, 0) where
            there is none, and `<camera>_mask` (B, H) bool.
        generator
            What the masks are drawn from; the Loader gives it.

        Returns
        -------
        dict
            "images" (B, H * 3, 3, 384, 384) float32, on the device of the pictures, and all that was not a camera.

        Raises
        ------
        OptionError, UnknownName
            The pictures are no tensors, or are not there.
        """
        check_dict(batch, "SiglipImages")
        check_generator(generator)
        for key in (*CAMERAS, *(f"{camera}_mask" for camera in CAMERAS)):
            if key not in batch:
                raise UnknownName.among("picture or mask of RDT", key, list(map(str, batch)))
        high = batch[CAMERAS[0]]
        check_tensor(high)
        count, history = high.shape[:2]
        some = high.new_empty(0)  # on the right device; what it turns into makes tensors of that dtype
        shown = some.bool().new_tensor(generator.random((count, history, 3)) >= self._probabilities)
        grey = int(MEAN * 255)
        pixels = high.new_empty((count, history, 3, 3, SIZE, SIZE)).fill_(grey)
        for number, camera in enumerate(CAMERAS):
            pictures, mask = batch[camera], batch[f"{camera}_mask"]
            if pictures.numel():
                made = resized(pictures.reshape(-1, *pictures.shape[2:]).movedim(-1, 1), SIZE, grey)
                valid = (mask & shown[:, :, number]).reshape(count, history, 1, 1, 1)
                made = made.reshape(count, history, 3, SIZE, SIZE)
                pixels[:, :, number] = made.where(valid, pixels[:, :, number])
        # By a tensor: torch divides by a plain number by way of its reciprocal on a GPU, which rounds otherwise.
        values = pixels.float().div_(some.float().new_tensor(255)).sub_(MEAN).div_(STD)
        kept = {key: value for key, value in batch.items() if key.removesuffix("_mask") not in CAMERAS}
        return kept | {"images": values.reshape(count, history * 3, 3, SIZE, SIZE)}


def check_dict(value: Any, taker: str) -> None:
    """Raise OptionError where what is given to `taker` is no dict of names."""
    if not isinstance(value, dict):
        raise OptionError(f"{taker} takes a dict, as recipes and the Loader give it", found=type(value).__name__)


def check_generator(value: Any) -> None:
    """Raise OptionError for what is no generator of NumPy's."""
    if not isinstance(value, np.random.Generator):
        raise OptionError(
            "generator is a numpy.random.Generator",
            found=repr(value)[:100],
            hint="a Loader gives it; without one: numpy.random.default_rng(seed)",
        )


def check_tensor(value: Any) -> None:
    """Raise OptionError where a batch is not one of tensors."""
    if not hasattr(value, "new_empty"):
        raise OptionError(
            "this batch has no tensors",
            found=type(value).__name__,
            hint='give the Loader device="cuda", or device="cpu" to do it in this process',
        )


def resized(pictures: Any, size: int, background: int = 0) -> Any:
    """Resize (N, C, H, W) uint8 tensors to (N, C, size, size), as PIL does by BICUBIC; pad to a square with `background` first."""
    count, channels, height, width = pictures.shape
    if height != width:
        side = max(height, width)
        square = pictures.new_empty((count, channels, side, side)).fill_(background)
        top, left = (side - height) // 2, (side - width) // 2
        square[:, :, top : top + height, left : left + width] = pictures
        pictures = square
    if pictures.shape[-1] == size:
        return pictures
    # PIL goes along the rows first, and rounds to whole levels in between.
    return _along(_along(pictures, -1, size), -2, size)


def _along(pictures: Any, axis: int, size: int) -> Any:
    some = pictures.new_empty(0)
    total: Any = 1 << (PRECISION_BITS - 1)
    for places, weights in taps(pictures.shape[axis], size):
        taken = pictures.index_select(axis, some.long().new_tensor(places)).int()
        weight = some.int().new_tensor(weights)
        total = taken.mul_(weight if axis == -1 else weight[:, None]).add_(total)
    return (total >> PRECISION_BITS).clamp(0, 255).byte()


@functools.lru_cache(maxsize=16)
def taps(before: int, after: int) -> tuple[tuple[npt.NDArray[np.int64], Int32], ...]:
    """Return which pixels of `before` make each of `after` pixels, and with which weight: (after,) positions and weights a tap.

    The bicubic filter with a = -0.5, widened where pictures shrink; weights in units of 2^-22, as PIL rounds them.
    """
    scale = before / after
    widened = max(scale, 1.0)
    support = SUPPORT * widened
    rows = []
    for pixel in range(after):
        center = (pixel + 0.5) * scale
        start, stop = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), before)
        weights = _bicubic((np.arange(start, stop) - center + 0.5) / widened)
        whole = weights / weights.sum() * (1 << PRECISION_BITS)
        rows.append((start, np.trunc(whole + np.copysign(0.5, whole)).astype(np.int32)))
    made = []
    for tap in range(max(len(weights) for _, weights in rows)):
        places = np.array([min(start + tap, before - 1) for start, _ in rows], np.int64)
        made.append((places, np.array([weights[tap] if tap < len(weights) else 0 for _, weights in rows], np.int32)))
    return tuple(made)


def _bicubic(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0))
