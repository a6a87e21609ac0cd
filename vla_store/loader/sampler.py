"""`ShuffleSampler`: the loader's order for torch's own DataLoader, and anything else that takes an iterable of indices.

May import the order, the state and the dataset protocol; no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vla_store.errors import OptionError
from vla_store.loader.dataset import served
from vla_store.loader.order import EpochOrder, ShuffleChoice
from vla_store.loader.state import BY_ITS_END, Epochs, Pass
from vla_store.reader.options import OF_A_SAMPLER, by_name

BLOCK_ROWS = 8_192
LOOK = (
    "what a DataLoader had read ahead is passed over, and load_state_dict(state_dict(consumed=...)) goes back to it; to look at "
    "a batch, or for two passes at a time, make a second sampler"
)


class ShuffleSampler:
    """Yields every index of a dataset once an epoch, in the order that is a function of (seed, epoch, rows) alone.

    Parameters
    ----------
    dataset
        As `vla_store.torch.Loader` takes it.
    seed, shuffle
        What the order depends on beside the epoch; `shuffle=False` is the order of the rows, "blocks" is as in a Loader.

    Notes
    -----
    It never looks for ranks: accelerate and Lightning shard the DataLoader it is given to. Memory does not depend on the number of
    rows. Each complete pass is the next epoch; one that was left goes on in the next, after the rows that were read; `set_epoch`
    names an epoch, which then begins anew.
    """

    @by_name(OF_A_SAMPLER)
    def __init__(self, dataset: Any, *, seed: int = 0, shuffle: ShuffleChoice = True) -> None:
        found = served(dataset)
        if found is None:
            raise OptionError(
                "a ShuffleSampler takes a StepDataset or Samples, or a Subset of one",
                found=type(dataset).__name__,
                hint="torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=vla_store.torch.collate)",
            )
        if getattr(found, "by_part", False):
            raise OptionError(
                'batches="by_part" is for a Loader, which knows what its batches are',
                hint="vla_store.torch.Loader(mixture, batch_size=64)",
            )
        self._epochs = Epochs(found, seed, shuffle, LOOK)

    def __len__(self) -> int:
        """Rows of a whole epoch."""
        return self._epochs.rows

    def __iter__(self) -> Iterator[int]:
        """Begin a new pass; it ends the one before. Epoch and position are settled at its first index."""
        return Indices(self._epochs)

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch of the next pass. A position that was loaded stays if it is of this epoch, else the pass begins at 0."""
        self._epochs.set_epoch(epoch)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return where the epoch stands.

        Parameters
        ----------
        consumed
            Rows of this epoch that training has used, over all ranks. A DataLoader reads its sampler ahead of the batches it
            gives, so that without this number prefetched rows count as used. (StatefulDataLoader needs none.) "This epoch" is the
            one whose indices were given last, until `set_epoch` names another; all of its rows used is the same as none of the
            next one's.
        """
        epochs = self._epochs
        if consumed is None:
            return epochs.state_dict()
        return epochs.state_at(epochs.epoch_in_use, max(0, min(int(consumed), len(self))))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` stands. Raises OptionError where it is of another store, selection, seed or order."""
        self._epochs.load_state_dict(state)


class Indices:
    """One pass of a sampler, with a state of its own.

    torchdata's StatefulDataLoader asks it beside the sampler: when the last batch is cut from the last indices, the sampler
    stands at the next epoch already, while the pass still has to end.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._pass: Pass = epochs.new_pass()
        self._order: EpochOrder | None = None
        self._block: Iterator[int] = iter(())
        self._stop = 0

    def __iter__(self) -> Indices:
        return self

    def __next__(self) -> int:
        current = self._pass
        if not current.is_live:
            raise current.cut_short() or StopIteration
        if self._order is None:
            self._order = current.begin()
            self._stop = current.position
        index = next(self._block, None)
        if index is None:
            start, self._stop = self._stop, min(self._stop + BLOCK_ROWS, self._order.rows)
            if start == self._stop:
                current.end(BY_ITS_END)
                raise StopIteration
            self._block = iter(self._order.take(start, self._stop).tolist())
            index = next(self._block)
        current.give(current.position + 1, current.position + 1 == self._order.rows)
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return where this pass stands, or stood when it ended."""
        return self._epochs.state_at(*self._pass.place)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin at this state."""
        self._pass.wanted = self._epochs.continued(state)
