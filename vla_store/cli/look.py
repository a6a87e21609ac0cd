"""`info`, `show`, `report`, `layout` and `demo`: what people look at. Imports the drawing modules when a command needs them."""

from __future__ import annotations

import argparse

from vla_store.cli.options import READING, argument, command, how_to_read, images, offering
from vla_store.cli.printing import print_report, print_result, writing_results
from vla_store.look.info import damaged_views, store_json, store_text
from vla_store.reader import Store, open_store


@command("info", "say what a store holds", "vla-store info libero.vla", READING)
def info(arguments: argparse.Namespace) -> int:
    store = open_store(arguments.store, **how_to_read(arguments))
    print_result(arguments, store_json(store), store_text)
    return _check_views(store)


def _check_views(store: Store) -> int:
    """Return 0. Raises StoreDamaged for views that cannot be read, which stop nothing else: after the rest was shown."""
    damage = damaged_views(store)
    if damage is not None:
        raise damage
    return 0


@command(
    "show",
    "draw one episode: its cameras, curves and where it comes from",
    "vla-store show libero.vla --episode 7 -o episode.png",
    argument(
        "--episode",
        default="0",
        metavar="EPISODE",
        help="its number in the store (-1: the last), or suite/file/demo (default: 0)",
    ),
    argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="what to write, or to replace, by its ending: a picture (.png, .svg, .pdf), a film (.mp4, .gif: to look at, its colours "
        "are not exact), or a recording for the viewer rerun (.rrd: every pixel and number)",
    ),
    offering(
        ("events",),
        "--steps",
        metavar="N",
        help="of a picture: pictures of each camera, 1 to 24 (default: 8), or `events`: where the gripper changes",
    ),
    images("upright", "how pictures are turned (default: upright)"),
    READING,
)
def show(arguments: argparse.Namespace) -> int:
    from vla_store.look.episodes import find_episode
    from vla_store.look.show import parsed_steps, write_episode

    steps = parsed_steps(arguments.steps)
    store = open_store(arguments.store, **how_to_read(arguments))
    episode = find_episode(store, arguments.episode)
    return print_report(
        arguments, write_episode(store, episode, arguments.output, steps=steps, images=arguments.images)
    )


@command(
    "report",
    "write one HTML page about a store: decisions, tasks, distributions, sizes",
    "vla-store report libero.vla -o report.html",
    argument("-o", "--output", required=True, metavar="FILE.html", help="the page to write, or to replace"),
    READING,
)
def report(arguments: argparse.Namespace) -> int:
    from vla_store.look.page import write_page

    store = open_store(arguments.store, **how_to_read(arguments))
    print_report(arguments, write_page(store, arguments.output))
    return _check_views(store)


@command(
    "layout",
    "look at HDF5 recordings, and print a first layout file for them (to `> robot.toml`)",
    "vla-store layout recordings",
    argument("recordings", metavar="RECORDINGS", help="an HDF5 file, or a folder, of which the first one is looked at"),
)
def layout(arguments: argparse.Namespace) -> int:
    from vla_store.sources.draft import draft

    text = draft(arguments.recordings)
    with writing_results():
        print(text, end="", flush=True)
    return 0


@command(
    "demo",
    "draw, build, verify and read a small store in under a minute",
    "vla-store demo",
    argument("folder", nargs="?", help="keep the files here (default: a temporary folder that is removed)"),
)
def demo(arguments: argparse.Namespace) -> int:
    from vla_store.demo import run_demo

    run_demo(arguments.folder)
    return 0
