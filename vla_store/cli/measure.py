"""`bench` and `coverage`: measurements of a store. Imports them when a command runs."""

from __future__ import annotations

import argparse

from vla_store.cli.options import CACHE, FETCHER, OUTPUT, READING, argument, command, flag, how_to_read, images, view
from vla_store.cli.printing import print_report, print_result
from vla_store.errors import OptionError
from vla_store.progress import ProgressBar
from vla_store.reader import open_store


@command(
    "bench",
    "measure how fast this machine serves samples of a store, and say whether a GPU would wait",
    "vla-store bench libero.vla --workers 1 2 4",
    argument("--batch-size", type=int, default=64, metavar="B", help="samples a batch (default: 64)"),
    argument(
        "--workers",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of workers to try (default: 1, 2, 4 up to the cores)",
    ),
    images("as_stored", "how pictures are turned"),
    view("serve the samples of these views"),
    READING,
)
def bench(arguments: argparse.Namespace) -> int:
    from vla_store.bench import bench_store

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = bench_store(
            arguments.store,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            images=arguments.images,
            view=arguments.view,
            **how_to_read(arguments),
            progress=bar,
        )
    return print_report(arguments, report)


@command(
    "coverage",
    "say which steps RDT's samplers, a LIBERO port's and full enumeration reach",
    "vla-store coverage libero.vla --plot coverage.png",
    argument("store", nargs="?", metavar="STORE", help="a path or a URL; no pictures are read"),
    argument(
        "--lengths",
        metavar="FILE.csv",
        help="instead of a store: a table with a column `length`, and `task` (one a file)",
    ),
    argument("--horizon", type=int, default=64, metavar="H", help="actions in a window (default: 64, RDT's)"),
    argument("--draws", type=int, metavar="N", help="draws in an epoch (default: as many as there are steps)"),
    argument(
        "--k",
        type=int,
        metavar="K",
        help="a step is critical at most K steps from a change of the gripper (default: 5)",
    ),
    view("what these views keep, as training with view=NAME sees it"),
    argument("--seed", type=int, default=0, metavar="SEED", help="of what is drawn (default: 0)"),
    argument(
        "--runs",
        type=int,
        metavar="R",
        help="runs of the simulation (default: 20; 8 where draws are many; of fewer, exact and simulated are not compared)",
    ),
    argument(
        "--weights",
        action="append",
        metavar="WEIGHTS",
        help="instead of the tables: what vla_store.weighted makes of an epoch (of --draws samples) with the numbers of a field, or "
        "near_changes (options field, index, steps, times), rare_tasks (power) or recent (half_life, least), as in "
        "near_changes:actions,times=3, or a product, as in rare_tasks*recent:100",
    ),
    flag("--quoted", "instead of the tables: what was said of these samplers, and whether it holds"),
    argument("--plot", metavar="FILE.png", help="draw it as well (needs matplotlib)"),
    FETCHER,
    CACHE,
    OUTPUT,
)
def coverage(arguments: argparse.Namespace) -> int:
    from vla_store import coverage

    if arguments.weights is not None:
        return _weights(arguments)
    if (arguments.store is None) == (arguments.lengths is None):
        raise OptionError("give either a STORE or --lengths FILE", hint="vla-store coverage libero.vla")
    if arguments.lengths is not None:
        if arguments.k is not None:
            raise OptionError("--k counts steps around changes of the gripper, and lengths do not tell of those")
        if arguments.view:
            raise OptionError("--view names views of a store, and lengths have none")
        demos = coverage.read_lengths(arguments.lengths)
    else:
        store = open_store(arguments.store, **how_to_read(arguments))
        demos = coverage.demos_of_store(store, 5 if arguments.k is None else arguments.k, view=arguments.view)
    if arguments.plot is not None:  # what is wrong with it is said before the work
        coverage.plot_report(demos, arguments.plot, seed=arguments.seed)
    report = coverage.measure(
        demos, horizon=arguments.horizon, draws=arguments.draws, runs=arguments.runs, seed=arguments.seed
    )
    judged = coverage.judge(report, demos)
    text = coverage.judged_text(judged) if arguments.quoted else coverage.report_text(report)
    return print_result(arguments, report | {"quoted": judged}, lambda _: text)


def _weights(arguments: argparse.Namespace) -> int:
    from vla_store import Samples, coverage, weighted
    from vla_store.weights import parse_weights

    for name in ("lengths", "plot", "quoted"):
        if getattr(arguments, name):
            raise OptionError(f"--weights are of the steps of a store, and --{name} goes without them")
    if arguments.store is None:
        raise OptionError("--weights need a STORE", hint="vla-store coverage libero.vla --weights rare_tasks")
    if len(arguments.weights) > 1:
        raise OptionError(
            "--weights is given once",
            found=" and ".join(arguments.weights),
            hint="a product is written with *, as in --weights 'rare_tasks*recent:100'",
        )
    store = open_store(arguments.store, **how_to_read(arguments))
    weights = parse_weights(arguments.weights[0], store)
    # Any window will do, as no sample is read.
    field = min(store.fields.values(), key=lambda each: (each.is_ragged, each.is_camera)).name
    samples = Samples(store, windows={field: 0}, view=arguments.view, images="as_stored")
    report = coverage.measure_weights(
        weighted(samples, weights, epoch=arguments.draws), 5 if arguments.k is None else arguments.k
    )
    return print_result(arguments, report, coverage.weights_text)
