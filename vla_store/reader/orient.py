"""Turning pictures while they move into place. Pure functions over arrays.

A camera's pictures lie in the store as its source recorded them: "bottom_up" (rows from the bottom), "top_down" (the true
picture), or "rot180" (a bottom_up picture turned by 180 degrees, which is upright but mirrored).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

FLIP_ROWS = 1
FLIP_COLUMNS = 2

_TURNS = {
    "as_stored": {"bottom_up": 0, "top_down": 0, "rot180": 0},
    "upright": {"bottom_up": FLIP_ROWS, "top_down": 0, "rot180": FLIP_COLUMNS},
    "rot180": {"bottom_up": FLIP_ROWS | FLIP_COLUMNS, "top_down": FLIP_COLUMNS, "rot180": 0},
}

Picture = np.ndarray[Any, Any]


def turn(images: str, orientation: str) -> int:
    """Return which axes to flip, as a sum of FLIP_ROWS and FLIP_COLUMNS, so that a source of this orientation looks as `images` says."""
    return _TURNS[images][orientation]


def place(picture: Picture, background: Picture | None, flips: int, out: Picture) -> None:
    """Write `picture`, plus `background` modulo 2^bits, turned, into `out`.

    All three are (H, W), or (H, W, ...). `picture` is scratch: it may be changed; it is `out` itself only where nothing is flipped.
    """
    if flips & FLIP_COLUMNS:
        if background is not None:
            np.add(picture, background, out=picture)
        _mirror(picture, bool(flips & FLIP_ROWS), out)
    elif flips:
        if background is not None:
            np.add(picture[::-1], background[::-1], out=out)
        else:
            out[...] = picture[::-1]
    elif background is not None:
        np.add(picture, background, out=out)
    elif picture is not out:
        out[...] = picture


def _mirror(picture: Picture, flip_rows: bool, out: Picture) -> None:
    """Write a picture into `out` with its columns, and maybe its rows, in reverse."""
    height, width, *channels = picture.shape
    if picture.dtype == np.uint8 == out.dtype and channels == [3] and width % 8 == 0 and out.flags.c_contiguous:
        # NumPy moves pixels of three bytes one by one (110 us for 128 x 128; this takes 10). So: reverse every row's bytes,
        # eight at a time, which also turns RGB into BGR, then exchange the first and third byte of each pixel.
        words = picture.reshape(height, -1).view("<u8")
        out.reshape(height, -1).view(">u8")[...] = words[::-1, ::-1] if flip_rows else words[:, ::-1]
        _exchange_channels(out.reshape(-1))
    else:
        turned = picture[::-1, ::-1] if flip_rows else picture[:, ::-1]
        for channel in np.ndindex(*channels):  # long strided runs instead of runs of a pixel's few numbers
            at = (slice(None), slice(None), *channel)
            out[at] = turned[at]


def _exchange_channels(data: Picture) -> None:
    """Exchange bytes 0 and 2 of every three, in place: the difference of both, where it counts, is added to both."""
    first, third = data[:-2], data[2:]
    difference = np.bitwise_xor(first, third)
    np.bitwise_and(difference, _first_of_three(len(data)), out=difference)
    np.bitwise_xor(first, difference, out=first)
    np.bitwise_xor(third, difference, out=third)


@functools.lru_cache(maxsize=8)
def _first_of_three(nbytes: int) -> Picture:
    mask = np.zeros(nbytes - 2, np.uint8)
    mask[::3] = 255
    return mask
