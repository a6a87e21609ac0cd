"""`info`, `show`, `report` and `demo`: for people who want to see."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from vla_store import figures
from vla_store.cli.options import add_command, add_fetcher, add_output
from vla_store.cli.printing import print_report
from vla_store.reader import Store, open_store


def add_info(commands: Any) -> None:
    info = add_command(commands, "info", _info, "say what a store holds", "vla-store info libero.vla")
    info.add_argument("store", metavar="STORE", help="a path or a URL")
    add_fetcher(info)
    add_output(info)


def _info(arguments: argparse.Namespace) -> int:
    store = open_store(arguments.store, fetcher=arguments.fetcher)
    described = figures.store_json(store)
    print(json.dumps(described) if arguments.json else figures.store_text(described))
    return _said_of_views(store)


def _said_of_views(store: Store) -> int:
    """0. Raises StoreDamaged for views that cannot be read, which stop nothing else: after the rest was shown."""
    damage = figures.damaged_views(store)
    if damage is not None:
        sys.stdout.flush()
        raise damage
    return 0


def add_show(commands: Any) -> None:
    show = add_command(
        commands,
        "show",
        _show,
        "draw one episode: its cameras, actions and where it comes from",
        "vla-store show libero.vla --episode 7 -o episode.png",
    )
    show.add_argument("store", metavar="STORE", help="a path or a URL")
    show.add_argument(
        "--episode",
        default="0",
        metavar="EPISODE",
        help="its number in the store (-1: the last), or suite/file/demo (default: 0)",
    )
    show.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the picture to write, or to replace")
    show.add_argument("--steps", type=int, default=8, metavar="N", help="pictures of each camera, 1 to 24 (default: 8)")
    show.add_argument(
        "--images",
        choices=("upright", "as_stored", "rot180"),
        default="upright",
        help="how pictures are turned (default: upright)",
    )
    add_fetcher(show)
    add_output(show)


def _show(arguments: argparse.Namespace) -> int:
    from vla_store.look.episodes import find_episode
    from vla_store.look.sheet import write_sheet

    store = open_store(arguments.store, fetcher=arguments.fetcher)
    episode = find_episode(store, arguments.episode)
    written = write_sheet(store, episode, arguments.output, steps=arguments.steps, images=arguments.images)
    print_report(arguments, written)
    return 0


def add_report(commands: Any) -> None:
    report = add_command(
        commands,
        "report",
        _report,
        "write one HTML page about a store: decisions, tasks, distributions, sizes",
        "vla-store report libero.vla -o report.html",
    )
    report.add_argument("store", metavar="STORE", help="a path or a URL")
    report.add_argument("-o", "--output", required=True, metavar="FILE.html", help="the page to write, or to replace")
    add_fetcher(report)
    add_output(report)


def _report(arguments: argparse.Namespace) -> int:
    from vla_store.look.page import write_page

    store = open_store(arguments.store, fetcher=arguments.fetcher)
    print_report(arguments, write_page(store, arguments.output))
    return _said_of_views(store)


def add_demo(commands: Any) -> None:
    demo = add_command(
        commands, "demo", _demo, "draw, build, verify and read a small store in under a minute", "vla-store demo"
    )
    demo.add_argument("folder", nargs="?", help="keep the files here (default: a temporary folder that is removed)")


def _demo(arguments: argparse.Namespace) -> int:
    from vla_store.demo import run_demo

    run_demo(arguments.folder, keep=arguments.folder is not None)
    return 0
