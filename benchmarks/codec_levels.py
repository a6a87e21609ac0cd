"""Which codec and level for the frames: share of the raw bytes, time to encode, time to decode.

    python -m benchmarks.codec_levels [--quick] [--save]

Every frame of the demonstrations, as `fast` predicts it: the third-person camera less its episode's background, the wrist
camera as it is. Frames are encoded by the builder's own function; decoding is one call into a buffer that is reused, in
random order over all frames, so that neither source nor target sits in a cache by luck. Everything decoded is compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc

from benchmarks.measure import (
    Neighbours,
    Pass,
    Spread,
    arguments,
    environment,
    interleave,
    run,
    speed_ratio,
    table,
    timed,
)
from vla_store.format.codecs import CRC_BYTES, PRESETS, Blosc, encode

CODECS = tuple(
    Blosc(cname, level)
    for cname, levels in (("lz4", (1, 5, 9)), ("lz4hc", (1, 2, 3, 4, 5, 6, 7, 8, 9)), ("zstd", (1, 3, 5)))
    for level in levels
)
PREDICTIONS = {"agentview_rgb": ("background",), "eye_in_hand_rgb": ()}


@dataclass(frozen=True)
class Case:
    """One camera's frames under one codec."""

    camera: str
    codec: Blosc
    chunks: tuple[bytes, ...]  # with their crc32c, as they lie in a shard
    bodies: tuple[memoryview, ...]
    checksum: int  # zlib.crc32 over the frames

    @property
    def name(self) -> str:
        return f"{self.camera} {self.codec}"


def residuals(demos: Path, frames: int | None) -> dict[str, np.ndarray]:
    """Camera -> (N, H, W, C) of what `fast` encodes; every n-th frame where not all are wanted."""
    from vla_store.builder.scan import scan_sources
    from vla_store.format import predictions
    from vla_store.sources.find import find_sources

    scan = scan_sources(find_sources([demos]))
    cameras = {name: PREDICTIONS.get(name, ()) for name, spec in scan.fields.items() if spec.is_camera}
    every = 1 if frames is None else max(1, scan.steps // frames)
    found: dict[str, list[np.ndarray]] = {name: [] for name in cameras}
    for each in scan.sources:
        for episode in each.info.episodes:
            for name, prediction in cameras.items():
                read = each.source.read(episode.number, name, 0, episode.steps)
                background = predictions.background_of(read[predictions.background_rows(len(read))])
                found[name].append(predictions.apply(read[::every], prediction, background))
    return {name: np.ascontiguousarray(np.concatenate(pieces)) for name, pieces in found.items()}


def encoding(frames: np.ndarray, codec: Blosc, rng: np.random.Generator, count: int) -> Callable[[], Pass]:
    """A turn that encodes some frames, others each time."""

    def turn() -> Pass:
        some = rng.choice(len(frames), min(count, len(frames)), replace=False)
        return timed([frames[at] for at in some], lambda frame: encode(frame, codec))

    return turn


def decoding(case: Case, order: np.ndarray, out: np.ndarray) -> Callable[[], Pass]:
    """A turn that decodes all frames."""
    bodies = [case.bodies[at] for at in order]
    decompress = blosc.decompress

    def all_frames(_: None) -> None:
        for body in bodies:
            decompress(body, out)

    return lambda: timed([None], all_frames)


def checking(case: Case, order: np.ndarray) -> Callable[[], Pass]:
    """A turn that takes the crc32c of all frames, as a process does when it first decodes them."""
    arrays = [np.frombuffer(case.bodies[at], np.uint8) for at in order]

    def all_frames(_: None) -> None:
        for array in arrays:
            crc32c(array)

    return lambda: timed([None], all_frames)


def make_case(camera: str, frames: np.ndarray, codec: Blosc) -> Case:
    chunks = tuple(encode(frame, codec) for frame in frames)
    checksum = 0
    for frame in frames:
        checksum = zlib.crc32(frame.data, checksum)
    return Case(camera, codec, chunks, tuple(memoryview(chunk)[:-CRC_BYTES] for chunk in chunks), checksum)


def check(case: Case, out: np.ndarray) -> None:
    """Decodes everything once and compares it with what was encoded."""
    checksum = 0
    for body in case.bodies:
        blosc.decompress(body, out)
        checksum = zlib.crc32(out.data, checksum)
    if checksum != case.checksum:
        raise AssertionError(f"{case.name}: what was decoded is not what was encoded")


def measure(
    demos: Path, *, rounds: int, frames: int | None, encoded_frames: int, codecs: Any = CODECS
) -> dict[str, Any]:
    """Everything that benchmarks/results/codec_levels.json holds."""
    blosc.use_threads = False
    neighbours = Neighbours()
    rng = np.random.default_rng(0)
    rows = []
    for camera, pictures in residuals(demos, frames).items():
        out = np.ones(pictures.shape[1:], pictures.dtype)
        order = rng.permutation(len(pictures))
        cases = [make_case(camera, pictures, codec) for codec in codecs]
        for case in cases:
            check(case, out)
        encodes = interleave(
            {case.name: encoding(pictures, case.codec, rng, encoded_frames) for case in cases}, rounds, seed=1
        )
        decodes = interleave({case.name: decoding(case, order, out) for case in cases}, rounds, seed=2)
        checks = interleave({case.name: checking(case, order) for case in cases}, rounds, seed=3)
        preset = decodes[f"{camera} {PRESETS['fast'].codec}"]
        for case in cases:
            rows.append(
                {
                    "camera": camera,
                    "codec": str(case.codec),
                    "prediction": list(PREDICTIONS.get(camera, ())),
                    "share": round(sum(map(len, case.chunks)) / pictures.nbytes, 5),
                    "encode_us": _per_frame(encodes[case.name], None),
                    "decode_us": _per_frame(decodes[case.name], len(pictures)),
                    "decode_speed_to_preset": speed_ratio(decodes[case.name], preset).to_json(),
                    "crc32c_us": _per_frame(checks[case.name], len(pictures)),
                }
            )
            check(case, out)
    return {
        "environment": environment() | {"busy_cores_of_others": neighbours.cores()},
        "frames": len(order),
        "preset": str(PRESETS["fast"].codec),
        "rounds": rounds,
        "rows": rows,
    }


def _per_frame(passes: list[Pass], frames: int | None) -> dict[str, float]:
    return Spread.of([each.wall() / (frames or each.units) * 1e6 for each in passes]).to_json()


def summary(result: dict[str, Any]) -> str:
    """The table for a terminal."""

    def times(value: dict[str, float]) -> str:
        return f"{value['median']:.1f} ({value['low']:.1f}-{value['high']:.1f})"

    def ratio(value: dict[str, float]) -> str:
        return f"{value['median']:.3f} ({value['low']:.3f}-{value['high']:.3f})"

    return table(
        [
            "camera, codec",
            "share",
            "encode us",
            "decode us",
            f"decodes so many times as fast as {result['preset']}",
            "crc32c us",
        ],
        [
            [
                f"{row['camera']} {row['codec']}",
                f"{row['share']:.4f}",
                times(row["encode_us"]),
                times(row["decode_us"]),
                ratio(row["decode_speed_to_preset"]),
                times(row["crc32c_us"]),
            ]
            for row in result["rows"]
        ],
    )


def main() -> None:
    run(
        "codec_levels",
        arguments(__doc__.splitlines()[0], rounds=21),
        lambda options, demos, work: measure(
            demos,
            rounds=3 if options.quick else options.rounds,
            frames=100 if options.quick else None,
            encoded_frames=10 if options.quick else 100,
        ),
        summary,
    )


if __name__ == "__main__":
    main()
