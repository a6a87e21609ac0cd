"""The statistics of LeRobot's metadata are NumPy's over all rows at once."""

from __future__ import annotations

import numpy as np
import pytest

import vla_store.features.statistics
from vla_store.features.statistics import QUANTILES, NumberStatistics, PictureStatistics

for module in ("PIL", "av", "pyarrow"):
    pytest.importorskip(module, reason=f"what leaves is read back with {module}")


def in_pieces(statistics: object, rows: np.ndarray, sizes: tuple[int, ...] = (1, 7, 30)) -> dict[str, np.ndarray]:
    at, turn = 0, 0
    while at < len(rows):
        statistics.add(rows[at : at + sizes[turn % len(sizes)]])  # type: ignore[attr-defined]
        at += sizes[turn % len(sizes)]
        turn += 1
    return statistics.result()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("count", [1, 2, 500])
def test_numbers_are_those_of_all_rows(count: int) -> None:
    rows = np.random.default_rng(3).normal(5, 2, (count, 4)).astype(np.float32)
    found = in_pieces(NumberStatistics((4,), is_whole=False), rows)
    for name in ("min", "max", "mean", "std"):
        assert np.allclose(found[name], getattr(rows.astype(float), name)(axis=0), rtol=1e-9), name
    for name, share in QUANTILES.items():
        assert np.allclose(found[name], np.quantile(rows.astype(float), share, axis=0)), name
    assert found["count"].tolist() == [count]


def test_what_is_not_finite_counts_for_nothing() -> None:
    rows = np.array([[1.0, np.nan], [np.inf, np.nan], [3.0, np.nan]])
    found = in_pieces(NumberStatistics((2,), is_whole=False), rows)
    assert (found["min"][0], found["max"][0], found["mean"][0], found["q50"][0]) == (1, 3, 2, 2)
    assert all(np.isfinite(each).all() for each in found.values())


def test_quantiles_of_many_rows_are_of_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vla_store.features.statistics, "KEPT_NBYTES", 8 * 200)
    rows = np.random.default_rng(4).permutation(5000).astype(float)[:, None]
    statistics = NumberStatistics((1,), is_whole=True)
    found = in_pieces(statistics, rows)
    assert abs(found["q50"][0] - 2500) < 600
    assert (found["min"].tolist(), found["max"].tolist(), found["min"].dtype) == ([0], [4999], np.int64)


def test_pictures_are_those_of_all_pixels() -> None:
    rows = np.random.default_rng(5).integers(3, 250, (20, 6, 5, 3)).astype(np.uint8)
    found = in_pieces(PictureStatistics(3), rows)
    pixels = rows.reshape(-1, 3) / 255
    for name in ("min", "max", "mean", "std"):
        assert np.allclose(found[name].reshape(3), getattr(pixels, name)(axis=0)), name
        assert found[name].shape == (3, 1, 1)
    for name, share in QUANTILES.items():
        assert np.allclose(found[name].reshape(3), np.quantile(pixels, share, axis=0)), name
    assert found["count"].tolist() == [20]


def test_one_grey_picture() -> None:
    found = in_pieces(PictureStatistics(1), np.full((1, 2, 2, 1), 255, np.uint8))
    assert found["q99"].item() == found["max"].item() == 1


def test_statistics_of_one_number_have_its_axis() -> None:
    statistics = NumberStatistics((1,), is_whole=True)
    statistics.add(np.array([3, 1, 2]))
    assert {np.shape(each) for each in statistics.result().values()} == {(1,)}
