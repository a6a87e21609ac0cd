"""The index at the end of every shard: where each inner chunk lies. Bytes to entries and back; opens nothing.

A shard file is its inner chunks, in order, from offset 0 and without gaps, then one (offset, nbytes) pair of little-endian
uint64 an inner chunk, then the crc32c of those pairs. A chunk that is not there has 2^64 - 1 twice; only inner chunks wholly
beyond the array's shape may be absent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c

from vla_store.errors import StoreDamaged

ABSENT = np.uint64(2**64 - 1)
ENTRY_BYTES = 16
CRC_BYTES = 4

Entries = npt.NDArray[np.uint64]


def index_nbytes(chunks: int) -> int:
    """Return bytes of the index of a shard with `chunks` inner chunks."""
    return chunks * ENTRY_BYTES + CRC_BYTES


def encode_index(sizes: npt.ArrayLike, chunks: int) -> bytes:
    """Return the index of a shard whose first inner chunks have these sizes and whose others are absent."""
    nbytes = np.asarray(sizes, dtype="<u8")
    entries = np.full((chunks, 2), ABSENT, dtype="<u8")
    entries[: len(nbytes), 1] = nbytes
    entries[: len(nbytes), 0] = np.cumsum(nbytes) - nbytes
    body = entries.tobytes()
    return body + int(crc32c(body)).to_bytes(CRC_BYTES, "little")


def find_index(tail: bytes, size: int) -> Entries | None:
    """Return the (chunks, 2) entries of the index of a shard of `size` bytes, of which only the end is there, and the number of chunks
    is not known; None where more of the end would be needed.

    Raises StoreDamaged where there is no index with its crc32c at the end.
    """
    count = (len(tail) - CRC_BYTES) // ENTRY_BYTES
    if count < 1:
        return None
    words = np.frombuffer(tail, dtype="<u8", count=2 * count, offset=len(tail) - CRC_BYTES - count * ENTRY_BYTES)
    entries = words.reshape(count, 2)
    used = np.flatnonzero((entries != ABSENT).any(axis=1))
    if not len(used):
        return None
    offset, nbytes = entries[used[-1]].tolist()
    chunks, rest = divmod(size - CRC_BYTES - offset - nbytes, ENTRY_BYTES)  # the last chunk ends where the index begins
    if not rest and count < chunks <= (size - CRC_BYTES) // ENTRY_BYTES:
        return None
    if not rest and 0 < chunks <= count:
        found = entries[count - chunks :]
        if crc32c(found.tobytes()) == int.from_bytes(tail[-CRC_BYTES:], "little"):
            return found
    raise StoreDamaged("the index of a shard does not have its checksum")


def parse_index(
    data: memoryview, chunks: int, present: int, body_nbytes: int, name: str, size: int | None = None
) -> Entries:
    """Return the (chunks, 2) entries of an index, as a view of `data`, once everything about them has been checked.

    data: the index's bytes, crc32c included.
    present: how many inner chunks lie within the array's shape; they come first.
    body_nbytes: bytes of the object before the index.
    size: the size every present chunk must have, where it is known (raw arrays).
    Raises StoreDamaged for a wrong crc32c, an absent chunk, a gap, an overlap, a step backward, an end past the file.
    """
    body = data[: chunks * ENTRY_BYTES]
    # google-crc32c takes bytes and arrays, but no memoryview.
    found = crc32c(np.frombuffer(body, np.uint8))
    if len(data) != index_nbytes(chunks) or found != int.from_bytes(data[len(body) :], "little"):
        raise StoreDamaged("the index of a shard does not have its checksum", object=name)
    entries = np.frombuffer(body, dtype="<u8").reshape(chunks, 2)
    used, unused = entries[:present], entries[present:]
    absent = (used == ABSENT).any(axis=1)
    if absent.any():
        raise StoreDamaged(
            "an inner chunk is absent", object=name, chunk=int(absent.argmax()), expected="every chunk is written"
        )
    if not (unused == ABSENT).all():
        raise StoreDamaged("a shard has chunks beyond its array's shape", object=name)
    if present:
        if size is not None and (used[:, 1] != size).any():
            raise StoreDamaged("a shard's index gives a chunk another size than the array's", object=name)
        ends = np.cumsum(used[:, 1], dtype=np.uint64)
        starts = ends - used[:, 1]
        if (ends < starts).any():  # a sum of uint64 wraps around if and only if it becomes smaller
            raise StoreDamaged("a shard's index gives chunks more bytes than can be", object=name)
        if (used[:, 0] != starts).any():
            first = int((used[:, 0] != starts).argmax())
            raise StoreDamaged(
                "the chunks of a shard do not follow one another",
                object=name,
                chunk=first,
                expected=f"offset {starts[first]}",
                found=f"offset {used[first, 0]}",
            )
        if int(ends[-1]) != body_nbytes:
            raise StoreDamaged(
                "a shard's chunks and its size disagree",
                object=name,
                expected=f"{int(ends[-1])} bytes before the index",
                found=f"{body_nbytes}",
            )
    elif body_nbytes:
        raise StoreDamaged("a shard holds bytes but no chunks", object=name)
    return entries
