"""What a store is that has several parts: its fields, its tasks, what was left out; and the root that says so.

Parts that do not fit together are refused here. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vla_store.errors import OptionError
from vla_store.format.new_root import NewRoot, new_root
from vla_store.format.schema import Field, PartDocument, PartEntry, Root, RootField
from vla_store.format.statistics import store_statistics
from vla_store.reader.part import Part
from vla_store.reader.whole import WholePart

Named = Sequence[tuple[str, PartDocument]]  # paths and documents of parts


def root_over(
    parts: list[Part],
    entries: tuple[PartEntry, ...],
    before: Root | None,
    skipped: dict[str, Any] | None,
    views: dict[str, Any] | None = None,
) -> NewRoot:
    """Return the root over parts in this order.

    Parameters
    ----------
    parts
        The parts, opened.
    entries
        The same parts, as the root shall name them.
    before
        The root that it follows; None for the first root of a store.
    skipped, views
        Its documents of what was left out and of views; None for none.

    Returns
    -------
    NewRoot
        The root with these documents, and its statistics.

    Raises
    ------
    OptionError
        The parts do not fit together.
    """
    documents_of = [(part.path, part.document) for part in parts]
    check_names(documents_of)
    return new_root(
        before,
        entries,
        combined_fields(documents_of),
        (row.tobytes() for part in parts for row in part.digests.span(0, part.episodes)),
        statistics=store_statistics([WholePart(part).numbers() for part in parts]),
        skipped=skipped,
        views=views,
    )


def combined_fields(documents: Named) -> dict[str, RootField]:
    """Return the fields of a store of these parts.

    Cameras must agree in shape and dtype, fixed fields in dtype and shape; a field of one axis may differ in width
    between parts, and is ragged then.

    Parameters
    ----------
    documents
        Path and document of each part.

    Returns
    -------
    dict of str to RootField
        By name.

    Raises
    ------
    OptionError
        The parts have different fields, or a field does not agree.
    """
    first = documents[0][1]
    fields: dict[str, RootField] = {}
    for name, each in first.fields.items():
        kind, shape = each.kind, each.shape
        for path, document in documents[1:]:
            if document.fields.keys() != first.fields.keys():
                differ = ", ".join(sorted(document.fields.keys() ^ first.fields.keys()))
                raise OptionError(
                    "the parts have different fields",
                    part=path,
                    differ=differ,
                    hint="a field is in all parts or in none: build a store of its own, or anew with --exclude of what only some have",
                )
            other = document.fields[name]
            if (other.is_camera, other.dtype, other.role) != (each.is_camera, each.dtype, each.role):
                raise _misfit(name, each, other, path)
            if (other.kind, other.shape) != (kind, shape):
                if each.is_camera or len(other.shape) != 1 or len(shape) != 1:
                    raise _misfit(name, each, other, path)
                kind, shape = "ragged-episode", (None,)
        fields[name] = RootField(kind, each.dtype, shape)
    return fields


def check_names(documents: Named) -> None:
    """Check that a file of a suite occurs once in a store, and that one name means one task.

    Parameters
    ----------
    documents
        Path and document of each part.

    Raises
    ------
    OptionError
        A file is in two parts, or two parts call different tasks by one name.
    """
    files: dict[tuple[str, str], int] = {}
    tasks: dict[tuple[str, str], tuple[str, str | None]] = {}
    for number, (_, document) in enumerate(documents):
        for source in document.sources:
            if files.setdefault((source.suite, source.file), number) != number:
                raise OptionError(
                    "a file is in the store already",
                    suite=source.suite,
                    file=source.file,
                    hint="each file of a suite occurs once; leave it out",
                )
        for task in document.tasks:
            said = (task.text, task.instruction)
            if tasks.setdefault((task.suite, task.name), said) != said:
                raise OptionError(
                    "two parts call different tasks by one name",
                    suite=task.suite,
                    task=task.name,
                    hint="build one of them anew, from files of another name or in another folder (a suite)",
                )


def conventions_of(documents: Named) -> Iterator[tuple[str, str, str]]:
    """Yield name, orientation and observation of every source, as `check_alike` takes them.

    Parameters
    ----------
    documents
        Path and document of each part.

    Yields
    ------
    tuple of str
        The name says suite, file and part.
    """
    for name, document in documents:
        for source in document.sources:
            yield f"{source.suite}/{source.file} in {name}", source.orientation, source.observation


def combined_skipped(documents: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return what all of these documents say was left out and noticed.

    Parameters
    ----------
    documents
        Documents of what was left out, in order; None for a store that has none.

    Returns
    -------
    dict or None
        One document with the lines of all; None where all are None.
    """
    given = [each for each in documents if each is not None]
    if not given:
        return None
    return {key: [line for each in given for line in each[key]] for key in ("skipped", "warnings")}


def _misfit(name: str, one: Field, other: Field, path: str) -> OptionError:
    described = [
        f"{each.shape} of {each.dtype}, {each.role}, as {'pictures' if each.is_camera else 'numbers'}"
        for each in (one, other)
    ]
    alike = (one.shape, one.dtype, one.role) == (other.shape, other.dtype, other.role)
    return OptionError(
        "the parts do not fit together",
        field=name,
        part=path,
        expected=described[0],
        found=described[1],
        hint="numbers are not turned by images=, pictures are: build one store anew from all the files"
        if alike
        else "",
    )
