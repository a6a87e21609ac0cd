"""Stores, and the same demonstrations as h5py reads them: published ones, regenerated ones, and tiny ones with short demos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_libero
from make_stores import one_at_a_time
from odd_files import with_liberos_hand

SOME = (3, 5, 9, 11)  # one demo of four suites


@dataclass(frozen=True)
class Both:
    """A store; the numbers of some of its episodes; those, as the other implementation reads them."""

    store: Path
    episodes: list[int]
    demos: list[Any]


def both(store: Path, source: Path, episodes: tuple[int, ...] = (), *, is_after: bool) -> Both:
    pytest.importorskip("h5py", reason="the other implementation reads HDF5")
    from recipes.oracle import demos_below

    demos = list(demos_below(source, is_after=is_after))
    numbers = list(episodes or range(len(demos)))
    return Both(store, numbers, [demos[number] for number in numbers])


def built(store: Path, source: Path, **options: Any) -> Path:
    """The store, built unless it is there: by one process, for which others wait."""
    with one_at_a_time(store.parent):
        if not store.exists():
            for module in ("h5py", "zarr"):
                pytest.importorskip(module, reason=f"building needs {module}")
            from vla_store.builder import build_store

            build_store([source], store, **options)
    return store


@pytest.fixture(scope="session")
def tiny_source(kept: Path) -> Path:
    """The tiny files, whose gripper and fingers are as LIBERO's: recipes refuse others."""
    folder = kept / "recipes/tiny_source"
    with one_at_a_time(kept):
        if not folder.exists():
            h5py = pytest.importorskip("h5py", reason="writing a source needs h5py")
            unfinished = tiny_libero.write_suites(folder.with_name("unfinished"))
            for path in unfinished.glob("*/*.hdf5"):
                with h5py.File(path, "r+") as file:
                    with_liberos_hand(file)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_store(kept: Path, tiny_source: Path) -> Path:
    """The `fast` store of them."""
    return built(kept / "recipes/tiny-fast.vla", tiny_source)


@pytest.fixture(scope="session")
def published(demo_store: Path, demos: Path) -> Both:
    """Four demos of LIBERO as published: observations after the action, 128 px."""
    return both(demo_store, demos / "libero", SOME, is_after=True)


@pytest.fixture(scope="session")
def regenerated(kept: Path, demos: Path) -> Both:
    """Two demos of OpenVLA's regenerated LIBERO: observations before the action, 256 px, no attributes."""
    source = demos / "variants/no_noops_256"
    return both(built(kept / "no-noops-256.vla", source, orientation="bottom_up"), source, is_after=False)


@pytest.fixture(scope="session")
def tiny(tiny_store: Path, tiny_source: Path) -> Both:
    """Nine demos of 1 to 33 steps: shorter than windows, chunks and tails."""
    return both(tiny_store, tiny_source, is_after=True)


@pytest.fixture(params=["published", "regenerated", "tiny"])
def any_both(request: pytest.FixtureRequest) -> Both:
    """Each of the three in turn."""
    made: Both = request.getfixturevalue(request.param)
    return made
