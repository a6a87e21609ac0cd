"""All commands, in the order of `vla-store --help`."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from vla_store import __version__
from vla_store.cli import build, look, measure, upkeep, views


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vla-store",
        description="Robot demonstrations as a random-access sample store.",
        epilog="exit codes: 0 fine, 1 the data or the store is bad, 2 wrong use, 3 the machine failed us, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"vla-store {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        build.add_build,
        look.add_info,
        upkeep.add_verify,
        build.add_append,
        upkeep.add_merge,
        upkeep.add_copy,
        build.add_recode,
        upkeep.add_repair,
        look.add_show,
        look.add_report,
        views.add_views,
        measure.add_bench,
        measure.add_coverage,
        look.add_demo,
    ):
        add(commands)
    return parser
