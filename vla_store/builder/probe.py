"""The probe: which prediction pays for each camera, measured on 64 frames spread over the part."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla_store.builder.background import read_background
from vla_store.builder.overlap import InOrder, one_by_one
from vla_store.builder.scan import Scan
from vla_store.format import predictions
from vla_store.format.codecs import PRESETS, Codec, encode
from vla_store.sources.protocol import Array, read_rows

MIN_SAVING_PERCENT = 10


@dataclass(frozen=True)
class Trial:
    """Sizes that one prediction would give a camera. nbytes: of the whole part, backgrounds included, by the probe's frames."""

    prediction: tuple[str, ...]
    nbytes: int
    share: float  # of the raw pixels


@dataclass(frozen=True)
class Probe:
    """chosen: camera -> prediction. trials: camera -> what was tried. sha256: of the frames looked at."""

    chosen: dict[str, tuple[str, ...]]
    trials: dict[str, tuple[Trial, ...]]
    sha256: str


def probe_cameras(scan: Scan, preset: str, in_order: InOrder = one_by_one) -> Probe:
    """Encode 64 frames of every camera with each prediction the preset allows; fewest bytes wins, ties go to the earlier.

    in_order: who encodes them.
    """
    digest = hashlib.sha256()
    chosen: dict[str, tuple[str, ...]] = {}
    trials: dict[str, tuple[Trial, ...]] = {}
    for name, spec in scan.fields.items():
        if not spec.is_camera:
            continue
        codec = spec.codec or PRESETS[preset].codec
        tried = [each for each in PRESETS[preset].predictions if predictions.valid(each, spec.dtype, spec.shape)]
        if codec.is_lossy:  # other residuals would be other pictures
            tried = [()]
        encoded = dict.fromkeys(tried, 0)
        jobs = (functools.partial(_encoded, *each, tried, codec) for each in _frames(scan, name))
        with contextlib.closing(in_order(jobs)) as results:  # a few at a time: 64 pictures may be gigabytes
            for frame, sizes in results:
                digest.update(frame.tobytes())
                for prediction, size in zip(tried, sizes):
                    encoded[prediction] += size
        frame_nbytes = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        trials[name] = tuple(_trial(prediction, encoded[prediction], frame_nbytes, scan) for prediction in tried)
        chosen[name] = _choose(trials[name])
    return Probe(chosen, trials, digest.hexdigest())


def _encoded(
    frame: Array, background: Array | None, tried: list[tuple[str, ...]], codec: Codec
) -> tuple[Array, list[int]]:
    """A frame, and how many bytes each prediction makes of it."""
    residuals = (predictions.apply(frame[None], prediction, background)[0] for prediction in tried)
    return frame, [len(encode(residual, codec)) for residual in residuals]


def _choose(trials: tuple[Trial, ...]) -> tuple[str, ...]:
    plain = trials[0]
    best = min(trials, key=lambda trial: trial.nbytes)
    return best.prediction if best.nbytes * 100 <= plain.nbytes * (100 - MIN_SAVING_PERCENT) else plain.prediction


def _frames(scan: Scan, camera: str) -> Iterator[tuple[Array, Array | None]]:
    """The probe's 64 frames (H, W, C) of a camera, and for unsigned pictures the background of each one's episode."""
    spec = scan.fields[camera]
    episodes = [(each.source, episode) for each in scan.sources for episode in each.info.episodes]
    starts = np.cumsum([0] + [episode.steps for _, episode in episodes])
    last, background = -1, None
    for row in predictions.probe_rows(int(starts[-1])):
        index = int(np.searchsorted(starts, row, side="right")) - 1
        source, episode = episodes[index]
        step = row - int(starts[index])
        frame = read_rows(source, episode.number, camera, spec.dtype, spec.shape, step, step + 1)[0]
        if frame.dtype.name in predictions.DTYPES and index != last:  # rows ascend: an episode does not come back
            last = index
            background = read_background(source, episode.number, episode.steps, camera, spec.dtype, spec.shape)
        yield frame, background


def _trial(prediction: tuple[str, ...], encoded: int, frame_nbytes: int, scan: Scan) -> Trial:
    extra = scan.episodes * frame_nbytes if "background" in prediction else 0
    total = encoded * scan.steps // predictions.PROBE_FRAMES + extra
    return Trial(prediction, total, total / (scan.steps * frame_nbytes))
