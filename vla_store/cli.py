"""The command line: arguments, one call, results on stdout, talk on stderr, an exit code.

0 fine; 1 the data or the store is bad; 2 wrong use; 3 the machine failed us; 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vla_store import __version__
from vla_store.errors import MachineError, OptionError, VlaStoreError, machine_error
from vla_store.format.schema import OBSERVATIONS, ORIENTATIONS

if TYPE_CHECKING:
    from vla_store.builder import Skipped
    from vla_store.format.schema import Root
    from vla_store.format.views import View
    from vla_store.reader import Store

INTERRUPTED = 130
MAX_LINES = 20
LINE_WIDTH = 88
BUILDING = ("dask", "distributed", "h5py", "zarr")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except VlaStoreError as error:
        return _fail(error)
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C need not wait for what is in hand
        print("\nvla-store: interrupted" + getattr(arguments, "resume_hint", ""), file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in BUILDING:
            raise
        failed = MachineError(
            f"`vla-store {arguments.command}` needs {error.name}, which is not installed here",
            python=f"{sys.version.split()[0]} at {sys.executable}",
            hint="install vla-store with Python 3.11 or newer: older ones can read stores, but not build them",
        )
        return _fail(failed)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of stdout left; that is its right
        return 0
    except (OSError, MemoryError) as error:
        return _fail(machine_error(error, f"running {arguments.command}"))
    return code


def error_text(error: VlaStoreError) -> str:
    """What is printed for an error: a screen at most, its hint in lines that a terminal need not wrap."""
    what, hint, advice = str(error).rpartition("\nhint: ")
    if hint:  # the other lines hold paths, and what a file said
        advice = textwrap.fill(advice, LINE_WIDTH, subsequent_indent="      ", break_on_hyphens=False)
    return f"vla-store: error: {what}{hint}{advice}"


def _fail(error: VlaStoreError) -> int:
    print(error_text(error), file=sys.stderr)
    return error.exit_code


def parse_size(text: str) -> int:
    """Bytes of "1GiB", "500 MB", "2g". Raises OptionError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] == "i":
        raise OptionError(f"not a size: {text!r}", expected="a number with a unit, as in 1GiB or 800MB")
    return int(Decimal(match[1]) * _UNITS[match[2]])


# Commands


def _build(arguments: argparse.Namespace) -> int:
    from vla_store.builder import build_store
    from vla_store.manage.views import add_views, parse_view
    from vla_store.progress import ProgressBar

    views = [parse_view(text) for text in arguments.view or ()]
    notes: list[str] = []

    def record(folder: Path) -> Root:  # before the store has its name: nobody finds it without its views
        added = add_views(folder, views, allow_empty=arguments.allow_empty, talk=bar.talk)
        notes.extend(added.notes)
        return added.root

    max_memory = None if arguments.max_memory is None else parse_size(arguments.max_memory)
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = build_store(
            arguments.source,
            arguments.store,
            preset=arguments.preset,
            **_conventions(arguments),
            executor=arguments.executor,
            workers=arguments.workers,
            scheduler=arguments.scheduler,
            max_memory=max_memory,
            overwrite=arguments.overwrite,
            rehash=arguments.rehash,
            skip_bad=arguments.skip_bad,
            dry_run=arguments.dry_run,
            finish=record if views else None,
            progress=bar,
        )
    _tell("warning", report.warnings)
    _tell("left out", [f"{_place(each)}: {each.reason}" for each in report.skipped])
    _tell("note", notes)
    from vla_store import figures

    if arguments.json:
        print(json.dumps(figures.build_json(report)))
    else:
        print(figures.build_table(report))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from vla_store import figures
    from vla_store.reader import open_store

    store = open_store(arguments.store)
    described = figures.store_json(store)
    print(json.dumps(described) if arguments.json else figures.store_text(described))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from vla_store.audit import verify_store
    from vla_store.progress import ProgressBar

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = verify_store(arguments.store, against=arguments.against or None, progress=bar)
    print(json.dumps(report.to_json()) if arguments.json else report.text())
    return 0 if report.sound else 1


def _append(arguments: argparse.Namespace) -> int:
    from vla_store.manage.append import append_store
    from vla_store.progress import ProgressBar

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = append_store(
            arguments.source,
            arguments.store,
            preset=arguments.preset,
            staging=arguments.staging,
            progress=bar,
            **_conventions(arguments),
            executor=arguments.executor,
            workers=arguments.workers,
            scheduler=arguments.scheduler,
            max_memory=None if arguments.max_memory is None else parse_size(arguments.max_memory),
            rehash=arguments.rehash,
            skip_bad=arguments.skip_bad,
        )
    _tell("warning", report.build.warnings)
    _tell("left out", [f"{_place(each)}: {each.reason}" for each in report.build.skipped])
    _tell("note", report.notes)
    if not report.added:
        _tell("note", ["the store has these demonstrations already; nothing was added"])
    return _show_root(arguments, report.root, {"added": report.part.to_json() if report.added else None})


def _merge(arguments: argparse.Namespace) -> int:
    from vla_store.manage.merge import merge_stores
    from vla_store.progress import ProgressBar

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = merge_stores(arguments.part, arguments.store, mixed=arguments.mixed, talk=bar.talk)
    _tell("note", report.notes)
    return _show_root(arguments, report.root, {"copied_nbytes": report.copied_nbytes})


def _copy(arguments: argparse.Namespace) -> int:
    from vla_store.manage.copy import copy_store
    from vla_store.progress import ProgressBar

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = copy_store(arguments.source, arguments.store, talk=bar.talk)
    return _show_root(arguments, report.root, {"sent_nbytes": report.sent_nbytes})


def _recode(arguments: argparse.Namespace) -> int:
    from vla_store import figures
    from vla_store.manage.recode import recode_store
    from vla_store.progress import ProgressBar

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = recode_store(
            arguments.source,
            arguments.store,
            preset=arguments.preset,
            progress=bar,
            executor=arguments.executor,
            workers=arguments.workers,
            scheduler=arguments.scheduler,
            max_memory=None if arguments.max_memory is None else parse_size(arguments.max_memory),
        )
    print(json.dumps(figures.build_json(report)) if arguments.json else figures.build_table(report))
    return 0


def _repair(arguments: argparse.Namespace) -> int:
    from vla_store.manage.repair import repair_store
    from vla_store.progress import ProgressBar

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


def _views_add(arguments: argparse.Namespace) -> int:
    from vla_store.manage.views import add_views, parse_view
    from vla_store.progress import ProgressBar

    wanted = [parse_view(text) for text in arguments.rule]
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = add_views(arguments.store, wanted, allow_empty=arguments.allow_empty, talk=bar.talk)
    _tell("note", report.notes)
    if not report.changed:
        _tell("note", ["the store has these views already; nothing was added"])
    return _show_views(arguments, report.views, report.root, by_task=True)


def _views_list(arguments: argparse.Namespace) -> int:
    from vla_store.errors import UnknownName
    from vla_store.reader import open_store

    store = open_store(arguments.store)
    for name in arguments.name:
        if name not in store.views:
            raise UnknownName.among("view", name, list(store.views), store=store.url)
    chosen = [each for name, each in store.views.items() if name in (arguments.name or store.views)]
    return _show_views(arguments, chosen, store, by_task=bool(arguments.name))


def _views_remove(arguments: argparse.Namespace) -> int:
    from vla_store.manage.views import remove_views

    if arguments.all == bool(arguments.name):
        raise OptionError("name the views to remove, or give --all")
    report = remove_views(arguments.store, None if arguments.all else arguments.name)
    if not report.changed:
        _tell("note", ["the store has no views"])
    removed = ["all"] if arguments.all and report.changed else [each.name for each in report.views]
    return _show_root(arguments, report.root, {"removed": removed})


def _show_views(arguments: argparse.Namespace, views: Sequence[View], of: Root | Store, *, by_task: bool) -> int:
    from vla_store import figures

    described = figures.views_json(views)
    if arguments.json:
        print(json.dumps({"digest": of.digest, "generation": of.generation, "rows": of.rows, "views": described}))
    else:
        print(figures.views_text(described, of.rows, by_task=by_task) if described else "no views")
    return 0


def _show_root(arguments: argparse.Namespace, root: Root, more: dict[str, Any]) -> int:
    from vla_store import figures

    described = figures.root_json(arguments.store, root) | more
    print(json.dumps(described) if arguments.json else figures.root_text(described))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from vla_store.look.episodes import find_episode
    from vla_store.look.sheet import write_sheet
    from vla_store.reader import open_store

    store = open_store(arguments.store)
    episode = find_episode(store, arguments.episode)
    written = write_sheet(store, episode, arguments.output, steps=arguments.steps, images=arguments.images)
    print(json.dumps(written.to_json()) if arguments.json else written.text())
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from vla_store.look.page import write_page
    from vla_store.reader import open_store

    written = write_page(open_store(arguments.store), arguments.output)
    print(json.dumps(written.to_json()) if arguments.json else written.text())
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from vla_store.bench import bench_store
    from vla_store.progress import ProgressBar

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = bench_store(
            arguments.store,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            images=arguments.images,
            talk=bar.talk,
        )
    print(json.dumps(report.to_json()) if arguments.json else report.text())
    return 0


def _coverage(arguments: argparse.Namespace) -> int:
    from vla_store import coverage

    if (arguments.store is None) == (arguments.lengths is None):
        raise OptionError("give either a STORE or --lengths FILE", hint="vla-store coverage libero.vla")
    if arguments.lengths is not None and arguments.k is not None:
        raise OptionError("--k counts steps around changes of the gripper, and lengths do not tell of those")
    if arguments.lengths is not None:
        demos = coverage.read_lengths(arguments.lengths)
    else:
        demos = coverage.demos_of_store(arguments.store, 5 if arguments.k is None else arguments.k)
    if arguments.plot is not None:  # what is wrong with it is said before the work
        coverage.plot_report(demos, arguments.plot, seed=arguments.seed)
    report = coverage.measure(
        demos, horizon=arguments.horizon, draws=arguments.draws, runs=arguments.runs, seed=arguments.seed
    )
    judged = coverage.judge(report, demos)
    if arguments.json:
        print(json.dumps(report | {"quoted": judged}))
    else:
        print(coverage.judged_text(judged) if arguments.quoted else coverage.report_text(report))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from vla_store.demo import run_demo

    run_demo(arguments.folder, keep=arguments.folder is not None)
    return 0


def _tell(kind: str, items: Sequence[str]) -> None:
    for item in items[:MAX_LINES]:
        print(f"{kind}: {item}", file=sys.stderr)
    if len(items) > MAX_LINES:
        print(f"{kind}: ... and {len(items) - MAX_LINES} more (the store records all)", file=sys.stderr)


def _place(skipped: Skipped) -> str:
    return f"{skipped.suite}/{skipped.file}" + (f" {skipped.demo}" if skipped.demo else "")


# Arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vla-store",
        description="Robot demonstrations as a random-access sample store.",
        epilog="exit codes: 0 fine, 1 the data or the store is bad, 2 wrong use, 3 the machine failed us, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"vla-store {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    build = _command(
        commands,
        "build",
        _build,
        "convert LIBERO demonstrations into a store",
        "vla-store build LIBERO/libero_spatial LIBERO/libero_goal libero.vla",
    )
    build.add_argument(
        "source", nargs="+", metavar="SOURCE", help="an HDF5 file, a suite folder, or a folder of suites"
    )
    build.add_argument("store", metavar="STORE", help="the store to write; must not exist")
    build.add_argument(
        "--preset", default="fast", help="raw (no codec), fast (LZ4HC, the default) or small (Zstd, more predictions)"
    )
    _add_conventions(build)
    _add_executor(build)
    build.add_argument(
        "--overwrite", action="store_true", help="replace STORE, and discard an unfinished build of other sources"
    )
    _add_rehash(build)
    build.add_argument(
        "--skip-bad", action="store_true", help="leave out demonstrations that are bad, and record which and why"
    )
    build.add_argument(
        "--view", action="append", metavar="RULE", help="record a view at once, as `views add` does (may be repeated)"
    )
    build.add_argument("--allow-empty", action="store_true", help="views may leave nothing of a task")
    build.add_argument("--dry-run", action="store_true", help="print the plan, sizes and memory; write nothing")
    build.set_defaults(resume_hint="; the same command resumes the build")
    _add_output(build)

    info = _command(commands, "info", _info, "say what a store holds", "vla-store info libero.vla")
    info.add_argument("store", metavar="STORE", help="a path or a URL")
    _add_output(info)

    verify = _command(
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
    _add_output(verify)

    append = _command(
        commands, "append", _append, "add demonstrations to a store", "vla-store append LIBERO/libero_90 libero.vla"
    )
    append.add_argument(
        "source", nargs="+", metavar="SOURCE", help="an HDF5 file, a suite folder, or a folder of suites"
    )
    append.add_argument("store", metavar="STORE", help="the store to add to: a path, or a URL that can be written")
    append.add_argument("--preset", choices=("raw", "fast", "small"), help="default: that of the store's last part")
    _add_conventions(append)
    _add_executor(append)
    _add_rehash(append)
    append.add_argument(
        "--skip-bad", action="store_true", help="leave out demonstrations that are bad, and record which"
    )
    append.add_argument("--staging", metavar="FOLDER", help="where the new part is built (default: beside the store)")
    append.set_defaults(resume_hint="; the store is as it was, and the same command goes on")
    _add_output(append)

    merge = _command(
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
    _add_output(merge)

    copy = _command(
        commands,
        "copy",
        _copy,
        "copy a store, every object verified",
        "vla-store copy libero.vla s3://bucket/libero.vla",
    )
    copy.add_argument("source", metavar="STORE", help="a path or a URL")
    copy.add_argument("store", metavar="NEW", help="a path or a URL; the same command resumes")
    copy.set_defaults(resume_hint="; the same command goes on")
    _add_output(copy)

    recode = _command(
        commands,
        "recode",
        _recode,
        "make a store of the same content in another preset, in one part",
        "vla-store recode libero.vla libero-small.vla --preset small",
    )
    recode.add_argument("source", metavar="STORE", help="a path or a URL")
    recode.add_argument("store", metavar="NEW", help="the store to write; must not exist")
    recode.add_argument("--preset", required=True, choices=("raw", "fast", "small"))
    _add_executor(recode)
    recode.set_defaults(resume_hint="; the same command resumes")
    _add_output(recode)

    repair = _command(
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
    _add_output(repair)

    show = _command(
        commands,
        "show",
        _show,
        "draw one episode: its cameras, actions and where it comes from",
        "vla-store show libero.vla --episode 7 -o episode.png",
    )
    show.add_argument("store", metavar="STORE", help="a path or a URL")
    show.add_argument(
        "--episode",
        default="0",
        metavar="EPISODE",
        help="its number in the store (-1: the last), or suite/file/demo (default: 0)",
    )
    show.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the picture to write, or to replace")
    show.add_argument("--steps", type=int, default=8, metavar="N", help="pictures of each camera, 1 to 24 (default: 8)")
    show.add_argument(
        "--images",
        choices=("upright", "as_stored", "rot180"),
        default="upright",
        help="how pictures are turned (default: upright)",
    )
    _add_output(show)

    report = _command(
        commands,
        "report",
        _report,
        "write one HTML page about a store: decisions, tasks, distributions, sizes",
        "vla-store report libero.vla -o report.html",
    )
    report.add_argument("store", metavar="STORE", help="a path or a URL")
    report.add_argument("-o", "--output", required=True, metavar="FILE.html", help="the page to write, or to replace")
    _add_output(report)

    _add_views(commands)

    bench = _command(
        commands,
        "bench",
        _bench,
        "measure how fast this machine serves samples of a store, and say whether a GPU would wait",
        "vla-store bench libero.vla --workers 1 2 4",
    )
    bench.add_argument("store", metavar="STORE", help="a path or a URL")
    bench.add_argument("--batch-size", type=int, default=64, metavar="B", help="samples a batch (default: 64)")
    bench.add_argument(
        "--workers",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of workers to try (default: 1, 2, 4 up to the cores)",
    )
    bench.add_argument(
        "--images", default="as_stored", choices=("as_stored", "upright", "rot180"), help="how pictures are turned"
    )
    _add_output(bench)

    coverage = _command(
        commands,
        "coverage",
        _coverage,
        "say which steps RDT's samplers, a LIBERO port's and full enumeration reach",
        "vla-store coverage libero.vla --plot coverage.png",
    )
    coverage.add_argument("store", nargs="?", metavar="STORE", help="a path or a URL; no pictures are read")
    coverage.add_argument(
        "--lengths",
        metavar="FILE.csv",
        help="instead of a store: a table with a column `length`, and `task` (one a file)",
    )
    coverage.add_argument(
        "--horizon", type=int, default=64, metavar="H", help="actions in a window (default: 64, RDT's)"
    )
    coverage.add_argument(
        "--draws", type=int, metavar="N", help="draws in an epoch (default: as many as there are steps)"
    )
    coverage.add_argument(
        "--k",
        type=int,
        metavar="K",
        help="a step is critical at most K steps from a change of the gripper (default: 5)",
    )
    coverage.add_argument("--seed", type=int, default=0, metavar="SEED", help="of what is drawn (default: 0)")
    coverage.add_argument(
        "--runs", type=int, metavar="R", help="runs of the simulation (default: 20; 8 where draws are many)"
    )
    coverage.add_argument(
        "--quoted",
        action="store_true",
        help="instead of the tables: what was said of these samplers, and whether it holds",
    )
    coverage.add_argument("--plot", metavar="FILE.png", help="draw it as well (needs matplotlib)")
    _add_output(coverage)

    demo = _command(
        commands, "demo", _demo, "draw, build, verify and read a small store in under a minute", "vla-store demo"
    )
    demo.add_argument("folder", nargs="?", help="keep the files here (default: a temporary folder that is removed)")
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".", epilog=f"example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_views(commands: Any) -> None:
    said = "name which steps may be sampled, or which there are, without touching the data"
    example = "example: vla-store views add libero.vla no_noops"
    views = commands.add_parser("views", help=said, description=said[0].upper() + said[1:] + ".", epilog=example)
    inside = views.add_subparsers(dest="views_command", required=True, metavar="COMMAND")

    add = _command(
        inside, "add", _views_add, "add views to a store", "vla-store views add libero.vla no_noops length:shortest=128"
    )
    add.add_argument("store", metavar="STORE", help="a path, or a URL that can be written")
    add.add_argument(
        "rule",
        nargs="+",
        metavar="RULE",
        help="no_noops (options threshold, field), success, length (shortest, longest, at_most, seed), still_start "
        "(threshold, fields) or drop_tail (steps); all take kind and name, as in "
        "no_noops:threshold=1e-3,kind=anchors,name=moving",
    )
    add.add_argument("--allow-empty", action="store_true", help="also where nothing is left of a task")
    _add_output(add)

    listed = _command(
        inside, "list", _views_list, "list the views of a store", "vla-store views list libero.vla no_noops"
    )
    listed.add_argument("store", metavar="STORE", help="a path or a URL")
    listed.add_argument("name", nargs="*", metavar="NAME", help="only these, with what they keep of every task")
    listed.add_argument("--json", action="store_true", help="print the result as JSON")

    remove = _command(
        inside, "remove", _views_remove, "remove views from a store", "vla-store views remove libero.vla no_noops"
    )
    remove.add_argument("store", metavar="STORE", help="a path, or a URL that can be written")
    remove.add_argument("name", nargs="*", metavar="NAME", help="views to remove")
    remove.add_argument("--all", action="store_true", help="all of them, also where their document is damaged")
    remove.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_conventions(parser: argparse.ArgumentParser) -> None:
    for name, allowed, what in (
        ("orientation", ORIENTATIONS, "how pictures are stored"),
        ("observation", OBSERVATIONS, "whether observations are recorded before or after the action of their row"),
    ):
        parser.add_argument(
            f"--{name}",
            action="append",
            type=functools.partial(_said, allowed),
            metavar="[PATH=]{" + ",".join(allowed) + "}",
            help=f"{what}, where the files do not say; with PATH=, of that file or folder alone (may be repeated)",
        )
    parser.add_argument(
        "--mixed",
        action="store_true",
        help="let sources differ in these two; each keeps its own, and the store records it",
    )


def _said(allowed: Sequence[str], text: str) -> tuple[str | None, str]:
    """ "rot180" or "regenerated=rot180" -> (path or None, value)."""
    path, _, value = text.rpartition("=")
    if value not in allowed:
        raise argparse.ArgumentTypeError(f"invalid choice: {value!r} (choose from {', '.join(allowed)})")
    return path or None, value


def _conventions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of orientation and observation, as `build_store` takes it."""
    made: dict[str, Any] = {"mixed": arguments.mixed}
    for name in ("orientation", "observation"):
        by_path: dict[str | None, str] = {}
        for path, value in getattr(arguments, name) or ():
            if by_path.setdefault(path, value) != value:
                raise OptionError(
                    f"--{name} is given twice",
                    first=by_path[path],
                    second=value,
                    of=path or "all sources",
                    hint=f"--{name} PATH=VALUE says it of one file or folder",
                )
        made[name] = by_path if set(by_path) - {None} else by_path.get(None)
    return made


def _add_rehash(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rehash",
        action="store_true",
        help="tell a source that changed since an unfinished build began by its sha256 (default: size and time of change)",
    )


def _add_executor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor", choices=("threads", "processes"), default="threads", help="who encodes (default: threads)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="how many at once (default: the cores there are)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="run on a dask cluster, as in tcp://host:8786")
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="memory of all processes together, as in 1GiB; checked before work starts"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, only results and errors")


if __name__ == "__main__":
    sys.exit(main())
