"""Printing, in one place: results to stdout, as text or JSON; notes, warnings and errors to stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vla_store.errors import VlaStoreError, machine_error
from vla_store.progress import leave
from vla_store.text import Report, printable, told

LINE_WIDTH = 88


def error_text(error: VlaStoreError) -> str:
    """Return an error as it is printed: a screen at most, its hint in lines that a terminal need not wrap."""
    what, hint, advice = str(error).rpartition("\nhint: ")
    if hint:  # the other lines hold paths, and what a file said; a path in a hint is there to be copied
        advice = textwrap.fill(
            advice, LINE_WIDTH, subsequent_indent="      ", break_on_hyphens=False, break_long_words=False
        )
    return f"vla-store: error: {what}{hint}{advice}"


def say(text: str) -> None:
    """Print to stderr, or to nowhere once that fails."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        leave(sys.stderr)


def tell(kind: str, items: Sequence[str]) -> None:
    """Print lines of one kind on stderr, a screen at most."""
    for line in told(kind, items):
        say(line)


@contextlib.contextmanager
def telling_warnings() -> Iterator[None]:
    """Print what the library warns of as lines for people: each once, and after the results."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            tell("warning", list(dict.fromkeys(str(each.message) for each in caught)))


def print_result(
    arguments: argparse.Namespace, described: dict[str, Any], text: Callable[[dict[str, Any]], str]
) -> int:
    """Print a result for programs with --json, else as the text that this function makes of it. Returns 0."""
    with writing_results():
        print(json.dumps(described) if arguments.json else printable(text(described)), flush=True)
    return 0


@contextlib.contextmanager
def writing_results() -> Iterator[None]:
    """Write to stdout in this block, or to nowhere once its reader has left. Raises MachineError where it cannot be written."""
    try:
        yield
    except BrokenPipeError:
        leave(sys.stdout)
    except OSError as error:
        leave(sys.stdout)
        raise machine_error(error, "writing the result") from None


def print_report(arguments: argparse.Namespace, report: Report, notes: Sequence[str] = ()) -> int:
    """Print what a function did, with what it tells besides on stderr. notes: more of that. Returns 0."""
    for kind, items in (*report.told(), ("note", notes)):
        tell(kind, items)
    return print_result(arguments, report.to_json(), lambda _: report.text())
