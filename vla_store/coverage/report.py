"""Formulas and simulation side by side: the figures as a JSON document, and as text."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np

from vla_store.coverage import formulas, simulation
from vla_store.coverage.demos import MOST_STEPS, TAIL_SHARE, Demos
from vla_store.coverage.samplers import BufferSampler, ListSampler, Sampler, all_samplers
from vla_store.errors import whole_number
from vla_store.text import WIDTH, counted, table

HORIZON = 64  # RDT's action chunk
RUNS = 20
FEWEST_RUNS = 8  # of fewer, the standard error says little, and nothing is compared by it
MOST_DRAWS = 2_500_000  # of all runs together, where the number of runs is not given
MOST_BUFFER_DRAWS = 1_000_000  # the buffer is simulated sample by sample
FIGURES = ("anchors", "targets", "tail", "gripper", "variance")
CLOSE = 5.0  # standard deviations of a normal distribution; among some 50 figures, beyond this is a mistake, not chance


def measure(
    demos: Demos, *, horizon: int = HORIZON, draws: int | None = None, runs: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Measure which steps each sampler reaches, by exact formulas and by simulation.

    Parameters
    ----------
    demos
        What is drawn from.
    horizon
        Actions in a window; default 64, RDT's action chunk.
    draws
        Draws in an epoch; default: as many as there are steps.
    runs
        Runs of the simulation; default: 20, or down to 8 where draws are many. The buffer, which is slow, makes fewer
        still.
    seed
        Of the simulation, and of what the sampler S2 draws when it is constructed; default 0.

    Returns
    -------
    dict
        All figures of all samplers, as a JSON document; see `report_text`.

    Raises
    ------
    OptionError
        `horizon`, `draws` or `runs` is not a whole number of at least 1, or `seed` not one of at least 0.
    """
    samplers = all_samplers(demos, seed)
    whole_number("horizon", horizon, 1, MOST_STEPS)
    draws = demos.steps if draws is None else whole_number("draws", draws, 1, MOST_STEPS)
    runs = max(FEWEST_RUNS, min(RUNS, MOST_DRAWS // draws)) if runs is None else whole_number("runs", runs)
    described = [_describe(each, horizon, draws, runs, seed) for each in samplers]
    return {
        "agreement": _agreement(described),
        "critical": demos.critical(np.ones(demos.steps, bool)),
        "demos": {
            "demos": len(demos),
            "files": len(np.unique(demos.files)),
            "k": demos.k,
            "knows_motion": demos.moving is not None,
            "longest": int(demos.lengths.max()),
            "name": demos.name,
            "shortest": int(demos.lengths.min()),
            "steps": demos.steps,
            "views": list(demos.views),
        },
        "draws": draws,
        "horizon": horizon,
        "runs": runs,
        "samplers": described,
        "seed": seed,
    }


def report_text(report: dict[str, Any]) -> str:
    """Return the report for people: two tables, and what their columns are.

    Parameters
    ----------
    report
        What `measure` gave.

    Returns
    -------
    str
        Several lines.
    """
    demos, critical, draws = report["demos"], report["critical"], report["draws"]
    steps = demos["steps"]

    def share(value: float | None, of: int | None) -> str:
        return "-" if value is None or not of else f"{100 * value / of:.1f}"

    def critical_shares(found: dict[str, Any]) -> list[str]:
        return [share(found[name], critical[name]) for name in ("tail", "gripper")]

    def drawn(each: dict[str, Any]) -> str:
        mean, error = (100 * each["simulated"]["anchors"][name] / steps for name in ("mean", "error"))
        return f"{mean:.1f}" + (f" ±{error:.2f}" if each["runs"] > 1 else "")

    ever, epoch = [], []
    for each in report["samplers"]:
        found, exact, until = each["ever"], each["expected"], each["draws_until_99"]
        reached = exact or {name: value and value["mean"] for name, value in each["simulated"].items()}
        ever.append(
            [
                each["title"],
                str(each["demos_used"]),
                share(found["anchors"], steps),
                _span(each["lost_anchors"]),
                share(found["targets"], steps),
                *critical_shares(found),
                "yes" if each["by_index"] else "no",
            ]
        )
        epoch.append(
            [
                each["title"],
                share(exact and exact["anchors"], steps),
                drawn(each),
                share(reached["targets"], steps),
                *critical_shares(reached),
                f"{math.sqrt(reached['variance']):.2f}",
                "-" if until is None else f"{until / steps:.1f}",
            ]
        )
    agreement = report["agreement"]
    viewed = any(each["name"] == "view" for each in report["samplers"])
    near = "not known from lengths"
    if critical["gripper"] is not None:
        near = (
            f"of the {counted(critical['gripper'], 'step')} at most {demos['k']} from a change of the gripper, the same"
        )
    lines = [
        f"{demos['name']}: {counted(demos['demos'], 'demo')} of {demos['shortest']} to {counted(demos['longest'], 'step')}",
        f"{counted(steps, 'step')} in {counted(demos['files'], 'file')}; windows of {counted(report['horizon'], 'action')}",
        *(line for each in demos["views"] for line in textwrap.wrap(f"view {each}", WIDTH, subsequent_indent="     ")),
        "",
        "EVER, however long it trains; % of steps",
        table(["sampler", "demos", "anchors", "lost a demo", "targets", "tail", "gripper", "by index"], ever),
        "",
        f"IN {draws:,} DRAWS; % of steps",
        table(["sampler", "anchors", "simulated", "targets", "tail", "gripper", "sd", "99 %"], epoch),
        "",
        "anchors      steps at which a sample is drawn; exact, and simulated with its",
        "             standard error; a row without exact figures is simulated only",
        "lost a demo  steps of a demo that are never an anchor, least to most",
        "targets      steps whose action stands in the window of such a sample",
        f"tail         of the last {100 // TAIL_SHARE} % of each demo ({counted(critical['tail'], 'step')}), those that are anchors",
        f"gripper      {near}",
        *(["view         the steps that the view lets be sampled; the others are of all steps"] if viewed else []),
        "by index     each sample has a number: a pass can be resumed and repeated, and",
        "             ranks get different steps; where not, all ranks draw from all",
        "sd           standard deviation of how often each step was an anchor",
        "99 %         epochs, of as many draws as steps, to 99 % of all that it can reach",
        "",
        _agreement_text(agreement, report["runs"]),
    ]
    if not demos["knows_motion"]:
        lines.append("no joints are known here, so no still start is skipped")
    return "\n".join(lines)


def _agreement(described: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare exact and simulated figures; agrees is None where there are too few runs. deviations: how far the furthest apart
    are, as if their standard error were known, in standard errors; standard_errors: the same in those that were estimated."""
    compared = []
    for each in described:
        for name in FIGURES:
            if each["runs"] >= FEWEST_RUNS and each["expected"] is not None and each["expected"][name] is not None:
                away = _distance(each["expected"][name], each["simulated"][name])
                compared.append((_as_normal(away, each["runs"]), away, f"{name} of {each['title']}"))
    if not compared:
        return dict.fromkeys(("agrees", "deviations", "furthest", "standard_errors")) | {"figures": 0}
    deviations, away, which = max(compared)
    return {
        "agrees": deviations <= CLOSE,
        "deviations": deviations if math.isfinite(deviations) else None,
        "figures": len(compared),
        "furthest": which,
        "standard_errors": away if math.isfinite(away) else None,
    }


def _agreement_text(agreement: dict[str, Any], runs: int) -> str:
    if agreement["agrees"] is None:
        return (
            f"exact and simulated are not compared: {counted(runs, 'run')} cannot say how far apart chance\n"
            f"takes them; give --runs {FEWEST_RUNS} or more"
        )
    if not agreement["agrees"]:
        return f"EXACT AND SIMULATED DISAGREE: {agreement['furthest']}; please report this"
    return (
        f"exact and simulated agree: of {agreement['figures']} figures from {runs} runs the furthest apart\n"
        f"is {agreement['deviations']:.1f} standard errors ({agreement['furthest']})"
    )


def _describe(sampler: Sampler, horizon: int, draws: int, runs: int, seed: int) -> dict[str, Any]:
    demos = sampler.demos
    ever_targets = formulas.ever_targets(sampler, horizon)
    exact = formulas.expected(sampler, draws, horizon)
    if isinstance(sampler, BufferSampler):
        runs = max(1, min(runs, MOST_BUFFER_DRAWS // draws))
    return {
        "by_index": isinstance(sampler, ListSampler),
        "demos_used": int((sampler.high > sampler.low).sum()),
        "draws_until_99": formulas.draws_until(sampler, 0.99),
        "end_lost": _end_lost(sampler),
        "epoch": sampler.epoch,
        "ever": {
            "anchors": int(sampler.is_anchor.sum()),
            **demos.critical(sampler.is_anchor),
            "targets": int(ever_targets.sum()),
        },
        "expected": None if exact is None else vars(exact),
        "lost_anchors": sampler.lost.tolist(),
        "name": sampler.name,
        "rule": sampler.rule,
        "runs": runs,
        "simulated": simulation.simulate(sampler, draws, horizon, runs, seed),
        "title": sampler.title,
    }


def _end_lost(sampler: Sampler) -> int:
    """Return the most steps after the last anchor of a demo, over the demos that have anchors."""
    used = sampler.high > sampler.low
    return int((sampler.demos.lengths - sampler.high)[used].max(initial=0))


def _distance(exact: float, simulated: dict[str, float]) -> float:
    """Return how far apart they are in standard errors; a figure that is equal in all runs must be the exact one, but for rounding."""
    away = abs(exact - simulated["mean"])
    if away <= 1e-9 * max(1.0, abs(exact)):
        return 0.0
    return away / simulated["error"] if simulated["error"] else math.inf


def _as_normal(distance: float, runs: int) -> float:
    """Convert a distance in standard errors that were estimated from few runs (Student's t) to one of a normal distribution.

    Wallace's approximation (Annals of Mathematical Statistics 30, 1959).
    """
    if not math.isfinite(distance):
        return distance
    free = runs - 1
    return (8 * free + 1) / (8 * free + 3) * math.sqrt(free * math.log1p(distance**2 / free))


def _span(counts: list[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
