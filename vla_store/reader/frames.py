"""Cameras: frames located, fetched and decoded into their places, in three stages that hand on values.

Owns what is known of a camera's shards and backgrounds in one part. Imports decoding, shards and storage.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vla_store.errors import StoreDamaged
from vla_store.format import codecs, layout
from vla_store.format.schema import Field
from vla_store.reader.decoding import FrameDecoder, Undecodable
from vla_store.reader.shards import Chunks, EncodedShards, Opened, RawShards, open_shards
from vla_store.storage import Range, Storage, keep
from vla_store.storage.pages import PageFaultMonitor, will_need

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]

LEAST_COLD = 4  # frames; for fewer, asking the system ahead gains nothing
PAGE_FAULTS = PageFaultMonitor()  # of this process: the system counts them for all that it reads
BACKGROUNDS_NBYTES = 256 << 20  # of those that were fetched, of all cameras of a store


class FrameList(NamedTuple):
    """Which frames go where; each row of the part once.

    rows, episodes, flips: of each frame. positions: where it goes; None for 0, 1, 2, ... copies: (to, from), positions that get
    the same picture again. zeros: positions that get no picture.
    """

    rows: list[int]
    episodes: list[int]
    flips: list[int]
    positions: list[int] | None = None
    copies: Sequence[tuple[int, int]] = ()
    zeros: Int64 | None = None


def frame_list(
    rows: list[int],
    episodes: list[int],
    flips: list[int],
    positions: list[int] | None = None,
    zeros: Int64 | None = None,
) -> FrameList:
    """Return the list of such frames, whose rows may come several times."""
    if len(set(rows)) == len(rows):
        return FrameList(rows, episodes, flips, positions, (), zeros)
    first_of: dict[int, int] = {}
    for at, row in enumerate(rows):
        first_of.setdefault(row, at)
    order = list(first_of.values())
    where: Sequence[int] = range(len(rows)) if positions is None else positions
    copies = [(where[at], where[first_of[row]]) for at, row in enumerate(rows) if first_of[row] != at]
    episodes, flips = [episodes[at] for at in order], [flips[at] for at in order]
    return FrameList(list(first_of), episodes, flips, [where[at] for at in order], copies, zeros)


class LocatedFrames(NamedTuple):
    """The chunks of a list of frames, and their backgrounds where these are not mapped.

    held: backgrounds that were fetched before, by episode. absent: episodes of those to be fetched. ranges: what is to be fetched,
    of the chunks and then of the backgrounds.
    """

    frames: FrameList
    chunks: Chunks
    held: dict[int, Array]
    absent: list[int]
    ranges: list[Range]


def announce(pictures: Iterable[LocatedFrames]) -> None:
    """Tell the system that these frames are decoded next, all at once, before the first is waited for. Call it once a batch."""
    many = [each.chunks.views for each in pictures if len(each.chunks.views) >= LEAST_COLD]
    if many and PAGE_FAULTS.is_cold():
        for view in itertools.chain.from_iterable(many):
            if view is not None:
                will_need(view)


class Frames:
    """The pictures of one camera in one part. first: its first number among the store's `opened` shards."""

    def __init__(
        self, fetcher: Storage, part: str, field: Field, rows: int, episodes: int, opened: Opened, first: int
    ) -> None:
        self._fetcher = fetcher
        self._decoder = FrameDecoder(field)
        self.shards = EncodedShards(fetcher, f"{part}/{field.array}", field.grid(rows), field.codec, opened, first)
        shape = (episodes, *field.fixed_shape)
        self._backgrounds = (
            Backgrounds(fetcher, f"{part}/backgrounds/{field.name}", shape, field.dtype, opened, first)
            if "background" in field.prediction
            else None
        )

    @property
    def is_mapped(self) -> bool:
        """True where frames are views that cost nothing."""
        return self.shards.is_mapped

    def unopened(self, frames: FrameList) -> list[tuple[EncodedShards, int]]:
        """Return the shards of frames that are not open: `open_shards` opens those of many cameras together."""
        return self.shards.unopened(frames.rows)

    def locate(self, frames: FrameList) -> LocatedFrames:
        """Find the chunks of frames. Raises StoreDamaged, FetchError, MachineError."""
        chunks = self.shards.locate(frames.rows)
        if self._backgrounds is None or (self._fetcher.is_near and not chunks.ranges):
            return LocatedFrames(frames, chunks, {}, [], chunks.ranges)
        held, absent = self._backgrounds.locate(frames.episodes)
        ranges = chunks.ranges + [self._backgrounds.range(each) for each in absent]
        return LocatedFrames(frames, chunks, held, absent, ranges)

    @property
    def keys(self) -> list[str]:
        """The objects of all its shards, and of its backgrounds."""
        return self.shards.keys + ([] if self._backgrounds is None else self._backgrounds.keys)

    def backgrounds_of(self, episodes: Int64) -> list[Range]:
        """Return where the backgrounds of episodes lie. Raises StoreDamaged, FetchError, MachineError."""
        found = self._backgrounds
        return [] if found is None else [found.range(each) for each in episodes.tolist()]

    def decode(self, located: LocatedFrames, data: Sequence[memoryview], out: Array) -> None:
        """Decode located frames into their positions of `out`, (n, *shape), C-contiguous, of any dtype that they convert to.

        data: what was fetched for `located.ranges`. Raises StoreDamaged for a chunk that is not sound.
        """
        frames, chunks = located.frames, located.chunks
        if frames.zeros is not None:
            out[frames.zeros] = 0
        if not frames.rows:  # a batch that is all padding of zeros
            return
        backgrounds = None
        if self._backgrounds is not None:
            held = located.held
            if located.absent:
                fetched = zip(located.absent, data[len(chunks.ranges) :])
                held = held | {episode: self._backgrounds.fetched(episode, each) for episode, each in fetched}
            backgrounds = self._backgrounds.take(frames.episodes, held)
        targets = list(out) if frames.positions is None else [out[at] for at in frames.positions]
        try:
            bodies = chunks.bodies(data[: len(chunks.ranges)])
            self._decoder.decode_many(bodies, backgrounds, frames.flips, targets)
        except Undecodable as error:
            row = frames.rows[error.at]
            key = self.shards.key(row)
            if not self._fetcher.heal(key):
                raise codecs.damaged_frame(error, key, row % self.shards.grid.shard, row) from None
            self.decode(located, self._fetcher.read(located.ranges) if located.ranges else (), out)
            return
        for to, original in frames.copies:
            out[to] = out[original]

    def fill(self, frames: FrameList, out: Array) -> None:
        """Read frames into their positions of `out`, all stages at once. Raises StoreDamaged, FetchError, MachineError."""
        if not self._fetcher.is_near:
            open_shards(self.unopened(frames))
        located = self.locate(frames)
        announce([located])
        self.decode(located, self._fetcher.read(located.ranges) if located.ranges else (), out)


class Backgrounds:
    """One picture an episode; its crc32c is checked when it is first used, or fetched. first: the number of its first picture among
    those of all cameras that `opened` has."""

    def __init__(
        self, fetcher: Storage, array: str, shape: tuple[int, ...], dtype: str, opened: Opened, first: int
    ) -> None:
        grid = layout.background_grid(shape, dtype)
        self._chunk = np.dtype([("picture", np.dtype(dtype).newbyteorder("<"), shape[1:]), ("crc32c", "<u4")])
        self._per_shard = grid.shard
        self._shards = RawShards(fetcher, array, grid, self._chunk.itemsize)
        self._checked = bytearray(shape[0])
        self._arrays: dict[int, Array] = {}
        self._pictures: dict[int, Array] = opened.backgrounds  # those that were fetched last
        self._first = first

    @property
    def keys(self) -> list[str]:
        """The objects of all its shards."""
        return [self._shards.object(number) for number in range(self._shards.grid.shards)]

    def range(self, episode: int) -> Range:
        """Return where an episode's background lies. Raises StoreDamaged where its shard does not have its size."""
        shard, at = divmod(episode, self._per_shard)
        return self._shards.key(shard), at * self._chunk.itemsize, (at + 1) * self._chunk.itemsize

    def locate(self, episodes: Sequence[int]) -> tuple[dict[int, Array], list[int]]:
        """Return the backgrounds of these episodes that were fetched before, and the episodes of those to be fetched."""
        distinct = [each for each in dict.fromkeys(episodes) if self._shards.body(each // self._per_shard) is None]
        # Held from now on: another batch may drop them before this one is decoded.
        held = {each: picture for each in distinct if (picture := self._pictures.get(self._first + each)) is not None}
        return held, [each for each in distinct if each not in held]

    def fetched(self, episode: int, data: memoryview) -> Array:
        """Return the background that these bytes are. Raises StoreDamaged."""
        sound = self._check(data, episode)
        # Alone: what was fetched in one request are views of all that it gave.
        picture: Array = np.frombuffer(bytes(sound), self._chunk)["picture"][0]
        keep(self._pictures, self._first + episode, picture, max(1, BACKGROUNDS_NBYTES // len(data)))
        return picture

    def take(self, episodes: Sequence[int], held: dict[int, Array]) -> list[Array]:
        """Return the background of each episode, (H, W, ...), read-only. Raises StoreDamaged, FetchError.

        held: those that are not mapped.
        """
        arrays, checked, per_shard = self._arrays, self._checked, self._per_shard
        made: list[Array] = []
        for episode in episodes:
            if checked[episode]:
                shard = episode // per_shard
                made.append(arrays[shard][episode - shard * per_shard])
            else:
                made.append(held[episode] if episode in held else self._first_use(episode))
        return made

    def _first_use(self, episode: int) -> Array:
        shard, at = divmod(episode, self._per_shard)
        key, start, stop = self.range(episode)
        body = self._shards.body(shard)
        if body is None:  # mapped files became read ones after frames were located
            return self.fetched(episode, self._shards.fetcher.read([(key, start, stop)])[0])
        self._check(body[start:stop], episode)
        if shard not in self._arrays:
            self._arrays[shard] = np.frombuffer(body, self._chunk)["picture"]
        self._checked[episode] = 1
        picture: Array = self._arrays[shard][at]
        return picture

    def _check(self, chunk: memoryview, episode: int) -> memoryview:
        """Return a background's bytes, which may have to be read again to be right. Raises StoreDamaged."""
        try:
            codecs.checked_body(chunk)
        except ValueError as error:
            key, start, stop = self.range(episode)
            if self._shards.fetcher.heal(key):
                return self._check(self._shards.fetcher.read([(key, start, stop)])[0], episode)
            raise StoreDamaged(
                "a background is not what was written", object=key, episode=episode, found=str(error)
            ) from None
        return chunk
