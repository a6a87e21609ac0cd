"""What the integration tests share: a store whose pictures are large enough to count bytes, and who serves it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_libero
from range_server import RangeServer

from vla_store.format import layout
from vla_store.format.schema import Meta, Root
from vla_store.storage import retrying

WIDE = (
    tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 60, 1: 50}),
    tiny_libero.TinyFile("libero_spatial", "pick_up_the_cup_and_place_it_on_the_plate", 17, {0: 70}),
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails temporarily is asked for as often as ever, and at once."""
    monkeypatch.setattr(retrying, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retrying, "MOST_WAIT_S", 0.001)


@pytest.fixture(scope="session")
def wide_store(kept: Path) -> Path:
    """A `fast` store of 180 steps of 128 x 128 pixels, about 40 kB a wrist frame. Do not write into it: copy it."""
    store = kept / "wide-fast.vla"
    if not store.exists():
        for module in ("h5py", "zarr"):
            pytest.importorskip(module, reason=f"building needs {module}")
        from vla_store.builder import build_store

        source = tiny_libero.write_suites(kept / "wide_source", suites=WIDE, height=128, width=128)
        build_store([source], store)
    return store


@pytest.fixture(scope="session")
def many_objects(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 30 parts, all alike: some 500 arrays in files of their own. Links, so do not write into it."""
    folder = tmp_path_factory.mktemp("many") / "many.vla"
    root = Root.from_bytes((tiny_store / "zarr.json").read_bytes(), "zarr.json")
    parts = []
    for number in range(30):
        parts.append(replace(root.parts[0], path=f"parts/{number:04d}"))
        shutil.copytree(tiny_store / root.parts[0].path, folder / parts[-1].path, copy_function=os.link)
    made = replace(root, parts=tuple(parts), fingerprint="0" * 64, meta=Meta()).sealed()
    (folder / "roots").mkdir()
    for key in (layout.ROOT_KEY, layout.root_key(1)):
        (folder / key).write_bytes(made.to_bytes())
    return folder


@pytest.fixture
def served(wide_store: Path) -> Iterator[RangeServer]:
    """`wide_store` behind a web server of its own."""
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    with RangeServer(wide_store, prefix="/stores/wide.vla") as server:
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings must lead these tests elsewhere."""
    for name in list(os.environ):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy") or name.startswith(("AWS_", "FSSPEC_")):
            monkeypatch.delenv(name)
