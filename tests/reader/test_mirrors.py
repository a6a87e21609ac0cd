"""A store of which a cache on this machine has some pages: every sample is what the local store gives, from wherever its bytes come."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same
from reader.conftest import merged

import vla_store
from vla_store.reader.parts import parts_of
from vla_store.storage.mirror import PAGE
from vla_store.storage.mirrored import MirroredStorage

WINDOWS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": [-1, 0], "states": 0, "actions": range(8)}
OPTIONS: dict[str, Any] = {"windows": WINDOWS, "alignment": "causal", "images": "upright"}


@pytest.fixture(scope="module")
def folder(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merged(tmp_path_factory.mktemp("mirrors"), [tiny_store], copies=2)


@pytest.fixture
def cached(folder: Path, tmp_path: Path) -> Callable[..., vla_store.Samples]:
    """Opens the store with an empty cache."""
    return lambda **options: vla_store.Samples(
        vla_store.open_store(folder, cache=tmp_path / "cache", **options), **OPTIONS
    )


def storage_of(samples: vla_store.Samples) -> MirroredStorage:
    storage = parts_of(samples.store).fetcher
    assert isinstance(storage, MirroredStorage)
    return storage


def fetch(samples: vla_store.Samples, share: float, seed: int = 0) -> None:
    """Bring this share of all pages."""
    storage, drawn = storage_of(samples), random.Random(seed)
    _ = samples[0], samples[len(samples) - 1]  # both parts are known now
    for key, (size, *_) in list(storage._places.items()):
        pages = [(key, start, min(start + PAGE, size)) for start in range(0, size, PAGE)]
        storage.fetch_ahead([each for each in pages if drawn.random() < share])


@pytest.mark.parametrize("check", ["first", "every"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_samples_are_those_of_the_local_store_whatever_share_of_it_is_near(
    folder: Path, cached: Callable[..., vla_store.Samples], share: float, check: str
) -> None:
    local, samples = vla_store.Samples(folder, **OPTIONS), cached(check=check)
    fetch(samples, share)
    for seed in range(4):
        indices = random.Random(seed).choices(range(len(local)), k=20)
        located = samples.locate(indices)  # may be held while more comes near
        if seed == 2:
            fetch(samples, 0.5, seed)
        assert_same(samples.assemble(located, samples.fetch(located)), local.batch_or_lists(indices))
        assert_same(samples[indices[0]], local[indices[0]])
    if share == 1.0:
        assert samples.locate(range(len(samples))).ranges == []


def test_once_all_is_near_nothing_is_asked_for_and_no_crc_twice(
    folder: Path, cached: Callable[..., vla_store.Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = cached()
    everything = range(len(samples))
    expected = vla_store.Samples(folder, **OPTIONS).batch_or_lists(everything)
    fetch(samples, 1.0)
    samples.batch_or_lists(everything)
    storage = storage_of(samples)
    before = storage.traffic
    monkeypatch.setattr("vla_store.reader.shards.checked_body", None)
    monkeypatch.setattr(storage.inner, "read", None)
    assert_same(samples.batch_or_lists(everything), expected)
    assert (storage.traffic - before).missed_nbytes == 0
    assert (storage.traffic - before).hit_nbytes > 0


def test_numbers_that_came_near_meanwhile_are_read_as_local_ones(cached: Callable[..., vla_store.Samples]) -> None:
    samples = cached()
    samples.batch_or_lists([0, 1])
    part = parts_of(samples.store)[0]
    actions = part.column(part.document.fields["actions"])
    assert actions.whole is None
    fetch(samples, 1.0)
    assert actions.whole is not None
