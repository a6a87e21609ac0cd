"""A step as a sample has it: what `Samples(store, ...)[i]` gives there, or why there is no such sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_store.browse.describing import episode_of, picture_nbytes
from vla_store.browse.film import number_texts, picture_of
from vla_store.browse.held import Array, Held
from vla_store.browse.queries import Query, packed
from vla_store.browse.windows import (
    MAX_OFFSETS,
    Windows,
    default_windows,
    many_offsets,
    parse_windows_text,
    windows_text,
)
from vla_store.errors import OptionError, StoreDamaged
from vla_store.look.saying import convention_of
from vla_store.reader import Samples
from vla_store.reader.kept import inside, kept_of
from vla_store.reader.seconds import Seconds
from vla_store.reader.values import Episode
from vla_store.reader.windows import Window
from vla_store.text import shown
from vla_store.types import ALIGNMENTS, IMAGES, PADS

MAX_NBYTES = 64 << 20  # of the pictures of a sample


def sample_bytes(held: Held, query: Query) -> bytes:
    """Return the sample whose anchor is a step of an episode: per field its offsets, what of them is padding, and numbers as text;
    pictures, (K, H, W, 3) bytes of each camera, behind it. `index` is null where the step is no anchor, and `reason` says why.

    Parameters: episode, step, windows (as text), alignment, images, pad, view.
    """
    episode = episode_of(held, query)
    step = query.number("step", 0, episode.length - 1)
    said = query.text("windows")
    windows = default_windows(held.store) if said is None else parse_windows_text(said)
    usual = "as_stored" if held.store.conventions.observation == "before" else "causal"
    options = {
        "alignment": query.choice("alignment", ALIGNMENTS, usual),
        "images": query.choice("images", IMAGES, "upright"),
        "pad": query.choice("pad", PADS, PADS[0]),
    }
    view = query.text("view")
    query.finish()
    if view is not None:
        options["view"] = view
    _check_length(windows, convention_of(held.store, episode).fps)
    samples = held.samples(windows=windows, **options)
    _check_size(held, samples.windows)
    index = index_of(samples, episode, step)
    head: dict[str, Any] = {
        "index": index,
        "count": len(samples),
        "windows": windows_text(windows),
        "call": _call(windows, options, index),
        "reason": "" if index is not None else _reason(held, episode, step, options),
        "fields": [],
    }
    if index is None:
        return packed(head, [])
    sample = samples.sample(index)
    pieces: list[Array] = []
    for window in samples.windows:
        values = sample[window.field] if window.has_axis else sample[window.field][None]
        field = held.store.fields[window.field]
        described = {
            "name": field.name,
            "text": shown(field.name),
            "offsets": list(window.offsets),
            "is_pad": np.atleast_1d(sample[f"{window.field}_is_pad"]).tolist(),
            "dtype": str(values.dtype),
            "shape": list(np.shape(sample[window.field])),
            "numbers": None,
            "height": 0,
            "width": 0,
        }
        if field.is_camera:
            pieces.append(picture_of(held, field.name, episode, values))
            described |= {"height": pieces[-1].shape[1], "width": pieces[-1].shape[2]}
        else:
            described["numbers"] = number_texts(values)
        head["fields"].append(described)
    head["task"] = shown(sample["task"])
    return packed(head, pieces)


def index_of(samples: Samples, episode: Episode, step: int) -> int | None:
    """Return which sample has this step as its anchor; None where none has. The anchors ascend, as they do of a whole store and of
    its views. Raises StoreDamaged."""
    row = episode.start + step
    low, high = 0, min(row, len(samples) - 1)
    # Most often all steps before it are anchors, or all but the first step of each episode: two looks, and not twenty.
    for guess in (row - episode.episode - 1, row):
        if 0 <= guess <= high and _row(samples, guess) == row:
            return guess
    while low <= high:
        middle = (low + high) // 2
        found = _row(samples, middle)
        if found == row:
            return middle
        low, high = (middle + 1, high) if found < row else (low, middle - 1)
    return None


def _row(samples: Samples, index: int) -> int:
    where = samples.where(index)
    if "row" not in where:
        raise StoreDamaged("the index of the store cannot be read", store=where["store"], sample=index)
    return int(where["row"])


def _check_length(windows: Windows, fps: float | None) -> None:
    """Raises OptionError for a window in seconds of more offsets than a page can show, before they are made. fps: of the episode; samples
    refuse a window that it does not decide."""
    for name, each in windows.items():
        rate = (each.fps or fps) if isinstance(each, Seconds) else None
        if isinstance(each, Seconds) and rate and len(each.offsets(rate)) > MAX_OFFSETS:
            raise many_offsets(name)


def _check_size(held: Held, windows: tuple[Window, ...]) -> None:
    """Raises OptionError for a sample of more pictures than a page can show."""
    fields = held.store.fields
    nbytes = sum(
        len(each.offsets) * picture_nbytes(fields[each.field]) for each in windows if fields[each.field].is_camera
    )
    if nbytes > MAX_NBYTES:
        raise OptionError(
            "this sample has more pictures than a page can show", expected=f"{MAX_NBYTES:,} bytes", found=f"{nbytes:,}"
        )


def _reason(held: Held, episode: Episode, step: int, options: dict[str, str]) -> str:
    view = options.get("view")
    row = np.array([episode.start + step], np.int64)
    if view is not None and not inside(kept_of(held.store, view).anchors, row)[0]:
        told = inside(held.store.views[view].covered, row)[0]
        return f"view {view} {'leaves this step out' if told else 'tells nothing of this step, and so leaves it out'}"
    return (
        "the first step of the episode has no observation from before its action: this source recorded each observation after the "
        "action of the same row, and under causal alignment step 0 is left out (keep_first=True would repeat the first one)"
    )


def _call(windows: Windows, options: dict[str, str], index: int | None) -> str:
    """Return the Python that gives this sample."""
    said = ", ".join(f"{name!r}: {_offsets_code(offsets)}" for name, offsets in windows.items())
    more = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"Samples(store, windows={{{said}}}, {more})" + (f"[{index}]" if index is not None else "")


def _offsets_code(offsets: int | list[int] | Seconds) -> str:
    if isinstance(offsets, list) and len(offsets) > 2 and offsets == list(range(offsets[0], offsets[-1] + 1)):
        return f"range({offsets[0] or ''}{', ' if offsets[0] else ''}{offsets[-1] + 1})"
    return str(offsets)
