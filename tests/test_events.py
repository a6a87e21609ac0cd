"""`vla-store show --steps events`: the steps at which the gripper changes, against a naive oracle; what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
from hypothesis import given
from hypothesis import strategies as st
from own_sources import Own
from test_show import crowded

from vla_store import OptionError, open_store
from vla_store.builder import build_store
from vla_store.cli import error_text, main
from vla_store.look.events import chosen, events_of
from vla_store.look.sheet import canvas_of, describe
from vla_store.sources.protocol import FieldSpec

Array = np.ndarray[Any, Any]
FRONT = FieldSpec("uint8", (8, 12, 3), "observation")


@dataclass(frozen=True)
class Gripping(Own):
    """A source whose field `moved` has these numbers in its column `column`, and zeros elsewhere."""

    moved: str = "actions"
    column: int = 0
    numbers: tuple[float, ...] = ()

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        spec = self.fields[field]
        if field == "front":
            return super().read(number, field, start, stop)
        made = np.zeros((stop - start, *spec.shape), spec.dtype)
        if field == self.moved:
            made.reshape(stop - start, -1)[:, self.column] = self.numbers[start:stop]
        return made


def sheet_steps(
    tmp_path: Path, numbers: Sequence[float], at_most: int = 24, **source: Any
) -> tuple[tuple[int, ...], str]:
    given = Gripping(lengths={0: len(numbers)}, numbers=tuple(numbers), **source)
    build_store([given], tmp_path / "own.vla", overwrite=True)
    store = open_store(tmp_path / "own.vla")
    found = events_of(store, store.episodes[0], at_most)
    return found.steps, found.note


def naive(numbers: Sequence[float]) -> list[int]:
    """Where a number crosses the middle between its least and greatest."""
    middle = (min(numbers) + max(numbers)) / 2
    return [step for step in range(1, len(numbers)) if (numbers[step] > middle) != (numbers[step - 1] > middle)]


SEVEN = {"actions": FieldSpec("float64", (7,), "step"), "front": FRONT}


def test_events_of_liberos_actions_are_the_changes_of_sign_of_the_seventh(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for _ in range(4):
        numbers = rng.choice([-1.0, 1.0], 30, p=[0.8, 0.2]).tolist()
        steps, note = sheet_steps(tmp_path, numbers, fields=SEVEN, column=6)
        changes = [step for step in range(1, 30) if np.sign(numbers[step]) != np.sign(numbers[step - 1])]
        assert steps == tuple(sorted({0, *changes, 29}))
        assert note.startswith("where actions[6] crosses")


def test_events_of_the_demonstrations_are_changes_of_sign(demo_store: Path) -> None:
    store = open_store(demo_store)
    for episode in store.episodes:
        gripper = store.read("actions", range(episode.start, episode.start + episode.length))[:, 6]
        changes = [step for step in range(1, episode.length) if np.sign(gripper[step]) != np.sign(gripper[step - 1])]
        found = describe(store, episode, steps="events").steps
        assert found == tuple(sorted({0, *changes, episode.length - 1}))
        assert len(found) > 2


@pytest.mark.parametrize(
    ("fields", "moved", "column", "said"),
    [
        # A number of an action that is called gripper comes before all else.
        (
            {
                "actions": FieldSpec("float32", (4,), "step", names=("x", "left_gripper", "y", "z")),
                "gripper_states": FieldSpec("float32", (2,), "observation"),
            },
            "actions",
            1,
            "actions left_gripper",
        ),
        # A field that is called gripper or fingers, where no number of an action is.
        (
            {
                "actions": FieldSpec("float32", (4,), "step", names=("x", "y", "z", "w")),
                "Left_Gripper_Width": FieldSpec("float64", (), "observation"),
                "state": FieldSpec("float32", (3,), "observation", names=("a", "b", "gripper")),
            },
            "Left_Gripper_Width",
            0,
            "Left_Gripper_Width",
        ),
        ({"finger_joints": FieldSpec("float32", (3,), "observation")}, "finger_joints", 2, "finger_joints"),
        # A number of the state.
        (
            {
                "actions": FieldSpec("float32", (4,), "step"),
                "state": FieldSpec("float32", (2,), "observation", names=("a", "Gripper")),
            },
            "state",
            1,
            "state Gripper",
        ),
    ],
)
def test_the_gripper_of_another_robot_is_found_by_its_name(
    tmp_path: Path, fields: Mapping[str, FieldSpec], moved: str, column: int, said: str
) -> None:
    numbers = [0.0, 0.02, 0.06, 0.07, 0.08, 0.03, 0.01, 0.0, 0.05, 0.08]
    steps, note = sheet_steps(tmp_path, numbers, fields=fields, moved=moved, column=column)

    assert steps == tuple(sorted({0, *naive(np.float32(numbers).tolist()), 9})) == (0, 2, 5, 8, 9)
    assert note == f"where {said} crosses the middle of its range: 3 changes"


def test_seven_numbers_that_are_no_gripper_are_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        sheet_steps(tmp_path, [0.0, 0.5, 0.2, 0.9], fields=SEVEN, column=6)
    store_tools.assert_one_screen(error_text(caught.value), "gripper", "finger", "actions", "--steps 12")


@given(changes=st.lists(st.booleans(), min_size=1, max_size=120))
def test_no_more_than_the_most_pictures_and_the_rest_is_counted(changes: list[bool]) -> None:
    numbers = np.cumsum(changes) % 2 * 2.0 - 1
    expected = naive(numbers.tolist())

    length = len(changes)
    found = chosen(expected, length, 24)
    assert len(found) <= 24
    assert found[0] == 0
    assert found[-1] == length - 1
    assert list(found) == sorted(set(found))
    assert set(found) <= {0, length - 1, *expected}
    if len({0, length - 1, *expected}) <= 24:
        assert set(found) == {0, length - 1, *expected}
    else:
        assert len(found) == 24


def test_changes_without_a_picture_are_told_of(tmp_path: Path) -> None:
    numbers = [(-1.0) ** step for step in range(40)]
    steps, note = sheet_steps(tmp_path, numbers, fields=SEVEN, column=6)

    assert len(steps) == 24
    assert note.endswith("39 changes, 16 of them without a picture")


@pytest.mark.parametrize("numbers", [[1.0], [1.0, -1.0], [1.0] * 12, [np.nan] * 12, [np.nan, 1, -1, np.nan, 1]])
def test_an_episode_without_changes_or_of_one_step_is_drawn(tmp_path: Path, numbers: list[float]) -> None:
    pytest.importorskip("matplotlib")
    fields = {"gripper_width": FieldSpec("float64", (), "observation"), "front": FRONT}
    steps, _ = sheet_steps(tmp_path, numbers, fields=fields, moved="gripper_width")
    store = open_store(tmp_path / "own.vla")

    assert (steps[0], steps[-1]) == (0, len(numbers) - 1)
    assert not crowded(canvas_of(describe(store, store.episodes[0], steps="events")).figure)


def test_a_line_leads_from_each_picture_to_its_step_and_nothing_runs_into_anything(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    numbers = [-1.0] * 50 + [1.0, -1.0, 1.0, -1.0] + [1.0] * 6
    sheet_steps(tmp_path, numbers, fields=SEVEN, column=6)
    store = open_store(tmp_path / "own.vla")
    made = describe(store, store.episodes[0], steps="events")
    figure = canvas_of(made).figure

    assert made.steps == (0, 50, 51, 52, 53, 54, 59)
    assert not crowded(figure)
    pictures = [axes for axes in figure.axes if axes.images]
    curves = next(axes for axes in figure.axes if axes.lines)
    rays = list(figure.artists)
    assert len(rays) == len(pictures) == 7
    wide, high = figure.canvas.get_width_height()
    for step, axes, ray in zip(made.steps, pictures, rays):
        box, xs, ys = axes.get_window_extent(), ray.get_xdata(), ray.get_ydata()
        assert abs(xs[0] * wide - (box.x0 + box.x1) / 2) < 1
        assert abs(xs[-1] * wide - curves.transData.transform((step, 0))[0]) < 1
        assert ys[0] * high < box.y0
        assert abs(ys[-1] * high - curves.get_window_extent().y1) < 2


def test_the_command_says_which_steps_are_shown(
    demo_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["show", str(demo_store), "-o", str(tmp_path / "e.png"), "--steps", "events", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    store = open_store(demo_store)
    assert tuple(told["shown"]) == describe(store, store.episodes[0], steps="events").steps


@pytest.mark.parametrize("text", ["", "event", "8.5", "EVENTS"])
def test_other_words_are_refused_with_what_is_meant(
    tiny_store: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tiny_store), "-o", str(tmp_path / "e.png"), "--steps", text]) == 2
    store_tools.assert_one_screen(capsys.readouterr().err, "1 to 24, or events")
