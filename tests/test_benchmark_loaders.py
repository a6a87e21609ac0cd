"""benchmarks/loaders.py: every loader is held to the samples of the HDF5 files, and says who is ahead of whom."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("h5py", reason="the benchmarks read HDF5")
pytest.importorskip("PIL", reason="pictures of those who keep PNG")
if not (Path(__file__).resolve().parents[1] / "benchmarks").exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("it reads the memory of other processes from /proc", allow_module_level=True)

from benchmarks import environments, loaders, loaders_page, loaders_records, loaders_rivals, loaders_source, report
from vla_store.reader.store import open_store

OURS = {"vla_store `fast`, Loader", "vla_store `fast`, DataLoader", "vla_store `small`, Loader"}


# Each turn is a fresh process that imports torch, and on a busy machine that takes long.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loaders")


@pytest.fixture(scope="module")
def source(tiny_source: Path, work: Path) -> loaders_source.Source:
    return loaders.prepared(tiny_source, work, work, (), {}).source


@pytest.fixture(scope="module")
def measured(tiny_source: Path, work: Path, source: loaders_source.Source) -> dict[str, Any]:
    """Ours, and a library that is not there: none other is a requirement of the tests."""
    broken = work / "environments" / "lance"
    (broken / "bin").mkdir(parents=True)
    (broken / "bin" / "python").symlink_to(sys.executable)
    (broken / "ready").write_text(repr(loaders_rivals.RIVALS["lance"].installs))
    return loaders.measure(
        tiny_source, work, work / "environments", rounds=1, seconds=0.05, names=["lance"], kinds=("window",)
    )


def test_what_ours_deliver_is_what_the_files_hold(measured: dict[str, Any]) -> None:
    # `measure` compares every sample itself, and raises where one differs: here, that none was left out.
    assert {row["contender"] for row in measured["rows"]} == OURS
    for row in measured["rows"]:
        assert 20 < row["samples_checked"] <= measured["samples"]  # of a batch of 64, in which some come twice
        assert row["pss_nbytes"]["median"] > 1e6
        assert all(row[figure]["median"] > 0 for figure in loaders.FIGURES)
    (yardstick,) = (row for row in measured["rows"] if row["name"] == loaders.YARDSTICK)
    assert yardstick["ratios"]["cpu"]["median"] == yardstick["ratios"]["rate"]["median"] == 1


def test_a_library_that_cannot_be_used_is_a_line(measured: dict[str, Any], work: Path) -> None:
    assert measured["failed"]["Lance, raw"].startswith("ModuleNotFoundError")
    assert not list(work.glob("lance-*"))
    assert "**Lance, raw** could not be measured: ModuleNotFoundError" in report.page({"loaders": measured})


def test_a_sample_is_the_stores_in_numbers_too(source: loaders_source.Source, work: Path) -> None:
    from benchmarks.workload import WINDOWS
    from vla_store import Samples

    samples = Samples(
        open_store(work / "fast.vla"), windows=WINDOWS, alignment="causal", images="as_stored", dtype="float32"
    )
    ours, theirs = samples.batch(np.arange(len(samples))), source.batch(np.arange(len(source)), "window")
    for name, own in {"state": "robot_states", "actions_is_pad": "actions_is_pad", "actions": "actions"}.items():
        assert np.array_equal(theirs[name], ours[own])
    assert np.array_equal(source.batch(np.arange(len(source)), "step")["actions"], theirs["actions"][:, 0])


@pytest.mark.parametrize("kind", loaders_source.KINDS)
@pytest.mark.parametrize("pictures", [loaders_source.RAW, loaders_source.PNG])
def test_a_record_unpacks_to_the_sample_that_it_was_made_of(
    source: loaders_source.Source, kind: str, pictures: str
) -> None:
    indices = np.array([0, len(source) - 1])
    records = [loaders_records.record_of(source, int(each), kind, pictures) for each in indices]
    assert [record.pop("index") for record in records] == indices.tolist()
    unpacked = [loaders_records.unpacked(record, kind, pictures) for record in records]
    batch = {name: np.stack([each[name] for each in unpacked]) for name in loaders_source.FIELDS[kind]}
    assert loaders_source.digests(batch, kind) == loaders_source.digests(source.batch(indices, kind), kind)


def test_a_loader_that_delivers_other_samples_is_found(source: loaders_source.Source) -> None:
    png, av1 = loaders.contenders(["lerobot"])[-2:]
    right = loaders._right(source, "step")
    found = {"numbers_are_equal": True, "digests": {"0": right[0], "1": right[0]}}
    with pytest.raises(AssertionError, match="LeRobotDataset v3, PNG: sample 1 has other bytes, and 0 more"):
        loaders.checked(png, found, right)
    loaders.checked(av1, found, right)  # of video no more is asked than its numbers
    with pytest.raises(AssertionError, match="other numbers"):
        loaders.checked(av1, found | {"numbers_are_equal": False}, right)


def test_an_environment_that_is_ready_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text("[['no-such-package']]")
    assert environments.made(tmp_path, [["no-such-package"]], sees_ours=False) == str(tmp_path / "bin" / "python")
    with pytest.raises(subprocess.CalledProcessError):  # of another list it would be
        environments.made(tmp_path, [["-r", str(tmp_path / "no-such-file")]], sees_ours=False)


def test_ffmpeg_of_a_wheel_has_the_names_that_a_system_gives_it(tmp_path: Path) -> None:
    (tmp_path / "av.libs").mkdir()
    for name in ("libavutil-a63ffd27.so.59.39.100", "libswscale-5efb2ca5.so.8.3.100", "libx264-b1bb65f5.so.165"):
        (tmp_path / "av.libs" / name).write_text(name)
    folder = loaders_rivals.link_ffmpeg(tmp_path)
    assert (folder / "libavutil.so.59").read_text() == "libavutil-a63ffd27.so.59.39.100"
    assert (folder / "libswscale.so.8").exists()
    assert (folder / "libx264-b1bb65f5.so.165").exists()  # what they ask for in turn
    assert not (folder / "libx264.so.165").exists()
    assert loaders_rivals.link_ffmpeg(tmp_path) == folder


def test_the_page_says_who_is_ahead(measured: dict[str, Any]) -> None:
    result = json.loads(json.dumps(measured))
    video = json.loads(json.dumps(result["rows"][0]))
    video |= {"contender": "LeRobotDataset v3, AV1", "psnr": 31.5, "grey_levels": 2.5, "nbytes": 1, "version": "0.4.4"}
    video["ratios"]["cpu"]["median"] = 40
    result["rows"].append(video)
    text = report.page({"loaders": result})
    assert "## Beside the loaders that others use" in text
    assert "| 31.5 dB, 2.5 levels off |" in text
    assert "| LeRobotDataset v3 | 0.4.4 | global |" in text
    (ahead,) = [line for line in text.splitlines() if "samples of a window" in line and line.startswith("- Who")]
    assert "fewer bytes than vla_store `small`: LeRobotDataset v3, AV1 (0.00 of them, with loss)" in ahead
    assert "less CPU time than `fast`: nobody" in ahead
    assert "31.5 dB" in loaders_page.summary(result)


@pytest.mark.parametrize(
    ("given", "said"), [(["nobody"], "no loader nobody; there are lerobot, lance"), (["lance", "--save"], "of one run")]
)
def test_names_that_make_no_sense_are_refused(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["loaders", *given])
    with pytest.raises(SystemExit):
        loaders.main()
    assert said in capsys.readouterr().err
