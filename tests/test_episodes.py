"""Lists of episodes and tasks: what a filter lets through, as a table that a terminal holds and as JSON; and what is said of nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import store_tools
from view_tools import put_views, view_json

from vla_store import OptionError, Store, UnknownName, cli, open_store
from vla_store.look.episodes import EpisodeFilter, filtered, find_episode, has_words, near_tasks
from vla_store.look.listing import episode_lines, source_of, tasks_json
from vla_store.reader.values import Episode
from vla_store.text import cut


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert cli.main(list(map(str, arguments))) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


FILTERS: dict[str, tuple[list[str], Any]] = {
    "all": ([], lambda each: True),
    "task": (["--task", "the BOWL on"], lambda each: "bowl" in each.task and "on" in each.task.split("_")),
    "one of two": (["--task", "cups", "--task", "drawer"], lambda each: "cups" in each.task or "drawer" in each.task),
    "suite": (["--suite", "libero_goal"], lambda each: each.suite == "libero_goal"),
    "suites": (["--suite", "libero_goal", "--suite", "libero_10"], lambda each: each.suite != "libero_spatial"),
    "success": (["--success", "yes"], lambda each: each.success is True),
    "lengths": (["--shortest", "12", "--longest", "18"], lambda each: 12 <= each.length <= 18),
    "view": (["--view", "first"], lambda each: each.episode in (2, 5)),
    "together": (["--suite", "libero_goal", "--shortest", "14"], lambda e: e.suite == "libero_goal" and e.length >= 14),
}


@pytest.fixture
def viewed(tiny_store: Path, tmp_path: Path) -> Path:
    """The store with a view that keeps one step each of episodes 2 and 5."""
    import shutil

    store = tmp_path / "x.vla"
    shutil.copytree(tiny_store, store)
    listed = list(open_store(store).episodes)
    masks = [[each.episode in (2, 5) and at == 1 for at in range(each.length)] for each in listed]
    put_views(store, {"first": view_json("anchors", masks, [(each.suite, each.task) for each in listed])})
    return store


@pytest.mark.parametrize("name", FILTERS)
def test_episodes_that_a_filter_lets_through_are_listed(
    viewed: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, fits = FILTERS[name]
    expected = [each for each in open_store(viewed).episodes if fits(each)]
    assert expected, "a filter that lets nothing through tests nothing"
    found = json.loads(printed(capsys, "episodes", viewed, *arguments, "--json"))
    assert found == [dataclasses.asdict(each) for each in expected]
    lines = printed(capsys, "episodes", viewed, *arguments).splitlines()
    numbers = [line.split()[0] for line in lines[1:-3] if not line.endswith(":")]
    assert numbers == [str(each.episode) for each in expected]
    steps = sum(each.length for each in expected)
    of = "10 episodes" if len(expected) == 10 else f"{len(expected)} of 10 episodes"
    assert lines[-2] == f"{of}, {steps} steps"
    assert lines[-1] == f"see one: vla-store show {viewed} --episode {expected[0].episode} -o episode.png"


def test_every_line_of_a_table_fits_a_terminal(demo_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("episodes", "tasks"):
        lines = printed(capsys, command, demo_store).splitlines()
        assert all(len(line) <= 80 for line in lines[:-1]), lines
        assert max(map(len, lines[:-1])) > 70


def test_the_source_below_an_episode_finds_it(tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(tiny_store)
    lines = printed(capsys, "episodes", tiny_store, "--files").splitlines()
    sources = [line.strip() for line in lines if "/demo_" in line]
    assert sources == [source_of(each) for each in store.episodes]
    assert [find_episode(store, each) for each in sources] == list(store.episodes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "bowk"], ["no episode is as asked for", "task bowk: 0 of 10 episodes", "tasks with such words: "]),
        (["--task", "zzzz"], ["`vla-store tasks", "lists all 4 tasks"]),
        (["--suite", "libero_10", "--shortest", "500"], ["suite libero_10: 3 of 10 episodes", "shortest 500", "wider"]),
        (["--success", "no", "--task", "bowl"], ["success no: 0 of 10 episodes"]),
    ],
)
def test_nothing_found_is_said_with_what_each_condition_leaves(
    tiny_store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: list[str]
) -> None:
    err = printed(capsys, "episodes", tiny_store, *arguments, code=2)
    told = " ".join(err.split())
    assert all(" ".join(each.split()) in told for each in says), err
    store_tools.assert_one_screen(err)


def test_a_suite_or_a_view_that_is_not_there_is_refused(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    for wanted in (EpisodeFilter(suite="libero"), EpisodeFilter(view="x")):
        with pytest.raises(UnknownName):
            filtered(store, wanted)


def test_tasks_near_to_words_are_those_with_most_of_them(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    assert near_tasks(store, "xyz") == []
    (best, *_) = near_tasks(store, "cup basckets")
    assert best == "put both the cups in the basket"


def test_tasks_are_listed_with_their_episodes(tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(tiny_store)
    found = json.loads(printed(capsys, "tasks", tiny_store, "--json"))
    assert [(each["suite"], each["name"], each["instruction"]) for each in found] == [
        (each.suite, each.name, each.instruction) for each in store.tasks
    ]
    for each in found:
        mine = [one for one in store.episodes if (one.suite, one.task) == (each["suite"], each["name"])]
        lengths = [one.length for one in mine]
        counts = (len(mine), sum(lengths), min(lengths), max(lengths))
        assert tuple(each[name] for name in ("episodes", "steps", "shortest", "longest")) == counts
        assert each["succeeded"] == sum(one.success is True for one in mine)
        assert each["failed"] == sum(one.success is False for one in mine)
    lines = printed(capsys, "tasks", tiny_store).splitlines()
    assert lines[0].split() == ["episodes", "steps", "failed", "task"]
    assert [line for line in lines if line.endswith(":")] == [f"{each}:" for each in store.suites]
    assert "4 tasks, 10 episodes" in lines
    assert lines[-1].startswith(f"those of one: vla-store episodes {tiny_store} ")


def test_a_long_list_is_made_line_by_line(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    asked = 0

    def many() -> Any:
        nonlocal asked
        for number in range(100_000):
            asked = number
            yield dataclasses.replace(store.episodes[0], episode=number)

    lines = episode_lines(store, many())
    assert [next(lines) for _ in range(12)]
    assert asked < 12


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ("bowl", True),
        ("late", False),
        ("BOW on_the", True),
        ("to", True),
        ("n", False),
        ("bowls", False),
        ("碗", True),
        ("(plate)", True),
    ],
)
def test_words_are_found_by_their_beginnings(words: str, fits: bool) -> None:
    assert has_words("put_the_bowl on the plate. Tomato 把碗放在盘子上", words) is fits


def test_tasks_are_those_that_a_filter_lets_through(viewed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("task", "one of two", "suite", "view"):
        arguments, fits = FILTERS[name]
        expected = [each for each in open_store(viewed).episodes if fits(each)]
        found = json.loads(printed(capsys, "tasks", viewed, *arguments, "--json"))
        assert sum(each["episodes"] for each in found) == len(expected)
        assert {(each["suite"], each["name"]) for each in found} == {(each.suite, each.task) for each in expected}
    assert "no episode is as asked for" in printed(capsys, "tasks", viewed, "--task", "zzz", code=2)


@pytest.mark.parametrize("name", ["--shortest", "--longest"])
def test_a_negative_length_is_refused(viewed: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    told = printed(capsys, "episodes", viewed, name, "-5", code=2)
    assert f"{name[2:]} is a whole number of at least 0" in told


class _Odd(Store):
    """A store whose task says what no terminal should be told."""

    @property
    def episodes(self) -> Any:  # type: ignore[override]
        listed = super().episodes
        return _Listed(
            [dataclasses.replace(each, text="up\x1b[2J\ndown" + "x" * 200) for each in listed], listed.lengths
        )


class _Listed(list[Episode]):
    def __init__(self, episodes: list[Episode], lengths: Any) -> None:
        super().__init__(episodes)
        self.lengths = lengths


def test_what_a_file_says_cannot_steer_the_terminal_nor_leave_the_line(tiny_store: Path) -> None:
    opened = open_store(tiny_store)
    store = _Odd(opened._location, opened.generation, opened.digest)
    lines = list(episode_lines(store, store.episodes))
    assert all(line.isprintable() and len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 10, "short"),
        ("put_the_white_mug_on_the_plate", 15, "put_th..._plate"),
        ("put the white mug on the plate", 22, "put the ... plate"),
    ],
)
def test_a_long_text_keeps_its_ends(text: str, width: int, shown: str) -> None:
    found = cut(text, width)
    assert found == shown
    assert len(found) <= width


def test_counts_of_tasks_whose_success_is_not_known_are_none(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    assert sum(each["succeeded"] + each["failed"] for each in tasks_json(store)) <= len(store.episodes)


def test_the_error_of_an_empty_filter_is_wrong_use(tiny_store: Path) -> None:
    from vla_store.look.episodes import nothing_found

    error = nothing_found(open_store(tiny_store), EpisodeFilter(text=("bowl", "zzz"), longest=1))
    assert isinstance(error, OptionError)
    assert error.places == {"task": "bowl, zzz: 2 of 10 episodes", "longest": "1: 1 of 10 episodes"}
