"""dtype=torch.bfloat16: what torch itself makes of the stored numbers, bit for bit, whichever way they come."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_store import OptionError, Samples, mixture, open_store, weighted
from vla_store.reader import bfloat16
from vla_store.reader.bfloat16 import BFLOAT16, rounded, widened
from vla_store.reader.conversion import dtypes_text

torch = pytest.importorskip("torch")

from vla_store.torch import Loader, StepDataset, collate  # noqa: E402

WINDOWS: dict[str, Any] = {"agentview_rgb": 0, "actions": range(-1, 3), "ee_states": 0}
HOW: dict[str, Any] = {"alignment": "as_stored", "images": "as_stored"}


@pytest.fixture(autouse=True)
def coarse() -> Iterator[None]:
    """Eight bits lose differences of small numbers, which is warned of; here that is not looked at."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "in bfloat16", UserWarning)
        yield


def bits(tensor: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = tensor.view(torch.int16).numpy()
    return found


def special() -> np.ndarray[Any, Any]:
    """float32 numbers that are hard to round: ties, the largest, the smallest, and every kind of bits."""
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    near = np.concatenate([(ties.view(np.int32) + np.int32(each)).view(np.float32) for each in (-1, 0, 1)])
    drawn = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    return np.concatenate([near, drawn, np.float32([0, -0.0, np.inf, -np.inf, np.nan])])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rounding_is_torchs_bit_for_bit(dtype: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        values = special().astype(dtype)
        if dtype == "float64":  # what float32 has to round first
            values = np.concatenate([values, values * (1 + 1e-9), values * (1 - 1e-9), values * 1e-30])
        mine = rounded(values)
    theirs = bits(torch.from_numpy(values).to(torch.bfloat16))
    is_nan = np.isnan(values)
    assert np.array_equal(mine.view(np.int16)[~is_nan], theirs[~is_nan])
    assert np.isnan(widened(mine[is_nan])).all()  # torch's own bits of NaN differ from one machine to another


def test_rounded_values_widen_to_themselves() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
    back = rounded(widened(every))
    is_nan = np.isnan(widened(every))
    assert np.array_equal(back[~is_nan], every[~is_nan])
    assert float(torch.finfo(torch.bfloat16).max) == bfloat16.LARGEST


def test_an_overflow_is_an_error_where_numpys_would_be() -> None:
    with np.errstate(over="raise"):
        rounded(np.float32([3.38e38, np.inf]))
        with pytest.raises(FloatingPointError):
            rounded(np.float32([3.4e38]))
        with pytest.raises(FloatingPointError):
            rounded(np.float64([1e39]))


@pytest.fixture(scope="module")
def expected(tiny_store: Path) -> dict[str, Any]:
    """The batch of samples 0 to 9 as torch converts it from what is stored."""
    made: dict[str, Any] = dict(StepDataset(tiny_store, windows=WINDOWS, **HOW).batch(range(10)))
    return {key: each.to(torch.bfloat16) if _floats(each) else each for key, each in made.items()}


def _floats(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.float32, torch.float64)


def same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, each in expected.items():
        if isinstance(each, torch.Tensor):
            assert found[key].dtype == each.dtype, key
            assert found[key].shape == each.shape, key
            assert torch.equal(
                *(value.view(torch.int16) if value.element_size() == 2 else value for value in (found[key], each))
            )
        else:
            assert found[key] == each, key


def test_batches_and_samples_are_torchs(tiny_store: Path, expected: dict[str, Any]) -> None:
    assert sum(each.dtype == torch.bfloat16 for each in expected.values() if isinstance(each, torch.Tensor)) == 2
    dataset = StepDataset(tiny_store, windows=WINDOWS, dtype=torch.bfloat16, **HOW)
    same(dataset.batch(range(10)), expected)
    same(collate([dataset[number] for number in range(10)]), expected)
    same(collate(dataset.__getitems__(list(range(10)))), expected)
    same(dataset.batch(range(10), out=dataset.allocate(10)), expected)
    same(pickle.loads(pickle.dumps(dataset)).batch(range(10)), expected)
    same(StepDataset(tiny_store, windows=WINDOWS, dtype="bfloat16", **HOW).batch(range(10)), expected)
    assert "bfloat16" in repr(dataset)


@pytest.mark.parametrize("pad", ["edge", "zero"])
def test_padding_is_as_in_every_other_dtype(tiny_store: Path, pad: str) -> None:
    given: dict[str, Any] = {"windows": {"actions": range(-3, 9)}, "pad": pad, **HOW}
    rounded_set = StepDataset(tiny_store, dtype=torch.bfloat16, **given)
    plain = StepDataset(tiny_store, **given)
    for number in range(len(plain)):
        same({"actions": rounded_set[number]["actions"]}, {"actions": plain[number]["actions"].to(torch.bfloat16)})
    whole = range(len(plain))
    assert torch.equal(rounded_set.batch(whole)["actions"], plain.batch(whole)["actions"].to(torch.bfloat16))


def test_one_field_alone(tiny_store: Path) -> None:
    given: dict[str, Any] = {"windows": WINDOWS, **HOW}
    dataset = StepDataset(tiny_store, dtype={"actions": torch.bfloat16, None: "float32"}, **given)
    assert dataset[0]["actions"].dtype == torch.bfloat16
    assert dataset[0]["ee_states"].dtype == torch.float32
    assert dataset.batch([0])["agentview_rgb"].dtype == torch.uint8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_it_through_its_ring(tiny_store: Path, expected: dict[str, Any], workers: int) -> None:
    dataset = StepDataset(tiny_store, windows=WINDOWS, dtype=torch.bfloat16, **HOW)
    with Loader(dataset, batch_size=10, shuffle=False, workers=workers) as loader:
        same(next(iter(loader)), expected)
        assert not loader.stats().pickled_nbytes if not workers else loader.stats().pickled_nbytes < 4_000
    both = mixture([dataset, dataset], names=["one", "two"])
    with Loader(both, batch_size=10, shuffle=False, workers=workers) as loader:
        assert next(iter(loader))["actions"].dtype == torch.bfloat16
    with Loader(weighted(dataset, np.ones(len(dataset))), batch_size=10, shuffle=False, workers=workers) as loader:
        assert next(iter(loader))["actions"].dtype == torch.bfloat16


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_data_loader_gives_it(tiny_store: Path, expected: dict[str, Any], workers: int) -> None:
    dataset = StepDataset(tiny_store, windows=WINDOWS, dtype=torch.bfloat16, **HOW)
    loader = torch.utils.data.DataLoader(dataset, batch_size=10, num_workers=workers, collate_fn=collate)
    same(next(iter(loader)), expected)


def test_a_transform_of_the_dataset_gets_tensors_of_it(tiny_store: Path) -> None:
    dataset = StepDataset(
        tiny_store, windows={"actions": 0}, dtype=torch.bfloat16, transform=lambda each: each["actions"] * 2, **HOW
    )
    with Loader(dataset, batch_size=4, shuffle=False, workers=0) as loader:
        assert next(iter(loader)).dtype == torch.bfloat16


@pytest.mark.parametrize("which", ["transform", "batch_transform"])
def test_a_transform_of_arrays_is_refused_in_words(tiny_store: Path, which: str) -> None:
    dataset = StepDataset(tiny_store, windows={"actions": 0}, dtype=torch.bfloat16, **HOW)
    options: dict[str, Any] = {which: lambda given: given}
    with Loader(dataset, batch_size=4, workers=0, **options) as loader, pytest.raises(OptionError) as raised:
        next(iter(loader))
    assert "NumPy has no bfloat16" in str(raised.value)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, {"actions": "bfloat16"}], ids=str)
def test_plain_samples_refuse_it_and_name_step_dataset(tiny_store: Path, dtype: Any) -> None:
    with pytest.raises(OptionError) as raised:
        Samples(tiny_store, windows={"actions": 0}, dtype=dtype, **HOW)
    assert "StepDataset" in str(raised.value)


def test_what_its_eight_bits_lose_is_warned_of(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    fine = [name for name, each in store.fields.items() if each.is_fixed and each.dtype in ("float32", "float64")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        StepDataset(store, windows=dict.fromkeys(fine, 0), dtype=torch.bfloat16, **HOW)
    texts = [str(each.message) for each in told]
    assert texts, "tiny fields count up in steps that bfloat16 has not"
    assert all(text.startswith("in bfloat16, ") and "None: 'bfloat16'" in text for text in texts)


def test_it_is_named_as_people_do() -> None:
    assert dtypes_text({"actions": BFLOAT16, None: "float32"}) == "floating fields as float32; actions as bfloat16"
