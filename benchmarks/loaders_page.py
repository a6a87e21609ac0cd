"""What benchmarks/loaders.py has measured, as a table for a terminal and as a part of docs/performance.md."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import table


def summary(result: dict[str, Any]) -> str:
    """The tables for a terminal."""
    parts = []
    for kind in dict.fromkeys(row["kind"] for row in result["rows"]):
        rows = [_cells(row, result) for row in result["rows"] if row["kind"] == kind]
        parts.append(f"{kind}\n{table(HEADER, rows)}")
    parts += [f"{name}: {why}" for name, why in result["failed"].items()]
    return "\n\n".join(parts).replace("`", "")


HEADER = (
    "loader",
    "samples/s",
    "CPU ms a sample",
    "MB on disk",
    "first batch s",
    "memory MB",
    "`fast` is faster",
    "takes of its CPU",
    "pictures",
)


def _cells(row: dict[str, Any], result: dict[str, Any]) -> list[str]:
    pictures = "equal" if row["psnr"] is None else f"{row['psnr']:.1f} dB, {row['grey_levels']:.1f} levels off"
    return [
        row["contender"],
        f"{row['samples_per_s']['median']:,.0f}",
        f"{row['us']['median'] / 1e3:.3f}",
        f"{row['nbytes'] / 1e6:.1f}",
        f"{row['first_s']['median']:.2f}",
        f"{row['pss_nbytes']['median'] / 1e6:,.0f}",
        f"{row['ratios']['rate']['median']:.2f}",
        f"{row['ratios']['cpu']['median']:.2f}",
        pictures,
    ]
