"""Which fields of a demonstration are pictures: those of a camera, and what lies pixel by pixel over one.

May import protocol of this folder, and errors.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace

from vla_store.errors import SourceError
from vla_store.sources.protocol import MIN_SIDE, FieldSpec

# Names that promise a picture. The first two are cameras' own, which have channels.
_COLOURS = re.compile(r"_(rgb|image)\Z")
_OVERLAYS = re.compile(r"(\A|[_/])(depth|masks?|seg|segmentation(_[a-z]+)?)\Z")

Size = tuple[int, ...]


def with_pictures(fields: Mapping[str, FieldSpec], paths: Mapping[str, str] | None = None) -> dict[str, FieldSpec]:
    """Mark as pictures the fields that have the size of a camera of this demonstration. Raises SourceError.

    A camera is what `FieldSpec.is_camera` says. Of the other fields, unless `picture` is said or they are ragged, (H, W, ...)
    with H and W of a camera is a picture, whatever its dtype and role, and so are colours, (H, W, 3 or 4) of uint8. What may be
    pictures that lie otherwise, and would be left unturned without a word, is refused.
    paths: what to call a field in an error, where not by its name.
    """
    sizes = {spec.shape[:2] for spec in fields.values() if spec.is_camera}
    return {name: _settled((paths or {}).get(name, name), spec, sizes) for name, spec in fields.items()}


def _settled(name: str, spec: FieldSpec, sizes: set[Size]) -> FieldSpec:
    if spec.is_camera or spec.picture is not None or spec.ragged:
        return spec
    shape = spec.shape
    colours = spec.dtype == "uint8" and len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) >= MIN_SIDE
    if shape[:2] in sizes or colours:
        return replace(spec, picture=True)
    problem = _problem(name, spec, {each for each in sizes if min(each) >= MIN_SIDE})
    if problem:
        raise SourceError(
            "images have the wrong dtype or shape",
            dataset=name,
            expected="(T, H, W, C) with C at most 4; or (T, H, W, ...) with H and W of a camera",
            found=f"(T, {', '.join(map(str, shape))}) of {spec.dtype}, {problem[0]}",
            hint=problem[1],
        )
    return spec


def _problem(name: str, spec: FieldSpec, sizes: set[Size]) -> tuple[str, str] | None:
    """Return what is odd about a field that is no picture as it is, but may hold some, and what to do; None where nothing is."""
    shape = spec.shape
    if any(pair in sizes for pair in itertools.pairwise(shape[1:])) or (
        len(shape) == 3 and spec.role == "observation" and shape[0] <= 4 and min(shape[1:]) >= MIN_SIDE
    ):
        return (
            "which looks like (T, channels, H, W)",
            "write it with the rows and columns first: np.moveaxis(data, 1, -1)",
        )
    if len(shape) == 2 and shape[::-1] in sizes:
        return "which is a camera's size with rows and columns exchanged", "write it as np.swapaxes(data, 1, 2)"
    if len(shape) == 2 and (_COLOURS.search(name) or (_OVERLAYS.search(name) and min(shape) >= MIN_SIDE)):
        return "a picture by its name, and of no camera's size", "write it with an axis of channels: data[..., None]"
    if len(shape) >= 3 and spec.role == "observation" and max(shape[-2:]) >= MIN_SIDE:
        return (
            "which may be pictures, or may not",
            "pictures: write up to 4 channels a dataset; numbers: (T, n), data.reshape(len(data), -1); or --exclude it",
        )
    return None
