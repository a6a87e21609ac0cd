"""`--print-completion`: a script by which a shell completes commands, options, choices and paths. shtab writes it, and is needed then alone."""

from __future__ import annotations

import argparse
from typing import Any

from vla_store.cli.printing import writing_results
from vla_store.errors import MachineError

SHELLS = ("bash", "zsh", "tcsh")
FOLDERS = ("DIR", "FOLDER", "NEW", "STORE")  # metavars of what is a folder, a store among them
FILES = ("FILE", "RECORDINGS", "SOURCE")  # and of what may be a file


class PrintCompletion(argparse.Action):
    """Prints the script for one shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        made = script(parser, values)
        with writing_results():
            print(made, flush=True)
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell. Raises MachineError where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise MachineError(
            "writing a completion script needs shtab, which is not installed here",
            hint='pip install "vla-store[completion]"; the script that it writes needs it no more',
        ) from None
    _say_what_is_offered(parser, shtab)
    made: str = shtab.complete(parser, shell)
    return made


def _say_what_is_offered(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Note at every argument of a parser, and of those below it, that it is a folder or a file, or which words it offers.

    These become choices: this parser writes a script, and parses nothing more.
    """
    for action in parser._actions:
        kind = str(action.metavar).partition(".")[0]
        if kind in FOLDERS + FILES:
            action.complete = shtab.DIRECTORY if kind in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
        if offered := getattr(action, "offered", ()):
            action.choices = offered
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _say_what_is_offered(below, shtab)
