"""What a caller states of sources over what they say of themselves: conventions, for all or by path, and choices of datasets.

Owns these values, their checks, and how a part's plan records them. May import format, paths and errors.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import OptionError, SourceError
from vla_store.format import canonical, schema
from vla_store.format.schema import is_field_name
from vla_store.storage import place_of
from vla_store.types import OBSERVATIONS, ORIENTATIONS

ACTIONS = "actions"

# A convention as it is given: for all sources, or by path (None: for the others).
Stated = str | float | Mapping[str | Path | None, str | float] | None


@dataclass(frozen=True)
class Convention:
    """Something that sources need not say of themselves.

    Attributes
    ----------
    name : str
        Name of the option: `--name` on the command line.
    allowed : tuple of str
        Every value it may have; none where it is a number above 0.
    help : str
        Half a sentence for the command line.
    """

    name: str
    allowed: tuple[str, ...]
    help: str

    def value_of(self, given: str | float) -> str:
        """Return a value as a plan records it. Raises OptionError for what it cannot be."""
        if self.allowed and given not in self.allowed:
            raise OptionError(f"{self.name} cannot be {given!r}", allowed=", ".join(self.allowed))
        if self.allowed:
            return str(given)
        try:
            number = math.nan if isinstance(given, (bool, np.bool_)) else float(given)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 < number <= schema.MAX_FPS:
            raise OptionError(f"{self.name} cannot be {given!r}", expected="a number above 0")
        return canonical.float_text(number)


ORIENTATION = Convention("orientation", ORIENTATIONS, "how pictures are stored")
OBSERVATION = Convention(
    "observation", OBSERVATIONS, "whether observations are recorded before or after the action of their row"
)
FPS = Convention("fps", (), "steps a second")
OF_ALL = (ORIENTATION, OBSERVATION, FPS)  # kinds of sources


@dataclass(frozen=True)
class Choice:
    """Which datasets are left out, and which have another name.

    Attributes
    ----------
    exclude
        Paths below a demonstration, or from the file's root where they begin with /; of a dataset, of a group with all
        that is below it, or of a whole demonstration. Each name in a path may have the wildcards `*`, `?` and `[]`.
    rename
        Pairs (path below a demonstration, name of its field).
    """

    exclude: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, exclude: Iterable[str] | str | None, rename: Mapping[str, str] | None) -> Choice:
        """Check what a caller gives.

        Parameters
        ----------
        exclude
            One path or several; None for none.
        rename
            {path: name}; None for none.

        Returns
        -------
        Choice
            With slashes at the end of `exclude`, and at either end of the paths of `rename`, left out, and both sorted.

        Raises
        ------
        OptionError
            For what is no path or name, for actions (which cannot be left out or renamed), and for one name of two
            datasets.
        """
        patterns = [exclude] if isinstance(exclude, str) else list(exclude or ())
        for pattern in patterns:
            if not isinstance(pattern, str) or not pattern.strip("/"):
                raise OptionError("exclude is a path of a dataset or group", found=repr(pattern)[:100])
            if _matches(pattern, ACTIONS):
                raise OptionError(
                    "actions cannot be left out", exclude=pattern, hint="they say how many steps there are"
                )
        renamed: dict[str, str] = {}
        for path, name in dict(rename or {}).items():
            if not isinstance(path, str) or not path.strip("/") or not isinstance(name, str) or not is_field_name(name):
                raise OptionError(
                    "a name cannot be a field's",
                    path=path,
                    name=repr(name)[:100],
                    expected="1 to 64 of A-Z a-z 0-9 _ -, not beginning with __, not attributes",
                )
            if path.strip("/") == ACTIONS or name.lower() == ACTIONS:
                raise OptionError("actions keep their name, and nothing else has it", path=path, name=name)
            if name.lower() in (each.lower() for each in renamed.values()):
                raise OptionError("two datasets cannot have one name", name=name)
            renamed[path.strip("/")] = name
        return cls(tuple(sorted({each.rstrip("/") for each in patterns})), tuple(sorted(renamed.items())))

    def excluding(self, absolute: str, below: str | None = None) -> str | None:
        """Return the first pattern that leaves out what lies at a path of the file.

        Parameters
        ----------
        absolute
            The path from the file's root.
        below
            The path of the same below a demonstration, where it lies in one.

        Returns
        -------
        str or None
            None where no pattern does.
        """
        for pattern in self.exclude:
            path = absolute if pattern[0] == "/" else below
            if path is not None and _matches(pattern, path):
                return pattern
        return None

    def to_json(self) -> dict[str, Any]:
        """Return what a plan records: nothing where nothing was stated."""
        found: dict[str, Any] = {"exclude": list(self.exclude)} if self.exclude else {}
        return found | ({"rename": dict(self.rename)} if self.rename else {})

    def check_used(self, sources: Iterable[Any]) -> None:
        """Refuse what names nothing of any source.

        Parameters
        ----------
        sources
            The sources; `layout()` of each, where it has that method, says what it has.

        Raises
        ------
        OptionError
            For a path of `exclude` or `rename` that no source has.
        """
        layouts = []
        for source in sources if self != NOTHING else ():
            with contextlib.suppress(SourceError):  # its scan says what is wrong with it
                layouts += [source.layout()] if hasattr(source, "layout") else []
        used = {each for layout in layouts for each in layout.used}
        there = sorted({path for layout in layouts for path in layout.paths})
        for option, given in (("exclude", self.exclude), ("rename", tuple(path for path, _ in self.rename))):
            for each in given:
                if each not in used:
                    near = difflib.get_close_matches(each.strip("/"), there, n=8, cutoff=0.4) or there[:16]
                    raise OptionError(
                        f"--{option} names what no demonstration has",
                        path=each,
                        exists=", ".join(near) or "no datasets",
                        hint="paths are those below a demonstration, as in obs/ee_pos; what begins with / is from the file's root",
                    )


NOTHING = Choice()


def _matches(pattern: str, path: str) -> bool:
    """Tell whether a pattern names a path, or a group above it."""
    names, parts = pattern.strip("/").split("/"), path.strip("/").split("/")
    return len(names) <= len(parts) and all(fnmatch.fnmatchcase(part, name) for part, name in zip(parts, names))


@dataclass(frozen=True)
class Overrides:
    """What is stated of one source.

    Attributes
    ----------
    orientation, observation : str or None
        None: the source says it.
    conventions : tuple of (str, str)
        Other conventions, of the source's kind, by name, ascending, with their values.
    by_path : tuple of str
        Names of the conventions that were stated of this very source, and not of all, ascending.
    choice : Choice
        Datasets that are left out or renamed.
    """

    orientation: str | None = None
    observation: str | None = None
    conventions: tuple[tuple[str, str], ...] = ()
    by_path: tuple[str, ...] = ()
    choice: Choice = NOTHING

    def to_json(self) -> dict[str, Any]:
        """Return what a plan records beside orientation and observation: nothing where nothing was stated."""
        return self.choice.to_json() | ({"conventions": dict(self.conventions)} if self.conventions else {})

    @classmethod
    def recorded(cls, options: Any, entry: Any = None) -> Overrides:
        """Read what a part's plan records.

        Parameters
        ----------
        options
            The plan's options, which hold for all of its sources.
        entry
            The plan's entry of one source, which counts more. Of another writer's plan, which may have another form, only what
            is understood is taken.
        """
        stated = {**_mapping(options), **_mapping(entry)}
        exclude, by_path = (
            each if isinstance(each, list) else [] for each in (stated.get("exclude"), stated.get("said"))
        )
        orientation, observation = stated.get("orientation"), stated.get("observation")
        return cls(
            orientation if isinstance(orientation, str) else None,
            observation if isinstance(observation, str) else None,
            _pairs(stated.get("conventions")),
            tuple(each for each in by_path if isinstance(each, str)),
            Choice(tuple(each for each in exclude if isinstance(each, str) and each), _pairs(stated.get("rename"))),
        )

    @classmethod
    def recorded_of(cls, plan: Mapping[str, Any], number: int) -> Overrides:
        """Read what a part's plan records of one of its sources."""
        sources = plan.get("sources")
        entry = sources[number] if isinstance(sources, list) and number < len(sources) else None
        return cls.recorded(plan.get("options"), entry)


NO_OVERRIDES = Overrides()


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, text) for name, text in _mapping(value).items() if isinstance(text, str)))


class StatedConvention:
    """One convention as a caller gives it: a value for all sources, or values by path of a file or a folder."""

    def __init__(self, convention: Convention, given: Stated) -> None:
        stated = given if isinstance(given, Mapping) else {None: given}
        by_path = {path: None if value is None else convention.value_of(value) for path, value in stated.items()}
        self.name = convention.name
        self._others = by_path.get(None)
        self._by_path = {place_of(path): value for path, value in by_path.items() if path is not None}
        self._used: set[str] = set()

    def of(self, path: str) -> tuple[str | None, bool]:
        """Return the value for what lies at an absolute path, and whether it was stated by path: the nearest folder counts."""
        above = [each for each in self._by_path if path == each or path.startswith(each.rstrip(os.sep) + os.sep)]
        self._used.update(above)
        value = self._by_path[max(above, key=len)] if above else self._others
        return value, bool(above) and value is not None

    def check_used(self) -> None:
        """Raise OptionError for a path that no source was asked for."""
        for path in self._by_path:
            if path not in self._used:
                raise OptionError(
                    f"{self.name} is said of a path that is no source and holds none",
                    path=path,
                    hint=f"--{self.name} PATH=VALUE takes the path of a SOURCE, or of a file or folder in one",
                )


def overrides_at(path: str, stated: Sequence[StatedConvention], choice: Choice) -> Overrides:
    """Return what is stated of the source at an absolute path."""
    values = {each.name: each.of(path) for each in stated}
    others = [(name, value) for name, (value, _) in values.items() if value is not None]
    return Overrides(
        values["orientation"][0],
        values["observation"][0],
        tuple(sorted(each for each in others if each[0] not in ("orientation", "observation"))),
        tuple(sorted(name for name, (_, by_path) in values.items() if by_path)),
        choice,
    )
