"""`verify`, `repair`, `merge` and `copy`: stores as they are."""

from __future__ import annotations

import argparse

from vla_store.cli.options import FETCHER, LAYOUT, OUTPUT, STORE, argument, command, flag
from vla_store.cli.printing import print_report
from vla_store.progress import ProgressBar
from vla_store.sources.kinds import reading_by


@command(
    "verify",
    "check a store against itself and against its source",
    "vla-store verify libero.vla --against LIBERO",
    argument(
        "--against",
        action="append",
        metavar="SOURCE",
        help="compare every value and attribute with these sources (may be repeated)",
    ),
    LAYOUT,
    STORE,
    FETCHER,
    OUTPUT,
)
def verify(arguments: argparse.Namespace) -> int:
    from vla_store.audit import verify_store

    with reading_by(arguments.layout), ProgressBar(quiet=arguments.quiet) as bar:
        report = verify_store(
            arguments.store, against=arguments.against or None, fetcher=arguments.fetcher, progress=bar
        )
    return print_report(arguments, report) or int(not report.sound)


@command(
    "repair",
    "rewrite the damaged and missing objects of a store, and nothing else",
    "vla-store repair libero.vla --from LIBERO",
    STORE,
    argument(
        "--from",
        dest="source",
        action="append",
        required=True,
        metavar="SOURCE",
        help="what the store was built from (may be repeated)",
    ),
    LAYOUT,
    OUTPUT,
    resume="what was rewritten is whole, and the same command goes on",
)
def repair(arguments: argparse.Namespace) -> int:
    from vla_store.manage.repair import repair_store

    with reading_by(arguments.layout), ProgressBar(quiet=arguments.quiet) as bar:
        report = repair_store(arguments.store, arguments.source, progress=bar)
    return print_report(arguments, report) or int(not report.sound)


@command(
    "merge",
    "make one store of several",
    "vla-store merge spatial.vla goal.vla libero.vla",
    argument("part", nargs="+", metavar="STORE", help="stores, in the order their rows shall have"),
    argument("store", metavar="NEW", help="a new store, or the folder that holds all of them: nothing is copied then"),
    flag("--mixed", "let stores differ in orientation and observation; each source keeps its own"),
    OUTPUT,
    resume="the same command goes on",
)
def merge(arguments: argparse.Namespace) -> int:
    from vla_store.manage.merge import merge_stores

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = merge_stores(arguments.part, arguments.store, mixed=arguments.mixed, progress=bar)
    return print_report(arguments, report)


@command(
    "copy",
    "copy a store, every object verified",
    "vla-store copy libero.vla s3://bucket/libero.vla",
    argument("source", metavar="STORE", help="a path or a URL"),
    argument("store", metavar="NEW", help="a path or a URL; the same command resumes"),
    OUTPUT,
    resume="the same command goes on",
)
def copy(arguments: argparse.Namespace) -> int:
    from vla_store.manage.copy import copy_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = copy_store(arguments.source, arguments.store, progress=bar)
    return print_report(arguments, report)
