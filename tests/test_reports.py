"""What Python shows of a result is what its command prints: on stderr what is told besides, on stdout the text."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from store_tools import COMMAND, environment

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.demo import DemoReport
from vla_store.format.skipped import Skipped
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.views import add_view, add_views, remove_views
from vla_store.text import Report
from vla_store.view_rules import NewView, length


def screen(*words: Any) -> str:
    done = subprocess.run(
        [*COMMAND, *map(str, words), "--quiet"], capture_output=True, text=True, env=environment(), timeout=120
    )
    assert done.returncode == 0, done.stderr
    return (done.stderr + done.stdout).rstrip("\n")


def without_time(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("time"))


@pytest.fixture
def store(tiny_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_store, tmp_path / "x.vla")
    return tmp_path / "x.vla"


def test_a_builds_is_its_screen(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla")
    shutil.rmtree(tmp_path / "x.vla")
    assert without_time(repr(report)) == without_time(screen("build", tiny_source, tmp_path / "x.vla"))


def test_what_is_told_besides_stands_first(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla")
    bad = dataclasses.replace(report, warnings=("a.hdf5: odd",), skipped=(Skipped("s", "a.hdf5", "demo_1", "bad"),))
    assert repr(bad).splitlines()[:2] == ["warning: a.hdf5: odd", "left out: s/a.hdf5 demo_1: bad"]


def test_an_audits_is_its_screen(store: Path) -> None:
    assert repr(verify_store(store)) == screen("verify", store)


def test_a_copys_and_a_merges_are_their_screens(store: Path, tmp_path: Path) -> None:
    copied, merged = repr(copy_store(store, tmp_path / "y.vla")), repr(merge_stores([store], tmp_path / "z.vla"))
    for each in ("y.vla", "z.vla"):
        shutil.rmtree(tmp_path / each)
    assert copied == screen("copy", store, tmp_path / "y.vla")
    assert merged == screen("merge", store, tmp_path / "z.vla")


def test_an_append_that_adds_nothing_says_so(tiny_source: Path, tmp_path: Path) -> None:
    build_store(tiny_source, tmp_path / "x.vla")
    report = append_store(tiny_source, tmp_path / "x.vla")
    assert not report.added
    assert repr(report) == screen("append", tiny_source, tmp_path / "x.vla")
    assert "nothing was added" in repr(report)
    assert "\nadded" not in repr(report)


def test_an_append_says_what_it_added(tiny_source: Path, tmp_path: Path) -> None:
    first, second, *_ = sorted(tiny_source.rglob("*.hdf5"))
    build_store(first, tmp_path / "x.vla")
    report = append_store(second, tmp_path / "x.vla")
    added = f"added          {report.part.episodes:,} episodes ({report.part.rows:,} steps)"
    assert repr(report).splitlines()[-1] == added
    assert report.to_json()["added"]["rows"] == report.part.rows


def test_a_removal_of_views_names_them(store: Path) -> None:
    add_view(store, "long", length(shortest=2))
    assert "removed        long" in repr(remove_views(store, "long"))
    assert repr(remove_views(store, None)).startswith("note: the store has no views")


def test_an_addition_of_views_shows_them(store: Path) -> None:
    added = add_views(store, NewView("long", length(shortest=2)))
    assert repr(added) == added.text() == repr(added.views[0])
    assert repr(add_views(store, NewView("long", length(shortest=2)))).startswith("note: the store has these views")
    assert added.to_json()["views"].keys() == {"long"}


def test_a_demos_says_where_it_is() -> None:
    said = repr(DemoReport(Path("x/source"), Path("x/demo.vla"), 1234, 256))
    assert "x/demo.vla  (1,234 steps)" in said


def every_report() -> list[type[Report]]:
    for each in pkgutil.walk_packages(vla_store.__path__, "vla_store."):
        if each.name.rpartition(".")[2] not in ("torch", "__main__", "lerobot_train"):
            importlib.import_module(each.name)
    found, new = set[type[Report]](), [Report]
    while new:
        more = new.pop().__subclasses__()
        found.update(more)
        new += more
    return sorted(found, key=lambda each: each.__name__)


def test_no_report_has_a_repr_of_its_own() -> None:
    found = every_report()
    assert len(found) > 12
    assert not [each.__name__ for each in found if each.__repr__ is not Report.__repr__]
