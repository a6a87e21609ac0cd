"""What an episode shows, whichever way it is drawn: its texts, clock, cameras and curves, and where it comes from. Reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vla_store.look.cameras import RANGE_STEPS, Camera, cameras_of
from vla_store.look.curves import Curves, curves_of
from vla_store.look.saying import convention_of, notes, rate_text, recorded_text
from vla_store.look.steps import DEFAULT_FPS, spread_steps
from vla_store.look.writing import name_of
from vla_store.reader import Store
from vla_store.reader.values import Episode, SourceConvention
from vla_store.text import counted, shown
from vla_store.types import Images


@dataclass(frozen=True)
class Scene:
    """An episode to show. fps: steps a second; has_fps: whether its source states that, else it is DEFAULT_FPS.
    segments: (first step, text) of stretches of steps with a text of their own. notes: (name, text) about it."""

    episode: Episode
    title: str
    under_title: str
    fps: float
    has_fps: bool
    segments: tuple[tuple[int, str], ...]
    cameras: tuple[Camera, ...]
    curves: Curves
    source: str
    notes: tuple[tuple[str, str], ...]

    @property
    def length(self) -> int:
        return self.episode.length

    @property
    def rate_note(self) -> str:
        """The rate, as people read it."""
        return rate_text(self.fps) + ("" if self.has_fps else ": assumed, the source states none")


def scene_of(store: Store, episode: Episode, images: Images, steps: Sequence[int] | None = None) -> Scene:
    """Gather what there is to show of an episode.

    steps: those of which the ranges of the numbers of depth cameras are taken; by default evenly spread ones.
    Raises OptionError, and what reading raises.
    """
    convention = convention_of(store, episode)
    if steps is None:
        steps = spread_steps(episode.length, RANGE_STEPS)
    curves = curves_of(store, episode)
    return Scene(
        episode=episode,
        title=shown(episode.text),
        under_title=_under_title(store, episode),
        fps=convention.fps or DEFAULT_FPS,
        has_fps=bool(convention.fps),
        segments=tuple((step, shown(text)) for step, text in store.segments(episode.episode)),
        cameras=cameras_of(store, episode, images, convention.orientation, steps),
        curves=curves,
        source=_source(store, episode),
        notes=tuple(_notes(store, episode, convention, images, curves)),
    )


def _under_title(store: Store, episode: Episode) -> str:
    task = next(each for each in store.tasks if (each.suite, each.name) == (episode.suite, episode.task))
    if episode.text != task.text:
        return f"an episode of the task {shown(task.name)}"
    differs = task.instruction is not None and task.instruction != task.text
    return f"in the file: {shown(task.instruction or '')}" if differs else ""


def _source(store: Store, episode: Episode) -> str:
    origin = store.provenance(episode.start)
    return f"{shown(episode.suite)}/{shown(episode.file)}, {origin.demo}"


def _notes(
    store: Store, episode: Episode, convention: SourceConvention, images: Images, curves: Curves
) -> Iterator[tuple[str, str]]:
    success = {True: "success", False: "no success", None: "success not known"}[episode.success]
    yield "source", f"{_source(store, episode)}: {counted(episode.length, 'step')}, {success}"
    last = episode.start + episode.length - 1
    yield (
        "store",
        f"{shown(name_of(store))}, episode {episode.episode:,} of {len(store.episodes):,}, rows {episode.start:,} to {last:,}; "
        f"content {store.fingerprint[:16]}, root {store.digest[:16]}",
    )
    yield from notes(store, episode)
    yield "recorded", recorded_text(convention, bool(store.cameras), images)
    if curves.idle is not None:
        yield (
            "no-ops",
            f"{int(curves.idle.sum()):,} of {counted(episode.length, 'step')}, by OpenVLA's rule: grey in the curves; nothing is left out",
        )
    if not store.cameras:
        yield "cameras", "none in this store"
    yield from curves.left_out
