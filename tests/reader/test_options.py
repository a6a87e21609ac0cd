"""Options that are given by place, left out, misspelt or of another library are errors that say what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vla_store
from vla_store import recipes
from vla_store.errors import OptionError, UnknownName
from vla_store.reader.options import OF_A_DATASET, OF_A_LOADER, OF_A_SAMPLER, by_name
from vla_store.recipes.dataset import RecipeDataset

torch = pytest.importorskip("torch")
from vla_store.torch import Loader, ShuffleSampler, StepDataset  # noqa: E402


@pytest.fixture
def samples(tiny_store: Path) -> vla_store.Samples:
    return vla_store.Samples(tiny_store, windows={"actions": 0})


def hint_of(call: Any, kind: type[OptionError | UnknownName]) -> str:
    with pytest.raises(kind) as raised:
        call()
    return raised.value.hint


def test_what_was_given_by_place_is_said_by_name(samples: vla_store.Samples, tiny_store: Path) -> None:
    assert hint_of(lambda: Loader(samples, 64), OptionError) == "write Loader(dataset, batch_size=64)"
    assert hint_of(lambda: Loader(samples, 64, 3), OptionError) == "write Loader(dataset, batch_size=64, seed=3)"
    assert hint_of(lambda: ShuffleSampler(samples, 3), OptionError) == "write ShuffleSampler(dataset, seed=3)"
    for made in (StepDataset, vla_store.Samples):
        hint = hint_of(lambda made=made: made(tiny_store, {"actions": 0}), OptionError)
        assert hint == f"write {made.__name__}(store, windows={{'actions': 0}})"
    assert hint_of(lambda: recipes.act(tiny_store, 8), OptionError).startswith("write act(store, ")


def test_what_was_left_out_is_named(samples: vla_store.Samples) -> None:
    assert hint_of(lambda: Loader(samples), OptionError) == "write Loader(dataset, batch_size=...)"
    assert hint_of(lambda: Loader(batch_size=3), OptionError) == "write Loader(dataset, ...)"
    assert hint_of(lambda: StepDataset(), OptionError) == "write StepDataset(store, ...)"
    assert len(Loader(dataset=samples, batch_size=100, workers=0)) == 2


@pytest.mark.parametrize("name", OF_A_LOADER)
def test_a_dataloaders_option_says_what_does_it_here(samples: vla_store.Samples, name: str) -> None:
    hint = hint_of(lambda: Loader(samples, batch_size=4, **{name: 2}), UnknownName)
    assert hint
    assert "{" not in hint
    assert name != "num_workers" or hint == "write workers=2"


@pytest.mark.parametrize("name", sorted({*OF_A_DATASET} - {"path"}))
def test_another_librarys_option_of_a_dataset_says_what_does_it_here(tiny_store: Path, name: str) -> None:
    for made in (StepDataset, vla_store.Samples, recipes.act):
        hint = hint_of(lambda made=made: made(tiny_store, **{name: 2}), UnknownName)
        assert hint == OF_A_DATASET[name].format(value=2, name=name)


@pytest.mark.parametrize("name", OF_A_SAMPLER)
def test_a_samplers_option_says_what_does_it_here(samples: vla_store.Samples, name: str) -> None:
    assert hint_of(lambda: ShuffleSampler(samples, **{name: 2}), UnknownName)


def test_a_slip_is_named_with_what_it_nearly_is(samples: vla_store.Samples, tiny_store: Path) -> None:
    assert "did you mean 'batch_size'?" in hint_of(lambda: Loader(samples, batchsize=3), UnknownName)
    assert "did you mean 'windows'?" in hint_of(lambda: StepDataset(tiny_store, window={}), UnknownName)
    assert "did you mean 'episodes'?" in hint_of(lambda: recipes.act(tiny_store, episode=[1]), UnknownName)
    hint = hint_of(lambda: RecipeDataset(tiny_store, windows={"actions": 0}, suite="x"), UnknownName)
    assert "did you mean 'suites'?" in hint


def test_a_function_keeps_its_signature_and_what_it_gives() -> None:
    import inspect

    @by_name({}, also=["c"])
    def function(a: int, *, b: int = 2, **more: int) -> tuple[Any, ...]:
        """Says so."""
        return a, b, more

    assert list(inspect.signature(function).parameters) == ["a", "b", "more"]
    assert function.__doc__ == "Says so."
    assert function(1, b=3, c=4) == (1, 3, {"c": 4})
    assert function(a=1) == (1, 2, {})
    with pytest.raises(UnknownName, match="exists  b, c, a"):
        function(1, d=5)


def test_options_that_go_without_a_name_too_are_among_those_there_are() -> None:
    from vla_store import weights

    assert hint_of(lambda: weights.near_changes(time=3), UnknownName) == "did you mean 'times'?"  # type: ignore[call-arg]
    assert hint_of(lambda: weights.near_changes(Steps=3), UnknownName) == "did you mean 'steps'?"  # type: ignore[call-arg]
    assert hint_of(lambda: weights.recent(), OptionError) == "write recent(half_life=...)"  # type: ignore[call-arg]
    assert hint_of(lambda: vla_store.weighted(), OptionError) == "write weighted(dataset, weights, ...)"  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"recent has no more options\s+found   7\s+exists  half_life, least"):
        weights.recent(5, 0, 7)  # type: ignore[call-arg]
