"""`vla-store demo` and the demonstrations it draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="drawing a source needs h5py")

from vla_store import cli, open_store  # noqa: E402
from vla_store.demo import DemoReport, run_demo  # noqa: E402
from vla_store.synthetic import SyntheticTask, make_demo, write_suites  # noqa: E402

ONE = (SyntheticTask("drawn", "put_the_cup_on_the_plate", 3, 2),)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoReport, str]:
    """One run of the demo and what it printed."""
    import contextlib
    import io

    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        report = run_demo(tmp_path_factory.mktemp("demo") / "new")
    return report, told.getvalue()


def test_the_demo_leaves_a_store_of_everything_it_drew(shown: tuple[DemoReport, str]) -> None:
    report, _ = shown
    store = open_store(report.store)
    steps = 0
    for path in report.source.rglob("*.hdf5"):
        with h5py.File(path) as hdf5:
            steps += sum(len(demo["actions"]) for demo in hdf5["data"].values())
    assert store.rows == report.steps == steps
    assert sorted(store.suites) == ["drawn_goal", "drawn_spatial"]
    assert report.compared == 256


def test_the_demo_says_what_was_shown_and_where_the_files_are(shown: tuple[DemoReport, str]) -> None:
    report, told = shown
    for expected in (
        "drew",
        "agentview_rgb",
        "background",
        "verified",
        "bit for bit",
        "HDF5, opened per sample",
        "size",
    ):
        assert expected in told
    assert str(report.source) in told
    assert f"vla-store info {report.store}" in told


def test_the_demo_fits_a_narrow_terminal(shown: tuple[DemoReport, str]) -> None:
    report, told = shown
    assert max(len(line.replace(str(report.store.parent), "")) for line in told.splitlines()) <= 80


def test_the_demo_keeps_its_hands_off_a_folder_with_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["demo", str(tmp_path)]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_a_folder_the_demo_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("vla_store.demo.TASKS", ONE)
    monkeypatch.setattr("vla_store.demo.SAMPLES", 64)
    assert cli.main(["demo"]) == 0
    assert "removed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    def digests(folder: Path, seed: int) -> list[str]:
        write_suites(folder, ONE, seed=seed, size=32)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.hdf5"))]

    first, second, other = digests(tmp_path / "a", 1), digests(tmp_path / "b", 1), digests(tmp_path / "c", 2)
    assert first == second != other


@pytest.mark.parametrize("towards", [-np.inf, np.inf])
def test_the_last_bit_of_a_processors_sine_changes_nothing(towards: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # NumPy has other code for AVX-512, and OpenBLAS for every generation.
    drawn = make_demo(np.random.default_rng(3), 3)

    def off(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **options: np.nextafter(function(*given, **options), towards)

    for name in ("sin", "cos", "arctan2", "hypot", "convolve"):
        monkeypatch.setattr(np, name, off(getattr(np, name)))
    monkeypatch.setattr(np.linalg, "norm", off(np.linalg.norm))
    again = make_demo(np.random.default_rng(3), 3)
    assert {name: values.tobytes() for name, values in again.items()} == {
        name: values.tobytes() for name, values in drawn.items()
    }


def test_drawn_demonstrations_follow_the_published_conventions() -> None:
    demo = make_demo(np.random.default_rng(3), 3, size=64)
    steps = len(demo["actions"])
    assert 60 <= steps <= 150
    assert {name: array.dtype.name for name, array in demo.items() if array.dtype != np.float64} == {
        "rewards": "uint8",
        "dones": "uint8",
        "obs/agentview_rgb": "uint8",
        "obs/eye_in_hand_rgb": "uint8",
    }
    # The observation of row t is of the state after action t.
    assert np.array_equal(demo["obs/joint_states"][:-1], demo["states"][1:, 1:8])
    assert np.abs(demo["actions"]).max() <= 1
    assert set(demo["actions"][:, 6].tolist()) == {-1.0, 1.0}
    assert demo["rewards"].tolist() == [0] * (steps - 1) + [1]
    assert np.allclose(np.linalg.norm(demo["robot_states"][:, 5:], axis=1), 1)


def test_the_drawn_cup_ends_on_the_plate() -> None:
    """The script must really carry the cup, or the pictures show a gripper that waves about."""
    for seed in range(5):
        states = make_demo(np.random.default_rng(seed), 3, size=16)["states"]
        cup, plate = states[:, 10:13], states[:, 17:20]
        assert np.linalg.norm(cup[0, :2] - plate[0, :2]) > 0.2
        assert np.linalg.norm(cup[-1, :2] - plate[-1, :2]) < 0.05


def test_the_drawn_third_person_camera_stands_still_and_the_wrist_moves() -> None:
    demo = make_demo(np.random.default_rng(4), 3, size=64)
    third, wrist = demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"]
    middle = len(third) // 2
    assert (third[0] == third[middle]).all(axis=-1).mean() > 0.7
    assert (wrist[0] == wrist[middle]).all(axis=-1).mean() < 0.3
