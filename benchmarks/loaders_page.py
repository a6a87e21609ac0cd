"""What benchmarks/loaders.py has measured, as a table for a terminal and as a part of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measure import table

Row = dict[str, Any]
Spreading = Callable[[dict[str, Any]], str]

HEADER = (
    "loader",
    "samples/s",
    "CPU ms a sample",
    "MB on disk",
    "first batch, s",
    "memory, MB",
    "`fast` is so many times as fast",
    "takes so many times its CPU",
    "pictures",
)
KINDS = {
    "step": "One step: a picture of each camera, the state, an action",
    "window": "A window: two pictures of each camera, the state, 64 actions, what is padding",
}


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    parts = [f"{KINDS[kind]}\n{table(HEADER, _cells(result, kind, _median))}" for kind in _kinds(result)]
    parts += [f"{name}: {why}" for name, why in result["failed"].items()]
    return "\n\n".join(parts).replace("`", "")


def page(result: dict[str, Any], spread: Spreading) -> list[str]:
    """The part of docs/performance.md, without the machine."""
    parts = [
        "## Beside the loaders that others use",
        f"`python -m benchmarks.loaders`; `python -m benchmarks.loaders lance` for one alone. {result['steps']:,} steps of "
        f"{result['episodes']} LIBERO demonstrations, two cameras of 128 x 128, their pictures {result['pictures_nbytes'] / 1e6:.0f} MB; "
        f"{result['samples']:,} samples, batches of {result['batch']}, all in memory, {result['rounds']} rounds, each turn in a process of "
        f"its own. Samples/s, the first batch and memory are those with {result['workers']} workers, CPU time is that of one process that "
        "does all itself.",
        "- Each library lives in an environment of its own, with the same torch, and has the demonstrations as its own writer writes them "
        "(LeRobot's by `vla-store export`, which has LeRobot's settings). Settings, and whose advice they are: "
        "`benchmarks/loaders_rivals.py`. No loader came with a transform; LeRobotDataset gives float32 from 0 to 1, channels first, all "
        "others uint8.\n"
        "- *raw*: pixels as they are, the fastest that a library can be here. *PNG*: without loss, decoded by Pillow. *AV1*: video as "
        "LeRobot makes it, decoded by torchcodec.\n"
        "- *First batch*: from the import of the library and the opening of the data set, torch imported before. *Memory*: PSS of all "
        "processes together, at its most.\n"
        "- Lance and vla_store keep steps, and make windows when they are read; LeRobotDataset and RLDS too. Streaming, LitData and WebDataset give "
        "records as they were written: for them each window is a record, which holds every picture twice.\n"
        "- For a chunk of actions LeRobotDataset 0.4.4 reads whole rows, and with PNG decodes the pictures of all of them: that is "
        "where the time of its windows goes. The first batches of WebDataset and RLDS wait until a buffer is full, so that later ones do not "
        "pay for filling it.\n"
        "- RLDS is read by tf.data, with as many threads in one process as the others have workers; its batches are NumPy arrays.\n"
        "- *`fast` is so many times as fast* and *takes so many times its CPU*: against the Loader over `fast`, within a round.\n"
        f"- Every sample that was delivered without workers was hashed: {_hashed(result)}\n"
        "- `vla_store` holds every field of the demonstrations, all others only what the samples have.",
    ]
    for kind in _kinds(result):
        cells = _cells(result, kind, spread)
        parts += [f"{KINDS[kind]}:", _markdown(HEADER, cells)]
    versions = {row["contender"].partition(",")[0]: (row["version"], row["order"]) for row in result["rows"]}
    ours = [name for name in versions if name.startswith("vla_store")]
    rows = [[name, *values] for name, values in versions.items() if name not in ours]
    rows.append(["vla_store", "this commit", "global"])
    parts += ["In which order the samples come:", _markdown(("loader", "version", "order"), rows)]
    parts.append("\n".join(f"- {line}" for line in _better(result)))
    if result["failed"]:
        parts.append("\n".join(f"- **{name}** could not be measured: {why}." for name, why in result["failed"].items()))
    return parts


def _kinds(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in result["rows"]))


def _median(value: dict[str, Any]) -> str:
    return f"{value['median']:,.3g}"


def _cells(result: dict[str, Any], kind: str, spread: Spreading) -> list[list[str]]:
    return [
        [
            row["contender"],
            f"{row['samples_per_s']['median']:,.0f}",
            _milliseconds(row["us"]["median"]),
            f"{row['nbytes'] / 1e6:.1f}",
            f"{row['first_s']['median']:.1f}",
            f"{row['pss_nbytes']['median'] / 1e6:,.0f}",
            spread(row["ratios"]["rate"]),
            spread(row["ratios"]["cpu"]),
            "equal" if row["psnr"] is None else f"{row['psnr']:.1f} dB, {row['grey_levels']:.1f} levels off",
        ]
        for row in result["rows"]
        if row["kind"] == kind
    ]


def _milliseconds(us: float) -> str:
    return f"{us / 1e3:.3f}" if us < 1e3 else f"{us / 1e3:.1f}"


def _markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def _hashed(result: dict[str, Any]) -> str:
    without = [row for row in result["rows"] if row["psnr"] is None]
    least = min(row["samples_checked"] for row in without)
    whole = ", ".join(f"{kind} `{digest[:16]}`" for kind, digest in result["digests"].items())
    return (
        f"pictures, numbers and masks of all that are without loss are, sample by sample, those of the HDF5 files, of {least:,} to "
        f"{result['samples']:,} different samples each (sha256 over all: {whole})."
    )


def _better(result: dict[str, Any]) -> list[str]:
    """In what others are ahead of vla_store, in words."""
    lines = []
    for kind in _kinds(result):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        ours = [row for row in rows if row["contender"].startswith("vla_store")]
        others = [row for row in rows if row not in ours]
        fast, best = ours[0], min(ours, key=lambda row: float(row["nbytes"]))
        ahead = {
            f"fewer bytes than {best['contender'].partition(',')[0]}": [
                f"{row['contender']} ({row['nbytes'] / best['nbytes']:.2f} of them"
                f"{', with loss' if row['psnr'] is not None else ''})"
                for row in others
                if row["nbytes"] < best["nbytes"]
            ],
            "less CPU time than `fast`": [
                f"{row['contender']} ({row['ratios']['cpu']['median']:.2f} of it, with {row['nbytes'] / fast['nbytes']:.1f} times the bytes)"
                for row in others
                if row["ratios"]["cpu"]["median"] < 1
            ],
            "more samples/s than `fast` in the Loader": [
                f"{row['contender']} ({1 / row['ratios']['rate']['median']:.2f} times as many)"
                for row in others
                if row["ratios"]["rate"]["median"] < 1
            ],
            "a first batch sooner than the Loader's": [
                f"{row['contender']} ({row['first_s']['median']:.1f} s against {fast['first_s']['median']:.1f} s)"
                for row in others
                if row["first_s"]["median"] < fast["first_s"]["median"]
            ],
            "less memory": [
                f"{row['contender']} ({row['pss_nbytes']['median'] / fast['pss_nbytes']['median']:.2f} of the Loader's)"
                for row in others
                if row["pss_nbytes"]["median"] < fast["pss_nbytes"]["median"]
            ],
        }
        told = "; ".join(f"{what}: {', '.join(who) or 'nobody'}" for what, who in ahead.items())
        lines.append(f"Who of the others is ahead, samples of a {kind}: {told}.")
    return lines
