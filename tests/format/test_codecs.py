"""Inner chunks: encoded, decoded, spoilt and hostile."""

from __future__ import annotations

import struct
import sys
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_store.errors import StoreDamaged
from vla_store.format import codecs
from vla_store.format.codecs import NONE, PRESETS, Blosc, Codec, encode

CODECS = {preset: PRESETS[preset].codec for preset in PRESETS} | {"attributes": codecs.ATTRIBUTES}
CODECS |= {cname: Blosc(cname, 5) for cname in codecs.BLOSC_CNAMES}
DTYPES = ("uint8", "uint16", "float32")


def frame(dtype: str = "uint8", kind: str = "smooth") -> np.ndarray:
    rng = np.random.default_rng(5)
    if kind == "smooth":
        return np.add.outer(np.arange(24) * 3, np.arange(32 * 3)).reshape(24, 32, 3).astype(dtype)
    if kind == "noise":
        return rng.integers(0, 256, 24 * 32 * 3 * np.dtype(dtype).itemsize, np.uint8).view(dtype).reshape(24, 32, 3)
    return np.zeros((24, 32, 3), dtype)


def decoded(chunk: bytes, codec: Codec, like: np.ndarray) -> np.ndarray:
    out = np.full(like.shape, 7, like.dtype)
    codec.decode(codecs.checked_body(memoryview(chunk)), out)
    return out


def resealed(body: bytes) -> bytes:
    """A chunk with the right checksum, whatever it holds: what a hostile writer would make."""
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")


@pytest.mark.parametrize("kind", ["smooth", "noise", "zero"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_frame_comes_back_bit_for_bit(codec: Codec, dtype: str, kind: str) -> None:
    original = frame(dtype, kind)
    chunk = encode(original, codec)
    assert decoded(chunk, codec, original).tobytes() == original.tobytes()
    assert int.from_bytes(chunk[-4:], "little") == google_crc32c.value(chunk[:-4])


@given(
    hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=1, max_dims=3, max_side=9)),
    st.sampled_from([NONE, *(PRESETS[p].codec for p in PRESETS)]),
)
def test_any_frame_of_any_size_comes_back_bit_for_bit(original: np.ndarray, codec: Codec) -> None:
    assert decoded(encode(original, codec), codec, original).tobytes() == original.tobytes()


@pytest.mark.parametrize("preset", ["fast", "small"])
def test_a_blosc_chunk_is_one_unshuffled_block_with_the_dtype_s_typesize(preset: str) -> None:
    original = frame("uint16")
    chunk = encode(original, PRESETS[preset].codec)
    _, _, flags, typesize, nbytes, blocksize, cbytes = struct.unpack("<BBBBIII", chunk[:16])
    assert typesize == 2
    assert flags & 0b101 == 0  # neither byte shuffle nor bit shuffle
    assert nbytes == blocksize == original.nbytes
    assert cbytes == len(chunk) - 4


def test_raw_is_the_pixels_and_their_checksum() -> None:
    original = frame("uint16")
    assert encode(original, NONE) == resealed(original.tobytes())


def test_a_frame_that_is_not_contiguous_is_encoded_in_c_order() -> None:
    original = frame()[::-1, :, ::-1]
    for codec in CODECS.values():
        assert encode(original, codec) == encode(np.ascontiguousarray(original), codec)


def test_the_same_frame_gives_the_same_bytes() -> None:
    for codec in CODECS.values():
        assert encode(frame(), codec) == encode(frame().copy(), codec)


@pytest.mark.parametrize("codec", [CODECS["raw"], CODECS["fast"], CODECS["small"]], ids=str)
def test_every_flipped_byte_of_a_chunk_is_refused(codec: Codec) -> None:
    original = frame()[:6, :8]
    chunk = encode(original, codec)
    for place in range(len(chunk)):
        spoilt = bytearray(chunk)
        spoilt[place] ^= 1 << (place % 8)
        with pytest.raises(ValueError, match="crc32c"):
            decoded(bytes(spoilt), codec, original)


@pytest.mark.parametrize("codec", [CODECS["raw"], CODECS["fast"], CODECS["small"]], ids=str)
def test_every_chunk_that_is_cut_short_or_too_long_is_refused(codec: Codec) -> None:
    original = frame()[:6, :8]
    chunk = encode(original, codec)
    refused = pytest.raises(ValueError, match=r"crc32c|header|bytes instead of|Blosc says")
    for length in range(len(chunk)):
        with refused:
            decoded(chunk[:length], codec, original)
    for length in range(len(chunk) - 4):
        with refused:
            decoded(resealed(chunk[:length]), codec, original)
    with refused:
        decoded(resealed(chunk[:-4] + b"\0"), codec, original)


def with_header(chunk: bytes, **changes: int) -> bytes:
    names = ("version", "versionlz", "flags", "typesize", "nbytes", "blocksize", "cbytes")
    header = dict(zip(names, struct.unpack("<BBBBIII", chunk[:16]))) | changes
    return resealed(struct.pack("<BBBBIII", *header.values()) + chunk[16:-4])


@pytest.mark.parametrize(
    "changes",
    [
        {"nbytes": 2**31 - 17},
        {"nbytes": 2**32 - 1},
        {"nbytes": 0},
        {"nbytes": 1},
        {"blocksize": 2**31 - 17},
        {"blocksize": 2**32 - 1},
        {"blocksize": 0},
        {"cbytes": 2**32 - 1},
        {"cbytes": 16},
        {"cbytes": 0},
        {"nbytes": 2**31 - 17, "blocksize": 2**31 - 17, "cbytes": 2**31 - 1},
    ],
    ids=str,
)
def test_a_blosc_header_with_other_sizes_is_refused_before_anything_is_allocated(changes: dict[str, int]) -> None:
    original = frame()
    chunk = with_header(encode(original, CODECS["fast"]), **changes)
    out = np.empty_like(original)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="header"):
            CODECS["fast"].decode(codecs.checked_body(memoryview(chunk)), out)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(min_size=0, max_size=60), st.integers(0, 255), st.integers(0, 255), st.integers(1, 144))
def test_hostile_blosc_data_gives_a_frame_or_a_value_error(
    data: bytes, flags: int, typesize: int, blocksize: int
) -> None:
    out = np.empty((6, 8, 3), np.uint8)
    header = struct.pack("<BBBBIII", 2, 1, flags, typesize, out.nbytes, blocksize, 16 + len(data))
    try:
        CODECS["fast"].decode(codecs.checked_body(memoryview(resealed(header + data))), out)
    except ValueError:
        return


@given(st.integers(16, 400), st.integers(0, 255))
def test_a_hostile_byte_inside_a_blosc_stream_gives_a_frame_or_a_value_error(place: int, byte: int) -> None:
    original = frame()
    for preset in ("fast", "small"):
        body = bytearray(encode(original, CODECS[preset])[:-4])
        body[place % len(body)] = byte
        try:
            decoded(resealed(bytes(body)), CODECS[preset], original)
        except ValueError:
            continue


def test_a_frame_in_several_blocks_and_a_copied_one_are_read() -> None:
    from numcodecs import blosc

    original = frame("uint8", "noise")
    for blocksize, clevel in ((256, 5), (0, 5), (original.nbytes, 0)):
        body = blosc.compress(original.reshape(-1), b"lz4", clevel, 0, blocksize)
        assert decoded(resealed(bytes(body)), CODECS["fast"], original).tobytes() == original.tobytes()


def test_checked_body_is_the_chunk_without_its_checksum() -> None:
    assert bytes(codecs.checked_body(memoryview(resealed(b"picture")))) == b"picture"
    with pytest.raises(ValueError, match="crc32c"):
        codecs.checked_body(memoryview(b"picture"))


def test_the_error_for_a_bad_frame_says_which_one_it_is() -> None:
    error = codecs.damaged_frame(ValueError("its crc32c does not match"), "frames/a/c/0/0/0/0", 17, 2065)
    assert isinstance(error, StoreDamaged)
    text = str(error)
    for part in ("frames/a/c/0/0/0/0", "17", "2065", "crc32c", "verify"):
        assert part in text


def test_codecs_are_written_so() -> None:
    assert NONE.to_json() == {"name": "none"}
    assert PRESETS["small"].codec.to_json() == {"clevel": 3, "cname": "zstd", "name": "blosc"}
    assert [str(codec) for codec in (NONE, Blosc("lz4hc", 5))] == ["none", "lz4hc 5"]


def test_presets_try_no_prediction_first_and_raw_tries_nothing_else() -> None:
    assert all(preset.predictions[0] == () for preset in PRESETS.values())
    assert PRESETS["raw"] == codecs.Preset(NONE, ((),))
    assert PRESETS["fast"].predictions == ((), ("background",))


def test_importing_the_module_does_not_import_numcodecs() -> None:
    import subprocess

    code = "import sys, vla_store.format.codecs; sys.exit('numcodecs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
