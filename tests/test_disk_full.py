"""A disk that fills up at any point: the call says so, nothing is half there, and with more room the same call finishes."""

from __future__ import annotations

import gc
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import store_tools
from own_sources import Own
from store_tools import digests, root_of

from vla_store import MachineError
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.manage.append import append_store

FIRST = Own(lengths={0: 40, 3: 20})
SECOND = Own(suite="pantry", lengths={1: 50})


def emptied(point: Path) -> Path:
    """The file system without a file, and without what a map that waits for the collector still holds of it."""
    for path in list(point.iterdir()):
        shutil.rmtree(path)
    gc.collect()
    return point


def blocks(folder: Path) -> int:
    """What a folder takes of a tmpfs, in kB."""
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


def check_builds(disk: Callable[[str], Path], folder: Path, rounds: int) -> int:
    """So many builds with room drawn at random; how many of them had too little."""
    reference = digests(store_tools.built(folder / "reference.vla", [FIRST]))
    most, draw, full = blocks(folder / "reference.vla"), random.Random("disk full"), 0
    for number in range(rounds):
        point = emptied(disk("64m"))
        room = draw.randrange(4, most, 4)
        disk(f"{room}k")
        try:
            build_store([FIRST], point / "x.vla", workers=2)
        except MachineError as error:
            if "No space left" not in str(error):
                raise
            assert not (point / "x.vla").exists(), f"round {number}: {room} kB"
            full += 1
            disk("64m")
            build_store([FIRST], point / "x.vla", workers=2)
        assert digests(point / "x.vla") == reference, f"round {number}: {room} kB"
        assert [path.name for path in point.iterdir()] == ["x.vla"]
    return full


def check_appends(disk: Callable[[str], Path], folder: Path, rounds: int) -> int:
    first = store_tools.built(folder / "first.vla", [FIRST])
    append_store([SECOND], Path(shutil.copytree(first, folder / "two.vla")))
    expected, before = digests(folder / "two.vla"), root_of(first)
    least, most = blocks(first), 2 * blocks(folder / "two.vla")
    draw, full = random.Random("append"), 0
    for number in range(rounds):
        point = emptied(disk("64m"))
        store = Path(shutil.copytree(first, point / "x.vla"))
        room = draw.randrange(least, (least + most) // 2, 4)
        disk(f"{room}k")
        try:
            append_store([SECOND], store, workers=2)
        except MachineError as error:
            if "No space left" not in str(error):
                raise
            full += 1
            disk("64m")
            checked = verify_store(store)
            assert checked.problems == [], f"round {number}: {room} kB"
            assert root_of(store).digest in (before.digest, root_of(folder / "two.vla").digest)
            append_store([SECOND], store, workers=2)
        assert digests(store) == expected, f"round {number}: {room} kB"
        assert [path.name for path in point.iterdir()] == ["x.vla"]
    return full


def test_a_disk_that_fills_up_anywhere_in_a_build_or_an_append(disk: Callable[[str], Path], tmp_path: Path) -> None:
    assert check_builds(disk, tmp_path, 3) >= 1
    assert check_appends(disk, tmp_path, 3) >= 1


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_a_hundred_disks_that_fill_up(disk: Callable[[str], Path], tmp_path: Path) -> None:
    builds, appends = check_builds(disk, tmp_path, 70), check_appends(disk, tmp_path, 30)
    print(f"disk full: {builds} of 70 builds and {appends} of 30 appends had too little room; all finished alike")
    assert builds + appends > 60
