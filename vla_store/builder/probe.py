"""The probe: which prediction pays for each camera, measured on 64 frames spread over the part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from vla_store.builder.background import read_background
from vla_store.builder.scan import Scan
from vla_store.builder.sources import Array, read_rows
from vla_store.format import predictions
from vla_store.format.codecs import PRESETS, encode

MIN_SAVING_PERCENT = 10


@dataclass(frozen=True)
class Trial:
    """What one prediction would make of a camera. nbytes: of the whole part, backgrounds included, by the probe's frames."""

    prediction: tuple[str, ...]
    nbytes: int
    share: float  # of the raw pixels


@dataclass(frozen=True)
class Probe:
    """chosen: camera -> prediction. trials: camera -> what was tried. sha256: of the frames looked at."""

    chosen: dict[str, tuple[str, ...]]
    trials: dict[str, tuple[Trial, ...]]
    sha256: str


def probe_cameras(scan: Scan, preset: str) -> Probe:
    """Encode 64 frames of every camera with each prediction the preset allows; fewest bytes wins, ties go to the earlier."""
    digest = hashlib.sha256()
    chosen: dict[str, tuple[str, ...]] = {}
    trials: dict[str, tuple[Trial, ...]] = {}
    for name, spec in scan.fields.items():
        if not spec.is_camera:
            continue
        frames, backgrounds = _frames(scan, name)
        digest.update(frames.tobytes())
        trials[name] = tuple(
            _try(frames, backgrounds, prediction, preset, scan)
            for prediction in PRESETS[preset].predictions
            if predictions.valid(prediction, spec.dtype, spec.shape[2])
        )
        chosen[name] = _choose(trials[name])
    return Probe(chosen, trials, digest.hexdigest())


def _choose(trials: tuple[Trial, ...]) -> tuple[str, ...]:
    plain = trials[0]
    best = min(trials, key=lambda trial: trial.nbytes)
    return best.prediction if best.nbytes * 100 <= plain.nbytes * (100 - MIN_SAVING_PERCENT) else plain.prediction


def _frames(scan: Scan, camera: str) -> tuple[Array, Array | None]:
    """The probe's (64, H, W, C) frames and, for unsigned pictures, the background of each one's episode."""
    spec = scan.fields[camera]
    episodes = [(each.source, episode) for each in scan.sources for episode in each.info.episodes]
    starts = np.cumsum([0] + [episode.steps for _, episode in episodes])
    frames, backgrounds = [], []
    known: dict[int, Array] = {}
    for row in predictions.probe_rows(int(starts[-1])):
        index = int(np.searchsorted(starts, row, side="right")) - 1
        source, episode = episodes[index]
        step = row - int(starts[index])
        frames.append(read_rows(source, episode.number, camera, spec.dtype, spec.shape, step, step + 1)[0])
        if frames[-1].dtype.kind == "u":
            if index not in known:
                known[index] = read_background(source, episode.number, episode.steps, camera, spec.dtype, spec.shape)
            backgrounds.append(known[index])
    return np.stack(frames), np.stack(backgrounds) if backgrounds else None


def _try(frames: Array, backgrounds: Array | None, prediction: tuple[str, ...], preset: str, scan: Scan) -> Trial:
    residuals = predictions.apply(frames, prediction, backgrounds)
    encoded = sum(len(encode(frame, PRESETS[preset].codec)) for frame in residuals)
    extra = scan.episodes * frames[0].nbytes if "background" in prediction else 0
    total = encoded * scan.steps // len(frames) + extra
    return Trial(prediction, total, total / (scan.steps * frames[0].nbytes))
