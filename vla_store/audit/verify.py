"""`verify_store`: the stages of an audit, in their order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from vla_store.audit.against import compare_with_sources
from vla_store.audit.content import check_content, check_fields
from vla_store.audit.objects import Objects, list_keys
from vla_store.audit.reading import check_part
from vla_store.audit.report import VerifyReport
from vla_store.audit.roots import check_roots
from vla_store.format.schema import Root
from vla_store.storage import Storage, locate

if TYPE_CHECKING:
    from vla_store.sources.find import Given
    from vla_store.sources.protocol import EpisodeSource


class Progress(Protocol):
    """What the audit tells of itself while it works."""

    def talk(self, text: str) -> None:
        """One line about the stage it is in."""


def verify_store(
    url: str | os.PathLike[str],
    *,
    against: Given | Sequence[Given] | None = None,
    workers: int | None = None,
    fetcher: str | None = None,
    progress: Progress | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Audit the store at a path or URL; with `against`, also compare every dataset and attribute with these sources.

    fetcher, storage_options: as for `open_store`.
    Raises StoreNotFound, UnsupportedStore (a newer format), SourceError (a source that cannot be read). Damage is in the report.
    """
    sources = [] if against is None else _sources(against)
    location = locate(url, fetcher, dict(storage_options or {}))
    report = VerifyReport(location.url)
    storage = location.open()
    objects = Objects(storage, report)
    root = check_roots(objects)
    if root is not None:
        _check_below(objects, root, storage, sources, workers, progress)
    report.objects, report.nbytes = len(objects.named), sum(objects.named.values())
    return report


def _check_below(
    objects: Objects,
    root: Root,
    storage: Storage,
    sources: Sequence[EpisodeSource],
    workers: int | None,
    progress: Progress | None,
) -> None:
    report = objects.report
    report.rows, report.episodes, report.generation = root.rows, root.episodes, root.generation
    talk: Callable[[str], None] = progress.talk if progress else lambda text: None
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        parts = [
            part
            for number, entry in enumerate(root.parts, 1)
            if (part := check_part(objects, entry, pool, _about_part(number, talk))) is not None
        ]
    check_fields(objects, root, parts)
    # The content of a damaged object is known to be wrong: what follows from that is not worth a line of its own.
    if len(parts) == len(root.parts) and all(part.complete for part in parts) and report.has_sound_samples:
        check_content(objects, root, parts)
    if sources:
        talk("comparing with the source")
        if len(parts) == len(root.parts):
            before = len(report.problems)
            compare_with_sources(objects, root, parts, sources)
            report.differences = len(report.problems) - before
        else:
            objects.problem("", "not compared with the source: too much of the store is damaged")
    there = set(list_keys(storage)) - objects.named.keys()
    report.leftovers = sorted(key for key in there if not objects.is_unchecked(key))


def _about_part(number: int, talk: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: talk(f"part {number}: {text}")


def _sources(against: Given | Sequence[Given]) -> list[EpisodeSource]:
    from vla_store.sources.find import find_sources

    return find_sources(against, skip_bad=True)
