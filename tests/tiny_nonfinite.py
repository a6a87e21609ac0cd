"""What a store counts as not finite, for the second reader: written from section 5.5 of docs/reference/format.md alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tiny_reader import Array, TinyStore

COLUMNS = ("nan", "infinite", "steps", "first")
Counts = dict[str, tuple[int, int, int, int]]


def counts_of(store: TinyStore) -> Iterator[Counts]:
    """Of every episode, what its part tells of each field that it tells of."""
    for part in store.root["parts"]:
        folder = store.folder / part["path"] / "episodes/nonfinite"
        if not folder.exists():
            yield from ({} for _ in range(part["episodes"]))
            continue
        array = Array(folder)
        columns = array.attributes["columns"]
        names = [column.removesuffix("_nan") for column in columns[::4]]
        assert names == sorted(names)
        assert columns == [f"{name}_{what}" for name in names for what in COLUMNS]
        for numbers in array.read(0, part["episodes"]).tolist():
            yield {name: tuple(numbers[4 * n : 4 * n + 4]) for n, name in enumerate(names)}


def counted(rows: np.ndarray) -> tuple[int, int, int, int]:
    """The same of the rows of a field of an episode."""
    steps = [step for step, row in enumerate(rows) if not np.isfinite(row).all()]
    return int(np.isnan(rows).sum()), int(np.isinf(rows).sum()), len(steps), steps[0] if steps else -1


def assert_counts_are_right(store: TinyStore) -> None:
    """What is told is what the data has, of every episode and field."""
    for told, episode in zip(counts_of(store), store.episodes(), strict=True):
        found = {name: counted(rows) for name, rows in episode["fields"].items()}
        assert {name: each for name, each in found.items() if each[2]} == {
            name: each for name, each in told.items() if each[2]
        }
        assert all(found[name] == each for name, each in told.items())
