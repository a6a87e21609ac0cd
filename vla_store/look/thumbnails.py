"""The pictures of a page, as PNG that fit in a number of bytes: few as they are, many smaller and in fewer colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_store.look.pictures import Pictures, png_bytes, shrunk

# (longest side in pixels, colours; 0: all) from the best to the smallest. At 64 pixels and 64 colours, pictures that LIBERO's
# simulator renders take an eighth of the bytes that they take at 128 with all colours.
FORMS = ((160, 0), (160, 64), (80, 128), (80, 64), (80, 32), (48, 32))
TRIED = 16  # pictures, by which it is guessed whether all fit: encoding takes milliseconds each


@dataclass(frozen=True)
class Thumbnail:
    """A picture as PNG, and its pixels as it was given: what it stands for on a screen."""

    png: bytes
    width: int
    height: int


def thumbnails(pictures: Sequence[Pictures], most_nbytes: int) -> list[Thumbnail]:
    """Encode (H, W, 3) pictures in the first form of `FORMS` in which all of them take no more bytes, or in the last one."""
    tried = pictures[:: -(-len(pictures) // TRIED) or 1]
    for side, colours in FORMS:
        smallest = (side, colours) == FORMS[-1]
        guess = sum(len(png_bytes(shrunk(each, side), colours)) for each in tried) * len(pictures)
        if not smallest and guess > most_nbytes * len(tried):
            continue
        made = [png_bytes(shrunk(each, side), colours) for each in pictures]
        if smallest or sum(map(len, made)) <= most_nbytes:
            return [Thumbnail(png, each.shape[1], each.shape[0]) for png, each in zip(made, pictures)]
    raise AssertionError("FORMS has a last one")
