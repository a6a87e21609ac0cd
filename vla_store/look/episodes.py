"""Look-up of an episode by its number in the store, or by the names of its suite, file and demonstration."""

from __future__ import annotations

import re

import numpy as np

from vla_store.errors import OptionError, UnknownName
from vla_store.format.digests import episode_name
from vla_store.reader import Store
from vla_store.reader.store import parts_of
from vla_store.reader.values import Episode

SUFFIX = ".hdf5"


def find_episode(store: Store, text: str) -> Episode:
    """Return the episode that `text` names: "12", "-1" (the last), or "suite/file/demo_3", where ".hdf5" and "demo_" may be left out.

    A path on the machine that built the store does as well: its last three names count.
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
            example=_example(store),
        )
    suite, file, demo = names[-3:]
    if suite not in store.suites:
        raise UnknownName.among("suite", suite, list(store.suites), store=store.url)
    files = [each.file for each in store.conventions.sources if each.suite == suite]
    if file not in files:
        file = next((each for each in files if each.removesuffix(SUFFIX) in (file, f"{file}_demo")), file)
    if file not in files:
        raise UnknownName.among("file", file, files, store=store.url, suite=suite)
    numbers = _numbers(store, suite, file)
    for number, episode in numbers.items():
        if demo in (episode_name(number), str(number)):
            return store.episodes[episode]
    raise UnknownName.among(
        "demonstration", demo, [episode_name(n) for n in numbers], store=store.url, suite=suite, file=file
    )


def _numbers(store: Store, suite: str, file: str) -> dict[int, int]:
    """Return the store's number of every demonstration of a file, by its number in the file."""
    found: dict[int, int] = {}
    for part in parts_of(store):
        wanted = [at for at, each in enumerate(part.document.sources) if (each.suite, each.file) == (suite, file)]
        entries = part.entries(0, part.episodes)
        for at in np.flatnonzero(np.isin(entries["source"], wanted)).tolist():
            found[int(entries["number"][at])] = part.episode_start + at
    return found


def _example(store: Store) -> str:
    first = store.episodes[0]
    return f"{first.suite}/{first.file}/{episode_name(first.number)}"
