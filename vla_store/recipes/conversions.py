"""Pictures, grippers and rotations as policies take them. Pure functions of arrays.

A gripper's number in an action: LIBERO's HDF5 files hold -1 to open and +1 to close.

openvla, openvla_oft      1 - clip(g, 0, 1): 1 opens, 0 closes, and it is not normalised
openpi, diffusion_policy, act, libero    as recorded
rdt                       as recorded, or (g + 1) / 2, in slot 10; see its mappings

A rotation is the 6 numbers that policies learn: the first, then the second column of the rotation matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Least, greatest, and what they mean, as a range is told.
MINUS_ONE_TO_ONE = (-1.0, 1.0, "the gripper: -1 opens, 1 closes")


def channels_first(frames: Array, empty: Callable[[tuple[int, ...], Any], Array]) -> Array:
    """Return pictures (..., H, W, C) of 0 to 255 as (..., C, H, W) float32 of 0 to 1. empty: makes that array."""
    *axes, height, width, channels = frames.shape
    return fill_channels_first(frames, empty((*axes, channels, height, width), np.float32))


def fill_channels_first(frames: Array, out: Array) -> Array:
    """Put such pictures into `out`, and return it."""
    out[...] = np.moveaxis(frames, -1, -3)
    return np.divide(out, 255.0, out=out)  # in a step of its own: contiguous numbers are divided many at once


def opens_at_one(gripper: Array) -> Array:
    """Return 1 - clip(g, 0, 1), in the dtype given: 1 opens, 0 closes.

    Source: openvla/openvla c8f03f4 prismatic/vla/datasets/rlds/oxe/transforms.py:827-838. At evaluation the model's number x
    goes back to -1 and +1 as the sign of 2 x - 1, times -1 (experiments/robot/robot_utils.py:75-101).
    """
    return (1 - np.clip(gripper, 0, 1)).astype(gripper.dtype, copy=False)


def six_of_axis_angle(rotations: Array) -> Array:
    """Return rotations (..., 3), axis times angle in radians, as (..., 6). The angle may be of any size, also 0.

    LIBERO's `ee_ori` is axis-angle, and so is the rotation of its actions: the controller turns by that vector
    [Lifelong-Robot-Learning/LIBERO, scripts/create_dataset.py:203-210]. The order of the 6 numbers is RDT's
    [thu-ml/RoboticsDiffusionTransformer, docs/test_6drot.py:75-80].
    """
    vectors = rotations.astype(np.float64, copy=False)
    squares = (vectors * vectors).sum(axis=-1)
    angles = np.sqrt(squares)
    # R = cos(a) I + sin(a)/a [v] + (1 - cos(a))/a^2 v v', which is defined at a = 0 too: np.sinc(x) = sin(pi x) / (pi x).
    sine = np.sinc(angles / np.pi)
    half = np.sinc(angles / (2 * np.pi))
    outer = 0.5 * half * half
    diagonal = 1 - outer * squares
    x, y, z = (vectors[..., i] for i in range(3))
    columns = (
        diagonal + outer * x * x,
        outer * x * y + sine * z,
        outer * x * z - sine * y,
        outer * x * y - sine * z,
        diagonal + outer * y * y,
        outer * y * z + sine * x,
    )
    return np.stack(columns, axis=-1)


def six_of_euler_xyz(rotations: Array) -> Array:
    """Return rotations (..., 3), angles about the fixed axes x, then y, then z, as (..., 6).

    The wrong routine for LIBERO, whose rotations are axis-angle: the port `HDF5LIBERODataset` used it, and policies were
    trained on what it gives. Here only to repeat them.
    """
    angles = rotations.astype(np.float64, copy=False)
    (sin_x, cos_x), (sin_y, cos_y), (sin_z, cos_z) = (
        (np.sin(angles[..., i]), np.cos(angles[..., i])) for i in range(3)
    )
    columns = (
        cos_y * cos_z,
        cos_y * sin_z,
        -sin_y,
        sin_x * sin_y * cos_z - cos_x * sin_z,
        sin_x * sin_y * sin_z + cos_x * cos_z,
        sin_x * cos_y,
    )
    return np.stack(columns, axis=-1)
