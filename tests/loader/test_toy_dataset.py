"""A dataset of one's own, with no store at all, is served by the Loader as ours are: the protocol is the whole seam."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vla_store.errors import OptionError, TransformError


class Squares:
    """Sample i is i and its square."""

    def __init__(self, rows: int, broken: int = -1) -> None:
        self.rows, self.broken = rows, broken
        self.identity = {"kind": "squares"}

    def __len__(self) -> int:
        return self.rows

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        assert self.broken not in indices, "no square"
        squares = empty((len(indices),), np.int64)
        np.square(indices, out=squares)
        return {"number": np.array(indices), "square": squares, "name": [str(each) for each in indices]}

    def where(self, index: int | None = None) -> dict[str, Any]:
        return {"kind": "squares"} if index is None else {"drawer": index // 10}


def test_a_dataset_without_a_store_is_served_sharded_and_resumed() -> None:
    torch = pytest.importorskip("torch").utils.data
    from vla_store.torch import Loader

    def served(dataset: Any, rank: int = 0, **options: Any) -> Any:
        return Loader(dataset, **{"batch_size": 5, "workers": 0, "rank": rank, "world_size": 2, **options})

    whole = [batch for rank in (0, 1) for batch in served(Squares(40), rank)]
    assert sorted(n for batch in whole for n in batch["number"].tolist()) == list(range(40))
    assert all((batch["number"] ** 2 == batch["square"]).all() for batch in whole)
    with served(Squares(40), workers=2) as loader:
        next(iter(loader))
        state = json.loads(json.dumps(loader.state_dict()))
    with served(Squares(40), workers=2) as loader:
        loader.load_state_dict(state)
        assert [batch["name"] for batch in loader] == [batch["name"] for batch in whole[1:4]]
    chosen = served(torch.Subset(Squares(40), range(40)))
    for other, one in ((served(Squares(41)), state), (chosen, state), (served(Squares(40)), chosen.state_dict())):
        with pytest.raises(OptionError, match="the state is of another"):
            other.load_state_dict(one)
    broken = served(Squares(40, broken=17), world_size=1, workers=2)
    with broken, pytest.raises(TransformError, match="no square") as raised:
        list(broken)
    assert {**raised.value.places, "traceback": 0} == {"kind": "squares", "sample": "17", "drawer": "1", "traceback": 0}
    with pytest.raises(OptionError, match="batches only"):
        served(Squares(40), transform=print)
