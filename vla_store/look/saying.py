"""What sources said beside their data, for people: names and units of numbers, rates, and texts beside those of episodes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from vla_store.reader import Store
from vla_store.reader.values import Episode, SourceConvention, StoreField
from vla_store.text import counted, encoding_text, number_text, shown

MAX_SHOWN = 4  # texts of an episode

# How robosuite's controller of the hand's pose (OSC_POSE), which LIBERO and robomimic use, reads the seven numbers of an action.
ACTIONS = "actions"
POSE_ACTION = ("x", "y", "z", "rotation x", "rotation y", "rotation z", "gripper")
FINGERS = ("gripper_states", "robot0_gripper_qpos")  # only their files have one of these


def labels_of(names: Sequence[str], units: Sequence[str]) -> list[str]:
    """Return what each number of a field is called, as "x (m)"; [] where neither names nor units are known."""
    pairs = itertools.zip_longest(names, units, fillvalue="")
    return [f"{shown(name)} ({shown(unit)})".lstrip() if unit else shown(name) for name, unit in pairs]


def fingers_of(store: Store) -> StoreField | None:
    """Return the field of the gripper's fingers by which a store of LIBERO's or robomimic's is known; None for other robots'."""
    fingers = next((store.fields[name] for name in FINGERS if name in store.fields), None)
    return fingers if fingers is not None and fingers.kind == "fixed" and len(fingers.shape) == 1 else None


def is_action(field: StoreField) -> bool:
    """Return True if a field holds actions, by its name."""
    return field.role == "step" and not field.is_camera and re.search("action", field.name, re.I) is not None


def has_pose_actions(store: Store, field: StoreField) -> bool:
    """Return True if a field holds actions as LIBERO's and robomimic's controller reads them: POSE_ACTION."""
    return field.name == ACTIONS and field.shape == (len(POSE_ACTION),) and fingers_of(store) is not None


def convention_of(store: Store, episode: Episode) -> SourceConvention:
    """Return how the file of an episode was recorded."""
    own = (episode.suite, episode.file)
    return next(each for each in store.conventions.sources if (each.suite, each.file) == own)


def number_names(store: Store, field: StoreField) -> list[str]:
    """Return what each number of a step of this field is called: as its source says, else as is known; [] where nothing is."""
    said = labels_of(field.names, field.units)
    return said if said or not has_pose_actions(store, field) else list(POSE_ACTION)


def rate_text(fps: float | None) -> str:
    """20.0 -> "20 steps a second"; "" for None."""
    return "" if fps is None else f"{number_text(fps)} steps a second"


def recorded_text(convention: SourceConvention, has_pictures: bool, shown_as: str = "") -> str:
    """Return how a source recorded its pictures and observations, and at which rate. shown_as: how pictures are turned, if that is said."""
    codec, decoder = (shown(each) for each in (encoding_text(convention.codec), convention.decoder))
    decoded = f", decoded from {codec} by {decoder}" if decoder else ""
    turned = f", shown {shown_as.replace('_', ' ')}" if shown_as else ""
    pictures = f"pictures {convention.orientation}{decoded}{turned}; " if has_pictures else ""
    seen = ": the picture of a step shows what its action did" if convention.observation == "after" else ""
    rate = f"; {rate_text(convention.fps)}" if convention.fps else ""
    return f"{pictures}observations {convention.observation} the action of the same step{seen}{rate}"


def texts_json(store: Store) -> dict[str, Any]:
    """Return what texts a store has beside those of its episodes, for programs. Reads documents alone."""
    found = [document.wordings for _, document in store.parts if document.wordings]
    return {
        "instructions": sum(each.instructions for each in found),
        "kinds": list(store.instruction_kinds),
        "steps": any(each.has_steps for each in found),
        "texts": sum(each.texts for each in found),
    }


def texts_notes(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) about each thing that `texts_json` tells of."""
    if told["kinds"]:
        kinds = f"kind{'s' if len(told['kinds']) > 1 else ''} {', '.join(map(shown, told['kinds']))}"
        yield "instructions", f"episodes have {told['instructions']:,} more, of the {kinds}"
    if told["steps"]:
        yield "segments", "steps of some episodes have a text of their own"


def notes(store: Store, episode: Episode) -> Iterator[tuple[str, str]]:
    """Yield (name, text) about the further texts of an episode."""
    for kind, texts in store.instructions(episode.episode).items():
        yield "wordings", f"{shown(kind)}: {_listed([shown(each) for each in texts])}"
    segments = store.segments(episode.episode)
    if segments:
        yield "segments", _listed([f"from step {step} {shown(text) if text else 'none'}" for step, text in segments])


def _listed(texts: list[str]) -> str:
    more = f"; and {counted(len(texts) - MAX_SHOWN, 'other')}" if len(texts) > MAX_SHOWN else ""
    return "; ".join(texts[:MAX_SHOWN]) + more
