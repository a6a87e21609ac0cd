"""Shard files hold exactly the bytes they should, however the rows arrive; and never under their name before they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from vla_store.builder.shards import (
    ArrayWriter,
    RowWriter,
    write_array,
    write_object,
)
from vla_store.format import arrays, canonical
from vla_store.format.layout import Grid
from vla_store.format.listing import ObjectEntry
from vla_store.format.shard_index import encode_index
from vla_store.storage import LocalStorage, local


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_entries(folder: Path, entries: list[ObjectEntry]) -> None:
    found = files(folder)
    assert {each.key: (each.size, each.sha256) for each in entries} == {
        key: (len(data), hashlib.sha256(data).hexdigest()) for key, data in found.items()
    }
    assert sum(each.size for each in entries) == sum(map(len, found.values()))


@given(
    rows=st.integers(1, 60),
    width=st.sampled_from([(), (1,), (3,), (2, 2)]),
    chunk=st.integers(1, 9),
    chunks_per_shard=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_rows_in_pieces_of_any_length_give_the_files_the_format_names(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    width: tuple[int, ...],
    chunk: int,
    chunks_per_shard: int,
    cuts: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    grid = Grid((rows, *width), "int32", chunk, chunk * chunks_per_shard)
    data = np.arange(rows * int(np.prod(width)), dtype="<i4").reshape(rows, *width) + 1
    writer = RowWriter(LocalStorage(folder), "steps/x", grid)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    for start, stop in itertools.pairwise(edges):
        writer.add_rows(data[start:stop])
    entries = writer.finish()
    expected = {}
    for shard in range(grid.shards):
        start, stop = grid.rows_of(shard)
        present = grid.present(shard)
        body = data[start:stop].tobytes()
        body += bytes(present * grid.chunk_nbytes - len(body))
        index = encode_index([grid.chunk_nbytes] * present, chunks_per_shard)
        expected[f"steps/x/{grid.key(shard)}"] = body + index
    assert files(folder) == expected
    assert_entries(folder, entries)
    (folder / "steps/x/zarr.json").write_bytes(canonical.dumps(arrays.array_metadata(grid)))
    opened: Any = zarr.open_array(str(folder / "steps/x"), mode="r")
    assert np.array_equal(opened[...], data)


def test_wide_rows_take_no_more_memory_than_they_come_in(tmp_path: Path) -> None:
    """An inner chunk is 64 rows and more, however wide they are."""
    rows = np.ones((1, 1 << 18), "uint8")
    writer = RowWriter(LocalStorage(tmp_path), "steps/x", Grid((65, 1 << 18), "uint8", 64, 128))
    tracemalloc.start()
    try:
        for _ in range(65):
            writer.add_rows(rows)
        (entry,) = writer.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert entry.size == (32 << 20) + 2 * 16 + 4
    assert peak < 6 << 20


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20), per_shard=st.integers(1, 6))
def test_chunks_of_any_size_follow_one_another_and_the_index_says_where(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("chunks")
    grid = Grid((len(sizes), 4, 4, 3), "uint8", 1, per_shard)
    writer = ArrayWriter(LocalStorage(folder), "frames/x", grid)
    chunks = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    for each in chunks:
        writer.add(each)
    entries = writer.finish()
    expected = {
        f"frames/x/{grid.key(shard)}": b"".join(chunks[slice(*grid.rows_of(shard))])
        + encode_index(sizes[slice(*grid.rows_of(shard))], per_shard)
        for shard in range(grid.shards)
    }
    assert files(folder) == expected
    assert_entries(folder, entries)


def test_a_writer_can_begin_at_any_shard(tmp_path: Path) -> None:
    grid = Grid((10, 2), "uint8", 1, 3)
    writer = ArrayWriter(LocalStorage(tmp_path), "x", grid, first_shard=2)
    for _ in range(3):
        writer.add(b"ab")
    assert [each.key for each in writer.finish()] == ["x/c/2/0"]


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    grid = Grid((4, 2), "uint8", 1, 2)
    with contextlib.suppress(KeyboardInterrupt), ArrayWriter(LocalStorage(tmp_path), "x", grid) as writer:
        writer.add(b"ab")
        assert [path.name.endswith(".tmp") for path in tmp_path.rglob("*") if path.is_file()] == [True]
        writer.add(b"cd")
        writer.add(b"ef")  # of the next one; the first is closed outside of what encodes
        raise KeyboardInterrupt
    assert list(files(tmp_path)) == ["x/c/0/0"]


def test_two_writers_of_one_object_do_not_meet(tmp_path: Path) -> None:
    """A worker of an interrupted build may still write when the resumed one does."""
    grid = Grid((2, 2), "uint8", 1, 2)
    old, new = ArrayWriter(LocalStorage(tmp_path), "x", grid), ArrayWriter(LocalStorage(tmp_path), "x", grid)
    for writer in (old, new, old, new):
        writer.add(b"ab")
    assert old.finish() == new.finish()
    assert_entries(tmp_path, new.objects)


def test_a_small_array_is_written_whole(tmp_path: Path) -> None:
    grid = Grid((5, 2), "int64", 4, 8)
    entries = write_array(tmp_path, "x", grid, np.arange(10, dtype="<i8").reshape(5, 2))
    assert files(tmp_path)["x/c/0/0"][: 5 * 16] == np.arange(10, dtype="<i8").tobytes()
    assert_entries(tmp_path, entries)


def test_an_object_is_replaced_in_one_step(tmp_path: Path) -> None:
    for data in (b"one", b"another"):
        entry = write_object(LocalStorage(tmp_path), "a/b.json", data)
        assert files(tmp_path) == {"a/b.json": data}
        assert entry == ObjectEntry("a/b.json", hashlib.sha256(data).hexdigest(), len(data))


def test_an_object_that_cannot_be_written_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").mkdir()
    with pytest.raises(OSError, match=os.strerror(21)):
        write_object(LocalStorage(tmp_path), "a/b", b"data")  # a folder is in the way
    assert files(tmp_path) == {}


@pytest.mark.parametrize("name", ["try_lock", "_flush"])
def test_an_interrupt_at_any_moment_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def interrupted(*_: object) -> None:
        assert len(files(tmp_path)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(local, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_object(LocalStorage(tmp_path), "a/b", b"data")
    assert files(tmp_path) == {}


def test_a_temporary_file_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[str] = []

    def lock(descriptor: int) -> None:
        if len(swept) < 2:  # by another process, which holds it meanwhile, or is done with it
            swept.extend(files(tmp_path))
            next(path for path in tmp_path.rglob("*.tmp")).unlink()
            if len(swept) == 1:
                raise BlockingIOError

    monkeypatch.setattr(local, "try_lock", lock)
    write_object(LocalStorage(tmp_path), "a/b", b"data")
    assert len(set(swept)) == 2
    assert files(tmp_path) == {"a/b": b"data"}


def test_temporary_files_are_swept_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a/b.0123abcd.tmp", "a/b", "c.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    LocalStorage(tmp_path).sweep(held=True)
    assert list(files(tmp_path)) == ["a/b"]
