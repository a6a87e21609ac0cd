"""`build`, `append` and `recode`: the commands that encode."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vla_store.cli.build_options import CONVENTIONS, EXECUTOR, SOURCES, checks, choice, options_given
from vla_store.cli.options import LAYOUT, OUTPUT, argument, command, flag, offering
from vla_store.cli.printing import print_report
from vla_store.progress import ProgressBar
from vla_store.sources.kinds import reading_by
from vla_store.types import PRESETS

if TYPE_CHECKING:
    from vla_store.format.schema import Root


@command(
    "build",
    "convert demonstrations into a store",
    "vla-store build LIBERO/libero_spatial LIBERO/libero_goal libero.vla",
    SOURCES,
    argument("store", metavar="STORE", help="the store to write, a path or a URL that can be written; must not exist"),
    offering(
        PRESETS,
        "--preset",
        default="fast",
        help="raw (no codec), fast (LZ4HC, the default) or small (Zstd, more predictions)",
    ),
    LAYOUT,
    CONVENTIONS,
    choice(""),
    EXECUTOR,
    flag("--overwrite", "replace STORE, and discard an unfinished build of other sources"),
    checks("which and why"),
    argument(
        "--view", action="append", metavar="RULE", help="record a view at once, as `views add` does (may be repeated)"
    ),
    flag("--allow-empty", "views may leave nothing of a task"),
    argument(
        "--staging",
        metavar="FOLDER",
        help="where a store at a URL keeps what is not there yet (default: in the folder for temporary files)",
    ),
    flag("--dry-run", "print the plan, sizes and memory; write nothing"),
    OUTPUT,
    resume="the same command resumes the build",
)
def build(arguments: argparse.Namespace) -> int:
    from vla_store.builder import build_store
    from vla_store.builder.options import BuildOptions
    from vla_store.manage.views import add_views
    from vla_store.view_rules import parse_view

    views = [parse_view(text) for text in arguments.view or ()]
    notes: list[str] = []

    def record(folder: Path) -> Root:  # before the store has its name: nobody finds it without its views
        added = add_views(folder, views, allow_empty=arguments.allow_empty, progress=bar)
        notes.extend(added.notes)
        return added.root

    given = options_given(arguments, BuildOptions)
    finish = record if views else None
    with reading_by(arguments.layout), ProgressBar(quiet=arguments.quiet) as bar:
        report = build_store(arguments.source, arguments.store, **given, finish=finish, progress=bar)
    return print_report(arguments, report, notes)


@command(
    "append",
    "add demonstrations to a store",
    "vla-store append LIBERO/libero_90 libero.vla",
    SOURCES,
    argument("store", metavar="STORE", help="the store to add to: a path, or a URL that can be written"),
    argument("--preset", choices=PRESETS, help="default: that of the store's last part"),
    LAYOUT,
    CONVENTIONS,
    choice("; default: as for the store's last part"),
    EXECUTOR,
    checks("which"),
    argument(
        "--staging",
        metavar="FOLDER",
        help="where the new part is built (default: beside the store, or in the folder for temporary files)",
    ),
    OUTPUT,
    resume="the store is as it was, and the same command goes on",
)
def append(arguments: argparse.Namespace) -> int:
    from vla_store.builder.options import AppendOptions
    from vla_store.manage.append import append_store

    given = options_given(arguments, AppendOptions)
    with reading_by(arguments.layout), ProgressBar(quiet=arguments.quiet) as bar:
        report = append_store(arguments.source, arguments.store, **given, progress=bar)
    return print_report(arguments, report)


@command(
    "recode",
    "make a store of the same content in another preset, in one part",
    "vla-store recode libero.vla libero-small.vla --preset small",
    argument("source", metavar="STORE", help="a path or a URL"),
    argument("store", metavar="NEW", help="the store to write; must not exist"),
    argument("--preset", required=True, choices=PRESETS),
    EXECUTOR,
    OUTPUT,
    resume="the same command resumes",
)
def recode(arguments: argparse.Namespace) -> int:
    from vla_store.builder.options import RecodeOptions
    from vla_store.manage.recode import recode_store

    given = options_given(arguments, RecodeOptions)
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = recode_store(arguments.source, arguments.store, **given, progress=bar)
    return print_report(arguments, report)
