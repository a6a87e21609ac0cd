"""Grids: every row in exactly one shard and one inner chunk, and the sizes that the format states."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.format import layout
from vla_store.format.layout import Grid

MIB = 1 << 20
DTYPES = st.sampled_from(["bool", "uint8", "uint16", "float32", "float64"])
TRAILING = st.lists(st.integers(1, 40), max_size=3).map(tuple)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    rows, trailing, dtype = draw(st.integers(1, 300_000)), draw(TRAILING), draw(DTYPES)
    kind = draw(st.sampled_from(["numeric", "background", "attributes", "frames"]))
    if kind == "numeric":
        return layout.numeric_grid((rows, *trailing), dtype, draw(st.sampled_from([1, rows, 65_535, 65_536, 10**9])))
    if kind == "background":
        return layout.background_grid((rows, *trailing), dtype)
    if kind == "attributes":
        return layout.attributes_grid(rows * 1000)
    return layout.frame_grid((rows, *trailing), dtype)


@given(grids())
def test_shards_cover_every_row_once_and_only_the_last_is_not_full(grid: Grid) -> None:
    spans = [grid.rows_of(shard) for shard in range(grid.shards)]
    assert spans[0][0] == 0
    assert spans[-1][1] == grid.rows
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert all(stop - start == grid.shard for start, stop in spans[:-1])
    assert all(start < stop for start, stop in spans)


@given(grids())
def test_inner_chunks_of_a_shard_cover_its_rows_and_the_rest_are_absent(grid: Grid) -> None:
    assert grid.shard % grid.chunk == 0
    for shard in {0, grid.shards - 1}:
        start, stop = grid.rows_of(shard)
        present = grid.present(shard)
        assert 1 <= present <= grid.chunks_per_shard
        assert (present - 1) * grid.chunk < stop - start <= present * grid.chunk


@given(st.integers(1, 3 * 10**9), TRAILING, DTYPES, st.integers(1, 2**31 - 1))
def test_numeric_shards_are_as_large_as_a_gibibyte_and_the_array_allow(
    rows: int, trailing: tuple[int, ...], dtype: str, part_rows: int
) -> None:
    grid = layout.numeric_grid((rows, *trailing), dtype, part_rows)
    row_nbytes = math.prod(trailing) * np.dtype(dtype).itemsize
    assert grid.chunk == (64 if part_rows < 65_536 else 1_024)
    assert grid.shard == grid.chunk or grid.shard * row_nbytes <= 1024 * MIB
    whole = math.ceil(rows / grid.chunk) * grid.chunk
    assert grid.shard == whole or (grid.shard + grid.chunk) * row_nbytes > 1024 * MIB
    assert grid.shard <= whole


@given(st.integers(1, 10**7), TRAILING.filter(bool), DTYPES)
def test_frame_shards_are_the_largest_power_of_two_within_128_mib_or_all_rows(
    rows: int, trailing: tuple[int, ...], dtype: str
) -> None:
    grid = layout.frame_grid((rows, *trailing), dtype)
    frame_nbytes = math.prod(trailing) * np.dtype(dtype).itemsize
    assert grid.chunk == 1
    assert grid.shard * frame_nbytes <= 128 * MIB
    if grid.shard == rows:
        assert grid.shards == 1
    else:
        assert grid.shard & (grid.shard - 1) == 0
        assert 2 * grid.shard * frame_nbytes > 128 * MIB


@pytest.mark.parametrize(
    ("grid", "chunk", "shard", "shards"),
    [
        (layout.numeric_grid((2_058, 7), "float64", 2_058), 64, 2_112, 1),
        (layout.numeric_grid((65_535,), "uint8", 65_535), 64, 65_536, 1),
        (layout.numeric_grid((65_536,), "uint8", 65_536), 1_024, 65_536, 1),
        (layout.numeric_grid((13, 8), "int64", 2_058), 64, 64, 1),
        # 56 bytes a row: 18,724 chunks of 1,024 rows in a gibibyte
        (layout.numeric_grid((10**9, 7), "float64", 10**9), 1_024, 19_173_376, 53),
        # a chunk of more than a gibibyte is a shard by itself
        (layout.numeric_grid((5_000, 2**21), "uint8", 70_000), 1_024, 1_024, 5),
        (layout.frame_grid((2_058, 128, 128, 3), "uint8"), 1, 2_048, 2),
        (layout.frame_grid((2_058, 256, 256, 3), "uint8"), 1, 512, 5),
        (layout.frame_grid((2_048, 128, 128, 3), "uint8"), 1, 2_048, 1),
        (layout.frame_grid((3_000, 128, 128, 1), "float32"), 1, 2_048, 2),
        (layout.frame_grid((10, 128, 128, 1), "float32"), 1, 10, 1),
        (layout.frame_grid((3, 8192, 8192, 3), "uint8"), 1, 1, 3),
        (layout.background_grid((13, 128, 128, 3), "uint8"), 1, 13, 1),
        (layout.background_grid((30_000, 128, 128, 3), "uint8"), 1, 21_845, 2),
        (layout.attributes_grid(1), MIB, MIB, 1),
        (layout.attributes_grid(MIB + 1), MIB, 2 * MIB, 1),
        (layout.attributes_grid(1024 * MIB + 1), MIB, 1024 * MIB, 2),
    ],
)
def test_these_arrays_are_cut_so(grid: Grid, chunk: int, shard: int, shards: int) -> None:
    assert (grid.chunk, grid.shard, grid.shards) == (chunk, shard, shards)


def test_names_of_objects_are_these() -> None:
    assert layout.frame_grid((5000, 128, 128, 3), "uint8").key(2) == "c/2/0/0/0"
    assert layout.attributes_grid(5).key(0) == "c/0"
    assert layout.root_key(1) == "roots/00000001.json"
    assert layout.root_key(12_345_678) == "roots/12345678.json"
    assert layout.meta_key("ab") == "meta/ab.json"
    assert layout.part_path("0123") == "parts/0123"
    assert layout.partial_path("/data/libero.vla/") == "/data/libero.vla.partial"


def test_sizes_are_in_bytes() -> None:
    grid = layout.numeric_grid((100, 7), "float64", 100)
    assert (grid.row_nbytes, grid.chunk_nbytes, grid.chunks_per_shard) == (56, 3584, 2)
