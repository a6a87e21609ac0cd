"""From encoded chunks to pictures in place: the one seam between storage and arrays, that another decoder may fill.

Owns the loops that run once a frame. Imports format and orient; it opens nothing and fetches nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vla_store.format import predictions
from vla_store.format.schema import Field
from vla_store.reader.orient import place

Array = np.ndarray[Any, Any]

GROUP_FRAMES = 64  # predictions that run over a whole group are undone over so many at once: they stay in the cache


class Undecodable(ValueError):
    """A chunk that cannot be decoded. at: its position among those of the call."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at


class FrameDecoder:
    """Decodes the frames of one camera, whose codec, prediction, shape and dtype are a field's."""

    def __init__(self, field: Field) -> None:
        self.shape = field.fixed_shape
        self.dtype = np.dtype(field.dtype).newbyteorder("<")
        self._decode = field.codec.decode
        self._grouped = [name for name in field.prediction if name != "background"]

    def decode_many(
        self,
        chunks: Iterable[Any],
        backgrounds: Sequence[Array] | None,
        flips: Sequence[int],
        targets: Sequence[Array],
    ) -> None:
        """Decode each chunk into its target, turned by its flips.

        Parameters
        ----------
        chunks : iterable of (n,) uint8 or memoryview
            Encoded frames, without crc32c; a ValueError that the iterable raises is taken as that of the chunk it is at.
        backgrounds : sequence of arrays of the frame's shape, or None
            What is added to each, modulo 2^bits; None where nothing is.
        flips : sequence of int
            A sum of FLIP_ROWS and FLIP_COLUMNS for each.
        targets : sequence of arrays of the frame's shape, C-contiguous
            Of any dtype that the pictures convert to.

        Raises
        ------
        Undecodable
            For the first chunk that is not sound; what its target and those after it hold then means nothing.
        """
        added = itertools.repeat(None) if backgrounds is None else backgrounds
        if self._grouped:
            self._grouped_many(iter(chunks), added, flips, targets)
        elif any(flips) or targets[0].dtype != self.dtype:
            self._turned_many(chunks, added, flips, targets)
        else:
            self._straight_many(chunks, added, targets)

    # These loops run once a frame, which takes some ten microseconds: what they do besides is kept to tenths of one.

    def _straight_many(self, chunks: Any, backgrounds: Any, targets: Any) -> None:
        decode, add, at = self._decode, np.add, 0
        try:
            for chunk, background, target in zip(chunks, backgrounds, targets):
                decode(chunk, target)
                if background is not None:
                    add(target, background, target)
                at += 1
        except ValueError as error:
            raise Undecodable(at, str(error)) from None

    def _turned_many(self, chunks: Any, backgrounds: Any, flips: Any, targets: Any) -> None:
        decode, at = self._decode, 0
        scratch = np.empty(self.shape, self.dtype)
        try:
            for chunk, background, turned, target in zip(chunks, backgrounds, flips, targets):
                decode(chunk, scratch)
                place(scratch, background, turned, target)
                at += 1
        except ValueError as error:
            raise Undecodable(at, str(error)) from None

    def _grouped_many(self, chunks: Any, backgrounds: Any, flips: Any, targets: Any) -> None:
        scratch = np.empty((min(len(targets), GROUP_FRAMES), *self.shape), self.dtype)
        rest = zip(backgrounds, flips, targets)
        for start in range(0, len(targets), GROUP_FRAMES):
            group = scratch[: len(targets) - start]
            at = start
            try:
                for picture in group:
                    self._decode(next(chunks), picture)
                    at += 1
            except ValueError as error:
                raise Undecodable(at, str(error)) from None
            predictions.undo(group, self._grouped)
            for picture, (background, turned, target) in zip(group, rest):
                place(picture, background, turned, target)
