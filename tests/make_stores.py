"""Makes the sources and stores that tests share, once, in a folder; what is there is kept. The fixtures are in conftest.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tiny_libero

CHECKOUT = Path(__file__).resolve().parents[1]
PRESETS = ("raw", "fast", "small")


def tiny_source(folder: Path) -> Path:
    """The folder of suites of tiny_libero, written unless it is there."""
    done = folder / "tiny_source"
    if not done.exists():
        unfinished = folder / "tiny_source.unfinished"
        tiny_libero.write_suites(unfinished).rename(done)
    return done


def demos_place() -> Path:
    """Where the demonstrations should be: VLA_STORE_DEMOS, or shared/data beside the checkout."""
    return Path(os.environ.get("VLA_STORE_DEMOS") or CHECKOUT.parent / "shared" / "data").resolve()


def demos(cache: Path) -> Path | None:
    """The unpacked demonstrations: as they are where they are unpacked, else unpacked into `cache`. None: there are none."""
    place = demos_place()
    if next(place.glob("libero/*/*.hdf5"), None):
        return place
    if not (place / "unpack.py").exists():
        return None
    # It compares digests, and unpacks only what is absent or differs.
    subprocess.run([sys.executable, place / "unpack.py", cache], check=True, stdout=subprocess.DEVNULL)
    return cache


def tiny_store(folder: Path, preset: str) -> Path:
    return built(folder / f"tiny-{preset}.vla", [tiny_source(folder)], preset)


def demo_store(folder: Path, demos: Path, preset: str) -> Path:
    return built(folder / f"demos-{preset}.vla", [demos / "libero"], preset)


def built(store: Path, sources: Sequence[Path], preset: str) -> Path:
    """`store`, built unless it is there."""
    if not store.exists():
        from vla_store.builder import build_store

        build_store(sources, store, preset=preset)
    return store
