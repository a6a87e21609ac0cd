"""A store that keeps JPEG pictures: from the source's bytes to samples, and all that is done with stores in between."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import own_sources
import pytest
import store_tools
import tiny_reader

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.errors import SourceError
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store

Image = pytest.importorskip("PIL.Image", reason="it makes the pictures: pip install pillow")
zarr = pytest.importorskip("zarr", reason="it builds a store")


def pixels_of(source: own_sources.Jpegs) -> np.ndarray:
    """What Pillow makes of all pictures, in the store's order."""
    found = [
        np.asarray(Image.open(io.BytesIO(source.picture(number, step))))
        for number, steps in source.lengths.items()
        for step in range(steps)
    ]
    return np.stack(found)


def samples_of(store: Path, **options: Any) -> np.ndarray:
    samples = vla_store.Samples(store, windows={"front": 0}, images="as_stored", **options)
    return samples.batch(range(len(samples)))["front"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_tools.built(tmp_path_factory.mktemp("kept") / "kept.vla", [own_sources.Jpegs()])


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_samples_are_what_pillow_makes_of_the_source_s_bytes(tmp_path: Path, colour: str) -> None:
    source = own_sources.Jpegs(colour=colour)
    store = store_tools.built(tmp_path / "x.vla", [source])
    expected = pixels_of(source)[..., :: 1 if colour == "rgb" else -1]
    assert np.array_equal(samples_of(store), expected)
    one = vla_store.Samples(store, windows={"front": [-1, 0]})[3]["front"]
    assert np.array_equal(one, expected[2:4])
    assert np.array_equal(samples_of(store)[::-1], expected[::-1])


def test_pictures_are_turned_as_pixels_are(tmp_path: Path) -> None:
    source = own_sources.Jpegs(orientation="bottom_up")
    store = store_tools.built(tmp_path / "x.vla", [source])
    upright = vla_store.Samples(store, windows={"front": 0}, images="upright").batch([0, 1])["front"]
    assert np.array_equal(upright, pixels_of(source)[:2, ::-1])


def test_five_lines_of_zarr_python_and_pillow_read_a_picture(kept: Path) -> None:
    (part,) = (kept / "parts").glob("*/")
    array = zarr.open_array(str(part / "frames/front"), mode="r")
    picture = Image.open(io.BytesIO(array[5].tobytes()))
    assert np.array_equal(np.asarray(picture), samples_of(kept)[5])


def test_the_second_reader_finds_the_source_s_bytes(kept: Path) -> None:
    source = own_sources.Jpegs()
    episodes = list(tiny_reader.TinyStore(kept).episodes())
    found = [data for each in episodes for data in each["fields"]["front"]]
    assert found == [source.picture(number, step) for number, steps in source.lengths.items() for step in range(steps)]


def test_every_executor_writes_the_same_bytes(kept: Path, tmp_path: Path) -> None:
    for executor in ("threads", "processes"):
        build_store([own_sources.Jpegs()], tmp_path / executor, executor=executor, workers=2)
        assert store_tools.digests(tmp_path / executor) == store_tools.digests(kept)


def test_verify_holds_and_compares_with_the_source(kept: Path) -> None:
    assert verify_store(kept).sound
    report = verify_store(kept, against=[own_sources.Jpegs()])
    assert report.sound, report.text()
    (problem, *_) = verify_store(kept, against=[own_sources.Jpegs(quality=89)]).problems
    assert "front differs from the source's" in problem.what


@pytest.mark.parametrize("how", [{"colour": "bgr"}, {"dct": "fast"}])
def test_the_same_bytes_decoded_otherwise_are_other_content(kept: Path, tmp_path: Path, how: dict[str, str]) -> None:
    other = store_tools.built(tmp_path / "x.vla", [own_sources.Jpegs(**how)])
    assert vla_store.open_store(other).fingerprint != vla_store.open_store(kept).fingerprint
    assert not verify_store(kept, against=[own_sources.Jpegs(**how)]).sound


def test_a_changed_byte_is_found_and_repaired(kept: Path, tmp_path: Path) -> None:
    copy_store(kept, tmp_path / "x.vla")
    store_tools.flip(store_tools.part_of(tmp_path / "x.vla") / "frames/front/c/0/0", 300)
    assert not verify_store(tmp_path / "x.vla").sound
    with pytest.raises(vla_store.StoreDamaged):
        samples_of(tmp_path / "x.vla")
    repair_store(tmp_path / "x.vla", [own_sources.Jpegs()])
    assert store_tools.digests(tmp_path / "x.vla") == store_tools.digests(kept)


def test_recode_makes_pixels_of_what_was_kept(kept: Path, tmp_path: Path) -> None:
    report = recode_store(kept, tmp_path / "x.vla", preset="small")
    assert "decoded        from JPEG by" in report.text()
    assert np.array_equal(samples_of(tmp_path / "x.vla"), samples_of(kept))
    assert verify_store(tmp_path / "x.vla").sound
    (source,) = vla_store.open_store(tmp_path / "x.vla").conventions.sources
    assert source.codec == "jpeg"
    assert source.decoder


def test_parts_that_keep_and_parts_of_pixels_make_one_store(kept: Path, tmp_path: Path) -> None:
    copy_store(kept, tmp_path / "x.vla")
    pixels = own_sources.Own(file="other")
    append_store([pixels], tmp_path / "x.vla")
    expected = np.concatenate(
        [pixels_of(own_sources.Jpegs()), *(pixels.read(n, "front", 0, steps) for n, steps in pixels.lengths.items())]
    )
    assert np.array_equal(samples_of(tmp_path / "x.vla"), expected)
    assert verify_store(tmp_path / "x.vla").sound
    other = store_tools.built(tmp_path / "o.vla", [own_sources.Jpegs(file="third")])
    merge_stores([tmp_path / "x.vla", other], tmp_path / "m.vla")
    assert verify_store(tmp_path / "m.vla").sound
    assert len(samples_of(tmp_path / "m.vla")) == 81


def test_a_loader_s_workers_give_the_same_pictures(kept: Path) -> None:
    from vla_store.loader.batches import Batches

    samples = vla_store.Samples(kept, windows={"front": 0}, images="as_stored")
    expected = samples_of(kept)
    steps = [0, 20]
    batches = Batches(samples, batch_size=9, workers=2)
    for batch in batches:
        rows = [steps[e] + s for e, s in zip(batch["episode"], batch["step"])]
        assert np.array_equal(batch["front"], expected[rows])
    batches.close()


CUT = own_sources.Jpegs().picture(0, 11)[:-20]
SPOILT = {"cut short": CUT, "no picture": b"not one", "too long": b"\xff\xd8\xff" + bytes(range(1, 251)) * 20}


@pytest.mark.parametrize("what", SPOILT)
def test_a_picture_that_cannot_be_kept_is_refused_or_left_out(tmp_path: Path, what: str) -> None:
    source = own_sources.Jpegs(spoil=(0, 11, SPOILT[what]))
    with pytest.raises(SourceError, match="cannot be kept as JPEG") as caught:
        build_store([source], tmp_path / "x.vla")
    assert (caught.value.places["demo"], caught.value.places["row"]) == ("demo_0", "11")
    assert not (tmp_path / "x.vla").exists()
    build_store([source], tmp_path / "x.vla", skip_bad=True, overwrite=True)
    store = vla_store.open_store(tmp_path / "x.vla")
    assert [each.number for each in store.episodes] == [3]
    assert "cannot be kept as JPEG" in store.skipped[0].reason
    assert np.array_equal(samples_of(tmp_path / "x.vla"), pixels_of(replace(source, lengths={3: 7})))


def test_a_source_that_gives_something_else_than_bytes_is_refused(tmp_path: Path) -> None:
    class Odd(own_sources.Jpegs):
        def read(self, number: int, field: str, start: int, stop: int) -> Any:
            rows = super().read(number, field, start, stop)
            return [np.frombuffer(each, np.uint8) for each in rows] if field == "front" else rows

    with pytest.raises(SourceError, match="does not give what its scan promised"):
        build_store([Odd()], tmp_path / "x.vla")


def test_the_page_says_that_pictures_are_kept_and_of_no_trial(kept: Path) -> None:
    from vla_store.look.facts import gather
    from vla_store.look.page import html_page

    page = html_page(gather(vla_store.open_store(kept), "kept.vla"))
    assert "the JPEG pictures that were recorded are stored as they were, and decoded when they are read" in page
    for said in ("no prediction", "in a trial", "OpenVLA", "for LIBERO"):
        assert said not in page


def test_the_commands_say_that_pictures_are_kept(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vla_store.cli import main

    assert main(["info", str(kept)]) == 0
    assert "kept JPEG" in capsys.readouterr().out
    assert main(["info", "--json", str(kept)]) == 0
    assert "kept JPEG" in json.dumps(json.loads(capsys.readouterr().out))
