"""Rotations as the 6 numbers that policies learn: the first, then the second column of the rotation matrix. Pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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
