"""Stores that only the reader's tests need: several parts, and sources of every convention."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tiny_libero
from make_stores import one_at_a_time
from reader import naive

from vla_store.format import layout
from vla_store.format.schema import Meta, PartEntry, Root, RootField

CONVENTIONS = (
    ("after", "bottom_up"),
    ("before", "bottom_up"),
    ("after", "top_down"),
    ("before", "rot180"),
)


def merged(folder: Path, stores: Sequence[Path], *, copies: int = 1, without: Sequence[str] = ()) -> Path:
    """A store whose root names the parts of others, as a merge makes it: each `copies` times, under names of their own.

    without: names of folders that are not copied.
    """
    fields: dict[str, RootField] = {}
    entries = []
    for number, store in enumerate([store for store in stores for _ in range(copies)]):
        root = Root.from_bytes((store / "zarr.json").read_bytes(), "zarr.json")
        for part in root.parts:
            path = f"parts/{number:04d}"
            shutil.copytree(
                store / part.path, folder / path, copy_function=os.link, ignore=shutil.ignore_patterns(*without)
            )
            entries.append(PartEntry(path, part.rows, part.episodes, part.listing))
        for name, field in root.fields.items():
            other = fields.setdefault(name, field)
            if other != field:  # of one width in one part, of others in another
                fields[name] = RootField("ragged-episode", field.dtype, (None,))
    made = Root(1, None, "0" * 64, tuple(entries), fields, Meta()).sealed()
    (folder / "roots").mkdir()
    for key in (layout.root_key(1), layout.ROOT_KEY):
        (folder / key).write_bytes(made.to_bytes())
    return folder


def _conventional(kept: Path) -> list[Path]:
    """One folder of suites per convention, a suite and file of its own in each."""
    folders = []
    for number, (observation, _) in enumerate(CONVENTIONS):
        folder = kept / f"convention-{number}"
        if not folder.exists():
            pytest.importorskip("h5py", reason="writing a source needs h5py")
            unfinished = kept / f"convention-{number}.unfinished"
            tiny_libero.write_suites(unfinished, suites=_suites(number), observation=observation).rename(folder)
        folders.append(folder)
    return folders


def _suites(number: int) -> tuple[tiny_libero.TinyFile, ...]:
    lengths = ({0: 9, 1: 1, 2: 4}, {0: 5, 7: 11}, {3: 1, 4: 1, 5: 8}, {0: 6})[number]
    return (tiny_libero.TinyFile(f"suite_{number}", f"do_thing_{number}", 12 + number % 3, lengths),)


@functools.cache
def conventional_naive() -> naive.Naive:
    """What `mixed_store` and `parts_store` hold, in their order."""
    episodes = []
    for number, (observation, orientation) in enumerate(CONVENTIONS):
        episodes += naive.of_tiny(_suites(number), observation=observation, orientation=orientation).episodes
    return naive.Naive(episodes)


@pytest.fixture(scope="session")
def mixed_store(kept: Path) -> Path:
    """One part with a source of each of CONVENTIONS."""
    store = kept / "mixed.vla"
    with one_at_a_time(kept):
        if not store.exists():
            folders = _conventional(kept)
            pytest.importorskip("zarr", reason="building needs zarr")
            from vla_store.builder import build_store

            # Said in the same way as for the parts below: a store tells which conventions were said.
            observations, orientations = (dict(zip(folders, said)) for said in zip(*CONVENTIONS))
            build_store(folders, store, orientation=orientations, observation=observations, mixed=True)
    return store


@pytest.fixture(scope="session")
def parts_store(kept: Path) -> Path:
    """The same, in one part for each source, of different presets."""
    store = kept / "parts.vla"
    with one_at_a_time(kept):
        if not store.exists():
            folders = _conventional(kept)
            pytest.importorskip("zarr", reason="building needs zarr")
            from vla_store.builder import build_store

            single = []
            for number, (folder, (observation, orientation)) in enumerate(zip(folders, CONVENTIONS)):
                single.append(kept / f"single-{number}.vla")
                preset = ("fast", "small", "raw", "fast")[number]
                build_store([folder], single[-1], preset=preset, orientation=orientation, observation=observation)
            merged(kept / "parts.unfinished", single).rename(store)
    return store


@pytest.fixture
def copied_store(tiny_store: Path, tmp_path: Path) -> Path:
    """A copy of the tiny store to spoil."""
    return Path(shutil.copytree(tiny_store, tmp_path / "copy.vla"))


@pytest.fixture
def memory_url(tiny_store: Path) -> Iterator[str]:
    """The tiny store on fsspec's memory file system."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in tiny_store.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/tiny.vla/{path.relative_to(tiny_store).as_posix()}", path.read_bytes())
    yield "memory://tiny.vla"
    memory.rm("/tiny.vla", recursive=True)
