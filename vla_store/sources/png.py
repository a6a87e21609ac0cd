"""Pictures that a source holds as PNG, which is lossless: their pixels are stored, and any decoder gives the same.

May import extras, jpeg and protocol of this folder, format and errors.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_store.errors import SourceError
from vla_store.extras import needed
from vla_store.format.jpeg import is_jpeg
from vla_store.format.schema import MAX_FRAME_BYTES
from vla_store.sources.jpeg import Jpegs
from vla_store.sources.protocol import MEND, Array, FieldSpec

_BEGIN = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {(8, 0): 1, (8, 2): 3, (8, 4): 2, (8, 6): 4, (16, 0): 1}  # by bits and kind of colours


@dataclass(frozen=True)
class Pngs:
    """How the PNG pictures of a source are read. extra: of this package, which installs what its kind needs."""

    extra: str

    def spec(self, first: bytes) -> FieldSpec:
        """Describe a camera by its first picture. Raises SourceError; MachineError where none could be decoded."""
        needed("PIL.Image", self.extra)
        return _spec_of(first)

    def rows(self, spec: FieldSpec, pictures: Sequence[bytes], start: int = 0) -> Array:
        """Return pictures as rows of their field. start: the step of the first, for errors. Raises SourceError."""
        out = np.empty((len(pictures), *spec.shape), spec.dtype)
        for row, data in enumerate(pictures):
            try:
                if (found := _spec_of(data)) != spec:
                    raise SourceError(
                        "pictures of different size or type in one camera",
                        expected=f"{spec.shape} of {spec.dtype}, as the first",
                        found=f"{found.shape} of {found.dtype}",
                        hint=MEND,
                    )
                out[row] = self._decoded(data).reshape(spec.shape)
            except SourceError as error:
                raise error.at(row=start + row) from None
        return out

    def _decoded(self, data: bytes) -> Array:
        Image = needed("PIL.Image", self.extra)
        try:
            return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            found = str(error).partition(" <_io")[0][:200]
            raise SourceError("a PNG picture does not decode", found=found, hint=MEND) from None


def reader_of(picture: bytes, jpegs: Jpegs, pngs: Pngs) -> Jpegs | Pngs:
    """Return what reads pictures that are as this one: JPEG, or else PNG."""
    return jpegs if is_jpeg(picture) else pngs


def _spec_of(first: bytes) -> FieldSpec:
    if not first.startswith(_BEGIN) or first[12:16] != b"IHDR" or len(first) < 26:
        raise SourceError(
            "encoded pictures are neither PNG nor JPEG, or not all of one kind",
            found=f"{len(first)} bytes that begin with {first[:8]!r}",
            hint=MEND,
        )
    width, height = (int.from_bytes(first[at : at + 4], "big") for at in (16, 20))
    bits, colours = first[24], first[25]
    if (bits, colours) not in _CHANNELS:  # a palette, say, or colours of 16 bits, which Pillow would cut to 8
        raise SourceError(
            "a PNG picture of a kind that is not known",
            expected="8 bits a channel, or grey of 16 bits",
            found=f"{bits} bits, colour type {colours}",
        )
    shape = (height, width, _CHANNELS[bits, colours])
    if height * width * shape[2] * bits // 8 > MAX_FRAME_BYTES:
        raise SourceError("a PNG picture is too large", expected=f"at most {MAX_FRAME_BYTES} bytes", found=shape)
    return FieldSpec(f"uint{bits}", shape, "observation", picture=True)
