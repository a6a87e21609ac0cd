"""Draw sample.png, the picture at the top of the README: an episode, and one training sample out of it.

python docs/sample.py STORE draws it anew; STORE is built from the LIBERO demonstrations. It needs matplotlib and Pillow.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from PIL import Image

from vla_store import Samples, open_store

EPISODE, STEP = 7, 74
CHUNK = 16
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
PICTURES = 10  # of the episode
WIDTH, HEIGHT = 11.0, 4.05  # inches
INK, SOFT, LINE, SEEN, DONE = "#1d2430", "#5c6675", "#cfd5de", "#1f5fa8", "#d1652a"


def draw(axes: Any, steps: Any, actions: Any) -> None:
    """Draw where the hand is told to go, and the gripper."""
    for column, colour in enumerate(("#7f8ea3", "#a9b4c4", "#5c6675")):
        axes.plot(steps, actions[:, column], color=colour, linewidth=1.0)
    axes.plot(steps, actions[:, 6] * 1.05, color="#2e8b57", linewidth=1.2, drawstyle="steps-mid")


def main(store_path: str) -> None:
    """Draw the sample of step STEP of EPISODE."""
    store = open_store(store_path)
    windows: dict[str, Any] = {CAMERAS[0]: [-1, 0], CAMERAS[1]: [-1, 0], "robot_states": 0, "actions": range(CHUNK)}
    samples = Samples(store, windows=windows, alignment="causal", images="upright")
    episode = store.episodes[EPISODE]
    number = next(n for n in range(len(samples)) if (samples[n]["episode"], samples[n]["step"]) == (EPISODE, STEP))
    sample = samples[number]
    actions = store.read("actions", range(episode.start, episode.start + episode.length))
    steps = np.linspace(0, episode.length - 1, PICTURES).round().astype(int)
    rows = [episode.start + int(step) for step in steps]
    strip = Samples(store, windows={CAMERAS[0]: 0}, rows=rows, images="upright").batch(range(PICTURES))[CAMERAS[0]]

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=150, facecolor="white")

    def axes(x: float, y: float, wide: float, high: float) -> Any:
        """Axes at (x, y) inches from the top left."""
        return figure.add_axes((x / WIDTH, 1 - (y + high) / HEIGHT, wide / WIDTH, high / HEIGHT))

    def text(x: float, y: float, words: str, colour: str = SOFT, **how: Any) -> None:
        figure.text(x / WIDTH, 1 - y / HEIGHT, words, color=colour, va="top", **{"fontsize": 9, **how})

    left, wide = 0.12, WIDTH - 0.24
    side = wide / PICTURES
    half = (episode.length - 1) / (PICTURES - 1) / 2
    text(left, 0.06, f"an episode of {episode.length} steps: “{episode.text}”", INK, fontsize=11)
    for n in range(PICTURES):
        picture = axes(left + n * side + 0.02, 0.32, side - 0.04, side - 0.04)
        picture.imshow(strip[n])
        picture.set_axis_off()
    curves = axes(left, 0.36 + side, wide, 0.74)
    curves.set_xlim(-half, episode.length - 1 + half)
    draw(curves, np.arange(episode.length), actions)
    curves.axvspan(STEP - 0.5, STEP + CHUNK - 0.5, color=DONE, alpha=0.22, linewidth=0)
    curves.axvspan(STEP - 2.5, STEP - 0.5, color=SEEN, alpha=0.45, linewidth=0)
    curves.set_ylim(-1.2, 1.2)
    curves.set_axis_off()

    top = 2.47
    figure.patches.append(
        Rectangle((left / WIDTH, 0.06 / HEIGHT), wide / WIDTH, 1 - (top + 0.06) / HEIGHT, transform=figure.transFigure,
                  facecolor="#f4f6f9", edgecolor=LINE, linewidth=0.8, zorder=-1)
    )  # fmt: skip
    text(left + 0.14, top + 0.1, f"dataset[{number}]", INK, fontsize=13, family="monospace", weight="bold")
    text(
        left + 0.14,
        top + 0.44,
        f"step {STEP} of episode {EPISODE}:\none row of an index,\none read a field,\none decode a frame",
        fontsize=9.5,
    )
    x = left + 2.1
    for camera in CAMERAS:
        text(x, top + 0.08, f"{camera} [-1, 0]", SEEN, family="monospace")
        for n in range(2):
            picture = axes(x + n * 1.08, top + 0.3, 1.04, 1.04)
            picture.imshow(sample[camera][n])
            picture.set_xticks([])
            picture.set_yticks([])
            for spine in picture.spines.values():
                spine.set_color(SEEN)
        x += 2.3
    text(x, top + 0.08, f"actions range({CHUNK})", DONE, family="monospace")
    text(x, top + 1.36, "and robot_states, the task's text", SOFT, fontsize=8)
    chunk = axes(x, top + 0.3, WIDTH - left - x - 0.14, 1.04)
    draw(chunk, np.arange(CHUNK), sample["actions"])
    chunk.set_facecolor("#f8ddd0")
    chunk.set_ylim(-1.2, 1.2)
    chunk.set_xticks([])
    chunk.set_yticks([])
    for spine in chunk.spines.values():
        spine.set_color(DONE)
    for at, target, place, colour in ((STEP - 1.5, x - 2.44, 1.0, SEEN), (STEP + CHUNK / 2, x + 0.9, 1.0, DONE)):
        figure.add_artist(
            ConnectionPatch((at, -1.2), (target / WIDTH, 1 - (top + 0.06) / HEIGHT), curves.transData, figure.transFigure,
                            color=colour, linewidth=1.2, arrowstyle="-|>", shrinkB=1, alpha=place)
        )  # fmt: skip
    text(left, 0.36 + side + 0.29, "actions", SOFT, fontsize=8.5)
    file = io.BytesIO()
    figure.savefig(file)
    # 256 colours take a third of the bytes of all, and nobody sees it.
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        Path(__file__).with_suffix(".png"), optimize=True
    )


if __name__ == "__main__":
    with rc_context():
        main(sys.argv[1])
