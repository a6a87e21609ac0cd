"""Videos: which frames a file has, and its frames as rows, decoded once and in order by PyAV.

Owns the decoders that are open. Frame n is the n-th in the order in which they are shown, as LeRobot counts; one is found by going
on from the frame before, or else from the keyframe before it. May import extras, protocol and parquet (for errors) of this folder, and errors.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from vla_store.errors import SourceError
from vla_store.extras import needed
from vla_store.format.schema import MAX_FRAME_BYTES
from vla_store.sources.parquet import DAMAGED, EXTRA, reading, stamp_of
from vla_store.sources.protocol import CLOSERS, Array, FieldSpec
from vla_store.text import counted

IDLE_DECODERS = 4 + (os.cpu_count() or 1)
DECODER_FRAMES = 24  # that a decoder of AV1 holds at most, and its own tables
DECODER_NBYTES = 8 << 20


@dataclass(frozen=True)
class Head:
    """What a video says of itself. codec: FFmpeg's name of it. pixels: FFmpeg's name of how they lie. decoder: what decodes it here.

    frames, seconds: how many it has, and how long they last; 0 where it does not say so.
    """

    codec: str
    pixels: str
    decoder: str
    height: int
    width: int
    frames: int
    seconds: float

    @property
    def spec(self) -> FieldSpec:
        return FieldSpec("uint8", (self.height, self.width, 3), "observation")

    @property
    def decoder_nbytes(self) -> int:
        """The most memory that an open decoder takes."""
        return DECODER_NBYTES + DECODER_FRAMES * self.height * self.width * 3


@dataclass(frozen=True)
class Video:
    """Which frames a video has.

    times: of its frames, ascending, in units of `unit` seconds. keys: of the frames that decoding may begin at, ascending, the time
    and the place in the order of decoding.
    """

    unit: Fraction
    times: Array = field(repr=False)
    keys: tuple[tuple[int, int], ...] = field(repr=False)

    @property
    def frames(self) -> int:
        return len(self.times)

    def seconds(self, frame: int) -> float:
        """Return when a frame is shown, after the first one."""
        return float((int(self.times[frame]) - int(self.times[0])) * self.unit)

    def key_before(self, frame: int) -> tuple[int, int]:
        """Return the number of the keyframe from which a frame is decoded, and where that lies in the order of decoding."""
        time, place = self.keys[max(0, bisect.bisect_right(self.keys, (int(self.times[frame]), 1 << 62)) - 1)]
        return int(np.searchsorted(self.times, time)), place


def head_of(path: str) -> Head:
    """Describe a video by its head alone, and where that does not say how many frames there are, by those of its packets."""
    with reading(path):
        return _head(path, *stamp_of(path))


def video_of(path: str) -> Video:
    """Return which frames a video has, by the heads of its packets, of which none is decoded. Raises SourceError."""
    with reading(path):
        return _video(path, *stamp_of(path))


def frames(path: str, start: int, stop: int, fps: float) -> Array:
    """Return frames [start, stop) as red, green and blue. Raises SourceError where they are not shown at such a rate."""
    with reading(path):
        video, head = video_of(path), head_of(path)
        check_frames(video.frames, stop)
        for frame in (start, stop - 1):
            check_time(frame, video.seconds(frame), fps)
        out: Array = np.empty((stop - start, *head.spec.shape), np.uint8)
        with _decoder(path, start) as decoder:
            decoder.read_into(out, start)
        return out


def check_frames(there: int, stop: int) -> None:
    """Raise SourceError for a video that has not so many frames."""
    if stop > there:
        raise SourceError(
            "a video has fewer frames than rows say",
            expected=f"at least {counted(stop, 'frame')}",
            found=counted(there, "frame"),
            hint=DAMAGED,
        )


def check_time(frame: int, seconds: float, fps: float, most: float = 0.5) -> None:
    """Raise SourceError for a frame that is not shown at the time of its row, to so many frames at most."""
    if abs(seconds * fps - frame) > most:
        raise SourceError(
            "frames of a video are not at the times of their rows",
            frame=frame,
            expected=f"{frame / fps:.4f} s, at {fps:g} frames a second (info.json)",
            found=f"{seconds:.4f} s",
            hint=f"mend fps in info.json, or the video; {DAMAGED}",
        )


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a file, and give it with its video."""
    av = needed("av", EXTRA)
    try:
        container = av.open(path)
    except av.error.InvalidDataError as error:
        found = f"{os.path.getsize(path)} bytes: {error.strerror}"
        raise SourceError("a video is cut short, or is none", found=found, hint=DAMAGED) from None
    with container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise SourceError("a file holds no video that FFmpeg knows", found=container.format.name, hint=DAMAGED)
        yield container, container.streams.video[0]


@functools.lru_cache(maxsize=128)
def _head(path: str, mtime_ns: int, size: int) -> Head:
    av = needed("av", EXTRA)
    with _opened(path) as (_, stream):
        context = stream.codec_context
        height, width = context.height, context.width
        if height * width * 3 > MAX_FRAME_BYTES:
            raise SourceError("a picture is too large", expected=f"{MAX_FRAME_BYTES} bytes", found=f"{width}x{height}")
        return Head(
            context.codec.canonical_name,
            str(context.pix_fmt),
            f"PyAV {av.__version__}, {context.codec.name} of FFmpeg {'.'.join(map(str, av.library_versions['libavcodec']))}",
            height,
            width,
            stream.frames or _video(path, mtime_ns, size).frames,
            float((stream.duration or 0) * stream.time_base),
        )


@functools.lru_cache(maxsize=128)
def _video(path: str, mtime_ns: int, size: int) -> Video:
    with _opened(path) as (container, stream):
        times: list[int] = []
        keys: list[tuple[int, int]] = []
        for packet in container.demux(stream):
            if packet.pts is None or packet.size == 0 or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise SourceError(
                    "a video is cut short", found=f"{counted(len(times), 'frame')} of {stream.frames}", hint=DAMAGED
                )
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if not times or not keys or stream.frames > len(times):
            raise SourceError(
                "a video is cut short", expected=counted(stream.frames, "frame"), found=len(times), hint=DAMAGED
            )
        return Video(stream.time_base, np.sort(np.array(times, np.int64)), tuple(sorted(keys)))


class _Decoder:
    """An open video. at: number of the frame that it gives next."""

    def __init__(self, path: str, video: Video) -> None:
        self._path, self._video = path, video
        self._open()

    def _open(self) -> None:
        self._container = needed("av", EXTRA).open(self._path)
        self._stream = self._container.streams.video[0]
        # Units of work are decoded side by side: threads of FFmpeg's own would only hold more frames.
        self._stream.codec_context.thread_count = 1
        self._frames = self._container.decode(self._stream)
        self.at, self._has_sought = 0, False

    def close(self) -> None:
        self._container.close()

    def read_into(self, out: Array, start: int) -> None:
        self._go_to(start)
        stop = start + len(out)
        while self.at < stop:
            frame = next(self._frames, None)
            number = self.at if frame is None else self._number(frame)
            if number < self.at:
                continue  # before the first one that is wanted
            if number > self.at and self._has_sought:  # some files call keyframes what one cannot begin at
                self.close()
                self._open()
                continue
            if frame is None or number > self.at or frame.is_corrupt:
                raise SourceError("a frame of a video does not decode", frame=self.at, hint=DAMAGED)
            if number >= start:
                if (frame.height, frame.width) != out.shape[1:3]:
                    raise SourceError(
                        "pictures of different size in one camera",
                        frame=number,
                        expected=out.shape[1:3],
                        found=(frame.height, frame.width),
                    )
                out[number - start] = frame.to_ndarray(format="rgb24")
            self.at, self._has_sought = number + 1, False

    def _go_to(self, frame: int) -> None:
        key, place = self._video.key_before(frame)
        if key <= self.at <= frame:
            return
        if self.at > 0 or key > 0:
            self._container.seek(place, stream=self._stream, backward=True)
            self._frames = self._container.decode(self._stream)
            self._has_sought = True
        self.at = key

    def _number(self, frame: Any) -> int:
        found = int(np.searchsorted(self._video.times, frame.pts))
        if found >= self._video.frames or self._video.times[found] != frame.pts:
            raise SourceError("a video has a frame at an unknown time", found=frame.pts, hint=DAMAGED)
        return found


_LOCK = threading.Lock()
_idle: list[tuple[tuple[Any, ...], _Decoder]] = []  # in the order of their last use


@contextlib.contextmanager
def _decoder(path: str, start: int) -> Iterator[_Decoder]:
    """Lend the idle decoder of a file that is nearest before a frame, or a new one; it is the caller's alone meanwhile."""
    key = (path, *stamp_of(path), os.getpid())
    with _LOCK:
        before = [number for number, (other, each) in enumerate(_idle) if other == key and each.at <= start]
        taken = _idle.pop(max(before, key=lambda number: _idle[number][1].at))[1] if before else None
    decoder = taken or _Decoder(path, video_of(path))
    try:
        yield decoder
    except BaseException:
        decoder.close()  # who knows where it is
        raise
    with _LOCK:
        _idle.append((key, decoder))
        gone = _idle[:-IDLE_DECODERS]
        del _idle[:-IDLE_DECODERS]
    for _, each in gone:
        each.close()


def _close() -> None:
    with _LOCK:
        gone = _idle[:]
        _idle.clear()
    for _, each in gone:
        each.close()


CLOSERS += [_close, _head.cache_clear, _video.cache_clear]
