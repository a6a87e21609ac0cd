"""What tests of mixtures share: a dataset without a store, and the order of a mixture, one sample after another."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from loader.test_shares import naive_schedule

from vla_store.loader.batches import Batches
from vla_store.loader.order import Order


class Numbers:
    """Sample i is 1,000 * kind + i."""

    def __init__(self, kind: int, rows: int) -> None:
        self.kind, self.rows = kind, rows
        self.identity = {"kind": kind}

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"value": np.int64(1000 * self.kind + index), "name": f"{self.kind}"}

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        values = empty((len(indices),), np.dtype(np.int64))
        values[...] = 1000 * self.kind + np.asarray(indices)
        return {"value": values, "name": [str(self.kind)] * len(indices)}

    def where(self, index: int | None = None) -> dict[str, Any]:
        return {"kind": self.kind} if index is None else {"number": index}

    def statistics(self) -> str:
        return f"statistics of {self.kind}"


def naive_order(
    rows: Sequence[int], names: Sequence[str], counts: tuple[int, ...], seed: int, shuffle: Any, places: int
) -> list[tuple[int, int]]:
    """(part, its own sample) of the first places of a mixture."""
    given, made, taken = [0] * len(rows), [], {}
    for part in naive_schedule(counts, seed, places):
        epoch, position = divmod(given[part], rows[part])
        digest = hashlib.blake2b(f"{seed} {names[part]}".encode(), digest_size=8).digest()
        if not position:
            order = Order(rows[part], int.from_bytes(digest, "little"), epoch, shuffle)
            taken[part] = order.take(0, rows[part]).tolist()
        made.append((part, taken[part][position]))
        given[part] += 1
    return made


def given_by(streams: Sequence[Iterator[Any]], rounds: int | None) -> list[tuple[int, int]]:
    """(part, its own sample) of so many batches of all ranks, in the global order."""
    found = [list(itertools.islice(stream, rounds)) for stream in streams]
    assert len({len(each) for each in found}) == 1
    batches = [batch for together in zip(*found) for batch in together]
    return [
        (part, int(value) % 1000) for batch in batches for part, value in zip(batch["part"].tolist(), batch["value"])
    ]


def ranks_of(dataset: Any, world_size: int, state: Any = None, **options: Any) -> list[Batches]:
    """One loader a rank, all as `state` says."""
    made = [
        Batches(dataset, ranks=lambda rank=rank: (rank, world_size), **{"workers": 0, **options})
        for rank in range(world_size)
    ]
    for each in made:
        if state is not None:
            each.epochs.load_state_dict(state)
    return made
