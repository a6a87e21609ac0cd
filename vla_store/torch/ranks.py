"""Which rank of how many a process is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from vla_store.errors import OptionError


def ranks_of(rank: int | None, world_size: int | None) -> Callable[[], tuple[int, int]]:
    """Return what is asked for rank and world size when they are needed: as given, else torch's, else those of RANK and WORLD_SIZE."""
    if (rank is None) != (world_size is None):
        raise OptionError("rank and world_size go together", rank=rank, world_size=world_size)

    def ranks() -> tuple[int, int]:  # not a method: workers end with the last reference to a loader, without a cycle
        if rank is not None and world_size is not None:
            return rank, world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return _ranks_in(os.environ)

    return ranks


def _ranks_in(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return what RANK and WORLD_SIZE say; (0, 1) without them, and in a world of one. Raises OptionError."""
    names = ("RANK", "WORLD_SIZE")
    given = {name: environment[name] for name in names if name in environment}
    if not given or given == {"WORLD_SIZE": "1"}:
        return 0, 1
    what = ""
    try:
        numbers = {name: int(text) for name, text in given.items()}
    except ValueError:
        what = "RANK and WORLD_SIZE of the environment are whole numbers"
    else:
        if len(given) == 1:
            what = f"{' and '.join(given)} is in the environment, and {next(name for name in names if name not in given)} is not"
        elif not 0 <= numbers["RANK"] < numbers["WORLD_SIZE"]:
            what = "RANK of the environment lies outside the world: it is from 0 to WORLD_SIZE - 1"
    if what:
        places = {name: repr(environment[name]) if name in given else "not set" for name in names}
        raise OptionError(
            what,
            **places,
            hint="start the processes with torchrun, which sets both; or give both to the Loader: Loader(..., rank=0, world_size=1); or, "
            "for one process alone: unset RANK WORLD_SIZE",
        )
    return numbers["RANK"], numbers["WORLD_SIZE"]
