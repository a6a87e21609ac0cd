"""RDT's configuration files, read and completed: which data sets there are, and what its training has to know of each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vla_store.errors import OptionError, UnknownName, finite_number
from vla_store.storage import LocalStorage, local_path

DATASET_TYPES = ("pretrain", "finetune")
FREQUENCIES = "dataset_control_freq.json"
STATISTICS = "dataset_stat.json"
BY = ("episodes", "samples")


def names_file(dataset_type: str) -> str:
    """Return the name of the file that lists the data sets. Raises UnknownName for another type."""
    if dataset_type not in DATASET_TYPES:
        raise UnknownName.among("dataset_type of RDT", dataset_type, list(DATASET_TYPES))
    return f"{dataset_type}_datasets.json"


def read_json(path: str | os.PathLike[str], kind: type, *, missing: Any = None) -> Any:
    """Return what a file of RDT's configs holds.

    kind: dict or list. missing: what stands for a file that is not there; None: it must be there. Raises OptionError.
    """
    file = Path(path)
    if missing is not None and not file.exists():
        return missing
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError("this file of RDT's configs cannot be read", file=file, found=error) from None
    except ValueError as error:
        raise OptionError("this is no JSON", file=file, found=error) from None
    if not isinstance(found, kind):
        raise OptionError(f"this is no JSON {'object' if kind is dict else 'list'} of datasets", file=file)
    return found


def put_entry(path: str | os.PathLike[str], name: str, entry: Any) -> None:
    """Set the entry of a data set in a file that is an object of entries, and keep the others. The file is replaced as a whole."""
    file = local_path(path, Path(path).name)
    _write(file, read_json(file, dict, missing={}) | {name: entry})


def put_name(path: str | os.PathLike[str], name: str) -> None:
    """Let a file that lists data sets list this one; where it stands in the list is its number, and stays."""
    file = local_path(path, Path(path).name)
    known = read_json(file, list, missing=[])
    if name not in known:
        _write(file, [*known, name])


def _write(file: Path, value: Any) -> None:
    LocalStorage(file.parent).write(file.name, json.dumps(value, indent=4).encode())


def entry_of(entries: Mapping[str, Any], name: str, file: str, hint: str = "") -> Any:
    """Return what a file says of a data set. Raises UnknownName where it does not: RDT's consumer would try for ever."""
    try:
        return entries[name]
    except KeyError:
        hint = hint or "dataset.write_configs(folder) writes what RDT looks up of a data set"
        raise UnknownName.among(f"data set in {file}", name, list(entries), hint=hint) from None


def rdt_weights(path: str | os.PathLike[str], datasets: Iterable[Any], *, by: str = "episodes") -> list[float]:
    """Return the weights of RDT's data sets as shares of samples, as `vla_store.mixture` takes them.

    RDT draws an *episode*, of a data set by its weight, and all its steps then follow [RDT data/vla_dataset.py:112-126]. So a
    data set whose episodes are twice as long gives twice as many samples as its weight says.

    Parameters
    ----------
    path
        RDT's configs/pretrain_sample_weights.json, or finetune_sample_weights.json: {name of a data set: weight}.
    datasets
        Those that are mixed, of `rdt_pretrain`: their names are looked up.
    by
        "episodes" (default): as RDT's code draws. A weight times the anchors that an episode of the selection has in the mean,
        those that are left out counted with none, as RDT draws again where one is too short. "samples": the weights as they
        are, as its docs call them ("sample percentage").

    Returns
    -------
    list of float
        One a data set, in their order, of which the sum is 1.

    Raises
    ------
    OptionError, UnknownName
        For a file that is no such file, or lacks a data set; and for another `by`.
    """
    if by not in BY:
        raise UnknownName.among("way to weigh", by, list(BY))
    entries = read_json(path, dict)
    weights, factors = [], []
    for each in datasets:
        if not hasattr(each, "get_dataset_name"):
            raise OptionError(
                "weights are of data sets that have a name in RDT",
                found=type(each).__name__,
                hint="rdt_weights(path, [rdt_pretrain(store, ..., dataset_name=...), ...])",
            )
        name = each.get_dataset_name()
        weight = entry_of(entries, name, Path(path).name, "write there how often it is to be drawn")
        try:
            weights.append(finite_number("a weight", weight, least=0))
        except OptionError as error:
            raise error.at(file=path, dataset=name) from None
        if not weight:
            raise OptionError("a weight of what is mixed is above 0", file=path, dataset=name, found=weight)
        factors.append(len(each) / len(each.selected_episodes) if by == "episodes" else 1.0)
    largest = max(weights, default=1.0)  # so that sums of large ones stay finite
    found = [weight / largest * factor for weight, factor in zip(weights, factors)]
    total = sum(found)
    return [each / total for each in found]
