"""The views of a store: what they cover, count and keep."""

from __future__ import annotations

import numpy as np

from vla_store.audit.objects import Objects
from vla_store.audit.part import Array, Part
from vla_store.errors import DataError
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.format.views import views_of
from vla_store.view_rules import EpisodeFacts, Rule, rule_of


def check_views(objects: Objects, root: Root, parts: list[Part]) -> None:
    """Views cover whole episodes, count what they keep, and keep what their rule does, where this version knows it."""
    if root.meta.views is None:
        return
    key = layout.meta_key(root.meta.views)
    if objects.is_damaged(key):
        return
    views = views_of(objects.read(key), root.meta.views, root.rows)
    for name, view in views.items():
        covered, kept = (_mask_of(runs, root.rows) for runs in (view.covered, view.kept))
        rule = rule_of(view)
        counts: dict[tuple[str, str], list[int]] = {}
        row = 0
        for part in parts:
            for number, (length, task) in enumerate(zip(part.column("length").tolist(), part.column("task").tolist())):
                told, left = covered[row : row + length], kept[row : row + length]
                row += length
                if not told.any():
                    continue
                if not told.all():
                    objects.problem(key, f"view {name!r} covers a part of an episode, up to row {row}")
                    break
                described = part.document.tasks[task]
                each = counts.setdefault((described.suite, described.name), [0, 0, 0, 0])
                for at, more in enumerate((1, length, bool(left.any()), int(left.sum()))):
                    each[at] += more
                if rule is not None and not _agrees(rule, part, number, left):
                    objects.problem(key, f"view {name!r} does not keep what its rule keeps, up to row {row}")
                    break
        said = {
            (each.suite, each.task): [each.episodes, each.steps, each.kept_episodes, each.kept_steps]
            for each in view.counts
        }
        if said != counts:
            objects.problem(key, f"view {name!r} counts its tasks wrongly")


def _mask_of(runs: Array, rows: int) -> Array:
    mask = np.zeros(rows, bool)
    for start, stop in runs.tolist():
        mask[start:stop] = True
    return mask


def _agrees(rule: Rule, part: Part, number: int, kept: Array) -> bool:
    """Whether a rule keeps these steps of an episode. A rule whose fields cannot be read is not asked."""
    start, length = int(part.column("start")[number]), int(part.column("length")[number])
    there = part.nonfinite if rule.if_finite else part.columns
    if not {*(rule.fields or ())} <= there.keys():
        return True
    fields = [each for each in rule.looks_at(part.document) if each.name in there]
    is_after = part.document.sources[int(part.column("source")[number])].observation == "after"
    facts = EpisodeFacts(
        length,
        int(part.column("success")[number]),
        part.episode_digests[number].tobytes(),
        {} if rule.if_finite else {each.name: part.rows_of(each, number) for each in fields},
        {each.name: (part.nonfinite[each.name][start : start + length] == 0).all(axis=1) for each in fields},
        {each.name for each in fields if is_after and each.role == "observation"},
    )
    try:
        return bool((rule.keeps(facts) == kept).all())
    except DataError:
        raise
    except Exception:
        return False  # it cannot be applied to such fields, so nobody could have made the view by it
