"""The report as a picture. matplotlib is imported when a picture is asked for."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_store.coverage import formulas
from vla_store.coverage.demos import Demos
from vla_store.coverage.samplers import RandomSampler, Sampler, all_samplers
from vla_store.errors import MachineError, machine_errors
from vla_store.storage import LocalStorage, output_path
from vla_store.text import counted, shown

EPOCHS = 10
NEAR_END = 100  # steps before the end of a demo that are shown
COLOURS = {
    "every_step": "#000000",
    "half_way": "#b07aa1",
    "port_quoted": "#e15759",
    "port_s1": "#f28e2b",
    "port_s2": "#edc948",
    "port_s3": "#9c755f",
    "rdt": "#4e79a7",
    "view": "#59a14f",
}


def plot_report(demos: Demos, path: str | os.PathLike[str], *, seed: int = 0) -> None:
    """Draw a picture of what samplers reach.

    It shows what they reach over ten epochs, where in a demo they draw, and how often each step comes.

    Parameters
    ----------
    demos
        What is drawn from.
    path
        A local file to write, named .png, .svg or .pdf; its folder must exist. A file that is there is replaced.
    seed
        Of what the sampler S2 draws when it is constructed; default 0.

    Raises
    ------
    MachineError
        matplotlib is missing, or the file cannot be written.
    OptionError, UsageError
        The name has another ending, is that of a folder, or its folder does not exist; or `seed` is below 0.
    """
    made = output_path(path, (".png", ".svg", ".pdf"))
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MachineError(
            "a plot needs matplotlib, which is not installed here", hint='pip install "vla-store[plots]"'
        ) from error
    samplers = [each for each in all_samplers(demos, seed) if each.name in COLOURS]
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    over, near, spread = figure.subplots(1, 3)
    _curves(over, samplers)
    _near_end(near, samplers)
    _spread(spread, samplers)
    viewed = f", view {', '.join(each.partition(' (')[0] for each in demos.views)}" if demos.views else ""
    title = f"{shown(demos.name)}: {counted(len(demos), 'demo')}, {counted(demos.steps, 'step')}{viewed}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.legend(
        *over.get_legend_handles_labels(), loc="outside lower center", ncols=len(samplers), frameon=False, fontsize=9
    )
    kind, drawn = made.suffix[1:].lower(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn for it
        figure.savefig(drawn, format=kind, dpi=110, metadata={"Software": None} if kind == "png" else None)
    with machine_errors("writing", made):
        LocalStorage(made.parent).write(made.name, drawn.getvalue())


def _curves(axes: Any, samplers: Sequence[Sampler]) -> None:
    """Draw the share of steps that were an anchor, over epochs."""
    steps = samplers[0].demos.steps
    draws = np.unique(np.linspace(0, EPOCHS * steps, 201).astype(np.int64))
    for sampler in samplers:
        reached = formulas.expected_curve(sampler, draws)
        if reached is not None:
            axes.plot(draws / steps, 100 * reached / steps, label=sampler.title, **_style(sampler))
    axes.set(title="steps that were an anchor (exact)", xlabel="epochs (draws / steps)", ylabel="% of all steps")
    axes.set(xlim=(0, EPOCHS), ylim=(0, 103))


def _near_end(axes: Any, samplers: Sequence[Sampler]) -> None:
    """Draw how often a step is an anchor in an epoch, by its distance from the end of its demo."""
    demos = samplers[0].demos
    left = np.repeat(demos.lengths, demos.lengths) - 1 - demos.step_in_demo
    shown = left < NEAR_END
    counts = np.bincount(left[shown], minlength=NEAR_END)
    for sampler in samplers:
        if isinstance(sampler, RandomSampler):
            rate = demos.steps * sampler.probability
        else:
            rate = sampler.is_anchor * demos.steps / max(1, int(sampler.is_anchor.sum()))
        mean = np.bincount(left[shown], rate[shown], minlength=NEAR_END) / np.maximum(counts, 1)
        axes.plot(np.arange(NEAR_END), mean, **_style(sampler))
    axes.set(
        title="how often a step is an anchor in an epoch",
        xlabel="steps before the end of its demo",
        ylabel="times, on average",
    )
    axes.set(xlim=(NEAR_END - 1, 0), ylim=(0, None))


def _spread(axes: Any, samplers: Sequence[Sampler]) -> None:
    """Draw how often each step was an anchor after ten epochs."""
    most = 3 * EPOCHS
    for sampler in samplers:
        shares = formulas.count_shares(sampler, EPOCHS * sampler.demos.steps, most)
        if shares is not None:
            axes.plot(np.arange(most + 1), 100 * shares, marker=".", markersize=3, **_style(sampler))
    axes.set(title=f"counts of steps after {EPOCHS} epochs (exact)", xlabel="times an anchor", ylabel="% of all steps")
    axes.set(xlim=(-0.5, most), ylim=(0, 103))


def _style(sampler: Sampler) -> dict[str, Any]:
    is_ours = sampler.name in ("every_step", "view")
    return {"color": COLOURS[sampler.name], "linewidth": 2.4 if is_ours else 1.5, "zorder": 3 if is_ours else 2}
