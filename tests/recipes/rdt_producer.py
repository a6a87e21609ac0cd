"""RDT's own producer over episodes that are given: it writes its disk buffer. A Python with TensorFlow runs this file, in a copy of
RDT's repository.

    python rdt_producer.py EPISODES FOLDER

EPISODES/<number>.npz: name, text, of each camera that there is frames_<number> (T, H, W, 3), and for "agilex" qpos and action (T, 14);
else states (T, n) with their format, and where the action is used arm and base (T, n) with the action's format. FOLDER: gets json_content_<n>.json and sample_<n>.npz of every step, one after the other.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

SCRIPT = """
def process_step(step):
    return step
"""


def without(*names: str) -> None:
    """Let modules be imported that the rules of the buffer do not use: TensorFlow Datasets, and rotations in TensorFlow."""
    for name in names:
        at, _, last = name.rpartition(".")
        sys.modules[name] = made = types.ModuleType(name)
        if at:
            setattr(sys.modules[at], last, made)


def steps_of(given: dict[str, Any], name: str) -> dict[str, Any]:
    """What a step has, for all of them."""
    total = len(given["qpos" if name == "agilex" else "states"])

    def every(value: Any) -> Any:
        return np.repeat(value, total)

    observation = {key: value for key, value in given.items() if key.startswith("frames_")}
    text, ends = every(str(given["text"])), {"terminate": every(np.int64(0))}
    if name == "agilex":
        arms = {key: given[key] for key in ("qpos", "action")}
        return arms | {"observation": observation, "instruction": text, "terminate_episode": ends["terminate"]}
    state = {"arm_concat": given["states"], "format": every(str(given["format"]))}
    action = {f"{part}_concat": given[part] for part in ("arm", "base") if part in given}
    if action:
        ends["format"] = every(str(given["action_format"]))
    return {"observation": observation | state | {"natural_language_instruction": text}, "action": action | ends}


def episode_of(given: dict[str, Any], name: str) -> Any:
    """The episode as RDT's pipeline has it, after its own `process_episode`."""
    from data.episode_transform import process_episode

    cameras = [at for at in range(4) if f"frames_{at}" in given]
    keys = [f"frames_{at if at in cameras else cameras[0]}" for at in range(4)]
    mask = [int(at in cameras) for at in range(4)]
    steps = tf.data.Dataset.from_tensor_slices(steps_of(given, name))
    return process_episode({"steps": steps}, name, keys, mask)


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    without("tensorflow_datasets", "tensorflow_graphics", "tensorflow_graphics.geometry")
    for last in ("euler", "quaternion", "rotation_matrix_3d"):
        if "tensorflow_graphics.geometry.transformation" not in sys.modules:
            without("tensorflow_graphics.geometry.transformation")
        without(f"tensorflow_graphics.geometry.transformation.{last}")
    sys.path[:0] = ["."]
    episodes = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            episodes.append(dict(file))
    names = {str(each["name"]) for each in episodes}
    scripts = Path("data/preprocess_scripts")
    (scripts / "__init__.py").write_text(
        f"from . import {', '.join(names)}"
    )  # the others are of data sets that are not here
    for name in names - {"agilex"}:
        (scripts / f"{name}.py").write_text(SCRIPT)
    from data.episode_transform import flatten_episode, flatten_episode_agilex
    from data.producer import save_sample

    number = 0
    for given in episodes:
        name = str(given["name"])
        flatten = flatten_episode_agilex if name == "agilex" else flatten_episode
        for step in flatten(episode_of(given, name)):
            save_sample(step, str(out), number)
            number += 1
    print(number)


if __name__ == "__main__":
    main()
