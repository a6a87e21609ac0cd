"""Codecs: how the data of one inner chunk becomes bytes and back, each an object that a registry finds by name; and the
crc32c after every encoded chunk.

Imports numpy, google_crc32c and errors; numcodecs on first use: whoever reads no encoded frames does not pay for it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from google_crc32c import value as crc32c

from vla_store.errors import OptionError, StoreDamaged
from vla_store.format.json_reader import WHAT, JsonReader

CRC_BYTES = 4
NOSHUFFLE = 0
BLOSC_CNAMES = ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
ZARR_BYTES: dict[str, Any] = {"configuration": {"endian": "little"}, "name": "bytes"}

_SEALED = crc32c(bytes(CRC_BYTES))  # of nothing and its crc32c, which is 0
_BLOSC_SIZES = struct.Struct("<4x3I")
_BLOSC_HEADER_BYTES = 16

Array = np.ndarray[Any, Any]


class Codec:
    """A way from an array to bytes and back; the base of all codecs, which are hashable values.

    A new one is a subclass that is registered (`register`). It overrides `encode`, `decode`, `to_json`, `from_json`,
    `zarr_codecs` and `largest`, and what else differs from the defaults.

    Attributes
    ----------
    name : str
        What stores call it.
    is_lossy : bool
        True where `decode` may give other values than were encoded, as where a source's own JPEG bytes are kept. Digests are
        then of the encoded bytes.
    keeps : bool
        True where `encode` takes the `bytes` that a source has of a picture, in place of pixels. Such a codec is lossy.
    """

    name: ClassVar[str]
    is_lossy: ClassVar[bool] = False
    keeps: ClassVar[bool] = False

    @classmethod
    def from_json(cls, read: JsonReader) -> Codec:
        """Return the codec that a document describes. Raises StoreDamaged where the description cannot be."""
        return cls()

    def to_json(self) -> dict[str, Any]:
        """Return the description that stands in documents; `name` is in it."""
        return {"name": self.name}

    def problem(self) -> str | None:
        """Name the codec where this version cannot decode it; None where it can."""
        return None

    def fits(self, dtype: str, shape: tuple[int, ...]) -> bool:
        """Tell whether pictures of this shape and dtype can be encoded."""
        return True

    def check(self, data: bytes, shape: tuple[int, ...]) -> None:
        """Raise ValueError, with the reason, unless the `bytes` that are to be kept are a picture of this shape that decodes."""
        raise NotImplementedError

    def row(self, dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """Return dtype and shape of a picture in its Zarr array, where they are not the picture's own."""
        return dtype, shape

    def content(self, body: Any) -> Any:
        """Return what digests are of, where the codec is lossy, from encoded bytes as `decode` takes them."""
        return body

    def digested(self, dtype: str) -> str:
        """Return what digests name beside what they are of: the dtype of the pictures; of kept ones, how they are decoded."""
        return dtype

    def zarr_codecs(self, typesize: int, chunk_nbytes: int) -> list[dict[str, Any]]:
        """Return Zarr's metadata of this codec, for chunks of `chunk_nbytes` bytes of data of items of `typesize` bytes."""
        return [ZARR_BYTES]

    def encode(self, data: Array) -> bytes:
        """Return the encoded bytes of an array, without crc32c."""
        raise NotImplementedError

    def decode(self, body: Any, out: Array) -> None:
        """Fill the C-contiguous array `out` from encoded bytes, a memoryview or (n,) uint8, without crc32c.

        Raises
        ------
        ValueError
            Where the bytes are not sound, with the reason; what `out` holds then means nothing. Sizes that the bytes claim are
            checked before anything of that size is allocated, because the crc32c is not checked every time.
        """
        raise NotImplementedError

    def largest(self, nbytes: int) -> int:
        """Return the most bytes that `nbytes` bytes of data may be encoded to."""
        raise NotImplementedError

    def fixed(self, nbytes: int) -> int | None:
        """Return the number of bytes that `nbytes` bytes of data are always encoded to; None where it depends on the data."""
        return None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Plain(Codec):
    """No codec: the bytes are the data in C order."""

    name = "none"

    def encode(self, data: Array) -> bytes:
        return data.tobytes()

    def decode(self, body: Any, out: Array) -> None:
        if len(body) != out.nbytes:
            raise ValueError(f"it holds {len(body)} bytes instead of {out.nbytes}")
        out[...] = np.frombuffer(body, out.dtype).reshape(out.shape)

    def largest(self, nbytes: int) -> int:
        return nbytes

    def fixed(self, nbytes: int) -> int | None:
        return nbytes


@dataclass(frozen=True)
class Blosc(Codec):
    """Blosc without shuffling, one block a chunk.

    Attributes
    ----------
    cname
        The inner compressor; this version decodes "blosclz", "lz4", "lz4hc", "zlib" and "zstd".
    clevel
        Its level, 0 to 9.
    """

    cname: str
    clevel: int

    name = "blosc"

    @classmethod
    def from_json(cls, read: JsonReader) -> Codec:
        return cls(read.word("cname"), read.count("clevel", 9))

    def to_json(self) -> dict[str, Any]:
        return {"clevel": self.clevel, "cname": self.cname, "name": self.name}

    def problem(self) -> str | None:
        return None if self.cname in BLOSC_CNAMES else f"blosc {self.cname}"

    def zarr_codecs(self, typesize: int, chunk_nbytes: int) -> list[dict[str, Any]]:
        configuration = {
            "blocksize": chunk_nbytes,
            "clevel": self.clevel,
            "cname": self.cname,
            "shuffle": "noshuffle",
            "typesize": typesize,
        }
        return [ZARR_BYTES, {"configuration": configuration, "name": "blosc"}]

    def encode(self, data: Array) -> bytes:
        flat = np.ascontiguousarray(data).reshape(-1)
        return bytes(_blosc().compress(flat, self.cname.encode(), self.clevel, NOSHUFFLE, data.nbytes))

    def decode(self, body: Any, out: Array) -> None:
        if len(body) < _BLOSC_HEADER_BYTES:
            raise ValueError("it has no Blosc header")
        # Blosc's header: version, version of the format, flags, typesize, then uint32 nbytes, blocksize, cbytes.
        # It decides what Blosc allocates (buffers of some blocks), so it is checked here, whatever the Blosc library checks.
        nbytes, blocksize, cbytes = _BLOSC_SIZES.unpack_from(body)
        if nbytes != out.nbytes or not 0 < blocksize <= nbytes or cbytes != len(body):
            raise ValueError("its Blosc header does not have the frame's sizes")
        try:
            _blosc().decompress(body, out)
        except RuntimeError as error:
            raise ValueError(f"Blosc says: {error}") from None

    def largest(self, nbytes: int) -> int:
        return nbytes + _BLOSC_HEADER_BYTES

    def __str__(self) -> str:
        return f"{self.cname} {self.clevel}"


@dataclass(frozen=True)
class Unknown(Codec):
    """A codec that nobody registered: kept as its document has it, and refused when it is used.

    Attributes
    ----------
    described
        Its description in the document.
    """

    described: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name in the description."""
        return str(self.described["name"])

    def to_json(self) -> dict[str, Any]:
        return dict(self.described)

    def problem(self) -> str | None:
        return self.name


_REGISTERED: dict[str, type[Codec]] = {}


def register(kind: type[Codec]) -> type[Codec]:
    """Make stores with this codec readable in this process.

    A process that starts as a fresh interpreter (a worker of a Loader or of a build) has to register it again.

    Parameters
    ----------
    kind
        The class. It replaces one of the same name.

    Returns
    -------
    type of Codec
        The same class: `register` may be used as a decorator.
    """
    _REGISTERED[kind.name] = kind
    return kind


register(Plain)
register(Blosc)


def from_json(read: JsonReader) -> Codec:
    """Return the codec that a store's document describes.

    Parameters
    ----------
    read
        The description.

    Returns
    -------
    Codec
        An `Unknown` where nobody registered its name.

    Raises
    ------
    StoreDamaged
        Where the description cannot be.
    """
    name = read.word("name")
    try:
        return _REGISTERED[name].from_json(read) if name in _REGISTERED else Unknown(read.value)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreDamaged(WHAT, object=read.name, codec=name, found=f"{type(error).__name__}: {error}"[:200]) from None


def check_usable(codec: Codec) -> None:
    """Refuse a codec that a store would name, and that could not be found again by what it says.

    Parameters
    ----------
    codec
        The codec.

    Raises
    ------
    OptionError
        Where it does not describe itself as stores do, or is not registered.
    """
    described = codec.to_json()
    try:
        found = from_json(JsonReader(described, codec.name))
    except StoreDamaged as error:
        raise OptionError("a codec does not describe itself as stores do", **error.places) from None
    if type(found) is not type(codec):
        raise OptionError(
            "a codec is not registered",
            codec=codec.name,
            found=described,
            hint="vla_store.format.codecs.register(CLASS), in each process that reads or writes with it",
        )


def check_sizes(sizes: list[int], codec: Codec, nbytes: int) -> None:
    """Refuse chunks that have become another number of bytes than their codec says: none could be read.

    Parameters
    ----------
    sizes
        Bytes of each encoded chunk, with its crc32c.
    codec
        The codec of all of them.
    nbytes
        Bytes of the data of each.

    Raises
    ------
    OptionError
        Where a chunk has fewer or more bytes than `codec.fixed` or `codec.largest` says.
    """
    fixed = codec.fixed(nbytes)
    least, most = (1, codec.largest(nbytes)) if fixed is None else (fixed, fixed)
    if sizes and not least <= min(sizes) - CRC_BYTES <= max(sizes) - CRC_BYTES <= most:
        raise OptionError(
            f"the codec {codec.name!r} gives another number of bytes than it says",
            expected=f"{least} to {most} for {nbytes} bytes of data",
            found=f"{min(sizes) - CRC_BYTES} to {max(sizes) - CRC_BYTES}",
        )


NONE = Plain()
ATTRIBUTES = Blosc("zstd", 5)


@dataclass(frozen=True)
class Preset:
    """A codec for frames and the predictions that a build tries.

    Attributes
    ----------
    codec
        The codec.
    predictions
        What is tried, in order; ties go to the earlier. Each is the names of its prediction steps ("background",
        "green", "above"); () is none.
    """

    codec: Codec
    predictions: tuple[tuple[str, ...], ...]


# LZ4HC's level: docs/explanation/predictions.md has the experiment (benchmarks/codec_levels.py repeats it).
PRESETS = {
    "raw": Preset(NONE, ((),)),
    "fast": Preset(Blosc("lz4hc", 9), ((), ("background",))),
    "small": Preset(
        Blosc("zstd", 3),
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
    """Return the version of the Blosc library that encodes here; part of a build's plan, because it decides bytes."""
    return str(_blosc().VERSION_STRING)


def encode(data: Array, codec: Codec) -> bytes:
    """Return the inner chunk of some data.

    Parameters
    ----------
    data
        The array, which is encoded in C order.
    codec
        What encodes it.

    Returns
    -------
    bytes
        The encoded bytes and their crc32c, 4 bytes, little-endian.
    """
    body = codec.encode(data)
    return body + int(crc32c(body)).to_bytes(CRC_BYTES, "little")


def checked_body(chunk: Any) -> Any:
    """Return an inner chunk without its crc32c, once that holds.

    Parameters
    ----------
    chunk
        A memoryview or (n,) uint8: the encoded bytes and their crc32c.

    Returns
    -------
    memoryview or uint8 array
        The encoded bytes, as a view of `chunk`.

    Raises
    ------
    ValueError
        Where the crc32c does not match, or the chunk is shorter than one.
    """
    # Data and its own crc32c have one crc32c, whatever the data: nothing to cut off and compare. A memoryview is no argument of it.
    data = chunk if isinstance(chunk, np.ndarray) else np.frombuffer(chunk, np.uint8)
    if len(data) < CRC_BYTES or crc32c(data) != _SEALED:
        raise ValueError("its crc32c does not match")
    return chunk[:-CRC_BYTES]


def damaged_frame(error: ValueError, object_key: str, chunk: int, row: int) -> StoreDamaged:
    """Return the error for an inner chunk that a decoder refused.

    Parameters
    ----------
    error
        What the decoder raised.
    object_key
        Key of the object that has the chunk.
    chunk
        Number of the inner chunk in that object.
    row
        Row of the frame in its part.

    Returns
    -------
    StoreDamaged
    """
    return StoreDamaged(
        "an encoded frame does not decode",
        object=object_key,
        chunk=chunk,
        row=row,
        found=str(error),
    )
