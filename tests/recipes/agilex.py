"""`rdt_pretrain` as RDT treats its own robot. It imports no pytest, because RDT's own environment imports it too."""

from __future__ import annotations

from typing import Any

from vla_store.recipes import rdt_pretrain

CAMERAS = {"cam_high": "cam_high", "cam_left_wrist": "cam_left_wrist"}  # as `tiny_layouts.aloha` has them


def agilex(store: Any, **options: Any) -> Any:
    """Recorded actions stand for what is to be foreseen."""
    given = {"mapping": "agilex", "action": "actions", "dataset_name": "agilex", "cameras": CAMERAS, **options}
    return rdt_pretrain(store, **given)
