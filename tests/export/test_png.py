"""PNG as we write it is what Pillow reads, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from export.oracle import picture

from vla_store.export import png

for module in ("PIL", "av", "pyarrow"):
    pytest.importorskip(module, reason=f"what leaves is read back with {module}")


@pytest.mark.parametrize("shape", [(1, 1), (16, 24), (16, 24, 1), (7, 5, 3), (128, 128, 3), (9, 4, 4), (1, 40, 3)])
def test_a_picture_comes_back_as_it_was(shape: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    smooth = (np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1])) % 256).astype(np.uint8)
    if len(shape) == 3:
        smooth = np.repeat(smooth[..., None], shape[2], axis=2)
    for each in (drawn, smooth, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), drawn[::-1]):
        found = picture(png.encode(each))
        assert np.array_equal(found.reshape(shape), each)


def test_sixteen_bits_come_back_as_they_were() -> None:
    depth = np.random.default_rng(2).integers(0, 1 << 16, (12, 10)).astype(np.uint16)
    assert np.array_equal(picture(png.encode(depth)), depth)


def test_rendered_pictures_take_hardly_more_than_with_pillow(demo_store: object) -> None:
    import io

    from PIL import Image

    from vla_store import open_store

    rows = open_store(str(demo_store)).read("agentview_rgb", range(0, 400, 50))
    theirs = 0
    for each in rows:
        out = io.BytesIO()
        Image.fromarray(each).save(out, "PNG")
        theirs += len(out.getvalue())
    assert sum(len(png.encode(each)) for each in rows) < 1.06 * theirs
