"""LIBERO's HDF5 files as an `EpisodeSource`: the only module that knows the layout `data/demo_<number>`.

Arrays are trusted over the counts that attributes claim; everything else that does not fit is refused with file, demo and
dataset. May import the other modules of this folder but kinds and find, format and errors.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from vla_store.errors import SourceError
from vla_store.format.attributes import Attributes, encode_value
from vla_store.format.schema import MAX_FPS, NUMERIC_DTYPES
from vla_store.format.skipped import Skipped
from vla_store.sources.conventions import (
    LIKE_COSMOS,
    LIKE_REGENERATED,
    LIKE_ROBOMIMIC,
    observation_of,
    orientation_of,
)
from vla_store.sources.datasets import LEAVE_OUT
from vla_store.sources.hdf5 import Hdf5Source, fields_of, is_robomimic
from vla_store.sources.hdf5_file import attributes_of, check_own, count_of, dtype_of, is_text, names_in, naming, opened
from vla_store.sources.language import NAMES, stated
from vla_store.sources.overrides import Choice
from vla_store.sources.protocol import MEND, Array, EpisodeInfo, SourceInfo, TaskInfo, reason_of
from vla_store.text import counted

MASKS = "mask"

_DEMO = re.compile(r"demo_(0|[1-9][0-9]{0,14})\Z")
_SCENE = re.compile(r"^.*SCENE[0-9]+_")
_OTHER_LAYOUT = "other recordings are read by a layout: `vla-store layout FILE > robot.toml`, then --layout robot.toml"
_LEAVE_OUT = f"{MEND}; {_OTHER_LAYOUT}"


@dataclass(frozen=True)
class LiberoFile(Hdf5Source):
    """One HDF5 file of demonstrations of one task, in groups /data/demo_<number>."""

    def scan(self) -> SourceInfo:
        with opened(self.path) as file:
            data, names = _demos(file, self.path, self.choice)
            warnings: list[str] = []
            skipped: list[Skipped] = []
            episodes: list[EpisodeInfo] = []
            encoded: set[str] = set()
            noted: dict[str, list[str]] = {}
            text = stated(_attributes_of(file) | _attributes_of(data), warnings.append)
            for name in names:
                try:
                    with naming(self.path, name):
                        episode, found = _scan_demo(self, data, name, text, warnings, noted)
                        episodes.append(episode)
                        encoded |= found
                except SourceError as error:
                    if not self.skip_bad:
                        error.hint = error.hint or _LEAVE_OUT
                        raise
                    skipped.append(Skipped(self.suite, self.file, name, reason_of(error)))
            if not episodes:
                raise SourceError("every demonstration of the file is bad", file=self.path, reason=skipped[0].reason)
            warnings += [f"{text} ({_several(demos)})" for text, demos in noted.items()]
            _check_counts(data, episodes, warnings)
            _check_masks(file, names, self.choice, warnings)
            task = Path(self.path).stem.removesuffix("_demo")
            instruction = _instruction(data, self.path)
            like = _looks_like(data, episodes[0], bool(encoded))
            _check_text(data, task, instruction, episodes, warnings)
            return self.info(
                episodes,
                TaskInfo(task, task_text(task), instruction),
                warnings,
                encoded=encoded,
                skipped=skipped,
                fps=_rate(data),
                orientation=lambda: orientation_of(data.attrs, self.path, like),
                observation=lambda: observation_of(self._joints(data, episodes), self.path, like),
            )

    def _joints(self, data: h5py.Group, episodes: list[EpisodeInfo]) -> Iterator[tuple[Array, Array]]:
        """Give the arm's joints of four demonstrations; what cannot be read of one is passed over where it will be left out."""
        left = 4
        for episode in episodes:
            try:
                with naming(self.path, f"demo_{episode.number}"):
                    pair = _joints(data, episode)
            except SourceError:
                if not self.skip_bad:
                    raise
                continue
            if pair is not None:
                yield pair
            left -= 1
            if not left:
                return

    def beside(self, file: h5py.File) -> list[str]:
        top = names_in(file)
        groups = [name for name in ("data", MASKS) if isinstance(file.get(name), h5py.Group)]
        return [*(f"/{name}" for name in top), *(f"/{name}/{each}" for name in groups for each in names_in(file[name]))]

    def demonstrations(self, file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            return
        for name in _kept(data, self.choice):
            with contextlib.suppress(KeyError, OSError, RuntimeError, ValueError):  # its own scan says what is wrong
                if isinstance(group := data[name], h5py.Group):
                    yield f"/data/{name}", group

    def group(self, number: int) -> str:
        return f"/data/demo_{number}"

    def attributes(self, number: int | None) -> Attributes:
        with opened(self.path) as file:
            if number is None:
                own = {path: attributes_of(file[path], path, self.path) for path in ("/", "/data")}
                return own | _mask_attributes(file, self.path, self.choice)
            with naming(self.path, f"demo_{number}"):
                return self.attributes_below(file, self.group(number))


def task_text(task: str) -> str:
    """Return the instruction that a task's name spells, as LIBERO's evaluations use it: a leading ..._SCENE<n>_ is cut."""
    return _SCENE.sub("", task).replace("_", " ")


# Checking


def _demos(file: h5py.File, path: str, choice: Choice) -> tuple[h5py.Group, list[str]]:
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        raise SourceError(
            "no demonstrations in the file",
            file=path,
            expected="a group /data",
            found=", ".join(names_in(file)[:8]) or "nothing",
            hint=f"{_OTHER_LAYOUT}; --skip-bad leaves the file out",
        )
    check_own(file, data, "/data")
    strange = [f"/{name}" for name in names_in(file) if name not in ("data", MASKS)] + [
        f"/data/{name}" for name in names_in(data) if not _DEMO.match(name)
    ]
    strange = [each for each in strange if choice.excluding(each) is None]
    if strange:
        raise SourceError(
            "the file holds more than demonstrations",
            file=path,
            expected="only groups /data/demo_<number>, and robomimic's /mask",
            found=", ".join(sorted(strange)[:8]),
            hint=f"--exclude {sorted(strange)[0]} leaves it out of the store, where it is not wanted; {_OTHER_LAYOUT}",
        )
    names = sorted(_kept(data, choice), key=lambda name: int(name[5:]))
    if not names:
        raise SourceError(
            "no demonstrations in the file",
            file=path,
            expected="groups /data/demo_<number>",
            found="none that --exclude leaves" if len(data) else "an empty /data",
            hint="leave it out, with --skip-bad or by its name",
        )
    inside = _inside(data, names)
    if not any("obs" in each for each in inside) and any("actions" in each for each in inside):
        raise SourceError(
            "raw demonstrations without observations",
            file=path,
            expected="obs/ with camera images in every demo",
            found=", ".join(inside[0]),
            hint="states and actions alone hold no pictures, and nothing is simulated here: play them back first "
            "(LIBERO's scripts/create_dataset.py, or robomimic's dataset_states_to_obs.py)",
        )
    return data, names


def _kept(data: h5py.Group, choice: Choice) -> list[str]:
    """Return the names of the demonstrations that the caller does not leave out."""
    return [name for name in names_in(data) if _DEMO.match(name) and choice.excluding(f"/data/{name}") is None]


def _inside(data: h5py.Group, names: list[str]) -> list[list[str]]:
    """List the members of demonstrations, up to the first that has obs/; of what cannot be read, its own scan tells."""
    found: list[list[str]] = []
    for name in names:
        with contextlib.suppress(KeyError, OSError, RuntimeError, SourceError, ValueError):
            if isinstance(group := data.get(name), h5py.Group):
                found.append(names_in(group))
                if "obs" in found[-1]:
                    break
    return found


def _scan_demo(
    source: LiberoFile,
    data: h5py.Group,
    name: str,
    text: str | None,
    warnings: list[str],
    noted: dict[str, list[str]],
) -> tuple[EpisodeInfo, set[str]]:
    """Return what a demonstration holds, and which of its fields are encoded pictures.

    text: the instruction that the file states for all of them. noted: what may be noticed of many, with whom.
    """
    demo = data[name]
    inside = names_in(demo) if isinstance(demo, h5py.Group) else []
    if "actions" not in inside or not isinstance(demo["actions"], h5py.Dataset):
        raise SourceError(
            "a demonstration without actions",
            expected="a dataset actions (T, n)",
            found=(", ".join(inside) or "nothing") if isinstance(demo, h5py.Group) else "no group",
        )
    check_own(data, demo, f"/data/{name}")

    def note(text: str) -> None:
        noted.setdefault(text, []).append(name)

    steps, fields, encoded = fields_of(demo, f"/data/{name}", source, _role, note)
    declared = count_of(demo, "num_samples")
    if declared not in (None, steps):
        warnings.append(f"{name}: num_samples says {declared}, the arrays have {counted(steps, 'step')}")
    with naming(data.file.filename, dataset="rewards"):
        rewards = demo.get("rewards")
        last = rewards[-1] if _is_numeric(rewards) and rewards.shape == (steps,) else math.nan
        success = -1 if math.isnan(last) else int(last >= 1)
    own = stated(_texts(demo, f"/data/{name}", source.choice), note)
    return EpisodeInfo(int(name[5:]), steps, fields, success, own or text), encoded


def _texts(demo: h5py.Group, top: str, choice: Choice) -> dict[str, Any]:
    """Return attributes of a demonstration, and texts beside its data, that may state its instruction."""
    there = [name for name in NAMES if not choice.excluding(f"{top}/{name}", name)]
    nodes = {name: node for name in there if isinstance(node := demo.get(name), h5py.Dataset)}
    return {name: node[()] for name, node in nodes.items() if is_text(dtype_of(node))} | _attributes_of(demo)


def _attributes_of(group: h5py.Group) -> dict[str, Any]:
    """Return the attributes that may state an instruction."""
    return {name: group.attrs[name] for name in NAMES if name in group.attrs}


def _several(demos: list[str]) -> str:
    return demos[0] + (f" and {len(demos) - 1} more" if len(demos) > 1 else "")


def _role(path: str) -> str:
    # robomimic's next_obs/ is what the action led to; it is seen, so its pictures are cameras.
    return "observation" if path.startswith(("obs/", "next_obs/")) or path == "robot_states" else "step"


def _check_counts(data: h5py.Group, episodes: list[EpisodeInfo], warnings: list[str]) -> None:
    """Warn of counts that are not those of the file; steps are not counted where a demonstration is left out."""
    demos = sum(1 for name in names_in(data) if _DEMO.match(name))
    total = sum(each.steps for each in episodes) if len(episodes) == demos else None
    for name, real in (("num_demos", demos), ("total", total)):
        declared = count_of(data, name)
        if declared not in (None, real) and real is not None:
            warnings.append(f"{name} says {declared}, the arrays have {real}")


# What the file says of itself


def _instruction(data: h5py.Group, path: str) -> str | None:
    text = data.attrs.get("problem_info")
    if text is None:
        return None
    try:
        value = json.loads(text)["language_instruction"]
        joined = "".join(value) if isinstance(value, list) else value
        instruction: str = joined.strip().strip('"').strip()
        if not instruction.encode():
            raise ValueError("an empty instruction")
        return instruction
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise SourceError(
            "the attribute problem_info is broken",
            file=path,
            expected='JSON with "language_instruction"',
            found=repr(text)[:120],
            hint="remove the attribute to take the instruction from the file name, or mend it",
        ) from None


def _rate(data: h5py.Group) -> float | None:
    """Return the steps a second of the environment that recorded the demonstrations; None where it is not said."""
    try:
        rate = json.loads(data.attrs["env_args"])["env_kwargs"]["control_freq"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    is_rate = isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 < rate <= MAX_FPS
    return float(rate) if is_rate else None


def _check_text(
    data: h5py.Group, task: str, instruction: str | None, episodes: list[EpisodeInfo], warnings: list[str]
) -> None:
    """Warn where the file's name stands for an instruction, as only LIBERO's do: others have what robomimic writes into them."""
    without = [f"demo_{each.number}" for each in episodes if each.text is None]
    others = "env_args" in data.attrs or is_robomimic(episodes[0].fields)
    if without and instruction is None and (others or len(without) < len(episodes)):
        warnings.append(
            f"no instruction is stated; the text is from the file's name: {task_text(task)!r} ({_several(without)})"
        )


def _looks_like(data: h5py.Group, episode: EpisodeInfo, is_encoded: bool) -> str | None:
    """Return the best guess at the file's origin, for hints alone."""
    if is_encoded:
        return LIKE_COSMOS
    if is_robomimic(episode.fields):
        return LIKE_ROBOMIMIC
    return LIKE_REGENERATED if not data.attrs and "agentview_rgb" in episode.fields else None


def _joints(data: h5py.Group, episode: EpisodeInfo) -> tuple[Array, Array] | None:
    """Return the arm's joints in the simulator's states (time, then positions, the arm's first) and as observed."""
    demo = data[f"demo_{episode.number}"]
    observed = demo.get("obs/joint_states", demo.get("obs/robot0_joint_pos"))
    states = demo.get("states")
    if not _is_numeric(states) or not _is_numeric(observed) or episode.steps < 2:
        return None
    if states.ndim != 2 or states.shape[1] < 8 or observed.shape != (len(states), 7):
        return None
    return states[:, 1:8], observed[()]


def _is_numeric(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and dtype_of(node).name in NUMERIC_DTYPES


# robomimic's filter lists: /mask/<name> holds names of demonstrations


def _masks(file: h5py.File, choice: Choice) -> Iterator[tuple[str, h5py.Dataset]]:
    if MASKS not in names_in(file) or choice.excluding(f"/{MASKS}"):
        return
    if not isinstance(masks := file.get(MASKS), h5py.Group):
        raise SourceError(
            "/mask is not a group", found=masks or "a link that leads nowhere", hint=LEAVE_OUT.format("/mask")
        )
    for name, node in masks.items():
        if choice.excluding(f"/{MASKS}/{name}"):
            continue
        if not isinstance(node, h5py.Dataset) or node.ndim != 1 or not is_text(dtype_of(node)):
            raise SourceError(
                "a filter list is not a list of names",
                dataset=f"/mask/{name}",
                found=node,
                hint=LEAVE_OUT.format(f"/mask/{name}"),
            )
        check_own(file, node, f"/mask/{name}")
        yield name, node


def _check_masks(file: h5py.File, names: list[str], choice: Choice, warnings: list[str]) -> None:
    for mask, node in _masks(file, choice):
        missing = sorted({_text(each) for each in node[()]} - set(names))
        if missing:
            warnings.append(f"mask {mask} names {len(missing)} that the file has not: {', '.join(missing[:3])}"[:200])


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _mask_attributes(file: h5py.File, path: str, choice: Choice) -> Attributes:
    """Return the lists as arrays of strings, beside the attributes of their group; a list's own attributes by its path."""
    made: Attributes = {}
    for name, node in _masks(file, choice):
        made.setdefault("/mask", attributes_of(file[MASKS], "/mask", path))
        if name in made["/mask"]:
            raise SourceError(
                "a filter list and an attribute have one name",
                file=path,
                found=f"/mask/{name}",
                hint=LEAVE_OUT.format(f"/mask/{name}"),
            )
        made["/mask"][name] = encode_value(node[()])
        made[f"/mask/{name}"] = attributes_of(node, f"/mask/{name}", path)
    return made
