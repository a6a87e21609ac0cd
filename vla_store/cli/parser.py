"""All commands, in the order of `vla-store --help`."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from vla_store import __version__
from vla_store.cli import browse, build, cache, episodes, export, look, measure, upkeep, views
from vla_store.cli.completion import SHELLS, PrintCompletion
from vla_store.cli.printing import failure_json, say
from vla_store.text import wrapped

WRONG_USE = 2
NEAR = 0.75  # less is another word, not a slip

# What other tools call things: arguments, which have options there, and commands and options.
_ARGUMENTS_ELSEWHERE = re.compile(
    r"-[io]|--(in|out|input|output|from|to|src|source|dst|dest|destination|target|path|file|dir|folder|data|dataset|store|name)"
    r"([-_](path|file|dir|folder|name))?"
)
_ELSEWHERE = {
    "build": "convert create import make new ingest init",
    "info": "ls list inspect describe stat stats status head summary",
    "verify": "check validate fsck test audit compare diff",
    "append": "add extend update",
    "merge": "join concat concatenate combine",
    "copy": "cp clone push pull upload download sync mv move",
    "export": "dump save unpack extract to",
    "recode": "compress reencode transcode rechunk",
    "repair": "fix heal mend restore rebuild",
    "episodes": "search find demos demonstrations trajectories",
    "tasks": "instructions languages",
    "show": "draw visualize viz plot",
    "view": "browse browser serve server open gui ui play watch visualize visualise viewer web",
    "report": "html page summarize",
    "views": "filter select",
    "cache": "prefetch mirror",
    "prune": "clear clean evict gc purge",
    "fill": "warm prefetch preload load download",
    "bench": "benchmark speed profile time",
    "demo": "example tour try",
    "list": "ls show",
    "add": "create new",
    "remove": "rm delete del drop",
    "--overwrite": "-f --force --replace --clobber",
    "--workers": "-j --jobs --num-workers --threads --processes --nproc",
    "--preset": "--compression --compress --codec --level",
    "--against": "--source --src --original --reference --from",
    "--from": "--source --src --original --against",
    "--view": "--filter --select",
}


class _Parser(argparse.ArgumentParser):
    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(args)
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:  # said by the command that does not know them, with its usage and not that of all commands
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return arguments, unknown

    def error(self, message: str) -> NoReturn:
        hint = self._hint(message)
        if asks_for_json(self._given):
            what, _, choices = message.partition(" (choose from ")
            expected = {"expected": choices.removesuffix(")").replace("'", "")} if choices else {}
            say(failure_json("UsageError", what, WRONG_USE, hint, expected))
        else:
            start = f"{self.prog}: error: "
            say(f"{self.format_usage()}{wrapped(message, start, '    ')}\n\n{wrapped(hint, 'hint: ', ' ' * 6)}")
        raise SystemExit(WRONG_USE)

    def _hint(self, message: str) -> str:
        """Return a hint for a message of argparse; it ends with the command that tells more."""
        said = []
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", message)
        if choice:
            known = [each.strip(" '") for each in choice[2].split(",")]
            said.append(_meant(choice[1], known))
        said += [self._about(each.partition("=")[0]) for each in self._given if each.startswith("-") and not choice]
        if "arguments are required" in message and self.epilog and self.epilog.startswith("example: "):
            said.append(f"as in: {self.epilog.removeprefix('example: ')};")
        return " ".join([*dict.fromkeys(filter(None, said)), f"see {self.prog} --help"])

    def _about(self, option: str) -> str:
        """Return a hint for an option that this command does not have; "" if it has it, or one that begins so."""
        known = list(self._option_string_actions)
        if any(each == option or (option.startswith("--") and each.startswith(option)) for each in known):
            return ""
        if option != "--" and os.path.lexists(option):
            return f"write ./{option} for a name that begins with a hyphen;"
        is_synonym = any(option in _ELSEWHERE.get(each, "").split() for each in known)
        places = [str(each.metavar) for each in self._actions if not each.option_strings and each.metavar]
        if not is_synonym and places and _ARGUMENTS_ELSEWHERE.fullmatch(option):
            last = f", {places[-1]} as the last argument" if len(places) > 1 else ""
            return f"give {' and '.join(places)} without {option}{last};"
        return _meant(option, known)


def _meant(word: str, known: list[str]) -> str:
    """Return the word of ours that was meant, by its letters or by what other tools call it; "" if there is none."""
    near = difflib.get_close_matches(word, known, 1, cutoff=NEAR)
    near = near or [each for each in known if word in _ELSEWHERE.get(each, "").split()]
    return f"did you mean {' or '.join(near)}?" if near else ""


def asks_for_json(words: Sequence[str]) -> bool:
    """Return whether `--json` is among these arguments, whatever else is wrong with them."""
    return "--json" in words[: words.index("--") if "--" in words else None]


def in_our_words(argv: Sequence[str]) -> list[str]:
    """Return the arguments with `help`, `help COMMAND` and `version` turned into the options that they are here."""
    if argv and argv[0] == "help":
        return [*argv[1:], "--help"]
    return ["--version"] if list(argv) == ["version"] else list(argv)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vla-store",
        description="Robot demonstrations as a random-access sample store.",
        epilog="exit codes: 0 fine, 1 the data or the store is bad, 2 wrong use, 3 the machine failed us, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"vla-store {__version__}")
    parser.add_argument(
        "--print-completion",
        choices=SHELLS,
        action=PrintCompletion,
        help="print a script by which a shell completes commands, options and paths (needs shtab)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        build.build,
        look.layout,
        look.info,
        upkeep.verify,
        build.append,
        upkeep.merge,
        upkeep.copy,
        export.export,
        build.recode,
        upkeep.repair,
        episodes.episodes,
        episodes.tasks,
        look.show,
        look.report,
        browse.view,
        views.views,
        cache.cache,
        measure.bench,
        measure.coverage,
        look.demo,
    ):
        add(commands)
    return parser
