"""`build_store` end to end, on the demonstrations and on tiny files."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest
import store_tools
from own_sources import FIELDS, Own

from vla_store import MachineError, OptionError, SourceError, open_store
from vla_store.audit import verify_store
from vla_store.builder import FieldSpec, build_store, units

LARGEST_SHARE = {"raw": 1.01, "fast": 0.37, "small": 0.25}


def nbytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_demos_become_stores_of_the_designed_size_with_one_fingerprint(
    demos: Path, demo_stores: Mapping[str, Path]
) -> None:
    source_nbytes = nbytes_of(demos / "libero")
    fingerprints = set()
    for preset, store in demo_stores.items():
        opened = open_store(store)
        assert (opened.rows, len(opened.episodes)) == (2_058, 13)
        assert nbytes_of(store) <= LARGEST_SHARE[preset] * source_nbytes
        fingerprints.add(opened.fingerprint)
    assert len(fingerprints) == 1


def test_the_store_of_the_demos_is_sound_and_equals_its_source(demos: Path, demo_store: Path) -> None:
    report = verify_store(demo_store, against=demos / "libero")
    assert report.problems == []
    assert (report.episodes, report.rows, report.compared_episodes) == (13, 2_058, 13)


def test_the_other_layouts_become_sound_stores(demos: Path, tmp_path: Path) -> None:
    for name, options in (("no_noops_256", {"orientation": "bottom_up"}), ("depth", {})):
        source = demos / "variants" / name
        build_store(source, tmp_path / f"{name}.vla", preset="small", **options)  # type: ignore[arg-type]
        assert verify_store(tmp_path / f"{name}.vla", against=source).problems == []


def test_the_fingerprint_is_that_of_the_content_alone(tiny_stores: Mapping[str, Path], tiny_source: Path) -> None:
    assert len({open_store(store).fingerprint for store in tiny_stores.values()}) == 1
    assert len({store_tools.part_of(store).name for store in tiny_stores.values()}) == 3


def test_a_single_source_needs_no_list(tiny_source: Path, tmp_path: Path) -> None:
    for number, given in enumerate((str(tiny_source / "libero_goal"), tiny_source / "libero_goal", Own())):
        report = build_store(given, str(tmp_path / f"{number}.vla"))
        assert report.episodes == (2 if number == 2 else 3)


def test_a_dry_run_tells_nearly_the_size_of_the_store(demos: Path, demo_store: Path, tmp_path: Path) -> None:
    report = build_store(demos / "libero", tmp_path / "x.vla", dry_run=True)
    assert report.root is None
    assert report.nbytes == pytest.approx(nbytes_of(demo_store), rel=0.03)
    assert list(tmp_path.iterdir()) == []


def test_the_report_says_what_was_built(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla", preset="small")
    assert (report.rows, report.episodes, report.preset, report.resumed) == (137, 10, "small", False)
    assert report.nbytes == open_store(tmp_path / "x.vla").nbytes == nbytes_of(tmp_path / "x.vla")
    assert report.source_nbytes == nbytes_of(tiny_source)
    assert report.root == store_tools.root_of(tmp_path / "x.vla")
    part = store_tools.part_of(tmp_path / "x.vla")
    for camera in report.cameras:
        stored = sum(
            nbytes_of(part / folder / camera.name / "c")
            for folder in ("frames", "residuals", "backgrounds")
            if (part / folder / camera.name).exists()
        )
        assert camera.share == stored / (137 * 16 * 24 * 3)


class Told:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.total = self.advanced = 0

    def talk(self, text: str) -> None:
        self.calls.append("talk")

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        self.calls.append("begin")
        self.total = nbytes
        assert (steps, done_nbytes) == (137, 0)

    def advance(self, nbytes: int) -> None:
        self.calls.append("advance")
        self.advanced += nbytes

    def end(self) -> None:
        self.calls.append("end")


def test_progress_is_told_of_every_byte_once(tiny_source: Path, tmp_path: Path) -> None:
    told = Told()
    build_store(tiny_source, tmp_path / "x.vla", progress=told)
    assert told.advanced == told.total > 0
    assert told.calls.index("begin") < told.calls.index("advance") < told.calls.index("end")
    assert told.calls[:5] == ["talk"] * 5
    assert told.calls[-1] == "talk"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "fastest"}, "there is no preset"),
        ({"preset": []}, "there is no preset"),
        ({"executor": "gpu"}, "executor cannot be"),
        ({"workers": 0}, "workers is a whole number"),
        ({"workers": 1.5}, "workers is a whole number"),
        ({"workers": "2"}, "workers is a whole number"),
        ({"max_memory": -1}, "max_memory is a whole number"),
        ({"max_memory": "1GiB"}, "max_memory is a whole number"),
        ({"orientation": "upright"}, "orientation cannot be"),
        ({"conventions": 5}, "conventions cannot be 5"),
        ({"exclude": 5}, "exclude cannot be 5"),
        ({"rename": "obs/a=b"}, "rename cannot be 'obs/a=b'"),
        ({"finish": 5}, "finish is a function"),
        ({"scheduler": "tcp://127.0.0.1:1", "workers": 2}, "the cluster's own affair"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        build_store(Own(), tmp_path / "x.vla", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_may_not_be_looked_at_is_the_machines_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_symlink", closed)
    with pytest.raises(MachineError, match="while looking at where STORE goes") as caught:
        build_store(Own(), tmp_path / "x.vla")
    assert caught.value.hint == "check the permissions of the folder"


def test_a_store_without_cameras_and_one_without_actions_are_stores(tmp_path: Path) -> None:
    for name, fields in (
        ("numbers", {"actions": FIELDS["actions"]}),
        ("pictures", {"front": FIELDS["front"]}),
        ("one number", {"x": FieldSpec("int8", (), "step")}),
    ):
        source = Own(fields=fields)
        build_store(source, tmp_path / name)
        assert verify_store(tmp_path / name, against=source).problems == []
        assert open_store(tmp_path / name).read(next(iter(fields)), [26, 0]).shape[0] == 2


def test_many_shards_of_many_sources_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of real size hold 128 MiB; the rule that cuts them is made to cut finely here."""
    from vla_store.format import layout

    monkeypatch.setattr(layout, "FRAME_SHARD_BYTES", 8 * 12 * 3 * 8)
    monkeypatch.setattr(layout, "NUMERIC_SHARD_BYTES", 64 * 48)
    monkeypatch.setattr(layout, "ATTRIBUTE_CHUNK_BYTES", 64)
    sources = [Own(suite=name, lengths={0: 50, 7: 33}) for name in "abc"]
    report = build_store(sources, tmp_path / "x.vla")
    part = store_tools.part_of(tmp_path / "x.vla")
    assert len(list(part.glob("*/front/c/*/0/0/0"))) > 30
    assert len(list(part.glob("steps/joints/c/*/0"))) == 4
    assert verify_store(tmp_path / "x.vla", against=sources).problems == []
    opened = open_store(tmp_path / "x.vla")
    for start, source in zip(range(0, report.rows, 83), sources):
        rows = opened.read("joints", range(start + 50, start + 83))
        assert (rows == source.read(7, "joints", 0, 33)).all()


def test_a_source_that_changes_while_it_is_read_makes_no_store(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows were of the old file, others of the new one; every digest would be of what was read."""
    source = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    path = sorted(source.glob("*/*.hdf5"))[0]
    real = units.FrameShard.run
    once = threading.Lock()

    def run(self: units.FrameShard, *arguments: Any) -> units.Receipt:
        receipt = real(self, *arguments)
        # Units of two threads end here at the same time.
        if once.acquire(blocking=False):
            changed = Path(shutil.copy(path, path.with_suffix(".new")))
            with h5py.File(changed, "r+") as file:
                next(iter(file["data"].values()))["actions"][...] += 1
            changed.rename(path)
        return receipt

    monkeypatch.setattr(units.FrameShard, "run", run)
    with pytest.raises(SourceError, match="a source changed while it was being read") as caught:
        build_store([source], tmp_path / "x.vla", workers=1)
    assert caught.value.places["file"] == str(path)
    assert not (tmp_path / "x.vla").exists()
    report = build_store([source], tmp_path / "x.vla", overwrite=True)
    assert report.root is not None
    assert verify_store(tmp_path / "x.vla", against=source).problems == []


def test_a_file_whose_name_is_not_utf8_is_left_out_and_recorded(tiny_source: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    good = next(source.glob("libero_spatial/*.hdf5"))
    try:
        shutil.copy(good, good.with_name(os.fsdecode(b"odd\xff_demo.hdf5")))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    build_store([source], tmp_path / "x.vla", skip_bad=True)
    (skipped,) = open_store(tmp_path / "x.vla").skipped
    assert (skipped.file, skipped.demo) == ("odd\\udcff_demo.hdf5", None)
    assert verify_store(tmp_path / "x.vla", against=source).problems == []
