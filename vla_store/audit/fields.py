"""The digests of every field of a part, from its decoded arrays."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vla_store.audit.arrays import ArrayReader
from vla_store.audit.part import DIGEST_NBYTES, Array, Part
from vla_store.errors import DataError
from vla_store.format import digests, layout, predictions
from vla_store.format.codecs import NONE
from vla_store.format.nonfinite import counted
from vla_store.format.schema import Field

FRAMES_AT_ONCE = 64


def digest_camera(reader: ArrayReader, part: Part, each: Field, pool: ThreadPoolExecutor) -> bool:
    """Decode every picture of a camera and digest it, episode by episode; False where one cannot be decoded."""
    part.nonfinite[each.name] = np.zeros((part.entry.rows, 2), np.uint32)
    frames = _frame_digests(reader, part, each, pool)
    if frames is None:
        return False
    for number, (start, length) in enumerate(zip(part.column("start").tolist(), part.column("length").tolist())):
        digest = digests.FieldDigest(each.name, each.dtype, (length, *each.fixed_shape))
        digest.update(frames[start * DIGEST_NBYTES : (start + length) * DIGEST_NBYTES])
        part.field_digests[number][each.name] = digest.hexdigest()
    return True


def _frame_digests(reader: ArrayReader, part: Part, each: Field, pool: ThreadPoolExecutor) -> bytes | None:
    """The sha256 of every picture, in row order; None where one cannot be decoded."""
    backgrounds: Array | None = None
    if "background" in each.prediction:
        try:
            backgrounds = _backgrounds(reader, part, each)
        except DataError as error:
            reader.objects.error(f"{reader.path}/backgrounds/{each.name}", error)
            return None
    lengths = part.column("length")
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    grid = each.grid(part.entry.rows)

    def shard_digests(shard: int) -> bytes | DataError:
        found, rows, frames = bytearray(), [], []
        _, stop = grid.rows_of(shard)
        try:
            for row, frame in reader.chunks(each.array, grid, shard, each.codec):
                rows.append(row)
                frames.append(frame)
                if len(rows) == FRAMES_AT_ONCE or row == stop - 1:
                    block = np.concatenate(frames)
                    predictions.undo(block, each.prediction)
                    if backgrounds is not None:
                        block += backgrounds[episode_of[rows]]
                    for picture in block:
                        found += hashlib.sha256(picture.data).digest()
                    _count(part.nonfinite[each.name], rows[0], block)
                    rows, frames = [], []
        except DataError as error:
            return error
        return bytes(found)

    result = list(pool.map(shard_digests, range(grid.shards)))
    for outcome in result:
        if isinstance(outcome, DataError):
            reader.objects.error(f"{reader.path}/{each.array}", outcome)
    return (
        None
        if any(isinstance(found, DataError) for found in result)
        else b"".join(r for r in result if isinstance(r, bytes))
    )


def _backgrounds(reader: ArrayReader, part: Part, each: Field) -> Array:
    """The background of every episode, (episodes, *shape)."""
    grid = layout.background_grid((part.entry.episodes, *each.fixed_shape), each.dtype)
    shards = (reader.chunks(f"backgrounds/{each.name}", grid, shard, NONE) for shard in range(grid.shards))
    return np.concatenate([background for shard in shards for _, background in shard])


def digest_numbers(reader: ArrayReader, part: Part, each: Field) -> bool:
    """Read a numeric field and digest it, episode by episode; False where it cannot be read."""
    column = reader.numeric(each.array, each.grid(part.entry.rows, part.elements_of(each)))
    if column is None:
        return False
    part.columns[each.name] = column
    counts = part.nonfinite[each.name] = np.zeros((part.entry.rows, 2), np.uint32)
    starts = part.column("start").tolist()
    for number in range(part.entry.episodes):
        rows = part.rows_of(each, number)
        digest = digests.FieldDigest(each.name, each.dtype, rows.shape)
        digest.update(np.ascontiguousarray(rows).tobytes())
        part.field_digests[number][each.name] = digest.hexdigest()
        _count(counts, starts[number], rows)
    return True


def _count(into: Array, start: int, rows: Array) -> None:
    """Note what of these rows, from `start` on, is not finite. Where all is, nothing is written: pages that are never touched
    take no memory."""
    counts = counted(rows)
    if counts.any():
        into[start : start + len(rows)] = counts
