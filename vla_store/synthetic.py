"""Synthetic demonstrations: LIBERO-shaped HDF5 files of an arm that carries a cup to a plate, from NumPy and a seed alone.

For `vla-store demo`, tests and benchmarks, where no real demonstrations are at hand; imports nothing of this package. The layout, dtypes, attributes, value
ranges and conventions are those of LIBERO's published files (observation after the action, pictures bottom up, a third-person
camera that stands still, ragged `states`). The pictures are drawn and the motion is scripted, so neither teaches a robot anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Point = tuple[float, float]  # row and column, in pixels
Colour = tuple[int, int, int]

METRES_PER_ACTION = 0.05  # what an action of 1.0 asks for in one control step
ACTION_GRID = 3 / 1120  # human position actions of LIBERO are multiples of this
TURN_GRID = 1 / 2800
CONTROL_HZ = 20
TABLE_METRES = 1.0
TEXELS = 512
CUP: Colour = (176, 44, 40)
INSIDE: Colour = (96, 20, 18)


@dataclass(frozen=True)
class SyntheticTask:
    """One file of demonstrations. objects: things that lie around; they decide how wide `states` is. demos: how many."""

    suite: str
    name: str
    objects: int
    demos: int


TASKS = (
    SyntheticTask("drawn_goal", "put_the_cup_on_the_plate", 2, 2),
    SyntheticTask("drawn_spatial", "pick_up_the_cup_next_to_the_ramekin_and_place_it_on_the_plate", 4, 2),
    SyntheticTask("drawn_spatial", "pick_up_the_cup_on_the_left_and_place_it_on_the_plate", 4, 1),
)


def write_suites(
    folder: Path,
    tasks: Sequence[SyntheticTask] = TASKS,
    *,
    seed: int = 0,
    size: int = 128,
) -> Path:
    """Write <folder>/<suite>/<name>_demo.hdf5 for every task; return `folder`.

    size: height and width of the pictures. The same arguments give the same bytes, whatever the processor. A demo has 60 to 150
    steps, and takes about 0.2 s.
    """
    import h5py

    for number, task in enumerate(tasks):
        path = folder / task.suite / f"{task.name}_demo.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as hdf5:
            data = hdf5.create_group("data")
            total = 0
            for demo in range(task.demos):
                arrays = make_demo(np.random.default_rng([seed, number, demo]), task.objects, size)
                group = data.create_group(f"demo_{demo}")
                group.attrs.update(demo_attributes(task, arrays))
                for name, array in arrays.items():
                    group.create_dataset(name, data=array)
                total += len(arrays["actions"])
            data.attrs.update(data_attributes(task, total, size))
    return folder


def make_demo(rng: np.random.Generator, objects: int, size: int = 128) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of one demo by their HDF5 path below it: T rows each, dtypes as published."""
    scene = Scene.placed(rng, objects)
    moments = list(_carry(scene, rng))
    before, after = moments[:-1], moments[1:]  # row t: the state before action t, the observation after it
    actions = np.array([moment.action for moment in before])
    joints = np.array([_joints(moment) for moment in moments])
    fingers = np.array([[moment.opening, -moment.opening] for moment in moments])
    tools = np.array([moment.tool for moment in moments])
    turns = np.array([moment.turn for moment in moments])
    is_last = (np.arange(len(actions)) == len(actions) - 1).astype(np.uint8)
    return {
        "actions": actions,
        "states": _states(scene, before, joints[:-1], fingers[:-1]),
        "robot_states": np.hstack([fingers[1:], tools[1:], _quaternions(turns[1:])]),
        "rewards": is_last,
        "dones": is_last,
        "obs/agentview_rgb": _third_person(scene, after, size),
        "obs/eye_in_hand_rgb": _wrist(scene, after, size),
        "obs/ee_states": np.hstack([tools[1:], turns[1:]]),
        "obs/ee_pos": tools[1:],
        "obs/ee_ori": turns[1:],
        "obs/joint_states": joints[1:],
        "obs/gripper_states": fingers[1:],
    }


# The motion. World: x from the robot's base toward the viewer, y to the right, z up; metres.


@dataclass(frozen=True)
class Scene:
    """Positions of all things: the cup's start, the plate, other things as (x, y, radius, red, green, blue), the table's texture."""

    cup: Floats
    plate: Floats
    things: Floats
    texture: Frame

    @classmethod
    def placed(cls, rng: np.random.Generator, objects: int) -> Scene:
        places = np.array([[0.22, -0.22], [0.42, 0.20], [0.20, 0.26], [0.45, -0.28], [0.12, 0.05], [0.52, 0.02]])
        places = places[: max(objects, 2)]
        places = places + rng.uniform(-0.03, 0.03, places.shape)
        radii = rng.uniform(0.03, 0.05, (len(places) - 2, 1))
        colours = rng.uniform(40, 220, (len(places) - 2, 3))
        things = np.hstack([places[2:], radii, colours])
        return cls(np.array([*places[0], 0.0]), np.array([*places[1], 0.0]), things, _table(rng, places[1], things))


@dataclass(frozen=True)
class Moment:
    """The state before one action, and the action. tool: of the gripper's tip; turn: its axis-angle; opening: of a finger."""

    tool: Floats
    turn: Floats
    opening: float
    cup: Floats
    action: Floats


def _carry(scene: Scene, rng: np.random.Generator) -> Iterator[Moment]:
    """Move from a still start over the cup, down, grasp, up, over to the plate, down, release and up; then one last state."""
    high, grip = np.array([0.0, 0.0, 0.16]), np.array([0.0, 0.0, 0.03])
    tool = np.array([0.10, 0.0, 0.30]) + rng.uniform(-0.02, 0.02, 3)
    turn, opening, cup = np.array([np.pi, 0.0, 0.02]), 0.04, scene.cup.copy()
    legs: list[tuple[Floats | None, float, int]] = [
        (tool.copy(), -1.0, int(rng.integers(3, 8))),
        (scene.cup + high, -1.0, 0),
        (scene.cup + grip, -1.0, 0),
        (None, 1.0, 8),
        (scene.cup + high, 1.0, 0),
        (scene.plate + high, 1.0, 0),
        (scene.plate + grip, 1.0, 0),
        (None, -1.0, 8),
        (scene.plate + high, -1.0, 0),
    ]
    for goal, gripper, pause in legs:
        target = tool.copy() if goal is None else goal
        step = 0
        while step < pause or (step < 60 and np.linalg.norm(target - tool) > 0.012):
            action = np.zeros(7)
            pull = np.clip((target - tool) * 8.0 + rng.normal(0, 0.03, 3), -0.9, 0.9)
            action[:3] = np.round(pull / ACTION_GRID) * ACTION_GRID if goal is not None and not pause else 0.0
            action[3:6] = np.round(rng.normal(0, 0.01, 3) / TURN_GRID) * TURN_GRID
            action[6] = gripper
            yield Moment(tool.copy(), turn.copy(), opening, cup.copy(), action)
            holds = opening < 0.022 and np.linalg.norm(cup + grip - tool) < 0.05
            moved = action[:3] * METRES_PER_ACTION * 0.5
            tool = np.maximum(tool + moved, [0.0, -0.5, 0.02])
            turn = turn + action[3:6] * 0.05
            opening = float(np.clip(opening - 0.004 * gripper, 0.018, 0.04))
            cup = tool - grip if holds else np.array([cup[0], cup[1], max(0.0, cup[2] - 0.01)])
            step += 1
    yield Moment(tool, turn, opening, cup, np.zeros(7))


def _joints(moment: Moment) -> Floats:
    """Return seven joint angles that follow the tool smoothly; no true kinematics."""
    x, y, z = moment.tool
    reach = float(np.hypot(x + 0.5, y))
    angles = np.array(
        [
            np.arctan2(y, x + 0.5),
            0.3 + 0.8 * (reach - 0.5) - 0.5 * z,
            0.1 * y,
            -2.3 + 1.6 * (reach - 0.5),
            0.05 * moment.turn[1],
            2.5 - 0.6 * (reach - 0.5) + 0.4 * z,
            0.8 + moment.turn[2],
        ]
    )
    return _to_grid(angles)


def _states(scene: Scene, moments: Sequence[Moment], joints: Floats, fingers: Floats) -> Floats:
    """Return the simulator state (T, D): time, arm, fingers, a pose for cup, plate and every other thing, then all velocities."""
    still = np.vstack([scene.plate[None], np.pad(scene.things[:, :2], ((0, 0), (0, 1)))])
    poses = [np.hstack([[*place, 1.0, 0.0, 0.0, 0.0] for place in (moment.cup, *still)]) for moment in moments]
    positions = np.hstack([joints, fingers, np.array(poses)])
    velocities = np.gradient(positions, 1 / CONTROL_HZ, axis=0)
    time = 0.25 + np.arange(len(moments))[:, None] / CONTROL_HZ
    return np.hstack([time, positions, velocities])


def _quaternions(turns: Floats) -> Floats:
    """Return quaternions (T, 4) xyzw of axis-angles (T, 3)."""
    angle = np.linalg.norm(turns, axis=1, keepdims=True)
    return _to_grid(np.hstack([turns / angle * np.sin(angle / 2), np.cos(angle / 2)]))


def _to_grid(values: Floats) -> Floats:
    """Round what trigonometry gave: the last bit of a sine depends on the processor (NumPy has other code for AVX-512)."""
    rounded: Floats = np.round(values, 9) + np.float64(0)  # no -0.0 either
    return rounded


# The pictures. Everything is drawn upright and stored bottom up, as OpenGL gives it.


def _table(rng: np.random.Generator, plate: Floats, things: Floats) -> Frame:
    """Draw the table from above, (TEXELS, TEXELS, 3), x downward and y to the right, with plate and things on it."""
    rows, columns = np.arange(TEXELS)[:, None], np.arange(TEXELS)[None]
    rings = (
        9 * np.sin(rows / 11 + 2 * np.sin(columns / 83))
        + np.convolve(rng.normal(0, 14, TEXELS), np.ones(5) / 5, "same")[:, None]
    )
    grain = rng.normal(0, 5, (TEXELS, TEXELS // 8)).repeat(8, axis=1) + rng.normal(0, 2.5, (TEXELS, TEXELS))
    wood = (rings + grain)[..., None] * np.array([1.0, 0.85, 0.7]) + np.array([150.0, 112.0, 78.0])
    x, y = rows / TEXELS, columns / TEXELS - 0.5
    for px, py, radius, *colour in [[*plate[:2], 0.09, 225, 225, 230], *things.tolist()]:
        away = np.hypot(x - px, y - py)
        wood[away < radius] = colour
        wood[(away < radius) & (away > radius * 0.8)] *= 0.85
    made: Frame = np.clip(wood, 0, 255).astype(np.uint8)
    return made


def _project(point: Floats, size: int) -> tuple[Point, float]:
    """Return where a point lies in the third-person picture, rows from the top, and the scale there in pixels a metre."""
    x, y, z = point
    scale = (0.95 + 0.75 * x) * size
    return ((0.28 + 0.95 * x) * size - z * scale * 0.85, 0.5 * size + y * scale), scale


def _third_person(scene: Scene, moments: Sequence[Moment], size: int) -> Frame:
    still = _room(scene, size)
    frames = np.repeat(still[None], len(moments), axis=0)
    for frame, moment in zip(frames, moments):
        _cup(frame, moment.cup, size)
        _arm(frame, moment, size)
    return np.ascontiguousarray(frames[:, ::-1])


def _room(scene: Scene, size: int) -> Frame:
    """Draw the still part: a wall, the table in perspective, the robot's foot."""
    rows, columns = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    x = (rows - 0.28) / 0.95
    y = (columns - 0.5) / (0.95 + 0.75 * np.maximum(x, 0))
    texel = (np.clip([x, y + 0.5], 0, 1 - 1e-9) * TEXELS).astype(int)
    picture = scene.texture[texel[0], texel[1]].astype(np.float64)
    wall = 205 - 60 * rows + 4 * np.sin(40 * columns)
    picture = np.where((x < 0)[..., None], wall[..., None] * np.array([1.0, 0.98, 0.93]), picture)
    picture[(np.abs(y) > 0.48) & (x >= 0)] *= 0.35
    shade = np.random.default_rng(size).integers(-2, 3, (size, size, 1))
    made: Frame = np.clip(picture + shade, 0, 255).astype(np.uint8)
    _capsule(made, (0.22 * size, 0.5 * size), (0.34 * size, 0.5 * size), 0.085 * size, (190, 190, 195))
    return made


def _arm(frame: Frame, moment: Moment, size: int) -> None:
    tip, scale = _project(moment.tool, size)
    ground, ground_scale = _project(moment.tool * [1, 1, 0], size)
    _disc(frame, ground, 0.02 * ground_scale, None)
    flange, _ = _project(moment.tool + np.array([0.0, 0.0, 0.13]), size)
    elbow, _ = _project(np.array([moment.tool[0] * 0.35 - 0.05, moment.tool[1] * 0.4 + 0.1, 0.42]), size)
    hand = flange[0] * 0.4 + tip[0] * 0.6, flange[1] * 0.4 + tip[1] * 0.6
    _capsule(frame, (0.18 * size, 0.5 * size), elbow, 0.055 * size, (228, 228, 232))
    _capsule(frame, elbow, flange, 0.045 * size, (216, 216, 222))
    _capsule(frame, flange, hand, 0.032 * size, (60, 60, 66))
    for side in (-1, 1):
        column = tip[1] + side * moment.opening * scale
        top = flange[0] * 0.35 + tip[0] * 0.65
        _capsule(frame, (top, column), (tip[0], column), 0.012 * size, (40, 40, 44))


def _cup(frame: Frame, place: Floats, size: int) -> None:
    foot, scale = _project(place, size)
    rim, _ = _project(place + np.array([0.0, 0.0, 0.05]), size)
    _disc(frame, _project(place * [1, 1, 0], size)[0], 0.035 * scale, None)
    _capsule(frame, foot, rim, 0.03 * scale, CUP)
    _disc(frame, rim, 0.022 * scale, INSIDE)


def _wrist(scene: Scene, moments: Sequence[Moment], size: int) -> Frame:
    frames = np.empty((len(moments), size, size, 3), np.uint8)
    offsets = (np.arange(size) + 0.5) / size - 0.5
    for frame, moment in zip(frames, moments):
        width = 0.25 + 1.1 * moment.tool[2]  # metres of table that the picture shows
        x = np.clip(moment.tool[0] + 0.04 + offsets * width, 0, TABLE_METRES - 1e-9)
        y = np.clip(moment.tool[1] + 0.5 + offsets * width, 0, TABLE_METRES - 1e-9)
        np.copyto(frame, scene.texture[np.ix_((x * TEXELS).astype(int), (y * TEXELS).astype(int))])
        pixels = size / width
        centre = (
            size / 2 + (moment.cup[0] - moment.tool[0] - 0.04) * pixels,
            size / 2 + (moment.cup[1] - moment.tool[1]) * pixels,
        )
        _disc(frame, centre, 0.036 * pixels, CUP)
        _disc(frame, centre, 0.026 * pixels, INSIDE)
        for side in (-1, 1):
            column = size / 2 + side * (0.06 + 2.2 * moment.opening) * size
            _capsule(frame, (size * 1.02, column), (size * 0.74, column), 0.05 * size, (48, 48, 52))
    return np.ascontiguousarray(frames[:, ::-1])


def _capsule(frame: Frame, start: Point, stop: Point, radius: float, colour: Colour) -> None:
    """Draw a thick line with round ends and a highlight."""
    window, rows, columns = _window(frame, [start, stop], radius)
    along = np.array(stop) - start
    share = ((rows - start[0]) * along[0] + (columns - start[1]) * along[1]) / max(float(along @ along), 1e-9)
    share = np.clip(share, 0, 1)
    away = np.hypot(rows - start[0] - share * along[0], columns - start[1] - share * along[1]) / radius
    light = (1.0 - 0.45 * away**2)[..., None]
    inside = away < 1
    window[inside] = (light * np.array(colour))[inside].astype(np.uint8)


def _disc(frame: Frame, centre: Point, radius: float, colour: Colour | None) -> None:
    """Draw a filled circle; without a colour a shadow: half as bright."""
    window, rows, columns = _window(frame, [centre], radius)
    inside = np.hypot(rows - centre[0], columns - centre[1]) < radius
    window[inside] = window[inside] // 2 if colour is None else np.array(colour, np.uint8)


def _window(frame: Frame, points: Sequence[Point], radius: float) -> tuple[Frame, Any, Any]:
    """Return the view of the frame that a shape can touch, and its rows (n, 1) and columns (1, m)."""
    low = np.clip(np.floor(np.min(points, axis=0) - radius).astype(int), 0, frame.shape[:2])
    high = np.clip(np.ceil(np.max(points, axis=0) + radius).astype(int) + 1, 0, frame.shape[:2])
    rows, columns = np.arange(low[0], high[0])[:, None], np.arange(low[1], high[1])[None]
    return frame[low[0] : high[0], low[1] : high[1]], rows, columns


# Attributes, as published files have them.


def data_attributes(task: SyntheticTask, total: int, size: int) -> dict[str, Any]:
    text = task.name.replace("_", " ")
    problem = {
        "problem_name": "libero_tabletop_manipulation",
        "domain_name": "robosuite",
        "language_instruction": text.replace("pick up", "pick"),
    }
    cameras = {"camera_heights": size, "camera_widths": size, "camera_names": ["agentview", "robot0_eye_in_hand"]}
    bddl = f"drawn/bddl_files/{task.suite}/{task.name}.bddl"
    arguments = {
        "type": 1,
        "env_name": "Drawn",
        "bddl_file": bddl,
        "env_kwargs": {"control_freq": CONTROL_HZ, **cameras},
    }
    return {
        "bddl_file_content": f"(define (problem LIBERO_Tabletop_Manipulation)\n  (:domain robosuite)\n  (:language {text})\n)\n",
        "bddl_file_name": bddl,
        "env_args": json.dumps(arguments),
        "env_name": "Drawn",
        "macros_image_convention": "opengl",
        "num_demos": np.int64(task.demos),
        "problem_info": json.dumps(problem),
        "tag": "libero-v1",
        "total": np.int64(total),
    }


def demo_attributes(task: SyntheticTask, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    bodies = "".join(
        f'    <body name="link{i}" pos="0 0 {i / 10:.3f}"><geom type="mesh" mesh="link{i}_vis" rgba="1 1 1 1"/></body>\n'
        for i in range(9 + 150 * task.objects)
    )
    return {
        "init_state": arrays["states"][0],
        "model_file": f'<mujoco model="base">\n  <worldbody>\n{bodies}  </worldbody>\n</mujoco>\n',
        "num_samples": np.int64(len(arrays["actions"])),
    }
