"""Statements of others about these samplers, checked against the demos at hand.

The statements are those of the notes of the LIBERO port of RDT (one task, 50 demos of about 213 steps), and of those who read its code.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from vla_store.coverage.demos import Demos
from vla_store.coverage.formulas import expected_curve
from vla_store.coverage.samplers import RandomSampler, all_samplers
from vla_store.rules import TAIL_AS_CODED, TAIL_AS_QUOTED
from vla_store.text import counted

NEAR = 0.10  # a quoted count holds if it is off by no more than a tenth
NEAR_POINTS = 5.0  # a quoted share, if by no more than so many percentage points
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"


def judge(report: dict[str, Any], demos: Demos) -> list[dict[str, str]]:
    """Return what others have said of these samplers, each statement with what was found here and a verdict.

    The statements are from the notes of the LIBERO port of RDT (one task, 50 demos of about 213 steps), and from those
    who read its code.

    Parameters
    ----------
    report
        What `measure(demos)` gave.
    demos
        The same demos.

    Returns
    -------
    list of dict
        "said", "here" and "verdict", which begins with "holds", "does not hold" or "cannot be told" (HOLDS, FAILS,
        UNKNOWN), or judges parts of the statement one by one.
    """
    by_name = {each["name"]: each for each in report["samplers"]}
    (sampler,) = [each for each in all_samplers(demos, report["seed"]) if each.name == "port_s2"]
    assert isinstance(sampler, RandomSampler)
    after_five = expected_curve(sampler, np.array([5 * report["draws"]]))
    assert after_five is not None
    steps, lengths = demos.steps, demos.lengths
    quoted, s1, s2, s3 = (by_name[f"port_{name}"] for name in ("quoted", "s1", "s2", "s3"))

    def percent(value: float, of: int = steps) -> float:
        return 100 * value / of if of else 0.0

    mean = steps / len(demos)
    kept = quoted["ever"]["anchors"]
    per_demo = kept / len(demos)
    claims: list[tuple[str, str, str]] = [
        ("a demo has about 213 steps", f"{mean:.0f} on average, {lengths.min()} to {lengths.max()}", _near(mean, 213)),
        (
            "about 150 of them can be anchors (7,500 of 10,650: 70 %)",
            f"as quoted {per_demo:.0f} a demo, {percent(kept):.1f} % of all",
            _all_or_parts(_near(per_demo, 150), _near_points(percent(kept), 70.4), "the number", "the share"),
        ),
        (
            "the last 64 steps of a demo are never an anchor, the moment of success among them",
            f"as quoted {_lost(quoted, lengths, TAIL_AS_QUOTED)}; as coded: S1 and S2 lose {_end_lost(s1)} and {_end_lost(s2)} at "
            f"the end of a demo they use, S3 {_lost(s3, lengths, TAIL_AS_CODED)}",
            f"{HOLDS} for the rule as quoted, {FAILS} for any version of the code",
        ),
        (
            "about 30 % of the data is used",
            f"as quoted {percent(kept):.1f} % of all steps can be anchors, {percent(quoted['expected']['anchors']):.1f} % are one in "
            f"{counted(report['draws'], 'draw')}, {percent(quoted['ever']['targets']):.1f} % can be targets; "
            f"{percent(steps - kept):.1f} % can never be anchors",
            _used(percent(kept), percent(quoted["expected"]["anchors"]), percent(quoted["ever"]["targets"])),
        ),
        _key_moments(report, quoted, percent),
        (
            "steps of short demos come more often, because the demo is drawn uniformly",
            *_short_demos(sampler),
        ),
        (
            "an early version reads 2 % of the demos, the first of each file",
            f"S1 uses {s1['demos_used']} of {len(demos):,}: {percent(s1['demos_used'], len(demos)):.1f} % "
            f"({counted(report['demos']['files'], 'file')})",
            _near_points(percent(s1["demos_used"], len(demos)), 2.0, 1.0) + "; it is 1 / (demos a file)",
        ),
        (
            "the port's own list of all steps keeps T - 63 anchors, called 100 %",
            f"{percent(s3['ever']['anchors']):.1f} % of all steps, {percent(s3['ever']['tail'], report['critical']['tail']):.1f} % of the last tenths; "
            f"{percent(s3['ever']['targets']):.1f} % can be targets",
            f"{HOLDS} for T - 63; 100 % {FAILS}" if s3["ever"]["anchors"] < steps else HOLDS,
        ),
        (
            "an epoch is as many draws as there are files",
            f"RDT-L, S1, S2: {counted(s2['epoch'], 'draw')}; RDT itself, of one demo a file: {by_name['rdt']['epoch']:,}; steps: {steps:,}",
            HOLDS if s2["epoch"] == report["demos"]["files"] else FAILS,
        ),
        (
            "50 demos did not train, while 1 demo overfitted, because of the sampler",
            f"drawn as S2 does, {percent(s2['expected']['anchors']):.1f} % of the steps are anchors in {counted(report['draws'], 'draw')}, "
            f"{percent(after_five[0]):.1f} % in five times as many",
            f"{UNKNOWN} from coverage; what a sampler does to training must be measured by training",
        ),
    ]
    return [{"here": here, "said": said, "verdict": verdict} for said, here, verdict in claims]


def judged_text(claims: list[dict[str, str]]) -> str:
    """Return the statements for people.

    Parameters
    ----------
    claims
        What `judge` gave.

    Returns
    -------
    str
        Several lines.
    """
    lines = ["WHAT WAS SAID, AND WHAT IS SO HERE"]
    for claim in claims:
        for label, name in (("said", "said"), ("here", "here"), ("", "verdict")):
            text = claim[name] if label else "= " + claim[name]
            lines += textwrap.wrap(
                text, 78, initial_indent=f"{label:<6}", subsequent_indent=" " * 6, break_on_hyphens=False
            )
        lines.append("")
    return "\n".join(lines[:-1])


def _near(value: float, said: float) -> str:
    return _near_points(value, said, NEAR * said)


def _near_points(value: float, said: float, points: float = NEAR_POINTS) -> str:
    return HOLDS if abs(value - said) <= points else FAILS


def _all_or_parts(first: str, second: str, first_name: str, second_name: str) -> str:
    return first if first == second else f"{first_name} {first}, {second_name} {second}"


def _lost(sampler: dict[str, Any], lengths: Any, tail: int) -> str:
    is_so = bool((np.array(sampler["lost_anchors"]) == np.minimum(lengths, tail)).all())
    return f"{'exactly' if is_so else 'not'} min(T, {tail}) a demo"


def _end_lost(sampler: dict[str, Any]) -> str:
    return "none" if sampler["end_lost"] == 0 else str(sampler["end_lost"])


def _used(*shares: float) -> str:
    if any(_near_points(share, 30.0) == HOLDS for share in shares):
        return f"{HOLDS} for one of these"
    lost = _near_points(100 - shares[0], 30.0) == HOLDS
    return FAILS + ("; 30 % is the share that is lost" if lost else "")


def _key_moments(report: dict[str, Any], quoted: dict[str, Any], percent: Callable[..., float]) -> tuple[str, str, str]:
    found = [
        (what, percent(quoted["ever"][name], steps), percent(quoted["expected"][name], steps))
        for name, what in (("tail", "of the last tenths"), ("gripper", "of the steps near a change of the gripper"))
        if (steps := report["critical"][name]) or name == "tail"
    ]
    here = "; ".join(
        f"{what}, {ever:.1f} % can be anchors and {epoch:.1f} % are one in these draws" for what, ever, epoch in found
    )
    close = any(abs(share - 13.0) <= NEAR_POINTS for _, *shares in found for share in shares)
    return (
        "13 % of the key moments are seen",
        f"as quoted, {here}",
        f"{HOLDS} for one of these" if close else FAILS,
    )


def _short_demos(sampler: RandomSampler) -> tuple[str, str]:
    """Compare how often a step of the shortest and of the longest demo comes, in the file whose demos differ most in length."""
    demos = sampler.demos
    spans = [np.flatnonzero(demos.files == file) for file in range(int(demos.files.max()) + 1)]
    widest = max(spans, key=lambda each: demos.lengths[each].max() / demos.lengths[each].min())
    short, long = (widest[at(demos.lengths[widest])] for at in (np.argmin, np.argmax))
    if demos.lengths[short] == demos.lengths[long]:
        return "the demos of a file are equally long", f"{UNKNOWN} here"
    chances = [sampler.probability[demos.demo_of_step == each].max() for each in (short, long)]
    here = f"S2 takes a step of a demo of {counted(int(demos.lengths[short]), 'step')} "
    if not chances[1] or not chances[0]:
        return here + "never", f"{FAILS}: it refuses short demos"
    ratio = float(chances[0] / chances[1])
    return (
        f"{here}{ratio:.2f} times as often as one of a demo of {demos.lengths[long]} steps in the same file",
        HOLDS if ratio > 1.0 else FAILS,
    )
