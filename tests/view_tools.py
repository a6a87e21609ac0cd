"""What the tests of views share: writing views into a store without our writer, and what samples under views are, slowly."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reader import naive

from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.format.schema import Root


def lengths_of(mask: Sequence[bool]) -> list[int]:
    """Run lengths, left out and kept in turn, without what is left out at the end."""
    found = [(kept, len(list(group))) for kept, group in itertools.groupby(mask)]
    if found and found[0][0]:
        found.insert(0, (False, 0))
    if found and not found[-1][0]:
        found.pop()
    return [count for _, count in found]


def view_json(
    kind: str, masks: Sequence[Sequence[bool]], tasks: Sequence[tuple[str, str]], **more: Any
) -> dict[str, Any]:
    """The document of one view that covers everything. masks: per episode; tasks: (suite, task) of each."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for mask, task in zip(masks, tasks, strict=True):
        each = counts.setdefault(task, dict.fromkeys(("episodes", "steps", "kept_episodes", "kept_steps"), 0))
        each["episodes"] += 1
        each["steps"] += len(mask)
        each["kept_episodes"] += any(mask)
        each["kept_steps"] += sum(mask)
    rows = [kept for mask in masks for kept in mask]
    return {
        "counts": [{"suite": suite, "task": task, **count} for (suite, task), count in counts.items()],
        "covered": [0, len(rows)],
        "description": "drawn by a test",
        "kept": lengths_of(rows),
        "kind": kind,
        "options": {"fields": ["actions"]},
        "rule": "predicate",
    } | more  # fmt: skip


def put_views(store: Path, views: Mapping[str, Any] | None, document: Any = None) -> Root:
    """Make the only root of a store name these views. document: as a whole instead."""
    value = {"views": views} if document is None else document
    digest = sha256_hex(dumps(value)) if views is not None or document is not None else None
    if digest:
        (store / "meta").mkdir(exist_ok=True)
        (store / layout.meta_key(digest)).write_bytes(dumps(value))
    root = Root.from_bytes((store / layout.root_key(1)).read_bytes(), "root")
    made = dataclasses.replace(root, meta=dataclasses.replace(root.meta, views=digest)).sealed()
    for key in (layout.root_key(1), layout.ROOT_KEY):
        (store / key).unlink()
        (store / key).write_bytes(made.to_bytes())
    return made


def tasks_of(plain: naive.Naive) -> list[tuple[str, str]]:
    return [(each.suite, each.file.removesuffix("_demo.hdf5")) for each in plain.episodes]


def steps_sample(
    plain: naive.Naive, number: int, step: int, mask: Sequence[bool], windows: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """A sample of a "steps" view, by lists: what exists are the kept steps, each with the action of its row, and with the
    observation that was made before it: in an after-source, causally, that of the row before."""
    episode = plain.episodes[number]
    kept = [at for at, keeps in enumerate(mask) if keeps]
    pad = options.get("pad", "edge")
    made: dict[str, Any] = {}
    for field, offsets in windows.items():
        is_late = (
            options.get("alignment") == "causal" and episode.observation == "after" and field in naive.OBSERVATIONS
        )
        # Rows by time; None where nothing was recorded. After the last kept step there is one more observation.
        rows: list[int | None] = [(at - 1 if at else None) for at in kept] + [kept[-1]] if is_late else list(kept)
        values, pads = [], []
        for offset in [offsets] if isinstance(offsets, int) else offsets:
            time = kept.index(step) + offset
            row = rows[min(max(time, 0), len(rows) - 1)]
            inside = 0 <= time < len(rows) and row is not None
            value = np.asarray(episode.arrays[field][0 if row is None else row])
            if value.ndim == 3:
                value = naive.turned(value, options.get("images", "as_stored"), episode.orientation)
            if value.dtype.kind == "f" and options.get("dtype") is not None:
                value = value.astype(options["dtype"])
            values.append(np.zeros_like(value) if pad == "zero" and not inside else value)
            pads.append(not inside)
        is_int = isinstance(offsets, int)
        made[field] = values[0] if is_int else np.stack(values)
        made[f"{field}_is_pad"] = np.array(pads[0] if is_int else pads)
    return made | {"task": episode.task, "episode": number, "step": step}
