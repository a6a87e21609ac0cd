"""`build`, `append` and `recode`: the commands that encode."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_store import figures
from vla_store.cli.build_options import (
    add_checks,
    add_choice,
    add_conventions,
    add_executor,
    add_source,
    options_given,
)
from vla_store.cli.options import add_command, add_output
from vla_store.cli.printing import print_root, tell
from vla_store.progress import ProgressBar

if TYPE_CHECKING:
    from vla_store.builder import BuildReport, Skipped
    from vla_store.format.schema import Root


def add_build(commands: Any) -> None:
    build = add_command(
        commands,
        "build",
        _build,
        "convert LIBERO demonstrations into a store",
        "vla-store build LIBERO/libero_spatial LIBERO/libero_goal libero.vla",
    )
    add_source(build)
    build.add_argument("store", metavar="STORE", help="the store to write; must not exist")
    build.add_argument(
        "--preset", default="fast", help="raw (no codec), fast (LZ4HC, the default) or small (Zstd, more predictions)"
    )
    add_conventions(build)
    add_choice(build, "")
    add_executor(build)
    build.add_argument(
        "--overwrite", action="store_true", help="replace STORE, and discard an unfinished build of other sources"
    )
    add_checks(build, "which and why")
    build.add_argument(
        "--view", action="append", metavar="RULE", help="record a view at once, as `views add` does (may be repeated)"
    )
    build.add_argument("--allow-empty", action="store_true", help="views may leave nothing of a task")
    build.add_argument("--dry-run", action="store_true", help="print the plan, sizes and memory; write nothing")
    build.set_defaults(resume_hint="; the same command resumes the build")
    add_output(build)


def _build(arguments: argparse.Namespace) -> int:
    from vla_store.builder import build_store
    from vla_store.builder.options import BuildOptions
    from vla_store.manage.views import add_views
    from vla_store.view_rules import parse_view

    views = [parse_view(text) for text in arguments.view or ()]
    notes: list[str] = []

    def record(folder: Path) -> Root:  # before the store has its name: nobody finds it without its views
        added = add_views(folder, views, allow_empty=arguments.allow_empty, talk=bar.talk)
        notes.extend(added.notes)
        return added.root

    given = options_given(arguments, BuildOptions)
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = build_store(
            arguments.source,
            arguments.store,
            **given,
            finish=record if views else None,
            progress=bar,
        )
    _tell_what_is_wrong(report)
    tell("note", notes)
    _print_build(arguments, report)
    return 0


def add_append(commands: Any) -> None:
    append = add_command(
        commands, "append", _append, "add demonstrations to a store", "vla-store append LIBERO/libero_90 libero.vla"
    )
    add_source(append)
    append.add_argument("store", metavar="STORE", help="the store to add to: a path, or a URL that can be written")
    append.add_argument("--preset", choices=("raw", "fast", "small"), help="default: that of the store's last part")
    add_conventions(append)
    add_choice(append, "; default: as for the store's last part")
    add_executor(append)
    add_checks(append, "which")
    append.add_argument("--staging", metavar="FOLDER", help="where the new part is built (default: beside the store)")
    append.set_defaults(resume_hint="; the store is as it was, and the same command goes on")
    add_output(append)


def _append(arguments: argparse.Namespace) -> int:
    from vla_store.builder.options import AppendOptions
    from vla_store.manage.append import append_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        given = options_given(arguments, AppendOptions)
        report = append_store(arguments.source, arguments.store, **given, progress=bar)
    _tell_what_is_wrong(report.build)
    tell("note", report.notes)
    if not report.added:
        tell("note", ["the store has these demonstrations already; nothing was added"])
    print_root(arguments, report.root, added=report.part.to_json() if report.added else None)
    return 0


def add_recode(commands: Any) -> None:
    recode = add_command(
        commands,
        "recode",
        _recode,
        "make a store of the same content in another preset, in one part",
        "vla-store recode libero.vla libero-small.vla --preset small",
    )
    recode.add_argument("source", metavar="STORE", help="a path or a URL")
    recode.add_argument("store", metavar="NEW", help="the store to write; must not exist")
    recode.add_argument("--preset", required=True, choices=("raw", "fast", "small"))
    add_executor(recode)
    recode.set_defaults(resume_hint="; the same command resumes")
    add_output(recode)


def _recode(arguments: argparse.Namespace) -> int:
    from vla_store.builder.options import RecodeOptions
    from vla_store.manage.recode import recode_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        given = options_given(arguments, RecodeOptions)
        report = recode_store(arguments.source, arguments.store, **given, progress=bar)
    tell("warning", [each.text for each in report.nonfinite])
    _print_build(arguments, report)
    return 0


def _print_build(arguments: argparse.Namespace, report: BuildReport) -> None:
    print(json.dumps(figures.build_json(report)) if arguments.json else figures.build_table(report))


def _tell_what_is_wrong(report: BuildReport) -> None:
    tell("warning", [*report.warnings, *(each.text for each in report.nonfinite)])
    tell("left out", [f"{_place(each)}: {each.reason}" for each in report.skipped])


def _place(skipped: Skipped) -> str:
    return f"{skipped.suite}/{skipped.file}" + (f" {skipped.demo}" if skipped.demo else "")
