from __future__ import annotations

import numpy as np
import pytest
from reader.naive import turned

from vla_store.format.schema import ORIENTATIONS
from vla_store.reader.orient import place, turn
from vla_store.types import IMAGES

SHAPES = [(16, 24, 3), (128, 128, 3), (5, 7, 3), (6, 8, 1), (6, 8, 4), (1, 8, 3), (4, 1, 2)]


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 70_000).astype("uint32").astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("images", IMAGES)
def test_a_picture_of_any_source_arrives_as_it_was_asked_for(
    shape: tuple[int, ...], dtype: str, orientation: str, images: str
) -> None:
    picture, out = drawn(shape, dtype, 1), np.zeros(shape, dtype)
    place(picture.copy(), None, turn(images, orientation), out)
    assert np.array_equal(out, turned(picture, images, orientation))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("flips", [0, 1, 2, 3])
def test_a_background_is_added_modulo_before_the_picture_is_turned(
    shape: tuple[int, ...], dtype: str, flips: int
) -> None:
    picture, background, out = drawn(shape, dtype, 1), drawn(shape, dtype, 2), np.zeros(shape, dtype)
    kept = background.copy()
    place(picture.copy(), background, flips, out)
    expected = picture + background
    expected = expected[::-1] if flips & 1 else expected
    expected = expected[:, ::-1] if flips & 2 else expected
    assert np.array_equal(out, expected)
    assert np.array_equal(background, kept)


def test_a_picture_may_be_placed_where_it_already_is() -> None:
    picture, background = drawn((16, 24, 3), "uint8", 1), drawn((16, 24, 3), "uint8", 2)
    expected = picture + background
    place(picture, background, 0, picture)
    assert np.array_equal(picture, expected)


def test_a_picture_is_converted_while_it_is_turned() -> None:
    picture, out = drawn((16, 24, 1), "float32", 1) / 70_000, np.zeros((16, 24, 1), "float16")
    place(picture.copy(), None, 3, out)
    assert np.array_equal(out, picture[::-1, ::-1].astype("float16"))
