"""The Zarr v3 metadata of a store's arrays and groups, from a literal template.

Zarr's own writers tie the spelling to their version (and spell fill values as floats); the bytes of a store must not depend on that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_store.format.codecs import ZARR_BYTES, Codec
from vla_store.format.layout import Grid

GROUP: dict[str, Any] = {"attributes": {}, "node_type": "group", "zarr_format": 3}

_CRC32C = {"name": "crc32c"}


def array_metadata(grid: Grid, codec: Codec | None = None, attributes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the zarr.json of one array.

    codec: of a camera, of backgrounds and of attributes, whose chunks end with a crc32c; None for the others: the file is its rows.
    """
    inner = [ZARR_BYTES]
    if codec is not None:
        inner = [*codec.zarr_codecs(np.dtype(grid.dtype).itemsize, grid.chunk_nbytes), _CRC32C]
    trailing = list(grid.shape[1:])
    sharding = {
        "chunk_shape": [grid.chunk, *trailing],
        "codecs": inner,
        "index_codecs": [ZARR_BYTES, _CRC32C],
        "index_location": "end",
    }
    return {
        "attributes": attributes or {},
        "chunk_grid": {"configuration": {"chunk_shape": [grid.shard, *trailing]}, "name": "regular"},
        "chunk_key_encoding": {"configuration": {"separator": "/"}, "name": "default"},
        "codecs": [{"configuration": sharding, "name": "sharding_indexed"}],
        "data_type": grid.dtype,
        "fill_value": False if grid.dtype == "bool" else 0,
        "node_type": "array",
        "shape": list(grid.shape),
        "zarr_format": 3,
    }


def part_metadata(document: dict[str, Any], arrays: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the zarr.json of a part: its document, and the metadata of its arrays and groups consolidated."""
    groups = {path.rpartition("/")[0]: GROUP for path in arrays}
    return {
        "attributes": {"vla_store": document},
        "consolidated_metadata": {"kind": "inline", "metadata": {**groups, **arrays}, "must_understand": False},
        "node_type": "group",
        "zarr_format": 3,
    }


def root_metadata(document: dict[str, Any]) -> dict[str, Any]:
    """Return the zarr.json of a store: its root document."""
    return {"attributes": {"vla_store": document}, "node_type": "group", "zarr_format": 3}
