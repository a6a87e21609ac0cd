"""What a store is, as frozen values: fields, tasks, sources, the document of a part and that of a root, and JSON to and from them.

Parsing refuses, before anything is allocated, what cannot be: keys that leave the store, counts and shapes above the stated
maxima. What a newer writer of the same format version may add (a kind, role, codec or prediction) is kept, and refused when used.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vla_store.errors import SourceError, StoreDamaged, UnsupportedStore
from vla_store.format import arrays, canonical, codecs, jpeg, layout, predictions
from vla_store.format.codecs import NONE, Codec
from vla_store.format.digests import NO_DIGEST
from vla_store.format.json_reader import JsonReader, check_key
from vla_store.format.nonfinite import SUFFIXES, columns_of
from vla_store.format.texts import Wordings
from vla_store.types import OBSERVATIONS, ORIENTATIONS

FORMAT_VERSION = 1

codecs.register(jpeg.Jpeg)  # whoever reads a document knows it

MAX_FRAME_BYTES = 256 << 20
MAX_DOCUMENT_BYTES = 64 << 20
MAX_ROOT_BYTES = 16 << 20
MAX_PARTS = 1 << 20
MAX_FIELDS = 256
MAX_ROWS = 1 << 40
MAX_PART_ROWS = 2**31 - 1

FLOATING_DTYPES = ("float16", "float32", "float64")
NUMERIC_DTYPES = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), *FLOATING_DTYPES)
KINDS = ("fixed", "ragged-episode", "picture")
CAMERA_DTYPES = ("uint8", "uint16", "float32")  # of kind "fixed"; pictures of another are of kind "picture"
TABLE_COLUMNS = ("start", "length", "task", "source", "number", "success", "attributes_start", "attributes_bytes")
GIVEN_BYTES: tuple[str, tuple[int, ...]] = ("object", ())  # of pictures that are kept as a source encoded them
LABELS = ("names", "units")  # of the numbers of a step of a field
MAX_FPS = 1e9
TEXT_COLUMN = "text"  # the last one, where there are texts

# `attributes`, were it ragged, would have the column attributes_start a second time.
_FIELD_NAME = re.compile(r"(?!__|attributes\Z)[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True)
class Field:
    """A per-step quantity.

    kind: "fixed"; "picture" (pictures of any shape and dtype; those of a camera as ever are "fixed"); or "ragged-episode" (one
        axis whose width is an episode's own; shape is (None,)).
    dtype: Zarr's name. shape: of one step. role: "observation" or "step"; decides what causal alignment shifts.
    array: its Zarr array below the part: steps/, frames/ or residuals/ and its name.
    names, units: of the numbers of a step, () where they are not known.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...]
    role: str
    codec: Codec
    prediction: tuple[str, ...]
    array: str
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def is_camera(self) -> bool:
        return not self.array.startswith("steps/")

    @property
    def is_ragged(self) -> bool:
        return self.kind == "ragged-episode"

    @property
    def is_floating(self) -> bool:
        """True where its numbers may be NaN or infinite."""
        return self.dtype in FLOATING_DTYPES

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The shape of one step of a field that is not ragged."""
        return tuple(n for n in self.shape if n is not None)

    @property
    def given(self) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape of one step as a source gives it, of a field that is not ragged."""
        return GIVEN_BYTES if self.codec.keeps else (self.dtype, self.fixed_shape)

    @property
    def digested(self) -> str:
        """What digests of it name beside its data: its dtype, or how its kept pictures are decoded."""
        return self.codec.digested(self.dtype)

    @property
    def step_nbytes(self) -> int:
        """Bytes of one step of a field that is not ragged."""
        return math.prod(self.fixed_shape) * np.dtype(self.dtype).itemsize

    def unsupported(self) -> str | None:
        """Return what about this field this version does not know, or None."""
        if self.kind not in KINDS:
            return f"kind {self.kind!r}"
        if self.role not in ("observation", "step"):
            return f"role {self.role!r}"
        if codec := self.codec.problem():
            return f"codec {codec!r}"
        if self.dtype not in NUMERIC_DTYPES:
            return f"dtype {self.dtype!r}"
        unknown = [name for name in self.prediction if name not in predictions.KNOWN]
        return f"prediction {unknown[0]!r}" if unknown else None

    def check_supported(self) -> None:
        """Raise UnsupportedStore, naming what is not known."""
        if problem := self.unsupported():
            register = ", register the codec (vla_store.format.codecs.register)" if self.codec.problem() else ""
            raise UnsupportedStore(
                f"field {self.name!r} has a {problem} that this version does not know",
                hint=f"upgrade vla_store{register}, or leave the field out of `windows`",
            )

    def grid(self, rows: int, elements: int | None = None) -> layout.Grid:
        """Return the grid of its array in a part of so many rows; `elements`: length of a ragged field's flat array."""
        if self.is_ragged:
            assert elements is not None
            return layout.numeric_grid((elements,), self.dtype, rows)
        if self.is_camera:
            dtype, shape = self.codec.row(self.dtype, self.fixed_shape)
            return layout.frame_grid((rows, *shape), dtype)
        return layout.numeric_grid((rows, *self.fixed_shape), self.dtype, rows)

    def to_json(self) -> dict[str, Any]:
        described = {"codec": self.codec.to_json(), "prediction": list(self.prediction), "shape": list(self.shape)}
        labels = {key: list(getattr(self, key)) for key in LABELS}
        left_out = {"name", *(key for key, value in labels.items() if not value)}
        return {key: value for key, value in (vars(self) | described | labels).items() if key not in left_out}


@dataclass(frozen=True)
class Task:
    """text: from the file name, what evaluations use. instruction: the source's own, None where it has none."""

    suite: str
    name: str
    text: str
    instruction: str | None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Source:
    """One file of demonstrations.

    orientation: of its stored pictures. observation: recorded "before" or "after" the action of the same row.
    attributes: (start, bytes) of its own attributes in episodes/attributes.
    codec, decoder: what its pictures were in ("jpeg", "av1"; several with - between them) and what decoded them when the store was
    built; else "".
    fps: steps a second, None where that is not known.
    """

    suite: str
    file: str
    orientation: str
    observation: str
    attributes: tuple[int, int]
    codec: str = ""
    decoder: str = ""
    fps: float | None = None

    def to_json(self) -> dict[str, Any]:
        left_out = {"fps"} if self.codec else {"codec", "decoder", "fps"}
        rate = {} if self.fps is None else {"fps": canonical.float_text(self.fps)}
        found = {key: value for key, value in vars(self).items() if key not in left_out}
        return found | {"attributes": list(self.attributes)} | rate


@dataclass(frozen=True)
class PartDocument:
    """What a part says of itself; `plan` is kept whole, because the part's name is its digest.

    nonfinite: fields whose numbers are not all finite, by the columns of the part's array `episodes/nonfinite`.
    texts: the instructions that episodes have of their own; the table's last column says which. Empty where none has one.
    wordings: what further texts there are, of episodes and of steps; None where there are none.
    """

    plan: dict[str, Any]
    tasks: tuple[Task, ...]
    sources: tuple[Source, ...]
    fields: dict[str, Field]
    nonfinite: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    wordings: Wordings | None = None

    @property
    def ragged(self) -> list[str]:
        """Ragged fields, by name: the order of their columns in the episode table."""
        return sorted(name for name, each in self.fields.items() if each.is_ragged)

    @property
    def columns(self) -> list[str]:
        """The columns of the episode table."""
        ragged = (f"{name}{suffix}" for name in self.ragged for suffix in ("_start", "_width"))
        return [*TABLE_COLUMNS, *ragged, *([TEXT_COLUMN] if self.texts else [])]

    def to_json(self) -> dict[str, Any]:
        more: dict[str, Any] = {"texts": list(self.texts)} if self.texts else {}
        more |= {} if self.wordings is None else {"wordings": self.wordings.to_json()}
        return {
            "fields": {name: each.to_json() for name, each in self.fields.items()},
            "format_version": FORMAT_VERSION,
            "plan": self.plan,
            "sources": [each.to_json() for each in self.sources],
            "tasks": [each.to_json() for each in self.tasks],
        } | more

    @classmethod
    def from_zarr_json(cls, data: bytes, name: str) -> PartDocument:
        """Return the document in a part's zarr.json. Raises StoreDamaged, UnsupportedStore."""
        document, whole = _vla_store_attribute(data, name, MAX_DOCUMENT_BYTES)
        read = JsonReader(document, name)
        fields = read.get("fields", dict)
        read.check(0 < len(fields) <= MAX_FIELDS, f"1 to {MAX_FIELDS} fields", f"{len(fields)}")
        made = cls(
            plan=read.get("plan", dict),
            tasks=tuple(map(_task, read.objects("tasks"))),
            sources=tuple(map(_source, read.objects("sources"))),
            fields={key: _field(key, JsonReader(each, name)) for key, each in fields.items()},
            nonfinite=_nonfinite(whole, list(fields), name),
            texts=_texts(read) if "texts" in read.value else (),
            wordings=_wordings(read) if "wordings" in read.value else None,
        )
        tasks = {(each.suite, each.name) for each in made.tasks}
        sources = {(each.suite, each.file) for each in made.sources}
        read.check(len(tasks) == len(made.tasks) > 0, "tasks, each (suite, name) once", f"{len(made.tasks)} tasks")
        read.check(len(sources) == len(made.sources) > 0, "sources, each (suite, file) once", f"{len(made.sources)}")
        return made


@dataclass(frozen=True)
class PartEntry:
    """One line of a root: listing is the sha256 of the part's objects.jsonl."""

    path: str
    rows: int
    episodes: int
    listing: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class RootField:
    """A field as the whole store has it; a field whose width differs between parts is ragged here."""

    kind: str
    dtype: str
    shape: tuple[int | None, ...]

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"shape": list(self.shape)}


@dataclass(frozen=True)
class Meta:
    """Digests of a root's small documents; the object is meta/<digest>.json."""

    statistics: str | None = None
    skipped: str | None = None
    views: str | None = None

    @property
    def digests(self) -> list[str]:
        """Return the documents that there are."""
        return [each for each in (self.statistics, self.skipped, self.views) if each is not None]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Root:
    """The root document: which parts, in which order, with which fields."""

    generation: int
    parent: str | None
    fingerprint: str
    parts: tuple[PartEntry, ...]
    fields: dict[str, RootField]
    meta: Meta = field(default_factory=Meta)
    digest: str = NO_DIGEST

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def episodes(self) -> int:
        return sum(part.episodes for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": self.digest,
            "episodes": self.episodes,
            "fields": {name: each.to_json() for name, each in self.fields.items()},
            "fingerprint": self.fingerprint,
            "format_version": FORMAT_VERSION,
            "generation": self.generation,
            "meta": self.meta.to_json(),
            "parent": self.parent,
            "parts": [each.to_json() for each in self.parts],
            "rows": self.rows,
        }

    def sealed(self) -> Root:
        """This root with its digest: the sha256 of its whole file with the digest's own digits written as zeros."""
        return replace(self, digest=canonical.sha256_hex(replace(self, digest=NO_DIGEST).to_bytes()))

    def to_bytes(self) -> bytes:
        """Return the bytes of zarr.json and of roots/<generation>.json."""
        return canonical.dumps(arrays.root_metadata(self.to_json()))

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Root:
        """Return the root in such a file, its digest checked. Raises StoreDamaged, UnsupportedStore."""
        read = JsonReader(_vla_store_attribute(data, name, MAX_ROOT_BYTES)[0], name)
        parts = read.get("parts", list)
        read.check(0 < len(parts) <= MAX_PARTS, f"1 to {MAX_PARTS} parts", f"{len(parts)}")
        fields, meta = read.get("fields", dict), JsonReader(read.get("meta", dict), name)
        read.check(0 < len(fields) <= MAX_FIELDS, f"1 to {MAX_FIELDS} fields", f"{len(fields)}")
        root = cls(
            generation=read.count("generation", 99_999_999, 1),
            parent=read.digest("parent", optional=True),
            fingerprint=read.digest("fingerprint") or "",
            parts=tuple(map(_part_entry, read.objects("parts"))),
            fields={key: _root_field(key, JsonReader(each, name)) for key, each in fields.items()},
            meta=Meta(*(meta.digest(key, optional=True) for key in ("statistics", "skipped", "views"))),
            digest=read.digest("digest") or "",
        )
        read.check(root.rows <= MAX_ROWS, f"at most {MAX_ROWS} rows", f"{root.rows}")
        read.check(len({part.path for part in root.parts}) == len(parts), "every part once", f"{len(parts)} parts")
        if root.sealed().digest != root.digest or root.to_bytes() != data:
            raise StoreDamaged(
                "a root does not have the digest it names",
                object=name,
            )
        return root


def is_field_name(name: str) -> bool:
    """Return whether a field may have this name: [A-Za-z0-9_-]{1,64}, not beginning with __, not `attributes`."""
    return bool(_FIELD_NAME.match(name))


def is_plain_camera(shape: tuple[int, ...], dtype: str) -> bool:
    """Return whether pictures of this shape and dtype can be of a field of kind "fixed", as all are that version 1 began with."""
    return len(shape) == 3 and shape[2] <= 4 and dtype in CAMERA_DTYPES


def check_field_names(names: list[str], **places: Any) -> None:
    """Raise SourceError unless every name can be a field's: see `is_field_name`; and all are unique when lower-cased."""
    seen: dict[str, str] = {}
    for name in names:
        if not is_field_name(name):
            raise SourceError(
                "a dataset's name cannot be a field's",
                **places,
                found=name,
                expected="1 to 64 of A-Z a-z 0-9 _ -, not beginning with __, not attributes",
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise SourceError("two datasets would have the same field name", **places, found=f"{other} and {name}")


def _vla_store_attribute(data: bytes, name: str, max_nbytes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the document of ours in a zarr.json, and the whole of it."""
    if len(data) > max_nbytes:
        raise StoreDamaged(
            "a document is too large", object=name, expected=f"at most {max_nbytes} bytes", found=f"{len(data)}"
        )
    try:
        version = json.loads(data)["attributes"]["vla_store"]["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if type(version) is int and version > FORMAT_VERSION:
        raise UnsupportedStore(
            "the store was written by a newer vla_store",
            object=name,
            expected=f"format version {FORMAT_VERSION} or older",
            found=str(version)[:20],
            hint="pip install --upgrade vla-store",
        )
    value = canonical.loads(data, name)
    if type(version) is not int or version != FORMAT_VERSION:  # an exact type, because True == 1
        raise StoreDamaged(
            "not a document of a vla_store",
            object=name,
            expected=f'attributes["vla_store"] with format_version {FORMAT_VERSION}',
        )
    return value["attributes"]["vla_store"], value


def _nonfinite(whole: dict[str, Any], fields: list[str], name: str) -> tuple[str, ...]:
    """Return the fields that the columns of episodes/nonfinite tell of, by the consolidated metadata of a part."""
    try:
        columns = whole["consolidated_metadata"]["metadata"][layout.NONFINITE_ARRAY]["attributes"]["columns"]
    except (KeyError, TypeError):
        return ()
    told = [each for each in sorted(fields) if isinstance(columns, list) and f"{each}{SUFFIXES[0]}" in columns]
    if not told or columns != columns_of(told):
        raise StoreDamaged("the columns of an array are not as the format says", object=name, found=repr(columns)[:200])
    return tuple(told)


def _task(read: JsonReader) -> Task:
    instruction = None if read.value.get("instruction") is None else read.get("instruction", str)
    return Task(read.get("suite", str), read.get("name", str), read.get("text", str), instruction)


def _texts(read: JsonReader) -> tuple[str, ...]:
    texts = read.get("texts", list)
    sound = bool(texts) and all(isinstance(each, str) and each for each in texts)
    read.check(sound, "texts: at least one, none of them empty", repr(texts)[:100])
    return tuple(texts)


def _wordings(read: JsonReader) -> Wordings:
    return Wordings.from_json(JsonReader(read.get("wordings", dict), read.name))


def _rate(read: JsonReader) -> float:
    given = read.get("fps", str)
    try:
        rate = float(given)
    except ValueError:
        rate = math.nan
    read.check(0 < rate <= MAX_FPS and canonical.float_text(rate) == given, "fps: a rate above 0", repr(given)[:100])
    return rate


def _labels(read: JsonReader, key: str, count: int) -> tuple[str, ...]:
    """Return the names or units of as many numbers, () where the document has none."""
    if key not in read.value:
        return ()
    found = read.get(key, list)
    sound = len(found) == count and all(isinstance(each, str) for each in found)
    read.check(sound, f"{key}: {count} texts", repr(found)[:100])
    return tuple(found)


def _source(read: JsonReader) -> Source:
    span = read.get("attributes", list)
    read.check(
        len(span) == 2 and all(type(n) is int and n >= 0 for n in span), "attributes: [start, bytes]", repr(span)[:100]
    )
    return Source(
        read.get("suite", str),
        read.get("file", str),
        read.choice("orientation", ORIENTATIONS),
        read.choice("observation", OBSERVATIONS),
        (span[0], span[1]),
        *((read.word("codec"), read.text("decoder")) if "codec" in read.value else ("", "")),
        _rate(read) if "fps" in read.value else None,
    )


def _field(name: str, read: JsonReader) -> Field:
    read.check(is_field_name(name), "a field's name", repr(name)[:100])
    made = Field(
        name,
        read.word("kind"),
        read.word("dtype"),
        _shape(read),
        read.word("role"),
        codecs.from_json(JsonReader(read.get("codec", dict), read.name)),
        read.words("prediction"),
        check_key(read.get("array", str), read.name),
    )
    if made.unsupported() is None:
        count = 0 if made.is_ragged else math.prod(made.fixed_shape)
        made = replace(made, names=_labels(read, "names", count), units=_labels(read, "units", count))
        read.check(
            made.array in (f"steps/{name}", f"frames/{name}", f"residuals/{name}"),
            f"array: steps|frames|residuals/{name}",
            made.array[:100],
        )
        ragged = made.shape == (None,) and not made.is_camera
        read.check(
            ragged if made.is_ragged else None not in made.shape,
            f"{name}: a shape that fits kind {made.kind}",
            made.shape,
        )
        if made.is_camera:
            is_picture = made.kind == "picture" and len(made.shape) >= 2
            read.check(
                (is_picture or is_plain_camera(made.fixed_shape, made.dtype)) and made.step_nbytes <= MAX_FRAME_BYTES,
                f"{name}: (height, width, channels <= 4) of {', '.join(CAMERA_DTYPES)}, or kind picture, at most "
                f"{MAX_FRAME_BYTES} bytes",
                f"{made.shape} {made.dtype}",
            )
            read.check(
                predictions.valid(made.prediction, made.dtype, made.fixed_shape)
                and not (made.codec.is_lossy and made.prediction),
                f"{name}: a prediction that fits it",
                made.prediction,
            )
            read.check(
                made.codec.fits(made.dtype, made.fixed_shape),
                f"{name}: pictures that the codec {made.codec.name} can have",
                f"{made.shape} {made.dtype}",
            )
            read.check(
                made.array.startswith("residuals/") == bool(made.prediction),
                f"{name}: residuals where there is a prediction",
                made.array,
            )
        else:
            read.check(made.kind != "picture", f"{name}: pictures in frames/ or residuals/", made.array)
            read.check(made.codec == NONE and not made.prediction, f"{name}: no codec, no prediction", f"{made.codec}")
            read.check(made.step_nbytes <= MAX_FRAME_BYTES, f"{name}: at most 256 MiB a step", f"{made.step_nbytes}")
    return made


def _shape(read: JsonReader) -> tuple[int | None, ...]:
    axes = read.get("shape", list)
    sound = len(axes) <= 8 and all(axis is None or (type(axis) is int and 0 < axis <= MAX_FRAME_BYTES) for axis in axes)
    read.check(
        sound and math.prod(axis or 1 for axis in axes) <= MAX_FRAME_BYTES,
        "shape: at most 8 axes and 256 MiB a step",
        repr(axes)[:100],
    )
    return tuple(axes)


def _part_entry(read: JsonReader) -> PartEntry:
    path = check_key(read.get("path", str), read.name)
    rows = read.count("rows", MAX_PART_ROWS, 1)
    return PartEntry(path, rows, read.count("episodes", rows, 1), read.digest("listing") or "")


def _root_field(name: str, read: JsonReader) -> RootField:
    read.check(is_field_name(name), "a field's name", repr(name)[:100])
    return RootField(read.word("kind"), read.word("dtype"), _shape(read))
