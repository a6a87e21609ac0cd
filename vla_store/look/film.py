"""One episode as a film: .mp4 (H.264) by PyAV, .gif by Pillow. To look at: both change colours. Needs the extra `movies`."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from vla_store.errors import MachineError
from vla_store.extras import needed
from vla_store.look.cameras import pictures_of
from vla_store.look.episodes import shown_episode
from vla_store.look.film_page import EXTRA, FilmPage, Size
from vla_store.look.pictures import Pictures
from vla_store.look.scene import Scene, scene_of
from vla_store.look.writing import Written, labelled, path_outside, placed
from vla_store.reader import Store
from vla_store.reader.values import Episode
from vla_store.text import number_text
from vla_store.types import Images

GIF_COLOURS = 256
PAGE_COLOURS = 72  # of those, for text and curves
NEARLY_WHITE = 246
GIF_SAMPLED = 12  # pictures that its colours are chosen by
ENCODER = "libx264"
# BT.709: what players assume of pictures that say nothing. crf 18: the usual name of "looks the same".
ENCODER_OPTIONS = {
    "crf": "18",
    "preset": "veryfast",
    "x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709:log-level=none",
}
BT709 = 1  # FFmpeg's number of it, for spaces, primaries and curves


@dataclass(frozen=True)
class Kind:
    """What a film of this ending is: its size, the most pictures it has, and the most a second."""

    ending: str
    size: Size
    max_pictures: int
    max_rate: float
    loses: str


@dataclass(frozen=True)
class Timing:
    """Which steps are pictures, every so many of them, and how long each is seen."""

    steps: tuple[int, ...]
    every: int
    fps: float  # steps a second

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.fps / self.every


@dataclass(frozen=True, repr=False)
class FilmWritten(Written):
    """Where a film was written. timing: its steps; has_fps: whether the source states their rate; loses: what is not exact in it."""

    width: int
    height: int
    timing: Timing
    has_fps: bool
    loses: str

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "every": self.timing.every,
            "fps": self.timing.fps,
            "fps_is_assumed": not self.has_fps,
            "height": self.height,
            "lossy": True,
            "pictures": len(self.timing.steps),
            "width": self.width,
        }

    @property
    def about(self) -> tuple[str, str]:
        return "film", f"{self.width} x {self.height}"

    def text(self) -> str:
        every = f", of every {_nth(self.timing.every)} step" if self.timing.every > 1 else ""
        rate = f"{number_text(self.timing.fps)} steps a second"
        assumed = "" if self.has_fps else ", which is assumed: the source states no rate"
        return (
            f"{super().text()}\n"
            f"{labelled('pictures', f'{len(self.timing.steps):,}{every}, at {rate}{assumed}')}\n"
            f"{labelled('exact', f'no: {self.loses}; a film is to look at, and no data')}"
        )


def write_film(
    store: Store | str | os.PathLike[str],
    episode: Episode | SupportsIndex | str,
    path: str | os.PathLike[str],
    *,
    images: Images = "upright",
) -> FilmWritten:
    """Write an episode as a film to `path`, an .mp4 or .gif, replacing what is there.

    store, episode, images: as `write_episode` takes them. Raises OptionError, UsageError, MachineError (PyAV, Pillow or
    matplotlib are missing; the disk), and what reading raises.
    """
    store, episode = shown_episode(store, episode)
    made = path_outside(store, path, ENDINGS)  # before the work
    kind = next(each for each in KINDS if each.ending == made.suffix.lower())
    needed("PIL.Image", EXTRA)
    if kind.ending == ".mp4":
        _encoder()
    with placed(made) as temporary:
        scene = scene_of(store, episode, images)
        timing = timing_of(scene, kind)
        every = f", every {_nth(timing.every)} step" if timing.every > 1 else ""
        page = FilmPage(scene, kind.size, scene.rate_note + every)
        pictures = film_pictures(store, scene, page, timing.steps, images)
        if kind.ending == ".mp4":
            _write_mp4(temporary, pictures, timing)
        else:
            sampled = timing.steps[:: -(-len(timing.steps) // GIF_SAMPLED)]
            colours = gif_colours(page, film_pictures(store, scene, page, sampled, images))
            _write_gif(temporary, pictures, colours, timing)
        nbytes = temporary.stat().st_size
    return FilmWritten(made, nbytes, episode, kind.size.width, page.height, timing, scene.has_fps, kind.loses)


def timing_of(scene: Scene, kind: Kind) -> Timing:
    """Choose the steps of a film: every one, or every so many of them, and the last."""
    every = max(1, math.ceil(scene.length / kind.max_pictures), math.ceil(scene.fps / kind.max_rate - 1e-9))
    steps = list(range(0, scene.length, every))
    if steps[-1] != scene.length - 1:
        steps.append(scene.length - 1)
    return Timing(tuple(steps), every, scene.fps)


def film_pictures(
    store: Store, scene: Scene, page: FilmPage, steps: Sequence[int], images: Images
) -> Iterator[Pictures]:
    """Yield the film's picture of each step. Bounded in memory."""
    if not scene.cameras:
        yield from (page.picture(step, []) for step in steps)
        return
    for first, cameras in pictures_of(store, scene.episode, scene.cameras, steps, images):
        for number, pictures in enumerate(zip(*cameras)):
            yield page.picture(steps[first + number], pictures)


def _write_mp4(path: Path, pictures: Iterator[Pictures], timing: Timing) -> None:
    av = needed("av", EXTRA)
    container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
    stream = container.add_stream(ENCODER, rate=Fraction(timing.rate).limit_denominator(1001), options=ENCODER_OPTIONS)
    first = next(pictures)
    stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
    stream.codec_context.gop_size = max(1, round(timing.rate))  # a player finds any second fast
    for number, picture in enumerate(itertools.chain([first], pictures)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    container.close()


def gif_colours(page: FilmPage, sampled: Iterable[Pictures]) -> Pictures:
    """Choose the colours of a film, (n, 3): those of the curves as they are, some for text, the others for the cameras."""
    own = page.colours
    found = [own, _colours(np.concatenate([page.still, page.pale]), PAGE_COLOURS - len(own))]
    if page.slots:
        cut = [
            each[slot.y : slot.y + slot.height, slot.x : slot.x + slot.width] for each in sampled for slot in page.slots
        ]
        found.append(_colours(np.concatenate([each.reshape(-1, 3) for each in cut])[None], GIF_COLOURS - PAGE_COLOURS))
    made = np.concatenate(found)
    made[made.min(axis=1) >= NEARLY_WHITE] = (
        255  # else Pillow, which is not exact to the last bits, takes those for white
    )
    return made


def _colours(picture: Pictures, count: int) -> Pictures:
    image = needed("PIL.Image", EXTRA)
    made = image.fromarray(picture).quantize(count, method=image.Quantize.MEDIANCUT, kmeans=3)
    return np.array(made.getpalette(), np.uint8).reshape(-1, 3)[:count]


def _write_gif(path: Path, pictures: Iterator[Pictures], colours: Pictures, timing: Timing) -> None:
    image = needed("PIL.Image", EXTRA)
    palette = image.new("P", (1, 1))
    palette.putpalette(colours.reshape(-1).tolist())
    frames = (image.fromarray(each).quantize(palette=palette, dither=image.Dither.NONE) for each in pictures)
    with path.open("wb") as file:
        next(frames).save(
            file, "GIF", save_all=True, append_images=frames, duration=gif_durations(timing), loop=0, optimize=False
        )


def gif_durations(timing: Timing) -> list[int]:
    """Return how many milliseconds each picture is seen: whole hundredths of a second, which add up to the time of the steps."""
    ends = [round(100 * number / timing.rate) for number in range(len(timing.steps) + 1)]
    return [10 * max(2, stop - start) for start, stop in itertools.pairwise(ends)]


def _encoder() -> None:
    """Raise MachineError where there is no PyAV with an encoder of H.264."""
    if ENCODER not in needed("av", EXTRA).codecs_available:
        raise MachineError(
            "PyAV has no encoder of H.264 here",
            expected=ENCODER,
            hint="write a .gif, or take the PyAV of the package index",
        )


def _nth(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


KINDS = (
    Kind(".mp4", Size(1280, 410, 96), 20_000, 60.0, "H.264 at half the resolution of colours"),
    Kind(".gif", Size(640, 290, 78), 150, 50.0, f"{GIF_COLOURS} colours for the whole film"),
)
ENDINGS = tuple(kind.ending for kind in KINDS)
