"""The audit of zarr.json, of every root ever committed, and of the small documents that they name.

Imports `reader` for what is no store, and `format`.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from vla_store.audit.objects import Objects, list_keys
from vla_store.errors import DataError, StoreDamaged, UnsupportedStore
from vla_store.format import arrays, canonical, layout
from vla_store.format.schema import Root
from vla_store.format.views import views_of
from vla_store.reader.opening import no_store
from vla_store.storage import ObjectMissing

MAX_MISSING_ROOTS = 20


def check_roots(objects: Objects) -> Root | None:
    """Check zarr.json, every root ever committed, and the small documents; return the newest root that can be read."""
    listed = layout.generations_in(list_keys(objects.storage, "roots"))
    current, data = _current_root(objects, bool(listed))
    last = current.generation if current else max(listed, default=0)
    newest: Root | None = None
    generation, parent, missing = 0, None, 0
    while missing <= MAX_MISSING_ROOTS:  # a root can claim any generation
        generation += 1
        key = layout.root_key(generation)
        try:
            raw = objects.read(key) if objects.has(key) else None
            if raw is None and generation > last:
                break
            if raw is None:
                objects.problem(key, "a root is missing")
                parent, missing = None, missing + 1
                continue
            root = Root.from_bytes(raw, key)
        except DataError as error:
            objects.error(key, error)
            parent = None
            continue
        if root.generation != generation:
            objects.problem(key, f"names generation {root.generation}")
        if (parent is not None and root.parent != parent) or (generation == 1 and root.parent is not None):
            objects.problem(key, "its parent is not the root before it")
        if current is not None and generation == current.generation and raw != data:
            objects.problem(key, f"differs from {layout.ROOT_KEY}")
        newest, parent = root, root.digest
        _check_meta(objects, root)
    if newest is None and current is None:
        objects.problem(layout.root_key(1), "no root can be read; nothing below it was checked")
        return None
    # A newer one was committed by a writer that was killed before it could say so in zarr.json.
    chosen = max((each for each in (current, newest) if each), key=lambda root: root.generation)
    _check_groups(objects, chosen)
    return chosen


def _current_root(objects: Objects, has_roots: bool) -> tuple[Root | None, bytes]:
    """The root in zarr.json, and its bytes. Raises StoreNotFound, UnsupportedStore."""
    try:
        data = objects.read(layout.ROOT_KEY)
        return Root.from_bytes(data, layout.ROOT_KEY), data
    except UnsupportedStore:
        raise
    except DataError as error:
        objects.error(layout.ROOT_KEY, error)
        if isinstance(error, ObjectMissing) and not has_roots and not objects.has(layout.root_key(1)):
            raise no_store(objects.report.url) from None
        return None, b""


def _check_groups(objects: Objects, root: Root) -> None:
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
                objects.unchecked.add(folder)
        except UnsupportedStore:
            continue  # another store's affair
        except DataError as error:
            objects.error(key, error)


def _check_meta(objects: Objects, root: Root) -> None:
    for digest in root.meta.digests:
        key = layout.meta_key(digest)
        with objects.recording(key):
            data = objects.read(key)
            if canonical.sha256_hex(data) != digest:
                objects.problem(key, "its content is not the one it is named by")
            elif digest == root.meta.views:
                views_of(data, digest, root.rows)
        if digest == root.meta.views and objects.is_damaged(key):
            objects.report.damaged_views.setdefault(key, []).append(root.generation)
