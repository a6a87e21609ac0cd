"""A small policy trained twice: on a port's random draws, and on every step in turn. All else is equal.

    python -m benchmarks.training [--store STORE] [--updates N] [--seeds N] [--quick] [--save]

Behaviour cloning on the CPU, through windows as RDT's: two frames of each camera, the state, a chunk of 64 actions. Two contenders:

    port         draws as the notes of the LIBERO port of RDT tell of it: a file, a demo, a step in [0, T - 64) at random
    every step   vla_store.torch.Loader: every step once an epoch

and, as a third one, the port's code S2, which draws at random but loses no tail. Same initial weights, same number of updates, same
batches' size, same held-out demos: one of each task that has several, another choice for each seed. The error is that of the next 16
actions, over updates and per phase of the demo. With --save: benchmarks/results/training.json, docs/data/training.png, and the figures
in docs/tutorial-training.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

import vla_store
from benchmarks.measure import CHECKOUT, RESULTS, environment, find_demos, work_folder, write_result
from vla_store.coverage import demos_of_store
from vla_store.coverage.demos import Demos
from vla_store.coverage.samplers import RandomSampler, all_samplers
from vla_store.text import counted
from vla_store.torch import Loader, StepDataset

PAGE = CHECKOUT / "docs" / "tutorial-training.md"
PICTURE = CHECKOUT / "docs" / "data" / "training.png"
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
HORIZON = 64
EXECUTED = 16  # the actions of a chunk that count in the error: those a policy would carry out before it looks again
PIXELS = 32
NEAR = 10  # steps from a change of the gripper that count as grasping (or letting go)
PHASES = ("approach", "grasp", "rest", "last 10 %")
ARMS = {"port": "port, as quoted", "port_s2": "port S2", "every step": "every step"}
COLOURS = {"port": "#e15759", "port_s2": "#edc948", "every step": "#000000"}
POINTS = 10
# Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom: so many standard errors make a paired difference a clear one.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(frozen=True)
class Options:
    """What a run does."""

    updates: int = 250
    batch_size: int = 64
    seeds: int = 3
    workers: int = 1


@dataclass(frozen=True)
class HeldOut:
    """What policies are tested on: inputs and targets of all steps of the held-out demos."""

    inputs: dict[str, torch.Tensor]
    actions: torch.Tensor  # (n, EXECUTED, 7)
    is_real: torch.Tensor  # (n, EXECUTED) not padding
    phase: npt.NDArray[np.int64]  # (n,) into PHASES


class Policy(nn.Module):
    """Small: three convolutions over two frames of each camera, two layers over them, the state and the task."""

    def __init__(self, tasks: int, horizon: int = HORIZON) -> None:
        super().__init__()
        self.horizon = horizon
        self.eyes = nn.Sequential(
            *(nn.Conv2d(6 * len(CAMERAS), 24, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
        )
        seen = 32 * (PIXELS // 8) ** 2 + 9 + tasks
        self.head = nn.Sequential(nn.Linear(seen, 256), nn.ReLU(), nn.Linear(256, horizon * 7))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, horizon, 7) actions."""
        features = torch.cat([self.eyes(inputs["pictures"]), inputs["state"], inputs["task"]], dim=1)
        made: torch.Tensor = self.head(features).reshape(-1, self.horizon, 7)
        return made


def windows_dataset(store: vla_store.Store, episodes: Sequence[int]) -> StepDataset:
    """RDT's windows; sample i is step i of the chosen episodes, in order."""
    windows: dict[str, Any] = {camera: [-1, 0] for camera in CAMERAS}
    return StepDataset(
        store,
        episodes=episodes,
        windows={**windows, "robot_states": 0, "actions": range(HORIZON)},
        alignment="causal",
        keep_first=True,  # so that every arm has the same anchors to choose from
        images="upright",
        dtype="float32",
    )


def inputs_of(batch: dict[str, Any], tasks: Sequence[str], scale: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the policy takes: pictures (B, 12, 32, 32) in 0..1, state and task."""
    pictures = []
    for camera in CAMERAS:
        frames = batch[camera]  # (B, 2, H, W, 3) uint8
        step = frames.shape[2] // PIXELS
        small = frames[:, :, step // 2 :: step, step // 2 :: step].permute(0, 1, 4, 2, 3)  # every fourth pixel
        pictures.append(small.reshape(len(frames), 6, PIXELS, PIXELS).float() / 255)
    known = {task: number for number, task in enumerate(tasks)}
    task = functional.one_hot(torch.tensor([known[each] for each in batch["task"]]), len(tasks)).float()
    state = (batch["robot_states"] - scale["mean"]) / scale["std"]
    return {"pictures": torch.cat(pictures, dim=1), "state": state, "task": task}


def batches_of(
    arm: str, dataset: StepDataset, demos: Demos, episodes: Sequence[int], options: Options, seed: int
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.int64]]]:
    """Batches without end, and which steps (of the training demos, in order) they are drawn at.

    demos: of the episodes, which are those of `dataset`.
    """
    if arm == "every step":
        starts = dict(zip(episodes, demos.starts.tolist(), strict=True))
        loader = Loader(dataset, batch_size=options.batch_size, seed=seed, workers=options.workers, drop_last=True)
        while True:
            for batch in loader:
                yield (
                    batch,
                    np.array([starts[e] + s for e, s in zip(batch["episode"].tolist(), batch["step"].tolist())]),
                )
    name = {"port": "port_quoted", "port_s2": "port_s2"}[arm]
    sampler = next(each for each in all_samplers(demos, seed) if each.name == name)
    assert isinstance(sampler, RandomSampler)
    rng = np.random.default_rng([seed, 1])
    while True:
        rows = sampler.draw(rng, options.batch_size)
        yield dataset.batch(rows.tolist()), rows


def part_of(demos: Demos, episodes: Sequence[int]) -> Demos:
    """Some of the demos, with the files renumbered."""
    chosen = np.array(episodes)
    _, files = np.unique(demos.files[chosen], return_inverse=True)
    first = np.zeros(len(chosen), bool)
    first[np.unique(files, return_index=True)[1]] = True
    return dataclasses.replace(
        demos,
        lengths=demos.lengths[chosen],
        files=files.astype(np.int64),
        is_first_key=first,
        moving=None if demos.moving is None else demos.moving[chosen],
        moving_joints=None if demos.moving_joints is None else demos.moving_joints[chosen],
        near_gripper=None,
        has_late_observation=demos.has_late_observation[chosen],
    )


def split(demos: Demos, seed: int) -> tuple[list[int], list[int]]:
    """Training and held-out demos: of each file with several, one is held out; the next seed takes the next one."""
    held = []
    for file in range(int(demos.files.max()) + 1):
        members = np.flatnonzero(demos.files == file).tolist()
        if len(members) > 1:
            held.append(members[seed % len(members)])
    return [each for each in range(len(demos)) if each not in held], held


def phases_of(actions: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(T,) the phase of each step of a demo: the last tenth; else near a change of the gripper; else before the first; else rest."""
    steps = len(actions)
    changes = np.flatnonzero(np.diff(actions[:, -1] > 0)) + 1
    made = np.full(steps, PHASES.index("rest"))
    made[: changes[0] if len(changes) else steps] = PHASES.index("approach")
    for change in changes:
        made[max(0, change - NEAR) : change + NEAR + 1] = PHASES.index("grasp")
    made[steps - max(1, math.ceil(steps / 10)) :] = PHASES.index("last 10 %")
    return made


def held_out(
    store: vla_store.Store, episodes: Sequence[int], tasks: Sequence[str], scale: dict[str, torch.Tensor]
) -> HeldOut:
    """All steps of the held-out demos."""
    dataset = windows_dataset(store, episodes)
    parts, phases = [], []
    for start in range(0, len(dataset), 256):
        batch = dataset.batch(range(start, min(start + 256, len(dataset))))
        parts.append(
            (inputs_of(batch, tasks, scale), batch["actions"][:, :EXECUTED], ~batch["actions_is_pad"][:, :EXECUTED])
        )
    for episode in episodes:
        each = store.episodes[episode]
        phases.append(phases_of(store.read("actions", range(each.start, each.start + each.length))))
    return HeldOut(
        {name: torch.cat([inputs[name] for inputs, _, _ in parts]) for name in parts[0][0]},
        torch.cat([actions for _, actions, _ in parts]),
        torch.cat([real for _, _, real in parts]),
        np.concatenate(phases),
    )


def errors(policy: Policy, test: HeldOut) -> dict[str, float]:
    """Mean absolute error of the next 16 real actions, over all held-out steps and per phase."""
    with torch.no_grad():
        away = (policy(test.inputs)[:, :EXECUTED] - test.actions).abs().mean(dim=2)
    each = ((away * test.is_real).sum(dim=1) / test.is_real.sum(dim=1)).numpy()
    found = {"all": float(each.mean())}
    for number, phase in enumerate(PHASES):
        if (test.phase == number).any():
            found[phase] = float(each[test.phase == number].mean())
    return found


def train(
    arm: str, dataset: StepDataset, demos: Demos, episodes: Sequence[int], test: HeldOut, tasks: Sequence[str],
    scale: dict[str, torch.Tensor], options: Options, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """One policy; its held-out errors on the way, and which share of the training steps were anchors."""
    torch.manual_seed(seed)
    policy = Policy(len(tasks))
    initial = hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in policy.parameters())).hexdigest()
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    marks = sorted({max(1, round(options.updates * at / POINTS)) for at in range(1, POINTS + 1)})
    curve: list[dict[str, float]] = [{"updates": 0, **errors(policy, test)}]
    counts = np.zeros(demos.steps, np.int64)
    batches = batches_of(arm, dataset, demos, episodes, options, seed)
    for update, (batch, rows) in enumerate(itertools.islice(batches, options.updates), 1):
        counts += np.bincount(rows, minlength=demos.steps)
        predicted = policy(inputs_of(batch, tasks, scale))
        away = (predicted - batch["actions"]).abs().mean(dim=2)
        loss = away[~batch["actions_is_pad"]].mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if update in marks:
            curve.append({"updates": update, **errors(policy, test)})
    batches.close()  # type: ignore[attr-defined]
    return {
        "anchors": float((counts > 0).mean()),
        "counts": [int(counts.min()), float(np.median(counts)), int(counts.max())],
        "curve": curve,
        "initial_weights": initial,
    }


def measure(url: str | Path, options: Options) -> dict[str, Any]:
    """All arms and seeds on one store."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a policy this small gets slower with more, and its sums keep their order
    try:
        return _measure(url, options)
    finally:
        torch.set_num_threads(threads)


def _measure(url: str | Path, options: Options) -> dict[str, Any]:
    store = vla_store.open_store(url)
    demos = demos_of_store(store)
    tasks = sorted({each.text for each in store.tasks})
    began = time.perf_counter()
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    held_steps: list[dict[str, int]] = []
    for seed in range(options.seeds):
        training, held = split(demos, seed)
        dataset = windows_dataset(store, training)
        part = part_of(demos, training)
        found = dataset.statistics()["robot_states"]
        scale = {
            "mean": torch.tensor(found.mean, dtype=torch.float32),
            "std": torch.tensor(found.std, dtype=torch.float32).clamp(min=1e-3),
        }
        test = held_out(store, held, tasks, scale)
        held_steps.append({phase: int((test.phase == number).sum()) for number, phase in enumerate(PHASES)})
        for arm in ARMS:
            runs[arm].append(train(arm, dataset, part, training, test, tasks, scale, options, seed))
            last = runs[arm][-1]["curve"][-1]["all"]
            print(f"seed {seed}, {ARMS[arm]}: error {last:.4f}", file=sys.stderr, flush=True)
    return {
        "arms": {arm: {"runs": each, "title": ARMS[arm]} for arm, each in runs.items()},
        "demos": {"demos": len(demos), "held_out": len(held), "steps": demos.steps, "training": len(training)},
        "environment": environment(),
        "held_out_steps": held_steps,
        "options": dataclasses.asdict(options),
        "seconds": round(time.perf_counter() - began, 1),
    }


def differences(runs: dict[str, list[dict[str, Any]]], arm: str) -> dict[str, dict[str, Any]]:
    """Error of an arm less that of every step, paired by seed: at the end per phase, and over all phases early on."""
    found = {}
    first, last = 1, len(runs[arm][0]["curve"]) - 1
    for label, point, phase in [
        ("all, early", first, "all"), ("all", last, "all"), *((phase, last, phase) for phase in PHASES)
    ]:  # fmt: skip
        pairs = [
            (other["curve"][point].get(phase), ours["curve"][point].get(phase))
            for other, ours in zip(runs[arm], runs["every step"], strict=True)
        ]
        away = [other - ours for other, ours in pairs if other is not None and ours is not None]
        if away:
            error = statistics.stdev(away) / math.sqrt(len(away)) if len(away) > 1 else None
            found[label] = {
                "error": error,
                "mean": statistics.fmean(away),
                "seeds": len(away),
                "ours": statistics.fmean(ours for _, ours in pairs if ours is not None),
            }
    return found


def verdict(difference: dict[str, Any]) -> str:
    """In words: who is better, or that it cannot be told."""
    error = difference["error"]
    if error is None or abs(difference["mean"]) < T_95[min(difference["seeds"] - 1, len(T_95)) - 1] * error:
        return "no clear difference"
    return "every step is better" if difference["mean"] > 0 else "the port is better"


def page_part(result: dict[str, Any]) -> str:
    """The figures of the tutorial, from a result."""
    options, demos = result["options"], result["demos"]
    draws = options["updates"] * options["batch_size"]
    lines = [
        f"{counted(options['seeds'], 'seed')}, {options['updates']} updates of {options['batch_size']} samples each "
        f"({draws:,} draws); {demos['training']} demonstrations to train on and {demos['held_out']} held out; "
        f"{len(result['arms']) * options['seeds']} policies.",
        "",
        "| | training steps that were an anchor | least, median, most often | held-out error, first mark | at the end |",
        "|---|---|---|---|---|",
    ]
    for arm in result["arms"].values():
        runs = arm["runs"]
        share = statistics.fmean(run["anchors"] for run in runs)
        counts = [statistics.fmean(run["counts"][at] for run in runs) for at in range(3)]
        early, end = (statistics.fmean(run["curve"][at]["all"] for run in runs) for at in (1, -1))
        lines.append(
            f"| {arm['title']} | {100 * share:.1f} % | {counts[0]:.0f}, {counts[1]:.0f}, {counts[2]:.0f} | {early:.4f} | {end:.4f} |"
        )
    mark = next(iter(result["arms"].values()))["runs"][0]["curve"][1]["updates"]
    lines += [
        "",
        "Error is the mean absolute error of the next 16 actions (each within -1 to 1). The difference to *every step*, paired "
        f"by seed, with its standard error; a plus sign means that the port's policy errs more. A difference is called one where it is clear at 95 % (Student's t over the seeds). *First mark*: after {mark} updates.",
        "",
        "| phase of the held-out demos | every step | port, as quoted | | port S2 | |",
        "|---|---|---|---|---|---|",
    ]
    runs_of = {arm: each["runs"] for arm, each in result["arms"].items()}
    port, s2 = (differences(runs_of, arm) for arm in ("port", "port_s2"))
    names = {"all, early": "all, first mark", "all": "all, at the end"}
    for label, quoted in port.items():
        cells = [cell for each in (quoted, s2[label]) for cell in (_signed(each), verdict(each))]
        lines.append(f"| {names.get(label, label)} | {quoted['ours']:.4f} | " + " | ".join(cells) + " |")
    lines += ["", *summary(result)]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> list[str]:
    """What the differences at the end say, a sentence an arm."""
    said = []
    runs = {arm: each["runs"] for arm, each in result["arms"].items()}
    for arm in ("port", "port_s2"):
        found = differences(runs, arm)
        by_verdict: dict[str, list[str]] = {}
        for label in ("all", *PHASES):
            if label in found:
                by_verdict.setdefault(verdict(found[label]), []).append("all steps" if label == "all" else label)
        parts = [f"{what} for {', '.join(labels)}" for what, labels in by_verdict.items()]
        said.append(f"- **Against {result['arms'][arm]['title']}**, at the end: {'; '.join(parts)}.")
    return said


def _signed(difference: dict[str, Any]) -> str:
    error = difference["error"]
    return f"{difference['mean']:+.4f}" + ("" if error is None else f" ± {error:.4f}")


FIGURES = re.compile(r"(<!-- figures: [^\n]*-->\n).*?(<!-- end of figures -->)", re.DOTALL)


def page(result: dict[str, Any]) -> str:
    """The tutorial with the figures of `result` in their place."""
    part = page_part(result)
    return FIGURES.sub(lambda found: f"{found[1]}{part}\n{found[2]}", PAGE.read_text(encoding="utf-8"))


def draw(result: dict[str, Any], path: Path) -> None:
    """Two panels: held-out error over updates, and per phase at the end; a thin line or a dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    over, at_end = figure.subplots(1, 2, width_ratios=[1.1, 1])
    for number, (arm, each) in enumerate(result["arms"].items()):
        curves = [[point["all"] for point in run["curve"][1:]] for run in each["runs"]]
        updates = [point["updates"] for point in each["runs"][0]["curve"][1:]]
        for curve in curves:
            over.plot(updates, curve, color=COLOURS[arm], linewidth=0.6, alpha=0.5)
        over.plot(updates, np.mean(curves, axis=0), color=COLOURS[arm], linewidth=2.2, label=each["title"])
        for at, phase in enumerate(PHASES):
            ends = [run["curve"][-1][phase] for run in each["runs"] if phase in run["curve"][-1]]
            if ends:
                place = at + (number - 1) * 0.26
                at_end.bar(place, np.mean(ends), 0.24, color=COLOURS[arm], alpha=0.55)
                at_end.plot([place] * len(ends), ends, "o", color=COLOURS[arm], markersize=3.5)
    over.set(title="held-out error over updates", xlabel="updates", ylabel="mean |error| of the next 16 actions")
    over.set_ylim(bottom=0)
    over.legend(frameon=False)
    at_end.set(title="per phase, at the end (dots: seeds)", xticks=range(len(PHASES)), xticklabels=PHASES)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def publish(result: dict[str, Any]) -> None:
    """The picture and the figures of the tutorial."""
    draw(result, PICTURE)
    PAGE.write_text(page(result), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    usual = Options()
    parser.add_argument("--store", help="default: built from the demonstrations that the tests use")
    parser.add_argument("--demos", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--updates", type=int, default=usual.updates)
    parser.add_argument("--seeds", type=int, default=usual.seeds)
    parser.add_argument("--quick", action="store_true", help="shows in seconds that it works")
    parser.add_argument("--output", type=Path, default=Path("training"), help="writes OUTPUT.json and OUTPUT.png")
    parser.add_argument(
        "--page", action="store_true", help="trains nothing: only draws and writes from the committed result"
    )
    parser.add_argument("--save", action="store_true", help="writes the committed result, picture and page instead")
    given = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:  # said now, and not after minutes of training
        raise SystemExit('the picture needs matplotlib: pip install ".[plots]"')
    if given.page:
        publish(json.loads((RESULTS / "training.json").read_text(encoding="utf-8")))
        return
    options = (
        Options(updates=6, seeds=1, batch_size=8) if given.quick else Options(updates=given.updates, seeds=given.seeds)
    )
    with work_folder(given.work) as work:
        store = given.store
        if store is None:
            from vla_store.builder import build_store

            store = Path(tempfile.mkdtemp(dir=work)) / "libero.vla"
            build_store(find_demos(given.demos, work), store)
        result = measure(store, options)
    print(page_part(result))
    if given.save:
        write_result("training", result, RESULTS)
        publish(json.loads((RESULTS / "training.json").read_text(encoding="utf-8")))
    else:
        given.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        draw(result, given.output.with_suffix(".png"))
        print(f"\nwrote {given.output.with_suffix('.json')} and {given.output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
