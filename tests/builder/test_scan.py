"""The scan: in which order the sources stand, and whether they fit together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_libero
from own_sources import FIELDS, Own

from vla_store.builder import FieldSpec, SourceInfo
from vla_store.builder.scan import Scan, scan_sources
from vla_store.errors import SourceError
from vla_store.format.attributes import encode_value
from vla_store.sources.find import find_sources


def order(scan: Scan) -> list[tuple[str, str, int, int]]:
    return [
        (each.info.suite, each.info.file, episode.number, episode.steps)
        for each in scan.sources
        for episode in each.info.episodes
    ]


EXPECTED = [(each.file.suite, each.file.name, each.number, each.steps) for each in tiny_libero.episodes()]


def test_suites_and_files_come_by_name_and_demos_by_number(tiny_source: Path) -> None:
    scan = scan_sources(find_sources([tiny_source]))
    assert order(scan) == EXPECTED
    assert (scan.steps, scan.episodes) == (137, 10)


def test_the_order_does_not_depend_on_what_is_given_first(tiny_source: Path) -> None:
    files = sorted(tiny_source.glob("*/*.hdf5"), reverse=True)
    backward = scan_sources(find_sources(files))
    forward = scan_sources(find_sources([tiny_source]))
    assert order(backward) == EXPECTED
    assert [(each.actions, each.layout) for each in backward.sources] == [
        (each.actions, each.layout) for each in forward.sources
    ]
    assert backward.fields == forward.fields


def test_names_compare_as_utf8_bytes() -> None:
    names = ["é", "z", "Z", "a", "ab", "抓"]
    scan = scan_sources([Own(suite=name) for name in names])
    assert [each.info.suite for each in scan.sources] == sorted(names, key=str.encode)


def test_a_field_is_ragged_only_where_widths_differ(tiny_source: Path) -> None:
    assert scan_sources(find_sources([tiny_source])).fields["states"].ragged
    one = scan_sources(find_sources([tiny_source / "libero_goal"])).fields["states"]
    assert not one.ragged
    assert one.shape == (12,)


def with_fields(**changes: FieldSpec | None) -> dict[str, FieldSpec]:
    changed = {**FIELDS, **changes}
    return {name: spec for name, spec in changed.items() if spec is not None}


def test_the_odd_source_is_the_one_refused_wherever_it_comes() -> None:
    odd = Own(suite="a", fields=with_fields(joints=FieldSpec("float64", (7,), "observation")))
    others = [Own(suite=name) for name in "bcd"]
    with pytest.raises(SourceError) as caught:
        scan_sources([odd, *others])
    assert caught.value.places["found"] == "(7,) of float64 for each observation"
    assert caught.value.places["expected"].startswith("(6,) of float64 for each observation, as most have")
    scan = scan_sources([odd, *others], skip_bad=True)
    assert [each.info.suite for each in scan.sources] == ["b", "c", "d"]
    assert [(each.suite, each.demo) for each in scan.skipped] == [("a", "demo_0"), ("a", "demo_3")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (with_fields(front=None), "without a camera that others have"),
        (with_fields(joints=None), "different datasets"),
        (with_fields(more=FieldSpec("int8", (), "step")), "different datasets"),
        (with_fields(front=FieldSpec("uint8", (8, 14, 3), "observation")), "images of different size or type"),
        (with_fields(front=FieldSpec("uint16", (8, 12, 3), "observation")), "images of different size or type"),
        (with_fields(actions=FieldSpec("float64", (4,), "step")), "differs in dtype or shape"),
        (with_fields(joints=FieldSpec("float64", (6,), "step")), "differs in dtype or shape"),
    ],
)
def test_episodes_that_do_not_fit_together_are_refused(fields: dict[str, FieldSpec], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        scan_sources([Own(suite="a"), Own(suite="b"), Own(suite="c", fields=fields)])


@pytest.mark.parametrize(
    ("name", "spec", "says"),
    [
        ("joints", FieldSpec("float64", (0,), "step"), "cannot be stored"),
        ("joints", FieldSpec("float64", (2,), "sideways"), "cannot be stored"),
        ("joints", FieldSpec("complex64", (2,), "step"), "cannot be stored"),
        ("joints", FieldSpec("U3", (2,), "step"), "cannot be stored"),
        ("joints", FieldSpec("float64", (2, 2), "step", ragged=True), "one axis a step"),
        ("joints", FieldSpec("float64", (2**26,), "step"), "too large"),
        ("the joints", FieldSpec("float64", (2,), "step"), "name cannot be a field's"),
        ("Actions", FieldSpec("float64", (2,), "step"), "the same field name"),
    ],
)
def test_a_field_that_cannot_be_stored_is_refused(name: str, spec: FieldSpec, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        scan_sources([Own(fields={**FIELDS, name: spec})])


class Saying(Own):
    """Says of itself what `CHANGES` has."""

    def scan(self) -> SourceInfo:
        return CHANGES[self.how](super().scan())

    @property
    def how(self) -> str:
        return self.file


CHANGES: dict[str, Any] = {
    "suite": lambda info: replace(info, suite=""),
    "orientation": lambda info: replace(info, orientation="sideways"),
    "observation": lambda info: replace(info, observation="during"),
    "text": lambda info: replace(info, text="\udce9"),
    "instruction": lambda info: replace(info, instruction=3),
    "without episodes": lambda info: replace(info, episodes=()),
    "same number": lambda info: replace(info, episodes=info.episodes * 2),
    "number": lambda info: replace(info, episodes=(replace(info.episodes[0], number=-1),)),
    "success": lambda info: replace(info, episodes=(replace(info.episodes[0], success=2),)),
    "without steps": lambda info: replace(info, episodes=(replace(info.episodes[0], steps=0),)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_source_that_says_what_cannot_be_is_refused(what: str) -> None:
    with pytest.raises(SourceError) as caught:
        scan_sources([Saying(file=what)])
    assert what in caught.value.what
    assert caught.value.places["file"] == "Saying"


@dataclass(frozen=True)
class Noted(Own):
    """given: the attributes of demo 3."""

    given: Any = None

    def attributes(self, number: int | None) -> dict[str, Any]:
        return self.given if number == 3 else {"/": {"hz": encode_value(30.0)}}


@pytest.mark.parametrize(
    "given",
    [{"/": {"hz": value}} for value in (30.0, 30, "30", b"30", None, True, [30], {}, {"value": 30}, np.float64(30))]
    + [None, [], {"/": None}, {"/": [30]}, {"hz": encode_value(30.0)}, {"/": {"hz\ud800": encode_value(30.0)}}],
    ids=repr,
)
def test_attributes_that_encode_value_did_not_make_are_refused_by_episode(given: Any) -> None:
    with pytest.raises(SourceError, match="attributes that cannot be kept") as caught:
        scan_sources([Noted(given=given)])
    assert caught.value.places["demo"] == "3"
    assert "encode_value" in caught.value.places["expected"]
    scan = scan_sources([Noted(given=given)], skip_bad=True)
    assert [(each.demo, each.reason) for each in scan.skipped] == [("demo_3", "attributes that cannot be kept")]


class Different(Own):
    def read(self, number: int, field: str, start: int, stop: int) -> np.ndarray:
        return super().read(number, field, start, stop) + (field == "actions")


def test_a_sources_identity_is_its_actions_its_layout_and_its_attributes() -> None:
    def identity(source: Own) -> tuple[str, str]:
        (each,) = scan_sources([source]).sources
        return each.actions, each.layout

    first = identity(Own())
    assert identity(Own()) == first
    assert identity(Different())[0] != first[0]
    assert identity(Different())[1] == first[1]
    assert identity(Own(lengths={0: 20, 4: 7}))[1] != first[1]
    assert identity(Noted(lengths={0: 20}))[1] != identity(Own(lengths={0: 20}))[1]
