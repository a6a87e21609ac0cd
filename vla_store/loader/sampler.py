"""`ShuffleSampler`: the loader's order for torch's own DataLoader, and anything else that takes an iterable of indices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vla_store.loader.state import Epochs
from vla_store.reader.samples import Samples

BLOCK_ROWS = 8_192


class ShuffleSampler:
    """Yields every index of a dataset once an epoch, in the order that is a function of (seed, epoch, rows) alone.

    dataset: `vla_store.Samples` or `vla_store.torch.StepDataset`. It never looks for ranks: accelerate and Lightning shard the
    DataLoader it is given to. Memory does not depend on the number of rows. Each pass is the next epoch; `set_epoch` names one.
    """

    def __init__(self, dataset: Any, *, seed: int = 0, shuffle: bool = True) -> None:
        samples: Samples = getattr(dataset, "samples", dataset)
        self._epochs = Epochs(samples, seed, shuffle)

    def __len__(self) -> int:
        """Rows of a whole epoch."""
        return len(self._epochs.samples)

    def __iter__(self) -> Iterator[int]:
        return self._indices()

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0."""
        self._epochs.set_epoch(epoch)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Where the epoch stands.

        consumed: rows of this epoch that training has used, over all ranks. A DataLoader with workers reads its sampler ahead of
        the batches it gives, so that without this number its prefetched rows count as used. (StatefulDataLoader needs none.)
        """
        state = self._epochs.state_dict()
        return state if consumed is None else {**state, "position": int(consumed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stands. Raises OptionError where it is of another store, selection, seed or order."""
        self._epochs.load_state_dict(state)

    def _indices(self) -> Iterator[int]:
        current = self._epochs.new_pass()
        order = current.begin()
        start = current.position
        while start < order.rows and current.is_live:
            stop = min(start + BLOCK_ROWS, order.rows)
            for position, index in enumerate(order.take(start, stop).tolist(), start + 1):
                current.position = position
                yield index
                if not current.is_live:
                    return
            start = stop
        current.finish()
