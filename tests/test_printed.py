"""What commands print is read by people on any terminal, and by programs."""

from __future__ import annotations

import json
from pathlib import Path

from vla_store import open_store
from vla_store.builder import build_store
from vla_store.look.info import store_json, store_text


def test_a_builds_table_says_what_was_chosen_and_what_came_out(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla")
    lines = report.text().splitlines()
    assert lines[0].split() == ["camera", "shape", "prediction", "codec", "of", "raw"]
    assert lines[1].startswith("agentview_rgb    16x24x3  background  lz4hc")
    assert "episodes       10 (137 steps)" in lines
    assert any(
        line.startswith("fingerprint    " + (report.root.fingerprint[:16] if report.root else "?")) for line in lines
    )
    assert all(len(line) <= 80 for line in lines if not line.startswith("store"))
    described = json.loads(json.dumps(report.to_json()))
    assert described["written"] is True
    assert described["digest"] == open_store(tmp_path / "x.vla").digest
    assert described["nbytes"] == sum(path.stat().st_size for path in (tmp_path / "x.vla").rglob("*") if path.is_file())


def test_a_plans_table_says_what_would_be(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla", dry_run=True)
    lines = report.text().splitlines()
    assert f"would write    {tmp_path}/x.vla" in lines
    assert any(line.startswith("memory         at most ") for line in lines)
    assert report.to_json()["written"] is False
    assert report.to_json()["digest"] is None


def test_a_stores_text_and_json_agree(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    described = json.loads(json.dumps(store_json(store)))
    assert described["rows"] == 137
    assert described["nbytes"] == store.nbytes
    assert {name: each["episodes"] for name, each in described["suites"].items()} == {
        "libero_10": 3,
        "libero_goal": 3,
        "libero_spatial": 4,
    }
    assert sum(each["steps"] for each in described["suites"].values()) == 137
    text = store_text(described)
    assert "rows           137 steps of 10 episodes in 1 part" in text
    assert "conventions    pictures bottom_up, observations recorded after the action" in text
    for name in store.fields:
        assert f"\n{name} " in text
