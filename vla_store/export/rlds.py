"""RLDS as tensorflow_datasets reads it: TFRecord, features.json and dataset_info.json, with pictures as PNG. No TensorFlow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vla_store.errors import OptionError
from vla_store.export import tfrecord
from vla_store.features.frames import Batch
from vla_store.features.mapping import EXCLUDE, RENAME, Feature, Naming, fits_png
from vla_store.reader.values import Episode
from vla_store.text import size_text

Array = np.ndarray[Any, Any]

VERSION = "1.0.0"
SHARD_NBYTES = 256 << 20
MAX_RECORD_NBYTES = (2 << 30) - 1024  # that TensorFlow parses
INSTRUCTION = "language_instruction"
FLAGS = ("is_first", "is_last", "is_terminal")
OWN = (*FLAGS, INSTRUCTION)

_CORE = "tensorflow_datasets.core.features"


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name):
        raise OptionError(
            "not a name of RLDS", expected="letters, numbers, _ and -, with / between what is nested", found=repr(name)
        )
    if name in OWN:
        raise OptionError(
            f"RLDS has {name!r} itself",
            hint=f"{RENAME} gives the field another name, {EXCLUDE} leaves it out",
        )


def check_nesting(names: Iterable[str]) -> None:
    """Refuse a name that is a feature and also holds others. Raises OptionError."""
    listed = {*names, *OWN}
    for name in listed:
        above = name.rpartition("/")[0]
        while above:
            if above in listed:
                raise OptionError("a name is a feature, and has features below it", found=f"{above}, {name}")
            above = above.rpartition("/")[0]


def _fits(dtype: str, shape: tuple[int, ...]) -> bool:
    return fits_png(dtype, shape) and (dtype == "uint8" or len(shape) == 2 or shape[2] == 1)


NAMING = Naming(
    "action", "observation/state", "observation/", "observation/", _fits, _check_name, {"rewards": "reward"}
)


class RldsWriter:
    """Writes one data set below a folder, as VERSION of it.

    Parameters
    ----------
    folder
        Where it grows.
    name
        Name of the data set; what is no letter or number becomes _.
    features
        Those of a step.
    encode
        Encodes pictures (n, H, W, C) as PNG.
    """

    def __init__(
        self, folder: Path, name: str, features: Sequence[Feature], encode: Callable[[Array], list[bytes]]
    ) -> None:
        self.name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "dataset"
        if self.name[0].isdigit():
            self.name = f"dataset_{self.name}"
        self._folder = folder / VERSION
        self._folder.mkdir()
        self._features, self._encode = features, encode
        self._shards: list[int] = []
        self._nbytes = 0
        self._file: BinaryIO | None = None

    def begin(self, episode: Episode, steps: int) -> None:
        """Begin an episode of so many steps."""
        self._episode, self._steps = episode, steps
        self._parts: dict[str, list[Any]] = {each.name: [] for each in self._features}
        self._texts: list[bytes] = []

    def rows(self, batch: Batch) -> None:
        """Take the next steps of the episode."""
        for each in self._features:
            rows = each.rows(batch)
            if each.is_picture:
                self._parts[each.name] += self._encode(rows)
            else:
                self._parts[each.name].append(_fitting(rows, each).reshape(-1))
        self._texts += [text.encode("utf-8", "replace") for text in batch["task"]]

    def end(self) -> None:
        """Write the episode."""
        values: dict[str, Any] = {
            f"steps/{each.name}": self._parts[each.name] if each.is_picture else np.concatenate(self._parts[each.name])
            for each in self._features
        }
        first, last = np.zeros((2, self._steps), np.int64)
        first[0] = last[-1] = 1
        is_terminal = np.zeros_like(last) if self._episode.success is False else last
        values |= {f"steps/{name}": flag for name, flag in zip(FLAGS, (first, last, is_terminal))}
        values[f"steps/{INSTRUCTION}"] = self._texts
        values["episode_metadata/file_path"] = [_place(self._episode).encode("utf-8", "replace")]
        data = tfrecord.record(tfrecord.example(values))
        if len(data) > MAX_RECORD_NBYTES:
            raise OptionError(
                "an episode is too large for RLDS, which has each as one record",
                episode=_place(self._episode),
                expected="less than 2 GiB",
                found=size_text(len(data)),
                hint=f"{EXCLUDE} leaves a camera out; or export to lerobot",
            )
        file = self._shard(len(data))
        file.write(data)
        self._shards[-1] += 1
        self._nbytes += len(data)

    def close(self) -> list[str]:
        """Write what the data set says of itself. Returns notes on what is not as in the store."""
        self.abort()
        count = len(self._shards)
        for number in range(count):
            self._growing(number).rename(self._folder / f"{self.name}-train.tfrecord-{number:05d}-of-{count:05d}")
        info = {
            "fileFormat": "tfrecord",
            "moduleName": "vla_store.export",
            "name": self.name,
            "releaseNotes": {VERSION: "Exported from a store of vla_store."},
            "splits": [
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": "train",
                    "numBytes": str(self._nbytes),
                    "shardLengths": [str(each) for each in self._shards],
                }
            ],
            "version": VERSION,
        }
        for file, document in (("features.json", self._described()), ("dataset_info.json", info)):
            (self._folder / file).write_text(json.dumps(document, indent=4, sort_keys=True))
        return []

    def abort(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()

    def _shard(self, nbytes: int) -> BinaryIO:
        if self._file is not None and self._file.tell() + nbytes > SHARD_NBYTES:
            self._file.close()
            self._file = None
        if self._file is None:
            self._file = self._growing(len(self._shards)).open("wb")
            self._shards.append(0)
        return self._file

    def _growing(self, number: int) -> Path:
        return self._folder / f"{self.name}-train.{number:05d}"  # how many there are is known at the end

    def _described(self) -> dict[str, Any]:
        """Return the document of features.json."""
        steps: dict[str, Any] = {name: _tensor("bool", ()) for name in FLAGS}
        steps[INSTRUCTION] = _text()
        for each in self._features:
            below = steps
            *folders, leaf = each.name.split("/")
            for folder in folders:
                below = below.setdefault(folder, {})
            below[leaf] = _image(each) if each.is_picture else _tensor(each.dtype, each.shape)
        sequence = {
            "pythonClassName": f"{_CORE}.dataset_feature.Dataset",
            "sequence": {"feature": _dictionary(steps), "length": "-1"},
        }
        return _dictionary({"steps": sequence, "episode_metadata": {"file_path": _text()}})


def _place(episode: Episode) -> str:
    return f"{episode.suite}/{episode.file}/{episode.number}"


def _fitting(rows: Array, feature: Feature) -> Array:
    if rows.dtype == np.uint64 and rows.size and rows.max() > np.iinfo(np.int64).max:
        raise OptionError(
            "a number does not fit into the int64 of a TFRecord",
            field=", ".join(feature.fields),
            found=rows.max(),
            hint=f"exclude=[{feature.fields[0]!r}] (--exclude {feature.fields[0]}) leaves it out",
        )
    return rows


def _dictionary(features: dict[str, Any]) -> dict[str, Any]:
    inside = {name: each if "pythonClassName" in each else _dictionary(each) for name, each in features.items()}
    return {"featuresDict": {"features": inside}, "pythonClassName": f"{_CORE}.features_dict.FeaturesDict"}


def _text() -> dict[str, Any]:
    return {"pythonClassName": f"{_CORE}.text_feature.Text", "text": {}}


def _dimensions(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dimensions": [str(n) for n in shape]} if shape else {}


def _tensor(dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    name = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    described = {"dtype": dtype, "encoding": "none", "shape": _dimensions(shape)}
    return {"pythonClassName": f"{_CORE}.{name}", "tensor": described}


def _image(feature: Feature) -> dict[str, Any]:
    described = {"dtype": feature.dtype, "encodingFormat": "png", "shape": _dimensions(feature.shape)}
    return {"image": described, "pythonClassName": f"{_CORE}.image_feature.Image"}
