"""`verify_store`: the stages of an audit, in their order. Imports `reader`; `sources` only to compare with sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from vla_store.audit.against import compare_with_sources
from vla_store.audit.content import check_content, check_fields
from vla_store.audit.objects import Objects, list_keys
from vla_store.audit.part import AuditedPart, check_part
from vla_store.audit.report import VerifyReport
from vla_store.audit.roots import check_roots
from vla_store.errors import whole_number
from vla_store.format.schema import Root
from vla_store.progress import Shown, takes_progress, told_to
from vla_store.storage import locate
from vla_store.types import Fetcher

if TYPE_CHECKING:
    from vla_store.sources.find import Given


@takes_progress
def verify_store(
    url: str | os.PathLike[str],
    *,
    against: Given | Sequence[Given] | None = None,
    workers: int | None = None,
    fetcher: Fetcher | None = None,
    progress: Shown = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VerifyReport:
    """Audit a store: its objects, roots, parts and content, and with `against` what it was built from.

    Parameters
    ----------
    url
        A path or a URL.
    against
        Sources, with which every dataset and attribute is compared.
    workers
        Threads that hash and decode; default one a CPU.
    fetcher, storage_options
        As for `open_store`.
    progress
        True shows what it is at, as `build_store` does; or an object whose `talk` is told.

    Returns
    -------
    VerifyReport
        Every damage that was found: damage is not raised.

    Raises
    ------
    StoreNotFound, UnsupportedStore (a newer format), SourceError (a source that cannot be read), OptionError
    """
    if workers is not None:
        workers = whole_number("workers", workers)
    sources = []
    if against is not None:
        from vla_store.sources.find import find_sources

        sources = find_sources(against, skip_bad=True)
    location = locate(url, fetcher, storage_options, cache="")  # what lies there is checked, not what was kept of it
    report = VerifyReport(location.url)
    objects = Objects(location.open(), report)
    root = check_roots(objects)
    if root is not None:
        report.rows, report.episodes, report.generation = root.rows, root.episodes, root.generation
        talk = told_to(progress).talk
        parts = _check_parts(objects, root, workers, talk)
        is_whole = len(parts) == len(root.parts)
        check_fields(objects, root, parts)
        # The content of a damaged object is known to be wrong: what follows from that is not worth a line of its own.
        if is_whole and report.has_sound_samples:
            check_content(objects, root, parts)
        if sources and is_whole:
            talk("comparing with the source")
            before = len(report.problems)
            compare_with_sources(objects, root, parts, sources)
            report.differences = len(report.problems) - before
        elif sources:
            objects.problem("", "not compared with the source: too much of the store is damaged")
        there = set(list_keys(objects.storage)) - objects.named.keys()
        report.leftovers = sorted(key for key in there if not objects.is_unchecked(key))
    report.objects, report.nbytes = len(objects.named), sum(objects.named.values())
    return report


def _check_parts(objects: Objects, root: Root, workers: int | None, talk: Callable[[str], None]) -> list[AuditedPart]:
    """Check every part; return those of which at least the episode table can be read."""
    parts, row, episode = [], 0, 0
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for number, entry in enumerate(root.parts):
            parts.append(check_part(objects, entry, number, row, episode, pool, talk))
            row, episode = row + entry.rows, episode + entry.episodes
    return [part for part in parts if part is not None]
