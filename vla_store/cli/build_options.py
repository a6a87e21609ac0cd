"""Arguments that `build`, `append` and `recode` share: their sources, and who encodes. Imports no builder until it is needed."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from vla_store.cli.options import Argument, argument, flag, group, offering
from vla_store.errors import OptionError, parse_size
from vla_store.sources.kinds import conventions
from vla_store.sources.overrides import Convention

if TYPE_CHECKING:
    from vla_store.builder.options import EncodingOptions


def _stated(convention: Convention, text: str) -> tuple[str | None, str]:
    """Split "rot180" or "regenerated=rot180" into (path or None, value)."""
    path, _, value = text.rpartition("=")
    try:
        return path or None, convention.value_of(value)
    except OptionError:
        expected = f"choose from {', '.join(convention.allowed)}" if convention.allowed else "a number above 0"
        raise argparse.ArgumentTypeError(f"invalid choice: {value!r} ({expected})") from None


def _conventions(parser: argparse.ArgumentParser) -> None:
    for each in conventions():
        add = offering(
            each.allowed,
            f"--{each.name}",
            action="append",
            type=functools.partial(_stated, each),
            metavar="[PATH=]{" + ",".join(each.allowed) + "}" if each.allowed else "[PATH=]NUMBER",
            help=f"{each.help}, where the files do not say; with PATH=, of that file or folder alone (may be repeated)",
        )
        add(parser)


SOURCES = group(
    argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a data set, its folder or a file of it: HDF5, LeRobot, RLDS, a replay buffer; or a URL of HDF5 files, as in s3://bucket/libero/*.hdf5",
    ),
    argument(
        "--scratch-size",
        metavar="SIZE",
        help="the most that files of a SOURCE at a URL may take in the folder for temporary files (default: what its disk has)",
    ),
)
CONVENTIONS = group(
    _conventions,
    flag("--mixed", "let sources differ in orientation and observation; each keeps its own, and the store records it"),
)
EXECUTOR = group(
    argument(
        "--executor",
        choices=("auto", "threads", "processes"),
        default="auto",
        help="who encodes (default: auto: processes from 512 MiB of source for each worker on, else threads)",
    ),
    argument("--workers", type=int, metavar="N", help="how many at once (default: the cores there are)"),
    argument("--scheduler", metavar="ADDRESS", help="run on a dask cluster, as in tcp://host:8786"),
    argument(
        "--max-memory", metavar="SIZE", help="memory of all processes together, as in 1GiB; checked before work starts"
    ),
)


def choice(default: str) -> Argument:
    """Return what a build takes of its files, and under which names. default: what else is said of the default."""
    return group(
        argument(
            "--exclude",
            action="append",
            metavar="PATH",
            help="leave out a dataset, or a group with all below it, by path below a demonstration, as in obs/agentview_depth "
            f"(names may have *, ? and []), or from the file's root, as in /meta (may be repeated{default})",
        ),
        argument(
            "--rename",
            action="append",
            metavar="PATH=NAME",
            help=f"the name of a dataset's field (may be repeated{default})",
        ),
    )


def checks(recorded: str) -> Argument:
    """Return what is checked of the sources. recorded: what is noted of the demonstrations that are left out."""
    return group(
        flag(
            "--rehash",
            "tell a source that changed since an unfinished build began by its sha256 (default: size and time of change)",
        ),
        flag(
            "--skip-bad",
            f"leave out demonstrations that are bad, and record {recorded}; what is compressed is read beforehand to know",
        ),
        flag(
            "--require-finite",
            "a number that is NaN or infinite makes its demonstration bad, in whatever field; all of them are read beforehand",
        ),
    )


def options_given(arguments: argparse.Namespace, options: type[EncodingOptions]) -> dict[str, Any]:
    """Return the options that a command line gives, as Python takes them. Raises OptionError."""
    given = {each.name: getattr(arguments, each.name) for each in fields(options) if each.name in arguments}
    given |= {name: parse_size(given[name]) for name in ("max_memory", "scratch_size") if given.get(name) is not None}
    stated = {each.name: getattr(arguments, each.name) or () for each in conventions() if each.name in arguments}
    by_path = {name: _by_path(name, each) for name, each in stated.items()}
    given |= {name: by_path.pop(name) for name in given.keys() & by_path.keys()}
    if any(each is not None for each in by_path.values()):
        given["conventions"] = {name: each for name, each in by_path.items() if each is not None}
    if given.get("rename"):
        given["rename"] = _renamed(given["rename"])
    return given


def _renamed(given: Sequence[str]) -> dict[str, str]:
    """Return {path: name} of "path=name" texts."""
    renamed: dict[str, str] = {}
    for text in given:
        path, equals, name = text.rpartition("=")
        if not equals or renamed.setdefault(path, name) != name:
            raise OptionError("--rename is PATH=NAME, once for each PATH", found=text)
    return renamed


def _by_path(name: str, given: Sequence[tuple[str | None, str]]) -> dict[str | None, str] | str | None:
    """Return the value for all sources, or {path: value}, of (path or None, value) pairs."""
    by_path: dict[str | None, str] = {}
    for path, value in given:
        if by_path.setdefault(path, value) != value:
            raise OptionError(
                f"--{name} is given twice",
                first=by_path[path],
                second=value,
                of=path or "all sources",
                hint=f"--{name} PATH=VALUE says it of one file or folder",
            )
    return by_path if set(by_path) - {None} else by_path.get(None)
