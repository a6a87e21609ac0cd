"""Layout files: what they can say, errors that name the line, and first versions that `vla-store layout` prints."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tiny_layouts
from store_tools import in_words
from tiny_layouts import STEPS, numbers, pictures

from vla_store import OptionError, SourceError, open_store
from vla_store.cli import main
from vla_store.sources import kinds
from vla_store.sources.draft import DECIDE, draft
from vla_store.sources.find import find_sources
from vla_store.sources.kinds import reading_by
from vla_store.sources.layout import SHIPPED, Layout, parsed, shipped
from vla_store.sources.protocol import EpisodeSource, close_files

pytest.importorskip("PIL", reason="JPEG pictures need Pillow: pip install pillow")

LAYOUT = """\
name = "our robot"
ignore = ["debug/*"]

[episodes]
files = "{suite}/{task}_*.h5"
groups = "/runs/run_*"
fps = 20
success = { attribute = "ok" }

[pictures]
orientation = "bottom_up"
observation = "after"

[task]
text = [{ attribute = "prompt" }, { json = "{stem}.json", key = "runs.{number}.text" }, { name = "task" }]

[task.instructions]
short = { dataset = "words" }

[fields]
actions = { datasets = ["cmd/arm", "cmd/grip"], names = ["x", "y", "z", "grip"], units = ["m", "m", "m", ""] }
"cam_*" = { dataset = "cams/*/img", extra = 1 }
joints = { dataset = "joints", start = 1 }
next_joints = { dataset = "joints", start = 1, role = "step" }
odd = { dataset = "odd", optional = true }
"""


def write(folder: Path, lengths: tuple[int, ...] = (6, 9)) -> Path:
    """Recordings of LAYOUT."""
    path = folder / "set" / "pour_1.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["runs/notes"] = np.arange(3)
        for number, steps in enumerate(lengths, 3):
            group = file.create_group(f"runs/run_{number}")
            group.attrs["ok"] = number % 2
            group["cmd/arm"] = numbers(number, steps, 3)
            group["cmd/grip"] = numbers(number + 1, steps)
            group["joints"] = numbers(number + 2, steps + 1, 7)
            group["debug/trace"] = np.zeros(17)
            group["words"] = "pour"
            group["origin"] = np.arange(3.0)
            for camera in ("left", "right"):
                group[f"cams/{camera}/img"] = pictures(steps + 1)
        file["runs/run_3"].attrs["prompt"] = "pour the tea"
    return path


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "robot.toml"
    path.write_text(LAYOUT)
    return path


def sources(layout: Path, recordings: Path, **said: Any) -> list[EpisodeSource]:
    with reading_by(layout):
        return find_sources(recordings, **said)


def test_a_layout_says_what_recordings_look_like(layout: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    (source,) = sources(layout, tmp_path)
    info = pickle.loads(pickle.dumps(source)).scan()
    assert (info.suite, info.file, info.fps) == ("set", "pour_1.h5", 20.0)
    assert (info.orientation, info.observation) == ("bottom_up", "after")
    first, second = info.episodes
    assert [each.number for each in info.episodes] == [3, 4]
    assert [each.success for each in info.episodes] == [1, 0]
    assert [each.steps for each in info.episodes] == [6, 9]
    assert (info.task_of(first).name, first.text, second.text) == ("pour", "pour the tea", None)
    assert first.instructions == {"short": ("pour",)}
    assert first.fields["actions"].names == ("x", "y", "z", "grip")
    assert set(first.fields) == {"actions", "cam_left", "cam_right", "joints", "next_joints"}
    assert first.fields["next_joints"].role == "step"
    with h5py.File(path) as file:
        run = file["runs/run_4"]
        arm = np.concatenate([run["cmd/arm"][2:5], run["cmd/grip"][2:5].reshape(3, 1)], axis=1)
        assert np.array_equal(source.read(4, "actions", 2, 5), arm)
        assert np.array_equal(source.read(4, "joints", 0, 9), run["joints"][1:])
        assert np.array_equal(source.read(4, "cam_left", 7, 9), run["cams/left/img"][7:9])
    kept = source.attributes(3)
    assert "origin" in kept["/runs/run_3"]
    assert "prompt" in kept["/runs/run_3"]
    assert any("/runs/notes is no part of an episode" in each for each in info.warnings)
    close_files()


def test_the_callers_choice_counts_more(layout: Path, tmp_path: Path) -> None:
    write(tmp_path)
    from vla_store.sources.overrides import Choice

    choice = Choice.of(["cams/right", "/runs/notes"], {"joints": "arm"})
    (source,) = sources(layout, tmp_path, choice=choice, orientation="top_down")
    with pytest.raises(SourceError, match="two datasets would be one field"):
        source.scan()  # joints are two fields, and both would have this name
    choice = Choice.of(["cams/right", "/runs/notes"], {"cams/left/img": "main"})
    (source,) = sources(layout, tmp_path, choice=choice, orientation="top_down")
    info = source.scan()
    assert set(info.episodes[0].fields) == {"actions", "main", "joints", "next_joints"}
    assert info.orientation == "top_down"
    choice.check_used([source])
    assert not any("notes" in each for each in info.warnings)


def test_the_command_line_builds_verifies_and_forgets_a_layout(layout: Path, tmp_path: Path, capsys: Any) -> None:
    write(tmp_path / "in")
    store = str(tmp_path / "store")
    assert main(["build", "--layout", str(layout), str(tmp_path / "in"), store]) == 0
    assert main(["verify", store, "--against", str(tmp_path / "in"), "--layout", str(layout)]) == 0
    assert "our robot" not in " ".join(kind.name for kind in map(kinds.kind_of, [write(tmp_path / "in")]) if kind)
    assert main(["verify", store, "--against", str(tmp_path / "in")]) == 1
    assert open_store(store).conventions.sources[0].orientation == "bottom_up"
    assert main(["append", "--layout", str(layout), str(tmp_path / "in"), store]) == 0
    assert "nothing was added" in in_words(capsys.readouterr().err)


CHANGES = {
    "a key that is not known": ("role", "roll", "a key that a layout has not", 24, "did you mean role?"),
    "no TOML": ("fps = 20", "fps = ", "a layout file is not TOML", 7, "texts stand in quotes"),
    "a value of another kind": ("fps = 20", 'fps = "fast"', "a value of another kind", 7, ""),
    "a value that is not allowed": ('"after"', '"later"', "observation cannot be 'later'", 12, ""),
    "no actions": ("actions =", "moves =", "a layout without actions", 20, ""),
    "a name that cannot be": ("next_joints =", '"next joints" =', "a name cannot be a field's", 24, ""),
    "wildcards in a path alone": ('"cam_*"', "cam", "a field's name and its dataset do not fit", 22, ""),
    "no suite": ("{suite}/", "", "`files` says which folder is the suite", 5, ""),
    "a place that is none": ('{ attribute = "ok" }', '{ file = "ok" }', "a place is one of these", 8, ""),
    "JSON without a key": (', key = "runs.{number}.text"', "", "a place is not whole", 15, ""),
    "a count below zero": ("extra = 1", "extra = -1", "a value of another kind", 22, ""),
    "two ways to name a dataset": (
        '{ dataset = "odd"',
        '{ datasets = ["a"], dataset = "odd"',
        "a field has one dataset",
        25,
        "",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_wrong_in_a_layout_is_named_by_its_line(name: str, tmp_path: Path) -> None:
    old, new, what, line, hint = CHANGES[name]
    assert old in LAYOUT
    with pytest.raises(OptionError) as caught:
        parsed(LAYOUT.replace(old, new), "robot.toml")
    assert what in caught.value.what
    assert caught.value.places["line"] == str(line)
    assert hint in caught.value.hint
    assert len(str(caught.value).splitlines()) < 12


OTHERS = (
    "3",
    '"x"',
    "true",
    "[]",
    "{}",
    "[3]",
    "nan",
    '"*"',
    "{a=1}",
    '""',
    "-1",
    '["*"]',
    '{ text = "a", name = "b" }',
)


def test_whatever_stands_in_a_layout_is_read_or_refused_on_one_screen() -> None:
    values = re.compile(r'(?<== )(\[.*?\]|"[^"]*"|\d+|true|\{.*\})')
    for found in values.finditer(LAYOUT):
        for other in OTHERS:
            refused = None
            try:
                parsed(LAYOUT[: found.start()] + other + LAYOUT[found.end() :], "robot.toml")
            except OptionError as error:
                refused = error
            assert refused is None or ("line" in refused.places and len(str(refused).splitlines()) < 12)


SPOILED = {
    "a wrong path": (
        '"joints", start = 1 }',
        '"joinst", start = 1 }',
        "a dataset of the layout is not in the recording",
        23,
    ),
    "rows that are none": ("extra = 1", "extra = 2", "datasets of one demonstration have different lengths", 22),
    "another number of names": ('"x", ', "", "another number of names", 21),
    "a dataset without a field": ('["debug/*"]', "[]", "the layout has no field for a dataset", None),
    "JPEG that is none": (
        '"joints", start = 1 }',
        '"joints", start = 1, encoding = "jpeg" }',
        "neither numbers nor JPEG",
        23,
    ),
    "episodes that are none": ("/runs/run_*", "/run/run_*", "no episodes in the file", None),
    "another name": ("{task}_*.h5", "{task}-*.h5", "a file lies elsewhere than the layout says", None),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_a_recording_has_not_is_named_with_the_line(name: str, tmp_path: Path) -> None:
    old, new, what, line = SPOILED[name]
    assert old in LAYOUT
    layout = tmp_path / "robot.toml"
    layout.write_text(LAYOUT.replace(old, new))
    path = write(tmp_path / "in")
    store = tmp_path / "store"
    with pytest.raises(SourceError, match=what) as caught:
        [each.scan() for each in sources(layout, tmp_path / "in")]
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert line is None or f"robot.toml, line {line}" in str(caught.value)
    assert main(["build", "--layout", str(layout), str(tmp_path / "in"), str(store)]) == 1
    assert not store.exists()


def test_an_episode_that_is_bad_is_left_out(layout: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in")
    with h5py.File(path, "a") as file:
        del file["runs/run_4/joints"]
    store = tmp_path / "store"
    command = ["build", "--layout", str(layout), str(tmp_path / "in"), str(store)]
    assert main(command) == 1
    close_files()
    assert main([*command, "--skip-bad"]) == 0
    assert [(each.file, each.demo) for each in open_store(store).skipped] == [("pour_1.h5", "run_4")]


def test_a_layout_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such layout file"):
        Layout.read(tmp_path / "robot.toml")
    (tmp_path / "robot.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="in UTF-8"):
        Layout.read(tmp_path / "robot.toml")


def test_shipped_layouts_can_be_given_as_well(tmp_path: Path) -> None:
    tiny_layouts.aloha(tmp_path / "set/wipe")
    ours = tmp_path / "robot.toml"
    ours.write_text((SHIPPED / "aloha.toml").read_text())
    (source,) = sources(ours, tmp_path / "set")
    (other,) = find_sources(tmp_path / "set")
    assert source.scan() == other.scan()
    assert Layout.read(ours).digest == next(each for each in shipped() if each.name == "ALOHA").digest


def test_layouts_that_mean_something_else_are_told_apart() -> None:
    digests = {
        parsed(LAYOUT.replace(*each), "robot.toml").digest for each in [("", ""), ("start = 1 }", "start = 2 }")]
    }
    assert len(digests) == 2
    assert parsed(f"# a comment\n{LAYOUT}", "other.toml").digest in digests


# First versions


DRAFTED = {
    "ACT": lambda folder: tiny_layouts.aloha(folder / "set/wipe"),
    "ALOHA": lambda folder: tiny_layouts.aloha(folder / "set/wipe", form="padded"),
    "RDT": lambda folder: tiny_layouts.rdt(folder / "rdt_data/close_box"),
    "RoboTwin": lambda folder: tiny_layouts.robotwin(folder / "set/adjust_bottle"),
    "ManiSkill": lambda folder: tiny_layouts.maniskill(folder / "PickCube-v1/set"),
    "Isaac Lab": lambda folder: tiny_layouts.isaac(folder / "stack"),
    "one of nobody": lambda folder: write(folder),
}


@pytest.mark.parametrize("name", DRAFTED)
def test_a_first_version_is_read_and_builds(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = DRAFTED[name](tmp_path / "in")
    assert main(["layout", str(tmp_path / "in")]) == 0
    text = capsys.readouterr().out
    assert DECIDE in text
    assert ("needs no layout file" in text) == (name != "one of nobody")
    layout = tmp_path / "robot.toml"
    layout.write_text(text)
    command = ["build", "--layout", str(layout), str(tmp_path / "in"), str(tmp_path / "store"), "--colour", "bgr"]
    asked = ["--orientation", "top_down", "--observation", "before"]
    if name == "one of nobody":  # its actions are in two datasets, which nobody can know
        assert 'actions = { dataset = "?" }' in text
        layout.write_text(text.replace('dataset = "?"', 'datasets = ["cmd/arm", "cmd/grip"]'))
    assert main([*command, *asked]) == 0, capsys.readouterr().err
    with h5py.File(recording) as file:
        datasets: list[str] = []
        file.visititems(lambda path, node: datasets.append(path) if isinstance(node, h5py.Dataset) else None)
    assert all(path.rpartition("/")[2] in text for path in datasets if "/notes" not in path)


def test_nothing_to_look_at_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no HDF5 file in the folder"):
        draft(tmp_path)
    assert main(["layout", str(tmp_path / "gone")]) == 2
    (tmp_path / "x.h5").write_bytes(b"no HDF5")
    assert main(["layout", str(tmp_path)]) == 1


def test_layouts_come_with_the_package() -> None:
    assert {each.name for each in shipped()} == {"ALOHA", "Isaac Lab", "ManiSkill", "RoboTwin", "XPolicyLab"}
    assert STEPS > 0
