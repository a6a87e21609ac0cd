"""Printing, in one place: results to stdout, as text or JSON; notes, warnings and errors to stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vla_store.errors import VlaStoreError, machine_error
from vla_store.progress import leave
from vla_store.text import Report, printable, told, wrapped

START = "vla-store: error: "


def error_text(error: VlaStoreError) -> str:
    """Return an error as it is printed: a screen at most, in lines that a terminal need not wrap."""
    lines = [wrapped(error.what, START, " " * len(START))]
    width = max(map(len, error.places), default=0)
    for label, value in error.places.items():
        start, indent = f"  {label:<{width}}  ", " " * (width + 4)
        for line in value.splitlines() or [""]:
            lines.append(f"{start}{line}" if _is_kept(line) else wrapped(line, start, indent))
            start = indent
    if error.hint:
        lines += ["", wrapped(error.hint, "hint: ", " " * len("hint: "))]
    return "\n".join(lines)


def _is_kept(line: str) -> bool:
    """Return whether a line is not to be wrapped: it has a path, which may have spaces, or its own spaces mean something."""
    return bool(re.search(r"(^|\s|['\"=])(/|\w+://)|^\s", line)) or not line.strip()


def error_json(error: VlaStoreError) -> str:
    """Return an error as one line of JSON, for programs."""
    return failure_json(type(error).__name__, error.what, error.exit_code, error.hint, error.places)


def failure_json(
    name: str, message: str, code: int, hint: str = "", where: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return one line of JSON about what failed: name of the error, what, the exit code, what to do, and labelled facts."""
    return json.dumps({"error": name, "exit_code": code, "hint": hint, "message": message, "where": dict(where)})


def say(text: str) -> None:
    """Print to stderr, or to nowhere once that fails."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        leave(sys.stderr)


def tell(kind: str, items: Sequence[str]) -> None:
    """Print lines of one kind on stderr, a screen at most: wrapped on a terminal, one line each for who searches a log."""
    is_terminal = sys.stderr.isatty()
    for line in told(kind, items):
        say(wrapped(line, indent=" " * 4) if is_terminal else line)


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


def print_lines(lines: Iterable[str]) -> int:
    """Print lines for people as they come; none is held. Returns 0."""
    with writing_results():
        for line in lines:
            sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
    return 0


def print_array(values: Iterable[Any]) -> int:
    """Print values for programs as one JSON array, a line each, as they come. Returns 0."""
    with writing_results():
        start = "["
        for value in values:
            sys.stdout.write(f"{start}{json.dumps(value)}")
            start = ",\n "
        sys.stdout.write("[]\n" if start == "[" else "]\n")
        sys.stdout.flush()
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
