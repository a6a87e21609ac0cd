"""How a command is declared, and the arguments that several commands have, each defined once. Imports errors alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Argument = Callable[[argparse.ArgumentParser], Any]
Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Command:
    """One command, or one that has commands below it.

    run: makes one call, prints, and returns the exit code. resume: what is said of going on when it is interrupted.
    """

    name: str
    summary: str
    example: str
    arguments: tuple[Argument, ...] = ()
    run: Run | None = None
    resume: str = ""
    inside: tuple[Command, ...] = ()

    def __call__(self, commands: Any) -> None:
        """Add this command to the commands of a parser."""
        parser: argparse.ArgumentParser = commands.add_parser(
            self.name,
            help=self.summary,
            description=f"{self.summary[0].upper()}{self.summary[1:]}.",
            epilog=f"example: {self.example}",
        )
        for add in self.arguments:
            add(parser)
        if self.run:
            parser.set_defaults(run=self.run)
        if self.resume:
            parser.set_defaults(resume_hint=f"; {self.resume}")
        if self.inside:
            below = parser.add_subparsers(dest=f"{self.name}_command", required=True, metavar="COMMAND")
            for each in self.inside:
                each(below)


def command(name: str, summary: str, example: str, *arguments: Argument, resume: str = "") -> Callable[[Run], Command]:
    """Return a decorator that makes a command of the function that runs it."""
    return lambda run: Command(name, summary, example, arguments, run, resume)


def argument(*names: str, **settings: Any) -> Argument:
    """Return what adds this argument to a parser, as `add_argument` takes it."""
    return lambda parser: parser.add_argument(*names, **settings)


def offering(words: Iterable[str], *names: str, **settings: Any) -> Argument:
    """Return what adds this argument to a parser; completion offers these words, others are for the command to refuse or to take."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(*names, **settings).offered = tuple(words)  # type: ignore[attr-defined]

    return add


def flag(name: str, help_text: str) -> Argument:
    return argument(name, action="store_true", help=help_text)


def group(*arguments: Argument) -> Argument:
    """Return what adds all of these."""
    return lambda parser: [add(parser) for add in arguments]


STORE = argument("store", metavar="STORE", help="a path or a URL")
WRITABLE_STORE = argument("store", metavar="STORE", help="a path, or a URL that can be written")
JSON = flag("--json", "print the result as JSON")
OUTPUT = group(JSON, flag("--quiet", "no progress, only results and errors"))
FETCHER = argument(
    "--fetcher",
    choices=("mmap", "pread", "fsspec", "obstore"),
    help="how the store is read (default: mmap for a path; for a URL obstore if it is installed, else fsspec; pread: network file "
    "systems, cold disks)",
)
CACHE_SIZE = argument(
    "--cache-size",
    metavar="SIZE",
    help="the most that the cache may take, as in 200GB (default: VLA_STORE_CACHE_SIZE, else what the disk has)",
)
CACHE = group(
    argument(
        "--cache",
        metavar="DIR",
        help="keep what is fetched in this folder of a local disk (default: VLA_STORE_CACHE for a URL; '' for none)",
    ),
    CACHE_SIZE,
)
READING = group(STORE, FETCHER, CACHE, OUTPUT)  # the last arguments of a command that reads one store


def how_to_read(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what `open_store` takes besides the store."""
    return {"fetcher": arguments.fetcher, "cache": arguments.cache, "cache_size": arguments.cache_size}


LAYOUT = argument(
    "--layout",
    metavar="FILE.toml",
    help="read HDF5 files as this layout says (`vla-store layout` writes a first one)",
)


def images(default: str, help_text: str) -> Argument:
    choices = sorted(("upright", "as_stored", "rot180"), key=lambda each: each != default)
    return argument("--images", choices=choices, default=default, help=help_text)


def view(what: str) -> Argument:
    return argument(
        "--view",
        action="append",
        metavar="NAME",
        help=f"{what} (may be repeated; `vla-store views list` has their names)",
    )
