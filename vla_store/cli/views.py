"""`views add`, `views list` and `views remove`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vla_store.cli.options import JSON, OUTPUT, STORE, WRITABLE_STORE, Command, argument, command, flag
from vla_store.cli.printing import print_report, print_result, tell
from vla_store.errors import OptionError, UnknownName
from vla_store.look.info import views_json, views_text
from vla_store.progress import ProgressBar
from vla_store.reader import open_store

if TYPE_CHECKING:
    from vla_store.format.schema import Root
    from vla_store.format.views import View
    from vla_store.reader import Store


@command(
    "add",
    "add views to a store",
    "vla-store views add libero.vla no_noops length:shortest=128",
    WRITABLE_STORE,
    argument(
        "rule",
        nargs="+",
        metavar="RULE",
        help="no_noops (options threshold, field), success, length (shortest, longest, at_most, seed), still_start "
        "(threshold, fields), drop_tail (steps) or finite (fields); all take kind and name, as in "
        "no_noops:threshold=1e-3,kind=anchors,name=moving",
    ),
    flag("--allow-empty", "also where nothing is left of a task"),
    OUTPUT,
)
def add(arguments: argparse.Namespace) -> int:
    from vla_store.manage.views import add_views
    from vla_store.view_rules import parse_view

    wanted = [parse_view(text) for text in arguments.rule]
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = add_views(arguments.store, wanted, allow_empty=arguments.allow_empty, progress=bar)
    for kind, items in report.told():
        tell(kind, items)
    return _print_views(arguments, report.views, report.root, by_task=True)


@command(
    "list",
    "list the views of a store",
    "vla-store views list libero.vla no_noops",
    STORE,
    argument("name", nargs="*", default=[], metavar="NAME", help="only these, with what they keep of every task"),
    JSON,
)
def list_(arguments: argparse.Namespace) -> int:
    store = open_store(arguments.store)
    for name in arguments.name:
        if name not in store.views:
            raise UnknownName.among("view", name, list(store.views), store=store.url)
    chosen = [each for name, each in store.views.items() if name in (arguments.name or store.views)]
    return _print_views(arguments, chosen, store, by_task=bool(arguments.name))


@command(
    "remove",
    "remove views from a store",
    "vla-store views remove libero.vla no_noops",
    WRITABLE_STORE,
    argument("name", nargs="*", default=[], metavar="NAME", help="views to remove"),
    flag("--all", "all of them, also where their document is damaged"),
    JSON,
)
def remove(arguments: argparse.Namespace) -> int:
    from vla_store.manage.views import remove_views

    if arguments.all == bool(arguments.name):
        raise OptionError("name the views to remove, or give --all")
    return print_report(arguments, remove_views(arguments.store, None if arguments.all else arguments.name))


views = Command(
    "views",
    "name which steps may be sampled, or which there are, without touching the data",
    "vla-store views add libero.vla no_noops",
    inside=(add, list_, remove),
)


def _print_views(arguments: argparse.Namespace, views: Sequence[View], of: Root | Store, *, by_task: bool) -> int:
    described = {"digest": of.digest, "generation": of.generation, "rows": of.rows, "views": views_json(views)}
    return print_result(arguments, described, lambda found: views_text(found["views"], of.rows, by_task=by_task))
