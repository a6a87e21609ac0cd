"""Replay buffers of Diffusion Policy and UMI: what is built equals what zarr reads; and whatever is wrong with one is said."""

from __future__ import annotations

import json
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_tools import assert_one_screen, in_words, run

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.cli import main
from vla_store.errors import MachineError, SourceError
from vla_store.manage.append import append_store
from vla_store.sources.find import find_sources
from vla_store.sources.protocol import close_files

zarr = pytest.importorskip("zarr")

Array = np.ndarray[Any, Any]
ENDS = (9, 14, 33)
H, W = 16, 24


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    close_files()


def arrays(seed: int = 0) -> dict[str, tuple[Array, int]]:
    """Arrays and rows of a chunk: pictures as pusht has them (whole numbers as float32), and as UMI has, but for the codec."""
    rng = np.random.default_rng(seed)
    steps = ENDS[-1]
    whole = rng.integers(0, 256, (steps, H, W, 3), dtype=np.uint8)
    return {
        "img": (whole.astype(np.float32), 7),
        "camera0_rgb": (whole[::-1], 1),
        "state": (rng.normal(size=(steps, 5)), 20),
        "keypoint": (rng.normal(size=(steps, 9, 2)).astype(np.float32), 33),
        "n_contacts": (rng.integers(0, 9, steps).astype(">i4"), 10),
        "action": (rng.normal(size=(steps, 2)).astype(np.float32), 16),
    }


def buffer(path: Path, without: str = "", compressor: Any = "auto", seed: int = 0) -> Path:
    """A buffer as zarr-python writes one, in format 2."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, (rows, chunk) in arrays(seed).items():
        if name != without:
            made = group.create_array(
                f"data/{name}",
                shape=rows.shape,
                chunks=(chunk, *rows.shape[1:]),
                dtype=rows.dtype,
                compressors=compressor if name == "camera0_rgb" else "auto",
            )
            made[...] = rows
    ends = np.array(ENDS, np.int64)
    group.create_array("meta/episode_ends", shape=ends.shape, dtype=ends.dtype)[...] = ends
    group.attrs["robot"] = {"arms": 1}
    return path


def zipped(folder: Path) -> Path:
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, each.relative_to(folder))
    return path


def opened(path: Path) -> Any:
    """The buffer as zarr opens it: the oracle."""
    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
    return zarr.open_group(store, mode="r", zarr_format=2)


def assert_equals_zarr(store: Path, path: Path, samples: int) -> None:
    """So many random samples of every field are the rows that zarr reads."""
    group, found = opened(path), vla_store.open_store(store)
    names = {name: "actions" if name == "action" else name for name in group["data"].array_keys()}
    assert set(found.fields) == set(names.values())
    ends = group["meta/episode_ends"][...].tolist()
    windows = {name: range(-1, 3) for name in names.values()}
    got = vla_store.Samples(found, windows=windows, alignment="as_stored", images="as_stored", pad="edge")
    assert len(got) == ends[-1]
    rows = {name: group["data"][name][...] for name in names}
    rng = random.Random(0)
    for at in [rng.randrange(len(got)) for _ in range(samples)]:
        sample = got[at]
        start, stop = [0, *ends][sample["episode"]], ends[sample["episode"]]
        places = [min(max(start + sample["step"] + offset, start), stop - 1) for offset in range(-1, 3)]
        for name, field in names.items():
            assert sample[field].dtype == rows[name].dtype.newbyteorder("<")
            assert np.array_equal(sample[field], rows[name][places]), (name, at)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return buffer(tmp_path_factory.mktemp("buffers") / "pusht/push_the_t.zarr")


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    made = source.parents[1] / "pusht.vla"
    assert run("build", source, made).code == 0
    return made


def test_samples_are_what_zarr_reads(store: Path, source: Path) -> None:
    assert_equals_zarr(store, source, 200)
    assert verify_store(store, against=[source]).sound


def test_what_is_recorded(store: Path) -> None:
    found = vla_store.open_store(store)
    assert found.suites == ("pusht",)
    assert [(each.file, each.number, each.length) for each in found.episodes] == [
        ("push_the_t.zarr", 0, 9),
        ("push_the_t.zarr", 1, 5),
        ("push_the_t.zarr", 2, 19),
    ]
    assert [(each.name, each.text) for each in found.tasks] == [("push_the_t", "push the t")]
    assert {each["warning"] for each in found.warnings} == {
        "a replay buffer states no instruction; the text is from its name: 'push the t'"
    }
    assert json.loads(found.source_attributes(0)["/"]["robot"]) == {"arms": 1}
    assert (found.conventions.orientation, found.conventions.observation) == ("top_down", "before")
    assert set(found.cameras) == {"img", "camera0_rgb"}
    assert found.fields["img"].dtype == "float32"  # exactly as it is in the buffer
    roles = {name: each.role for name, each in found.fields.items()}
    assert roles.pop("actions") == "step"
    assert set(roles.values()) == {"observation"}


def test_an_archive_is_the_same_and_both_are_found_in_folders(store: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "pusht").mkdir()
    archive = Path(shutil.move(zipped(source), tmp_path / "pusht/again.zarr.zip"))
    assert [each.path for each in find_sources(tmp_path)] == [str(archive)]  # type: ignore[attr-defined]
    assert [each.path for each in find_sources(source.parent)] == [str(source)]  # type: ignore[attr-defined]
    build_store([tmp_path / "pusht"], tmp_path / "s", executor="processes", workers=2)
    assert_equals_zarr(tmp_path / "s", archive, 60)
    append_store([source], tmp_path / "s")
    assert verify_store(tmp_path / "s", against=[source, archive]).sound


def test_a_chunk_of_many_pictures_is_decoded_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    (found,) = find_sources(source)
    close_files()
    from vla_store.sources import replay_buffer

    plain = replay_buffer._Buffer.chunk
    monkeypatch.setattr(
        replay_buffer._Buffer,
        "chunk",
        lambda self, name, number: (read.append(number), plain(self, name, number))[1],
    )
    rows = [found.read(number, "img", at, at + 1) for number, steps in enumerate((9, 5, 19)) for at in range(steps)]
    assert np.array_equal(np.concatenate(rows), arrays()["img"][0])
    assert read == [0, 1, 2, 3, 4]
    assert np.array_equal(found.read(2, "img", 0, 19), arrays()["img"][0][14:])


def test_umi_has_no_actions_and_none_are_invented(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs.numcodecs", reason="pictures as UMI's need imagecodecs")
    imagecodecs.register_codecs(verbose=False)
    archive = zipped(
        buffer(tmp_path / "umi/cups.zarr", without="action", compressor=imagecodecs.Jpegxl(level=99, lossless=False))
    )
    shutil.rmtree(tmp_path / "umi/cups.zarr")
    done = run("build", archive, tmp_path / "s")
    assert done.code == 0, done.err
    assert "computes actions from the poses" in in_words(done.err)
    assert_equals_zarr(tmp_path / "s", archive, 60)
    assert verify_store(tmp_path / "s", against=[archive]).sound
    found = vla_store.open_store(tmp_path / "s")
    assert "actions" not in found.fields
    (convention,) = found.conventions.sources
    assert convention.codec == "jpegxl"
    assert convention.decoder.startswith("imagecodecs 2")
    assert "jpegxl" in found.source_attributes(0)["/data/camera0_rgb"]["compressor"]


def test_without_imagecodecs_the_extra_is_named_where_it_is_needed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "umi/cups.zarr"))
    declared = json.loads((folder / "data/camera0_rgb/.zarray").read_text())
    declared["compressor"] = {"id": "imagecodecs_jpegxl"}
    (folder / "data/camera0_rgb/.zarray").write_text(json.dumps(declared))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    with pytest.raises(MachineError, match=r"imagecodecs_jpegxl(.|\n)*vla-store\[zarr-images\]"):
        build_store([folder], tmp_path / "s")
    build_store([folder], tmp_path / "s", exclude="camera0_rgb")
    assert "camera0_rgb" not in vla_store.open_store(tmp_path / "s").fields


def test_fields_are_left_out_and_renamed(source: Path, tmp_path: Path) -> None:
    done = run("build", source, tmp_path / "s", "--exclude", "img", "--rename", "state=joints")
    assert done.code == 0, done.err
    assert set(vla_store.open_store(tmp_path / "s").fields) == {
        "actions",
        "camera0_rgb",
        "joints",
        "keypoint",
        "n_contacts",
    }
    assert verify_store(tmp_path / "s", against=[source]).sound
    for wrong in ("--exclude=action", "--rename=action=moves", "--exclude=images"):
        assert run("build", source, tmp_path / "t", wrong).code in (1, 2)


def test_a_changed_row_is_named_by_verify(store: Path, source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "pusht/push_the_t.zarr"))
    zarr.open_group(folder, mode="r+", zarr_format=2)["data/state"][20] = 0
    done = run("verify", store, "--against", folder)
    assert done.code == 1
    assert "state differs from the source's" in done.out + done.err


def test_what_looks_like_libero_is_asked_for(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "runs/libero_replay.zarr"))
    done = run("build", folder, tmp_path / "s")
    assert done.code == 1
    assert_one_screen(done.err, "libero in its name", "--orientation rot180")


@pytest.mark.parametrize("part", ["data", "data/state", "meta/episode_ends/.zarray"])
def test_a_part_of_a_buffer_is_answered_with_the_buffer(source: Path, tmp_path: Path, part: str) -> None:
    done = run("build", source / part, tmp_path / "s")
    assert_one_screen(done.err, "a part of a data set", f"give {source}")


# What is wrong with one

Change = Callable[[Path], object]


def ends(*found: int, dtype: str = "int64") -> Change:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / "meta/episode_ends")
        group = zarr.open_group(folder, mode="r+", zarr_format=2)
        group.create_array("meta/episode_ends", shape=(len(found),), dtype=dtype)[...] = found

    return change


def added(name: str, rows: Array) -> Change:
    def change(folder: Path) -> None:
        group = zarr.open_group(folder, mode="r+", zarr_format=2)
        group.create_array(f"data/{name}", shape=rows.shape, dtype=rows.dtype, overwrite=True)[...] = rows

    return change


def damaged(key: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda folder: (folder / key).write_bytes(change((folder / key).read_bytes()))


# name: the change, and what the error says
BROKEN: Mapping[str, tuple[Change, tuple[str, ...]]] = {
    "ends past the rows": (ends(9, 14, 40), ("40 rows", "meta/episode_ends", "33 rows")),
    "ends before the rows": (ends(9, 14, 30), ("30 rows", "33 rows")),
    "ends that do not ascend": (ends(9, 4, 33), ("do not ascend", "row 1", "at least 9", "4")),
    "an episode of no steps": (ends(9, 9, 33), ("without steps", "row 1")),
    "ends that are no integers": (ends(9, 14, 33, dtype="float64"), ("episode_ends", "integers", "float64")),
    "no ends": (ends(), ("episode_ends", "(0,)")),
    "an array of another length": (added("extra", np.zeros((3, 2))), ("extra", "33 rows", "3 rows", "--exclude extra")),
    "an array of texts": (added("words", np.array(["a"] * 33)), ("words", "--exclude words")),
    "actions of integers": (added("action", np.ones((33, 2), np.int64)), ("action", "int64")),
    "actions not finite": (added("action", np.full((33, 2), np.nan)), ("actions", "finite")),
    "a chunk cut short": (damaged("data/img/2.0.0.0", lambda data: data[:-40]), ("img", "push_the_t.zarr")),
    "a chunk of nothing": (damaged("data/camera0_rgb/5.0.0.0", lambda data: b""), ("camera0_rgb", "push_the_t.zarr")),
    "actions missing": (lambda folder: (folder / "data/action/1.0").unlink(), ("action", "1 of 3 chunks", "write_empty_chunks")),
    "pictures missing": (lambda folder: (folder / "data/img/2.0.0.0").unlink(), ("img", "1 of 5 chunks", "write_empty_chunks")),
    "no JSON": (damaged("data/img/.zarray", lambda data: data[:-9]), ("push_the_t.zarr", "JSON")),
    "another format": (damaged("data/img/.zarray", lambda data: data.replace(b'"dtype": "<f4"', b'"dtype": "?x"')), ("img",)),
}  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said(
    name: str, form: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = BROKEN[name]
    folder = Path(shutil.copytree(source, tmp_path / "pusht/push_the_t.zarr"))
    change(folder)
    path = folder if form == "folder" else zipped(folder)
    assert main(["build", str(path), str(tmp_path / "s"), "--quiet", "--executor", "threads"]) == 1
    shown = capsys.readouterr().err
    assert_one_screen(shown)
    flat = " ".join(shown.split())
    assert [each for each in said if each not in flat] == [], shown
    assert not (tmp_path / "s").exists()


def test_episodes_that_are_bad_are_left_out(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "pusht/push_the_t.zarr"))
    ends(9, 9, 14, 33)(folder)
    damaged("data/camera0_rgb/5.0.0.0", lambda data: data[:-7])(folder)
    build_store([folder], tmp_path / "s", skip_bad=True)
    found = vla_store.open_store(tmp_path / "s")
    assert [(each.number, each.length) for each in found.episodes] == [(2, 5), (3, 19)]
    empty, damage = (each.reason for each in found.skipped)
    assert empty.startswith("an episode without steps")
    assert "camera0_rgb" in damage
    assert verify_store(tmp_path / "s", against=[folder]).sound


@pytest.mark.parametrize("to", [0, 100, -30])
def test_an_archive_that_is_cut_short_is_said_to_be(to: int, source: Path, tmp_path: Path) -> None:
    archive = Path(shutil.move(zipped(source), tmp_path / "a.zarr.zip"))
    archive.write_bytes(archive.read_bytes()[:to])
    done = run("build", archive, tmp_path / "s")
    assert done.code == 1
    assert_one_screen(done.err, "the archive cannot be read", "a.zarr.zip", "copy or download it again")


def test_an_archive_of_something_else_is_no_replay_buffer(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("episode.hdf5", "x")
    with pytest.raises(SourceError, match="zip archive"):
        build_store([tmp_path / "data.zip"], tmp_path / "s")


def test_a_codec_that_nobody_has_is_named(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "pusht/push_the_t.zarr"))
    declared = json.loads((folder / "data/keypoint/.zarray").read_text())
    (folder / "data/keypoint/.zarray").write_text(json.dumps({**declared, "compressor": {"id": "nobodys"}}))
    for path in (folder, zipped(folder)):
        with pytest.raises(MachineError, match=r"nobodys(.|\n)*--exclude keypoint"):
            build_store([path], tmp_path / "s")


def test_what_is_no_array_of_steps_is_left_out_with_a_word(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "pusht/push_the_t.zarr"))
    group = zarr.open_group(folder, mode="r+", zarr_format=2)
    group.create_array("meta/seeds", shape=(3,), dtype="int64")[...] = [1, 2, 3]
    group.create_group("data/more")
    for path in (folder, zipped(folder)):
        warnings = find_sources(path)[0].scan().warnings
        assert "what is no array of steps is left out: data/more, meta/seeds" in warnings


def test_chunks_that_were_never_written_are_told(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "pusht/push_the_t.zarr"))
    (folder / "data/state/1.0").unlink()
    build_store([folder], tmp_path / "s")
    warnings = [each["warning"] for each in vla_store.open_store(tmp_path / "s").warnings]
    assert "state: 1 of 2 chunks were never written; Zarr gives 0.0 for them" in warnings


# The sample files, which Diffusion Policy's and UMI's code wrote


@pytest.mark.parametrize("name", ["libero_replay.zarr", "umi_dataset.zarr.zip"])
def test_the_sample_files_are_built_and_equal_what_zarr_reads(layouts: Path, tmp_path: Path, name: str) -> None:
    path = layouts / "diffusion_policy" / name
    if path.is_file():
        pytest.importorskip("imagecodecs.numcodecs").register_codecs(verbose=False)
    done = run("build", path, tmp_path / "s", "--orientation", "top_down")
    assert done.code == 0, done.err
    assert_equals_zarr(tmp_path / "s", path, 200)
    assert verify_store(tmp_path / "s", against=[path]).sound
