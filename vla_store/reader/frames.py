"""Cameras: frames found, decoded and turned straight into their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_store.errors import StoreDamaged
from vla_store.format import codecs, layout, predictions
from vla_store.format.codecs import CRC_BYTES
from vla_store.format.schema import Field
from vla_store.reader.fetch import Fetcher, keep
from vla_store.reader.orient import place
from vla_store.reader.shards import EncodedShards, Opened, RawShards, as_array

Array = np.ndarray[Any, Any]

GROUP_FRAMES = 64  # predictions that run over a whole group are undone over so many at once: they stay in the cache
MAX_PICTURES = 64


class Frames:
    """The pictures of one camera in one part.

    first: the camera's first number among the store's `opened` shards. first_row: the part's first row in the store.
    """

    def __init__(
        self, fetcher: Fetcher, part: str, field: Field, rows: int, episodes: int, opened: Opened, first: int
    ) -> None:
        self.shape = field.fixed_shape
        self.dtype = np.dtype(field.dtype).newbyteorder("<")
        self._field = field.name
        self._decode = codecs.decoder(field.codec, field.name)
        grid = field.grid(rows)
        known = field.step_nbytes + CRC_BYTES if field.codec.name == "none" else None
        self._shards = EncodedShards(fetcher, f"{part}/{field.array}", grid, known, opened, first)
        self._grouped = [name for name in field.prediction if name != "background"]
        self._backgrounds = (
            Backgrounds(fetcher, f"{part}/backgrounds/{field.name}", (episodes, *self.shape), field.dtype)
            if "background" in field.prediction
            else None
        )

    def fill(
        self,
        rows: Sequence[int],
        episodes: Sequence[int],
        flips: Sequence[int],
        out: Array,
        positions: Sequence[int],
    ) -> None:
        """Decodes row rows[i] of the part into out[positions[i]], turned by flips[i]. A row that comes again is copied.

        episodes: the part's episode of each row. out: (n, H, W, C), C-contiguous, of any dtype that the pictures convert to.
        Raises StoreDamaged for a chunk that is not sound, FetchError, MachineError.
        """
        firsts: dict[int, int] = {}
        repeats = []
        for at, row in enumerate(rows):
            first = firsts.setdefault(row, at)
            if first != at:
                repeats.append((at, first))
        chunks = self._shards.chunks(firsts)
        if self._grouped:
            self._fill_grouped(chunks, rows, list(firsts.values()), episodes, flips, out, positions)
        else:
            self._fill_each(chunks, rows, firsts.values(), episodes, flips, out, positions)
        for at, first in repeats:
            out[positions[at]] = out[positions[first]]

    def _fill_each(
        self, chunks: Any, rows: Any, order: Any, episodes: Any, flips: Any, out: Array, positions: Any
    ) -> None:
        decode, backgrounds = self._decode, self._backgrounds
        converts = out.dtype != self.dtype
        scratch = np.empty(self.shape, self.dtype) if converts or any(flips) else None
        for at, chunk in zip(order, chunks):
            target, turned = out[positions[at]], flips[at]
            picture = scratch if scratch is not None and (turned or converts) else target
            try:
                decode(chunk, picture)
            except ValueError as error:
                raise self._damaged(error, rows[at]) from None
            if backgrounds is not None:
                place(picture, backgrounds[episodes[at]], turned, target)
            elif picture is not target:
                place(picture, None, turned, target)

    def _fill_grouped(
        self, chunks: Any, rows: Any, order: Any, episodes: Any, flips: Any, out: Array, positions: Any
    ) -> None:
        scratch = np.empty((min(len(order), GROUP_FRAMES), *self.shape), self.dtype)
        for start in range(0, len(order), GROUP_FRAMES):
            group = order[start : start + GROUP_FRAMES]
            for number, at in enumerate(group):
                try:
                    self._decode(chunks[start + number], scratch[number])
                except ValueError as error:
                    raise self._damaged(error, rows[at]) from None
            predictions.undo(scratch[: len(group)], self._grouped)
            for number, at in enumerate(group):
                background = None if self._backgrounds is None else self._backgrounds[episodes[at]]
                place(scratch[number], background, flips[at], out[positions[at]])

    def _damaged(self, error: ValueError, row: int) -> StoreDamaged:
        shard_rows = self._shards.grid.shard
        return codecs.damaged_frame(error, self._shards.key(row), row % shard_rows, row)


class Backgrounds:
    """One picture an episode, mapped; its crc32c is checked when it is first used."""

    def __init__(self, fetcher: Fetcher, array: str, shape: tuple[int, ...], dtype: str) -> None:
        grid = layout.background_grid(shape, dtype)
        self._shape = shape[1:]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._nbytes = grid.row_nbytes
        self._per_shard = grid.shard
        self._shards = RawShards(fetcher, array, grid, grid.row_nbytes + CRC_BYTES)
        self._fetcher = fetcher
        self._checked = bytearray(shape[0])
        self._arrays: dict[int, Array] = {}
        self._pictures: dict[int, Array] = {}

    def __getitem__(self, episode: int) -> Array:
        """(H, W, C), read-only. Raises StoreDamaged."""
        if not self._fetcher.maps:
            return self._fetched(episode)
        shard = episode // self._per_shard
        if not self._checked[episode]:
            start = (episode - shard * self._per_shard) * (self._nbytes + CRC_BYTES)
            self._check(self._shards.body(shard)[start : start + self._nbytes + CRC_BYTES], episode)
            self._checked[episode] = 1
        array = self._arrays.get(shard)
        if array is None:
            array = self._arrays[shard] = self._strided(shard)
        picture: Array = array[episode - shard * self._per_shard]
        return picture

    def _strided(self, shard: int) -> Array:
        start, stop = self._shards.grid.rows_of(shard)
        picture = np.empty(self._shape, self._dtype)
        strides = (self._nbytes + CRC_BYTES, *picture.strides)
        return np.ndarray((stop - start, *self._shape), self._dtype, self._shards.body(shard), 0, strides)

    def _fetched(self, episode: int) -> Array:
        picture = self._pictures.get(episode)
        if picture is None:
            shard = episode // self._per_shard
            start = (episode - shard * self._per_shard) * (self._nbytes + CRC_BYTES)
            chunk = self._fetcher.read([(self._shards.key(shard), start, start + self._nbytes + CRC_BYTES)])[0]
            picture = as_array(self._check(chunk, episode), self._dtype, self._shape)
            keep(self._pictures, episode, picture, MAX_PICTURES)
        return picture

    def _check(self, chunk: memoryview, episode: int) -> memoryview:
        try:
            return codecs.checked_body(chunk)
        except ValueError as error:
            raise StoreDamaged(
                "a background is not what was written",
                object=self._shards.key(episode // self._per_shard),
                episode=episode,
                found=str(error),
                hint="run `vla-store verify`; restore or rebuild the object",
            ) from None
