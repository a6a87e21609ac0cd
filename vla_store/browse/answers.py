"""What is answered to which address: from a store and the parameters of a request to bytes. Opens no socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vla_store.browse.describing import one_json, store_json
from vla_store.browse.film import curves_bytes, steps_bytes
from vla_store.browse.held import Held
from vla_store.browse.listing import episodes_json, tasks_json
from vla_store.browse.queries import Query, error_json, json_bytes, status_of
from vla_store.browse.sampling import sample_bytes
from vla_store.errors import VlaStoreError, machine_error

JSON = "application/json"
BYTES = "application/octet-stream"
STATIC = "static"
PAGE = "page.html"


@dataclass(frozen=True)
class Answer:
    """What is sent: HTTP's status, the type of the body, and the body."""

    status: int
    kind: str
    body: bytes


_VALUES: dict[str, Callable[[Held, Query], dict[str, Any]]] = {
    "/api/store": store_json,
    "/api/episodes": episodes_json,
    "/api/tasks": tasks_json,
    "/api/episode": one_json,
}
_PACKED: dict[str, Callable[[Held, Query], bytes]] = {
    "/api/steps": steps_bytes,
    "/api/curves": curves_bytes,
    "/api/sample": sample_bytes,
}


def answer(held: Held, path: str, query: str) -> Answer:
    """Return the answer to a request: a file of the page, what is known of the store, or an error in JSON.

    Parameters
    ----------
    held
        The store.
    path, query
        Of the address: "/api/episode", "episode=3".
    """
    if path in _VALUES or path in _PACKED:
        try:
            asked = Query(query)
            if path in _VALUES:
                return Answer(200, JSON, json_bytes(_VALUES[path](held, asked)))
            return Answer(200, BYTES, _PACKED[path](held, asked))
        except VlaStoreError as error:
            return failed(error)
        except (OSError, MemoryError) as error:
            return failed(machine_error(error, "reading the store"))
    found = files().get("/" + PAGE if path == "/" else path)
    return not_found(path) if found is None else found


def failed(error: VlaStoreError) -> Answer:
    """Return the answer that tells of an error."""
    return Answer(status_of(error), JSON, json_bytes({"error": error_json(error)}))


def not_found(path: str) -> Answer:
    return Answer(404, JSON, json_bytes({"error": {"what": "there is nothing here", "found": path[:100]}}))


def files() -> dict[str, Answer]:
    """Return the files of the page, by path: they come with the package."""
    if not _FILES:
        folder = resources.files("vla_store.browse") / STATIC
        for each in folder.iterdir():
            if each.name.rpartition(".")[2] in _KINDS:
                _FILES[f"/{each.name}"] = Answer(200, _KINDS[each.name.rpartition(".")[2]], each.read_bytes())
    return _FILES


_FILES: dict[str, Answer] = {}
_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
