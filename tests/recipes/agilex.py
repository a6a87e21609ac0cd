"""RDT's own robot: two arms of six joints and a gripper, of which files in ALOHA's layout hold actions too.

Which numbers go where, and the scales of the grippers: thu-ml/RoboticsDiffusionTransformer deb71d8,
data/preprocess_scripts/agilex.py:106-140. It imports no pytest, because RDT's own environment imports it too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from vla_store.recipes import RdtMapping, Take, rdt_pretrain


def _divided(by: float) -> Any:
    return partial(np.multiply, 1 / by)


AGILEX = RdtMapping(
    "agilex",
    state=(
        *(Take("qpos", 0, 6, 50), Take("qpos", 6, 7, 60, _divided(4.7908))),
        *(Take("qpos", 7, 13, 0), Take("qpos", 13, 14, 10, _divided(4.7888))),
    ),
    action=(
        *(Take("actions", 0, 6, 50), Take("actions", 6, 7, 60, _divided(11.8997))),
        *(Take("actions", 7, 13, 0), Take("actions", 13, 14, 10, _divided(13.9231))),
    ),
)
CAMERAS = {"cam_high": "cam_high", "cam_left_wrist": "cam_left_wrist"}


def agilex(store: Any, **options: Any) -> Any:
    """The recipe as RDT treats its own robot: recorded actions."""
    given = {"mapping": AGILEX, "action": "actions", "dataset_name": "agilex", "cameras": CAMERAS, **options}
    return rdt_pretrain(store, **given)
