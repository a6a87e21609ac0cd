"""The gripper's number in an action, as each trainer wants it. LIBERO's HDF5 files hold -1 to open and +1 to close.

openvla, openvla_oft      1 - clip(g, 0, 1): 1 opens, 0 closes, and it is not normalised
openpi, diffusion_policy, act, libero    as recorded
rdt                       as recorded, or (g + 1) / 2, in slot 10; see its mappings
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Least, greatest, and what they mean, as a range is told.
MINUS_ONE_TO_ONE = (-1.0, 1.0, "the gripper: -1 opens, 1 closes")


def opens_at_one(gripper: Array) -> Array:
    """Return 1 - clip(g, 0, 1), in the dtype given: 1 opens, 0 closes.

    Source: openvla/openvla c8f03f4 prismatic/vla/datasets/rlds/oxe/transforms.py:827-838. At evaluation the model's number x
    goes back to -1 and +1 as the sign of 2 x - 1, times -1 (experiments/robot/robot_utils.py:75-101).
    """
    return (1 - np.clip(gripper, 0, 1)).astype(gripper.dtype, copy=False)
