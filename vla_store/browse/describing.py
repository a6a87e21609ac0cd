"""What a page says of the store, and of one episode."""

from __future__ import annotations

import math
from typing import Any

from vla_store import __version__
from vla_store.browse.held import Held
from vla_store.browse.listing import episode_json
from vla_store.browse.queries import Query, error_json
from vla_store.browse.windows import default_windows, windows_text
from vla_store.errors import DataError
from vla_store.look.cameras import range_text
from vla_store.look.curves import in_order
from vla_store.look.pictures import is_colour
from vla_store.look.saying import convention_of, notes, number_names, recorded_text
from vla_store.look.steps import DEFAULT_FPS
from vla_store.look.writing import name_of
from vla_store.reader import Store
from vla_store.reader.parts import parts_of
from vla_store.reader.values import Episode, StoreField
from vla_store.text import shown

MAX_LABELS = 64  # numbers of a field that are shown
MAX_SUITES = 1_000
BLOCK_NBYTES = 8 << 20  # of pictures that a page asks for at once
MAX_BLOCK_STEPS = 32


def store_json(held: Held, query: Query) -> dict[str, Any]:
    """Return what the page says of the store, and begins with."""
    query.finish()
    store = held.store
    views, damage = _views(store)
    return {
        "name": shown(name_of(store)),
        "url": shown(store.url),
        "version": __version__,
        "episodes": len(store.episodes),
        "steps": store.rows,
        "tasks": len(store.tasks),
        "fingerprint": store.fingerprint,
        "digest": store.digest,
        "suites": [{"value": each, "text": shown(each)} for each in store.suites[:MAX_SUITES]],
        "has_success": _has_success(store),
        "views": views,
        "damage": damage,
        "fields": [
            field_json(store, each)
            for each in (*(each for each in store.fields.values() if each.is_camera), *in_order(store))
        ],
        "block": block_steps(store),
        "defaults": {
            "windows": windows_text(default_windows(store)),
            "alignment": "as_stored" if store.conventions.observation == "before" else "causal",
            "images": "upright",
            "pad": "edge",
        },
    }


def field_json(store: Store, field: StoreField) -> dict[str, Any]:
    """Return what the page says of a field: where its numbers have names, or known ones, a label for each."""
    shape = [n for n in field.shape if n is not None]
    return {
        "name": field.name,
        "text": shown(field.name),
        "dtype": field.dtype,
        "shape": shape,
        "role": field.role,
        "is_camera": field.is_camera,
        "is_known": field.is_fixed or field.is_ragged,
        "is_ragged": field.is_ragged,
        "labels": number_names(store, field)[:MAX_LABELS],
    }


def one_json(held: Held, query: Query) -> dict[str, Any]:
    """Return all that the page says of an episode. Parameters: episode."""
    episode = episode_of(held, query)
    query.finish()
    store = held.store
    convention = convention_of(store, episode)
    more: list[tuple[str, str]] = []
    wrong = None
    try:
        more = list(notes(store, episode))
    except DataError as error:
        wrong = error_json(error)
    cameras = sorted((each for each in store.fields.values() if each.is_camera), key=lambda each: not is_colour(each))
    return episode_json(episode) | {
        "row": episode.start,
        "fps": convention.fps or DEFAULT_FPS,
        "is_fps_known": convention.fps is not None,
        "notes": [("recorded", recorded_text(convention, bool(store.cameras))), *more],
        "damage": wrong,
        "cameras": [_camera_json(held, episode, each) for each in cameras],
    }


def episode_of(held: Held, query: Query) -> Episode:
    """Take the parameter `episode`. Raises OptionError."""
    return held.store.episodes[query.number("episode", 0, len(held.store.episodes) - 1)]


def block_steps(store: Store) -> int:
    """Return of how many steps a page asks for the pictures at once."""
    step_nbytes = sum(picture_nbytes(each) for each in store.fields.values() if each.is_camera)
    return max(1, min(MAX_BLOCK_STEPS, BLOCK_NBYTES // max(1, step_nbytes)))


def picture_nbytes(camera: StoreField) -> int:
    """Return the bytes of one picture as the page gets it."""
    return math.prod(n for n in camera.shape[:2] if n is not None) * 3


def _camera_json(held: Held, episode: Episode, field: StoreField) -> dict[str, Any]:
    """Return how a camera is shown; the range of its colours, where it has one."""
    made: dict[str, Any] = {"name": field.name, "text": shown(field.name), "range": "", "error": None}
    if field.is_fixed and not is_colour(field):
        try:
            found = held.range_of(field.name, episode)
            if found is not None:
                made["range"] = range_text(found)
        except DataError as error:
            made["error"] = error_json(error)
    return made


def _has_success(store: Store) -> bool:
    """Return whether success is known of an episode, so that there is something to choose by; True where that cannot be read."""
    try:
        return any((part.entries(0, part.episodes)["success"] >= 0).any() for part in parts_of(store))
    except DataError:
        return True


def _views(store: Store) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return the views of the store, and the error where their document is damaged, which stops nothing else."""
    try:
        found = store.views
    except DataError as error:
        return [], error_json(error)
    made = []
    for name, view in found.items():
        partial = (
            f"; it tells of {view.covered_steps:,} of {store.rows:,} steps" if view.covered_steps < store.rows else ""
        )
        made.append({"name": name, "text": f"{shown(name)} ({view.kind}, {view.steps:,} steps{partial})"})
    return made, None
