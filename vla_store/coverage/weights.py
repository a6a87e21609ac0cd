"""What weights do to an epoch: how often samples come, and what the epoch is of. Exact figures; nothing is drawn."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.coverage.demos import ACTIONS, TAIL_SHARE
from vla_store.coverage.formulas import met
from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.loader.facts import StepFacts, facts_of
from vla_store.loader.weighted import Weighted
from vla_store.text import counted, percent_text, shown, table

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MOST_TASKS = 12  # that the text lists


def measure_weights(weighted: Weighted, k: int = 5) -> dict[str, Any]:
    """Measure what weights do to an epoch.

    Parameters
    ----------
    weighted
        What `vla_store.weighted` gave.
    k
        How many steps from a change of the gripper's action, the last number of `actions`, are critical; default 5.

    Returns
    -------
    dict
        All figures, as a JSON document; see `weights_text`. Of the steps of a store also what kinds of them the epoch has.

    Raises
    ------
    OptionError
        `k` is not a whole number of at least 0; `weighted` is another dataset.
    StoreDamaged, FetchError, MachineError
        What reading raises.
    """
    whole_number("k", k, 0)
    if not isinstance(weighted, Weighted):
        raise OptionError(
            "measure_weights takes what vla_store.weighted gave",
            found=type(weighted).__name__,
            hint="measure_weights(weighted(dataset, weights)); of a mixture, each part that is weighted",
        )
    shares, rows = weighted.samples.ordering.shares, weighted.epoch_rows
    each, total = shares.each, shares.total
    is_full = each >= _weight_of(1, rows, total)
    rest = int(each[~is_full].sum())
    chances = each / total
    found: dict[str, Any] = {
        "different": float(int(is_full.sum()) + Fraction(rest * rows, total)),
        "different_equal": min(len(each), rows),
        "different_drawn": float(met(chances, rows).sum()),
        "effective": float(1 / (chances**2).sum()),
        "epoch": rows,
        "k": k,
        "epoch_of_all": -(-total // int(each[each > 0].min())),
        "samples": len(each),
        "times": _times(each, rows, total),
        "weights": weighted.text,
    }
    try:
        facts = facts_of(weighted.samples.dataset, "coverage")
    except OptionError:
        return found | {"name": type(weighted.dataset).__name__, "kinds": [], "tasks": []}
    kinds = {"tail": facts.step >= facts.length - -(-facts.length // TAIL_SHARE), "gripper": _near_gripper(facts, k)}
    tasks = facts.store.tasks
    return found | {
        "name": os.path.basename(facts.store.url.rstrip("/")),
        "kinds": [_kind(name, mask, each, total) for name, mask in kinds.items() if mask is not None],
        "tasks": [
            _kind(f"{tasks[number].suite}/{tasks[number].name}", facts.task == number, each, total)
            for number in np.unique(facts.task).tolist()
        ],
    }


def weights_text(report: dict[str, Any]) -> str:
    """Return the figures for people.

    Parameters
    ----------
    report
        What `measure_weights` gave.

    Returns
    -------
    str
        Several lines.
    """
    samples, epoch = report["samples"], report["epoch"]
    lines = [
        f"{report['name']}: {counted(samples, 'sample')}, an epoch of {epoch:,}",
        f"weights: {shown(report['weights'])}",
        "",
        "HOW OFTEN A SAMPLE COMES IN AN EPOCH",
        table(
            ["times", "samples", "of all", "of the epoch"],
            [
                [
                    _often(each["least"], each["most"]),
                    f"{each['samples']:,}",
                    percent_text(each["samples"], samples),
                    _percent(each["epoch"]),
                ]
                for each in report["times"]
            ],
        ),
        "",
        "DIFFERENT SAMPLES IN AN EPOCH",
        table(
            ["", "samples", "of all"],
            [
                [name, f"{report[key]:,.0f}", percent_text(report[key], samples)]
                for name, key in (
                    ("these weights, on average", "different"),
                    ("the same as draws", "different_drawn"),
                    ("equal weights", "different_equal"),
                )
            ],
        ),
        "",
        f"effective number of samples: {report['effective']:,.0f}, 1 / the sum of the squares of their shares\n"
        f"every sample that comes at all comes in each epoch of {report['epoch_of_all']:,} or more",
    ]
    if report["kinds"]:
        kinds = [*report["kinds"], *_some(report["tasks"])]
        lines[-1:] = [
            "WHAT AN EPOCH IS OF",
            table(
                ["steps", "of all", "of the epoch", "times"],
                [[_named(each), _percent(each["all"]), _percent(each["epoch"]), _ratio(each)] for each in kinds],
            ),
            "",
            lines[-1],
            f"tail      the last {100 // TAIL_SHARE} % of each episode, as recorded",
            f"gripper   at most {counted(report['k'], 'step')} from a change of the gripper",
            "times     as often as with equal weights",
        ]
    return "\n".join(lines)


def _weight_of(times: int, rows: int, total: int) -> int:
    """Return the least weight with which a sample comes at least so many times in every epoch."""
    return min(-(-times * total // rows), np.iinfo(np.int64).max)


def _times(each: Int64, rows: int, total: int) -> list[dict[str, Any]]:
    """Return how many samples come how often in an epoch: never, less than once, and from once on to twice as often each."""
    made, edges = [], [0, 1, _weight_of(1, rows, total)]
    while edges[-1] <= each.max():
        edges.append(_weight_of(2 ** (len(edges) - 2), rows, total))
    for least, below in itertools.pairwise(edges):
        some = each[(each >= least) & (each < below)]
        if len(some):
            bounds = [int(some.min()) * rows // total, -(-int(some.max()) * rows // total)]
            made.append({"least": bounds[0], "most": bounds[1], "samples": len(some), "epoch": int(some.sum()) / total})
    return made


def _often(least: int, most: int) -> str:
    if least == most:
        return f"{least:,}" if least else "never"
    return f"{least:,} {'or' if most == least + 1 else 'to'} {most:,}"


def _near_gripper(facts: StepFacts, k: int) -> Mask | None:
    """Return which steps are near a change of the gripper; None where the store has no actions."""
    try:
        return facts.near(facts.changes(ACTIONS), k)
    except (UnknownName, OptionError):
        return None


def _kind(name: str, mask: Mask, each: Int64, total: int) -> dict[str, Any]:
    return {"name": name, "all": float(mask.mean()), "epoch": int(each[mask].sum()) / total, "samples": int(mask.sum())}


def _some(tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks that the text lists: of many, those whose share grew most, and those whose share shrank most."""
    ordered = sorted(tasks, key=lambda task: -task["epoch"] / task["all"])
    if len(ordered) <= MOST_TASKS:
        return ordered
    half = MOST_TASKS // 2
    return ordered[:half] + ordered[-half:]


def _named(kind: dict[str, Any]) -> str:
    name = shown(kind["name"])
    return name if len(name) <= 44 else f"{name[:20]}...{name[-21:]}"


def _percent(share: float) -> str:
    return percent_text(share, 1.0)


def _ratio(kind: dict[str, Any]) -> str:
    return f"{kind['epoch'] / kind['all']:.2f}" if kind["all"] else "-"
