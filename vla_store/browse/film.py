"""The steps of an episode: the pictures of every camera as a screen shows them, every number as text, and curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.browse.describing import MAX_LABELS, episode_of, picture_nbytes
from vla_store.browse.held import Array, Held
from vla_store.browse.queries import Query, error_json, packed
from vla_store.errors import DataError, OptionError, VlaStoreError
from vla_store.look.curves import MAX_CURVES, Span, in_order, is_curve, spans_of
from vla_store.look.pictures import Pictures, to_rgb
from vla_store.reader.values import Episode, StoreField
from vla_store.text import number_text, shown
from vla_store.types import IMAGES

MAX_STEPS = 64  # of an answer
MAX_NBYTES = 32 << 20  # of the pictures of an answer of several steps
MAX_PANELS = 24
MAX_POINTS = 1_200  # of a curve: a screen has no more
BINS = 600  # a longer curve is drawn as the lowest and highest number of each of so many stretches

Floats = npt.NDArray[np.float32]


def steps_bytes(held: Held, query: Query) -> bytes:
    """Return the steps [start, stop) of an episode: numbers as text, and pictures, (n, H, W, 3) bytes of each camera behind them.

    What cannot be read is named in `errors`, with field and step (null: all of them), and its pictures are black. Parameters:
    episode, start, stop, images.
    """
    episode = episode_of(held, query)
    start = query.number("start", 0, episode.length - 1)
    stop = query.number("stop", start + 1, min(episode.length, start + MAX_STEPS))
    images = query.choice("images", IMAGES, "upright")
    query.finish()
    fields = [each for each in held.store.fields.values() if each.is_fixed or each.is_ragged]
    cameras = [each for each in fields if each.is_camera]
    nbytes = (stop - start) * sum(picture_nbytes(each) for each in cameras)
    if stop - start > 1 and nbytes > MAX_NBYTES:
        raise OptionError(
            "these are more pictures than one answer has", expected=f"{MAX_NBYTES:,} bytes", found=f"{nbytes:,}"
        )
    rows = range(episode.start + start, episode.start + stop)
    found, wrong = held.rows_that_can([each.name for each in fields], rows, images)
    errors = [_error_json(name, None, error) for name, error in wrong.items() if not held.store.fields[name].is_camera]
    head: dict[str, Any] = {"start": start, "stop": stop, "cameras": [], "numbers": {}, "errors": errors}
    pieces: list[Array] = []
    for each in cameras:
        frames = found.get(each.name)
        if frames is None:
            frames, at_steps = _one_by_one(held, each, rows, images)
            errors += [_error_json(each.name, start + at, error) for at, error in at_steps.items()]
        try:
            made = to_rgb(frames, held.range_of(each.name, episode))
        except DataError as error:  # the range is of other steps
            made = np.zeros((*frames.shape[:3], 3), np.uint8)
            errors.append(_error_json(each.name, None, error))
        head["cameras"].append({"name": each.name, "height": made.shape[1], "width": made.shape[2]})
        pieces.append(made)
    head["numbers"] = {
        each.name: number_texts(found[each.name]) for each in fields if not each.is_camera and each.name in found
    }
    return packed(head, pieces)


def number_texts(values: Array) -> list[list[str]]:
    """Return the first numbers of each step as text that loses nothing, and behind them how many more there are, if any: (n, ...) ->
    n lists."""
    flat = values.reshape(len(values), -1)
    texts: list[list[str]] = flat[:, :MAX_LABELS].astype(str).tolist()
    more = flat.shape[1] - MAX_LABELS
    return [[*each, f"… {more:,} more"] for each in texts] if more > 0 else texts


def curves_bytes(held: Held, query: Query) -> bytes:
    """Return curves over all steps of an episode: panels of at most MAX_CURVES, and behind them float32 numbers, curve after curve.

    A curve of more than MAX_POINTS steps is the lowest and highest number of each of BINS stretches. Parameters: episode.
    """
    episode = episode_of(held, query)
    query.finish()
    numbers = [each for each in in_order(held.store) if each.is_fixed or each.is_ragged]
    fields = [each for each in numbers if is_curve(each) or each.is_ragged]
    rows = range(episode.start, episode.start + episode.length)
    found, wrong = held.rows_that_can([each.name for each in fields], rows)
    panels: list[dict[str, Any]] = []
    pieces: list[Array] = []
    left_out = {each.name: math.prod(n or 0 for n in each.shape) for each in numbers if each not in fields}
    for each in fields:
        if each.name not in found:
            continue
        values = found[each.name].reshape(episode.length, -1)  # an episode has one width
        spans = spans_of(held.store, each, values.shape[1])
        drawn = spans[: min(MAX_LABELS // MAX_CURVES, MAX_PANELS - len(panels))]
        for span in drawn:
            chosen = values[:, span.start : span.stop].astype(np.float64)
            panels.append(_panel_json(each, span, chosen))
            pieces.append(thinned(chosen))
        left_out[each.name] = sum(span.stop - span.start for span in spans[len(drawn) :])
    head = {
        "steps": episode.length,
        "points": pieces[0].shape[1] if pieces else 0,
        "panels": panels,
        "left_out": [{"text": shown(name), "numbers": count} for name, count in left_out.items() if count],
        "errors": [_error_json(name, None, error) for name, error in wrong.items()],
    }
    return packed(head, pieces)


def thinned(values: npt.NDArray[np.float64]) -> Floats:
    """Return (T, n) numbers as curves, (n, points): as they are, or of long ones the lowest and highest of each stretch in turn.

    What is no number is NaN; an infinite one counts as none.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    if len(values) <= MAX_POINTS:
        return np.ascontiguousarray(values.T, np.float32)
    bounds = np.linspace(0, len(values), BINS + 1).astype(int)[:-1]
    low, high = np.fmin.reduceat(values, bounds), np.fmax.reduceat(values, bounds)
    return np.ascontiguousarray(np.stack([low, high], axis=1).reshape(2 * BINS, -1).T, np.float32)


def _panel_json(field: StoreField, span: Span, values: npt.NDArray[np.float64]) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    said = f"{number_text(low)} at every step" if low == high else f"{number_text(low)} to {number_text(high)}"
    return {
        "field": field.name,
        "text": shown(span.title),
        "labels": span.names,
        "low": low,
        "high": high,
        "range": said if finite.size else "no finite number",
    }


def _one_by_one(held: Held, camera: StoreField, rows: range, images: str) -> tuple[Array, dict[int, VlaStoreError]]:
    """Return pictures of a camera, each tried alone, black where one cannot be read; and these errors, by place."""
    shape = tuple(n for n in camera.shape if n is not None)
    made, errors = np.zeros((len(rows), *shape), camera.dtype), dict[int, VlaStoreError]()
    for at, row in enumerate(rows):
        try:
            made[at] = held.rows([camera.name], range(row, row + 1), images)[camera.name][0]
        except DataError as error:
            errors[at] = error
    return made, errors


def picture_of(held: Held, camera: str, episode: Episode, frames: Array) -> Pictures:
    """Return (n, H, W, ...) frames of an episode as its film shows them."""
    return to_rgb(frames, held.range_of(camera, episode))


def _error_json(field: str, step: int | None, error: VlaStoreError) -> dict[str, Any]:
    return {"field": field, "step": step, "error": error_json(error)}
