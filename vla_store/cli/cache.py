"""`cache list`, `verify`, `prune` and `fill`: the folder of this machine that keeps what was fetched from URLs."""

from __future__ import annotations

import argparse
import os

from vla_store.cli.options import (
    CACHE_SIZE,
    FETCHER,
    JSON,
    OUTPUT,
    STORE,
    Command,
    argument,
    command,
    how_to_read,
)
from vla_store.cli.printing import print_report
from vla_store.errors import OptionError, parse_size
from vla_store.progress import ProgressBar

FOLDER = argument("--cache", metavar="DIR", help="its folder (default: VLA_STORE_CACHE of the environment)")


@command("list", "say what is in the cache, and who uses it", "vla-store cache list --cache /nvme/cache", FOLDER, JSON)
def list_(arguments: argparse.Namespace) -> int:
    from vla_store.manage.cache import list_cache

    return print_report(arguments, list_cache(_folder(arguments)))


@command(
    "verify",
    "check what is in the cache, and drop what is damaged",
    "vla-store cache verify --cache /nvme/cache",
    FOLDER,
    OUTPUT,
)
def verify(arguments: argparse.Namespace) -> int:
    from vla_store.manage.cache_check import verify_cache

    with ProgressBar(quiet=arguments.quiet) as bar:
        report = verify_cache(_folder(arguments), progress=bar)
    return print_report(arguments, report) or int(not report.sound)


@command(
    "prune",
    "remove what nobody uses from the cache, the least recently used first",
    "vla-store cache prune --to 50GB --cache /nvme/cache",
    argument(
        "--to", metavar="SIZE", default="0", help="until it takes at most so much (default: all that nobody uses)"
    ),
    FOLDER,
    JSON,
)
def prune(arguments: argparse.Namespace) -> int:
    from vla_store.manage.cache import prune_cache

    return print_report(arguments, prune_cache(_folder(arguments), to=parse_size(arguments.to)))


@command(
    "fill",
    "fetch a store into the cache, so that training never waits for it",
    "vla-store cache fill s3://bucket/libero.vla --cache /nvme/cache",
    STORE,
    argument(
        "--field",
        action="append",
        metavar="NAME",
        help="only this field, with what every sample needs (may be repeated; default: all)",
    ),
    FOLDER,
    CACHE_SIZE,
    FETCHER,
    OUTPUT,
    resume="the same command goes on",
)
def fill(arguments: argparse.Namespace) -> int:
    from vla_store.manage.cache import fill_cache

    arguments.cache = _folder(arguments)  # for a path too, which takes none from the environment by itself
    with ProgressBar(quiet=arguments.quiet) as bar:
        report = fill_cache(arguments.store, fields=arguments.field, progress=bar, **how_to_read(arguments))
    return print_report(arguments, report)


def _folder(arguments: argparse.Namespace) -> str:
    folder: str = os.environ.get("VLA_STORE_CACHE", "") if arguments.cache is None else arguments.cache
    if not folder:
        raise OptionError(
            "no cache is named", hint="give --cache DIR, or set VLA_STORE_CACHE to a folder on a local disk"
        )
    return folder


cache = Command(
    "cache",
    "look after the folder of this machine that keeps what was fetched from URLs",
    "vla-store cache list --cache /nvme/cache",
    inside=(list_, verify, prune, fill),
)
