"""What the commands print: results to stdout, talk to stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vla_store import figures
from vla_store.errors import VlaStoreError
from vla_store.storage import place_of

if TYPE_CHECKING:
    from vla_store.format.schema import Root

MAX_LINES = 20
LINE_WIDTH = 88


def error_text(error: VlaStoreError) -> str:
    """What is printed for an error: a screen at most, its hint in lines that a terminal need not wrap."""
    what, hint, advice = str(error).rpartition("\nhint: ")
    if hint:  # the other lines hold paths, and what a file said; a path in a hint is there to be copied
        advice = textwrap.fill(
            advice, LINE_WIDTH, subsequent_indent="      ", break_on_hyphens=False, break_long_words=False
        )
    return f"vla-store: error: {what}{hint}{advice}"


def tell(kind: str, items: Sequence[str]) -> None:
    """Lines of one kind on stderr, a screen at most."""
    for item in items[:MAX_LINES]:
        print(f"{kind}: {item}", file=sys.stderr)
    if len(items) > MAX_LINES:
        print(f"{kind}: ... and {len(items) - MAX_LINES} more (the store records all)", file=sys.stderr)


@contextlib.contextmanager
def telling_warnings() -> Iterator[None]:
    """What the library warns of, as lines for people: each once, and after the results."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            tell("warning", list(dict.fromkeys(str(each.message) for each in caught)))


def print_root(arguments: argparse.Namespace, root: Root, more: dict[str, Any]) -> None:
    """The state of a store after a change. more: what only programs are told."""
    described = figures.root_json(place_of(arguments.store), root) | more
    print(json.dumps(described) if arguments.json else figures.root_text(described))


class Report(Protocol):
    def to_json(self) -> dict[str, Any]: ...

    def text(self) -> str: ...


def print_report(arguments: argparse.Namespace, report: Report) -> None:
    """A report for programs with --json, else for people."""
    print(json.dumps(report.to_json()) if arguments.json else report.text())
