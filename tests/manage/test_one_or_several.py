"""Where a call takes several of a kind, one alone does as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vla_store import cli, open_store
from vla_store.errors import several
from vla_store.export import export_store
from vla_store.look.info import views_json
from vla_store.manage.merge import merge_stores
from vla_store.manage.views import add_views, remove_views
from vla_store.view_rules import parse_view


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        (None, []),
        ("ab", ["ab"]),
        (b"ab", [b"ab"]),
        (Path("a/b"), [Path("a/b")]),
        (3, [3]),
        ([], []),
        (("a", "b"), ["a", "b"]),
        (iter("ab"), ["a", "b"]),
        ({"a": 1}, ["a"]),
    ],
)
def test_one_or_several_are_a_list(given: Any, listed: list[Any]) -> None:
    assert several(given) == listed


def test_one_store_is_merged_as_a_list_of_it(tiny_store: Path, tmp_path: Path) -> None:
    for name, given in (("a.vla", tiny_store), ("b.vla", str(tiny_store)), ("c.vla", [tiny_store])):
        assert merge_stores(given, tmp_path / name).root.rows == 137


def test_one_view_is_added_and_removed_as_a_list_of_it(tiny_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.vla"
    shutil.copytree(tiny_store, store)
    add_views(store, parse_view("no_noops:threshold=0.001"), allow_empty=True)
    add_views(store, [parse_view("success"), parse_view("length:shortest=5")], allow_empty=True)
    views = open_store(store).views
    assert list(views) == ["length", "no_noops", "success"]
    remove_views(store, views["success"])
    remove_views(store, "length")
    assert list(open_store(store).views) == ["no_noops"]


def test_one_field_is_left_out_of_an_export_as_a_list_of_it(tiny_store: Path, tmp_path: Path) -> None:
    for name, given in (("a", "dones"), ("b", ["dones"])):
        report = export_store(tiny_store, tmp_path / name, to="rlds", alignment="causal", exclude=given, state="ee_pos")
        assert "left out, as asked: dones" in "; ".join(report.unequal)


def test_options_of_views_are_numbers_for_programs(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "x.vla"
    shutil.copytree(tiny_store, store)
    add_views(store, [parse_view("no_noops:threshold=0.001"), parse_view("length:shortest=5")], allow_empty=True)
    assert views_json(open_store(store).views.values())["no_noops"]["options"]["threshold"] == 0.001
    assert cli.main(["info", str(store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["views"]
    assert told["no_noops"]["options"] == {"field": "actions", "threshold": 0.001}
    assert told["length"]["options"] == {"shortest": 5}
    assert cli.main(["views", "list", str(store)]) == 0
    assert "no_noops(field=actions, threshold=0.001)" in capsys.readouterr().out
