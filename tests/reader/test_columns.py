from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import StoreDamaged
from vla_store.format import codecs, layout
from vla_store.format.layout import Grid
from vla_store.format.shard_index import encode_index, index_nbytes
from vla_store.reader.columns import Column
from vla_store.reader.frames import Backgrounds
from vla_store.reader.shards import Opened
from vla_store.storage import locate

KINDS = ["mmap", "pread", "fsspec"]
GRIDS = {
    "one shard": Grid((37, 3), "float64", 8, 40),
    "several shards": Grid((37, 3), "float64", 4, 12),
    "a chunk a shard": Grid((37, 3), "float64", 4, 4),
    "no axes": Grid((37,), "uint8", 4, 8),
    "more axes": Grid((37, 2, 2), "float32", 8, 16),
    "bool": Grid((37,), "bool", 16, 16),
}


def rows_of(grid: Grid) -> np.ndarray:
    return (np.random.default_rng(0).random(grid.shape) * 200 - 0.5).astype(grid.dtype)


def write(folder: Path, grid: Grid, rows: np.ndarray) -> None:
    for shard in range(grid.shards):
        start, stop = grid.rows_of(shard)
        padding = bytes(grid.present(shard) * grid.chunk_nbytes - (stop - start) * grid.row_nbytes)
        sizes = [grid.chunk_nbytes] * grid.present(shard)
        path = folder / "array" / grid.key(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows[start:stop].tobytes() + padding + encode_index(sizes, grid.chunks_per_shard))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_rows_are_the_arrays_however_it_is_cut(tmp_path: Path, kind: str, grid: Grid) -> None:
    rows = rows_of(grid)
    write(tmp_path, grid, rows)
    column = Column(locate(tmp_path, kind, None).open(), "array", grid)

    @given(st.lists(st.integers(0, 36), max_size=40), st.integers(0, 36), st.integers(1, 37))
    def holds(wanted: list[int], start: int, count: int) -> None:
        taken = np.empty((len(wanted), *grid.shape[1:]), grid.dtype)
        column.take(np.array(wanted, np.int64), taken)
        assert taken.tobytes() == rows[wanted].tobytes()
        span = column.span(start, min(start + count, 37))
        assert span.dtype == rows.dtype
        assert span.tobytes() == rows[start : start + count].tobytes()
        one = column.unpack(start, struct.Struct("<" + np.dtype(grid.dtype).char))
        assert one == (rows[start].reshape(-1)[0],)

    holds()


def test_a_span_within_a_mapped_shard_is_a_view_that_cannot_be_written(tmp_path: Path) -> None:
    grid = GRIDS["several shards"]
    write(tmp_path, grid, rows_of(grid))
    column = Column(locate(tmp_path, "mmap", None).open(), "array", grid)
    span = column.span(12, 20)
    assert np.shares_memory(span, column.span(13, 15))
    assert not span.flags.writeable
    assert column.whole is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_of_another_size_is_refused(tmp_path: Path, kind: str) -> None:
    grid = GRIDS["several shards"]
    write(tmp_path, grid, rows_of(grid))
    path = tmp_path / "array" / grid.key(1)
    path.write_bytes(path.read_bytes() + b"\0")
    column = Column(locate(tmp_path, kind, None).open(), "array", grid)
    column.span(0, 12)
    expected = 12 * 24 + index_nbytes(3)
    with pytest.raises(StoreDamaged, match=rf"(?s)array/c/1/0.*{expected} bytes.*{expected + 1}"):
        column.span(12, 13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard_nbytes", [1 << 30, 200, 1])
def test_backgrounds_are_checked_pictures_however_they_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shard_nbytes: int
) -> None:
    monkeypatch.setattr(layout, "NUMERIC_SHARD_BYTES", shard_nbytes)
    pictures = np.random.default_rng(0).integers(0, 65_536, (7, 3, 5, 3), dtype=np.uint16)
    grid = layout.background_grid(pictures.shape, "uint16")
    assert grid.shards == {1 << 30: 1, 200: 4, 1: 7}[shard_nbytes]
    for shard in range(grid.shards):
        chunks = [codecs.encode(picture, codecs.NONE) for picture in pictures[slice(*grid.rows_of(shard))]]
        path = tmp_path / "backgrounds" / grid.key(shard)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(chunks) + encode_index([len(chunk) for chunk in chunks], grid.chunks_per_shard))
    backgrounds = Backgrounds(locate(tmp_path, kind, None).open(), "backgrounds", pictures.shape, "uint16", Opened(), 0)
    for episode in (6, 0, 6, 3, 2, 1, 4, 5, 0):
        assert np.array_equal(backgrounds.take([episode], {})[0], pictures[episode])
        assert not backgrounds.take([episode], {})[0].flags.writeable
