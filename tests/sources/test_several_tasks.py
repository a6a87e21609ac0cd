"""Sources whose episodes belong to several tasks: built, read back, verified, recoded, appended, and repaired."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from own_sources import Own, plan_of

import vla_store
from vla_store import SourceError
from vla_store.audit import verify_store
from vla_store.builder import SourceInfo, TaskInfo, build_store
from vla_store.manage.append import append_store
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store

TASKS = (
    TaskInfo("stack", "stack the cups"),
    TaskInfo("pour", "pour the water", "Pour it."),
    TaskInfo("wipe", "wipe up"),
)
LENGTHS = {0: 20, 3: 7, 4: 9, 7: 5, 8: 6}


@dataclass(frozen=True)
class Several(Own):
    """Episodes 0 and 7 stack; 3 pours; 4 and 8 wipe, the last in words of its own."""

    tasks: tuple[TaskInfo, ...] = TASKS

    def scan(self) -> SourceInfo:
        info = super().scan()
        given = dict(zip(LENGTHS, (0, 1, 2, 0, 2)))
        episodes = [replace(each, task=self.tasks[given[each.number]]) for each in info.episodes]
        episodes[-1] = replace(episodes[-1], text="wipe up all of it")
        return replace(info, episodes=tuple(episodes), task="", text="")


SOURCE = Several(lengths=LENGTHS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("several") / "several.vla"
    build_store(SOURCE, store)
    return store


def test_every_episode_has_its_own_task(built: Path) -> None:
    store = vla_store.open_store(built)
    assert [each.task for each in store.episodes] == ["stack", "pour", "wipe", "stack", "wipe"]
    assert [each.text for each in store.episodes][3:] == ["stack the cups", "wipe up all of it"]
    assert {(each.name, each.text, each.instruction) for each in store.tasks} == {
        (each.name, each.text, each.instruction) for each in TASKS
    }


@pytest.mark.parametrize(("task", "rows"), [("stack", 25), ("wipe up", 15), ("pour", 7), ("wipe up all of it", 6)])
def test_a_task_selects_its_episodes_out_of_a_source(built: Path, task: str, rows: int) -> None:
    samples = vla_store.Samples(built, tasks=task, alignment="as_stored", windows={"actions": 0})
    assert len(samples) == rows


def test_the_store_verifies_against_its_source(built: Path) -> None:
    report = verify_store(built, against=SOURCE)
    assert report.sound, report.problems
    assert report.compared_episodes == len(LENGTHS)


def test_a_source_whose_tasks_are_called_otherwise_is_told(built: Path) -> None:
    renamed = replace(SOURCE, tasks=(TaskInfo("pile", "stack the cups"), *TASKS[1:]))
    report = verify_store(built, against=renamed)
    assert [each.what for each in report.problems] == [
        f"kitchen/stack_the_cups demo_{number}: the source says its task is 'pile'" for number in (0, 7)
    ]


def test_a_recoded_store_is_what_a_build_makes(built: Path, tmp_path: Path) -> None:
    small, again = tmp_path / "small.vla", tmp_path / "again.vla"
    recode_store(built, small, preset="small")
    report = recode_store(small, again, preset="fast")
    assert report.root.digest == vla_store.open_store(built).digest


def test_sources_of_several_tasks_are_appended(built: Path, tmp_path: Path) -> None:
    store = tmp_path / "appended.vla"
    first, second = replace(SOURCE, file="a"), replace(SOURCE, file="b")
    build_store([first, second], tmp_path / "whole.vla")
    build_store(first, store)
    append_store(second, store)
    assert vla_store.open_store(store).fingerprint == vla_store.open_store(tmp_path / "whole.vla").fingerprint
    assert len(vla_store.open_store(store).tasks) == len(TASKS)


def test_what_is_lost_is_repaired_from_the_source(tmp_path: Path) -> None:
    store = tmp_path / "hurt.vla"
    build_store(SOURCE, store)
    (part,) = (store / "parts").glob("*/zarr.json")
    part.unlink()
    assert repair_store(store, SOURCE).sound


def test_the_plan_names_one_task_as_it_did_before_there_were_several() -> None:
    one = replace(SOURCE, tasks=(TASKS[0],) * 3)
    described = plan_of([one]).document.plan["sources"][0]
    assert described["task"] == "stack"
    assert "tasks" not in described
    assert plan_of([SOURCE]).document.plan["sources"][0]["tasks"] == ["stack", "pour", "wipe"]


def test_other_tasks_make_another_part() -> None:
    other = replace(SOURCE, tasks=(TASKS[1], TASKS[0], TASKS[2]))
    assert plan_of([SOURCE]).part_id != plan_of([other]).part_id


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(SourceError, match="a source calls different tasks by one name"):
        plan_of([replace(SOURCE, tasks=(TASKS[0], TaskInfo("stack", "stack the plates"), TASKS[2]))])


def test_an_episode_of_no_task_is_refused() -> None:
    with pytest.raises(SourceError, match="a source's task must be a text"):
        plan_of([replace(SOURCE, tasks=(TASKS[0], None, TASKS[2]))])  # type: ignore[arg-type]
