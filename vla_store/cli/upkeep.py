"""`verify`, `repair`, `merge` and `copy`: stores as they are."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vla_store.cli.options import add_command, add_fetcher, add_output
from vla_store.cli.printing import MAX_LINES, print_report, print_root, tell
from vla_store.progress import ProgressBar


def add_verify(commands: Any) -> None:
    verify = add_command(
        commands,
        "verify",
        _verify,
        "check a store against itself and against its source",
        "vla-store verify libero.vla --against LIBERO",
    )
    verify.add_argument("store", metavar="STORE", help="a path or a URL")
    verify.add_argument(
        "--against",
        action="append",
        metavar="SOURCE",
        help="compare every value and attribute with these sources (may be repeated)",
    )
    add_fetcher(verify)
    add_output(verify)


def _verify(arguments: argparse.Namespace) -> int:
    from vla_store.audit import verify_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = verify_store(
            arguments.store, against=arguments.against or None, fetcher=arguments.fetcher, progress=bar
        )
    print_report(arguments, report)
    return 0 if report.sound else 1


def add_repair(commands: Any) -> None:
    repair = add_command(
        commands,
        "repair",
        _repair,
        "rewrite the damaged and missing objects of a store, and nothing else",
        "vla-store repair libero.vla --from LIBERO",
    )
    repair.add_argument("store", metavar="STORE", help="a path or a URL")
    repair.add_argument(
        "--from",
        dest="source",
        action="append",
        required=True,
        metavar="SOURCE",
        help="what the store was built from (may be repeated)",
    )
    repair.set_defaults(resume_hint="; what was rewritten is whole, and the same command goes on")
    add_output(repair)


def _repair(arguments: argparse.Namespace) -> int:
    from vla_store.manage.repair import repair_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = repair_store(arguments.store, arguments.source, talk=bar.talk)
    if arguments.json:
        print(json.dumps({"repaired": list(report.repaired), "sound": report.sound, "url": report.url}))
    else:
        lines = [f"rewritten      {key}" for key in report.repaired[:MAX_LINES]]
        if len(report.repaired) > MAX_LINES:
            lines.append(f"               ... and {len(report.repaired) - MAX_LINES} more (--json lists all)")
        print("\n".join([*lines, f"{'sound' if report.sound else 'DAMAGED':<13}  {report.url}"]))
    return 0 if report.sound else 1


def add_merge(commands: Any) -> None:
    merge = add_command(
        commands, "merge", _merge, "make one store of several", "vla-store merge spatial.vla goal.vla libero.vla"
    )
    merge.add_argument("part", nargs="+", metavar="STORE", help="stores, in the order their rows shall have")
    merge.add_argument(
        "store", metavar="NEW", help="a new store, or the folder that holds all of them: nothing is copied then"
    )
    merge.add_argument(
        "--mixed",
        action="store_true",
        help="let stores differ in orientation and observation; each source keeps its own",
    )
    merge.set_defaults(resume_hint="; the same command goes on")
    add_output(merge)


def _merge(arguments: argparse.Namespace) -> int:
    from vla_store.manage.merge import merge_stores

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = merge_stores(arguments.part, arguments.store, mixed=arguments.mixed, talk=bar.talk)
    tell("note", report.notes)
    print_root(arguments, report.root, {"copied_nbytes": report.copied_nbytes})
    return 0


def add_copy(commands: Any) -> None:
    copy = add_command(
        commands,
        "copy",
        _copy,
        "copy a store, every object verified",
        "vla-store copy libero.vla s3://bucket/libero.vla",
    )
    copy.add_argument("source", metavar="STORE", help="a path or a URL")
    copy.add_argument("store", metavar="NEW", help="a path or a URL; the same command resumes")
    copy.set_defaults(resume_hint="; the same command goes on")
    add_output(copy)


def _copy(arguments: argparse.Namespace) -> int:
    from vla_store.manage.copy import copy_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = copy_store(arguments.source, arguments.store, talk=bar.talk)
    tell("note", report.notes)
    print_root(arguments, report.root, {"sent_nbytes": report.sent_nbytes})
    return 0
