"""Odd HDF5 files, and the oracle that a store of one is held against: h5py, which knows nothing of us.

`odd_file` writes a small file in LIBERO's layout and lets a function change it; `assert_equals_h5py` compares random samples of
a store with what h5py reads from the file, and verifies the store against it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tiny_libero

import vla_store
from vla_store.audit import verify_store

FILE = tiny_libero.TinyFile("libero_odd", "pick_up_the_odd_bowl", 12, {0: 23, 1: 17, 4: 9})


def odd_file(folder: Path, change: Callable[[h5py.File], Any] | None = None, **options: Any) -> Path:
    """One file with demos 0, 1 and 4 of 23, 17 and 9 steps, in a folder of its suite. options: as `write_suites` takes them."""
    tiny_libero.write_suites(folder, suites=(FILE,), **options)
    path = folder / FILE.suite / FILE.name
    if change is not None:
        with h5py.File(path, "r+") as file:
            change(file)
    return path


def each_demo(file: h5py.File) -> list[h5py.Group]:
    """The groups of the demonstrations, by number."""
    names = [name for name in file["data"] if name.startswith("demo_")]
    return [file["data"][name] for name in sorted(names, key=lambda name: int(name[5:]))]


def with_liberos_hand(file: h5py.File) -> None:
    """Gives the gripper and the fingers, whose numbers say which row they are, values as LIBERO has them: recipes refuse others."""
    for demo in each_demo(file):
        actions, fingers = demo["actions"], demo["obs/gripper_states"]
        actions[:, 6] = np.where(np.arange(len(actions)) % 5 < 3, -1, 1)
        fingers[...] = 0.09 * np.cos(fingers[()])


def assert_equals_h5py(
    store: Path,
    path: Path,
    *,
    fields: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    samples: int = 60,
    seed: int = 0,
) -> None:
    """Samples of every field equal h5py's rows bit for bit (all, or so many at random), and the store verifies against its source.

    fields: {dataset path below the demo: field name} where the name is not the path without obs/. without: dataset paths that are
    no field (the test says where they went). What is neither must be a field of the store: nothing may be lost without a word.
    """
    opened = vla_store.open_store(store)
    rng = np.random.default_rng(seed)
    with h5py.File(path) as file:
        groups = {int(group.name.rpartition("_")[2]): group for group in each_demo(file)}
        mine = [(row, each) for row, each in _rows(opened) if each.file == path.name]
        names = _names(groups[mine[0][1].number], fields or {})
        names = {name: field for name, field in names.items() if name not in without}
        missing = sorted(set(names.values()) - set(opened.fields))
        assert not missing, f"datasets that are no field: {missing}; fields: {sorted(opened.fields)}"
        read = vla_store.Samples(
            opened, windows=dict.fromkeys(names.values(), 0), alignment="as_stored", images="as_stored"
        )

        @functools.cache
        def rows_of(number: int, name: str) -> np.ndarray:
            rows = groups[number][name][()]
            return rows.astype(rows.dtype.newbyteorder("="), copy=False)

        for at in rng.permutation(len(mine))[:samples].tolist():
            row, episode = mine[at]
            sample = read[row]
            step = sample["step"]
            for name, field in names.items():
                expected = rows_of(episode.number, name)[step]
                found, where = sample[field], f"{field} of demo {episode.number}, step {step}"
                assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
                assert found.tobytes() == expected.tobytes(), where
    report = verify_store(store, against=path.parent)
    assert not report.problems, report.problems


def _rows(store: vla_store.Store) -> list[tuple[int, Any]]:
    return [(row, each) for each in store.episodes for row in range(each.start, each.start + each.length)]


def _names(group: h5py.Group, given: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}

    def add(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[path] = given.get(path) or path.removeprefix("obs/").replace("/", "__")

    group.visititems(add)
    return found
