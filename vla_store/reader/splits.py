"""Splits of a store's episodes in two sides, by their digests."""

from __future__ import annotations

import numpy as np

from vla_store.errors import OptionError, UnknownName
from vla_store.format import digests, layout
from vla_store.reader.parts import Parts
from vla_store.reader.values import Split
from vla_store.types import SPLITS, SplitName


def split_of(parts: Parts, name: SplitName, fraction: float, by: str, seed: int) -> Split:
    """Return the episodes of one side of a split, as `Store.split` says. Raises UnknownName, OptionError."""
    if name not in SPLITS:
        raise UnknownName.among("split", name, list(SPLITS))
    if by != "episode":
        raise UnknownName.among("way to split: by", by, ["episode"])
    is_number = isinstance(fraction, (int, float, np.number)) and not isinstance(fraction, bool)
    is_share = is_number and 0 <= fraction <= 1
    if not is_share or isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise OptionError("fraction is a number from 0 to 1, seed a whole number", found=f"{fraction!r}, {seed!r}")
    sides = [
        digests.in_train(digest.tobytes(), fraction, int(seed)) == (name == "train")
        for part in parts.with_tables(layout.DIGEST_ARRAY)
        for digest in part.digests.span(0, part.episodes)
    ]
    return Split(name, float(fraction), by, int(seed), np.flatnonzero(np.array(sides, bool)).astype(np.int64))
