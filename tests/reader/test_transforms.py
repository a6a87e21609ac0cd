"""A transform that gives no sample is an error with its name, wherever a transform is taken."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loader import transforms

import vla_store
from vla_store import recipes
from vla_store.errors import TransformError
from vla_store.loader.batches import Batches
from vla_store.loader.dataset import served as as_dataset
from vla_store.reader.transforms import a_sample, name_of, transformed
from vla_store.recipes.dataset import RecipeDataset

WINDOWS = {"actions": 0}


async def awaits(sample: Any) -> Any:
    return sample


SLIPS: dict[str, tuple[Any, str, str]] = {
    "None": (None, "None", "did you forget `return`?"),
    "a generator": ((each for each in "ab"), "a generator", "`yield`"),
    "map": (map(str, "ab"), "an iterator", r"list\("),
    "bool": (True, "a bool", "return the sample"),
    "a set": ({1, 2}, "a set", "dict"),
    "keys": ({"a": 1}.keys(), "a view of a dict", "return the dict"),
    "items": ({"a": 1}.items(), "a view of a dict", "return the dict"),
    "...": (..., "a placeholder", "not written yet"),
    "NotImplemented": (NotImplemented, "a placeholder", "not written yet"),
    "an error": (ValueError("x"), "an exception", "write `raise`"),
    "a function": (transforms.nothing, "something to be called", "call it"),
    "a class": (dict, "something to be called", "call it"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_what_is_no_sample_is_named_with_what_to_mend(name: str) -> None:
    value, found, hint = SLIPS[name]
    with pytest.raises(TransformError, match=f"transform `gives` returns {found}") as raised:
        transformed(functools.partial(gives, value), {})
    assert re.search(hint, raised.value.hint)


def gives(value: Any, sample: Any) -> Any:
    return value


def test_what_has_to_be_awaited_is_named() -> None:
    made = awaits({})
    with pytest.raises(TransformError, match=r"awaited(.|\n)*async def"):
        a_sample(made, "transform", awaits)
    made.close()


@pytest.mark.parametrize("value", [{}, {"a": None}, (1, 2), [1], "text", 3, 2.5])
def test_what_can_be_a_sample_is_one(value: Any) -> None:
    assert transformed(lambda sample: value, {}) is value


def test_a_callable_is_called_by_what_a_user_wrote() -> None:
    assert name_of(functools.partial(functools.partial(gives, 1), 2)) == "gives"
    assert name_of(transforms.Noise()) == "Noise"
    assert name_of(transforms.Noise().__call__) == "Noise.__call__"

    def inner() -> None: ...

    assert name_of(inner) == "inner"


class Forgets(vla_store.Samples):
    """A dataset whose samples its author forgot to return."""

    def __getitem__(self, index: Any) -> Any:
        super().__getitem__(index)["x"] = 1


class ForgetsItem(RecipeDataset):
    def items(self, batch: Any, empty: Any) -> Any:
        batch["x"] = 1


def ways(store: Path) -> dict[str, Callable[[], Any]]:
    """Every way on which a transform is called, or a dataset of one's own asked."""
    samples = vla_store.Samples(store, windows=WINDOWS, transform=transforms.forgets)
    plain = vla_store.Samples(store, windows=WINDOWS, rows=range(8))
    recipe = recipes.act(store, chunk=4, transform=transforms.forgets)
    own = ForgetsItem(store, windows=WINDOWS)

    def served(dataset: Any = None, **options: Any) -> Callable[[], Any]:
        return lambda: next(
            iter(Batches(plain if dataset is None else as_dataset(dataset), batch_size=4, workers=0, **options))
        )

    return {
        "Samples[]": lambda: samples[3],
        "Samples[[]]": lambda: samples.__getitems__([3, 4]),
        "recipe[]": lambda: recipe[3],
        "recipe[[]]": lambda: recipe.__getitems__([3, 4]),
        "item[]": lambda: own[3],
        "item[[]]": lambda: own.__getitems__([3, 4]),
        "Loader's transform": served(transform=transforms.forgets),
        "Loader's batch_transform": served(batch_transform=transforms.forgets),
        "Loader over a dataset's": served(samples),
        "Loader over a recipe's": served(recipe),
        "Loader over a subclass": served(Forgets(store, windows=WINDOWS)),
    }


WAYS = [
    *("Samples[]", "Samples[[]]", "recipe[]", "recipe[[]]", "item[]", "item[[]]", "Loader's transform"),
    *("Loader's batch_transform", "Loader over a dataset's", "Loader over a recipe's", "Loader over a subclass"),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_forgotten_return_is_an_error_wherever_it_is(tiny_store: Path, way: str) -> None:
    with pytest.raises(TransformError, match=r"`[^`]*` returns None(.|\n)*did you forget `return`"):
        ways(tiny_store)[way]()


@pytest.mark.parametrize("which", ["transform", "batch_transform"])
def test_workers_say_it_with_the_sample(tiny_store: Path, which: str) -> None:
    batches = Batches(
        vla_store.Samples(tiny_store, windows=WINDOWS), batch_size=4, workers=1, **{which: transforms.forgets}
    )
    with pytest.raises(TransformError, match=f"{which} `forgets` returns None") as raised:
        next(iter(batches))
    assert ("sample" in raised.value.places) == (which == "transform")
    batches.close()
