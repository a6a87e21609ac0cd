"""`vla-store report`: its numbers are the store's, its page needs nothing else and runs nothing, and a browser shows it."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import re
import shlex
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
import tiny_libero
from chromium import LOOK_AT_LOAD, in_browser
from hypothesis import given
from hypothesis import strategies as st
from own_looks import Halves, Odd
from own_sources import Own
from telling_sources import STACK, Telling

import vla_store
from vla_store import open_store
from vla_store.builder import build_store
from vla_store.cli import main
from vla_store.look import charts, facts, page_episodes
from vla_store.look.facts import Histogram, gather, histogram, median, spread
from vla_store.look.page import LIMITS, html_page, write_page
from vla_store.look.pictures import indexed, shrunk
from vla_store.look.sheet import describe
from vla_store.look.thumbnails import thumbnails
from vla_store.reader.frames import Frames, LocatedFrames
from vla_store.sources.protocol import FieldSpec

VOID = {"meta", "img", "br", "path"}  # of what the page uses, these have no end


class Page(HTMLParser):
    """A page taken apart; `wrong` is what a browser would have to guess, fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        self.wrong += [f"{tag} does not end" for tag in self.open]
        ids = [values["id"] for _, values in self.tags if "id" in values]
        self.wrong += [f"two of id {each}" for each in set(ids) if ids.count(each) > 1]
        links = [values["href"] for tag, values in self.tags if tag == "a"]
        self.wrong += [f"{each} leads nowhere" for each in links if each.removeprefix("#") not in ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.wrong.append(f"<{tag}>")
        for name, value in values.items():
            if name.startswith("on") or (name in ("src", "href", "action", "data", "srcset") and not _inside(value)):
                self.wrong.append(f"{tag} {name}={value[:60]}")
            if "url(" in value or "javascript:" in value:
                self.wrong.append(f"{tag} {name}={value[:60]}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> out of place")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            if re.search(r"url\(|@import|expression", data):
                self.wrong.append("the style sheet fetches something")
            return
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        self.text += data
        if "td" in self.open and self.cells:
            self.cells[-1] += data


def _inside(link: str) -> bool:
    return link.startswith(("#", "data:image/png;base64,"))


def page_of(store: Path) -> str:
    opened = open_store(store)
    return html_page(gather(opened, store.name))


@dataclass(frozen=True)
class Noise(Own):
    """Cameras that give noise, another one in each file."""

    def read(self, number: int, field: str, start: int, stop: int) -> Any:
        spec = self.fields[field]
        if spec.dtype != "uint8":
            return super().read(number, field, start, stop)
        random = np.random.default_rng(list(f"{self.file}{field}".encode()))
        return random.integers(0, 256, (stop - start, *spec.shape), np.uint8)


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("odd") / "odd.vla"
    build_store([Odd(lengths={0: 1, 1: 2, 5: 40})], store)
    return store


# What it says


def test_counts_are_those_of_the_source(tiny_store: Path) -> None:
    made = gather(open_store(tiny_store), "tiny.vla")
    episodes = tiny_libero.episodes()

    assert (made.whole.episodes, made.whole.steps) == (len(episodes), sum(each.steps for each in episodes))
    for suite in made.suites:
        lengths = sorted(each.steps for each in episodes if each.file.suite == suite.suite)
        assert (suite.episodes, suite.steps) == (len(lengths), sum(lengths))
        assert suite.lengths == (lengths[0], statistics.median(lengths), lengths[-1])
        assert (suite.succeeded, suite.failed, suite.unknown) == (len(lengths), 0, 0)
    for task in made.tasks:
        lengths = [each.steps for each in episodes if each.file.task == task.task.name]
        assert (task.group.episodes, task.group.steps) == (len(lengths), sum(lengths))
    widths = {each.field.name: each.widths for each in made.ragged}
    assert widths == {
        "states": {
            width: sum(each.file.states_width == width for each in episodes)
            for width in sorted({each.file.states_width for each in episodes})
        }
    }
    assert sum(nbytes for _, nbytes in made.array_nbytes) == open_store(tiny_store).nbytes


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [([138, 138, 139, 139, 151, 172, 186, 316], "145"), ([7, 8], "7.5"), ([30_001, 30_002], "30,001.5"), ([9], "9")],
)
def test_the_median_of_an_even_number_of_lengths_lies_between_the_two_in_the_middle(
    lengths: list[int], shown: str
) -> None:
    assert f"{median(np.array(lengths)):,}" == shown


def test_no_ops_are_counted_as_openvla_does_step_by_step(demos: Path, demo_store: Path) -> None:
    h5py = pytest.importorskip("h5py")
    expected: dict[str, int] = {}
    for path in sorted((demos / "libero").glob("*/*.hdf5")):
        with h5py.File(path) as file:
            for demo in file["data"].values():
                gripper = None  # of the last action that was kept
                for action in demo["actions"][:]:
                    idle = np.linalg.norm(action[:-1]) < 1e-4 and (gripper is None or action[-1] == gripper)
                    expected[path.parent.name] = expected.get(path.parent.name, 0) + bool(idle)
                    gripper = gripper if idle else action[-1]
    made = gather(open_store(demo_store), "demos.vla")

    assert {each.suite: each.noops for each in made.suites} == expected
    assert made.whole.noops == sum(expected.values()) > 0
    assert made.whole.counted == 2_058


def test_the_page_says_every_decision(demo_store: Path) -> None:
    page = Page(page_of(demo_store))

    assert not page.wrong
    for said in (
        "bottom_up: 6 files, 13 episodes",
        "after: 6 files, 13 episodes",
        "of 2,058 steps",
        "13 of 13 episodes",
        "128 × 128 × 3 uint8",
        "of its pixels: prediction background, lz4hc 9",
        "of its pixels: no prediction, lz4hc 9",
        "differs from it for 1 of 6 tasks",
        "pick the alphabet soup and place it in the basket",
        "(preset fast)",
        "nothing; no warnings",
        "The charts of numbers are of all 2,058 steps",
        "No-ops were counted over all 2,058 steps",
        "The charts of pixels are of 48 of 2,058 frames",
        f"Written by vla-store report of vla_store {vla_store.__version__}",
    ):
        assert said in page.text, said


def test_conventions_said_at_build_and_unlike_ones_are_told_apart(tmp_path: Path) -> None:
    sources = [
        Halves(suite="a", orientation="bottom_up", observation="before"),
        Halves(suite="b", orientation="rot180", observation="after", lengths={0: 4}, decoder="Pillow 11.3.0"),
    ]
    build_store(sources, tmp_path / "mixed.vla", mixed=True)
    page = Page(page_of(tmp_path / "mixed.vla"))

    for said in (
        "bottom_up: 1 file, 2 episodes",
        "rot180: 1 file, 1 episode",
        "before: 1 file, 2 episodes",
        "after: 1 file, 1 episode",
        "JPEG in 1 file, decoded when the store was built, by Pillow 11.3.0",
    ):
        assert said in page.text, said
    assert "said at build" not in page.text
    store = open_store(tmp_path / "mixed.vla")
    recorded = [dict(describe(store, episode).notes)["recorded"] for episode in store.episodes]
    assert [each.partition(";")[0] for each in recorded] == [
        "pictures bottom_up, shown upright",
        "pictures bottom_up, shown upright",
        "pictures rot180, decoded from JPEG by Pillow 11.3.0, shown upright",
    ]


def test_a_convention_that_was_said_at_build_is_told_as_such(tiny_source: Path, tmp_path: Path) -> None:
    build_store([tiny_source], tmp_path / "said.vla", orientation="bottom_up")

    assert "bottom_up: 4 files, 10 episodes; said at build" in Page(page_of(tmp_path / "said.vla")).text


def test_what_was_left_out_and_warned_of_is_listed_with_its_reason(tiny_source: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    shutil.copytree(tiny_source, tmp_path / "source")
    spoiled = next((tmp_path / "source" / "libero_goal").glob("*.hdf5"))
    with h5py.File(spoiled, "r+") as file:
        del file["data/demo_2/actions"]
    build_store([tmp_path / "source"], tmp_path / "s.vla", skip_bad=True)
    store = open_store(tmp_path / "s.vla")
    (skipped,) = store.skipped
    page = Page(page_of(tmp_path / "s.vla"))

    assert "1 demonstration or file" in page.text
    assert {skipped.file, "demo_2", skipped.reason} <= set(page.cells)


def test_numbers_are_the_statistics_of_the_store(demo_store: Path) -> None:
    store = open_store(demo_store)
    made = {each.field.name: each for each in gather(store, "demos.vla").fields}

    assert set(made) == {name for name, each in store.fields.items() if not each.is_camera and not each.is_ragged}
    for name, each in made.items():
        known = store.statistics.all[name]
        values = store.read(name, range(store.rows)).reshape(store.rows, -1)
        for at, component in enumerate(each.components):
            assert component.statistics is not None
            assert component.statistics["mean"] == known.mean.reshape(-1)[at]
            assert component.histogram is not None
            assert sum(component.histogram.counts) == store.rows
            expected = np.histogram(
                values[:, at].astype(float), bins=40, range=(known.min.flat[at], known.max.flat[at])
            )[0]
            assert component.histogram.counts == tuple(expected)


def test_the_picture_of_a_task_is_the_true_one(demos: Path, demo_store: Path) -> None:
    h5py = pytest.importorskip("h5py")
    image = pytest.importorskip("PIL.Image", reason="reading a PNG needs Pillow")
    page = Page(page_of(demo_store))
    pictures = [
        np.asarray(image.open(io.BytesIO(base64.b64decode(values["src"].partition(",")[2]))))
        for tag, values in page.tags
        if tag == "img" and values.get("class") != "strip"
    ]

    assert len(pictures) == 2 * 6
    (path,) = (demos / "libero" / "libero_goal").glob("*.hdf5")
    with h5py.File(path) as file:
        first = file["data/demo_0"]
        middle = len(first["actions"]) // 2
        expected = [first[f"obs/{camera}"][middle][::-1] for camera in ("agentview_rgb", "eye_in_hand_rgb")]
    assert all((found == true).all() for found, true in zip(pictures[6:8], expected, strict=True))


def test_odd_stores_have_a_page_too(odd_store: Path, tmp_path: Path) -> None:
    page = Page(page_of(odd_store))
    assert not page.wrong
    assert "not counted" in page.text
    assert "no finite value 43 NaN" in page.text
    assert "… 29 more" in page.text  # of the 45 numbers of `wide`

    build_store([Own(fields={"joints": FieldSpec("float64", (6,), "observation")})], tmp_path / "bare.vla")
    bare = Page(page_of(tmp_path / "bare.vla"))
    assert not bare.wrong
    assert "This store has no cameras." in bare.text


def test_a_store_of_several_parts_is_told_of_as_one(tiny_source: Path, tmp_path: Path, tiny_store: Path) -> None:
    from vla_store.manage.append import append_store

    build_store([tiny_source / "libero_10", tiny_source / "libero_goal"], tmp_path / "grown.vla")
    append_store([tiny_source / "libero_spatial"], tmp_path / "grown.vla", preset="raw")
    grown, whole = gather(open_store(tmp_path / "grown.vla"), "x"), gather(open_store(tiny_store), "x")

    assert grown.suites == whole.suites
    assert [each.group for each in grown.tasks] == [each.group for each in whole.tasks]
    assert all(
        (a[1] == b[1]).all()
        for g, w in zip(grown.tasks, whole.tasks, strict=True)
        for a, b in zip(g.pictures, w.pictures, strict=True)
    )
    assert grown.presets == ("fast", "raw")
    assert "prediction background, lz4hc 9 or no prediction, no codec" in Page(page_of(tmp_path / "grown.vla")).text


# The episodes that it lists


def rows_of(page: Page) -> dict[int, list[str]]:
    """The cells of each row of the list, by number of the episode."""
    rows = [page.cells[at : at + 5] for at, cell in enumerate(page.cells) if cell.isdecimal()]
    return {int(row[0]): row for row in rows if len(row) == 5 and f"--episode {row[0]} -o" in row[4]}


def test_every_episode_is_listed_with_its_length_source_and_command(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    page = Page(page_of(tiny_store))
    rows = rows_of(page)

    assert list(rows) == list(range(len(store.episodes)))
    for each in store.episodes:
        command = f"vla-store show {tiny_store.name} --episode {each.episode} -o episode.png"
        expected = [str(each.episode), str(each.number), str(each.length), "yes" if each.success else "no", command]
        assert rows[each.episode] == expected
        assert f"of {each.suite}/{each.file}" in page.text
    assert {f"episode-{each.episode}" for each in store.episodes} <= {values.get("id") for _, values in page.tags}


def test_the_command_of_a_row_draws_that_episode(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    store = tmp_path / "two words & more.vla"
    shutil.copytree(tiny_store, store)
    monkeypatch.chdir(tmp_path)
    command = rows_of(Page(page_of(store)))[3][4]

    assert main([*shlex.split(command)[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episode"] == 3
    assert (tmp_path / "episode.png").is_file()


def test_what_episodes_of_one_task_do_not_share_is_said_in_their_rows(tmp_path: Path) -> None:
    one = Telling(file="one", lengths={0: 3}, told={0: {"task": STACK, "text": "stack the red cups"}})
    two = Telling(file="two", lengths={5: 4}, told={5: {"task": STACK}})
    build_store([one, two], tmp_path / "told.vla")
    page = Page(page_of(tmp_path / "told.vla"))

    assert not page.wrong
    assert [rows_of(page)[number][4].partition(" vla-store")[0] for number in (0, 1)] == [
        "stack the red cups one",
        "stack the cups two",
    ]


def test_a_list_without_room_ends_with_how_to_see_the_rest(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_episodes, "MAX_NBYTES", 4 * page_episodes.ROW_NBYTES)
    page = Page(page_of(tiny_store))
    episodes = len(open_store(tiny_store).episodes)

    assert not page.wrong, "no link leads to an episode that is not listed"
    assert list(rows_of(page)) == [0, 1]
    assert f"These are the first 2 of {episodes} episodes. vla-store episodes {tiny_store.name} lists all." in page.text


def test_a_strip_has_the_first_camera_from_start_to_end(demo_store: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="reading a PNG needs Pillow")
    store = open_store(demo_store)
    page = Page(page_of(demo_store))
    sources = [values["src"].partition(",")[2] for tag, values in page.tags if values.get("class") == "strip"]
    found = np.asarray(image.open(io.BytesIO(base64.b64decode(sources[7]))).convert("RGB")).astype(int)
    episode = store.episodes[7]

    assert len(sources) == len(store.episodes)
    assert found.shape == (64, 6 * (64 + 2) - 2, 3)
    for column, step in ((0, 0), (5, episode.length - 1)):
        stored = store.read("agentview_rgb", [episode.start + step])[0]
        true = shrunk(np.ascontiguousarray(stored[::-1]), 64).astype(int)
        shown = found[:, column * 66 : column * 66 + 64]
        assert np.abs(shown - true).mean() < 6, "64 colours of a strip differ a little from all"


def test_130_tasks_of_50_episodes_fit_in_three_megabytes(tmp_path: Path) -> None:
    """LIBERO's counts. Every picture is noise, which takes more bytes than any that a camera gives."""
    name = "KITCHEN_SCENE{}_put_the_black_bowl_in_the_top_drawer_of_the_cabinet_and_close_it"
    cameras = {camera: FieldSpec("uint8", (128, 128, 3), "observation") for camera in ("agentview", "eye_in_hand")}
    actions = {"actions": FieldSpec("float32", (7,), "step")}
    build_store(
        [Noise(file=name.format(n), lengths={0: 1}, fields=actions | cameras) for n in range(130)], tmp_path / "a.vla"
    )
    lengths = dict.fromkeys(range(50), 1)
    build_store([Own(file=name.format(n), lengths=lengths, fields=actions) for n in range(130)], tmp_path / "b.vla")
    pictured, listed = (
        gather(open_store(tmp_path / "a.vla"), "libero.vla"),
        gather(open_store(tmp_path / "b.vla"), "libero.vla"),
    )
    text = html_page(dataclasses.replace(pictured, whole=listed.whole, listed=listed.listed, strips=()))
    page = Page(text)

    assert not page.wrong
    assert len(rows_of(page)) == 6_500
    assert sum(tag == "img" for tag, _ in page.tags) == 260
    assert len(text.encode()) < 3_000_000


@pytest.mark.parametrize("count", [1, 40, 400])
def test_thumbnails_fit_and_few_are_exact(count: int) -> None:
    image = pytest.importorskip("PIL.Image", reason="reading a PNG needs Pillow")
    random = np.random.default_rng(0)
    # Smooth shades with a little noise, as cameras give them.
    shades = np.add.outer(np.arange(96), np.arange(128))[..., None] * np.array([0.5, 0.8, 0.3])
    pictures = [(shades + n + random.integers(0, 9, shades.shape)).clip(0, 255).astype(np.uint8) for n in range(count)]
    made = thumbnails(pictures, 600_000)
    found = [np.asarray(image.open(io.BytesIO(each.png)).convert("RGB")).astype(int) for each in made[:3]]

    assert sum(len(each.png) for each in made) <= 600_000
    assert {(each.width, each.height) for each in made} == {(128, 96)}
    for shown, picture in zip(found, pictures):
        true = shrunk(picture, max(shown.shape))
        assert shown.shape == true.shape
        assert np.abs(shown - true).mean() < 5
        if count == 1:
            assert (shown == picture).all()


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_a_palette_has_no_more_colours_and_keeps_the_few_that_are_there(colours: int) -> None:
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, (20, 30, 3), np.uint8)
    palette, places = indexed(noise, colours)
    assert len(palette) == colours
    assert places.max() == colours - 1
    assert np.abs(palette[places].astype(int) - noise).mean() < 90

    flags = np.zeros((8, 9, 3), np.uint8)
    flags[:4] = (200, 30, 40)
    assert (palette_of := indexed(flags, colours))[0][palette_of[1]].tolist() == flags.tolist()


def test_the_numbers_of_an_action_have_names_where_they_are_known(demo_store: Path, tmp_path: Path) -> None:
    page = Page(page_of(demo_store))
    known = ["[0] x", "[1] y", "[2] z", "[3] rotation x", "[4] rotation y", "[5] rotation z", "[6] gripper"]
    assert [each for each in page.cells if each in known] == known

    other = Own(fields={"actions": FieldSpec("float32", (7,), "step")})
    build_store([other], tmp_path / "other.vla")
    cells = Page(page_of(tmp_path / "other.vla")).cells
    assert {"[0]", "[6]"} <= set(cells)
    assert not set(known) & set(cells), "another robot's numbers may mean anything"

    build_store([Telling()], tmp_path / "named.vla")
    assert {"[0] x (m)", "[3] gripper", "[0] joint_0"} <= set(Page(page_of(tmp_path / "named.vla")).cells)


# What it reads


@pytest.mark.parametrize("fetcher", ["pread", "fsspec"])
def test_the_page_does_not_depend_on_how_the_store_is_reached(tiny_store: Path, fetcher: str) -> None:
    opened = open_store(tiny_store, fetcher=fetcher)

    assert html_page(gather(opened, tiny_store.name)) == page_of(tiny_store)


@pytest.mark.parametrize("command", ["show", "report"])
def test_damage_is_an_error_and_leaves_no_page(
    command: str, tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.vla")
    (shard,) = [path for path in (tmp_path / "s.vla").rglob("eye_in_hand_rgb/c/**/*") if path.is_file()]
    shard.unlink()
    output = tmp_path / {"show": "e.png", "report": "r.html"}[command]

    assert main([command, str(tmp_path / "s.vla"), "-o", str(output)]) == 1
    store_tools.assert_one_screen(capsys.readouterr().err, "eye_in_hand_rgb")
    assert [path.name for path in tmp_path.iterdir()] == ["s.vla"]


def test_of_a_large_store_no_more_is_read_than_it_says(
    demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "MAX_SAMPLED_ROWS", 512)
    monkeypatch.setattr(facts, "MAX_ACTION_STEPS", 700)
    monkeypatch.setattr(facts, "MAX_SAMPLED_FRAMES", 5)
    monkeypatch.setattr(facts, "MAX_PICTURES", 3)
    monkeypatch.setattr(page_episodes, "MAX_STRIPS", 12)  # of 13 episodes: none has one
    decoded = 0
    fill: Callable[..., Any] = Frames.fill

    def counting(self: Frames, rows: list[int], *rest: Any) -> Any:
        nonlocal decoded
        decoded += len(rows)
        return fill(self, rows, *rest)

    monkeypatch.setattr(Frames, "fill", counting)
    store = open_store(demo_store)
    made = gather(store, "demos.vla")
    page = Page(html_page(made))

    assert decoded <= 5 * 2 + 3
    assert made.noop_episodes == 5  # every third of thirteen
    counted = sum(store.episodes[n].length for n in (0, 3, 6, 9, 12))
    assert made.whole.counted == counted
    for said in (
        "The charts of numbers are of 512 of 2,058 steps, in runs evenly spread",
        f"No-ops were counted over {counted:,} of 2,058 steps: 5 whole episodes, evenly spread, of 13",
        "The charts of pixels are of 5 of 2,058 frames",
        "3 more tasks, without pictures",
        "by 1 of 2 cameras",
    ):
        assert said in page.text, said


def test_pixels_are_read_as_rarely_as_the_page_says(demo_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    decode: Callable[..., Any] = Frames.decode

    def noting(self: Frames, located: LocatedFrames, *rest: Any) -> Any:
        rows.extend(located.frames.rows)
        return decode(self, located, *rest)

    monkeypatch.setattr(Frames, "decode", noting)
    Page(page_of(demo_store))

    assert 0 < len(rows) <= 2 * (48 + 6) + 13 * page_episodes.STRIP_STEPS


@given(rows=st.integers(1, 10**9), at_most=st.integers(1, 70_000))
def test_runs_are_apart_inside_and_evenly_spread(rows: int, at_most: int) -> None:
    found = spread(rows, at_most, 256)

    if rows <= at_most:
        assert np.array_equal(found, np.arange(rows))
        return
    runs = found.reshape(-1, min(256, at_most))
    assert at_most - 256 < found.size <= at_most
    assert found[0] >= 0
    assert found[-1] < rows
    assert (np.diff(runs) == 1).all()
    assert (np.diff(found) >= 1).all()
    gaps = np.diff(runs[:, 0])
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@given(count=st.integers(1, 10**9), at_most=st.integers(1, 300))
def test_spread_numbers_are_distinct_and_below_the_count(count: int, at_most: int) -> None:
    found = spread(count, at_most)

    assert len(found) == min(count, at_most)
    assert all(0 <= a < b for a, b in itertools.pairwise(found))
    assert found[-1] < count


# What it is made of


def test_the_same_store_gives_the_same_bytes_wherever_it_lies(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "elsewhere" / tiny_store.name)
    first = write_page(open_store(tiny_store), tmp_path / "a.html")
    ran = store_tools.run(
        "report", tmp_path / "elsewhere" / tiny_store.name, "-o", "b.html", cwd=tmp_path, PYTHONHASHSEED="7"
    )
    assert ran.code == 0, ran.err

    text = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert first.path.read_text(encoding="utf-8") == text
    assert str(tmp_path) not in text, "a page that is handed around names no folder of this machine"


def test_hostile_text_is_text(odd_store: Path) -> None:
    text = page_of(odd_store)
    page = Page(text)

    assert not page.wrong
    assert "<script" not in text
    assert "<script>document.title='owned'</script>" in page.text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)


def test_the_reader_of_pages_finds_what_must_not_be_there() -> None:
    for text in (
        "<p>",
        "<b><i></b></i>",
        "<script></script>",
        "<img src='https://example.org/a.png'>",
        "<img src='data:image/png;base64,x' onerror='x'>",
        "<a href='#nowhere'></a>",
        "<a href='javascript:x'></a>",
        "<style>@import 'x'</style>",
        "<p style='background:url(x)'></p>",
        "<i id='a'></i><i id='a'></i>",
    ):
        assert Page(text).wrong, text


def test_the_command_writes_the_page_and_says_so(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(tiny_store), "-o", "r.html", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"nbytes": (tmp_path / "r.html").stat().st_size, "path": str(tmp_path / "r.html")}

    for wrong, code in (("r.pdf", 2), ("none/r.html", 2)):
        assert main(["report", str(tiny_store), "-o", wrong]) == code
        store_tools.assert_one_screen(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_histogram_counts_every_finite_value_once() -> None:
    values = np.array([0.0, 1.0, 1.0, 4.0, np.nan, np.inf, -np.inf])
    made = histogram(values, 0, 4, 4)

    assert made == Histogram(0, 4, (1, 2, 0, 1))
    assert histogram(values[:1], 0, 0) == Histogram(0, 0, (1,))
    assert histogram(values[4:], 0, 4) is None
    assert histogram(values, float("nan"), float("nan"), 2) == Histogram(0, 4, (3, 1))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), at_most=st.integers(1, 12))
def test_ticks_are_round_numbers_within_the_range(low: float, span: float, at_most: int) -> None:
    found = charts.ticks(low, low + span, at_most)

    assert len(found) <= at_most + 1
    assert all(low - 1e-6 * span <= each <= low + span * (1 + 1e-6) for each in found)


# In a browser


def looked_at(page: Path, width: int) -> dict[str, Any]:
    """What LOOK_AT_LOAD sees of a page that is opened in a window so wide."""
    text = page.read_text(encoding="utf-8")
    watched = page.with_name(f"watched-{page.name}")
    policy = re.search("<meta http-equiv=[^>]*>", text)
    assert policy, "the page allows what it does not need"
    watched.write_text(text.replace(policy[0], "").replace("</body>", f"{LOOK_AT_LOAD}</body>"), encoding="utf-8")
    printed = in_browser(watched, f"--window-size={width},1000", "--dump-dom")
    found = re.search("SEEN(.*)END", printed)
    assert found, printed[:500]
    seen: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return seen


@pytest.mark.parametrize("width", [1200, 600, 420])
def test_a_browser_shows_the_page_without_overlaps_cuts_or_requests(
    demo_store: Path, tmp_path: Path, width: int
) -> None:
    page = write_page(open_store(demo_store), tmp_path / "demos.html").path
    seen = looked_at(page, width)

    assert seen["wrong"] == []
    assert seen["fetched"] == []
    assert (seen["scripts"], seen["pictures"]) == (0, 12 + 13)
    assert seen["title"].endswith("what it holds")


def test_a_link_to_an_episode_unfolds_its_line(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "MAX_UNFOLDED", 0)
    page = tmp_path / "page.html"
    text = re.sub("<meta http-equiv=[^>]*>", "", page_of(tiny_store))
    look = """<script>addEventListener('load', () => {
      const row = document.getElementById('episode-7'), list = row.closest('details'), before = list.open;
      document.querySelector('a[href="#episode-7"]').click();
      document.documentElement.textContent = 'SEEN' + [before, list.open, row.matches(':target')] + 'END';
    });</script>"""
    page.write_text(text.replace("</body>", f"{look}</body>"), encoding="utf-8")

    assert "SEENfalse,true,trueEND" in in_browser(page, "--dump-dom")


def test_a_browser_runs_nothing_that_hostile_text_says(odd_store: Path, tmp_path: Path) -> None:
    """Even where the page's own policy, which forbids all scripts, is taken away."""
    page = write_page(open_store(odd_store), tmp_path / "odd.html").path
    seen = looked_at(page, 1200)

    assert seen["title"] == "odd.vla: what it holds"
    assert (seen["scripts"], seen["pictures"], seen["fetched"]) == (0, 4 + 3, [])
    assert [each for each in seen["wrong"] if "WWW" not in each] == []


def test_the_look_of_a_browser_finds_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><html><head><meta http-equiv="x" content="y"><title>t</title></head><body style="margin:0">'
        '<p style="position:absolute;top:9px">one</p><p style="position:absolute;top:9px">two</p>'
        '<p style="position:absolute;left:5000px">far</p><img src="gone.png">'
        '<svg width="10" height="10"><text x="0" y="8">long text</text></svg></body></html>',
        encoding="utf-8",
    )
    wrong = " ".join(looked_at(page, 600)["wrong"])

    for said in ("one on two", "outside: far", "a picture does not load", "cut: long text", "scrolls sideways"):
        assert said in wrong, (said, wrong)


def shot(page: Path, *options: str) -> np.ndarray[Any, Any]:
    """The pixels of a page, 1,200 wide."""
    image = pytest.importorskip("PIL.Image", reason="reading a PNG needs Pillow")
    picture = page.with_suffix(".png")
    in_browser(page, "--window-size=1200,2600", f"--screenshot={picture}", *options)
    return np.asarray(image.open(picture).convert("RGB")).astype(int)


def test_a_browser_shows_the_pictures_in_light_and_in_dark(demo_store: Path, tmp_path: Path) -> None:
    page = write_page(open_store(demo_store), tmp_path / "demos.html").path
    light = shot(page)
    dark = shot(page, "--blink-settings=preferredColorScheme=0")

    assert np.median(light) > 240
    assert np.median(dark) < 50
    assert brown_pixels(light) > 20_000, "the wooden tables of the tasks' pictures"
    assert brown_pixels(dark) > 20_000


def brown_pixels(pixels: np.ndarray[Any, Any]) -> int:
    return int(((pixels[..., 0] > pixels[..., 2] + 30) & (pixels[..., 1] > pixels[..., 2])).sum())


def test_a_browser_prints_the_page(demo_store: Path, tmp_path: Path) -> None:
    page = write_page(open_store(demo_store), tmp_path / "demos.html").path
    in_browser(page, f"--print-to-pdf={tmp_path / 'demos.pdf'}", "--no-pdf-header-footer")
    data = (tmp_path / "demos.pdf").read_bytes()

    assert data.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 12
