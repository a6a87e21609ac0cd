"""Views as docs/reference/format.md (section 10) says, for the second reader: NumPy alone, nothing of vla_store."""

from __future__ import annotations

from typing import Any

import numpy as np
from tiny_reader import TinyStore


def views_of(store: TinyStore) -> dict[str, dict[str, Any]]:
    """Every view by name, its `covered` and `kept` as one bool a row of the store."""
    return {name: _view(view, store.root["rows"]) for name, view in store.meta["views"]["views"].items()}


def _view(view: dict[str, Any], rows: int) -> dict[str, Any]:
    masks = {side: _mask(view[side], rows) for side in ("covered", "kept")}
    assert not (masks["kept"] & ~masks["covered"]).any()
    for side, count in (("covered", "steps"), ("kept", "kept_steps")):
        assert masks[side].sum() == sum(each[count] for each in view["counts"])
    return view | masks


def _mask(runs: list[int], rows: int) -> np.ndarray:
    assert not len(runs) % 2
    assert all(run >= (1 if at else 0) for at, run in enumerate(runs))
    return np.repeat(np.arange(len(runs) + 1) % 2 == 1, [*runs, rows - sum(runs)])
