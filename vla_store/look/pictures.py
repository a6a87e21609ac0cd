"""Conversion of frames of any camera to pictures that a screen can show, and to PNG. Pure functions over arrays."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.reader.values import StoreField

Array = np.ndarray[Any, Any]
Pictures = npt.NDArray[np.uint8]

# Depth, from near (dark) to far (light): even steps in lightness, told apart without red and green.
_RAMP = np.array(
    [[20, 16, 60], [52, 50, 130], [40, 104, 156], [36, 152, 150], [94, 196, 118], [190, 224, 90], [252, 250, 190]]
)
NOT_A_NUMBER = (255, 0, 160)
# Of the pixels that count, so many at each end may be outside of the range that is shown: a few far pixels flatten the rest.
_CLIPPED_PERCENT = 1.0


def is_colour(field: StoreField) -> bool:
    """Return True if frames of this field are shown as they are: colours, or a grey picture."""
    return field.dtype == "uint8" and len(field.shape) > 2


def with_channels(frames: Array) -> Array:
    """Return (n, H, W, ...) frames as (n, H, W, C)."""
    return frames.reshape(*frames.shape[:3], -1)


def value_range(frames: Array) -> tuple[float, float] | None:
    """Return the range of numbers that is shown as colours; None where frames are colours already.

    frames: (n, H, W, ...). All but uint8 with channels have a range (depth, masks, numbers of instances); without one finite
    number it is (0, 0).
    """
    if frames.dtype == np.uint8 and frames.ndim > 3:
        return None
    finite = frames[np.isfinite(frames)].astype(np.float64)
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, [_CLIPPED_PERCENT, 100 - _CLIPPED_PERCENT])
    if low == high:
        low, high = finite.min(), finite.max()
    return float(low), float(high)


def to_rgb(frames: Array, shown: tuple[float, float] | None) -> Pictures:
    """Return (n, H, W, ...) frames as (n, H, W, 3) uint8.

    Without a range: three channels are red, green, blue, and further ones are left out; one or two are a grey picture of the
    first. With one: numbers from shown[0] to shown[1] as colours if there are fewer than three channels, else as the brightness
    of each; what is no number, or infinite, is pink.
    """
    frames = with_channels(frames)
    if shown is None:
        first = frames[..., :3] if frames.shape[3] >= 3 else np.repeat(frames[..., :1], 3, axis=3)
        return np.ascontiguousarray(first, np.uint8)
    low, high = shown
    values = frames[..., : 3 if frames.shape[3] >= 3 else 1].astype(np.float64)
    known = np.isfinite(values)
    share = np.clip((np.where(known, values, low) - low) / ((high - low) or 1.0), 0, 1)
    if share.shape[3] == 3:
        made = np.rint(share * 255).astype(np.uint8)
    else:
        stops = np.linspace(0, 1, len(_RAMP))
        made = np.stack([np.rint(np.interp(share[..., 0], stops, channel)) for channel in _RAMP.T], axis=3).astype(
            np.uint8
        )
    made[~known.all(axis=3)] = NOT_A_NUMBER
    return made


def shrunk(picture: Pictures, max_side: int) -> Pictures:
    """Shrink an (H, W, 3) picture by a whole factor, by the mean of squares of pixels, so that no side is longer than `max_side`."""
    height, width = picture.shape[:2]
    factor = -(-max(height, width) // max_side)
    if factor == 1:
        return picture
    rows, columns = max(1, height // factor), max(1, width // factor)
    cut = picture[: rows * factor, : columns * factor].astype(np.float64)
    blocks = cut.reshape(rows, cut.shape[0] // rows, columns, cut.shape[1] // columns, 3)
    made: Pictures = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return made


def indexed(picture: Pictures, colours: int) -> tuple[Pictures, Pictures]:
    """Return a palette, (n, 3), and the place in it of each pixel, (H, W) uint8: at most `colours` of them, by median cut.

    The box of colours that spreads most pixels furthest is cut at its median, again and again. Each colour is the mean of its
    box, and the palette goes from dark to light, so that neighbours in it look alike.
    """
    pixels = picture.reshape(-1, 3)
    boxes = [np.arange(len(pixels))]
    spans = [_span(pixels)]
    while len(boxes) < colours:
        widest = max(range(len(boxes)), key=lambda at: float(spans[at].max()) * math.sqrt(len(boxes[at])))
        channel = int(spans[widest].argmax())
        if not spans[widest][channel]:
            break
        box = boxes[widest]
        values = pixels[box, channel]
        middle = np.median(values)
        below = values < middle if (values < middle).any() else values <= middle
        halves = box[below], box[~below]
        boxes[widest : widest + 1] = halves
        spans[widest : widest + 1] = [_span(pixels[half]) for half in halves]
    means = np.array([np.rint(pixels[box].mean(axis=0)) for box in boxes])
    order = np.argsort(means.sum(axis=1), kind="stable")
    places = np.empty(len(pixels), np.uint8)
    for place, at in enumerate(order.tolist()):
        places[boxes[at]] = place
    return means[order].astype(np.uint8), places.reshape(picture.shape[:2])


def _span(pixels: Pictures) -> npt.NDArray[np.int64]:
    span: npt.NDArray[np.int64] = np.ptp(pixels.astype(np.int64), axis=0)
    return span


def png_bytes(picture: Pictures, colours: int = 0) -> bytes:
    """Encode an (H, W, 3) picture as PNG: the same picture gives the same bytes.

    colours: from 2 to 256, so many that suit it, a palette; 0: every pixel as it is. Then every row has PNG's filter 4 (Paeth):
    rendered pictures get about a quarter smaller than with none. Source: the PNG specification (third edition), 9.4 and 11.2.
    """
    height, width, _ = picture.shape
    if colours:
        palette, places = indexed(picture, colours)
        lines = np.pad(places, ((0, 0), (1, 0)))
        return _png(width, height, 3, _chunk(b"PLTE", palette.tobytes()), lines)
    padded = np.zeros((height + 1, width + 1, 3), np.int16)
    padded[1:, 1:] = picture
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = left + above - corner
    far_left, far_above, far_corner = np.abs(guess - left), np.abs(guess - above), np.abs(guess - corner)
    nearest = np.where(
        (far_left <= far_above) & (far_left <= far_corner), left, np.where(far_above <= far_corner, above, corner)
    )
    lines = np.empty((height, 1 + width * 3), np.uint8)
    lines[:, 0] = 4
    lines[:, 1:] = (padded[1:, 1:] - nearest).astype(np.uint8).reshape(height, -1)
    return _png(width, height, 2, b"", lines)


def _png(width: int, height: int, kind: int, palette: bytes, lines: Pictures) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + head + palette + data + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
