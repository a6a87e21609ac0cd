"""Cameras: frames found, decoded and turned straight into their place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vla_store.errors import StoreDamaged
from vla_store.format import codecs, layout, predictions
from vla_store.format.codecs import CRC_BYTES
from vla_store.format.schema import Field
from vla_store.reader.orient import place
from vla_store.reader.shards import EncodedShards, Opened, RawShards, as_array
from vla_store.storage import Storage, keep

Array = np.ndarray[Any, Any]

GROUP_FRAMES = 64  # predictions that run over a whole group are undone over so many at once: they stay in the cache
MAX_PICTURES = 64


class Frames:
    """The pictures of one camera in one part.

    first: the camera's first number among the store's `opened` shards. first_row: the part's first row in the store.
    """

    def __init__(
        self, fetcher: Storage, part: str, field: Field, rows: int, episodes: int, opened: Opened, first: int
    ) -> None:
        self.shape = field.fixed_shape
        self.dtype = np.dtype(field.dtype).newbyteorder("<")
        self._field = field.name
        self._decode = codecs.decoder(field.codec, field.name)
        grid = field.grid(rows)
        self._shards = EncodedShards(fetcher, f"{part}/{field.array}", grid, field.codec, opened, first)
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
        positions: Sequence[int] | None = None,
    ) -> None:
        """Decodes row rows[i] of the part into out[positions[i]] (out[i]), turned by flips[i]. A row that comes again is copied.

        episodes: the part's episode of each row. out: (n, *shape), C-contiguous, of any dtype that the pictures convert to.
        Raises StoreDamaged for a chunk that is not sound, FetchError, MachineError.
        """
        self._arranged(self._fill, rows, episodes, flips, out, positions)

    def located(
        self,
        rows: Sequence[int],
        episodes: Sequence[int],
        flips: Sequence[int],
        out: Array,
        positions: Sequence[int] | None = None,
    ) -> Callable[[], None]:
        """As `fill`, and returns the part of it that is left once the chunks are found and fetched, to be done again and again:
        what benchmarks call the roof."""
        works: list[Callable[[], None]] = []

        def listed(rows: Any, episodes: Any, flips: Any, targets: Any) -> None:
            works.append(functools.partial(self._decode_all, self._shards.chunks(rows), rows, episodes, flips, targets))
            works[0]()

        repeats = self._arranged(listed, rows, episodes, flips, out, positions)

        def work() -> None:
            for each in works:
                each()
            for target, source in repeats:
                np.copyto(target, source)

        return work

    def _arranged(
        self,
        fill: Callable[..., None],
        rows: Sequence[int],
        episodes: Sequence[int],
        flips: Sequence[int],
        out: Array,
        positions: Sequence[int] | None,
    ) -> list[tuple[Array, Array]]:
        """Calls `fill` with each row once; copies those that come again, and returns from where to where."""
        if not rows:  # a batch that is all padding of zeros
            return []
        targets = list(out) if positions is None else [out[position] for position in positions]
        if len(set(rows)) == len(rows):
            fill(rows, episodes, flips, targets)
            return []
        firsts: dict[int, int] = {}
        for at, row in enumerate(rows):
            firsts.setdefault(row, at)
        order = list(firsts.values())
        fill(list(firsts), [episodes[at] for at in order], [flips[at] for at in order], [targets[at] for at in order])
        repeats = [
            (target, targets[firsts[row]]) for row, target in zip(rows, targets) if target is not targets[firsts[row]]
        ]
        for target, source in repeats:
            target[...] = source
        return repeats

    def _fill(self, rows: Sequence[int], episodes: Sequence[int], flips: Sequence[int], targets: list[Array]) -> None:
        self._decode_all(self._shards.chunks(rows), rows, episodes, flips, targets)

    def _decode_all(
        self,
        chunks: list[Any],
        rows: Sequence[int],
        episodes: Sequence[int],
        flips: Sequence[int],
        targets: list[Array],
    ) -> None:
        if self._grouped:
            self._fill_grouped(chunks, rows, episodes, flips, targets)
        elif any(flips) or targets[0].dtype != self.dtype:
            self._fill_turned(chunks, rows, episodes, flips, targets)
        else:
            self._fill_straight(chunks, rows, episodes, targets)

    # The loops below run once a frame, which takes some ten microseconds: what they do besides is kept to tenths of one.

    def _fill_straight(self, chunks: Any, rows: Any, episodes: Any, targets: Any) -> None:
        decode, backgrounds, add = self._decode, self._backgrounds, np.add
        for chunk, row, episode, target in zip(chunks, rows, episodes, targets):
            try:
                decode(chunk, target)
            except ValueError as error:
                raise self._damaged(error, row) from None
            if backgrounds is not None:
                add(target, backgrounds[episode], target)

    def _fill_turned(self, chunks: Any, rows: Any, episodes: Any, flips: Any, targets: Any) -> None:
        decode, backgrounds = self._decode, self._backgrounds
        scratch = np.empty(self.shape, self.dtype)
        for chunk, row, episode, turned, target in zip(chunks, rows, episodes, flips, targets):
            try:
                decode(chunk, scratch)
            except ValueError as error:
                raise self._damaged(error, row) from None
            place(scratch, None if backgrounds is None else backgrounds[episode], turned, target)

    def _fill_grouped(self, chunks: Any, rows: Any, episodes: Any, flips: Any, targets: Any) -> None:
        scratch = np.empty((min(len(rows), GROUP_FRAMES), *self.shape), self.dtype)
        for start in range(0, len(rows), GROUP_FRAMES):
            group = range(start, min(start + GROUP_FRAMES, len(rows)))
            for at, picture in zip(group, scratch):
                try:
                    self._decode(chunks[at], picture)
                except ValueError as error:
                    raise self._damaged(error, rows[at]) from None
            predictions.undo(scratch[: len(group)], self._grouped)
            for at, picture in zip(group, scratch):
                background = None if self._backgrounds is None else self._backgrounds[episodes[at]]
                place(picture, background, flips[at], targets[at])

    def _damaged(self, error: ValueError, row: int) -> StoreDamaged:
        shard_rows = self._shards.grid.shard
        return codecs.damaged_frame(error, self._shards.key(row), row % shard_rows, row)


class Backgrounds:
    """One picture an episode, mapped; its crc32c is checked when it is first used."""

    def __init__(self, fetcher: Storage, array: str, shape: tuple[int, ...], dtype: str) -> None:
        grid = layout.background_grid(shape, dtype)
        self._shape = shape[1:]
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._nbytes = grid.row_nbytes
        self._per_shard = grid.shard
        self._shards = RawShards(fetcher, array, grid, grid.row_nbytes + CRC_BYTES)
        self._fetcher = fetcher
        self._checked = bytearray(shape[0])
        self._arrays: dict[int, Array] = {}
        self._only: Array | None = None  # of those, where there is but one
        self._pictures: dict[int, Array] = {}

    def __getitem__(self, episode: int) -> Array:
        """(H, W, ...), read-only. Raises StoreDamaged."""
        if self._checked[episode] and self._only is not None:
            return self._only[episode]  # type: ignore[no-any-return]
        shard = episode // self._per_shard
        body = self._shards.body(shard)
        if body is None:
            return self._fetched(episode)
        if not self._checked[episode]:
            start = (episode - shard * self._per_shard) * (self._nbytes + CRC_BYTES)
            self._check(body[start : start + self._nbytes + CRC_BYTES], episode)
            self._checked[episode] = 1
        array = self._arrays.get(shard)
        if array is None:
            array = self._arrays[shard] = self._strided(shard, body)
            if self._shards.grid.shards == 1:
                self._only = array
        picture: Array = array[episode - shard * self._per_shard]
        return picture

    def _strided(self, shard: int, body: memoryview) -> Array:
        start, stop = self._shards.grid.rows_of(shard)
        picture = np.empty(self._shape, self._dtype)
        strides = (self._nbytes + CRC_BYTES, *picture.strides)
        return np.ndarray((stop - start, *self._shape), self._dtype, body, 0, strides)

    def _fetched(self, episode: int) -> Array:
        picture = self._pictures.get(episode)
        if picture is None:
            shard = episode // self._per_shard
            start = (episode - shard * self._per_shard) * (self._nbytes + CRC_BYTES)
            chunk = self._fetcher.read([(self._shards.key(shard), start, start + self._nbytes + CRC_BYTES)])[0]
            picture = as_array(self._check(chunk, episode), self._dtype, self._shape)
            keep(self._pictures, episode, picture, MAX_PICTURES)
        return picture

    def _check(self, chunk: memoryview, episode: int) -> Any:
        try:
            return codecs.checked_body(chunk)
        except ValueError as error:
            raise StoreDamaged(
                "a background is not what was written",
                object=self._shards.key(episode // self._per_shard),
                episode=episode,
                found=str(error),
            ) from None
