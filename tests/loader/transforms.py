"""Transforms for tests; workers import this module, as they import a user's."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from typing import Any, ClassVar

import numpy as np

Sample = dict[str, Any]
Batch = dict[str, Any]


def nothing(sample: Sample) -> Sample:
    return sample


def of_step_7_fails(sample: Sample) -> Sample:
    if sample["step"] == 7:
        deeper(20)
    return sample


def deeper(levels: int) -> None:
    if levels:
        deeper(levels - 1)
    raise ZeroDivisionError("deep down")


def returns_a_number(sample: Sample) -> Any:
    return None


def forgets(sample: Any) -> None:
    if isinstance(sample, dict):
        sample["more"] = 1


def batch_fails(batch: Batch) -> Batch:
    raise KeyError("no such thing")


def leaves_the_process(sample: Sample) -> Sample:
    os._exit(7)


def sleeps(sample: Sample) -> Sample:
    time.sleep(60)
    return sample


def sleeps_a_little(sample: Sample) -> Sample:
    time.sleep(0.002)
    return sample


def prints(sample: Sample) -> Sample:
    print("seen by who looks at stdout")
    return sample


def adds_drops_reshapes_and_retypes(sample: Sample) -> Sample:
    picture = sample.pop("agentview_rgb")
    return {
        "picture": np.ascontiguousarray(picture[-1].transpose(2, 0, 1)).astype(np.float32) / 255,
        "flipped": picture[:, :, ::-1],
        "sum": float(sample["actions"].sum()),
        "is_late": bool(sample["step"] > 3),
        "task": sample["task"].upper(),
        "row": (sample["episode"], sample["step"]),
        "nested": {"actions": sample["actions"].astype(np.float16), "step": sample["step"]},
    }


def batch_adds_drops_and_reshapes(batch: Batch) -> Batch:
    pictures = batch.pop("agentview_rgb")
    batch["flipped"] = pictures[..., ::-1]
    batch["small"] = pictures[:, :, ::2, ::2]
    batch["same"] = batch["actions"]
    batch["both"] = [batch["actions"] * 2, {"step": batch["step"] + 1}]
    return batch


def two_views_of_one_array(batch: Batch) -> Batch:
    pictures = batch["agentview_rgb"]
    return {"step": batch["step"], "turned": pictures[:, :, ::-1], "half": pictures[:, :, ::2], "all": pictures[::-1]}


def only_strided_views(batch: Batch) -> Batch:
    pictures = batch["agentview_rgb"]
    return {"turned": pictures[:, :, ::-1], "half": pictures[:, :, ::2], "last": pictures[:, ::-1, ::-1]}


def grows(sample: Sample) -> Sample:
    return {**sample, "large": np.full((50, 50), sample["step"], np.float64)}


def grows_with_the_step(sample: Sample) -> Sample:
    return {"step": sample["step"], "large": np.full((2, 10 + 0 * sample["step"]), sample["step"], np.int32)}


def batch_that_grows(batch: Batch) -> Batch:
    most = int(batch["step"].max()) + 1
    return {"step": batch["step"], "padded": np.arange(len(batch["step"]) * most * 500).reshape(len(batch["step"]), -1)}


def things_that_no_slot_holds(batch: Batch) -> Batch:
    count = len(batch["step"])
    return {
        "step": batch["step"],
        "none": None,
        "set": {1, 2},
        "objects": np.array([{"a": 1}] * count, dtype=object),
        "names": np.array(["x", "yy"] * count),
        "masked": np.ma.masked_array(np.arange(count), mask=np.arange(count) % 2 == 0),
        "texts": [f"{step} of {number}" for number, step in enumerate(batch["step"].tolist())],
        "empty": np.empty((0, 3), np.float32),
        "scalar": np.array(3.5),
        "words": ("a", "b"),
    }


def new_texts_every_time(batch: Batch) -> Batch:
    new_texts_every_time.calls = getattr(new_texts_every_time, "calls", 0) + 1
    names = [f"{os.getpid()} {new_texts_every_time.calls} {number}" for number in range(len(batch["step"]))]
    return {"step": batch["step"], "names": names}


def noise(sample: Sample, generator: np.random.Generator) -> Sample:
    return {"episode": sample["episode"], "step": sample["step"], "noise": generator.random(3)}


def noise_of_batch(batch: Batch, generator: np.random.Generator) -> Batch:
    return {"episode": batch["episode"], "step": batch["step"], "noise": generator.random(3)}


def first_noise_of_batch(batch: Batch, generator: np.random.Generator) -> Batch:
    return {**batch, "of_batch": generator.random(3)}


class Noise:
    """A callable object with an argument `generator`."""

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return noise(sample, generator)


Point = collections.namedtuple("Point", "step actions")


def as_a_namedtuple(sample: Sample) -> Any:
    return Point(sample["step"], sample["actions"])


def by_turns_a_tuple_and_a_namedtuple(batch: Batch) -> Any:
    is_early = batch["step"][0] % 2 == 0
    return Point(batch["step"], batch["actions"]) if is_early else (batch["step"], batch["actions"])


def keys_in_one_order_and_in_the_other(batch: Batch) -> Batch:
    names = ["step", "actions"] if batch["step"][0] % 2 == 0 else ["actions", "step"]
    return {name: batch[name] for name in names}


def forks_and_then_sends_much(batch: Batch) -> Batch:
    """Its first batch leaves a process behind, whose number all batches have."""
    if not hasattr(forks_and_then_sends_much, "child"):
        forks_and_then_sends_much.child = os.fork()
        if forks_and_then_sends_much.child == 0:
            time.sleep(200)
            os._exit(0)
    return {"step": batch["step"], "much": b"x" * 20_000_000, "child": forks_and_then_sends_much.child}


def starts_and_ends(batch: Batch) -> Batch:
    codes: list[list[int]] = [[], []]
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with subprocess.Popen(["sleep", "60"]) as process:
            process.send_signal(number)
        codes[0].append(process.returncode)
        ready, say = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(say, b"x")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, number)
        codes[1].append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return {**batch, "codes": codes}


def as_a_tuple(sample: Sample) -> Any:
    return sample["step"], sample["actions"], sample["task"]


def several_shapes(sample: Sample) -> Sample:
    return {"step": sample["step"], "ragged": np.zeros(1 + sample["step"] % 3)}


def other_keys(sample: Sample) -> Sample:
    return {"step": sample["step"], **({"odd": 1} if sample["step"] % 2 else {"even": 1})}


def which_modules(batch: Batch) -> Batch:
    heavy = [name for name in ("torch", "h5py", "zarr", "dask", "pytest") if name in sys.modules]
    return {
        "step": batch["step"],
        "modules": ", ".join(heavy),
        "main": getattr(sys.modules["__main__"], "__file__", ""),
    }


def which_threads(batch: Batch) -> Batch:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    from numcodecs import blosc

    return {"step": batch["step"], "threads": [os.environ.get(name, "") for name in names], "blosc": blosc.use_threads}


def noise_free(sample: Sample) -> Sample:
    return {"step": 10 * sample["step"]}


def adds_one(sample: Sample) -> Sample:
    return {"step": sample["step"] + 1}


def what_torch_cannot_refer_to(batch: Batch) -> Batch:
    step = batch["step"]
    return {
        "turned": step[::-1],
        "broadcast": np.broadcast_to(step[:, None], (len(step), 3)),
        "swapped": step.astype(">i4"),
        "names": np.array(["x"] * len(step)),
    }


class Bytes:
    """A dataset of one byte a sample."""

    identity: ClassVar = {"kind": "bytes"}

    def __len__(self) -> int:
        return 10_000

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        return {"byte": (indices % 251).astype(np.uint8)}

    def where(self, index: int | None = None) -> dict[str, Any]:
        return {}
