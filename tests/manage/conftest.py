"""What the tests of managing share: one source in two halves, the first of which sorts before the second, and stores of both."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import store_tools
import tiny_libero

FILES = (
    tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 12, 2: 5}),
    tiny_libero.TinyFile("libero_spatial", "pick_up_the_bowl_and_place_it_on_the_plate", 17, {0: 9, 1: 1}),
)


@dataclass(frozen=True)
class Halves:
    """source: both suites. first, second: one each, of which the first is the store's beginning."""

    source: Path
    first: Path
    second: Path


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Halves:
    """Do not write into it: copy it. The widths of `states` differ between the halves, but not within one."""
    for module in ("h5py", "zarr"):
        pytest.importorskip(module, reason=f"building needs {module}")
    source = tiny_libero.write_suites(tmp_path_factory.mktemp("halves"), suites=FILES)
    return Halves(source, source / "libero_goal", source / "libero_spatial")


@pytest.fixture(scope="session")
def made(halves: Halves, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stores: first.vla, second.vla, both.vla built at once, two.vla of two parts. Do not write into it."""
    from vla_store.manage.append import append_store

    folder = tmp_path_factory.mktemp("made")
    store_tools.built(folder / "first.vla", [halves.first])
    store_tools.built(folder / "second.vla", [halves.second])
    store_tools.built(folder / "both.vla", [halves.source])
    shutil.copytree(folder / "first.vla", folder / "two.vla")
    append_store([halves.second], folder / "two.vla")
    return folder


@pytest.fixture
def copy_of(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """copy_of("first") is a copy of first.vla that may be changed."""
    return lambda name: Path(shutil.copytree(made / f"{name}.vla", tmp_path / f"{name}.vla"))
