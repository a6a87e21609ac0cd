"""How one frame becomes the bytes of one inner chunk and back: a codec, then crc32c.

Only this module calls numcodecs, on first use: whoever reads no encoded frames does not pay for importing it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from vla_store.errors import StoreDamaged, UnsupportedStore

CRC_BYTES = 4
HEADER_BYTES = 16
NOSHUFFLE = 0

_SEALED = crc32c(bytes(CRC_BYTES))  # of nothing and its crc32c, which is 0
_EMPTY = np.empty(0, np.uint8)
_BAD_CRC = "its crc32c does not match"
_BLOSC_SIZES = struct.Struct("<4x3I")
BLOSC_CNAMES = ("blosclz", "lz4", "lz4hc", "zlib", "zstd")


@dataclass(frozen=True)
class Codec:
    """name: "none" or "blosc"; cname and clevel: Blosc's inner compressor and its level."""

    name: str
    cname: str = ""
    clevel: int = 0

    def to_json(self) -> dict[str, Any]:
        return (
            {"name": self.name}
            if self.name == "none"
            else {"clevel": self.clevel, "cname": self.cname, "name": self.name}
        )

    def __str__(self) -> str:
        return self.name if self.name == "none" else f"{self.cname} {self.clevel}"


NONE = Codec("none")
ATTRIBUTES = Codec("blosc", "zstd", 5)


@dataclass(frozen=True)
class Preset:
    """A codec for frames and the predictions that a build tries, in order; ties go to the earlier."""

    codec: Codec
    predictions: tuple[tuple[str, ...], ...]


# LZ4HC's level: docs/explanation/predictions.md has the experiment (benchmarks/codec_levels.py repeats it).
PRESETS = {
    "raw": Preset(NONE, ((),)),
    "fast": Preset(Codec("blosc", "lz4hc", 9), ((), ("background",))),
    "small": Preset(
        Codec("blosc", "zstd", 3),
        ((), ("background",), ("above",), ("green", "above"), ("background", "green", "above")),
    ),
}


@functools.cache
def _blosc() -> Any:
    from numcodecs import blosc

    # Blosc's own threads would take a lock that a fork can leave held, and a frame is one block: nothing to share out.
    blosc.use_threads = False
    return blosc


def blosc_version() -> str:
    """The version of the Blosc library that encodes here; part of a build's plan, because it decides bytes."""
    return str(_blosc().VERSION_STRING)


def encode(data: np.ndarray[Any, Any], codec: Codec) -> bytes:
    """The inner chunk of `data` (C order): encoded bytes and their crc32c, little-endian."""
    if codec.name == "none":
        body = data.tobytes()
    else:
        body = _blosc().compress(
            np.ascontiguousarray(data).reshape(-1), codec.cname.encode(), codec.clevel, NOSHUFFLE, data.nbytes
        )
    return body + int(crc32c(body)).to_bytes(CRC_BYTES, "little")


Decode = Callable[[Any, "np.ndarray[Any, Any]"], None]


def decoder(codec: Codec, field: str) -> Decode:
    """A function (chunk, out) that fills the C-contiguous array `out` from one inner chunk, crc32c included.

    chunk: its bytes, as a memoryview or (n,) uint8. The function raises ValueError with the reason if the chunk is not sound;
    what `out` holds then means nothing.
    Raises UnsupportedStore for a codec this version does not know.
    """
    if codec.name == "none":
        return _decode_none
    if codec.name == "blosc":
        decompress = _blosc().decompress
        return functools.partial(_decode_blosc, decompress)
    raise UnsupportedStore(
        f"field {field!r} uses a codec this version does not know",
        codec=codec.name,
        hint="upgrade vla_store, or leave the field out",
    )


def checked_body(chunk: memoryview) -> memoryview:
    """The chunk without its crc32c, once that holds; ValueError otherwise."""
    data = _as_array(chunk)
    if crc32c(data) != _SEALED or len(data) < CRC_BYTES:
        raise ValueError(_BAD_CRC)
    return chunk[:-CRC_BYTES]


def _as_array(chunk: Any) -> Any:
    # google-crc32c takes bytes and arrays, but no memoryview.
    if isinstance(chunk, np.ndarray):
        return chunk
    return np.frombuffer(chunk, np.uint8) if len(chunk) else _EMPTY


def _decode_none(chunk: Any, out: np.ndarray[Any, Any]) -> None:
    data = _as_array(chunk)
    if len(data) != out.nbytes + CRC_BYTES:
        raise ValueError(f"it holds {len(data) - CRC_BYTES} bytes instead of {out.nbytes}")
    out[...] = data[:-CRC_BYTES].view(out.dtype).reshape(out.shape)
    # The copy is checked, which is in the processor's cache, and is what the caller gets.
    if crc32c(out) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise ValueError(_BAD_CRC)


def _decode_blosc(decompress: Callable[..., Any], chunk: Any, out: np.ndarray[Any, Any]) -> None:
    data = _as_array(chunk)
    # Whatever the data, data and its own crc32c have one crc32c: nothing to cut off and compare, which for a frame of some
    # microseconds counts.
    if crc32c(data) != _SEALED:
        raise ValueError(_BAD_CRC)
    if len(data) < HEADER_BYTES + CRC_BYTES:
        raise ValueError("it has no Blosc header")
    # Blosc's header: version, version of the format, flags, typesize, then uint32 nbytes, blocksize, cbytes.
    # It decides what Blosc allocates (buffers of some blocks), so it is checked here, whatever the Blosc library checks.
    nbytes, blocksize, cbytes = _BLOSC_SIZES.unpack_from(data)
    if nbytes != out.nbytes or not 0 < blocksize <= nbytes or cbytes != len(data) - CRC_BYTES:
        raise ValueError("its Blosc header does not have the frame's sizes")
    try:
        decompress(data, out)  # reads cbytes of it, which leaves the crc32c out
    except RuntimeError as error:
        raise ValueError(f"Blosc says: {error}") from None


def damaged_frame(error: ValueError, object_key: str, chunk: int, row: int) -> StoreDamaged:
    """The error for an inner chunk that a decoder refused."""
    return StoreDamaged(
        "an encoded frame does not decode",
        object=object_key,
        chunk=chunk,
        row=row,
        found=str(error),
    )
