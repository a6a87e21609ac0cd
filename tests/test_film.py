"""`vla-store show -o FILE.mp4|.gif`: the frames of the source, upright, at their places; the cursor at the step; whole or not at all."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
from own_looks import Halves, Odd
from own_sources import Own
from telling_sources import Telling, step_text

from vla_store import MachineError, Samples, open_store
from vla_store.builder import build_store
from vla_store.cli import main
from vla_store.look import film
from vla_store.look.film import KINDS, gif_durations, timing_of, write_film
from vla_store.look.film_page import FilmPage, Size
from vla_store.look.scene import scene_of
from vla_store.reader import Store
from vla_store.sources.protocol import FieldSpec

Array = np.ndarray[Any, Any]
pytest.importorskip("matplotlib")
pytest.importorskip("PIL.Image")
av = pytest.importorskip("av")
MP4, GIF = KINDS
NO_TEXT = {0, 1, 12, 13, 14}  # steps of Telling's first episode


def decoded(path: Path) -> Array:
    """Every picture of a film, (n, H, W, 3)."""
    if path.suffix == ".gif":
        from PIL import Image, ImageSequence

        with Image.open(path) as image:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def page_of(store: Store, number: int, kind: Any, images: str = "upright") -> FilmPage:
    return FilmPage(scene_of(store, store.episodes[number], images), kind.size, "")


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("odd") / "odd.vla"
    build_store([Odd(lengths={0: 1, 1: 2, 5: 40})], store)
    return store


# What is seen


@dataclass(frozen=True)
class Ramps(Own):
    """Two cameras, bottom up: red and green say where a pixel is, blue which step and camera."""

    lengths: Mapping[int, int] = field(default_factory=lambda: {0: 10})
    fields: Mapping[str, FieldSpec] = field(
        default_factory=lambda: {
            "actions": FieldSpec("float32", (2,), "step"),
            "a": FieldSpec("uint8", (16, 24, 3), "observation"),
            "b": FieldSpec("uint8", (32, 20, 3), "observation"),
        }
    )
    orientation: str = "bottom_up"

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        if field == "actions":
            return super().read(number, field, start, stop)
        high, wide, _ = self.fields[field].shape
        made = np.zeros((stop - start, high, wide, 3))
        made[..., 0] = (np.arange(high) * 120 / high)[:, None]
        made[..., 1] = np.arange(wide) * 120 / wide
        made[..., 2] = (np.arange(start, stop) * 24 + (10 if field == "a" else 0))[:, None, None]
        return made.astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.ending)
@pytest.mark.parametrize("images", ["upright", "as_stored", "rot180"])
def test_a_films_cameras_are_the_samples_of_each_step(kind: Any, images: str, tmp_path: Path) -> None:
    build_store([Ramps()], tmp_path / "ramps.vla")
    store = open_store(tmp_path / "ramps.vla")
    seen = decoded(write_film(store, store.episodes[0], tmp_path / f"e{kind.ending}", images=images).path)
    page = page_of(store, 0, kind, images)

    assert seen.shape == (10, page.height, kind.size.width, 3)
    assert page.height % 2 == kind.size.width % 2 == 0
    samples = Samples(store, windows={"a": 0, "b": 0}, images=images)
    for slot, name in zip(page.slots, ("a", "b"), strict=True):
        high, wide, _ = Ramps().fields[name].shape
        box = seen[:, slot.y : slot.y + slot.height, slot.x : slot.x + slot.width].astype(float)
        cells = box.reshape(10, high, slot.repeat, wide, slot.repeat, 3).mean(axis=(2, 4))
        assert slot.repeat > 1
        frames = np.stack([samples[row][name] for row in range(10)]).astype(float)
        # Lossy: on average of a picture a channel is within so many grey levels, in a GIF of more where its 200
        # colours are spent on a whole cube of them. And no picture of another step, or turned another way, is nearer.
        assert np.abs(cells - frames).mean(axis=(1, 2)).max() < (6 if kind is MP4 else 12)
        turned = [frames, frames[:, ::-1], frames[:, :, ::-1], frames[:, ::-1, ::-1]]
        apart = np.array([[[np.abs(cell - each).mean() for each in way] for way in turned] for cell in cells])
        assert apart.reshape(10, -1).argmin(axis=1).tolist() == list(range(10))


def test_pictures_before_they_are_encoded_have_the_very_pixels(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    scene = scene_of(store, store.episodes[3], "upright")
    page = FilmPage(scene, MP4.size, "")
    samples = Samples(store, windows=dict.fromkeys(store.cameras, 0), images="upright")
    steps = range(scene.length)
    for step, picture in zip(steps, film.film_pictures(store, scene, page, steps, "upright")):
        sample = samples[scene.episode.start + step]
        for slot, camera in zip(page.slots, scene.cameras):
            box = picture[slot.y : slot.y + slot.height, slot.x : slot.x + slot.width]
            for y in range(slot.repeat):
                for x in range(slot.repeat):
                    assert (box[y :: slot.repeat, x :: slot.repeat] == sample[camera.name]).all()


def cursor_of(picture: Array, page: FilmPage) -> tuple[float, int]:
    """Where a picture's cursor is: the middle of the columns that are dark from top to bottom in every panel, and how many."""
    dark = [picture[y : y + page.size.panel, 60 : page.size.width - 55].max(axis=2) < 90 for y in page.panels_y]
    columns = 60 + np.flatnonzero(np.logical_and.reduce([each.all(axis=0) for each in dark]))
    return float(columns.mean()), len(columns)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.ending)
def test_the_cursor_stands_at_the_step_in_every_panel(kind: Any, tiny_store: Path, tmp_path: Path) -> None:
    store = open_store(tiny_store)
    episode = store.episodes[0]
    seen = decoded(write_film(store, episode, tmp_path / f"e{kind.ending}").path)
    page = page_of(store, 0, kind)

    places = [cursor_of(picture, page) for picture in seen]
    assert {count for _, count in places} == {2}
    left, right = 70, kind.size.width - 62  # of the axes, half a step wider at either end than the steps
    expected = [left + (step + 0.5) / episode.length * (right - left) for step in range(episode.length)]
    assert np.abs(np.array([x for x, _ in places]) - expected + 0.5).max() <= 1.0


def test_what_is_to_come_is_paler_than_what_was(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    page = page_of(store, 0, MP4)
    cameras = [np.zeros((16, 24, 3), np.uint8)] * 2
    first, last = (page.picture(step, cameras).astype(int) for step in (0, page.scene.length - 1))

    for y in page.panels_y:
        rows, columns = (
            slice(y, y + MP4.size.panel),
            slice(page.cursor_x(0) + 2, page.cursor_x(page.scene.length - 1) - 2),
        )
        ahead, behind = 255 - first[rows, columns], 255 - last[rows, columns]
        assert behind.max() > 150
        assert np.abs(ahead - behind * 0.38).max() <= 1


def test_each_step_has_another_clock_and_the_text_of_its_segment(tmp_path: Path) -> None:
    build_store([Telling()], tmp_path / "told.vla")
    store = open_store(tmp_path / "told.vla")
    page = page_of(store, 0, MP4)
    texts = [page.segment(step) for step in range(page.scene.length)]
    assert texts == [step_text(0, step) if step not in NO_TEXT else "" for step in range(20)]
    cameras = [np.zeros((*each.field.shape[:2], 3), np.uint8) for each in page.scene.cameras]
    pictures = [page.picture(step, cameras) for step in range(page.scene.length)]
    clocks = {picture[page.clock_y : page.clock_y + 18, :400].tobytes() for picture in pictures}
    assert len(clocks) == page.scene.length
    lines = {text: set[bytes]() for text in texts}
    for text, picture in zip(texts, pictures):
        lines[text].add(picture[page.segment_y : page.segment_y + 18].tobytes())
    assert {len(each) for each in lines.values()} == {1}
    assert len(set.union(*lines.values())) == len(lines)


# Odd stores


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.ending)
@pytest.mark.parametrize("episode", [0, 1, 2])
def test_odd_cameras_hostile_texts_and_numbers_that_are_none_make_a_film(
    odd_store: Path, tmp_path: Path, kind: Any, episode: int
) -> None:
    store = open_store(odd_store)
    written = write_film(store, store.episodes[episode], tmp_path / f"e{kind.ending}")
    seen = decoded(written.path)
    page = page_of(store, episode, kind)

    assert len(seen) == store.episodes[episode].length == len(written.timing.steps)
    assert [camera.name for camera in page.scene.cameras] == ["grey", "tall", "depth_mm", "range"]
    boxes = [(slot.y, slot.y + slot.height, slot.x, slot.x + slot.width) for slot in page.slots]
    for number, (top, bottom, left, right) in enumerate(boxes):
        assert min(bottom - top, right - left) >= 16, "a camera of few pixels is enlarged"
        assert top > 0
        assert bottom < page.clock_y < page.height
        assert 0 <= left < right <= kind.size.width
        for other in boxes[number + 1 :]:
            assert bottom <= other[0] or other[1] <= top or right <= other[2] or other[3] <= left
    slot = page.slots[3]
    bottom, repeat = slot.y + slot.height, slot.repeat  # upright, its first row is the last
    pink = seen[0, bottom - repeat + 4 : bottom - 4, slot.x + 4 : slot.x + repeat - 4].reshape(-1, 3)
    assert np.abs(pink.mean(axis=0) - (255, 0, 160)).max() < 40, "what is no number is pink"


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.ending)
def test_a_store_without_cameras_or_without_numbers_has_a_film(kind: Any, tmp_path: Path) -> None:
    for name, fields in {
        "numbers": {"actions": FieldSpec("float32", (3,), "step")},
        "pictures": {"front": FieldSpec("uint8", (8, 12, 3), "observation")},
        "neither": {"t": FieldSpec("int64", (), "step")},
    }.items():
        build_store([Own(fields=fields)], tmp_path / f"{name}.vla")
        store = open_store(tmp_path / f"{name}.vla")
        assert len(decoded(write_film(store, store.episodes[0], tmp_path / f"{name}{kind.ending}").path)) == 20


def test_a_camera_larger_than_its_place_is_shrunk_whole(tmp_path: Path) -> None:
    build_store([Halves()], tmp_path / "halves.vla")
    store = open_store(tmp_path / "halves.vla")
    scene = scene_of(store, store.episodes[0], "upright")
    page = FilmPage(scene, Size(200, 40, 60), "")
    (slot,) = page.slots
    assert (slot.height, slot.width, slot.repeat) == (24, 36, 0)
    picture = page.picture(0, [Halves(orientation="top_down").stored()])
    box = picture[slot.y : slot.y + slot.height, slot.x : slot.x + slot.width]
    assert box[4, 20].tolist() == [255, 0, 0]
    assert box[20, 20].tolist() == [0, 0, 255]
    assert box[12, 2].tolist() == [0, 255, 0]


# The clock


def test_the_rate_is_the_sources_and_else_twenty_and_said_to_be_assumed(tmp_path: Path) -> None:
    build_store([Own()], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    written = write_film(store, store.episodes[0], tmp_path / "own.mp4")
    assert "20 steps a second, which is assumed" in written.text()
    assert written.to_json()["fps_is_assumed"] is True
    build_store([Telling(lengths={0: 25}, told={}, fps=12.5)], tmp_path / "stated.vla")
    stated = open_store(tmp_path / "stated.vla")
    for ending in (".mp4", ".gif"):
        written = write_film(stated, stated.episodes[0], tmp_path / f"stated{ending}")
        assert "assumed" not in written.text()
        assert written.to_json()["fps"] == 12.5
    with av.open(str(tmp_path / "stated.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames) == (12.5, 25)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == 2.0
    from PIL import Image, ImageSequence

    with Image.open(tmp_path / "stated.gif") as image:
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(image)) == 2_000
        assert image.info["loop"] == 0


@pytest.mark.parametrize(
    ("length", "fps", "every"),
    [(1, 20, 1), (150, 20, 1), (151, 20, 2), (3_000, 20, 20), (100, 1_000, 20), (10, 0.1, 1)],
)
def test_a_long_or_fast_episode_has_every_so_many_steps_and_its_last(
    length: int, fps: float, every: int, tmp_path: Path
) -> None:
    build_store([Telling(lengths={0: length}, told={}, fps=fps)], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    timing = timing_of(scene_of(store, store.episodes[0], "upright"), GIF)

    assert timing.every == every
    assert set(timing.steps) == {*range(0, length, every), length - 1}
    assert sorted(timing.steps) == list(timing.steps)
    assert len(timing.steps) <= 151
    durations = gif_durations(timing)
    assert len(durations) == len(timing.steps)
    assert min(durations) >= 20
    assert abs(sum(durations) / 1_000 - len(timing.steps) * every / fps) < 0.02


def test_a_film_of_chosen_steps_says_so(tmp_path: Path) -> None:
    build_store([Own(lengths={0: 400})], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    written = write_film(store, store.episodes[0], tmp_path / "own.gif")

    assert "pictures       134, of every 3rd step" in written.text()
    assert (written.to_json()["every"], written.to_json()["pictures"]) == (3, 134)
    assert len(decoded(written.path)) == 134


# The command


@pytest.mark.parametrize("ending", [".mp4", ".GIF"])
def test_the_command_writes_a_film_and_says_that_it_is_lossy(
    tiny_store: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tiny_store), "-o", str(tmp_path / f"e{ending}")]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "exact          no: " in out
    assert "to look at, and no data" in " ".join(out.split())
    assert main(["show", str(tiny_store), "-o", str(tmp_path / f"e{ending}"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lossy"] is True
    assert told["nbytes"] == (tmp_path / f"e{ending}").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [f"e{ending}"]


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from vla_store.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("missing", "ending", "extra"),
    [
        ("av", ".mp4", "movies"),
        ("PIL", ".mp4", "movies"),
        ("PIL", ".gif", "movies"),
        ("matplotlib", ".gif", "plots"),
        ("rerun", ".rrd", "rerun"),
    ],
)
def test_a_missing_package_is_named_with_its_extra_and_nothing_is_left(
    tiny_store: Path, tmp_path: Path, missing: str, ending: str, extra: str
) -> None:
    (tmp_path / f"e{ending}").write_text("what was there")
    command = [sys.executable, "-c", WITHOUT, missing, "show", str(tiny_store), "-o", f"e{ending}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=store_tools.environment(), capture_output=True, text=True, timeout=240
    )

    assert done.returncode == 3
    store_tools.assert_one_screen(done.stderr, f'pip install "vla-store[{extra}]"')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"e{ending}": "what was there"}


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".png", ".rrd"])
def test_a_disk_that_is_full_is_one_error_and_leaves_what_was_there(
    tiny_store: Path, tmp_path: Path, ending: str
) -> None:
    if ending == ".rrd":
        pytest.importorskip("rerun")
    (tmp_path / f"e{ending}").write_text("what was there")
    command = [sys.executable, "-m", "vla_store", "show", str(tiny_store), "-o", f"e{ending}"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=store_tools.environment(),
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000)),
    )

    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "vla-store: error: " in done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"e{ending}": "what was there"}


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(film, "scene_of", lambda *_: read.append("read"))
    blocked = tmp_path / ("x" * 251 + ".mp4")  # with what the temporary name adds it is too long
    store = open_store(tiny_store)

    with pytest.raises(MachineError):
        write_film(store, store.episodes[0], blocked)
    assert not read


def test_an_interrupted_film_leaves_what_was_there(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = FilmPage.picture
    calls: list[int] = []

    def picture(page: FilmPage, step: int, cameras: Any) -> Array:
        calls.append(step)
        if step == 5:
            raise KeyboardInterrupt
        return made(page, step, cameras)

    store = open_store(tiny_store)
    for ending in (".mp4", ".gif"):
        (tmp_path / f"e{ending}").write_text("what was there")
        monkeypatch.setattr(FilmPage, "picture", picture)
        with pytest.raises(KeyboardInterrupt):
            write_film(store, store.episodes[0], tmp_path / f"e{ending}")
        assert (tmp_path / f"e{ending}").read_text() == "what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.gif", "e.mp4"]
    assert 5 in calls


@pytest.mark.parametrize("steps", [["--steps", "5"], ["--steps", "events"]])
def test_steps_belong_to_pictures_alone(
    tiny_store: Path, tmp_path: Path, steps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tiny_store), "-o", str(tmp_path / "e.mp4"), *steps]) == 2
    store_tools.assert_one_screen(capsys.readouterr().err, "only a picture has chosen steps")
    assert not list(tmp_path.iterdir())
