"""The plan is a pure function of scan, probe and options; its tables agree with laying the episodes out by hand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_tools
import tiny_libero
from hypothesis import given
from hypothesis import strategies as st
from own_sources import FIELDS, OPTIONS, RETOLD, Own, Retold, plan_of

import vla_store
from vla_store.audit import verify_store
from vla_store.builder.plan import Plan, make_plan
from vla_store.builder.probe import probe_cameras
from vla_store.builder.scan import scan_sources
from vla_store.format import canonical
from vla_store.format.codecs import NONE


@pytest.fixture(scope="module")
def plan(tiny_source: Path) -> Plan:
    return plan_of([tiny_source])


def test_a_parts_name_is_the_digest_of_its_plan(plan: Plan) -> None:
    assert plan.part_id == hashlib.sha256(canonical.dumps(plan.document.plan)).hexdigest()[:16]


def test_nothing_of_the_machine_is_in_a_plan(plan: Plan, tiny_source: Path) -> None:
    text = canonical.dumps(plan.document.to_json()).decode()
    assert str(tiny_source) not in text
    assert str(tiny_source.stat().st_mtime_ns)[:9] not in text


def test_a_camera_may_have_a_codec_of_its_own(tmp_path: Path) -> None:
    source = Own(fields={**FIELDS, "wrist": replace(FIELDS["front"], codec=NONE)})
    store = vla_store.open_store(store_tools.built(tmp_path / "x.vla", [source]))
    fields = store.parts[0][1].fields
    assert [fields[name].codec.name for name in ("front", "wrist")] == ["blosc", "none"]
    assert plan_of([source]).document.plan["codecs"]["fields"] == {"wrist": {"name": "none"}}
    assert np.array_equal(store.read("wrist", range(store.rows)), store.read("front", range(store.rows)))
    assert verify_store(store.url, against=[source]).sound


def test_another_part_has_another_name(plan: Plan, tiny_source: Path) -> None:
    names = {
        plan.part_id,
        plan_of([tiny_source], preset="raw").part_id,
        plan_of([tiny_source], preset="small").part_id,
        plan_of([tiny_source / "libero_goal"]).part_id,
        plan_of([Own()]).part_id,
        plan_of([Own(orientation="bottom_up")]).part_id,
        plan_of([Own(observation="after")]).part_id,
        plan_of([Own(file="other_task")]).part_id,
        plan_of([Own(lengths={0: 20, 4: 7})]).part_id,
    }
    assert len(names) == 9
    assert plan_of([Own()]).part_id == plan_of([Own()]).part_id


@pytest.mark.parametrize("how", RETOLD)
def test_whatever_a_source_says_that_stands_in_the_part_is_of_its_name(how: str) -> None:
    plain, retold = plan_of([Own()]), plan_of([Retold(how=how)])
    assert plain.document.to_json() != retold.document.to_json() or plain.episodes != retold.episodes
    assert plain.part_id != retold.part_id


def test_episodes_tasks_and_sources_are_laid_out_in_the_stores_order(plan: Plan) -> None:
    expected = tiny_libero.episodes()
    assert [(each.start, each.steps, each.number) for each in plan.episodes] == [
        (each.start, each.steps, each.number) for each in expected
    ]
    assert [each.index for each in plan.episodes] == list(range(10))
    named = [(plan.document.tasks[each.task].suite, plan.document.tasks[each.task].name) for each in plan.episodes]
    assert named == [(each.file.suite, each.file.task) for each in expected]
    files = [plan.document.sources[each.source].file for each in plan.episodes]
    assert files == [each.file.name for each in expected]
    assert plan.rows == 137


def test_attributes_lie_end_to_end_the_episodes_first(plan: Plan) -> None:
    spans = [each.attributes[:2] for each in plan.episodes] + [each.attributes for each in plan.document.sources]
    end = 0
    for start, nbytes in spans:
        assert start == end
        assert nbytes > 0
        end += nbytes
    assert plan.attributes_nbytes == end


def test_ragged_fields_lie_end_to_end_in_elements(plan: Plan) -> None:
    end = 0
    for each, expected in zip(plan.episodes, tiny_libero.episodes()):
        assert each.ragged == {"states": (end, expected.file.states_width)}
        end += each.steps * expected.file.states_width
    assert plan.elements == {"states": end}


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), data=st.data())
def test_tables_and_spans_agree_with_a_walk_over_the_steps(lengths: list[int], data: st.DataObject) -> None:
    numbers = sorted(data.draw(st.sets(st.integers(0, 99), min_size=len(lengths), max_size=len(lengths))))
    plan = plan_of([Own(lengths=dict(zip(numbers, lengths)))], preset="raw")
    walked = [(episode, step) for episode, steps in enumerate(lengths) for step in range(steps)]
    assert plan.steps_index().tolist() == [list(each) for each in walked]
    assert plan.steps_index().dtype == np.dtype("<i4")
    table = plan.table()
    assert table.dtype == np.dtype("<i8")
    assert table[:, 1].tolist() == lengths
    assert table[:, 4].tolist() == numbers
    start = data.draw(st.integers(0, plan.rows))
    stop = data.draw(st.integers(start, plan.rows))
    covered = [(each.index, step) for each, first, last in plan.spans(start, stop) for step in range(first, last)]
    assert covered == walked[start:stop]


def test_a_part_of_more_rows_than_it_can_number_is_refused() -> None:
    scan = scan_sources([Own()])
    probe = probe_cameras(scan, "raw")
    (source,) = scan.sources
    episodes = tuple(replace(each, steps=2**31) for each in source.info.episodes)
    huge = replace(scan, sources=(replace(source, info=replace(source.info, episodes=episodes)),))
    with pytest.raises(Exception, match="too many steps for one part"):
        make_plan(huge, probe, OPTIONS | {"preset": "raw"})


def test_only_cameras_have_a_codec_and_a_prediction(plan: Plan) -> None:
    for field in plan.document.fields.values():
        assert field.is_camera == field.name.endswith("_rgb")
        assert (field.codec.name == "blosc") == field.is_camera
        assert field.array == (
            f"{'residuals' if field.prediction else 'frames'}/{field.name}"
            if field.is_camera
            else f"steps/{field.name}"
        )
