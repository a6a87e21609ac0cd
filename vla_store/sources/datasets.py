"""Which datasets of a demonstration are fields, which are kept as attributes of its episode, and what the fields are called.

All of it is decided by the demonstrations of one file, so that a file means the same whatever it is built beside. Opens
nothing. May import overrides of this folder, format and errors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_store.errors import SourceError
from vla_store.format.schema import NUMERIC_DTYPES, is_field_name
from vla_store.sources.overrides import ACTIONS, Choice

MAX_ASIDE_NBYTES = 16 << 20  # of one demonstration, kept as attributes

LEAVE_OUT = "--exclude {} leaves it out of the store"


@dataclass(frozen=True)
class Described:
    """A dataset as it is declared. shape: None where it has no value. is_encoded: it holds an encoded picture a row."""

    shape: tuple[int, ...] | None
    dtype: np.dtype[Any]
    nbytes: int
    is_text: bool
    is_encoded: bool

    @property
    def rows(self) -> int | None:
        """Length of its first axis; None where it has none."""
        return self.shape[0] if self.shape else None

    @property
    def is_numeric(self) -> bool:
        return self.dtype.name in NUMERIC_DTYPES

    def has_a_row_a_step(self, steps: int) -> bool:
        """Tell whether it can be a field of a demonstration of so many steps."""
        return self.rows == steps and (self.is_encoded or (self.is_numeric and 0 not in (self.shape or ())))


@dataclass(frozen=True)
class FileLayout:
    """aside: datasets that are no fields, and whether they can be attributes. paths: of all datasets. used: what of the caller's
    choice the file has."""

    aside: Mapping[str, bool]
    paths: frozenset[str]
    used: tuple[str, ...]


Datasets = Mapping[str, Described]


def aside(demos: Sequence[Datasets]) -> dict[str, bool]:
    """Return the paths of what has no row a step in most demonstrations that have it, and so is no field.

    The value tells whether it can be kept as an attribute: where its number of rows has nothing to do with the number of steps.
    """
    found: dict[str, bool] = {}
    for path in sorted({path for each in demos for path in each} - {ACTIONS}):
        having = [(each[ACTIONS].rows or 0, each[path]) for each in demos if path in each]
        if 2 * sum(each.has_a_row_a_step(steps) for steps, each in having) < len(having):
            found[path] = not _is_picture(path, having) and not _follows(having)
    return found


def _is_picture(path: str, having: Sequence[tuple[int, Described]]) -> bool:
    is_seen = path.startswith(("obs/", "next_obs/"))
    return any(each.is_encoded or (is_seen and len(each.shape or ()) == 4) for _, each in having)


def _follows(having: Sequence[tuple[int, Described]]) -> bool:
    """Tell whether the rows may be steps, of which some are missing or too many.

    They are not where there are at most half as many in every demonstration, nor where there are as many in each though their
    steps differ.
    """
    arrays = [(steps, each.rows) for steps, each in having if each.shape and each.is_numeric and 0 not in each.shape]
    is_small = all(2 * (rows or 0) <= steps for steps, rows in arrays)
    is_constant = len({rows for _, rows in arrays}) == 1 and len({steps for steps, _ in arrays}) > 1
    return not is_small and not is_constant


def check_aside(path: str, each: Described, steps: int, can_be_kept: bool) -> None:
    """Raise SourceError for what is no field and cannot be kept as an attribute."""
    leave_out = LEAVE_OUT.format(path)
    if not each.is_numeric and not each.is_text and not each.is_encoded and each.shape is not None:
        raise SourceError(
            "a dataset has the wrong dtype or shape",
            dataset=path,
            expected="numbers or text",
            found=f"{each.shape} of {each.dtype}",
            hint=leave_out,
        )
    if not can_be_kept:
        hint = f"it has not one row a step in most demonstrations of the file; {leave_out}"
        raise different_lengths(path, steps, each.rows, hint)


def different_lengths(path: str, steps: int, rows: int | None, hint: str = "") -> SourceError:
    """Return the error for a dataset that has not one row a step."""
    return SourceError(
        "datasets of one demonstration have different lengths",
        dataset=path,
        expected=f"{steps} rows, as actions has",
        found=f"{rows} rows",
        hint=hint,
    )


def check_aside_nbytes(nbytes: Mapping[str, int]) -> None:
    """Raise SourceError where what would be attributes is too much. nbytes: by path."""
    if sum(nbytes.values()) > MAX_ASIDE_NBYTES:
        largest = max(nbytes, key=lambda path: nbytes[path])
        raise SourceError(
            "datasets that have no row a step are too large to be kept as attributes",
            dataset=largest,
            expected=f"at most {MAX_ASIDE_NBYTES >> 20} MiB in one demonstration",
            found=f"{nbytes[largest]} bytes in this one, {sum(nbytes.values())} in all",
            hint=LEAVE_OUT.format(largest),
        )


# Names


def field_name(path: str, encoded: bool = False) -> str:
    """Return the usual name of a dataset by its path below a demonstration: without obs/, slashes as __.

    Of encoded pictures the pixels are kept, so _jpeg is stripped as well.
    """
    name = path.removeprefix("obs/").replace("/", "__")
    return name.removesuffix("_jpeg") if encoded else name


def field_names(encoded: Mapping[str, bool], choice: Choice) -> dict[str, str]:
    """Return the name of every dataset's field. encoded: by path, whether it holds encoded pictures.

    It is `field_name` where that can be and is free. `actions` keep their name; then comes whose path is its name, then paths in their order; who finds the name
    taken has its whole path for a name, and if need be a part of that path's digest. Raises SourceError for a `rename` to a taken name.
    """
    given = {path: name for path, name in choice.rename if path in encoded}
    plain = {path: field_name(path, is_encoded) for path, is_encoded in encoded.items() if path not in given}
    names, taken = dict(given), {name.lower(): path for path, name in given.items()}
    for path in sorted(plain, key=lambda path: (path != ACTIONS, plain[path] != path, path)):
        if plain[path].lower() in (name.lower() for name in given.values()):
            raise SourceError(
                "--rename gives a name that another dataset has",
                name=plain[path],
                dataset=taken[plain[path].lower()],
                other=path,
                hint=f"choose another name, or rename {path} as well",
            )
        names[path] = next(
            name for name in _names(path, plain[path]) if is_field_name(name) and name.lower() not in taken
        )
        taken[names[path].lower()] = path
    return names


def _names(path: str, plain: str) -> Iterable[str]:
    whole = path.replace("/", "__")
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
    yield plain
    yield whole
    yield _cleaned(plain)[:64]
    yield _cleaned(whole)[:64]
    yield f"{_cleaned(whole)[:55]}-{digest[:8]}"


def _cleaned(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name).lstrip("_") or "field"


def unusual_names(names: Mapping[str, str], encoded: Mapping[str, bool], choice: Choice) -> list[str]:
    """Return a note on every name that is not the usual one, and was not asked for."""
    renamed, notes = dict(choice.rename), []
    for path, name in sorted(names.items()):
        usual = field_name(path, encoded[path])
        if name != usual and path not in renamed:
            why = "is taken" if is_field_name(usual) else "cannot be a field's name"
            notes.append(f"dataset {path} is the field {name!r}, as {usual!r} {why}")
    return notes
