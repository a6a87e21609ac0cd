"""A store in memory://, which fsspec keeps within one process."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparing import assert_same, drawn_options

import vla_store
from vla_store.audit import verify_store


@pytest.fixture
def url(wide_store: Path) -> Iterator[str]:
    """`wide_store`, copied into memory."""
    fsspec = pytest.importorskip("fsspec")
    fs, folder = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}.vla"
    for path in wide_store.rglob("*"):
        if path.is_file():
            fs.pipe(f"{folder}/{path.relative_to(wide_store).as_posix()}", path.read_bytes())
    yield f"memory:/{folder}"
    fs.rm(folder, recursive=True)


@pytest.mark.parametrize("seed", range(6))
def test_random_rows_and_windows_in_memory_are_those_of_the_folder(url: str, wide_store: Path, seed: int) -> None:
    rng = random.Random(200 + seed)
    local = vla_store.open_store(wide_store)
    options = drawn_options(rng, list(local.fields))
    found, expected = vla_store.Samples(url, **options), vla_store.Samples(local, **options)
    numbers = [rng.randrange(-len(expected), len(expected)) for _ in range(6)]
    assert_same(list(found.__getitems__(numbers)), list(expected.__getitems__(numbers)))
    assert_same([found[number] for number in numbers[:2]], [expected[number] for number in numbers[:2]])


def test_verify_in_memory_lists_what_was_left_over(url: str) -> None:
    import fsspec

    fs, folder = fsspec.core.url_to_fs(url)
    assert verify_store(url).leftovers == []
    fs.pipe(f"{folder}/parts/0123456789abcdef/zarr.json", b"{}")
    report = verify_store(url)
    assert (report.sound, report.leftovers) == (True, ["parts/0123456789abcdef/zarr.json"])


def test_a_handle_that_left_its_process_says_that_its_store_is_not_there(url: str) -> None:
    handle = pickle.dumps(vla_store.Samples(url, windows={"actions": 0}))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer)[0]"
    ran = subprocess.run([sys.executable, "-c", code], input=handle, capture_output=True, timeout=60)
    assert ran.returncode == 1
    assert b"StoreNotFound: no store at this URL" in ran.stderr or b"object of the store is missing" in ran.stderr
    assert url.encode() in ran.stderr
