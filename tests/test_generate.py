"""The generated source is LIBERO-shaped, follows from its seed, and builds into a sound store."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import store_tools

h5py = pytest.importorskip("h5py", reason="writing a source needs h5py")
pytest.importorskip("zarr", reason="building needs zarr")

from benchmarks.generate import generate  # noqa: E402
from vla_store.audit import verify_store  # noqa: E402

NBYTES = 3_000_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    made = generate(folder, NBYTES, size=16)
    assert made.nbytes == sum(path.stat().st_size for path in folder.rglob("*.hdf5"))
    assert NBYTES <= made.nbytes <= NBYTES * 1.2
    assert made.files == len(list(folder.glob("*/*.hdf5")))
    return folder


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(source: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", NBYTES, size=16)
    generate(tmp_path / "other", NBYTES, size=16, seed=1)
    assert store_tools.digests(tmp_path / "again") == store_tools.digests(source)
    assert not set(store_tools.digests(tmp_path / "other").values()) & set(store_tools.digests(source).values())


def test_no_two_demos_have_a_frame_in_common(source: Path) -> None:
    seen: dict[bytes, str] = {}
    for path in source.rglob("*.hdf5"):
        with h5py.File(path) as file:
            for name, demo in file["data"].items():
                place = f"{path.name} {name}"
                for frame in demo["obs/eye_in_hand_rgb"][()]:
                    assert seen.setdefault(hashlib.sha256(frame).digest(), place) == place


def test_it_is_contiguous_ragged_in_several_suites_and_builds_without_a_warning(source: Path, tmp_path: Path) -> None:
    with h5py.File(next(source.rglob("*.hdf5"))) as file:
        assert file["data/demo_0/obs/agentview_rgb"].chunks is None
    from vla_store.builder import build_store

    report = build_store(source, tmp_path / "x.vla")
    assert report.warnings == ()
    assert len({suite.suite for suite in report.document.sources}) == 5
    assert report.document.fields["states"].is_ragged
    assert {each.observation for each in report.document.sources} == {"after"}
    assert verify_store(tmp_path / "x.vla", against=[source]).sound


def test_the_command_writes_gigabytes_and_refuses_a_folder_in_use(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.generate", str(tmp_path / "out")]
    command += ["--gigabytes", "0.001", "--size", "16"]
    for expected in (0, 2):
        done = subprocess.run(command, capture_output=True, text=True, env=store_tools.environment())
        assert done.returncode == expected, done.stderr
    assert "is not empty" in done.stderr
    assert 1_000_000 <= sum(path.stat().st_size for path in tmp_path.rglob("*.hdf5")) <= 1_500_000
