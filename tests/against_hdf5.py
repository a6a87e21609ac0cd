"""Compares what the second reader finds in a store with what h5py finds in its source. Nothing of vla_store takes part."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from tiny_reader import TinyStore


def sources_of(folder: Path) -> list[Path]:
    """HDF5 files in the store's order: suites by name, files by name."""
    return sorted(folder.glob("*/*.hdf5"), key=lambda path: (path.parent.name.encode(), path.name.encode()))


def numbered(group: Any) -> list[str]:
    return sorted(group, key=lambda name: int(name.removeprefix("demo_")))


def field_arrays(demo: Any) -> dict[str, np.ndarray]:
    """Every dataset of a demo, by the name of its field."""
    import h5py

    found: dict[str, np.ndarray] = {}

    def add(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[path.removeprefix("obs/").replace("/", "__")] = node[()]

    demo.visititems(add)
    return found


def attribute(value: Any) -> Any:
    """What h5py gives, in a form that compares with `stored_attribute`."""
    import h5py

    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "OS":
        return (array.shape, [attribute(item) for item in array.reshape(-1).tolist()])
    return (array.dtype.name, array.shape, array.astype(array.dtype.newbyteorder("<")).tobytes())


def stored_attribute(value: dict[str, Any]) -> Any:
    if "utf8" in value:
        return value["utf8"].encode()
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    if "strings" in value:
        return (tuple(value["shape"]), [stored_attribute(item) for item in value["strings"]])
    if value["shape"] is None:
        return None
    return (value["dtype"], tuple(value["shape"]), base64.b64decode(value["base64"]))


def attributes_below(demo: Any) -> dict[str, dict[str, Any]]:
    found = {demo.name: {name: attribute(value) for name, value in demo.attrs.items()}}

    def add(_: str, node: Any) -> None:
        found[node.name] = {name: attribute(value) for name, value in node.attrs.items()}

    demo.visititems(add)
    return found


def stored_attributes(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        path: {name: stored_attribute(value) for name, value in attributes.items()}
        for path, attributes in objects.items()
    }


def assert_is_the_source(store: TinyStore, folder: Path) -> tuple[int, int]:
    """Every dataset and attribute of every demo, bit for bit, and nothing more. Episodes and steps compared."""
    import h5py

    episodes = store.episodes()
    count = steps = 0
    for path in sources_of(folder):
        with h5py.File(path) as file:
            for name in numbered(file["data"]):
                demo, episode = file["data"][name], next(episodes)
                where = f"{path.name} {name}"
                assert f"demo_{episode['row']['number']}" == name, where
                assert (episode["source"]["suite"], episode["source"]["file"]) == (path.parent.name, path.name), where
                arrays = field_arrays(demo)
                assert sorted(episode["fields"]) == sorted(arrays), where
                for field, array in arrays.items():
                    stored = episode["fields"][field]
                    little = array.astype(array.dtype.newbyteorder("<"))
                    assert (stored.dtype, stored.shape) == (little.dtype, little.shape), f"{where} {field}"
                    assert stored.tobytes() == little.tobytes(), f"{where} {field}"
                assert stored_attributes(episode["attributes"]) == attributes_below(demo), where
                own = {
                    place: {key: attribute(value) for key, value in file[place].attrs.items()}
                    for place in ("/", "/data")
                }
                assert stored_attributes(episode["file_attributes"]) == own, where
                assert episode["row"]["success"] == (arrays["rewards"][-1] >= 1), where
                count += 1
                steps += len(arrays["actions"])
    assert next(episodes, None) is None
    return count, steps
