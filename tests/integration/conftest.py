"""What the integration tests share: a store whose pictures are large enough to count bytes, and who serves it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_libero
from range_server import RangeServer

WIDE = (
    tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 60, 1: 50}),
    tiny_libero.TinyFile("libero_spatial", "pick_up_the_cup_and_place_it_on_the_plate", 17, {0: 70}),
)


@pytest.fixture(scope="session")
def wide_store(kept: Path) -> Path:
    """A `fast` store of 180 steps of 128 x 128 pixels, about 40 kB a wrist frame. Do not write into it: copy it."""
    store = kept / "wide-fast.vla"
    if not store.exists():
        for module in ("h5py", "zarr", "dask"):
            pytest.importorskip(module, reason=f"building needs {module}")
        from vla_store.builder import build_store

        source = tiny_libero.write_suites(kept / "wide_source", suites=WIDE, height=128, width=128)
        build_store([source], store)
    return store


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
