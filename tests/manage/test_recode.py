"""The same content in another preset: what building from the source would have given, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import store_tools
import tiny_libero
from store_tools import differences, digests, root_of, run

from vla_store import open_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.recode import recode_store


@pytest.mark.parametrize("preset", ["raw", "small"])
def test_recoding_gives_the_bytes_of_a_build(tiny_stores: dict[str, Path], tmp_path: Path, preset: str) -> None:
    ran = run("recode", tiny_stores["fast"], tmp_path / "x.vla", "--preset", preset)
    assert ran.code == 0, ran.err
    assert differences(digests(tmp_path / "x.vla"), digests(tiny_stores[preset])) == []


def test_several_parts_become_one_with_the_bytes_of_a_build(halves: Any, made: Path, tmp_path: Path) -> None:
    report = recode_store(made / "two.vla", tmp_path / "x.vla", preset="fast")
    assert report.root is not None
    assert len(report.root.parts) == 1
    assert differences(digests(tmp_path / "x.vla"), digests(made / "both.vla")) == []


def test_parts_in_another_order_come_into_the_stores_order(halves: Any, made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made / "second.vla", tmp_path / "y.vla"))
    append_store(halves.first, store)
    assert root_of(store).fingerprint != root_of(made / "both.vla").fingerprint
    recode_store(store, tmp_path / "x.vla", preset="fast", executor="processes", workers=2)
    assert differences(digests(tmp_path / "x.vla"), digests(made / "both.vla")) == []


def test_a_store_at_a_url_is_recoded(made: Path, tmp_path: Path, halves: Any) -> None:
    url = f"memory://recode-{tmp_path.name}"
    copy_store(made / "two.vla", url)
    recode_store(url, tmp_path / "x.vla", preset="small")
    assert differences(digests(tmp_path / "x.vla"), digests(built(tmp_path / "y.vla", halves.source, "small"))) == []


def built(store: Path, source: Path, preset: str, **options: Any) -> Path:
    return store_tools.built(store, [source], preset=preset, **options)


def test_conventions_that_were_given_and_what_was_left_out_stay(tmp_path: Path) -> None:
    source = tiny_libero.write_suites(tmp_path / "LIBERO", attributes=False)
    victim = tiny_libero.victim(source)
    tiny_libero.replace(victim, "data/demo_0/actions")  # one demo of a file, and every demo of another one
    for number in (3, 11):
        tiny_libero.replace(
            source / tiny_libero.SUITES[3].suite / tiny_libero.SUITES[3].name, f"data/demo_{number}/actions"
        )
    (source / "libero_spatial" / "torn_demo.hdf5").write_bytes(b"not HDF5")
    options: dict[str, Any] = {"orientation": "bottom_up", "observation": "after", "skip_bad": True}
    for preset in ("fast", "small"):
        build_store([source], tmp_path / f"{preset}.vla", preset=preset, **options)
    assert len(open_store(tmp_path / "fast.vla").skipped) == 3
    recode_store(tmp_path / "fast.vla", tmp_path / "x.vla", preset="small")
    assert differences(digests(tmp_path / "x.vla"), digests(tmp_path / "small.vla")) == []
    assert verify_store(tmp_path / "x.vla").problems == []
