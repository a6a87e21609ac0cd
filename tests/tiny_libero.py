"""Tiny HDF5 files in LIBERO's published layout, whose values say which row they are.

Every float is `value(field, episode, step, component)`, where `episode` is the demo's place in the store (suites by name,
files by name, demos by number), so a wrong row names itself: see `which`. The top left pixel of every picture is
(episode, step, camera). `episode_arrays` computes the same arrays without h5py, for tests that have no source at hand.

Broken variants: `BROKEN` maps a name to a function that spoils one file of a written folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = ("actions", "states", "robot_states", "ee_states", "ee_pos", "ee_ori", "joint_states", "gripper_states")
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
WIDTHS = {
    "actions": 7,
    "robot_states": 9,
    "ee_states": 6,
    "ee_pos": 3,
    "ee_ori": 3,
    "joint_states": 7,
    "gripper_states": 2,
}
OUTSIDE_OBS = ("actions", "states", "robot_states", "rewards", "dones")


@dataclass(frozen=True)
class TinyFile:
    """One file: <suite>/<task>_demo.hdf5. lengths: steps of each demo by its number, in the order they are written."""

    suite: str
    task: str
    states_width: int
    lengths: dict[int, int]

    @property
    def name(self) -> str:
        return f"{self.task}_demo.hdf5"


@dataclass(frozen=True)
class TinyEpisode:
    """One demo and its place in the store."""

    episode: int
    start: int  # its first row
    file: TinyFile
    number: int
    steps: int


# demo_10 sorts before demo_2 as text; one demo has a single step; numbers have gaps; widths differ within a suite;
# more than 64 rows, so that numeric arrays have several inner chunks.
SUITES = (
    TinyFile("libero_10", "LIVING_ROOM_SCENE2_put_both_the_cups_in_the_basket", 17, {0: 21, 2: 7, 10: 18}),
    TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 16, 1: 1, 2: 5}),
    TinyFile("libero_spatial", "pick_up_the_bowl_and_place_it_on_the_plate", 17, {0: 33, 1: 12}),
    TinyFile("libero_spatial", "pick_up_the_cup_and_place_it_on_the_plate", 14, {3: 9, 11: 15}),
)


def episodes(suites: Sequence[TinyFile] = SUITES) -> list[TinyEpisode]:
    """The demos in the store's order."""
    made: list[TinyEpisode] = []
    for file in sorted(suites, key=lambda each: (each.suite.encode(), each.name.encode())):
        for number, steps in sorted(file.lengths.items()):
            start = made[-1].start + made[-1].steps if made else 0
            made.append(TinyEpisode(len(made), start, file, number, steps))
    return made


def value(field: str, episode: int, step: int | np.ndarray, component: int | np.ndarray = 0) -> Any:
    """The number that stands for a component of a field at a step. Exact in float64; in float32 good to the step."""
    return FIELDS.index(field) * 1_000_000.0 + episode * 1_000.0 + step + component / 64


def which(number: float) -> str:
    """What a number made by `value` stands for, to read in a failed test."""
    whole = int(number // 1)
    field, rest = divmod(whole, 1_000_000)
    return f"{FIELDS[field]} of episode {rest // 1_000}, step {rest % 1_000}, component {round((number - whole) * 64)}"


def episode_arrays(
    each: TinyEpisode, *, observation: str = "after", depth: bool = False, height: int = 16, width: int = 24
) -> dict[str, np.ndarray]:
    """The arrays of one demo by their HDF5 path below it, e.g. "actions", "obs/agentview_rgb"."""
    steps = np.arange(each.steps)[:, None]
    made: dict[str, np.ndarray] = {}
    for field in FIELDS:
        components = np.arange(WIDTHS.get(field, each.file.states_width))[None]
        made[field if field in OUTSIDE_OBS else f"obs/{field}"] = value(field, each.episode, steps, components)
    # As in LIBERO, states[t] is the state before action t; observations are what is seen after it, or before it in
    # regenerated files. So the joints in states[:, 1:8] belong to observation row t - 1, or t. Column 0 is the time.
    made["states"][:, 0] = 0.25 + 0.05 * steps[:, 0]
    shift = {"after": 1, "before": 0}[observation]
    made["states"][:, 1:8] = value("joint_states", each.episode, steps - shift, np.arange(7)[None])
    made["rewards"] = (np.arange(each.steps) == each.steps - 1).astype(np.uint8)
    made["dones"] = made["rewards"].copy()
    rng = np.random.default_rng(each.episode)
    made["obs/agentview_rgb"] = _third_person(each, rng, height, width)
    made["obs/eye_in_hand_rgb"] = _wrist(each, rng, height, width)
    if depth:
        for camera in ("agentview_depth", "eye_in_hand_depth"):
            made[f"obs/{camera}"] = rng.random((each.steps, height, width, 1), dtype=np.float32)
    return made


def _third_person(each: TinyEpisode, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    still = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frames = np.repeat(still[None], each.steps, axis=0)
    for step in range(each.steps):
        row, column = 1 + step % (height - 3), 1 + (2 * step) % (width - 3)
        frames[step, row : row + 2, column : column + 2] = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        frames[step, 0, 0] = each.episode, step, CAMERAS.index("agentview_rgb")
    return frames


def _wrist(each: TinyEpisode, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    frames = np.empty((each.steps, height, width, 3), np.uint8)
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None]
    for step in range(each.steps):
        noise = rng.integers(0, 256 if step % 5 == 4 else 4, (height, width, 3))  # some frames no codec makes smaller
        frames[step] = (noise + (0 if step % 5 == 4 else ramp + 3 * step)) % 256
        if step == 2:
            frames[step] = 0  # a frame that equals a fill value, and must be written all the same
        frames[step, 0, 0] = (0, 0, 0) if step == 2 else (each.episode, step, CAMERAS.index("eye_in_hand_rgb"))
    return frames


def data_attributes(file: TinyFile) -> dict[str, Any]:
    """The attributes of /data in a published file."""
    text = file.task.split("SCENE2_")[-1].replace("_", " ")
    problem = {
        "problem_name": "libero_tabletop_manipulation",
        "domain_name": "robosuite",
        "language_instruction": text.replace("pick up", "pick"),
    }
    bddl = f"tiny/bddl_files/{file.suite}/{file.task}.bddl"
    kwargs = {"camera_names": ["agentview", "robot0_eye_in_hand"], "control_freq": 20}
    return {
        "bddl_file_content": f"(define (problem LIBERO_Tabletop_Manipulation)\n  (:language {text})\n)\n",
        "bddl_file_name": bddl,
        "env_args": json.dumps({"type": 1, "env_name": "Libero_Tiny", "bddl_file": bddl, "env_kwargs": kwargs}),
        "env_name": "Libero_Tiny",
        "macros_image_convention": "opengl",
        "num_demos": np.int64(len(file.lengths)),
        "problem_info": json.dumps(problem),
        "tag": "libero-v1",
        "total": np.int64(sum(file.lengths.values())),
    }


def demo_attributes(each: TinyEpisode, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The attributes of /data/demo_<i>. The first demo's model is longer than the 64 kB of an object header, as LIBERO's is."""
    geoms = "".join(
        f'<geom name="g{i}" pos="{i} 0 {each.episode}"/>\n' for i in range(2_500 if each.episode == 0 else 20)
    )
    return {
        "init_state": arrays["states"][0],
        "model_file": f'<mujoco model="base">\n{geoms}</mujoco>\n',
        "num_samples": np.int64(each.steps),
    }


def write_suites(
    folder: Path,
    *,
    suites: Sequence[TinyFile] = SUITES,
    observation: str = "after",
    attributes: bool = True,
    depth: bool = False,
    height: int = 16,
    width: int = 24,
) -> Path:
    """Writes <folder>/<suite>/<task>_demo.hdf5 for every file; returns `folder`.

    observation: "after" the action of the same row, as published, or "before" it, as regenerated.
    attributes: False leaves all of them out, as regenerated files do.
    depth: float32 (T, H, W, 1) cameras beside the others.
    """
    import h5py

    for file in suites:
        path = folder / file.suite / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        by_number = {each.number: each for each in episodes(suites) if each.file == file}
        with h5py.File(path, "w") as hdf5:
            data = hdf5.create_group("data")
            data.attrs.update(data_attributes(file) if attributes else {})
            for number in file.lengths:
                arrays = episode_arrays(
                    by_number[number], observation=observation, depth=depth, height=height, width=width
                )
                demo = data.create_group(f"demo_{number}")
                demo.attrs.update(demo_attributes(by_number[number], arrays) if attributes else {})
                for name, array in arrays.items():
                    demo.create_dataset(name, data=array)
    return folder


def store_rows(
    suites: Sequence[TinyFile] = SUITES, **options: Any
) -> Iterator[tuple[TinyEpisode, dict[str, np.ndarray]]]:
    """Every episode in the store's order with its arrays by field name (without obs/): the oracle that needs no file."""
    for each in episodes(suites):
        yield each, {name.removeprefix("obs/"): array for name, array in episode_arrays(each, **options).items()}


# --- broken variants ---------------------------------------------------------------------------------------------------

VICTIM = SUITES[
    2
]  # the file that is spoilt: two demos, 0 and 1; the others stay whole, so that --skip-bad has work left


def victim(folder: Path) -> Path:
    """The file of a written folder that BROKEN spoils."""
    return folder / VICTIM.suite / VICTIM.name


def replace(path: Path, name: str, data: Any = None, **options: Any) -> None:
    """Puts another dataset at `name` (e.g. "data/demo_0/actions"), or none."""
    import h5py

    with h5py.File(path, "r+") as hdf5:
        if name in hdf5:
            del hdf5[name]
        if data is not None:
            hdf5.create_dataset(name, data=data, **options)


def read(path: Path, name: str) -> np.ndarray:
    import h5py

    with h5py.File(path) as hdf5:
        return np.asarray(hdf5[name][()])


def set_attribute(path: Path, group: str, name: str, content: Any = None) -> None:
    """Gives the group (e.g. "data") another attribute, or takes it away."""
    import h5py

    with h5py.File(path, "r+") as hdf5:
        if content is None:
            del hdf5[group].attrs[name]
        else:
            hdf5[group].attrs[name] = content


def cut_short(path: Path, share: float = 0.7) -> None:
    """The file ends early, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = victim(folder)
        replace(path, f"data/demo_1/{name}", change(read(path, f"data/demo_1/{name}")))

    return spoil


def _removed(name: str) -> Callable[[Path], None]:
    return lambda folder: replace(victim(folder), f"data/demo_1/{name}")


def _every_dataset(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    import h5py

    names: list[str] = []
    with h5py.File(victim(folder)) as hdf5:
        hdf5["data/demo_1"].visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
    for name in names:
        _changed(name, change)(folder)


def _nan(actions: np.ndarray) -> np.ndarray:
    actions[5, 3] = np.nan
    return actions


def _without_observations(folder: Path) -> None:
    import h5py

    with h5py.File(victim(folder), "r+") as hdf5:
        data = hdf5["data"]
        for name in list(data.attrs):
            del data.attrs[name]
        data.attrs.update({"date": "11-16-2022", "time": "14:13:58", "repository_version": "1.4.0", "env": "Lift"})
        for number in VICTIM.lengths:
            for name in ("obs", "robot_states", "rewards", "dones"):
                del data[f"demo_{number}"][name]
            data.move(f"demo_{number}", f"raw_{number + 1}")
        for number in VICTIM.lengths:
            data.move(f"raw_{number + 1}", f"demo_{number + 1}")


BROKEN: dict[str, Callable[[Path], None]] = {
    "not_hdf5": lambda folder: victim(folder).write_text("<html>404 not found</html>\n"),
    "empty_file": lambda folder: victim(folder).write_bytes(b""),
    "truncated": lambda folder: cut_short(victim(folder)),
    "without_a_camera": _removed("obs/eye_in_hand_rgb"),
    "without_actions": _removed("actions"),
    "different_lengths": _changed("obs/ee_pos", lambda rows: rows[:-2]),
    "different_camera_lengths": _changed("obs/agentview_rgb", lambda rows: rows[:-1]),
    "zero_steps": lambda folder: _every_dataset(folder, lambda rows: rows[:0]),
    "actions_of_text": _changed("actions", lambda rows: np.full(rows.shape, b"0.5")),
    "actions_of_another_dtype": _changed("actions", lambda rows: rows.astype(np.float32)),
    "actions_of_another_width": _changed("actions", lambda rows: rows[:, :6]),
    "pictures_of_floats": _changed("obs/agentview_rgb", lambda rows: rows.astype(np.float64)),
    "pictures_without_channels": _changed("obs/agentview_rgb", lambda rows: rows[..., 0]),
    "pictures_of_another_size": _changed("obs/agentview_rgb", lambda rows: rows[:, :-4]),
    "nan_in_actions": _changed("actions", _nan),
    "raw_without_observations": _without_observations,
    "broken_problem_info": lambda folder: set_attribute(victim(folder), "data", "problem_info", '{"problem_name": '),
    "no_demos": lambda folder: [replace(victim(folder), f"data/demo_{number}") for number in VICTIM.lengths],
    "no_data_group": lambda folder: replace(victim(folder), "data"),
}
