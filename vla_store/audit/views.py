"""The audit of views: they cover whole episodes, count what they keep, and keep what their rule does.

Imports `view_steps`, which computes views, and `format`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vla_store.audit.objects import Objects
from vla_store.errors import DataError, VlaStoreError
from vla_store.format import layout
from vla_store.format.schema import Root
from vla_store.format.views import View, overlaps, rows_in_each, views_of
from vla_store.reader.whole import WholePart
from vla_store.view_rules import Rule, rule_of
from vla_store.view_steps import counts_of, kept_in


def check_views(objects: Objects, root: Root, parts: Sequence[WholePart]) -> None:
    """Record what is wrong with the views of a root, each of whose parts is whole. Rules of newer versions are not asked."""
    if root.meta.views is None:
        return
    key = layout.meta_key(root.meta.views)
    if not objects.is_damaged(key):
        for view in views_of(objects.read(key), root.meta.views, root.rows).values():
            for what in _problems_of(view, parts):
                objects.problem(key, f"view {view.name!r} {what}")


def _problems_of(view: View, parts: Sequence[WholePart]) -> Iterator[str]:
    rule = rule_of(view)
    for whole in parts:
        rows = whole.spans + whole.part.row_start
        told = rows_in_each(rows, view.covered)
        if ((told > 0) & (told < whole.column("length"))).any():
            yield f"covers a part of an episode in rows {rows[0, 0]} to {rows[-1, 1]}"
        elif rule is not None and _has_fields_of(rule, whole):
            try:
                expected = kept_in(rule, whole, view.covered)
            except DataError:
                raise
            except VlaStoreError:  # it cannot be applied to such fields, so nobody could have made the view by it
                expected = None
            here = np.array([[rows[0, 0], rows[-1, 1]]])
            if expected is None or not np.array_equal(overlaps(here, view.kept)[0], expected):
                yield f"does not keep what its rule keeps in rows {rows[0, 0]} to {rows[-1, 1]}"
    if set(counts_of(view.covered, view.kept, parts)) != set(view.counts):
        yield "counts its tasks wrongly"


def _has_fields_of(rule: Rule, whole: WholePart) -> bool:
    """A rule whose fields are not there, or no numbers, is not asked."""
    fields = whole.document.fields
    return all(name in fields and (rule.if_finite or not fields[name].is_camera) for name in rule.fields or ())
