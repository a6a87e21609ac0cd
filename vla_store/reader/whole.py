"""Fields of a part read whole, each at most once: for views, statistics and `verify`, which look at every row.

Imports `format` and the reader's own parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.format.nonfinite import counted
from vla_store.format.schema import Field
from vla_store.format.statistics import PartNumbers
from vla_store.format.table import Entries
from vla_store.reader.cached import cached_property
from vla_store.reader.frames import FrameList, frame_list
from vla_store.reader.part import Part

Array = np.ndarray[Any, Any]

MAX_PICTURES = 64
PICTURES_NBYTES = 8 << 20


class WholePart:
    """A part of which every row is read.

    What was read stays in memory as long as this does; of a local store, as views of maps.

    Parameters
    ----------
    part
        The part, opened.

    Attributes
    ----------
    part
        The part.
    document
        Its document.
    counts
        {field: what `nonfinite` gave}.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.document = part.document
        self._values: dict[str, Array] = {}
        self.counts: dict[str, Array] = {}  # what `nonfinite` gives, by field

    @cached_property
    def table(self) -> Entries:
        """The episode table: (episodes,), with a named int64 entry for each column. Raises StoreDamaged."""
        return self.part.entries(0, self.part.episodes)

    @cached_property
    def spans(self) -> npt.NDArray[np.int64]:
        """The rows [start, stop) of every episode: (episodes, 2) int64, counted from the part's first row. Raises
        StoreDamaged.
        """
        return np.stack([self.column("start"), self.column("start") + self.column("length")], axis=1)

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """Return a column of the episode table.

        Parameters
        ----------
        name
            Name of the column.

        Returns
        -------
        ndarray
            (episodes,) int64.

        Raises
        ------
        StoreDamaged
            The table cannot be read.
        """
        column: npt.NDArray[np.int64] = self.table[name]
        return column

    def values(self, field: Field) -> Array:
        """Return the rows of a numeric field.

        Parameters
        ----------
        field
            A field of the part that is no camera.

        Returns
        -------
        ndarray
            (rows, *shape), read-only; of a ragged field its flat array.

        Raises
        ------
        StoreDamaged
            The field cannot be read.
        """
        return self._values.setdefault(field.name, self._read(field))

    def by_episode(self, field: Field) -> list[Array]:
        """Return the rows of a numeric field in every episode.

        Parameters
        ----------
        field
            A field of the part that is no camera.

        Returns
        -------
        list of ndarray
            (length, *shape) for each episode; of a ragged field (length, width of the episode).

        Raises
        ------
        StoreDamaged
            The field, or the episode table, cannot be read.
        """
        values = self.values(field)
        if not field.is_ragged:
            return [values[start:stop] for start, stop in self.spans.tolist()]
        starts, widths = self.part.ragged_spans(field, np.arange(self.part.episodes))
        return [
            values[start : start + length * width].reshape(length, width)
            for start, length, width in zip(starts.tolist(), self.column("length").tolist(), widths.tolist())
        ]

    def picture_blocks(self, field: Field) -> list[range]:
        """Return the rows of the part, in blocks of as many pictures of a camera as may be in memory at one time.

        Parameters
        ----------
        field
            The camera.

        Returns
        -------
        list of range
            At most 64 pictures, and at most 8 MiB of them, a block; but at least one picture.
        """
        most = max(1, min(MAX_PICTURES, PICTURES_NBYTES // field.step_nbytes))
        return [range(start, min(start + most, self.part.rows)) for start in range(0, self.part.rows, most)]

    def pictures(self, field: Field, rows: Sequence[int]) -> Array:
        """Return pictures of a camera as they are stored: not turned.

        Parameters
        ----------
        field
            The camera.
        rows
            n rows, counted from the part's first row.

        Returns
        -------
        ndarray
            (n, *shape) in the field's dtype, little-endian.

        Raises
        ------
        StoreDamaged
            A picture cannot be read.
        """
        out = np.empty((len(rows), *field.fixed_shape), np.dtype(field.dtype).newbyteorder("<"))
        episodes = np.searchsorted(self.spans[:, 1], rows, side="right").tolist()
        self.part.frames(field).fill(frame_list(list(rows), episodes, [0] * len(rows)), out)
        return out

    def encoded(self, field: Field, rows: Sequence[int]) -> list[Any]:
        """Return pictures of a camera as they are encoded, without their crc32c.

        Parameters
        ----------
        field
            The camera.
        rows
            n rows, counted from the part's first row.

        Returns
        -------
        list
            n bytes-like objects.

        Raises
        ------
        StoreDamaged
            A picture cannot be read.
        """
        located = self.part.frames(field).locate(FrameList(list(rows), [0] * len(rows), [0] * len(rows)))
        return list(located.chunks.bodies(self.part.fetcher.read(located.chunks.ranges)))

    def nonfinite(self, field: Field) -> Array:
        """Count the numbers of a field that are NaN, and those that are infinite, in every row.

        Parameters
        ----------
        field
            Any field; one that is not floating has none.

        Returns
        -------
        ndarray
            (rows, 2) int64: NaN, infinite.

        Raises
        ------
        StoreDamaged
            The field cannot be read.
        """
        found = self.counts.get(field.name)
        if found is None and field.is_camera and field.is_floating:
            found = np.concatenate([counted(self.pictures(field, rows)) for rows in self.picture_blocks(field)])
        elif found is None and field.is_floating:
            found = np.concatenate([counted(each) for each in self.by_episode(field)])
        elif found is None:
            found = np.zeros((self.part.rows, 2), np.int64)
        return self.counts.setdefault(field.name, found)

    def numbers(self) -> PartNumbers:
        """Return the part's numeric fields, for statistics: nothing that is read for these is kept.

        Returns
        -------
        PartNumbers
            It reads a field when that field's turn comes.

        Raises
        ------
        StoreDamaged
            The episode table cannot be read.
        """
        episodes = list(zip(self.column("source").tolist(), self.column("length").tolist()))
        return PartNumbers(self.document, episodes, lambda field: [self._read(field)])

    def _read(self, field: Field) -> Array:
        found = self._values.get(field.name)
        column = self.part.column(field)
        return column.span(0, column.rows) if found is None else found
