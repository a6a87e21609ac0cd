"""One collate, of the Loader and of torch's DataLoader: samples that do not fit together are an error, whichever comes first."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_tools import batches_of

import vla_store
from vla_store.errors import OptionError, TransformError
from vla_store.loader.collate import collate

torch = pytest.importorskip("torch")
from torch.utils.data import ConcatDataset, DataLoader  # noqa: E402

from vla_store.torch import StepDataset  # noqa: E402
from vla_store.torch import collate as torch_collate  # noqa: E402

BOTH = pytest.mark.parametrize("collated", [collate, torch_collate], ids=["arrays", "tensors"])
Collate = Callable[[Any], Any]


def error_of(collated: Collate, samples: Any) -> OptionError:
    with pytest.raises(OptionError) as raised:
        collated(samples)
    return raised.value


@pytest.mark.parametrize("workers", [0, 1])
def test_concatenated_datasets_of_different_fields_are_refused_in_either_order(tiny_store: Path, workers: int) -> None:
    store = vla_store.open_store(tiny_store)
    few = StepDataset(store, windows={"actions": 0}, rows=[3])
    more = StepDataset(store, windows={"actions": 0, "rewards": 0}, rows=[60])
    for parts in ([few, more], [more, few]):
        loader = DataLoader(ConcatDataset(parts), batch_size=2, collate_fn=torch_collate, num_workers=workers)
        says = r"different keys(.|\n)*'rewards' is in sample \d of the batch \(episode \d+, "
        with batches_of(loader) as batches, pytest.raises(OptionError, match=says):
            list(batches)


DIFFERENT: dict[str, tuple[list[Any], str]] = {
    "keys": ([{"a": 1}, {"a": 1, "b": 2}], "'b' is in sample 1 of the batch, and not in sample 0"),
    "keys deep down": ([{"a": {"x": 1}}, {"a": {"y": 1}}], "different keys, in 'a'"),
    "shapes": ([{"a": np.zeros((2, 3))}, {"a": np.zeros((3, 2))}], "'a' has several shapes"),
    "widths": ([{"a": np.zeros(2)}, {"a": np.zeros(3)}], "'a' has several widths"),
    "dtypes": ([{"a": np.zeros(2, "f4")}, {"a": np.zeros(2, "f8")}], "'a' has several dtypes"),
    "signs": ([{"a": np.zeros(2, "u1")}, {"a": np.zeros(2, "i1")}], "'a' has several dtypes"),
    "dtypes of tensors": ([{"a": torch.zeros(2)}, {"a": torch.zeros(2).double()}], "float32 in sample 0"),
    "halves": ([{"a": torch.zeros(2).bfloat16()}, {"a": torch.zeros(2)}], "'a' has several dtypes"),
    "an array and a tensor": ([{"a": np.zeros(2)}, {"a": torch.zeros(2)}], "'a' has several dtypes"),
    "numbers": ([{"a": 1}, {"a": 1.5}], "'a' has several dtypes"),
    "a number and a truth": ([{"a": 1}, {"a": True}], "'a' has several dtypes"),
    "a number and nothing": ([{"a": 1}, {"a": None}], "'a' has several kinds"),
    "an array and nothing": ([{"a": np.zeros(2)}, {"a": None}], "'a' has several shapes"),
    "an array and a text": ([{"a": np.zeros(2)}, {"a": "x"}], "'a' has several kinds"),
    "a dict and nothing": ([{"a": {"x": 1}}, {"a": None}], "'a' has several kinds"),
    "a list and an array": ([{"a": [1, 2]}, {"a": np.zeros(2)}], "'a' has several kinds"),
    "a dict and a list": ([{"a": 1}, [1]], "'sample' has several kinds"),
    "lengths": ([(1, 2), (1, 2, 3)], "'sample' has several lengths"),
    "inside a list": ([{"a": [1, "x"]}, {"a": [1, 2]}], "'a' has several kinds"),
}


@BOTH
@pytest.mark.parametrize("name", DIFFERENT)
def test_samples_that_differ_are_refused_in_any_order(collated: Collate, name: str) -> None:
    samples, text = DIFFERENT[name]
    assert text.partition(" in sample")[0].partition(" is in")[0] in str(error_of(collated, samples))
    if collated is collate:
        assert text in str(error_of(collated, samples))
    for order in itertools.permutations([*samples, samples[0]]):
        error_of(collated, order)


@BOTH
def test_arrays_and_tensors_of_one_dtype_go_together_whichever_is_first(collated: Collate) -> None:
    samples = [{"a": np.arange(3)}, {"a": torch.arange(3)}]
    for order in (samples, samples[::-1]):
        assert collated(order)["a"].tolist() == [[0, 1, 2]] * 2


@BOTH
def test_what_is_no_sample_is_refused(collated: Collate) -> None:
    for sample in (None, ..., {1, 2}, iter([1])):
        with pytest.raises(TransformError, match="the dataset returns"):
            collated([sample, sample])


def test_both_faces_give_the_same_and_as_torchs_own() -> None:
    samples = [
        {
            "array": np.full((2, 3), number, np.float32),
            "tensor": torch.full((2,), number, dtype=torch.int16),
            "int": number,
            "float": number / 2,
            "bool": number > 0,
            "text": str(number),
            "tuple": (number, np.arange(3)),
            "nested": {"a": [np.uint8(number), number]},
        }
        for number in range(3)
    ]
    ours, theirs = torch_collate(samples), torch.utils.data.default_collate(samples)
    plain = collate(samples)
    assert str(ours) == str(theirs)
    for key in ("array", "tensor", "int", "float", "bool"):
        assert ours[key].dtype == theirs[key].dtype
        assert np.array_equal(plain[key], ours[key].numpy())
        assert plain[key].dtype == ours[key].numpy().dtype


def test_tensors_stay_what_they_are() -> None:
    """A gradient, and a device that is not the CPU."""
    made = torch_collate([{"a": torch.zeros(2, requires_grad=True), "b": torch.zeros(3, device="meta")}] * 2)
    assert made["a"].requires_grad
    assert (made["b"].device.type, tuple(made["b"].shape)) == ("meta", (2, 3))
