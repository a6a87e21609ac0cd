"""All commands, in the order of `vla-store --help`."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import Any, NoReturn

from vla_store import __version__
from vla_store.cli import build, look, measure, upkeep, views


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:  # said by the command that does not know them, with its usage and not that of all commands
            _command_of(self, arguments).error(f"unrecognized arguments: {' '.join(unknown)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message)
        if unknown:
            message += _near(unknown[1], list(self._option_string_actions))
        elif choice:
            message += _near(choice[1], [each.strip(" '") for each in choice[2].split(",")])
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def _near(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _command_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the command, or of the command below it, that was named."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            named = action.choices.get(getattr(arguments, action.dest, None) or "")
            return parser if named is None else _command_of(named, arguments)
    return parser


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
