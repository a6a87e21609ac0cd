"""Where things lie: the names of objects, and which shard and inner chunk holds which row. Pure arithmetic."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SMALL_PART_ROWS = 65_536
NUMERIC_SHARD_BYTES = 1 << 30
FRAME_SHARD_BYTES = 1 << 27
ATTRIBUTE_CHUNK_BYTES = 1 << 20

ROOT_KEY = "zarr.json"
BUILD_LOCK = "build.lock"  # lies in an unfinished build, and is held by who builds
INDEX_ARRAY = "index/steps"
TABLE_ARRAY = "episodes/table"
DIGEST_ARRAY = "episodes/digest"
ATTRIBUTES_ARRAY = "episodes/attributes"
NONFINITE_ARRAY = "episodes/nonfinite"
LISTING = "objects.jsonl"


def root_key(generation: int) -> str:
    """roots/00000001.json"""
    return f"roots/{generation:08d}.json"


def generations_in(keys: Iterable[str]) -> list[int]:
    """Return the generations whose roots are among these keys, ascending."""
    return sorted(int(match[1]) for key in keys if (match := re.fullmatch(r"roots/([0-9]{8})\.json", key)))


def meta_key(digest: str) -> str:
    """meta/<sha256>.json"""
    return f"meta/{digest}.json"


def part_path(part_id: str) -> str:
    """parts/<id>"""
    return f"parts/{part_id}"


def partial_path(store: str) -> str:
    """Return where an unfinished first build of `store` lies."""
    return store.rstrip("/") + ".partial"


@dataclass(frozen=True)
class Grid:
    """How one array is cut: `shape`, of which axis 0 is cut into shards and those into inner chunks; other axes are whole."""

    shape: tuple[int, ...]
    dtype: str  # Zarr's name, e.g. "uint8", "float64", "bool"
    chunk: int  # elements of axis 0 in an inner chunk
    shard: int  # elements of axis 0 in a shard, a multiple of chunk

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_nbytes(self) -> int:
        """Bytes of one element of axis 0."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def chunk_nbytes(self) -> int:
        return self.chunk * self.row_nbytes

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard)

    @property
    def chunks_per_shard(self) -> int:
        return self.shard // self.chunk

    def rows_of(self, shard: int) -> tuple[int, int]:
        """[start, stop) of a shard's rows within the array's shape."""
        return shard * self.shard, min((shard + 1) * self.shard, self.rows)

    def present(self, shard: int) -> int:
        """Return the number of inner chunks of a shard that are not wholly beyond the shape."""
        start, stop = self.rows_of(shard)
        return -(-(stop - start) // self.chunk)

    def key(self, shard: int) -> str:
        """Return the shard's object below its array, e.g. c/3/0/0/0."""
        return "/".join(["c", str(shard)] + ["0"] * (len(self.shape) - 1))


def numeric_grid(shape: tuple[int, ...], dtype: str, part_rows: int) -> Grid:
    """Return the grid of fields, index, table and digests: 64 elements a chunk in a part below 65,536 rows, else 1,024."""
    return _grid(shape, dtype, 64 if part_rows < SMALL_PART_ROWS else 1_024)


def background_grid(shape: tuple[int, ...], dtype: str) -> Grid:
    """Return one picture a chunk."""
    return _grid(shape, dtype, 1)


def attributes_grid(nbytes: int) -> Grid:
    """1 MiB a chunk."""
    return _grid((nbytes,), "uint8", ATTRIBUTE_CHUNK_BYTES)


def frame_grid(shape: tuple[int, ...], dtype: str) -> Grid:
    """Return one frame a chunk; as many rows a shard as the largest power of two whose raw frames fit in 128 MiB, or all there are."""
    frame_nbytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    most = 1 << max(0, (FRAME_SHARD_BYTES // frame_nbytes).bit_length() - 1)
    # Without the second bound a short part of small frames would be mostly index: a mebibyte of it for 16 x 24 pixels.
    return Grid(shape, dtype, 1, max(1, min(shape[0], most)))


def _grid(shape: tuple[int, ...], dtype: str, chunk: int) -> Grid:
    chunk_nbytes = chunk * math.prod(shape[1:]) * np.dtype(dtype).itemsize
    whole = -(-shape[0] // chunk) * chunk
    most = max(1, NUMERIC_SHARD_BYTES // chunk_nbytes) * chunk
    return Grid(shape, dtype, chunk, max(chunk, min(whole, most)))
