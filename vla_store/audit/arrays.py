"""Shards to arrays: every shard index and every chunk is checked on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla_store.audit.objects import Objects
from vla_store.audit.part import Array, Part
from vla_store.errors import DataError, StoreDamaged
from vla_store.format import layout
from vla_store.format.codecs import ATTRIBUTES, Codec, decoder
from vla_store.format.layout import Grid
from vla_store.format.shard_index import index_nbytes, parse_index

CHUNKS_AT_ONCE = 64


class ArrayReader:
    """Reads arrays of one part, recording what is wrong with their objects."""

    def __init__(self, objects: Objects, path: str) -> None:
        self.objects, self.path = objects, path

    def shard(self, array: str, grid: Grid, shard: int, size: int | None) -> tuple[str, Array, int]:
        """Key, checked index entries and bytes of data of a shard."""
        key = f"{self.path}/{array}/{grid.key(shard)}"
        tail = index_nbytes(grid.chunks_per_shard)
        body = self.objects.size(key) - tail
        if body < 0:
            raise StoreDamaged("a shard is cut short", object=key)
        index = self.objects.ranges(key, [(body, body + tail)])[0]
        return key, parse_index(index, grid.chunks_per_shard, grid.present(shard), body, key, size), body

    def numeric(self, array: str, grid: Grid) -> Array | None:
        """A numeric array whole, or None where one of its shards cannot be read."""
        pieces = []
        dtype = np.dtype(grid.dtype).newbyteorder("<")
        for shard in range(grid.shards):
            try:
                key, _, body = self.shard(array, grid, shard, grid.chunk_nbytes)
                start, stop = grid.rows_of(shard)
                data = self.objects.ranges(key, [(0, (stop - start) * grid.row_nbytes)])[0] if body else memoryview(b"")
                pieces.append(np.frombuffer(data, dtype).reshape(stop - start, *grid.shape[1:]))
            except DataError as error:
                self.objects.error(f"{self.path}/{array}", error)
                return None
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def chunks(self, array: str, grid: Grid, shard: int, codec: Codec) -> Iterator[tuple[int, Array]]:
        """Row and decoded content of every inner chunk of a shard; StoreDamaged at the first that does not decode."""
        key, entries, _ = self.shard(array, grid, shard, None)
        decode = decoder(codec, array)
        start, _ = grid.rows_of(shard)
        present = grid.present(shard)
        places = entries[:present].astype(np.int64)
        for first in range(0, present, CHUNKS_AT_ONCE):
            some = places[first : first + CHUNKS_AT_ONCE]
            ranges = [(int(offset), int(offset + nbytes)) for offset, nbytes in some]
            for number, chunk in enumerate(self.objects.ranges(key, ranges), first):
                out = np.empty((grid.chunk, *grid.shape[1:]), np.dtype(grid.dtype).newbyteorder("<"))
                try:
                    decode(chunk, out)
                except ValueError as error:
                    raise StoreDamaged(
                        "an encoded chunk does not decode", object=key, chunk=number, found=error
                    ) from None
                yield start + number * grid.chunk, out


def read_attributes(reader: ArrayReader, part: Part) -> bytes:
    grid = layout.attributes_grid(part.attributes_nbytes)
    data = bytearray()
    try:
        for shard in range(grid.shards):
            for _, chunk in reader.chunks(layout.ATTRIBUTES_ARRAY, grid, shard, ATTRIBUTES):
                data += chunk.tobytes()
    except DataError as error:
        reader.objects.error(f"{reader.path}/{layout.ATTRIBUTES_ARRAY}", error)
        part.complete = False
        return b""
    return bytes(data[: grid.rows])
