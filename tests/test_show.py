"""`vla-store show`: the right frames, the right way up, above their steps; nothing runs into anything; any camera, any text."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import store_tools
from hypothesis import given
from hypothesis import strategies as st
from own_looks import Halves, Odd
from own_sources import Own
from view_tools import put_views, view_json

from vla_store import UnknownName, UsageError, open_store
from vla_store.builder import build_store
from vla_store.cli import error_text, main
from vla_store.look import sheet
from vla_store.look.drawing import plain_style
from vla_store.look.episodes import EpisodeFilter, filtered, find_episode
from vla_store.look.pictures import png_bytes, shrunk, to_rgb, value_range
from vla_store.look.sheet import canvas_of, describe, write_sheet
from vla_store.look.steps import spread_steps, tick_steps
from vla_store.sources.protocol import FieldSpec


def opened_png(data: bytes) -> np.ndarray[Any, Any]:
    image = pytest.importorskip("PIL.Image", reason="reading a PNG needs Pillow").open(io.BytesIO(data))
    return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("odd") / "odd.vla"
    build_store([Odd(lengths={0: 1, 1: 2, 5: 40})], store)
    return store


# What is shown


def test_the_pictures_are_those_of_the_source_turned_upright(tiny_source: Path, tiny_store: Path) -> None:
    h5py = pytest.importorskip("h5py")
    store = open_store(tiny_store)
    episode = find_episode(store, "libero_10/LIVING_ROOM_SCENE2_put_both_the_cups_in_the_basket/10")
    made = describe(store, episode, steps=5)

    assert (episode.number, episode.length, made.steps) == (10, 18, (0, 4, 9, 13, 17))
    with h5py.File(tiny_source / episode.suite / episode.file) as file:
        demo = file["data/demo_10"]
        for strip in made.strips:
            stored = demo[f"obs/{strip.camera}"][:][list(made.steps)]
            assert (strip.pictures == stored[:, ::-1]).all()
        assert [strip.camera for strip in made.strips] == ["agentview_rgb", "eye_in_hand_rgb"]
        move, turn, gripper = made.panels
        assert (np.hstack([move.values, turn.values, gripper.values]) == demo["actions"][:]).all()
        assert gripper.right is not None
        assert (gripper.right.values == demo["obs/gripper_states"][:]).all()


@pytest.mark.parametrize(
    ("orientation", "images"),
    [
        ("bottom_up", "upright"),
        ("top_down", "upright"),
        ("rot180", "upright"),
        ("bottom_up", "as_stored"),
        ("bottom_up", "rot180"),
    ],
)
def test_on_the_picture_itself_up_is_up_and_left_is_left(orientation: str, images: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = Halves(orientation=orientation)
    build_store([source], tmp_path / "halves.vla")
    store = open_store(tmp_path / "halves.vla")
    written = write_sheet(store, store.episodes[0], tmp_path / "halves.png", steps=3, images=images)
    drawn = opened_png(written.path.read_bytes()).astype(int)

    upright = Halves(orientation="top_down").stored()
    expected = {"upright": upright, "as_stored": source.stored(), "rot180": upright[:, ::-1]}[images].astype(int)
    green = (drawn[..., 1] > 200) & (drawn[..., 0] < 60) & (drawn[..., 2] < 60)
    rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    # The first of the three pictures: from its green edge, as wide as the picture is.
    high = rows[-1] - rows[0] + 1
    wide = round(high * 48 / 32)
    left = columns[0] if (expected[:, 0] == (0, 255, 0)).all() else columns[0] - wide + round(high * 8 / 32)
    for y, x in ((4, 4), (4, 24), (4, 44), (28, 4), (28, 24), (28, 44)):
        found = drawn[rows[0] + round(y / 32 * high), left + round(x / 48 * wide)]
        assert np.abs(found - expected[y, x]).max() < 30, (y, x)


def test_a_picture_stands_above_its_step_on_the_axis_of_the_curves(tiny_store: Path) -> None:
    pytest.importorskip("matplotlib")
    store = open_store(tiny_store)
    made = describe(store, store.episodes[0], steps=4)
    figure = canvas_of(made).figure
    pictures = [axes for axes in figure.axes if axes.images]
    curves = [axes for axes in figure.axes if axes.lines]

    assert len(pictures) == 2 * 4
    assert len(curves) == 4  # one of them has a second scale
    for number, step in enumerate(made.steps):
        box = pictures[number].get_window_extent()
        for axes in curves:
            x, _ = axes.transData.transform((step, 0))
            half_a_step = (axes.transData.transform((1, 0)) - axes.transData.transform((0, 0)))[0] / 2
            assert abs(x - (box.x0 + box.x1) / 2) <= half_a_step + 0.5


@given(length=st.integers(1, 5_000), count=st.integers(1, 24))
def test_the_chosen_steps_are_evenly_spread_from_the_first_to_the_last(length: int, count: int) -> None:
    steps = spread_steps(length, count)

    assert len(steps) == min(length, count)
    assert steps[0] == 0
    if len(steps) > 1:
        assert steps[-1] == length - 1
        gaps = np.diff(steps)
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


def test_the_sheet_says_where_the_episode_comes_from(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    notes = dict(describe(store, store.episodes[-1]).notes)

    assert (
        "libero_spatial/pick_up_the_cup_and_place_it_on_the_plate_demo.hdf5, demo_11: 15 steps, success"
        in notes["source"]
    )
    assert store.fingerprint[:16] in notes["store"]
    assert "tiny-fast.vla, episode 9 of 10" in notes["store"]
    assert str(tiny_store.parent) not in str(notes), "a picture that is handed around names no folder of this machine"
    assert notes["recorded"].startswith("pictures bottom_up, shown upright; observations after the action")


def test_no_ops_are_marked_by_openvlas_rule(tmp_path: Path) -> None:
    build_store([Halves()], tmp_path / "halves.vla")
    store = open_store(tmp_path / "halves.vla")
    made = describe(store, store.episodes[0])

    assert made.curves.idle is not None
    assert made.curves.idle.tolist() == [step % 3 == 0 for step in range(20)]
    assert dict(made.notes)["no-ops"].startswith("7 of 20 steps")


# How it is drawn


def texts_of(figure: Any) -> Iterator[tuple[str, Any]]:
    """Every text that is drawn, with its box in pixels."""
    drawn = list(figure.texts)
    for axes in figure.axes:
        drawn += [axes.xaxis.label, axes.yaxis.label, *axes.texts]
        drawn += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            drawn += [label for tick in ticks for label in (tick.label1, tick.label2) if label.get_visible()]
    for each in drawn:
        if each.get_text().strip():
            yield each.get_text(), each.get_window_extent()


def crowded(figure: Any) -> list[str]:
    """Texts that leave the figure, and texts or pictures that lie on other ones."""
    with plain_style():
        figure.canvas.draw()  # only then has every text its place
        texts = list(texts_of(figure))
    wide, high = figure.canvas.get_width_height()
    boxes = [*texts, *(("a picture", axes.get_window_extent()) for axes in figure.axes if axes.images)]
    wrong = [
        f"{name!r} leaves the figure: {box}"
        for name, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > wide or box.y1 > high
    ]
    for number, (name, box) in enumerate(boxes):
        for other_name, other in boxes[number + 1 :]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            if across > 1 and along > 1:
                wrong.append(f"{name!r} lies on {other_name!r}: {box}, {other}")
    return wrong


@pytest.mark.parametrize(("episode", "steps"), [(0, 8), (1, 8), (2, 1), (2, 24)])
def test_nothing_runs_into_anything_with_odd_cameras_and_hostile_text(
    odd_store: Path, episode: int, steps: int
) -> None:
    pytest.importorskip("matplotlib")
    store = open_store(odd_store)
    made = describe(store, store.episodes[episode], steps=steps)

    assert [strip.camera for strip in made.strips] == ["grey", "tall", "depth_mm", "range"]
    assert not crowded(canvas_of(made).figure)


@pytest.mark.parametrize("steps", [8, 24])
def test_nothing_runs_into_anything_on_the_demonstrations(demo_store: Path, steps: int) -> None:
    pytest.importorskip("matplotlib")
    store = open_store(demo_store)

    assert not crowded(canvas_of(describe(store, store.episodes[0], steps=steps)).figure)


def test_the_check_for_crowding_finds_text_on_text_and_text_outside(tiny_store: Path) -> None:
    pytest.importorskip("matplotlib")
    store = open_store(tiny_store)
    figure = canvas_of(describe(store, store.episodes[0])).figure
    figure.text(*figure.texts[0].get_position(), "over the title", va="top")
    figure.text(0.97, 0.999, "over the edge")

    found = " ".join(crowded(figure))
    assert "'over the edge' leaves the figure" in found
    assert "lies on 'over the title'" in found


def test_a_text_is_never_read_as_mathematics_or_markup(odd_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = open_store(odd_store)
    written = write_sheet(store, store.episodes[2], tmp_path / "odd.png")  # matplotlib would refuse the fraction

    assert "\\frac{1}{0}" in describe(store, store.episodes[2]).title
    assert opened_png(written.path.read_bytes()).shape == (written.height, written.width, 3)


def test_the_same_store_gives_the_same_bytes(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    first = store_tools.run("show", tiny_store, "-o", "a.png", cwd=tmp_path, PYTHONHASHSEED="1")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\n")
    second = store_tools.run("show", tiny_store, "-o", "b.png", cwd=tmp_path, PYTHONHASHSEED="2")
    assert (first.code, second.code) == (0, 0), first.err + second.err

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes(), matplotlib.__version__


def test_a_store_without_cameras_or_actions_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, fields in (("joints", ("joints",)), ("bare", ())):
        built = {name: FieldSpec("float64", (6,), "observation") for name in fields} or {
            "t": FieldSpec("int64", (), "step")
        }
        build_store([Own(fields=built)], tmp_path / f"{name}.vla")
        store = open_store(tmp_path / f"{name}.vla")
        made = describe(store, store.episodes[0])

        assert not made.strips
        assert [panel.title for panel in made.panels] == [f"{each} 0 to 5" for each in fields]
        assert {"cameras", "curves"} <= dict(made.notes).keys()
        assert not crowded(canvas_of(made).figure)


def test_many_actions_are_numbered_and_the_rest_is_told_of(tmp_path: Path) -> None:
    fields = {"actions": FieldSpec("float32", (40,), "step")}
    build_store([Own(fields=fields)], tmp_path / "arms.vla")
    store = open_store(tmp_path / "arms.vla")
    made = describe(store, store.episodes[0])

    assert [panel.title for panel in made.panels] == [f"actions {n} to {n + 7}" for n in (0, 8, 16, 24)]
    assert "first 32 of the 40 numbers" in dict(made.notes)["curves"]


@pytest.mark.parametrize("ending", [".svg", ".PDF"])
def test_a_vector_format_is_read_by_others_and_the_same_each_time(
    odd_store: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        assert main(["show", str(odd_store), "--episode", "2", "-o", str(tmp_path / f"{name}{ending}")]) == 0
        assert " points, " in capsys.readouterr().out
    data = (tmp_path / f"a{ending}").read_bytes()
    assert data == (tmp_path / f"b{ending}").read_bytes()
    if ending == ".PDF":
        assert data.startswith(b"%PDF-")
        return
    root = ElementTree.fromstring(data)  # the hostile text is text
    tags = [each.tag.rpartition("}")[2] for each in root.iter() if isinstance(each.tag, str)]
    assert tags.count("image") == 4 * 8
    assert "script" not in tags


@dataclasses.dataclass(frozen=True)
class Named(Own):
    fields: Mapping[str, FieldSpec] = dataclasses.field(
        default_factory=lambda: {
            "actions": FieldSpec("float32", (14,), "step"),
            "base_action": FieldSpec("float32", (2,), "step"),
            "effort": FieldSpec("float32", (14,), "observation"),
            "qpos": FieldSpec(
                "float32", (14,), "observation", names=tuple(f"joint_{n}" for n in range(14)), units=("rad",) * 14
            ),
            "left_gripper": FieldSpec("float64", (), "observation"),
            "right_gripper": FieldSpec("float64", (), "observation"),
            "camera_matrix": FieldSpec("float32", (3, 3), "observation"),
            "counts": FieldSpec("int64", (3,), "observation"),
        }
    )


def test_another_robot_has_curves_of_its_own_state_and_no_line_about_libero(tmp_path: Path) -> None:
    build_store([Named()], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    made = describe(store, store.episodes[0])

    assert [panel.title for panel in made.panels] == [
        "actions 0 to 6",
        "actions 7 to 13",
        "base_action 0 to 1",
        "qpos 0 to 6",
        "qpos 7 to 13",
        "single numbers",
    ]
    assert made.panels[4].names == tuple(f"joint_{n} (rad) [{n}]" for n in range(7, 14))
    assert made.panels[5].names == ("left_gripper", "right_gripper")
    rows = range(20)
    assert (np.hstack([made.panels[3].values, made.panels[4].values]) == store.read("qpos", rows)).all()
    assert (made.panels[5].values[:, 1] == store.read("right_gripper", rows)).all()
    notes = dict(made.notes)
    assert notes["curves"] == (
        "of actions, base_action, qpos, left_gripper, right_gripper; not of camera_matrix, effort, counts"
    )
    assert made.curves.idle is None
    assert "no-ops" not in notes


def test_seven_numbers_are_liberos_actions_only_where_the_last_opens_and_closes(tmp_path: Path) -> None:
    build_store([Own(fields={"actions": FieldSpec("float32", (7,), "step")})], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    made = describe(store, store.episodes[0])

    assert made.curves.idle is None
    assert "no-ops" not in dict(made.notes)


def test_a_state_that_is_too_wide_is_drawn_as_far_as_there_is_room(tmp_path: Path) -> None:
    fields = {"actions": FieldSpec("float32", (2,), "step"), "state": FieldSpec("float32", (55,), "observation")}
    build_store([Own(fields=fields)], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    made = describe(store, store.episodes[0])

    assert [panel.title for panel in made.panels] == [
        "actions 0 to 1",
        "state 0 to 7",
        "state 8 to 15",
        "state 16 to 23",
    ]
    assert dict(made.notes)["curves"] == "the first 24 of the 55 numbers of state"


# Which episode


@pytest.mark.parametrize(
    ("text", "episode"),
    [
        ("0", 0),
        ("-1", 9),
        ("8", 8),
        ("libero_goal/open_the_middle_drawer_demo.hdf5/demo_2", 5),
        ("libero_goal/open_the_middle_drawer/2", 5),
        ("libero_goal/open_the_middle_drawer_demo/demo_1", 4),
        ("/data/LIBERO/libero_goal/open_the_middle_drawer_demo.hdf5/demo_0", 3),
        ("libero_spatial/pick_up_the_cup_and_place_it_on_the_plate_demo.hdf5/demo_11", 9),
    ],
)
def test_an_episode_is_found_by_number_or_name(tiny_store: Path, text: str, episode: int) -> None:
    assert find_episode(open_store(tiny_store), text).episode == episode


def test_an_episode_of_a_later_part_is_found_by_name(tiny_source: Path, tmp_path: Path) -> None:
    from vla_store.manage.append import append_store

    build_store([tiny_source / "libero_spatial"], tmp_path / "grown.vla")
    append_store([tiny_source / "libero_goal"], tmp_path / "grown.vla")
    store = open_store(tmp_path / "grown.vla")
    found = find_episode(store, "libero_goal/open_the_middle_drawer/demo_2")

    assert (found.suite, found.number, found.length) == ("libero_goal", 2, 5)
    assert len(store.parts) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10", "0 to 9"),
        ("-11", "0 to 9"),
        ("drawer", "libero_10/LIVING_ROOM_SCENE2_put_both_the_cups_in_the_basket_demo.hdf5/demo_0"),
        ("", "suite/file/demo"),
        ("libero_42/open_the_middle_drawer/2", "libero_10, libero_goal, libero_spatial"),
        ("libero_goal/shut_it/2", "open_the_middle_drawer_demo.hdf5"),
        ("libero_goal/open_the_middle_drawer/7", "demo_0, demo_1, demo_2"),
    ],
)
def test_an_episode_that_does_not_exist_is_answered_with_those_that_do(tiny_store: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_episode(open_store(tiny_store), text)

    store_tools.assert_one_screen(error_text(caught.value), said)


# The command


def test_the_command_writes_a_picture_and_says_so(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran = store_tools.run("show", tiny_store, "--episode", "3", "-o", "e.PNG", "--steps", "2", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)

    assert (told["episode"], told["steps"], told["suite"]) == (3, 16, "libero_goal")
    assert told["nbytes"] == (tmp_path / "e.PNG").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.PNG"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "e.jpg"], ".png or .svg or .pdf or .mp4 or .gif or .rrd"),
        (["-o", "no/such/folder/e.png"], "folder"),
        (["-o", "folder.png"], "folder"),
        (["-o", "e.png", "--steps", "0"], "1 to 24"),
        (["-o", "e.png", "--steps", "25"], "1 to 24"),
    ],
)
def test_wrong_use_is_exit_code_2_and_writes_nothing(
    tiny_store: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)

    assert main(["show", str(tiny_store), *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    store_tools.assert_one_screen(err, said)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("matplotlib", "PIL", "zarr", "dask", "distributed", "h5py", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from vla_store.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_matplotlib_show_says_what_to_install_and_report_works(tiny_store: Path, tmp_path: Path) -> None:
    def ran(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=store_tools.environment(), capture_output=True, text=True, timeout=120
        )

    shown_, reported = ran("show", tiny_store, "-o", "e.png"), ran("report", tiny_store, "-o", "r.html")

    assert shown_.returncode == 3
    store_tools.assert_one_screen(shown_.stderr, "matplotlib", 'pip install "vla-store[plots]"')
    assert reported.returncode == 0, reported.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


# Pictures of any kind of frame


def test_depth_is_coloured_from_near_to_far_and_what_is_no_number_is_pink() -> None:
    frames = np.linspace(0.5, 2.5, 400, dtype=np.float32).reshape(1, 20, 20, 1)
    frames[0, 0, 0] = np.nan
    frames[0, 19, 19] = np.inf
    values = value_range(frames)
    assert values is not None
    made = to_rgb(frames, values)

    assert 0.5 <= values[0] < 0.55 < 2.45 < values[1] <= 2.5
    assert made[0, 0, 0].tolist() == made[0, 19, 19].tolist() == [255, 0, 160]
    light = (made[0] @ np.array([0.299, 0.587, 0.114])).reshape(-1)[1:-1]
    assert (np.diff(light) > -1).all(), "farther is never darker"
    assert light[-1] - light[0] > 150


@pytest.mark.parametrize(
    ("dtype", "shape"), [("uint16", (2, 4, 5, 1)), ("uint16", (2, 4, 5, 3)), ("float32", (2, 4, 5, 4))]
)
def test_a_frame_of_one_value_and_one_of_none_have_a_picture(dtype: str, shape: tuple[int, ...]) -> None:
    frames = np.full(shape, 7, dtype)
    assert value_range(frames) == (7, 7)
    assert to_rgb(frames, (7, 7)).shape == (2, 4, 5, 3)
    if dtype == "float32":
        frames[:] = np.nan
        assert value_range(frames) == (0, 0)
        assert (to_rgb(frames, (0, 0)) == (255, 0, 160)).all()


def test_colours_pass_through_and_grey_has_three_channels() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 2, 3, 4):
        frames = rng.integers(0, 256, (2, 5, 6, channels), dtype=np.uint8)
        made = to_rgb(frames, value_range(frames))
        expected = frames[..., :3] if channels >= 3 else np.repeat(frames[..., :1], 3, axis=3)
        assert (made == expected).all()


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_png_comes_back_as_the_picture_it_was(height: int, width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture[: height // 2] = picture[0, 0]

    assert (opened_png(png_bytes(picture)) == picture).all()


def test_shrinking_takes_the_mean_of_whole_squares() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (260, 512, 3), dtype=np.uint8)
    made = shrunk(picture, 160)

    assert made.shape == (65, 128, 3)
    assert (made[3, 5] == np.rint(picture[12:16, 20:24].reshape(16, 3).mean(axis=0))).all()
    assert shrunk(made, 160) is made
    assert shrunk(np.zeros((1, 1_000, 3), np.uint8), 160).shape == (1, 142, 3)


def test_the_limits_of_the_command_line_are_those_of_the_sheet() -> None:
    assert (sheet.STEPS, sheet.MAX_STEPS) == (8, 24)


# Lists of episodes


def test_a_filter_lets_through_what_all_of_it_says(demo_store: Path) -> None:
    store = open_store(demo_store)
    every = list(store.episodes)
    wanted = EpisodeFilter(text="PLATE bowl_on", suite="libero_goal", shortest=every[7].length)

    assert [each.episode for each in filtered(store, EpisodeFilter())] == [each.episode for each in every]
    assert filtered(store, wanted) == [
        each
        for each in every
        if each.suite == "libero_goal"
        and "plate" in each.text
        and "bowl on" in each.text
        and each.length >= every[7].length
    ]
    assert filtered(store, wanted)
    assert all(each.success for each in filtered(store, EpisodeFilter(success=True)))
    with pytest.raises(UnknownName, match="libero_gaol"):
        filtered(store, EpisodeFilter(suite="libero_gaol"))


@pytest.mark.parametrize("seed", range(8))
def test_a_filter_by_view_lets_through_episodes_of_which_it_keeps_a_step(
    tiny_store: Path, tmp_path: Path, seed: int
) -> None:
    store = open_store(shutil.copytree(tiny_store, tmp_path / "tiny"))
    draw = np.random.default_rng(seed)
    masks = [(draw.random(each.length) < draw.choice([0.0, 0.1, 0.9])).tolist() for each in store.episodes]
    tasks = [(each.suite, each.task) for each in store.episodes]
    put_views(tmp_path / "tiny", {"some": view_json("anchors", masks, tasks)})
    store = open_store(tmp_path / "tiny")

    found = [each.episode for each in filtered(store, EpisodeFilter(view="some"))]

    assert found == [number for number, mask in enumerate(masks) if any(mask)]


def test_what_is_shown_may_be_named_by_number_and_by_name(tiny_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from vla_store.look.show import write_episode

    store = open_store(tiny_store)
    last = store.episodes[-1]
    name = f"{last.suite}/{last.file}/demo_{last.number}"
    made = {
        write_episode(place, which, tmp_path / "x.png", steps=1).path.read_bytes()
        for place, which in ((store, last), (tiny_store, -1), (str(tiny_store), name), (store, np.int64(last.episode)))
    }
    assert len(made) == 1
    with pytest.raises(TypeError, match="whole number"):
        write_episode(store, True, tmp_path / "x.png")
    with pytest.raises(UnknownName, match="there is no episode 999"):
        write_episode(store, 999, tmp_path / "x.png")


@pytest.mark.parametrize(("name", "call"), [("x.png", "show"), ("x.html", "report"), ("deep/x.gif", "show")])
def test_nothing_is_written_into_the_store(
    tiny_store: Path, tmp_path: Path, name: str, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "s.vla"
    shutil.copytree(tiny_store, copy)
    (copy / "deep").mkdir()
    before = sorted(copy.rglob("*"))

    chosen = ["--episode", "0"] if call == "show" else []
    assert main([call, str(copy), *chosen, "-o", str(copy / name)]) != 0
    assert "in the folder of the store" in " ".join(capsys.readouterr().err.split())
    assert sorted(copy.rglob("*")) == before


@given(length=st.integers(1, 10**6), at_most=st.integers(2, 12))
def test_ticks_are_even_and_end_with_the_last_step(length: int, at_most: int) -> None:
    made = tick_steps(length, at_most)

    assert (made[0], made[-1]) == (0, length - 1)
    assert list(made) == sorted(set(made))
    assert len(made) <= at_most + 1
    assert len({after - before for before, after in itertools.pairwise(made[:-1])}) <= 1
