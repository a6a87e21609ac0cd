"""`bench` and `coverage`: figures about a store."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vla_store.cli.options import add_command, add_fetcher, add_output, add_view
from vla_store.cli.printing import print_report
from vla_store.errors import OptionError
from vla_store.progress import ProgressBar
from vla_store.reader import open_store


def add_bench(commands: Any) -> None:
    bench = add_command(
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
    add_view(bench, "serve the samples of these views")
    add_fetcher(bench)
    add_output(bench)


def _bench(arguments: argparse.Namespace) -> int:
    from vla_store.bench import bench_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = bench_store(
            arguments.store,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            images=arguments.images,
            view=arguments.view,
            fetcher=arguments.fetcher,
            talk=bar.talk,
        )
    print_report(arguments, report)
    return 0


def add_coverage(commands: Any) -> None:
    coverage = add_command(
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
    add_view(coverage, "what these views keep, as training with view=NAME sees it")
    coverage.add_argument("--seed", type=int, default=0, metavar="SEED", help="of what is drawn (default: 0)")
    coverage.add_argument(
        "--runs",
        type=int,
        metavar="R",
        help="runs of the simulation (default: 20; 8 where draws are many; of fewer, exact and simulated are not compared)",
    )
    coverage.add_argument(
        "--quoted",
        action="store_true",
        help="instead of the tables: what was said of these samplers, and whether it holds",
    )
    coverage.add_argument("--plot", metavar="FILE.png", help="draw it as well (needs matplotlib)")
    add_fetcher(coverage)
    add_output(coverage)


def _coverage(arguments: argparse.Namespace) -> int:
    from vla_store import coverage

    if (arguments.store is None) == (arguments.lengths is None):
        raise OptionError("give either a STORE or --lengths FILE", hint="vla-store coverage libero.vla")
    if arguments.lengths is not None and arguments.k is not None:
        raise OptionError("--k counts steps around changes of the gripper, and lengths do not tell of those")
    if arguments.lengths is not None and arguments.view:
        raise OptionError("--view names views of a store, and lengths have none")
    if arguments.lengths is not None:
        demos = coverage.read_lengths(arguments.lengths)
    else:
        store = open_store(arguments.store, fetcher=arguments.fetcher)
        demos = coverage.demos_of_store(store, 5 if arguments.k is None else arguments.k, view=arguments.view)
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
