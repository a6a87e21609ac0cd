"""`recode_store`: the same content in another preset, in one part. A store is a source like any other."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.builder.build import build_store
from vla_store.builder.options import RecodeOptions, takes_options
from vla_store.builder.report import BuildReport
from vla_store.format import canonical
from vla_store.format.attributes import Attributes
from vla_store.format.jpeg import Jpeg
from vla_store.format.schema import TEXT_COLUMN
from vla_store.manage.views import translate_views
from vla_store.reader.part import Part
from vla_store.reader.parts import parts_of
from vla_store.reader.store import Store, open_store
from vla_store.reader.texts import instructions_of, segments_of
from vla_store.sources.datasets import FileLayout
from vla_store.sources.jpeg import CODEC, ENCODED_AS
from vla_store.sources.overrides import Overrides
from vla_store.sources.protocol import Array, EpisodeInfo, FieldSpec, SourceInfo, TaskInfo


@takes_options(RecodeOptions)
def recode_store(store: str | os.PathLike[str], target: str | Path, options: RecodeOptions) -> BuildReport:
    """Build `target` from a store instead of its sources.

    The content fingerprint stays if its episodes are in order. Views keep the same steps. Of JPEG pictures that a store keeps as they
    were recorded the target has the pixels.

    Parameters
    ----------
    store
        A path or a URL.
    target
        A path, or a URL that can be written, where there is nothing yet.

    Returns
    -------
    BuildReport
        As `build_store` returns it.

    Raises
    ------
    SourceError, UsageError, MachineError
        As `build_store` raises them.
    StoreNotFound, StoreDamaged, UnsupportedStore, FetchError
        The store cannot be opened or read.

    Options
    -------
    """
    opened = open_store(store)
    said = [document.plan.get("options", {}) for _, document in opened.parts]
    sources = [
        StoreSource(opened.url, opened.digest, number, source, is_first=not number and not source)
        for number, (_, document) in enumerate(opened.parts)
        for source in range(len(document.sources))
    ]
    # What the first build was told is told again, so that recoding gives the bytes that building would have given.
    return build_store(
        sources,
        target,
        **vars(options),
        orientation=_alike([each.get("orientation") for each in said], None),
        observation=_alike([each.get("observation") for each in said], None),
        conventions=_conventions(opened, _alike([each.get("conventions") for each in said], None)),
        exclude=_alike([each.overrides.choice.exclude for each in sources], ()),
        rename=dict(_alike([each.overrides.choice.rename for each in sources], ())),
        mixed=True,
        finish=(lambda folder: translate_views(opened, folder)) if opened.views else None,
    )


def _conventions(store: Store, stated: dict[str, str] | None) -> dict[str, str] | None:
    """Return what is to be stated of the target's sources: what the first build was told, but that kept pictures are decoded."""
    keeps = any(field.codec.keeps for _, document in store.parts for field in document.fields.values())
    return {**(stated or {}), ENCODED_AS.name: "decode"} if keeps else stated


def _alike(values: list[Any], otherwise: Any) -> Any:
    """Return the value that all are; `otherwise` where they differ."""
    return values[0] if all(each == values[0] for each in values) else otherwise


@dataclass(frozen=True)
class StoreSource:
    """One source of a store, as an `EpisodeSource` to build from.

    Attributes
    ----------
    url
        Path or URL of the store.
    digest
        Digest of the root to open.
    part
        Number of the part, from 0.
    number
        Number of the source in that part, from 0.
    is_first
        True: it also tells of the files that were left out whole, and so are no source of the store.
    """

    url: str
    digest: str
    part: int
    number: int
    is_first: bool = False

    @property
    def path(self) -> str:
        return self.url

    @property
    def overrides(self) -> Overrides:
        """The overrides that it was built with; but what is kept there as JPEG is read as pixels."""
        document = self._open()[1].document
        found = Overrides.recorded_of(document.plan, self.number)
        if not any(field.codec.keeps for field in document.fields.values()):
            return found
        return replace(found, conventions=tuple(sorted({**dict(found.conventions), ENCODED_AS.name: "decode"}.items())))

    def layout(self) -> FileLayout:
        """Say that all of its choice names something, as it did when it was built."""
        choice = self.overrides.choice
        return FileLayout({}, frozenset(), (*choice.exclude, *(path for path, _ in choice.rename)))

    def scan(self) -> SourceInfo:
        store, part = self._open()
        document = part.document
        source = document.sources[self.number]
        episodes = []
        tasks = [TaskInfo(each.name, each.text, each.instruction) for each in document.tasks]
        for row in self._rows().values():
            text = document.texts[row[TEXT_COLUMN]] if row.get(TEXT_COLUMN, -1) >= 0 else None
            fields = {}
            for name, field in document.fields.items():
                ragged = store.fields[name].kind == "ragged-episode"
                shape = (row[f"{name}_width"],) if field.is_ragged else field.fixed_shape
                fields[name] = FieldSpec(
                    field.dtype, shape, field.role, ragged, field.is_camera, names=field.names, units=field.units
                )
            told = instructions_of(part, row["episode"]), segments_of(part, row["episode"])
            episodes.append(
                EpisodeInfo(row["number"], row["length"], fields, row["success"], text, tasks[row["task"]], *told)
            )
        decoders = {field.codec.decoder for field in document.fields.values() if isinstance(field.codec, Jpeg)}
        known = {(each.suite, each.file) for _, of in store.parts for each in of.sources}
        planned = document.plan["sources"][self.number]
        return SourceInfo(
            suite=source.suite,
            file=source.file,
            orientation=source.orientation,
            observation=source.observation,
            nbytes=planned["size"],
            codec=source.codec or (CODEC if decoders else ""),
            decoder=source.decoder or "; ".join(sorted(decoders)),
            fps=source.fps,
            episodes=tuple(episodes),
            warnings=tuple(
                each["warning"]
                for each in store.warnings
                if (each["suite"], each["file"]) == (source.suite, source.file)
            ),
            skipped=tuple(
                each
                for each in store.skipped
                if (each.suite, each.file) == (source.suite, source.file)
                or (self.is_first and (each.suite, each.file) not in known)
            ),
        )

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        store, part = self._open()
        described = part.document.fields[field]
        row = self._rows()[number]
        rows = range(row["start"] + start, row["start"] + stop)
        if described.is_camera:
            return store.read(field, np.array(rows) + part.row_start)
        column = part.column(described)
        if not described.is_ragged:
            return column.span(rows.start, rows.stop)
        starts, widths = part.ragged_spans(described, np.array([row["episode"]]))
        width, base = int(widths[0]), int(starts[0])
        return column.span(base + start * width, base + stop * width).reshape(stop - start, width)

    def attributes(self, number: int | None) -> Attributes:
        _, part = self._open()
        if number is None:
            span = part.document.sources[self.number].attributes
        else:
            row = self._rows()[number]
            span = (row["attributes_start"], row["attributes_bytes"])
        found: Attributes = canonical.loads(part.attributes(*span), f"{part.path}/episodes/attributes")
        return found

    def _open(self) -> tuple[Store, Part]:
        store = _opened(self.url, self.digest, os.getpid())
        return store, parts_of(store)[self.part]

    def _rows(self) -> dict[int, dict[str, int]]:
        return _rows_of(self.url, self.digest, self.part, self.number, os.getpid())


@functools.lru_cache(maxsize=8)
def _opened(url: str, digest: str, pid: int) -> Store:
    return open_store(url, digest=digest)


@functools.lru_cache(maxsize=1024)
def _rows_of(url: str, digest: str, part: int, source: int, pid: int) -> dict[int, dict[str, int]]:
    """Return the rows of the episode table that are of one source, by the number of the episode there; `episode`: in the part."""
    opened = parts_of(_opened(url, digest, pid))[part]
    names = ["episode", *opened.document.columns]
    table = [dict(zip(names, [n, *row])) for n, row in enumerate(opened.entries(0, opened.episodes).tolist())]
    return {row["number"]: row for row in table if row["source"] == source}
