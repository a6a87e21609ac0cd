"""Pictures that a source holds as JPEG: decoded once, at build, because the store keeps pixels.

The decoder is Pillow, which only this needs: it is imported when the first such picture is met. Two decoders may differ in
the last bit of a pixel, so a store records which one made its pixels. May import protocol of this folder, format and errors.
"""

from __future__ import annotations

import functools
import io
import sys
from typing import Any

import numpy as np

from vla_store.errors import MachineError, SourceError
from vla_store.format.schema import MAX_FRAME_BYTES
from vla_store.sources.protocol import Array

CODEC = "jpeg"

_LEAVE_OUT = (
    "mend the file, or leave such demonstrations out with --skip-bad, which decodes every picture before it builds anything "
    "(add --overwrite to discard the unfinished build)"
)
_SIGNATURE = b"\xff\xd8\xff"
ENCODED = (_SIGNATURE, b"\x89PNG")  # what encoded pictures begin with
_CHANNELS = {"RGB": 3, "L": 1}  # other modes (CMYK) would need a conversion that is nobody's but ours


def decoder() -> str:
    """Return what decodes here, with its version: "Pillow 11.3.0, libjpeg-turbo 3.1.1"."""
    features = _pillow("features")
    turbo = features.version("libjpeg_turbo")
    return f"Pillow {_pillow('Image').__version__}, {f'libjpeg-turbo {turbo}' if turbo else 'libjpeg ' + str(features.version('jpg'))}"


def shape_of(data: Array) -> tuple[int, int, int]:
    """Return (height, width, channels) of one picture, from its header. data: its bytes, (n,) uint8. Raises SourceError."""
    image = _opened(data)
    width, height = image.size
    return height, width, _CHANNELS[image.mode]


def decode(data: Array, out: Array) -> None:
    """Decode one picture into out (H, W, C) of uint8. Raises SourceError for bytes that are no such picture."""
    image = _opened(data)
    found = (*image.size[::-1], _CHANNELS[image.mode])
    if found != out.shape:
        raise SourceError(
            "pictures of different size in one camera",
            expected=f"{out.shape}, as the first",
            found=found,
            hint=_LEAVE_OUT,
        )
    try:
        out[...] = np.asarray(image).reshape(out.shape)
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError("a JPEG picture does not decode", found=str(error)[:200], hint=_LEAVE_OUT) from None


def _opened(data: Array) -> Any:
    Image = _pillow("Image")
    encoded = np.ascontiguousarray(data, np.uint8).tobytes()
    if not encoded.startswith(_SIGNATURE):
        raise SourceError(
            "encoded pictures are not JPEG",
            expected=f"bytes that begin with {_SIGNATURE!r}",
            found=f"{len(encoded)} bytes that begin with {encoded[:4]!r}",
            hint=_LEAVE_OUT,
        )
    try:
        image = Image.open(io.BytesIO(encoded), formats=("JPEG",))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SourceError(
            "a JPEG picture does not decode", found=str(error).partition(" <_io")[0][:200], hint=_LEAVE_OUT
        ) from None
    if image.mode not in _CHANNELS or image.size[0] * image.size[1] * _CHANNELS[image.mode] > MAX_FRAME_BYTES:
        raise SourceError(
            "a JPEG picture of a kind that is not taken",
            expected=f"RGB or grey, at most {MAX_FRAME_BYTES} bytes",
            found=f"{image.mode}, {image.size[0]} x {image.size[1]}",
            hint=_LEAVE_OUT,
        )
    return image


@functools.cache
def _pillow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise MachineError(
            "JPEG pictures need Pillow, which is not installed here",
            python=f"{sys.version.split()[0]} at {sys.executable}",
            hint='pip install "vla-store[jpeg]", or pip install pillow',
        ) from error
