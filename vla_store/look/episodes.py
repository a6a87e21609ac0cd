"""Look-up of an episode by its number in the store, or by the names of its suite, file and demonstration; and lists of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_store.errors import OptionError, UnknownName
from vla_store.format.digests import episode_name
from vla_store.reader import Store
from vla_store.reader.kept import kept_of
from vla_store.reader.values import Episode

SUFFIX = ".hdf5"


def _split(store: Store, names: list[str]) -> tuple[str, str, str]:
    """Return the names of suite, file and demonstration; a file may lie in a folder of its suite."""
    nested = {(each.suite, *each.file.split("/")) for each in store.conventions.sources if "/" in each.file}
    for suite, *file in sorted(nested):
        for said in (names[-len(file) - 2 :], [*names[-len(file) - 2 : -2], f"{names[-2]}{SUFFIX}", names[-1]]):
            if said[:-1] == [suite, *file]:
                return suite, "/".join(file), said[-1]
    return names[-3], names[-2], names[-1]


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
        Words that all occur in the name of the task or in the episode's instruction, in any order and case.
    suite
        Name of a suite.
    success
        Whether it succeeded; True and False both leave out those of which it is not known.
    shortest, longest
        Of how many steps, both included.
    view
        Name of a view that keeps at least one of its steps.
    """

    text: str | None = None
    suite: str | None = None
    success: bool | None = None
    shortest: int | None = None
    longest: int | None = None
    view: str | None = None


def filtered(store: Store, wanted: EpisodeFilter, known: Sequence[Episode] | None = None) -> list[Episode]:
    """Return the episodes that a filter lets through, in the store's order.

    known: all episodes of the store, where they were read before. Raises UnknownName for a suite or view that the store does not
    have, and what reading raises.
    """
    if wanted.suite is not None and wanted.suite not in store.suites:
        raise UnknownName.among("suite", wanted.suite, list(store.suites), store=store.url)
    starts, lengths = store.episodes.starts, store.episodes.lengths
    kept = np.ones(len(starts), bool)
    if wanted.view is not None:
        runs = kept_of(store, wanted.view).anchors
        first = np.searchsorted(
            runs[:, 1], starts, side="right"
        )  # the first one that ends behind the episode's first row
        kept = first < np.searchsorted(runs[:, 0], starts + lengths)
    return [
        each
        for each in (store.episodes if known is None else known)
        if kept[each.episode]
        and wanted.suite in (None, each.suite)
        and wanted.success in (None, each.success)
        and (wanted.shortest or 0) <= each.length <= (each.length if wanted.longest is None else wanted.longest)
        and has_words(f"{each.task} {each.text}", wanted.text or "")
    ]


def has_words(text: str, words: str) -> bool:
    """Return whether all of `words` occur in a text, in any order and case; an underscore is a space."""
    said = " ".join(_words(text))
    return all(word in said for word in _words(words))


def _words(text: str) -> list[str]:
    return text.casefold().replace("_", " ").split()
