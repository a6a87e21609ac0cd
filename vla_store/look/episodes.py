"""Look-up of an episode by its number in the store, or by the names of its suite, file and demonstration; and lists of them."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from vla_store.errors import OptionError, UnknownName, several, whole_number
from vla_store.format.digests import episode_name
from vla_store.reader import Store, open_store
from vla_store.reader.kept import kept_of
from vla_store.reader.numbers import one_number
from vla_store.reader.values import Episode
from vla_store.text import counted, shown

SUFFIX = ".hdf5"
NEAR = 5  # tasks that are named where none was found


def _split(store: Store, names: list[str]) -> tuple[str, str, str]:
    """Return the names of suite, file and demonstration; a file may lie in a folder of its suite."""
    nested = {(each.suite, *each.file.split("/")) for each in store.conventions.sources if "/" in each.file}
    for suite, *file in sorted(nested):
        for said in (names[-len(file) - 2 :], [*names[-len(file) - 2 : -2], f"{names[-2]}{SUFFIX}", names[-1]]):
            if said[:-1] == [suite, *file]:
                return suite, "/".join(file), said[-1]
    return names[-3], names[-2], names[-1]


def shown_episode(store: Store | str | os.PathLike[str], which: Episode | SupportsIndex | str) -> tuple[Store, Episode]:
    """Return the store, opened where it was given by its place, and the episode that `which` is, or names as `find_episode` has it.

    Raises UnknownName, OptionError, and what opening a store raises.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    if isinstance(which, Episode):
        return opened, opened.episodes[int(opened.check_episodes(which)[0])]
    return opened, find_episode(opened, which if isinstance(which, str) else str(one_number("episode", which)))


def find_episode(store: Store, text: str) -> Episode:
    """Return the episode that `text` names: "12", "-1" (the last), or "suite/file/demo_3", where ".hdf5" and "demo_" may be left out.

    A path on the machine that built the store does as well: its last names count.
    Raises UnknownName, OptionError.
    """
    if re.fullmatch(r"\s*-?[0-9]+\s*", text):
        number, count = int(text), len(store.episodes)
        if not -count <= number < count:
            raise UnknownName.among("episode", number, [f"0 to {count - 1}"], store=store.url)
        return store.episodes[number]
    names = text.strip("/").split("/")
    if len(names) < 3:
        raise OptionError(
            "not an episode",
            expected=f"a number from 0 to {len(store.episodes) - 1}, or suite/file/demo",
            found=text,
            example="{0.suite}/{0.file}/{1}".format(store.episodes[0], episode_name(store.episodes[0].number)),
        )
    suite, file, demo = _split(store, names)
    if suite not in store.suites:
        raise UnknownName.among("suite", suite, list(store.suites), store=store.url)
    files = [each.file for each in store.conventions.sources if each.suite == suite]
    if file not in files:
        file = next((each for each in files if each.removesuffix(SUFFIX) in (file, f"{file}_demo")), file)
    if file not in files:
        raise UnknownName.among("file", file, files, store=store.url, suite=suite)
    known = {episode_name(each.number): each for each in store.episodes if (each.suite, each.file) == (suite, file)}
    name = demo if demo in known else f"demo_{demo}"
    if name not in known:
        raise UnknownName.among("demonstration", demo, list(known), store=store.url, suite=suite, file=file)
    return known[name]


@dataclass(frozen=True)
class EpisodeFilter:
    """Which episodes are listed; what is None leaves none out.

    Attributes
    ----------
    text
        Beginnings of words that all occur in the name of the task or in the episode's instruction, in any order and case: "bowl" finds
        "bowls". Or several such texts, of which one fits.
    suite
        Name of a suite, or several.
    success
        Whether it succeeded; True and False both leave out those of which it is not known.
    shortest, longest
        Of how many steps, both included.
    view
        Name of a view that keeps at least one of its steps; of several, a step that all of them keep.
    """

    text: str | Sequence[str] | None = None
    suite: str | Sequence[str] | None = None
    success: bool | None = None
    shortest: int | None = None
    longest: int | None = None
    view: str | Sequence[str] | None = None


def filtered(store: Store, wanted: EpisodeFilter, known: Sequence[Episode] | None = None) -> list[Episode]:
    """Return the episodes that a filter lets through, in the store's order.

    known: all episodes of the store, where they were read before. Raises UnknownName for a suite or view that the store does not
    have, and what reading raises.
    """
    return list(matching(store, wanted, known))


def matching(store: Store, wanted: EpisodeFilter, known: Sequence[Episode] | None = None) -> Iterator[Episode]:
    """Return an iterator over what `filtered` returns: none is held. Raises the same, before the first."""
    suites, texts = several(wanted.suite), several(wanted.text)
    for name in ("shortest", "longest"):
        if (steps := getattr(wanted, name)) is not None:
            whole_number(name, steps, 0)
    for suite in suites:
        if suite not in store.suites:
            raise UnknownName.among("suite", suite, list(store.suites), store=store.url)
    starts, lengths = store.episodes.starts, store.episodes.lengths
    kept = np.ones(len(starts), bool)
    if wanted.view is not None:
        runs = kept_of(store, wanted.view).anchors
        # The first run that ends behind the episode's first row.
        first = np.searchsorted(runs[:, 1], starts, side="right")
        kept = first < np.searchsorted(runs[:, 0], starts + lengths)
    if wanted.shortest is not None:
        kept = kept & (lengths >= wanted.shortest)
    if wanted.longest is not None:
        kept = kept & (lengths <= wanted.longest)
    every: Sequence[Episode] = store.episodes if known is None else known
    some: Iterable[Episode] = every if kept.all() else map(every.__getitem__, np.flatnonzero(kept).tolist())
    return (
        each
        for each in some
        if (not suites or each.suite in suites)
        and wanted.success in (None, each.success)
        and (not texts or any(has_words(f"{each.task} {each.text}", text) for text in texts))
    )


def nothing_found(store: Store, wanted: EpisodeFilter) -> OptionError:
    """Return the error for a filter that lets no episode through: how many each of its conditions leaves, and tasks with such words."""
    given = {name: value for name, value in vars(wanted).items() if value is not None}
    alone = {name: sum(1 for _ in matching(store, EpisodeFilter(**{name: value}))) for name, value in given.items()}
    places = {
        _CALLED.get(name, name): f"{_said(given[name])}: {number:,} of {counted(len(store.episodes), 'episode')}"
        for name, number in alone.items()
    }
    near = near_tasks(store, " ".join(several(wanted.text))) if alone.get("text") == 0 else []
    hint = "leave a condition out, or make it wider"
    if near:
        hint = "tasks with such words: " + "; ".join(near)
    elif alone.get("text") == 0:
        tasks = "the only task" if len(store.tasks) == 1 else f"all {len(store.tasks):,} tasks"
        hint = f"`vla-store tasks {shlex.quote(store.url)}` lists {tasks}"
    return OptionError("no episode is as asked for", **places, hint=hint)


_CALLED = {"text": "task"}


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, several(value)))


def near_tasks(store: Store, words: str) -> list[str]:
    """Return the texts of tasks that have most of these words, or words that are written nearly so: at most NEAR, the best first."""
    texts = list(dict.fromkeys(text for task in store.tasks for text in (task.text, *task.texts)))
    words_of = {text: set(_words(text)) for text in texts}
    known = sorted(set().union(*words_of.values()))
    alike = [set(difflib.get_close_matches(word, known, 5, cutoff=0.7)) for word in _words(words)]
    scores = {text: sum(1 for each in alike if each & found) for text, found in words_of.items()}
    best = sorted((text for text in texts if scores[text]), key=lambda text: -scores[text])
    return [shown(each) for each in best[:NEAR]]


def has_words(text: str, words: str) -> bool:
    """Return whether words of a text begin with each of `words`, in any order and case; an underscore is a space.

    Where words are written without spaces, as in Chinese, they may stand anywhere.
    """
    said = _words(text)
    return all(
        any(each.startswith(word) if _has_case(word) else word in each for each in said) for word in _words(words)
    )


def _has_case(word: str) -> bool:
    return not word[0].isalpha() or word[0] != word[0].upper()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold().replace("_", " "))
