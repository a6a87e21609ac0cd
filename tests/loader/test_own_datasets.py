"""A dataset of one's own that breaks the Loader's protocol is told how, and no batch is given that is not what was asked for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from loader.test_toy_dataset import Squares

from vla_store.errors import OptionError, TransformError, VlaStoreError


class OwnError(VlaStoreError):
    """Made by other arguments than ours."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class Broken(Squares):
    """Of what a dataset of one's own may get wrong."""

    def __init__(self, made: Any, identity: Any = None) -> None:
        super().__init__(20)
        self.made, self.identity = made, {"kind": "broken"} if identity is None else identity

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        return self.made(indices)


def lacks_one(indices: Any) -> Any:
    return {"number": indices, "name": ["x"] * (len(indices) - 1)}


def is_short(indices: Any) -> Any:
    return [indices[:-1]]


def nothing(indices: Any) -> None:
    return None


def raises_its_own(indices: Any) -> None:
    raise OwnError(7)


def fails(indices: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_ones_own_comes_out_of_a_worker_as_it_is(workers: int) -> None:
    loader = pytest.importorskip("vla_store.torch").Loader(Broken(raises_its_own), batch_size=5, workers=workers)
    with loader, pytest.raises(OwnError, match="code 7"):
        next(iter(loader))


@pytest.mark.parametrize("where", [{"what": 1, "hint": 2}, None])
def test_where_a_sample_is_does_not_hide_what_it_raised(where: Any) -> None:
    dataset = Broken(fails)
    dataset.where = lambda index=None: where
    with pytest.raises(TransformError, match="ZeroDivisionError"):
        next(iter(pytest.importorskip("vla_store.torch").Loader(dataset, batch_size=5, workers=0)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("made", "text"),
    [(lacks_one, "another number of samples"), (is_short, "another number of samples"), (nothing, "returns None")],
)
def test_a_batch_of_other_samples_than_were_asked_for_is_refused(made: Any, text: str, workers: int) -> None:
    loader = pytest.importorskip("vla_store.torch").Loader(Broken(made), batch_size=5, workers=workers)
    with loader, pytest.raises(TransformError, match=f"`batch` returns {text}|{text}") as raised:
        next(iter(loader))
    assert "Broken.batch" in str(raised.value)


def test_an_identity_is_the_same_after_a_checkpoint_or_refused() -> None:
    make = pytest.importorskip("vla_store.torch").Loader
    with make(Broken(nothing, {"shape": (1, 2)}), batch_size=5, workers=0) as loader:
        loader.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    with pytest.raises(OptionError, match="the state's own"):
        make(Broken(nothing, {"epoch": 3}), batch_size=5, workers=0).state_dict()
    with pytest.raises(OptionError, match="fits into JSON"):
        make(Broken(nothing, {"n": np.int64(3)}), batch_size=5, workers=0).state_dict()


def test_a_dataset_that_lacks_a_member_is_told_which() -> None:
    dataset = Broken(nothing)
    dataset.identity = None
    with pytest.raises(OptionError, match="has 'identity' too"):
        pytest.importorskip("vla_store.torch").Loader(dataset, batch_size=5)
