"""One batch of the samples of several `Samples`, as a mixture has it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader.frames import announce
from vla_store.reader.samples import Samples
from vla_store.reader.several_parts import assemble_all, choose_all

Int64 = npt.NDArray[np.int64]


def fill_all(wanted: Sequence[tuple[Samples, Int64, Int64]], arrays: Mapping[str, Any], tasks: list[str]) -> None:
    """Read samples of several `Samples` into their places of one batch, as `locate`, `fetch` and `fill` of each do; what costs as much
    for few as for many is done once.

    Parameters
    ----------
    wanted
        Whose samples, which, each in [0, len), and where they go in the batch: (n,) int64 both.
    arrays, tasks
        As `Samples.fill` takes them.

    Raises
    ------
    OptionError, StoreDamaged, FetchError, MachineError
        As these do; a StoreDamaged may be without the name of the store.
    """
    chosen = [samples._chosen_at(indices, places) for samples, indices, places in wanted]
    listed = iter(choose_all([each for of_one in chosen for each in of_one]))
    located = [
        (samples, samples._located(list(itertools.islice(listed, len(of_one))), len(tasks)))
        for (samples, _, _), of_one in zip(wanted, chosen)
    ]
    announce([pictures for _, each in located for pictures in each.pictures()])
    fetched = itertools.chain.from_iterable([samples._fetched(each) for samples, each in located])
    assemble_all([part for _, each in located for part in each.parts], fetched, arrays)
    for samples, each in located:
        samples._fill_texts(each, tasks)
