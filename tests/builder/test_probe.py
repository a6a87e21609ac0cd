"""The probe chooses, for each camera, the prediction that makes it smallest; checked against doing it by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from own_sources import Own

from vla_store.builder import FieldSpec
from vla_store.builder.probe import MIN_SAVING_PERCENT, _choose, probe_cameras
from vla_store.builder.scan import Scan, scan_sources
from vla_store.format import predictions
from vla_store.format.codecs import PRESETS, encode
from vla_store.sources.find import find_sources


@dataclass(frozen=True)
class Painted(Own):
    """One camera whose pictures are drawn by `how`."""

    how: str = "still"
    fields: Mapping[str, FieldSpec] = field(
        default_factory=lambda: {
            "actions": FieldSpec("float32", (4,), "step"),
            "front": FieldSpec("uint8", (16, 16, 3), "observation"),
        }
    )

    def read(self, number: int, field: str, start: int, stop: int) -> np.ndarray:
        if field != "front":
            return super().read(number, field, start, stop)
        return np.stack([self._picture(number, step) for step in range(start, stop)])

    def _picture(self, number: int, step: int) -> np.ndarray:
        rng = np.random.default_rng(number if self.how == "still" else (number, step))
        if self.how == "smooth":  # each row is as much brighter than the one above it
            row, slope = rng.integers(0, 256, (2, 1, 16, 3))
            return ((row + slope * np.arange(16)[:, None, None]) % 256).astype(np.uint8)
        if self.how == "nearly still":
            picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            picture[rng.integers(0, 16, 230), rng.integers(0, 16, 230)] += 1
            return picture
        return rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def scan_of(**options: object) -> Scan:
    return scan_sources([Painted(**options)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "preset", "chosen"),
    [
        ("still", "fast", ("background",)),
        ("still", "small", ("background",)),
        ("still", "raw", ()),
        ("noise", "fast", ()),
        ("noise", "small", ()),
        ("smooth", "fast", ()),
        ("smooth", "small", ("above",)),
    ],
)
def test_the_prediction_that_fits_is_chosen(how: str, preset: str, chosen: tuple[str, ...]) -> None:
    scan = scan_of(how=how, lengths={0: 50, 1: 40})
    assert probe_cameras(scan, preset).chosen == {"front": chosen}


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("how", ["still", "nearly still", "smooth"])
def test_what_is_counted_is_what_encoding_the_frames_gives(how: str, preset: str) -> None:
    lengths = {0: 3, 2: 50, 7: 21}
    probe = probe_cameras(scan_of(how=how, lengths=lengths), preset)
    source = Painted(how=how, lengths=lengths)
    frames = {number: source.read(number, "front", 0, steps) for number, steps in lengths.items()}
    rows = [(number, step) for number, steps in lengths.items() for step in range(steps)]
    assert len(rows) == 74
    for prediction, nbytes in probe.trials["front"].items():
        total = 0
        for k in range(64):
            number, step = rows[(2 * k * (len(rows) - 1) + 63) // 126]
            picked = predictions.background_rows(lengths[number])
            background = predictions.background_of(frames[number][picked])
            residual = predictions.apply(frames[number][step : step + 1], prediction, background)[0]
            total += len(encode(residual, PRESETS[preset].codec))
        backgrounds = 3 * 16 * 16 * 3 if "background" in prediction else 0
        assert nbytes == total * 74 // 64 + backgrounds


def test_predictions_are_taken_only_where_they_save_a_tenth() -> None:
    def choose(*nbytes: int) -> tuple[str, ...]:
        return _choose({(str(k),) if k else (): n for k, n in enumerate(nbytes)})

    assert MIN_SAVING_PERCENT == 10
    assert choose(1000, 900) == ("1",)
    assert choose(1000, 901) == ()
    assert choose(1000, 800, 800) == ("1",)  # ties go to the earlier
    assert choose(1000, 800, 799) == ("2",)


def test_short_episodes_pay_for_their_backgrounds() -> None:
    """A background an episode is a whole picture: in episodes of one step it saves nothing."""
    assert probe_cameras(scan_of(how="still", lengths=dict.fromkeys(range(40), 1)), "fast").chosen == {"front": ()}
    assert probe_cameras(scan_of(how="still", lengths=dict.fromkeys(range(4), 10)), "fast").chosen == {
        "front": ("background",)
    }


def test_pictures_of_floats_are_not_predicted(demos: Path) -> None:
    probe = probe_cameras(scan_sources(find_sources([demos / "variants/depth"])), "small")
    depth = [name for name in probe.chosen if "depth" in name]
    assert len(depth) == 2
    assert all(probe.chosen[name] == () and len(probe.trials[name]) == 1 for name in depth)


def test_the_digest_names_the_frames_looked_at(tiny_source: Path) -> None:
    scan = scan_sources(find_sources([tiny_source]))
    assert probe_cameras(scan, "fast").sha256 == probe_cameras(scan, "raw").sha256
    assert scan_of(how="still").fields.keys() == {"actions", "front"}
    assert probe_cameras(scan_of(how="still"), "raw").sha256 != probe_cameras(scan_of(how="noise"), "raw").sha256


def test_on_the_demos_the_standing_camera_takes_its_background_and_the_wrist_none(demos: Path) -> None:
    probe = probe_cameras(scan_sources(find_sources([demos / "libero"])), "fast")
    assert probe.chosen == {"agentview_rgb": ("background",), "eye_in_hand_rgb": ()}
