"""Predictions: applied and undone, and the rows that backgrounds and probes look at."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_store.format import predictions
from vla_store.format.codecs import PRESETS

# Every list that can stand in a store for three channels: any order, `background` first where it is there.
LISTS = [
    chosen
    for length in range(4)
    for chosen in itertools.permutations(predictions.KNOWN, length)
    if "background" not in chosen[1:]
]


def naive_residual(picture: list, prediction: tuple[str, ...], background: list, bits: int) -> list:
    """The specification's words, number by number: picture[y][x][c]."""
    for name in prediction:
        picture = [
            [
                [
                    (
                        value
                        - {
                            "background": lambda y=y, x=x, c=c: background[y][x][c],
                            "green": lambda y=y, x=x, c=c, p=picture: 0 if c == 1 else p[y][x][1],
                            "above": lambda y=y, x=x, c=c, p=picture: 0 if y == 0 else p[y - 1][x][c],
                        }[name]()
                    )
                    % 2**bits
                    for c, value in enumerate(pixel)
                ]
                for x, pixel in enumerate(line)
            ]
            for y, line in enumerate(picture)
        ]
    return picture


@pytest.mark.parametrize("prediction", LISTS, ids="-".join)
@given(data=st.data())
def test_residuals_are_what_the_specification_says_in_words(prediction: tuple[str, ...], data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "uint16"]))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.just(3)))
    frames = data.draw(hnp.arrays(dtype, shape))
    background = data.draw(hnp.arrays(dtype, shape[1:]))
    residuals = predictions.apply(frames, prediction, background)
    assert residuals.dtype == frames.dtype
    for frame, residual in zip(frames, residuals):
        naive = naive_residual(frame.tolist(), prediction, background.tolist(), 8 * frames.itemsize)
        assert residual.tolist() == naive


def test_the_lists_tried_here_contain_every_list_that_a_preset_tries() -> None:
    assert {tuple(each) for preset in PRESETS.values() for each in preset.predictions} <= set(LISTS)
    assert len(LISTS) == 1 + 3 + 4 + 2


@pytest.mark.parametrize("prediction", LISTS, ids="-".join)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 65])
@pytest.mark.parametrize("height", [1, 2, 31, 32, 33])
def test_undoing_gives_the_frames_back(prediction: tuple[str, ...], dtype: str, count: int, height: int) -> None:
    rng = np.random.default_rng(count * height)
    most = np.iinfo(dtype).max
    frames = rng.integers(0, most, (count, height, 6, 3), dtype, endpoint=True)
    background = rng.integers(0, most, (count, height, 6, 3), dtype, endpoint=True)
    residuals = predictions.apply(frames, prediction, background).copy()
    predictions.undo(residuals, prediction)
    if "background" in prediction:
        residuals += background
    assert residuals.tobytes() == frames.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("prediction", [(), ("background",), ("above",), ("background", "above")], ids="-".join)
def test_predictions_without_green_work_on_any_number_of_channels(prediction: tuple[str, ...], channels: int) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (9, 5, 4, channels), np.uint8)
    residuals = predictions.apply(frames, prediction, frames[3]).copy()
    predictions.undo(residuals, prediction)
    if "background" in prediction:
        residuals += frames[3]
    assert residuals.tobytes() == frames.tobytes()


def test_undoing_works_in_place_on_a_view_of_a_batch() -> None:
    batch = np.random.default_rng(2).integers(0, 256, (10, 4, 6, 5, 3), np.uint8)
    before = batch.copy()
    view = batch[2:4, 1]
    expected = view.copy()
    predictions.undo(expected, ("green", "above"))
    predictions.undo(view, ("green", "above"))
    assert view.tobytes() == expected.tobytes()
    before[2:4, 1] = expected
    assert batch.tobytes() == before.tobytes()


def test_applying_leaves_the_frames_as_they_were() -> None:
    frames = np.random.default_rng(3).integers(0, 256, (4, 6, 5, 3), np.uint8)
    before = frames.copy()
    for prediction in LISTS:
        predictions.apply(frames, prediction, before[0])
    assert frames.tobytes() == before.tobytes()


def test_an_unknown_prediction_is_an_error_both_ways() -> None:
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="left"):
        predictions.apply(frames, ["left"])
    with pytest.raises(ValueError, match="left"):
        predictions.undo(frames, ["left"])


@given(
    hnp.arrays(
        st.sampled_from(["uint8", "uint16"]),
        st.tuples(st.integers(1, 20), st.integers(1, 3), st.integers(1, 3), st.just(1)),
        elements=st.integers(0, 3) | st.integers(250, 255),
    )
)
def test_a_background_is_the_mode_and_of_two_the_smaller(frames: np.ndarray) -> None:
    background = predictions.background_of(frames)
    assert background.dtype == frames.dtype
    for place in np.ndindex(frames.shape[1:]):
        counts = Counter(int(frame[place]) for frame in frames)
        assert int(background[place]) == min(counts, key=lambda value: (-counts[value], value))


def test_the_background_of_one_frame_is_that_frame() -> None:
    frame = np.random.default_rng(4).integers(0, 256, (1, 5, 4, 3), np.uint8)
    assert predictions.background_of(frame).tobytes() == frame.tobytes()


@given(st.integers(1, 5000))
def test_a_background_looks_at_sixteen_frames_spread_over_the_episode_or_at_all(steps: int) -> None:
    rows = predictions.background_rows(steps)
    if steps < 16:
        assert rows == list(range(steps))
    else:
        assert len(rows) == len(set(rows)) == 16
        assert (rows[0], rows[-1]) == (0, steps - 1)
        assert rows == sorted(rows)
        assert rows == [(2 * k * (steps - 1) + 15) // 30 for k in range(16)]


@given(st.integers(1, 2**31 - 1))
def test_a_probe_looks_at_sixty_four_rows_spread_over_the_part(rows: int) -> None:
    looked = predictions.probe_rows(rows)
    assert len(looked) == 64
    assert (looked[0], looked[-1]) == (0, rows - 1)
    assert looked == [(2 * k * (rows - 1) + 63) // 126 for k in range(64)]
    for k, row in enumerate(looked):  # the nearest row to an even spread, halves upward
        assert abs(row * 63 - k * (rows - 1)) * 2 <= 63


@pytest.mark.parametrize(
    ("prediction", "dtype", "shape", "holds"),
    [
        ([], "float32", (4, 5, 1), True),
        ([], "uint8", (4, 5, 4), True),
        (["background"], "uint16", (4, 5, 1), True),
        (["background", "green", "above"], "uint8", (4, 5, 3), True),
        (["above", "green"], "uint8", (4, 5, 3), True),
        (["background"], "float32", (4, 5, 3), False),
        (["above"], "int8", (4, 5, 3), False),
        (["green"], "uint8", (4, 5, 1), False),
        (["green"], "uint8", (4, 5, 4), False),
        (["above", "background"], "uint8", (4, 5, 3), False),
        (["above", "above"], "uint8", (4, 5, 3), False),
        (["background", "background"], "uint8", (4, 5, 3), False),
        (["background", "above"], "uint16", (4, 5), True),
        (["above"], "uint8", (4, 5, 2, 3), True),
        (["green"], "uint8", (4, 3), False),
        (["green"], "uint8", (4, 5, 2, 3), False),
        (["background"], "bool", (4, 5), False),
        (["left"], "uint8", (4, 5, 3), False),
    ],
)
def test_only_these_lists_can_stand_in_a_store(
    prediction: list[str], dtype: str, shape: tuple[int, ...], holds: bool
) -> None:
    assert predictions.valid(prediction, dtype, shape) is holds
