from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="the benchmark builds a store")
pytest.importorskip("zarr", reason="the benchmark builds a store")
pytest.importorskip("PIL.Image")
if not (Path(__file__).resolve().parents[2] / "benchmarks").exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)

from benchmarks import rdt_pictures


def test_what_pictures_cost_is_measured(tiny_source: Path, tmp_path: Path) -> None:
    result = rdt_pictures.measure(tiny_source, tmp_path, rounds=2, samples=3)
    assert result["nbytes"] == {"read": 2 * 2 * 16 * 24 * 3, "prepare": 6 * 3 * 384 * 384 * 4}
    assert all(each["median"] > 0 for each in result["cpu_ms"].values())
    assert "times as much" in rdt_pictures.summary(result)


def test_a_picture_that_is_masked_is_the_background() -> None:
    rng = np.random.default_rng(0)
    item = {camera: rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8) for camera in rdt_pictures.CAMERAS}
    item |= {f"{camera}_mask": np.array([False, camera == "cam_high"]) for camera in rdt_pictures.CAMERAS}
    made = rdt_pictures.six_pictures(item)
    assert [len(np.unique(each)) == 1 for each in made] == [True, True, True, False, True, True]
