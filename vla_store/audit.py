"""`verify_store`: a store against itself, and against the source it was built from.

Every object is hashed and compared with the listing that names it, every listing with the root, every root with the digest in
it. Then the content: metadata against the format's template, shard indices, index against table, every frame decoded, every
episode's digest, the fingerprint, the statistics. Damage is collected, not raised: one run names every damaged object.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vla_store.errors import DataError, SourceError, StoreDamaged, StoreNotFound, UnsupportedStore
from vla_store.format import arrays, canonical, digests, layout, predictions
from vla_store.format.attributes import encode_attributes
from vla_store.format.codecs import ATTRIBUTES, NONE, Codec, decoder
from vla_store.format.layout import Grid
from vla_store.format.listing import ObjectEntry, parse_listing
from vla_store.format.schema import MAX_DOCUMENT_BYTES, MAX_FRAME_BYTES, Field, PartDocument, PartEntry, Root, Source
from vla_store.format.shard_index import index_nbytes, parse_index
from vla_store.format.statistics import store_statistics
from vla_store.format.views import views_of
from vla_store.reader.fetch import Fetcher, Location, ObjectMissing, locate
from vla_store.view_rules import EpisodeFacts, Rule, rule_of

if TYPE_CHECKING:
    from vla_store.builder.sources import EpisodeSource, SourceInfo

PIECE_NBYTES = 8 << 20
FRAMES_AT_ONCE = 64
DIGEST_NBYTES = 32
MAX_MISSING_ROOTS = 20

Array = np.ndarray[Any, Any]


class Progress(Protocol):
    """What the audit tells of itself while it works."""

    def talk(self, text: str) -> None:
        """One line about the stage it is in."""


@dataclass(frozen=True)
class Problem:
    """Something wrong. object: the key it was found in, below the store; "" where it is not one object."""

    object: str
    what: str

    def to_json(self) -> dict[str, str]:
        return {"object": self.object, "what": self.what}


@dataclass
class VerifyReport:
    """What an audit found. A store is sound when there are no problems; left-overs are no damage."""

    url: str
    problems: list[Problem] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    objects: int = 0
    nbytes: int = 0
    rows: int = 0
    episodes: int = 0
    fingerprint: str = ""
    compared_episodes: int | None = None
    decoded_episodes: int = (
        0  # of those: whose source holds pictures in a codec that loses, so that pixels were compared
    )

    @property
    def sound(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "compared_episodes": self.compared_episodes,
            "decoded_episodes": self.decoded_episodes,
            "episodes": self.episodes,
            "fingerprint": self.fingerprint,
            "leftovers": self.leftovers,
            "nbytes": self.nbytes,
            "objects": self.objects,
            "problems": [each.to_json() for each in self.problems],
            "rows": self.rows,
            "sound": self.sound,
            "url": self.url,
        }

    def text(self) -> str:
        """For people: at most a screen."""
        lines = [f"{'sound' if self.sound else 'DAMAGED':<13}  {self.url}"]
        lines.append(f"checked        {self.objects:,} objects, {self.nbytes:,} bytes")
        lines.append(f"content        {self.episodes:,} episodes, {self.rows:,} steps")
        if self.fingerprint:
            lines.append(f"fingerprint    {self.fingerprint}")
        if self.compared_episodes is not None:
            lines.append(f"against        {self.compared_episodes:,} episodes compared with their source, bit for bit")
        if self.decoded_episodes:
            lines.append(
                f"               {self.decoded_episodes:,} of them with the pixels that their JPEG pictures decode to"
            )
        for title, items in (
            ("problems", [f"{each.object or '(store)'}: {each.what}" for each in self.problems]),
            ("left-overs, named by no root (not damage)", self.leftovers),
        ):
            if items:
                lines += ["", f"{title}:", *(f"  {item}" for item in items[:20])]
                if len(items) > 20:
                    lines.append(f"  ... and {len(items) - 20} more (--json lists all)")
        return "\n".join(lines)


def verify_store(
    url: str | Path,
    *,
    against: str | Path | EpisodeSource | Sequence[str | Path | EpisodeSource] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Audit the store at a path or URL; with `against`, also compare every dataset and attribute with these sources.

    storage_options: what fsspec takes besides the URL, e.g. {"anon": True}.
    Raises StoreNotFound, UnsupportedStore (a newer format), SourceError (a source that cannot be read). Damage is in the report.
    """
    sources = [] if against is None else _sources(against)
    location = locate(url, None, dict(storage_options or {}))
    report = VerifyReport(location.url)
    objects = _Objects(location.open(), report)
    root = _check_roots(objects)
    if root is not None:
        _check_below(objects, root, location, sources, workers, progress)
    report.objects, report.nbytes = len(objects.named), sum(objects.named.values())
    return report


def _check_below(
    objects: _Objects,
    root: Root,
    location: Location,
    sources: Sequence[EpisodeSource],
    workers: int | None,
    progress: Progress | None,
) -> None:
    report = objects.report
    report.rows, report.episodes = root.rows, root.episodes
    talk = progress.talk if progress else lambda text: None
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        parts = [
            part
            for number, entry in enumerate(root.parts)
            if (part := _check_part(objects, entry, pool, lambda text, n=number: talk(f"part {n + 1}: {text}")))
            is not None
        ]
    _check_fields(objects, root, parts)
    # The content of a damaged object is known to be wrong: what follows from that is not worth a line of its own.
    if len(parts) == len(root.parts) and all(part.complete for part in parts) and report.sound:
        _check_content(objects, root, parts)
    if sources:
        talk("comparing with the source")
        if len(parts) == len(root.parts):
            _compare(objects, root, parts, sources)
        else:
            objects.problem("", "not compared with the source: too much of the store is damaged")
    there = set(_list_keys(location)) - objects.named.keys()
    report.leftovers = sorted(key for key in there if not objects.is_unchecked(key))


def _sources(
    against: str | Path | EpisodeSource | Sequence[str | Path | EpisodeSource],
) -> list[EpisodeSource]:
    from vla_store.builder.scan import find_sources

    several = isinstance(against, Sequence) and not isinstance(against, str)
    return find_sources(against if several else [against], skip_bad=True)  # type: ignore[list-item,arg-type]


class _Objects:
    """The objects of a store: their bytes, which of them a root names, and what was found wrong with them."""

    def __init__(self, fetcher: Fetcher, report: VerifyReport) -> None:
        self._fetcher = fetcher
        self.report = report
        self.named: dict[str, int] = {}  # with their sizes
        self.damaged: set[str] = set()
        self.unchecked: set[str] = set()  # parts of whose objects nothing is known
        self.stores: set[str] = set()  # stores below this one, merged where they lie

    def problem(self, key: str, what: str) -> None:
        """Record a problem; the first of an object says it all, what else is wrong with it follows from that."""
        if not key or key not in self.damaged:
            self.damaged.add(key)
            self.report.problems.append(Problem(key, what))

    def is_damaged(self, place: str) -> bool:
        """Whether something was found wrong with an object at or below this place."""
        return any(key == place or key.startswith(place + "/") for key in self.damaged)

    def is_unchecked(self, key: str) -> bool:
        return any(key.startswith(place + "/") for place in (*self.unchecked, *self.stores))

    def error(self, key: str, error: DataError) -> None:
        """Record an error that names its object, or else `key`."""
        said = "; ".join(f"{label} {value}" for label, value in error.places.items() if label != "object")
        self.problem(error.places.get("object", key), error.what + (f" ({said})" if said else ""))

    def read(self, key: str) -> bytes:
        """A small object whole. Raises StoreDamaged for one that is larger than any document may be."""
        self.named[key] = 0
        size = self.named[key] = self._fetcher.size(key)
        if size > MAX_DOCUMENT_BYTES:
            raise StoreDamaged(f"has {size} bytes; a document has at most {MAX_DOCUMENT_BYTES}", object=key)
        return b"".join(self.pieces(key))

    def pieces(self, key: str) -> Iterator[memoryview]:
        size = self._fetcher.size(key)
        for start in range(0, size, PIECE_NBYTES):
            yield self._fetcher.read([(key, start, min(start + PIECE_NBYTES, size))])[0]

    def size(self, key: str) -> int:
        return self._fetcher.size(key)

    def ranges(self, key: str, ranges: list[tuple[int, int]]) -> list[memoryview]:
        return self._fetcher.read([(key, start, stop) for start, stop in ranges])


def _list_keys(location: Location) -> list[str]:
    """Every object below a store; empty where its storage cannot say (plain HTTP)."""
    if location.is_local:
        found = (os.path.join(folder, name) for folder, _, names in os.walk(location.url) for name in names)
        return [os.path.relpath(path, location.url).replace(os.sep, "/") for path in found]
    import fsspec

    fs, root = fsspec.core.url_to_fs(location.url, **dict(location.options))
    try:
        return [str(path)[len(root.rstrip("/")) + 1 :] for path in fs.find(root)]
    except (OSError, NotImplementedError, ValueError):
        return []


@dataclass
class _Part:
    """A part as the audit sees it. fields: per episode, field -> hex of its digest; complete: nothing of it was unreadable."""

    entry: PartEntry
    document: PartDocument
    table: Array
    digests: Array
    attributes: bytes
    fields: list[dict[str, str]]
    columns: dict[str, Array]
    complete: bool

    def column(self, name: str) -> Array:
        return self.table[:, self.document.columns.index(name)]


# Roots


def _check_roots(objects: _Objects) -> Root | None:
    """Check zarr.json, every root ever committed, and the small documents; the current root if one can be read."""
    newest: Root | None = None
    current: Root | None = None
    try:
        data = objects.read(layout.ROOT_KEY)
        current = Root.from_bytes(data, layout.ROOT_KEY)
    except UnsupportedStore:
        raise
    except DataError as error:
        objects.error(layout.ROOT_KEY, error)
        data = b""
        if isinstance(error, ObjectMissing) and _is_missing(objects, layout.root_key(1)):
            raise StoreNotFound(
                "there is no store here", store=objects.report.url, hint=_unfinished_hint(objects.report.url)
            ) from None
    generation, parent, missing = 1, None, 0
    while True:
        key = layout.root_key(generation)
        try:
            objects.size(key)
        except ObjectMissing:
            if current is None or generation > current.generation:
                break
            objects.problem(key, "a root is missing")
            generation, parent, missing = generation + 1, None, missing + 1
            if missing > MAX_MISSING_ROOTS:
                break  # a root can claim any generation
            continue
        try:
            raw = objects.read(key)
            root = Root.from_bytes(raw, key)
            if root.generation != generation:
                objects.problem(key, f"names generation {root.generation}")
            if (parent is not None and root.parent != parent) or (generation == 1 and root.parent is not None):
                objects.problem(key, "its parent is not the root before it")
            if current is not None and generation == current.generation and raw != data:
                objects.problem(key, f"differs from {layout.ROOT_KEY}")
            newest, parent = root, root.digest
            _check_meta(objects, root)
        except DataError as error:
            objects.error(key, error)
            parent = None
        generation += 1
    if newest is None and current is None:
        objects.problem(layout.root_key(1), "no root can be read; nothing below it was checked")
    chosen = current or newest
    if current and newest and newest.generation > current.generation:
        chosen = newest  # committed by a writer that was killed before it could say so in zarr.json
    if chosen:
        _check_groups(objects, chosen)
    return chosen


def _check_groups(objects: _Objects, root: Root) -> None:
    """The groups between a root and its parts. Where stores were merged in place, their own roots are among them."""
    folders = {above.as_posix() for part in root.parts for above in PurePosixPath(part.path).parents}
    for folder in sorted(folders - {"."}):
        key = f"{folder}/{layout.ROOT_KEY}"
        try:
            data = objects.read(key)
            if data != canonical.dumps(arrays.GROUP):
                if folder == "parts" or b'"vla_store"' not in data:
                    raise StoreDamaged("is not the constant that the format gives", object=key)
                Root.from_bytes(data, key)
                objects.stores.add(folder)
        except UnsupportedStore:
            continue  # another store's affair
        except DataError as error:
            objects.error(key, error)


def _check_meta(objects: _Objects, root: Root) -> None:
    for digest in (root.meta.statistics, root.meta.skipped, root.meta.views):
        if digest is not None:
            key = layout.meta_key(digest)
            try:
                data = objects.read(key)
                if canonical.sha256_hex(data) != digest:
                    objects.problem(key, "its content is not the one it is named by")
                elif digest == root.meta.views:
                    views_of(canonical.loads(data, key), root.rows, key)
            except DataError as error:
                objects.error(key, error)


def _is_missing(objects: _Objects, key: str) -> bool:
    try:
        objects.size(key)
    except ObjectMissing:
        return True
    return False


def _unfinished_hint(url: str) -> str:
    partial = layout.partial_path(url)
    return f"{partial} is an unfinished build; the command that began it resumes it" if os.path.isdir(partial) else ""


# Parts


def _check_part(objects: _Objects, entry: PartEntry, pool: ThreadPoolExecutor, talk: Any) -> _Part | None:
    listing_key = f"{entry.path}/{layout.LISTING}"
    try:
        data = objects.read(listing_key)
        if canonical.sha256_hex(data) != entry.listing:
            raise StoreDamaged("is not the listing that the root names; the part's objects were not checked")
        listing = parse_listing(data, listing_key)
    except DataError as error:
        objects.error(listing_key, error)
        objects.unchecked.add(entry.path)
        return None
    talk(f"hashing {len(listing):,} objects")
    for problems in pool.map(lambda each: list(_check_object(objects, entry.path, each)), listing):
        for key, what in problems:
            objects.problem(key, what)
    objects.named |= {f"{entry.path}/{each.key}": each.size for each in listing}
    key = f"{entry.path}/zarr.json"
    if objects.is_damaged(key):
        return None  # what it says of the other objects would be held against them
    try:
        document = PartDocument.from_zarr_json(objects.read(key), key)
    except UnsupportedStore:
        raise
    except DataError as error:
        objects.error(key, error)
        return None
    try:
        return _read_part(objects, entry, document, {each.key for each in listing}, pool, talk)
    except DataError as error:
        objects.error(key, error)
        return None


def _check_object(objects: _Objects, part: str, each: ObjectEntry) -> Iterator[tuple[str, str]]:
    key = f"{part}/{each.key}"
    digest, size = hashlib.sha256(), 0
    try:
        for piece in objects.pieces(key):
            digest.update(piece)
            size += len(piece)
    except DataError as error:
        yield key, error.what
        return
    if size != each.size:
        yield key, f"has {size} bytes instead of {each.size}"
    elif digest.hexdigest() != each.sha256:
        yield key, f"has changed: its sha256 is {digest.hexdigest()}, the listing says {each.sha256}"


def _read_part(
    objects: _Objects, entry: PartEntry, document: PartDocument, listed: set[str], pool: ThreadPoolExecutor, talk: Any
) -> _Part | None:
    path, rows, episodes = entry.path, entry.rows, entry.episodes
    if path.rpartition("/")[2] != canonical.sha256_hex(canonical.dumps(document.plan))[:16]:
        objects.problem(f"{path}/zarr.json", "the part's name is not the digest of its plan")
    small = _Reader(objects, path)
    table = small.numeric(layout.TABLE_ARRAY, layout.numeric_grid((episodes, len(document.columns)), "int64", rows))
    index = small.numeric(layout.INDEX_ARRAY, layout.numeric_grid((rows, 2), "int32", rows))
    digest_rows = small.numeric(layout.DIGEST_ARRAY, layout.numeric_grid((episodes, DIGEST_NBYTES), "uint8", rows))
    if table is None or digest_rows is None or objects.is_damaged(f"{path}/{layout.TABLE_ARRAY}"):
        return None
    if objects.is_damaged(f"{path}/{layout.INDEX_ARRAY}"):
        index = None
    complete = index is not None
    part = _Part(entry, document, table, digest_rows, b"", [{} for _ in range(episodes)], {}, complete)
    _check_table(objects, part, index)
    part.attributes = _read_attributes(small, part)
    _check_metadata(objects, part, listed)
    starts, lengths = part.column("start"), part.column("length")
    for each in document.fields.values():
        if each.unsupported():
            objects.problem(
                f"{path}/{each.array}/zarr.json",
                f"field {each.name!r} has a {each.unsupported()} that this version cannot check",
            )
            part.complete = False
            continue
        talk(f"checking {each.name}")
        if each.is_camera:
            frames = _frame_digests(small, part, each, pool)
            part.complete &= frames is not None
            if frames is not None:
                for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist())):
                    digest = digests.FieldDigest(each.name, each.dtype, (length, *each.fixed_shape))
                    digest.update(frames[start * DIGEST_NBYTES : (start + length) * DIGEST_NBYTES])
                    part.fields[number][each.name] = digest.hexdigest()
        else:
            part.complete &= _field_digests(small, part, each)
    return part


def _check_table(objects: _Objects, part: _Part, index: Array | None) -> None:
    key = f"{part.entry.path}/{layout.TABLE_ARRAY}"
    starts, lengths = part.column("start"), part.column("length")
    possible = (lengths >= 1) & (lengths <= part.entry.rows)  # so that no sum wraps around
    if not possible.all() or (starts != np.cumsum(lengths) - lengths).any() or int(lengths.sum()) != part.entry.rows:
        raise StoreDamaged("the episodes of the table do not follow one another", object=key)
    for column, count in (("task", len(part.document.tasks)), ("source", len(part.document.sources))):
        values = part.column(column)
        if (values < 0).any() or (values >= count).any():
            raise StoreDamaged(f"the table names a {column} that does not exist", object=key)
    for name in part.document.ragged:
        widths, at = part.column(f"{name}_width"), part.column(f"{name}_start")
        if (
            (widths < 1).any()
            or (widths > MAX_FRAME_BYTES).any()
            or (at != np.cumsum(lengths * widths) - lengths * widths).any()
        ):
            raise StoreDamaged(f"the table's places of {name} do not follow one another", object=key)
    _check_attribute_spans(part, key)
    if index is not None:
        episode = np.repeat(np.arange(len(lengths)), lengths)
        step = np.arange(part.entry.rows) - starts[episode]
        if (index[:, 0] != episode).any() or (index[:, 1] != step).any():
            objects.problem(f"{part.entry.path}/{layout.INDEX_ARRAY}", "the index and the episode table disagree")


def _check_attribute_spans(part: _Part, key: str) -> None:
    """The episodes' attributes lie end to end, then those of the sources."""
    end = 0
    spans = zip(part.column("attributes_start").tolist(), part.column("attributes_bytes").tolist())
    for place, (start, nbytes) in (
        *((key, span) for span in spans),
        *((f"{part.entry.path}/zarr.json", each.attributes) for each in part.document.sources),
    ):
        if start != end or nbytes < 0 or start + nbytes > canonical.MAX_INTEGER:
            raise StoreDamaged("the attributes do not follow one another", object=place)
        end = start + nbytes


def _elements(part: _Part, each: Field) -> int | None:
    return int((part.column("length") * part.column(f"{each.name}_width")).sum()) if each.is_ragged else None


def _check_metadata(objects: _Objects, part: _Part, listed: set[str]) -> None:
    """Every zarr.json must be what the format's template gives, and the listing hold exactly the objects of the arrays."""
    rows, episodes, document = part.entry.rows, part.entry.episodes, part.document
    attributes = layout.attributes_grid(_attributes_nbytes(part))
    expected: dict[str, tuple[Grid, dict[str, Any]]] = {
        layout.ATTRIBUTES_ARRAY: (attributes, arrays.array_metadata(attributes, arrays.attributes_codecs(attributes)))
    }
    for path, shape, dtype, notes in (
        (layout.INDEX_ARRAY, (rows, 2), "int32", {}),
        (layout.TABLE_ARRAY, (episodes, len(document.columns)), "int64", {"columns": document.columns}),
        (layout.DIGEST_ARRAY, (episodes, DIGEST_NBYTES), "uint8", {}),
    ):
        grid = layout.numeric_grid(shape, dtype, rows)
        expected[path] = (grid, arrays.array_metadata(grid, arrays.numeric_codecs(), notes))
    for each in document.fields.values():
        if each.unsupported() is None:
            elements = _elements(part, each)
            expected[each.array] = (each.grid(rows, elements), each.metadata(rows, elements))
            if "background" in each.prediction:
                grid = layout.background_grid((episodes, *each.fixed_shape), each.dtype)
                expected[f"backgrounds/{each.name}"] = (
                    grid,
                    arrays.array_metadata(grid, arrays.frame_codecs(NONE, 1, 0)),
                )
    found = {path: metadata for path, (_, metadata) in expected.items()}
    known = {layout.ROOT_KEY}
    for path, metadata in {**{each.rpartition("/")[0]: arrays.GROUP for each in found}, **found}.items():
        key = f"{part.entry.path}/{path}/zarr.json"
        known.add(f"{path}/zarr.json")
        try:
            if objects.read(key) != canonical.dumps(metadata):
                objects.problem(key, "is not the metadata that the format gives")
        except DataError as error:
            objects.error(key, error)
    for path, (grid, _) in expected.items():
        if grid.shards > len(listed):  # before a name is made for each
            raise StoreDamaged("an array has more shards than the part has objects", object=f"{part.entry.path}/{path}")
        known |= {f"{path}/{grid.key(shard)}" for shard in range(grid.shards)}
    if not any(each.unsupported() for each in document.fields.values()):
        whole = canonical.dumps(arrays.part_metadata(document.to_json(), dict(sorted(found.items()))))
        if objects.read(f"{part.entry.path}/zarr.json") != whole:
            objects.problem(f"{part.entry.path}/zarr.json", "its consolidated metadata is not that of its arrays")
        for extra in sorted(listed - known):
            objects.problem(f"{part.entry.path}/{extra}", "is in the listing, but of no array")
        for missing in sorted(known - listed):
            objects.problem(f"{part.entry.path}/{missing}", "is not in the listing")


# Arrays


class _Reader:
    """Reads arrays of one part, recording what is wrong with their objects."""

    def __init__(self, objects: _Objects, path: str) -> None:
        self.objects, self.path = objects, path

    def shard(self, array: str, grid: Grid, shard: int, size: int | None) -> tuple[str, Array, int]:
        """Key, checked index entries and bytes of data of a shard."""
        key = f"{self.path}/{array}/{grid.key(shard)}"
        tail = index_nbytes(grid.chunks_per_shard)
        body = self.objects.size(key) - tail
        if body < 0:
            raise StoreDamaged("a shard is cut short", object=key)
        index = self.objects.ranges(key, [(body, body + tail)])[0]
        return key, parse_index(index, grid.chunks_per_shard, grid.present(shard), body, key, size), body

    def numeric(self, array: str, grid: Grid) -> Array | None:
        """A numeric array whole, or None where one of its shards cannot be read."""
        pieces = []
        dtype = np.dtype(grid.dtype).newbyteorder("<")
        for shard in range(grid.shards):
            try:
                key, _, body = self.shard(array, grid, shard, grid.chunk_nbytes)
                start, stop = grid.rows_of(shard)
                data = self.objects.ranges(key, [(0, (stop - start) * grid.row_nbytes)])[0] if body else memoryview(b"")
                pieces.append(np.frombuffer(data, dtype).reshape(stop - start, *grid.shape[1:]))
            except DataError as error:
                self.objects.error(f"{self.path}/{array}", error)
                return None
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def chunks(self, array: str, grid: Grid, shard: int, codec: Codec) -> Iterator[tuple[int, Array]]:
        """Row and decoded content of every inner chunk of a shard; StoreDamaged at the first that does not decode."""
        key, entries, _ = self.shard(array, grid, shard, None)
        decode = decoder(codec, array)
        start, _ = grid.rows_of(shard)
        present = grid.present(shard)
        places = entries[:present].astype(np.int64)
        for first in range(0, present, FRAMES_AT_ONCE):
            some = places[first : first + FRAMES_AT_ONCE]
            ranges = [(int(offset), int(offset + nbytes)) for offset, nbytes in some]
            for number, chunk in enumerate(self.objects.ranges(key, ranges), first):
                out = np.empty((grid.chunk, *grid.shape[1:]), np.dtype(grid.dtype).newbyteorder("<"))
                try:
                    decode(chunk, out)
                except ValueError as error:
                    raise StoreDamaged(
                        "an encoded chunk does not decode", object=key, chunk=number, found=error
                    ) from None
                yield start + number * grid.chunk, out


def _attributes_nbytes(part: _Part) -> int:
    return sum(part.document.sources[-1].attributes)  # the last of all


def _read_attributes(small: _Reader, part: _Part) -> bytes:
    grid = layout.attributes_grid(_attributes_nbytes(part))
    data = bytearray()
    try:
        for shard in range(grid.shards):
            for _, chunk in small.chunks(layout.ATTRIBUTES_ARRAY, grid, shard, ATTRIBUTES):
                data += chunk.tobytes()
    except DataError as error:
        small.objects.error(f"{small.path}/{layout.ATTRIBUTES_ARRAY}", error)
        part.complete = False
        return b""
    return bytes(data[: grid.rows])


def _frame_digests(small: _Reader, part: _Part, each: Field, pool: ThreadPoolExecutor) -> bytes | None:
    """The sha256 of every picture, in row order; None where one cannot be decoded."""
    backgrounds: Array | None = None
    if "background" in each.prediction:
        grid = layout.background_grid((part.entry.episodes, *each.fixed_shape), each.dtype)
        try:
            pieces = [
                out
                for shard in range(grid.shards)
                for _, out in small.chunks(f"backgrounds/{each.name}", grid, shard, NONE)
            ]
            backgrounds = np.concatenate(pieces)
        except DataError as error:
            small.objects.error(f"{small.path}/backgrounds/{each.name}", error)
            return None
    lengths = part.column("length")
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    grid = each.grid(part.entry.rows)

    def shard_digests(shard: int) -> bytes | DataError:
        found, rows, frames = bytearray(), [], []
        _, stop = grid.rows_of(shard)
        try:
            for row, frame in small.chunks(each.array, grid, shard, each.codec):
                rows.append(row)
                frames.append(frame)
                if len(rows) == FRAMES_AT_ONCE or row == stop - 1:
                    block = np.concatenate(frames)
                    predictions.undo(block, each.prediction)
                    if backgrounds is not None:
                        block += backgrounds[episode_of[rows]]
                    for picture in block:
                        found += hashlib.sha256(picture.data).digest()
                    rows, frames = [], []
        except DataError as error:
            return error
        return bytes(found)

    result = list(pool.map(shard_digests, range(grid.shards)))
    for outcome in result:
        if isinstance(outcome, DataError):
            small.objects.error(f"{small.path}/{each.array}", outcome)
    return (
        None
        if any(isinstance(found, DataError) for found in result)
        else b"".join(r for r in result if isinstance(r, bytes))
    )


def _field_digests(small: _Reader, part: _Part, each: Field) -> bool:
    column = small.numeric(each.array, each.grid(part.entry.rows, _elements(part, each)))
    if column is None:
        return False
    part.columns[each.name] = column
    for number, (start, length) in enumerate(zip(part.column("start").tolist(), part.column("length").tolist())):
        shape: tuple[int, ...] = each.fixed_shape
        if each.is_ragged:
            start, shape = (
                int(part.column(f"{each.name}_start")[number]),
                (int(part.column(f"{each.name}_width")[number]),),
            )
        stop = start + length * (shape[0] if each.is_ragged else 1)
        digest = digests.FieldDigest(each.name, each.dtype, (length, *shape))
        digest.update(np.ascontiguousarray(column[start:stop]).tobytes())
        part.fields[number][each.name] = digest.hexdigest()
    return True


# Content


def _check_fields(objects: _Objects, root: Root, parts: Iterable[_Part]) -> None:
    for part in parts:
        if sorted(part.document.fields) != sorted(root.fields):
            objects.problem(f"{part.entry.path}/zarr.json", "its fields are not the root's")
        for name, each in part.document.fields.items():
            above = root.fields.get(name)
            same = (
                above is not None
                and above.dtype == each.dtype
                and (above.shape == each.shape or above.shape == (None,))
            )
            if above is not None and not same:
                objects.problem(f"{part.entry.path}/zarr.json", f"field {name!r} is not as the root has it")


def _check_content(objects: _Objects, root: Root, parts: list[_Part]) -> None:
    """Episode digests, the fingerprint over them, and the statistics, all from the data just read."""
    found: list[bytes] = []
    for part in parts:
        documents = [_span(part.attributes, each.attributes) for each in part.document.sources]
        source_digests = [canonical.sha256_hex(each) for each in documents]
        for number in range(part.entry.episodes):
            digest = _episode_digest(part, number, source_digests)
            if digest != part.digests[number].tobytes():
                objects.problem(
                    f"{part.entry.path}/{layout.DIGEST_ARRAY}", f"episode {number} does not have the digest of its data"
                )
            found.append(digest)
    objects.report.fingerprint = digests.fingerprint(found)
    if objects.report.fingerprint != root.fingerprint:
        objects.problem(layout.ROOT_KEY, "its fingerprint is not that of the data")
    _check_statistics(objects, root, parts)
    _check_views(objects, root, parts)


def _episode_digest(part: _Part, number: int, source_digests: list[str]) -> bytes:
    source, task = int(part.column("source")[number]), int(part.column("task")[number])
    span = (int(part.column("attributes_start")[number]), int(part.column("attributes_bytes")[number]))
    return digests.episode_digest(
        suite=part.document.sources[source].suite,
        file=part.document.sources[source].file,
        task=part.document.tasks[task].name,
        number=int(part.column("number")[number]),
        steps=int(part.column("length")[number]),
        attributes=canonical.sha256_hex(_span(part.attributes, span)),
        file_attributes=source_digests[source],
        fields=part.fields[number],
    )


def _span(data: bytes, span: tuple[int, int]) -> bytes:
    return data[span[0] : span[0] + span[1]]


def _check_statistics(objects: _Objects, root: Root, parts: list[_Part]) -> None:
    if root.meta.statistics is None:
        return
    key = layout.meta_key(root.meta.statistics)
    names = [n for n, each in root.fields.items() if n in parts[0].columns and each.kind == "fixed"]
    episodes = [
        (part.document.sources[source].suite, length)
        for part in parts
        for source, length in zip(part.column("source").tolist(), part.column("length").tolist())
    ]

    def columns(name: str) -> list[Array]:
        return [part.columns[name].reshape(part.entry.rows, -1) for part in parts]

    shapes = {name: parts[0].document.fields[name].fixed_shape for name in names}
    found = store_statistics(episodes, [(name, shapes[name], functools.partial(columns, name)) for name in names])
    try:
        if objects.read(key) != canonical.dumps(found):
            objects.problem(key, "the statistics are not those of the data")
    except DataError as error:
        objects.error(key, error)


# Against the source


def _check_views(objects: _Objects, root: Root, parts: list[_Part]) -> None:
    """Views cover whole episodes, count what they keep, and keep what their rule does, where this version knows it."""
    if root.meta.views is None:
        return
    key = layout.meta_key(root.meta.views)
    views = views_of(canonical.loads(objects.read(key), key), root.rows, key)
    for name, view in views.items():
        covered, kept = (_mask_of(runs, root.rows) for runs in (view.covered, view.kept))
        rule = rule_of(view)
        counts: dict[tuple[str, str], list[int]] = {}
        row = 0
        for part in parts:
            for number, (length, task) in enumerate(zip(part.column("length").tolist(), part.column("task").tolist())):
                told, left = covered[row : row + length], kept[row : row + length]
                row += length
                if not told.any():
                    continue
                if not told.all():
                    objects.problem(key, f"view {name!r} covers a part of an episode, up to row {row}")
                    break
                described = part.document.tasks[task]
                each = counts.setdefault((described.suite, described.name), [0, 0, 0, 0])
                for at, more in enumerate((1, length, bool(left.any()), int(left.sum()))):
                    each[at] += more
                if rule is not None and not _agrees(rule, part, number, left):
                    objects.problem(key, f"view {name!r} does not keep what its rule keeps, up to row {row}")
                    break
        said = {
            (each.suite, each.task): [each.episodes, each.steps, each.kept_episodes, each.kept_steps]
            for each in view.counts
        }
        if said != counts:
            objects.problem(key, f"view {name!r} counts its tasks wrongly")


def _mask_of(runs: Array, rows: int) -> Array:
    mask = np.zeros(rows, bool)
    for start, stop in runs.tolist():
        mask[start:stop] = True
    return mask


def _agrees(rule: Rule, part: _Part, number: int, kept: Array) -> bool:
    """Whether a rule keeps these steps of an episode. A rule whose fields cannot be read is not asked."""
    start, length = int(part.column("start")[number]), int(part.column("length")[number])
    values = {}
    for name in rule.fields:
        each = part.document.fields.get(name)
        if each is None or name not in part.columns:
            return True
        if each.is_ragged:
            first, width = int(part.column(f"{name}_start")[number]), int(part.column(f"{name}_width")[number])
            values[name] = part.columns[name][first : first + length * width].reshape(length, width)
        else:
            values[name] = part.columns[name][start : start + length]
    facts = EpisodeFacts(length, int(part.column("success")[number]), part.digests[number].tobytes(), values)
    try:
        return bool((rule.keeps(facts) == kept).all())
    except DataError:
        raise
    except Exception:
        return False  # it cannot be applied to such fields, so nobody could have made the view by it


def _compare(objects: _Objects, root: Root, parts: list[_Part], found: Sequence[EpisodeSource]) -> None:
    """Compare every field's digest, dtype and shape, and the bytes of all attributes, with sources read anew."""
    from vla_store.builder.hdf5 import Hdf5Source, close_files

    report = objects.report
    given: dict[tuple[str, str], EpisodeSource] = {}
    for each in found:
        named: Any = each if isinstance(each, Hdf5Source) else each.scan()
        given[named.suite, named.file] = each
    left_out = _left_out(objects, root)
    report.compared_episodes = 0
    for part in parts:
        for number, source in enumerate(part.document.sources):
            opened = given.pop((source.suite, source.file), None)
            name = f"{source.suite}/{source.file}"
            if opened is None:
                objects.problem("", f"{name} is in the store, but not in the sources given")
                continue
            if isinstance(opened, Hdf5Source):  # the build may have been told what the file does not say
                opened = replace(opened, orientation=source.orientation, observation=source.observation)
            try:
                _compare_source(objects, part, number, opened, left_out)
            except SourceError as error:
                objects.problem("", f"{name}: the source cannot be read: {error.what}")
            finally:
                close_files()
    for suite, file in sorted(given):
        if (suite, file, None) not in left_out:
            objects.problem("", f"{suite}/{file} is in the sources given, but not in the store")


def _compare_source(objects: _Objects, part: _Part, number: int, opened: Any, left_out: set[Any]) -> None:
    from vla_store.builder.sources import read_rows

    source = part.document.sources[number]
    name = f"{source.suite}/{source.file}"
    info = opened.scan()
    if encode_attributes(opened.attributes(None)) != _span(part.attributes, source.attributes):
        objects.problem("", f"{name}: the file's attributes differ from the source's")
    there = {each.number: each for each in info.episodes}
    for episode in np.flatnonzero(part.column("source") == number).tolist():
        demo = int(part.column("number")[episode])
        where = f"{name} demo_{demo}"
        found = there.pop(demo, None)
        if found is None:
            objects.problem("", f"{where} is in the store, but not (or bad) in the source")
            continue
        objects.report.compared_episodes = (objects.report.compared_episodes or 0) + 1
        objects.report.decoded_episodes += bool(source.codec)
        span = (int(part.column("attributes_start")[episode]), int(part.column("attributes_bytes")[episode]))
        if encode_attributes(opened.attributes(demo)) != _span(part.attributes, span):
            objects.problem("", f"{where}: attributes differ from the source's")
        if sorted(found.fields) != sorted(part.document.fields):
            objects.problem("", f"{where}: the datasets are not the fields of the store")
        for field_name, spec in found.fields.items():
            digest = digests.FieldDigest(field_name, spec.dtype, (found.steps, *spec.shape))
            for start in range(0, found.steps, FRAMES_AT_ONCE):
                stop = min(start + FRAMES_AT_ONCE, found.steps)
                rows = read_rows(opened, demo, field_name, spec.dtype, spec.shape, start, stop)
                if spec.is_camera:
                    digest.update(b"".join(hashlib.sha256(frame.data).digest() for frame in rows))
                else:
                    digest.update(rows.tobytes())
            stored = part.fields[episode].get(field_name)
            if stored is not None and digest.hexdigest() != stored:
                objects.problem(
                    "", f"{where}: {field_name} differs from the source's{_decoders(source, info, spec.is_camera)}"
                )
    for demo in sorted(there):
        if (source.suite, source.file, f"demo_{demo}") not in left_out:
            objects.problem("", f"{name} demo_{demo} is in the source, but not in the store")


def _decoders(source: Source, info: SourceInfo, is_camera: bool) -> str:
    """What else may explain pictures that differ: two decoders need not agree in the last bit."""
    if not is_camera or info.decoder == source.decoder:
        return ""
    return f" (decoded by {source.decoder} when it was built, by {info.decoder} now)"


def _left_out(objects: _Objects, root: Root) -> set[tuple[str, str, str | None]]:
    if root.meta.skipped is None:
        return set()
    key = layout.meta_key(root.meta.skipped)
    try:
        skipped = canonical.loads(objects.read(key), key)["skipped"]
        return {(each["suite"], each["file"], each["demo"]) for each in skipped}
    except (DataError, KeyError, TypeError):
        return set()
