"""Layout files: what somebody's recordings look like, in TOML, so that no Python is needed to build from them.

Owns the `Layout`, how it is read, and its errors, which name the line. Opens no recording (see laid_out.py). May import
overrides of this folder, format and errors.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomllib

from vla_store.errors import OptionError
from vla_store.format.jpeg import COLOURS
from vla_store.format.schema import is_field_name
from vla_store.sources.overrides import ACTIONS
from vla_store.types import OBSERVATIONS, ORIENTATIONS

SHIPPED = Path(__file__).with_name("layouts")
ASK = "ask"

NAMES = ("suite", "task", "file")  # what a path gives a name of
PLACES = ("text", "name", "attribute", "dataset", "json")
ROLES = ("observation", "step")

_REFERENCE = "docs/how-to/other-layouts.md has every key"


@dataclass(frozen=True)
class Place:
    """Where a text or a number stands.

    Attributes
    ----------
    kind : str
        One of PLACES: the text itself, the name of a folder or file, an attribute, a dataset, a JSON file beside.
    where : str
        The text, the name's name, "attribute" or "group@attribute", a path, a path from the recording's folder.
    key : str
        Of JSON, the way to the value, as in "env_info.env_id"; "*" for all of it, "" for what is no JSON.
    only_a_name : bool
        What stands there is no instruction, but does for one.
    line : int
        In the layout file.
    """

    kind: str
    where: str
    key: str = ""
    only_a_name: bool = False
    line: int = field(default=0, compare=False)

    @property
    def is_shared(self) -> bool:
        """True if it is the same for all episodes of a folder."""
        return self.kind in ("text", "name") or (self.kind == "json" and "{" not in self.where)

    def __str__(self) -> str:
        return f"{self.kind} {self.where}" + (f", {self.key}" if self.key else "")


@dataclass(frozen=True)
class FieldRule:
    """One field, or one for each match of a path with wildcards. See docs/how-to/other-layouts.md for what each means."""

    name: str
    datasets: tuple[str, ...]
    role: str
    encoding: str = ""
    picture: bool | None = None
    start: int = 0
    extra: int = 0
    optional: bool = False
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def has_wildcards(self) -> bool:
        return "*" in self.datasets[0]

    def field_of(self, path: str) -> str | None:
        """Return the name of the field of a dataset that the path with wildcards matches; None where it does not."""
        found = _pattern(self.datasets[0]).fullmatch(path)
        if found is None:
            return None
        parts = [re.sub(r"[^A-Za-z0-9_-]", "_", each) for each in found.groups()]
        parts = parts if len(parts) == _wildcards(self.name) else ["_".join(parts)]
        return re.sub(r"\*+", lambda _: parts.pop(0), self.name)[:64]


@dataclass(frozen=True)
class Named:
    """What a recording's path says. task: None where the layout takes none from the path."""

    suite: str
    task: str | None
    file: str


@dataclass(frozen=True)
class Layout:
    """What recordings look like. See docs/how-to/other-layouts.md for what each key means."""

    name: str
    fields: tuple[FieldRule, ...]
    files: str = "{suite}/*"
    groups: str = ""
    known_by: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    orientation: str = ASK
    observation: str = ASK
    colour: str = ASK
    rgb_comment: str = ""
    fps: float | Place | None = None
    success: Place | None = None
    text: tuple[Place, ...] = ()
    instructions: tuple[tuple[str, Place], ...] = ()
    path: str = field(default="", compare=False)

    def __hash__(self) -> int:  # it is part of what many look-ups of one recording are kept by
        return hash(self.digest)

    @functools.cached_property
    def digest(self) -> str:
        """What tells this layout from one that means something else."""
        return hashlib.sha256(repr(_meaning(self)).encode()).hexdigest()[:16]

    def at(self, line: int) -> str:
        """Return what messages call a line of it."""
        return f"{self.path}, line {line}" if line else self.path

    def names_of(self, path: str) -> Named | None:
        """Return what a recording's path says; None where `files` does not fit it."""
        parts, patterns = Path(path).parts, self.files.split("/")
        said: dict[str, str] = {}
        for part, pattern in zip(reversed(parts), reversed(patterns)):
            found = _named(pattern).fullmatch(part)
            if found is None:
                return None
            said |= found.groupdict()
        if len(parts) <= len(patterns):
            return None
        task = said.get("task")
        is_folder = any("{task}" in each for each in patterns[:-1])
        return Named(said["suite"], task, f"{task}/{parts[-1]}" if is_folder else parts[-1])

    def below(self) -> Iterator[str]:
        """Give the patterns by which recordings are found below a folder that is at any of this layout's levels."""
        parts = [re.sub(r"\{\w+\}", "*", each) for each in self.files.split("/")]
        yield from ("/".join(parts[at:]) for at in reversed(range(len(parts))))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Layout:
        """Read a layout file. Raises OptionError, which names the line of what is wrong."""
        place = os.path.abspath(path)
        try:
            text = Path(place).read_text(encoding="utf-8")
        except FileNotFoundError:
            hint = "`vla-store layout RECORDING > robot.toml` writes a first one"
            raise OptionError("there is no such layout file", layout=path, hint=hint) from None
        except UnicodeDecodeError as error:
            raise OptionError("a layout file is TOML, in UTF-8", layout=place, found=str(error)) from None
        return parsed(text, place)


def shipped() -> list[Layout]:
    """Return the layouts that come with this package, which know their files by what is in them."""
    return _shipped()


@functools.cache
def _shipped() -> list[Layout]:
    return [Layout.read(path) for path in sorted(SHIPPED.glob("*.toml"))]


def _meaning(layout: Layout) -> list[Any]:
    rules = [[*list(vars(rule).items())[:-1]] for rule in layout.fields]
    names = ("files", "groups", "ignore", "orientation", "observation", "colour", "rgb_comment")
    kinds = [kind for kind, _ in layout.instructions]
    told = (layout.fps, layout.success, *layout.text, *(place for _, place in layout.instructions))
    places = [[str(each), each.only_a_name] if isinstance(each, Place) else each for each in told]
    return [rules, [getattr(layout, name) for name in names], kinds, places]


@functools.cache
def _pattern(path: str) -> re.Pattern[str]:
    """Return what matches a path with wildcards: * for a name or a part of it, ** for several names."""
    parts = re.split(r"(\*\*?)", path)
    return re.compile("".join({"*": "([^/]*)", "**": "(.*)"}.get(each, re.escape(each)) for each in parts))


def _wildcards(text: str) -> int:
    return len(re.findall(r"\*+", text))


@functools.cache
def _named(pattern: str) -> re.Pattern[str]:
    """Return what matches one name of a path: {suite} and {task} are kept, * is anything."""
    parts = re.split(r"(\*|\{\w+\})", pattern)
    known = {"*": ".*", "{suite}": "(?P<suite>.+)", "{task}": "(?P<task>.+)"}
    return re.compile("".join(known.get(each, re.escape(each)) for each in parts))


def matching(pattern: str, paths: Mapping[str, Any]) -> list[str]:
    """Return the paths that one with wildcards matches, or that lie below one."""
    return [path for path in paths if _pattern(pattern).fullmatch(path) or _pattern(f"{pattern}/**").fullmatch(path)]


# Reading


def parsed(text: str, path: str) -> Layout:
    """Return the layout that a text states. path: what messages call it. Raises OptionError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line ([0-9]+)", str(error))
        raise OptionError(
            "a layout file is not TOML",
            layout=path,
            line=line[1] if line else len(text.splitlines()),
            found=str(error),
            hint='texts stand in quotes, and a table in one line: qpos = { dataset = "observations/qpos" }',
        ) from None
    whole = _Table(values, (), _lines(text), path)
    episodes, pictures, task = (whole.table(each) for each in ("episodes", "pictures", "task"))
    extra = episodes.count("extra")
    rules = [_rule(name, each, extra) for name, each in whole.tables("fields")]
    if not any(rule.name == ACTIONS for rule in rules):
        raise whole.error("a layout without actions", "fields", expected='actions = { dataset = "..." } in [fields]')
    layout = Layout(
        name=whole.text("name", Path(path).stem),
        fields=(*(rule for rule in rules if not rule.has_wildcards), *(rule for rule in rules if rule.has_wildcards)),
        files=_files(episodes),
        groups=episodes.text("groups", "").strip("/"),
        known_by=whole.texts("known_by"),
        ignore=whole.texts("ignore"),
        orientation=pictures.text("orientation", ASK, (*ORIENTATIONS, ASK)),
        observation=pictures.text("observation", ASK, (*OBSERVATIONS, ASK)),
        colour=pictures.text("colour", ASK, (*COLOURS, ASK)),
        rgb_comment=pictures.text("rgb_comment", ""),
        fps=_fps(episodes),
        success=_place(episodes, "success"),
        text=_places(task, "text"),
        instructions=tuple((kind, _place_of(each)) for kind, each in task.tables("instructions")),
        path=path,
    )
    for each in (episodes, pictures, task, whole):
        each.end()
    return layout


@dataclass
class _Table:
    """A table of the file, whose keys are taken one by one; what is left in the end is unknown."""

    values: dict[str, Any]
    at: tuple[str, ...]
    lines: Mapping[tuple[str, ...], int]
    path: str
    known: list[str] = field(default_factory=list)

    def line(self, key: str = "") -> int:
        """Return the line of a key, or of what it stands in."""
        place = (*self.at, key)
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def error(self, what: str, key: str = "", **places: Any) -> OptionError:
        hint = places.pop("hint", _REFERENCE)
        where = ".".join((*self.at, key)).strip(".") or None
        return OptionError(what, layout=self.path, line=self.line(key), key=where, **places, hint=hint)

    def take(self, key: str, kinds: type | tuple[type, ...], expected: str, default: Any) -> Any:
        self.known.append(key)
        value = self.values.get(key, default)
        if key in self.values and (not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool)):
            raise self.error("a value of another kind", key, expected=expected, found=repr(value)[:100])
        return value

    def text(self, key: str, default: str, allowed: tuple[str, ...] = ()) -> str:
        value: str = self.take(key, str, "a text", default)
        if allowed and value not in allowed:
            raise self.error(f"{key} cannot be {value!r}", key, expected=", ".join(allowed))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list, "a list of texts", [])
        if not all(isinstance(each, str) for each in values):
            raise self.error("a value of another kind", key, expected="a list of texts", found=repr(values)[:100])
        return tuple(each.strip("/") for each in values) if key in ("known_by", "ignore") else tuple(values)

    def count(self, key: str, default: int = 0) -> int:
        value: int = self.take(key, int, "a number of rows, 0 or more", default)
        if value < 0:
            raise self.error("a value of another kind", key, expected="a number of rows, 0 or more", found=value)
        return value

    def table(self, key: str) -> _Table:
        return _Table(self.take(key, dict, "a table", {}), (*self.at, key), self.lines, self.path)

    def tables(self, key: str) -> list[tuple[str, _Table]]:
        inside = self.table(key)
        return [(name, inside.table(name)) for name in inside.values]

    def end(self) -> None:
        for key in self.values:
            if key not in self.known:
                near = difflib.get_close_matches(key, self.known, 1, cutoff=0.6)
                hint = f"did you mean {near[0]}?" if near else _REFERENCE
                raise self.error("a key that a layout has not", key, expected=", ".join(self.known), hint=hint)


def _rule(name: str, table: _Table, extra: int) -> FieldRule:
    several = table.texts("datasets")
    one = table.text("dataset", "")
    datasets = tuple(each.strip("/") for each in (*several, *([one] if one else [])))
    wild = [each for each in datasets if "*" in each]
    if not datasets or not all(datasets) or (one and several):
        raise table.error(
            "a field has one dataset, or several side by side", expected='dataset = "..." or datasets = [...]'
        )
    if wild and len(datasets) > 1:
        raise table.error("datasets that stand side by side are named one by one", "datasets", found=wild[0])
    if bool(wild) != ("*" in name) or _wildcards(name) not in (0, 1, _wildcards(datasets[0])):
        expected = 'wildcards in both, as in "*_depth" = { dataset = "depth/*" }, or in neither'
        raise table.error(
            "a field's name and its dataset do not fit", expected=expected, found=f"{name}, {datasets[0]}"
        )
    if not is_field_name(re.sub(r"\*+", "x", name)):
        raise table.error("a name cannot be a field's", expected="1 to 64 of A-Z a-z 0-9 _ -, not beginning with __")
    picture = table.take("picture", bool, "true or false", None)
    rule = FieldRule(
        name,
        datasets,
        table.text("role", "step" if name == ACTIONS else "observation", ROLES),
        table.text("encoding", "", ("", "none", "jpeg")),
        picture,
        table.count("start"),
        table.count("extra", 0 if name == ACTIONS else extra),
        table.take("optional", bool, "true or false", False),
        table.texts("names"),
        table.texts("units"),
        table.line(),
    )
    if name == ACTIONS and (rule.optional or rule.role != "step" or rule.encoding):
        raise table.error("actions are always there, belong to the step and are numbers")
    table.end()
    return rule


def _files(episodes: _Table) -> str:
    files = episodes.text("files", "{suite}/*").strip("/")
    said = re.findall(r"\{(\w*)\}", files)
    if sorted(said) not in (["suite"], ["suite", "task"]):
        raise episodes.error(
            "`files` says which folder is the suite, and which folder or file the task",
            "files",
            expected="{suite} once, and {task} once at most, as in {suite}/{task}/episode_*.hdf5",
            found=files,
        )
    return files


def _fps(episodes: _Table) -> float | Place | None:
    if isinstance(episodes.values.get("fps"), dict):
        return _place(episodes, "fps")
    fps = episodes.take("fps", (int, float), "steps a second, or where they stand", None)
    if fps is not None and not 0 < fps < float("inf"):
        raise episodes.error("a value of another kind", "fps", expected="steps a second", found=fps)
    return None if fps is None else float(fps)


def _place(table: _Table, key: str) -> Place | None:
    return _place_of(table.table(key)) if key in table.values else table.take(key, dict, "a table", None)


def _places(task: _Table, key: str) -> tuple[Place, ...]:
    """Return places that are tried one after another: a text itself, one table, or a list of tables."""
    given = task.values.get(key, [])
    if isinstance(given, str):
        return (Place("text", task.text(key, ""), line=task.line(key)),)
    listed = task.take(key, (list, dict), "a text, or one or several of where it stands", [])
    tables = listed if isinstance(listed, list) else [listed]
    if not all(isinstance(each, dict) for each in tables):
        raise task.error("a value of another kind", key, expected='tables, as in [{ attribute = "task" }]', found=given)
    return tuple(_place_of(_Table(each, (*task.at, key), task.lines, task.path)) for each in tables)


def _place_of(table: _Table) -> Place:
    given = [kind for kind in PLACES if kind in table.values]
    if len(given) != 1:
        raise table.error(
            "a place is one of these", expected=", ".join(PLACES), found=", ".join(table.values) or "nothing"
        )
    kind = given[0]
    where = table.text(kind, "", NAMES if kind == "name" else ())
    only_a_name = table.take("only_a_name", bool, "true or false", kind == "name")
    place = Place(
        kind, where.strip("/") if kind == "dataset" else where, table.text("key", ""), only_a_name, table.line()
    )
    if not where or (kind == "json" and not place.key):
        raise table.error("a place is not whole", expected='as in { json = "episode.json", key = "instruction" }')
    table.known += PLACES
    table.end()
    return place


# Lines: tomllib does not say where a key stands


_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line, from 1, of every table and key that begins one."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if (header := _HEADER.match(line)) and (names := _split(header[1])):
            table = names
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_split(key[1])), number)
    return found


def _split(key: str) -> tuple[str, ...]:
    """Return the names of a dotted key, as TOML reads them."""
    names: list[str] = []
    try:
        value: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    while isinstance(value, dict):
        name, value = next(iter(value.items()))
        names.append(name)
    return tuple(names)


def is_recording(layout: Layout, name: str) -> bool:
    """Tell whether a file's name is that of a recording of this layout."""
    return fnmatch.fnmatchcase(name, re.sub(r"\{\w+\}", "*", layout.files.rpartition("/")[2]))
