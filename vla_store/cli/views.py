"""`views add`, `views list` and `views remove`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vla_store import figures
from vla_store.cli.options import add_command, add_output
from vla_store.cli.printing import print_root, tell
from vla_store.errors import OptionError, UnknownName
from vla_store.progress import ProgressBar
from vla_store.reader import open_store

if TYPE_CHECKING:
    from vla_store.format.schema import Root
    from vla_store.format.views import View
    from vla_store.reader import Store


def add_views(commands: Any) -> None:
    views = add_command(
        commands,
        "views",
        None,
        "name which steps may be sampled, or which there are, without touching the data",
        "vla-store views add libero.vla no_noops",
    )
    inside = views.add_subparsers(dest="views_command", required=True, metavar="COMMAND")

    add = add_command(
        inside, "add", _add, "add views to a store", "vla-store views add libero.vla no_noops length:shortest=128"
    )
    add.add_argument("store", metavar="STORE", help="a path, or a URL that can be written")
    add.add_argument(
        "rule",
        nargs="+",
        metavar="RULE",
        help="no_noops (options threshold, field), success, length (shortest, longest, at_most, seed), still_start "
        "(threshold, fields), drop_tail (steps) or finite (fields); all take kind and name, as in "
        "no_noops:threshold=1e-3,kind=anchors,name=moving",
    )
    add.add_argument("--allow-empty", action="store_true", help="also where nothing is left of a task")
    add_output(add)

    listed = add_command(inside, "list", _list, "list the views of a store", "vla-store views list libero.vla no_noops")
    listed.add_argument("store", metavar="STORE", help="a path or a URL")
    listed.add_argument("name", nargs="*", metavar="NAME", help="only these, with what they keep of every task")
    listed.add_argument("--json", action="store_true", help="print the result as JSON")

    remove = add_command(
        inside, "remove", _remove, "remove views from a store", "vla-store views remove libero.vla no_noops"
    )
    remove.add_argument("store", metavar="STORE", help="a path, or a URL that can be written")
    remove.add_argument("name", nargs="*", metavar="NAME", help="views to remove")
    remove.add_argument("--all", action="store_true", help="all of them, also where their document is damaged")
    remove.add_argument("--json", action="store_true", help="print the result as JSON")


def _add(arguments: argparse.Namespace) -> int:
    from vla_store.manage.views import add_views
    from vla_store.view_rules import parse_view

    wanted = [parse_view(text) for text in arguments.rule]
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = add_views(arguments.store, wanted, allow_empty=arguments.allow_empty, talk=bar.talk)
    tell("note", report.notes)
    if not report.changed:
        tell("note", ["the store has these views already; nothing was added"])
    _print_views(arguments, report.views, report.root, by_task=True)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    store = open_store(arguments.store)
    for name in arguments.name:
        if name not in store.views:
            raise UnknownName.among("view", name, list(store.views), store=store.url)
    chosen = [each for name, each in store.views.items() if name in (arguments.name or store.views)]
    _print_views(arguments, chosen, store, by_task=bool(arguments.name))
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from vla_store.manage.views import remove_views

    if arguments.all == bool(arguments.name):
        raise OptionError("name the views to remove, or give --all")
    report = remove_views(arguments.store, None if arguments.all else arguments.name)
    if not report.changed:
        tell("note", ["the store has no views"])
    removed = ["all"] if arguments.all and report.changed else [each.name for each in report.views]
    print_root(arguments, report.root, {"removed": removed})
    return 0


def _print_views(arguments: argparse.Namespace, views: Sequence[View], of: Root | Store, *, by_task: bool) -> None:
    described = figures.views_json(views)
    if arguments.json:
        print(json.dumps({"digest": of.digest, "generation": of.generation, "rows": of.rows, "views": described}))
    else:
        print(figures.views_text(described, of.rows, by_task=by_task) if described else "no views")
