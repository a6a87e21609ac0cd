"""What the options of several commands have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from vla_store.errors import OptionError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int] | None, help_text: str, example: str
) -> argparse.ArgumentParser:
    """The parser of one command. run: what makes the call and prints, with the exit code; None: commands below it do."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".", epilog=f"example: {example}"
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, only results and errors")


def add_fetcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fetcher",
        choices=("mmap", "pread", "fsspec"),
        help="how the store is read (default: mmap for a path, fsspec for a URL; pread: network file systems, cold disks)",
    )


def add_view(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--view",
        action="append",
        metavar="NAME",
        help=f"{what} (may be repeated; `vla-store views list` has their names)",
    )


def parse_size(text: str) -> int:
    """Bytes of "1GiB", "500 MB", "2g". Raises OptionError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] == "i":
        raise OptionError(f"not a size: {text!r}", expected="a number with a unit, as in 1GiB or 800MB")
    return int(Decimal(match[1]) * _UNITS[match[2]])
