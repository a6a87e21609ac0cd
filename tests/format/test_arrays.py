"""Array metadata, read by zarr-python and tensorstore; shards written by hand to the rules, read by both."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.format import arrays, canonical, codecs, layout
from vla_store.format.codecs import NONE, Blosc, Codec
from vla_store.format.layout import Grid
from vla_store.format.part_arrays import part_arrays
from vla_store.format.schema import NUMERIC_DTYPES, Field, PartDocument, Root, Source, Task
from vla_store.format.shard_index import encode_index

LZ4HC = Blosc("lz4hc", 5)


def test_the_metadata_of_a_numeric_array_is_spelled_so() -> None:
    grid = layout.numeric_grid((2_058, 7), "float64", 2_058)
    assert canonical.dumps(arrays.array_metadata(grid)).decode() == (
        '{"attributes":{},"chunk_grid":{"configuration":{"chunk_shape":[2112,7]},"name":"regular"},'
        '"chunk_key_encoding":{"configuration":{"separator":"/"},"name":"default"},'
        '"codecs":[{"configuration":{"chunk_shape":[64,7],'
        '"codecs":[{"configuration":{"endian":"little"},"name":"bytes"}],'
        '"index_codecs":[{"configuration":{"endian":"little"},"name":"bytes"},{"name":"crc32c"}],'
        '"index_location":"end"},"name":"sharding_indexed"}],'
        '"data_type":"float64","fill_value":0,"node_type":"array","shape":[2058,7],"zarr_format":3}'
    )


def inner_codecs(grid: Grid, codec: Codec) -> Any:
    return arrays.array_metadata(grid, codec)["codecs"][0]["configuration"]["codecs"]


def test_the_inner_codecs_of_cameras_backgrounds_and_attributes_are_spelled_so() -> None:
    stored = '{"configuration":{"endian":"little"},"name":"bytes"}'
    blosc = (
        '{"configuration":{"blocksize":49152,"clevel":5,"cname":"lz4hc","shuffle":"noshuffle","typesize":1},'
        '"name":"blosc"}'
    )
    crc = '{"name":"crc32c"}'
    grid = layout.frame_grid((10, 128, 128, 3), "uint8")
    assert canonical.dumps(inner_codecs(grid, LZ4HC)).decode() == f"[{stored},{blosc},{crc}]"
    assert canonical.dumps(inner_codecs(grid, NONE)).decode() == f"[{stored},{crc}]"
    assert inner_codecs(layout.attributes_grid(10), codecs.ATTRIBUTES)[1]["configuration"] == {
        "blocksize": 1 << 20,
        "clevel": 5,
        "cname": "zstd",
        "shuffle": "noshuffle",
        "typesize": 1,
    }


def test_a_group_is_spelled_so() -> None:
    assert canonical.dumps(arrays.GROUP) == b'{"attributes":{},"node_type":"group","zarr_format":3}'


def write(folder: Path, grid: Grid, metadata: dict[str, Any], chunks: list[bytes]) -> None:
    """An array by hand: its metadata and its shards, whose inner chunks are given encoded and in order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_bytes(canonical.dumps(metadata))
    for shard in range(grid.shards):
        first = shard * grid.chunks_per_shard
        here = chunks[first : first + grid.present(shard)]
        path = folder / grid.key(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(here) + encode_index([len(chunk) for chunk in here], grid.chunks_per_shard))


def by_zarr(folder: Path) -> np.ndarray:
    zarr = pytest.importorskip("zarr")
    return np.asarray(zarr.open_array(str(folder), mode="r")[...])


def by_tensorstore(folder: Path) -> np.ndarray:
    tensorstore = pytest.importorskip("tensorstore")

    async def read() -> np.ndarray:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
        array = await tensorstore.open(spec, open=True, read=True)
        return np.asarray(await array.read())

    return asyncio.run(read())


READERS = [by_zarr, by_tensorstore]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("dtype", NUMERIC_DTYPES)
@pytest.mark.parametrize("trailing", [(), (3,), (2, 2)])
def test_a_numeric_array_in_several_chunks_is_read_unaided(
    tmp_path: Path, read: Any, dtype: str, trailing: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2, (150, *trailing)).astype(dtype)
    grid = layout.numeric_grid(rows.shape, dtype, 150)
    padded = np.zeros((grid.shards * grid.shard, *trailing), dtype)
    padded[:150] = rows
    chunks = [padded[at : at + 64].tobytes() for at in range(0, len(padded), 64)]
    write(tmp_path, grid, arrays.array_metadata(grid), chunks)
    back = read(tmp_path)
    assert back.dtype == rows.dtype
    assert back.tobytes() == rows.tobytes()
    body = (tmp_path / grid.key(0)).read_bytes()
    assert body[: rows.nbytes] == rows.tobytes()  # the file is its rows


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("codec", [preset.codec for preset in codecs.PRESETS.values()], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_frames_in_several_shards_are_read_unaided(tmp_path: Path, read: Any, codec: Codec, dtype: str) -> None:
    rng = np.random.default_rng(2)
    frames = rng.integers(0, 200, (11, 6, 5, 3)).astype(dtype)
    frames[4] = 0  # equal to the fill value, and written all the same
    grid = Grid(frames.shape, dtype, 1, 4)
    write(tmp_path, grid, arrays.array_metadata(grid, codec), [codecs.encode(frame[None], codec) for frame in frames])
    assert read(tmp_path).tobytes() == frames.tobytes()


@pytest.mark.parametrize("read", READERS)
def test_attributes_are_read_unaided(tmp_path: Path, read: Any) -> None:
    data = np.frombuffer(b'{"/data/demo_0":{}}' * 70_000, np.uint8)
    grid = layout.attributes_grid(len(data))
    padded = np.zeros(grid.shards * grid.shard, np.uint8)
    padded[: len(data)] = data
    chunks = [
        codecs.encode(padded[at : at + grid.chunk], codecs.ATTRIBUTES) for at in range(0, len(padded), grid.chunk)
    ]
    assert len(chunks) == 2
    write(tmp_path, grid, arrays.array_metadata(grid, codecs.ATTRIBUTES), chunks)
    assert read(tmp_path).tobytes() == data.tobytes()


PART = PartDocument(
    plan={},
    tasks=(Task("s", "t", "t", None),),
    sources=(Source("s", "f", "top_down", "before", (0, 2)),),
    fields={
        "actions": Field("actions", "fixed", "float64", (7,), "step", NONE, (), "steps/actions"),
        "dones": Field("dones", "fixed", "bool", (), "step", NONE, (), "steps/dones"),
        "front": Field("front", "fixed", "uint8", (8, 9, 3), "observation", LZ4HC, ("above",), "residuals/front"),
        "states": Field("states", "ragged-episode", "float64", (None,), "step", NONE, (), "steps/states"),
    },
)


def test_a_part_is_a_group_whose_consolidated_metadata_has_all_its_arrays_and_groups(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    described = part_arrays(PART, 100, 2, {"states": 900}, 10)
    found = {each.array: described[each.array].metadata for each in PART.fields.values()}
    (tmp_path / "zarr.json").write_bytes(canonical.dumps(arrays.part_metadata(PART.to_json(), found)))
    group = zarr.open_consolidated(str(tmp_path), mode="r")  # no other zarr.json is there to be read
    assert sorted(group.group_keys()) == ["residuals", "steps"]
    for field in PART.fields.values():
        array = group[field.array]
        assert list(array.shape) == found[field.array]["shape"]
        assert str(array.dtype) == field.dtype
    assert PartDocument.from_zarr_json((tmp_path / "zarr.json").read_bytes(), "x") == PART
    assert group.attrs["vla_store"]["format_version"] == 1


def test_a_root_is_a_group_that_carries_its_document(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    root = Root(1, None, "00" * 32, (), {}).sealed()
    (tmp_path / "zarr.json").write_bytes(root.to_bytes())
    group = zarr.open_group(str(tmp_path), mode="r")
    assert group.attrs["vla_store"] == root.to_json()
    assert group.metadata.consolidated_metadata is None


@given(
    st.integers(1, 10**6),
    st.lists(st.integers(1, 9), max_size=3).map(tuple),
    st.sampled_from(NUMERIC_DTYPES),
    st.booleans(),
)
def test_zarr_python_understands_every_metadata_document(
    rows: int, trailing: tuple[int, ...], dtype: str, camera: bool
) -> None:
    metadata = pytest.importorskip("zarr.core.metadata.v3")
    shape = (rows, *trailing)
    grid = layout.frame_grid(shape, dtype) if camera else layout.numeric_grid(shape, dtype, rows)
    described = arrays.array_metadata(grid, LZ4HC if camera else None, {"columns": ["a"]})
    read = metadata.ArrayV3Metadata.from_dict(described)
    assert read.shape == shape
    assert read.chunk_grid.chunk_shape == (grid.shard, *trailing)
    (sharding,) = read.codecs
    assert sharding.chunk_shape == (grid.chunk, *trailing)
    assert sharding.index_location.value == "end"
    assert read.attributes == {"columns": ["a"]}
    assert read.encode_chunk_key((2, *(0 for _ in trailing))) == grid.key(2)
