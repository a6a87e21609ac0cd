"""How often far storage is waited for: all that a batch needs of many parts is asked for together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same
from range_server import RangeServer
from reader.conftest import merged

import vla_store
from vla_store.reader import frames, shards
from vla_store.storage import FsspecStorage, Held, held

WINDOWS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": [-1, 0], "states": 0, "actions": range(8)}
OPTIONS: dict[str, Any] = {"windows": WINDOWS, "alignment": "causal", "images": "upright"}
PARTS = 5

Far = Callable[[], vla_store.Store]


@pytest.fixture(scope="module")
def server(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """A store of several parts behind a web server."""
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with RangeServer(merged(tmp_path_factory.mktemp("rounds"), [tiny_store], copies=PARTS)) as server:
        yield server


@pytest.fixture
def folder(server: RangeServer) -> Path:
    """The same store."""
    return server.folder


@pytest.fixture
def far(server: RangeServer) -> Far:
    """Opens it by its URL."""
    return lambda: vla_store.open_store(server.url)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every time that far storage is waited for, by the method that waits."""
    made: list[str] = []
    for name in ("read", "heads", "get", "_true_size"):
        monkeypatch.setattr(FsspecStorage, name, recording(name, getattr(FsspecStorage, name), made))
    return made


def recording(name: str, inner: Callable[..., Any], made: list[str]) -> Callable[..., Any]:
    def recorded(*args: Any) -> Any:
        made.append(name)
        return inner(*args)

    return recorded


def drawn(samples: vla_store.Samples, seed: int) -> list[int]:
    return random.Random(seed).sample(range(len(samples)), 24)


def test_a_store_of_many_parts_opens_in_two_rounds(far: Far, folder: Path, calls: list[str]) -> None:
    store = far()
    assert calls == ["heads", "heads"]
    assert store.rows == vla_store.open_store(folder).rows


def test_a_first_batch_of_many_parts_takes_three_rounds_and_each_other_at_most_two(
    far: Far, folder: Path, calls: list[str]
) -> None:
    samples, expected = vla_store.Samples(far(), **OPTIONS), vla_store.Samples(folder, **OPTIONS)
    for number in range(4):
        calls.clear()
        assert_same(samples.batch_or_lists(drawn(samples, number)), expected.batch_or_lists(drawn(samples, number)))
        assert calls == ["read"] * (3 if number == 0 else len(calls))
        assert 1 <= len(calls) <= (3 if number == 0 else 2)
    calls.clear()
    samples.batch_or_lists(drawn(samples, 0))  # all shards are open, all backgrounds at hand
    assert calls == ["read"]


def test_one_sample_takes_at_most_two_rounds_once_its_part_is_open(far: Far, folder: Path, calls: list[str]) -> None:
    samples, expected = vla_store.Samples(far(), **OPTIONS), vla_store.Samples(folder, **OPTIONS)
    for number in drawn(samples, 1):
        samples.store.provenance(int(samples.where(number)["row"]))
        calls.clear()
        assert_same(samples[number], expected[number])
        assert calls in (["read"], ["read", "read"])


def test_pictures_alone_take_no_round_for_each_camera(far: Far, folder: Path, calls: list[str]) -> None:
    windows = {"agentview_rgb": 0, "eye_in_hand_rgb": 0}
    samples = vla_store.Samples(far(), windows=windows, images="upright")
    samples[5]
    calls.clear()
    assert_same(samples[6], vla_store.Samples(folder, windows=windows, images="upright")[6])
    assert calls == ["read"]


@pytest.mark.parametrize("field", ["actions", "agentview_rgb"])
def test_rows_of_many_parts_are_read_together(far: Far, folder: Path, calls: list[str], field: str) -> None:
    store, expected = far(), vla_store.open_store(folder)
    rows = random.Random(3).sample(range(store.rows), 20)
    assert_same(store.read(field, rows), expected.read(field, rows))
    calls.clear()
    out = np.empty_like(expected.read(field, rows))
    assert store.read(field, rows, out) is out
    assert_same(out, expected.read(field, rows))
    assert calls == ["read"]


def test_what_is_asked_of_all_parts_is_asked_at_once(far: Far, folder: Path, calls: list[str]) -> None:
    store, expected = far(), vla_store.open_store(folder)
    for ask in (
        lambda store: store.split("train", fraction=0.5).episodes,
        lambda store: store.episodes.lengths,
        lambda store: list(store.episodes),
        lambda store: store.array_nbytes,
    ):
        calls.clear()
        assert_same(ask(store), ask(expected))
        assert len(calls) <= 1
    assert "_true_size" not in calls


def test_a_listing_that_is_not_the_roots_is_not_believed(tiny_store: Path, tmp_path: Path, calls: list[str]) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    merged(tmp_path, [tiny_store])
    (listing,) = tmp_path.glob("parts/*/objects.jsonl")
    data = listing.read_bytes()
    samples = vla_store.Samples(tmp_path, **OPTIONS)
    with RangeServer(tmp_path) as server:
        for damaged in (data.replace(b'"size":', b'"size":1', 1), b"", None):
            listing.unlink()
            if damaged is not None:
                listing.write_bytes(damaged)
            calls.clear()
            found = vla_store.Samples(server.url, **OPTIONS)
            assert_same(found.batch_or_lists([3, 40]), samples.batch_or_lists([3, 40]))
            assert "_true_size" in calls


def test_small_caches_give_the_same_batches(
    far: Far, folder: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "HELD_NBYTES", 0)
    monkeypatch.setattr(shards, "INDICES_NBYTES", 1)
    monkeypatch.setattr(frames, "BACKGROUNDS_NBYTES", 1)
    samples, expected = vla_store.Samples(far(), **OPTIONS), vla_store.Samples(folder, **OPTIONS)
    for number in range(2):
        assert_same(samples.batch_or_lists(drawn(samples, number)), expected.batch_or_lists(drawn(samples, number)))
    assert "_true_size" not in calls


def test_tables_are_held_as_long_as_there_is_room(
    far: Far, folder: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = sorted(path.relative_to(folder).as_posix() for path in folder.glob("parts/*/index/steps/c/0/0"))
    size = (folder / keys[0]).stat().st_size
    monkeypatch.setattr(held, "HELD_NBYTES", 3 * size)
    tables = Held(FsspecStorage(str(folder)))
    tables.bring(keys)
    assert calls.count("read") == 1
    assert [bytes(view) if view is not None else None for view in map(tables.whole, keys)] == [
        *((folder / key).read_bytes() for key in keys[:3]),
        *[None] * (PARTS - 3),
    ]
    assert [bytes(view) for view in tables.read([(keys[4], 8, 24)])] == [(folder / keys[4]).read_bytes()[8:24]]
