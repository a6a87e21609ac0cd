"""Videos of cameras for LeRobot, by PyAV; and what is lost by them."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vla_store.errors import MachineError, OptionError
from vla_store.extras import needed

Array = np.ndarray[Any, Any]

PIXELS = "yuv420p"
KEY_FRAMES = 2  # one in so many pictures: LeRobot seeks to single ones
CODECS = {  # by name: the encoder's, and its options; of those of LeRobot's own writer
    "av1": ("libsvtav1", {"crf": "30", "preset": "8"}),
    "h264": ("libx264", {"crf": "18", "preset": "medium"}),
}
SAMPLED = 32  # pictures of a camera that are compared with what the video gives


def codec_for(version: str) -> str:
    """Return the name of the codec: AV1 where there is one for v3.0, as LeRobot has it; H.264 for v2.1, which GR00T decodes.

    Raises MachineError.
    """
    av = needed("av", "lerobot")
    for name in ("h264", "av1") if version == "v2.1" else ("av1", "h264"):
        if CODECS[name][0] in av.codecs_available:
            return name
    raise MachineError(
        "PyAV has no encoder of videos here",
        expected=" or ".join(each for each, _ in CODECS.values()),
        hint="leave out --video",
    )


def check_size(field: str, shape: tuple[int, ...]) -> None:
    """Refuse pictures that no video holds. Raises OptionError."""
    if shape[2] != 3 or shape[0] % 2 or shape[1] % 2:
        raise OptionError(
            "a camera cannot be a video",
            field=field,
            expected="pictures of three channels, with an even height and width",
            found=f"{shape[0]} x {shape[1]} of {shape[2]}",
            hint=f"leave out video (--video), or leave the field out: exclude=[{field!r}] (--exclude {field})",
        )


class VideoFile:
    """A video that grows; its pictures are (H, W, 3) of uint8. count, nbytes: how many pictures and encoded bytes it has by now.

    Parameters
    ----------
    path
        The file to write.
    shape
        Shape of a picture.
    fps
        Pictures a second.
    codec
        One of CODECS.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], fps: float, codec: str) -> None:
        av = needed("av", "lerobot")
        os.environ.setdefault("SVT_LOG", "1")  # else that encoder writes a page about itself to stderr; 1: errors
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.count, self.nbytes = path, 0, 0
        encoder, options = CODECS[codec]
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1000), options=options)
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt = PIXELS
        self._stream.codec_context.gop_size = KEY_FRAMES
        open_as_usual(self._stream.codec_context)

    def write(self, pictures: Array) -> None:
        """Append (n, H, W, 3) pictures."""
        av = needed("av", "lerobot")
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.count
            self.count += 1
            self._mux(frame)

    def close(self) -> None:
        """Write the rest."""
        if self._stream is not None:
            self._mux(None)
            self._stream = None
            self._container.close()

    def _mux(self, frame: Any) -> None:
        stream, self._stream = self._stream, None  # of what failed nothing is closed: FFmpeg would crash
        packets = stream.encode(frame)
        self.nbytes += sum(packet.size for packet in packets)
        self._container.mux(packets)
        self._stream = stream


def open_as_usual(encoder: Any) -> None:
    """Open an encoder without what SVT-AV1 does as root: its threads, and the one that calls it, become real-time ones (SCHED_FIFO),
    for as long as they live, and nothing else runs on the machine meanwhile.

    encoder: PyAV's codec context.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        encoder.open()
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    encoder.open()
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            if os.sched_getscheduler(thread) == os.SCHED_FIFO != policy:
                os.sched_setscheduler(thread, policy, parameters)


def loss(path: Path, pictures: Array) -> tuple[float, int]:
    """Return the mean and the largest difference, in grey levels, of the first pictures of a video from what they were made of."""
    with needed("av", "lerobot").open(str(path)) as container:
        frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        apart = [np.abs(frame.astype(np.int16) - picture) for frame, picture in zip(frames, pictures)]
    return float(np.mean(apart)), int(np.max(apart))


def info(shape: tuple[int, ...], fps: float, codec: str) -> dict[str, Any]:
    """Return what LeRobot's info.json says of a video."""
    return {
        "video.height": shape[0],
        "video.width": shape[1],
        "video.codec": codec,
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": shape[2],
        "has_audio": False,
    }
